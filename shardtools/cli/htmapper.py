"""The htmapper command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from shardtools.cli.common import (
    SKIPPED,
    Progress,
    common_options,
    format_count,
    format_seconds,
    format_size,
    run_command,
    run_options,
    tell,
)

if TYPE_CHECKING:
    from shardtools.jobs.report import JobResult
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

A record is a dict: the sample's "key", and the bytes of each field. Return None, a record, or several. Values may be
bytes, or what the field's extension can encode: str for txt, int for cls, anything JSON for json, an array for npy,
png or jpg. Or define process_samples(records), a generator over many samples, for batched work.

Shards: @1000 names 1000 shards, numbered from 0000; {000..123}, {train,val} and a::b work too. A destination has as
many shards as the sources. Names end in .tar, .tgz, .tar.gz or .tar.zst.

Exit status: 0 done, 1 failed, 2 usage, 3 done with samples skipped, 130 interrupted.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option("-p", "--script", required=True, metavar="FILE", help="The script that defines process_sample(record).")
@click.option("-a", "--arg", "assignments", multiple=True, metavar="NAME=VALUE", help="A keyword for the function.")
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
        _show_result(result, time.monotonic() - started, given["report"])
    return 0 if result.is_whole else SKIPPED


def _show_plan(plan: Plan, verbose: bool) -> None:
    from shardtools.errors import redact

    tell(f"would map {format_count(len(plan.tasks), 'shard')} to {redact(plan.destination.spec)}")
    tell(f"outputs that exist: {len(plan.existing):,}")
    tasks = plan.tasks if verbose or len(plan.tasks) <= 3 else plan.tasks[:2]
    for task, target in zip(tasks, plan.destination.urls(), strict=False):
        tell(f"{redact(task.name)} -> {redact(target)}")
    if len(tasks) < len(plan.tasks):
        tell(f"... and {len(plan.tasks) - len(tasks):,} more (-v shows them all)")


def _show_result(result: JobResult, seconds: float, report: str | None) -> None:
    from shardtools.errors import redact

    counts = result.counts
    parts = [
        format_count(len(result.shards) - len(result.failures), "shard"),
        format_count(counts.written, "sample"),
        f"{format_size(result.filesize)} in {format_seconds(seconds)}",
    ]
    if counts.dropped:
        parts.append(f"{format_count(counts.dropped, 'sample')} dropped")
    if counts.others:
        parts.append(f"{format_count(counts.others, 'member')} left out that belong to no sample")
    if resumed := sum(shard.resumed for shard in result.shards):
        parts.append(f"{format_count(resumed, 'shard')} there already")
    if counts.skipped:
        parts.append(f"{format_count(counts.skipped, 'sample')} skipped")
    tell(f"{redact(result.destination)}: {', '.join(parts)}", err=result.destination == "-")
    if not result.is_whole:
        _show_skipped(result, report)


def _show_skipped(result: JobResult, report: str | None, limit: int = 5) -> None:
    """Say on standard error what was skipped, the first few one by one."""
    total = result.counts.skipped + len(result.failures)
    for entry, _ in zip(result.skipped(), range(limit), strict=False):
        text = entry.reason if entry.key is None else f"{entry.shard} [{entry.key}]: {entry.reason}"
        tell(f"htmapper: skipped: {text}", err=True)
    if total > limit:
        more = f"see {report}" if report else "--report FILE lists them all"
        tell(f"htmapper: skipped: {total - limit:,} more; {more}", err=True)
    if result.failures:
        lost = format_count(len(result.failures), "shard")
        tell(f"htmapper: not written: {lost} and the manifest; mend the sources and use --resume", err=True)
