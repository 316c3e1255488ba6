"""Statistics as a person reads them: tables and bars for the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shardtools.jobs.extraction.formats import is_binary, show
from shardtools.jobs.extraction.statistics import FieldStatistics, Statistics, middle
from shardtools.units import format_count, format_size

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FEW = 20
"""So many different whole numbers get a bar each, and so many classes a line."""


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return lines of columns, the first ``left`` of them aligned to the left and the others to the right.

    >>> aligned([["cls", "1 B"], ["image.jpg", "12 kB"]])
    ['cls          1 B', 'image.jpg  12 kB']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def statistics_table(found: Statistics) -> list[str]:
    """Return the statistics of a dataset as lines of text."""
    total = sum(found.samples)
    rows = [["samples", f"{total:,}"], ["shards", f"{len(found.samples):,}"]]
    if found.samples:
        low, high = min(found.samples), max(found.samples)
        median = middle(Counter(found.samples))
        rows.append(["samples in a shard", f"{low:,} to {high:,}, median {median:,.10g}"])
    rows.append(["bytes as stored", f"{found.filesize:,} ({format_size(found.filesize)})"])
    lines = aligned(rows, left=2)
    if found.fields:
        head = ["field", "samples", "without", "min", "median", "max", "total"]
        lines += ["", *aligned([head, *(_field_row(name, entry, total) for name, entry in found.fields.items())])]
    shapes = {name: entry.shapes for name, entry in found.fields.items() if entry.shapes}
    if shapes:
        head = ["image", "width", "height", "sizes", "most frequent"]
        lines += ["", *aligned([head, *(_image_row(name, counts) for name, counts in shapes.items())])]
    if found.classes:
        shown = [name if name.isprintable() else ascii(name) for name in found.classes[:_FEW]]
        few = [[str(number), name] for number, name in enumerate(shown)]
        lines += ["", *aligned([["class", "name"], *few], left=2)]
        if len(found.classes) > _FEW:
            lines.append(f"… and {len(found.classes) - _FEW:,} more, which --format jsonl has")
    return lines


def _field_row(name: str, entry: FieldStatistics, total: int) -> list[str]:
    without = 1 - entry.count / total if total else 0.0
    sizes = [min(entry.sizes), middle(entry.sizes), max(entry.sizes), entry.total]
    return [name, f"{entry.count:,}", _percent(without), *map(format_size, sizes)]


def _percent(share: float) -> str:
    """Return a share, never as none or all if it is not quite.

    >>> _percent(0), _percent(1e-9), _percent(0.25)
    ('0 %', '<0.01 %', '25 %')
    """
    return "<0.01 %" if 0 < share < 1e-4 else f"{100 * share:.4g} %"


def _image_row(name: str, shapes: Counter[tuple[int, int]]) -> list[str]:
    widths, heights = [f"{min(side)} to {max(side)}" for side in zip(*shapes, strict=True)]
    (width, height), count = max(shapes.items(), key=lambda item: (item[1], item[0]))
    return [name, widths, heights, f"{len(shapes):,}", f"{width}x{height} ({_percent(count / shapes.total())})"]


def field_lines(fields: Mapping[str, bytes]) -> list[str]:
    """Return a line for each field of a sample: its name, its size, and its text if it is one.

    >>> print("\\n".join(field_lines({"jpg": bytes(1234), "cls": b"7"})))
      cls       1 byte   7
      jpg  1,234 bytes
    """
    rows = []
    for name, data in sorted(fields.items()):
        text = "" if is_binary(name) else show(data[:1000])
        short = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
        rows.append([f"  {name}", format_count(len(data), "byte"), short if len(short) <= 60 else f"{short[:59]}…"])
    places = aligned([row[:2] for row in rows])
    return [f"{place}   {row[2]}".rstrip() for place, row in zip(places, rows, strict=True)]


def histogram(values: Counter[float], width: int, bins: int) -> list[str]:
    """Return a histogram as lines of bars, ``width`` characters wide at most.

    A few different whole numbers get a bar each, others share ``bins`` intervals of one length.

    >>> print("\\n".join(histogram(Counter({0.0: 10, 1.0: 5, 3.0: 1}), 20, 10)))
    0  10  █████████████
    1   5  ██████▌
    3   1  █▍
    """
    groups = histogram_bins(values, bins)
    most = max(bar.count for bar in groups)
    labels = aligned([[bar.label, f"{bar.count:,}"] for bar in groups], left=0)
    room = max(width - len(labels[0]) - 2, 10)
    return [f"{label}  {_bar(room * bar.count / most)}".rstrip() for label, bar in zip(labels, groups, strict=True)]


@dataclass(frozen=True)
class Bin:
    """How many numbers are from ``low`` to ``high``: below it, but in the last bin up to it; or all are ``low``."""

    low: float
    high: float
    count: int

    @property
    def label(self) -> str:
        """The interval as people read it."""
        if not math.isfinite(self.low):
            return str(self.low)
        if self.low != self.high:
            return f"{self.low:.6g} to {self.high:.6g}"
        return f"{self.low:.0f}" if self.low.is_integer() else f"{self.low:.6g}"

    def as_json(self) -> dict[str, float | str]:
        """Return it as JSON data, which has no infinite numbers: these are text."""
        low, high = (bound if math.isfinite(bound) else str(bound) for bound in (self.low, self.high))
        return {"low": low, "high": high, "count": self.count}


def histogram_bins(values: Counter[float], bins: int) -> list[Bin]:
    """Return how numbers are distributed; inf, -inf and nan have bins of their own at the end.

    >>> [(bar.label, bar.count) for bar in histogram_bins(Counter([float("nan"), float("nan")]), 2)]
    [('nan', 2)]
    >>> histogram_bins(Counter({0.5: 1, 1.0: 2, 2.5: 1}), 2)
    [Bin(low=0.5, high=1.5, count=3), Bin(low=1.5, high=2.5, count=1)]
    """
    if len(values) <= _FEW and all(value.is_integer() for value in values):
        return [Bin(value, value, values[value]) for value in sorted(values)]
    finite = {value: count for value, count in values.items() if math.isfinite(value)}
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / bins or 1.0
    counts = [0] * bins
    for value, count in finite.items():
        counts[min(int((value - low) / step), bins - 1)] += count
    groups = [Bin(low + i * step, low + (i + 1) * step, count) for i, count in enumerate(counts) if finite]
    apart: Counter[str] = Counter()  # by their texts, as nan is not equal to nan
    for value, count in values.items():
        if not math.isfinite(value):
            apart[str(value)] += count
    return groups + [Bin(float(text), float(text), count) for text, count in sorted(apart.items())]


def _bar(length: float) -> str:
    """Return a bar of so many characters, in steps of an eighth; something is always to be seen.

    >>> _bar(2.5), _bar(0.0), _bar(0.01)
    ('██▌', '', '▏')
    """
    eighths = math.ceil(8 * length)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
