"""The htindex command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from shardtools.cli.common import SKIPPED, run_command, tell
from shardtools.cli.options import (
    DIMENSIONS_OPTION,
    TABLE_OPTION,
    CommandLine,
    reading_options,
    refuse_options,
    split_names,
)
from shardtools.cli.progress import command_progress
from shardtools.cli.results import show_table
from shardtools.engine import current_incidents
from shardtools.engine.incidents import describe
from shardtools.errors import redact
from shardtools.units import format_count, format_seconds

if TYPE_CHECKING:
    from shardtools.programs.index import Export, IndexResult

EPILOG = """\b
Examples:
  htindex train-@1000.tgz              a sidecar for each shard that has none, and the manifest
  htindex --check train-@1000.tgz      read all shards, and check that their sidecars are right
  htindex --overwrite train-@1000.tgz  make all of them again
  htindex --table train-@1000.tgz      also the table, train-@1000.tgz.parquet, and a file of keys
  htindex --table -f cls,txt:200 train-@1000.tgz      of these values, and 200 characters of txt
  htindex --export wids train-@8.tar   train-wids.json, the shard index that wids reads
  htindex --export dali train-@8.tar   train-0.idx and so on, as DALI's wds2idx writes them

The index of a shard is its sidecar (train-0000.tgz.index.npz). It says where each sample and member is, so that parts
of the shard can be read without the rest. The manifest (train-@1000.tgz.json) has the number of samples in each shard.
htupload, htmapper, htshuffle and htsort write both. htindex is for shards that other programs have made; it reads each
of them once.

The table is a Parquet file beside the manifest. It has the key of each sample, its place, the size and checksum of its
fields, and the values of fields: of -f FIELD, or by default of text, numbers and JSON of up to 1 KB on average. Each
path of JSON is a column, such as json.width. A table that fits is kept, and a run that was stopped continues.

--export does not read shards that have sidecars. An index for DALI lists the members of samples, without a leading ./
in their names. An error is raised for what these programs cannot read: compressed shards, names with spaces (DALI), and
names of more than 100 bytes (wids).

Exit status: 0 done, 1 failed, 2 usage, 3 done with shards skipped, 130 interrupted.
"""


_WHOLE = "an index describes whole shards; write those samples with htshuffle --no-shuffle, or choose when reading"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option("--check", is_flag=True, help="Compare existing sidecars with their shards; write nothing.")
@click.option(
    "--export",
    type=click.Choice(["wids", "dali"]),
    help="Only write the content of the sidecars as an index for wids or DALI.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="With --export wids: the index to write.  [default: NAME-wids.json beside the shards]",
)
@TABLE_OPTION
@click.option(
    "-f",
    "--fields",
    "--field",
    "fields",
    multiple=True,
    metavar="FIELD[:N],...",
    help="With --table: fields, or paths such as json.width, whose values the table has; of a text the first N "
    "characters. May be repeated.  [default: small fields]",
)
@DIMENSIONS_OPTION
@refuse_options(_WHOLE, "--where", "--drop", "--rename", "--limit", "--sample", "--seed")
@reading_options
def main(
    line: CommandLine,
    check: bool,
    export: Export | None,
    output: str | None,
    fields: tuple[str, ...],
) -> None:
    """Write an index beside each shard of SRC, which says where its samples are, and a manifest."""
    run_command("htindex", line, lambda: _index(line, check, export, output, fields), resumes=False)


def _index(
    line: CommandLine,
    check: bool,
    export: Export | None,
    output: str | None,
    fields: tuple[str, ...],
) -> int:
    from shardtools.programs.index import check_index, count_steps, index_shards
    from shardtools.programs.running import named_by

    dimensions, table = line.dimensions, (split_names(fields) or True) if line.table else False
    check_index(check=check, overwrite=line.overwrite, export=export, output=output, table=table, dimensions=dimensions)
    options = line.run_options(output)
    started = time.monotonic()
    named = named_by(line.sources, options)
    with command_progress(count_steps(named, table), line.quiet) as progress:
        result = index_shards(
            named,
            options,
            progress.advance,
            check=check,
            export=export,
            output=output,
            table=table,
            dimensions=dimensions,
        )
    if line.report:
        _write_report(line.report, line, result)
    if not line.quiet:
        did = "all right" if check else f"{_files(result, export)} made"
        whole = f"{format_count(len(result.shards), 'shard')}, {format_count(result.samples, 'sample')}"
        took = f"{'some failed' if result.skipped else did} in {format_seconds(time.monotonic() - started)}"
        said = ", ".join([whole, took, *describe(current_incidents().counts())])
        tell(f"{' '.join(map(redact, line.sources))}: {said}")
        if result.table is not None:
            show_table("htindex", result.table)
    for entry in result.skipped[:5]:
        tell(f"htindex: skipped: {entry.reason}", err=True)
    return SKIPPED if result.skipped else 0


def _files(result: IndexResult, export: Export | None) -> str:
    """Return what was made, as people say it."""
    if not export:
        return format_count(result.made, "sidecar")
    return redact(result.files[0]) if len(result.files) == 1 else format_count(len(result.files), "index file")


def _write_report(url: str, line: CommandLine, result: IndexResult) -> None:
    from shardtools.jobs.report import write_summary

    counts = {"shards": len(result.shards), "samples": result.samples, "made": result.made}
    write_summary(url, {"program": "htindex", "sources": list(map(redact, line.sources))}, counts, result.skipped)
