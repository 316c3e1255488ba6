"""Tests of how the loader reads samples of several files of this machine at once."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shardtools.errors import RefusedError
from shardtools.loader.shard import LocalShard, read_local
from shardtools.shards.indexing import quick_index
from shardtools.shards.members import IndexedShard
from shardtools.storage.open_files import OpenFiles


def write(path: Path, samples: int) -> str:
    """Write a shard whose samples have a value that no other sample has; every third has no cls."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(samples):
            fields = {"bin": f"{path.name} {i}".encode() * i, **({"cls": b"%d" % i} if i % 3 else {})}
            for field, value in fields.items():
                info = tarfile.TarInfo(f"{i}.{field}")
                info.size = len(value)
                archive.addfile(info, io.BytesIO(value))
    return str(path)


def test_samples_of_several_files(tmp_path: Path) -> None:
    files = OpenFiles(limit=2)
    shards = [IndexedShard(url, quick_index(url)) for url in [write(tmp_path / f"{n}.tar", 50) for n in range(4)]]
    parts = [(LocalShard(shard, ["cls", "bin"], files), np.arange(n, 50, n + 1)) for n, shard in enumerate(shards)]
    where = [(n, row) for n, (_, rows) in enumerate(parts) for row in rows.tolist()]
    labels, data = read_local(parts)
    assert labels == [b"%d" % row if row % 3 else None for _, row in where]
    assert data == [f"{n}.tar {row}".encode() * row for n, row in where]


@pytest.mark.parametrize("distance", [512, 1 << 18, 1 << 40])
def test_a_table_that_leads_out_of_its_file_does_not_lead_into_the_next_one(tmp_path: Path, distance: int) -> None:
    urls = [write(tmp_path / name, 300) for name in ("a.tar", "b.tar")]
    good, sidecar = quick_index(urls[1]), quick_index(urls[0])
    beyond = replace(sidecar, table=sidecar.table.shifted(sidecar.filesize // 512 * 512 - 1024 + distance))
    parts = [
        (LocalShard(IndexedShard(url, known), ["bin"], OpenFiles()), np.arange(250, 300))
        for url, known in zip(urls, (beyond, good), strict=True)
    ]
    with pytest.raises(RefusedError, match=r"a\.tar: bytes \d+ to \d+ were asked for and it has \d+"):
        read_local(parts)
