"""What every storage has to do, as tests that a backend inherits by giving them a `Place`.

class TestLocal(StorageContract):
    @pytest.fixture
    def place(self, tmp_path): return FolderPlace(LocalStorage(), f"{tmp_path}/", tmp_path)
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import ChangedError, ExistsError, NotFoundError, RefusedError, StorageError
from shardtools.storage import ByteRange, Storage

ODD_NAMES = [
    "a b.tar",
    "grün-ü.tar",
    "100%.tar",
    "50%25.tar",
    "a#b.tar",
    "q?x=1.tar",
    "x@3.tar",
    "me:pw@x.tar",
    "a.b.c.tar.gz",
    "semi;colon&=+,.tar",
    "[1]{2}(3).tar",
    "\"double\" 'single'.tar",
    "back\\slash.tar",
    "tab\tnewline\n.tar",
    "日本.tar",
    "x..tar",
    "~tilde.tar",
    "-.tar",
]


@dataclass(frozen=True)
class Place:
    """A storage, the URL of a folder in it (with its last slash), and a way to it behind its back."""

    storage: Storage
    root: str

    def url(self, name: str) -> str:
        return self.root + name

    def put(self, name: str, data: bytes) -> str:
        """Store an object behind the storage's back and return its URL."""
        raise NotImplementedError

    def get(self, name: str) -> bytes:
        """Return an object's bytes, read behind the storage's back."""
        raise NotImplementedError

    def files(self) -> list[str]:
        """Return everything that lies in the folder, hidden or not, unfinished uploads included."""
        raise NotImplementedError


