"""Numbers, sizes and times as people read them."""

from __future__ import annotations


def format_count(number: int, noun: str) -> str:
    """Return a number of things as people read it.

    >>> format_count(1, "shard"), format_count(1000, "shard")
    ('1 shard', '1,000 shards')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_size(size: float) -> str:
    """Return a number of bytes as people read it.

    >>> format_size(999), format_size(2.5e9)
    ('999 B', '2.5 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_seconds(seconds: float) -> str:
    """Return a time as people read it.

    >>> format_seconds(3.21), format_seconds(75), format_seconds(7322)
    ('3.2 s', '1:15 min', '2:02 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
