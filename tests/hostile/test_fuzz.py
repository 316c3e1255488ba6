"""Every file that is read beside shards, with anything in it: what comes out is right, or one of our errors.

``scripts/fuzz SECONDS`` tries as many as it can in that time. What it has found is kept as cases, here and beside this.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shardtools
from shardtools.errors import OutputBusyError
from shardtools.jobs.exchange.collect import CollectTask, collect
from shardtools.jobs.exchange.duplicates import DuplicatePolicy
from shardtools.jobs.exchange.gather import GatherTask, gather
from shardtools.jobs.exchange.keying import Keying
from shardtools.jobs.exchange.notes import GatherPlan, read_plan, write_plan
from shardtools.jobs.lock import locked
from shardtools.jobs.target import Target
from shardtools.shards.sidecar import sidecar_url
from tests.datasets import written_dataset
from tests.hostile.bounds import bounds, our_errors
from tests.hostile.indexes import (
    ENDLESS,
    INFO,
    SAMPLES,
    changed_rows,
    dali_index,
    dali_indexes,
    energon_rows,
    write_energon,
)
from tests.hostile.sidecar_files import COLUMNS, load, save
from tests.hostile.strategies import mutated_bytes, mutated_json, nested

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

choose = random.Random(3)
ROWS: list[dict[str, Any]] = [
    {"key": f"d/{i:02d}", "bin": choose.randbytes(60_000 if i % 5 == 0 else 70), "txt": f"no {i}".encode()}
    for i in range(20)
]
TRUTH = {row["key"]: row for row in ROWS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same dataset of one shard as ``.tar`` and ``.tgz``, with sidecars and manifests."""
    path: Path = tmp_path_factory.mktemp("fuzz")
    for ending in ("tar", "tgz"):
        written_dataset(path, f"x-@1.{ending}", [ROWS])
    return path


def bare(folder: Path, name: str) -> Path:
    """Return a folder that has the plain shard and nothing else."""
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / "x-0.tar").write_bytes((folder / "x-0.tar").read_bytes())
    return path


def check_record(record: Any) -> None:
    """Make sure that a record is the one that was written with its key."""
    assert dict(record) == TRUTH[record["key"]]


def read_all(spec: str, check: Callable[[Any], None] = check_record, **options: Any) -> None:
    """Use a dataset in all ways, each of which may end with an error of ours."""

    def opened() -> shardtools.Dataset:  # type: ignore[name-defined]
        return shardtools.open(spec, **options)

    ways: list[Callable[[Any], Any]] = [
        lambda ds: [check(ds[i]) for i in range(min(len(ds), 20))],
        lambda ds: list(map(check, ds[:20])),
        lambda ds: list(map(check, islice(ds, 50))),
        lambda ds: check(ds["d/07"]),
        lambda ds: (len(ds), ds.fields, ds.keys, repr(ds)),
        lambda ds: np.asarray(ds.view("txt", decode=None)[:20]),
    ]
    for way in ways:
        with our_errors():
            ds = opened()
            try:
                way(ds)
            except (KeyError, IndexError) as error:  # as of a dict and a list
                assert type(error) in (KeyError, IndexError)


# --- sidecars


@st.composite
def sidecars(draw: st.DrawFn, good: bytes) -> bytes:
    """Give the bytes of a sidecar with wrong columns, or a wrong meta."""
    columns, meta = load(good)
    for name in draw(st.lists(st.sampled_from([*COLUMNS, "entries"]), max_size=2)):
        column = columns[name]
        if column.ndim and len(column) and column.dtype.kind in "iu" and draw(st.booleans()):
            wide = column.astype(draw(st.sampled_from([np.int64, np.uint64, np.int8, ">i4"])))
            at = draw(st.integers(0, len(wide) - 1))
            value = draw(st.sampled_from([-1, 0, 1, 2, 100, 127, 511, 512, 1 << 20, 1 << 30, 1 << 40, (1 << 63) - 1]))
            info = np.iinfo(wide.dtype)
            wide[at] = min(max(value, info.min), info.max)
            columns[name] = wide
        elif column.ndim and draw(st.booleans()):
            columns[name] = column[: draw(st.integers(0, len(column)))]
        else:
            kinds = ["S0", "S3", "U2", "f8", "?", "c16", "V5", "M8[s]", [("a", "u1")], "i8", ">u2"]
            shape = draw(st.sampled_from([(), (0,), (1,), (20,), (40,), (20, 1), (2, 3, 4), (0, 2)]))
            columns[name] = np.zeros(shape, draw(st.sampled_from(kinds)))
    if draw(st.booleans()):
        return save(columns, draw(mutated_json(meta)))
    return save(columns, meta)


