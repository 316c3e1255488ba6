"""What a manifest says of the samples goes along with them, as long as it is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import shardtools
from shardtools.errors import SampleError
from shardtools.torch import ShardBatches
from tests.cli.command import call
from tests.servers import NginxServer

CLASSES = ["cat", "dog", "emu"]
FACTS = {"license": "MIT", "description": "é", "source": {"urls": ["http://a"]}}


def run(program: str, *arguments: str, cwd: Path) -> str:
    outcome = call(*arguments, cwd=cwd, program=program)
    assert outcome.status == 0, outcome
    return outcome.out + outcome.err


def manifest(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def facts(path: Path) -> dict[str, Any]:
    return {name: value for name, value in manifest(path).items() if name in ("classes", *FACTS)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``in-@2.tar``, of which the manifest names classes and says some more."""
    return upload(tmp_path, "in-@2.tar", CLASSES)


def upload(folder: Path, spec: str, classes: list[str]) -> Path:
    for number, name in enumerate(classes):
        for i in range(4):
            path = folder / "photos" / spec / name / f"{spec[0]}{number}{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%d" % i)
    run("htupload", "--class-from-folder", "--key", "name", f"photos/{spec}", spec, cwd=folder)
    path = folder / f"{spec}.json"
    path.write_text(json.dumps(manifest(path) | FACTS))
    return folder


def write_script(folder: Path, body: str) -> str:
    (folder / "script.py").write_text(body)
    return "script.py"


class TestJobs:
    @pytest.mark.parametrize(
        ("program", "arguments"),
        [
            ("htshuffle", ["--seed", "1"]),
            ("htshuffle", ["--no-shuffle"]),
            ("htsort", []),
            ("htsort", ["--by", "cls:int", "--unique"]),
        ],
    )
    def test_exchanges(self, folder: Path, program: str, arguments: list[str]) -> None:
        run(program, *arguments, "in-@2.tar", "out-@3.tar", cwd=folder)
        found = manifest(folder / "out-@3.tar.json")
        assert facts(folder / "out-@3.tar.json") == {"classes": CLASSES, **FACTS}
        assert len(found["shardlist"]) == 3 and found["name"] == "out-@3.tar"
        assert shardtools.open(str(folder / "out-@3.tar")).classes == CLASSES

    def test_a_map(self, folder: Path) -> None:
        script = write_script(folder, "def process_sample(record):\n    return record\n")
        run("htmapper", "-p", script, "in-@2.tar", "out-@2.tar", cwd=folder)
        assert facts(folder / "out-@2.tar.json") == {"classes": CLASSES, **FACTS}

    def test_over_http(self, folder: Path, nginx: NginxServer) -> None:
        script = write_script(folder, "def process_sample(record):\n    return record\n")
        run("htshuffle", "in-@2.tar", f"{nginx.url}a-@2.tgz", cwd=folder)
        run("htmapper", "-p", script, f"{nginx.url}a-@2.tgz", f"{nginx.url}b-@2.tgz", cwd=folder)
        assert facts(nginx.root / "b-@2.tgz.json") == {"classes": CLASSES, **FACTS}

    @pytest.mark.parametrize(
        ("body", "is_kept"),
        [
            ("def process_sample(record):\n    return {**record, 'cls': int(record['cls'])}", True),
            ("def process_sample(record):\n    return {**record, 'cls': int(record['cls']) // 2}", False),
            ("def process_sample(record):\n    record['cls'] = b'0'\n    return record", False),
            ("def process_sample(record):\n    return [record, {**record, 'key': 'x' + record['key']}]", True),
            ("def process_sample(record):\n    return {'key': record['key'], 'jpg': record['jpg']}", True),
            ("def process_samples(records):\n    for r in records:\n        yield {**r, 'key': 'x' + r['key']}", True),
            ("def process_samples(records):\n    for r in records:\n        yield {**r, 'cls': 7}", False),
            ("def process_samples(rs):\n    for r in rs:\n        yield {**r, 'cls': 2 - int(r['cls'])}", False),
        ],
    )
    def test_a_map_that_changes_classes(self, folder: Path, body: str, is_kept: bool) -> None:
        """Names of numbers that mean something else now would be wrong; a job that is resumed knows it, too."""
        script = write_script(folder, body + "\n")
        for more in ([], ["--resume"]):
            said = run("htmapper", "-p", script, "in-@2.tar", "out-@2.tar", *more, cwd=folder)
            assert ("classes" in facts(folder / "out-@2.tar.json")) == is_kept
            assert facts(folder / "out-@2.tar.json").items() >= FACTS.items()
            assert "2 shards" in said

    def test_several_sources(self, folder: Path) -> None:
        upload(folder, "more-@1.tar", CLASSES)
        path = folder / "more-@1.tar.json"
        path.write_text(json.dumps(manifest(path) | {"license": "other"}))
        run("htsort", "in-@2.tar", "more-@1.tar", "out-@2.tar", cwd=folder)
        assert facts(folder / "out-@2.tar.json") == {
            "classes": CLASSES, "description": FACTS["description"], "source": FACTS["source"]
        }  # fmt: skip

    @pytest.mark.parametrize("program", ["htshuffle", "htsort"])
    def test_other_numbers(self, folder: Path, program: str) -> None:
        upload(folder, "more-@1.tar", ["cat", "emu"])
        outcome = call("in-@2.tar", "more-@1.tar", "out-@2.tar", cwd=folder, program=program)
        assert outcome.status == 2 and "class 1 is 'dog', and 'emu' in" in outcome.err
        assert not list(folder.glob("out*")) and not list(folder.glob(".shardtools*"))

    def test_samples_that_a_script_makes(self, folder: Path) -> None:
        body = "def reduce_samples(key, records):\n    yield {'key': str(key), 'cls': len(list(records))}\n"
        run("htsort", "--by", "cls", "-p", write_script(folder, body), "in-@2.tar", "out-@1.tar", cwd=folder)
        assert facts(folder / "out-@1.tar.json") == {}

    def test_a_new_index(self, folder: Path) -> None:
        run("htindex", "--overwrite", "in-@2.tar", cwd=folder)
        assert facts(folder / "in-@2.tar.json") == {"classes": CLASSES, **FACTS}
        assert manifest(folder / "in-@2.tar.json")["job"]["program"] == "htindex"

    @pytest.mark.parametrize("count", [-1, 0])
    def test_an_index_mends_a_manifest(self, folder: Path, count: int) -> None:
        path = folder / "in-@2.tar.json"
        broken = manifest(path)
        broken["shardlist"][0]["nsamples"] = count
        path.write_text(json.dumps(broken))
        run("htindex", "in-@2.tar", cwd=folder)
        assert [shard["nsamples"] for shard in manifest(path)["shardlist"]] == [6, 6]


