"""Calls at the same time for many items: their order, errors, bounds, and context."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shardtools.storage import StorageOptions, current_options, using
from shardtools.storage.together import each


def test_results_come_in_the_order_of_the_items() -> None:
    """Though the first call ends last."""
    others = threading.Barrier(4)
    first_may_end = threading.Event()

    def call(number: int) -> int:
        if number == 0:
            assert first_may_end.wait(30)
        elif number < 4:
            others.wait(30)
            first_may_end.set()
        return number

    def end_together() -> None:
        others.wait(30)

    thread = threading.Thread(target=end_together)
    thread.start()
    assert list(each(call, range(50), threads=4)) == list(range(50))
    thread.join()


def test_no_more_than_so_many_results_wait() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            assert number < len(taken) + 6
            yield number

    for result in each(lambda number: number, items(), threads=3, ahead=2):
        taken.append(result)
    assert taken == list(range(100))


def test_the_first_error_ends_it() -> None:
    called: set[int] = set()

    def call(number: int) -> int:
        called.add(number)
        if number in (5, 7):
            raise ValueError(number)
        return number

    taken = []
    with pytest.raises(ValueError, match=r"^5$"):
        for result in each(call, range(1000), threads=2, ahead=1):
            taken.append(result)
    assert taken == [0, 1, 2, 3, 4] and max(called) < 10


def test_calls_follow_the_options_of_the_caller() -> None:
    with using(StorageOptions(retries=7)):
        assert list(each(lambda _: current_options().retries, range(9), threads=3)) == [7] * 9


def test_whoever_stops_listening_ends_the_calls() -> None:
    before = threading.active_count()
    results = each(lambda number: number, range(1000), threads=4)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_nothing_to_do() -> None:
    assert list(each(abs, [], threads=1)) == []
