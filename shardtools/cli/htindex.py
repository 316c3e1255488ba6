"""The htindex command."""

from __future__ import annotations

import time
from typing import Any

import click

from shardtools.cli.common import (
    SKIPPED,
    Progress,
    format_count,
    format_seconds,
    reading_options,
    run_command,
    run_options,
    tell,
)

EPILOG = """\b
Examples:
  htindex train-@1000.tgz              a sidecar for each shard that has none, and the manifest
  htindex --check train-@1000.tgz      read all shards, and see whether their sidecars are right
  htindex --overwrite train-@1000.tgz  make all of them again

A sidecar (train-0000.tgz.index.npz) tells where each sample and member of its shard is, so that parts of the shard can
be read without the rest; the manifest (train-@1000.tgz.json) tells how many samples each shard has. htupload, htmapper,
htshuffle and htsort write both by themselves: this is for shards that others have made. It reads each of them once.

Exit status: 0 done, 1 failed, 2 usage, 3 done with shards skipped, 130 interrupted.
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.option("--check", is_flag=True, help="Compare the sidecars that are there with their shards; write nothing.")
@reading_options
def main(**given: Any) -> None:
    """Write, beside the shards of SRC, what tells where their samples are."""
    run_command("htindex", given["verbose"], lambda: _index(given), resumes=False)


def _index(given: dict[str, Any]) -> int:
    from shardtools.errors import JobError, redact
    from shardtools.jobs.index import index
    from shardtools.jobs.options import expand_sources
    from shardtools.jobs.report import write_summary
    from shardtools.storage import using

    if given["check"] and given["overwrite"]:
        raise JobError("--check and --overwrite do not go together", fix="give one of them")
    options = run_options(given)
    with using(options.storage):
        shards = len(expand_sources(given["sources"]))
    started = time.monotonic()
    with Progress(shards, given["quiet"]) as progress:
        found = index(
            given["sources"],
            check=given["check"],
            options=options,
            on_shard=lambda shard: progress.advance(
                shard.entry.nsamples if shard.entry else 0, shard.entry.filesize if shard.entry else 0
            ),
        )
    failed = [(shard.url, None, shard.failure or "") for shard in found if shard.entry is None]
    counts = {
        "shards": len(found),
        "samples": sum(shard.entry.nsamples for shard in found if shard.entry),
        "made": sum(shard.made for shard in found),
    }
    if given["report"]:
        write_summary(given["report"], {"program": "htindex", "sources": list(given["sources"])}, counts, failed)
    if not given["quiet"]:
        did = "all right" if given["check"] else f"{format_count(counts['made'], 'sidecar')} made"
        seconds = format_seconds(time.monotonic() - started)
        whole = f"{format_count(counts['shards'], 'shard')}, {format_count(counts['samples'], 'sample')}"
        tell(f"{' '.join(map(redact, given['sources']))}: {whole}, {did if not failed else 'some failed'} in {seconds}")
    for _, _, reason in failed[:5]:
        tell(f"htindex: skipped: {reason}", err=True)
    return SKIPPED if failed else 0
