"""The objects of a log and how they are read and created: commits, branches, tags, proposals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shardtools.errors import CorruptError, ExistsError, NotFoundError, RefusedError, StorageError
from shardtools.json_text import parse_json
from shardtools.log.commit import Commit, check_format, parse_commit
from shardtools.log.names import check_reference
from shardtools.lru import LRU
from shardtools.storage import DEFAULT_OPTIONS, StorageOptions, get_storage, using
from shardtools.storage.limited import read_limited
from shardtools.urls import name_of

T = TypeVar("T")

MARK = "log.json"


@dataclass(frozen=True)
class Place:
    """Where a log lies: ``root`` is a URL that ends with a slash.

    With ``single_writer`` the caller says that nobody else writes at the same time, so that a storage will do that
    cannot create an object only if there is none.
    """

    root: str
    options: StorageOptions = DEFAULT_OPTIONS
    single_writer: bool = False
    commits: LRU[str, Commit] = field(default_factory=lambda: LRU(256), compare=False, repr=False)

    @contextmanager
    def using(self) -> Iterator[None]:
        """A context in which storage follows the options of this place."""
        with using(self.options):
            yield

    def commit_url(self, branch: str, number: int) -> str:
        """Return the URL of a commit."""
        return f"{self.root}log/{branch}/{number:020d}"

    def read_commit(self, branch: str, number: int) -> Commit | None:
        """Return a commit, None if there is none.

        Raises:
            CorruptError: it is damaged, or not the one that its name says.
        """
        url = self.commit_url(branch, number)
        if (known := self.commits.get(url)) is not None:
            return known
        try:
            commit = parse_commit(read_limited(url, "manifest"), url)
        except NotFoundError:
            return None
        if (commit.branch, commit.number) != (branch, number):
            raise CorruptError("this is another commit", url=url, fix="restore it from a copy")
        return self.commits.put(url, commit)

    def has_commit(self, branch: str, number: int) -> bool:
        """Return whether there is a commit."""
        url = self.commit_url(branch, number)
        return self.commits.get(url) is not None or get_storage(url).exists(url)

    def read_document(self, name: str, parse: Callable[[Any], T]) -> T | None:
        """Return what an object of the log says, None if there is none.

        Raises:
            CorruptError: it is of a later format, or damaged.
        """
        url = self.root + name
        try:
            body = parse_json(read_limited(url, "manifest"), url)
        except NotFoundError:
            return None
        check_format(body, url)
        try:
            return parse(body)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError("it is damaged", url=url, fix="restore it from a copy") from error

    def create_document(self, name: str, body: dict[str, Any]) -> None:
        """Create an object of the log, only if there is none.

        Raises:
            ExistsError: there is one.
        """
        self.create(name, json.dumps(body, ensure_ascii=False).encode() + b"\n")

    def create(self, name: str, data: bytes) -> None:
        """Create an object, only if there is none.

        Raises:
            ExistsError: there is one.
            ConflictUnsupportedError: the storage cannot do that, and there may be several writers.
        """
        url = self.root + name
        storage = get_storage(url)
        if not self.single_writer:
            storage.create_exclusive(url, data)
            return
        if storage.exists(url):
            raise ExistsError("it exists already", url=url, fix="let one process alone write here")
        self.put(name, data)

    def put(self, name: str, data: bytes) -> None:
        """Write an object that nobody else writes, whole or not at all."""
        url = self.root + name
        with get_storage(url).create(url) as sink:
            sink.write(data)

    def names(self, folder: str) -> list[str]:
        """Return the names of versions in a folder, sorted; what cannot be one is not ours.

        Raises:
            RefusedError: the storage does not list.
        """
        found = []
        for url in get_storage(self.root).list(f"{self.root}{folder}/"):
            try:
                found.append(check_reference(name_of(url)))
            except ValueError:
                continue
        return found

    def delete(self, name: str) -> None:
        """Delete an object that only helps; that it stays does no harm."""
        url = self.root + name
        try:
            get_storage(url).delete(url)
        except StorageError:  # who may write need not be allowed to delete
            return

    def lists(self) -> bool:
        """Return whether the storage lists."""
        try:
            get_storage(self.root).list(f"{self.root}tags/")
        except RefusedError:
            return False
        return True
