"""What htmapper does with a script that works, and with each of its options."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shardtools import __version__
from tests.cli.command import HTMAPPER, call, run
from tests.datasets import members, parts_of, sample_files, snapshot, tar_bytes, tar_members, write_dataset, write_shard


def script(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(text)
    return "script.py"


def map_one(folder: Path, text: str, *options: str, files: list[tuple[str, bytes]] | None = None) -> dict[str, bytes]:
    """Map one shard by a script and return the members of what comes out."""
    write_shard(folder / "in.tar", files or [("a.txt", b"1"), ("b.txt", b"2"), ("c.txt", b"3")])
    outcome = call("-p", script(folder, text), *options, "in.tar", "out.tar", cwd=folder)
    assert (outcome.status, outcome.err) == (0, "")
    return dict(members(folder / "out.tar"))


class TestScript:
    def test_first_example_of_the_readme(self, folder: Path) -> None:
        files = [("1.bin.png", b"B"), ("1.lines.png", b"L"), ("1.txt", b"x"), ("2.lines.png", b"M"), ("2.txt", b"y")]
        text = (
            "def process_sample(record):\n"
            '    if "bin.png" not in record: return None\n'
            '    return {"key": record["key"], "png": record["bin.png"], "lines.png": record["lines.png"]}\n'
        )
        assert map_one(folder, text, files=files) == {"1.lines.png": b"L", "1.png": b"B"}

    def test_dropping(self, folder: Path) -> None:
        write_shard(folder / "in.tar", [(f"{i}.txt", b"") for i in range(10)])
        text = "def process_sample(r):\n    return {'2': None, '3': [], '4': [r, dict(r, key='5a')]}.get(r['key'], r)\n"
        outcome = call("-p", script(folder, text), "--report", "r.json", "in.tar", "out.tar", cwd=folder)
        assert (outcome.status, outcome.err) == (0, "")
        assert "9 samples, " in outcome.out and "2 samples dropped" in outcome.out
        assert json.loads((folder / "r.json").read_text())["counts"] == {
            "read": 10,
            "dropped": 2,
            "skipped": 0,
            "written": 9,
            "others": 0,
        }

    @pytest.mark.parametrize(
        "returned",
        [
            "[first, second]",
            "(first, second)",
            "(part for part in [first, second])",
            "{'k': first, 'l': second}.values()",
        ],
    )
    def test_several_records(self, returned: str, folder: Path) -> None:
        text = (
            "def process_sample(record):\n"
            "    first = {'key': record['key'] + '1', 'txt': 'x'}\n"
            "    second = {'key': record['key'] + '2', 'cls': 7}\n"
            f"    return {returned}\n"
        )
        assert map_one(folder, text) == {
            f"{key}{end}": value for key in "abc" for end, value in (("1.txt", b"x"), ("2.cls", b"7"))
        }

    def test_generator_function(self, folder: Path) -> None:
        text = (
            "def process_sample(record):\n"
            "    for i in range(int(record['txt'])):\n"
            "        yield {'key': f\"{record['key']}{i}\", 'txt': record['txt']}\n"
        )
        assert list(map_one(folder, text)) == ["a0.txt", "b0.txt", "b1.txt", "c0.txt", "c1.txt", "c2.txt"]

    def test_process_samples(self, folder: Path) -> None:
        text = (
            "def process_samples(records, step=1):\n"
            "    batch = list(records)\n"
            "    for record in batch[::step]:\n"
            "        yield {'key': record['key'], 'json': {'of': len(batch)}}\n"
        )
        assert map_one(folder, text) == {f"{key}.json": b'{"of": 3}' for key in "abc"}
        (folder / "out.tar").unlink()
        assert list(map_one(folder, text, "-a", "step=2", "--overwrite")) == ["a.json", "c.json"]

    def test_values_are_encoded_by_extension(self, folder: Path) -> None:
        text = (
            "import numpy as np\nfrom PIL import Image\n"
            "def process_sample(record):\n"
            "    image = np.arange(12, dtype=np.uint8).reshape(3, 4)\n"
            "    return {'key': record['key'], 'txt': 'grün', 'cls': 7, 'json': {'b': [1, None]}, 'npy': image,\n"
            "            'png': image, 'mask.png': Image.new('L', (2, 2), 9), 'bin': b'raw', 'raw': bytearray(b'r')}\n"
        )
        found = map_one(folder, text, files=[("a.txt", b"1")])
        assert found["a.txt"] == "grün".encode()
        assert found["a.cls"] == b"7"
        assert json.loads(found["a.json"]) == {"b": [1, None]}
        image = np.arange(12, dtype=np.uint8).reshape(3, 4)
        assert np.array_equal(np.load(io.BytesIO(found["a.npy"])), image)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found["a.png"]))), image)
        assert Image.open(io.BytesIO(found["a.mask.png"])).getpixel((0, 0)) == 9
        assert (found["a.bin"], found["a.raw"]) == (b"raw", b"r")
        assert list(found) == sorted(found)

    def test_names_that_a_record_knows(self, folder: Path) -> None:
        text = (
            "def process_sample(r):\n"
            "    names = ['__key__', '__url__', '__shard__', '__index__']\n"
            "    known = {name: r[name] for name in names} | {'all': sorted(r), 'in': [n in r for n in names]}\n"
            "    return {'key': r['key'], 'json': known, '__url__': 'never written', '__note__': 1}\n"
        )
        found = map_one(folder, text)
        assert set(found) == {"a.json", "b.json", "c.json"}
        assert json.loads(found["b.json"]) == {
            "__key__": "b",
            "__url__": f"{folder}/in.tar",
            "__shard__": "in.tar",
            "__index__": 1,
            "all": ["key", "txt"],
            "in": [True] * 4,
        }

    def test_key_may_be_given_as_webdataset_names_it(self, folder: Path) -> None:
        text = "def process_sample(r):\n    return {'__key__': 'new/' + r['__key__'], 'txt': r['txt']}\n"
        assert map_one(folder, text) == {"new/a.txt": b"1", "new/b.txt": b"2", "new/c.txt": b"3"}

    def test_parameters(self, folder: Path) -> None:
        text = "def process_sample(r, **given):\n    return {'key': r['key'], 'json': given}\n"
        options = ["size=256", "mode=RGB", "ratio=.5", "on=True", "names=['a', 'b']", "text='7'", "empty=", "eq=a=b"]
        found = map_one(folder, text, *(word for option in options for word in ("-a", option)))
        assert json.loads(found["a.json"]) == {
            "size": 256,
            "mode": "RGB",
            "ratio": 0.5,
            "on": True,
            "names": ["a", "b"],
            "text": "7",
            "empty": "",
            "eq": "a=b",
        }


class TestSpecs:
    def test_several_sources(self, folder: Path) -> None:
        for i in range(5):
            write_shard(folder / f"{'abcde'[i]}-{i}.tar", sample_files(i, 1))
        outcome = call("-p", "same.py", "a-0.tar::b-1.tar", "{c-2,d-3}.tar", "e-*.tar", "o/out-@5.tar", cwd=folder)
        assert (outcome.status, outcome.err) == (0, "")
        assert [members(folder / f"o/out-{i}.tar")[0][0] for i in range(5)] == [f"{i}/0000.cls" for i in range(5)]

    def test_auto(self, folder: Path) -> None:
        spec = write_dataset(folder, 3, 2)
        outcome = call("-p", "same.py", spec, "o/out-@auto.tgz", cwd=folder)
        assert outcome.out.startswith(f"{folder}/o/out-@000003.tgz: 3 shards, 6 samples, ")
        names = {f"out-{i:06d}.tgz{end}" for i in range(3) for end in ("", ".index.npz")}
        assert set(snapshot(folder / "o")) == names | {"out-@000003.tgz.json"}

    def test_packing_follows_the_names(self, folder: Path) -> None:
        write_dataset(folder, 1, 50, ending="tgz")
        expected = list(sample_files(0, 50))
        names = ["in-0.tgz", "a.tar", "b.tar.zst", "c.tar.gz", "d.tar"]
        for source, target in pairwise(names):
            assert call("-q", "-p", "same.py", source, target, cwd=folder).status == 0
            assert members(folder / target) == expected
        assert (folder / "a.tar").read_bytes() == (folder / "d.tar").read_bytes()

    def test_manifest_and_sidecars(self, folder: Path) -> None:
        write_dataset(folder, 2, 3)
        call("-p", "same.py", "in-@2.tar", "out-@2.tar", cwd=folder)
        manifest = json.loads((folder / "out-@2.tar.json").read_text())
        assert manifest["wids_version"] == 1 and manifest["__kind__"] == "wids-shard-index-v1"
        assert (manifest["nsamples"], manifest["fields"]) == (6, {"cls": 6, "txt": 6})
        assert [entry["url"] for entry in manifest["shardlist"]] == ["out-0.tar", "out-1.tar"]
        for entry in manifest["shardlist"]:
            assert entry["filesize"] == (folder / entry["url"]).stat().st_size
            assert entry["nsamples"] == 3
        assert manifest["job"]["program"] == "htmapper"
        assert manifest["job"]["sources"] == ["in-@2.tar"]
        with np.load(folder / "out-0.tar.index.npz", allow_pickle=False) as sidecar:
            assert sidecar["size"].tolist() == [1, 20] * 3


class TestPipes:
    def pipe(self, folder: Path, *arguments: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [HTMAPPER, "-p", "same.py", *arguments]
        return subprocess.run(command, cwd=folder, input=data, capture_output=True, check=False, timeout=60)

    def test_both_ends(self, folder: Path) -> None:
        before = snapshot(folder)
        shard = write_shard(folder / "a.tgz", sample_files(0, 5))
        (folder / "a.tgz").rename(folder / "moved.tgz")
        done = subprocess.run(
            f"cat moved.tgz | {HTMAPPER} -p same.py - - | tar tf -",
            shell=True,
            cwd=folder,
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.decode().splitlines() == [name for name, _ in sample_files(0, 5)]
        assert done.stderr.decode().startswith("-: 1 shard, 5 samples, ")
        assert not shard.exists()
        assert set(snapshot(folder)) == {*before, "moved.tgz"}

    def test_input(self, folder: Path) -> None:
        data = tar_bytes(sample_files(0, 5))
        assert self.pipe(folder, "-", "out.tgz", data=data).returncode == 0
        assert members(folder / "out.tgz") == list(sample_files(0, 5))

    def test_output(self, folder: Path) -> None:
        write_dataset(folder, 1, 5)
        done = self.pipe(folder, "-q", "in-0.tar", "-", data=b"")
        assert (done.returncode, done.stderr) == (0, b"")
        assert tar_members(done.stdout) == list(sample_files(0, 5))

    @pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
    def test_flags_change_nothing(self, flag: str, folder: Path) -> None:
        done = self.pipe(folder, flag, "-", "-", data=tar_bytes(sample_files(0, 5)))
        assert (done.returncode, tar_members(done.stdout)) == (0, list(sample_files(0, 5)))

    def test_input_is_never_taken_for_what_was_read_before(self, folder: Path) -> None:
        for shard in (1, 2):
            done = self.pipe(folder, "--resume", "-", "out.tar", data=tar_bytes(sample_files(shard, 5)))
            assert done.returncode == 0, done.stderr
            assert members(folder / "out.tar") == list(sample_files(shard, 5))

    def test_skipped_samples_are_listed(self, folder: Path) -> None:
        (folder / "same.py").write_text("def process_sample(r):\n    return 1 // int(r['cls'])\n")
        data = tar_bytes([("a.cls", b"0")])
        done = self.pipe(folder, "--on-error", "skip", "--report", "r.json", "-", "-", data=data)
        assert done.returncode == 3
        assert tar_members(done.stdout) == []
        [told] = [line for line in done.stderr.decode().splitlines() if "skipped: -" in line]
        assert told.startswith("htmapper: skipped: - [a]: ZeroDivisionError: ")
        assert [entry["key"] for entry in json.loads((folder / "r.json").read_text())["skipped"]] == ["a"]

    def test_empty_input(self, folder: Path) -> None:
        done = self.pipe(folder, "-", "out.tar", data=b"")
        assert done.returncode == 1
        assert done.stderr.decode().startswith("htmapper: error: -: ")
        assert set(snapshot(folder)) == {"same.py"}

    def test_reader_that_goes_away(self, folder: Path) -> None:
        write_shard(folder / "in.tar", sample_files(0, 200, size=50_000))
        process = subprocess.Popen(
            [HTMAPPER, "-p", "same.py", "in.tar", "-"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1000)
        process.stdout.close()
        error = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(60) == 1
        assert error == "htmapper: error: -: whatever read this pipe has closed it; let it read to the end\n"

    def test_nobody_reads_the_summary(self, folder: Path) -> None:
        write_dataset(folder, 1, 5)
        read, write = os.pipe()
        os.close(read)
        process = subprocess.Popen(
            [HTMAPPER, "-p", "same.py", "in-0.tar", "out.tar"], cwd=folder, stdout=write, stderr=subprocess.PIPE
        )
        os.close(write)
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
        assert (folder / "out.tar.json").exists()


class TestDryRun:
    def test_says_what_would_be_done_and_does_nothing(self, folder: Path) -> None:
        write_dataset(folder, 5, 2)
        (folder / "bad.py").write_text("def process_sample(record):\n    raise ValueError\n")
        before = snapshot(folder)
        outcome = call(
            "--dry-run", "-p", "bad.py", "--report", "r.json", "in-@5.tar", "new/deep/out-@auto.tar", cwd=folder
        )
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.splitlines() == [
            f"would map 5 shards to {folder}/new/deep/out-@000005.tar",
            "outputs that exist: 0",
            f"{folder}/in-0.tar -> {folder}/new/deep/out-000000.tar",
            f"{folder}/in-1.tar -> {folder}/new/deep/out-000001.tar",
            "... and 3 more (-v shows them all)",
        ]
        outcome = call("--dry-run", "-v", "-p", "bad.py", "in-@5.tar", "new/deep/out-@5.tar", cwd=folder)
        assert len(outcome.out.splitlines()) == 7
        assert snapshot(folder) == before

    def test_keeps_what_would_be_replaced(self, folder: Path) -> None:
        write_dataset(folder, 2, 2)
        assert call("-p", "same.py", "in-@2.tar", "out-@2.tar", cwd=folder).status == 0
        before = snapshot(folder)
        outcome = call("--dry-run", "--overwrite", "-p", "same.py", "in-@2.tar", "out-@2.tar", cwd=folder)
        assert "outputs that exist: 5\n" in outcome.out
        assert snapshot(folder) == before


class TestReport:
    def test_on_success(self, folder: Path) -> None:
        write_dataset(folder, 2, 3)
        outcome = call("-p", "same.py", "--report", "new/r.json", "in-@2.tar", "out-@2.tar", cwd=folder)
        assert outcome.status == 0
        size = sum((folder / f"out-{i}.tar").stat().st_size for i in range(2))
        assert json.loads((folder / "new/r.json").read_text()) == {
            "job": {"program": "htmapper", "sources": ["in-@2.tar"], "script": "same.py", "params": {}},
            "error": None,
            "counts": {"read": 6, "dropped": 0, "skipped": 0, "written": 6, "others": 0},
            "shards": 2,
            "resumed": 0,
            "filesize": size,
            "skipped": [],
            "incidents": {"retries": 0, "slow_requests": 0, "lost_workers": 0, "repeated_tasks": 0},
        }
        call("-p", "same.py", "--resume", "--report", "new/r.json", "in-@2.tar", "out-@2.tar", cwd=folder)
        report = json.loads((folder / "new/r.json").read_text())
        assert (report["resumed"], report["filesize"], report["counts"]["written"]) == (2, size, 6)

    def test_on_failure(self, folder: Path) -> None:
        write_dataset(folder, 3, 3)
        (folder / "in-1.tar").unlink()
        outcome = call("-j", "1", "-p", "same.py", "--report", "r.json", "in-@3.tar", "out-@3.tar", cwd=folder)
        assert outcome.status == 1
        report = json.loads((folder / "r.json").read_text())
        assert report["error"] == f"{folder}/in-1.tar: there is no such file; check the path"
        assert (report["shards"], report["counts"]["written"]) == (1, 3)

    def test_on_skip(self, folder: Path) -> None:
        write_dataset(folder, 3, 3)
        (folder / "in-1.tar").unlink()
        (folder / "bad.py").write_text("def process_sample(r):\n    return r if r['cls'] != b'2' else 1\n")
        command = ("-p", "bad.py", "--on-error", "skip", "--report", "r.json", "in-@3.tar", "out-@3.tar")
        for flags in ((), ("--resume",)):
            assert call(*flags, *command, cwd=folder).status == 3
            report = json.loads((folder / "r.json").read_text())
            assert report["error"] is None
            reason = "process_sample returned int"
            assert report["skipped"] == [
                {"shard": f"{folder}/in-0.tar", "key": "0/0002", "reason": reason},
                {
                    "shard": f"{folder}/in-1.tar",
                    "key": None,
                    "reason": f"{folder}/in-1.tar: there is no such file; check the path",
                },
                {"shard": f"{folder}/in-2.tar", "key": "2/0002", "reason": reason},
            ]

    def test_to_standard_output(self, folder: Path) -> None:
        write_dataset(folder, 1, 3)
        outcome = run("-q", "-p", "same.py", "--report", "-", "in-0.tar", "out.tar", cwd=folder)
        assert json.loads(outcome.out)["counts"]["written"] == 3


@pytest.mark.parametrize("jobs", ["1", "3", "100"])
def test_jobs(jobs: str, folder: Path) -> None:
    """At most so many shards are at work at a time, and as many as that if there are."""
    write_dataset(folder, 6, 4)
    text = (
        "import threading, time\n"
        "lock, now, most = threading.Lock(), set(), 0\n"
        "def process_sample(r):\n"
        "    global most\n"
        "    with lock:\n"
        "        now.add(r['__url__'])\n"
        "        most = max(most, len(now))\n"
        "    if r['__index__'] == 3:\n"
        "        with lock:\n"
        "            now.discard(r['__url__'])\n"
        "    else:\n"
        "        time.sleep(0.02)\n"
        "    return {'key': r['key'], 'cls': most}\n"
    )
    assert call("-j", jobs, "-p", script(folder, text), "in-@6.tar", "out-@6.tar", cwd=folder).status == 0
    most = max(int(data) for i in range(6) for _, data in members(folder / f"out-{i}.tar"))
    assert most == min(int(jobs), 6)


def test_quiet(folder: Path) -> None:
    write_dataset(folder, 2, 3)
    outcome = run("-q", "-p", "same.py", "in-@2.tar", "out-@2.tar", cwd=folder)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    assert set(snapshot(folder)) >= parts_of("out", shards=2)
    (folder / "in-0.tar").write_bytes(b"")
    outcome = run("-q", "-p", "same.py", "--overwrite", "in-@2.tar", "out-@2.tar", cwd=folder)
    assert outcome.error().startswith(f"{folder}/in-0.tar: ")


def test_output_is_read_by_tar_and_tarfile(folder: Path) -> None:
    expected = list(sample_files(0, 100, size=3000))
    write_shard(folder / "in.tar", expected)
    for name in ("out.tar", "out.tgz", "out.tar.zst"):
        assert call("-q", "-p", "same.py", "in.tar", name, cwd=folder).status == 0
    for name, mode in (("out.tar", "r|"), ("out.tgz", "r|gz")):
        with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
            found = [(info.name, archive.extractfile(info).read(), info.mode, info.mtime) for info in archive]
        assert found == [(name, data, 0o644, 0) for name, data in expected]
        listed = subprocess.run(["tar", "-tf", name], cwd=folder, capture_output=True, check=True, text=True)
        assert (listed.stdout.split(), listed.stderr) == ([name for name, _ in expected], "")
    assert (folder / "out.tgz").read_bytes().startswith(b"\x1f\x8b")


def test_version(folder: Path) -> None:
    outcome = run("--version", cwd=folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == f"shardtools, version {__version__}\n"
