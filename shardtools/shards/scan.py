"""From a buffer of tar blocks to the table of the samples in it.

    buffer -> locate_headers -> chunks of headers -> names -> keys and fields -> ShardTable

A sample is a run of members that share a key, the path up to the first dot of the base name; the field is what
follows that dot. Members are grouped by numpy, a chunk of headers at a time; Python code handles single members only
if their names come from extension headers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError, DuplicateKeyError
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.shards import tar
from shardtools.shards.columns import Texts, join
from shardtools.shards.locate import (
    Incomplete,
    has_prefix,
    is_extension,
    is_regular,
    locate_headers,
    only_times,
    verify_checksums,
)
from shardtools.shards.names import decode_name, is_field, is_meta, split_name
from shardtools.shards.table import ShardTable, repeated_fields
from shardtools.shards.tar import BLOCK, TYPE_AT, blocks_of, padded
from shardtools.storage import current_options
from shardtools.types import Bytes, Ints

_CHUNK = 3072
"""Headers in a chunk: few enough to stay in the processor's cache, and enough that threads that scan at the same time
do not wait for each other at every step."""

_WIDE = 1 << 24
"""The most bytes of names in a chunk, each padded to the longest: so one long name does not cost much."""

_SLASH, _DOT, _UNDERSCORE = b"/._"


@dataclass(frozen=True)
class Scan:
    """The samples found in a buffer.

    ``table`` has offsets in the shard. The samples end at ``consumed`` in the buffer; what follows belongs to the next
    buffer. ``ended`` says that an end-of-archive mark came last. ``wanted`` is how many bytes the next buffer must have
    to hold the member that is incomplete in this one, 0 if none is. ``size`` is the size of the incomplete sample, as
    far as its headers are known, and ``member`` the name of its last member, or its key, or None.
    """

    table: ShardTable
    consumed: int
    ended: bool
    wanted: int = 0
    size: int = 0
    member: str | None = None


def scan(
    buffer: Bytes,
    *,
    base: int = 0,
    final: bool = True,
    ended: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    url: str | None = None,
) -> Scan:
    """Return the table of the whole samples in a buffer that begins at offset ``base`` of the tar file.

    With ``final`` the tar file ends with the buffer, so its last sample is whole too. ``ended`` says that the bytes
    before the buffer were an end-of-archive mark. Every header's checksum is verified.

    Raises:
        TruncatedError: the tar file ends too early.
        CorruptError: a header is damaged, or the name of a member is reserved.
        DuplicateKeyError: a sample has two members with one field.
        LimitError: the extension headers of a member are larger than ``limits`` allow.
    """
    found = locate_headers(buffer, final=final, ended=ended, base=base, limits=limits, url=url)
    builder = _Builder(buffer, base, url, limits)
    for first, stop in pairwise((0, *found.breaks, len(found.start))):
        builder.last_key = None  # a sample does not go on after an end-of-archive mark
        builder.add(found.start[first:stop], found.size[first:stop])
    ended = found.ended or (ended and not len(buffer))
    whole = final or ended or builder.ends_before(found.incomplete)
    result = builder.finish(len(buffer) if found.ended else found.stop, whole=whole, ended=ended)
    member = found.incomplete.name if found.incomplete is not None else builder.last_key
    return replace(
        result,
        wanted=found.wanted - result.consumed if found.wanted else 0,
        size=(found.wanted if found.incomplete is not None else found.stop) - result.consumed,
        member=None if member is None else decode_name(member),
    )


def scan_located(buffer: Bytes, start: Ints, size: Ints, url: str | None) -> ShardTable:
    """Return the table of the samples whose headers are at ``start``, given the sizes of their data.

    The buffer has the headers, and the data of extension headers; the data of members need not be there.

    Raises:
        CorruptError, DuplicateKeyError, LimitError: as `scan` does.
    """
    builder = _Builder(buffer, 0, url, current_options().limits)
    builder.add(start, size)
    return builder.finish(len(buffer), whole=True, ended=True).table


@dataclass
class _Builder:
    """Groups headers into samples, a chunk at a time."""

    buffer: Bytes
    base: int
    url: str | None
    limits: Limits
    others: list[Ints] = field(default_factory=list)
    members: int = 0
    last_key: bytes | None = None
    codes: dict[bytes, int] = field(default_factory=dict)
    columns: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)

    def add(self, start: Ints, size: Ints) -> None:
        """Add the headers at ``start``, including extension headers."""
        kind = self.buffer[start + TYPE_AT]
        extension = is_extension(kind)
        begin, names = start, {}
        if extension.any():
            begin = _begin(start, extension & (kind != tar.PAX_GLOBAL))
            self._check_extensions(extension, begin, start, size)
            names = self._extended_names(kind, extension, start, size)
        blocks = blocks_of(self.buffer)
        for at in range(0, len(start), _CHUNK):
            rows = slice(at, at + _CHUNK)
            headers = blocks[start[rows] // BLOCK]
            verify_checksums(headers, start[rows], base=self.base, url=self.url)
            real = np.flatnonzero(~extension[rows])
            if len(real) < len(headers):
                headers = headers[real]
            if len(real):
                renamed = {i: names[row] for i, row in enumerate((at + real).tolist()) if row in names} if names else {}
                self._add_members(headers, renamed, begin[rows][real], start[rows][real], size[rows][real])

    def _check_extensions(self, extension: npt.NDArray[np.bool_], begin: Ints, start: Ints, size: Ints) -> None:
        """Raise if the extension headers of a member, or one for all members, are too large."""
        length = np.where(extension, size, start - begin)
        if int(length.max()) > self.limits.header:
            row = int(length.argmax())
            row += int((~extension[row:]).argmax())
            name = decode_name(tar.own_name(self.buffer[start[row] : start[row] + BLOCK].tobytes()))
            self.limits.check("header", int(length.max()), url=self.url, member=name)

    def _extended_names(
        self, kind: Bytes, extension: npt.NDArray[np.bool_], start: Ints, size: Ints
    ) -> dict[int, bytes]:
        """Return the names that extension headers give, by the row of the header of the member they describe."""
        rows = np.flatnonzero(extension)
        plain = (kind[rows] == tar.PAX) & only_times(self.buffer, start[rows] + BLOCK, size[rows])
        member = np.flatnonzero(~extension)
        names = {}
        for i in rows[~plain]:
            at = int(start[i]) + BLOCK
            payload = self.buffer[at : at + int(size[i])].tobytes()
            name, _ = tar.read_extension(int(kind[i]), payload, offset=self.base + int(start[i]), url=self.url)
            if name is not None:
                names[int(member[np.searchsorted(member, i)])] = name
        return names

    def _add_members(self, headers: Bytes, renamed: dict[int, bytes], begin: Ints, start: Ints, size: Ints) -> None:
        if len(headers) > 1 and len(headers) * max(map(len, renamed.values()), default=0) > _WIDE:
            half = len(headers) // 2
            for low, high in ((0, half), (half, len(headers))):
                some = {i - low: name for i, name in renamed.items() if low <= i < high}
                self._add_members(headers[low:high], some, begin[low:high], start[low:high], size[low:high])
            return
        names = _Names.read(headers, renamed)
        keyed = names.find_keys() & is_regular(headers[:, TYPE_AT])
        if not keyed.all():
            self.others.append(start[~keyed])
            names, begin, start, size = names.take(keyed), begin[keyed], start[keyed], size[keyed]
        if len(start):
            self._group(names, begin, start, size)

    def ends_before(self, incomplete: Incomplete | None) -> bool:
        """Return whether the last sample is whole, because the incomplete member after it belongs to another one."""
        if incomplete is None or not incomplete.is_regular or self.last_key is None:
            return False
        found = split_name(incomplete.name.split(b"\0", 1)[0])
        return found is not None and found[0] != self.last_key

    def _append(self, **columns: npt.NDArray[Any]) -> None:
        for name, column in columns.items():
            self.columns.setdefault(name, []).append(column)

    def _column(self, name: str, dtype: type[np.generic] = np.int64) -> npt.NDArray[Any]:
        return join(self.columns.get(name, []), dtype)

    def _group(self, names: _Names, begin: Ints, start: Ints, size: Ints) -> None:
        """Append members that all belong to samples."""
        new = names.starts_sample(self.last_key)
        self.last_key = names.key(len(start) - 1)
        keys, lengths = names.keys(new)
        self._append(
            key_data=keys,
            key_length=lengths,
            first=np.flatnonzero(new) + self.members,
            begin=begin[new],
            code=names.field_codes(self.codes),
            offset=start + BLOCK,
            size=size,
        )
        self.members += len(start)

    def finish(self, consumed: int, *, whole: bool, ended: bool) -> Scan:
        """Return the samples; the last one is left for the next buffer unless it is ``whole``."""
        begin, first = self._column("begin"), self._column("first")
        length, offset, size = self._column("key_length"), self._column("offset"), self._column("size")
        samples, members = len(begin), len(offset)
        if not whole and samples:
            samples -= 1
            members, consumed = int(first[samples]), int(begin[samples])
        first = np.append(first[:samples], members)
        last = first[1:] - 1
        ends = np.cumsum(length[:samples])
        table = ShardTable(
            keys=Texts(self._column("key_data", np.uint8)[: int(ends[-1]) if samples else 0], ends),
            start=begin[:samples],
            stop=offset[last] + padded(size[last]),
            first=first,
            fields=tuple(decode_name(name) for name in self.codes),
            field=self._column("code")[:members],
            offset=offset[:members],
            size=size[:members],
            other=int((join(self.others, np.int64) < consumed).sum()),
        ).shifted(self.base)
        _check_fields(table, self.url)
        return Scan(table, consumed, ended)


def _begin(start: Ints, extension: npt.NDArray[np.bool_]) -> Ints:
    """Return where each header's member begins: at the first of the extension headers right before it, if any."""
    opens = np.ones(len(start), bool)
    opens[1:] = ~extension[:-1]
    begin: Ints = start[np.maximum.accumulate(np.where(opens, np.arange(len(start)), 0))]
    return begin


