"""What is known of a dataset, as lines of text for a terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence

from shardtools.cli.tables import aligned
from shardtools.errors import printable
from shardtools.query.describe import Description, Origin
from shardtools.query.histograms import Classes, Histogram
from shardtools.query.index_files import IndexFile
from shardtools.units import format_count, format_size
from shardtools.urls import name_of

_FEW = 20
"""The most classes that have a line."""

_HEIGHTS = "▁▂▃▄▅▆▇█"
_WIDE = 100
_LEAST = 20
"""The characters that an example has at least, however narrow the terminal is."""

_FIX = {
    "manifest": "htindex makes it",
    "sidecars": "htindex makes them",
    "table": "htindex --table makes it",
    "keys": "htindex --table makes it",
}


def lines_of(found: Description) -> list[str]:
    """Return what is known of a dataset as lines of text, which control no terminal."""
    width = shutil.get_terminal_size((_WIDE, 24)).columns
    blocks = [
        [printable(found.spec)],
        _head(found),
        _fields(found, width),
        _values(found.histograms),
        _class_lines(found.classes),
        _files(found.files),
        [f"problem: {printable(problem)}" for problem in found.problems],
        _shard_lines(found),
    ]
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += ["", *block] if len(lines) > 1 else block
    return lines


def _head(found: Description) -> list[str]:
    least = "at least " if found.partial else ""
    rows = [["shards", f"{found.shards:,}"]]
    rows.append(["samples", "unknown" if found.samples is None else f"{least}{found.samples:,}"])
    size = "unknown" if found.bytes is None else f"{least}{found.bytes:,} ({format_size(found.bytes)})"
    rows.append(["bytes", size])
    rows += _origin(found.origin)
    rows += [[printable(name), printable(_text(value))[:_WIDE]] for name, value in found.facts.items()]
    if found.partial:
        rows.append(["", f"of {format_count(found.looked_at, 'shard')} that were looked at; htindex counts all"])
    return aligned(rows, left=2)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _origin(origin: Origin | None) -> Iterator[list[str]]:
    if origin is None:
        return
    if origin.program is not None:
        yield ["made by", printable(origin.program)]
    for number, source in enumerate(origin.sources[:_FEW]):
        yield ["" if number else "from", printable(source)]
    if len(origin.sources) > _FEW:
        yield ["", f"and {len(origin.sources) - _FEW:,} more"]
    if origin.written is not None:
        yield ["written", f"{origin.written.replace('T', ' ').partition('+')[0]} UTC"]


def _fields(found: Description, width: int) -> list[str]:
    if not found.fields:
        return []
    least = "at least " if found.partial else ""
    head = ["field", "values", "samples", "mean size"]
    rows = [
        [
            field.name,
            field.kind,
            "" if field.count is None else f"{least}{field.count:,}",
            "" if field.mean_bytes is None else format_size(field.mean_bytes),
        ]
        for field in found.fields
    ]
    lines = aligned([head, *rows], left=2)
    used = max(map(len, lines))
    examples = ["example", *(field.example or "" for field in found.fields)]
    room = max(width - used - 2, _LEAST)
    return [f"{line.ljust(used)}  {_cut(text, room)}".rstrip() for line, text in zip(lines, examples, strict=True)]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _values(histograms: Sequence[Histogram]) -> list[str]:
    if not histograms:
        return []
    odd = any(one.not_finite for one in histograms)
    head = ["column", "values", "without", *["NaN or inf"] * odd, "smallest", "largest"]
    rows = []
    for one in histograms:
        counts = [one.count, one.other - one.not_finite, *[one.not_finite] * odd]
        rows.append([printable(one.column), *(f"{n:,}" for n in counts), _number(one.low), _number(one.high)])
    lines = aligned([head, *rows])
    used = max(map(len, lines))
    bars = ["", *(_sparkline(one.bins) for one in histograms)]
    return [f"{line.ljust(used)}  {bar}".rstrip() for line, bar in zip(lines, bars, strict=True)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _sparkline(bins: Sequence[int]) -> str:
    """Return a bar of one character for each bin, as high as its count; nothing is to be seen of an empty one.

    >>> _sparkline([0, 1, 50, 100])
    ' ▁▄█'
    """
    most = max(bins, default=0)
    return "".join(_HEIGHTS[max(round(8 * count / most), 1) - 1] if count else " " for count in bins)


def _class_lines(classes: Classes | None) -> list[str]:
    if classes is None or not classes.listed:
        return []
    shown = classes.listed[:_FEW]
    rows = [[f"{one.number}", one.name or "", "" if one.count is None else f"{one.count:,}"] for one in shown]
    more = classes.more + len(classes.listed) - len(shown)
    if more:
        rest = [one.count for one in classes.listed[_FEW:]]
        known = [count for count in rest if count is not None]
        total = f"{sum(known) + (classes.more_samples or 0):,}" if len(known) == len(rest) and known else ""
        rows.append(["…", f"{more:,} more", total])
    if classes.without:
        rows.append(["none", "", f"{classes.without:,}"])
    rows.insert(0, ["class", "name", "samples" if any(row[2] for row in rows) else ""])
    if not any(row[1] for row in rows[1:]):
        rows = [[row[0], row[2]] for row in rows]
    return aligned(rows, left=len(rows[0]) - 1)


def _files(files: Sequence[IndexFile]) -> list[str]:
    rows = [[file.what, _state(file), name_of(file.url), file.note] for file in files]
    return aligned([["index", "", "", ""], *rows], left=4)[1:]


def _state(file: IndexFile) -> str:
    if file.exists is False:
        return f"none ({_FIX[file.what]})" if file.url or file.what == "sidecars" else "none"
    if file.exists is None:
        return "unknown"
    if file.fits is None:
        return "there"
    if file.what == "sidecars" and not file.fits:
        return "some"
    return "fits" if file.fits else "does not fit"


def _shard_lines(found: Description) -> list[str]:
    if found.shard_list is None:
        return []
    rows = [["shard", "samples", "bytes", "sidecar"]]
    for shard in found.shard_list:
        size = "missing" if shard.bytes is None else f"{shard.bytes:,}" + (" (changed)" if shard.changed else "")
        samples = "" if shard.samples is None else f"{shard.samples:,}"
        rows.append([printable(name_of(shard.url)), samples, size, "yes" if shard.sidecar else "no"])
    return aligned(rows)
