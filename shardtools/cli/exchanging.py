"""What htshuffle and htsort share: options, the two passes on the progress bar, what is said at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shardtools.cli.common import SKIPPED, tell
from shardtools.cli.options import common_options, run_options
from shardtools.cli.progress import Progress, format_count, format_size
from shardtools.cli.results import show_replaced, show_result
from shardtools.errors import JobError, OutputBusyError, redact
from shardtools.spec import parse_size

if TYPE_CHECKING:
    from shardtools.jobs.exchange.plan import Exchange, ExchangePlan

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
    click.option(
        "--shard-count", type=click.IntRange(min=1), metavar="N", help="With @auto: a shard has at most N samples."
    ),
    click.option(
        "--on-duplicate",
        type=click.Choice(["error", "keep", "rename", "first", "last"]),
        default="error",
        show_default=True,
        help="If samples of one output shard have the same key: stop, keep them all, rename the later ones, or keep "
        "only the first or the last in the order of SRC.",
    ),
]


def exchange_options(command: Function) -> Function:
    """Add the arguments and options that htshuffle and htsort have."""
    command = common_options(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def limits(given: dict[str, Any]) -> dict[str, Any]:
    """Return memory, spill and sizes as `Exchange` takes them.

    Raises:
        JobError: a size is none.
    """
    sizes = {}
    for name, option in (("memory", "--memory"), ("shard_size", "--shard-size")):
        text = given[name]
        sizes[name] = None if text is None else parse_size(text)
        if sizes[name] == 0:
            raise JobError(f"{option} {text}: not a valid size", fix="write it as 500MB or 2GB")
    if given["shard_size"] and given["shard_count"]:
        raise JobError("--shard-size and --shard-count cannot be used together", fix="give one of them")
    return {**sizes, "spill": given["spill"], "shard_count": given["shard_count"]}


def exchange(program: str, given: dict[str, Any], what: Exchange) -> int:
    """Carry an exchange out, or show what it would do; return the exit status."""
    from shardtools.jobs.exchange.exchange import Events, run_exchange
    from shardtools.jobs.exchange.plan import plan_exchange

    options = run_options(given)
    plan = plan_exchange(given["sources"], given["destination"], what, options)
    if given["dry_run"]:
        _show_plan(plan, given["verbose"])
        return 0
    started = time.monotonic()
    outputs = plan.destination.count or len(plan.inputs)
    with Progress(len(plan.groups) + outputs, given["quiet"]) as progress:
        events = Events(
            on_collected=lambda done: progress.advance(done.samples, done.size),
            on_output=lambda shard: progress.advance(0, shard.source_size, resumed=shard.resumed),
        )
        try:
            result = run_exchange(plan, options, events)
        except OutputBusyError:
            raise
        except BaseException:
            progress.close()
            tell(f"{program}: the spill is kept for --resume; else delete {redact(plan.spill)}", err=True)
            raise
    if not given["quiet"]:
        empty = sum(not shard.counts.written for shard in result.shards)
        more = [f"{format_count(empty, 'shard')} empty"] if empty else []
        if what.keying.kind == "random":
            more.append(f"seed {what.keying.seed}")
        show_result(program, result, time.monotonic() - started, given["report"], more)
    return 0 if result.is_whole else SKIPPED


def _show_plan(plan: ExchangePlan, verbose: bool) -> None:
    """Say what would be done, and what it would cost."""
    count = plan.destination.count
    shards = "as many shards as it takes" if count is None else format_count(count, "shard")
    tell(f"would bring {format_count(len(plan.inputs), 'shard')} to {shards}: {redact(plan.destination.spec)}")
    tell(f"outputs that exist: {len(plan.existing):,}")
    show_replaced(plan.replaced)
    runs = sum(max(1, -(-sum(plan.inputs[i].tar_size for i in group) // plan.share)) for group in plan.groups)
    outputs = count or len(plan.inputs)
    size = format_size(plan.size)
    tell(f"spill: about {size} in {redact(plan.spill)}, in {format_count(runs, 'run')}")
    tell(f"to be read: about {format_size(sum(entry.size for entry in plan.inputs))}, then {size} of the spill")
    requests = 2 * len(plan.inputs) + 3 * runs + 3 * runs * outputs + 3 * outputs
    tell(f"requests: about {requests:,}")
    for entry in plan.inputs if verbose else ():
        tell(redact(entry.url))
