"""Manifests as sources of samples: rows of CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import (
    ChangedError,
    CorruptError,
    DuplicateKeyError,
    FieldError,
    JobError,
    LimitError,
    NotFoundError,
    RefusedError,
    SampleError,
    ShardtoolsError,
    SpecError,
)
from shardtools.jobs.upload import UploadOptions
from shardtools.limits import Limits
from shardtools.shards.fields import decode
from shardtools.sources import parquet
from shardtools.sources.rows import RowsBuilder
from shardtools.sources.table import TableRules, TableSource, file_place, open_table
from shardtools.storage import StorageOptions, using
from tests.datasets import upload_source
from tests.servers import NginxServer

LABELS = TableRules(values=(("cls", "label"),))


def records(source: TableSource, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Read samples as a task does, from a part that was sent to it."""
    part = source.part(np.arange(len(source)) if rows is None else np.array(rows, np.int64))
    part = pickle.loads(pickle.dumps(part))
    try:
        found = [part.record(row) for row in range(len(part))]
        assert [record["key"] for record in found] == [part.key(row) for row in range(len(part))]
    finally:
        part.close()
    return found


def write_csv(path: Path, rows: Sequence[Sequence[object]], **options: Any) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows(rows)
    return str(path)


def write_json(path: Path, rows: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def write(path: Path, columns: dict[str, list[Any]]) -> str:
    """Write a table of the kind that the path's ending says."""
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        return write_parquet(path, columns)
    if path.suffix in (".jsonl", ".ndjson"):
        return write_json(path, [dict(zip(columns, row, strict=True)) for row in rows])
    return write_csv(path, [list(columns), *rows], delimiter="\t" if path.suffix == ".tsv" else ",")


ENDINGS = ["csv", "tsv", "jsonl", "ndjson", "parquet"]


@pytest.fixture(params=ENDINGS)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The path of a table that is not there yet, in a folder with images."""
    (tmp_path / "img").mkdir()
    for i in range(5):
        (tmp_path / "img" / f"{i}.jpg").write_bytes(b"jpg %d" % i)
    return tmp_path / f"table.{request.param}"


FILES_AND_LABELS = TableRules((("jpg", "path"),), (("cls", "label"), ("txt", "caption")))


def columns_of(count: int) -> dict[str, list[Any]]:
    return {
        "id": [f"s{i}" for i in range(count)],
        "path": [f"img/{i}.jpg" for i in range(count)],
        "label": [i * 7 for i in range(count)],
        "caption": [f'käse, "{i}"\n\tline two' for i in range(count)],
    }


def expected(i: int) -> dict[str, Any]:
    caption = f'käse, "{i}"\n\tline two'.encode()
    return {"key": f"s{i}", "jpg": b"jpg %d" % i, "cls": b"%d" % (i * 7), "txt": caption}


def test_files_and_values(table: Path) -> None:
    source = open_table(write(table, columns_of(5)), FILES_AND_LABELS)
    assert len(source) == 5 and source.random_access
    assert [source.key(row) for row in range(5)] == ["s0", "s1", "s2", "s3", "s4"]
    assert records(source) == [expected(i) for i in range(5)]
    assert records(source, [3, 0, 4]) == [expected(3), expected(0), expected(4)]
    assert records(source, []) == []


def test_a_part_has_its_own_rows_alone(table: Path) -> None:
    source = open_table(write(table, columns_of(5)), FILES_AND_LABELS)
    sent = pickle.dumps(source.part(np.array([3])))
    assert b"s3" in sent and b"s2" not in sent
    assert len(pickle.dumps(source.part(np.arange(5)))) < 5000


def test_the_ending_decides_in_any_case(tmp_path: Path) -> None:
    os.rename(write(tmp_path / "a.tsv", {"label": ["1"]}), tmp_path / "a.TSV")
    assert records(open_table(str(tmp_path / "a.TSV"), LABELS)) == [{"key": "000000000", "cls": b"1"}]
    for name in ("a.txt", "a", "a.csv.gz"):
        with pytest.raises(JobError, match=r"this kind of table cannot be read.*\.csv, \.tsv, \.jsonl"):
            open_table(str(tmp_path / name), LABELS)


def test_sizes_are_those_of_members(table: Path) -> None:
    (table.parent / "img" / "1.jpg").write_bytes(bytes(10_000))
    columns = columns_of(5)
    columns["path"][4] = "img/missing.jpg"
    sizes = open_table(write(table, columns), FILES_AND_LABELS).sizes()
    small = 3 * 1024
    assert sizes[1] - sizes[0] == 20 * 512 - 512
    assert sizes[0] == sizes[2] and abs(int(sizes[0]) - small) < 1024
    assert sizes[0] - sizes[4] == 512


def test_relative_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data" / "sub"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "up.bin").write_bytes(b"up")
    (tmp_path / "else.bin").write_bytes(b"else")
    odd = " #%41?é\n.bin"
    (folder / odd).write_bytes(b"odd")
    (folder / "-").write_bytes(b"dash")
    paths = ["../up.bin", str(tmp_path / "else.bin"), f"file://{tmp_path}/else.bin", odd, "-"]
    write_csv(folder / "m.csv", [["path"], *([path] for path in paths)])
    monkeypatch.chdir(tmp_path / "data")
    source = open_table("sub/m.csv", TableRules((("bin", "path"),)))
    monkeypatch.chdir("/")
    assert [record["bin"] for record in records(source)] == [b"up", b"else", b"else", b"odd", b"dash"]


def test_the_folder_of_a_url() -> None:
    rules = [
        ("a.png", "http://h/d/m.csv", "http://h/d/a.png"),
        ("../a%20 b#?.png", "https://u:p@h/d/m.csv?t=1", "https://u:p@h/a%2520%20b%23%3F.png"),
        ("x/../a b.png", "s3://bucket/d/m.csv", "s3://bucket/d/a b.png"),
        ("gs://b/a.png", "http://h/m.csv", "gs://b/a.png"),
        ("/data/a.png", "http://h/m.csv", "/data/a.png"),
    ]
    assert [file_place(path, table) for path, table, _ in rules] == [place for _, _, place in rules]


def test_a_table_and_its_files_on_a_server(nginx: NginxServer, table: Path) -> None:
    columns = columns_of(4)
    columns["path"][1] = f"{nginx.url}one.jpg"
    columns["path"][2] = str(table.parent / "img" / "2.jpg")
    columns["path"][3] = "img/odd #3.jpg"
    (nginx.root / "img").mkdir()
    for i, name in enumerate(["img/0.jpg", "one.jpg", "", "img/odd #3.jpg"]):
        if name:
            (nginx.root / name).write_bytes(b"jpg %d" % i)
    write(table, columns)
    (nginx.root / table.name).write_bytes(table.read_bytes())
    source = open_table(nginx.url + table.name, FILES_AND_LABELS)
    assert records(source) == [expected(i) for i in range(4)]
    assert len(set(source.sizes().tolist())) == 1
    (nginx.root / "one.jpg").unlink()
    with pytest.raises(NotFoundError, match=rf"one.jpg \[s1.jpg\]: .*(line|row) \d of {nginx.url}{table.name}"):
        records(source)


# keys


@pytest.mark.parametrize("column", ["key", "__key__", "id"])
def test_columns_that_are_keys_unless_told_otherwise(table: Path, column: str) -> None:
    write(table, {"label": [1, 2], column: ["a/b", "c"]})
    assert [record["key"] for record in records(open_table(str(table), LABELS))] == ["a/b", "c"]
    numbered = open_table(str(table), TableRules(values=LABELS.values, key="number"))
    assert [record["key"] for record in records(numbered)] == ["000000000", "000000001"]


def test_a_column_is_named_for_the_keys(table: Path) -> None:
    write(table, {"id": ["x", "y"], "label": [10, 2]})
    source = open_table(str(table), TableRules(values=LABELS.values, key="label"))
    assert records(source) == [{"key": "10", "cls": b"10"}, {"key": "2", "cls": b"2"}]


def test_a_column_called_number_is_one(table: Path) -> None:
    write(table, {"number": ["x"], "label": [1]})
    assert open_table(str(table), TableRules(values=LABELS.values, key="number")).key(0) == "x"


@pytest.mark.parametrize("key", ["a.jpg", "a/", "./a", "x\0y"])
def test_what_cannot_be_a_key(table: Path, key: str) -> None:
    write(table, {"id": ["x", key], "label": [1, 2]})
    with pytest.raises(JobError, match=r"(line 3|row 1|line 2): .* is not a valid key; .*--key number"):
        open_table(str(table), LABELS)


def test_an_empty_key(table: Path) -> None:
    write(table, {"id": ["x", ""], "label": [1, 2]})
    with pytest.raises(JobError, match=r"(line 3|row 1|line 2) has no key"):
        open_table(str(table), LABELS)


def test_a_key_that_is_no_text(tmp_path: Path) -> None:
    for value in (1.5, True, [1], None):
        with pytest.raises(JobError, match=r"line 1.* (cannot be keys|no key)"):
            open_table(write_json(tmp_path / "a.jsonl", [{"id": value, "label": 1}]), LABELS)


def test_a_key_twice_names_both_rows(table: Path) -> None:
    write(table, {"id": ["a", "b", "c", "b", "a"], "label": list(range(5))})
    with pytest.raises(DuplicateKeyError, match=r"\[b\]: (lines 3 and 5|lines 2 and 4|rows 1 and 3) have the same key"):
        open_table(str(table), LABELS)


def test_keys_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtools.sources.rows.hash", lambda key: 7, raising=False)
    builder = RowsBuilder("t", "line", 0)
    for i in range(10):
        builder.add(i, f"k{i}", [])
    assert len(builder.finish()) == 10
    builder.add(10, "k4", [])
    with pytest.raises(DuplicateKeyError, match="lines 4 and 10"):
        builder.finish()


# CSV and TSV


def test_what_spreadsheets_write(tmp_path: Path) -> None:
    text = '\ufeffid,label,txt\r\n\r\na,1,"x\r\ny"\r\nb,2,"""q"", z"\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    source = open_table(str(tmp_path / "a.csv"), TableRules(values=(("cls", "label"), ("txt", "txt"))))
    assert records(source) == [
        {"key": "a", "cls": b"1", "txt": b"x\r\ny"},
        {"key": "b", "cls": b"2", "txt": b'"q", z'},
    ]
    assert [source.place(row).partition(" ")[2] for row in range(2)] == ["line 3", "line 5"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5), st.sampled_from(["csv", "tsv"])
)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str], ending: str) -> None:
    path = tmp_path_factory.mktemp("text") / f"a.{ending}"
    write(path, {"n": list(range(len(texts))), "text": texts})
    found = records(open_table(str(path), TableRules(values=(("caption", "text"),))))
    assert [record["caption"].decode() for record in found] == texts


