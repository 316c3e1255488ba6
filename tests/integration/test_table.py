"""The table of a dataset, as htindex makes it: what is in it, and what happens when something is wrong."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shardtools as st
from shardtools.errors import JobError
from shardtools.query.table_file import read_facts
from shardtools.shards.sidecar import read_sidecar
from tests.cli.command import Argument, Outcome, call, check_failure
from tests.dask_cluster import dask_cluster
from tests.datasets import write_dataset, written_dataset
from tests.servers import NginxServer

Records = list[list[dict[str, Any]]]


def index(folder: Path, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program="htindex")


def columns_of(path: Path) -> dict[str, list[Any]]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    return {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}


def made(folder: Path, records: Records, *table: str, name: str = "d") -> dict[str, list[Any]]:
    """Return the table of a dataset of these records."""
    spec = f"{name}-@{len(records)}.tar"
    written_dataset(folder, spec, records)
    result = st.index(str(folder / spec), table=table or True).table
    assert result is not None and result.made
    return columns_of(folder / f"{spec}.parquet")


RECORDS: Records = [
    [
        {"key": f"dir/{shard}{row:03d}", "jpg": b"x" * (100 * row), "cls": row % 5, "txt": f"text {row}"}
        | ({"json": {"w": shard * 100 + row, "meta": {"ok": row % 2 == 0}}} if row != 3 else {})
        for row in range(shard + 4)
    ]
    for shard in range(4)
]


class TestRows:
    def test_it_has_what_the_shards_have(self, tmp_path: Path) -> None:
        found = made(tmp_path, RECORDS)
        rows = [(shard, row, record) for shard, some in enumerate(RECORDS) for row, record in enumerate(some)]
        assert found["key"] == [record["key"] for _, _, record in rows]
        assert list(zip(found["shard"], found["row"], strict=True)) == [(shard, row) for shard, row, _ in rows]
        assert found["cls"] == [record["cls"] for _, _, record in rows]
        assert found["txt"] == [record["txt"] for _, _, record in rows]
        assert found["json.w"] == [record.get("json", {}).get("w") for _, _, record in rows]
        assert found["json.meta.ok"] == [record.get("json", {}).get("meta", {}).get("ok") for _, _, record in rows]
        assert found["size.jpg"] == [len(record["jpg"]) for _, _, record in rows]
        assert found["crc32.jpg"] == [zlib.crc32(record["jpg"]) for _, _, record in rows]
        assert [size is None for size in found["size.json"]] == ["json" not in record for _, _, record in rows]

    def test_places_lead_to_the_data(self, tmp_path: Path) -> None:
        found = made(tmp_path, RECORDS)
        shards = [(tmp_path / f"d-{number}.tar").read_bytes() for number in range(4)]
        keys = [record["key"] for some in RECORDS for record in some]
        for at, (shard, block, blocks) in enumerate(zip(found["shard"], found["block"], found["blocks"], strict=True)):
            span = shards[shard][512 * block : 512 * (block + blocks)]
            assert span.startswith(f"{keys[at]}.cls".encode())
            start, size = found["offset.txt"][at], found["size.txt"][at]
            assert span[start : start + size].decode() == found["txt"][at]

    @pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
    def test_samples_of_other_programs(self, tmp_path: Path, ending: str) -> None:
        spec = write_dataset(tmp_path, 3, 20, ending=ending)
        outcome = index(tmp_path, "--table", spec)
        assert outcome.status == 0 and f"{spec}.parquet: cls, txt; made" in outcome.out
        found = columns_of(tmp_path / f"{spec}.parquet")
        assert found["key"][21] == "1/0001" and found["cls"] == [row % 10 for row in range(20)] * 3
        assert {path.name for path in tmp_path.glob("*.parquet")} == {f"{spec}.parquet"}

    def test_an_empty_dataset(self, tmp_path: Path) -> None:
        assert made(tmp_path, [[], []])["key"] == []
        assert made(tmp_path, [[], [{"key": "a", "cls": 1}], []], name="e")["cls"] == [1]

    def test_keys_that_are_not_ascii(self, tmp_path: Path) -> None:
        found = made(tmp_path, [[{"key": "dir/ä", "cls": 1}, {"key": "dir/\udcff", "cls": 2}]])
        assert found["key"] == ["dir/ä", "dir/\\xff"]

    def test_it_is_compact(self, tmp_path: Path) -> None:
        """At most 12 bytes a sample, 4 of which are the checksums of images, if there are many."""
        count = 20_000
        records = [
            {"key": f"dir/{i:08d}", "jpg": b"%d" % (i * 7919) * (i % 97), "cls": i * i % 1000} for i in range(count)
        ]
        made(tmp_path, [records])
        assert (tmp_path / "d-@1.tar.parquet").stat().st_size < 12 * count


class TestTypes:
    def test_a_column_of_shards_with_different_types(self, tmp_path: Path) -> None:
        shards: Records = [
            [{"key": "a", "json": {"n": 1, "mixed": 1, "wide": 2**60, "big": 5, "none": None}}],
            [{"key": "b", "json": {"n": 1.5, "mixed": "x", "wide": 0.5, "big": 2**64 - 1}}],
            [{"key": "c", "json": {}}],
        ]
        found = made(tmp_path, shards)
        assert found["json.n"] == [1.0, 1.5, None] and found["json.mixed"] == ["1", "x", None]
        assert found["json.wide"] == [str(2**60), "0.5", None]
        assert [None if value is None else int(value) for value in found["json.big"]] == [5, 2**64 - 1, None]
        assert found["json.none"] == [None] * 3

    def test_integers_are_exact(self, tmp_path: Path) -> None:
        found = made(tmp_path, [[{"key": "a", "json": {"id": 9007199254740993}, "cls": -(2**63)}]])
        assert (found["json.id"], found["cls"]) == ([9007199254740993], [-(2**63)])

    def test_what_is_no_json_is_null_and_counted(self, tmp_path: Path) -> None:
        records = [{"key": f"{i:04d}", "json": {"i": i}, "cls": i} for i in range(1000)]
        records[77] = {"key": "0077", "json": b"{bad", "cls": b"seven"}
        written_dataset(tmp_path, "d-@1.tar", [records])
        outcome = index(tmp_path, "--table", "d-@1.tar")
        assert outcome.status == 0
        assert sorted(outcome.err.splitlines()) == [
            "htindex: note: 1 values left out: cls: not a number",
            "htindex: note: 1 values left out: json: not JSON",
        ]
        found = columns_of(tmp_path / "d-@1.tar.parquet")
        assert [at for at, value in enumerate(found["json.i"]) if value is None] == [77]
        assert found["cls"] == [*range(77), None, *range(78, 1000)]

    def test_names_that_differ_in_case_alone(self, tmp_path: Path) -> None:
        records = [{"key": f"{i}", "json": {"A": i, "a": 9, "b": i}, "txt": "x", "TXT": f"{i}"} for i in range(3)]
        written_dataset(tmp_path, "d-@1.tar", [records])
        result = st.index(spec := str(tmp_path / "d-@1.tar"), table=True).table
        what = "left out, as other names differ from these in capital letters alone: TXT, json.A, json.a, txt"
        assert result is not None and result.notes == (what,)
        assert "json.b" in columns_of(tmp_path / "d-@1.tar.parquet")
        ds = st.open(spec)
        found = {where: len(ds.where(where)) for where in ("txt = 'x'", "TXT = '1'", "json.a = 9", "json.A = 2")}
        assert list(found.values()) == [3, 1, 3, 1]
        with pytest.raises(JobError, match="no column txt"):
            ds.sql("select txt, TXT from samples")


class TestFields:
    def test_those_that_are_asked_for(self, tmp_path: Path) -> None:
        found = made(tmp_path, RECORDS, "json.w", "txt:3")
        assert "cls" not in found and "json.meta.ok" not in found
        assert found["txt"][:2] == ["tex", "tex"] and found["json.w"][0] == 0
        assert read_facts(str(tmp_path / "d-@4.tar.parquet")).cut == ("txt",)

    def test_large_fields_only_if_asked_for(self, tmp_path: Path) -> None:
        records = [[{"key": "a", "txt": "long " * 300, "cls": 1}]]
        assert "txt" not in made(tmp_path, records)
        assert made(tmp_path, records, "txt", name="e")["txt"] == ["long " * 300]

    @pytest.mark.parametrize("field", ["jpg", "nope", "size.jpg", "json.nope", "key"])
    def test_what_does_not_exist(self, tmp_path: Path, field: str) -> None:
        written_dataset(tmp_path, "d-@4.tar", RECORDS)
        message = check_failure("--table", "-f", field, "d-@4.tar", cwd=tmp_path, status=2, program="htindex")
        assert field in message
        assert "fields with values: cls, json, txt" in message or "no sample has json.nope" in message
        assert not (tmp_path / "d-@4.tar.parquet").exists()

    def test_too_many_paths(self, tmp_path: Path) -> None:
        records = [{"key": f"{i:04d}", "json": {f"p{i}_{j}": j for j in range(60)}, "cls": i} for i in range(100)]
        written_dataset(tmp_path, "d-@2.tar", [records[:50], records[50:]])
        outcome = index(tmp_path, "--table", "d-@2.tar")
        assert outcome.err.startswith("htindex: note: the field json has more than 1,000 paths, which are left out")
        assert [name for name in columns_of(tmp_path / "d-@2.tar.parquet") if name.startswith("json")] == []
        check_failure("--table", "--overwrite", "-f", "json", "d-@2.tar", cwd=tmp_path, status=2, program="htindex")
        assert index(tmp_path, "--table", "--overwrite", "-f", "json.p70_5", "d-@2.tar").status == 0
        assert columns_of(tmp_path / "d-@2.tar.parquet")["json.p70_5"][70] == 5

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--table", "--check", "d-@4.tar"],
            ["--table", "d-0.tar", "d-1.tar"],
            ["--table", "d-*.tar"],
            ["--table", "-f", "txt:none", "d-@4.tar"],
            ["--table", "-f", "txt:0", "d-@4.tar"],
        ],
    )
    def test_options_that_make_no_sense(self, tmp_path: Path, arguments: list[str]) -> None:
        written_dataset(tmp_path, "d-@4.tar", RECORDS)
        check_failure(*arguments, cwd=tmp_path, status=2, program="htindex")
        assert index(tmp_path, "-f", "cls", "d-@4.tar").status == 2


class TestRuns:
    def test_one_that_fits_is_kept(self, tmp_path: Path) -> None:
        made(tmp_path, RECORDS)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert "is up to date" in index(tmp_path, "--table", "d-@4.tar").out
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
        table = tmp_path / "d-@4.tar.parquet"
        content = table.read_bytes()
        assert "; made" in index(tmp_path, "--table", "--overwrite", "d-@4.tar").out
        assert table.read_bytes() == content

    def test_a_changed_shard_makes_it_anew(self, tmp_path: Path) -> None:
        made(tmp_path, RECORDS)
        changed = [[dict(record) for record in some] for some in RECORDS]
        changed[2][1]["cls"] = 9
        written_dataset(tmp_path, "d-@4.tar", changed)
        assert "; made" in index(tmp_path, "--table", "d-@4.tar").out
        assert columns_of(tmp_path / "d-@4.tar.parquet")["cls"][4 + 5 + 1] == 9

    def test_one_that_was_stopped_continues(self, tmp_path: Path) -> None:
        """The parts of shards that are done are not made again; those of another question or shard are."""
        written_dataset(tmp_path, "d-@4.tar", RECORDS)
        sidecar = read_sidecar(str(tmp_path / "d-3.tar"), None)
        assert sidecar is not None
        (tmp_path / "d-3.tar").write_bytes(b"\0" * sidecar.filesize)  # its sidecar matches, its data does not
        check_failure("--table", "-j", "1", "d-@4.tar", cwd=tmp_path, program="htindex")
        parts = sorted(tmp_path.glob("d-@4.tar.part-*.arrow"))
        assert len(parts) == 3 and not (tmp_path / "d-@4.tar.parquet").exists()
        before = {path: path.stat().st_mtime_ns for path in parts}
        check_failure("--table", "-j", "1", "d-@4.tar", cwd=tmp_path, program="htindex")
        assert {path: path.stat().st_mtime_ns for path in parts} == before
        changed = [[dict(record) for record in some] for some in RECORDS]
        changed[1][1]["cls"] = 9
        written_dataset(tmp_path, "d-@4.tar", changed)
        parts[0].write_bytes(b"nothing")
        assert index(tmp_path, "--table", "d-@4.tar").status == 0
        found = columns_of(tmp_path / "d-@4.tar.parquet")
        assert found == made(tmp_path, changed, name="e")
        assert list(tmp_path.glob("*.part-*")) == []

    def test_it_is_the_same_however_it_is_run(self, tmp_path: Path) -> None:
        made(tmp_path, RECORDS)
        data = (tmp_path / "d-@4.tar.parquet").read_bytes()
        st.index(str(tmp_path / "d-@4.tar"), table=True, overwrite=True, cluster="processes", jobs=2)
        assert (tmp_path / "d-@4.tar.parquet").read_bytes() == data

    def test_files_beyond_a_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = made(tmp_path, RECORDS, name="e")
        monkeypatch.setattr("shardtools.jobs.table.merge.FILE_ROWS", 8)
        monkeypatch.setattr("shardtools.jobs.table.merge.GROUP_ROWS", 1)
        first = made(tmp_path, RECORDS)
        second = columns_of(tmp_path / "d-@4.tar.1.parquet")
        assert {name: first[name] + second[name] for name in first} == whole
        assert (len(first["key"]), len(second["key"])) == (9, 13)

    def test_groups_of_rows_follow_shards(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from pyarrow import parquet

        monkeypatch.setattr("shardtools.jobs.table.merge.GROUP_ROWS", 8)
        made(tmp_path, RECORDS)
        metadata = parquet.read_metadata(tmp_path / "d-@4.tar.parquet")
        assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [9, 13]

    def test_over_a_server_and_a_cluster(self, tmp_path: Path, nginx: NginxServer) -> None:
        written_dataset(tmp_path, "d-@4.tar", RECORDS)
        expected = made(tmp_path, RECORDS)
        for path in tmp_path.glob("d-?.tar"):
            (nginx.root / path.name).write_bytes(path.read_bytes())
        with dask_cluster(2) as cluster:
            result = st.index(f"{nginx.url}d-@4.tar", table=True, cluster=cluster.address)
        assert result.table is not None and result.table.samples == 22
        assert columns_of(nginx.root / "d-@4.tar.parquet") == expected


def test_what_a_table_says_of_itself(tmp_path: Path) -> None:
    made(tmp_path, RECORDS)
    facts = read_facts(str(tmp_path / "d-@4.tar.parquet"))
    manifest: Mapping[str, Any] = json.loads((tmp_path / "d-@4.tar.json").read_text())
    assert [(shard.name, shard.samples, shard.filesize, shard.checksum) for shard in facts.shards] == [
        tuple(shard[name] for name in ("url", "nsamples", "filesize", "checksum")) for shard in manifest["shardlist"]
    ]
    assert facts.kinds == {"cls": "int", "json.meta.ok": "bool", "json.w": "int", "txt": "text"}
    with pytest.raises(JobError, match="one dataset"):
        st.index([str(tmp_path / "d-0.tar"), str(tmp_path / "d-1.tar")], table=True)


class TestDimensions:
    """Widths and heights of images, from their first kilobytes."""

    @staticmethod
    def records() -> Records:
        rng = np.random.default_rng(1)
        records: Records = [[], []]
        for i in range(12):
            width, height = 20 + 7 * i, 90 - 5 * i
            image = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
            file = io.BytesIO()
            profile = b"\0" * 20_000 if i % 4 == 1 else None  # the size comes after it
            image.save(file, ["jpeg", "png", "webp"][i % 3], icc_profile=profile)
            name = ["jpg", "png", "webp"][i % 3]
            records[i % 2].append({"key": f"{i:02d}", name: file.getvalue(), "cls": i, "json": [width, height]})
        records[1].append({"key": "bad", "jpg": b"no image", "cls": 99})
        return records

    @pytest.mark.parametrize("ending", ["tar", "tgz"])
    def test_columns(self, tmp_path: Path, ending: str) -> None:
        spec = f"d-@2.{ending}"
        written_dataset(tmp_path, spec, self.records())
        outcome = index(tmp_path, "--table", "--dimensions", spec)
        assert outcome.status == 0 and outcome.err == "htindex: note: 1 values left out: jpg: not an image\n"
        found = columns_of(tmp_path / f"{spec}.parquet")
        for at, number in enumerate(found["cls"]):
            name = ["jpg", "png", "webp"][number % 3]
            sizes = [] if number == 99 else [20 + 7 * number, 90 - 5 * number]
            assert [found[f"{name}.{side}"][at] for side in ("width", "height")] == (sizes or [None, None])
            others = [found[f"{other}.width"][at] for other in ("jpg", "png", "webp") if other != name]
            assert others == [None, None] or number == 99

    def test_conditions(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "d-@2.tar", self.records())
        expected = [f"{i:02d}" for i in (0, 3, 6, 9) if 20 + 7 * i > 40 and 90 - 5 * i > 50]
        for table in (False, True):
            if table:
                st.index(str(tmp_path / "d-@2.tar"), table=["cls"], dimensions=True)
            ds = st.open(str(tmp_path / "d-@2.tar"))
            assert sorted(ds.where("jpg.width > 40 and JPG.Height > 50").keys) == expected == ["03", "06"]
            with pytest.raises(JobError, match=r"names cls.width, .* jpg.width, jpg.height"):
                ds.where("cls.width > 4")

    def test_they_are_added_to_a_table(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "d-@2.tar", self.records())
        assert "jpg.width" not in index(tmp_path, "--table", "d-@2.tar").out
        assert "jpg.width" in index(tmp_path, "--table", "--dimensions", "d-@2.tar").out
        assert "is up to date" in index(tmp_path, "--table", "--dimensions", "d-@2.tar").out
        assert "needs --table" in check_failure("--dimensions", "d-@2.tar", cwd=tmp_path, status=2, program="htindex")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a script that changes nothing, and a folder of texts."""
    folder = tmp_path_factory.mktemp("along")
    written_dataset(folder, "d-@4.tar", RECORDS)
    (folder / "same.py").write_text("def process_sample(record):\n    return record\n")
    (folder / "texts").mkdir()
    for name in ("a", "b", "c"):
        (folder / "texts" / f"{name}.txt").write_text(f"text {name}")
    return folder


