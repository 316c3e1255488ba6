"""What htextract --stats, --count and --histogram show."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from shardtools.cli.common import tell
from shardtools.cli.extracting import ExtractLine, count_up, end, write_lines
from shardtools.cli.options import CommandLine
from shardtools.errors import JobError

if TYPE_CHECKING:
    from shardtools.jobs.extraction.formats import FormatName, RowFormat
    from shardtools.jobs.extraction.statistics import ValueCounts
    from shardtools.jobs.options import RunOptions


def show_statistics(line: CommandLine, own: ExtractLine, options: RunOptions) -> int:
    """Show what the dataset consists of; return the exit status."""
    from shardtools.cli.tables import statistics_table
    from shardtools.programs.running import named_by
    from shardtools.programs.statistics import find_statistics
    from shardtools.shards.names import case_warnings

    row_format = _row_format(own, "tsv", "jsonl")
    named = named_by(line.sources, options)
    with count_up(line, named, shows=False) as progress:
        found = find_statistics(named, own.decode, options, progress)
    if row_format.name == "jsonl":
        write_lines(own.destination, options, [json.dumps(found.as_json(), ensure_ascii=False)])
    else:
        write_lines(own.destination, options, statistics_table(found))
    for warning in case_warnings(found.fields):
        tell(f"htextract: {warning}", err=True)
    return end(line, {"shards": len(found.samples), "samples": sum(found.samples)}, found.skipped)


def _row_format(own: ExtractLine, *allowed: FormatName) -> RowFormat:
    """Return how results are written.

    Raises:
        JobError: it is no format of such results.
    """
    chosen = own.row_format()
    if chosen.name not in allowed:
        raise JobError(f"this is not written as {chosen.name}", fix=f"give --format {' or '.join(allowed)}")
    return chosen


def show_counts(line: CommandLine, own: ExtractLine, options: RunOptions) -> int:
    """Show how often each value occurs; return the exit status."""
    from shardtools.jobs.extraction.formats import RowFormat, encoder
    from shardtools.jobs.extraction.row_batches import RowBatch
    from shardtools.programs.running import named_by
    from shardtools.programs.statistics import count_values

    row_format = _row_format(own, "tsv", "csv", "jsonl")
    named = named_by(line.sources, options)
    with count_up(line, named, shows=False) as progress:
        found = count_values(named, own.count or "", own.choice(), options, progress)
    ordered = sorted(found.values.items(), key=lambda item: (-item[1], item[0]))
    if row_format.name == "jsonl":
        lines = [json.dumps(_counted(found, value, count), ensure_ascii=False) for value, count in ordered]
    else:
        columns = {"value": [value for value, _ in ordered]}
        if found.classes is not None:
            columns["name"] = [found.name_of(value) for value, _ in ordered]
        rows = RowBatch("", [str(count) for _, count in ordered], columns)
        head = [",".join(["count", *columns])] if row_format.name == "csv" else []
        text = encoder(RowFormat("csv" if row_format.name == "csv" else "tsv")).encode(rows)
        lines = head + text.decode("utf-8", "surrogateescape").split("\n")[:-1]
    write_lines(own.destination, options, lines)
    return end(line, {"samples": found.samples, "missing": found.missing}, found.skipped)


def _counted(found: ValueCounts, value: str, count: int) -> dict[str, Any]:
    """Return how often a value occurs as JSON data, with the name of its class if it has one."""
    name = found.name_of(value)
    return {"value": value, **({"name": name} if name else {}), "count": count}


def show_histogram(line: CommandLine, own: ExtractLine, options: RunOptions) -> int:
    """Show how numbers are distributed; return the exit status."""
    from shardtools.cli.tables import histogram, histogram_bins
    from shardtools.programs.running import named_by
    from shardtools.programs.statistics import count_values

    row_format = _row_format(own, "tsv", "jsonl")
    named = named_by(line.sources, options)
    with count_up(line, named, shows=False) as progress:
        found = count_values(named, own.histogram or "", own.choice(), options, progress, numbers=True)
    if row_format.name == "jsonl":
        bars = histogram_bins(found.values, own.bins) if found.values else []
        write_lines(own.destination, options, [json.dumps(bar.as_json()) for bar in bars])
    elif found.values:
        write_lines(own.destination, options, histogram(found.values, _columns(), own.bins))
    return end(line, {"samples": found.samples, "missing": found.missing}, found.skipped)


def _columns() -> int:
    """Return how many columns the terminal has that shows the results, or what the variable COLUMNS says."""
    from shardtools.storage.pipe import results

    try:
        size = os.get_terminal_size(stream.fileno()) if (stream := results()) else os.terminal_size((80, 24))
    except (OSError, ValueError, AttributeError):  # it is no terminal
        size = os.terminal_size((80, 24))
    return shutil.get_terminal_size(size).columns