def _check_fields(table: ShardTable, url: str | None) -> None:
    """Raise if a sample has a field twice, or one whose name is reserved in records."""
    taken = [code for code, name in enumerate(table.fields) if not is_field(name)]
    if taken and (clash := np.flatnonzero(np.isin(table.field, taken))).size:
        sample = int(np.searchsorted(table.first, clash[0], "right")) - 1
        name = table.fields[table.field[clash[0]]]
        raise CorruptError(
            f"a field cannot be called {name!r}: this name is reserved",
            url=url,
            member=f"{table.keys[sample]}.{name}",
            fix="rename the member",
        )
    if len(twice := repeated_fields(np.diff(table.first), table.field, len(table.fields))):
        sample, code = divmod(int(twice[0]), len(table.fields))
        raise DuplicateKeyError(
            "the sample has two members with this field",
            url=url,
            member=f"{table.keys[sample]}.{table.fields[code]}",
            fix="make the shard again with one of them",
        )


@dataclass
class _Names:
    """The names of members, one a row of ``text``, with NULs after ``length`` bytes; ``key_length`` are the key's."""

    text: Bytes
    length: Ints
    key_length: Ints

    @classmethod
    def read(cls, headers: Bytes, overrides: dict[int, bytes]) -> _Names:
        """Take the names from header blocks, and from extension headers by row."""
        text = headers[:, tar.NAME]
        prefixed = has_prefix(headers)
        if overrides or prefixed.any():
            overrides = {int(i): tar.own_name(headers[i].tobytes()) for i in np.flatnonzero(prefixed)} | overrides
            wide = np.zeros((len(text), max(100, *map(len, overrides.values()))), np.uint8)
            wide[:, :100] = text
            for i, name in overrides.items():
                wide[i] = 0
                wide[i, : len(name)] = np.frombuffer(name, np.uint8)
            text = wide
        dotted = (text[:, 0] == _DOT) & (text[:, 1] == _SLASH)
        while dotted.any():
            text = text.copy()
            text[dotted, :-2] = text[dotted, 2:]
            text[dotted, -2:] = 0
            dotted = (text[:, 0] == _DOT) & (text[:, 1] == _SLASH)
        length = _first(text == 0)
        text = text[:, : max(1, int(length.max()))]
        text = text * (np.arange(text.shape[1]) < length[:, None])  # some writers leave garbage behind the NUL
        return cls(text, length, np.zeros(len(text), np.int64))

    def take(self, rows: npt.NDArray[np.bool_]) -> _Names:
        return _Names(self.text[rows], self.length[rows], self.key_length[rows])

    def find_keys(self) -> npt.NDArray[np.bool_]:
        """Set where each key ends, and return which names have a key and a field."""
        text, width = self.text, self.text.shape[1]
        dots = text == _DOT
        slashes = text == _SLASH
        base: Ints | int = 0
        if slashes.any():
            base = width - _first(slashes[:, ::-1])
            dots &= np.arange(width) >= np.asarray(base)[:, None]
        self.key_length = _first(dots)
        keyed: npt.NDArray[np.bool_] = (self.key_length > base) & (self.key_length < self.length - 1)
        for i in np.flatnonzero(keyed & (text[:, 0] == _UNDERSCORE)):
            name = text[i, : self.length[i]].tobytes()
            keyed[i] = not is_meta(name)
        return keyed

    def key(self, row: int) -> bytes:
        return self.text[row, : self.key_length[row]].tobytes()

    def starts_sample(self, before: bytes | None) -> npt.NDArray[np.bool_]:
        """Return which members have another key than the one before them, ``before`` being the key before the first."""
        new = np.ones(len(self.text), bool)
        new[0] = self.key(0) != before
        agree = _first(self.text[1:] != self.text[:-1])
        new[1:] = (self.key_length[1:] != self.key_length[:-1]) | (agree < self.key_length[1:])
        return new

    def keys(self, rows: npt.NDArray[np.bool_]) -> tuple[Bytes, Ints]:
        """Return the bytes of the keys of ``rows``, end to end, and their lengths."""
        length = self.key_length[rows]
        text = self.text[rows]
        return text[np.arange(text.shape[1]) < length[:, None]], length

    def field_codes(self, codes: dict[bytes, int]) -> Ints:
        """Return a number for each member's field, equal for equal names; new names are added to ``codes``."""
        begin = self.key_length + 1
        width = int((self.length - begin).max())
        column = np.arange(width)
        text = np.zeros((len(begin), -(-width // 8) * 8), np.uint8)
        if (begin == begin[0]).all():
            text[:, :width] = self.text[:, begin[0] : begin[0] + width]
        else:
            index = np.minimum(begin[:, None] + column, self.text.shape[1] - 1)
            text[:, :width] = np.take_along_axis(self.text, index, axis=1)
        text[:, :width][column >= (self.length - begin)[:, None]] = 0
        found = np.full(len(begin), -1, np.int64)
        words = text.view(np.uint64)
        while len(missing := np.flatnonzero(found < 0)):
            name = text[missing[0]].tobytes().rstrip(b"\0")
            same = (words[missing] == words[missing[0]]).all(axis=1)
            found[missing[same]] = codes.setdefault(name, len(codes))
        return found


def _first(flags: npt.NDArray[np.bool_]) -> Ints:
    """Return the column of the first True of each row, the number of columns where there is none."""
    width = flags.shape[1]
    if not width:
        return np.zeros(len(flags), np.int64)
    found: Ints = flags.argmax(axis=1)
    found[~flags[np.arange(len(flags)), found]] = width
    return found
