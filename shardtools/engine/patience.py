"""Waiting for something that may appear later, such as a scheduler or a worker."""

from __future__ import annotations

import time

from shardtools.engine.notes import notes

FIRST_NOTE = 2
"""After how many seconds of waiting a user is told what for."""

NEXT_NOTE = 60
"""After how many seconds a user is told again."""


class Patience:
    """How long something has been awaited, and whether that is too long; says now and then what is awaited."""

    def __init__(self, seconds: float):
        self._start = time.monotonic()
        self._seconds = seconds
        self._next_note = self._start + FIRST_NOTE
        self._pause = 0.05

    @property
    def left(self) -> float:
        """Seconds until it is too long; not below 0."""
        return max(0.0, self._start + self._seconds - time.monotonic())

    def note(self, what: str) -> None:
        """Say what is awaited, unless that was said shortly before."""
        now = time.monotonic()
        if now >= self._next_note and self.left:
            notes.warning("waiting for %s, at most %.0f s more", what, self.left)
            self._next_note = now + NEXT_NOTE

    def pause(self, what: str) -> bool:
        """Wait for a moment, a longer one each time, and return True; or return False if it has been too long."""
        self.note(what)
        if not self.left:
            return False
        time.sleep(min(self._pause, self.left))
        self._pause = min(2 * self._pause, 1.0)
        return True