def test_text_is_stored_so_that_it_reads_back(tmp_path: Path) -> None:
    fields = {"cls": "7", "txt": "7", "id": " -3 ", "json": '{"a": [1]}', "caption": "x", "meta.json.gz": "[1]"}
    write_csv(tmp_path / "a.csv", [["n", *fields], ["1", *fields.values()]])
    source = open_table(str(tmp_path / "a.csv"), TableRules(values=tuple((name, name) for name in fields), key="n"))
    (record,) = records(source)
    assert record["cls"] == b"7" and gzip.decompress(record["meta.json.gz"]) == b"[1]"
    read = {name: decode(name, record[name]) for name in fields}
    assert read == {"cls": 7, "txt": "7", "id": -3, "json": {"a": [1]}, "caption": b"x", "meta.json.gz": [1]}


@pytest.mark.parametrize(("field", "text"), [("cls", "cat"), ("cls", ""), ("json", "{"), ("jpg", "img/0.jpg")])
def test_text_that_would_not_read_back(tmp_path: Path, field: str, text: str) -> None:
    write_csv(tmp_path / "a.csv", [["id", "label"], ["x", text]])
    with pytest.raises(FieldError, match=rf"a.csv \[x.{field}\]: line 2: .*not .*; correct it, .* use --file"):
        records(open_table(str(tmp_path / "a.csv"), TableRules(values=((field, "label"),))))


