"""Files as samples, in a folder or in an archive.

    paths -> filtered, sorted -> grouped by the path up to the first dot of the base name -> samples

Only paths are kept, one text for each file, so that a million of them fit into some hundred megabytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from hashlib import blake2b
from re import compile as compile_pattern
from typing import Any, Literal, Protocol, get_args

import numpy as np

from shardtools.errors import DuplicateKeyError, JobError
from shardtools.shards.columns import with_zero
from shardtools.shards.names import encode_name, is_field, is_meta, is_special, names_of
from shardtools.shards.samples import Composer, Members
from shardtools.shards.tar import BLOCK, member_size
from shardtools.sources import Source
from shardtools.sources.joined import refuse_repeated_keys
from shardtools.sources.names import number_key
from shardtools.types import Ints

KeyRule = Literal["path", "name", "number", "hash"]
KEY_RULES: tuple[str, ...] = get_args(KeyRule)

_FEW = 16
_SHORT = 100
"""Characters of a name that fit into one header."""


@dataclass(frozen=True)
class FileRules:
    """How files become samples.

    ``key`` is ``"path"`` (the path in the folder), ``"name"`` (the base name alone), ``"number"`` (of the sample, in
    nine digits) or ``"hash"`` (of the path, in 16 hexadecimal digits). ``include`` and ``exclude`` are globs that are
    compared with a file's path in the folder and with its name. ``rename`` maps field names. With ``classes`` each
    sample gets a field ``cls``, the number of the folder that it lies in, among all such folders sorted by name. Links
    that lead out of a folder are taken only with ``follow_links``.
    """

    key: KeyRule = "path"
    include: str | tuple[str, ...] = ()
    exclude: str | tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    classes: bool = False
    follow_links: bool = False


class SourceFiles(Protocol):
    """The bytes of files, which are known by their rows in a list of paths. It can be pickled."""

    def place(self, path: str) -> tuple[str, str | None]:
        """Return the URL and the member that an error about a file names."""

    def take(self, rows: Ints) -> SourceFiles:
        """Return the files at ``rows``, in that order."""

    def sizes(self, paths: Sequence[str]) -> Ints:
        """Return the size of each file in bytes; ``paths`` are those of all."""

    def read(self, row: int, path: str, taken: int = 0) -> bytes:
        """Return the bytes of the file at ``row``; its sample has ``taken`` bytes already.

        Raises:
            LimitError: with this file the sample is too large.
            ShardtoolsError: it cannot be read.
        """

    def facts(self, paths: Sequence[str]) -> Sequence[Any]:
        """Return what the files depend on, as JSON data; see `Part.facts`."""

    def close(self) -> None:
        """Close what `read` has opened."""


class FileSource(Source):
    """A tree of files as samples."""

    reads_at_once = False

    def __init__(
        self,
        name: str,
        paths: list[str],
        files: SourceFiles,
        rules: FileRules,
        left_out: Sequence[tuple[str, str]],
        *,
        portable: bool = True,
    ):
        """``paths`` are those of ``files``, in the order of `ordered`.

        Raises:
            JobError: the rules do not fit the files.
            DuplicateKeyError: two samples would have one key.
        """
        self.name = name
        self.portable = portable
        self._paths = paths
        self._files = files
        self._rules = rules
        self._left_out = left_out
        self._first, self.fields = _group(paths)
        self._classes: tuple[str, ...] = ()
        self._check_fields()
        if rules.classes:
            self._classes = self._find_classes()
        if rules.key == "name":
            refuse_repeated_keys(self, "use --key path, or rename one")

    def __len__(self) -> int:
        return len(self._first) - 1

    def key(self, row: int) -> str:
        return _key(_stem(self._paths[self._first[row]]), row, self._rules.key)

    def read_by_tasks(self) -> Sequence[str]:
        few = self._paths[:: max(len(self._paths) // _FEW, 1)]
        return list(dict.fromkeys(self._files.place(path)[0] for path in few))

    def place(self, row: int) -> str:
        return _describe_place(self._files.place(self._paths[self._first[row]]))

    def sizes(self) -> Ints:
        sizes = member_sizes(self._files.sizes(self._paths), self._paths)
        of_class = member_size(1) if self._classes else 0
        total: Ints = np.add.reduceat(sizes, self._first[:-1]) + of_class
        return total

    def part(self, rows: Ints) -> FilePart:
        first = self._first
        counts = first[rows + 1] - first[rows]
        starts = with_zero(np.cumsum(counts))
        files = np.repeat(first[rows] - starts[:-1], counts) + np.arange(starts[-1])
        paths = list(map(self._paths.__getitem__, files.tolist()))
        return FilePart(paths, starts, self._files.take(files), self._rules, self._classes, rows)

    def notes(self) -> dict[str, Any]:
        return {"classes": list(self._classes)} if self._classes else {}

    def left_out(self) -> Sequence[tuple[str, str]]:
        return [(_describe_place(self._files.place(path)), reason) for path, reason in self._left_out]

    def close(self) -> None:
        self._files.close()

    def _check_fields(self) -> None:
        """Refuse fields that would fail in every sample, before any work."""
        renamed = dict(self._rules.rename)
        for old in self.fields:
            new = renamed.get(old, old)
            if not is_field(new):
                path = next(path for path in self._paths if path.endswith("." + old))
                url, member = self._files.place(path)
                raise JobError(
                    f"{new!r} is not a valid name of a field",
                    url=url,
                    member=member,
                    fix=f"use --rename {old}=NEW, or --exclude '*.{old}'",
                )
            if new == "cls" and self._rules.classes:
                raise JobError(
                    "some files have the field cls already", url=self.name, fix="leave out --class-from-folder"
                )

    def _find_classes(self) -> tuple[str, ...]:
        classes = {_class_of(self._paths[i]) for i in self._first[:-1].tolist()}
        if "" in classes:
            url, member = self._files.place(next(path for path in self._paths if not _class_of(path)))
            raise JobError(
                "this file is in no folder of a class",
                url=url,
                member=member,
                fix="put each class into a folder of its own, or leave out --class-from-folder",
            )
        return tuple(sorted(classes))


@dataclass
class FilePart:
    """Some samples of a `FileSource`: the ``paths`` of their files; those of sample i begin at ``first[i]``.

    ``rows`` are the rows of the samples in the source.
    """

    paths: list[str]
    first: Ints
    files: SourceFiles
    rules: FileRules
    classes: tuple[str, ...]
    rows: Ints
    _starts: list[int] = field(default_factory=list, init=False, repr=False)
    _fields: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _codes: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, row: int) -> str:
        return _key(_stem(self.paths[self.first[row]]), int(self.rows[row]), self.rules.key)

    def record(self, row: int) -> dict[str, Any]:
        if not self._starts:
            self._open()
        starts, paths, fields, rule = self._starts, self.paths, self._fields, self.rules.key
        start = starts[row]
        path = paths[start]
        dot = path.index(".", path.rfind("/") + 1)
        stem = path[:dot]
        record: dict[str, Any] = {"key": stem if rule == "path" else _key(stem, int(self.rows[row]), rule)}
        taken = 0
        for at in range(start, starts[row + 1]):
            path = paths[at]
            name = path[dot + 1 :]
            name = fields.get(name, name)
            if name in record:
                url, member = self.files.place(path)
                raise DuplicateKeyError(
                    f"two files of the sample have the field {name}", url=url, member=member, fix="rename one of them"
                )
            record[name] = data = self.files.read(at, path, taken)
            taken += len(data)
        if self.classes:
            record["cls"] = b"%d" % self._codes[_class_of(path)]
        return record

    def value(self, row: int, field: str) -> bytes | None:
        if not self._starts:
            self._open()
        for at in range(self._starts[row], self._starts[row + 1]):
            path = self.paths[at]
            name = path[path.index(".", path.rfind("/") + 1) + 1 :]
            if self._fields.get(name, name) == field:
                return self.files.read(at, path)
        return b"%d" % self._codes[_class_of(path)] if self.classes and field == "cls" else None

    def members(self, row: int, composer: Composer) -> tuple[str, Members]:
        """Return the composed record of the sample at ``row``, in half the time."""
        if self.classes or self.rules.rename:
            return composer.compose(self.record(row))
        if not self._starts:
            self._open()
        start, stop = self._starts[row], self._starts[row + 1]
        path = self.paths[start]
        dot = path.index(".", path.rfind("/") + 1)
        key = path[:dot] if self.rules.key == "path" else self.key(row)
        read = self.files.read
        if stop - start == 1:
            return key, (composer.layout((path[dot + 1 :],), key), [read(start, path)])
        paths = self.paths[start:stop]  # sorted, and so are their fields
        layout = composer.layout(tuple([path[dot + 1 :] for path in paths]), key)
        values, taken = [], 0
        for i, path in enumerate(paths):
            values.append(data := read(start + i, path, taken))
            taken += len(data)
        return key, (layout, values)

    def facts(self) -> Sequence[Any]:
        rules = [self.rules.key, list(self.rules.rename), list(self.classes)]
        numbers = self.rows.tolist() if self.rules.key == "number" else []
        return [rules, numbers, self.files.facts(self.paths)]

    def close(self) -> None:
        self._starts, self._fields, self._codes = [], {}, {}
        self.files.close()

    def _open(self) -> None:
        self._starts = self.first.tolist()
        self._fields = dict(self.rules.rename)
        self._codes = {name: code for code, name in enumerate(self.classes)}


def member_sizes(sizes: Ints, paths: Sequence[str]) -> Ints:
    """Return the bytes in a tar file of members with these sizes, whose names are about as long as ``paths``."""
    extensions: Ints = 2 * np.fromiter((len(path) > _SHORT for path in paths), np.int64, len(paths))
    return member_size(sizes) + extensions * BLOCK


def ordered(folders: Iterable[tuple[str, list[str]]], rules: FileRules, left_out: list[tuple[str, str]]) -> list[str]:
    """Return the paths of files that belong to samples, grouped by sample; add the others to ``left_out``.

    ``folders`` are pairs of a folder, with its last slash, and the names in it, in any order.
    """
    accept = _filter(rules)
    paths: list[str] = []
    waiting = sorted(folders, reverse=True)
    while waiting:  # popped, so that the names do not stay in memory beside the paths
        prefix, names = waiting.pop()
        names.sort()
        for base in names:
            path = prefix + base
            if not accept(path):
                continue
            dot = base.find(".")
            if not 0 < dot < len(base) - 1:
                left_out.append((path, "its name has no dot followed by a field"))
            elif is_special(path) and is_meta(encode_name(path)):
                left_out.append((path, "names that begin and end with __ are reserved for metadata"))
            else:
                paths.append(path)
    return paths


def by_folder(paths: Iterable[str]) -> Iterable[tuple[str, list[str]]]:
    """Return paths as pairs of a folder, with its last slash, and the names in it.

    >>> list(by_folder(["a/x.txt", "y.txt", "a/z.txt"]))
    [('a/', ['x.txt', 'z.txt']), ('', ['y.txt'])]
    """
    folders: dict[str, list[str]] = {}
    for path in paths:
        folder, slash, base = path.rpartition("/")
        folders.setdefault(folder + slash, []).append(base)
    return folders.items()


def _filter(rules: FileRules) -> Callable[[str], bool]:
    include = [compile_pattern(translate(glob)).match for glob in names_of(rules.include)]
    exclude = [compile_pattern(translate(glob)).match for glob in names_of(rules.exclude)]
    if not include and not exclude:
        return lambda path: True

    def accept(path: str) -> bool:
        name = path.rpartition("/")[2]
        if include and not any(match(path) or match(name) for match in include):
            return False
        return not any(match(path) or match(name) for match in exclude)

    return accept


def _group(paths: Sequence[str]) -> tuple[Ints, frozenset[str]]:
    """Return the index of the first path of each sample, then the number of paths; and the fields that occur.

    >>> first, fields = _group(["a.cls", "a.png", "b/a.png", "b/ab.png"])
    >>> first.tolist(), sorted(fields)
    ([0, 2, 3, 4], ['cls', 'png'])
    """
    first: list[int] = []
    fields = set()
    stem = None
    for i, path in enumerate(paths):
        dot = path.index(".", path.rfind("/") + 1)
        fields.add(path[dot + 1 :])
        if stem != (stem := path[:dot]):
            first.append(i)
    return np.array([*first, len(paths)], np.int64), frozenset(fields)


def _stem(path: str) -> str:
    """Return the path up to the first dot of its base name.

    >>> _stem("a.b/c.seg.png")
    'a.b/c'
    """
    return path[: path.index(".", path.rfind("/") + 1)]


def _class_of(path: str) -> str:
    return path.rpartition("/")[0]


def _describe_place(place: tuple[str, str | None]) -> str:
    return place[0] if place[1] is None else f"{place[0]} [{place[1]}]"


def _key(stem: str, number: int, rule: KeyRule) -> str:
    if rule == "path":
        return stem
    if rule == "name":
        return stem.rpartition("/")[2]
    if rule == "number":
        return number_key(number)
    return blake2b(os.fsencode(stem), digest_size=8).hexdigest()
