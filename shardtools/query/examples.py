"""One example of a field, as a short text that is safe to print.

the data of a member -> its kind -> a text, a number, "JPEG image, 640 x 480", "float32 array of shape (3, 4)"
"""

from __future__ import annotations

import io
import wave
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

import numpy as np

from shardtools.errors import CorruptError, FieldError, LimitError, printable
from shardtools.shards.fields import decode_by, extension, kind_of
from shardtools.shards.images import open_image
from shardtools.shards.members import IndexedShard
from shardtools.shards.npy import read_header
from shardtools.shards.reader import ShardReader
from shardtools.shards.samples import records
from shardtools.shards.table import ShardTable

LONGEST = 200
"""The most characters of an example."""

LARGEST = 4 << 20
"""The largest member that is read for an example, in bytes."""

_ROWS = 1000
_BLOCK = 1 << 20
_ARRAYS = 8


def read_examples(url: str, shard: IndexedShard | None) -> dict[str, str]:
    """Return an example of each field of the first samples of the shard at ``url``.

    They are read by ranges if ``shard`` allows it, else the shard is read up to the end of its first megabyte. There is
    none of data that do not match the sidecar.

    Raises:
        StorageError, ShardError: the shard cannot be read.
    """
    if shard is None or not shard.can_enter:
        return _first_examples(url)
    rows = shard.table.slice(0, min(_ROWS, len(shard.table)))
    chosen: dict[str, int] = {}
    for field in rows.fields:
        members = shard.table.members_of(field)[: len(rows)]
        members = members[members >= 0]
        members = members[shard.table.size[members] <= LARGEST]
        if len(members):
            chosen[field] = int(members[0])
    try:
        data = shard.read(np.array(list(chosen.values()), np.int64))
    except CorruptError:
        return _undamaged_examples(shard, chosen)
    return {field: example_of(field, value) for field, value in zip(chosen, data, strict=True)}


def _undamaged_examples(shard: IndexedShard, chosen: Mapping[str, int]) -> dict[str, str]:
    """Return examples of those members that are not damaged, read one by one."""
    found: dict[str, str] = {}
    for field, member in chosen.items():
        with suppress(CorruptError):  # whoever reads the sample is told
            found[field] = example_of(field, shard.read(np.array([member]))[0])
    return found


def _first_examples(url: str) -> dict[str, str]:
    found: dict[str, str] = {}
    with ShardReader(url, block_size=_BLOCK) as reader:
        for block in reader:
            for record in islice(records(block), _ROWS):
                for field, value in record.items():
                    if field != "key" and field not in found:
                        found[field] = example_of(field, value)
            break
    return found


def first_table(url: str) -> ShardTable | None:
    """Return the table of the samples in the first megabyte of a shard; None if it has none.

    Raises:
        StorageError, ShardError: the shard cannot be read.
    """
    with ShardReader(url, block_size=_BLOCK) as reader:
        return next((block.table for block in reader), None)


def example_of(field: str, data: bytes) -> str:
    """Return what the data of a field are, in at most `LONGEST` characters; those that are damaged as bytes.

    >>> example_of("txt", b"two\\nlines"), example_of("cls", b"7"), example_of("bin", b"\\xff\\x00")
    ('two\\\\x0alines', '7', '2 bytes: ff 00')
    """
    try:
        text = decode_by(lambda value: _describe(field, value), field, data)
    except (FieldError, LimitError):
        text = _bytes(data)
    return shortened(text)


def shortened(text: str) -> str:
    """Return a text without control characters, cut to `LONGEST` characters.

    >>> len(shortened("a" * 500)), shortened("a" * 500)[-2:]
    (200, 'a…')
    """
    text = printable(text[: LONGEST + 1])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _describe(field: str, data: bytes) -> str:
    """Return what the data of a field are; anything may be raised for those that are not what the name says."""
    if field.lower().endswith(".gz"):
        unpacked = zlib.decompressobj(wbits=31).decompress(data, LARGEST)
        return _describe(field[:-3], unpacked)
    kind = kind_of(field)
    if kind == "image":
        with open_image(data) as image:
            return f"{image.format} image, {image.width} x {image.height}"
    if kind == "array":
        return _array(data)
    if kind == "arrays":
        return _arrays(data)
    if extension(field) == "wav":
        return _sound(data)
    text = data[: 4 * LONGEST + 4].decode(errors="strict" if len(data) <= 4 * LONGEST else "ignore")
    if kind == "bytes" and not text.isprintable():
        return _bytes(data)
    return text.strip()


def _array(data: bytes) -> str:
    header = read_header(io.BytesIO(data))
    return f"{header.dtype} array of shape {header.shape}"


def _arrays(data: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        parts = []
        for name in names[:_ARRAYS]:
            with archive.open(name) as file:
                header = read_header(file)
            parts.append(f"{name.removesuffix('.npy')}: {header.dtype} {header.shape}")
    more = [f"and {len(names) - _ARRAYS} more"] if len(names) > _ARRAYS else []
    return ", ".join([*parts, *more])


def _sound(data: bytes) -> str:
    with wave.open(io.BytesIO(data)) as sound:
        rate = sound.getframerate()
        return f"WAV sound, {sound.getnframes() / rate:.1f} s, {rate / 1000:g} kHz"


def _bytes(data: bytes) -> str:
    return f"{len(data):,} byte{'' if len(data) == 1 else 's'}: {data[:12].hex(' ')}{' …' if len(data) > 12 else ''}"
