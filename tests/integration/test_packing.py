"""How a shard is packed is told by its bytes: a packed shard may be called ``.tar``, and a plain one ``.tgz``."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
import zstandard

import shardtools as st
from shardtools.shards.compression import Packing
from shardtools.shards.indexing import index_shard
from shardtools.shards.sidecar import Sidecar, read_sidecar, write_sidecar
from tests.cli.command import call, check_failure
from tests.datasets import tar_bytes
from tests.servers import NginxServer

VALUES = [str(i).encode() * (200 + i) for i in range(40)]
FILES = [(f"{i:02d}.txt", value) for i, value in enumerate(VALUES)]


def by_webdataset(path: Path) -> None:
    with webdataset.TarWriter(str(path), compress=True) as writer:
        for i, value in enumerate(VALUES):
            writer.write({"__key__": f"{i:02d}", "txt": value})


def by_tar(path: Path) -> None:
    folder = path.parent / "files"
    folder.mkdir()
    for name, value in FILES:
        (folder / name).write_bytes(value)
    subprocess.run(["tar", "czf", path, "-C", folder, *sorted(name for name, _ in FILES)], check=True)


def by_zstd(path: Path) -> None:
    path.write_bytes(zstandard.compress(tar_bytes(FILES)))


def plain(path: Path) -> None:
    path.write_bytes(tar_bytes(FILES))


WRITERS: list[tuple[str, Callable[[Path], None], Packing]] = [
    ("x.tar", by_webdataset, "gzip"),
    ("x.tar", by_tar, "gzip"),
    ("x.tar", by_zstd, "zstd"),
    ("x.tgz", by_zstd, "zstd"),
    ("x.tgz", plain, "tar"),
    ("x.tar.zst", plain, "tar"),
]


@pytest.mark.parametrize("far", [False, True], ids=["local", "http"])
@pytest.mark.parametrize("indexed", [False, True, "older"], ids=["bare", "sidecar", "older sidecar"])
@pytest.mark.parametrize(("name", "write", "packing"), WRITERS, ids=lambda value: getattr(value, "__name__", value))
def test_samples_are_right_whatever_the_name(
    nginx: NginxServer, name: str, write: Callable[[Path], None], packing: Packing, indexed: bool | str, far: bool
) -> None:
    path = nginx.root / name
    write(path)
    url = f"{nginx.url}{name}" if far else str(path)
    if indexed:
        assert call(url, cwd=nginx.root, program="htindex").status == 0
        sidecar = read_sidecar(str(path), path.stat().st_size)
        assert sidecar is not None and sidecar.packing == packing
        if indexed == "older":
            write_sidecar(str(path), index_before_packing_was_noted(path))
        assert call(url, "--check", cwd=nginx.root, program="htindex").status == 0
    ds = st.open(url)
    assert ds[7]["txt"] == VALUES[7] and ds["39"]["txt"] == VALUES[39]
    assert [record["txt"] for record in ds[5:30:5]] == VALUES[5:30:5]
    view = ds.view("txt", decode=None)
    assert view[3] == VALUES[3] and list(np.asarray(view[10:13])) == VALUES[10:13]
    assert [record["txt"] for record in ds] == VALUES
    shown = call(url, "--at", "7", "-f", "txt", cwd=nginx.root, program="htextract")
    assert shown.status == 0 and shown.out.encode().strip() == VALUES[7]


def index_before_packing_was_noted(path: Path) -> Sidecar:
    return replace(index_shard(str(path)), packing=None)


@pytest.mark.parametrize(("name", "write", "packing"), WRITERS, ids=lambda value: getattr(value, "__name__", value))
def test_training_gets_the_right_samples(
    tmp_path: Path, name: str, write: Callable[[Path], None], packing: Packing
) -> None:
    pytest.importorskip("torch")
    from shardtools.torch import ShardIterable

    write(tmp_path / name)
    train = ShardIterable(f"{tmp_path}/{name}", fields=("__key__", "txt"), decode=False, batch_size=7, uneven="uneven")
    found = {key: value for keys, values in train for key, value in zip(keys, values, strict=True)}
    assert found == {f"{i:02d}": value for i, value in enumerate(VALUES)}


@pytest.mark.parametrize("format", ["dali", "wids"])
def test_no_index_of_a_packed_shard_is_exported(tmp_path: Path, format: str) -> None:
    by_webdataset(tmp_path / "x.tar")
    message = check_failure("--export", format, "x.tar", cwd=tmp_path, program="htindex")
    assert "x.tar: the shard is compressed, although its name ends with .tar; rename it" in message
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
