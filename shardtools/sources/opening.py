"""From what a user names to a source of samples, told apart by what it is.

SRC... -> specs expanded -> the kind of each: folder, list, archive, table, arrays -> opened -> one `Source`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shardtools.errors import JobError, NotFoundError, SpecError
from shardtools.shards.names import names_of
from shardtools.sources import Source
from shardtools.sources.files import KEY_RULES, FileRules, FileSource, KeyRule
from shardtools.sources.joined import JoinedSource
from shardtools.sources.names import number_key
from shardtools.storage import get_storage
from shardtools.storage.expansion import expand_sources
from shardtools.urls import absolute, identity, is_local, name_of, scheme_of

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SourceRules:
    """How what is in sources becomes samples.

    ``key`` is a rule for the keys of files (see `FileRules`), or the column of a table that holds them. ``include``,
    ``exclude``, ``rename``, ``classes`` and ``follow_links`` are those of `FileRules`. ``files`` and ``values`` have
    fields, each with a column of a table that names its file or holds its value, ``arrays`` fields, each with the name
    of an array.
    """

    key: str | None = None
    include: str | tuple[str, ...] = ()
    exclude: str | tuple[str, ...] = ()
    rename: Pairs = ()
    classes: bool = False
    files: Pairs = ()
    values: Pairs = ()
    arrays: Pairs = ()
    follow_links: bool = False


@dataclass(frozen=True)
class _SourceKind:
    """A kind of source: how people call it, and the endings of its names."""

    name: str
    endings: tuple[str, ...] = ()


_FOLDER = _SourceKind("a folder")
_LIST = _SourceKind("a list of files")
_ARCHIVE = _SourceKind(
    "an archive", (".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
)
_TABLE = _SourceKind("a table", (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"))
_ARRAYS = _SourceKind("an array", (".npy", ".npz"))
_BY_ENDING = (_ARCHIVE, _TABLE, _ARRAYS)
_TREES = (_FOLDER, _LIST, _ARCHIVE)

_SHOWN = 30


def open_sources(names: str | Sequence[str], rules: SourceRules = SourceRules()) -> Source:
    """Return all samples of ``names`` as one source; close it at the end.

    A name is that of a folder, ``-`` for a list of paths on standard input, or a spec of archives, tables or arrays.

    Raises:
        SpecError: a spec makes no sense, or names something twice.
        JobError: this cannot be uploaded, an option does not apply to it, or it holds what makes no sample.
        DuplicateKeyError: two samples would have one key.
        ShardError: an archive is damaged.
        StorageError: something cannot be read.
    """
    urls = _expand(names_of(names))
    kinds = [_kind_of(url) for url in urls]
    _check_rules(rules, kinds)
    sources: list[Source] = []
    try:
        for url, kind in zip(urls, kinds, strict=True):
            sources.append(_open(url, kind, rules))
        _check_renamed(rules, sources)
        if len(sources) == 1:
            return sources[0]
        return JoinedSource(sources, numbered=all(map(_is_numbered, sources, kinds, [rules.key] * len(sources))))
    except BaseException:
        for source in sources:
            source.close()
        raise


def _expand(names: Sequence[str]) -> list[str]:
    """Return the URL of each source; what is there under a name is that, whatever a spec of this name would mean."""
    urls: list[str] = []
    for name in names:
        is_there = name == "-" or (is_local(name) and os.path.lexists(absolute(name)))
        urls += [absolute(name)] if is_there else expand_sources(name)
    seen: set[str] = set()
    for url in urls:
        if (same := identity(url).rstrip("/")) in seen:
            raise SpecError("this source is named twice", url=url, fix="name it once")
        seen.add(same)
    return urls


def _kind_of(url: str) -> _SourceKind:
    if url == "-":
        return _LIST
    is_local = scheme_of(url) == ""
    if is_local and os.path.isdir(url):
        return _FOLDER
    name = name_of(url).lower()
    for kind in _BY_ENDING:
        if name.endswith(kind.endings):
            return kind
    if is_local and not os.path.lexists(url):
        raise NotFoundError("there is no such file or folder", url=url, fix="check the path")
    endings = ", ".join(ending for kind in _BY_ENDING for ending in kind.endings)
    raise JobError(
        "htupload cannot read this kind of source",
        url=url,
        fix=f"give a folder, - for a list of files on standard input, or a file that ends with {endings}",
    )


def _check_rules(rules: SourceRules, kinds: Sequence[_SourceKind]) -> None:
    """Refuse options that apply to none of the sources: they would do nothing, and nobody would notice."""
    options = [
        ("--key", rules.key, (*_TREES, _TABLE)),
        ("--include", rules.include, _TREES),
        ("--exclude", rules.exclude, _TREES),
        ("--rename", rules.rename, _TREES),
        ("--class-from-folder", rules.classes, _TREES),
        ("--follow-links", rules.follow_links, (_FOLDER,)),
        ("--file", rules.files, (_TABLE,)),
        ("--value", rules.values, (_TABLE,)),
        ("--as", rules.arrays, (_ARRAYS,)),
    ]
    for option, given, takers in options:
        if given and not set(kinds) & set(takers):
            raise JobError(
                f"{option} does not apply to {kinds[0].name}",
                fix=f"leave it out; it is for {_either(kind.name for kind in takers)}",
            )
    if rules.key is not None and rules.key not in KEY_RULES and set(kinds) & set(_TREES):
        raise JobError(f"{rules.key!r} is not a rule for the keys of files", fix=f"use --key {_either(KEY_RULES)}")


def _either(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


def _open(url: str, kind: _SourceKind, rules: SourceRules) -> Source:
    if kind is _TABLE:
        from shardtools.sources.table import TableRules, open_table

        return open_table(url, TableRules(rules.files, rules.values, rules.key))
    if kind is _ARRAYS:
        from shardtools.sources.arrays import ArrayRules, open_array

        return open_array(url, ArrayRules(rules.arrays))
    key: KeyRule = rules.key or "path"  # type: ignore[assignment]
    file_rules = FileRules(key, rules.include, rules.exclude, rules.rename, rules.classes, rules.follow_links)
    return _OPENERS[kind](url, file_rules)


def _open_list(url: str, rules: FileRules) -> Source:
    from shardtools.sources.folder import list_paths

    return list_paths(url, get_storage(url).read(url), rules)


def _open_folder(url: str, rules: FileRules) -> Source:
    from shardtools.sources.folder import list_folder

    return list_folder(url, rules)


def _open_archive(url: str, rules: FileRules) -> Source:
    from shardtools.sources.archive import open_archive

    return open_archive(url, rules)


_OPENERS: dict[_SourceKind, Callable[[str, FileRules], Source]] = {
    _LIST: _open_list,
    _FOLDER: _open_folder,
    _ARCHIVE: _open_archive,
}


def _check_renamed(rules: SourceRules, sources: Sequence[Source]) -> None:
    fields: set[str] = set()
    for source in sources:
        fields |= source.fields if isinstance(source, FileSource) else frozenset()
    for old, new in rules.rename:
        if old not in fields:
            known = ", ".join(sorted(fields)[:_SHOWN]) + (" ..." if len(fields) > _SHOWN else "")
            raise JobError(f"--rename {old}={new}: no file has the field {old}", fix=f"the fields are {known}")


def _is_numbered(source: Source, kind: _SourceKind, key: str | None) -> bool:
    """Return whether the keys of a source are the numbers of its samples, as nobody has given them others."""
    if key not in (None, "number") or (kind in _TREES and key is None):
        return False
    last = len(source) - 1
    return source.key(0) == number_key(0) and source.key(last) == number_key(last)
