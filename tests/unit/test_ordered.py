"""The results of tasks as they come and in order, and the first error."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from shardtools.engine import Task, is_cancelled
from shardtools.engine.ordered import run_each, run_in_order
from tests.servers import wait_until


def wait_for(event: threading.Event, number: int) -> int:
    assert event.wait(60)
    return number


def fail_last() -> None:
    """Raise when another task has failed."""
    wait_until(is_cancelled, "the first error")
    raise LookupError("the last")


def fail_first() -> None:
    raise LookupError("the first")


class Backwards:
    """Tasks of which each ends when the next one is reported, the last one at once."""

    def __init__(self, count: int):
        self.events = [threading.Event() for _ in range(count)]
        self.events[-1].set()
        self.tasks = [Task(wait_for, (event, i), "") for i, event in enumerate(self.events)]

    def report(self, index: int) -> None:
        if index:
            self.events[index - 1].set()


def test_each_as_it_comes() -> None:
    backwards = Backwards(5)
    taken: list[tuple[int, int]] = []

    def take(index: int, result: int) -> None:
        taken.append((index, result))
        backwards.report(index)

    run_each(backwards.tasks, take, jobs=5)
    assert taken == [(i, i) for i in (4, 3, 2, 1, 0)]


def test_one_that_is_early_waits_for_those_before_it() -> None:
    backwards = Backwards(4)
    events: list[str] = []

    def on_done(number: int) -> None:
        events.append(f"done {number}")
        backwards.report(number)

    run_in_order(backwards.tasks, lambda number: events.append(f"take {number}"), on_done=on_done, jobs=4)
    assert events == [*(f"done {i}" for i in (3, 2, 1, 0)), *(f"take {i}" for i in range(4))]


@pytest.mark.parametrize("run", [run_each, run_in_order])
def test_the_first_error_is_raised(run: Any) -> None:
    tasks = [Task(fail_last, (), ""), Task(fail_first, (), ""), Task(fail_last, (), "")]
    with pytest.raises(LookupError, match="the first"):
        run(tasks, lambda *result: None, jobs=3)


@pytest.mark.parametrize("run", [run_each, run_in_order])
def test_what_take_raises_is_raised(run: Any) -> None:
    def take(*result: Any) -> None:
        raise LookupError(f"no room for {result[-1]}")

    with pytest.raises(LookupError, match="no room for 1"):
        run([Task(abs, (-1,), ""), Task(abs, (-2,), "")], take, jobs=1)


def test_nothing_is_taken_after_a_gap() -> None:
    taken: list[int] = []
    with pytest.raises(ZeroDivisionError):
        run_in_order([Task(abs, (-3,), ""), Task(divmod, (1, 0), ""), Task(abs, (-4,), "")], taken.append, jobs=1)
    assert taken == [3]
