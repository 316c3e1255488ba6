"""Bad samples, missing shards and dying workers are named; nothing hangs, and nothing is left out in silence."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import multiprocessing

import numpy as np
import torch.distributed as distributed
from torch.utils.data import DataLoader

import shardtools
from shardtools.errors import FieldError, NotFoundError, SampleError, ShardtoolsError
from shardtools.torch import ShardIterable
from tests.contract.faults import Fault, FaultyProxy
from tests.datasets import sample_files, write_shard, written_dataset
from tests.servers import NginxServer, wait_until
from tests.torch.conftest import SIZES, TOTAL, samples

BAD = (3, 20, 21, 90)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with four labels that are no numbers; sample 50 has no text."""
    folder = tmp_path_factory.mktemp("bad")
    shards = samples()
    for row in (row for rows in shards for row in rows):
        if row["id"] in BAD:
            row["cls"] = b"cat"
        if row["id"] == 50:
            del row["txt"]
    written_dataset(folder, "in-@5.tar", shards)
    return str(folder / "in-@5.tar")


def make(spec: str, **options: Any) -> ShardIterable:
    return ShardIterable(
        spec, **{"fields": ("id", "cls"), "decode": True, "batch_size": 4, "uneven": "uneven", **options}
    )


def ids(train: Any) -> list[list[int]]:
    return [batch[0].tolist() if hasattr(batch[0], "tolist") else [int(i) for i in batch[0]] for batch in train]


