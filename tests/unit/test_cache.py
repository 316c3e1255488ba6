"""The cache before a storage that counts what it is asked for: what is kept, for how long, and in how many bytes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import stat as modes
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtools.errors import AccessError, ChangedError, JobError, NotFoundError, RefusedError, SpecError
from shardtools.storage import ByteRange, Stat, Storage, StorageOptions, Stream, get_storage, using
from shardtools.storage.cache import DEFAULT_SIZE, CachedStorage, CachedStream, divide, parse_cache
from shardtools.storage.cache_account import ENTRY, KEPT_PERCENT, charge
from shardtools.storage.file_lock import close_lock, open_lock, try_lock
from shardtools.storage.local import FileStream, LocalStorage
from tests.contract.suite import pattern

BLOCK = 4096
TAKEN = 10 * BLOCK
"""The bytes of a cache that an object of SIZE bytes takes, with its checksums."""
SIZE = TAKEN - 12
DATA = pattern(SIZE)


class Counting(LocalStorage):
    """Files as they would be on a server: ``asked`` collects what was read of them, and ``stats`` counts the rest."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.stats = 0
        self.settled = True
        self.on_read = lambda: None

    def stat(self, url: str) -> Stat:
        self.stats += 1
        return replace(super().stat(url), settled=self.settled)

    def open(self, url: str) -> FileStream:
        self.asked.append("all")
        stream = super().open(url)
        self.on_read()
        return stream

    def read_ranges(self, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        self.asked.append([(part.start, part.stop) for part in ranges])
        parts = super().read_ranges(url, ranges)
        self.on_read()
        return parts


def flip(path: Path, place: int) -> None:
    """Change one byte of a file, and nothing that tells of it."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def inner() -> Counting:
    return Counting()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of the cache."""
    return tmp_path / "cache"


@pytest.fixture
def cache(inner: Counting, kept: Path) -> CachedStorage:
    return CachedStorage(inner, f"{kept}:1M")


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "x.tar").write_bytes(DATA)
    return f"{tmp_path}/x.tar"


def entries(kept: Path) -> list[Path]:
    return [path for path in kept.rglob("*") if ENTRY.fullmatch(path.name)]


def spans(kept: Path) -> list[tuple[int, int]]:
    return sorted(tuple(map(int, path.name.split("-")[1:])) for path in entries(kept))  # type: ignore[misc]


def account(kept: Path) -> int:
    return int((kept / "account").read_text())


def read(storage: Storage, url: str, *bounds: tuple[int, int]) -> list[bytes]:
    return storage.read_ranges(url, [ByteRange(start, stop) for start, stop in bounds])


class TestOption:
    @pytest.mark.parametrize(
        ("text", "folder", "size"),
        [
            ("d", "d", DEFAULT_SIZE),
            ("/a/b", "/a/b", 10**10),
            ("d:1", "d", 1),
            ("d:5k", "d", 5000),
            ("d:5K", "d", 5000),
            ("d:5kB", "d", 5000),
            ("d:10B", "d", 10),
            ("d:10MB", "d", 10**7),
            ("d:2.5g", "d", 25 * 10**8),
            ("d:1T", "d", 10**12),
            ("a:b", "a:b", 10**10),
            ("a:b:3M", "a:b", 3 * 10**6),
            ("a:5/b", "a:5/b", 10**10),
            ("2024:01/", "2024:01/", 10**10),
            ("2024:01:1G", "2024:01", 10**9),
            (" d :7", " d ", 7),
        ],
    )
    def test_good(self, text: str, folder: str, size: int) -> None:
        assert parse_cache(text) == (folder, size)
        assert StorageOptions(cache=text).cache == text

    @pytest.mark.parametrize(
        "size",
        ["0", "", "0.0000001k", "5X", "5GiB", "-5", "+5", ".5G", "5 G", "1e9", "5GB ", "1_000", "9" * 19],
    )
    @pytest.mark.parametrize("folder", ["d", "a:b", "/a/b c"])
    def test_bad_sizes(self, folder: str, size: str) -> None:
        for make in (parse_cache, lambda text: StorageOptions(cache=text)):
            with pytest.raises(
                SpecError, match=r"is not a valid cache size; write it as in .*:500M or .*:10GB"
            ) as raised:
                make(f"{folder}:{size}")
            assert isinstance(raised.value, ValueError)

    @pytest.mark.parametrize("text", ["", ":5G", "a\0b", "s3://bucket/x", "http://host:80", "file:///d:5G"])
    def test_no_folder(self, text: str) -> None:
        with pytest.raises(SpecError, match="; name one on this machine"):
            parse_cache(text)

    def test_local_files_are_not_cached(self, tmp_path: Path, url: str) -> None:
        with using(StorageOptions(cache=f"{tmp_path}/cache")):
            for local in (url, f"file://{url}"):
                assert type(get_storage(local)) is LocalStorage
                assert get_storage(local).read(local) == DATA
            assert isinstance(get_storage("http://host/x"), CachedStorage)
            assert isinstance(get_storage("https://host/x"), CachedStorage)
        assert type(get_storage("http://host/x")) is not CachedStorage
        assert os.listdir(tmp_path) == ["x.tar"]  # nothing is made before something is read


