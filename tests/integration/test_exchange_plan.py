"""The plan of an exchange whose samples are too many for one process: the same shards as if they were not."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardtools.engine import Connection
from shardtools.jobs.exchange import cost, exchange, planning
from shardtools.jobs.exchange.boundaries import CutTask, cut_batch, read_bounds
from shardtools.jobs.exchange.chain import Chain, runs_of
from shardtools.jobs.exchange.cost import Merge
from shardtools.jobs.exchange.cuts import cuts, ranks
from shardtools.jobs.exchange.keying import Keying
from shardtools.jobs.exchange.notes import GatherPlan, read_plan, write_plan
from shardtools.jobs.exchange.order import order_of_text
from shardtools.jobs.exchange.plan import Exchange, ExchangePlan, fit_workers, plan_exchange
from shardtools.jobs.exchange.run import Run, write_run
from shardtools.jobs.exchange.splits import LocateTask, SomeOrders, choose_splits, is_single, locate, read_some_orders
from shardtools.jobs.exchange.workers import Workers
from shardtools.jobs.options import RunOptions
from shardtools.shards.columns import Texts
from shardtools.storage import get_storage
from tests.cli.command import call
from tests.dask_cluster import dask_cluster
from tests.datasets import snapshot, written_dataset
from tests.servers import NginxServer, wait_until
from tests.unit.test_exchange import FEW_TEXTS, samples_of

JOB = "f" * 32


def write_orders(folder: Path, number: int, texts: list[bytes]) -> Run:
    samples = samples_of(sorted(texts))
    return write_run(str(folder / f"run-{number}"), samples, [[bytes(int(samples.table.spans.sum()))]])


def batched(folder: Path, runs: tuple[Run, ...], outputs: int, batches: int) -> list[list[int]]:
    """Return where each output begins in each run, as tasks find it for batches of samples."""
    splits = tuple(choose_splits([read_some_orders(run, len(runs)) for run in runs], batches))
    starts = np.vstack((locate(LocateTask(runs, splits)).T, [run.count for run in runs]))
    single = tuple(batch for batch in range(len(splits)) if is_single(splits, batch))
    url = str(folder / "plan.npz")
    write_plan(url, GatherPlan(runs, starts, (), (), outputs, single))
    read_plan.cache_clear()
    plan = read_plan(url, JOB)
    assert (plan.outputs, plan.single, plan.cuts.tolist()) == (outputs, single, starts.tolist())
    for batch in range(len(splits)):
        if plan.ranks_of(batch):
            cut_batch(CutTask(url, JOB, batch))
    bounds = [[row.tolist() for row in read_bounds(url, plan, output)] for output in range(outputs)]
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    return [low for low, _ in bounds] + [bounds[-1][1]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FEW_TEXTS, min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 12))
def test_batches_are_cut_where_all_orders_together_are(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[bytes]], outputs: int, batches: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    orders = [sorted(map(order_of_text, some)) for some in texts]
    runs = tuple(write_orders(folder, number, some) for number, some in enumerate(orders))
    wanted = ranks(sum(map(len, orders)), outputs)
    expected = cuts([Texts.of(some) for some in orders], wanted).tolist()
    if wanted[-1]:
        assert batched(folder, runs, outputs, batches) == expected


def test_an_order_that_most_samples_have(tmp_path: Path) -> None:
    """Its samples are a batch by themselves, which nobody reads, and stay in one output."""
    orders = [[b"a"] * 3 + [b"m"] * 4000 + [b"z"] * 5, [b"b", b"m", b"y"]]
    runs = tuple(write_orders(tmp_path, number, some) for number, some in enumerate(orders))
    expected = cuts([Texts.of(sorted(some)) for some in orders], ranks(4011, 7)).tolist()
    assert batched(tmp_path, runs, 7, 10) == expected
    assert len({tuple(row) for row in expected}) == 4


def test_splits_part_samples_about_evenly() -> None:
    choose = random.Random(0)
    texts = [sorted(choose.randbytes(choose.choice((3, 9, 20))) for _ in range(3000)) for _ in range(5)]
    splits = choose_splits([SomeOrders(30, run[::30]) for run in texts], 20)
    bounds = pairwise([*splits, b"\xff" * 21])
    sizes = [sum(low <= text < high for run in texts for text in run) for low, high in bounds]
    assert len(splits) == 20 and sum(sizes) == 15_000 and max(sizes) < 1.3 * 750


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    choose = random.Random(0)
    written_dataset(
        tmp_path,
        "in-@6.tar",
        [
            [
                {"key": f"{shard}-{i:03d}", "cls": choose.choice((1, 1, 1, 2, 7)), "bin": choose.randbytes(2000)}
                for i in range(100)
            ]
            for shard in range(6)
        ],
    )
    return tmp_path


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plan 40 samples at a time."""
    monkeypatch.setattr(planning, "LEAST_BATCH", 40)
    monkeypatch.setattr(planning, "ORDER_BYTES", 1 << 20)
    yield


