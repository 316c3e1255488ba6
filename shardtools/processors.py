"""The number of processors that this process may use, on any operating system."""

from __future__ import annotations

import os


def processors() -> int:
    """Return the number of processors that this process may run on, at least 1.

    If the operating system does not say (macOS), it is the number of all processors.

    >>> processors() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
