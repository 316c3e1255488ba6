"""Tests of coalescing: every range is inside its span, and no more spans than the gap asks for."""

from __future__ import annotations

import numpy as np
import pytest

from shardtools.shards.columns import PackedValues
from shardtools.storage import get_storage
from shardtools.storage.ranges import coalesce

DATA = np.random.default_rng(0).bytes(5000)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("gap", [0, 7, 100])
@pytest.mark.parametrize("block", [None, 64, 1000])
def test_ranges_are_cut_out_of_their_spans(seed: int, gap: int, block: int | None) -> None:
    random = np.random.default_rng(seed)
    start = random.integers(0, 4900, random.integers(0, 60))
    stop = start + random.integers(0, 100, len(start)) * random.integers(0, 2, len(start))
    spans = coalesce(start, stop, gap, block)
    bodies = [DATA[a:b] for a, b in zip(spans.start.tolist(), spans.stop.tolist(), strict=True)]
    values = PackedValues.of_spans(bodies, spans, start, stop).cut()
    assert values == [DATA[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
    assert (spans.start[1:] > spans.start[:-1]).all()
    if block is None:
        assert (spans.start[1:] > spans.stop[:-1] + gap).all()
    elif len(spans):
        firsts = [np.unique(start[(spans.span == i) & (stop > start)] // block) for i in range(len(spans))]
        assert all(len(blocks) == 1 for blocks in firsts)


def test_only_empty_ranges() -> None:
    spans = coalesce(np.array([5, 3]), np.array([5, 3]))
    assert spans.ranges == []
    assert PackedValues.of_spans([], spans, np.array([5, 3]), np.array([5, 3])).cut() == [b"", b""]


def test_rows_of_fields_share_the_spans_of_their_samples() -> None:
    spans = coalesce(np.array([10, 100]), np.array([30, 110]))
    start, stop = np.array([[10, -1], [20, 100]]), np.array([[15, -1], [30, 110]])
    packed = PackedValues.of_spans([DATA[10:30], DATA[100:110]], spans, start, stop)
    assert packed.body.tolist() == [[0, -1], [0, 1]]
    second = PackedValues(packed.bodies, packed.body[1], packed.low[1], packed.high[1])
    assert second.cut() == [DATA[20:30], DATA[100:110]]


def test_values_are_spread_over_those_that_are_there() -> None:
    packed = PackedValues.of([b"a", b"bc"]).spread(np.array([False, True, False, True]))
    assert packed.cut() == [None, b"a", None, b"bc"]


@pytest.mark.parametrize("url", ["/x.tar", "http://host/x.tar", "s3://bucket/x.tar", "gs://bucket/x.tar"])
def test_each_storage_says_what_is_worth_reading_together(url: str) -> None:
    rule = get_storage(url).coalescing
    assert 0 < rule.gap < rule.largest
