"""A stranger's sidecar: what cannot be true of its shard is not used, whatever it is."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import shardtools as st
from shardtools.errors import LimitError, StaleTableError
from shardtools.limits import Limits
from shardtools.shards.sidecar import parse, read_sidecar
from shardtools.storage import StorageOptions, using
from tests.cli.command import call
from tests.datasets import written_dataset
from tests.hostile.child import peak_of
from tests.hostile.sidecar_files import (
    COLUMNS,
    FAULTS,
    PACKED_FAULTS,
    load,
    npy_head,
    save,
    with_raw_column,
)

choose = random.Random(1)
ROWS: list[dict[str, object]] = [
    {"key": f"a/{i:02d}", "bin": choose.randbytes(90_000 if i % 2 == 0 else 99), "txt": f"no {i}"} for i in range(30)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("sidecars")
    for ending in ("tar", "tgz"):
        written_dataset(path, f"x-@1.{ending}", [ROWS])
        (path / f"x-@1.{ending}.json").unlink()
    return path


def check_ignored(shard: Path, data: bytes) -> None:
    """Make sure that a sidecar is refused, and that the shard is read all the same."""
    sidecar = shard.with_name(shard.name + ".index.npz")
    good = sidecar.read_bytes()
    try:
        sidecar.write_bytes(data)
        with pytest.raises(StaleTableError, match=r"index\.npz: the sidecar .*; delete it"):
            parse(data, str(shard))
        ds = st.open(str(shard))
        assert [(record["key"], record["txt"].decode()) for record in ds[:]] == [(r["key"], r["txt"]) for r in ROWS]
        assert ds.fields == ("bin", "txt")
    finally:
        sidecar.write_bytes(good)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_that_cannot_be_true_is_not_used(folder: Path, fault: str) -> None:
    shard = folder / "x-0.tar"
    columns, meta = load((folder / "x-0.tar.index.npz").read_bytes())
    FAULTS[fault](columns, meta)
    check_ignored(shard, save(columns, meta))


@pytest.mark.parametrize("fault", PACKED_FAULTS)
def test_nor_are_wrong_entry_points(folder: Path, fault: str) -> None:
    shard = folder / "x-0.tgz"
    columns, meta = load((folder / "x-0.tgz.index.npz").read_bytes())
    assert len(columns["entries"]) > 2
    PACKED_FAULTS[fault](columns, meta)
    check_ignored(shard, save(columns, meta))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b"null", b"{", b"\xff", b"[" * 100_000, b'{"version": ' + b"9" * 100_000 + b"}"],
    ids=["empty", "list", "object", "null", "open", "bytes", "nested", "digits"],
)
def test_nor_is_one_whose_meta_is_none(folder: Path, text: bytes) -> None:
    columns, _ = load((folder / "x-0.tar.index.npz").read_bytes())
    check_ignored(folder / "x-0.tar", save(columns, text))


@pytest.mark.parametrize("name", [*COLUMNS, "entries", "meta"])
@pytest.mark.parametrize(
    ("descr", "shape"),
    [("|S0", "(1000000000000,)"), ("<U0", "(1000000000000,)"), ("|V0", "(9,)"), ("|u1", "(4611686018427387904,)")],
)
def test_nor_is_one_that_claims_more_than_it_has(folder: Path, name: str, descr: str, shape: str) -> None:
    data = (folder / "x-0.tar.index.npz").read_bytes()
    check_ignored(folder / "x-0.tar", with_raw_column(data, name, npy_head(descr, shape)))


def bomb(folder: Path, megabytes: int) -> bytes:
    """Return a small sidecar with a column of so many megabytes."""
    data = (folder / "x-0.tar.index.npz").read_bytes()
    return with_raw_column(data, "lead", npy_head("|u1", f"({megabytes << 20},)"), megabytes)


def test_one_that_unpacks_to_more_than_a_sidecar_may_is_an_error(folder: Path) -> None:
    data = bomb(folder, 40)
    assert len(data) < 1 << 20
    sidecar = folder / "y-0.tar.index.npz"
    sidecar.write_bytes(data)
    too_large = r"y-0\.tar\.index\.npz: its sidecar has more than 268,435,456 bytes.*--max sidecar=SIZE"
    with pytest.raises(LimitError, match=too_large):
        read_sidecar(str(folder / "y-0.tar"), None)
    raised = StorageOptions(limits=Limits(sidecar=1 << 30))
    with using(raised):
        assert read_sidecar(str(folder / "y-0.tar"), None) is None, "it may be as large as that, and is still wrong"
    with using(StorageOptions(limits=Limits(sidecar=100))), pytest.raises(LimitError, match="more than 100 bytes"):
        read_sidecar(str(folder / "x-0.tar"), None)


def test_it_costs_no_memory_before_it_is_refused(folder: Path) -> None:
    (folder / "z-0.tar").write_bytes((folder / "x-0.tar").read_bytes())
    (folder / "z-0.tar.index.npz").write_bytes(bomb(folder, 1000))
    script = """
        import shardtools as st
        from shardtools.errors import LimitError
        try:
            len(st.open("z-0.tar"))
        except LimitError as error:
            print(error)
    """
    out, peak = peak_of(script, folder)
    assert "its sidecar has more than" in out and peak < 300 << 20


def test_its_names_do_not_lead_out_of_a_folder(folder: Path, tmp_path: Path) -> None:
    """A field's name with slashes would be written anywhere."""
    columns, meta = load((folder / "x-0.tar.index.npz").read_bytes())
    meta["fields"] = ["bin/../../evil", "txt"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes((folder / "x-0.tar").read_bytes())
    (tmp_path / "in" / "x.tar.index.npz").write_bytes(save(columns, meta))
    done = call("in/x.tar", "--sample", "a/01", "--to", "out", cwd=tmp_path, program="htextract")
    assert done.status == 0, done.err
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == ["01.bin", "01.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_meta_of_another_version_is_named(folder: Path) -> None:
    columns, meta = load((folder / "x-0.tar.index.npz").read_bytes())
    with pytest.raises(StaleTableError, match="the sidecar has format 2, not 1"):
        parse(save(columns, {**meta, "version": 2}), "u")
    assert json.loads(json.dumps(meta))["version"] == 1


def test_a_right_one_is_used(folder: Path) -> None:
    """Else the tests above could not fail."""
    for ending in ("tar", "tgz"):
        columns, meta = load((folder / f"x-0.{ending}.index.npz").read_bytes())
        assert len(parse(save(columns, meta), "u")) == len(ROWS)
