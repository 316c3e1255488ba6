"""Statistics as a person reads them: tables and bars for the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from shardtools.jobs.extraction.statistics import FieldStatistics, Statistics, middle
from shardtools.units import format_size

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


def histogram(values: Counter[float], width: int, bins: int) -> list[str]:
    """Return a histogram as lines of bars, ``width`` characters wide at most.

    A few different whole numbers get a bar each, others share ``bins`` intervals of one length.

    >>> print("\\n".join(histogram(Counter({0.0: 10, 1.0: 5, 3.0: 1}), 20, 10)))
    0  10  █████████████
    1   5  ██████▌
    3   1  █▍
    """
    groups = _groups(values, bins)
    most = max(count for _, count in groups)
    labels = aligned([[label, f"{count:,}"] for label, count in groups], left=0)
    room = max(width - len(labels[0]) - 2, 10)
    return [f"{label}  {_bar(room * count / most)}".rstrip() for label, (_, count) in zip(labels, groups, strict=True)]


def _groups(values: Counter[float], bins: int) -> list[tuple[str, int]]:
    if len(values) <= _FEW and all(value.is_integer() for value in values):
        return [(f"{value:.0f}", values[value]) for value in sorted(values)]
    finite = {value: count for value, count in values.items() if math.isfinite(value)}
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / bins or 1.0
    counts = [0] * bins
    for value, count in finite.items():
        counts[min(int((value - low) / step), bins - 1)] += count
    groups = [
        (f"{low + i * step:.6g} to {low + (i + 1) * step:.6g}", count) for i, count in enumerate(counts) if finite
    ]
    return groups + [(str(value), count) for value, count in values.items() if not math.isfinite(value)]


def _bar(length: float) -> str:
    """Return a bar of so many characters, in steps of an eighth; something is always to be seen.

    >>> _bar(2.5), _bar(0.0), _bar(0.01)
    ('██▌', '', '▏')
    """
    eighths = math.ceil(8 * length)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
