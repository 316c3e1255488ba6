"""Writes to several arrays that become one commit, or none.

    t[name][index] = values -> chunks, in memory up to a limit and in data shards (``write_buffer.py``)
    t.array, t.group, del t[name], t.move -> documents
    all of it -> one commit

A whole chunk is never read first. Threads may write at the same time; so may the workers of a cluster (``parts.py``).
Each element may then be written by one of them only. An overlap is an error: which one came last would be by chance.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shardtools.arrays.chunks import as_block
from shardtools.arrays.grid import Selected, pieces
from shardtools.arrays.marks import Owner, Writer
from shardtools.arrays.metadata import ArrayMetadata, create_array
from shardtools.arrays.names import check_texts, document_key
from shardtools.arrays.open_transactions import note_transaction
from shardtools.arrays.parts import PartOf
from shardtools.arrays.taken_parts import TakenParts
from shardtools.arrays.transaction_array import TransactionArray
from shardtools.arrays.transaction_keys import TransactionKeys
from shardtools.arrays.transaction_nodes import TransactionNodes
from shardtools.arrays.write_buffer import WriteBuffer
from shardtools.errors import ConflictError, JobError
from shardtools.log.committing import commit
from shardtools.log.log import Snapshot, new_id
from shardtools.log.started import Started

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.store import HubStore


class Transaction(TransactionNodes):
    """Writes that become one commit when the context is left; after an exception nothing of them is seen.

    ``t[name]`` is an array to read and write: it shows what this transaction has written. `result` is the snapshot
    after the commit. ``hub.transaction`` returns it.
    """

    def __init__(self, hub: Hub, base: Snapshot, message: str = "", author: str = ""):
        if base.fixed is not None:
            what = f"{base.fixed} is a {'commit' if '@' in base.fixed else 'tag'}, which stays as it is"
            fix = f"make a branch that begins there, hub.branch(NAME, {base.fixed!r}), and write to NAME:BRANCH"
            raise JobError(what, url=base.log.place.root, fix=fix)
        check_texts(message, author)
        self.id = new_id()
        self._started = Started()
        super().__init__(hub, base, WriteBuffer(base, self.id, hub.cache))
        self._message, self._author = message, author
        self._owner, self._process = threading.get_ident(), os.getpid()
        self.parts = TakenParts(self.buffer, self.id, self.metadata)
        self._result: Snapshot | None = None
        self._begun = self._ended = False
        note_transaction(self)

    @property
    def result(self) -> Snapshot:
        """The snapshot after the commit.

        Raises:
            JobError: it is not committed.
        """
        if self._result is None:
            raise JobError("the transaction is not committed", fix="leave its context first")
        return self._result

    def __repr__(self) -> str:
        is_open = "open" if self._begun else "not begun"
        state = "committed" if self._result is not None else "ended" if self._ended else is_open
        return f"<Transaction {state}, of {self.hub.url}, on {self.base.branch.name}@{self.base.number}>"

    def __enter__(self) -> Self:
        return self.begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            if error is not None and not self._ended:
                self._ended = True
                self.buffer.writer.abort(error)
        if error is None and self._result is None:
            self.commit()

    def begin(self) -> Self:
        """Begin what `commit` ends, where ``with`` cannot be used, and return the transaction."""
        self._begun = True
        return self

    def commit(self) -> Snapshot:
        """Make one commit of all that was written, and return the snapshot after it.

        Raises:
            ConflictError: others have changed the same chunks, or the same array, since the transaction began; or two
                workers have written the same elements. Nothing of it is seen.
            UnavailableError: it is not known whether it was committed, since the storage does not answer.
        """
        with self._lock:
            self.check_open()
            self._ended = True
            buffer = self.buffer
            try:
                self.parts.close()
                for path in sorted(self._added):
                    self._add_parents(path)
                buffer.flush()
                for path, document in self.documents.items():
                    key = document_key(path)
                    buffer.changes[key] = None if document is None else buffer.writer.add(key, document)
                buffer.writer.finish()
            except BaseException as error:
                buffer.writer.abort(error)
                raise
            if not buffer.changes and not buffer.removed:
                self._result = self.base
                return self.base
            self._result = commit(
                self.base,
                buffer.changes,
                removed=buffer.removed,
                reads=self._reads.difference(buffer.changes),
                message=self._message,
                author=self._author,
                id=self.id,
                describe=self.describe_conflict,
                started=self._started,
            )
            return self._result

    def others_changed(self, key: str) -> bool:
        """Return whether others may have changed a key between the commit that this began on and its own one."""
        for made in self.result.history() if self.result is not self.base else ():
            others = (write for write in made.writes if write.id != self.id)
            if any(write.touched is None or key in write.touched for write in others):
                return True
            if made.number <= self.base.number + 1:
                break
        return False

    def check_open(self) -> None:
        """Raise if nothing can be written to the transaction here.

        Raises:
            JobError: it has not begun, or has ended, or this is a fork of its process.
        """
        if not self._begun:
            fix = "write in its context, with hub.transaction() as t: …; or call t.begin() before and t.commit() after"
            raise JobError("the transaction has not begun, so that nothing would be committed", fix=fix)
        if self._ended:
            raise JobError("the transaction has ended", fix="begin another one")
        if self._process != os.getpid():
            what = "this is a fork of the process that began the transaction, which does not see what is written here"
            raise JobError(what, fix="send t[NAME] to the other process by pickling, as Dask does")

    def check_readable(self) -> None:
        """Raise if what was written is lost.

        Raises:
            JobError: the transaction has ended without a commit.
        """
        if self._ended and self._result is None:
            raise JobError("the transaction has ended without a commit", fix="begin another one")

    # --- arrays and groups

    @cached_property
    def keys(self) -> TransactionKeys:
        """What a store of the zarr library has of this transaction."""
        return TransactionKeys(self)

    def store(self) -> HubStore:
        """Return a store of the zarr library that writes for this transaction: ``ds.to_zarr(t.store())``.

        It can be sent to other processes, as Dask does: whole chunks that they write are part of the transaction.
        """
        from shardtools.arrays.store import HubStore

        return HubStore(self.keys)

    def __getitem__(self, name: str) -> TransactionArray:
        """Return an array to read and write.

        Raises:
            NotFoundError: there is none.
        """
        path = self._path(name)
        self.metadata(path)
        if not self._ended:
            self.take_parts()
        return TransactionArray(self, path)

    def array(
        self,
        name: str,
        shape: Sequence[int] | int,
        chunks: Sequence[int] | int | None = None,
        dtype: Any = "float64",
        **options: Any,
    ) -> TransactionArray:
        """Create an array, and the groups that it is in; see `Hub.array` for the options.

        Raises:
            ExistsError: there is an array or a group of this name.
        """
        return self.create(self._path(name), create_array(shape, chunks, dtype, **options))

    def create(self, path: str, metadata: ArrayMetadata) -> TransactionArray:
        """Create an array of this metadata, and the groups that it is in.

        Raises:
            ExistsError: there is an array or a group of this name.
        """
        self.add_array(path, metadata)
        return TransactionArray(self, path)

    # --- chunks

    def write(self, path: str, selection: Selected, values: Any) -> None:
        """Write values where an index selects.

        Raises:
            ConflictError: another thread has written some of these elements in this transaction.
            ValueError: the shape of the values does not fit.
        """
        metadata = self.metadata(path)
        block = as_block(selection, values, metadata.dtype)
        self.check_open()

        def check() -> None:
            self.check_open()
            if self.metadata(path).shape != metadata.shape:
                what = f"another thread has changed the shape of {path} while this one was writing to it"
                raise ConflictError(what, url=self.hub.url, fix="change it before the threads begin")

        is_owner = threading.get_ident() == self._owner
        sent = self.parts.sent
        writer = (Owner(sent) if sent else None) if is_owner else Writer()
        some = pieces(selection, metadata.shape, metadata.chunks)
        self.buffer.write(path, metadata, block, some, check, writer=writer)

    def send(self) -> PartOf:
        """Return what another process needs that writes for this transaction."""
        with self._lock:
            self.check_open()
            self.parts.sent += 1
            return PartOf(self.hub, self.id, len(self.buffer.removed), self.parts.sent)

    def take_parts(self) -> None:
        """Take over what other processes have written so far."""
        with self._lock:
            self.parts.take()
