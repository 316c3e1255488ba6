"""The header before a member's data tells whether a table is about the shard as it is now."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from shardtools.errors import ShardError, StaleTableError
from shardtools.shards.indexing import index_shard
from shardtools.shards.member_header import check_headers, last_member
from shardtools.shards.table import ShardTable
from tests import tars
from tests.tars import Member

URL = "http://host/in.tar"
OLD = [Member(f"d/{i:02d}.{field}", b"%d" % i * size) for i in range(40) for field, size in (("cls", 1), ("txt", 700))]


def table_of(data: bytes, folder: Path) -> ShardTable:
    (folder / "in.tar").write_bytes(data)
    return index_shard(str(folder / "in.tar")).table


def check(table: ShardTable, data: bytes, rows: list[int] | None = None) -> None:
    """Compare the headers of members, which are cut out of a shard's bytes where a table says they are."""
    members = np.arange(len(table.offset)) if rows is None else np.array(rows, np.int64)
    stops = table.offset + (table.size + 511) // 512 * 512
    before = np.concatenate(([0], stops))[members]
    heads = [data[a:b] for a, b in zip(before.tolist(), table.offset[members].tolist(), strict=True)]
    check_headers(URL, table, members, heads)


CHANGES: dict[str, Callable[[list[Member]], list[Member]]] = {
    "swapped": lambda old: [*old[:4], *old[6:8], *old[4:6], *old[8:]],
    "renamed": lambda old: [*old[:5], Member("d/xx.txt", old[5].data), *old[6:]],
    "of another field": lambda old: [*old[:5], Member("d/02.xyz", old[5].data), *old[6:]],
    "longer": lambda old: [*old[:5], Member(old[5].name, old[5].data + b"!"), *old[6:]],
    "shorter": lambda old: [*old[:5], Member(old[5].name, old[5].data[:-1]), *old[6:]],
    "no file": lambda old: [*old[:4], Member(old[4].name, kind=tarfile.SYMTYPE, link="x"), *old[5:]],
    "a block longer": lambda old: [*old[:5], Member(old[5].name, old[5].data + bytes(600)), *old[6:]],
    "a member more": lambda old: [*old[:5], Member("zz.txt", bytes(600)), *old[5:]],
}


class TestStale:
    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("format", tars.FORMATS.values(), ids=tars.FORMATS)
    @pytest.mark.parametrize("folder", ["", "f" * 120 + "/"])
    @pytest.mark.parametrize("mtime", [0, 1.5])
    def test_a_member_that_is_not_there(
        self, change: str, format: int, folder: str, mtime: float, tmp_path: Path
    ) -> None:
        old = [Member(folder + member.name, member.data) for member in OLD]
        new = CHANGES[change](old)
        new = [Member(folder + m.name, m.data) if m.name[:1] in "xz" else m for m in new]
        data = tars.make_tar(old, format, mtime=mtime)
        table = table_of(data, tmp_path)
        check(table, data)
        with pytest.raises(
            StaleTableError, match=r"^http://host/in\.tar \[(f+/)?d/0[0-9]\.(cls|txt)\]: the index beside"
        ) as e:
            check(table, tars.make_tar(new, format, mtime=mtime))
        assert "; delete the index (.idx, or .nv-meta), or make sidecars with htindex" in str(e.value)
        assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)

    def test_what_it_says(self, tmp_path: Path) -> None:
        table = table_of(tars.make_tar(OLD), tmp_path)
        with pytest.raises(StaleTableError) as raised:
            check(table, tars.make_tar(CHANGES["longer"](OLD)))
        assert str(raised.value) == (
            "http://host/in.tar [d/02.txt]: the index beside the shard does not match it: before the 700 bytes of this "
            "member is that of d/02.txt with 701 bytes; delete the index (.idx, or .nv-meta), or make sidecars "
            "with htindex"
        )

    @pytest.mark.parametrize("size", [0, 511, 512, 1024, 100 * 512])
    def test_a_shard_that_was_cut_off(self, size: int, tmp_path: Path) -> None:
        data = tars.make_tar(OLD)
        table = table_of(data, tmp_path)
        with pytest.raises(StaleTableError, match="no header"):
            check(table, data[:size])

    def test_only_the_members_that_are_asked_for(self, tmp_path: Path) -> None:
        table = table_of(tars.make_tar(OLD), tmp_path)
        new = tars.make_tar(CHANGES["renamed"](OLD))
        check(table, new, [7, 4, 4, 40])
        check(table, new, [])
        with pytest.raises(StaleTableError, match=r"d/02\.txt"):
            check(table, new, [7, 5])


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(shard=tars.shards())
def test_headers_of_all_kinds(shard: tars.Shard, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a scan has found is there, whatever extension headers and other members stand before it."""
    try:
        table = table_of(shard.data, tmp_path_factory.mktemp("tar"))
    except ShardError:
        return
    check(table, shard.data)


@pytest.mark.parametrize(
    "head",
    [
        tars.pax({"size": b"-1536"}) + tars.member(b"README", b"") + tars.header(b"a.txt", 1),
        tars.pax({"size": b"1" * 5000}) + tars.header(b"a.txt", 1),
        tars.pax({"size": b"+1"}) + tars.header(b"a.txt", 1),
        tars.pax({"size": b"1_0"}) + tars.header(b"a.txt", 1),
        tars.header(b"README", 1 << 30) + tars.header(b"a.txt", 1),
        tars.member(b"b.txt", b"") + tars.header(b"a.txt", 1),
        tars.patch(tars.header(b"a.txt", 1), 124, b"\x80" + b"\xff" * 11),
        b"x" * 512,
        b"",
    ],
)
def test_headers_that_make_no_sense(head: bytes) -> None:
    assert last_member(head) in (None, (b"a.txt", int.from_bytes(b"\xff" * 11, "big")))