class TestWhole:
    def test_the_second_time_it_comes_from_the_folder(self, cache: CachedStorage, inner: Counting, url: str) -> None:
        for _ in range(3):
            assert cache.read(url) == DATA
            with cache.open(url) as stream:
                assert stream.stat == cache.stat(url)
                assert stream.read(10) + stream.readall() == DATA
                assert stream.read(1) == b""
        assert inner.asked == ["all"]
        assert inner.stats == 9

    def test_ranges_of_it_do_too(self, cache: CachedStorage, inner: Counting, url: str) -> None:
        cache.read(url)
        assert read(cache, url, (5, 10), (0, SIZE), (7, 7), (6, 9)) == [DATA[5:10], DATA, b"", DATA[6:9]]
        assert inner.asked == ["all"]

    def test_another_process_finds_it(self, cache: CachedStorage, inner: Counting, kept: Path, url: str) -> None:
        cache.read(url)
        assert CachedStorage(inner, f"{kept}").read(url) == DATA
        assert inner.asked == ["all"]

    def test_a_replaced_object_is_read_anew_and_the_old_one_dropped(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str
    ) -> None:
        cache.read(url)
        with cache.open(url) as stream:
            for seed in range(1, 4):
                Path(url + ".new").write_bytes(pattern(SIZE, seed))
                os.replace(url + ".new", url)
                assert cache.read(url) == pattern(SIZE, seed)
                assert len(entries(kept)) == 1 and account(kept) == TAKEN
            assert stream.readall() == DATA  # what is open is read to its end
        assert len(inner.asked) == 4

    def test_a_deleted_object_is_gone(self, cache: CachedStorage, url: str) -> None:
        cache.read(url)
        cache.delete(url)
        for action in (cache.read, cache.open, cache.stat, lambda url: read(cache, url, (0, 1))):
            with pytest.raises(NotFoundError):
                action(url)  # type: ignore[operator]

    def test_an_object_that_is_not_settled_is_not_kept(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str
    ) -> None:
        inner.settled = False
        for _ in range(2):
            assert cache.read(url) == DATA and read(cache, url, (1, 5)) == [DATA[1:5]]
        assert inner.asked == ["all", [(1, 5)]] * 2 and entries(kept) == []
        inner.settled = True
        cache.read(url)
        inner.settled = False
        assert cache.read(url) == DATA  # nor is used what is there
        assert inner.asked == ["all", [(1, 5)]] * 2 + ["all"] * 2

    def test_one_without_size_or_validator_is_not_kept(self, kept: Path, url: str) -> None:
        for unknown in (Stat(None, "v"), Stat(SIZE, None)):

            class Vague(Counting):
                def stat(self, url: str, unknown: Stat = unknown) -> Stat:
                    return unknown

            inner = Vague()
            cache = CachedStorage(inner, str(kept))
            for _ in range(2):
                assert cache.read(url) == DATA and read(cache, url, (1, 5)) == [DATA[1:5]]
            assert inner.asked == ["all", [(1, 5)]] * 2 and entries(kept) == []

    def test_one_that_may_be_read_but_not_examined(self, kept: Path, url: str) -> None:
        """As a URL that is signed for GET."""

        class Signed(Counting):
            def stat(self, url: str) -> Stat:
                raise AccessError("no", url=url)

        cache = CachedStorage(Signed(), str(kept))
        assert cache.read(url) == DATA and read(cache, url, (1, 5)) == [DATA[1:5]]
        with pytest.raises(AccessError):
            cache.stat(url)

    def test_one_that_changes_once_while_it_is_read(self, cache: CachedStorage, inner: Counting, url: str) -> None:
        other = pattern(SIZE, 1)

        def change() -> None:
            inner.on_read = lambda: None
            Path(url).write_bytes(other)

        inner.on_read = change
        assert cache.read(url) == other
        assert inner.asked == ["all", "all"]
        assert cache.read(url) == other and len(inner.asked) == 2

    def test_one_that_always_changes(self, cache: CachedStorage, inner: Counting, kept: Path, url: str) -> None:
        inner.on_read = lambda: Path(url).touch()
        with cache.open(url) as stream:
            assert stream.read(10) == DATA[:10]
            with pytest.raises(ChangedError, match=r"x\.tar: "):
                stream.readall()
        assert entries(kept) == [] and os.listdir(kept / "drafts") == [] and account(kept) == 0

    def test_an_empty_object_is_not_worth_an_entry(self, cache: CachedStorage, kept: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        for _ in range(2):
            assert cache.read(f"{tmp_path}/empty") == b""
            assert read(cache, f"{tmp_path}/empty", (0, 0)) == [b""]
        assert entries(kept) == []

    def test_a_damaged_copy_is_made_anew(self, cache: CachedStorage, inner: Counting, kept: Path, url: str) -> None:
        """As it may be after the machine went down."""
        for size in (0, 100, SIZE + 1):
            cache.read(url)
            [entry] = entries(kept)
            os.truncate(entry, size)
            assert cache.read(url) == DATA
            os.truncate(entry, size)
            assert read(cache, url, (0, 10)) == [DATA[:10]]
            entry.unlink(missing_ok=True)
            for path in entries(kept):
                path.unlink()

    def test_threads_download_it_once(self, cache: CachedStorage, inner: Counting, url: str) -> None:
        barrier = threading.Barrier(12)

        def work(_: int) -> bytes:
            barrier.wait()
            return cache.read(url)

        with ThreadPoolExecutor(12) as pool:
            assert set(pool.map(work, range(12))) == {DATA}
        assert inner.asked == ["all"]

    def test_one_thread_opens_it_often(self, cache: CachedStorage, inner: Counting, url: str) -> None:
        streams = [cache.open(url) for _ in range(5)]
        assert [stream.readall() for stream in streams] == [DATA] * 5
        for stream in streams:
            stream.close()
        assert inner.asked == ["all"]

    def test_a_fork_in_the_middle_of_a_download(self, cache: CachedStorage, inner: Counting, url: str) -> None:
        """The child has not got its parent's lock: it waits until the parent is ready, and reads what that has made."""
        context = multiprocessing.get_context("fork")
        waiting = context.Event()

        def child() -> None:
            waiting.set()
            assert cache.read(url) == DATA and inner.asked == ["all"]

        process = context.Process(target=child)

        def fork() -> None:
            process.start()
            assert waiting.wait(60)

        inner.on_read = fork
        assert cache.read(url) == DATA
        process.join(60)
        assert process.exitcode == 0

    def test_a_copy_that_is_cut_off_while_it_is_read(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str
    ) -> None:
        for action in (
            Stream.readall,
            CachedStream.readall,
            lambda stream: b"".join(iter(lambda: stream.read(777), b"")),
        ):
            with cache.open(url) as stream:
                assert stream.read(100) == DATA[:100]
                os.truncate(entries(kept)[0], 1000)
                assert action(stream) == DATA[100:]  # type: ignore[operator]
            assert entries(kept) == []
            assert cache.read(url) == DATA and len(entries(kept)) == 1

    @pytest.mark.parametrize("place", [0, 1, 16383, 16384, 30_000, SIZE - 1, SIZE, TAKEN - 1])
    @pytest.mark.parametrize("step", [1, 5000, 16384, 20_000, 10**9])
    def test_a_flipped_byte_is_fetched_again(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str, place: int, step: int
    ) -> None:
        cache.read(url)
        flip(entries(kept)[0], place)
        with cache.open(url) as stream:
            assert b"".join(iter(lambda: stream.read(step), b"")) == DATA
        assert entries(kept) == [] and account(kept) == 0
        assert len(inner.asked) == 2 and inner.asked[1] != "all"
        assert cache.read(url) == DATA == cache.read(url) and len(inner.asked) == 3

    @pytest.mark.parametrize("place", [0, 20_000, SIZE])
    def test_a_flipped_byte_of_what_is_read_at_once(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str, place: int
    ) -> None:
        cache.read(url)
        flip(entries(kept)[0], place)
        assert cache.read(url) == DATA and entries(kept) == []

    def test_an_object_replaced_since_is_not_mended(self, cache: CachedStorage, kept: Path, url: str) -> None:
        cache.read(url)
        flip(entries(kept)[0], 0)
        with cache.open(url) as stream:
            Path(url).write_bytes(pattern(SIZE, 1))
            with pytest.raises(ChangedError, match=r"x\.tar: the object was replaced"):
                stream.read(100)

    def test_many_blocks_and_many_flips(self, cache: CachedStorage, kept: Path, tmp_path: Path) -> None:
        data = pattern(700_000)
        (tmp_path / "large").write_bytes(data)
        cache.read(f"{tmp_path}/large")
        for place in range(1000, 700_000, 50_000):
            flip(entries(kept)[0], place)
        with cache.open(f"{tmp_path}/large") as stream:
            got = bytearray()
            for step in itertools.cycle((100, 70_000, 16_384)):
                if not (piece := stream.read(step)):
                    break
                got += piece
        assert got == data

    def test_a_folder_of_before_there_were_checksums(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str
    ) -> None:
        cache.read(url)
        read(cache, f"{url}x" if Path(f"{url}x").write_bytes(DATA) else "", (10, 20))
        for path in entries(kept):
            os.truncate(path, int(path.name.rpartition("-")[2]) - int(path.name.split("-")[1]))
        inner.asked.clear()
        assert cache.read(url) == DATA and read(cache, f"{url}x", (10, 20)) == [DATA[10:20]]
        assert inner.asked == ["all", [(10, 20)]]
        assert cache.read(url) == DATA and read(cache, f"{url}x", (10, 20)) == [DATA[10:20]]
        assert len(inner.asked) == 2


class TestImmutable:
    @pytest.fixture
    def lasting(self, inner: Counting, kept: Path) -> CachedStorage:
        return CachedStorage(inner, f"{kept}:1M", immutable=True)

    def test_nobody_is_asked_for_what_is_there(self, lasting: CachedStorage, inner: Counting, url: str) -> None:
        inner.settled = False
        for _ in range(2):
            assert read(lasting, url, (9000, 9010), (100, 110)) == [DATA[9000:9010], DATA[100:110]]
        assert read(lasting, url, (102, 104), (20_000, 20_010)) == [DATA[102:104], DATA[20_000:20_010]]
        assert inner.asked == [[(100, 110), (9000, 9010)], [(20_000, 20_010)]] and not inner.stats

    def test_another_process_asks_nobody_either(self, kept: Path, url: str) -> None:
        read(CachedStorage(Counting(), f"{kept}:1M", immutable=True), url, (100, 110))
        inner = Counting()
        assert read(CachedStorage(inner, f"{kept}:1M", immutable=True), url, (100, 110)) == [DATA[100:110]]
        assert not inner.asked and not inner.stats

    def test_who_asks_for_the_version_gets_what_there_is_now(
        self, cache: CachedStorage, lasting: CachedStorage, kept: Path, url: str
    ) -> None:
        read(lasting, url, (100, 110))
        flip(Path(url), 105)
        [changed] = read(cache, url, (100, 110))
        assert changed != DATA[100:110] and len(entries(kept)) == 1
        assert read(lasting, url, (100, 110)) == [changed]

    def test_errors_are_those_of_the_storage(self, lasting: CachedStorage, url: str, tmp_path: Path) -> None:
        with pytest.raises(RefusedError, match=f"and it has {SIZE}"):
            read(lasting, url, (100, SIZE + 1))
        with pytest.raises(NotFoundError):
            read(lasting, f"{tmp_path}/none.tar", (0, 1))

    def test_whole_objects_are_those_of_now(self, lasting: CachedStorage, inner: Counting, url: str) -> None:
        assert [lasting.read(url), lasting.read(url)] == [DATA, DATA]
        assert inner.asked == ["all"] and inner.stats == 2


class TestRanges:
    @pytest.mark.parametrize("place", [0, 5, 9, 10, 13])
    def test_a_flipped_byte_is_fetched_again(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str, place: int
    ) -> None:
        for _ in range(2):
            assert read(cache, url, (100, 110), (9000, 9010)) == [DATA[100:110], DATA[9000:9010]]
        assert len(inner.asked) == 1
        [entry] = [path for path in entries(kept) if path.name.endswith("-100-110")]
        flip(entry, place)
        for _ in range(2):
            assert read(cache, url, (100, 110), (9000, 9010)) == [DATA[100:110], DATA[9000:9010]]
        assert inner.asked[1:] == [[(100, 110)]] and account(kept) == 2 * BLOCK

    @pytest.mark.parametrize(
        ("bounds", "hit"), [((100, 200), True), ((16_000, 17_000), True), ((17_000, 40_000), False)]
    )
    def test_only_blocks_that_are_asked_for_are_looked_at(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str, bounds: tuple[int, int], hit: bool
    ) -> None:
        cache.read(url)
        flip(entries(kept)[0], 1000)
        assert read(cache, url, bounds) == [DATA[slice(*bounds)]]
        assert inner.asked[1:] == [[bounds]] * hit

    def test_only_what_is_missing_is_fetched(self, cache: CachedStorage, inner: Counting, kept: Path, url: str) -> None:
        assert read(cache, url, (5000, 6000), (0, 10)) == [DATA[5000:6000], DATA[:10]]
        assert read(cache, url, (5500, 5600), (0, 10), (2, 3)) == [DATA[5500:5600], DATA[:10], DATA[2:3]]
        assert inner.asked == [[(0, 10), (5000, 6000)]]
        assert read(cache, url, (4000, 7000)) == [DATA[4000:7000]]
        assert read(cache, url, (0, SIZE)) == [DATA]
        assert inner.asked[1:] == [[(4000, 7000)], [(10, SIZE)]] or inner.asked[1:] == [
            [(4000, 5000), (6000, 7000)],
            [(10, 4000), (7000, SIZE)],
        ]
        assert cache.read(url) == DATA
        assert account(kept) == TAKEN and spans(kept) == [(0, SIZE)]  # the whole object replaces its parts

    def test_ranges_that_lie_close_are_one_entry(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str
    ) -> None:
        read(cache, url, (0, 10), (1000, 1010), (20_000, 20_010))
        assert spans(kept) == [(0, 1010), (20_000, 20_010)]
        assert read(cache, url, (500, 900)) == [DATA[500:900]] and len(inner.asked) == 1

    def test_a_new_version_replaces_the_parts_of_the_old(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str
    ) -> None:
        read(cache, url, (0, 10), (20_000, 20_010))
        Path(url).write_bytes(other := pattern(SIZE, 1))
        os.utime(url, (1, 1))
        assert read(cache, url, (0, 10)) == [other[:10]]
        assert spans(kept) == [(0, 10)] and account(kept) == BLOCK

    def test_bytes_of_nobody_knows_which_version_are_not_kept(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str
    ) -> None:
        other = pattern(SIZE, 1)

        def change() -> None:
            inner.on_read = lambda: None
            Path(url).write_bytes(other)

        inner.on_read = change
        assert read(cache, url, (0, 10)) == [other[:10]]
        assert len(inner.asked) == 2 and [path.read_bytes()[:10] for path in entries(kept)] == [other[:10]]

    def test_past_the_end(self, cache: CachedStorage, inner: Counting, url: str) -> None:
        with pytest.raises(RefusedError, match=f"bytes 0 to {SIZE + 1} were asked for and it has {SIZE}"):
            read(cache, url, (0, SIZE + 1))
        assert inner.asked == []

    def test_parts_that_another_process_adds_or_evicts(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str
    ) -> None:
        read(cache, url, (0, 10))
        read(CachedStorage(inner, str(kept)), url, (20_000, 20_010))
        assert read(cache, url, (20_000, 20_010), (0, 10)) == [DATA[20_000:20_010], DATA[:10]]
        assert len(inner.asked) == 2
        for path in entries(kept):
            path.unlink()
        assert read(cache, url, (20_000, 20_010), (0, 10)) == [DATA[20_000:20_010], DATA[:10]]
        assert len(inner.asked) == 3

    @pytest.mark.parametrize("coarse", [False, True])
    def test_slices(self, inner: Counting, kept: Path, url: str, coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where the file system's clock stands still, so that no change of the folder can be seen."""
        if coarse:
            real = os.stat
            monkeypatch.setattr(
                "shardtools.storage.cache_folder._changed", lambda folder: real(folder).st_mtime_ns and 7
            )
        cache = CachedStorage(inner, str(kept))
        bounds = [(i * 613 % SIZE, min(i * 613 % SIZE + i * 37 % 5000, SIZE)) for i in range(400)]
        for i in range(0, 400, 7):
            some = bounds[i : i + 7]
            assert read(cache, url, *some) == [DATA[start:stop] for start, stop in some]
        before = len(inner.asked)
        assert read(cache, url, *bounds) == [DATA[start:stop] for start, stop in bounds]
        assert len(inner.asked) == before

    @given(
        st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted),
        st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=8),
    )
    def test_divide(self, bounds: list[int], others: list[list[int]]) -> None:
        span = ByteRange(*bounds)
        known: list[ByteRange] = []
        for start, stop in sorted(others, key=lambda bound: (bound[0], -bound[1])):
            if start < stop and (not known or stop > known[-1].stop):
                known.append(ByteRange(start, stop))
        parts = divide(span, known)
        assert [i for part, _ in parts for i in range(part.start, part.stop)] == list(range(span.start, span.stop))
        for part, entry in parts:
            assert part.start < part.stop
            if entry is not None:
                assert entry.start <= part.start and part.stop <= entry.stop
            else:
                assert not any(part.start < other.stop and other.start < part.stop for other in known)


