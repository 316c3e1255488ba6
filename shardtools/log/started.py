"""How long a write has been going on."""

from __future__ import annotations

import time


class Started:
    """A moment, and how many seconds have passed since then by the clock that says the most.

    The system's clock may be set, and the monotonic one may stand still while the machine sleeps.
    """

    def __init__(self) -> None:
        self._began = _clocks()

    def elapsed(self) -> float:
        """Return the seconds that have passed."""
        return max(now - then for now, then in zip(_clocks(), self._began, strict=True))


def _clocks() -> tuple[float, ...]:
    asleep_too = [time.clock_gettime(time.CLOCK_BOOTTIME)] if hasattr(time, "CLOCK_BOOTTIME") else []
    return (time.time(), time.monotonic(), *asleep_too)
