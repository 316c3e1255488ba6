"""Clocks that are wrong, or jump: commits follow each other, and no data is deleted that a version needs."""

from __future__ import annotations

import datetime
from itertools import pairwise
from pathlib import Path

import pytest

import shardtools as st
from shardtools.arrays.transaction import Transaction
from shardtools.errors import ConflictError
from shardtools.log import started
from shardtools.log.garbage import CLAIM_AFTER, CollectResult, collect

DAY = datetime.timedelta(days=1)


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    hub = st.hub(str(tmp_path / "hub"))
    hub.array("x", shape=4, chunks=2, dtype="int32")[:] = 1
    return hub


def set_clock(monkeypatch: pytest.MonkeyPatch, days: float, later: float = 0) -> None:
    """Let the system's clock be so many days wrong from now on, and let so many seconds pass."""
    wrong = datetime.timedelta(days=days, seconds=later)
    monkeypatch.setattr(
        "shardtools.log.committing.now", lambda: (datetime.datetime.now(datetime.UTC) + wrong).isoformat()
    )
    real = started._clocks

    def clocks() -> tuple[float, ...]:
        of_system, *others = real()
        return (of_system + wrong.total_seconds(), *(clock + later for clock in others))

    monkeypatch.setattr(started, "_clocks", clocks)


def begin_to_write(hub: st.Hub) -> Transaction:
    """Return a transaction whose data is stored, and not yet committed."""
    transaction = hub.transaction().begin()
    transaction["x"][:] = 2
    transaction.buffer.flush()
    transaction.buffer.writer.finish()
    return transaction


def run(hub: st.Hub, days: float) -> CollectResult:
    return collect(hub.log, DAY, now=datetime.datetime.now(datetime.UTC) + days * DAY)


def test_writers_whose_clocks_are_a_day_wrong(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = [st.hub(hub.url).load("x") for _ in range(3)]
    values = [1]
    for number, (writer, days) in enumerate(zip(writers * 3, [1, -1, 0] * 3, strict=True), 2):
        with monkeypatch.context() as patch:
            set_clock(patch, days)
            writer.refresh()[:] = number
        values.append(number)
    hub = st.hub(hub.url)
    history = list(hub.history())[::-1]
    assert [commit.number for commit in history] == list(range(len(values) + 1))
    assert all(after.parent and after.parent.digest == before.digest for before, after in pairwise(history))
    times = [datetime.datetime.fromisoformat(write.time) for commit in history for write in commit.writes]
    assert max(times) - min(times) > 1.9 * DAY
    assert hub.expire(older_than="1h") == 0
    begin_to_write(hub)
    assert [run(hub, days).deleted for days in (0, 0.9, 1.1)] == [0, 0, 1]
    assert [hub.load(f"x@{number}")[0] for number in range(1, len(values) + 1)] == values
    assert hub.verify().is_whole


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_a_clock_that_jumps_during_a_write_that_lost_its_data(
    hub: st.Hub, monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    slow = begin_to_write(hub)
    run(hub, 0)
    assert run(hub, 1.1).deleted == 1
    set_clock(monkeypatch, days, CLAIM_AFTER + 1)
    with pytest.raises(ConflictError, match="data of this write was deleted by a gc"):
        slow.commit()
    assert hub.load("x")[:].tolist() == [1] * 4
    assert hub.verify().is_whole


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_during_a_write(hub: st.Hub, monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    slow = begin_to_write(hub)
    run(hub, 0)
    set_clock(monkeypatch, days)
    slow.commit()
    assert run(hub, 1.1).deleted == 0
    assert hub.load("x")[:].tolist() == [2] * 4
    assert hub.verify().is_whole


def test_a_gc_whose_clock_was_set_back_deletes_nothing(hub: st.Hub) -> None:
    slow = begin_to_write(hub)
    assert [run(hub, days).deleted for days in (0, -1, -30)] == [0, 0, 0]
    slow.commit()
    assert hub.load("x")[:].tolist() == [2] * 4


def test_a_gc_whose_clock_was_ahead_does_not_stop_the_next_ones(hub: st.Hub) -> None:
    run(hub, 1000)
    begin_to_write(hub)
    assert [run(hub, days).deleted for days in (0, 0.9, 1.1)] == [0, 0, 1]
    assert hub.verify().is_whole
