"""Locks as files, among threads, processes, and the children of processes that died."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardtools.storage.file_lock import close_lock, locked, open_lock, release, try_lock, wait_for_lock
from tests.servers import wait_until


class Boom(Exception):
    pass


def is_free(path: Path) -> bool:
    fd = open_lock(str(path))
    try:
        return try_lock(fd)
    finally:
        close_lock(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_one_holder_at_a_time(path: Path) -> None:
    inside = 0

    def work(_: int) -> None:
        nonlocal inside
        with locked(str(path)):
            inside += 1
            assert inside == 1
            time.sleep(0)  # lets the others try
            inside -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(300)))


def test_closing_and_releasing_give_it_back(path: Path) -> None:
    for give_back in (release, close_lock):
        fd = open_lock(str(path))
        assert try_lock(fd) and not is_free(path)
        give_back(fd)
        assert is_free(path)
        if give_back is release:
            os.close(fd)  # it is any file's now
    with pytest.raises(Boom), locked(str(path)):
        raise Boom
    assert is_free(path)


def test_waiting(path: Path) -> None:
    fd, other = open_lock(str(path)), open_lock(str(path))
    assert try_lock(fd)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise Boom

    with pytest.raises(Boom):
        wait_for_lock(other, 60, check)
    assert not wait_for_lock(other, 0.05, lambda: None), "nobody writes to it"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait_for_lock, other, 60, lambda: None)
        close_lock(fd)
        assert waiting.result(60)
    close_lock(other)


def test_patience_begins_again_with_each_write(path: Path) -> None:
    fd, other = open_lock(str(path)), open_lock(str(path))
    assert try_lock(fd)
    started = time.monotonic()

    def write() -> None:
        if time.monotonic() < started + 1:
            os.utime(fd)

    assert not wait_for_lock(other, 0.3, write)
    assert time.monotonic() - started >= 1
    close_lock(fd)
    close_lock(other)


HOLD = """
import os, signal, sys
from shardtools.storage.file_lock import open_lock, try_lock
assert try_lock(open_lock(sys.argv[1]))
child = os.fork() if sys.argv[2] == "fork" else 0
if child or sys.argv[2] != "fork":
    print(child, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("way", ["alone", "fork"])
def test_a_killed_holder_lets_go_even_if_its_child_lives(path: Path, way: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), way], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        assert not is_free(path)
        process.kill()
        process.wait(60)
        wait_until(lambda: is_free(path), "the lock")
        if child:
            os.kill(child, 0)  # it does live
    finally:
        process.kill()
        if child:
            os.kill(child, signal.SIGKILL)
        process.communicate()


def test_a_child_inherits_no_lock(path: Path) -> None:
    fd = open_lock(str(path))
    assert try_lock(fd)
    context = multiprocessing.get_context("fork")
    go = context.Event()

    def child() -> None:
        assert go.wait(60)
        with locked(str(path)):  # and can be had like any other
            pass

    process = context.Process(target=child)
    process.start()
    close_lock(fd)
    assert is_free(path)
    go.set()
    process.join(60)
    assert process.exitcode == 0


def test_forks_while_threads_lock(path: Path) -> None:
    """None of the children gets a lock or a descriptor that its parent was about to open."""
    done = threading.Event()

    def work(number: int) -> None:
        while not done.is_set():
            with locked(f"{path}-{number}"):
                pass

    def child() -> None:
        mine = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        os._exit(sum(os.readlink(link).startswith(str(path)) for link in mine if os.path.lexists(link)))

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            pid = os.fork()
            if pid == 0:
                try:
                    child()
                finally:
                    os._exit(99)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
