"""Data that nothing needs is deleted, and never under a commit, whatever comes in between."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shardtools as st
from shardtools.errors import ConflictError, CorruptError, JobError
from shardtools.log import garbage
from shardtools.log.garbage import CollectResult, collect
from shardtools.log.log import Log, Snapshot
from shardtools.log.place import Place
from shardtools.log.proposals import Queue
from shardtools.log.started import Started

DAY = datetime.timedelta(days=1)
BEGIN = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    hub = st.hub(str(tmp_path / "hub"))
    hub.array("x", shape=4, chunks=2, dtype="int32")[:] = 1
    return hub


def data_of(hub: st.Hub) -> set[str]:
    return {str(path.relative_to(hub.url)) for path in Path(hub.url, "data").rglob("*") if path.is_file()}


def run(hub: st.Hub, days: float) -> CollectResult:
    return collect(hub.log, DAY, now=BEGIN + days * DAY)


def abandon(hub: st.Hub) -> str:
    """Write to a transaction that is never committed, as one whose process is killed; return its id."""
    transaction = hub.transaction().begin()
    transaction["x"][:] = 2
    transaction.buffer.flush()
    transaction.buffer.writer.finish()
    return transaction.id


def test_what_was_abandoned_is_deleted_in_the_second_run(hub: st.Hub) -> None:
    needed = data_of(hub)
    id = abandon(hub)
    assert run(hub, 0) == CollectResult(waiting=1, deleted=0, objects=0)
    assert run(hub, 0.9) == CollectResult(waiting=1, deleted=0, objects=0)
    assert f"data/{id}/0000.tar" in data_of(hub)
    assert run(hub, 1) == CollectResult(waiting=0, deleted=1, objects=1)
    assert data_of(hub) == needed
    assert {path.name for path in Path(hub.url, "data").iterdir()} == {name.split("/")[1] for name in needed}
    assert hub.load("x")[:].tolist() == [1, 1, 1, 1]


def test_versions_tags_and_branches_keep_their_data(hub: st.Hub) -> None:
    hub.tag("v1")
    array = hub.load("x")
    for value in range(2, 30):
        array[:] = value
    hub.branch("try", "@5")
    hub.compact()
    for days in (0, 1, 2):
        run(hub, days)
    assert [hub.load(f"x@{number}")[0] for number in range(1, 30)] == list(range(1, 30))
    hub.expire(keep=1)
    for days in (3, 4):
        run(hub, days)
    assert (hub.load("x")[0], hub.load("x:v1")[0], hub.load("x:try")[0]) == (29, 1, 5)
    assert hub.verify().problems == ()
    assert hub.verify("v1").problems == ()
    assert hub.verify("try").problems == ()
    shards = {name for name in data_of(hub) if name.endswith(".tar")}
    assert len(shards) < 8
    with pytest.raises(Exception, match="version @20 has expired"):
        hub.load("x@20")


def test_a_slow_write_that_lost_its_data_fails(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "CLAIM_AFTER", 0)
    slow = hub.transaction().begin()
    slow["x"][:] = 2
    slow.buffer.flush()
    slow.buffer.writer.finish()
    run(hub, 0)
    assert run(hub, 1).deleted == 1
    with pytest.raises(ConflictError, match=r"data of this write was deleted by a gc: .*; write again"):
        slow.commit()
    assert hub.load("x")[:].tolist() == [1, 1, 1, 1]
    assert list(Path(hub.url, "claims").iterdir()) == []
    hub.load("x")[:] = 3
    assert hub.load("x")[:].tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("step", ["_claimed", "_needed", "_delete"])
def test_a_slow_write_that_commits_while_a_run_goes_on(hub: st.Hub, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """It commits just before a step of the run: then it has its data, or it fails; in no case is a commit damaged."""
    monkeypatch.setattr(garbage, "CLAIM_AFTER", 0)
    slow = hub.transaction().begin()
    slow["x"][:] = 2
    slow.buffer.flush()
    slow.buffer.writer.finish()
    run(hub, 0)
    outcome: list[str] = []
    real: Callable[..., object] = getattr(garbage, step)

    def after_the_commit(*arguments: object) -> object:
        if not outcome:
            outcome.append("begun")
            try:
                slow.commit()
            except ConflictError:
                outcome.append("refused")
        return real(*arguments)

    monkeypatch.setattr(garbage, step, after_the_commit)
    run(hub, 1)
    assert outcome[0] == "begun"
    assert hub.load("x")[:].tolist() == ([1] * 4 if "refused" in outcome else [2] * 4)
    assert hub.verify().problems == ()
    # Before the record is written, in `_needed`, it is in time; afterwards it sees the record.
    assert ("refused" in outcome) == (step != "_needed")


def test_a_slow_write_that_lost_its_data_is_not_taken_along(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes it along is quick itself, and does not look whether the data of others is there."""
    hub.array("y", shape=4, chunks=2, dtype="int32")[:] = 1
    slow = hub.transaction().begin()
    slow["x"][:] = 2
    slow.buffer.flush()
    slow.buffer.writer.finish()
    run(hub, 0)
    assert run(hub, 1).deleted == 1
    monkeypatch.setattr(slow._started, "elapsed", lambda: 2 * DAY.total_seconds())
    hub.log.contended = 3  # as after lost races
    real = Queue.propose

    def another_commits_next(queue: Queue) -> None:
        real(queue)
        if queue.mine.write.id == slow.id:
            other = st.hub(hub.url)
            other.log.contended = 3
            other.load("y")[:] = 9

    monkeypatch.setattr(Queue, "propose", another_commits_next)
    with pytest.raises(ConflictError, match="data of this write was deleted by a gc"):
        slow.commit()
    assert hub.verify().problems == ()
    assert hub.load("x")[:].tolist() == [1, 1, 1, 1]


