"""The sidecar file: a shard's table, small, exact, and never believed when it does not fit."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import StaleTableError
from shardtools.shards import sidecar as sidecars
from shardtools.shards.reader import read_blocks
from shardtools.shards.scan import scan
from shardtools.shards.sidecar import Sidecar, dump, narrow, parse, read_sidecar, sidecar_url
from shardtools.shards.table import ShardTable
from tests import tars
from tests.tars import Shard

RECORDS: list[dict[str, object]] = [
    {"key": f"d.x/{i:03d}", "jpg": bytes([i]) * (i * 37), **({"cls": i} if i % 3 else {"seg.png": b"s"})}
    for i in range(120)
]


def columns(table: ShardTable) -> list[object]:
    numbers = (table.start, table.stop, table.first, table.field, table.offset, table.size)
    return [table.keys.decode(), table.fields, table.other, *(column.tolist() for column in numbers)]


def of_table(table: ShardTable) -> Sidecar:
    return Sidecar(0, "", table, np.empty((0, 2), np.int64), {})


def stored(data: bytes) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """Return the columns of a sidecar file."""
    with np.load(io.BytesIO(data)) as arrays:
        return {name: arrays[name] for name in arrays.files if name not in ("meta", "entries")}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.zst"])
def test_the_table_is_the_one_that_reading_finds(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written = tars.write(path, RECORDS)
    table = ShardTable.join([block.table for block in read_blocks(str(path), block_size=20_000)])
    assert columns(written.table) == columns(table)
    loaded = read_sidecar(str(path), path.stat().st_size)
    assert loaded is not None and len(loaded) == len(RECORDS)
    assert columns(loaded.table) == columns(table)
    assert (loaded.filesize, loaded.checksum, loaded.job) == (written.filesize, written.checksum, {"name": "test"})
    assert loaded.entries.tolist() == written.entries.tolist()


@settings(max_examples=100, deadline=None)
@given(tars.shards())
def test_a_sidecar_holds_the_table_of_any_shard(shard: Shard) -> None:
    """Those of others, too, with gaps between samples and inside them."""
    table = scan(np.frombuffer(shard.data, np.uint8)).table
    loaded = parse(dump(of_table(table)), "u.tar")
    assert columns(loaded.table) == columns(table)
    assert all((column >= 0).all() for column in stored(dump(of_table(table))).values())


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.zst"])
def test_size_and_checksums_are_those_of_the_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written = tars.write(path, RECORDS)
    data = path.read_bytes()
    assert (written.filesize, written.checksum) == (len(data), f"crc32:{zlib.crc32(data):08x}")
    values = [fields[name] for _, fields in tars.read(path) for name in sorted(fields)]
    assert written.table.crc32 is not None
    assert written.table.crc32.tolist() == [zlib.crc32(value) for value in values]


def test_fields_are_counted() -> None:
    table = scan(np.frombuffer(tars.make_tar(tars.files(a_x=b"", a_y=b"", b_x=b"", c_z=b"")), np.uint8)).table
    assert of_table(table).table.count_fields() == {"x": 2, "y": 1, "z": 1}


def test_numpy_opens_the_file_without_pickle(tmp_path: Path) -> None:
    tars.write(tmp_path / "a.tgz", RECORDS)
    with np.load(tmp_path / "a.tgz.index.npz", allow_pickle=False) as arrays:
        loaded = {name: arrays[name] for name in arrays.files}
    assert sorted(loaded) == sorted(
        ["key_data", "key_length", "members", "lead", "head", "size", "field", "crc32", "entries", "meta"]
    )
    meta = json.loads(loaded["meta"].tobytes())
    assert meta["version"] == 1 and meta["fields"] == ["jpg", "seg.png", "cls"]
    assert loaded["key_data"].tobytes().startswith(b"d.x/000d.x/001")
    assert loaded["members"].tolist() == [2] * len(RECORDS)


def test_columns_are_as_narrow_as_their_numbers(tmp_path: Path) -> None:
    written = tars.write(tmp_path / "a.tar", RECORDS)
    columns = stored((tmp_path / "a.tar.index.npz").read_bytes())
    types = {name: str(column.dtype) for name, column in columns.items()}
    assert types == {
        "key_data": "uint8",
        "key_length": "uint8",
        "members": "uint8",
        "lead": "uint8",
        "head": "uint16",
        "size": "uint16",
        "field": "uint8",
        "crc32": "uint32",
    }
    assert written.table.offset.dtype == np.int64, "sums need more room than their parts"


def test_the_file_is_small(tmp_path: Path) -> None:
    made = [{"key": f"{i:08d}", "jpg": b"x" * (i % 300), "cls": i % 10} for i in range(5000)]
    tars.write(tmp_path / "a.tar", made)
    assert (tmp_path / "a.tar.index.npz").stat().st_size < 20 * len(made), "of 35 without compression"


@given(st.lists(st.integers(0, (1 << 63) - 1), max_size=10))
def test_narrow_keeps_the_numbers(numbers: list[int]) -> None:
    column = narrow(np.array(numbers, np.int64))
    assert column.tolist() == numbers
    assert column.dtype == np.min_scalar_type(max(numbers, default=0))


def test_members_of_more_than_4_gib(tmp_path: Path) -> None:
    table = scan(np.frombuffer(tars.make_tar(tars.files(a_x=b"", b_x=b"")), np.uint8)).table
    huge = replace(table, size=table.size + (5 << 30), stop=table.stop + (5 << 30))
    huge = replace(
        huge,
        offset=huge.offset + np.array([0, 5 << 30]),
        start=huge.start + np.array([0, 5 << 30]),
        stop=huge.stop + np.array([0, 5 << 30]),
    )
    data = dump(of_table(huge))
    assert stored(data)["size"].dtype == np.uint64
    assert columns(parse(data, "a.tar").table) == columns(huge)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_an_empty_shard(tmp_path: Path, name: str) -> None:
    written = tars.write(tmp_path / name, [])
    loaded = read_sidecar(str(tmp_path / name), written.filesize)
    assert loaded is not None
    table = loaded.table
    assert (len(loaded), len(table), table.first.tolist(), table.keys.decode()) == (0, 0, [0], [])
    assert loaded.table.count_fields() == {} and loaded.entries.shape == (0, 2)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    tars.write(tmp_path / "a.tar", [{"key": "\udcff/é", "\udcfe": b"1"}])
    loaded = parse((tmp_path / "a.tar.index.npz").read_bytes(), "a.tar")
    assert loaded.table.fields == ("\udcfe",) and loaded.table.keys.decode() == ["\udcff/é"]


def test_the_same_shard_has_the_same_sidecar(tmp_path: Path) -> None:
    for name in ("a.tgz", "b.tgz"):
        tars.write(tmp_path / name, RECORDS)
    assert (tmp_path / "a.tgz.index.npz").read_bytes() == (tmp_path / "b.tgz.index.npz").read_bytes()


def test_the_format_does_not_change(tmp_path: Path) -> None:
    """Bytes that a released version wrote must stay readable, and those of its arrays the same.

    (Not those of the file: what deflate makes of them is up to the zlib that Python was built with.)
    """
    written = tars.write(tmp_path / "a.tar", RECORDS[:5])
    assert digest_of_arrays((tmp_path / "a.tar.index.npz").read_bytes()) == GOLDEN
    before = dump(replace(written, packing=None))
    assert digest_of_arrays(before) == GOLDEN_BEFORE_PACKING
    assert parse(before, "a.tar").packing is None


def digest_of_arrays(data: bytes) -> str:
    digest = hashlib.sha256()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            digest.update(info.filename.encode() + archive.read(info))
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
    return digest.hexdigest()


GOLDEN = "3177b5015eeec2b1a0f7e4db1fd8c9faa3ca78583dab811e972d62600ea0a67c"
GOLDEN_BEFORE_PACKING = "2638b62ad226e493b753af028d8ceb9e45236acab79c0895a1b5bab3e7f63c43"


# What is not believed.


def test_no_sidecar(tmp_path: Path) -> None:
    assert read_sidecar(str(tmp_path / "a.tar"), 10240) is None


def test_a_sidecar_of_another_shard_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    written = tars.write(path, RECORDS)
    assert read_sidecar(str(path), written.filesize + 1) is None
    assert read_sidecar(str(path), 0) is None
    assert read_sidecar(str(path), written.filesize) is not None
    assert read_sidecar(str(path), None) is not None, "where storage does not tell the size, there is no telling"


def test_another_version_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tar"
    with monkeypatch.context() as patched:
        patched.setattr(sidecars, "VERSION", 2)
        written = tars.write(path, RECORDS)
    assert read_sidecar(str(path), written.filesize) is None
    with pytest.raises(StaleTableError) as caught:
        parse((tmp_path / "a.tar.index.npz").read_bytes(), str(path))
    assert str(caught.value) == f"{path}.index.npz: the sidecar has format 2, not 1; delete it"


def saved(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


META = {"version": 1, "filesize": 1, "checksum": "crc32:0", "fields": [], "other": 0, "job": {}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"<html>404</html>",
        npy(),
        saved(meta=np.arange(3)),
        saved(entries=np.empty((0, 2))),
        saved(meta=np.frombuffer(b"[1]", np.uint8), entries=np.empty((0, 2))),
        saved(meta=np.frombuffer(json.dumps(META).encode(), np.uint8)),
        saved(meta=np.frombuffer(json.dumps(META).encode(), np.uint8), entries=np.empty((0, 2))),
        saved(meta=np.array([object()]), entries=np.empty((0, 2))),
    ],
)
def test_a_file_that_is_no_sidecar_is_ignored(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    (tmp_path / "a.tar.index.npz").write_bytes(data)
    assert read_sidecar(str(path), 1) is None
    with pytest.raises(StaleTableError, match="delete it"):
        parse(data, str(path))


def test_a_damaged_sidecar_is_ignored_or_harmless(tmp_path: Path) -> None:
    """No byte of it can make reading fail with anything but the one error that is expected."""
    path = tmp_path / "a.tar"
    written = tars.write(path, RECORDS[:10])
    good = (tmp_path / "a.tar.index.npz").read_bytes()
    noise = random.Random(5)
    damaged = 0
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 1 << noise.randrange(8)
        try:
            loaded = parse(bytes(data), str(path))
        except StaleTableError:
            damaged += 1
        else:
            assert columns(loaded.table) == columns(written.table)
            assert (loaded.filesize, loaded.checksum) == (written.filesize, written.checksum)
    for cut in range(0, len(good), 7):
        with pytest.raises(StaleTableError):
            parse(good[:cut], str(path))
    assert damaged > len(good) // 2


def test_the_sidecar_stands_beside_its_shard() -> None:
    assert sidecar_url("http://host/a.tgz?sig=1") == "http://host/a.tgz.index.npz?sig=1"