def test_a_field_longer_than_the_csv_module_takes(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    text = "word " * 100_000
    write_csv(tmp_path / "a.csv", [["id", "text"], ["x", text]])
    assert (
        records(open_table(str(tmp_path / "a.csv"), TableRules(values=(("txt", "text"),))))[0]["txt"] == text.encode()
    )
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\nx,1\ny\n", "line 3 has 1 field, the header has 2"),
        ("id,label\nx,1,2\n", "line 2 has 3 fields, the header has 2"),
        ('id,label\n"a\nb",1\ny,"2" 3\n', "begins in line 4 cannot be read"),
        ('id,label\nx,1\ny,"2\nz,3\n', "begins in line 3 cannot be read"),
        ("id,label\rx,1\r", "end lines with LF"),
        ("id,label\nx,caf\xe9\n", "line 2 is not UTF-8"),
        ("id,label\n", "the table has no rows"),
        ("", "the table is empty"),
        ("\n\n", "the table is empty"),
        ("id,label,label\nx,1,2\n", "two columns are called 'label'"),
        ("a,b\nx,1\n", "there is no column 'label'; the columns are a, b"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(JobError, match=message) as caught:
        open_table(str(tmp_path / "a.csv"), LABELS)
    assert str(caught.value).startswith(str(tmp_path / "a.csv"))


# JSON lines


def test_json_values_keep_their_types(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "label": 3, "caption": "é", "meta": {"a": [1, None, 0.1]}, "lines": [1, {"b": 2}]},
        {"id": 2, "label": None, "meta": [True]},
    ]
    rules = TableRules(values=(("cls", "label"), ("txt", "caption"), ("json", "meta"), ("jsonl", "lines")))
    assert records(open_table(write_json(tmp_path / "a.jsonl", rows), rules)) == [
        {"key": "1", "cls": b"3", "txt": "é".encode(), "json": b'{"a": [1, null, 0.1]}', "jsonl": b'1\n{"b": 2}\n'},
        {"key": "2", "json": b"[true]"},
    ]


def test_a_text_in_a_json_field_is_json(tmp_path: Path) -> None:
    rules = TableRules(values=(("json", "meta"),))
    rows: list[dict[str, object]] = [{"id": 1, "meta": '{"a": 1}'}, {"id": 2, "meta": "no"}]
    assert records(open_table(write_json(tmp_path / "a.jsonl", rows[:1]), rules)) == [{"key": "1", "json": b'{"a": 1}'}]
    with pytest.raises(FieldError, match=r"line 2: .*json"):
        records(open_table(write_json(tmp_path / "b.jsonl", rows), rules))


def test_blank_lines_and_a_bom_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"label": 1}\r\n\r\n{"label": 2}'.encode())
    assert [record["cls"] for record in records(open_table(str(tmp_path / "a.jsonl"), LABELS))] == [b"1", b"2"]


