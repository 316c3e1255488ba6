"""htshuffle and htsort: what comes out, whoever works on it, and what happens when somebody is stopped."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardtools.errors import OutputExistsError
from shardtools.jobs import lock as locks
from shardtools.jobs.exchange.exchange import run_exchange
from shardtools.jobs.exchange.keying import Keying
from shardtools.jobs.exchange.plan import Exchange, plan_exchange
from shardtools.jobs.options import RunOptions
from shardtools.shards.sidecar import read_sidecar, write_sidecar
from shardtools.storage import get_storage
from tests.cli.command import Argument, Outcome, call, finish, run, start
from tests.contract.faults import Fault, FaultyProxy, plain_server
from tests.dask_cluster import dask_cluster
from tests.datasets import members, snapshot, tar_bytes, write_shard, written_dataset
from tests.servers import NginxServer, wait_until

SHARDS, SAMPLES = 5, 60

Sample = dict[str, object]


def samples(shard: int, count: int = SAMPLES) -> list[Sample]:
    choose = random.Random(shard)
    return [
        {
            "key": f"{'ab'[i % 2]}/{shard}{i:04d}",
            "cls": choose.randrange(9),
            "bin": choose.randbytes(choose.randrange(3000)),
        }
        for i in range(count)
    ]


ALL = [sample for shard in range(SHARDS) for sample in samples(shard)]


def read(folder: Path, pattern: str) -> list[list[tuple[str, dict[str, bytes]]]]:
    """Return the samples of each shard, as tarfile reads them: members of one key side by side."""
    shards = []
    for path in sorted(folder.glob(pattern)):
        found: list[tuple[str, dict[str, bytes]]] = []
        for name, data in members(path):
            key, _, field = name.rpartition("/")[2].partition(".")
            key = f"{name.rpartition('/')[0]}/{key}".lstrip("/")
            if not found or found[-1][0] != key:
                found.append((key, {}))
            assert field not in found[-1][1]
            found[-1][1][field] = data
        shards.append(found)
    return shards


def as_bytes(sample: Sample) -> tuple[str, dict[str, bytes]]:
    return str(sample["key"]), {
        name: value if isinstance(value, bytes) else str(value).encode()
        for name, value in sample.items()
        if name != "key"
    }


def counted(found: list[tuple[str, dict[str, bytes]]]) -> Counter[str]:
    return Counter(repr((key, sorted(fields.items()))) for key, fields in found)


EVERYTHING = counted([as_bytes(sample) for sample in ALL])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written_dataset(tmp_path, f"in-@{SHARDS}.tar", [samples(shard) for shard in range(SHARDS)])
    return tmp_path


SPEC = f"in-@{SHARDS}.tar"

GONE = 1 << 30
"""A process number that Linux never gives."""


def shuffle(folder: Path, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program="htshuffle")


def sort(folder: Path, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program="htsort")


def done(outcome: Outcome) -> Outcome:
    assert (outcome.status, outcome.err) == (0, ""), outcome
    return outcome


def no_spill(folder: Path) -> bool:
    return not list(folder.rglob("*shardtools-spill*"))


class TestShuffle:
    @pytest.mark.parametrize(("outputs", "ending"), [(1, "tar"), (5, "tgz"), (7, "tar.zst"), (3, "tar")])
    def test_everything_comes_out_once(self, folder: Path, outputs: int, ending: str) -> None:
        outcome = done(shuffle(folder, "--seed", "1", SPEC, f"out-@{outputs}.{ending}"))
        assert outcome.out.endswith(", seed 1\n") and f"{outputs} shard" in outcome.out
        shards = read(folder, f"out-*.{ending}")
        sizes = [len(shard) for shard in shards]
        assert len(sizes) == outputs and max(sizes) - min(sizes) <= 1
        found = [sample for shard in shards for sample in shard]
        assert counted(found) == EVERYTHING
        assert [key for key, _ in found] != [sample["key"] for sample in ALL]
        manifest = json.loads((folder / f"out-@{outputs}.{ending}.json").read_text())
        job = manifest["job"]
        assert manifest["nsamples"] == len(ALL) and job["seed"] == 1 and job["content"] and job["sources"] == [SPEC]
        assert no_spill(folder)
        verified = done(call(f"out-@{outputs}.{ending}", "--keys", "--verify", cwd=folder, program="htextract"))
        assert verified.out.splitlines() == [key for key, _ in found]

    def test_spans_are_moved_as_they_are(self, tmp_path: Path) -> None:
        """Headers too: owners, times and names that only a pax header can hold."""
        import io
        import tarfile

        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for i in range(9):
                info = tarfile.TarInfo(f"{'n' * 150}{i}.txt")
                info.size, info.mtime, info.uname = 1, 12345.5 + i, "somebody"
                archive.addfile(info, io.BytesIO(b"%d" % i))
        (tmp_path / "x.tar").write_bytes(file.getvalue())
        done(shuffle(tmp_path, "--seed", "1", "x.tar", "y-@2.tar"))
        found = {}
        for path in tmp_path.glob("y-?.tar"):
            with tarfile.open(path) as archive:
                found.update({info.name: (info.mtime, info.uname) for info in archive})
        assert found == {f"{'n' * 150}{i}.txt": (12345.5 + i, "somebody") for i in range(9)}

    def test_the_same_seed_is_the_same_order_for_everyone(self, folder: Path) -> None:
        out, source = "out-@4.tgz", f"{folder}/{SPEC}"  # as the manifest has it
        done(shuffle(folder, "--seed", "5", "-j", "1", source, f"a/{out}"))
        expected = snapshot(folder / "a")
        ways: dict[str, list[str]] = {
            "threads": ["-j", "4"],
            "memory": ["-j", "1", "--memory", "1MB"],
            "processes": ["-c", "processes"],
        }
        for name, way in ways.items():
            done(run("--seed", "5", *way, source, f"{name}/{out}", cwd=folder, program="htshuffle"))
            assert snapshot(folder / name) == expected, name
        with dask_cluster(workers=2) as cluster:
            arguments = ("--seed", "5", "-c", cluster.address, source, f"{folder}/cluster/{out}")
            done(run(*arguments, cwd=folder, program="htshuffle"))
        assert snapshot(folder / "cluster") == expected
        done(shuffle(folder, "--seed", "6", SPEC, f"b/{out}"))
        assert snapshot(folder / "b") != expected

    @pytest.mark.slow
    def test_memory_is_that_of_a_process_on_a_cluster_too(self, tmp_path: Path) -> None:
        """The threads of a worker share it: 8 of them, that had it each, would hold 8 times as much."""
        data = random.Random(0).randbytes(1_000_000)
        for shard in range(8):
            write_shard(tmp_path / f"in-{shard}.tar", [(f"{shard}-{i}.bin", data) for i in range(24)])
        arguments = ("--seed", "5", "--memory", "32MB", f"{tmp_path}/in-@8.tar")
        done(run(*arguments, f"{tmp_path}/here/out-@8.tar", cwd=tmp_path, program="htshuffle"))
        with dask_cluster(workers=1, threads=8) as cluster:
            where = ("-c", cluster.address)
            done(run(*where, *arguments, f"{tmp_path}/there/out-@8.tar", cwd=tmp_path, program="htshuffle"))
            status = Path(f"/proc/{cluster.workers[0].pid}/status").read_text()
        assert 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) < 240_000_000
        assert snapshot(tmp_path / "here") == snapshot(tmp_path / "there")

    def test_over_a_server(self, folder: Path, nginx: NginxServer) -> None:
        for path in folder.glob("in-*"):
            path.rename(nginx.root / path.name)
        done(run("--seed", "5", f"{nginx.url}{SPEC}", f"{nginx.url}out/o-@3.tgz", cwd=folder, program="htshuffle"))
        assert counted([s for shard in read(nginx.root / "out", "*.tgz") for s in shard]) == EVERYTHING
        spill = f"{nginx.url}spill/"
        arguments = ("--seed", "5", "--spill", spill, f"{nginx.url}{SPEC}", f"{nginx.url}out2/o-@3.tgz")
        done(run(*arguments, cwd=folder, program="htshuffle"))
        one, other = snapshot(nginx.root / "out"), snapshot(nginx.root / "out2")
        assert one == other and not [path for path in (nginx.root / "spill").rglob("*") if path.is_file()]

    def test_a_drawn_seed_is_told(self, folder: Path) -> None:
        done(shuffle(folder, SPEC, "a/out-@2.tar"))
        seed = json.loads((folder / "a/out-@2.tar.json").read_text())["job"]["seed"]
        done(shuffle(folder, "--seed", str(seed), SPEC, "b/out-@2.tar"))
        assert snapshot(folder / "a") == snapshot(folder / "b")
        done(shuffle(folder, SPEC, "c/out-@2.tar"))
        assert snapshot(folder / "c") != snapshot(folder / "a")

    def test_another_number_of_shards(self, folder: Path) -> None:
        done(shuffle(folder, "--no-shuffle", SPEC, "out-@7.tar"))
        found = [sample for shard in read(folder, "out-*.tar") for sample in shard]
        assert [key for key, _ in found] == [sample["key"] for sample in ALL] and counted(found) == EVERYTHING

    @pytest.mark.parametrize(("option", "value", "shards"), [("--shard-count", "100", 3), ("--shard-size", "400kB", 3)])
    def test_as_many_as_it_takes(self, folder: Path, option: str, value: str, shards: int) -> None:
        outcome = done(shuffle(folder, "--seed", "1", option, value, SPEC, "out-@auto.tar"))
        assert f"out-@{shards:06d}.tar: {shards} shards, 300 samples" in outcome.out
        assert len(read(folder, "out-0*.tar")) == shards

    def test_more_outputs_than_samples(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "x-@2.tar", [[{"key": "a", "txt": "t"}], []])
        outcome = done(shuffle(tmp_path, "--seed", "1", "x-@2.tar", "y-@4.tar"))
        assert ", 3 shards empty, " in outcome.out
        assert [len(shard) for shard in read(tmp_path, "y-?.tar")].count(1) == 1

    def test_what_belongs_to_no_sample_is_counted(self, tmp_path: Path) -> None:
        write_shard(tmp_path / "x.tar", [("README", b""), ("a.txt", b"1"), ("b.txt", b"2")])
        assert "1 member left out that belong to no sample" in done(shuffle(tmp_path, "x.tar", "y-@1.tar")).out

    def test_a_key_in_two_shards(self, tmp_path: Path) -> None:
        """Where they meet in an output they are an error; where not, they are none."""
        for shard in "01":
            write_shard(tmp_path / f"x-{shard}.tar", [("same.txt", shard.encode()), (f"o{shard}.txt", b"")])
        message = shuffle(tmp_path, "--seed", "1", "x-@2.tar", "y-@1.tar")
        assert message.status == 1 and "[same]: two samples have this key: sample 0 of" in message.err
        assert not list(tmp_path.glob("y-*"))
        outcomes = {shuffle(tmp_path, "--seed", str(seed), "x-@2.tar", f"z{seed}-@2.tar").status for seed in range(12)}
        assert outcomes == {0, 1}
        done(shuffle(tmp_path, "--seed", "1", "--on-duplicate", "rename", "x-@2.tar", "r-@1.tar"))
        assert {key for key, _ in read(tmp_path, "r-0.tar")[0]} == {"same", "same~1", "o0", "o1"}
        for which, data in (("first", b"0"), ("last", b"1")):
            done(shuffle(tmp_path, "--seed", "1", "--on-duplicate", which, "x-@2.tar", f"{which}-@1.tar"))
            assert dict(read(tmp_path, f"{which}-0.tar")[0])["same"] == {"txt": data}

    def test_a_shard_that_cannot_be_read(self, folder: Path) -> None:
        data = (folder / "in-2.tar").read_bytes()
        (folder / "in-2.tar").write_bytes(data[: len(data) // 2])
        (folder / "in-2.tar.index.npz").unlink()
        outcome = shuffle(folder, "--seed", "1", SPEC, "out-@3.tar")
        assert outcome.status == 1 and "in-2.tar" in outcome.err and not list(folder.glob("out-*"))
        outcome = shuffle(folder, "--seed", "1", "--on-error", "skip", SPEC, "out-@3.tar")
        assert outcome.status == 3 and "skipped: " in outcome.err and "in-2.tar" in outcome.err
        assert "240 samples, " in outcome.out and "1 shard of the sources skipped" in outcome.out
        assert sum(len(shard) for shard in read(folder, "out-*.tar")) == 4 * SAMPLES

    def test_dry_run(self, folder: Path) -> None:
        before = snapshot(folder)
        outcome = done(shuffle(folder, "--dry-run", SPEC, "out-@3.tar"))
        assert "would write 5 shards to 3 shards" in outcome.out and "temporary data: about " in outcome.out
        assert str(folder) in outcome.out and "requests: about " in outcome.out and snapshot(folder) == before

    @pytest.mark.parametrize("program", ["htshuffle", "htsort"])
    def test_a_flipped_bit_anywhere_in_a_run(
        self, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is an error, or the outputs are the right ones, if it is in what was read before."""
        from shardtools.jobs.exchange import exchange

        rows: list[Sample] = [{"key": f"{i:03d}", "cls": i % 3, "txt": "x"} for i in range(40)]
        written_dataset(tmp_path, "x-@2.tar", [rows[:20], rows[20:]])
        real, place = exchange.write_plan, 0.0

        def damaging(url: str, plan: object) -> None:
            real(url, plan)  # type: ignore[arg-type]
            path = next(Path(url).parent.glob("group-000001-0000"))
            data = bytearray(path.read_bytes())
            data[int(place * len(data))] ^= 1
            path.write_bytes(data)

        how = ("--seed", "1") if program == "htshuffle" else ("--by", "cls:int")
        done(call(*how, "-j", "2", "x-@2.tar", "right-@3.tar", cwd=tmp_path, program=program))
        expected = [path.read_bytes() for path in sorted(tmp_path.glob("right-?.tar"))]
        monkeypatch.setattr(exchange, "write_plan", damaging)
        noticed = 0
        for place in (0.1, *(0.9 + i / 300 for i in range(30))):  # most of it are the spans
            outcome = call(*how, "-j", "2", "--overwrite", "x-@2.tar", "out-@3.tar", cwd=tmp_path, program=program)
            if outcome.status == 0:
                assert [path.read_bytes() for path in sorted(tmp_path.glob("out-?.tar"))] == expected, place
            else:
                assert "group-000001-0000: " in outcome.err and "damaged" in outcome.err
                noticed += 1
        assert noticed > 15

    def test_damage_in_the_spill_is_noticed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from shardtools.jobs.exchange import exchange

        real = exchange.write_plan

        def damaging(url: str, plan: object) -> None:
            real(url, plan)  # type: ignore[arg-type]
            path = next(Path(url).parent.glob("group-000000-0000"))
            data = bytearray(path.read_bytes())
            data[5000] ^= 1
            path.write_bytes(data)

        monkeypatch.setattr(exchange, "write_plan", damaging)
        outcome = shuffle(folder, "--seed", "1", SPEC, "out-@3.tar")
        assert outcome.status == 1 and "group-000000-0000: samples were damaged in the spill" in outcome.err

    def test_a_sample_larger_than_a_run_may_be(self, tmp_path: Path) -> None:
        """The memory of the run before is used again, whether that was written or all of its samples were skipped."""
        small, large = {"key": "small", "bin": bytes(1 << 19)}, {"key": "large", "bin": bytes(9 << 20), "cls": 1}
        written_dataset(tmp_path, "x-@1.tar", [[small, large]])
        done(shuffle(tmp_path, "--seed", "1", "--memory", "4MB", "-j", "1", "x-@1.tar", "out-@1.tar"))
        sizes = {key: len(fields["bin"]) for key, fields in read(tmp_path, "out-*.tar")[0]}
        assert sizes == {"small": 1 << 19, "large": 9 << 20}
        skip = ("--by", "cls", "--on-error", "skip", "--memory", "4MB", "-j", "1")
        assert sort(tmp_path, *skip, "x-@1.tar", "sorted-@1.tar").status == 3
        assert [key for key, _ in read(tmp_path, "sorted-*.tar")[0]] == ["large"]

    def test_a_shard_that_ends_early_after_a_run_was_written(self, tmp_path: Path) -> None:
        """It is skipped as a whole."""
        sizes = {"a": 1 << 19, "b": 9 << 20, "c": 9 << 20}  # b comes when a is written, and c does not come
        broken = [{"key": key, "bin": bytes(size)} for key, size in sizes.items()]
        written_dataset(tmp_path, "x-@2.tar", [broken, [{"key": "d", "bin": b"d"}]])
        os.truncate(tmp_path / "x-0.tar", 18 << 20)
        (tmp_path / "x-0.tar.index.npz").unlink()
        outcome = shuffle(tmp_path, "--on-error", "skip", "--memory", "4MB", "-j", "1", "x-@2.tar", "out-@1.tar")
        assert outcome.status == 3 and "1 sample, 10.2 kB in " in outcome.out
        assert "1 shard of the sources skipped" in outcome.out and "sample skipped" not in outcome.out
        assert [key for key, _ in read(tmp_path, "out-*.tar")[0]] == ["d"]


