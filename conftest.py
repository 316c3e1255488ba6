"""What the examples in the docstrings of ``shardtools.programs`` find in their folder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def examples_folder(request: pytest.FixtureRequest) -> None:
    """Let an example run in a folder with ``texts/``, which is uploaded as ``train-@2.tar``."""
    if not (isinstance(request.node, pytest.DoctestItem) and request.node.name.startswith("shardtools.programs")):
        return
    import shardtools as st

    folder = request.getfixturevalue("tmp_path")
    request.getfixturevalue("monkeypatch").chdir(folder)
    (folder / "texts").mkdir()
    for i, word in enumerate(("ape", "bee", "cat", "dog")):
        (folder / "texts" / f"{word}.txt").write_text(f"a {word}")
        (folder / "texts" / f"{word}.cls").write_text(str(i % 2))
    st.upload("texts", "train-@2.tar")
