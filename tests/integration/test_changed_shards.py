"""SQL over a table of which some shards have changed since: it answers as a new table would, and reads only these."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shardtools as st
from shardtools.errors import JobError
from tests.cli.command import call, check_failure
from tests.datasets import written_dataset
from tests.recording_server import RecordingServer, recording_server
from tests.servers import NginxServer

SHARDS, CHANGED = 50, (7, 8, 49)
SPEC = f"d-@{SHARDS}.tar"
TABLE = f"{SPEC}.parquet"


def record(shard: int, row: int, **more: object) -> dict[str, Any]:
    score = row / 4 if row % 2 else row
    values = {"key": f"{shard}/{row}", "cls": row % 5, "txt": f"é text {shard * row}", "bin": b"x" * 3000}
    return {**values, "json": {"width": shard * row, "score": score, "mixed": "a" if row else 7}, **more}


def records() -> list[list[dict[str, Any]]]:
    return [[record(shard, row) for row in range(6)] for shard in range(SHARDS)]


def with_changes(**more: object) -> list[list[dict[str, Any]]]:
    """Return the records of all shards, of which three have changed: one is shorter, one has other values."""
    shards = records()
    shards[7] = shards[7][1:4]
    shards[8] = [record(8, row, cls=9, txt="longer than before", **more) for row in range(9)]
    shards[49] = [{"key": "49/new", "json": {"width": 5}}, *shards[49]]
    return shards


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``old``, whose table is of other shards than it has, and ``new`` with a table of those."""
    folder = tmp_path_factory.mktemp("changed")
    for name, shards in (("old", records()), ("new", with_changes())):
        (folder / name).mkdir()
        written_dataset(folder / name, SPEC, shards)
        st.index(str(folder / name / SPEC), table=["cls", "json", "txt:10"])
    written_dataset(folder / "old", SPEC, with_changes())
    return folder


@pytest.fixture(scope="module")
def server(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordingServer]:
    with recording_server(tmp_path_factory.mktemp("server")) as server:
        for path in (made / "old").iterdir():
            shutil.copy(path, server.root)
        yield server


