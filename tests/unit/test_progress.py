"""How far a job has come, as it is shown."""

from __future__ import annotations

import pytest

from shardtools.programs.progress import Progress


class Bar:
    """Keeps what it is told."""

    def __init__(self, total: int, text: str):
        self.total, self.at, self.text = total, 0.0, text

    def set_description_str(self, desc: str | None = None, refresh: bool | None = True) -> None:
        self.text = desc or ""

    def update(self, n: float | None = 1) -> object:
        self.at += n or 0
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def bar_of(shards: int | tuple[int, ...], samples: int | None = None) -> tuple[Progress, Bar]:
    made: list[Bar] = []

    def make(total: int, text: str) -> Bar:
        made.append(Bar(total, text))
        return made[0]

    return Progress(shards, samples=samples, make_bar=make), made[0]


def test_shards_that_are_read_in_part(clock: list[float]) -> None:
    progress, bar = bar_of(10)
    progress.advance(100, 1_000_000)
    clock[0] += 10
    progress.within("a", 50, 500_000)
    assert (bar.total, bar.at) == (10, 1.5)
    assert bar.text == "1/10 shards, 15 samples/s, 150.0 kB/s, 56.7 s left"
    progress.within("a", 10, 100_000)  # its worker died, and another one has begun again
    assert bar.at == pytest.approx(1.1)
    progress.within("a", 300, 3_000_000)  # larger than others
    assert bar.at == pytest.approx(1.99)
    progress.within("a", 0, 0)
    progress.advance(300, 3_000_000)
    assert bar.at == pytest.approx(2)
    assert bar.text == "2/10 shards, 40 samples/s, 400.0 kB/s, 40.0 s left"


def test_what_the_first_shard_has_read(clock: list[float]) -> None:
    progress, bar = bar_of(10)
    clock[0] += 10
    progress.within("a", 50, 500_000)
    assert (bar.at, bar.text) == (0, "0/10 shards, 5 samples/s, 50.0 kB/s")


def test_passes_count_alike(clock: list[float]) -> None:
    progress, bar = bar_of((4, 2))
    assert (bar.total, bar.text) == (2, "pass 1 of 2: 0/4 shards")
    clock[0] += 10
    progress.advance(10, 1000)
    assert (bar.at, bar.text) == (0.25, "pass 1 of 2: 1/4 shards, 1 samples/s, 100 B/s, 1:10 min left")
    for _ in range(3):
        progress.advance(10, 1000)
    progress.within("a", 0, 1000)  # half of an output, as the outputs have together what was read
    assert (bar.at, bar.text) == (1.25, "pass 2 of 2: 0/2 shards, 4 samples/s, 500 B/s, 6.0 s left")
    progress.within("a", 0, 0)
    progress.advance(0, 2000, at=1)
    progress.advance(0, 2000, at=1, resumed=True)
    assert (bar.at, bar.text) == (2, "pass 2 of 2: 2/2 shards, 4 samples/s, 600 B/s")


def test_samples_that_are_known_before(clock: list[float]) -> None:
    progress, bar = bar_of(3, samples=400)
    progress.advance(100, 0, resumed=True)
    clock[0] += 10
    progress.within("a", 100, 1000)
    assert (bar.total, bar.at) == (400, 200)
    assert bar.text == "200/400 samples, 1.0 kB, 10 samples/s, 100 B/s, 20.0 s left"
