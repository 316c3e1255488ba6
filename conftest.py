"""What the examples in docstrings that read or write files find in their folder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def examples_folder(request: pytest.FixtureRequest) -> None:
    """Let examples run in a new folder; those of programs find ``texts/`` there, uploaded as ``train-@2.tar``."""
    name = request.node.name if isinstance(request.node, pytest.DoctestItem) else ""
    if not name.startswith(("shardtools.programs", "shardtools.arrays")):
        return
    folder = request.getfixturevalue("tmp_path")
    request.getfixturevalue("monkeypatch").chdir(folder)
    if name.startswith("shardtools.arrays"):
        return
    import shardtools as st

    (folder / "texts").mkdir()
    for i, word in enumerate(("ape", "bee", "cat", "dog")):
        (folder / "texts" / f"{word}.txt").write_text(f"a {word}")
        (folder / "texts" / f"{word}.cls").write_text(str(i % 2))
    st.upload("texts", "train-@2.tar")