@pytest.mark.parametrize("value", ["7", 7.5, True, [7]])
def test_a_value_that_its_field_does_not_take(tmp_path: Path, value: object) -> None:
    source = open_table(write_json(tmp_path / "a.jsonl", [{"id": "x", "label": value}]), LABELS)
    with pytest.raises(FieldError, match=r"a.jsonl \[x.cls\]: line 1: .* cannot be written as .cls.*; give an int"):
        records(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"label": 1}\n{"label": \n', "line 2 is not JSON: "),
        ('{"label": 1}\n\n[1]\n', "line 3 is not a JSON object"),
        ("[" * 100_000, "line 1 is not JSON: it is nested too deeply"),
        ('{"a": 1}\n{"b": 2}\n', "no column 'label'; the columns are a, b"),
        ("", "the table has no rows"),
        ('{"label": "\xe9"}', "line 1 is not UTF-8"),
    ],
)
def test_bad_json_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(JobError, match=message):
        open_table(str(tmp_path / "a.jsonl"), LABELS)


# files and rules


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("img/none.jpg", NotFoundError, r"img/none.jpg \[x.jpg\]: there is no such file \((line|row) \d of .*; check"),
        ("img", ShardtoolsError, r"img \[x.jpg\]: this is a folder \((line|row) \d of "),
        ("", SampleError, r"\[x.jpg\]: (line|row) \d names no file"),
        ("a\0b", ShardtoolsError, r"cannot be the name of a file \((line|row) \d of "),
        ("ftp://host/a.jpg", SpecError, r"ftp://host/a.jpg \[x.jpg\]: unknown scheme ftp: \((line|row) \d of "),
        ("http:a.jpg", SpecError, r"http:a.jpg \[x.jpg\]: // is missing after http: \((line|row) \d of "),
    ],
)
def test_a_file_that_cannot_be_read(table: Path, path: str, error: type[ShardtoolsError], message: str) -> None:
    write(table, {"id": ["w", "x"], "path": ["img/0.jpg", path]})
    source = open_table(str(table), TableRules((("jpg", "path"),)))
    part = source.part(np.arange(2))
    assert part.record(0)["jpg"] == b"jpg 0"
    with pytest.raises(error, match=message):
        part.record(1)
    assert len(source.sizes()) == 2
    json.dumps(part.facts())


