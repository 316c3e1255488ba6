"""From the names that a user gives to one source of samples. The kind of each is detected automatically.

SRC... -> specs expanded -> the kind of each: folder, list, archive, table, arrays -> opened -> one `Source`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shardtools.errors import JobError, NotFoundError, SpecError
from shardtools.shards.names import names_of
from shardtools.sources import CLASS_TEXT, Source, archive, arrays, table
from shardtools.sources.archive import open_archive
from shardtools.sources.arrays import ArrayRules, open_array
from shardtools.sources.files import KEY_RULES, FileRules, FileSource, KeyRule
from shardtools.sources.folder import list_folder, list_paths
from shardtools.sources.joined import JoinedSource
from shardtools.sources.names import number_key
from shardtools.sources.table import TableRules, open_table
from shardtools.storage import get_storage
from shardtools.storage.expansion import expand_sources
from shardtools.urls import absolute, identity, is_local, name_of, scheme_of

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SourceRules:
    """How the contents of sources become samples.

    ``key`` is a rule for the keys of files (see `FileRules`), or the column of a table that holds them. ``include``,
    ``exclude``, ``rename``, ``classes`` and ``follow_links`` are those of `FileRules`. ``files`` has pairs of a field
    and the column of a table that names its file, ``values`` pairs of a field and the column that holds its value, and
    ``arrays`` pairs of a field and the name of an array. ``class_from`` is a field, or the column of a table, whose
    texts will be classes.
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
    class_from: str | None = None


def _file_rules(rules: SourceRules) -> FileRules:
    key: KeyRule = rules.key or "path"  # type: ignore[assignment]
    return FileRules(key, rules.include, rules.exclude, rules.rename, rules.classes, rules.follow_links)


def _open_list(url: str, rules: SourceRules) -> Source:
    return list_paths(url, get_storage(url).read(url), _file_rules(rules))


def _open_folder(url: str, rules: SourceRules) -> Source:
    return list_folder(url, _file_rules(rules))


def _open_archive(url: str, rules: SourceRules) -> Source:
    return open_archive(url, _file_rules(rules))


def _open_table(url: str, rules: SourceRules) -> Source:
    texts = () if rules.class_from is None else ((CLASS_TEXT, rules.class_from),)
    return open_table(url, TableRules(rules.files, rules.values + texts, rules.key))


def _open_array(url: str, rules: SourceRules) -> Source:
    return open_array(url, ArrayRules(rules.arrays))


@dataclass(frozen=True)
class _SourceKind:
    """A kind of source: its name for people, which `SourceRules` apply, how it is opened, and the endings of names."""

    name: str
    rules: tuple[str, ...]
    open: Callable[[str, SourceRules], Source]
    endings: tuple[str, ...] = ()


_OF_FILES = ("key", "include", "exclude", "rename", "classes", "class_from")
_FOLDER = _SourceKind("a folder", (*_OF_FILES, "follow_links"), _open_folder)
_LIST = _SourceKind("a list of files", _OF_FILES, _open_list)
_ARCHIVE = _SourceKind("an archive", _OF_FILES, _open_archive, archive.ENDINGS)
_TREES = (_FOLDER, _LIST, _ARCHIVE)
_KINDS = (
    *_TREES,
    _SourceKind("a table", ("key", "files", "values", "class_from"), _open_table, table.ENDINGS),
    _SourceKind("an array", ("arrays", "class_from"), _open_array, arrays.ENDINGS),
)
_OPTIONS = {
    "key": "--key",
    "include": "--include",
    "exclude": "--exclude",
    "rename": "--rename",
    "classes": "--class-from-folder",
    "follow_links": "--follow-links",
    "files": "--file",
    "values": "--value",
    "arrays": "--as",
    "class_from": "--class-from",
}
"""How each of the `SourceRules` is called on the command line."""

_SHOWN = 30


def open_sources(names: str | Sequence[str], rules: SourceRules = SourceRules()) -> Source:
    """Return all samples of ``names`` as one source; close it at the end.

    A name is a folder, ``-`` for a list of paths on standard input, or a spec of archives, tables or arrays.

    Raises:
        SpecError: a spec is not valid, or a source is named twice.
        JobError: a source cannot be uploaded, an option does not apply to it, or a field or key is not valid.
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
            sources.append(kind.open(url, rules))
        _check_renamed(rules, sources)
        if len(sources) == 1:
            return sources[0]
        return JoinedSource(sources, numbered=all(map(_is_numbered, sources, kinds, [rules.key] * len(sources))))
    except BaseException:
        for source in sources:
            source.close()
        raise


def _expand(names: Sequence[str]) -> list[str]:
    """Return the URL of each source; a local file or folder with the very name of a spec comes first."""
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
    for kind in _KINDS:
        if name.endswith(kind.endings):
            return kind
    if is_local and not os.path.lexists(url):
        raise NotFoundError("there is no such file or folder", url=url, fix="check the path")
    endings = ", ".join(ending for kind in _KINDS for ending in kind.endings)
    raise JobError(
        "htupload cannot read this kind of source",
        url=url,
        fix=f"give a folder, - for a list of files on standard input, or a file that ends with {endings}",
    )


def _check_rules(rules: SourceRules, kinds: Sequence[_SourceKind]) -> None:
    """Refuse options that apply to none of the sources; they would have no effect."""
    for rule, option in _OPTIONS.items():
        takers = [kind for kind in _KINDS if rule in kind.rules]
        if getattr(rules, rule) and not set(kinds) & set(takers):
            raise JobError(
                f"{option} does not apply to {kinds[0].name}",
                fix=f"leave it out; it is for {_either(kind.name for kind in takers)}",
            )
    if rules.key is not None and rules.key not in KEY_RULES and set(kinds) & set(_TREES):
        raise JobError(f"{rules.key!r} is not a rule for the keys of files", fix=f"use --key {_either(KEY_RULES)}")


def _either(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


def _check_renamed(rules: SourceRules, sources: Sequence[Source]) -> None:
    fields: set[str] = set()
    for source in sources:
        fields |= source.fields if isinstance(source, FileSource) else frozenset()
    for old, new in rules.rename:
        if old not in fields:
            known = ", ".join(sorted(fields)[:_SHOWN]) + (" ..." if len(fields) > _SHOWN else "")
            raise JobError(f"--rename {old}={new}: no file has the field {old}", fix=f"the fields are {known}")


def _is_numbered(source: Source, kind: _SourceKind, key: str | None) -> bool:
    """Return whether the keys of a source are the numbers of its samples."""
    if key not in (None, "number") or (kind in _TREES and key is None):
        return False
    last = len(source) - 1
    return source.key(0) == number_key(0) and source.key(last) == number_key(last)
