"""The sidecar files of this version are those of the ones before: ``sidecars`` holds what an earlier one wrote."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardtools.shards.foreign import dali
from shardtools.shards.foreign.energon import EnergonIndex
from shardtools.shards.foreign.read import read_foreign
from shardtools.shards.indexing import index_shard, quick_index
from shardtools.shards.scan import scan
from shardtools.shards.sidecar import Sidecar, dump, parse, read_sidecar
from tests import tars
from tests.cli.command import call
from tests.datasets import written_dataset

STORED = Path(__file__).with_name("sidecars")

RECORDS: list[dict[str, object]] = [
    {"key": f"d.x/{i:03d}", "jpg": bytes([i]) * (i * 37), **({"cls": i} if i % 3 else {"seg.png": b"s"})}
    for i in range(120)
]
UNICODE: list[dict[str, object]] = [
    {"key": "ключ/é", "txt": "ж"},
    {"key": "\udcff/é", "\udcfe": b"1", "txt": "2"},
    {"key": "p" * 150 + "/long", "txt": "a name that needs a pax header"},
]


def of_records(name: str, made: list[dict[str, object]]) -> Callable[[Path], Sidecar]:
    return lambda folder: tars.write(folder / name, made)


def other_programs_tar(folder: Path) -> str:
    """Write a tar file that has folders and odd members between, before and inside samples."""
    made = [
        tars.Member("d/", kind=tarfile.DIRTYPE),
        tars.Member("README", b"hello" * 300),
        *(tars.Member(f"d/{i:03d}.{name}", bytes(i * 7)) for i in range(20) for name in ("jpg", "cls")),
        tars.Member("d/020.jpg", b"x"),
        tars.Member("__meta__", b"{}"),
        tars.Member("d/020.cls", b"y" * 600),
        tars.Member("LICENSE", b""),
        tars.Member("é" * 70 + ".txt", b"z"),
    ]
    (folder / "other.tar").write_bytes(tars.make_tar(made, tarfile.GNU_FORMAT))
    return str(folder / "other.tar")


def of_dali(folder: Path) -> Sidecar:
    url = other_programs_tar(folder)
    table = scan(np.fromfile(url, np.uint8)).table
    Path(dali.index_url(url)).write_bytes(dali.dump_index(table, url))
    found = read_foreign(url, Path(url).stat().st_size, EnergonIndex([url]))
    assert found is not None
    return found


def of_exchange(program: str, *options: str) -> Callable[[Path], Sidecar]:
    def make(folder: Path) -> Sidecar:
        written_dataset(folder, "in-@2.tar", [RECORDS[:60], RECORDS[60:]])
        outcome = call(*options, "in-@2.tar", "out-@1.tar", cwd=folder, program=program)
        assert outcome.status == 0, outcome.err
        found = read_sidecar(str(folder / "out-0.tar"), None)
        assert found is not None
        return found

    return make


MAKERS: dict[str, Callable[[Path], Sidecar]] = {
    "plain": of_records("a.tar", RECORDS),
    "gzip": of_records("a.tgz", RECORDS),
    "zstd": of_records("a.tar.zst", RECORDS),
    "empty": of_records("a.tar", []),
    "unicode": of_records("a.tar", UNICODE),
    "indexed": lambda folder: index_shard(other_programs_tar(folder)),
    "indexed_quickly": lambda folder: quick_index(other_programs_tar(folder)),
    "foreign": of_dali,
    "shuffled": of_exchange("htshuffle", "--seed", "1"),
    "sorted": of_exchange("htsort", "--reverse"),
}

PACKED = ("gzip", "zstd")
"""Their file sizes, checksums and entry points depend on the version of the compressor."""


def arrays_of(data: bytes) -> dict[str, bytes]:
    """Return the arrays of a sidecar file as their npy files; deflate's bytes depend on the version of zlib."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in archive.infolist())
        return {info.filename: archive.read(info) for info in archive.infolist()}


def meta_of(arrays: dict[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(np.load(io.BytesIO(arrays.pop("meta.npy"))).tobytes())
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_shard_gets_the_same_sidecar(name: str, tmp_path: Path) -> None:
    made, stored = arrays_of(dump(MAKERS[name](tmp_path))), arrays_of((STORED / f"{name}.npz").read_bytes())
    assert list(made) == list(stored)
    ours, theirs = meta_of(made), meta_of(stored)
    for meta in (ours, theirs):
        meta["job"] = sorted(meta["job"])  # fingerprints depend on the inputs' times
    if name in PACKED:
        for meta, arrays in ((ours, made), (theirs, stored)):
            del meta["filesize"], meta["checksum"], arrays["entries.npy"]
    assert (ours, made) == (theirs, stored)


@pytest.mark.parametrize("name", MAKERS)
def test_a_stored_sidecar_is_written_as_it_was(name: str) -> None:
    data = (STORED / f"{name}.npz").read_bytes()
    assert arrays_of(dump(parse(data, "u.tar"))) == arrays_of(data)
