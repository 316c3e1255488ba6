"""How far a job has come: a bar in a terminal or notebook, or now and then a line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from shardtools.units import format_seconds, format_size


class Bar(Protocol):
    """What is used of a bar of tqdm."""

    def set_description_str(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Show a text beside the bar."""

    def update(self, n: float | None = 1) -> object:
        """Go on by ``n``."""

    def close(self) -> None:
        """Leave the bar as it is."""


class Progress:
    """Counts how far a job has come, in shards or, where their number is known before, in ``samples``.

    ``make_bar`` gives a bar of so much in total, with a first text. Where there is none, ``tell`` gets a line a minute.
    """

    def __init__(
        self,
        shards: int,
        *,
        samples: int | None = None,
        make_bar: Callable[[int, str], Bar] | None = None,
        tell: Callable[[str], None] | None = None,
    ):
        self._shards = shards
        self._all_samples = samples
        self._done = self._samples = self._bytes = self._resumed = self._kept = 0
        self._started = self._told = time.monotonic()
        self._lock = threading.Lock()
        self._tell = tell
        self._bar = None if make_bar is None else make_bar(shards if samples is None else samples, self._text())

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
        elif self._tell is not None and time.monotonic() - self._told >= 60:
            self._told = time.monotonic()
            self._tell(self._text() if self._rates() else f"{self._text()}, all there already")

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


def python_progress(shards: int, shows: bool, *, samples: int | None = None) -> Progress:
    """Return the progress of a function: with a bar of tqdm, in a notebook one of its own, if it ``shows`` any."""

    def make_bar(total: int, text: str) -> Bar:
        from tqdm.auto import tqdm

        bar: Bar = tqdm(total=total, desc=text, bar_format="{percentage:3.0f}% |{bar}| {desc}", dynamic_ncols=True)
        return bar

    return Progress(shards, samples=samples, make_bar=make_bar if shows else None)
