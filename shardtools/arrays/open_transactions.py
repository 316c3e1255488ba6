"""The transactions that were begun in this process, by their ids: what is pickled and comes back finds its own."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from shardtools.forks import PerProcess

if TYPE_CHECKING:
    from shardtools.arrays.transaction import Transaction

_open: PerProcess[WeakValueDictionary[str, Transaction]] = PerProcess(WeakValueDictionary)


def note_transaction(transaction: Transaction) -> None:
    """Note that a transaction was begun in this process."""
    _open.get()[transaction.id] = transaction


def open_transaction(id: str) -> Transaction | None:
    """Return a transaction that was begun in this process, None if it was begun in another one."""
    return _open.get().get(id)