class TestNames:
    def test_counts(self, folder: Path) -> None:
        assert run("htextract", "in-@2.tar", "--count", "cls", cwd=folder) == "4\t0\tcat\n4\t1\tdog\n4\t2\temu\n"
        lines = run("htextract", "in-@2.tar", "--count", "cls", "--format", "jsonl", cwd=folder).splitlines()
        assert json.loads(lines[1]) == {"value": "1", "name": "dog", "count": 4}
        assert run("htextract", "in-@2.tar", "--count", "cls", "--format", "csv", cwd=folder).splitlines()[:2] == [
            "count,value,name", "4,0,cat"
        ]  # fmt: skip
        assert run("htextract", "in-@2.tar", "--count", "jpg", cwd=folder).count("\t") == 4

    def test_statistics(self, folder: Path) -> None:
        lines = run("htextract", "in-@2.tar", "--stats", cwd=folder).splitlines()
        assert lines[-4:] == ["class  name", "0      cat", "1      dog", "2      emu"]
        [line] = run("htextract", "in-@2.tar", "--stats", "--format", "jsonl", cwd=folder).splitlines()
        assert json.loads(line)["classes"] == CLASSES

    def test_a_dataset(self, folder: Path) -> None:
        dataset = shardtools.open(str(folder / "in-@2.tar"))
        assert dataset.classes == CLASSES and dataset.classes[dataset.view("cls")[5]] == "dog"
        (folder / "in-@2.tar.json").unlink()
        assert shardtools.open(str(folder / "in-@2.tar")).classes is None


class TestCase:
    """Files called .JPG and .jpg become two fields, which nobody means."""

    HINT = "fields JPG and jpg differ only in case; htupload --rename JPG=jpg makes them one"

    @pytest.fixture
    def mixed(self, tmp_path: Path) -> Path:
        (tmp_path / "photos").mkdir()
        for name in ("a.JPG", "b.jpg", "c.jpg"):
            (tmp_path / "photos" / name).write_bytes(b"x")
        return tmp_path

    def test_commands_say_so(self, mixed: Path) -> None:
        assert f"htupload: {self.HINT}" in run("htupload", "photos", "in-@1.tar", cwd=mixed)
        assert f"htextract: {self.HINT}" in run("htextract", "in-@1.tar", "--stats", cwd=mixed)
        said = run("htupload", "--rename", "JPG=jpg", "photos", "one-@1.tar", cwd=mixed)
        assert "case" not in said and shardtools.open(str(mixed / "one-@1.tar")).fields == ("jpg",)
        assert "case" not in run("htextract", "one-@1.tar", "--stats", cwd=mixed)

    @pytest.mark.parametrize("has_manifest", [True, False])
    def test_errors_say_so(self, mixed: Path, has_manifest: bool) -> None:
        run("htupload", "photos", "in-@1.tar", cwd=mixed)
        if not has_manifest:
            (mixed / "in-@1.tar.json").unlink()
        spec = str(mixed / "in-@1.tar")
        hint = r"there is JPG, which differs only in case; ask for that, or htupload --rename JPG=jpg"
        with pytest.raises(SampleError, match=rf"the sample has no field jpg; {hint}"):
            list(ShardBatches(spec, fields="jpg", decode=False))
        with pytest.raises(SampleError, match=rf"sample 0 has no jpg; {hint}"):
            shardtools.open(spec).view("jpg", decode=None)[0]
        with pytest.raises(SampleError, match="the sample has no field png; leave the field out"):
            list(ShardBatches(spec, fields="png", decode=False))
