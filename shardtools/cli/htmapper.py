"""The htmapper command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from shardtools.cli.choice_line import ChoiceLine, choice_options
from shardtools.cli.common import SKIPPED, run_command, tell
from shardtools.cli.companions import refuse_beside
from shardtools.cli.options import CommandLine, arg_option, common_options
from shardtools.cli.progress import command_progress
from shardtools.cli.results import show_replaced, show_result
from shardtools.units import format_count

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.run import Plan
    from shardtools.jobs.script import Code
    from shardtools.shards.samples import Members

EPILOG = """\b
Examples:
  htmapper -p resize.py 'train-@1000.tgz' 'small-@1000.tgz'
  htmapper -p resize.py -a size=256 http://host/train-@1000.tgz http://host/small-@1000.tgz
  htmapper -p resize.py --limit 10 train-@1000.tgz -     a trial run: prints what comes out of 10 samples
  htmapper -c scheduler:8786 -p resize.py --resume gs://bucket/train-@1000.tgz s3://mine/small-@1000.tar

\b
The script:
  def process_sample(record, size=128):
      if "png" not in record:
          return None                       # drops the sample
      return {"key": record["key"], "png": shrink(record["png"], size)}

A record is a dict: record["key"] is the sample's key, and every other entry holds the bytes of a field. Return None, a
record, or a list of records. A value may be bytes, or anything that the field's extension can encode: a str for txt, an
int for cls, JSON data for json, an array for npy, png or jpg. For batched work, define process_samples(records)
instead, a generator over many samples.

Shards: @1000 names 1000 shards, numbered from 0000. {000..123}, {train,val} and a::b work too. DST must have as many
shards as SRC. Names end in .tar, .tgz, .tar.gz or .tar.zst.

Exit status: 0 done, 1 failed, 2 usage, 3 done with samples skipped, 130 interrupted.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option(
    "-p", "--script", required=True, metavar="FILE", help="The Python script that defines process_sample(record)."
)
@arg_option("the function")
@choice_options
@common_options
def main(line: CommandLine, chosen: ChoiceLine, script: str, assignments: tuple[str, ...]) -> None:
    """Run a script's process_sample(record) over every sample of SRC, and write what it returns to DST."""
    run_command("htmapper", line, lambda: _map(line, chosen, script, assignments))


def _map(line: CommandLine, chosen: ChoiceLine, script: str, assignments: tuple[str, ...]) -> int:
    from shardtools.jobs.map import plan_map
    from shardtools.jobs.script import read_script
    from shardtools.programs.map import carry_out

    options = line.run_options()
    if chosen.limit is not None and line.destination == "-":
        refuse_beside("a trial run", ("cluster", "wait", "jobs", "overwrite", "resume", "table", "dry_run", "report"))
        return _try(line, options, chosen, read_script(script, assignments))
    plan = plan_map(line.sources, line.destination, read_script(script, assignments), options, chosen.choice())
    if line.dry_run:
        _show_plan(plan, line.verbose)
        return 0
    started = time.monotonic()
    with command_progress(len(plan.tasks), line.quiet) as progress:
        result = carry_out(plan, options, progress)
    if not line.quiet:
        show_result("htmapper", result, time.monotonic() - started, line.report)
    return 0 if result.is_whole else SKIPPED


def _try(line: CommandLine, options: RunOptions, chosen: ChoiceLine, code: Code) -> int:
    """Print what the script makes of the first samples; return the exit status."""
    from shardtools.jobs.map import try_map

    shown = _Shown()
    counts = try_map(line.sources, code, options, chosen.choice(), shown)
    if not line.quiet:
        parts = [format_count(counts.read, "sample"), f"{shown.count:,} returned", f"{counts.dropped:,} dropped"]
        parts += [f"{counts.skipped:,} skipped"] if counts.skipped else []
        tell(f"trial run: {', '.join(parts)}; nothing was written", err=True)
    return SKIPPED if counts.skipped else 0


class _Shown:
    """Prints samples."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, key: str, members: Members) -> None:
        """Print a sample: its key, and a line for each field."""
        from shardtools.cli.tables import field_lines

        layout, values = members
        tell("\n".join([key, *field_lines(dict(zip(layout.fields, values, strict=True)))]))
        self.count += 1


def _show_plan(plan: Plan, verbose: bool) -> None:
    from shardtools.errors import redact

    tell(f"would map {format_count(len(plan.tasks), 'shard')} to {redact(plan.destination.spec)}")
    tell(f"outputs that exist: {len(plan.existing):,}")
    show_replaced(plan.replaced)
    tasks = plan.tasks if verbose or len(plan.tasks) <= 3 else plan.tasks[:2]
    for task, target in zip(tasks, plan.destination.urls(), strict=False):
        tell(f"{redact(task.name)} -> {redact(target)}")
    if len(tasks) < len(plan.tasks):
        tell(f"... and {len(plan.tasks) - len(tasks):,} more (-v shows them all)")
