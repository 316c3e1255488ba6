"""What a user may have meant by a source that is not there: a look at what lies in its folder.

error, sources -> the spec that names what is missing -> names in its folder -> specs that these make -> the nearest
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from shardtools.errors import LimitError, NotFoundError, RefusedError, ShardtoolsError, SpecError, StorageError, redact
from shardtools.shards.packers import ENDINGS
from shardtools.spec import find_count, which_spec
from shardtools.storage import StorageOptions, get_storage, using
from shardtools.urls import absolute, folder_of, name_of, scheme_of, split_path

_BESIDE = re.compile(r"(.+?)(\.index\.npz|\.json|\.idx|\.keys|(?<=\.tar|\.tgz|r\.gz|\.zst)(\.\d+)?\.parquet)", re.S)
"""The names of files that lie beside shards."""

_PATIENCE = 10.0
"""Seconds to wait for a listing at most: it only makes an error clearer."""

_ALIKE = 0.75
"""How much two names must have in common, from 0 to 1."""

_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.S)


def suggest(error: ShardtoolsError, sources: Sequence[str], options: Callable[[], StorageOptions]) -> str | None:
    """Return what to do about a source that ``error`` says is not there, or is a folder; None if unknown.

    ``options`` gives the options of storage.
    """
    if not isinstance(error, NotFoundError | RefusedError | SpecError) or error.url is None:
        return None
    try:
        spec = which_spec(sources, error.url)
        if spec is None or scheme_of(spec) == "-" or isinstance(error, SpecError) != ("*" in name_of(spec)):
            return None
        storage = options()
        with using(replace(storage, retries=0, timeout=min(storage.timeout, _PATIENCE))):
            is_folder = isinstance(error, RefusedError) or not name_of(spec)
            meant = _in_folder(spec) if is_folder else _beside(spec)
            if meant is None:
                return "htupload makes shards of what is in it" if is_folder and _names_in(spec) else None
            return f"did you mean {meant}?"
    except (StorageError, SpecError, LimitError):  # it does not list, say; the error stands as it is
        return None


def with_suggestion(
    error: ShardtoolsError, sources: Sequence[str], options: Callable[[], StorageOptions]
) -> ShardtoolsError:
    """Return the error with what the user may have meant, where a source is not there and something alike is."""
    fix = suggest(error, sources, options)
    if fix is None:
        return error
    return type(error)(error.what, url=error.url, member=error.member, fix=fix)


def _beside(spec: str) -> str | None:
    asked = name_of(spec)
    names = _names(_prefix(spec, asked))
    if (match := _BESIDE.fullmatch(asked)) is not None:  # then the shards were meant
        asked = asked.removesuffix(match[2])
        if any(group.spec == asked for group in _groups(names)):
            return asked
    found = nearest(asked, names)
    if found is None and "." not in asked and find_count(asked) is None:  # a folder, where these are only prefixes
        return _in_folder(spec)
    return found


def _prefix(spec: str, asked: str) -> str:
    """Return what to list for names like ``asked``: all of the folder only where that is one request."""
    if scheme_of(spec) in ("", "file", "http", "https"):
        return folder_of(absolute(spec))
    return folder_of(spec) + re.split(r"[@*0-9]", asked)[0]


def _in_folder(spec: str) -> str | None:
    """Return a spec of the shards in a folder, None if there are none."""
    groups = [group for group in _groups(_names_in(spec)) if group.ending]
    if not groups:
        return None
    shown = redact(spec).rstrip("/")
    if len(groups) == 1 and groups[0].spec is not None:
        return f"{shown}/{groups[0].spec}"
    counts = Counter({group.ending: len(group.numbers) for group in groups})
    return f"{shown}/*{counts.most_common(1)[0][0]}"


def _names_in(spec: str) -> list[str]:
    head, path, _ = split_path(absolute(spec))
    return _names(f"{head}{path.rstrip('/')}/")


def _names(prefix: str) -> list[str]:
    return [name for name in map(name_of, get_storage(prefix).list(prefix)) if not _BESIDE.fullmatch(name)]


@dataclass(frozen=True)
class _Group:
    """Names that differ in their last number alone, all of one width; of a name without one there is no number."""

    before: str
    width: int
    after: str
    numbers: tuple[int, ...]

    @property
    def ending(self) -> str:
        """The ending of a shard's name, "" if it is none."""
        return _ending(self.after)

    @property
    def form(self) -> str:
        """What the names have in common."""
        return self.before + ("@" if self.width else "") + self.after

    @property
    def stem(self) -> str:
        """The same without the ending."""
        return self.form.removesuffix(self.ending)

    @property
    def spec(self) -> str | None:
        """The spec that names them, None if numbers are left out between them."""
        first, last = self.numbers[0], self.numbers[-1]
        if not self.width:
            return self.form
        if len(self.numbers) == 1:
            return f"{self.before}{first:0{self.width}d}{self.after}"
        if last - first + 1 > len(self.numbers):
            return None
        if first == 0:
            return f"{self.before}@{last + 1:0{self.width}d}{self.after}"
        return f"{self.before}{{{first:0{self.width}d}..{last:0{self.width}d}}}{self.after}"


def _ending(name: str) -> str:
    return max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default="")


def _group_of(name: str) -> _Group:
    """Return the group of a name, or of a spec with ``@N``."""
    ending = _ending(name)
    stem = name.removesuffix(ending)
    if (parts := find_count(name)) is not None:
        return _Group(parts[0], len(parts[1]), parts[2], (int(parts[1]),))
    if (match := _NUMBER.fullmatch(stem)) is None:
        return _Group("", 0, name, (0,))
    return _Group(match[1], len(match[2]), match[3] + ending, (int(match[2]),))


def _groups(names: Iterable[str]) -> list[_Group]:
    numbers: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for name in names:
        group = _group_of(name)
        numbers[group.before, group.width, group.after].append(group.numbers[0])
    return [_Group(*shape, tuple(sorted(found))) for shape, found in numbers.items()]


def nearest(asked: str, names: Sequence[str]) -> str | None:
    """Return of the specs that ``names`` make the one that is most like ``asked``, which none of them is.

    >>> shards = [f"img-{i:04d}.tar" for i in range(100)]
    >>> nearest("img-@100.tar", shards), nearest("img-@0100.tgz", shards), nearest("imgs-@0100.tar", shards)
    ('img-@0100.tar', 'img-@0100.tar', 'img-@0100.tar')
    >>> nearest("img-0005.tar", [name for name in shards if "5" not in name])  # one that is lost
    """
    if "*" in asked:
        stem = asked.removesuffix(_ending(asked))
        return next((stem + ending for ending in ENDINGS if any(fnmatchcase(n, stem + ending) for n in names)), None)
    wanted, groups = _group_of(asked), _groups(names)
    for attribute in ("form", "stem"):
        alike = [group for group in groups if getattr(group, attribute) == getattr(wanted, attribute)]
        alike.sort(key=lambda group: (-len(group.numbers), group.width != wanted.width))
        if alike:
            return next((group.spec for group in alike if group.spec not in (None, asked)), None)
    by_form = {group.form: group for group in groups}
    close = get_close_matches(wanted.form, by_form, 1, _ALIKE)
    close = close or [group.form for group in groups if group.ending and group.form.startswith(asked)][:1]
    return by_form[close[0]].spec if close else None
