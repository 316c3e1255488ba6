"""The parts of the exchange: orders, columns, runs, cuts."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import SampleError
from shardtools.jobs.exchange.cuts import cuts, ranks
from shardtools.jobs.exchange.order import (
    RandomOrder,
    order_of_float,
    order_of_int,
    order_of_natural,
    order_of_text,
    order_of_value,
    prefixes,
    reversed_order,
)
from shardtools.jobs.exchange.run import write_run
from shardtools.jobs.exchange.run_table import PLACE, RunTable, content_hash
from shardtools.shards.columns import Texts
from shardtools.shards.table import lay_out

TEXTS = st.lists(st.binary(max_size=20), max_size=30)
FEW_TEXTS = st.lists(st.text("ab\0", max_size=12).map(str.encode), max_size=40)


class TestOrders:
    @given(st.binary(), st.binary())
    def test_texts(self, a: bytes, b: bytes) -> None:
        assert (a < b) == (order_of_text(a) < order_of_text(b))
        assert (a < b) == (reversed_order(a) > reversed_order(b))

    @given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
    def test_ints(self, a: int, b: int) -> None:
        assert (a < b) == (order_of_int(a) < order_of_int(b))

    @given(st.floats(allow_nan=False), st.floats(allow_nan=False))
    def test_floats(self, a: float, b: float) -> None:
        assert (a < b) == (order_of_float(a) < order_of_float(b))

    @given(st.integers() | st.floats(allow_nan=False), st.integers() | st.floats(allow_nan=False))
    def test_numbers_of_scripts(self, a: float, b: float) -> None:
        if max(abs(a), abs(b)) < 2.0**60:
            assert (a < b) == (order_of_value(a) < order_of_value(b))

    @pytest.mark.parametrize("number", [2**117 + 2**63 + 1, 10**40 + 1, 10**400])
    def test_numbers_that_are_too_large(self, number: int) -> None:
        """Such as those of a UUID: 64 bits do not hold what a float leaves of them."""
        for value in (number, -number, ("a", number)):
            with pytest.raises(SampleError, match="a number is too large to sort by; return it as a text"):
                order_of_value(value)

    @given(st.tuples(st.text(), st.integers(-9, 9)), st.tuples(st.text(), st.integers(-9, 9)))
    def test_tuples(self, a: tuple[str, int], b: tuple[str, int]) -> None:
        as_bytes = [(text.encode("utf-8", "surrogateescape"), number) for text, number in (a, b)]
        assert (as_bytes[0] < as_bytes[1]) == (order_of_value(a) < order_of_value(b))

    @given(st.lists(st.text("ab019", max_size=8), max_size=6))
    def test_natural(self, texts: list[str]) -> None:
        import re

        def parts(text: str) -> list[tuple[int, object]]:
            found = re.findall(r"[0-9]+|[^0-9]", text)
            return [(ord("0"), int(part)) if part.isdigit() else (ord(part), 0) for part in found]

        expected = sorted(texts, key=lambda text: (parts(text), text))
        assert sorted(texts, key=lambda text: order_of_natural(text.encode())) == expected

    def test_random_orders_depend_on_seed_shard_and_sample_alone(self) -> None:
        whole = RandomOrder(7, 3).take(100).tobytes()
        generator = RandomOrder(7, 3)
        assert b"".join(generator.take(count).tobytes() for count in (1, 49, 50)) == whole
        assert len({RandomOrder(seed, shard).take(1).tobytes() for seed in range(20) for shard in range(20)}) == 400


@given(FEW_TEXTS)
def test_prefixes(texts: list[bytes]) -> None:
    column = Texts.of(texts)
    expected = [int.from_bytes(text[:8].ljust(8, b"\0"), "big") for text in texts]
    assert prefixes(column.data, column.starts, column.ends).tolist() == expected


def samples_of(texts: list[bytes]) -> RunTable:
    """Return samples with these orders, and one or two members each."""
    counts = np.array([1 + len(text) % 2 for text in texts], np.int64)
    rows = np.arange(int(counts.sum()))
    table = lay_out(
        Texts.of([b"name-%d" % i for i in range(len(texts))]),
        counts,
        ("a", "b", "c"),
        rows % 3,
        np.full(len(rows), 512),
        rows * 7 % 513,
        crc32=(rows * 12345 % 2**32).astype(np.uint32),
    )
    places = np.zeros(len(texts), PLACE)
    places["index"] = np.arange(len(texts))
    return RunTable(table, Texts.of(texts), places, np.arange(len(texts), dtype=np.uint64) * 99)


def facts(samples: RunTable) -> list[object]:
    """Return all that is known of samples, wherever their spans are."""
    table = samples.table
    assert table.crc32 is not None
    numbers = (table.spans, table.first, table.heads, table.size, table.crc32, samples.places, samples.sums)
    names = [table.fields[code] for code in table.field.tolist()]
    return [samples.orders.tolist(), table.keys.tolist(), names, *(column.tolist() for column in numbers)]


class TestRunTable:
    @given(TEXTS, st.randoms(use_true_random=False))
    def test_take_and_join(self, texts: list[bytes], choose: random.Random) -> None:
        samples = samples_of(texts)
        rows = np.array(choose.sample(range(len(texts)), len(texts)), np.int64)
        taken = samples.take(rows)
        assert taken.table.keys.tolist() == [b"name-%d" % row for row in rows]
        assert taken.table.start.tolist() == samples.table.start[rows].tolist()
        back = taken.take(np.argsort(rows, kind="stable"))
        assert facts(back) == facts(samples)
        middle = len(texts) // 2
        parts = [samples.take(np.arange(middle)), samples.take(np.arange(middle, len(texts)))]
        assert facts(RunTable.join(parts)) == facts(samples)

    @given(TEXTS, st.randoms(use_true_random=False))
    def test_a_slice_is_what_take_gives(self, texts: list[bytes], choose: random.Random) -> None:
        samples = samples_of(texts)
        start, stop = sorted(choose.choices(range(len(texts) + 1), k=2))
        some, taken = samples.table.slice(start, stop), samples.take(np.arange(start, stop)).table
        assert facts(replace(samples, table=some)) == facts(replace(samples, table=taken))
        assert (some.start.tolist(), some.offset.tolist()) == (taken.start.tolist(), taken.offset.tolist())
        assert samples.orders.slice(start, stop).tolist() == texts[start:stop]

    def test_fields_are_numbered_anew_where_tables_are_joined(self) -> None:
        one = samples_of([b"a", b"b"])
        other = replace(one, table=replace(one.table, fields=("c", "b", "x")))
        both = RunTable.join([one, other])
        assert both.table.fields == ("a", "b", "c", "x")
        assert facts(both)[2] == facts(one)[2] + facts(other)[2]

    @given(TEXTS, st.randoms(use_true_random=False))
    def test_the_hash_of_the_content(self, texts: list[bytes], choose: random.Random) -> None:
        table = samples_of(texts).table
        rows = np.array(choose.sample(range(len(texts)), len(texts)), np.int64)
        whole = content_hash(table)
        assert content_hash(table.take(rows)) == whole
        parts = [table.take(rows[: len(rows) // 3]), table.take(rows[len(rows) // 3 :])]
        assert sum(map(content_hash, parts)) % 2**64 == whole
        if len(texts):
            assert content_hash(table.take(rows[1:])) != whole
            assert content_hash(table.take(np.append(rows, rows[0]))) != whole
            assert table.crc32 is not None
            changed = table.crc32.copy()
            changed[-1] ^= 1
            assert content_hash(replace(table, crc32=changed)) != whole

    def test_the_hash_of_the_content_does_not_change(self) -> None:
        """It is in the sidecars and manifests of jobs that were run before."""
        assert content_hash(samples_of([b"", b"a", b"bc", b"\xff" * 20]).table) == GOLDEN


GOLDEN = 513682725901934414


@settings(max_examples=20, deadline=None)
@given(TEXTS)
def test_any_part_of_a_run_can_be_read(tmp_path_factory: object, texts: list[bytes]) -> None:
    folder: Path = tmp_path_factory.mktemp("runs")  # type: ignore[attr-defined]
    samples = samples_of(sorted(texts))
    data = [bytes([65 + i % 26]) * int(size) for i, size in enumerate(samples.table.spans)]
    run = write_run(str(folder / "run"), samples, [data])
    assert run.read_orders().tolist() == sorted(texts)
    assert (folder / "run").stat().st_size == run.filesize
    for start, stop in {(0, len(texts)), (0, len(texts) // 2), (len(texts) // 2, len(texts)), (len(texts) // 3,) * 2}:
        found = run.read_table(start, stop)
        assert facts(found) == facts(samples.take(np.arange(start, stop)))
        assert found.table.start.tolist() == [sum(map(len, data[:row])) for row in range(start, stop)]


class TestCuts:
    def test_ranks(self) -> None:
        for samples, outputs in ((0, 3), (1, 5), (10, 3), (1000, 7)):
            sizes = np.diff(ranks(samples, outputs))
            assert len(sizes) == outputs and sizes.sum() == samples and sizes.max() - sizes.min() <= 1

    @given(st.lists(FEW_TEXTS, min_size=1, max_size=5), st.integers(1, 9))
    def test_against_a_sorted_list(self, runs: list[list[bytes]], outputs: int) -> None:
        sorted_runs = [sorted(map(order_of_text, texts)) for texts in runs]
        everything = sorted(text for texts in sorted_runs for text in texts)
        wanted = ranks(len(everything), outputs)
        found = cuts([Texts.of(texts) for texts in sorted_runs], wanted)
        assert found[0].tolist() == [0] * len(runs) and found[-1].tolist() == [len(texts) for texts in runs]
        for rank, row in zip(wanted, found.tolist(), strict=True):
            before = sorted(text for texts, at in zip(sorted_runs, row, strict=True) for text in texts[:at])
            after = [text for texts, at in zip(sorted_runs, row, strict=True) for text in texts[at:]]
            assert before == everything[: len(before)] and not set(before) & set(after)
            group = everything.count(everything[rank]) if rank < len(everything) else 0
            assert abs(len(before) - rank) <= group / 2

    @given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 99))
    def test_random_orders_are_cut_exactly(self, sizes: list[int], outputs: int, seed: int) -> None:
        runs = [
            Texts.of(sorted(Texts(RandomOrder(seed, i).take(size), 16 * np.arange(1, size + 1)).tolist()))
            for i, size in enumerate(sizes)
        ]
        wanted = ranks(sum(sizes), outputs)
        assert cuts(runs, wanted).sum(axis=1).tolist() == wanted
