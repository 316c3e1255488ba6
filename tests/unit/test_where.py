"""`Dataset.where`: a dataset of the samples for which a condition is true, with and without a table."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shardtools
from shardtools.errors import CorruptError, JobError
from shardtools.query.table import open_table
from shardtools.reading import Dataset
from shardtools.shards.open_shard import OpenShard
from tests.datasets import write_dataset, written_dataset
from tests.recording_server import recording_server

Records = Sequence[Sequence[Mapping[str, object]]]


def record_of(shard: int, row: int) -> dict[str, object]:
    return {
        "key": f"{shard}/{row:02d}",
        "cls": (shard * 7 + row) % 5,
        "txt": f"no {row}",
        "json": {"n": shard * 100 + row},
    }


RECORDS: Records = [[record_of(shard, row) for row in range(10 + shard)] for shard in range(4)]
FLAT = [record for some in RECORDS for record in some]


def dataset(folder: Path, *, table: bool, records: Records = RECORDS) -> Dataset:
    spec = f"d-@{len(records)}.tar"
    written_dataset(folder, spec, records)
    if table:
        shardtools.index(str(folder / spec), table=True)
    return shardtools.open(str(folder / spec))


@pytest.fixture(params=[False, True], ids=["no table", "table"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    return dataset(tmp_path, table=request.param)


class TestIsADataset:
    def test_samples(self, whole: Dataset) -> None:
        chosen = whole.where("cls = 3 and json.n < 305")
        expected = [record["key"] for record in FLAT if record["cls"] == 3 and record["json"]["n"] < 305]  # type: ignore[index]
        assert len(chosen) == len(expected) > 4
        assert [record["key"] for record in chosen] == expected == chosen.keys
        assert [record["key"] for record in chosen[1:5:2]] == expected[1:5:2]
        assert chosen[-1]["key"] == expected[-1] and chosen[[2, 0]][0]["key"] == expected[2]
        assert chosen[np.array([True] + [False] * (len(expected) - 1))][0]["key"] == expected[0]
        with pytest.raises(IndexError, match=f"the dataset has {len(expected)} samples"):
            chosen[len(expected)]
        assert sum(chosen.counts or []) == len(expected) and len(chosen.counts or []) == 4
        assert len(whole) == len(FLAT) and whole.conditions == ()

    def test_keys(self, whole: Dataset) -> None:
        chosen = whole.where("cls = 3")
        key = str(chosen[2]["key"])
        assert chosen[key]["cls"] == b"3" and key in chosen and chosen.index(key) == 2 and chosen.count(key) == 1
        other = next(str(record["key"]) for record in FLAT if record["cls"] != 3)
        assert other in whole and other not in chosen and chosen.count(other) == 0
        with pytest.raises(KeyError):
            chosen[other]
        with pytest.raises(ValueError, match="no sample has the key"):
            chosen.index(other)

    def test_views(self, whole: Dataset) -> None:
        chosen = whole.where("cls = 3 or cls = 1")
        assert np.asarray(chosen.view("cls")).tolist() == [r["cls"] for r in FLAT if r["cls"] in (1, 3)]
        assert chosen.view("txt")[-1] == [record["txt"] for record in FLAT if record["cls"] in (1, 3)][-1]
        assert chosen.view("cls").to_dask(3).sum().compute() == sum(np.asarray(chosen.view("cls")))

    def test_where_again(self, whole: Dataset) -> None:
        chosen = whole.where("cls = 3").where("row >= 5").where("shard <> 1")
        expected = [
            r["key"] for i, s in enumerate(RECORDS) for j, r in enumerate(s) if r["cls"] == 3 and j >= 5 and i != 1
        ]
        assert chosen.keys == expected
        assert "where (cls = 3) and (row >= 5) and (shard <> 1)" in repr(chosen)
        assert f"{len(expected)} of {len(FLAT)} samples" in repr(chosen)
        assert "(row &gt;= 5)" in chosen._repr_html_()

    def test_none(self, whole: Dataset) -> None:
        chosen = whole.where("cls = 99")
        assert len(chosen) == 0 and list(chosen) == [] == chosen[:] and chosen.keys == []
        assert len(chosen.where("cls = 3")) == 0
        with pytest.raises(JobError, match="names nope"):
            chosen.where("nope = 1")

    def test_it_can_be_pickled(self, whole: Dataset) -> None:
        chosen = pickle.loads(pickle.dumps(whole.where("cls = 3")))
        assert [record["cls"] for record in chosen] == [b"3"] * len(chosen)
        assert len(chosen.where("shard = 0")) == sum(record["cls"] == 3 for record in RECORDS[0])


class TestConditions:
    def test_columns_that_do_not_exist(self, whole: Dataset) -> None:
        for name in ("nope", "json.nope", "size.jpg"):
            with pytest.raises(JobError, match=f"names {name}, but no sample has such a column; there are key, row"):
                whole.where(f"{name} = 1")

    def test_types(self, whole: Dataset) -> None:
        with pytest.raises(JobError, match="Could not convert string 'cat'"):
            whole.where("cls = 'cat'")
        with pytest.raises(JobError, match="not true or false"):
            whole.where("cls")

    def test_without_a_manifest(self, tmp_path: Path) -> None:
        ds = shardtools.open(str(tmp_path / write_dataset(tmp_path, 3, 20)))
        assert ds.where("cls = 4 and txt like '2-%'").keys == ["2/0004", "2/0014"]

    @pytest.mark.parametrize("ending", ["tgz", "tar.zst"])
    def test_packed_shards_of_others(self, tmp_path: Path, ending: str) -> None:
        spec = write_dataset(tmp_path, 2, 30, ending=ending)
        assert shardtools.open(str(tmp_path / spec)).where("cls = 4").keys == [
            f"{i}/00{j}4" for i in (0, 1) for j in (0, 1, 2)
        ]

    def test_several_datasets(self, tmp_path: Path) -> None:
        dataset(tmp_path, table=True)
        both = shardtools.open([str(tmp_path / "d-@4.tar"), str(tmp_path / write_dataset(tmp_path, 2, 10))])
        assert len(both.where("cls = 3")) == sum(record["cls"] == 3 for record in FLAT) + 2


class TestTable:
    def test_it_is_asked_alone(self, tmp_path: Path) -> None:
        """No shard and no sidecar is read, but the table once, and the state of the shards."""
        with recording_server(tmp_path) as server:
            dataset(server.root, table=True)
            ds = shardtools.open(f"{server.url}d-@4.tar")
            assert len(ds.where("cls = 3")) == sum(record["cls"] == 3 for record in FLAT)
            gets = [request.path for request in server.requests() if request.method == "GET"]
            assert {path.rpartition("/")[2] for path in gets} <= {"d-@4.tar.json", "d-@4.tar.parquet", ""}
            assert sum(path.endswith("parquet") for path in gets) == 1
            ds.where("cls = 2").where("row = 1")
            later = [request.path for request in server.requests() if request.method == "GET"]
            assert sum(path.endswith("parquet") for path in later) == 1

    def test_a_download_lives_as_long_as_it_is_needed(self, tmp_path: Path) -> None:
        """A child of a fork that is done with the dataset does not take it away from its parent."""
        with recording_server(tmp_path) as server:
            dataset(server.root, table=True)
            table = open_table(f"{server.url}d-@4.tar")
            assert table is not None
            [path], child = table.paths, os.fork()
            if child == 0:
                del table
                gc.collect()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert Path(path).exists() and table.cursor().execute(f"SELECT count(*) FROM {table.source}").fetchone()
            del table
            gc.collect()
            assert not Path(path).parent.exists()

    @pytest.mark.parametrize("same_size", [True, False])
    def test_a_changed_shard_is_asked_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_size: bool
    ) -> None:
        dataset(tmp_path, table=True)
        changed = [list(map(dict, some)) for some in RECORDS]
        changed[2][4]["cls"] = 4 if same_size else 33
        changed[2][4]["txt"] = changed[2][4]["txt"] if same_size else "x" * 2000
        written_dataset(tmp_path, "d-@4.tar", changed)
        ds = shardtools.open(str(tmp_path / "d-@4.tar"))
        asked: list[int] = []
        checked = ds._shards._checked
        monkeypatch.setattr(ds._shards, "_checked", lambda number: (asked.append(number), checked(number))[1])
        number = 4 if same_size else 33
        chosen = ds.where(f"cls = {number}")
        assert asked == [2]
        assert chosen.keys == [r["key"] for some in changed for r in some if r["cls"] == number]

    def test_one_that_is_cut_or_lacks_a_field_is_not_used_for_it(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "d-@4.tar", RECORDS)
        shardtools.index(str(tmp_path / "d-@4.tar"), table=["txt:2", "json.n"])
        ds = shardtools.open(str(tmp_path / "d-@4.tar"))
        assert len(ds.where("txt = 'no 7'")) == 4 and len(ds.where("txt = 'no'")) == 0
        assert len(ds.where("cls = 3 and json.n < 5")) == sum(r["cls"] == 3 for r in RECORDS[0][:5])
        assert len(ds.where("json->>'$.n' = '7'")) == 1

    @pytest.mark.parametrize("wrong", ["damaged", "cut short", "another's", "not ours"])
    def test_one_that_is_wrong_is_not_used(self, tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
        ds = dataset(tmp_path, table=True)
        path = tmp_path / "d-@4.tar.parquet"
        if wrong == "damaged":
            path.write_bytes(b"PAR1nothing")
        elif wrong == "cut short":
            path.write_bytes(path.read_bytes()[:-100])
        elif wrong == "another's":
            written_dataset(tmp_path, "e-@4.tar", [list(reversed(some)) for some in RECORDS])
            shardtools.index(str(tmp_path / "e-@4.tar"), table=True)
            path.write_bytes((tmp_path / "e-@4.tar.parquet").read_bytes())
        else:
            shardtools.extract(str(tmp_path / "d-@4.tar"), fields="cls", output=str(path), overwrite=True)
        assert ds.where("cls = 3").keys == [record["key"] for record in FLAT if record["cls"] == 3]
        assert ("it is not used" in caplog.text) == (wrong != "another's")

    @pytest.mark.parametrize(("start", "rows"), [(0, [0, 1, 1]), (7, [7, 8, 10]), (0, [-1, 0, 1])])
    def test_rows_that_cannot_be(self, tmp_path: Path, start: int, rows: list[int]) -> None:
        from pyarrow import array, int32, parquet

        ds = dataset(tmp_path, table=True)
        path = tmp_path / "d-@4.tar.parquet"
        table = parquet.read_table(path)
        row = table.column("row").to_pylist()
        row[start : start + 3] = rows
        place = table.column_names.index("row")
        parquet.write_table(table.set_column(place, "row", array(row, int32())), path)
        with pytest.raises(CorruptError, match="rows of samples that there are not"):
            ds.where("cls >= 0")

    def test_a_column_of_nulls(self, tmp_path: Path) -> None:
        records = [[{"key": "a", "json": {"x": None, "y": 1}}], [{"key": "b", "json": {"y": 2}}]]
        ds = dataset(tmp_path, table=True, records=records)
        assert ds.where("json.x > 5 or json.y = 2").keys == ["b"]

    def test_it_may_have_several_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shardtools.jobs.table.merge.FILE_ROWS", 15)
        ds = dataset(tmp_path, table=True)
        monkeypatch.setattr(OpenShard, "__init__", lambda *arguments: pytest.fail("a shard is read"))
        assert len(ds.where("cls = 3")) == sum(record["cls"] == 3 for record in FLAT)
        assert (tmp_path / "d-@4.tar.1.parquet").exists()


values = st.fixed_dictionaries(
    {"cls": st.integers(-3, 3)},
    optional={"txt": st.sampled_from(["a", "b", ""]), "json": st.sampled_from([{}, {"n": 1}, {"n": 2}])},
)
conditions = st.sampled_from(
    [
        ("cls > 0", lambda r: r["cls"] > 0),
        ("txt = 'a'", lambda r: r.get("txt") == "a"),
        ("json.n = 2 or cls = 1", lambda r: r.get("json", {}).get("n") == 2 or r["cls"] == 1),
        ("txt is null", lambda r: "txt" not in r),
        ("size.txt = 1 and not cls = 2", lambda r: len(r.get("txt", "")) == 1 and r["cls"] != 2),
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(values, max_size=4), min_size=1, max_size=4), conditions, conditions, st.booleans(), st.data())
def test_it_is_what_a_loop_finds(
    tmp_path_factory: pytest.TempPathFactory, shards: Any, one: Any, other: Any, table: bool, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("d")
    records = [[{"key": f"{i}/{j}", **r} for j, r in enumerate(some)] for i, some in enumerate(shards)]
    records[0].append({"key": "last", "cls": 0, "txt": "", "json": {"n": 0}})  # so that each column is there
    ds = dataset(folder, table=table, records=records)
    if data.draw(st.booleans()) and len(records) > 1:
        number = data.draw(st.integers(1, len(records) - 1))
        records[number] = [{"key": f"new/{j}", "cls": 3 - j} for j in range(data.draw(st.integers(0, 3)))]
        written_dataset(folder, f"d-@{len(records)}.tar", records)
        ds = shardtools.open(str(folder / f"d-@{len(records)}.tar"))
    expected = [record["key"] for some in records for record in some if one[1](record) and other[1](record)]
    chosen = ds.where(one[0]).where(other[0])
    assert [record["key"] for record in chosen] == expected
    at = data.draw(st.slices(len(expected)))
    assert [record["key"] for record in chosen[at]] == expected[at]


class TestProgram:
    """htextract --where asks the table, too."""

    def test_shards_without_a_match_are_not_read(self, tmp_path: Path) -> None:
        with recording_server(tmp_path) as server:
            dataset(server.root, table=True)
            url = f"{server.url}d-@4.tar"
            condition, output = "json.n >= 205 and json.n < 208", f"{tmp_path}/x.tsv"
            result = shardtools.extract(url, fields="txt", where=condition, output=output)
            assert (tmp_path / "x.tsv").read_text() == "".join(f"2/0{i}\tno {i}\n" for i in (5, 6, 7))
            assert (result.shards, result.samples, result.rows) == (4, len(FLAT), 3)
            read = {request.path for request in server.requests() if request.method == "GET"}
            assert read == {"/d-@4.tar.parquet", "/d-@4.tar.json", "/d-2.tar.index.npz", "/d-2.tar"}

    @pytest.mark.parametrize(
        "condition", ["cls = 3", "cls = 99", "txt like '%7'", "row = 2 and shard > 0", "size.txt = 5"]
    )
    def test_the_answer_is_the_same(self, tmp_path: Path, condition: str) -> None:
        """With a table, without one, with one of which a shard has changed, and with a script."""
        dataset(tmp_path, table=False)
        spec = str(tmp_path / "d-@4.tar")

        def count_only() -> int:
            return shardtools.count(spec, "cls", where=condition).samples

        expected, number = ask_rows(spec, condition), count_only()
        shardtools.index(spec, table=True)
        assert ask_rows(spec, condition) == expected and count_only() == number == len(expected)
        changed = [list(map(dict, some)) for some in RECORDS]
        changed[1] = [{**one, "cls": 3, "txt": "no 17"} for one in changed[1]]
        written_dataset(tmp_path, "d-@4.tar", changed)
        with_table = ask_rows(spec, condition), count_only()
        (tmp_path / "d-@4.tar.parquet").unlink()
        assert (ask_rows(spec, condition), count_only()) == with_table

    def test_names_are_checked(self, tmp_path: Path) -> None:
        dataset(tmp_path, table=True)
        spec = str(tmp_path / "d-@4.tar")
        for condition in ("cls = 3", "cls = 99"):
            with pytest.raises(JobError, match="no sample has the field jpg; there are cls, json, txt"):
                shardtools.extract(spec, fields="jpg", where=condition)
        with pytest.raises(JobError, match="names nope"):
            shardtools.extract(spec, where="nope = 1")
        assert len(shardtools.extract(spec, where="cls = 3", limit=3)) == 3


def ask_rows(spec: str, condition: str) -> list[object]:
    """Return the keys of the rows of fields, which are those of the rows of a script."""
    rows = [row["key"] for row in shardtools.extract(spec, fields="cls", where=condition)]
    by_script = shardtools.extract(spec, function=lambda record: {"n": len(record["txt"])}, where=condition)
    assert [row["key"] for row in by_script] == rows
    return rows
