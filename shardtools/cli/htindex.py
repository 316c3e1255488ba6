"""The htindex command."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from shardtools.cli.common import SKIPPED, run_command, tell
from shardtools.cli.options import reading_options, run_options
from shardtools.cli.progress import Progress, format_count, format_seconds

if TYPE_CHECKING:
    from shardtools.jobs.index import Indexed

EPILOG = """\b
Examples:
  htindex train-@1000.tgz              a sidecar for each shard that has none, and the manifest
  htindex --check train-@1000.tgz      read all shards, and check that their sidecars are right
  htindex --overwrite train-@1000.tgz  make all of them again
  htindex --export wids train-@8.tar   train-wids.json, the shard index that wids reads
  htindex --export dali train-@8.tar   train-0.idx and so on, as DALI's wds2idx writes them

The index of a shard is its sidecar (train-0000.tgz.index.npz). It says where each sample and member is, so that parts
of the shard can be read without the rest. The manifest (train-@1000.tgz.json) has the number of samples in each shard.
htupload, htmapper, htshuffle and htsort write both. htindex is for shards that other programs have made; it reads each
of them once.

--export does not read shards that have sidecars. An index for DALI lists the members of samples, without a leading ./
in their names. An error is raised for what these programs cannot read: compressed shards, names with spaces (DALI), and
names of more than 100 bytes (wids).

Exit status: 0 done, 1 failed, 2 usage, 3 done with shards skipped, 130 interrupted.
"""


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
@reading_options
def main(**given: Any) -> None:
    """Write an index beside each shard of SRC, which says where its samples are, and a manifest."""
    run_command("htindex", given["verbose"], lambda: _index(given), resumes=False)


def _index(given: dict[str, Any]) -> int:
    from shardtools.errors import JobError
    from shardtools.jobs.index import export, index
    from shardtools.storage import using
    from shardtools.storage.expansion import expand_sources

    if given["check"] and (given["overwrite"] or given["export"]):
        other = "--overwrite" if given["overwrite"] else "--export"
        raise JobError(f"--check and {other} cannot be used together", fix="give one of them")
    if given["output"] is not None and given["export"] != "wids":
        raise JobError("--output needs --export wids", fix="add --export wids, or leave out --output")
    options = run_options(given)
    with using(options.storage):
        shards = len(expand_sources(given["sources"]))
    started = time.monotonic()
    with Progress(shards, given["quiet"]) as progress:

        def on_shard(shard: Indexed) -> None:
            entry = shard.entry
            progress.advance(entry.nsamples if entry else 0, entry.filesize if entry else 0)

        if given["export"]:
            found, files = export(
                given["sources"], given["export"], output=given["output"], options=options, on_shard=on_shard
            )
        else:
            found, files = index(given["sources"], check=given["check"], options=options, on_shard=on_shard), []
    return _tell(given, found, files, time.monotonic() - started)


def _tell(given: dict[str, Any], found: Sequence[Indexed], files: Sequence[str], seconds: float) -> int:
    """Say what was done, and return the exit status."""
    from shardtools.errors import redact
    from shardtools.jobs.report import Skipped, write_summary

    failed = [Skipped(redact(shard.url), None, shard.failure or "") for shard in found if shard.entry is None]
    counts = {
        "shards": len(found),
        "samples": sum(shard.entry.nsamples for shard in found if shard.entry),
        "made": len(files) or sum(shard.made for shard in found),
    }
    if given["report"]:
        write_summary(
            given["report"], {"program": "htindex", "sources": list(map(redact, given["sources"]))}, counts, failed
        )
    if not given["quiet"]:
        made = format_count(counts["made"], "sidecar")
        if given["export"]:
            made = redact(files[0]) if len(files) == 1 else format_count(len(files), "index file")
        did = "all right" if given["check"] else f"{made} made"
        whole = f"{format_count(counts['shards'], 'shard')}, {format_count(counts['samples'], 'sample')}"
        sources, took = " ".join(map(redact, given["sources"])), format_seconds(seconds)
        tell(f"{sources}: {whole}, {did if not failed else 'some failed'} in {took}")
    for entry in failed[:5]:
        tell(f"htindex: skipped: {entry.reason}", err=True)
    return SKIPPED if failed else 0
