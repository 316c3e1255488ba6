"""GNU tar over the same files. Nothing of shardtools is used here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.model import Work


@contextmanager
def tar_folder(root: str, folder: str, extension: str) -> Iterator[Work]:
    """tar cf, or tar czf for a packed archive."""
    files = sum(1 for path in Path(root, folder).rglob("*") if path.is_file())
    command = ["tar", "czf" if extension == ".tgz" else "cf", os.path.join(root, "output", f"all{extension}"), folder]

    def work() -> int:
        subprocess.run(command, cwd=root, check=True)
        return files

    yield work
