"""A byte of a shard changes after its table was made: nobody gets other data without an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardtools as st
from shardtools.errors import CorruptError, ShardtoolsError
from tests.cli.command import call, check_failure
from tests.datasets import written_dataset
from tests.servers import NginxServer

BAD = 17
"""The sample whose field ``bin`` is another one afterwards."""

ROWS = 40
MARK = b"this is the byte: x"


@pytest.fixture(params=["local", "http"])
def place(request: pytest.FixtureRequest, nginx: NginxServer) -> Iterator[tuple[Path, str]]:
    """A folder, and what its URL begins with."""
    yield nginx.root, nginx.url if request.param == "http" else f"{nginx.root}/"


def damaged(folder: Path, size: int, ending: str = "tar") -> str:
    """Write a dataset of one shard, flip a byte of it, and return the shard's name."""
    rows = [{"key": f"{i:03d}", "bin": (b"%03d" % i) * (size // 3), "cls": i} for i in range(ROWS)]
    rows[BAD]["bin"] = MARK + bytes(rows[BAD]["bin"])  # type: ignore[call-overload]
    written_dataset(folder, f"x-@1.{ending}", [rows])
    path = folder / f"x-0.{ending}"
    data = path.read_bytes()
    assert data.count(MARK) == 1
    path.write_bytes(data.replace(MARK, MARK[:-1] + b"y"))
    return path.name


WAYS: dict[str, Callable[[st.Dataset], Any]] = {  # type: ignore[name-defined]
    "one": lambda ds: ds[BAD],
    "key": lambda ds: ds[f"{BAD:03d}"],
    "slice": lambda ds: ds[BAD - 3 : BAD + 3],
    "list": lambda ds: ds[[BAD, 3]],
    "view": lambda ds: ds.view("bin", decode=None)[BAD],
    "view slice": lambda ds: np.asarray(ds.view("bin", decode=None)[10:30]),
}


@pytest.mark.parametrize("size", [90, 30_000])
@pytest.mark.parametrize("way", WAYS)
def test_a_dataset_hands_out_no_other_bytes(place: tuple[Path, str], size: int, way: str) -> None:
    folder, prefix = place
    ds = st.open(prefix + damaged(folder, size))
    with pytest.raises(CorruptError, match=rf"x-0\.tar \[{BAD:03d}\.bin\]: its checksum is not the one in the sidecar"):
        WAYS[way](ds)
    assert ds[BAD - 1]["cls"] == str(BAD - 1).encode()


@pytest.mark.parametrize("size", [90, 30_000])
def test_the_command_line_shows_no_other_bytes(place: tuple[Path, str], size: int) -> None:
    folder, prefix = place
    name = damaged(folder, size)
    for arguments in (["--at", str(BAD), "-f", "bin"], ["--sample", f"{BAD:03d}", "-f", "bin"]):
        message = check_failure(prefix + name, *arguments, cwd=folder, program="htextract")
        assert f"[{BAD:03d}.bin]: its checksum is not the one in the sidecar" in message
    shutil.rmtree(folder / "out", ignore_errors=True)
    assert call(prefix + name, "--at", "3", "-f", "cls", cwd=folder, program="htextract").out.strip() == "3"


@pytest.mark.parametrize("size", [90, 30_000])
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_training_gets_no_other_bytes(place: tuple[Path, str], size: int, on_error: str) -> None:
    """Small samples are read together, large ones of local files when their batch is made."""
    pytest.importorskip("torch")
    from shardtools.torch import ShardIterable

    folder, prefix = place
    fields = ("__key__", "bin")
    train = ShardIterable(
        prefix + damaged(folder, size), fields=fields, decode=False, batch_size=8, uneven="uneven", on_error=on_error
    )
    if on_error == "fail":
        with pytest.raises(ShardtoolsError, match=rf"\[{BAD:03d}.*\]: its checksum is not the one in the sidecar"):
            list(train)
        return
    keys = [key for keys, _ in train for key in keys]
    assert keys == [f"{i:03d}" for i in range(ROWS) if i != BAD]


@pytest.mark.parametrize("ending", ["tar", "tgz"])
@pytest.mark.parametrize("program", ["htmapper", "htshuffle", "htsort", "iteration"])
def test_nothing_is_made_of_it(nginx: NginxServer, program: str, ending: str) -> None:
    """Of local shards, too: what is made of other bytes would get a sidecar that is right."""
    folder = nginx.root
    rows: list[dict[str, object]] = [{"key": f"{i:03d}", "bin": b"%03d" % i * 30} for i in range(ROWS)]
    written_dataset(folder, f"x-@1.{ending}", [rows])
    path = folder / f"x-0.{ending}"
    data = bytearray(path.read_bytes())
    data[-20 if ending == "tgz" else 600] ^= 1
    path.write_bytes(data)
    if program == "iteration":
        with pytest.raises(ShardtoolsError, match="x-0"):
            list(st.open(f"{folder}/x-@1.{ending}"))
        return
    (folder / "same.py").write_text("def process_sample(record):\n    return record\n")
    script = ["-p", "same.py"] if program == "htmapper" else []
    done = call(*script, f"x-@1.{ending}", f"out-@1.{ending}", cwd=folder, program=program)
    assert done.status == 1 and f"x-0.{ending}" in done.err, done
    assert not (folder / f"out-0.{ending}").exists()


@pytest.mark.parametrize("field", ["cls", "txt"])
@pytest.mark.parametrize("way", ["table", "where"])
def test_no_column_has_another_value(tmp_path: Path, field: str, way: str) -> None:
    rows = [{"key": f"{i:03d}", "txt": f"text {i:03d}", "cls": 100 + i} for i in range(ROWS)]
    written_dataset(tmp_path, "x-@1.tar", [rows])
    path, mark = tmp_path / "x-0.tar", (f"text {BAD:03d}" if field == "txt" else str(100 + BAD)).encode()
    data = path.read_bytes()
    assert data.count(mark) == 1
    path.write_bytes(data.replace(mark, mark[:-1] + b"9"))
    says = rf"x-0\.tar \[{BAD:03d}\.{field}\]: its checksum is not the one in the sidecar"
    with pytest.raises(CorruptError, match=says):
        if way == "table":
            st.index(tmp_path / "x-@1.tar", table=True)
        else:
            len(st.open(tmp_path / "x-@1.tar").where(f"{field} is not null"))
