"""What is kept of the values used lately, and what each process makes for itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from shardtools.forks import PerProcess
from shardtools.lru import LRU


def in_child(call: Callable[[], bool]) -> bool:
    """Return what a call gives in a fork of this process."""
    if not (child := os.fork()):
        try:
            os._exit(0 if call() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


def test_the_least_recently_used_are_forgotten() -> None:
    kept: LRU[str, int] = LRU(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert [kept.get(key) for key in "abc"] == [1, None, 3] and len(kept) == 2
    assert kept.pop("a") == 1 and kept.pop("a") is None and len(kept) == 1
    kept.clear()
    assert len(kept) == 0 and kept.get("c") is None


def test_weights_count_and_the_last_value_is_always_kept() -> None:
    kept: LRU[str, str] = LRU(10, len)
    kept.put("a", "x" * 4)
    kept.put("b", "x" * 6)
    assert len(kept) == 2
    kept.put("c", "x")
    assert kept.get("a") is None and kept.get("b") is not None
    kept.put("d", "x" * 99)
    assert len(kept) == 1 and kept.get("d") is not None
    kept.put("e", "x" * 10)
    kept.pop("e")
    kept.put("f", "x" * 10)
    assert len(kept) == 1


def test_the_first_of_two_values_stays() -> None:
    kept: LRU[int, list[int]] = LRU(2)
    first = kept.put(1, [1])
    assert kept.put(1, [2]) is first and kept.get(1) is first


def test_a_child_begins_with_nothing_even_if_another_thread_held_the_lock() -> None:
    kept: LRU[int, int] = LRU(2)
    kept.put(1, 1)
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with kept._kept.get().lock:
            held.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert in_child(lambda: kept.get(1) is None and kept.put(1, 2) == 2)
    leave.set()
    thread.join()
    assert kept.get(1) == 1


def test_each_process_makes_a_value_of_its_own_once() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(os.getpid())
        return os.getpid()

    own = PerProcess(make)
    threads = [threading.Thread(target=own.get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert own.get() == os.getpid() and len(made) == 1
    assert in_child(lambda: own.get() == os.getpid() and own.get() == os.getpid() and len(made) == 2)
    assert own.get() == os.getpid() and len(made) == 1