QUERIES = [
    "from samples",
    "select key, shard, row from samples",
    "select cls, count(*), sum(json.width), max(size.bin) from samples group by cls order by cls",
    "select count(*) from samples",
    "select txt, json.mixed, json.score from samples where cls = 9 or json.width = 5",
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("most_runs", [64, 1])
def test_it_is_as_of_a_new_table(made: Path, monkeypatch: pytest.MonkeyPatch, query: str, most_runs: int) -> None:
    monkeypatch.setattr("shardtools.query.changed._MOST_RUNS", most_runs)
    now, anew = (st.open(str(made / name / SPEC)).sql(query) for name in ("old", "new"))
    assert now.columns == anew.columns and now.types == anew.types
    assert now.fetchall() == anew.fetchall() != []


def test_chosen_samples_joins_and_the_command(made: Path) -> None:
    old, new = (st.open(str(made / name / SPEC)) for name in ("old", "new"))
    for condition in ("cls = 9", "json.width = 5", "shard = 3"):
        rows = old.where(condition).table().fetchall()
        assert rows == new.where(condition).table().fetchall() != []
    differ = "select count(*) from a full join b using (key) where a.cls is distinct from b.cls or a.txt != b.txt"
    assert st.sql(differ, a=old, b=new).fetchall() == [(0,)]
    assert st.sql("select count(*) from a join b using (key)", a=old, b=old).fetchall() == [(len(new),)]
    outcome = call(SPEC, "select count(*) as n from samples", cwd=made / "old", program="htquery")
    assert outcome.out.split() == ["n", str(len(new))]


def shards_read(server: RecordingServer, start: int) -> dict[int, int]:
    """Return how many GETs of each shard, or of its sidecar, there were since ``start``."""
    found: dict[int, int] = {}
    for request in server.requests()[start:]:
        if request.method == "GET" and (match := re.match(r"/d-(\d+)\.tar", request.path)):
            found[int(match[1])] = found.get(int(match[1]), 0) + 1
    return found


def test_only_what_has_changed_is_read(server: RecordingServer) -> None:
    """Sidecars once, and a range for each value of the two fields that are asked for."""
    for query, ranges in ((QUERIES[2], {7: 2 * 3, 8: 2 * 9, 49: 2 * 6 + 1}), (QUERIES[3], {})):
        start = len(server.requests())
        ds = st.open(f"{server.url}{SPEC}")
        assert ds.sql(query).fetchall()
        assert tuple(sorted(shards_read(server, start))) == CHANGED
        start = len(server.requests())
        assert ds.sql(query).fetchall()
        assert shards_read(server, start) == ranges
    start = len(server.requests())
    assert ds.where("cls = 9 and shard = 8").sql("select max(txt) from samples").fetchall() == [("longer tha",)]
    assert tuple(sorted(shards_read(server, start))) in (CHANGED, (8,))


def test_sizes_are_asked_of_each_shard_where_a_server_does_not_list(server: RecordingServer) -> None:
    start = len(server.requests())
    ds = st.open(f"{server.url}{SPEC}")
    assert len(ds.where("cls = 3 and shard < 7")) == 7 and len(ds.where("cls = 4 and shard < 7")) == 7
    asked = [request.path for request in server.requests()[start:] if request.method == "HEAD"]
    counts = [asked.count(f"/d-{shard:02d}.tar") for shard in range(SHARDS)]
    assert counts == [2 if shard in CHANGED else 1 for shard in range(SHARDS)]  # once more to look into it
    assert set(shards_read(server, start)) == set(CHANGED)


@pytest.mark.parametrize(
    ("more", "query", "message"),
    [
        ({"json": {"width": "wide"}}, "select sum(json.width) from samples", "json.width has changed: its type"),
        ({"json": {"width": 0.5}}, "from samples", "in the table is int, and in this shard float"),
        ({"json": {"score": 2**60 + 1}}, "select max(json.score) from samples", "in the table is float"),
        ({"json": {"width": "wide", "mixed": True}}, "select json.mixed from samples where shard = 8", None),
        ({"json": {"width": 2, "other": 3}}, "select json.width from samples where shard = 8", None),
        (
            {"json": {"other": 3}},
            "select json.other from samples",
            "there is no column json.other; did you mean json.width?",
        ),
    ],
)
def test_types_that_no_longer_fit(made: Path, tmp_path: Path, more: Any, query: str, message: str | None) -> None:
    written_dataset(tmp_path, SPEC, with_changes(**more))
    shutil.copy(made / "old" / TABLE, tmp_path)
    if message is None:
        values = {value for (value,) in st.open(str(tmp_path / SPEC)).sql(query).fetchall()}
        assert values in ({"true"}, {2})
    else:
        assert message in check_failure(SPEC, query, cwd=tmp_path, status=2, program="htquery")


def test_where_no_shard_is_as_it_was(made: Path, tmp_path: Path) -> None:
    written_dataset(tmp_path, SPEC, [[{"key": "a", "cls": 1}]] * SHARDS)
    shutil.copy(made / "old" / TABLE, tmp_path)
    with pytest.raises(JobError, match="the table describes none of 50 shards as they are; make it with htindex"):
        st.open(str(tmp_path / SPEC)).sql("from samples")


@pytest.mark.parametrize("over_http", [False, True])
@pytest.mark.parametrize("has_manifest", [False, True])
def test_a_shard_that_was_replaced_by_one_of_the_same_size(
    tmp_path: Path, nginx: NginxServer, over_http: bool, has_manifest: bool
) -> None:
    """Copied over, with its sidecar: neither manifest nor table knows of it."""
    folder = nginx.root / f"replaced{has_manifest}" if over_http else tmp_path / "a"
    for place, start in ((folder, 0), (tmp_path / "b", 50)):
        place.mkdir()
        written_dataset(place, "s-@2.tar", [[{"key": f"{shard}{row}", "cls": 2 * start + 10 * shard + row}
                                             for row in range(3)] for shard in (1, 2)])  # fmt: skip
        st.index(str(place / "s-@2.tar"), table=["cls"])
        for path in place.iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000))
    for name in ("s-1.tar", "s-1.tar.index.npz"):
        shutil.copy(tmp_path / "b" / name, folder / name)
    assert (folder / "s-0.tar").stat().st_size == (folder / "s-1.tar").stat().st_size
    if not has_manifest:
        (folder / "s-@2.tar.json").unlink()
    spec = f"{nginx.url}{folder.name}/s-@2.tar" if over_http else str(folder / "s-@2.tar")
    labels = [10, 11, 12, 120, 121, 122]
    assert st.open(spec).sql("select cls from samples order by cls").fetchall() == [(label,) for label in labels]
    assert len(st.open(spec).where("cls >= 50")) == 3
    shown = call(spec, "--where", "cls >= 50", "-f", "cls", program="htextract", cwd=tmp_path).out
    assert shown.split() == ["20", "120", "21", "121", "22", "122"]
