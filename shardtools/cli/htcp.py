"""The htcp command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from shardtools.cli.common import SKIPPED, run_command, tell
from shardtools.cli.options import CommandLine, copying_options
from shardtools.cli.progress import command_progress
from shardtools.cli.results import show_replaced
from shardtools.engine import current_incidents
from shardtools.engine.incidents import describe
from shardtools.errors import redact
from shardtools.units import format_count, format_seconds, format_size

if TYPE_CHECKING:
    from shardtools.jobs.copy import CopyPlan
    from shardtools.jobs.report import JobResult

EPILOG = """\b
Examples:
  htcp train-@1000.tgz s3://bucket/train-@1000.tgz
  htcp --resume s3://bucket/train-@1000.tgz gs://bucket/copy-@1000.tgz
  htcp -c scheduler:8786 http://host/train-@1000.tar s3://bucket/train-@1000.tar
  htcp --dry-run train-@1000.tgz /backup/train-@1000.tgz

A copy has the same shards, byte for byte, and the index files that the source has: sidecars, table, file of keys,
manifest, and the summary and page that htview --publish has written beside it, with other names where DST has others.
For another number of shards use htshuffle --no-shuffle; for another packing, too.

Each shard that is read is compared with the checksum in its sidecar, or in the manifest. What has arrived is compared
with what was sent: by the checksums of S3 and Google Cloud Storage, and elsewhere by reading it back, which costs one
more read of all shards.

Exit status: 0 done, 1 failed, 2 usage, 3 done with shards skipped, 130 interrupted.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@copying_options
def main(line: CommandLine) -> None:
    """Copy the dataset SRC to DST, with its index files, and check what has arrived."""
    run_command("htcp", line, lambda: _copy(line))


def _copy(line: CommandLine) -> int:
    from shardtools.jobs.copy import plan_copy
    from shardtools.programs.copy import carry_out

    options = line.run_options()
    plan = plan_copy(line.sources, line.destination, options)
    for note in plan.notes:
        tell(f"htcp: note: {note}", err=True)
    if line.dry_run:
        _show_plan(plan, line.verbose)
        return 0
    started = time.monotonic()
    with command_progress(len(plan.shards), line.quiet) as progress:
        result = carry_out(plan, options, progress)
    if not line.quiet:
        _show_result(plan, result, time.monotonic() - started)
    return 0 if result.is_whole else SKIPPED


def _show_result(plan: CopyPlan, result: JobResult, seconds: float) -> None:
    copied = [shard for shard in result.shards if shard.failure is None]
    there = sum(shard.resumed for shard in copied)
    parts = [format_count(len(copied), "shard")]
    if result.counts.written:
        parts.append(format_count(result.counts.written, "sample"))
    parts.append(f"{format_size(result.filesize)} in {format_seconds(seconds)}")
    if there:
        parts.append(f"{format_count(there, 'shard')} there already")
    if result.is_whole:
        parts.append(_index_files(plan))
    tell(f"{redact(result.destination)}: {', '.join([*parts, *describe(current_incidents().counts())])}")
    for shard in result.failures[:5]:
        tell(f"htcp: skipped: {shard.failure}", err=True)
    if result.failures:
        lost = format_count(len(result.failures), "shard")
        tell(f"htcp: not copied: {lost} and the manifest; correct the source, then use --resume", err=True)


def _index_files(plan: CopyPlan) -> str:
    """Return which index files of the whole dataset are copied, as people say it."""
    names = ["manifest"] if plan.manifest is not None else []
    names += ["table"] if any(file.source.endswith(".parquet") for file in plan.files) else []
    names += ["keys"] if any(file.source.endswith(".keys") for file in plan.files) else []
    names += ["summary"] if any(file.source.endswith(".view.json") for file in plan.files) else []
    names += ["page"] if any(file.source.endswith(".view/index.html") for file in plan.files) else []
    return f"with {', '.join(names)}" if names else "without a manifest"


def _show_plan(plan: CopyPlan, verbose: bool) -> None:
    size = "" if plan.size is None else f", {format_size(plan.size)}"
    samples = "" if plan.samples is None else f", {format_count(plan.samples, 'sample')}"
    what = f"{format_count(len(plan.shards), 'shard')}{samples}{size}"
    tell(f"would copy {what} to {redact(plan.destination.spec)}, {_index_files(plan)}")
    tell(f"outputs that exist: {len(plan.existing):,}")
    show_replaced(plan.replaced)
    shown = len(plan.shards) if verbose or len(plan.shards) <= 3 else 2
    for task in plan.shards[:shown]:
        tell(f"{redact(task.source)} -> {redact(task.target.url)}")
    if shown < len(plan.shards):
        tell(f"... and {len(plan.shards) - shown:,} more (-v shows them all)")