def test_a_bad_sample_is_named(bad: str) -> None:
    with pytest.raises(FieldError, match=r"in-0.tar \[k/0003.cls\]: the bytes are not .cls"):
        list(make(bad))
    with pytest.raises(SampleError, match=r"in-3.tar \[k/0050\]: the sample has no field txt"):
        list(make(bad, fields=("id", "txt"), decode=False))
    with pytest.raises(SampleError, match=r"in-0.tar \[k/0000\]: transform failed: ZeroDivisionError"):
        list(make(bad, transform=lambda number, label: 1 // 0))
    with pytest.raises(SampleError, match="cannot be collated"):
        list(make(bad, fields=("id",), transform=lambda number: np.zeros(number)))


def test_an_error_that_is_kept_keeps_no_threads(bad: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(FieldError) as caught:
        list(make(bad))
    assert caught.tb is not None and set(threading.enumerate()) <= before


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_skipped(bad: str, workers: int) -> None:
    """Batches that lose a sample are smaller; all others are what they were, on every rank."""
    train = make(bad, on_error="skip", shuffle=True)
    expected = ids(make(bad, fields=("id",), shuffle=True))
    found = ids(DataLoader(train, batch_size=None, num_workers=workers))
    assert found == [[i for i in batch if i not in BAD] for batch in expected]
    assert train.stats()["skipped"] == len(BAD)


def test_errors_go_to_a_function(bad: str) -> None:
    errors: list[ShardtoolsError] = []
    assert sum(map(len, ids(make(bad, on_error=errors.append)))) == TOTAL - 4
    assert [error.member for error in errors] == [f"k/{i:04d}.cls" for i in BAD]


def test_skipping_has_limits(bad: str) -> None:
    assert len(ids(make(bad, on_error="skip", max_skips=(2, 4)))) == TOTAL // 4
    with pytest.raises(SampleError, match="2 in a row"):
        list(make(bad, on_error="skip", max_skips=(1, 4)))
    with pytest.raises(SampleError, match="4 in all"):
        list(make(bad, on_error="skip", max_skips=(4, 3)))


def test_a_batch_is_never_empty(bad: str) -> None:
    """A rank that yielded nothing would keep the others waiting; the sample it repeats is flagged."""
    options: dict[str, Any] = {"batch_size": 1, "on_error": "skip", "collate": None}
    batches = list(make(bad, fields=("id", "cls", "__pad__"), **options))
    assert len(batches) == TOTAL
    repeats = [number for number, batch in enumerate(batches) if batch[2][0]]
    assert repeats == list(BAD)
    assert [batches[i][0][0] for i in repeats] == [2, 19, 19, 89]


def test_batches_that_are_empty_at_the_start(tmp_path: Path) -> None:
    written_dataset(tmp_path, "in-@2.tar", samples((4, 4)))
    os.unlink(tmp_path / "in-0.tar")
    train = make(str(tmp_path / "in-@2.tar"), on_error="skip", batch_size=2)
    assert ids(train) == [[4], [4], [4, 5], [6, 7]] or ids(train) == [[5], [5], [4, 5], [6, 7]]
    os.unlink(tmp_path / "in-1.tar")
    with pytest.raises(SampleError, match="no sample of the epoch could be read"):
        list(train)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_missing_shard(folder: Path, tmp_path: Path, shuffle: bool) -> None:
    shutil.copytree(folder, tmp_path / "in")
    os.unlink(tmp_path / "in" / "in-2.tar")
    spec = str(tmp_path / "in" / "in-@5.tar")
    with pytest.raises(NotFoundError, match=r"in-2.tar: .*no such"):
        list(make(spec, shuffle=shuffle))
    train = make(spec, shuffle=shuffle, on_error="skip", max_skips=(1, 10))
    assert len({i for batch in ids(train) for i in batch}) == TOTAL - SIZES[2]
    assert train.stats()["skipped"] == SIZES[2]


def test_a_damaged_sample_of_a_packed_shard(tmp_path: Path) -> None:
    """The checksum of one sample is wrong: the others of the same read are delivered."""
    written_dataset(tmp_path, "in-@1.tar.zst", samples((40,)))
    written_dataset(
        tmp_path, "other-@1.tar.zst", [[{**row, "txt": "NO 7"} if row["id"] == 7 else row for row in samples((40,))[0]]]
    )
    from shardtools.shards.sidecar import dump, read_sidecar

    url = str(tmp_path / "in-0.tar.zst")
    sidecar, other = read_sidecar(url, None), read_sidecar(str(tmp_path / "other-0.tar.zst"), None)
    assert sidecar is not None and other is not None
    table = replace(sidecar.table, crc32=other.table.crc32)
    Path(url + ".index.npz").write_bytes(dump(replace(sidecar, table=table)))
    found = ids(make(str(tmp_path / "in-@1.tar.zst"), fields=("id", "txt"), on_error="skip"))
    assert sorted(i for batch in found for i in batch) == [i for i in range(40) if i != 7]


def test_a_shard_that_was_replaced(tmp_path: Path) -> None:
    written_dataset(tmp_path, "in-@2.tar", samples((40, 40)))
    train = make(str(tmp_path / "in-@2.tar"))
    assert ids(train)
    write_shard(tmp_path / "in-1.tar", sample_files(1, 30))
    fresh = make(str(tmp_path / "in-@2.tar"))
    with pytest.raises(ShardtoolsError, match=r"in-1.tar: it has 30 samples, and 40 in the manifest"):
        list(fresh)
    with pytest.raises(ShardtoolsError, match=r"in-1.tar: the file was replaced"):
        list(train)


# --- processes


def _kill(number: int) -> int:
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_an_error(spec: str) -> None:
    loader = DataLoader(make(spec, fields=("id",), transform=_kill), batch_size=None, num_workers=2)
    with pytest.raises(RuntimeError, match=r"worker \(pid.* killed|exited unexpectedly"):
        list(loader)


def _train(rank: int, world: int, store: str, spec: str, queue: Any) -> None:
    """Train on a rank as DDP does, where every step waits for all ranks: without workers and then with one."""
    import torch

    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for workers in (0, 1):
        seen = []
        train = ShardIterable(spec, fields=("id",), decode=True, batch_size=4, shuffle=True, uneven="uneven")
        for (batch,) in DataLoader(train, batch_size=None, num_workers=workers):
            distributed.all_reduce(torch.ones(1))
            seen += batch.tolist()
        distributed.barrier()
        queue.put((workers, seen))
    distributed.destroy_process_group()


def test_ranks_with_unequal_shards_end_together(tmp_path: Path) -> None:
    """One shard has nearly everything, and the batches do not come out even: loaders that deal shards hang here."""
    written_dataset(tmp_path, "in-@3.tar", samples((2, 50, 1)))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (2, str(tmp_path / "store"), str(tmp_path / "in-@3.tar"), queue)
    ranks = [context.Process(target=_train, args=(rank, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        ended = [queue.get(timeout=120) for _ in range(2 * len(ranks))]
        for process in ranks:
            process.join(60)
        assert [process.exitcode for process in ranks] == [0, 0]
        for workers in (0, 1):
            seen = [numbers for used, numbers in ended if used == workers]
            assert sorted(seen[0] + seen[1]) == list(range(53)) and abs(len(seen[0]) - len(seen[1])) <= 1
    finally:
        for process in ranks:
            process.kill()


# --- servers


@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_workers_after_the_parent_has_used_the_server(nginx: NginxServer, folder: Path, ending: str) -> None:
    """Connections that a fork copies would be read by two processes."""
    shutil.copytree(folder, nginx.root, dirs_exist_ok=True)
    spec = f"{nginx.url}in-@5.{ending}"
    assert len(shardtools.open(spec)) == TOTAL
    train = make(spec, shuffle=True)
    expected = ids(train)
    loader = DataLoader(train, batch_size=None, num_workers=2)
    assert ids(loader) == expected == ids(make(str(folder / "in-@5.tar"), shuffle=True))
    passing = iter(train)
    next(passing)
    assert ids(loader) == expected, "and while the parent's own threads are reading"


def test_no_shard_is_read_whole_for_the_first_sample(nginx: NginxServer, tmp_path: Path) -> None:
    rows = [[{"key": f"{i:04d}", "bin": os.urandom(30_000)} for i in range(200)]]
    written_dataset(nginx.root, "in-@1.tar", rows)
    train = ShardIterable(f"{nginx.url}in-@1.tar", fields=("bin",), decode=False, batch_size=2, memory=2_000_000)
    passing = iter(train)
    next(passing)
    assert train.stats()["bytes"] <= 2_000_000
    passing.close()  # type: ignore[attr-defined]
    assert train.stats()["bytes"] < 200 * 30_000


def test_a_cache_spares_the_server(nginx: NginxServer, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, nginx.root, dirs_exist_ok=True)
    for path in nginx.root.iterdir():
        os.utime(path, (1e9, 1e9))  # what was written this second may change again, and is not kept

    def sent() -> int:
        lines = nginx.log_path.read_text().splitlines()
        return sum("GET" in line and "in-3.tar " in line for line in lines)

    train = make(f"{nginx.url}in-@5.tar", cache=str(tmp_path / "cache"))
    first = ids(train)
    wait_until(lambda: sent() and time.time() - nginx.log_path.stat().st_mtime > 0.3, "the end of the log")
    before, stats = sent(), train.stats()
    assert stats["cache_misses"] > 0
    assert ids(train) == first and sent() == before
    again = train.stats()
    assert again["cache_misses"] == stats["cache_misses"] and again["cache_hits"] > stats["cache_hits"]


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_file_that_is_cut_off_meanwhile(tmp_path: Path, size: int) -> None:
    rows = [[{"key": f"{s}-{i:02d}", "bin": bytes([i]) * size} for i in range(40)] for s in range(2)]
    written_dataset(tmp_path, "in-@2.tar", rows)
    os.unlink(tmp_path / "in-@2.tar.json")

    def start(**options: Any) -> Any:
        train = ShardIterable(
            str(tmp_path / "in-{0..1}.tar"), fields=("bin",), decode=False, batch_size=4, memory=1, **options
        )
        batches = iter(train)
        next(batches)
        return train, batches

    whole = (tmp_path / "in-1.tar").read_bytes()
    _, batches = start()
    os.truncate(tmp_path / "in-1.tar", len(whole) // 2)
    with pytest.raises(ShardtoolsError, match=r"in-1.tar( \[1-\d\d\])?: the file was (cut off|replaced)"):
        list(batches)
    (tmp_path / "in-1.tar").write_bytes(whole)
    train, batches = start(on_error="skip", uneven="uneven")
    for _ in range(11):  # the second file is open now
        next(batches)
    os.truncate(tmp_path / "in-1.tar", len(whole) // 2)
    rest = [value for batch in batches for value in batch[0]]
    assert all(len(value) == size for value in rest)
    assert 10 < train.stats()["skipped"] < 36, "those of the second half"


def test_retries_are_counted(nginx: NginxServer, folder: Path) -> None:
    shutil.copytree(folder, nginx.root, dirs_exist_ok=True)
    broken = {b"GET /in-0.tar ": Fault(after=10), b"GET /in-4.tar ": Fault(reset=True, of_body=True)}
    with FaultyProxy(nginx.url, choose=lambda head: broken.pop(head.partition(b"HTTP")[0], None)) as proxy:
        train = make(proxy.url + "in-@5.tar")
        assert ids(train) == ids(make(str(folder / "in-@5.tar")))
        assert train.stats()["retries"] == 2 and not broken
        assert train.stats()["cache_hits"] == train.stats()["cache_misses"] == 0


def test_errors_hide_secrets(nginx: NginxServer, folder: Path) -> None:
    shutil.copytree(folder, nginx.root, dirs_exist_ok=True)
    os.unlink(nginx.root / "in-3.tar")
    spec = nginx.url.replace("http://", "http://me:secret@") + "in-@5.tar"
    with pytest.raises(NotFoundError) as caught:
        list(make(spec))
    assert "in-3.tar" in str(caught.value) and "secret" not in str(caught.value)