class TestStopped:
    @pytest.mark.parametrize(
        ("where", "seed"),
        [("threads", 0), ("threads", 1), ("threads", 2), pytest.param("processes", 0, marks=pytest.mark.slow)],
    )
    def test_killed_at_some_moment_and_resumed(self, folder: Path, where: str, seed: int) -> None:
        arguments = ("--seed", "5", "-c", where, "--memory", "1MB", SPEC, "out/out-@6.tgz")
        done(run(*arguments, cwd=folder, program="htshuffle"))
        expected = snapshot(folder / "out")
        for path in (folder / "out").iterdir():
            path.unlink()
        choose = random.Random(seed)
        kills = 0
        while True:
            process = start("--resume", *arguments, cwd=folder, program="htshuffle")
            try:
                process.wait(choose.uniform(0.3, 1.2) * 2**kills)  # so that one of them has the time to end
            except TimeoutError:
                pass
            except Exception:  # noqa: S110 - it still runs: that is what the wait is for
                pass
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                finish(process)
                kills += 1
                continue
            done(finish(process))
            break
        found = {name: data for name, data in snapshot(folder / "out").items() if not name.startswith(".out-")}
        assert found == expected and no_spill(folder / "out")

    def test_what_is_there_is_not_done_again(self, folder: Path) -> None:
        done(shuffle(folder, "--seed", "5", SPEC, "out-@3.tar"))
        before = {path: path.stat().st_mtime_ns for path in folder.glob("out-*")}
        outcome = done(shuffle(folder, "--seed", "5", "--resume", SPEC, "out-@3.tar"))
        assert ", 3 shards there already" in outcome.out
        assert {path: path.stat().st_mtime_ns for path in folder.glob("out-*")} == before
        outcome = shuffle(folder, "--seed", "6", "--resume", SPEC, "out-@3.tar")
        assert outcome.status == 1
        assert "another job made this shard: another script or function, other options, or another" in outcome.err

    def stop_after_the_first_pass(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Path:
        """Let a shuffle fail where it would plan its second pass; return its spill."""
        with monkeypatch.context() as patch:
            patch.setattr("shardtools.jobs.exchange.exchange.write_plan", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                shuffle(folder, *arguments, SPEC, "out/o-@2.tar")
        [spill] = (folder / "out").glob(".shardtools-spill-*")
        return spill

    @pytest.mark.parametrize("left", ["of another seed", "in other groups", "cut off", "without a run"])
    def test_runs_that_do_not_fit_are_made_again(
        self, left: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done(shuffle(folder, "--seed", "1", SPEC, "right/o-@2.tar"))
        seed, how = ("7" if left == "of another seed" else "1"), ("--memory", "1MB", "-j", "4")
        spill = self.stop_after_the_first_pass(folder, monkeypatch, "--seed", seed, *how)
        if left == "in other groups":
            (spill / "job.json").unlink()
        elif left == "cut off":
            os.truncate(spill / "group-000001-0000", 5000)
        elif left == "without a run":
            (spill / "group-000001-0000").unlink()
        done(shuffle(folder, "--seed", "1", "-j", "1", "--resume", SPEC, "out/o-@2.tar"))
        assert snapshot(folder / "out") == snapshot(folder / "right")

    @pytest.mark.parametrize(
        ("what", "says"),
        [
            ("counts", "the outputs do not have as many samples as the inputs"),
            ("content", "the samples that came out are not those that went in"),
        ],
    )
    def test_an_output_that_is_not_what_it_was_made_of(self, what: str, says: str, folder: Path) -> None:
        """What is kept of an earlier run is compared with the inputs, too."""
        done(shuffle(folder, "--seed", "1", SPEC, "o-@2.tar"))
        (folder / "o-@2.tar.json").unlink()
        (folder / "o-1.tar.index.npz").unlink()
        sidecar = read_sidecar(str(folder / "o-0.tar"), None)
        assert sidecar is not None
        job = dict(sidecar.job)
        job |= {"counts": {**job["counts"], "read": 1}} if what == "counts" else {"content": "0" * 16}
        write_sidecar(str(folder / "o-0.tar"), replace(sidecar, job=job))
        outcome = shuffle(folder, "--seed", "1", "--resume", SPEC, "o-@2.tar")
        assert outcome.status == 1 and says in outcome.err and not (folder / "o-@2.tar.json").exists()

    def test_another_job_that_has_ended_meanwhile(self, folder: Path) -> None:
        """Its outputs are not replaced by one that was planned when there were none."""
        plan = plan_exchange(
            f"{folder}/{SPEC}", f"{folder}/o-@2.tar", Exchange("htshuffle", Keying("random", 1)), RunOptions()
        )
        done(shuffle(folder, "--seed", "2", SPEC, "o-@2.tar"))
        before = snapshot(folder)
        with pytest.raises(OutputExistsError):
            run_exchange(plan, RunOptions())
        assert snapshot(folder) == before

    def test_a_source_of_which_no_version_is_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may have changed though it is as large as before: neither runs nor outputs of before are believed."""
        with plain_server() as server:
            server.etag, url = None, f"{server.url}in.tar"

            def again(*options: str) -> Outcome:
                return sort(tmp_path, *options, url, "o-@1.tar")

            server.objects["in.tar"] = tar_bytes([("a.txt", b"1"), ("b.txt", b"1")])
            with monkeypatch.context() as patch:
                patch.setattr("shardtools.jobs.exchange.exchange.write_plan", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    again()
            server.objects["in.tar"] = tar_bytes([("a.txt", b"2"), ("b.txt", b"2")])
            done(again("--resume"))
            assert members(tmp_path / "o-0.tar") == [("a.txt", b"2"), ("b.txt", b"2")]
            assert "1 shard there already" in done(again("--resume")).out
            server.objects["in.tar"] = tar_bytes([("a.txt", b"3"), ("b.txt", b"3")])
            outcome = again("--resume")
            assert outcome.status == 1 and "or another version of the source" in outcome.err

    def test_what_was_skipped_is_not_complete(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who resumes it is told what is missing, and without ``--on-error skip`` it fails."""
        (tmp_path / "r.py").write_text(
            "def reduce_samples(key, records):\n    1 / int(key)\n    return {'key': key, 'txt': ''}\n"
        )
        rows: list[Sample] = [{"key": "0", "cls": 0}, {"key": "1", "txt": "x"}, {"key": "2", "cls": 2}]
        written_dataset(tmp_path, "x-@1.tar", [rows])
        commands = [("--by", "cls:int", "x-@1.tar", "a-@1.tar"), ("-p", "r.py", "x-@1.tar", "b-@1.tar")]
        for command in commands:
            with monkeypatch.context() as patch:
                patch.setattr("shardtools.jobs.exchange.exchange.write_plan", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    sort(tmp_path, "--on-error", "skip", *command)
            assert sort(tmp_path, "--resume", *command).status == 1
            assert sort(tmp_path, "--resume", "--on-error", "skip", *command).status == 3
            before = snapshot(tmp_path)
            again = sort(tmp_path, "--resume", "--on-error", "skip", *command)
            assert again.status == 3 and "1 sample skipped" in again.out and snapshot(tmp_path) == before
            assert sort(tmp_path, "--resume", *command).status == 1

    def test_what_an_earlier_attempt_has_left_is_removed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Runs of another grouping, which nobody continues, and drafts of the killed."""
        for place, arguments in (("default", ()), ("given", ("--spill", "spill"))):
            out = folder / place
            with monkeypatch.context() as patch:
                patch.setattr("shardtools.jobs.exchange.exchange.write_plan", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    shuffle(folder, "--seed", "1", *arguments, "--memory", "1MB", "-j", "4", SPEC, f"{out}/o-@2.tar")
            [spill] = [folder / "spill"] if arguments else out.glob(".shardtools-spill-*")
            assert len(list(spill.glob("group-*"))) >= 10
            done(shuffle(folder, "--seed", "1", *arguments, "-j", "1", SPEC, f"{out}/o-@2.tar"))
            assert not spill.exists() or not list(spill.iterdir())

    def test_a_drawn_seed_is_kept(self, folder: Path) -> None:
        """A job without --seed that is killed goes on with the seed that it has drawn."""
        (folder / "wait").touch()
        process = start("-j", "1", SPEC, "out-@3.tar", cwd=folder, program="htshuffle")
        wait_until(lambda: list(folder.glob(".shardtools-spill-*/job.json")), "the spill")
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        if not (folder / "out-@3.tar.json").exists():
            [noted] = folder.glob(".shardtools-spill-*/job.json")
            seed = json.loads(noted.read_text())["seed"]
            outcome = done(shuffle(folder, "--resume", SPEC, "out-@3.tar"))
            assert outcome.out.endswith(f", seed {seed}\n")

    def test_interrupted(self, folder: Path) -> None:
        written_dataset(folder, "many-@4.tar", [samples(shard, 3000) for shard in range(4)])
        process = start("-j", "1", "many-@4.tar", "out-@3.tar", cwd=folder, program="htshuffle")
        wait_until(lambda: list(folder.glob(".shardtools-spill-*/job.json")), "the spill")
        time.sleep(0)
        process.send_signal(signal.SIGINT)
        outcome = finish(process)
        assert outcome.status in (0, 130)
        if outcome.status == 130:
            assert "the spill is kept for --resume; else delete " in outcome.err and "Traceback" not in outcome.err


class TestPlaceOfTheSpill:
    """For a destination on a server it is in the folder for temporary files, under a name that can be guessed."""

    @pytest.fixture
    def temporary(self, tmp_path: Path) -> Path:
        """A folder that all may write to, as /tmp is."""
        path = tmp_path / "temporary"
        path.mkdir()
        path.chmod(0o1777)
        return path

    def begin(self, folder: Path, nginx: NginxServer, temporary: Path, *options: str) -> Outcome:
        arguments = ("--seed", "5", "-j", "1", *options, SPEC, f"{nginx.url}out-@3.tar")
        return run(*arguments, cwd=folder, env={"TMPDIR": str(temporary)}, program="htshuffle")

    def stop(self, folder: Path, nginx: NginxServer, temporary: Path) -> Path:
        """Let a shuffle fail in its second pass; return where its spill is."""
        for path in (folder / "in-0.tar", folder / "in-0.tar.index.npz"):
            path.rename(path.with_name(f"kept-{path.name}"))
        (folder / "in-0.tar").write_bytes(b"")
        assert self.begin(folder, nginx, temporary).status == 1
        for path in (folder / "in-0.tar", folder / "in-0.tar.index.npz"):
            path.with_name(f"kept-{path.name}").rename(path)
        [spill] = temporary.glob("shardtools-spill-*")
        return spill

    def test_nobody_else_can_look_into_it(self, folder: Path, nginx: NginxServer, temporary: Path) -> None:
        spill = self.stop(folder, nginx, temporary)
        assert spill.stat().st_mode & 0o777 == 0o700
        done(self.begin(folder, nginx, temporary, "--resume"))
        assert counted([s for shard in read(nginx.root, "out-?.tar") for s in shard]) == EVERYTHING
        assert list(temporary.iterdir()) == []

    @pytest.mark.parametrize("what", ["a link", "a file", "a folder of somebody else", "a folder that is open"])
    def test_what_is_not_ours_is_refused(self, what: str, folder: Path, nginx: NginxServer, temporary: Path) -> None:
        spill = self.stop(folder, nginx, temporary)
        before = snapshot(folder)
        shutil.rmtree(spill)
        elsewhere = folder / "elsewhere"
        if what == "a link":
            elsewhere.mkdir()
            spill.symlink_to(elsewhere)
        elif what == "a file":
            spill.write_text("")
        else:
            spill.mkdir()
            spill.chmod(0o777 if what == "a folder that is open" else 0o755)
            if what == "a folder of somebody else":
                if os.geteuid() != 0:
                    pytest.skip("only root can give a folder away")
                os.chown(spill, 65534, 65534)
        for options in ((), ("--resume",), ("--dry-run",)):
            outcome = self.begin(folder, nginx, temporary, *options)
            assert outcome.status == 1 and f"htshuffle: error: {spill}: this " in outcome.err
            assert outcome.err.endswith("; delete it, or name another folder with --spill\n")
        assert not (elsewhere.exists() and list(elsewhere.iterdir()))
        assert set(snapshot(folder)) - set(before) <= {"elsewhere/", f"temporary/{spill.name}"}
        assert not list(nginx.root.glob("out-*"))


BEATING = """
from shardtools.cli.htsort import main
from shardtools.jobs import lock

lock.PERIOD_SECONDS = 0.5
main(prog_name="htsort")
"""
"""htsort that shows twenty times as often as usual that it is alive, so that nobody waits long to see it."""


class TestTwoAtOnce:
    """Two shuffles to one destination: one works, the other one says so and does nothing."""

    def begin(self, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a sort that waits, in the first pass, until there is no file ``wait``; return when it is there."""
        (folder / "wait").touch()
        (folder / "slow.py").write_text(
            "import pathlib, time\n"
            "def sort_key(record):\n"
            "    pathlib.Path('started').touch()\n"
            "    while pathlib.Path('wait').exists():\n"
            "        time.sleep(0.01)\n"
            "    return record['key']\n"
        )
        command = [sys.executable, "-c", BEATING, "-p", "slow.py", "-j", "1", *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes)  # type: ignore[call-overload]
        wait_until((folder / "started").exists, "the first sample")
        return process  # type: ignore[no-any-return]

    def test_the_second_is_refused(self, place: str, folder: Path) -> None:
        first = self.begin(folder, SPEC, f"{place}out-@4.tar")
        for options in ((), ("--resume",), ("--overwrite",)):
            outcome = shuffle(folder, "--seed", "1", *options, SPEC, f"{place}out-@4.tar")
            lock = rf"{place or folder}/?out-@4.tar.lock"
            told = rf"{lock}: another job is writing here: process {first.pid} on \S+, since \S+; "
            assert re.match(told, outcome.error())
        (folder / "wait").unlink()
        done(finish(first))

    @pytest.fixture(params=["disk", "server"])
    def place(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """What the name of the destination begins with."""
        return "" if request.param == "disk" else str(request.getfixturevalue("nginx").url)

    def test_one_spill_for_two_destinations(self, folder: Path) -> None:
        first = self.begin(folder, "--spill", "spill", SPEC, "out-@4.tar")
        outcome = shuffle(folder, "--seed", "1", "--spill", "spill", SPEC, "other-@4.tar")
        assert "spill/job.lock: another job is writing here: " in outcome.error()
        (folder / "wait").unlink()
        done(finish(first))
        done(shuffle(folder, "--seed", "1", "--spill", "spill", SPEC, "other-@4.tar"))
        assert not list(folder.rglob("*.lock"))

    @pytest.mark.parametrize("options", [(), ("--resume",)])
    def test_after_a_kill_the_next_one_works(self, options: tuple[str, ...], place: str, folder: Path) -> None:
        """On the same machine it is known that the process is gone."""
        first = self.begin(folder, SPEC, f"{place}out-@4.tar")
        os.killpg(first.pid, signal.SIGKILL)
        finish(first)
        (folder / "wait").unlink()
        done(sort(folder, "-p", "slow.py", *options, SPEC, f"{place}out-@4.tar"))

    def test_where_nothing_can_be_created_exclusively(self, folder: Path, nginx: NginxServer) -> None:
        """A server without MOVE, such as many that only take PUT and GET."""
        refusal = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"

        def choose(head: bytes) -> Fault | None:
            return Fault(when=b"MOVE ", answer=refusal) if head.startswith(b"MOVE ") else None

        with FaultyProxy(nginx.url, choose=choose) as proxy:
            done(run("--seed", "5", SPEC, f"{proxy.url}out-@3.tar", cwd=folder, program="htshuffle"))
            assert any(line.startswith("MOVE ") for line in proxy.requests)
        assert counted([s for shard in read(nginx.root, "out-?.tar") for s in shard]) == EVERYTHING
        assert not list(nginx.root.rglob("*lock*"))

    def leave_a_lock(self, folder: Path) -> Path:
        """Leave what a killed job on another machine would. No process here has its number."""
        lock = folder / "out-@4.tar.lock"
        told = {"host": "elsewhere", "machine": "m", "pid": GONE, "run": "r", "since": "2026-11-24", "beats": 3}
        lock.write_text(json.dumps(told))
        return lock

    @pytest.mark.parametrize("text", [None, "", "[1]", "{"])
    def test_after_a_kill_elsewhere(self, text: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "PERIOD_SECONDS", 0.05)
        monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.5)
        lock = self.leave_a_lock(folder)
        if text is not None:
            lock.write_text(text)
        outcome = shuffle(folder, "--seed", "1", SPEC, "out-@4.tar")
        assert "another job is writing here: process " in outcome.error()
        assert lock.exists() and not list(folder.glob("out-?.tar"))
        outcome = shuffle(folder, "--seed", "1", "--resume", SPEC, "out-@4.tar")
        assert outcome.status == 0 and not lock.exists()

    def test_one_elsewhere_that_lives(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever waits to see whether a lock file is written again sees that."""
        monkeypatch.setattr(locks, "PERIOD_SECONDS", 0.05)
        lock = self.leave_a_lock(folder)
        ended = threading.Event()

        def beat() -> None:
            beats = 4
            while not ended.wait(0.02):
                with get_storage(str(lock)).create(str(lock)) as sink:
                    told = json.loads(lock.read_text()) | {"beats": (beats := beats + 1)}
                    sink.write(json.dumps(told).encode())

        other = threading.Thread(target=beat)
        other.start()
        try:
            outcome = shuffle(folder, "--seed", "1", "--resume", SPEC, "out-@4.tar")
            assert f"process {GONE} on elsewhere" in outcome.error()
        finally:
            ended.set()
            other.join()

    def test_one_that_was_taken_over_ends(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It was stopped for so long that it seemed dead; it notices, and leaves the lock to the other one."""
        monkeypatch.setattr(locks, "PERIOD_SECONDS", 0.05)
        (folder / "taken.py").write_text(
            "import pathlib, time\n"
            "def sort_key(record):\n"
            "    lock = pathlib.Path('out-@4.tar.lock')\n"
            "    if lock.exists() and not pathlib.Path('taken').exists():\n"
            "        pathlib.Path('taken').touch()\n"
            "        lock.write_text('{}')\n"
            "    end = time.monotonic() + 0.5\n"
            "    while time.monotonic() < end and record['key'] == 'a/00000':\n"
            "        time.sleep(0.01)\n"
            "    return record['key']\n"
        )
        outcome = sort(folder, "-j", "1", "-p", "taken.py", SPEC, "out-@4.tar")
        assert "another job has taken over what this one was writing" in outcome.error()
        assert (folder / "out-@4.tar.lock").read_text() == "{}" and not list(folder.glob("out-@4.tar.json"))


class TestSort:
    def keys(self, folder: Path, pattern: str = "out-*.tar") -> list[str]:
        return [key for shard in read(folder, pattern) for key, _ in shard]

    def test_by_key(self, folder: Path) -> None:
        done(sort(folder, "--memory", "1MB", SPEC, "out-@4.tar"))
        shards = read(folder, "out-*.tar")
        assert [key for shard in shards for key, _ in shard] == sorted(str(sample["key"]) for sample in ALL)
        assert counted([sample for shard in shards for sample in shard]) == EVERYTHING
        done(sort(folder, "--reverse", SPEC, "rev-@4.tar"))
        assert self.keys(folder, "rev-*.tar") == sorted((str(s["key"]) for s in ALL), reverse=True)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_by_a_field_it_is_stable(self, folder: Path, reverse: bool) -> None:
        done(sort(folder, "--by", "cls:int", *["--reverse"] * reverse, "--memory", "1MB", SPEC, "out-@4.tar"))
        expected = sorted(ALL, key=lambda s: int(str(s["cls"])), reverse=reverse)
        assert self.keys(folder) == [s["key"] for s in expected]
        classes = [{fields["cls"] for _, fields in shard} for shard in read(folder, "out-*.tar")]
        assert all(not a & b for a, b in pairwise(classes))

    def test_by_a_script(self, folder: Path) -> None:
        (folder / "s.py").write_text(
            "def sort_key(record, sign=1):\n    return sign * len(record['bin']), record['key']\n"
        )
        done(sort(folder, "-p", "s.py", "-a", "sign=-1", SPEC, "out-@3.tgz"))
        expected = sorted(ALL, key=lambda s: (-len(s["bin"]), s["key"]))  # type: ignore[arg-type]
        assert self.keys(folder, "out-*.tgz") == [s["key"] for s in expected]

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.lists(st.text("ab09é/A", min_size=1, max_size=5), max_size=8), min_size=1, max_size=3),
        st.integers(1, 4),
        st.sampled_from(["text", "natural"]),
    )
    def test_against_sorted(
        self, tmp_path_factory: pytest.TempPathFactory, values: list[list[str]], outputs: int, how: str
    ) -> None:
        folder = tmp_path_factory.mktemp("sorted")
        rows: list[list[Sample]] = [
            [{"key": f"{shard}-{i}", "txt": text} for i, text in enumerate(some)] for shard, some in enumerate(values)
        ]
        written_dataset(folder, f"in-@{len(rows)}.tar", rows)
        done(sort(folder, "--by", f"txt:{how}", f"in-@{len(rows)}.tar", f"out-@{outputs}.tar"))
        found = [(key, fields["txt"]) for shard in read(folder, "out-*.tar") for key, fields in shard]
        flat = [(str(s["key"]), str(s["txt"]).encode()) for some in rows for s in some]
        if how == "text":
            assert found == sorted(flat, key=lambda item: item[1])
        else:
            from shardtools.jobs.exchange.order import order_of_natural

            assert found == sorted(flat, key=lambda item: order_of_natural(item[1]))

    def test_keys_that_differ_in_case_or_form_only(self, tmp_path: Path) -> None:
        names = ["a", "A", "\u00e9", "e\u0301", "É", "a b"]
        written_dataset(tmp_path, "x-@1.tar", [[{"key": name, "txt": name} for name in names]])
        done(sort(tmp_path, "x-@1.tar", "out-@2.tar"))
        assert self.keys(tmp_path) == sorted(names, key=str.encode)

    def test_all_alike_are_in_one_shard(self, tmp_path: Path) -> None:
        rows: list[Sample] = [{"key": f"{i:03d}", "cls": 1} for i in range(50)]
        written_dataset(tmp_path, "x-@2.tar", [rows[:30], rows[30:]])
        outcome = done(sort(tmp_path, "--by", "cls", "x-@2.tar", "out-@3.tar"))
        assert (
            sorted(len(shard) for shard in read(tmp_path, "out-*.tar")) == [0, 0, 50]
            and "2 shards empty" in outcome.out
        )
        assert self.keys(tmp_path) == [f"{i:03d}" for i in range(50)]

    def test_what_cannot_be_sorted_by(self, folder: Path) -> None:
        written_dataset(folder, "some-@2.tar", [[{"key": "a", "txt": "t"}], [{"key": "b", "cls": 1}]])
        message = sort(folder, "--by", "txt", "-j", "1", "some-@2.tar", "out-@4.tar")
        assert message.status == 1 and "[b]: the sample has no txt to sort by" in message.err
        message = sort(folder, "--by", "bin:int", "-j", "1", SPEC, "out-@4.tar")
        assert message.status == 1 and "its bin is not a whole number: " in message.err
        skipped = sort(folder, "--by", "txt", "--on-error", "skip", "some-@2.tar", "out-@2.tar", "--overwrite")
        assert skipped.status == 3 and "1 sample skipped" in skipped.out

    @pytest.mark.parametrize("options", [(), ("--on-error", "skip"), ("--dry-run",)])
    def test_a_field_that_exists_nowhere(self, options: tuple[str, ...], folder: Path) -> None:
        """The sidecars tell it, so that no shard is read for it; without them the first sample does."""
        before = snapshot(folder)
        outcome = sort(folder, "--by", "clas:int", *options, SPEC, "out-@4.tar")
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err == "htsort: error: no sample has the field clas to sort by; the fields are bin, cls\n"
        assert snapshot(folder) == before
        (folder / "in-3.tar.index.npz").unlink()
        outcome = sort(folder, "--by", "clas:int", "-j", "1", SPEC, "out-@4.tar")
        assert outcome.status == 1 and "the sample has no clas to sort by" in outcome.err

    @pytest.mark.parametrize("place", ["default", "named"])
    def test_a_spill_that_nobody_can_use_is_removed(self, place: str, tmp_path: Path) -> None:
        """It is kept if a group was complete: a later run may skip the bad sample, or find it corrected."""
        first: Sample = {"key": "a", "json": {"n": 1}, "bin": bytes(2 << 20)}
        written_dataset(tmp_path, "x-@2.tar", [[first], [{"key": "b", "json": {"m": 1}}]])
        more = ("--spill", "spill") if place == "named" else ()
        for by, is_kept in (("json.nope", False), ("json.n", True)):
            outcome = sort(tmp_path, "--by", by, "-j", "1", "--memory", "1MB", *more, "x-@2.tar", "out-@1.tar")
            assert outcome.status == 1 and f"the sample has no {by} to sort by" in outcome.err
            assert ("the spill is kept for --resume" in outcome.err) == is_kept
            assert bool([*tmp_path.glob("**/job.json")]) == is_kept and not [*tmp_path.glob("**/*.lock")]

    def test_unique(self, folder: Path) -> None:
        done(sort(folder, "--by", "cls", "--unique", SPEC, "out-@2.tar"))
        first: dict[object, object] = {}
        for sample in ALL:
            first.setdefault(sample["cls"], sample["key"])
        assert self.keys(folder) == [first[c] for c in sorted(first)]  # type: ignore[type-var]

    def test_duplicates(self, tmp_path: Path) -> None:
        write_shard(tmp_path / "x-0.tar", [("a.txt", b"0"), ("b.txt", b"0")])
        write_shard(tmp_path / "x-1.tar", [("a.txt", b"1"), ("c.txt", b"1")])
        message = sort(tmp_path, "x-@2.tar", "out-@1.tar")
        assert message.status == 1
        assert (
            "[a]: two samples have this key: sample 0 of " in message.err and "x-1.tar; --on-duplicate" in message.err
        )
        message = sort(tmp_path, "--on-duplicate", "keep", "x-@2.tar", "out-@1.tar")
        assert message.status == 1 and "they would be neighbours, and read back as one sample" in message.err
        done(sort(tmp_path, "--on-duplicate", "rename", "x-@2.tar", "out-@1.tar"))
        assert self.keys(tmp_path) == ["a", "a~1", "b", "c"]
        write_shard(tmp_path / "y.tar", [("a~1.txt", b"a sample that has this name"), ("a.txt", b"2")])
        done(sort(tmp_path, "--on-duplicate", "rename", "x-@2.tar", "y.tar", "named-@1.tar"))
        assert self.keys(tmp_path, "named-*.tar") == ["a", "a~2", "a~3", "a~1", "b", "c"]
        done(sort(tmp_path, "--by", "txt", "--on-duplicate", "keep", "x-@2.tar", "kept-@1.tar"))
        assert self.keys(tmp_path, "kept-*.tar") == ["a", "b", "a", "c"]


REDUCE = """
def reduce_samples(key, records):
    total = sum(int(record.get("n.txt", b"1")) for record in records)
    return [{"key": f"class-{key}", "n.txt": str(total)}]
"""
COMBINE = (
    REDUCE
    + """
def combine_samples(key, records):
    total = sum(1 for record in records)
    yield {"key": f"part-{key}", "cls": key, "n.txt": str(total)}
"""
)


class TestReduce:
    @pytest.mark.parametrize("text", [REDUCE, COMBINE], ids=["reduce", "combine"])
    def test_counts_of_classes(self, folder: Path, text: str) -> None:
        (folder / "r.py").write_text(text)
        done(sort(folder, "--by", "cls:int", "-p", "r.py", "--memory", "1MB", SPEC, "out-@3.tar"))
        found = {key: int(fields["n.txt"]) for shard in read(folder, "out-*.tar") for key, fields in shard}
        assert found == {f"class-{c}": n for c, n in Counter(s["cls"] for s in ALL).items()}

    def test_a_group_larger_than_memory(self, tmp_path: Path) -> None:
        """400 MB of one key are reduced by a process that may hold 32 MB of samples."""
        choose = random.Random(0)
        data = choose.randbytes(1_000_000)
        files = [(f"{i:04d}.bin", data) for i in range(100)]
        for shard in range(4):
            (tmp_path / f"x-{shard}.tar").write_bytes(tar_bytes([(f"{shard}{name}", d) for name, d in files]))
        (tmp_path / "r.py").write_text(
            "import re\n"
            "def sort_key(record):\n    return 1\n"
            "def reduce_samples(key, records):\n"
            "    size = sum(len(record['bin']) for record in records)\n"
            "    peak = re.search('VmHWM:\\\\s+(\\\\d+)', open('/proc/self/status').read())[1]\n"
            "    yield {'key': 'all', 'size.txt': str(size), 'peak.txt': peak}\n"
        )
        arguments = ("-p", "r.py", "--memory", "32MB", "-j", "2", "x-@4.tar", "out-@2.tar")
        done(run(*arguments, cwd=tmp_path, program="htsort"))
        [(key, fields)] = [sample for shard in read(tmp_path, "out-*.tar") for sample in shard]
        assert (key, int(fields["size.txt"])) == ("all", 400_000_000)
        assert int(fields["peak.txt"]) * 1024 < 232_000_000

    def test_scripts_that_fail(self, folder: Path) -> None:
        (folder / "r.py").write_text("def reduce_samples(key, records):\n    raise KeyError(key)\n")
        message = sort(folder, "--by", "cls", "-p", "r.py", "-j", "1", SPEC, "out-@3.tar")
        assert message.status == 1 and "KeyError: '0' (r.py:2 in reduce_samples); correct the script" in message.err
        (folder / "r.py").write_text("def reduce_samples(key, records):\n    return 1.5\n")
        message = sort(folder, "--by", "cls", "-p", "r.py", SPEC, "out-@3.tar")
        assert "reduce_samples returned float; return None, a record (a dict), or several records" in message.err
        (folder / "r.py").write_text("def reduce_samples(records):\n    return []\n")
        message = sort(folder, "--by", "cls", "-p", "r.py", SPEC, "out-@3.tar")
        assert "reduce_samples takes one argument only; define reduce_samples(key, records)" in message.err
        (folder / "r.py").write_text("def process_sample(record):\n    return []\n")
        assert "the script defines no sort_key" in sort(folder, "-p", "r.py", SPEC, "out-@3.tar").err
        (folder / "r.py").write_text("def sort_key(record):\n    return {}\n")
        assert "a dict cannot be sorted by" in sort(folder, "-p", "r.py", SPEC, "out-@3.tar").err


class TestMerge:
    @pytest.mark.parametrize("how", ["inner", "outer", "left"])
    def test_against_a_dict(self, tmp_path: Path, how: str) -> None:
        choose = random.Random(1)
        sources: list[dict[str, Sample]] = []
        for name in ("png", "cls.txt", "emb"):
            keys = choose.sample([f"k/{i:03d}" for i in range(60)], 40)
            rows: list[Sample] = [{"key": key, name: choose.randbytes(50)} for key in keys]
            written_dataset(tmp_path, f"{name[:3]}-@2.tgz", [rows[:15], rows[15:]])
            sources.append({str(row["key"]): row for row in rows})
        specs = ["png-@2.tgz", "cls-@2.tgz", "emb-@2.tgz"]
        done(sort(tmp_path, "--merge", how, *specs, "out-@3.tar"))
        keys = set.union(*(set(source) for source in sources))
        wanted = {
            "outer": keys,
            "inner": set.intersection(*(set(source) for source in sources)),
            "left": set(sources[0]),
        }[how]
        expected = [as_bytes({k: v for s in sources if key in s for k, v in s[key].items()}) for key in sorted(wanted)]
        assert [sample for shard in read(tmp_path, "out-*.tar") for sample in shard] == expected
        assert call("out-@3.tar", "--verify", cwd=tmp_path, program="htextract").out.split() == sorted(wanted)

    @pytest.mark.parametrize("how", ["inner", "left"])
    def test_sources_that_are_one(self, tmp_path: Path, how: str) -> None:
        """A list of shards is one source: nothing would be joined, and every sample be kept."""
        write_shard(tmp_path / "x.tar", [("a.txt", b"1"), ("b.txt", b"2")])
        write_shard(tmp_path / "y.tar", [("a.cls", b"1")])
        message = sort(tmp_path, "--merge", how, "x.tar::y.tar", "out-@1.tar")
        assert message.status == 2 and f"--merge {how} needs several sources, and this is one; name each" in message.err
        done(sort(tmp_path, "--merge", how, "x.tar", "y.tar", "out-@1.tar"))

    def test_members_that_are_not_neighbours(self, tmp_path: Path) -> None:
        files = [("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"3"), ("c.png", b"4"), ("b.cls", b"5")]
        write_shard(tmp_path / "x-0.tar", files)
        write_shard(tmp_path / "x-1.tar", [("c.cls", b"6")])
        message = sort(tmp_path, "x-@2.tar", "out-@1.tar")
        assert message.status == 1 and "htsort --merge outer joins the members of a sample" in message.err
        done(sort(tmp_path, "--merge", "outer", "x-@2.tar", "out-@1.tar"))
        assert read(tmp_path, "out-0.tar")[0] == [
            ("a", {"png": b"1", "cls": b"3"}),
            ("b", {"png": b"2", "cls": b"5"}),
            ("c", {"png": b"4", "cls": b"6"}),
        ]

    def test_a_field_that_several_have(self, tmp_path: Path) -> None:
        for name, data in (("x", b"1"), ("y", b"2")):
            write_shard(tmp_path / f"{name}.tar", [("a.txt", data), (f"a.{name}", data)])
        message = sort(tmp_path, "--merge", "outer", "x.tar", "y.tar", "out-@1.tar")
        assert message.status == 1 and "two samples with this key have the field txt: sample 0 of " in message.err
        for which, data in (("first", b"1"), ("last", b"2")):
            done(sort(tmp_path, "--merge", "outer", "--on-conflict", which, "x.tar", "y.tar", f"{which}-@1.tar"))
            assert read(tmp_path, f"{which}-0.tar")[0] == [("a", {"txt": data, "x": b"1", "y": b"2"})]


BAD = {
    "two ways": (("--merge", "outer", "--unique"), "--merge, --unique and reduce_samples cannot be used together"),
    "a join by a field": (("--merge", "outer", "--by", "cls"), "--merge always joins samples by their key"),
    "a join by numbers": (("--merge", "outer", "--by", "key:int"), "--merge cannot join by key:int"),
    "no reading": (
        ("--by", "cls:number"),
        "--by cls:number: not of the form WHAT or WHAT:HOW; HOW is one of text, int",
    ),
    "no size": (("--memory", "much"), "--memory much: not a valid size; write it as 500MB or 2GB"),
    "two numbers": (("--shard-count", "5"), "the number of shards is given twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_options_that_make_no_sense(name: str, folder: Path) -> None:
    arguments, says = BAD[name]
    outcome = sort(folder, *arguments, SPEC, "out-@2.tar")
    assert outcome.status == 2 and says in outcome.err
