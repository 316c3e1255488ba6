"""Arrays for the suite `array`: rows of bytes, a chunk each, made once for every library that reads them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.model import Work

VERSION = 1
"""Part of every array's folder: raise it when what is written changes."""

POOL_ROWS = 64
"""Rows are these again and again, each time with another first byte."""

TOGETHER = 64 << 20
"""Bytes that are written at a time."""


@dataclass(frozen=True)
class Layout:
    """An array of ``rows`` chunks of the shape ``chunk``, of bytes.

    They are ``packed`` by zstd, zarr's default, or left as they are. With ``noise`` they are random and do not get
    smaller; without, only 4 bits of each byte are random, so that they take about half.
    """

    rows: int
    chunk: tuple[int, ...]
    packed: bool
    noise: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.chunk)

    @property
    def chunks(self) -> tuple[int, ...]:
        return (1, *self.chunk)

    @property
    def row_bytes(self) -> int:
        size = 1
        for length in self.chunk:
            size *= length
        return size

    @property
    def name(self) -> str:
        """The name of its folder."""
        kind = f"{'zstd' if self.packed else 'plain'}-{'noise' if self.noise else 'halves'}"
        return f"array-{self.rows}x{self.row_bytes}-{kind}-v{VERSION}"

    def blocks(self) -> Iterator[tuple[int, int, Any]]:
        """Yield first row, last row plus one, and their values, some rows at a time; always the same array."""
        import numpy as np

        step = max(TOGETHER // self.row_bytes, 1)
        pool = np.random.default_rng(0).integers(0, 256 if self.noise else 16, (POOL_ROWS, *self.chunk), np.uint8)
        values = np.tile(pool, (-(-step // POOL_ROWS), *(1 for _ in self.chunk)))[:step]
        for start in range(0, self.rows, step):
            stop = min(start + step, self.rows)
            values.reshape(step, -1)[:, 0] = np.arange(start, start + step) % 256
            yield start, stop, values[: stop - start]


def layout(arguments: dict[str, Any]) -> Layout:
    """Return the layout in the arguments of a row."""
    return Layout(arguments["rows"], tuple(arguments["chunk"]), arguments["packed"], arguments["noise"])


def made_once(root: str, name: str, make: Callable[[str], None]) -> str:
    """Return the folder ``name``, which ``make`` fills if it is not there yet."""
    final = os.path.join(root, name)
    if not os.path.exists(final):
        partial = f"{final}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(os.path.dirname(partial), exist_ok=True)
        make(partial)
        os.rename(partial, final)
    return final


def check_row(row: Any, number: int) -> None:
    """Raise unless this can be a row of an array made by `Layout.blocks`."""
    if int(row.reshape(-1)[0]) != number % 256:
        raise RuntimeError(f"row {number} is not what was written")


def some_rows(rows: int, count: int, seed: int) -> list[int]:
    """Return different rows, drawn at random."""
    return random.Random(seed).sample(range(rows), min(count, rows))


def one_by_one(array: Any, rows: int, count: int) -> Work:
    """Return the work of reading some of the rows one by one, which are read here before, and checked."""
    numbers = some_rows(rows, count, 1)
    for number in numbers:
        check_row(array[number], number)

    def work() -> int:
        for number in numbers:
            array[number]
        return len(numbers)

    return work


def in_one_call(read: Callable[[list[int]], Any], rows: int, count: int, rounds: int) -> Work:
    """Return the work of reading some of the rows by one call of ``read``, once for each round."""
    wanted = [some_rows(rows, count, seed) for seed in range(rounds)]
    read(wanted[-1])
    return lambda: sum(len(read(numbers)) for numbers in wanted)
