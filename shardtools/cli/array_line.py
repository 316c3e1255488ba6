"""The options that all commands of htarray share, and how they show what they do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from shardtools.cli.common import tell
from shardtools.cli.options import PATIENCE_OPTIONS, Function, add_options
from shardtools.cli.storage_line import CACHE_OPTION, VERBOSE_OPTION, StorageLine
from shardtools.units import format_count, format_size

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

_MINUTE = 60.0

OPTIONS = [
    *PATIENCE_OPTIONS,
    CACHE_OPTION,
    click.option("-q", "--quiet", is_flag=True, help="Show errors and results only: no progress, no summary."),
    VERBOSE_OPTION,
]


@dataclass(frozen=True, kw_only=True)
class ArrayLine(StorageLine):
    """The place and the options that all commands have, as they were typed."""

    place: str

    @property
    def sources(self) -> tuple[str, ...]:
        """What was named: a place is no spec of shards."""
        return ()

    def hub(self) -> Hub:
        """Return the hub at the place."""
        from shardtools.arrays.hub import open_hub

        return open_hub(self.place, cache=self.cache, retries=self.retries, timeout=self.timeout)

    @property
    def named(self) -> tuple[str]:
        """The place."""
        return (self.place,)

    def say(self, text: str) -> None:
        """Say what was done."""
        if not self.quiet:
            tell(text)

    @contextmanager
    def progress(self) -> Iterator[Callable[[int, int], object]]:
        """A context of what shows progress: called with chunks or rows, and bytes, that were done."""
        done = [0, 0]
        told = time.monotonic()
        bar: Any = None
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            bar = tqdm(bar_format="{desc}", dynamic_ncols=True, file=sys.stderr)

        def advance(count: int, nbytes: int) -> None:
            nonlocal told
            done[0] += count
            done[1] += nbytes
            text = f"{done[0]:,} done, {format_size(done[1])}"
            if bar is not None:
                bar.set_description_str(text)
            elif not self.quiet and time.monotonic() - told >= _MINUTE:
                told = time.monotonic()
                tell(text, err=True)

        try:
            yield advance
        finally:
            if bar is not None:
                bar.close()


def array_options(command: Function) -> Function:
    """Add the place and the options that all commands have; the command gets them as ``line``."""
    return add_options(command, "line", ArrayLine, [click.argument("place", metavar="PLACE")], OPTIONS)


def count(number: int, noun: str) -> str:
    """Return a number and its noun.

    >>> count(1, "chunk"), count(2, "chunk")
    ('1 chunk', '2 chunks')
    """
    return format_count(number, noun)
