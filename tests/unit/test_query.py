"""Columns of samples and conditions on them, compared with plain loops over the samples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import CorruptError, JobError
from shardtools.query.condition import Answer, find_rows, parse_condition
from shardtools.query.duck import session
from shardtools.query.kinds import Kinds
from shardtools.query.table_file import Asked, ShardState, TableFacts
from shardtools.query.values import ColumnLoader, Samples, samples_of
from shardtools.shards.indexing import index_shard
from shardtools.shards.members import IndexedShard
from tests.datasets import write_shard

Rows = Sequence[Mapping[str, bytes]]


def samples(folder: Path, rows: Rows) -> Samples:
    """Return samples with these fields, and the keys 0000, 0001, ..."""
    files = [(f"{row:04d}.{name}", data) for row, fields in enumerate(rows) for name, data in fields.items()]
    path = str(write_shard(folder / "s.tar", files))
    return samples_of(IndexedShard(path, index_shard(path)))


def ask(folder: Path, condition: str, rows: Rows) -> Answer:
    return find_rows(parse_condition(condition), samples(folder, rows))


def objects(*values: object) -> Rows:
    return [{"json": json.dumps(value).encode()} for value in values]


NUMBERS = [{"cls": b"%d" % i, "txt": b"a %s" % (b"dog" if i % 2 else b"cat")} for i in range(10)]


class TestConditions:
    @pytest.mark.parametrize(
        ("text", "rows"),
        [
            ("cls = 7", [7]),
            ("cls == 7 or cls != 7 and cls < 2", [0, 1, 7]),
            ("cls between 2 and 4 and txt like '%dog%'", [3]),
            ("txt = 'a cat' and cls > 5", [6, 8]),
            ("key >= '0008'", [8, 9]),
            ("row < 2 and shard = 0", [0, 1]),
            ("size.txt = 5 and CLS in (1, 2)", [1, 2]),
            ("cls is null", []),
            ("true", list(range(10))),
            ("null", []),
            ("cls = 3 -- or 4", [3]),
        ],
    )
    def test_rows(self, tmp_path: Path, text: str, rows: list[int]) -> None:
        assert ask(tmp_path, text, NUMBERS).rows.tolist() == rows

    def test_integers_are_exact(self, tmp_path: Path) -> None:
        rows = objects({"id": 9007199254740992}, {"id": 9007199254740993}, {"id": 2**64 - 1})
        assert ask(tmp_path, "json.id = 9007199254740993", rows).rows.tolist() == [1]
        assert ask(tmp_path, f"json.id >= {2**64 - 1}", rows).rows.tolist() == [2]
        huge = [{"cls": b"%d" % (10**30)}, {"cls": b"%d" % (10**30 + 1)}, {"cls": b" +7\n"}]
        assert ask(tmp_path, f"cls = {10**30 + 1} or cls = 7", huge).rows.tolist() == [1, 2]

    def test_a_path_of_integers_and_floats_is_a_number(self, tmp_path: Path) -> None:
        assert ask(tmp_path, "json.x > 1.4", objects({"x": 1}, {"x": 1.5}, {"x": 2}, {})).rows.tolist() == [1, 2]
        rows = objects({"x": 9007199254740993}, {"x": 0.5})  # a float would change the first
        assert ask(tmp_path, "json.x = '9007199254740993'", rows).rows.tolist() == [0]

    def test_a_path_of_texts_and_numbers_is_text(self, tmp_path: Path) -> None:
        rows = objects({"x": 1}, {"x": "cat"}, {"x": True}, {"x": [1, "a"]}, {"x": None})
        assert ask(tmp_path, "json.x = 'cat' or json.x = 'true'", rows).rows.tolist() == [1, 2]
        assert ask(tmp_path, "json.x = '[1,\"a\"]' or json.x = '1'", rows).rows.tolist() == [0, 3]
        assert ask(tmp_path, "json.x is null", rows).rows.tolist() == [4]
        with pytest.raises(JobError, match=r"Cannot compare values of type VARCHAR and type INTEGER_LITERAL"):
            ask(tmp_path, "json.x > 5", rows)

    def test_objects_are_no_values_of_their_path(self, tmp_path: Path) -> None:
        rows = objects({"o": {"p": 1}}, {"o": 4}, {"o": {}}, {"o": "x"})
        assert ask(tmp_path, "json.o is not null", rows).rows.tolist() == [1, 3]
        assert ask(tmp_path, "json.o.p = 1", rows).rows.tolist() == [0]

    def test_paths_with_dots_and_case(self, tmp_path: Path) -> None:
        rows = objects({"a.b": 1, "a": {"b": 2}}, {"a": {"b": 3}}, {"A": 1, "q\"'/~": 5})
        assert ask(tmp_path, "json.a.b = 1", rows).rows.tolist() == [0]  # one part comes before two
        assert ask(tmp_path, "json.A = 1", rows).rows.tolist() == [2]
        assert ask(tmp_path, '"json.q""\'/~" = 5', rows).rows.tolist() == [2]
        with_fields = [{"json": b'{"w": 1}', "json.w": b"text", "meta.json": b'{"w": 2}'}]
        assert ask(tmp_path, "json.w = 'text' and Meta.JSON.W = 2", with_fields).rows.tolist() == [0]

    def test_the_text_of_a_json_field(self, tmp_path: Path) -> None:
        rows = [*objects({"t": [5, 6]}, [7]), {"json": b"{bad"}]
        assert ask(tmp_path, "json->>'$.t[1]' = '6'", rows).rows.tolist() == [0]
        assert ask(tmp_path, "json = '[7]'", rows).rows.tolist() == [1]

    def test_bad_values_are_null(self, tmp_path: Path) -> None:
        rows = [{"cls": b"7.5", "txt": b"\xff"}, {"cls": b"", "txt": b"ok"}, {"cls": b"8"}, {"json": b"{"}]
        assert ask(tmp_path, "cls is null", rows).rows.tolist() == [0, 1, 3]
        assert ask(tmp_path, "txt is not null", rows).rows.tolist() == [1]

    def test_deep_json_is_null(self, tmp_path: Path) -> None:
        deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
        rows = [{"json": deep}, *objects({"a": 1}), {"json": b"[" * 100_000 + b"]" * 100_000}]
        assert ask(tmp_path, "json.a = 1", rows).rows.tolist() == [1]

    def test_a_shard_without_the_field_has_no_such_rows(self, tmp_path: Path) -> None:
        answer = ask(tmp_path, "nope.x = 1 or cls = 3", NUMBERS)
        assert (answer.rows.tolist(), answer.seen.columns) == ([3], {"cls"})
        seen = ask(tmp_path, "json.nope like 'x'", objects({"a": 1})).seen
        message = "names json.nope, but no sample has such a column; there are key, row, shard, json, size.json, json.a"
        with pytest.raises(JobError, match=re.escape(message)):
            seen.check(parse_condition("json.nope = 1"))
        seen.check(parse_condition("true"))
        assert len(ask(tmp_path, "cls = 1", []).rows) == 0

    def test_large_fields_are_read_in_batches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shardtools.query.condition.BATCH", 30)
        read, whole = [], samples(tmp_path, NUMBERS)

        def recorded(fields: Sequence[str], rows: slice) -> Sequence[Sequence[bytes | None]]:
            read.append(rows)
            return whole.read(fields, rows)

        counted = Samples(whole.table, recorded)
        answer = find_rows(parse_condition("txt like '%dog%' and cls > 2 and row < 9"), counted)
        assert answer.rows.tolist() == [3, 5, 7]
        assert [(rows.start, rows.stop) for rows in read] == [(0, 4), (4, 9), (9, 10)]


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cls = = 7", 'syntax error at or near "=", here: cls = ^= 7'),
            ("ä = = 7", "here: ä = ^= 7"),
            ("", "the condition is empty"),
            ("cls = 7; drop table x", "here: cls = 7^; drop table x"),
            ("cls = 7) from (select 1", "not one expression"),
            ("cls = 7), (8", "not one expression"),
            ("1) union (select 1", "not one expression"),
            ("cls in (select 1)", "a query"),
            ("exists (from read_csv('/etc/passwd'))", "a query"),
            ("row_number() over () = 1", "a window function"),
            ("columns('a') > 1", "the condition has *"),
            ("? = 1", "a parameter"),
            ("len(list_filter([1], x -> x = 1)) = 1", "a lambda"),
        ],
    )
    def test_what_is_no_condition(self, text: str, message: str) -> None:
        with pytest.raises(JobError, match=re.escape(message)):
            parse_condition(text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cls", "of type BIGINT, not true or false"),
            ("sum(cls) > 1", "cannot contain aggregates"),
            ("nofunction(cls)", "nofunction does not exist"),
            ("cls > 'cat'", "Could not convert string 'cat' to INT64"),
            ("txt::int = 1", "when casting from source column txt"),
            ("read_text('/etc/passwd') = ''", "read_text"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(JobError, match=re.escape(message)):
            ask(tmp_path, text, NUMBERS)

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM read_text('/etc/passwd')",
            "COPY (SELECT 1) TO '{folder}/out.csv'",
            "ATTACH '{folder}/x.db'",
            "INSTALL httpfs",
            "SET enable_external_access = true",
        ],
    )
    def test_no_statement_reaches_files(self, tmp_path: Path, sql: str) -> None:
        import duckdb

        with session() as connection, pytest.raises(duckdb.Error, match=r"disabled by configuration|locked"):
            connection.execute(sql.format(folder=tmp_path))
        assert list(tmp_path.iterdir()) == []


# --- compared with plain loops


names = st.text("abAB.", min_size=1, max_size=3)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(-1e6, 1e6), st.text(max_size=4)
)
values = st.recursive(
    st.one_of(scalars, st.lists(scalars, max_size=2)),
    lambda inner: st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def leaves(value: object, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*at, name))
    elif at:
        yield at, value


def expected_columns(rows: Sequence[object]) -> dict[str, list[object]]:
    """Return the columns of JSON values, by a loop over all of them."""
    paths: dict[str, tuple[str, ...]] = {}
    for path in sorted({path for value in rows for path, _ in leaves(value)}, key=lambda path: (len(path), path)):
        paths.setdefault(".".join(path), path)
    return {name: [dict(leaves(value)).get(path) for value in rows] for name, path in paths.items()}


def typed(column: Sequence[object]) -> list[object]:
    """Return the values of a column that is no text: as they are, or as floats."""
    there = [value for value in column if value is not None]
    kinds = {type(value) for value in there}
    if kinds <= {int} or kinds <= {bool} or kinds <= {float} or kinds <= {str}:
        return list(column)
    if kinds == {int, float} and all(abs(value) <= 2**53 for value in there if isinstance(value, int)):  # type: ignore[arg-type]
        return [None if value is None else float(value) for value in column]  # type: ignore[arg-type]
    return [
        None if value is None else value if isinstance(value, str) else json.loads(json.dumps(value))
        for value in column
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(values, min_size=1, max_size=6))
def test_columns_of_json_are_those_of_a_loop(tmp_path_factory: pytest.TempPathFactory, rows: list[object]) -> None:
    given_ = samples(tmp_path_factory.mktemp("s"), objects(*rows))
    with session() as connection:
        columns = ColumnLoader(connection, given_).load(["json"], (), {"json": None}).found
        found = {}
        for name, column in columns.items():
            query = f"SELECT {column.cast(column.kinds.kind)} FROM read ORDER BY n"
            found[name] = [row[0] for row in connection.execute(query).fetchall()], column.kinds.kind
    found.pop("json")
    wanted = expected_columns(rows)
    assert set(found) == {f"json.{name}" for name in wanted}
    for name, column in wanted.items():
        got, kind = found[f"json.{name}"]
        if kind != "text":
            assert got == typed(column)
            continue
        for value, text in zip(column, got, strict=True):  # numbers and lists are JSON in a column of texts
            assert text == value or (text is not None and not isinstance(value, str) and json.loads(text) == value)


COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({}, optional={"cls": st.integers(-5, 5), "n": st.integers(-3, 3)}), max_size=8),
    st.sampled_from(list(COMPARISONS)),
    st.sampled_from(list(COMPARISONS)),
    st.integers(-5, 5),
    st.booleans(),
)
def test_rows_are_those_of_a_loop(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, int]], one: str, other: str, number: int, both: bool
) -> None:
    written = [
        {
            "txt": b"",
            **({"cls": b"%d" % row["cls"]} if "cls" in row else {}),
            "json": json.dumps({"n": row.get("n")}).encode(),
        }
        for row in rows
    ]

    def holds(value: int | None, compare: str) -> bool | None:
        return None if value is None else COMPARISONS[compare](value, number)

    expected = []
    for at, row in enumerate(rows):
        sides = [holds(row.get("cls"), one), holds(row.get("n"), other)]
        if (all(side is True for side in sides)) if both else any(side is True for side in sides):
            expected.append(at)
    condition = f"cls {one} {number} {'and' if both else 'or'} json.n {other} {number}"
    assert ask(tmp_path_factory.mktemp("s"), condition, written).rows.tolist() == expected


@given(st.lists(st.lists(st.sampled_from(["bool", "int", "huge", "float", "text"])), max_size=4), st.booleans())
def test_the_kind_of_a_column_does_not_depend_on_how_it_is_cut(parts: list[list[Any]], wide: bool) -> None:
    every = [Kinds(frozenset(part), wide and "int" in part) for part in parts]
    whole = Kinds(frozenset(kind for part in parts for kind in part), any(part.wide for part in every))
    assert Kinds.join(every) == whole
    assert Kinds.join([Kinds.join(every[:2]), Kinds.join(every[2:])]).kind == whole.kind


# --- the footer of a table


FACTS = TableFacts(
    (ShardState("a.tar", 10, "crc32:00000000", 3),), {"cls": "int"}, (Asked("cls"),), (), (3,), {"json: x": 1}
)


def test_facts_come_back() -> None:
    assert TableFacts.parse(FACTS.dump(), "t.parquet") == FACTS


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"files": [2]},
        {"files": []},
        {"files": "x"},
        {"kinds": {"cls": "other"}},
        {"kinds": 5},
        {"shards": [{"name": "a"}]},
        {"shards": [{"name": 1, "filesize": 1, "checksum": "", "samples": 3}]},
        {"shards": [{"name": "a", "filesize": -1, "checksum": "", "samples": 3}]},
        {"wrong": {"x": "y"}},
        {"asked": [5]},
    ],
)
def test_wrong_facts_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CorruptError, match=r"not the table of a dataset"):
        TableFacts.parse(json.dumps({**json.loads(FACTS.dump()), **change}).encode(), "t.parquet")
    with pytest.raises(CorruptError):
        TableFacts.parse(None, "t.parquet")