PROGRAMS = {
    "shuffle": ("htshuffle", ("--seed", "5")),
    "reshard": ("htshuffle", ("--no-shuffle",)),
    "sort by key": ("htsort", ()),
    "sort by few classes": ("htsort", ("--by", "cls:int")),
    "unique": ("htsort", ("--by", "cls:int", "--unique", "--reverse")),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("outputs", [3, 11])
def test_the_same_bytes(name: str, outputs: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, options = PROGRAMS[name]
    arguments = (*options, "--memory", "1MB", "-j", "2", "in-@6.tar")
    assert call(*arguments, f"a/out-@{outputs}.tar", cwd=folder, program=program).status == 0
    monkeypatch.setattr(planning, "LEAST_BATCH", 40)
    monkeypatch.setattr(planning, "ORDER_BYTES", 1 << 20)
    planned: list[GatherPlan] = []
    real = exchange.write_plan

    def write(url: str, plan: GatherPlan) -> None:
        planned.append(plan)
        real(url, plan)

    monkeypatch.setattr(exchange, "write_plan", write)
    assert call(*arguments, f"b/out-@{outputs}.tar", cwd=folder, program=program).status == 0
    assert snapshot(folder / "a") == snapshot(folder / "b")
    assert planned[0].outputs == outputs and len(planned[0].cuts) > 4
    assert not list(folder.rglob("*shardtools-spill*"))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("batched", [False, True])
def test_the_same_bytes_after_a_merge(
    name: str, batched: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    program, options = PROGRAMS[name]
    arguments = (*options, "--memory", "1MB", "-j", "6", "in-@6.tar")
    assert call(*arguments, "a/out-@7.tar", cwd=folder, program=program).status == 0
    if batched:
        request.getfixturevalue("few_at_a_time")
    planned: list[GatherPlan] = []
    real = exchange.write_plan

    def write(url: str, plan: GatherPlan) -> None:
        planned.append(plan)
        real(url, plan)

    monkeypatch.setattr(exchange, "write_plan", write)
    monkeypatch.setattr(exchange, "choose_merge", lambda *_: Merge(4, 3))
    assert call(*arguments, "b/out-@7.tar", cwd=folder, program=program).status == 0
    assert snapshot(folder / "a") == snapshot(folder / "b")
    assert [type(run) for run in planned[0].runs] == [Chain, Chain]
    assert max(len(runs_of([run])) for run in planned[0].runs) > 1 and bool(planned[0].outputs) == batched
    assert not list(folder.rglob("*shardtools-spill*"))


@pytest.mark.parametrize("seed", [5, 7])
def test_a_merge_goes_on_where_it_was(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was merged before a job failed is not merged again, unless that had another seed."""
    arguments = ("--seed", "5", "--memory", "1MB", "-j", "6", "in-@6.tar")
    assert call(*arguments, "a/out-@7.tar", cwd=folder, program="htshuffle").status == 0
    monkeypatch.setattr(exchange, "choose_merge", lambda *_: Merge(4, 3))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(exchange, "write_plan", lambda *_: 1 / 0)
        call("--seed", str(seed), *arguments[2:], "b/out-@7.tar", cwd=folder, program="htshuffle")
    merged = {path: path.stat().st_mtime_ns for path in folder.glob("b/.shardtools-spill-*/merge-*-*")}
    seen: dict[Path, int] = {}
    real = exchange.write_plan

    def write(url: str, plan: GatherPlan) -> None:
        seen.update({path: path.stat().st_mtime_ns for path in merged})
        real(url, plan)

    monkeypatch.setattr(exchange, "write_plan", write)
    assert call(*arguments, "--resume", "b/out-@7.tar", cwd=folder, program="htshuffle").status == 0
    assert len(merged) >= 6 and (seen == merged) is (seed == 5)
    assert snapshot(folder / "a") == snapshot(folder / "b")


@pytest.mark.parametrize(("memory", "merge"), [("3MB", None), ("1MB", None), ("1MB", Merge(4, 3))])
def test_a_dry_run_says_how_many_requests_there_will_be(
    memory: str, merge: Merge | None, folder: Path, nginx: NginxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests for inputs, spill and outputs that a server counts, within 5 %."""
    monkeypatch.setattr(exchange, "choose_merge", lambda *_: merge)
    monkeypatch.setattr(cost, "choose_merge", lambda *_: merge)
    for path in folder.glob("in-*"):
        path.rename(nginx.root / path.name)
    spill = ("--spill", f"{nginx.url}spill/")
    arguments = (
        "--seed",
        "5",
        "-j",
        "2",
        "--memory",
        memory,
        *spill,
        f"{nginx.url}in-@6.tar",
        f"{nginx.url}out-@15.tar",
    )
    told = call("--dry-run", *arguments, cwd=folder, program="htshuffle").out
    expected = int(re.findall(r"requests: about ([0-9,]+)", told)[0].replace(",", ""))
    before = counted_after(nginx, "before")
    assert call(*arguments, cwd=folder, program="htshuffle").status == 0
    found = counted_after(nginx, "after") - before - 1
    assert abs(found - expected) <= 0.05 * found, (found, expected)


def counted_after(nginx: NginxServer, mark: str) -> int:
    """Return how many requests the log has when a last one, for ``mark``, is in it."""
    get_storage(nginx.url).exists(f"{nginx.url}{mark}")
    wait_until(lambda: f"/{mark} " in nginx.log_path.read_text(), "the log")
    return len(nginx.log_path.read_text().splitlines())


def test_what_is_in_the_spill_is_removed_from_a_server(folder: Path, nginx: NginxServer, few_at_a_time: None) -> None:
    arguments = ("--seed", "5", "--spill", f"{nginx.url}spill/", "in-@6.tar", f"{nginx.url}out-@4.tar")
    assert call(*arguments, cwd=folder, program="htshuffle").status == 0
    assert call("--seed", "5", "in-@6.tar", "out-@4.tar", cwd=folder, program="htshuffle").status == 0
    assert [path.read_bytes() for path in sorted(folder.glob("out-?.tar"))] == [
        path.read_bytes() for path in sorted(nginx.root.glob("out-?.tar"))
    ]
    assert not [path for path in (nginx.root / "spill").rglob("*") if path.is_file()]


def test_damaged_boundaries_are_noticed(folder: Path, few_at_a_time: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = exchange.write_boundaries

    def damaging(url: str, *arguments: object) -> None:
        real(url, *arguments)  # type: ignore[arg-type]
        for path in Path(url).parent.glob("boundaries-*"):
            data = bytearray(path.read_bytes())
            data[0] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(exchange, "write_boundaries", damaging)
    outcome = call("--seed", "1", "in-@6.tar", "out-@30.tar", cwd=folder, program="htshuffle")
    assert outcome.status == 1 and "the plan in the spill is damaged" in outcome.err


class TestWorkers:
    """How inputs are grouped follows from who works on them."""

    def plan(self, folder: Path, options: RunOptions) -> ExchangePlan:
        what = Exchange("htshuffle", Keying("random", 1))
        return fit_workers(plan_exchange(f"{folder}/in-@6.tar", f"{folder}/out-@4.tar", what, options), options)

    def test_every_thread_of_a_cluster_has_a_group(self, folder: Path) -> None:
        with dask_cluster(workers=2, threads=3) as cluster, Connection(cluster.address) as connection:
            plan = self.plan(folder, RunOptions(connection))
            assert len(plan.groups) == 6 and plan.share == plan.budget // 3
            assert len(self.plan(folder, RunOptions(connection, jobs=2)).groups) == 2
        assert len(self.plan(folder, RunOptions(jobs=1)).groups) == 1

    def test_a_resumed_job_keeps_its_groups(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "write_plan", lambda *_: 1 / 0)
        plan = self.plan(folder, RunOptions(jobs=3))
        with pytest.raises(ZeroDivisionError):
            exchange.run_exchange(plan, RunOptions(jobs=3))
        assert len(plan.groups) == 3 and self.plan(folder, RunOptions(jobs=1, resume=True)).groups == plan.groups
        assert len(self.plan(folder, RunOptions(jobs=1)).groups) == 1

    def test_memory_is_within_the_limit_of_a_worker(self) -> None:
        assert Workers(8, 8, limit=1 << 30).share(4 << 30) == ((1 << 30) - (200 << 20)) // 16
        assert Workers(8, 8).share(4 << 30) == 1 << 29