class TestLimit:
    def files(self, tmp_path: Path, count: int) -> list[str]:
        for i in range(count):
            (tmp_path / f"{i}").write_bytes(pattern(SIZE, i))
        return [f"{tmp_path}/{i}" for i in range(count)]

    def total(self, kept: Path) -> int:
        return sum(charge(path.stat().st_size) for path in entries(kept))

    def test_what_was_not_used_for_longest_goes(self, inner: Counting, kept: Path, tmp_path: Path) -> None:
        urls = self.files(tmp_path, 6)
        cache = CachedStorage(inner, f"{kept}:{4 * TAKEN}")
        for i, url in enumerate(urls[:4]):
            cache.read(url)
            [new] = [path for path in entries(kept) if path.stat().st_mtime > 10**6]
            os.utime(new, (i + 1, i + 1))
        cache.read(urls[0])  # used: its mark is old enough to be set anew
        cache.read(urls[4])
        inner.asked.clear()
        for url in (urls[0], urls[4]):
            cache.read(url)
        assert inner.asked == []
        assert len(entries(kept)) == 4
        cache.read(urls[1])
        assert inner.asked == ["all"]

    def test_several_go_at_once(self, inner: Counting, kept: Path, tmp_path: Path) -> None:
        """So that not each new one has to look for the oldest of all."""
        cache = CachedStorage(inner, f"{kept}:{40 * TAKEN}")
        for url in self.files(tmp_path, 41):
            cache.read(url)
        assert self.total(kept) == 40 * TAKEN * KEPT_PERCENT // 100 + TAKEN

    def test_it_is_never_more(self, inner: Counting, kept: Path, tmp_path: Path) -> None:
        urls = self.files(tmp_path, 30)
        cache = CachedStorage(inner, f"{kept}:{5 * TAKEN + 100}")
        for i in range(90):
            url = urls[i * 7 % 30]
            data = pattern(SIZE, i * 7 % 30)
            assert cache.read(url) == data if i % 2 else read(cache, url, (9, 99)) == [data[9:99]]
            assert self.total(kept) <= account(kept) <= 5 * TAKEN + 100
        assert self.total(kept) == account(kept) > 2 * TAKEN
        assert len(list((kept / "objects").rglob("*"))) < 60  # no heap of empty folders

    def test_what_is_larger_is_read_past_it(self, inner: Counting, kept: Path, url: str) -> None:
        for limit in (1, TAKEN - 1):
            cache = CachedStorage(inner, f"{kept}:{limit}")
            for _ in range(2):
                assert cache.read(url) == DATA
            assert read(cache, url, (0, SIZE)) == [DATA]
            assert entries(kept) == []
        assert inner.asked == ["all", "all", [(0, SIZE)]] * 2
        cache = CachedStorage(inner, f"{kept}:{TAKEN}")
        assert cache.read(url) == cache.read(url) == DATA
        assert len(inner.asked) == 7

    def test_two_sizes_of_one_folder(self, inner: Counting, kept: Path, tmp_path: Path) -> None:
        urls = self.files(tmp_path, 8)
        large, small = CachedStorage(inner, f"{kept}:{8 * TAKEN}"), CachedStorage(inner, f"{kept}:{2 * TAKEN}")
        for _ in range(3):
            for i, url in enumerate(urls):
                assert large.read(url) == pattern(SIZE, i)
            assert len(entries(kept)) > 2
            assert small.read(urls[0] if self.total(kept) <= 2 * TAKEN else self.new(tmp_path)) != b""
            assert self.total(kept) <= 2 * TAKEN

    def new(self, tmp_path: Path) -> str:
        path = tmp_path / f"new-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(DATA)
        return str(path)

    def test_a_smaller_size_than_last_time(self, inner: Counting, kept: Path, tmp_path: Path) -> None:
        urls = self.files(tmp_path, 5)
        cache = CachedStorage(inner, str(kept))
        for url in urls:
            cache.read(url)
        read(CachedStorage(inner, f"{kept}:{2 * TAKEN}"), urls[0], (0, 1))
        assert self.total(kept) <= 2 * TAKEN and account(kept) == self.total(kept)

    def test_small_entries_count_as_what_the_disk_gives_them(self, inner: Counting, kept: Path, url: str) -> None:
        cache = CachedStorage(inner, f"{kept}:{4 * BLOCK}")
        for i in range(7):
            read(cache, url, (i * 5000, i * 5000 + 1))
            assert len(entries(kept)) <= 4

    @pytest.mark.parametrize("content", [b"", b"x" * 20, b"5", b"0" * 20, b"9" * 20])
    def test_an_account_that_is_wrong(self, inner: Counting, kept: Path, tmp_path: Path, content: bytes) -> None:
        urls = self.files(tmp_path, 4)
        CachedStorage(inner, str(kept)).read(urls[0])
        (kept / "account").write_bytes(content)
        cache = CachedStorage(inner, f"{kept}:{2 * TAKEN}")
        for url in urls:
            assert cache.read(url)
        if content != b"0" * 20:  # which nobody but a vandal writes
            assert self.total(kept) <= account(kept) <= 2 * TAKEN

    def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(
        self, inner: Counting, kept: Path, url: str, tmp_path: Path
    ) -> None:
        CachedStorage(inner, str(kept)).read(url)
        drafts = kept / "drafts"
        (drafts / ("a" * 32)).write_bytes(bytes(5 * BLOCK))
        (drafts / ("b" * 32 + "-0-5")).write_bytes(b"")
        (kept / "account").write_text(f"{TAKEN + 5 * BLOCK:020d}")
        living = open_lock(f"{drafts}/{'c' * 32}")
        try:
            os.ftruncate(living, 3 * BLOCK)
            assert try_lock(living)
            CachedStorage(inner, str(kept)).read(url)
            assert os.listdir(drafts) == ["c" * 32]
            assert account(kept) == TAKEN
            (kept / "account").write_bytes(b"")
            CachedStorage(inner, str(kept)).read(url)
            assert account(kept) == TAKEN + 3 * BLOCK
        finally:
            close_lock(living)

    def test_what_is_not_the_caches_own_stays(self, inner: Counting, kept: Path, tmp_path: Path) -> None:
        urls = self.files(tmp_path, 5)
        (kept / "objects" / "aa" / "mine").mkdir(parents=True)
        mine = [kept / "notes.txt", kept / "objects" / "x", kept / "objects" / "aa" / "mine" / "photo.jpg"]
        for path in mine:
            path.write_bytes(b"mine" * 100)
        cache = CachedStorage(inner, f"{kept}:{TAKEN}")
        for url in urls:
            cache.read(url)
        assert [path.read_bytes() for path in mine] == [b"mine" * 100] * 3