def test_a_slow_write_that_was_proposed_stays_so(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer waits for long after it was proposed, and is stopped: others may have read it, and commit it."""
    slow = hub.transaction()
    slow.begin()
    slow["x"][:] = 2
    hub.log.contended = 3

    def stopped_much_later(queue: Queue, head: Snapshot) -> bool:
        monkeypatch.setattr(slow._started, "elapsed", lambda: DAY.total_seconds())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Queue, "await_turn", stopped_much_later)
        slow.commit()
    run(hub, 0)
    assert run(hub, 1).deleted == 0
    other = st.hub(hub.url)
    other.array("y", shape=4, chunks=2, dtype="int32")
    other.log.contended = 3
    other.load("y")[:] = 9
    assert hub.verify().problems == ()
    assert st.hub(hub.url).load("x")[:].tolist() == [2, 2, 2, 2]


def test_a_killed_run_is_closed_by_a_later_one(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then nobody brings what it may be deleting."""
    id = abandon(hub)
    run(hub, 0)

    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(garbage, "_delete", killed)
        run(hub, 1)
    for day, closed in ((2, False), (3, True)):
        run(hub, day)
        assert Path(hub.url, "garbage", f"{1:020d}.done").exists() == closed
    with garbage.claim(hub.log.place, [id], again=True):
        assert f"data/{id}/0000.tar" not in data_of(hub)


def test_a_run_that_takes_too_long_stops(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    id = abandon(hub)
    run(hub, 0)
    with monkeypatch.context() as patch, pytest.raises(JobError, match="this gc has taken longer than a day"):
        patch.setattr(Started, "elapsed", lambda self: 1.5 * DAY.total_seconds())
        run(hub, 1)
    assert f"data/{id}/0000.tar" in data_of(hub)
    assert run(hub, 2).deleted == 1


def test_a_claim_is_respected(hub: st.Hub) -> None:
    id = abandon(hub)
    run(hub, 0)
    with garbage.claim(hub.log.place, [id]):
        assert run(hub, 1) == CollectResult(waiting=0, deleted=0, objects=0)
    assert f"data/{id}/0000.tar" in data_of(hub)
    assert run(hub, 2).deleted == 1
    assert f"data/{id}/0000.tar" not in data_of(hub)


def test_what_was_committed_after_the_record_was_written_is_kept(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that had claimed its data before the run is committed, and its claim is gone, when the run reads on."""
    monkeypatch.setattr(garbage, "CLAIM_AFTER", 0)
    slow = hub.transaction().begin()
    slow["x"][:] = 2
    slow.buffer.flush()
    slow.buffer.writer.finish()
    run(hub, 0)
    with garbage.claim(hub.log.place, [slow.id]):
        real = garbage._write_record

        def and_commit(*arguments: Any) -> None:
            monkeypatch.setattr(garbage, "CLAIM_AFTER", 1e9)  # it has claimed
            slow.commit()
            real(*arguments)

        monkeypatch.setattr(garbage, "_write_record", and_commit)
        monkeypatch.setattr(garbage, "_claimed", lambda place: frozenset())
        assert run(hub, 1).deleted == 0
    assert hub.load("x")[:].tolist() == [2, 2, 2, 2]
    assert hub.verify().problems == ()


def test_a_run_that_was_killed_is_finished_by_the_next(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    id = abandon(hub)
    run(hub, 0)

    def kill(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(garbage, "_delete", kill)
        with pytest.raises(KeyboardInterrupt):
            run(hub, 1)
    with (
        pytest.raises(ConflictError, match="a gc is deleting what is to be brought here"),
        garbage.claim(hub.log.place, [id], again=True),
    ):
        pass
    assert run(hub, 1.1).deleted == 1
    assert json.loads(Path(hub.url, "garbage", f"{2:020d}").read_text())["deleted"] == [id]


def test_a_waiting_proposal_keeps_its_data(hub: st.Hub) -> None:
    id = abandon(hub)
    proposals = Path(hub.url, "proposals/main")
    proposals.mkdir(parents=True)
    (proposals / f"{2:020d}-{id}").write_text("{}")
    run(hub, 0)
    assert run(hub, 1).deleted == 0
    array = hub.load("x")
    for value in range(70):
        array[0] = value
    run(hub, 2)
    assert list(proposals.iterdir()) == []
    run(hub, 3)
    assert run(hub, 4).waiting == 0
    assert not any(id in name for name in data_of(hub))


def test_what_is_damaged_stops_a_run(hub: st.Hub) -> None:
    abandon(hub)
    run(hub, 0)
    hub.load("x")[:] = 4
    before = data_of(hub)
    Path(hub.url, "log/main", f"{1:020d}").unlink()
    with pytest.raises(CorruptError, match=f"log/main/{1:020d}: a commit is gone; restore it from a copy"):
        run(hub, 1)
    assert data_of(hub) == before


def test_a_branch_whose_first_commit_is_gone_is_not_taken_for_an_empty_one(hub: st.Hub) -> None:
    Path(hub.url, "log/main", f"{0:020d}").unlink()
    with pytest.raises(CorruptError, match=f"log/main/{0:020d}: the first commit is gone; restore it from a copy"):
        st.hub(hub.url).array("y", shape=4, chunks=2, dtype="int32")


def test_commits_that_others_make_during_the_first_look(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = Place.has_commit, []

    def has_commit(place: Place, branch: str, number: int) -> bool:
        asked.append(number)
        return len(asked) > 1 and real(place, branch, number)

    monkeypatch.setattr(Place, "has_commit", has_commit)
    assert Log.open(hub.url).head().number == 1
    assert asked[0] == 0


def test_grace_is_an_hour_at_least(hub: st.Hub) -> None:
    with pytest.raises(JobError, match=r"less than an hour; .*choose 1h or more"):
        collect(hub.log, datetime.timedelta(minutes=59))
    with pytest.raises(JobError, match="soon is not an age"):
        hub.gc("soon")
    assert hub.gc("1h").deleted == 0
