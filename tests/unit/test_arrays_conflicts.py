"""Transactions that collide: those that write the same chunks, or depend on what the other has changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import shardtools as st
from shardtools.arrays.metadata import create_array
from shardtools.arrays.store import HubStore
from shardtools.arrays.transaction import Transaction
from shardtools.arrays.transaction_array import TransactionArray
from shardtools.errors import ConflictError


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    return st.hub(str(tmp_path / "hub"))


def _delete(name: str) -> Callable[[Transaction], None]:
    return lambda t: t.__delitem__(name)


def _fill(array: TransactionArray) -> None:
    array[...] = 1


def _set(name: str, value: int) -> Callable[[Transaction], None]:
    return lambda t: t[name].__setitem__(..., value)


@pytest.mark.parametrize(
    ("theirs", "mine", "what"),
    [
        (lambda t: t["x"].set_attrs({"a": 1}), lambda t: t["x"].set_attrs({}), "changed the shape or attributes of x"),
        (lambda t: t["x"].resize((9, 2)), lambda t: t["x"].resize((8, 2)), "changed the shape or attributes of x"),
        (lambda t: t["x"].resize((6, 2)), _set("x", 1), "changed the shape or attributes of x"),
        (lambda t: t["x"].resize((6, 2)), lambda t: t["x"].resize((5, 2)), "changed the shape or attributes of x"),
        (_set("x", 1), lambda t: t["x"].resize((6, 2)), "changed x[0:2, 0:2], x[2:4, 0:2], x[4:6, 0:2] and 1 more"),
        (_delete("x"), _set("x", 1), "removed x"),
        (_set("x", 1), _delete("x"), "changed x"),
        (_delete("x"), _delete("x"), "removed x"),
        (_set("g/x", 1), _delete("g"), "changed g/x"),
        (_delete("g/x"), _delete("g"), "removed g/x"),
        (lambda t: t.move("g/x", "y"), _delete("g"), "removed g/x"),
        (lambda t: t["g/x"].resize((1,)), lambda t: t.move("g", "h"), "changed g/x"),
        (lambda t: t.move("x", "z"), _set("x", 1), "removed x"),
        (lambda t: t.array("y", 2), lambda t: t.array("y", 3), "created y"),
        (lambda t: _fill(t.array("y", 2)), lambda t: _fill(t.array("y", 2)), "created y and changed y[0:2]"),
        (lambda t: t.array("k/a", 2), lambda t: t.array("k/b", 2), "created k"),
        (_set("x", 2), _set("x", 1), "changed x[0:2, 0:2], x[2:4, 0:2], x[4:6, 0:2] and 1 more"),
        (_set("scalar", 2), _set("scalar", 1), "changed scalar[()]"),
    ],
)
def test_a_conflict_says_what_the_other_has_changed(
    hub: st.Hub, theirs: Callable[[Transaction], None], mine: Callable[[Transaction], None], what: str
) -> None:
    hub.array("x", shape=(7, 2), chunks=2, dtype="int32")
    hub.array("scalar", shape=(), dtype="int32")
    hub.array("g/x", shape=2, dtype="int32")
    ours = hub.transaction().begin()
    mine(ours)
    with hub.transaction(author="ann") as t:
        theirs(t)
    with pytest.raises(ConflictError, match=re.escape(f"commit 3 of main by ann has {what}; read it again")):
        ours.commit()


def test_writers_of_chunks_follow_those_who_make_an_array_larger(hub: st.Hub) -> None:
    array = hub.array("x", shape=(4, 2), chunks=2, dtype="int32")
    array[:] = 1
    stale = hub.load("x")
    with hub.transaction() as t:
        t["x"][2:4] = 2
        array.append(np.full((2, 2), 3))
        array.resize((7, 3))
        array.set_attrs({"unit": "m"})
    rows = [[1, 1, 0], [1, 1, 0], [2, 2, 0], [2, 2, 0], [3, 3, 0], [3, 3, 0], [0, 0, 0]]
    assert hub.load("x")[:].tolist() == rows
    stale[0] = 9, 8
    assert (stale.shape, stale.attrs) == ((7, 3), {"unit": "m"})
    assert stale[:].tolist() == [[9, 8, 0], *rows[1:]]


def test_many_who_append_at_the_same_time(hub: st.Hub) -> None:
    hub.array("x", shape=0, dtype="int64")

    def append(who: int) -> None:
        array = st.hub(hub.url).load("x")
        for number in range(6):
            array.append([10 * who + number])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(append, range(16)))
    rows = hub.load("x")[:].tolist()
    assert sorted(rows) == sorted(10 * who + number for who in range(16) for number in range(6))
    assert all([row for row in rows if row // 10 == who] == [10 * who + i for i in range(6)] for who in range(16))


def test_two_who_append_collide_and_so_do_writers_of_the_last_chunk(hub: st.Hub) -> None:
    hub.array("x", shape=4, chunks=3, dtype="int32")
    for mine in (lambda t: t["x"].append([5]), lambda t: t["x"].__setitem__(3, 6)):
        ours = hub.transaction().begin()
        mine(ours)
        hub.load("x").append([7])
        with pytest.raises(ConflictError):
            ours.commit()
    assert hub.load("x")[:].tolist() == [0, 0, 0, 0, 7, 7]


def _set_document(store: HubStore, document: bytes) -> None:
    sync(store.set("x/zarr.json", default_buffer_prototype().buffer.from_bytes(document)))


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda z: zarr.create_array(z, name="x", shape=4, chunks=2, dtype="int64", overwrite=True),
        lambda z: zarr.open_array(z, path="x").resize(2),
        lambda z: sync(z.delete("x/zarr.json")),
        lambda z: _set_document(z, create_array(4, 2, "float32").document),
    ],
)
def test_whoever_changes_what_chunks_mean_collides_with_their_writers(
    hub: st.Hub, change: Callable[[HubStore], object], *, ours_first: bool
) -> None:
    hub.array("x", shape=4, chunks=2, dtype="int32")[:2] = 1
    writing, changing = hub.transaction().begin(), hub.transaction().begin()
    writing["x"][2:] = 2
    change(changing.store())
    first, second = (writing, changing) if ours_first else (changing, writing)
    first.commit()
    with pytest.raises(ConflictError, match=r"has (changed|removed) x|the shape or attributes of x"):
        second.commit()


def test_a_group_is_not_removed_while_others_create_something_in_it(hub: st.Hub) -> None:
    hub.array("g/x", shape=4, chunks=2, dtype="int32")
    removing, creating = hub.transaction().begin(), hub.transaction().begin()
    del removing["g"]
    creating.array("g/y", shape=2, dtype="int32")
    creating.commit()
    with pytest.raises(ConflictError, match=r"has changed g/y"):
        removing.commit()
    removing, creating = hub.transaction().begin(), hub.transaction().begin()
    del removing["g"]
    creating.array("g/z", shape=2, dtype="int32")
    removing.commit()
    with pytest.raises(ConflictError, match=r"has removed g"):
        creating.commit()
    assert hub.list() == []


def test_an_array_is_not_cut_while_others_write_what_is_cut(hub: st.Hub) -> None:
    array = hub.array("x", shape=8, chunks=2, dtype="int32")
    other = hub.load("x")
    array[6] = 5
    with pytest.raises(ConflictError, match=r"has changed x\[6:8\];"):
        other.resize([3])
    other.refresh().resize([3])
    other.resize([8])
    assert other[:].tolist() == [0] * 8
