"""Writing shards: every program reads them alike, and the same samples are always the same bytes."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import DuplicateKeyError, SampleError
from shardtools.shards.samples import Composer
from shardtools.shards.tar import END, RECORD
from shardtools.shards.writer import ShardWriter
from shardtools.storage import get_storage
from tests import tars
from tests.tars import BLOCK_SIZES

NAMES = ["a.tar", "a.tgz", "a.tar.gz", "a.tar.zst"]

RECORDS: list[dict[str, Any]] = [
    *({"key": f"d.x/{i:04d}", "jpg": random.Random(i).randbytes(i * 29), "cls": b"%d" % i} for i in range(300)),
    {"key": "p" * 99, "a": b"a name of 101 bytes that no slash divides"},
    {"key": "d" * 99 + "/" + "k" * 90, "seg.png": b"in the prefix of ustar"},
    {"key": "d/" * 200 + "k", "txt": b"in a pax header"},
    {"key": "ключ/é", "текст": b"not ASCII"},
    {"key": "ключ" * 20, "txt": b"not ASCII and long"},
    {"key": "\udcff/\udcfe", "txt": b"not UTF-8"},
    {"key": "\udcff" * 150, "txt": b"not UTF-8 and long"},
    {"key": "empty", "bin": b""},
    {"key": "sizes", **{str(size): b"x" * size for size in (1, 511, 512, 513, 1024)}},
    {"key": "zeros", "bin": bytes(5000)},
    {"key": "__x", "png": b"not metadata"},
    {"key": "a tar", "tar": tars.make_tar(tars.files(a_txt=b"inner"))},
]


def samples_of(made: list[dict[str, Any]]) -> tars.Samples:
    return [(record["key"], {name: record[name] for name in sorted(record) if name != "key"}) for record in made]


def members_of(made: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    return [(f"{key}.{field}", data) for key, fields in samples_of(made) for field, data in fields.items()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same samples in shards of every kind."""
    folder = tmp_path_factory.mktemp("shards")
    for name in NAMES:
        tars.write(folder / name, RECORDS)
    return folder


def plain(path: Path) -> bytes:
    """Return the tar file in a shard, by the program that made its format known."""
    if path.suffix == ".tar":
        return path.read_bytes()
    program = "zstd" if path.suffix == ".zst" else "gzip"
    return subprocess.run([program, "-dc", str(path)], capture_output=True, check=True).stdout


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_written_is_read(shards: Path, name: str, ahead: bool) -> None:
    assert tars.read(shards / name, ahead=ahead) == samples_of(RECORDS)
    assert tars.read(shards / name, block_size=4096, ahead=ahead) == samples_of(RECORDS)


@pytest.mark.parametrize("name", NAMES)
def test_tar_extracts_every_member(shards: Path, name: str, tmp_path: Path) -> None:
    command = ["tar", "-x", "-C", str(tmp_path), "--warning=no-timestamp"]
    subprocess.run(command, input=plain(shards / name), check=True)
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == dict(members_of(RECORDS))


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.gz", "a.tar.zst"])
def test_tar_itself_unpacks(shards: Path, name: str) -> None:
    # GNU tar does not know the pax record that says that a long name is not UTF-8, and needs not.
    command = ["tar", "tf", str(shards / name), "--warning=no-unknown-keyword"]
    listed = subprocess.run(command, capture_output=True, check=True)
    assert listed.stderr == b"" and len(listed.stdout.splitlines()) == len(members_of(RECORDS))


def contents(file: tarfile.TarFile) -> list[tuple[str, bytes]]:
    found = []
    for info in file:
        extracted = file.extractfile(info)
        assert extracted is not None
        found.append((info.name, extracted.read()))
    return found


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar", "r:"), ("a.tar", "r|"), ("a.tar", "r|*"), ("a.tgz", "r:gz"), ("a.tgz", "r|gz"), ("a.tar.gz", "r|*")],
)
def test_tarfile_reads_the_same(shards: Path, name: str, mode: Any) -> None:
    with tarfile.open(shards / name, mode) as file:
        assert contents(file) == members_of(RECORDS)


def test_tarfile_reads_what_zstd_unpacks(shards: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(plain(shards / "a.tar.zst")), mode="r|") as file:
        assert contents(file) == members_of(RECORDS)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_webdataset_reads_the_same(shards: Path, name: str) -> None:
    import webdataset

    found = [
        (sample["__key__"], {field: data for field, data in sample.items() if not field.startswith("__")})
        for sample in webdataset.WebDataset(str(shards / name), shardshuffle=False)
    ]
    assert found == samples_of(RECORDS)


def test_all_kinds_hold_the_same_tar(shards: Path) -> None:
    data = (shards / "a.tar").read_bytes()
    assert all(plain(shards / name) == data for name in NAMES)
    assert len(data) % RECORD == 0 and data.endswith(END)


