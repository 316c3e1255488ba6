"""The htrm command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from shardtools.cli.common import FAILED, run_command, tell
from shardtools.cli.options import PATIENCE_OPTIONS, Needed, add_options
from shardtools.cli.storage_line import VERSION_OPTION, StorageLine
from shardtools.errors import JobError, redact
from shardtools.units import format_count, format_size

if TYPE_CHECKING:
    from shardtools.jobs.remove import Removal

EPILOG = """\b
Examples:
  htrm train-@1000.tgz                 shows what there is, and asks
  htrm --yes train-@1000.tgz           does not ask
  htrm --dry-run -v train-@1000.tgz    shows each file, and removes nothing

All that belongs to the dataset is removed: shards, sidecars, manifest, table and file of keys, the summary and page
that htview --publish has written beside it, and what unfinished jobs to it have left. Other files stay, pages in other
places, and other datasets in the same folder. A dataset that shares shards with another is not removed, nor one that
htshuffle, htsort or htcp is writing.

The manifest goes first, so that nobody takes the rest for a whole dataset. What was interrupted is completed by the
same command. If the answer is no, the exit status is 1.

Exit status: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

_KEPT = 5
"""So many files that stay are named."""

_OPTIONS = [
    click.option("-y", "--yes", is_flag=True, help="Do not ask."),
    click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing."),
    *PATIENCE_OPTIONS,
    click.option("-q", "--quiet", is_flag=True, help="Show errors and questions only."),
    click.option("-v", "--verbose", is_flag=True, help="Show each file, and the tracebacks of errors."),
    VERSION_OPTION,
]
_ARGUMENTS = [click.argument("sources", cls=Needed, nargs=-1, required=True, metavar="SPEC...")]


@dataclass(frozen=True, kw_only=True)
class RemoveLine(StorageLine):
    """What was typed."""

    sources: tuple[str, ...]
    yes: bool
    dry_run: bool

    @property
    def named(self) -> tuple[tuple[str, ...]]:
        """The datasets."""
        return (self.sources,)


def _add_options(command: click.decorators.FC) -> click.decorators.FC:
    return add_options(command, "line", RemoveLine, _ARGUMENTS, _OPTIONS)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@_add_options
def main(line: RemoveLine) -> None:
    """Remove the datasets SPEC, with their index files."""
    run_command("htrm", line, lambda: _remove(line), resumes=False)


def _remove(line: RemoveLine) -> int:
    from shardtools.jobs.remove import check_unlocked, plan_removal, remove_dataset
    from shardtools.storage import using

    can_ask = sys.stdin is not None and sys.stdin.isatty()
    if not (line.yes or line.dry_run or can_ask):
        raise JobError("this is not a terminal, so nobody can be asked", fix="add --yes to remove without asking")
    with using(line.run_options().storage):
        removals = [plan_removal(spec) for spec in line.sources]
        for removal in removals:
            check_unlocked(removal.spec)
            if not (line.quiet and line.yes):
                for text in _lines(removal, line.verbose):
                    tell(text)
        if line.dry_run:
            return 0
        count = format_count(sum(map(_count, removals)), "file")
        if not line.yes and not click.confirm(f"Remove {count}?", err=True):
            tell("htrm: nothing was removed", err=True)
            return FAILED
        for removal in removals:
            remove_dataset(removal)
        if not line.quiet:
            tell(f"{count} removed")
    return 0


def _count(removal: Removal) -> int:
    return len(removal.files)


def _lines(removal: Removal, verbose: bool) -> Iterator[str]:
    """Yield what there is of a dataset, as people read it."""
    size = "" if removal.size is None else f" ({format_size(removal.size)})"
    parts = [
        format_count(len(removal.shards), "shard") + size,
        format_count(len(removal.sidecars), "sidecar"),
        format_count(len(removal.index), "file") + " of manifest, table and keys",
    ]
    if removal.published:
        parts.append(f"{format_count(len(removal.published), 'file')} of summary and page")
    if removal.left or removal.spill:
        parts.append(f"{format_count(len(removal.left) + bool(removal.spill), 'leftover')} of unfinished jobs")
    yield f"{redact(removal.spec)}: {', '.join(parts)}"
    if verbose:
        for url in (*removal.files, *([removal.spill] if removal.spill else [])):
            yield f"  {redact(url)}"
    for url in removal.kept[:_KEPT]:
        yield f"stays, for htview has not written it: {redact(url)}"
    if len(removal.kept) > _KEPT:
        yield f"... and {len(removal.kept) - _KEPT:,} more stay"
