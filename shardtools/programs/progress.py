"""How far a job has come: a bar in a terminal or notebook, or now and then a line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from shardtools.engine import watching_tasks
from shardtools.units import format_seconds, format_size


class Bar(Protocol):
    """What is used of a bar of tqdm."""

    def set_description_str(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Show a text beside the bar."""

    def update(self, n: float | None = 1) -> object:
        """Go on by ``n``."""

    def close(self) -> None:
        """Leave the bar as it is."""


@dataclass
class _Pass:
    """How far a pass of a job has come: of ``steps`` shards so many are ``done``, of which some were there already.

    ``samples`` and ``size`` are what the others have read.
    """

    steps: int
    done: int = 0
    resumed: int = 0
    samples: int = 0
    size: int = 0

    @property
    def mean_size(self) -> float:
        """Bytes of a shard, 0 while that is unknown."""
        return self.size / max(self.done - self.resumed, 1)


class Progress:
    """Counts how far a job has come, in shards or, where their number is known before, in ``samples``.

    ``shards`` are those of the job or, if it has several passes, of each of them; each pass counts as much. While it is
    a context, runs of `shardtools.engine` tell how far they are within shards. ``make_bar`` gives a bar of so much in
    total, with a first text. Where there is none, ``tell`` gets a line a minute.
    """

    def __init__(
        self,
        shards: int | Sequence[int],
        *,
        samples: int | None = None,
        make_bar: Callable[[int, str], Bar] | None = None,
        tell: Callable[[str], None] | None = None,
    ):
        self._passes = [_Pass(steps) for steps in ((shards,) if isinstance(shards, int) else shards)]
        self._all_samples = samples
        self._kept = 0
        self._within: dict[Hashable, tuple[int, int]] = {}
        self._started = self._told = time.monotonic()
        self._lock = threading.Lock()
        self._tell = tell
        self._shown = 0.0
        self._stack = ExitStack()
        self._bar = None if make_bar is None else make_bar(self._total(), self._text())

    def __enter__(self) -> Progress:
        if self._bar is not None or self._tell is not None:
            self._stack.enter_context(watching_tasks(self.within))
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is, so that other lines can follow."""
        self._stack.close()
        if self._bar is not None:
            self._bar.close()

    def advance(self, samples: int, size: int, *, resumed: bool = False, at: int = 0) -> None:
        """Count one more shard, of ``samples`` samples and ``size`` bytes, in the pass ``at``."""
        with self._lock:
            current = self._passes[at]
            current.done += 1
            if resumed:
                current.resumed += 1
                self._kept += samples
            else:
                current.samples += samples
                current.size += size
            self._show()

    def within(self, task: Hashable, samples: int, size: int) -> None:
        """Note what ``task`` has read so far; nothing when it has ended, and before it is counted by `advance`.

        Any thread may call this.
        """
        with self._lock:
            if samples or size:
                self._within[task] = samples, size
                self._show()
            else:
                self._within.pop(task, None)

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.set_description_str(self._text(), refresh=False)
            position = self._position()
            self._bar.update(position - self._shown)
            self._shown = position
        elif self._tell is not None and time.monotonic() - self._told >= 60:
            self._told = time.monotonic()
            self._tell(self._text() if self._rates() else f"{self._text()}, all there already")

    def _current(self) -> int:
        """Return the number of the first pass that is not complete, or of the last one."""
        return next((at for at, one in enumerate(self._passes) if one.done < one.steps), len(self._passes) - 1)

    def _read(self) -> tuple[int, int]:
        """Return how many samples and bytes were read by this run."""
        samples, sizes = zip(*self._within.values(), strict=True) if self._within else ((), ())
        done = [(one.samples, one.size) for one in self._passes]
        return sum(samples) + sum(one[0] for one in done), sum(sizes) + sum(one[1] for one in done)

    def _part(self) -> float:
        """Return how many shards of the current pass those are that were read in part, 0 while that is unknown."""
        at = self._current()
        mean = self._passes[at].mean_size
        if not mean and at:  # all that was read in one pass is read in the next one
            mean = self._passes[at - 1].size / max(self._passes[at].steps, 1)
        left = self._passes[at].steps - self._passes[at].done
        return min(sum(min(size / mean, 0.99) for _, size in self._within.values()) if mean else 0.0, left)

    def _total(self) -> int:
        """Return what the whole bar stands for: samples, shards or passes."""
        if self._all_samples is not None:
            return self._all_samples
        return self._passes[0].steps if len(self._passes) == 1 else len(self._passes)

    def _position(self) -> float:
        """Return how much of the bar is full."""
        if self._all_samples is not None:
            return self._kept + self._read()[0]
        if len(self._passes) == 1:
            return self._passes[0].done + self._part()
        done = sum(one.done / max(one.steps, 1) for one in self._passes)
        return done + self._part() / max(self._passes[self._current()].steps, 1)

    def _text(self) -> str:
        at = self._current()
        parts = [f"{self._passes[at].done}/{self._passes[at].steps} shards"]
        if len(self._passes) > 1:
            parts = [f"pass {at + 1} of {len(self._passes)}: {parts[0]}"]
        if self._all_samples is not None:
            samples, size = self._read()
            parts = [f"{self._kept + samples:,}/{self._all_samples:,} samples, {format_size(size)}"]
        return ", ".join([*parts, *filter(None, [self._rates()])])

    def _rates(self) -> str:
        """Return how fast it goes and how long it will take, "" while that is unknown.

        What was there already says nothing of how long the rest takes.
        """
        samples, size = self._read()
        position = self._position()
        left = self._total() - position
        if self._all_samples is not None:
            done = position - self._kept
        elif len(self._passes) == 1:
            done = position - self._passes[0].resumed
        else:
            done = position - sum(one.resumed / max(one.steps, 1) for one in self._passes)
        if not done and not size:
            return ""
        seconds = max(time.monotonic() - self._started, 1e-6)
        rates = f"{samples / seconds:,.0f} samples/s, {format_size(size / seconds)}/s"
        return f"{rates}, {format_seconds(seconds / done * left)} left" if done > 0 and left > 1e-9 else rates


def python_progress(shards: int | Sequence[int], shows: bool, *, samples: int | None = None) -> Progress:
    """Return the progress of a function: with a bar of tqdm, in a notebook one of its own, if it ``shows`` any."""

    def make_bar(total: int, text: str) -> Bar:
        from tqdm.auto import tqdm

        bar: Bar = tqdm(total=total, desc=text, bar_format="{percentage:3.0f}% |{bar}| {desc}", dynamic_ncols=True)
        return bar

    return Progress(shards, samples=samples, make_bar=make_bar if shows else None)