def test_headers_are_plain(shards: Path) -> None:
    with tarfile.open(shards / "a.tar") as file:
        for info in file:
            assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
            assert (info.uname, info.gname, info.type) == ("", "", tarfile.REGTYPE)


# What the bytes depend on.


def test_the_same_samples_are_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    assert time.time() > 1e9, "the clock has no part in it"
    for name in NAMES:
        tars.write(tmp_path / name, [dict(reversed(record.items())) for record in RECORDS])
        assert (tmp_path / name).read_bytes() == (shards / name).read_bytes()


def test_the_format_does_not_change(tmp_path: Path) -> None:
    """What was written once can be made again, byte for byte, by any later version."""
    made = [{"key": "d/a", "txt": "hello", "cls": 7}, {"key": "p" * 120, "json": {"b": [1, None]}}]
    tars.write(tmp_path / "a.tar", made)
    assert hashlib.sha256((tmp_path / "a.tar").read_bytes()).hexdigest() == GOLDEN


GOLDEN = "4c2e9dfc37cec2c334cd23d846c0cce69b7bc1fdeef32e26cd80a492b863eb81"


def test_the_bytes_do_not_depend_on_when_they_are_flushed(tmp_path: Path, shards: Path) -> None:
    composer = Composer()
    for name in NAMES:
        path = str(tmp_path / name)
        with get_storage(path).create(path) as sink:
            writer = ShardWriter(sink, path)
            for record in RECORDS:
                writer.add(*composer.compose(record))
                writer.flush()
            writer.finish({})
        assert (tmp_path / name).read_bytes() == (shards / name).read_bytes()


_KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="./\0"), min_size=1, max_size=150)


@settings(max_examples=60, deadline=None)
@given(
    made=st.dictionaries(
        _KEYS, st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=700), min_size=1), max_size=6
    ),
    size=st.sampled_from(BLOCK_SIZES),
    name=st.sampled_from(NAMES),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, made: Any, size: int, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"round-{name}"
    records = [{"key": key, **fields} for key, fields in made.items()]
    try:
        sidecar = tars.write(path, records)
    except SampleError:  # __x__ and the like
        return
    assert tars.read(path, block_size=size) == samples_of(records)
    assert len(sidecar) == len(records) == len(sidecar.table)


# Keys that come twice.


class Parts:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Any, /) -> None:
        self.data += data

    def writelines(self, parts: Any, /) -> None:
        for part in parts:
            self.data += part


def test_a_second_sample_with_a_key_is_refused() -> None:
    writer, composer = ShardWriter(Parts(), "http://host/a.tar?sig=1"), Composer()
    for key in ("a", "b", "a"):
        writer.add(*composer.compose({"key": key, "txt": b"1"}))
    with pytest.raises(DuplicateKeyError) as caught:
        writer.finish({})
    assert str(caught.value) == (
        "http://host/a.tar [a]: two samples of the shard have this key; give each sample a key of its own"
    )


@pytest.mark.parametrize("flush_every", [1, 3, 100])
def test_a_second_sample_can_be_left_out(flush_every: int) -> None:
    told: list[str] = []
    sink = Parts()
    writer, composer = ShardWriter(sink, "a.tar", told.append), Composer()
    fields = (["x"], ["x", "y"], ["z"])
    for i, key in enumerate("abacbbda"):
        writer.add(*composer.compose({"key": key, **dict.fromkeys(fields[i % 3], b"%d" % i)}))
        if i % flush_every == 0:
            writer.flush()
    sidecar = writer.finish({})
    first = {"a": 0, "b": 1, "c": 3, "d": 6}
    wanted = [(key, dict.fromkeys(fields[i % 3], b"%d" % i)) for key, i in first.items()]
    assert tars.expected(bytes(sink.data)) == wanted
    assert sorted(told) == ["a", "a", "b", "b"]
    assert writer.count == len(sidecar) == 4
    assert sidecar.table.keys.decode() == ["a", "b", "c", "d"]


def test_samples_are_written_as_they_come() -> None:
    """A batch at a time: the writer never holds much of a shard."""
    sink = Parts()
    writer, composer = ShardWriter(sink, "a.tar"), Composer()
    for i in range(200):
        writer.add(*composer.compose({"key": str(i), "bin": bytes(100_000)}))
        assert i * 100_000 - len(sink.data) < 3 << 20
    assert writer.finish({}).filesize == len(sink.data)


def test_one_large_sample_is_one_piece() -> None:
    sink = Parts()
    writer = ShardWriter(sink, "a.tar")
    writer.add(*Composer().compose({"key": "a", "bin": bytes(20_000_000)}))
    assert len(sink.data) >= 20_000_000
    assert writer.finish({}).table.size.tolist() == [20_000_000]