@dataclass(frozen=True)
class FolderPlace(Place):
    """A place that is a ``folder`` on the disk."""

    folder: Path
    quote: Callable[[str], str] = field(default=str)

    def url(self, name: str) -> str:
        return self.root + self.quote(name)

    def put(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return self.url(name)

    def get(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def files(self) -> list[str]:
        return sorted(os.path.join(at, name) for at, _, names in os.walk(self.folder) for name in names)


class Boom(Exception):
    """Raised inside a context."""


def pattern(size: int, seed: int = 0) -> bytes:
    """Return bytes in which no two places look alike."""
    words = np.arange((size + 7) // 8, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    return words.astype(">u8").tobytes()[:size]


OBJECT = pattern(100_000)
MEGABYTES = pattern(5 << 20)


class StorageContract:
    """The tests. A subclass gives the fixture ``place``."""

    # --- open, read, stat

    @pytest.mark.parametrize("size", [0, 1, 4096, 5 << 20])
    def test_what_is_written_is_read_back(self, place: Place, size: int) -> None:
        data = MEGABYTES[:size]
        url = place.url("x.tar")
        with place.storage.create(url) as sink:
            sink.write(data)
        assert place.get("x.tar") == data
        assert place.storage.read(url) == data
        assert place.storage.stat(url).size == size

    def test_readinto_streams_all_bytes(self, place: Place) -> None:
        url = place.put("x.tar", MEGABYTES)
        buffer = bytearray(300_000)
        got = bytearray()
        with place.storage.open(url) as stream:
            assert stream.stat == place.storage.stat(url)
            assert stream.readable() and not stream.writable()
            while count := stream.readinto(buffer):
                got += memoryview(buffer)[:count]
            assert stream.readinto(buffer) == 0
            assert stream.read(10) == b""
        assert got == MEGABYTES

    def test_reads_of_any_size_follow_one_another(self, place: Place) -> None:
        url = place.put("x.tar", OBJECT)
        with place.storage.open(url) as stream:
            assert stream.read(7) + stream.read(0) + stream.read(50_000) + stream.readall() == OBJECT

    def test_a_stream_can_be_closed_early_and_often(self, place: Place) -> None:
        url = place.put("x.tar", MEGABYTES)
        for _ in range(30):
            stream = place.storage.open(url)
            assert stream.read(3) == MEGABYTES[:3]
            stream.close()
            stream.close()
            with pytest.raises(ValueError):
                stream.read(1)
        assert place.storage.read(url) == MEGABYTES

    def test_two_streams_do_not_mix(self, place: Place) -> None:
        first, second = place.put("1.tar", MEGABYTES), place.put("2.tar", OBJECT)
        with place.storage.open(first) as a, place.storage.open(second) as b:
            assert a.read(10) == MEGABYTES[:10]
            assert b.readall() == OBJECT
            assert a.readall() == MEGABYTES[10:]

    def test_a_reader_sees_one_version_or_an_error(self, place: Place) -> None:
        url = place.put("x.tar", MEGABYTES)
        with place.storage.open(url) as stream:
            head = stream.read(1000)
            with place.storage.create(url) as sink:
                sink.write(OBJECT)
            assert place.storage.read(url) == OBJECT
            try:
                assert head + stream.readall() == MEGABYTES
            except ChangedError as error:
                assert "x.tar" in str(error)

    def test_the_validator_changes_with_the_object_and_only_then(self, place: Place) -> None:
        url = place.url("x.tar")
        seen = set()
        for size in (1000, 1001, 0):
            with place.storage.create(url) as sink:
                sink.write(OBJECT[:size])
            stat = place.storage.stat(url)
            assert stat.size == size and stat.validator
            assert place.storage.stat(url) == stat
            seen.add(stat.validator)
        assert len(seen) == 3

    def test_what_is_not_there_is_not_found(self, place: Place) -> None:
        for name in ("none.tar", "no/folder/none.tar"):
            url = place.url(name)
            for action in (
                lambda url: place.storage.open(url),
                lambda url: place.storage.read(url),
                lambda url: place.storage.stat(url),
                lambda url: place.storage.read_ranges(url, [ByteRange(0, 1)]),
                lambda url: place.storage.read_ranges(url, [ByteRange(0, 0)]),
                lambda url: place.storage.read_ranges(url, [ByteRange(0, 1), ByteRange(90_000, 90_001)]),
            ):
                with pytest.raises(NotFoundError, match=r"none\.tar: .*; "):
                    action(url)
            assert not place.storage.exists(url)
        assert place.files() == []

    def test_a_folder_is_no_object(self, place: Place) -> None:
        place.put("folder/x.tar", OBJECT)
        url = place.url("folder")
        for action in (place.storage.open, place.storage.read, place.storage.stat):
            with pytest.raises(RefusedError, match="folder"):
                action(url)
        with pytest.raises(StorageError, match="folder"), place.storage.create(url) as sink:
            sink.write(b"x")
        assert place.get("folder/x.tar") == OBJECT

    # --- read_ranges

    def test_no_ranges(self, place: Place) -> None:
        assert place.storage.read_ranges(place.put("x.tar", OBJECT), []) == []

    def test_ranges_in_any_order_that_overlap_repeat_and_are_empty(self, place: Place) -> None:
        url = place.put("x.tar", OBJECT)
        bounds = [
            (90_000, 100_000),
            (0, 10),
            (5, 15),
            (5, 15),
            (50_000, 50_000),
            (0, 0),
            (99_999, 100_000),
            (100_000,) * 2,
        ]
        assert self._ranges(place, url, bounds) == [OBJECT[start:stop] for start, stop in bounds]

    def test_one_range_is_the_whole_object(self, place: Place) -> None:
        assert self._ranges(place, place.put("x.tar", MEGABYTES), [(0, 5 << 20)]) == [MEGABYTES]

    def test_an_empty_range_of_an_empty_object(self, place: Place) -> None:
        assert self._ranges(place, place.put("x.tar", b""), [(0, 0)]) == [b""]

    def test_many_ranges_that_lie_apart(self, place: Place) -> None:
        url = place.put("x.tar", MEGABYTES)
        bounds = [(start, start + 100) for start in range(0, 5 << 20, 5000)][::-1]
        assert len(bounds) > 1000
        assert self._ranges(place, url, bounds) == [MEGABYTES[start:stop] for start, stop in bounds]

    @pytest.mark.parametrize(
        "bounds",
        [
            [(99_999, 100_001)],
            [(100_000, 100_001)],
            [(200_000, 200_001)],
            [(100_001, 100_001)],
            [(0, 1), (100_001, 100_001)],
            [(0, 10), (50_000, 50_010), (99_990, 100_001)],
            [(0, 10), (50_000, 50_010), (200_000, 200_010)],
            [(200_000, 200_001), (300_000, 300_001)],
        ],
    )
    def test_a_range_past_the_end_is_an_error(self, place: Place, bounds: list[tuple[int, int]]) -> None:
        url = place.put("x.tar", OBJECT)
        with pytest.raises(RefusedError, match=r"x\.tar: bytes \d+ to \d+ were asked for and it has 100000"):
            self._ranges(place, url, bounds)

    def test_a_range_of_an_empty_object_is_past_its_end(self, place: Place) -> None:
        with pytest.raises(RefusedError, match="it has 0"):
            self._ranges(place, place.put("x.tar", b""), [(0, 1)])

    def test_ranges_are_slices(self, place: Place) -> None:
        url = place.put("x.tar", OBJECT)
        bound = st.integers(0, len(OBJECT))

        @settings(max_examples=40, deadline=None)
        @given(st.lists(st.tuples(bound, bound).map(sorted), max_size=30))
        def check(bounds: list[list[int]]) -> None:
            assert self._ranges(place, url, bounds) == [OBJECT[start:stop] for start, stop in bounds]

        check()

    @pytest.mark.parametrize(
        "bounds",
        [
            [(5, 1_000_000), (1_000_512, 2_000_000), (2_000_000, 3_000_000)],
            [(4_000_000, 5 << 20), (0, 1_000_000), (2_000_000, 2_000_000), (1_000_512, 2_500_000)],
            [(0, 2_000_000), (1_000_000, 3_000_000)],
        ],
    )
    def test_large_ranges(self, place: Place, bounds: list[tuple[int, int]]) -> None:
        url = place.put("x.tar", MEGABYTES)
        assert self._ranges(place, url, bounds) == [MEGABYTES[start:stop] for start, stop in bounds]

    @pytest.mark.parametrize("start", [0, 4_000_000, 6_000_000])
    def test_a_buffer_past_the_end_is_an_error(self, place: Place, start: int) -> None:
        url = place.put("x.tar", MEGABYTES)
        buffers = [memoryview(bytearray(1_000_000)), memoryview(bytearray((5 << 20) + 1 - start % 5_000_000))]
        with pytest.raises(RefusedError, match=r"x\.tar: bytes \d+ to \d+ were asked for and it has 5242880"):
            place.storage.read_into(url, [1_000_000, start], buffers)

    def test_a_buffer_of_nothing_there(self, place: Place) -> None:
        with pytest.raises(NotFoundError):
            place.storage.read_into(place.url("none.tar"), [0], [memoryview(bytearray(1_000_000))])

    @staticmethod
    def _ranges(place: Place, url: str, bounds: list[tuple[int, int]] | list[list[int]]) -> list[bytes]:
        """Return the bytes of ranges, which `read_into` must have put into buffers, too."""
        parts = place.storage.read_ranges(url, [ByteRange(start, stop) for start, stop in bounds])
        buffers = [bytearray(len(part)) for part in parts]
        place.storage.read_into(url, [start for start, _ in bounds], [memoryview(buffer) for buffer in buffers])
        assert buffers == parts
        return parts

    # --- create

    def test_writes_and_lines_arrive_in_order(self, place: Place) -> None:
        url = place.url("x.tar")
        view = memoryview(MEGABYTES)
        parts = [view[i : i + 1000] for i in range(0, 3_000_000, 1000)]
        with place.storage.create(url) as sink:
            sink.write(b"head")
            sink.writelines(parts)
            sink.writelines(iter([b"", bytearray(b"mid"), memoryview(b""), b"dle"]))
            sink.writelines([])
            sink.write(b"")
            sink.write(memoryview(OBJECT)[5:50])
        assert place.get("x.tar") == b"head" + MEGABYTES[:3_000_000] + b"middle" + OBJECT[5:50]

    def test_a_buffer_can_be_used_again_once_it_is_written(self, place: Place) -> None:
        buffer = bytearray(70_000)
        with place.storage.create(place.url("x.tar")) as sink:
            for i in range(3):
                buffer[:] = bytes([i]) * len(buffer)
                sink.write(buffer)
                sink.writelines([memoryview(buffer)[:10]])
        assert place.get("x.tar") == b"".join(bytes([i]) * 70_010 for i in range(3))

    def test_views_of_wider_items_count_in_bytes(self, place: Place) -> None:
        wide = memoryview(OBJECT).cast("Q")
        with place.storage.create(place.url("x.tar")) as sink:
            sink.write(wide)
            sink.writelines([wide, b"end"])
        assert place.get("x.tar") == OBJECT + OBJECT + b"end"

    def test_nothing_is_visible_before_the_commit(self, place: Place) -> None:
        url = place.url("new/x.tar")
        with place.storage.create(url) as sink:
            sink.write(MEGABYTES)
            assert not place.storage.exists(url)
            assert place.storage.list(place.url("new/")) == []
            assert place.files() == []
        assert place.storage.list(place.url("new/")) == [url]

    @pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, FileNotFoundError, OSError])
    def test_an_exception_aborts(self, place: Place, error: type[BaseException]) -> None:
        with pytest.raises(error) as raised, place.storage.create(place.url("x.tar")) as sink:
            sink.write(MEGABYTES)
            raise error("of the one who writes")
        assert type(raised.value) is error
        assert place.files() == []

    def test_an_abort_leaves_what_was_there(self, place: Place) -> None:
        url = place.put("x.tar", b"old")
        before = place.storage.stat(url)
        with pytest.raises(Boom), place.storage.create(url) as sink:
            sink.write(MEGABYTES)
            raise Boom
        assert place.storage.stat(url) == before
        assert place.get("x.tar") == b"old" and len(place.files()) == 1

    def test_a_commit_replaces_and_leaves_nothing_else(self, place: Place) -> None:
        url = place.put("x.tar", b"old")
        for size in (10, 0, 20):
            with place.storage.create(url) as sink:
                sink.write(OBJECT[:size])
            assert place.storage.read(url) == OBJECT[:size]
        assert len(place.files()) == 1

    def test_readers_never_see_half_an_object(self, place: Place) -> None:
        url = place.url("x.tar")
        versions = [bytes([i]) * (200_000 + i) for i in range(4)]
        with place.storage.create(url) as sink:
            sink.write(versions[0])
        done = threading.Event()

        def write() -> None:
            try:
                for i in range(1, 60):
                    with place.storage.create(url) as sink:
                        sink.write(versions[i % 4])
            finally:
                done.set()

        with ThreadPoolExecutor() as pool:
            writer = pool.submit(write)
            while not done.is_set():
                assert place.storage.read(url) in versions
            writer.result()

    def test_missing_folders_are_made(self, place: Place) -> None:
        url = place.url("a/b/c/x.tar")
        with place.storage.create(url) as sink:
            sink.write(b"x")
        assert place.get("a/b/c/x.tar") == b"x"
        place.storage.create_exclusive(place.url("d/e/x.tar"), b"y")
        assert place.get("d/e/x.tar") == b"y"

    def test_a_file_where_a_folder_should_be(self, place: Place) -> None:
        place.put("x", b"x")
        with pytest.raises(StorageError, match=r"x/y\.tar: .*; "), place.storage.create(place.url("x/y.tar")) as sink:
            sink.write(b"y")
        assert place.get("x") == b"x"

    # --- create_exclusive

    def test_exclusive_creates_once(self, place: Place) -> None:
        url = place.url("log/7")
        place.storage.create_exclusive(url, b"first")
        with pytest.raises(ExistsError, match="log/7: "):
            place.storage.create_exclusive(url, b"second")
        assert place.storage.read(url) == b"first"
        assert place.storage.list(place.url("log/")) == [url]

    def test_exclusive_yields_to_what_is_there(self, place: Place) -> None:
        url = place.put("x", b"")
        with pytest.raises(ExistsError):
            place.storage.create_exclusive(url, b"second")
        assert place.get("x") == b""

    @pytest.mark.parametrize("data", [b"", MEGABYTES])
    def test_exclusive_of_any_size(self, place: Place, data: bytes) -> None:
        place.storage.create_exclusive(place.url("x"), data)
        assert place.get("x") == data

    def test_exclusive_again_after_delete(self, place: Place) -> None:
        url = place.url("x")
        for data in (b"one", b"two"):
            place.storage.create_exclusive(url, data)
            assert place.storage.read(url) == data
            place.storage.delete(url)
        assert place.files() == []

    def test_of_many_threads_one_creates(self, place: Place) -> None:
        barrier = threading.Barrier(16)

        def race(me: int, number: int) -> bool:
            barrier.wait()
            return creates(place.storage, place.url(f"log/{number}"), str(me).encode())

        with ThreadPoolExecutor(16) as pool:
            for number in range(6):
                won = list(pool.map(race, range(16), [number] * 16))
                assert won.count(True) == 1
                assert place.get(f"log/{number}") == str(won.index(True)).encode()
        assert len(place.storage.list(place.url("log/"))) == 6

    # --- list, delete

    def test_list_is_sorted_and_leaves_out_folders_and_hidden(self, place: Place) -> None:
        for name in ("d/b.tar", "d/a.tar", "d/c/x.tar", "d/.hidden", "d/.hidden.tar.tmp", "e.tar"):
            place.put(name, b"x")
        assert place.storage.list(place.url("d/")) == [place.url("d/a.tar"), place.url("d/b.tar")]
        assert place.storage.list(place.url("d/.")) == []

    def test_list_by_the_beginning_of_a_name(self, place: Place) -> None:
        for name in ("train-1.tar", "train-0.tar", "train.json", "val-0.tar", "train-/0.tar"):
            place.put(name, b"x")
        assert place.storage.list(place.url("train-")) == [place.url("train-0.tar"), place.url("train-1.tar")]
        assert place.storage.list(place.url("train-1.tar")) == [place.url("train-1.tar")]
        assert place.storage.list(place.url("none")) == []

    def test_list_of_a_folder_that_is_not_there(self, place: Place) -> None:
        assert place.storage.list(place.url("none/")) == []
        assert place.storage.list(place.url("none/at/all-")) == []

    def test_what_a_listing_says_of_objects_is_what_each_says_itself(self, place: Place) -> None:
        for name in ("d/a-0.tar", "d/a-1 b.tar", "d/a-2.tar", "d/a-x/y.tar", "d/.a", "d/b.tar"):
            place.put(name, name.encode() * len(name))
        urls = place.storage.list(place.url("d/a-"))
        assert len(urls) == 3
        try:
            stats = place.storage.stats(place.url("d/a-"), 3)
        except RefusedError:
            assert type(place.storage).stats is Storage.stats, "only those that never do may refuse"
            return
        assert stats == {url: place.storage.stat(url) for url in urls}
        assert place.storage.stats(place.url("none/"), 1) == {}
        with pytest.raises(RefusedError, match="too many"):
            place.storage.stats(place.url("d/a-"), 2)

    def test_folders(self, place: Place) -> None:
        for name in ("d/b/x.tar", "d/a b/x.tar", "d/b/c/x.tar", "d/x.tar", "d/.hidden/x.tar", "da/x.tar"):
            place.put(name, b"x")
        odd, plain = place.storage.folders(place.url("d/"))
        assert (place.url("d/a"), plain) == (odd[: len(place.url("d/a"))], place.url("d/b/"))
        for folder in (odd, plain):
            [url] = place.storage.list(folder)
            assert place.storage.read(url) == b"x"
        assert place.storage.folders(plain) == [place.url("d/b/c/")]
        assert place.storage.folders(place.url("d/b/c/")) == place.storage.folders(place.url("none/")) == []

    def test_list_of_many(self, place: Place) -> None:
        count = 1010  # a page of S3's and Google's answers has 1,000
        for i in range(count):
            place.put(f"d/{i:06d}.tar", b"")
        assert place.storage.list(place.url("d/")) == [place.url(f"d/{i:06d}.tar") for i in range(count)]

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names(self, place: Place, name: str) -> None:
        place.put(f"d/{name}", OBJECT)
        [url] = place.storage.list(place.url("d/"))
        assert place.storage.read(url) == OBJECT
        assert place.storage.stat(url).size == len(OBJECT)
        assert place.storage.list(place.url(f"d/{name[:2]}"))[0].startswith(place.url(f"d/{name[:2]}"))
        with place.storage.create(url) as sink:
            sink.write(b"new")
        assert place.get(f"d/{name}") == b"new"
        place.storage.delete(url)
        assert place.files() == []
        place.storage.create_exclusive(url, b"once")
        assert place.get(f"d/{name}") == b"once"
        assert place.storage.list(place.url("d/")) == [url]

    def test_names_that_are_not_text(self, place: Place) -> None:
        place.put("d/" + os.fsdecode(b"\xff\xfe.tar"), OBJECT)
        [url] = place.storage.list(place.url("d/"))
        assert place.storage.read(url) == OBJECT

    def test_delete_is_idempotent(self, place: Place) -> None:
        url = place.put("d/x.tar", b"x")
        place.put("d/y.tar", b"y")
        for _ in range(3):
            place.storage.delete(url)
            assert not place.storage.exists(url)
        place.storage.delete(place.url("none/x.tar"))
        assert place.storage.list(place.url("d/")) == [place.url("d/y.tar")]

    # --- errors, threads, processes

    def test_errors_survive_pickling(self, place: Place) -> None:
        with pytest.raises(NotFoundError) as raised:
            place.storage.read(place.url("none.tar"))
        copy = pickle.loads(pickle.dumps(raised.value))
        assert type(copy) is NotFoundError and str(copy) == str(raised.value)
        assert "\n" not in str(copy) and isinstance(copy, FileNotFoundError)

    def test_threads_share_one_storage(self, place: Place) -> None:
        def work(number: int) -> bool:
            url = place.url(f"{number}.tar")
            data = pattern(150_000, seed=number)
            with place.storage.create(url) as sink:
                sink.writelines([data[:1000], data[1000:]])
            parts = place.storage.read_ranges(url, [ByteRange(i, i + 10) for i in range(0, 150_000, 15_000)])
            return place.storage.read(url) == data and parts[3] == data[45_000:45_010]

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(work, range(48)))

    def test_it_works_after_a_fork(self, place: Place) -> None:
        url = place.put("x.tar", MEGABYTES)
        many = [ByteRange(i, i + 9) for i in range(0, 5 << 20, 1 << 14)]
        assert place.storage.read_ranges(url, many)[1] == MEGABYTES[1 << 14 :][:9]
        with place.storage.open(url) as stream:
            head = stream.read(100_000)

            def child() -> None:
                assert place.storage.read(url) == MEGABYTES
                assert place.storage.read_ranges(url, many)[1] == MEGABYTES[1 << 14 :][:9]
                with place.storage.create(place.url("child.tar")) as sink:
                    sink.write(b"of the child")

            context = multiprocessing.get_context("fork")
            children = [context.Process(target=child) for _ in range(3)]
            for process in children:
                process.start()
            for process in children:
                process.join(60)
            assert [process.exitcode for process in children] == [0, 0, 0]
            assert head + stream.readall() == MEGABYTES  # its socket or file is still its own
        assert place.storage.read(url) == MEGABYTES
        assert place.get("child.tar") == b"of the child"