def test_half_a_surrogate_pair_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "x", "path": "a\\ud800"}')
    with pytest.raises(ShardtoolsError, match=r"cannot be the name of a file \(line 1 of "):
        records(open_table(str(tmp_path / "a.jsonl"), TableRules((("jpg", "path"),))))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.bin")).write_bytes(b"odd")
    (tmp_path / "a.jsonl").write_text('{"id": "x", "path": "a\\udcff.bin"}')
    source = open_table(str(tmp_path / "a.jsonl"), TableRules((("bin", "path"),)))
    assert records(source) == [{"key": "x", "bin": b"odd"}]
    json.dumps(source.part(np.arange(1)).facts())


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_null_leaves_a_field_out(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a.bin").write_bytes(b"a")
    write(tmp_path / f"a.{ending}", {"id": ["x", "y", "z"], "path": ["a.bin", None, None], "label": [None, 2, None]})
    source = open_table(str(tmp_path / f"a.{ending}"), TableRules((("bin", "path"),), LABELS.values))
    assert records(source, [0, 1]) == [{"key": "x", "bin": b"a"}, {"key": "y", "cls": b"2"}]
    with pytest.raises(SampleError, match=r"\[z\]: (line 3|row 2) is empty in all chosen columns"):
        records(source, [2])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_what_is_no_path(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"a.{ending}", {"id": ["x"], "path": [7]})
    with pytest.raises(JobError, match=r"(line 1|row 0): values of type int cannot be paths"):
        open_table(str(tmp_path / f"a.{ending}"), TableRules((("bin", "path"),)))


def test_a_missing_column_lists_those_there_are(table: Path) -> None:
    write(table, columns_of(2))
    for rules in (
        TableRules((("jpg", "nope"),)),
        TableRules(values=(("cls", "nope"),)),
        TableRules(values=LABELS.values, key="nope"),
    ):
        with pytest.raises(JobError, match=r"no column 'nope'; the columns are id, path, label, caption$"):
            open_table(str(table), rules)


def test_no_rules(table: Path) -> None:
    write(table, columns_of(2))
    with pytest.raises(JobError, match=r"no columns are chosen.*--file FIELD=COLUMN.*are id, path, label, caption$"):
        open_table(str(table), TableRules())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (TableRules((("jpg", "path"),), (("jpg", "label"),)), "the field jpg is given twice; give each field once"),
        (TableRules(values=(("cls", "label"), ("cls", "id"))), "the field cls is given twice"),
        (TableRules(values=(("key", "label"),)), "'key' is not a valid name of a field"),
        (TableRules(values=(("__x", "label"),)), "'__x' is not a valid name of a field"),
        (TableRules(values=(("", "label"),)), "'' is not a valid name of a field"),
        (TableRules(values=(("a/b", "label"),)), "'a/b' is not a valid name of a field"),
    ],
)
def test_rules_that_make_no_sense(table: Path, rules: TableRules, message: str) -> None:
    write(table, columns_of(2))
    with pytest.raises(JobError, match=message):
        open_table(str(table), rules)


