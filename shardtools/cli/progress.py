"""How far a job has come, and numbers, sizes and times as people read them."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from shardtools.cli.common import tell


class Progress:
    """Shows how far a job has come, on standard error: a bar on a terminal, else a line a minute.

    The bar is one of shards or, where their number is known before, of ``samples``.
    """

    def __init__(self, shards: int, quiet: bool, *, samples: int | None = None):
        self._shards = shards
        self._all_samples = samples
        self._done = self._samples = self._bytes = self._resumed = self._kept = 0
        self._started = self._told = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Any = None
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            layout = "{percentage:3.0f}% |{bar:20}| {desc}"
            total = shards if samples is None else samples
            self._bar = tqdm(total=total, bar_format=layout, dynamic_ncols=True, file=sys.stderr, desc=self._text())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is, so that other lines can follow."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, samples: int, size: int, *, resumed: bool = False) -> None:
        """Count one more shard, of ``samples`` samples and ``size`` bytes read that `add` has not counted."""
        with self._lock:
            self._done += 1
            if resumed:
                self._resumed += 1
                self._kept += samples
            else:
                self._samples += samples
                self._bytes += size
            self._show(1 if self._all_samples is None else samples)

    def add(self, samples: int, size: int) -> None:
        """Count samples and bytes of a shard that is not complete; any thread may call this."""
        with self._lock:
            self._samples += samples
            self._bytes += size
            self._show(0 if self._all_samples is None else samples)

    def _show(self, step: int) -> None:
        if self._bar is not None:
            self._bar.set_description_str(self._text(), refresh=False)
            self._bar.update(step)
        elif not self._quiet and time.monotonic() - self._told >= 60:
            self._told = time.monotonic()
            tell(self._text() if self._rates() else f"{self._text()}, all there already", err=True)

    def _text(self) -> str:
        parts = [f"{self._done}/{self._shards} shards"]
        if self._all_samples is not None:
            parts = [f"{self._kept + self._samples:,}/{self._all_samples:,} samples, {format_size(self._bytes)}"]
        return ", ".join([*parts, *filter(None, [self._rates()])])

    def _rates(self) -> str:
        """Return how fast it goes and how long it will take, "" while that is unknown."""
        if self._all_samples is None:  # those that were there say nothing of how long the others take
            done, left = self._done - self._resumed, self._shards - self._done
        else:
            done, left = self._samples, self._all_samples - self._samples - self._kept
        if not done:
            return ""
        seconds = max(time.monotonic() - self._started, 1e-6)
        rates = f"{self._samples / seconds:,.0f} samples/s, {format_size(self._bytes / seconds)}/s"
        return f"{rates}, {format_seconds(seconds / done * left)} left" if left else rates


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