class BucketContract(StorageContract):
    """The tests for buckets, where folders are nothing but a part of names, and names are text."""

    def test_a_folder_is_no_object(self, place: Place) -> None:
        place.put("folder/x.tar", OBJECT)
        url = place.url("folder")
        for action in (place.storage.open, place.storage.read, place.storage.stat):
            with pytest.raises(NotFoundError, match="folder"):
                action(url)
            with pytest.raises(RefusedError, match="folder"):
                action(f"{url}/")
        with pytest.raises(RefusedError, match="folder"), place.storage.create(f"{url}/") as sink:
            sink.write(b"x")
        assert place.get("folder/x.tar") == OBJECT

    def test_a_file_where_a_folder_should_be(self, place: Place) -> None:
        place.put("x", b"x")
        with place.storage.create(place.url("x/y.tar")) as sink:
            sink.write(b"y")
        assert (place.get("x"), place.get("x/y.tar")) == (b"x", b"y")
        assert place.storage.list(place.root) == [place.url("x")]

    def test_names_that_are_not_text(self, place: Place) -> None:
        url = place.url(os.fsdecode(b"\xff\xfe.tar"))
        for action in (place.storage.open, place.storage.stat, place.storage.delete):
            with pytest.raises(RefusedError, match="name"):
                action(url)
        with pytest.raises(RefusedError, match="name"), place.storage.create(url) as sink:
            sink.write(b"x")

    def test_a_bucket_that_is_not_there(self, place: Place) -> None:
        scheme = place.root.partition("://")[0]
        url = f"{scheme}://shardtools-no-such-bucket/x.tar"
        for action in (place.storage.open, place.storage.stat, place.storage.read):
            with pytest.raises(NotFoundError, match=r"no-such-bucket/x\.tar: .*; "):
                action(url)
        with pytest.raises(NotFoundError, match="no such bucket"), place.storage.create(url) as sink:
            sink.write(b"x")
        with pytest.raises(NotFoundError, match="no such bucket"):
            place.storage.list(f"{scheme}://shardtools-no-such-bucket/")

    @pytest.mark.parametrize("rest", ["", "bucket", "/x.tar"])
    def test_a_url_without_bucket_or_name(self, place: Place, rest: str) -> None:
        url = f"{place.root.partition('://')[0]}://{rest}"
        for action in (place.storage.open, place.storage.stat, place.storage.delete):
            with pytest.raises(RefusedError, match="; "):
                action(url)


def creates(storage: Storage, url: str, data: bytes) -> bool:
    """Return whether this was the one to create the object."""
    try:
        storage.create_exclusive(url, data)
    except ExistsError:
        assert storage.exists(url)
        return False
    return True


class TrustedPlaces(dict[str, bool]):
    """What `shardtools.storage.exclusive` knows where it is not to ask, for tests that count requests."""

    def __contains__(self, place: object) -> bool:
        return True

    def __getitem__(self, place: str) -> bool:
        return True
