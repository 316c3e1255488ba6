"""What --resume keeps and what it makes again, and what --overwrite leaves behind when it fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.command import Outcome, call, run
from tests.contract.faults import plain_server
from tests.datasets import members, parts_of, sample_files, snapshot, tar_bytes, write_dataset, write_shard
from tests.servers import nginx_server

COUNTING = """
def process_sample(record, add=0):
    with open("calls", "a") as calls:
        calls.write(record["__shard__"] + "\\n")
    return {"key": record["key"], "cls": int(record["cls"]) + add}
"""
SPEC, OUT, SHARDS, SAMPLES = "in-@4.tar", "out-@4.tar", 4, 3
REFUSED = (
    "another job made this shard: another script or function, other options, or another version of the source; "
    "add --overwrite to replace such shards, or choose another destination"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a dataset and what a job made of it."""
    write_dataset(tmp_path, SHARDS, SAMPLES)
    (tmp_path / "job.py").write_text(COUNTING)
    outcome = call("-p", "job.py", SPEC, OUT, cwd=tmp_path)
    assert (outcome.status, outcome.err) == (0, "")
    assert worked_on(tmp_path) == set(range(SHARDS))
    return tmp_path


def again(folder: Path, *options: str) -> Outcome:
    return call("-j", "1", "-p", "job.py", *options, SPEC, OUT, cwd=folder)


def worked_on(folder: Path) -> set[int]:
    """Return the shards for which the script was called, for each of its samples once, and forget the calls."""
    calls = folder / "calls"
    lines = calls.read_text().split() if calls.exists() else []
    calls.unlink(missing_ok=True)
    assert len(lines) == SAMPLES * len(set(lines))
    return {int(line.removeprefix("in-").removesuffix(".tar")) for line in set(lines)}


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in snapshot(folder).items() if name.lstrip(".").startswith("out")}


class TestUnchanged:
    @pytest.mark.parametrize("flags", [("--resume",), ("--resume", "--overwrite")])
    def test_keeps_everything(self, flags: tuple[str, ...], folder: Path) -> None:
        before = outputs(folder)
        stamps = {name: os.stat(folder / name).st_mtime_ns for name in before if not name.endswith(".json")}
        outcome = again(folder, *flags)
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith(f"{folder}/{OUT}: 4 shards, 12 samples, ")
        assert ", 4 shards there already" in outcome.out
        assert worked_on(folder) == set()
        assert outputs(folder) == before
        assert {name: os.stat(folder / name).st_mtime_ns for name in stamps} == stamps

    def test_how_it_is_run_does_not_matter(self, folder: Path) -> None:
        (folder / "job.py").rename(folder / "renamed.py")
        options = ("-q", "--resume", "-c", "processes", "-j", "2", "--on-error", "skip", "-p", "renamed.py")
        assert run(*options, f"file://{folder}/{SPEC}", f"./{OUT}", cwd=folder).status == 0
        assert worked_on(folder) == set()

    @pytest.mark.parametrize(
        "lost", ["out-2.tar", "out-2.tar.index.npz", "out-@4.tar.json", "out-2.tar out-2.tar.index.npz out-@4.tar.json"]
    )
    def test_makes_what_is_missing(self, lost: str, folder: Path) -> None:
        before = outputs(folder)
        for name in lost.split():
            (folder / name).unlink()
        assert again(folder, "--resume").status == 0
        assert worked_on(folder) == ({2} if "out-2" in lost else set())
        assert outputs(folder) == before

    @pytest.mark.parametrize("damage", ["shard grew", "of another shard", "no sidecar", "empty"])
    def test_makes_a_shard_again_whose_mark_does_not_fit(self, damage: str, folder: Path) -> None:
        before = outputs(folder)
        if damage == "shard grew":
            (folder / "out-2.tar").write_bytes(before["out-2.tar"] + bytes(10240))
        elif damage == "of another shard":
            write_shard(folder / "big.tar", sample_files(9, 99))
            assert call("-q", "-p", "job.py", "big.tar", "other/big.tar", cwd=folder).status == 0
            (folder / "calls").unlink()
            (folder / "other/big.tar.index.npz").replace(folder / "out-2.tar.index.npz")
        else:
            (folder / "out-2.tar.index.npz").write_bytes(b"" if damage == "empty" else b"PK nonsense")
        assert again(folder, "--resume").status == 0
        assert worked_on(folder) == {2}
        assert outputs(folder) == before


