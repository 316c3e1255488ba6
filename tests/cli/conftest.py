"""Fixtures of the command tests."""

from __future__ import annotations

from pathlib import Path

import pytest

IDENTITY = "def process_sample(record):\n    return record\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script ``same.py`` that changes nothing."""
    (tmp_path / "same.py").write_text(IDENTITY)
    return tmp_path