def test_no_such_table(table: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        open_table(str(table), LABELS)


def test_facts_change_with_what_is_read(table: Path) -> None:
    def facts(rows: Sequence[int] = (0, 1), rules: TableRules = FILES_AND_LABELS) -> object:
        part = open_table(str(table), rules).part(np.array(rows))
        sent = json.dumps(pickle.loads(pickle.dumps(part)).facts())
        assert sent == json.dumps(part.facts())
        return sent

    write(table, columns_of(4))
    first = facts()
    assert facts() == first
    renamed = TableRules((("png", "path"),), FILES_AND_LABELS.values)
    seen = [first, facts((1, 0)), facts((0, 2)), facts(rules=renamed), facts(rules=TableRules(values=LABELS.values))]
    (table.parent / "img" / "1.jpg").write_bytes(b"another")
    seen.append(facts())
    write(table, {**columns_of(4), "label": [1, 2, 3, 4]})
    seen.append(facts())
    (table.parent / "img" / "1.jpg").unlink()
    seen.append(facts())
    assert len(set(seen)) == len(seen)


# Parquet


def images(count: int) -> list[bytes]:
    return [b"%d" % i * (i * 100 + 1) for i in range(count)]


@pytest.mark.parametrize("group", [1, 7, 100])
@pytest.mark.parametrize("small", [True, False])
def test_bytes_of_parquet(tmp_path: Path, group: int, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not small:
        monkeypatch.setattr("shardtools.sources.parquet._SMALL", 0)
        monkeypatch.setattr("shardtools.sources.parquet._BATCH_BYTES", 5000)
    path = write_parquet(
        tmp_path / "a.parquet", {"jpg": images(50), "x": list(range(50)), "raw": images(50)}, row_group_size=group
    )
    source = open_table(path, TableRules())
    assert source.random_access is small
    every = [{"key": f"{i:09d}", "jpg": data, "raw": data} for i, data in enumerate(images(50))]
    assert records(source) == every
    for rows in ([3, 4, 30, 49], [49, 3, 3, 20], [0], []):
        assert records(source, rows) == [every[row] for row in rows]
    assert len(pickle.dumps(source.part(np.arange(50)))) < 4000


def test_the_layout_of_hugging_face(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"a", "path": "a.png"}, None, {"bytes": None, "path": "c.png"}])
    deep = pa.array([{"inner": {"x": 1}}, {"inner": None}, None])
    path = write_parquet(tmp_path / "a.parquet", {"image": image, "deep": deep, "label": [1, 2, 3]})
    rules = TableRules(
        values=(("png", "image.bytes"), ("txt", "image.path"), ("json", "deep.inner.x"), ("cls", "label"))
    )
    assert records(open_table(path, rules)) == [
        {"key": "000000000", "png": b"a", "txt": b"a.png", "json": b"1", "cls": b"1"},
        {"key": "000000001", "cls": b"2"},
        {"key": "000000002", "txt": b"c.png", "cls": b"3"},
    ]
    with pytest.raises(JobError, match=r"are image.bytes, image.path, deep.inner.x, label$"):
        open_table(path, TableRules())
    with pytest.raises(JobError, match=r"no column 'image.nope'; the columns are image.bytes"):
        open_table(path, TableRules(values=(("png", "image.nope"),)))


def test_names_with_dots_and_structs_whole(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"a.b": [1], "a": pa.array([{"b": 2, "c.d": 3}])})
    rules = TableRules(values=(("x.cls", "a.b"), ("y.cls", "a.c.d"), ("json", "a")))
    assert records(open_table(path, rules)) == [
        {"key": "000000000", "x.cls": b"1", "y.cls": b"3", "json": b'{"b": 2, "c.d": 3}'}
    ]


def test_types_of_parquet(tmp_path: Path) -> None:
    columns = {
        "id": pa.array(["a", "b"]).dictionary_encode(),
        "fixed": pa.array([b"12", b"34"], pa.binary(2)),
        "large": pa.array([b"x", b"y"], pa.large_binary()),
        "text": pa.array(["é", None], pa.large_string()),
        "float": pa.array([0.5, 1.5], pa.float32()),
        "vector": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)),
        "list": pa.array([[1], [2, 3]], pa.list_(pa.int16())),
        "flag": [True, False],
    }
    fields = {"bin": "fixed", "dat": "large", "txt": "text", "json": "float", "npy": "vector", "l.npy": "list"}
    rules = TableRules(values=(*fields.items(), ("l.json", "list"), ("f.npy", "float"), ("f.json", "flag")), key="id")
    first, second = records(open_table(write_parquet(tmp_path / "a.parquet", columns), rules))
    assert {name: first[name] for name in ("key", "bin", "dat", "txt", "json", "l.json", "f.json")} == {
        "key": "a",
        "bin": b"12",
        "dat": b"x",
        "txt": "é".encode(),
        "json": b"0.5",
        "l.json": b"[1]",
        "f.json": b"true",
    }
    assert second["key"] == "b" and "txt" not in second
    arrays: list[Any] = [decode("npy", second[name]) for name in ("npy", "l.npy", "f.npy")]
    assert [(array.dtype.name, array.tolist()) for array in arrays] == [
        ("float32", [3, 4]),
        ("int16", [2, 3]),
        ("float32", 1.5),
    ]


def test_a_value_of_parquet_that_its_field_does_not_take(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"id": ["w", "x"], "label": [[1], [2]]})
    with pytest.raises(FieldError, match=r"a.parquet \[x.cls\]: row 1: a list cannot be written as .cls"):
        records(open_table(path, LABELS), [1])