class TestAlong:
    """``--table`` of the programs that write datasets: as htindex --table makes it afterwards."""

    @pytest.mark.parametrize(
        ("program", "arguments"),
        [
            ("htmapper", ["-p", "same.py", "d-@4.tar", "htmapper-@4.tgz"]),
            ("htshuffle", ["--seed", "1", "d-@4.tar", "htshuffle-@3.tgz"]),
            ("htsort", ["--by", "cls:int", "d-@4.tar", "htsort-@000002.tgz"]),
            ("htupload", ["texts", "htupload-@2.tgz"]),
        ],
    )
    def test_it_is_that_of_htindex(self, folder: Path, program: str, arguments: list[str]) -> None:
        outcome = call("--table", "--table-field", "txt:3", *arguments, cwd=folder, program=program)
        spec = arguments[-1]
        assert outcome.status == 0 and f"{folder / spec}.parquet: txt; made" in outcome.out
        before = [(folder / f"{spec}.{ending}").read_bytes() for ending in ("parquet", "keys")]
        assert "is up to date" in index(folder, "--table", "-f", "txt:3", spec).out
        assert columns_of(folder / f"{spec}.parquet")["txt"][0] == "tex"
        (folder / f"{spec}.parquet").unlink()
        again = call("--table", "--resume", *arguments, cwd=folder, program=program)
        assert again.status == 0 and "; made" in again.out and "there already" in again.out
        index(folder, "--table", "-f", "txt:3", "--overwrite", spec)
        assert [(folder / f"{spec}.{ending}").read_bytes() for ending in ("parquet", "keys")] == before

    def test_in_python(self, folder: Path, tmp_path: Path) -> None:
        [table] = st.shuffle(str(folder / "d-@4.tar"), str(tmp_path / "e-@auto.tar"), table=["cls"]).tables
        assert (table.columns, table.samples, table.made) == (("cls",), sum(map(len, RECORDS)), True)
        split = st.upload(
            str(folder / "texts"), str(tmp_path / "{split}-@1.tar"), split={"a": 0.5, "b": 0.5}, table=True
        )
        assert [Path(one.files[0]).name for one in split.tables] == ["a-@1.tar.parquet", "b-@1.tar.parquet"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--dimensions"], "--dimensions needs --table"),
            (["--table", "--table-field", "txt:none"], "the fields of a table are wrong"),
        ],
    )
    def test_bad_options(self, folder: Path, arguments: list[str], message: str) -> None:
        said = check_failure("-p", "same.py", *arguments, "d-@4.tar", "no-@4.tar", cwd=folder, status=2)
        assert message in said and not list(folder.glob("no-*"))

    def test_standard_output_has_none(self, folder: Path) -> None:
        said = check_failure("-p", "same.py", "--table", "d-0.tar", "-", cwd=folder, status=2)
        assert "what goes to standard output has no table" in said

    def test_a_field_that_does_not_exist(self, folder: Path) -> None:
        """The dataset is complete; the same job makes the table when it is asked rightly."""
        arguments = ["-p", "same.py", "--table", "d-@4.tar", "late-@4.tar"]
        outcome = call("--table-field", "nope", *arguments, cwd=folder)
        assert outcome.status == 2 and "error: nope is not a field with values" in outcome.err
        assert (folder / "late-@4.tar.json").exists()
        assert call("--table-field", "cls", "--resume", *arguments, cwd=folder).status == 0
        assert columns_of(folder / "late-@4.tar.parquet")["cls"][:4] == [0, 1, 2, 3]


def test_a_table_does_not_lose_columns_unasked(tmp_path: Path) -> None:
    written_dataset(tmp_path, "d-@4.tar", RECORDS)
    assert index(tmp_path, "-q", "--table", "d-@4.tar").status == 0
    before = (tmp_path / "d-@4.tar.parquet").read_bytes()
    refused = index(tmp_path, "--table", "-f", "cls", "-f", "json", "d-@4.tar").error()
    assert "the table that is there also has txt; add these with -f, or replace the table with --overwrite" in refused
    assert (tmp_path / "d-@4.tar.parquet").read_bytes() == before
    assert index(tmp_path, "-q", "--table", "--overwrite", "-f", "cls", "d-@4.tar").status == 0
    assert set(read_facts(str(tmp_path / "d-@4.tar.parquet")).kinds) == {"cls"}
