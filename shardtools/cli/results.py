"""What commands that write shards say of what they have done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shardtools.cli.common import tell
from shardtools.engine import current_incidents
from shardtools.engine.incidents import describe
from shardtools.units import format_count, format_seconds, format_size

if TYPE_CHECKING:
    from shardtools.jobs.replaced import Replaced
    from shardtools.jobs.report import JobResult
    from shardtools.jobs.table.run import TableResult


def show_result(program: str, result: JobResult, seconds: float, report: str | None, more: Sequence[str] = ()) -> None:
    """Say in one line what was written, with ``more`` at its end; and on standard error what was skipped."""
    from shardtools.errors import redact
    from shardtools.shards.names import case_warnings

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
    if result.unread:
        parts.append(f"{format_count(result.unread, 'shard')} of the sources skipped")
    parts += [*more, *describe(current_incidents().counts())]
    tell(f"{redact(result.destination)}: {', '.join(parts)}", err=result.destination == "-")
    for table in result.tables:
        show_table(program, table)
    for warning in case_warnings(name for shard in result.shards for name in shard.fields):
        tell(f"{program}: {warning}", err=True)
    if not result.is_whole:
        _show_skipped(program, result, report)


def show_table(program: str, table: TableResult) -> None:
    """Say what a table has, and on standard error what it lacks."""
    from shardtools.errors import redact

    made = "made" if table.made else "is up to date"
    tell(f"{redact(table.files[0])}: {', '.join(table.columns) or 'no values'}; {made}")
    for note in table.notes:
        tell(f"{program}: note: {note}", err=True)


def show_replaced(replaced: Replaced) -> None:
    """Say what a job would remove at its end, if there is anything."""
    if replaced.shards:
        tell(f"to be removed at the end: {format_count(len(replaced.shards), 'shard')} of what is replaced")


def _show_skipped(program: str, result: JobResult, report: str | None, limit: int = 5) -> None:
    """Say on standard error what was skipped, the first few one by one."""
    total = result.counts.skipped + len(result.failures) + result.unread
    for entry, _ in zip(result.skipped(), range(limit), strict=False):
        text = entry.reason if entry.key is None else f"{entry.shard} [{entry.key}]: {entry.reason}"
        tell(f"{program}: skipped: {text}", err=True)
    if total > limit:
        more = f"see {report}" if report else "--report FILE lists them all"
        tell(f"{program}: skipped: {total - limit:,} more; {more}", err=True)
    if result.failures:
        lost = format_count(len(result.failures), "shard")
        tell(f"{program}: not written: {lost} and the manifest; correct the sources, then use --resume", err=True)
