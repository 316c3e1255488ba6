"""What ``htview --publish`` writes beside a dataset: the summary and the page.

train-@1000.tgz.view.json    the summary, with the digest of the states of the shards that it was made for
train-@1000.tgz.view/        the page; index.html names its dataset, and the files of the page
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape, unescape
from importlib import resources
from importlib.resources.abc import Traversable
from urllib.parse import quote, unquote

from shardtools.errors import AccessError, CorruptError, RefusedError
from shardtools.json_text import parse_json
from shardtools.query.index_files import states_in
from shardtools.query.key_file import digest_of
from shardtools.shards.manifest import Manifest
from shardtools.storage import get_storage
from shardtools.storage.limited import read_optional
from shardtools.storage.stats import known_stats
from shardtools.urls import beside, folder_of, is_local, name_of, path_of, scheme_of

SUMMARY_FORMAT = "shardtools view"

INDEX = "index.html"

_FILE = re.compile(r"[a-z0-9][a-z0-9_-]*\.(?:html|css|js)")
_SOURCE_META = "shardtools-src"
_FILES_META = "shardtools-files"


def summary_url(spec: str) -> str:
    """Return the URL of the summary of the dataset ``spec``.

    >>> summary_url("http://host/train-@8.tgz")
    'http://host/train-@8.tgz.view.json'
    """
    return beside(spec, ".view.json")


def page_folder(spec: str) -> str:
    """Return the URL of the folder for the page of the dataset ``spec``.

    >>> page_folder("http://host/train-@8.tgz")
    'http://host/train-@8.tgz.view/'
    """
    return f"{folder_of(spec)}{name_of(spec)}.view/"


def relative_source(spec: str) -> str:
    """Return the address of the dataset ``spec``, relative to its `page_folder`.

    >>> relative_source("a#b-@8.tgz"), relative_source("http://host/a%23b-@8.tgz")
    ('../a%23b-@8.tgz', '../a%23b-@8.tgz')
    """
    return f"../{quote(_plain_name(spec), safe='@', errors='surrogateescape')}"


def _plain_name(spec: str) -> str:
    return unquote(name_of(spec)) if scheme_of(spec) in ("http", "https") else name_of(spec)


def summary_digest(manifest: Manifest) -> str | None:
    """Return the digest of a summary of the shards that a manifest lists; None if it does not say their states."""
    states = states_in(manifest)
    return None if states is None else digest_of(states).hex()


def rename_summary(data: bytes, url: str, manifest: Manifest, names: Sequence[str], name: str) -> bytes | None:
    """Return a summary for the dataset ``name`` of the same shards, which have other ``names`` there.

    None if it was not made for the shards as the manifest lists them.

    Raises:
        CorruptError: it is no summary.
    """
    found = parse_json(data, url)
    if not isinstance(found, dict) or found.get("format") != SUMMARY_FORMAT:
        raise CorruptError("it is not a summary", url=url, fix="make it again with htview --publish --overwrite")
    digest = found.get("digest")
    if digest is None and found.get("samples") not in (None, sum(manifest.counts)):  # of an earlier version
        return None
    if digest is not None and digest != summary_digest(manifest):
        return None
    if digest is not None:
        found["digest"] = summary_digest(replace(manifest, names=tuple(names)))
    text = json.dumps({**found, "name": name, "spec": name}, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace")


# --- the files of the page


def page_names() -> list[str]:
    """Return the names of the files of the page, ``index.html`` last."""
    return sorted((file.name for file in _page().iterdir() if _FILE.fullmatch(file.name)), key=_index_last)


def page_bytes(name: str) -> bytes:
    """Return the bytes of a file of the page."""
    return (_page() / name).read_bytes()


def _page() -> Traversable:
    return resources.files("shardtools") / "viewer" / "page"


def _index_last(name: str) -> tuple[bool, str]:
    return name == INDEX, name


def page_index(source: str) -> bytes:
    """Return ``index.html`` of a page of the dataset at ``source``; it has the names of all files of the page."""
    return with_meta(with_meta(page_bytes(INDEX), _FILES_META, " ".join(page_names())), _SOURCE_META, source)


def with_meta(page: bytes, name: str, content: str) -> bytes:
    """Return a page with one more ``<meta>``, after that of the encoding.

    >>> with_meta(b'<meta charset="utf-8"><title>', "a", 'b"c')
    b'<meta charset="utf-8">\\n<meta name="a" content="b&quot;c"><title>'
    """
    first = b'<meta charset="utf-8">'
    head, found, rest = page.partition(first)
    if not found:
        raise ValueError("the page has no encoding")
    return head + found + _meta(name, content) + rest


def _meta(name: str, content: str) -> bytes:
    return f'\n<meta name="{escape(name)}" content="{escape(content)}">'.encode("utf-8", "surrogateescape")


def read_meta(page: bytes, name: str) -> str | None:
    """Return the content of a ``<meta>`` that `with_meta` has written, None if there is none.

    >>> read_meta(with_meta(b'<meta charset="utf-8">', "a", 'b"c'), "a")
    'b"c'
    """
    match = _pattern(name).search(page)
    return None if match is None else unescape(match[1].decode("utf-8", "surrogateescape"))


def _pattern(name: str) -> re.Pattern[bytes]:
    return re.compile(rb'\n<meta name="%s" content="([^"]*)">' % re.escape(escape(name).encode()))


def rename_page(page: bytes, source: str) -> bytes:
    """Return an ``index.html`` that `page_index` has made as that of the dataset at ``source``.

    >>> read_meta(rename_page(page_index("../a-@8.tgz"), "../b-@8.tgz"), "shardtools-src")
    '../b-@8.tgz'
    """
    return _pattern(_SOURCE_META).sub(lambda _: _meta(_SOURCE_META, source), page)


# --- the page beside a dataset


@dataclass(frozen=True)
class FoundPage:
    """What is in the folder of a page: the URLs of its ``files``, ``index.html`` last, and of ``others``, not ours."""

    files: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def find_page(folder: str, spec: str) -> FoundPage:
    """Return what there is in a ``folder`` of a page of the dataset ``spec``.

    Its files are those that its ``index.html`` names. Without an ``index.html`` a page was not wholly written, or not
    wholly removed; its files are those of the page of this version.

    Raises:
        StorageError: the storage cannot be reached.
    """
    if is_local(folder) and not os.path.isdir(path_of(folder)):  # a file may have its name
        return FoundPage()
    index = read_optional(folder + INDEX, "manifest")
    listed, names = _list(folder), _names(index, spec)
    if index is not None and folder + INDEX not in listed:
        urls = [folder + name for name in names]
        listed = [url for url, stat in zip(urls, known_stats(urls), strict=True) if stat is not None]
    files = [url for url in listed if name_of(url) in names]
    others = [url for url in listed if name_of(url) not in names]
    return FoundPage(tuple(sorted(files, key=lambda url: _index_last(name_of(url)))), tuple(others))


def _list(folder: str) -> list[str]:
    """Return the URLs of the objects in a folder; none if the server does not list, or not for this user."""
    try:
        return get_storage(folder).list(folder)
    except (RefusedError, AccessError):
        return []


def _names(index: bytes | None, spec: str) -> frozenset[str]:
    """Return the names of the files of a page, by its ``index.html``; none if that is another's."""
    if index is None:
        return frozenset(page_names())
    source = read_meta(index, _SOURCE_META)
    if source is None or unquote(name_of(source), errors="surrogateescape") != _plain_name(spec):
        return frozenset()
    recorded = read_meta(index, _FILES_META)
    return frozenset(page_names() if recorded is None else filter(_FILE.fullmatch, recorded.split()))
