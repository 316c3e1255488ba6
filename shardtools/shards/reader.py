"""From a URL to blocks of whole samples, in bounded memory.

    storage -> unpack -> buffer -> scan -> Block (buffer and table) -> the next buffer begins with the incomplete sample

A shard is never held whole: a reader needs one buffer (three with ``ahead``) of ``block_size`` bytes, or, where that is
more, of the size of the largest sample. Room is made as bytes arrive, not as headers claim: a few bytes of a stranger
may claim, or unpack to, any number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from queue import Full, Queue
from types import TracebackType
from typing import Any

import numpy as np

from shardtools.errors import DuplicateKeyError
from shardtools.shards.compression import Packing, Readable, packing_of, unpack
from shardtools.shards.kinds import check_tar
from shardtools.shards.scan import Scan, scan
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK
from shardtools.shards.verify import CheckedStream, expected_checksum
from shardtools.storage import Stat, count, current_options, get_storage
from shardtools.types import Bytes, Ints
from shardtools.urls import is_local

BLOCK_SIZE = 8 << 20
"""Bytes of tar file in a block, by default: small enough to stay in the processor's cache."""

_PAGE = 4096


@dataclass(frozen=True)
class Block:
    """Some whole samples of a shard.

    ``buffer`` holds the bytes of the tar file from offset ``base`` on, which ``table`` describes; both are good until
    the next block is asked for. ``index`` is the position of the first sample in its shard, and ``repeated`` are the
    rows of the samples whose key came earlier in the shard. ``rows`` are the positions of all samples in their shard;
    None if they follow each other.
    """

    url: str
    buffer: memoryview
    base: int
    table: ShardTable
    index: int
    repeated: tuple[int, ...] = ()
    rows: Ints | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def positions(self) -> Ints:
        """The position of each sample in its shard."""
        return np.arange(self.index, self.index + len(self)) if self.rows is None else self.rows

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the samples."""
        return self.table.keys.decode()


class SeenKeys:
    """Finds keys that come twice, in 8 bytes a key: only their 64-bit hashes are kept.

    The hashes lie in sorted arrays, each at least twice as long as the next, so that adding costs little even for a
    million samples. (A false alarm has odds of one to a million at six million samples in one shard.)
    """

    def __init__(self) -> None:
        self._runs: list[Ints] = []

    def add(self, keys: list[str]) -> tuple[int, ...]:
        """Return the positions in ``keys`` of those that were there before, and add all of them."""
        hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
        again = np.zeros(len(hashes), bool)
        for run in self._runs:
            again |= run[np.minimum(np.searchsorted(run, hashes), len(run) - 1)] == hashes
        order = np.argsort(hashes, kind="stable")
        merged = hashes[order]
        again[order[1:][merged[1:] == merged[:-1]]] = True
        while self._runs and len(self._runs[-1]) < 2 * len(merged):
            merged = np.sort(np.concatenate((self._runs.pop(), merged)))
        if len(merged):
            self._runs.append(merged)
        return tuple(np.flatnonzero(again).tolist())


def refuse_repeated(block: Block) -> None:
    """Raise if a sample of the block has a key that came earlier in the shard, not right before it.

    Raises:
        DuplicateKeyError: one has; every other reader would silently make two samples of it.
    """
    if block.repeated:
        raise repeated_key(block.url, block.keys[block.repeated[0]])


def repeated_key(url: str, key: str) -> DuplicateKeyError:
    """Return the error for a key whose members are not next to each other."""
    return DuplicateKeyError(
        "this key occurs again after other samples",
        url=url,
        member=key,
        fix="htsort --merge outer joins the members of a sample; different samples need different keys",
    )


class ShardReader:
    """A shard, read once from start to end: iterate over it for its blocks.

    ``stat`` describes the object that is read; ``packing`` says how it is packed, once the first block was read. With
    ``ahead`` the next block is read and scanned in a thread while the caller works on this one. With ``measure`` the
    checksum of all bytes is taken, for `measured`, and ``watch``, if it is given, is called with them.

    Raises, when made or while read:
        StorageError: the shard cannot be read.
        ShardError: it is no shard, truncated or damaged, or does not match its sidecar (see ``verify.py``).
        LimitError: a sample is larger than the options of storage allow (see `shardtools.limits`).
    """

    def __init__(
        self,
        url: str,
        *,
        block_size: int = BLOCK_SIZE,
        ahead: bool = False,
        measure: bool = False,
        watch: Callable[[memoryview], object] | None = None,
    ):
        self.url = url
        self.packing: Packing = "tar"
        self._measure = measure
        self._watch = watch
        self._block_size = max(block_size // BLOCK, 1) * BLOCK
        self._ahead = ahead
        self._limits = current_options().limits
        self._stream = get_storage(url).open(url)
        self._checked = self._check()
        self._stopped = threading.Event()
        self._running: Generator[Block, None, None] | None = None

    def _check(self) -> CheckedStream | None:
        """Return what checks the bytes as they come, None if nothing is known of them."""
        try:
            # Who measures compares by himself, and may be about to make another sidecar.
            measures = self._measure and not current_options().verify
            checksum = None if measures else expected_checksum(self.url, self.stat)
        except BaseException:
            self._stream.close()
            raise
        return CheckedStream(self._stream, self.url, checksum, self._watch) if checksum or self._measure else None

    def measured(self) -> tuple[int, str]:
        """Return how many bytes the shard has as stored, and their checksum; once all blocks were read."""
        assert self._checked is not None
        return self._checked.size, self._checked.checksum

    @property
    def stat(self) -> Stat:
        """Size and validator of the object that is read."""
        return self._stream.stat

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()
        if self._running is not None:  # its thread must be gone before the stream is
            self._running.close()
        self._stream.close()

    def __iter__(self) -> Iterator[Block]:
        blocks = self._blocks(buffers=3 if self._ahead else 1)
        self._running = _in_thread(blocks, self._stopped) if self._ahead else blocks
        return self._count(self._running)

    def _count(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Yield blocks, and report those that the caller has done with; of a packed shard, without bytes as stored."""
        for block in blocks:
            yield block
            count("samples_read", len(block))
            count("bytes_read", len(block.buffer) if self.packing == "tar" else 0)

    def _blocks(self, buffers: int) -> Generator[Block, None, None]:
        seen = SeenKeys()
        pool = [_aligned(self._block_size) for _ in range(buffers)]
        turn, size, filled, base, index = 0, self._block_size, 0, 0, 0
        raw = self._checked or self._stream
        source: Readable = raw
        ended = final = False
        while not final:
            buffer = pool[turn][:size]
            filled, final = _fill(source, buffer, filled)
            if base == 0 and source is raw:
                self.packing = packing_of(buffer[: min(filled, 4)].tobytes())
            if base == 0 and source is raw and self.packing != "tar":
                source, filled, final = unpack(buffer[:filled].tobytes(), raw, self.url), 0, False
                continue
            if base == 0:
                check_tar(
                    buffer[: min(filled, BLOCK)].tobytes(), self.url, packing=None if source is raw else self.packing
                )
            found = scan(buffer[:filled], base=base, final=final, ended=ended, limits=self._limits, url=self.url)
            table, ended = found.table, found.ended
            behind = base + found.consumed
            left = None if source is not raw or self.stat.size is None else self.stat.size - behind
            self._check_limit(found, filled - found.consumed, left)
            if len(table) or table.other:
                block = Block(self.url, buffer[: found.consumed].data, base, table, index)
                repeated = seen.add(block.keys)
                yield _with_repeated(block, repeated)
                index += len(table)
                turn = (turn + 1) % buffers  # only now: the others may be in use, with blocks given out before
            filled -= found.consumed
            size = self._size_for(filled, found.wanted, left)
            pool[turn] = _room(pool[turn], size)
            pool[turn][:filled] = buffer[found.consumed : found.consumed + filled]
            base = behind
        if self._checked is not None:
            self._checked.check()

    def _check_limit(self, found: Scan, filled: int, left: int | None) -> None:
        """Raise if a sample is too large, also one of which only ``filled`` bytes have come, but whose headers say so.

        A size that is larger than the ``left`` bytes of the shard is not believed: the shard was cut off, which is the
        error that follows.
        """
        sizes = found.table.stop - found.table.start
        if len(sizes) and int(sizes.max()) > self._limits.sample:
            key = found.table.keys[int(sizes.argmax())]
            self._limits.check("sample", int(sizes.max()), url=self.url, member=key)
        size = found.size if left is None or found.size <= left else min(found.size, filled)
        self._limits.check("sample", size, url=self.url, member=found.member)

    def _size_for(self, filled: int, wanted: int, left: int | None) -> int:
        """Return the size of the next buffer, which begins with ``filled`` bytes of a sample that is incomplete.

        A large member gets what its header asks for where a file of this machine has as much ``left``, and else twice
        what has come of it; many small ones get half as much again.
        """
        if filled <= self._block_size // 2:
            return self._block_size
        enough = max(filled + filled // 2, max(filled, wanted) + self._block_size)
        there = left if left is not None and is_local(self.url) else 0
        return min(enough, max(2 * filled, there)) // BLOCK * BLOCK


def _room(buffer: Bytes, size: int) -> Bytes:
    """Return a buffer of at least ``size`` bytes: this one, unless it is too small or much too large."""
    return buffer if size <= len(buffer) <= 4 * size else _aligned(size)


def _with_repeated(block: Block, repeated: tuple[int, ...]) -> Block:
    if not repeated:
        return block
    return Block(block.url, block.buffer, block.base, block.table, block.index, repeated)


def _aligned(size: int) -> Bytes:
    """Return a buffer that begins at a page.

    Some processors copy several times more slowly from the kernel to addresses a little behind the start of a page,
    which is where large allocations lie.
    """
    raw = np.empty(size + _PAGE, np.uint8)
    skip = -raw.ctypes.data % _PAGE
    return raw[skip : skip + size]


def _fill(source: Readable, buffer: Bytes, filled: int) -> tuple[int, bool]:
    """Read until the buffer is full; return how much of it is, and whether the source has ended."""
    view = buffer.data
    while filled < len(view):
        size = source.readinto(view[filled:])
        if not size:
            return filled, True
        filled += size
    return filled, False


def _in_thread(blocks: Iterator[Block], stopped: threading.Event) -> Generator[Block, None, None]:
    """Yield the items of ``blocks``, the next of which is made in a thread meanwhile."""
    queue: Queue[tuple[Block | None, BaseException | None]] = Queue(1)

    def offer(item: tuple[Block | None, BaseException | None]) -> bool:
        return _wait(lambda: queue.put(item, timeout=0.1), Full, stopped)

    def produce() -> None:
        try:
            for block in blocks:
                if not offer((block, None)):
                    return
            offer((None, None))
        except BaseException as error:  # noqa: BLE001 - handed to the reader's caller
            offer((None, error))

    thread = threading.Thread(target=produce, name="shardtools-ahead", daemon=True)
    thread.start()
    try:
        while True:
            block, error = queue.get()
            if error is not None:
                raise error
            if block is None:
                return
            yield block
    finally:
        stopped.set()
        thread.join()


def _wait(attempt: Callable[[], Any], again: type[Exception], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            attempt()
        except again:
            continue
        return True
    return False


def read_blocks(url: str, *, block_size: int = BLOCK_SIZE, ahead: bool = False) -> Iterator[Block]:
    """Yield the blocks of a shard; see `ShardReader`."""
    with ShardReader(url, block_size=block_size, ahead=ahead) as reader:
        yield from reader
