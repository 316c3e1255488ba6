"""The htmapper command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from shardtools.cli.common import SKIPPED, run_command, tell
from shardtools.cli.options import common_options, run_options
from shardtools.cli.progress import Progress, format_count
from shardtools.cli.results import show_replaced, show_result

if TYPE_CHECKING:
    from shardtools.jobs.run import Plan
    from shardtools.jobs.target import ShardResult

EPILOG = """\b
Examples:
  htmapper -p resize.py 'train-@1000.tgz' 'small-@1000.tgz'
  htmapper -p resize.py -a size=256 http://host/train-@1000.tgz http://host/small-@1000.tgz
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
@click.option(
    "-a",
    "--arg",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="A keyword argument for the function; may be repeated.",
)
@common_options
def main(**given: Any) -> None:
    """Run a script's process_sample(record) over every sample of SRC, and write what it returns to DST."""
    run_command("htmapper", given["verbose"], lambda: _map(given))


def _map(given: dict[str, Any]) -> int:
    from shardtools.jobs.map import plan_map
    from shardtools.jobs.run import run_plan
    from shardtools.jobs.script import read_script

    options = run_options(given)
    plan = plan_map(given["sources"], given["destination"], read_script(given["script"], given["assignments"]), options)
    if given["dry_run"]:
        _show_plan(plan, given["verbose"])
        return 0
    started = time.monotonic()
    with Progress(len(plan.tasks), given["quiet"]) as progress:

        def on_shard(shard: ShardResult) -> None:
            progress.advance(shard.counts.read, shard.source_size, resumed=shard.resumed)

        result = run_plan(plan, options, on_shard)
    if not given["quiet"]:
        show_result("htmapper", result, time.monotonic() - started, given["report"])
    return 0 if result.is_whole else SKIPPED


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
