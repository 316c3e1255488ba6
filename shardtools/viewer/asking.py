"""Conditions and SQL for the page, in limited time.

    condition -> a thread -> indexes of samples, which are kept
    query     -> DuckDB over the tables -> at most `ROWS` rows; a query that takes too long is stopped

A condition that takes longer goes on: who asks again gets its answer when it is there.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDoneError
from contextvars import copy_context
from typing import Any

import numpy as np

from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import JobError, ShardtoolsError
from shardtools.lru import LRU
from shardtools.query.sql import sql_errors, start_sql
from shardtools.types import Ints
from shardtools.viewer.answers import AskedError

SECONDS = 20.0
"""How long a request waits for a condition or query."""

ROWS = 1000
"""Rows of the result of a query at most."""

LONGEST = 10_000
"""Characters of a condition or query at most."""

_KEPT = 64 << 20  # bytes of indexes that are kept
_RUNNING = 4  # conditions at a time
_CELL = 2000  # characters


class Asking:
    """Answers conditions on the samples of a dataset."""

    def __init__(self, dataset: ShardedDataset):
        self._dataset = dataset
        self._kept: LRU[str, Ints] = LRU(_KEPT, lambda found: found.nbytes + 1000)
        self._running: dict[str, Future[Ints]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(2, "shardtools-condition")

    def indexes(self, condition: str) -> Ints:
        """Return the indexes of the samples for which a condition is true.

        Raises:
            JobError: it does not fit.
            AskedError: it takes longer; or too many others are being looked for.
            StorageError, ShardError: a shard cannot be read.
        """
        _check(condition)
        if (known := self._kept.get(condition)) is not None:
            return known
        with self._lock:
            if (running := self._running.get(condition)) is None:
                if len(self._running) >= _RUNNING:
                    raise AskedError("other conditions are still being looked for", 503, fix="ask again later")
                running = self._pool.submit(copy_context().run, self._find, condition)
                self._running[condition] = running
        try:
            found = running.result(SECONDS)
        except NotDoneError:
            what = f"the condition takes longer than {SECONDS:.0f} seconds, and goes on"
            raise AskedError(what, 503, fix="ask again, or make a table: htindex --table") from None
        finally:
            if running.done():
                with self._lock:
                    self._running.pop(condition, None)
        return self._kept.put(condition, found)

    def _find(self, condition: str) -> Ints:
        before, found = self._dataset.chosen, self._dataset.where(condition).chosen
        assert found is not None
        return found if before is None else np.searchsorted(before, found)

    def close(self) -> None:
        """Start nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def ask_sql(query: str, datasets: Mapping[str, ShardedDataset]) -> dict[str, Any]:
    """Return columns and rows of the result of a query over the tables of datasets, by their names in it.

    Raises:
        JobError: the query cannot be run, or there is no table.
        AskedError: it takes too long.
    """
    _check(query)
    tables: dict[str, Any] = {}
    for name, dataset in datasets.items():
        try:
            tables[name] = dataset.table_rows()
        except ShardtoolsError:
            if len(datasets) == 1 or name.lower() in query.lower():
                raise
    if not tables:
        raise JobError("no dataset has a table", fix="make it with htindex --table")
    connection, relation = start_sql(query, tables)
    late = threading.Event()

    def stop() -> None:
        late.set()
        connection.interrupt()

    timer = threading.Timer(SECONDS, stop)
    timer.start()
    try:
        with sql_errors(query):
            rows = relation.limit(ROWS + 1).fetchall()
    except JobError as error:
        if late.is_set():
            raise AskedError(f"the query takes longer than {SECONDS:.0f} seconds", 503, fix="ask for less") from error
        raise
    finally:
        timer.cancel()
    columns = [{"name": name, "type": str(kind)} for name, kind in zip(relation.columns, relation.types, strict=True)]
    shown = [[_cell(value) for value in row] for row in rows[:ROWS]]
    return {"columns": columns, "rows": shown, "truncated": len(rows) > ROWS}


def _cell(value: object) -> object:
    if isinstance(value, bytes):
        value = value[:_CELL].hex()
    if isinstance(value, str):
        return value if len(value) <= _CELL else value[: _CELL - 1] + "…"
    return value


def _check(text: str) -> None:
    if len(text) > LONGEST or "\0" in text:
        raise AskedError(f"a condition or query has at most {LONGEST:,} characters, and no zeros", 413)
