"""htarray as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

import shardtools as st
from tests.cli.command import Argument, Outcome, call, run
from tests.datasets import write_shard


def htarray(folder: Path, *arguments: Argument) -> list[str]:
    """Run the command, which succeeds, and return what it says."""
    outcome = call(*arguments, cwd=folder, program="htarray")
    assert (outcome.status, outcome.err) == (0, ""), outcome
    return outcome.out.splitlines()


def failing(folder: Path, *arguments: Argument, status: int = 1) -> str:
    outcome = call(*arguments, cwd=folder, program="htarray")
    verbose = call(arguments[0], "-v", *arguments[1:], cwd=folder, program="htarray")
    message = outcome.error(status)
    assert verbose.err.splitlines()[-1] == f"htarray: error: {message}" and "Traceback (most" in verbose.err
    return message


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the place ``hub``, of three commits."""
    hub = st.hub(str(tmp_path / "hub"))
    x = hub.array("g/x", shape=(4, 6), chunks=(2, 3), dtype="int32", dimension_names=["day", None])
    x[:2] = np.arange(12).reshape(2, 6)
    x.set_attrs({"unit": "m"})
    return tmp_path


def test_looking(place: Path) -> None:
    assert htarray(place, "ls", "hub") == ["g/x  int32  4x6"]
    about = dict(line.split("  ", 1) for line in htarray(place, "info", "hub", "g/x@2"))
    assert {name: text.strip() for name, text in about.items()} == {
        "array": "g/x",
        "version": "main@2",
        "shape": "(4, 6)",
        "dtype": "int32",
        "chunks": "(2, 3)",
        "fill value": "0",
        "written": "2 chunks",
        "bytes as stored": about["bytes as stored"].strip(),
        "bytes in memory": "96 B",
        "dimensions": "day, None",
        "attribute unit": "'m'",
    }
    assert [line.split()[0] for line in htarray(place, "info", "hub")] == [
        "place",
        "branches",
        "tags",
        "newest",
        "arrays",
    ]
    commits = htarray(place, "log", "hub", "-n", "2")
    assert [(line.split()[0], line.split("  ")[2]) for line in commits] == [
        ("main@2", "set attributes of g/x"),
        ("main@1", "write g/x"),
    ]


def test_versions(place: Path) -> None:
    assert htarray(place, "tag", "hub", "v0", "@0", "-m", "empty") == ["v0 is main@0"]
    assert htarray(place, "tag", "hub", "v1", "-q") == []
    assert htarray(place, "tag", "hub") == ["v0", "v1"]
    assert htarray(place, "branch", "hub", "try", "v1") == ["try begins at v1"]
    assert htarray(place, "branch", "hub") == ["main", "try"]
    assert htarray(place, "diff", "hub", "v0") == ["~ g/x", "  g/x: 2 chunks"]
    assert htarray(place, "diff", "hub", "v1", "try") == ["no difference"]
    assert "stays" in failing(place, "compact", "hub", "v1", status=2)
    assert "there is a tag v1 already" in failing(place, "tag", "hub", "v1")
    assert "there is no version v9; there is main, try, v0, v1" in failing(place, "ls", "hub", "v9")


def test_upkeep(place: Path) -> None:
    assert htarray(place, "verify", "hub")[0].endswith(": all right")
    [compacted] = htarray(place, "compact", "hub")
    assert compacted.startswith("5 members in 1 shard, ")
    assert htarray(place, "compact", "hub") == ["there is nothing to compact"]
    assert htarray(place, "expire", "hub", "--older-than", "1d") == ["main can be read from @0 on"]
    assert htarray(place, "expire", "hub", "--keep", "2") == ["main can be read from @2 on"]
    assert "has expired" in failing(place, "info", "hub", "g/x@1")
    assert "nothing says which commits expire" in failing(place, "expire", "hub", status=2)
    assert htarray(place, "gc", "hub")[0].startswith("0 folders deleted (0 objects)")
    assert "soon is not an age" in failing(place, "expire", "hub", "--older-than", "soon", status=2)
    [shard] = (place / "hub" / "data").glob("*/chunks-0000.tar")
    shard.write_bytes(shard.read_bytes()[:-12000])
    outcome = run("verify", "hub", cwd=place, program="htarray")
    assert outcome.status == 1 and outcome.out.rstrip().endswith(" wrong")
    assert "[g/x/c/0/" in outcome.err and "Traceback" not in outcome.err


