"""htquery, `Dataset.sql` and `shardtools.sql`: queries over the tables of datasets."""

from __future__ import annotations

import gc
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import shardtools
from shardtools.errors import JobError
from tests.cli.command import Argument, Outcome, call, check_failure, path_of
from tests.datasets import written_dataset
from tests.recording_server import recording_server

IMAGES = [
    [{"key": f"{s}/{i}", "cls": (s + i) % 3, "json": {"width": 100 * i, "tags": ["a", i]}} for i in range(8)]
    for s in range(2)
]
CAPTIONS = [[{"key": f"{s}/{i}", "txt": f"caption {s} {i}"} for s in range(2) for i in range(0, 8, 2)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two datasets and their tables."""
    folder = tmp_path_factory.mktemp("datasets")
    for spec, records in (("images-@2.tar", IMAGES), ("captions-@1.tar", CAPTIONS)):
        written_dataset(folder, spec, records)
        shardtools.index(str(folder / spec), table=True)
    return folder


def query(folder: Path, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program="htquery")


def fails(folder: Path, *arguments: Argument) -> str:
    return check_failure(*arguments, cwd=folder, status=2, program="htquery")


class TestCommand:
    def test_a_reader_that_has_had_enough(self, folder: Path) -> None:
        many = "select a.key from samples a, samples b, samples c, samples d"
        code = f"{path_of('htquery')} images-@2.tar '{many}' | head -n 1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", code], cwd=folder, capture_output=True, check=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == ("key\n0\n", "")

    def test_csv(self, folder: Path) -> None:
        outcome = query(
            folder, "images-@2.tar", "select cls, count(*) n, avg(json.width) w from samples group by 1 order by 1"
        )
        counts = Counter(record["cls"] for some in IMAGES for record in some)
        lines = outcome.out.splitlines()
        assert lines[0] == "cls,n,w" and [line.split(",")[:2] for line in lines[1:]] == [
            [str(cls), str(counts[cls])] for cls in sorted(counts)
        ]

    def test_jsonl(self, folder: Path) -> None:
        outcome = query(
            folder,
            "images-@2.tar",
            "select key, json.width, json.tags, null from samples limit 2 offset 1",
            "--format",
            "jsonl",
        )
        assert [json.loads(line) for line in outcome.out.splitlines()] == [
            {"key": "0/1", "json.width": 100, "json.tags": '["a",1]', "NULL": None},
            {"key": "0/2", "json.width": 200, "json.tags": '["a",2]', "NULL": None},
        ]

    def test_parquet(self, folder: Path, tmp_path: Path) -> None:
        from pyarrow import parquet

        target = tmp_path / "out.parquet"
        assert query(folder, "images-@2.tar", "from samples where cls = 1", "-o", target).status == 0
        assert parquet.read_table(target).column("cls").to_pylist() == [1] * 6
        assert "the output exists" in check_failure(
            "images-@2.tar", "from samples", "-o", target, cwd=folder, program="htquery"
        )
        assert query(folder, "images-@2.tar", "from samples", "-o", target, "--overwrite").status == 0
        assert parquet.read_table(target).num_rows == 16

    def test_a_table_for_people(self, folder: Path) -> None:
        text = "select key, json.width as w, 'a\x1b[2J' as bad from samples order by w desc, key limit 2"
        outcome = query(folder, "images-@2.tar", text, "--format", "table")
        assert outcome.out.splitlines() == ["key    w       bad", "0/7  700  a\\x1b[2J", "1/7  700  a\\x1b[2J"]
        many = query(folder, "images-@2.tar", "select range from range(1500)", "--format", "table").out.splitlines()
        assert len(many) == 1002 and many[-1] == "… and 500 more rows, which --format csv has"

    def test_several_datasets(self, folder: Path) -> None:
        text = "select a.key, a.json.width, b.txt from a join b using (key) where A.json.width > 300 order by key"
        outcome = query(folder, "a=images-@2.tar", "b=captions-@1.tar", text)
        assert outcome.out.splitlines()[1:] == [f"{s}/{i},{100 * i},caption {s} {i}" for s in range(2) for i in (4, 6)]
        assert "two datasets have the name samples" in fails(folder, "images-@2.tar", "captions-@1.tar", "select 1")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("select nope from samples", "the query cannot be run: there is no column nope; there are key, shard, "),
            ("select s.clss from samples s", "there is no column clss; did you mean cls?"),
            ("select json.widht from samples", "there is no column json.widht; did you mean json.width?"),
            ("select json from samples", "there is no column json; there are json.tags, json.width"),
            ("select blockz, cls from samples", "there is no column blockz; there are key, shard, row, size."),
            ("select nam from (select cls as name from samples)", "there is no column nam; did you mean name?"),
            ("from sample", "there is no dataset sample; the dataset is called samples"),
            ("from __changed_0", "there is no dataset __changed_0; the dataset is called samples"),
            ("select * frm samples", 'syntax error at or near "samples", here: select * frm ^samples'),
            ("select 1; select 2", "these are 2 queries"),
            ("", "the query is empty"),
            ("select 1 from samples where key = dog", "there is no column dog; there are key, shard, row, size.cls"),
            ("select 1 from samples where key = dog", "; a text has single quotes: 'dog'"),
            ("copy (select 1) to 'images-@2.tar.parquet' (use_tmp_file false)", "only queries are run"),
            ("copy samples to 'x.csv'", "only queries are run"),
            ("attach 'x.db'", "only queries are run"),
            ("install httpfs", "only queries are run"),
            ("set enable_external_access = true", "only queries are run"),
            ("create table x as select 1", "only queries are run"),
            ("select * from read_csv('/etc/passwd')", "disabled by configuration"),
            ("select * from glob('/*')", "disabled by configuration"),
            ("from 'images-0.tar'", "there is no dataset images-0.tar; the dataset is called samples"),
            ("select cls + txt from samples", "the query cannot be run"),
            ("select 1::int from samples where key::int = 1", "the query cannot be run: Could not convert string"),
        ],
    )
    def test_what_is_refused(self, folder: Path, text: str, message: str) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert message in fails(folder, "images-@2.tar", text)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_without_a_table(self, folder: Path, tmp_path: Path) -> None:
        written_dataset(tmp_path, "images-@2.tar", IMAGES)
        message = fails(tmp_path, "images-@2.tar", "from samples")
        assert "images-@2.tar" in message
        assert "the dataset has no table; make it with htindex --table" in message
        with pytest.raises(TypeError, match="a condition is a text"):
            shardtools.open(str(tmp_path / "images-@2.tar")).where(None)  # type: ignore[arg-type]
        assert shardtools.sql.__name__ == "sql"
        assert shardtools.sql("select count(*) from samples", str(folder / "images-@2.tar")).fetchall()[0][0] > 0
        contradicting = ("-o", tmp_path / "x.csv", "--format", "parquet")
        assert "does not fit --format parquet" in fails(folder, "images-@2.tar", "from samples", *contradicting)
        assert "says no format" in fails(folder, "images-@2.tar", "from samples", "-o", tmp_path / "x.txt")

    @pytest.mark.parametrize(
        ("named", "status", "message"),
        [
            ("imags-@2.tar", 1, "imags-0.tar: there is no such file; did you mean images-@2.tar?"),
            ("images-@4.tar", 1, "images-2.tar: there is no such file; did you mean images-@2.tar?"),
            ("1x=images-@2.tar", 2, "'1x' is not a name for a dataset; write it as a=SRC"),
            ("a=", 2, "a= names no dataset; write it as a=SRC"),
            ("a b=images-@2.tar", 2, "'a b' is not a name for a dataset; write it as a=SRC"),
            ("./k=v-@2.tar", 1, "k=v-0.tar: there is no such file"),
        ],
    )
    def test_a_dataset_that_is_not_there(self, folder: Path, named: str, status: int, message: str) -> None:
        assert message in query(folder, named, "select 1").error(status)

    def test_a_table_that_does_not_fit(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "images-@2.tar", IMAGES)
        shardtools.index(str(tmp_path / "images-@2.tar"), table=True)
        written_dataset(tmp_path, "images-@2.tar", [IMAGES[0], IMAGES[1][1:]])
        assert query(tmp_path, "images-@2.tar", "select count(*) as n from samples").out.split() == ["n", "15"]
        written_dataset(tmp_path, "images-@2.tar", [IMAGES[0][2:], IMAGES[1][1:]])
        message = fails(tmp_path, "images-@2.tar", "from samples")
        assert "the table describes none of 2 shards as they are; make it with htindex --table" in message


class TestPython:
    def test_a_relation(self, folder: Path) -> None:
        ds = shardtools.open(str(folder / "images-@2.tar"))
        assert ds.sql("select max(json.width) from samples").fetchall() == [(700,)]
        assert ds.table().to_arrow_table().column("key").to_pylist() == ds.keys
        assert ds.table().filter("cls = 1").count("*").fetchall() == [(6,)]

    def test_chosen_samples(self, folder: Path) -> None:
        ds = shardtools.open(str(folder / "images-@2.tar")).where("cls = 1")
        assert ds.sql("select count(*), min(cls), max(cls) from samples").fetchall() == [(len(ds), 1, 1)]
        assert sorted(ds.table().to_arrow_table().column("key").to_pylist()) == sorted(ds.keys)

    def test_names_of_columns(self, folder: Path) -> None:
        ds = shardtools.open(str(folder / "images-@2.tar"))
        for text in ("JSON.Width", '"json.width"', "samples.json.width", "s.json.width", 's."json.width"'):
            name = "samples" if text.startswith("samples") else "samples s"
            assert ds.sql(f"select max({text}) from {name}").fetchall() == [(700,)]
        text = (
            "with w as (select json.width as width, size.json as n from samples) select max(w.width), min(n) > 0 from w"
        )
        assert ds.sql(text).fetchall() == [(700, True)]

    def test_several_datasets(self, folder: Path) -> None:
        captions = shardtools.open(str(folder / "captions-@1.tar"))
        found = shardtools.sql(
            "select count(*) from a anti join b using (key)", a=str(folder / "images-@2.tar"), b=captions
        )
        assert found.fetchall() == [(8,)]
        with pytest.raises(JobError, match="only queries"):
            shardtools.sql("drop view a", a=captions)

    def test_over_a_server(self, folder: Path, tmp_path: Path) -> None:
        with recording_server(tmp_path) as server:
            for path in folder.iterdir():
                (server.root / path.name).write_bytes(path.read_bytes())
            found = shardtools.sql("from a", a=f"{server.url}images-@2.tar").filter("row > 0")
            gc.collect()  # the dataset is gone, and the downloaded table is still needed
            assert found.sum("row").fetchall() == [(56,)]
