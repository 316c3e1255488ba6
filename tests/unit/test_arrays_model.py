"""A hub behaves as dicts of numpy arrays do, one for each version: any sequence of transactions, by two of them."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import shardtools as st
from shardtools.arrays.transaction import Transaction
from shardtools.errors import ConflictError, ExistsError, NotFoundError

PATHS = ["x", "y", "g/x", "g/h/y", "g2/x"]
CHUNK = 3
FILL = 7


@dataclass
class Node:
    """An array, with the numbers of its chunks that were written; a group has no values."""

    values: npt.NDArray[np.int32] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    chunks: set[int] = field(default_factory=set)


State = dict[str, Node]


@dataclass
class Changes:
    """What a write has changed and what it depends on."""

    keys: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)

    def collides(self, theirs: Changes) -> bool:
        depends = self.keys | self.reads
        return (
            bool(depends & theirs.keys)
            or any(key.startswith(tuple(theirs.removed)) for key in depends)
            or any(key.startswith(tuple(self.removed)) for key in theirs.keys)
            or any(a.startswith(b) or b.startswith(a) for a in self.removed for b in theirs.removed)
        )

    def remove(self, prefix: str) -> None:
        self.keys = {key for key in self.keys if not key.startswith(prefix)}
        self.removed.add(prefix)


Step = Callable[[State, Changes], None]


def document(path: str) -> str:
    return f"zarr.json/{path}" if path else "zarr.json"


def inside(state: State, path: str) -> list[str]:
    return [node for node in state if node == path or node.startswith(f"{path}/")]


def add_parents(path: str, state: State, changes: Changes) -> None:
    parts = path.split("/")
    for count in range(len(parts)):
        parent = "/".join(parts[:count])
        changes.reads.add(document(parent))
        if parent not in state:
            state[parent] = Node()
            changes.keys.add(document(parent))


def create(path: str, size: int) -> Step:
    def step(state: State, changes: Changes) -> None:
        add_parents(path, state, changes)
        state[path] = Node(np.full(size, FILL, np.int32))
        changes.keys.add(document(path))

    return step


def write(path: str, rows: range, values: npt.NDArray[np.int32]) -> Step:
    def step(state: State, changes: Changes) -> None:
        node = state[path]
        assert node.values is not None
        node.values[list(rows)] = values
        numbers = {row // CHUNK for row in rows}
        node.chunks |= numbers
        changes.keys |= {f"{path}/c/{number}" for number in numbers}

    return step


def resize(path: str, size: int) -> Step:
    def step(state: State, changes: Changes) -> None:
        node = state[path]
        assert node.values is not None
        kept = node.values[:size]
        if size < len(node.values):
            node.chunks = {number for number in node.chunks if number * CHUNK < size}
            changes.remove(f"{path}/")
            changes.keys |= {f"{path}/c/{number}" for number in node.chunks}
        node.values = np.concatenate([kept, np.full(size - len(kept), FILL, np.int32)])
        changes.keys.add(document(path))

    return step


def set_attrs(path: str, attributes: dict[str, Any]) -> Step:
    def step(state: State, changes: Changes) -> None:
        state[path].attributes = attributes
        changes.keys.add(document(path))

    return step


def remove(path: str) -> Step:
    def step(state: State, changes: Changes) -> None:
        for node in inside(state, path):
            del state[node]
            changes.keys.add(document(node))
        changes.remove(f"{path}/")
        changes.removed.add(f"{document(path)}/")

    return step


def move(path: str, to: str) -> Step:
    def step(state: State, changes: Changes) -> None:
        nodes = {node: state[node] for node in inside(state, path)}
        remove(path)(state, changes)
        add_parents(to, state, changes)
        for name, node in nodes.items():
            other = to + name[len(path) :]
            state[other] = node
            changes.keys.add(document(other))
            changes.keys |= {f"{other}/c/{number}" for number in node.chunks}

    return step


@dataclass
class Version:
    """A commit of a branch."""

    name: str
    state: State
    changes: Changes


@dataclass
class Writing:
    """A transaction, what it has done, and the version of its branch that it began with."""

    transaction: Transaction
    branch: str
    base: int
    state: State
    changes: Changes = field(default_factory=Changes)
    steps: list[Step] = field(default_factory=list)

    def do(self, step: Step) -> None:
        step(self.state, self.changes)
        self.steps.append(step)


class Model(RuleBasedStateMachine):
    """Transactions that begin at any time, on any branch, and are committed at another."""

    @initialize()
    def begin_hub(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.hubs = [st.hub(f"{self.folder.name}/hub") for _ in range(2)]
        self.writing: list[Writing] = []
        self.tags: dict[str, State] = {}
        self.hubs[0].array("x", shape=5, chunks=CHUNK, dtype="int32", fill_value=FILL)
        first: State = {}
        changes = Changes()
        create("x", 5)(first, changes)
        self.branches: dict[str, list[Version]] = {"main": [Version("main@0", first, changes)]}

    # --- versions

    @rule(data=some.data(), hub=some.integers(0, 1))
    @precondition(lambda self: len(self.writing) < 3)
    def begin(self, data: some.DataObject, hub: int) -> None:
        branch = data.draw(some.sampled_from(sorted(self.branches)))
        versions = self.branches[branch]
        transaction = self.hubs[hub].transaction(version=branch).begin()
        self.writing.append(Writing(transaction, branch, len(versions), copy.deepcopy(versions[-1].state)))

    @rule(data=some.data(), hub=some.integers(0, 1))
    @precondition(lambda self: len(self.branches) < 4)
    def branch(self, data: some.DataObject, hub: int) -> None:
        version = data.draw(some.sampled_from([v for versions in self.branches.values() for v in versions]))
        name = f"b{len(self.branches)}"
        self.hubs[hub].branch(name, version.name)
        self.branches[name] = [Version(version.name, version.state, Changes())]

    @rule(data=some.data(), hub=some.integers(0, 1))
    @precondition(lambda self: len(self.tags) < 4)
    def tag(self, data: some.DataObject, hub: int) -> None:
        branch = data.draw(some.sampled_from(sorted(self.branches)))
        name = f"t{len(self.tags)}"
        self.hubs[hub].tag(name, branch)
        self.tags[name] = self.branches[branch][-1].state
        with pytest.raises(ExistsError):
            self.hubs[1 - hub].tag(name, branch)

    @rule(data=some.data())
    @precondition(lambda self: self.writing)
    def commit(self, data: some.DataObject) -> None:
        writing = self.writing.pop(data.draw(some.integers(0, len(self.writing) - 1)))
        versions, mine = self.branches[writing.branch], writing.changes
        mine.reads -= mine.keys
        if not mine.keys and not mine.removed:
            writing.transaction.commit()
            return
        if any(mine.collides(version.changes) for version in versions[writing.base :]):
            with pytest.raises(ConflictError):
                writing.transaction.commit()
            return
        result = writing.transaction.commit()
        state = copy.deepcopy(versions[-1].state)
        for step in writing.steps:
            step(state, Changes())
        versions.append(Version(f"{writing.branch}@{result.number}", state, mine))

    @rule(data=some.data())
    @precondition(lambda self: self.writing)
    def abort(self, data: some.DataObject) -> None:
        writing = self.writing.pop(data.draw(some.integers(0, len(self.writing) - 1)))
        with pytest.raises(KeyboardInterrupt), writing.transaction:
            raise KeyboardInterrupt

    @rule(data=some.data(), hub=some.integers(0, 1), number=some.integers(0, 99))
    def write_at_once(self, data: some.DataObject, hub: int, number: int) -> None:
        branch = data.draw(some.sampled_from(sorted(self.branches)))
        versions = self.branches[branch]
        state = copy.deepcopy(versions[-1].state)
        full = {path: len(node.values) for path, node in state.items() if node.values is not None and node.values.size}
        if full:
            path = data.draw(some.sampled_from(sorted(full)))
            row = data.draw(some.integers(0, full[path] - 1))
            array = self.hubs[hub].load(f"{path}:{branch}")
            array[row] = number
            changes = Changes()
            write(path, range(row, row + 1), np.array([number], np.int32))(state, changes)
            versions.append(Version(array.version, state, changes))

    # --- what is done in a transaction

    def some_array(self, data: some.DataObject) -> tuple[Writing, str, npt.NDArray[np.int32]] | None:
        writing = data.draw(some.sampled_from(self.writing))
        there = [path for path, node in writing.state.items() if node.values is not None]
        if not there:
            return None
        path = data.draw(some.sampled_from(sorted(there)))
        values = writing.state[path].values
        assert values is not None
        return writing, path, values

    @rule(data=some.data(), size=some.integers(0, 9))
    @precondition(lambda self: self.writing)
    def create(self, data: some.DataObject, size: int) -> None:
        writing, path = data.draw(some.sampled_from(self.writing)), data.draw(some.sampled_from(PATHS))
        if path in writing.state:
            with pytest.raises(ExistsError):
                writing.transaction.array(path, shape=size, chunks=CHUNK, dtype="int32")
            return
        writing.transaction.array(path, shape=size, chunks=CHUNK, dtype="int32", fill_value=FILL)
        writing.do(create(path, size))

    @rule(data=some.data(), number=some.integers(0, 99))
    @precondition(lambda self: self.writing)
    def write(self, data: some.DataObject, number: int) -> None:
        if (found := self.some_array(data)) is None:
            return
        writing, path, values = found
        part = data.draw(some.slices(len(values)))
        rows = range(*part.indices(len(values)))
        new = (np.arange(len(rows)) + number).astype(np.int32)
        writing.transaction[path][part] = new
        writing.do(write(path, rows, new))
        np.testing.assert_array_equal(writing.transaction[path][:], values)

    @rule(data=some.data(), size=some.integers(0, 9))
    @precondition(lambda self: self.writing)
    def resize(self, data: some.DataObject, size: int) -> None:
        if (found := self.some_array(data)) is not None:
            writing, path, _ = found
            writing.transaction[path].resize([size])
            writing.do(resize(path, size))

    @rule(data=some.data(), count=some.integers(0, 4))
    @precondition(lambda self: self.writing)
    def append(self, data: some.DataObject, count: int) -> None:
        if (found := self.some_array(data)) is not None:
            writing, path, values = found
            writing.transaction[path].append(np.arange(count, dtype=np.int32))
            writing.do(resize(path, len(values) + count))
            if count:
                rows = range(len(values), len(values) + count)
                writing.do(write(path, rows, np.arange(count, dtype=np.int32)))

    @rule(data=some.data(), number=some.integers(0, 9))
    @precondition(lambda self: self.writing)
    def set_attrs(self, data: some.DataObject, number: int) -> None:
        if (found := self.some_array(data)) is not None:
            writing, path, _ = found
            writing.transaction[path].set_attrs({"n": number})
            writing.do(set_attrs(path, {"n": number}))

    @rule(data=some.data())
    @precondition(lambda self: self.writing)
    def remove(self, data: some.DataObject) -> None:
        writing, path = data.draw(some.sampled_from(self.writing)), data.draw(some.sampled_from([*PATHS, "g"]))
        if path not in writing.state:
            with pytest.raises(NotFoundError):
                del writing.transaction[path]
            return
        del writing.transaction[path]
        writing.do(remove(path))

    @rule(data=some.data())
    @precondition(lambda self: self.writing)
    def move(self, data: some.DataObject) -> None:
        writing = data.draw(some.sampled_from(self.writing))
        path, to = data.draw(some.sampled_from([*PATHS, "g"])), data.draw(some.sampled_from([*PATHS, "k", "g3/k"]))
        if path in writing.state and to not in writing.state and not to.startswith(f"{path}/"):
            writing.transaction.move(path, to)
            writing.do(move(path, to))

    # --- what must hold

    @invariant()
    def heads_are_those_of_the_model(self) -> None:
        for hub, (branch, versions) in zip(self.hubs, self.branches.items(), strict=False):
            assert hub.list(branch) == arrays_of(versions[-1].state)

    def teardown(self) -> None:
        hub = st.hub(f"{self.folder.name}/hub")
        assert (hub.branches(), hub.tags()) == (sorted(self.branches), sorted(self.tags))
        versions = {version.name: version.state for versions in self.branches.values() for version in versions}
        for name, state in (versions | self.tags | {b: v[-1].state for b, v in self.branches.items()}).items():
            assert hub.list(name) == arrays_of(state)
            for path in arrays_of(state):
                separator = "" if name.startswith("@") else ":"
                array = hub.load(f"{path}{separator}{name}")
                np.testing.assert_array_equal(array[:], state[path].values)
                assert array.attrs == state[path].attributes
        self.folder.cleanup()


def arrays_of(state: State) -> list[str]:
    return sorted(path for path, node in state.items() if node.values is not None)


Model.TestCase.settings = settings(
    max_examples=20, stateful_step_count=50, deadline=None, phases=[Phase.explicit, Phase.generate]
)
TestModel = Model.TestCase
