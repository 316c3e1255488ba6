"""Class numbers made of texts: those of a field, or at a path of a JSON field, become the field ``cls``.

    first pass: the texts of all chosen samples -> sorted: the names of the classes -> a Choice that has them
    then: a block -> the text of each sample -> its number -> a block whose samples have it as their class

The names depend on the samples alone, so that numbers are the same for any number of workers, and when resumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import accumulate

import numpy as np

from shardtools.errors import CorruptError, JobError, SampleError
from shardtools.query.json_values import fields_of, value_in
from shardtools.shards.manifest import CLASS_FIELD
from shardtools.shards.reader import Block
from shardtools.shards.samples import field_values
from shardtools.shards.table import ShardTable, renumber
from shardtools.types import Ints

MOST = 1 << 16
"""The most classes: more texts are hardly names of such."""


def sorted_names(field: str, texts: Iterable[str]) -> tuple[str, ...]:
    """Return the names of classes, given the texts of all samples.

    Raises:
        JobError: they are too many, or empty.

    >>> sorted_names("label", ["dog", "cat\\n", "dog"])
    ('cat', 'dog')
    """
    names = sorted({text.strip() for text in texts})
    if len(names) > MOST:
        what = f"{field} has {len(names):,} different texts, and there may be {MOST:,} classes"
        raise JobError(what, fix="choose a field that has labels")
    if names and not names[0]:
        raise JobError(
            f"{field} is empty in a sample", fix=f"leave such samples out, as with --where \"{field} <> ''\""
        )
    return tuple(names)


def class_number(value: bytes | None, field: str, numbers: Mapping[str, int]) -> bytes:
    """Return the number of a class as it is stored.

    Raises:
        SampleError: there is no text, or none that was there in the first pass.
    """
    number = None if value is None else numbers.get(value.decode("utf-8", "surrogateescape").strip())
    if number is None:
        raise SampleError(f"its {field} is none of the classes", fix="run again: the sample has changed")
    return b"%d" % number


def with_classes(block: Block, numbers: list[bytes]) -> Block:
    """Return a block whose samples have their class ``numbers`` as a field, at the end of its buffer."""
    table, count = block.table, len(block)
    ends = np.array([*accumulate(map(len, numbers))], np.int64)
    sizes = np.diff(ends, prepend=0)
    at = len(block.buffer) + block.base
    places = np.repeat(np.arange(count), table.counts)
    codes = dict[str, int]()
    field = renumber(table, codes)
    code = codes.setdefault(CLASS_FIELD, len(codes))
    order = np.argsort(np.concatenate((places, np.arange(count))), kind="stable")

    def merged(of_members: Ints, of_classes: Ints) -> Ints:
        both: Ints = np.concatenate((of_members, of_classes))[order]
        return both

    table = ShardTable(
        keys=table.keys,
        start=table.start,
        stop=table.stop,
        first=table.first + np.arange(count + 1),
        fields=tuple(codes),
        field=merged(field, np.full(count, code)),
        offset=merged(table.offset, at + ends - sizes),
        size=merged(table.size, sizes),
        other=table.other,
    )
    return replace(block, buffer=memoryview(b"".join((block.buffer, *numbers))), table=table)


def texts_in(block: Block, field: str) -> list[bytes | None]:
    """Return the text of a field, or at a path of a JSON field, of each sample of a block.

    Raises:
        SampleError: a sample's JSON is none.
    """
    sources = fields_of(field)
    columns = {name: field_values(block, name) for name in sources}
    texts: list[bytes | None] = []
    for row in range(len(block)):
        try:
            texts.append(value_in({name: column[row] for name, column in columns.items()}, sources))
        except CorruptError as error:
            what, fix = f"{field}: {error.what}", "correct the sample"
            raise SampleError(what, url=block.url, member=block.keys[row], fix=fix) from error
    return texts
