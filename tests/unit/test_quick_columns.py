"""Columns that numpy makes of the bytes of samples, against what Python makes of each of them."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import CorruptError
from shardtools.query.quick_columns import parse_integers, quick_columns
from shardtools.shards.checksums import crc32_of_each
from shardtools.shards.columns import Texts
from shardtools.shards.members import IndexedShard
from shardtools.shards.sidecar import read_sidecar
from tests.datasets import written_dataset

numbers = st.one_of(st.integers(-(10**19), 10**19).map(lambda number: b"%d" % number), st.binary(max_size=3))


@given(st.lists(numbers, max_size=8))
def test_integers(values: list[bytes]) -> None:
    found = parse_integers(Texts.of(values))
    if all(re.fullmatch(rb"[-+]?[0-9]{1,18}", value) for value in values):
        assert found is not None and found.tolist() == list(map(int, values))
    else:
        assert found is None


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_checksums(values: list[bytes]) -> None:
    assert crc32_of_each(Texts.of(values)).tolist() == list(map(zlib.crc32, values))


def shard_of(folder: Path, values: list[bytes | None]) -> IndexedShard:
    records = [
        {"key": f"{i:03d}", "jpg": b"x"} | ({"txt": value} if value is not None else {})
        for i, value in enumerate(values)
    ]
    written_dataset(folder, "d-@1.tar", [records])
    url = str(folder / "d-0.tar")
    sidecar = read_sidecar(url, None)
    assert sidecar is not None
    return IndexedShard(url, sidecar)


texts = st.one_of(st.none(), st.text(max_size=4).map(str.encode), st.just("é".encode()[:1]), st.just("é".encode()[1:]))


@settings(max_examples=25, deadline=None)
@given(st.lists(texts, max_size=6))
def test_texts(tmp_path_factory: pytest.TempPathFactory, values: list[bytes | None]) -> None:
    """Two halves of a character in two samples are no text together."""
    found = quick_columns(shard_of(tmp_path_factory.mktemp("d"), values), ["jpg", "txt"])
    try:
        expected = [None if value is None else value.decode() for value in values]
    except UnicodeDecodeError:
        assert found == {}
    else:
        assert found["txt"][0].to_pylist() == expected and list(found) == ["txt"]


def test_damage_is_noticed(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, [b"one", None, b"two"])
    path = tmp_path / "d-0.tar"
    path.write_bytes(path.read_bytes().replace(b"two", b"tvo"))
    with pytest.raises(CorruptError, match=r"002\.txt"):
        quick_columns(shard, ["txt"])
