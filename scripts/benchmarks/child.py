"""One measurement in a process of its own: prepare, start the clock, work, stop the clock, clean up.

    python -m benchmarks.child MODULE:FUNCTION ARGUMENTS-AS-JSON

The last line of standard output is the result as JSON. Imports and preparation are outside the clock.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import re
import sys
import time
from pathlib import Path

from benchmarks.model import Done


def main() -> None:
    reset_peak()
    call, arguments = sys.argv[1], json.loads(sys.argv[2])
    module, _, name = call.partition(":")
    try:
        with getattr(importlib.import_module(module), name)(**arguments) as work:
            gc.collect()
            start = time.perf_counter()
            done = work()
            seconds = time.perf_counter() - start
            peak = read_peak()
    except ImportError as error:
        result: dict[str, object] = {"missing": error.name or str(error)}
    else:
        result = {"seconds": seconds, "peak": peak, **vars(done if isinstance(done, Done) else Done(done))}
    print("\n" + json.dumps(result))


def reset_peak() -> None:
    """Start the peak anew. Otherwise it begins with that of the parent, which Linux hands down through exec."""
    with contextlib.suppress(OSError):  # a sandbox without this file: the peak is at least that of the small parent
        Path("/proc/self/clear_refs").write_text("5")


def read_peak() -> int:
    """Return the peak of this process's resident memory in bytes, pages shared with files included."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError("no VmHWM in /proc/self/status; the benchmark runs on Linux")
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
