"""Indexes as DALI and Energon leave them beside shards, right and wrong."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from shardtools.shards.foreign import dali
from shardtools.shards.indexing import index_shard
from tests.hostile.strategies import NUMBERS, TEXTS

INFO = {"energon_version": "7.4.1", "shard_counts": {"x-0.tar": 20}}
"""What ``.info.json`` says."""

_WORDS = [b"0", b"512", b"1024", b"70", b"-1", b"9" * 17, b"9" * 40, b"txt", b"", b"a/b.txt"]

Rows = list[tuple[Any, ...]]


def dali_index(folder: Path) -> bytes:
    url = f"{folder}/x-0.tar"
    return dali.dump_index(index_shard(url).table, url)


@st.composite
def dali_indexes(draw: st.DrawFn, good: bytes) -> bytes:
    """Give an index with other words in some places, lines in another order, or a head of another number."""
    lines = good.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        words = lines[at].split(b" ")
        word = draw(st.integers(0, len(words) - 1))
        numbers = st.sampled_from(
            [b"0", b"512", b"1024", b"70", b"-1", b"9" * 17, b"9" * 40, words[-1], b"txt", b"", b"a/b.txt"]
        )
        words[word] = draw(numbers)
        lines[at] = b" ".join(words)
    if draw(st.booleans()):
        lines[1:] = draw(st.permutations(lines[1:]))
    return b"\n".join(lines) + b"\n"


def energon_rows(folder: Path) -> tuple[Rows, Rows]:
    """Return the rows of samples and of their parts."""
    table = index_shard(f"{folder}/x-0.tar").table
    keys = table.keys.decode()
    samples: Rows = [(0, i, key, 0, 0) for i, key in enumerate(keys)]
    parts: Rows = []
    for i in range(len(keys)):
        for m in range(int(table.first[i]), int(table.first[i + 1])):
            parts.append((0, i, table.fields[table.field[m]], int(table.offset[m]), int(table.size[m])))
    return samples, parts


SAMPLES = "CREATE TABLE samples (tar_file_id, sample_index, sample_key, byte_offset, byte_size)"
PARTS = "CREATE TABLE sample_parts (tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size)"
ENDLESS = """CREATE VIEW sample_parts AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n)
SELECT 0 AS tar_file_id, i AS sample_index, 'txt' AS part_name, 0 AS content_byte_offset, 1 AS content_byte_size
FROM n"""


def write_energon(
    folder: Path, info: bytes, samples: Any, parts: Any, *, schema: tuple[str, str] = (SAMPLES, PARTS)
) -> None:
    meta = folder / ".nv-meta"
    meta.mkdir(exist_ok=True)
    (meta / ".info.json").write_bytes(info)
    path = meta / "index.sqlite"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as database:
        for statement in schema:
            database.execute(statement)
        database.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", samples)
        if schema[1] == PARTS:
            database.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", parts)
    database.close()


@st.composite
def changed_rows(draw: st.DrawFn, rows: Rows) -> Rows:
    """Give rows of a database with some values changed, rows left out, and rows that come again."""
    found = list(rows)
    fits = st.one_of(
        NUMBERS.filter(lambda n: abs(n) < 1 << 62),
        TEXTS.filter(lambda t: t.isascii()),
        st.none(),
        st.binary(max_size=4),
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(found) - 1))
        row = list(found[at])
        row[draw(st.integers(0, len(row) - 1))] = draw(st.one_of(fits, st.floats(allow_nan=False)))
        found[at : at + draw(st.integers(0, 1))] = [tuple(row)]
    return found


INFO = {"energon_version": "7.4.1", "shard_counts": {"x-0.tar": 20}}
