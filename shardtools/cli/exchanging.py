"""What htshuffle and htsort share: options, the two passes on the progress bar, what is said at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shardtools.cli.choice_line import CHOICE_OPTIONS, ChoiceLine
from shardtools.cli.common import SKIPPED, tell
from shardtools.cli.numbers import Whole
from shardtools.cli.options import CommandLine, add_options, common_options
from shardtools.cli.progress import command_progress
from shardtools.cli.results import show_replaced, show_result
from shardtools.errors import JobError, OutputBusyError, SampleError, redact
from shardtools.units import format_count, format_size

if TYPE_CHECKING:
    from shardtools.jobs.exchange.duplicates import OnDuplicate
    from shardtools.jobs.exchange.plan import Exchange, ExchangePlan
    from shardtools.jobs.options import RunOptions
    from shardtools.programs.exchanging import ExchangeSettings

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--memory",
        default="1GB",
        metavar="SIZE",
        show_default=True,
        help="About how many bytes of samples a process holds in memory at a time, in all its tasks together.",
    ),
    click.option(
        "--spill",
        metavar="URL",
        help="A folder for the temporary data between the two passes. It takes as much space as the dataset as plain "
        "tar files.  [default: beside DST; for a DST on a server, without a cluster, the system's temporary folder]",
    ),
    click.option(
        "--shard-size", metavar="SIZE", help="With @auto: about how many bytes of tar file a shard has, such as 500MB."
    ),
    click.option("--shard-count", type=Whole(least=1), metavar="N", help="With @auto: a shard has at most N samples."),
    click.option(
        "--on-duplicate",
        type=click.Choice(["error", "keep", "rename", "first", "last"]),
        default="error",
        show_default=True,
        help="If samples of one output shard have the same key: stop, keep them all, rename the later ones, or keep "
        "only the first or the last in the order of SRC.",
    ),
]


@dataclass(frozen=True)
class ExchangeLine(ChoiceLine):
    """The options that htshuffle and htsort share, as they were typed."""

    memory: str
    spill: str | None
    shard_size: str | None
    shard_count: int | None
    on_duplicate: OnDuplicate

    def settings(self) -> ExchangeSettings:
        """Return them checked.

        Raises:
            JobError: they make no sense.
        """
        from shardtools.programs.exchanging import exchange_settings

        return exchange_settings(
            memory=self.memory,
            spill=self.spill,
            shard_size=self.shard_size,
            shard_count=self.shard_count,
            on_duplicate=self.on_duplicate,
        )


def exchange_options(choice: Sequence[Callable[[Any], Any]] = CHOICE_OPTIONS) -> Callable[[Function], Function]:
    """Return what adds the arguments and options that htshuffle and htsort have, and those of a ``choice``.

    The command gets them as ``line`` and ``own``.
    """

    def add(command: Function) -> Function:
        return common_options(add_options(command, "own", ExchangeLine, _OPTIONS, choice))

    return add


def exchange(what: Exchange, line: CommandLine, options: RunOptions) -> int:
    """Carry an exchange out, or show what it would do; return the exit status."""
    from shardtools.jobs.exchange.plan import fit_workers, plan_exchange
    from shardtools.jobs.exchange.spill import has_job
    from shardtools.programs.exchanging import carry_out, steps

    plan = plan_exchange(line.sources, line.destination, what, options)
    if line.dry_run:
        _show_plan(plan, line.verbose)
        return 0
    plan = fit_workers(plan, options)
    started = time.monotonic()
    with command_progress(steps(plan), line.quiet) as progress:
        try:
            result = carry_out(plan, options, progress)
        except OutputBusyError:
            raise
        except BaseException as error:
            progress.close()
            if not isinstance(error, JobError | SampleError) or has_job(plan.spill):
                tell(f"{what.program}: the spill is kept for --resume; else delete {redact(plan.spill)}", err=True)
            raise
    if not line.quiet:
        empty = sum(not shard.counts.written for shard in result.shards)
        more = [f"{format_count(empty, 'shard')} empty"] if empty else []
        if what.keying.kind == "random":
            more.append(f"seed {what.keying.seed}")
        show_result(what.program, result, time.monotonic() - started, line.report, more)
    return 0 if result.is_whole else SKIPPED


def _show_plan(plan: ExchangePlan, verbose: bool) -> None:
    """Say what would be done, and what it would cost."""
    from shardtools.jobs.exchange.cost import choose_merge, estimate

    count = plan.destination.count
    shards = "as many shards as it takes" if count is None else format_count(count, "shard")
    tell(f"would write {format_count(len(plan.inputs), 'shard')} to {shards}: {redact(plan.destination.spec)}")
    tell(f"outputs that exist: {len(plan.existing):,}")
    show_replaced(plan.replaced)
    shape, services = plan.shape(), plan.services()
    merge = choose_merge(shape, services)
    cost = estimate(shape, services, merge)
    size = format_size(plan.size)
    tell(f"temporary data: about {size} in {redact(plan.spill)}, in {format_count(shape.runs, 'run')}")
    tell(f"to read: about {format_size(sum(entry.size for entry in plan.inputs))}, then {size} of temporary data")
    if merge is not None:
        tell(f"a pass more, which merges {merge.fan_in:,} runs at a time, and takes as much temporary data again")
    price = f", {cost.dollars:,.2f} US dollars on S3 or GCS" if cost.dollars else ""
    tell(f"requests: about {cost.requests:,}{price}")
    for entry in plan.inputs if verbose else ():
        tell(redact(entry.url))
