"""The log on a local disk: segments against a dict, commits, versions, and what is damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from shardtools.errors import ConflictError, CorruptError, ExistsError, JobError, NotFoundError
from shardtools.log.commit import Commit, SegmentPlace, Write, dump_commit, parse_commit
from shardtools.log.committing import _Committer, commit, replace_segments
from shardtools.log.conflict import Footprint
from shardtools.log.expiry import expire, referenced_objects
from shardtools.log.log import Log, Snapshot, new_id, places_of
from shardtools.log.merging import MERGED_INLINE, merge_segments, merge_tail
from shardtools.log.names import check_key, check_object, check_reference
from shardtools.log.place import Place
from shardtools.log.proposals import Proposal
from shardtools.log.reading import Segment, find, merged
from shardtools.log.segment import BLOCK, HEAD, ROW, BlockPlace, Change, Entry, SegmentIndex, parse_block
from shardtools.log.segment_writer import blocks_of, stream_segment, write_segment
from shardtools.log.upkeep import compact_segments

ID = "0123456789abcdef" * 2


def entry(number: int) -> Entry:
    return Entry(f"data/{ID}/{number % 3}.tar", number * 512, number, number % 2**32)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.open(f"{tmp_path}/place", create=True)


def numbers(snapshot: Snapshot) -> dict[str, int]:
    return {key: place.size for key, place in snapshot.scan()}


def scan(segments: list[Segment], prefix: str = "") -> list[tuple[str, Entry]]:
    return [item for block in merged(segments, prefix) for item in block.entries()]


KEYS = some.text("ab/0é", min_size=1, max_size=4)
WRITES = some.tuples(
    some.dictionaries(KEYS, some.none() | some.integers(1, 1000), max_size=8),
    some.lists(some.sampled_from(["a", "b", "a/", "0"]), max_size=2, unique=True),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(writes=some.lists(WRITES, min_size=1, max_size=6), merges=some.booleans(), wanted=some.lists(KEYS, max_size=5))
def test_segments_are_a_dict(
    tmp_path: Path, writes: list[tuple[dict[str, int | None], list[str]]], merges: bool, wanted: list[str]
) -> None:
    place = Place(f"{tmp_path}/")
    model: dict[str, int] = {}
    segments = []
    for changes, removed in writes:
        model = {key: value for key, value in model.items() if not key.startswith(tuple(removed))}
        for key, value in changes.items():
            model.pop(key, None)
            if value is not None:
                model[key] = value
        made: dict[str, Change] = {key: None if value is None else entry(value) for key, value in changes.items()}
        segments.append(write_segment(place, new_id(), made, removed))
        if merges:
            segments = merge_tail(place, segments, {})
    read = [Segment(place.root, segment) for segment in segments]
    assert [(key, found.size) for key, found in scan(read)] == sorted(model.items())
    assert {key: found.size for key, found in find(read, wanted).items()} == {k: model[k] for k in wanted if k in model}
    for prefix in ("a", "a/", "b0"):
        assert {key for key, _ in scan(read, prefix)} == {key for key in model if key.startswith(prefix)}


def test_a_large_segment_is_read_by_blocks(tmp_path: Path) -> None:
    place = Place(f"{tmp_path}/")
    changes: dict[str, Change] = {f"x/c/{i:07d}": entry(i) for i in range(10 * BLOCK + 5)}
    segment = Segment(place.root, write_segment(place, ID, changes))
    assert len(segment.index().blocks) == 11
    wanted = ["x/c/0000000", "x/c/0012345", "x/c/0020484", "x/c/9", "a", "x/c/00123456"]
    assert segment.find(wanted) == {key: changes[key] for key in wanted if key in changes}
    assert len(scan([segment], "x/c/001")) == 10_000
    assert dict(scan([segment])) == changes


def test_damage_is_noticed(tmp_path: Path) -> None:
    changes: dict[str, Change] = {f"x/{i:03d}": entry(i + 1) for i in range(40)}
    whole = write_segment(Place(f"{tmp_path}/"), ID, changes)
    data = (tmp_path / whole.name).read_bytes()
    for at in range(0, len(data), 3):
        place = Place(f"{tmp_path}/{at}/")
        good = write_segment(place, ID, changes)
        path = tmp_path / str(at) / good.name
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with pytest.raises(CorruptError, match=r"the segment is damaged; restore it"):
            scan([Segment(place.root, good)])
    place = Place(f"{tmp_path}/gone/")
    good = write_segment(place, ID, changes)
    (tmp_path / "gone" / good.name).unlink()
    with pytest.raises(CorruptError, match="an object that a commit refers to is gone"):
        Segment(place.root, good).index()
    assert len(data) == whole.size


def block_of(keys: list[bytes], objects: list[int], offset: int = 0, first: str = "a") -> tuple[bytes, SegmentIndex]:
    """Return a block that says this, and the index of its segment."""
    rows = np.array([(len(key), number, offset, 1, 1) for key, number in zip(keys, objects, strict=True)], ROW)
    data = zstandard.compress(HEAD.pack(len(keys), sum(map(len, keys))) + rows.tobytes() + b"".join(keys))
    place = BlockPlace(first, 0, len(data), google_crc32c.value(data))
    return data, SegmentIndex(len(keys), (place,), (f"data/{ID}/a",), ())


def test_a_block_that_is_right() -> None:
    data, index = block_of([b"a", "é".encode()], [1, 0])
    block = parse_block(data, 0, index, "x")
    assert list(block.entries()) == [("a", Entry(f"data/{ID}/a", 0, 1, 1))] and block.names() == ["a", "é"]


@pytest.mark.parametrize(
    ("keys", "objects", "offset"),
    [
        ([], [], 0),
        ([b"a", b"a"], [1, 1], 0),
        ([b"b", b"a"], [1, 1], 0),
        ([b"b"], [1], 0),
        ([b"a", b""], [1, 1], 0),
        ([b"a", b"b\0"], [1, 1], 0),
        ([b"a", b"\xc3", b"\xa9"], [1, 1, 1], 0),
        ([b"a", b"\xff"], [1, 1], 0),
        ([b"a", b"b" * 1025], [1, 1], 0),
        ([b"a"], [2], 0),
        ([b"a"], [1], 1 << 63),
    ],
)
def test_blocks_that_are_wrong_though_their_checksums_match(keys: list[bytes], objects: list[int], offset: int) -> None:
    data, index = block_of(keys, objects, offset)
    with pytest.raises(CorruptError, match="the segment is damaged"):
        parse_block(data, 0, index, "x")


def test_keys_that_no_log_has_are_not_found(tmp_path: Path) -> None:
    place = Place(f"{tmp_path}/")
    segment = Segment(place.root, write_segment(place, ID, {"a": entry(1), "b": entry(2)}))
    assert find([segment], ["a\0", "b", "", "\ud800", "\0"]) == {"b": entry(2)}
    assert scan([segment], "a\0") == []


def test_a_segment_is_written_in_order(tmp_path: Path) -> None:
    place = Place(f"{tmp_path}/")
    for keys in (["a", "a"], ["b", "a"], [*(f"{i:05d}" for i in range(BLOCK)), "0"]):
        with pytest.raises(ValueError, match="keys of a segment are not in order"):
            stream_segment(place, f"data/{ID}/a", blocks_of((key, None) for key in keys))
    assert not list(tmp_path.rglob("a"))


def test_a_merged_segment_names_only_objects_that_it_needs(tmp_path: Path) -> None:
    place = Place(f"{tmp_path}/")
    old = write_segment(place, new_id(), {"a": entry(1), "b": entry(2), "x/c": entry(3)})
    new = write_segment(place, new_id(), {"a": entry(4), "b": None, "d": None}, ["x/"])
    for oldest, keys, removed in ((True, ["a"], ()), (False, ["a", "b", "d"], ("x/",))):
        segment = Segment(place.root, merge_segments(place, [old, new], oldest=oldest))
        assert [key for block in segment.scan() for key in block.names()] == keys
        assert (segment.index().objects, segment.index().removed) == ((entry(4).name,), removed)


class TestNames:
    @pytest.mark.parametrize("key", ["a", "mnist/train/c/0/0", "é/zarr.json", ".zattrs"])
    def test_keys(self, key: str) -> None:
        assert check_key(key) == key

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/./b", "a\0", "\ud800", "a" * 1025])
    def test_what_is_no_key(self, key: str, log: Log) -> None:
        with pytest.raises(ValueError, match="is not a key"):
            check_key(key)
        with pytest.raises(JobError, match="is not a key"):
            commit(log.head(), {key: entry(1)})

    @pytest.mark.parametrize("name", ["", "a/b", "..", "@1", "a" * 101, "é", None, "-a"])
    def test_what_is_no_version(self, name: str, log: Log) -> None:
        with pytest.raises(ValueError, match="cannot be the name of a version"):
            check_reference(name)

    @pytest.mark.parametrize("name", ["data/x/a", f"data/{ID}/../a", f"/data/{ID}/a", f"data/{ID}/.a", 1])
    def test_what_is_no_object(self, name: str) -> None:
        with pytest.raises(ValueError, match="is not the name of an object"):
            check_object(name)


class TestCommits:
    def test_of_one_writer(self, log: Log) -> None:
        empty = log.head()
        assert (numbers(empty), empty.number, list(empty.history())) == ({}, -1, [])
        first = commit(empty, {"a": entry(1), "b": entry(2)}, message="one", author="me")
        second = commit(first, {"b": None, "c": entry(3)}, message="two")
        third = commit(second, {}, removed=["a"])
        assert [numbers(some) for some in (empty, first, second, third)] == [
            {}, {"a": 1, "b": 2}, {"a": 1, "c": 3}, {"c": 3},
        ]  # fmt: skip
        assert [made.writes[0].message for made in third.history()] == ["", "two", "one"]
        assert third.find(["a", "c"]) == {"c": entry(3)}
        assert numbers(Log.open(log.place.root).head()) == {"c": 3}

    def test_disjoint_writes_follow_each_other(self, log: Log) -> None:
        base = log.head()
        commit(base, {"a": entry(1)})
        assert numbers(commit(base, {"b": entry(2)})) == {"a": 1, "b": 2}

    @pytest.mark.parametrize(
        ("first", "second", "named"),
        [
            ({"changes": {"a": 1}}, {"changes": {"a": 2}}, "a"),
            ({"changes": {"a": None}}, {"changes": {"a": 2}}, "a"),
            ({"changes": {"m": 1}}, {"changes": {"x": 2}, "reads": ["m"]}, "m"),
            ({"removed": ["x/"]}, {"changes": {"x/1": 2}}, "x/1"),
            ({"changes": {"x/1": 2}}, {"removed": ["x/"]}, "x/1"),
            ({"removed": ["x/"]}, {"removed": ["x/y/"]}, "x/y/"),
            ({"changes": {f"k{i}": i + 1 for i in range(1500)}}, {"changes": {"k7": 2}}, "k7"),
            ({"changes": {f"x/{i}": i + 1 for i in range(1500)}}, {"removed": ["x/7"]}, "x/7, x/70, x/700 and"),
        ],
    )
    def test_writes_that_collide(self, log: Log, first: dict[str, Any], second: dict[str, Any], named: str) -> None:
        def write(base: Snapshot, what: dict[str, Any], author: str = "") -> Snapshot:
            sizes = what.get("changes", {})
            changes: dict[str, Change] = {key: None if size is None else entry(size) for key, size in sizes.items()}
            removed, reads = what.get("removed", []), what.get("reads", [])
            return commit(base, changes, removed=removed, reads=reads, author=author)

        base = log.head()
        after = write(base, first, "ann")
        with pytest.raises(ConflictError, match=f"commit 0 of main by ann has changed {named}"):
            write(base, second)
        assert numbers(log.head()) == numbers(after)

    def test_a_read_key_may_be_read_by_others(self, log: Log) -> None:
        base = log.head()
        commit(base, {"x": entry(1)}, reads=["m"])
        assert numbers(commit(base, {"y": entry(2)}, reads=["m"])) == {"x": 1, "y": 2}

    def test_segments_stay_few(self, log: Log, tmp_path: Path) -> None:
        head = log.head()
        for number in range(300):
            head = commit(head, {f"k/{number:04d}": entry(number + 1)})
        assert len(head.segments) <= 9
        assert numbers(head) == {f"k/{number:04d}": number + 1 for number in range(300)}
        fresh = Log.open(log.place.root).head()
        assert fresh.number == 299 and numbers(fresh) == numbers(head)
        written = sum(path.stat().st_size for path in (tmp_path / "place").rglob("*") if path.is_file())
        assert written / 300 < 64_000
        assert MERGED_INLINE > 300


class TestVersions:
    def test_branches_and_tags(self, log: Log) -> None:
        first = commit(log.head(), {"a": entry(1)})
        log.tag("v1", first, message="the first")
        second = commit(first, {"a": entry(2)})
        trial = commit(log.branch("try", first), {"a": entry(3)})
        assert commit(trial, {"b": entry(4)}).number == 2
        for version, expected in (
            ("main", {"a": 2}), ("v1", {"a": 1}), ("try", {"a": 3, "b": 4}), ("@0", {"a": 1}), ("@1", {"a": 2}),
            ("try@1", {"a": 3}), ("try@0", {"a": 1}), ("main@1", {"a": 2}),
        ):  # fmt: skip
            assert numbers(Log.open(log.place.root).resolve(version)) == expected, version
        assert (log.branches(), log.tags()) == (["main", "try"], ["v1"])
        assert numbers(second) == {"a": 2}
        assert [made.branch for made in log.head("try").history()] == ["try", "try", "main"]

    def test_what_cannot_be_written(self, log: Log) -> None:
        head = commit(log.head(), {"a": entry(1)})
        log.tag("v1", head)
        for version in ("v1", "@0"):
            with pytest.raises(JobError, match=f"{version} stays as it is; make a branch"):
                commit(log.resolve(version), {"a": entry(2)})
        for make in (log.branch, log.tag):
            for name in ("v1", "main"):
                with pytest.raises(ExistsError, match=f"there is a (tag|branch) {name} already"):
                    make(name, head)
            with pytest.raises(JobError, match="cannot be the name of a version"):
                make("a/b", head)
        with pytest.raises(JobError, match="there is no commit yet"):
            Log.open(f"{log.place.root}other", create=True).tag("v1", Log.open(f"{log.place.root}other").head())

    @pytest.mark.parametrize("version", ["nothing", "@7", "try@0", "@x", "@-1", "../main"])
    def test_what_there_is_not(self, log: Log, version: str) -> None:
        log.tag("v1", commit(log.head(), {"a": entry(1)}))
        with pytest.raises(NotFoundError, match=r"there is no version .*; there is main, v1, and @N for a commit"):
            log.resolve(version)

    def test_places_without_a_log(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="there is no log here"):
            Log.open(f"{tmp_path}/nothing")
        (tmp_path / "log.json").write_text("{}")
        with pytest.raises(CorruptError, match="this is not an object of a log"):
            Log.open(str(tmp_path), create=True)
        (tmp_path / "log.json").write_text('{"format": 99}')
        with pytest.raises(CorruptError, match="it has format 99, and this shardtools knows 1; upgrade it"):
            Log.open(str(tmp_path))


class TestDamage:
    def make(self, log: Log) -> Path:
        head = log.head()
        for number in range(3):
            head = commit(head, {f"k{number}": entry(number + 1)})
        return Path(log.place.root) / "log" / "main"

    def test_of_the_newest_commit(self, log: Log) -> None:
        path = self.make(log) / f"{2:020d}"
        good = path.read_bytes()
        for damaged in (good[:-1], good[: len(good) // 2], b"", good.replace(b"k2", b"kX", 1)):
            path.write_bytes(damaged)
            with pytest.raises(CorruptError, match="the commit is damaged: its digest does not match"):
                Log.open(log.place.root).head()
            assert numbers(Log.open(log.place.root).resolve("@1")) == {"k0": 1, "k1": 2}

    def test_of_an_earlier_commit(self, log: Log) -> None:
        path = self.make(log) / f"{1:020d}"
        changed = parse_commit(path.read_bytes(), "")
        path.write_bytes(dump_commit(Commit("main", 1, changed.parent, (), changed.segments))[0])
        head = Log.open(log.place.root).head()
        assert len(numbers(head)) == 3
        with pytest.raises(CorruptError, match="the history was altered"):
            list(head.history())
        path.unlink()
        with pytest.raises(CorruptError, match="a commit that the history needs is gone"):
            list(Log.open(log.place.root).resolve("@2").history())

    def test_of_a_later_format(self, log: Log) -> None:
        path = self.make(log) / f"{2:020d}"
        body = json.loads(path.read_bytes().split(b"\n")[0]) | {"format": 2}
        line = json.dumps(body).encode()
        path.write_bytes(line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n")
        with pytest.raises(CorruptError, match="it has format 2, and this shardtools knows 1; upgrade it"):
            Log.open(log.place.root).head()

    def test_of_a_hint(self, log: Log) -> None:
        self.make(log)
        hints = Path(log.place.root) / "hints"
        hints.mkdir(exist_ok=True)
        for text in (
            "",
            "{}",
            '{"format": 1, "number": 99}',
            '{"format": 1, "number": -5}',
            '{"format": 1, "number": 1}',
        ):
            (hints / "main").write_text(text)
            assert Log.open(log.place.root).head().number == 2


def propose(base: Snapshot, key: str, message: str) -> _Committer:
    """Return a writer of one key on top of ``base`` that has come too late once, and has proposed its write."""
    segment = write_segment(base.log.place, new_id(), {key: entry(1)})
    write = Write(new_id(), message, "", "", segment, (key,))
    proposal = Proposal.of(base.number, write, {key: entry(1)})
    committer = _Committer(base, proposal, Footprint(frozenset([key]), (), frozenset()))
    committer.queue.propose()
    return committer


def test_what_is_taken_along(log: Log) -> None:
    """What fits, the oldest first; but nothing that collides, with a commit or with another one, and nothing twice."""
    base = log.head()
    done = propose(base, "a", "done")
    head = done.run()
    done.queue.propose()  # as if its writer had been killed before it could take the proposal back
    propose(base, "a", "collides with a commit")
    propose(base, "b", "fits")
    mine = propose(head, "c", "mine")
    propose(head, "c", "collides with mine")
    propose(head, "d", "fits, too")
    assert [write.message for write in mine.build(head).writes] == ["mine", "fits", "fits, too"]
    after = mine.run()
    assert [write.message for made in after.history() for write in made.writes] == ["mine", "fits", "fits, too", "done"]
    assert numbers(after) == {"a": 1, "b": 1, "c": 1, "d": 1}
    proposals = Path(log.place.root) / "proposals" / "main"
    assert sorted(int(path.name.split("-")[0]) for path in proposals.iterdir()) == [0, 0, 0, 1, 1]  # all but its own
    for number in range(8):
        after = commit(after, {f"e{number}": entry(1)})
    propose(after, "z", "last").run()
    assert list(proposals.iterdir()) == []  # their writers have had the time to delete them


def test_what_is_taken_along_becomes_one_segment(log: Log) -> None:
    """Small writes say in their proposals what they change, so that their own segments are not read."""
    first = commit(log.head(), {f"old{number:02d}": entry(number) for number in range(50)})
    mine = propose(first, "mine", "")
    base = commit(first, {"more": entry(1)})
    for number in range(5):
        changes = propose(base, f"k{number}", "").queue.mine.write.changes
        assert changes is not None
        Path(log.place.root, changes.name).unlink()
    after = mine.run()
    assert [segment.place.count for segment in after.segments] == [50, 7]
    assert numbers(after) == numbers(base) | {"mine": 1} | {f"k{number}": 1 for number in range(5)}


def test_a_damaged_proposal_is_not_taken_along(log: Log) -> None:
    base = log.head()
    good = propose(base, "a", "").queue.mine
    path = Path(log.place.root, "proposals", "main", good.name)
    body = json.loads(path.read_bytes())
    for entries in (
        [],
        [None, None],
        [[f"data/{ID}/a", 1, 2]],
        [[f"data/{ID}/a", 1, 2, 2**32]],
        [["data/../a", 1, 2, 3]],
    ):
        path.write_text(json.dumps(body | {"entries": entries}))
        assert len(propose(base, "b", "").build(base).writes) == 1
    path.write_text(json.dumps(body))
    assert len(propose(base, "b", "").build(base).writes) == 2


def test_segments_that_the_commits_say_nothing_of_are_not_read(log: Log) -> None:
    """Who has followed the log knows from the commits which keys are as before, and reads no new segments."""
    head = commit(log.head(), {f"old{number}": entry(number) for number in range(50)})
    assert set(head.find(["old1", "new1"])) == {"old1"}
    other = Log.open(log.place.root)
    for number in range(5):
        commit(other.head(), {f"new{number}": entry(number)})
        head = log.following(head) or head
    for segment in head.segments[1:]:
        Path(segment.url).unlink()
    assert set(head.find(["old1", "new7"])) == {"old1"}
    with pytest.raises(CorruptError, match="an object that a commit refers to is gone"):
        head.find(["new4"])
    with pytest.raises(CorruptError, match="an object that a commit refers to is gone"):
        Log.open(log.place.root).head().find(["old1"])


def test_keys_lie_elsewhere_after_upkeep(log: Log) -> None:
    """What was known of a key before data was written again is not what is answered after it."""
    base = commit(log.head(), {"a": entry(1)})
    assert base.find(["a"])["a"].size == 1
    moved = replace_segments(base, lambda head: [write_segment(log.place, new_id(), {"a": entry(2)})])
    assert moved.find(["a"])["a"].size == 2


OLD = {f"a{number:02d}": number + 1 for number in range(50)}


class TestUpkeep:
    def make(self, log: Log, count: int = 7) -> Snapshot:
        head = commit(log.head(), {f"a{number:02d}": entry(number + 1) for number in range(50)})
        for number in range(count):
            head = commit(head, {f"k{number}": entry(number + 1), f"k{number - 2}": None})
        return head

    def merge_first(self, snapshot: Snapshot, many: int) -> list[SegmentPlace]:
        places = places_of(snapshot)
        return [merge_segments(snapshot.log.place, places[:many], oldest=True), *places[many:]]

    def test_all_segments_become_one(self, log: Log) -> None:
        head = self.make(log)
        compacted = compact_segments(head, message="tidy", author="me")
        assert numbers(compacted) == numbers(head) == OLD | {"k5": 6, "k6": 7}
        assert (len(head.segments) > 1, len(compacted.segments), compacted.segments[0].place.count) == (True, 1, 52)
        assert [write.message for write in next(compacted.history()).writes] == ["tidy"]
        assert compact_segments(compacted).number == compacted.number
        assert compact_segments(Log.open(f"{log.place.root}empty", create=True).head()).commit is None

    def test_writers_neither_notice_nor_are_noticed(self, log: Log) -> None:
        base = self.make(log)
        others: list[Snapshot] = []

        def rewrite(snapshot: Snapshot) -> list[SegmentPlace]:
            if not others:
                others.append(commit(base, {"k6": entry(70)}, reads=["k5"]))
            return self.merge_first(snapshot, 1)

        before = base.segments[0]
        after = replace_segments(base, rewrite)
        assert numbers(after) == OLD | {"k5": 6, "k6": 70}
        assert (after.number, after.segments[0] == before) == (base.number + 2, False)
        assert numbers(commit(base, {"k5": entry(60), "k9": None})) == OLD | {"k5": 60, "k6": 70}

    def test_it_is_rewritten_again_when_others_have_merged(self, log: Log) -> None:
        base, seen = self.make(log), []

        def rewrite(snapshot: Snapshot) -> list[SegmentPlace]:
            seen.append(snapshot.number)
            if len(seen) == 1:
                compact_segments(commit(snapshot, {"new": entry(9)}))
            return self.merge_first(snapshot, len(places_of(snapshot)))

        after = replace_segments(base, rewrite)
        assert seen == [base.number, base.number + 2]
        assert numbers(after) == OLD | {"k5": 6, "k6": 7, "new": 9}

    def test_a_tag_stays_as_it_is(self, log: Log) -> None:
        log.tag("v1", self.make(log))
        with pytest.raises(JobError, match="v1 stays as it is"):
            compact_segments(log.resolve("v1"))


def test_expiry(log: Log) -> None:
    def write(base: Snapshot, key: str, size: int) -> Snapshot:
        return commit(base, {key: Entry(f"data/{size:032d}/a", 0, size, 1)})

    first = write(log.head(), "a", 1)
    log.branch("try", first)
    second = write(first, "a", 2)
    log.tag("v1", second)
    last = write(write(second, "a", 3), "a", 4)
    sizes = {place.name: size for size in range(1, 5) for place in [Entry(f"data/{size:032d}/a", 0, size, 1)]}
    assert {sizes[name] for name in referenced_objects(log) if name in sizes} == {1, 2, 3, 4}
    expire(log, "main", 3)
    expire(log, "main", 1)
    fresh = Log.open(log.place.root)
    for version in ("@0", "@1", "@2", "try@0"):
        with pytest.raises(NotFoundError, match=f"version {version} has expired; use a tag"):
            fresh.resolve(version)
    found = [numbers(fresh.resolve(version)) for version in ("@3", "main", "v1", "try")]
    assert found == [{"a": 4}, {"a": 4}, {"a": 2}, {"a": 1}]
    needed = referenced_objects(fresh)
    assert {sizes[name] for name in needed if name in sizes} == {1, 2, 4}
    assert {place.name for place in places_of(last)} <= needed
    assert [made.number for made in fresh.head().history()] == [3, 2, 1, 0]
    with pytest.raises(JobError, match="main ends with commit 3; keep at least that one"):
        expire(log, "main", 4)


def test_how_snapshots_and_commits_are_shown(log: Log) -> None:
    head = commit(log.head(), {"a": entry(1)}, message="first")
    assert repr(head) == f"<Snapshot main@0 of {log.place.root}>"
    assert repr(next(head.history())) == "<Commit main@0: 'first'>"