def test_to_and_from_other_programs(place: Path) -> None:
    values = st.hub(str(place / "hub")).load("g/x")[...]
    for target in ("x.npy", "x.zarr", "refs.json"):
        assert htarray(place, "export", "hub", "g/x", target)[0].startswith(f"{place}/{target}: 2 chunks, ")
    np.testing.assert_array_equal(np.load(place / "x.npy"), values)
    np.testing.assert_array_equal(zarr.open_array(place / "x.zarr", mode="r")[...], values)
    assert "c/0/0" in json.loads((place / "refs.json").read_text())["refs"]
    assert "it exists already" in failing(place, "export", "hub", "g/x", "x.npy")
    assert htarray(place, "export", "-q", "--overwrite", "hub", "g/x", "x.npy") == []
    assert htarray(place, "import", "x.npy", "other", "a/y")[0].startswith("1 array, ")
    assert htarray(place, "import", "x.zarr", "other", "z")[0].startswith("1 array, 2 chunks, ")
    assert htarray(place, "ls", "other") == ["a/y  int32  4x6", "z    int32  4x6"]
    np.testing.assert_array_equal(st.hub(str(place / "other")).load("a/y")[...], values)
    assert "there is a/y already" in failing(place, "import", "x.npy", "other", "a/y")
    assert "there is no Zarr array" in failing(place, "import", "nothing", "other")


def test_references_for_icechunk(place: Path) -> None:
    outcome = run("export", "hub", "g/x", "refs.icechunk", cwd=place, program="htarray")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == f"{place}/refs.icechunk: 2 chunks, 0 B written\n"


def test_a_field_of_samples(place: Path) -> None:
    Image.fromarray(np.full((9, 7, 3), 5, np.uint8)).save(place / "a.png")
    for shard in range(2):
        write_shard(place / f"in-{shard}.tar", [(f"{shard}{i}.png", (place / "a.png").read_bytes()) for i in range(3)])
    said = htarray(place, "import", "--field", "png", "--resize", "4x5", "in-@2.tar", "hub", "images")
    assert said == ["images: uint8 of shape (6, 4, 5, 3)"]
    assert (st.hub(str(place / "hub")).load("images")[...] == 5).all()
    line, before = ("import", "--field", "png", "in-@2.tar", "hub"), htarray(place, "ls", "hub")
    assert "--resize 4: not of the form HxW" in failing(place, *line, "i", "--resize", "4", status=2)
    assert "the array needs a name" in failing(place, *line, status=2)
    write_shard(place / "in-1.tar", [("10.png", b"no image")])
    assert "in-1.tar [10.png]: the bytes are not .png: not an image" in failing(place, *line, "j")
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(place / "a.png")
    write_shard(place / "in-1.tar", [("10.png", (place / "a.png").read_bytes())])
    assert "samples 0 and 3 have the shapes (9, 7, 3) and (9, 8, 3)" in failing(place, *line, "j")
    assert htarray(place, "ls", "hub") == before
    assert "--resize needs --field" in failing(place, "import", "--resize", "4x4", "x", "hub", "i", status=2)


def test_push_and_pull(place: Path) -> None:
    [pushed] = htarray(place, "push", "hub", "copy")
    assert pushed.startswith("3 commits, ")
    assert htarray(place, "pull", "hub", "copy")[0].startswith("0 commits, ")
    assert htarray(place, "ls", "copy") == htarray(place, "ls", "hub")


def test_bad_input(place: Path) -> None:
    assert "there are no arrays here; check the URL" in failing(place, "ls", "nowhere")
    assert "there is no array y in main; there is g/x" in failing(place, "info", "hub", "y")
    usage: Outcome = call("compress", "hub", cwd=place, program="htarray")
    assert usage.status == 2 and "No such command" in usage.err
    assert not (place / "nowhere").exists()