class TestFolder:
    def test_it_is_for_its_owner_alone(self, cache: CachedStorage, kept: Path, url: str) -> None:
        before = os.umask(0)
        try:
            cache.read(url)
        finally:
            os.umask(before)
        assert modes.S_IMODE(kept.stat().st_mode) == 0o700

    def test_one_that_is_there_keeps_its_mode(self, cache: CachedStorage, kept: Path, url: str) -> None:
        kept.mkdir()
        kept.chmod(0o770)
        cache.read(url)
        assert modes.S_IMODE(kept.stat().st_mode) == 0o770

    def test_no_name_tells_a_secret(self, cache: CachedStorage, kept: Path, url: str, tmp_path: Path) -> None:
        (tmp_path / "s3cr3t?token=s3cr3t").write_bytes(DATA)
        cache.read(f"{tmp_path}/s3cr3t?token=s3cr3t")
        read(cache, url, (0, 10))
        names = [str(path.relative_to(kept)) for path in kept.rglob("*")]
        assert len(names) > 5
        assert all(
            re.fullmatch(r"account|drafts|objects(/[0-9a-f]{2}(/[0-9a-f]{32}(/[0-9a-f-]+)?)?)?", n) for n in names
        )

    def test_one_that_is_a_file(self, inner: Counting, tmp_path: Path, url: str) -> None:
        for folder, reason in ((url, "there is such a file already"), (f"{url}/deeper", "no such file")):
            cache = CachedStorage(inner, folder)
            for action in (cache.read, cache.open, lambda url, cache=cache: read(cache, url, (0, 1))):
                with pytest.raises(JobError, match=f"^{folder}: the cache cannot be kept here: .*{reason}; name") as e:
                    action(url)  # type: ignore[operator]
                assert "\n" not in str(e.value)
            assert cache.stat(url).size == SIZE  # what needs no cache works

    def test_one_that_is_taken_away_meanwhile(
        self, cache: CachedStorage, inner: Counting, kept: Path, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.read(url)
        for path in sorted(kept.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        kept.rmdir()
        for _ in range(3):
            assert cache.read(url) == DATA and read(cache, url, (1, 2)) == [DATA[1:2]]
        assert len(inner.asked) == 4 and len(entries(kept)) == 1
        assert len(caplog.records) <= 1