def use_sidecar(folder: Path, data: bytes, ending: str) -> None:
    path = Path(sidecar_url(f"{folder}/x-0.{ending}"))
    good = path.read_bytes()
    path.write_bytes(data)
    try:
        with bounds():
            read_all(f"{folder}/x-0.{ending}", lambda record: None)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_sidecar(folder: Path, ending: str) -> None:
    good = Path(sidecar_url(f"{folder}/x-0.{ending}")).read_bytes()

    @fuzz
    @given(st.one_of(sidecars(good), mutated_bytes(good), st.binary(max_size=100)))
    def run(data: bytes) -> None:
        use_sidecar(folder, data, ending)

    run()


# --- manifests, and indexes for wids


def test_manifest(folder: Path) -> None:
    path = folder / "x-@1.tar.json"
    good = json.loads(path.read_bytes())

    @fuzz
    @given(
        st.one_of(
            mutated_json(good), mutated_bytes(path.read_bytes()), st.sampled_from(nested()), st.binary(max_size=60)
        )
    )
    def run(data: bytes) -> None:
        before = path.read_bytes()
        path.write_bytes(data)
        try:
            with bounds():
                read_all(f"{folder}/x-@1.tar")
                read_all(str(path))
        finally:
            path.write_bytes(before)

    run()


def test_index_for_wids(folder: Path) -> None:
    path = bare(folder, "wids") / "index.json"
    shard = {"url": "x-0.tar", "nsamples": 20, "filesize": 1}
    good = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "shardlist": [shard],
        "datasets": [{"base": "sub", "shardlist": [{"url": "../x-1.tar", "nsamples": 0}]}, {"source_url": "b.json"}],
        "fields": {"bin": 20},
    }
    simple = {"wids_version": 1, "shardlist": [shard]}
    (path.parent / "b.json").write_text(json.dumps(simple))

    @fuzz
    @given(st.one_of(mutated_json(good), mutated_json(simple), st.sampled_from(nested()), st.binary(max_size=60)))
    def run(data: bytes) -> None:
        path.write_bytes(data)
        with bounds():
            read_all(str(path))

    run()


# --- what DALI and Energon leave


def test_index_of_dali(folder: Path) -> None:
    place = bare(folder, "dali")
    good = dali_index(place)

    @fuzz
    @given(st.one_of(dali_indexes(good), mutated_bytes(good), st.binary(max_size=60)))
    def run(data: bytes) -> None:
        (place / "x-0.idx").write_bytes(data)
        with bounds():
            read_all(f"{place}/x-0.tar")

    run()


def test_an_index_that_leaves_out_a_member(folder: Path) -> None:
    """It lists another member in its place, which is no part of a sample: the sample would lack a field."""
    place = bare(folder, "left out")
    good = dali_index(place)
    for i in range(20):
        wrong = good.replace(b" d/%02d.txt" % i, b" txt")
        assert wrong != good
        (place / "x-0.idx").write_bytes(wrong)
        with bounds():
            read_all(f"{place}/x-0.tar")


