"""What all that htextract does shares: its options, its progress, where results go, what is said at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardtools.cli.choice_line import ChoiceLine
from shardtools.cli.common import SKIPPED, tell
from shardtools.cli.options import CommandLine
from shardtools.cli.progress import command_progress
from shardtools.errors import redact

if TYPE_CHECKING:
    from shardtools.jobs.extraction.extract_shard import Missing
    from shardtools.jobs.extraction.formats import FormatName, RowFormat
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.report import Skipped
    from shardtools.programs.progress import Progress
    from shardtools.storage.expansion import Sources


@dataclass(frozen=True)
class ExtractLine(ChoiceLine):
    """The options of htextract, as they were typed. Its ``sample`` may also be the key of one."""

    keys: bool
    script: str | None
    assignments: tuple[str, ...]
    output: str | None
    format: FormatName | None
    header: bool
    raw: bool
    base64: bool
    missing: Missing
    stats: bool
    decode: bool
    count: str | None
    histogram: str | None
    bins: int
    at: int | None
    to: str | None
    trust_index: bool

    @property
    def key(self) -> str | None:
        """The key of the one sample that is asked for, None if none is."""
        return self.sample if isinstance(self.sample, str) else None

    @property
    def destination(self) -> str:
        """Where results go: ``-`` for standard output, whatever else it is called, so that nothing else gets there."""
        from shardtools.storage.files import stream_number

        return "-" if not self.output or stream_number(self.output) == 1 else self.output

    def row_format(self) -> RowFormat:
        """Return how rows are written.

        Raises:
            JobError: the options make no sense together.
        """
        from shardtools.programs.extract import row_format

        return row_format(self.destination, self.format, header=self.header, raw=self.raw, base64=self.base64)


def count_up(line: CommandLine, named: Sources, *, shows: bool) -> Progress:
    """Return the progress, which keeps silent where rows appear on the same terminal."""
    from shardtools.storage.pipe import results

    stream = results()
    on_terminal = shows and stream is not None and stream.isatty()
    return command_progress(len(named.urls), line.quiet or on_terminal)


def write_lines(output: str, options: RunOptions, lines: Sequence[str]) -> None:
    """Write lines of text where results go.

    Raises:
        OutputExistsError: it exists, and may not be replaced.
    """
    from shardtools.jobs.extraction.extract import refuse
    from shardtools.jobs.extraction.terminal import for_terminal
    from shardtools.storage import get_storage, using

    with using(options.storage):
        refuse(output, options)
        with get_storage(output).create(output) as sink:
            for_terminal(sink, output).write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


def end(line: CommandLine, counts: Mapping[str, int], skipped: Sequence[Skipped]) -> int:
    """Write the report, say what was skipped, and return the exit status."""
    from shardtools.jobs.report import write_summary

    if line.report:
        job = {"program": "htextract", "sources": [redact(spec) for spec in line.sources]}
        write_summary(line.report, job, counts, skipped)
    for entry in skipped[:5]:
        text = entry.reason if entry.key is None else f"{entry.shard} [{entry.key}]: {entry.reason}"
        tell(f"htextract: skipped: {text}", err=True)
    if len(skipped) > 5:
        more = f"see {line.report}" if line.report else "--report FILE lists them all"
        tell(f"htextract: skipped: {len(skipped) - 5:,} more; {more}", err=True)
    return SKIPPED if skipped else 0