def test_parquet_on_a_server(nginx: NginxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_SMALL": 0, "_FETCH_SIZE": 1 << 14, "_BATCH_BYTES": 50_000}.items():
        monkeypatch.setattr(f"shardtools.sources.parquet.{name}", value)
    rng = np.random.default_rng(0)
    data = [rng.bytes(10_000) for _ in range(100)]
    path = nginx.root / "a.parquet"
    layout = {"use_dictionary": False, "data_page_size": 20_000, "write_batch_size": 2}  # so that pages are small
    write_parquet(path, {"bin": data, "other": data}, row_group_size=50, **layout)
    source = open_table(f"{nginx.url}a.parquet", TableRules(values=(("bin", "bin"),)))
    assert [record["bin"] for record in records(source, range(45, 62))] == data[45:62]
    part = source.part(np.arange(100))
    assert part.record(0)["bin"] == data[0]
    path.unlink()
    with pytest.raises(NotFoundError, match=r"a.parquet: there is no such object"):
        part.record(90)
    part.close()
    path.write_bytes(bytes(100))
    with pytest.raises(ChangedError, match="has changed since it was listed"):
        records(source, [0])


def test_parquet_that_changes_after_the_listing(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"bin": [b"a"]})
    source = open_table(path, TableRules())
    write_parquet(tmp_path / "a.parquet", {"bin": [b"b"]})
    with pytest.raises(ChangedError, match="has changed since it was listed; run again"):
        records(source)


def test_no_parquet(tmp_path: Path) -> None:
    for data in (b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"id,label\nx,1\n"):
        (tmp_path / "a.parquet").write_bytes(data)
        with pytest.raises(JobError, match=r"a.parquet: this is not a Parquet file"):
            open_table(str(tmp_path / "a.parquet"), LABELS)


def test_damaged_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtools.sources.parquet._SMALL", 0)
    path = Path(write_parquet(tmp_path / "a.parquet", {"bin": images(20)}, row_group_size=5, compression="gzip"))
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 1000 + whole[1004:])
    with pytest.raises(CorruptError, match=r"a.parquet: the Parquet file is damaged"):
        records(open_table(str(path), TableRules()))


def test_an_empty_parquet_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"bin": pa.array([], pa.binary())})
    with pytest.raises(JobError, match="the table has no rows"):
        open_table(path, TableRules())