class TestChanged:
    def changes(self, folder: Path, change: str) -> tuple[str, ...]:
        """Change the job, or one of its sources; return options."""
        if change == "script":
            (folder / "job.py").write_text(COUNTING + "# another\n")
        elif change == "source":
            write_shard(folder / "in-2.tar", sample_files(7, SAMPLES))
        return ("-a", "add=5") if change == "parameter" else ()

    @pytest.mark.parametrize(
        ("change", "concerns"), [("script", {0, 1, 2, 3}), ("parameter", {0, 1, 2, 3}), ("source", {2})]
    )
    def test_refuses_and_with_overwrite_makes_those_again(self, change: str, concerns: set[int], folder: Path) -> None:
        options = self.changes(folder, change)
        before = outputs(folder)
        error = again(folder, "--resume", *options).error()
        assert error == f"{folder}/out-{min(concerns)}.tar: {REFUSED}"
        assert worked_on(folder) == set()
        assert outputs(folder) == before

        assert again(folder, "--resume", "--overwrite", *options).status == 0
        assert worked_on(folder) == concerns
        resumed = outputs(folder)
        assert all((resumed[f"out-{i}.tar"] != before[f"out-{i}.tar"]) or change == "script" for i in concerns)
        assert again(folder, "--overwrite", *options).status == 0
        assert outputs(folder) == resumed

    def test_shards_of_two_jobs(self, folder: Path) -> None:
        """A job that was refused at one shard goes on with the others once that one may be replaced."""
        (folder / "job.py").write_text(COUNTING + "# another\n")
        for i in (0, 1):
            (folder / f"out-{i}.tar").unlink()
        assert again(folder, "--resume").error() == f"{folder}/out-2.tar: {REFUSED}"
        assert worked_on(folder) == {0, 1}
        assert f"{OUT}.json" not in outputs(folder)
        assert again(folder, "--resume", "--overwrite").status == 0
        assert worked_on(folder) == {2, 3}
        resumed = outputs(folder)
        assert again(folder, "--overwrite").status == 0
        assert outputs(folder) == resumed

    def test_skipped_samples_are_tried_again_if_they_may_not_be_skipped(self, folder: Path) -> None:
        (folder / "bad.py").write_text("def process_sample(r):\n    return r if r['key'] != '2/0001' else 1\n")
        command = ("-j", "1", "-p", "bad.py", SPEC, "bad/out-@4.tar")
        assert call("--on-error", "skip", *command, cwd=folder).status == 3
        before = snapshot(folder / "bad")
        outcome = call("--on-error", "skip", "--resume", *command, cwd=folder)
        assert outcome.status == 3 and "4 shards there already" in outcome.out
        assert outcome.err == f"htmapper: skipped: {folder}/in-2.tar [2/0001]: process_sample returned int\n"
        assert call("--resume", *command, cwd=folder).error().startswith(f"{folder}/in-2.tar [2/0001]: process_sample")
        assert snapshot(folder / "bad") == before


class TestOverwrite:
    def test_makes_everything_again(self, folder: Path) -> None:
        before = outputs(folder)
        assert again(folder, "--overwrite", "-a", "add=5").status == 0
        assert worked_on(folder) == {0, 1, 2, 3}
        after = outputs(folder)
        assert set(after) == set(before) == parts_of("out", shards=SHARDS)
        assert [data for _, data in members(folder / "out-0.tar")] == [b"5", b"6", b"7"]

    def test_that_fails_in_the_middle_leaves_nothing_that_vouches_for_a_mixture(self, folder: Path) -> None:
        before = outputs(folder)
        good = (folder / "in-2.tar").read_bytes()
        (folder / "in-2.tar").write_bytes(good[:2000])
        assert "the shard ends" in again(folder, "--overwrite", "-a", "add=5").error()
        after = outputs(folder)
        assert set(after) == set(before) - {f"{OUT}.json"}
        for i in range(SHARDS):
            names = (f"out-{i}.tar", f"out-{i}.tar.index.npz")
            assert all((after[name] == before[name]) == (i >= 2) for name in names), i
        (folder / "in-2.tar").write_bytes(good)
        assert again(folder, "--overwrite", "--resume", "-a", "add=5").status == 0
        resumed = outputs(folder)
        assert again(folder, "--overwrite", "-a", "add=5").status == 0
        assert outputs(folder) == resumed

    @pytest.mark.parametrize("flags", [("--overwrite",), ("--overwrite", "--resume")])
    def test_that_replaces_nothing_leaves_everything(self, flags: tuple[str, ...], folder: Path) -> None:
        before = outputs(folder)
        (folder / "job.py").write_text("def process_sample(record):\n    raise ValueError('no')\n")
        assert "ValueError: no" in again(folder, *flags).error()
        assert outputs(folder) == before

    def test_one_packing_by_another(self, folder: Path) -> None:
        """Files of other names are others' files."""
        assert call("-p", "job.py", SPEC, "out-@4.tgz", cwd=folder).status == 0
        assert set(outputs(folder)) == parts_of("out", shards=4) | parts_of("out", shards=4, ending="tgz")


def test_over_http(folder: Path) -> None:
    """The sidecars, the manifest and what must be deleted are found by the server's listing."""
    with nginx_server(folder) as server:

        def over_http(*options: str) -> Outcome:
            return call("-j", "1", "-p", "job.py", *options, f"{server.url}{SPEC}", f"{server.url}{OUT}", cwd=folder)

        assert over_http("--resume").error() == f"{server.url}out-0.tar: {REFUSED}"
        assert over_http("--overwrite").status == 0
        worked_on(folder)
        before = outputs(folder)
        assert again(folder, "--resume").error() == f"{folder}/out-0.tar: {REFUSED}"
        for name in ("out-1.tar", "out-2.tar.index.npz", f"{OUT}.json"):
            (folder / name).unlink()
        outcome = over_http("--resume")
        assert (outcome.status, outcome.err) == (0, "")
        assert worked_on(folder) == {1, 2}
        assert outputs(folder) == before
        sources = json.loads(before[f"{OUT}.json"])["job"]["sources"]
        assert sources == [f"{server.url}{SPEC}"]


def test_a_source_of_which_the_server_tells_no_version(folder: Path) -> None:
    """It may have changed though it is as large as before, so its output is made again."""
    with plain_server() as server:
        server.etag = None
        server.objects["in.tar"] = tar_bytes([("a.cls", b"1")])
        command = ("-p", "job.py", "--resume", f"{server.url}in.tar", "one.tar")
        assert call(*command, cwd=folder).status == 0
        server.objects["in.tar"] = tar_bytes([("a.cls", b"2")])
        assert call(*command, cwd=folder).status == 0
    assert members(folder / "one.tar") == [("a.cls", b"2")]