def test_index_of_energon(folder: Path) -> None:
    place = bare(folder, "energon")
    samples, parts = energon_rows(place)
    write_energon(place, json.dumps(INFO).encode(), samples, parts)
    good = (place / ".nv-meta" / "index.sqlite").read_bytes()

    @fuzz
    @given(
        st.one_of(st.just(json.dumps(INFO).encode()), mutated_json(INFO), st.sampled_from(nested())),
        st.one_of(st.tuples(changed_rows(samples), changed_rows(parts)), mutated_bytes(good), st.binary(max_size=60)),
    )
    def run(info: bytes, database: Any) -> None:
        if isinstance(database, bytes):
            (place / ".nv-meta" / ".info.json").write_bytes(info)
            (place / ".nv-meta" / "index.sqlite").write_bytes(database)
        else:
            write_energon(place, info, *database)
        with bounds():
            read_all(f"{place}/x-0.tar")

    run()


def test_an_endless_view_in_the_place_of_a_table(folder: Path) -> None:
    place = bare(folder, "endless")
    samples, parts = energon_rows(place)
    write_energon(place, json.dumps(INFO).encode(), samples, parts, schema=(SAMPLES, ENDLESS))
    with bounds():
        read_all(f"{place}/x-0.tar")


# --- what the exchange leaves for itself


@pytest.fixture(scope="module")
def spill(folder: Path) -> tuple[Path, CollectTask]:
    place = folder / "spill"
    place.mkdir()
    keying = Keying("key")
    task = CollectTask(f"{place}/run-0", ((0, f"{folder}/x-0.tar"),), keying, 1 << 20, "f" * 32, resume=True)
    collect(task)
    return place, task


def test_mark_of_a_run(spill: tuple[Path, CollectTask]) -> None:
    place, task = spill
    path = place / "run-0.json"
    good = json.loads(path.read_bytes())

    @fuzz
    @given(st.one_of(mutated_json(good), mutated_bytes(path.read_bytes()), st.sampled_from(nested())))
    def run(data: bytes) -> None:
        path.write_bytes(data)
        with bounds(), our_errors():
            assert collect(task).samples == 20

    run()


def test_mark_of_a_job(folder: Path) -> None:
    """Who has it is told of whatever is in it; nothing in it is taken for a process of this machine that is gone."""
    lock = folder / "out-@1.tar.lock"
    good = {"host": "h", "machine": "m", "pid": 1, "run": "r", "since": "s", "beats": 0}

    @fuzz
    @given(st.one_of(mutated_json(good), st.sampled_from([*nested(), b'{"beats": 1e400, "pid": 1e400}'])))
    def run(data: bytes) -> None:
        lock.write_bytes(data)
        with bounds(), pytest.raises(OutputBusyError), locked(str(lock), take_over=False):
            raise AssertionError("it was had")

    run()


def gather_task(place: Path, number: int) -> GatherTask:
    fingerprint = "f" * 32
    target = Target(f"{place}/out-{number}.tar", overwrite=True)
    policy = DuplicatePolicy()
    return GatherTask(f"{place}/plan.npz", number, target, policy, 1 << 20, fingerprint, fingerprint, "htsort")


def test_plan_and_runs_of_an_exchange(folder: Path, spill: tuple[Path, CollectTask]) -> None:
    place, task = spill
    (place / "run-0.json").unlink(missing_ok=True)
    done = collect(task)
    cuts = np.array([[0], [12], [20]], np.int64)
    write_plan(f"{place}/plan.npz", GatherPlan(done.runs, cuts, (f"{folder}/x-0.tar",), (0,)))
    plan, body = (place / "plan.npz").read_bytes(), Path(done.runs[0].url).read_bytes()

    @fuzz
    @given(
        st.one_of(st.just(plan), mutated_bytes(plan)),
        st.one_of(st.just(body), mutated_bytes(body[-3000:]).map(lambda end: body[:-3000] + end), mutated_bytes(body)),
    )
    def run(plan_bytes: bytes, run_bytes: bytes) -> None:
        (place / "plan.npz").write_bytes(plan_bytes)
        Path(done.runs[0].url).write_bytes(run_bytes)
        read_plan.cache_clear()
        with bounds(), our_errors():
            gather(gather_task(place, 0))

    run()