def test_without_pyarrow(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [["label"], ["7"]])
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    code = f"""
import sys
sys.modules["pyarrow"] = None
from shardtools.errors import JobError
from shardtools.sources.table import TableRules, open_table
assert len(open_table({str(tmp_path / "a.csv")!r}, TableRules(values=(("cls", "label"),)))) == 1
try:
    open_table({str(tmp_path / "a.parquet")!r}, TableRules())
except JobError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "reading Parquet needs pyarrow; install it: pip install pyarrow\n"


# whole uploads


def test_an_upload_is_the_table(table: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(table, columns_of(5))
    spec = f"{tmp_path_factory.mktemp('out')}/x-@2.tar"
    upload_source(open_table(str(table), FILES_AND_LABELS), spec, UploadOptions(shuffle=True, seed=3))
    urls = [spec.replace("@2", str(i)) for i in range(2)]
    found = {
        sample["__key__"]: {name: data for name, data in sample.items() if not name.startswith("__")}
        for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    }
    wanted = [expected(i) for i in range(5)]
    assert found == {record.pop("key"): record for record in wanted}


def test_an_upload_of_parquet_that_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtools.sources.parquet._SMALL", 1000)
    path = write_parquet(tmp_path / "a.parquet", {"jpg": images(50)}, row_group_size=7)
    with pytest.raises(JobError, match="only be read in its own order"):
        upload_source(open_table(path, TableRules()), f"{tmp_path}/x-@2.tar", UploadOptions(shuffle=True))
    layout = UploadOptions(split=(("a", 0.5), ("b", 0.5)), shard_count=8)
    results = upload_source(open_table(path, TableRules()), f"{tmp_path}/{{split}}-@auto.tar", layout)
    urls = [shard.target for result in results for shard in result.shards]
    assert len(urls) > 4
    found = {sample["__key__"]: sample["jpg"] for sample in webdataset.WebDataset(urls, shardshuffle=False)}
    assert found == {f"{i:09d}": data for i, data in enumerate(images(50))}


class TestLimits:
    """Of a cell, a line, or a file that is named, no more is read than a sample may have."""

    SMALL = StorageOptions(limits=Limits(sample=10_000))

    @pytest.mark.parametrize(
        ("name", "text", "line"),
        [
            ("a.csv", "id,label\n1,1\n2," + "x" * 20_000 + "\n", 3),
            ("a.csv", 'id,label\n1,1\n2,"' + "x\n" * 20_000 + '"\n', 5001),
            ("a.csv", "id,label\n1,1\n2" + ",x" * 20_000 + "\n", 3),
            ("a.csv", "x" * 20_000, 1),
            ("a.tsv", "id\tlabel\n" + "x" * 20_000, 2),
            ("a.jsonl", '{"id": 1, "label": 1}\n{"id": 2, "label": "' + "x" * 20_000 + '"}\n', 2),
        ],
    )
    def test_text(self, name: str, text: str, line: int, tmp_path: Path) -> None:
        (tmp_path / name).write_text(text)
        with (
            using(self.SMALL),
            pytest.raises(LimitError, match=rf"{name} \[line {line}\]: its sample has more than 10,000"),
        ):
            open_table(str(tmp_path / name), LABELS)

    def test_many_rows_that_are_not_too_large(self, tmp_path: Path) -> None:
        rows = [["id", "label"], *[[i, "x" * 5000] for i in range(20)]]
        with using(self.SMALL):
            assert len(open_table(write_csv(tmp_path / "a.csv", rows), TableRules(values=(("txt", "label"),)))) == 20

    def test_files(self, tmp_path: Path, nginx: NginxServer) -> None:
        for folder in (tmp_path, nginx.root):
            (folder / "a.bin").write_bytes(bytes(20_000))
        (tmp_path / "b.bin").write_bytes(bytes(6_000))
        os.mkfifo(tmp_path / "pipe")
        rules = TableRules(files=(("bin", "one"), ("txt", "two")))
        for one, two in (("a.bin", ""), (f"{nginx.url}a.bin", ""), ("b.bin", "b.bin")):
            source = open_table(write_csv(tmp_path / "a.csv", [["id", "one", "two"], [1, one, two]]), rules)
            with (
                using(self.SMALL),
                pytest.raises(LimitError, match=r"its sample has more than 10,000 bytes.*--max sample"),
            ):
                records(source)
        for name in ("pipe", "/dev/zero", f"file://{tmp_path}/pipe"):
            source = open_table(write_csv(tmp_path / "a.csv", [["id", "one", "two"], [1, name, "b.bin"]]), rules)
            with pytest.raises(
                RefusedError, match=r"\[1\.bin\]: this is a (named pipe|device), which may never end \(line 2"
            ):
                records(source)

    @pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
    def test_samples(self, ending: str, tmp_path: Path) -> None:
        rows: list[dict[str, Any]] = [{"id": i, "a": "x" * 6000, "b": "x" * (6000 if i == 2 else 1)} for i in range(4)]
        path = tmp_path / f"a.{ending}"
        if ending == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif ending == "csv":
            write_csv(path, [["id", "a", "b"], *[list(row.values()) for row in rows]])
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = ["htupload", str(path), str(tmp_path / "x-@1.tar"), "--value", "a.txt=a", "--value", "b.txt=b"]
        command[0] = str(Path(sys.executable).parent / "htupload")
        done = subprocess.run(
            [*command, "--max", "sample=10kB"], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1 and "its sample has more than 10,000 bytes" in done.stderr, done

    @pytest.mark.parametrize("small", [True, False])
    def test_parquet_that_unpacks_to_much(self, small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of a few kilobytes, with one value that stands in every row: a gigabyte when all are unpacked."""
        monkeypatch.setattr(parquet, "_SMALL", parquet._SMALL if small else 0)
        value = pa.array([b"x" * 1_000_000], pa.large_binary())
        column = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), value)
        pq.write_table(pa.table({"bin": column}), tmp_path / "a.parquet")
        assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
        source = open_table(str(tmp_path / "a.parquet"), TableRules(values=(("bin", "bin"),)))
        part = source.part(np.arange(1000))
        tracemalloc.start()
        try:
            for row in [*range(1000), 999, 500]:
                assert len(part.record(row)["bin"]) == 1_000_000
            assert tracemalloc.get_traced_memory()[1] < 400_000_000
        finally:
            tracemalloc.stop()
            part.close()
