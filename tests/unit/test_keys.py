"""Samples by key, with the file of keys that htindex --table makes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shardtools
from shardtools.errors import CorruptError
from shardtools.query.key_file import HEAD, KeyFile, KeySorter, entry_type, hash_keys, head_of, texts_of
from shardtools.query.table_file import ShardState
from shardtools.reading import Dataset
from shardtools.shards.columns import Texts
from tests.cli.command import call
from tests.datasets import write_dataset, write_shard, written_dataset
from tests.recording_server import RecordingServer, recording_server

KEYS = [[f"dir/{shard}{row:03d}" for row in range(20 + shard)] for shard in range(5)] + [["ä/1", "\udcff", "dir/0003"]]
FLAT = [key for some in KEYS for key in some]


def records(keys: list[list[str]]) -> list[list[dict[str, object]]]:
    return [
        [{"key": key, "cls": row, "txt": f"{i} {row}"} for row, key in enumerate(some)] for i, some in enumerate(keys)
    ]


def dataset(folder: Path, keys: list[list[str]] = KEYS, *, ending: str = "tar") -> Dataset:
    spec = f"d-@{len(keys)}.{ending}"
    written_dataset(folder, spec, records(keys))
    shardtools.index(str(folder / spec), table=True)
    return shardtools.open(str(folder / spec))


class TestLookUp:
    @pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
    def test_every_key(self, tmp_path: Path, ending: str) -> None:
        ds = dataset(tmp_path, ending=ending)
        assert ds._choosing.keys() is not None
        for index, key in enumerate(FLAT[:-1]):
            assert ds[key]["txt"] == ds[index]["txt"] and key in ds and ds.index(key) == index
        assert ds[FLAT[-1]]["txt"] == b"0 3" and ds.count(FLAT[-1]) == 2  # it is in two shards
        for absent in ("dir/9999", "", "dir/", "x" * 5000):
            assert absent not in ds and ds.count(absent) == 0
            with pytest.raises(KeyError):
                ds[absent]

    def test_many_keys(self, tmp_path: Path) -> None:
        ds = dataset(tmp_path)
        asked = ["nope", *reversed(FLAT), "none"]
        expected = [-1, 3, *reversed(range(len(FLAT) - 1)), -1]
        assert ds.rows_of(asked).tolist() == expected
        assert ds.rows_of([]).tolist() == []
        (tmp_path / "d-@6.tar.keys").unlink()
        assert shardtools.open(str(tmp_path / "d-@6.tar")).rows_of(asked).tolist() == expected

    def test_chosen_samples(self, tmp_path: Path) -> None:
        chosen = pickle.loads(pickle.dumps(dataset(tmp_path))).where("cls = 3")
        assert chosen.rows_of(["dir/0003", "dir/4003", "dir/4004", "nope"]).tolist() == [0, 4, -1, -1]
        assert chosen["dir/2003"]["txt"] == b"2 3" and "dir/2004" not in chosen
        assert chosen.where("cls = 4").rows_of(["dir/0003"]).tolist() == [-1]

    def test_a_command(self, tmp_path: Path) -> None:
        dataset(tmp_path)
        outcome = call("d-@6.tar", "--sample", "dir/3007", cwd=tmp_path, program="htextract")
        assert outcome.out.startswith("dir/3007: sample 7 of ")


class TestRequests:
    @pytest.fixture
    def server(self, tmp_path: Path) -> RecordingServer:
        with recording_server(tmp_path) as server:
            yield server

    def test_at_most_three(self, server: RecordingServer) -> None:
        dataset(server.root)
        ds = shardtools.open(f"{server.url}d-@6.tar")
        before = len(server.requests())
        assert ds["dir/3007"]["txt"] == b"3 7"
        assert [(request.method, request.path) for request in server.requests()[before:]] == [
            ("GET", "/d-@6.tar.keys"),
            ("GET", "/d-@6.tar.keys"),
            ("GET", "/d-3.tar"),
        ]
        record = ds["dir/2001"]
        assert (record["cls"], record.index, record.url) == (b"1", 1, f"{server.url}d-2.tar")
        assert len(server.requests()) == before + 5
        assert "dir/4444" not in ds and len(server.requests()) == before + 6

    @pytest.mark.parametrize("ending", ["tgz", "tar.zst"])
    def test_of_packed_shards(self, server: RecordingServer, ending: str) -> None:
        name = f"d-@6.{ending}"
        dataset(server.root, ending=ending)
        ds = shardtools.open(f"{server.url}{name}")
        assert "dir/3006" in ds  # the head of the file of keys is known from now on
        before = len(server.requests())
        assert ds["dir/3007"]["txt"] == b"3 7"
        assert [(request.method, request.path) for request in server.requests()[before:]] == [
            ("GET", f"/{name}.keys"),
            ("GET", f"/d-3.{ending}.index.npz"),
            ("GET", f"/d-3.{ending}"),
        ]
        assert ds["dir/3008"]["txt"] == b"3 8" and len(server.requests()) == before + 5

    def test_a_packed_shard_that_was_replaced(self, server: RecordingServer) -> None:
        """Its sidecar, too, so that it does not fit the manifest; or it alone."""
        dataset(server.root, ending="tgz")
        changed = records(KEYS)
        changed[3][7]["txt"] = "9 9"
        (server.root / "other").mkdir()
        written_dataset(server.root / "other", "d-@6.tgz", changed)
        for name in ("d-3.tgz", "d-3.tgz.index.npz"):
            (server.root / name).write_bytes((server.root / "other" / name).read_bytes())
            if name.endswith("tgz"):
                (server.root / name).write_bytes((server.root / name).read_bytes() + bytes(512))
            assert shardtools.open(f"{server.url}d-@6.tgz")["dir/3007"]["txt"] == b"9 9"

    @pytest.mark.parametrize("longer", [1, 5000])
    def test_a_shard_that_was_replaced(self, server: RecordingServer, longer: int) -> None:
        """What is read is compared with the key; then the shard itself is asked. A sample that is longer is whole."""
        dataset(server.root)
        changed = records(KEYS)
        changed[3][7] |= {"txt": "9 9", "wav": b"x" * longer}
        (server.root / "other").mkdir()
        written_dataset(server.root / "other", "d-@6.tar", changed)
        for name in ("d-3.tar", "d-3.tar.index.npz"):
            (server.root / name).write_bytes((server.root / "other" / name).read_bytes())
        found = shardtools.open(f"{server.url}d-@6.tar")["dir/3007"]
        assert (found["txt"], found["wav"]) == (b"9 9", b"x" * longer)

    def test_a_shard_that_ends_before(self, server: RecordingServer) -> None:
        dataset(server.root)
        (server.root / "d-3.tar").write_bytes((server.root / "d-3.tar").read_bytes()[:2048])
        with pytest.raises(Exception, match=r"d-3\.tar"):
            shardtools.open(f"{server.url}d-@6.tar")["dir/3019"]


class TestFile:
    @pytest.mark.parametrize("how", ["no manifest", "another dataset", "not ours", "cut short"])
    def test_one_that_does_not_fit_is_not_used(self, tmp_path: Path, how: str) -> None:
        dataset(tmp_path)
        path = tmp_path / "d-@6.tar.keys"
        if how == "no manifest":
            (tmp_path / "d-@6.tar.json").unlink()
        elif how == "another dataset":
            written_dataset(tmp_path, "d-@6.tar", records([*KEYS[1:], KEYS[0]]))
        elif how == "not ours":
            path.write_bytes(b"x" * 5000)
        else:
            path.write_bytes(path.read_bytes()[:-1])
        ds = shardtools.open(str(tmp_path / "d-@6.tar"))
        assert ds._choosing.keys() is None
        assert ds["dir/3007"]["txt"] == (b"2 7" if how == "another dataset" else b"3 7") and "nope" not in ds

    def test_it_is_made_again_if_it_is_missing(self, tmp_path: Path) -> None:
        dataset(tmp_path)
        data = (tmp_path / "d-@6.tar.keys").read_bytes()
        (tmp_path / "d-@6.tar.keys").unlink()
        shardtools.index(str(tmp_path / "d-@6.tar"), table=True)
        assert (tmp_path / "d-@6.tar.keys").read_bytes() == data

    def test_shards_of_others(self, tmp_path: Path) -> None:
        spec = str(tmp_path / write_dataset(tmp_path, 2, 10, ending="tgz"))
        shardtools.index(spec, table=True)
        ds = shardtools.open(spec)
        assert ds._choosing.keys() is not None and ds["1/0007"]["cls"] == b"7"

    def test_samples_of_all_sizes(self, tmp_path: Path) -> None:
        sizes = [1, 15_000, 16_000, 70_000, 5_000_000, 20_000_000]
        write_shard(tmp_path / "a-0.tar", [(f"{number}.bin", bytes(size)) for number, size in enumerate(sizes)])
        shardtools.index(str(tmp_path / "a-@1.tar"), table=True)
        ds = shardtools.open(str(tmp_path / "a-@1.tar"))
        assert ds._choosing.keys() is not None
        assert ds.rows_of([*ds.keys, "6"]).tolist() == [0, 1, 2, 3, 4, 5, -1]
        assert len(ds["4"]["bin"]) == 5_000_000

    @pytest.mark.parametrize("samples", [0, 1, 300_000])
    def test_any_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
        """Sorted in memory and in files, and read in ranges much smaller than the file."""
        keys = Texts.of([b"%d" % number for number in range(samples)])
        hashes, index = hash_keys(keys), np.arange(samples)
        written = []
        for in_memory in (1 << 22, 1000):
            monkeypatch.setattr("shardtools.query.key_file.IN_MEMORY", in_memory)
            sorter = KeySorter(samples)
            for start in range(0, samples, 70_000):
                part = slice(start, start + 70_000)
                sorter.add(hashes[part], start, index[part], index[part] + 1)
            path = tmp_path / f"{in_memory}.keys"
            path.write_bytes(head_of(samples, [ShardState("a", 1, "", samples)]) + b"".join(sorter.pieces()))
            written.append(path.read_bytes())
        assert written[0] == written[1] and len(written[0]) == HEAD + samples * entry_type(samples).itemsize
        file = KeyFile(str(path))
        asked = [b"%d" % number for number in (*range(0, samples, 997), samples, samples + 5)]
        found = file.find(hash_keys(Texts.of(asked)))
        assert [entries["index"].tolist() for entries in found] == [
            [int(key)] if int(key) < samples else [] for key in asked
        ]

    def test_hashes_that_are_spread_badly(self, tmp_path: Path) -> None:
        """Such a file is read in larger and larger ranges."""
        samples = 50_000
        hashes = np.arange(samples, dtype=np.uint64) << np.uint64(8)
        sorter = KeySorter(samples)
        sorter.add(hashes, 0, *[np.zeros(samples, np.int64)] * 2)
        path = tmp_path / "x.keys"
        path.write_bytes(head_of(samples, []) + b"".join(sorter.pieces()))
        found = KeyFile(str(path)).find(np.array([0, 40_000 << 8, 49_999 << 8, 50_000 << 8, 1 << 63], np.uint64))
        assert [entries["index"].tolist() for entries in found] == [[0], [40_000], [49_999], [], []]

    def test_indexes_that_are_out_of_range(self, tmp_path: Path) -> None:
        ds = dataset(tmp_path)
        path = tmp_path / "d-@6.tar.keys"
        data = bytearray(path.read_bytes())
        for at in range(HEAD, len(data), entry_type(len(FLAT)).itemsize):
            data[at + 8 : at + 12] = b"\xff" * 4
        path.write_bytes(data)
        with pytest.raises(CorruptError, match="out of range"):
            ds["dir/3007"]

    def test_what_is_no_file_of_keys(self, tmp_path: Path) -> None:
        head = head_of(3, [])
        before = head.replace(b"keys\x03", b"keys\x01") + b"\0" * 72  # the format that it had once
        for data in (b"", before, head, head + b"\0" * 47, b"x" + head[1:] + b"\0" * 48):
            (tmp_path / "x.keys").write_bytes(data)
            with pytest.raises(CorruptError, match="not a file of keys"):
                KeyFile(str(tmp_path / "x.keys"))


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_a_hash_depends_on_the_key_alone(keys: list[bytes]) -> None:
    together = hash_keys(Texts.of(keys)).tolist()
    assert together == [int(hash_keys(Texts.of([key]))[0]) for key in keys]
    assert len(set(together)) == len(set(keys))


names = st.text(st.characters(codec="utf-8", exclude_characters="./\0"), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(names, unique=True, max_size=6), min_size=1, max_size=4), names)
def test_it_is_what_a_loop_finds(tmp_path_factory: pytest.TempPathFactory, keys: list[list[str]], other: str) -> None:
    ds = dataset(tmp_path_factory.mktemp("d"), keys)
    assert ds._choosing.keys() is not None
    flat = [key for some in keys for key in some]
    asked = [*flat, other]
    assert ds.rows_of(asked).tolist() == [flat.index(key) if key in flat else -1 for key in asked]
    for key in asked:
        assert (key in ds) == (key in flat) and ds.count(key) == flat.count(key)
        if key in flat:
            assert ds[key]["key"] == key and ds.index(key) == flat.index(key)


def test_keys_are_hashed_as_a_table_has_them() -> None:
    assert texts_of(["a", "\udcff"]).tolist() == [b"a", b"\\xff"]
