"""Tables on a server: only the columns that are asked for are fetched, once with a cache."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import shardtools
from shardtools.errors import ChangedError
from shardtools.query.duck import connect, literal
from shardtools.query.partial_file import PartialFile
from tests.datasets import written_dataset
from tests.servers import NginxServer, wait_until

NAME = "d-@2.tar"
SAMPLES = 1_500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("remote"), random.Random(0)
    records = [
        [{"key": f"{shard}{i:05d}", "cls": i % 100, "txt": f"{rng.getrandbits(200):x}"} for i in range(SAMPLES)]
        for shard in range(2)
    ]
    written_dataset(folder, NAME, records)
    shardtools.index(str(folder / NAME), table=True)
    return folder


@pytest.fixture
def server(nginx: NginxServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> NginxServer:
    monkeypatch.setattr("shardtools.query.partial_file._END", 1 << 12)
    for path in folder.iterdir():
        (nginx.root / path.name).write_bytes(path.read_bytes())
        os.utime(nginx.root / path.name, (1e9, 1e9))  # a cache keeps nothing that was written just now
    return nginx


def table_bytes(server: NginxServer) -> list[int]:
    """Return the bytes of each answer to a GET of the table so far."""
    return [size for method, size in table_requests(server) if method == "GET"]


def table_requests(server: NginxServer) -> list[tuple[str, int]]:
    """Return method and bytes of each answer about the table so far."""
    (server.root / "end").touch()
    shardtools.storage.get_storage(server.url).read(f"{server.url}end")
    wait_until(lambda: "/end " in server.log_path.read_text(), "the log")
    lines = server.log_path.read_text().splitlines()
    server.log_path.write_text("")
    asked = [(line.split('"')[1].split(), line.split('"')[2].split()) for line in lines]
    return [(method, int(size)) for (method, path, _), (_, size, *_) in asked if path == f"/{NAME}.parquet"]


class TestColumns:
    def test_a_condition_fetches_its_columns(self, server: NginxServer, folder: Path) -> None:
        whole = (folder / f"{NAME}.parquet").stat().st_size
        ds = shardtools.open(f"{server.url}{NAME}")
        found = ds.where("cls < 3")
        assert found.keys == shardtools.open(str(folder / NAME)).where("cls < 3").keys and len(found) == 90
        [end, *columns] = table_bytes(server)
        assert end <= 1 << 12 and sum(columns) < whole / 8 and len(columns) == 1
        ds.where("cls = 50")
        assert table_bytes(server) == []
        assert len(ds.where("txt like 'a%'")) > 0
        [txt] = table_bytes(server)
        assert whole / 8 < txt < whole

    @pytest.mark.parametrize(("end", "first", "more"), [(1 << 12, "HEAD GET", "GET HEAD"), (1 << 18, "HEAD GET", "")])
    def test_as_many_requests_as_the_docs_say(
        self, server: NginxServer, monkeypatch: pytest.MonkeyPatch, end: int, first: str, more: str
    ) -> None:
        monkeypatch.setattr("shardtools.query.partial_file._END", end)
        ds = shardtools.open(f"{server.url}{NAME}")
        assert ds.sql("select count(*) from samples").fetchall() == [(2 * SAMPLES,)]
        assert " ".join(method for method, _ in table_requests(server)) == first
        for asked in (more, ""):
            assert len(ds.where("cls < 3")) == 90
            assert " ".join(method for method, _ in table_requests(server)) == asked

    def test_a_query_fetches_the_columns_that_it_names(self, server: NginxServer, folder: Path) -> None:
        whole, here = (folder / f"{NAME}.parquet").stat().st_size, shardtools.open(str(folder / NAME))
        few = [
            "select cls, count(*) as n from samples group by cls order by n, cls",
            "with t as (select size.txt as s from samples) select max(s) from t",
            "select count(*) from samples a join samples b using (row) where a.cls = 3",
        ]
        for query in few:
            ds = shardtools.open(f"{server.url}{NAME}")
            assert ds.sql(query).fetchall() == here.sql(query).fetchall()
            assert sum(table_bytes(server)) < whole / 4
        for query in (
            "from samples",
            "select s from samples s",
            "select #1 from samples",
            "select a from samples t(a)",
        ):
            ds = shardtools.open(f"{server.url}{NAME}")
            assert sorted(map(str, ds.sql(query).fetchall())) == sorted(map(str, here.sql(query).fetchall()))

    def test_a_cache_keeps_them(self, server: NginxServer, tmp_path: Path) -> None:
        for expected in (2, 0):
            ds = shardtools.open(f"{server.url}{NAME}", cache=str(tmp_path / "cache"))
            assert len(ds.where("cls < 3")) == 90
            assert len(table_bytes(server)) == expected

    def test_a_column_that_was_not_fetched_is_an_error(self, server: NginxServer, tmp_path: Path) -> None:
        import duckdb

        file = PartialFile(f"{server.url}{NAME}.parquet", str(tmp_path / "x.parquet"))
        file.fetch(["cls"])
        connection = connect([file.path])
        source = f"FROM read_parquet({literal(file.path)})"
        assert connection.execute(f"SELECT sum(cls) {source}").fetchall() == [(2 * 15 * 4950,)]
        with pytest.raises(duckdb.Error):
            connection.execute(f"SELECT count(*) {source} WHERE txt LIKE 'a%'").fetchall()

    def test_one_that_was_replaced(self, server: NginxServer, tmp_path: Path) -> None:
        file = PartialFile(f"{server.url}{NAME}.parquet", str(tmp_path / "x.parquet"))
        path = server.root / f"{NAME}.parquet"
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(ChangedError, match="was replaced"):
            file.fetch(["cls"])
