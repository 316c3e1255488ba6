"""What programs take of their sources: `where`, `fields`, `drop`, `rename`, `limit` and `sample`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shardtools
from shardtools.errors import CorruptError, JobError, OutputExistsError, SampleError
from tests.cli.command import Outcome, call
from tests.datasets import snapshot, write_shard, written_dataset
from tests.recording_server import recording_server

Records = Sequence[Sequence[Mapping[str, Any]]]
RECORDS: Records = [
    [
        {"key": f"{shard}/{row}", "cls": row % 3, "txt": f"no {row}", "json": {"n": 100 * shard + row}}
        for row in range(6 + shard)
    ]
    for shard in range(4)
]
FLAT = [record for some in RECORDS for record in some]
SPEC = "in-@4.tar"
CONDITIONS = {
    "cls = 1": lambda record: record["cls"] == 1,
    "json.n >= 203 and txt <> 'no 5'": lambda record: record["json"]["n"] >= 203 and record["txt"] != "no 5",
    "shard = 2 and row > 1": lambda record: record["key"] in {"2/2", "2/3", "2/4", "2/5", "2/6", "2/7"},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return folders with the same dataset: without sidecars, with them, and with a table."""
    folders = [tmp_path_factory.mktemp(name) for name in ("bare", "indexed", "table")]
    for folder in folders:
        written_dataset(folder, SPEC, RECORDS)
    for path in [*folders[0].glob("*.npz"), *folders[0].glob("*.json")]:
        path.unlink()
    shardtools.index(str(folders[2] / SPEC), table=True)
    return folders


@pytest.fixture
def place(places: list[Path]) -> Path:
    return places[1]


def same(record: Any) -> Any:
    return record


def content(spec: Path) -> list[dict[str, Any]]:
    """Return the samples of a dataset, in their order."""
    return [dict(record) for record in shardtools.open(str(spec))]


def bytes_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as it is stored."""
    stored = {
        "cls": str(record["cls"]).encode(),
        "txt": record["txt"].encode(),
        "json": json.dumps(record["json"]).encode(),
    }
    return {"key": record["key"], **stored}


def loop(choice: Mapping[str, Any], sampled: set[str]) -> list[dict[str, Any]]:
    """Return what a loop over all samples chooses."""
    chosen: list[Mapping[str, Any]] = [*FLAT]
    if "where" in choice:
        chosen = [record for record in chosen if CONDITIONS[choice["where"]](record)]
    if "sample" in choice:
        chosen = [record for record in chosen if record["key"] in sampled]
    found = []
    for record in map(bytes_of, chosen[: choice.get("limit")]):
        names = [name for name in record if name in ("key", *choice.get("fields", record))]
        names = [name for name in names if name not in choice.get("drop", ())]
        found.append({choice.get("rename", {}).get(name, name): record[name] for name in names})
    return found


def run(program: str, *arguments: str) -> Outcome:
    return call(*arguments, cwd=Path("/"), program=program)


choices = st.fixed_dictionaries(
    {},
    optional={
        "where": st.sampled_from([*CONDITIONS]),
        "fields": st.sampled_from([("cls",), ("txt", "cls"), ("json", "txt")]),
        "rename": st.sampled_from([{"txt": "caption.txt"}, {"json": "meta.json", "txt": "t.txt"}]),
        "limit": st.integers(1, 30),
        "sample": st.sampled_from([0.2, 0.7]),
    },
)


@settings(max_examples=12, deadline=None)
@given(choices, st.sampled_from([0, 1, 2]), st.sampled_from([1, 2]), st.integers(0, 3))
def test_it_is_what_a_loop_takes(
    places: list[Path], tmp_path_factory: pytest.TempPathFactory, choice: Any, place: int, jobs: int, seed: int
) -> None:
    if "fields" in choice and "rename" in choice:
        choice["rename"] = {old: new for old, new in choice["rename"].items() if old in choice["fields"]}
    spec, out = str(places[place] / SPEC), tmp_path_factory.mktemp("out")
    sampled = {row["key"] for row in shardtools.extract(spec, sample=choice.get("sample", 1), seed=seed)}
    expected = loop(choice, sampled)
    shardtools.map(spec, out / "m-@4.tar", same, jobs=jobs, seed=seed, **choice)
    assert content(out / "m-@4.tar") == expected
    shardtools.sort(spec, out / "s-@2.tar", jobs=jobs, seed=seed, **choice)
    assert content(out / "s-@2.tar") == sorted(expected, key=lambda record: record["key"])
    rows = shardtools.extract(spec, jobs=jobs, seed=seed, **{"fields": ("cls",), **choice, "rename": {}})
    assert [row["key"] for row in rows] == [record["key"] for record in expected]
    by_script = shardtools.extract(
        spec, function=lambda record: {"n": len(record)}, jobs=jobs, seed=seed, **{**choice, "fields": (), "rename": {}}
    )
    assert [row["key"] for row in by_script] == [record["key"] for record in expected]
    picks = {name: choice[name] for name in ("where", "limit", "sample") if name in choice}
    if expected:
        assert shardtools.count(spec, "cls", seed=seed, **picks).samples == len(expected)


class TestSample:
    def test_it_depends_on_seed_and_key_alone(self, places: list[Path]) -> None:
        def keys(place: Path, seed: int, share: float = 0.5) -> set[str]:
            return {row["key"] for row in shardtools.extract(str(place / SPEC), sample=share, seed=seed)}

        ours = keys(places[0], 1)
        assert ours == keys(places[1], 1) == keys(places[2], 1) != keys(places[0], 2)
        assert 5 < len(ours) < 25 and keys(places[0], 1, 0.25) < ours
        assert len(keys(places[0], 1, 1.0)) == len(FLAT)

    def test_a_shuffle_has_one_seed(self, place: Path, tmp_path: Path) -> None:
        result = shardtools.shuffle(place / SPEC, tmp_path / "s-@1.tar", sample=0.5)
        seed = result.job["seed"]
        expected = {row["key"] for row in shardtools.extract(str(place / SPEC), sample=0.5, seed=seed)}
        assert {record["key"] for record in content(tmp_path / "s-@1.tar")} == expected
        assert result.job["choice"] == {"sample": [0.5, seed]}

    def test_htextract_tells_a_share_from_a_key(self, place: Path) -> None:
        spec = str(place / SPEC)
        shares = run("htextract", spec, "--sample", "0.5", "--seed", "1").out.split()
        assert shares == [row["key"] for row in shardtools.extract(spec, sample=0.5, seed=1)]
        assert run("htextract", spec, "--sample", "2/3").out.startswith("2/3: sample 3 of ")
        assert "is not a share" in run("htextract", spec, "--sample", "1.5").err


class TestReading:
    """Which shards are read, by the log of the server."""

    def test_shards_without_a_match_are_not_read(self, tmp_path: Path) -> None:
        with recording_server(tmp_path) as server:
            written_dataset(server.root, SPEC, RECORDS)
            shardtools.index(str(server.root / SPEC), table=True)
            for name, program in (("m-@4.tar", shardtools.map), ("s-@2.tar", shardtools.shuffle)):
                before = len(server.requests())
                function: Any = {"function": same} if program is shardtools.map else {"seed": 1}
                program(f"{server.url}{SPEC}", tmp_path / name, where="json.n between 203 and 204", **function)
                read = {request.path for request in server.requests()[before:] if request.method == "GET"}
                assert {path for path in read if path.startswith("/in-") and "@" not in path} <= {
                    "/in-2.tar",
                    *(f"/in-{shard}.tar.index.npz" for shard in range(4)),
                }
                assert "/in-2.tar" in read
                assert {record["key"] for record in content(tmp_path / name)} == {"2/3", "2/4"}

    @pytest.mark.parametrize("indexed", [True, False])
    def test_shards_beyond_the_limit_are_not_read(self, tmp_path: Path, indexed: bool) -> None:
        with recording_server(tmp_path) as server:
            written_dataset(server.root, SPEC, RECORDS)
            if not indexed:
                for path in [*server.root.glob("*.npz"), *server.root.glob("*.json")]:
                    path.unlink()
            shardtools.map(f"{server.url}{SPEC}", tmp_path / "m-@4.tar", same, limit=5, where="cls < 9")
            assert [record["key"] for record in content(tmp_path / "m-@4.tar")] == [f"0/{row}" for row in range(5)]
            read = {request.path for request in server.requests() if request.method == "GET"}
            assert "/in-0.tar" in read and not read & {f"/in-{shard}.tar" for shard in (1, 2, 3)}


class TestLargeShards:
    """Shards of several blocks: positions, limits and the buffers of chosen samples go over all of them."""

    @pytest.fixture(scope="class")
    @staticmethod
    def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
        some = [{"key": f"k{row}", "cls": row, "bin": bytes([row]) * (3 << 20)} for row in range(9)]
        folder = tmp_path_factory.mktemp("large")
        written_dataset(folder, "l-@1.tar", [some])
        return folder / "l-@1.tar"

    @pytest.mark.parametrize("fields", [(), ("cls", "bin")])
    def test_positions_and_limits(self, spec: Path, tmp_path: Path, fields: tuple[str, ...]) -> None:
        def place(record: Any) -> Any:
            return {"key": record["key"], "txt": f"{record['__index__']} {record['bin'][0]}", "cls": record["cls"]}

        choice: Any = {"where": "row % 2 = 1", "limit": 3, "fields": fields}
        shardtools.map(spec, tmp_path / "m-@1.tar", place, **choice)
        assert [record["txt"] for record in content(tmp_path / "m-@1.tar")] == [b"1 1", b"3 3", b"5 5"]
        shardtools.sort(spec, tmp_path / "s-@1.tar", by="cls:int", reverse=True, **choice)
        found = content(tmp_path / "s-@1.tar")
        assert [(record["key"], record["bin"]) for record in found] == [
            (f"k{row}", bytes([row]) * (3 << 20)) for row in (5, 3, 1)
        ]
        named = shardtools.map(spec, tmp_path / "c-@1.tar", place, class_from="cls", **choice)
        assert [record["cls"] for record in content(tmp_path / "c-@1.tar")] == [b"0", b"1", b"2"]
        assert named.counts.read == 3

    def test_verify_reads_the_rest(self, spec: Path, tmp_path: Path) -> None:
        for path in spec.parent.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        with (tmp_path / "l-0.tar").open("r+b") as file:
            file.seek(-(2 << 20), 2)
            file.write(b"x")
        shardtools.map(tmp_path / spec.name, tmp_path / "m-@1.tar", same, limit=1)
        with pytest.raises(CorruptError):
            shardtools.map(tmp_path / spec.name, tmp_path / "n-@1.tar", same, limit=1, verify=True)


class TestIdentity:
    @pytest.mark.parametrize("other", [{"where": "cls = 2"}, {}, {"where": "cls = 1", "limit": 3}])
    def test_another_choice_does_not_resume(self, place: Path, tmp_path: Path, other: Any) -> None:
        spec, out = place / SPEC, tmp_path / "m-@4.tar"
        shardtools.map(spec, out, same, where="cls = 1")
        assert shardtools.map(spec, out, same, where="cls = 1", resume=True).shards[0].resumed
        with pytest.raises(OutputExistsError, match="made this shard"):
            shardtools.map(spec, out, same, resume=True, **other)
        shuffled = tmp_path / "s-@2.tar"
        shardtools.shuffle(spec, shuffled, where="cls = 1", seed=3)
        assert shardtools.shuffle(spec, shuffled, where="cls = 1", seed=3, resume=True).shards[0].resumed
        with pytest.raises(OutputExistsError, match="made this shard"):
            shardtools.shuffle(spec, shuffled, seed=3, resume=True, **other)

    def test_the_manifest_says_it(self, place: Path, tmp_path: Path) -> None:
        choice: Any = {"where": "cls = 1", "fields": ["cls", "txt"], "rename": {"txt": "t.txt"}, "limit": 7}
        shardtools.map(place / SPEC, tmp_path / "m-@4.tar", same, **choice)
        manifest = json.loads((tmp_path / "m-@4.tar.json").read_text())
        assert manifest["job"]["choice"] == {**choice, "rename": [["txt", "t.txt"]]}
        assert manifest["nsamples"] == 7 and set(manifest["fields"]) == {"cls", "t.txt"}


class TestBadChoices:
    @pytest.mark.parametrize("place", [0, 1, 2])
    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            (
                {"where": "nope = 1"},
                "names nope, but no sample has such a column; there are key, row, shard, cls, ",
            ),
            ({"where": "json.nope = 1"}, r"names json.nope, but no sample .*; there are .*json.n"),
            ({"fields": "jpg"}, "no sample has the field jpg; there are cls, json, txt"),
            ({"drop": "jpg"}, "no sample has the field jpg; there are cls, json, txt"),
            ({"rename": {"jpg": "png"}}, "no sample has the field jpg; there are cls, json, txt"),
            ({"where": "txt > 5"}, "does not fit its columns"),
        ],
    )
    def test_names_and_types(self, places: list[Path], tmp_path: Path, place: int, choice: Any, message: str) -> None:
        spec = places[place] / SPEC
        with pytest.raises(JobError, match=message):
            shardtools.map(spec, tmp_path / "m-@4.tar", same, **choice)
        with pytest.raises(JobError, match=message):
            shardtools.shuffle(spec, tmp_path / "s-@4.tar", **choice)
        assert not [*tmp_path.glob("*.json")]
        if "fields" not in choice:
            with pytest.raises(JobError, match=message):
                shardtools.extract(str(spec), function=lambda record: 1, **choice)

    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            ({"where": "cls = = 1"}, r"cannot be read: .*, here: cls = \^= 1"),
            ({"where": "cls in (select 1)"}, "has a query, which it may not"),
            ({"where": " "}, "the condition is empty"),
            ({"where": "cls + 1"}, "is of type .*, not true or false"),
            ({"sample": 0}, "--sample 0: not a share"),
            ({"limit": 0}, "--limit 0 is too small"),
            ({"fields": "cls", "drop": "cls"}, "the field cls is kept and dropped"),
            ({"rename": {"cls": "a", "txt": "a"}}, "--rename names a field twice"),
            ({"rename": {"cls": "key"}}, "'key' is not a valid name of a field"),
        ],
    )
    def test_what_makes_no_sense(self, place: Path, tmp_path: Path, choice: Any, message: str) -> None:
        with pytest.raises(JobError, match=message):
            shardtools.map(place / SPEC, tmp_path / "m-@4.tar", same, **choice)
        assert not [*tmp_path.iterdir()] or "type" in message

    @pytest.mark.parametrize("indexed", [True, False])
    def test_values_that_are_wrong_are_null_and_counted(
        self, tmp_path: Path, indexed: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        deep = b'{"a": ' * 70 + b"1" + b"}" * 70
        files = [("a.json", b'{"n": 1}'), ("b.json", b"{"), ("c.json", deep), ("d.json", b"\xff"), ("e.json", b"{}")]
        write_shard(tmp_path / "x-0.tar", files)
        spec = str(tmp_path / "x-@1.tar")
        if indexed:
            shardtools.index(spec)
        notes = [
            "1 value null for the condition: json: " + what for what in ("nested too deeply", "not JSON", "not UTF-8")
        ]
        for take in (
            lambda: (
                shardtools.map(spec, tmp_path / "m-@1.tar", same, where="json.n is null", overwrite=True).counts.read
            ),
            lambda: shardtools.sort(spec, tmp_path / "s-@1.tar", where="json.n is null").counts.written,
            lambda: len(shardtools.extract(spec, where="json.n is null")),
            lambda: len(shardtools.extract(spec, function=lambda record: 1, where="json.n is null")),
            lambda: len(shardtools.open(spec).where("json.n is null")),
        ):
            caplog.clear()
            assert take() == 4
            assert [record.getMessage() for record in caplog.records] == notes
        caplog.clear()
        shardtools.map(spec, tmp_path / "m-@1.tar", same, where="json.n is null", resume=True)
        assert [record.getMessage() for record in caplog.records] == notes

    def test_a_stale_table_is_asked_of_the_shards_that_did_not_change(self, tmp_path: Path) -> None:
        with recording_server(tmp_path) as server:
            written_dataset(server.root, SPEC, RECORDS)
            shardtools.index(str(server.root / SPEC), table=True)
            changed = [*RECORDS]
            changed[1] = [{**record, "cls": 77} for record in changed[1]]
            written_dataset(server.root, SPEC, changed)
            shardtools.map(f"{server.url}{SPEC}", tmp_path / "m-@4.tar", same, where="cls = 77 or json.n = 302")
            keys = [record["key"] for record in content(tmp_path / "m-@4.tar")]
            assert keys == [*(record["key"] for record in RECORDS[1]), "3/2"]
            read = {request.path for request in server.requests() if request.method == "GET"}
            assert {"/in-1.tar", "/in-3.tar"} <= read and not read & {"/in-0.tar", "/in-2.tar"}

    def test_many_paths(self, tmp_path: Path) -> None:
        """An error lists some of the paths, and says how many more there are."""
        records = [{"key": f"k{i}", "json": {f"p{i}_{j}": j for j in range(20)}} for i in range(50)]
        written_dataset(tmp_path, "x-@1.tar", [records])
        assert len(shardtools.extract(str(tmp_path / "x-@1.tar"), where="json.p49_19 = 19")) == 1
        with pytest.raises(JobError, match=r"names json.nope.* and \d+ more"):
            shardtools.map(tmp_path / "x-@1.tar", tmp_path / "m-@1.tar", same, where="json.nope = 1")

    @pytest.mark.parametrize("text", ["1 = 1; copy samples to 'x'", "attach 'x'", "read_csv('x') = 1", "install x"])
    def test_statements_that_reach_files(self, place: Path, tmp_path: Path, text: str) -> None:
        with pytest.raises(JobError, match=r"the condition (cannot be read|is not one expression|does not fit)"):
            shardtools.map(place / SPEC, tmp_path / "m-@4.tar", same, where=text)
        with pytest.raises(JobError, match=r"the condition (cannot be read|is not one expression|does not fit)"):
            shardtools.shuffle(place / SPEC, tmp_path / "s-@4.tar", where=text)

    def test_two_fields_of_one_name(self, place: Path, tmp_path: Path) -> None:
        with pytest.raises(SampleError, match="two fields called cls"):
            shardtools.map(place / SPEC, tmp_path / "m-@4.tar", same, rename={"txt": "cls"})
        shardtools.map(place / SPEC, tmp_path / "n-@4.tar", same, rename={"txt": "cls"}, drop="cls", limit=1)
        assert content(tmp_path / "n-@4.tar")[0]["cls"] == b"no 0"

    def test_the_field_to_sort_by_is_one_of_those_chosen(self, place: Path, tmp_path: Path) -> None:
        with pytest.raises(JobError, match="no sample has the field cls to sort by"):
            shardtools.sort(place / SPEC, tmp_path / "s-@1.tar", by="cls:int", fields="txt")
        shardtools.sort(place / SPEC, tmp_path / "t-@1.tar", by="label:int", rename={"cls": "label"}, limit=3)
        assert [record["label"] for record in content(tmp_path / "t-@1.tar")] == [b"0", b"1", b"2"]


def test_names_of_classes_go_with_their_field(tmp_path: Path) -> None:
    written_dataset(tmp_path, SPEC, RECORDS)
    path = tmp_path / f"{SPEC}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": ["a", "b", "c"]}))

    def classes(**choice: Any) -> Any:
        shardtools.map(tmp_path / SPEC, tmp_path / "m-@4.tar", same, overwrite=True, **choice)
        return json.loads((tmp_path / "m-@4.tar.json").read_text()).get("classes")

    assert classes(where="cls = 1", fields=["cls"]) == ["a", "b", "c"]
    assert classes(rename={"cls": "label"}) is None and classes(drop="cls") is None


def test_commands_take_the_same(place: Path, tmp_path: Path) -> None:
    spec, script = str(place / SPEC), tmp_path / "same.py"
    script.write_text("def process_sample(record):\n    return record\n")
    options = ["--where", "cls = 1", "--fields", "cls,txt", "--rename", "txt=t.txt", "--limit", "4"]
    assert run("htmapper", spec, f"{tmp_path}/m-@4.tar", "-p", str(script), "-q", *options).status == 0
    ones = [record for record in FLAT if record["cls"] == 1][:4]
    expected = [{"key": record["key"], "cls": b"1", "t.txt": record["txt"].encode()} for record in ones]
    assert content(tmp_path / "m-@4.tar") == expected
    assert run("htsort", spec, f"{tmp_path}/s-@2.tar", "-q", "--drop", "json,cls").status == 0
    assert {*content(tmp_path / "s-@2.tar")[0]} == {"key", "txt"}
    rows = run("htextract", spec, "-f", "txt,cls", "--rename", "txt=caption", "--limit", "1", "--format", "csv")
    assert rows.out == "key,caption,cls\n0/0,no 0,0\n"
    assert "no sample has such a column" in run("htextract", spec, "--where", "nope = 1").error(2)


class TestTrialRun:
    """``htmapper --limit N SRC -`` prints what comes out."""

    SCRIPT = """
def process_sample(record):
    made = {"key": f"x/{record['key']}", "txt": "a\\tb", "bin": bytes(1234)}
    return None if int(record["cls"]) == 1 else made
"""

    def test_it_prints_and_writes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "s.py").write_text(self.SCRIPT)
        with recording_server(tmp_path) as server:
            written_dataset(server.root, SPEC, RECORDS)
            there = snapshot(server.root)
            done = run("htmapper", "-p", f"{tmp_path}/s.py", "--limit", "8", f"{server.url}{SPEC}", "-")
            assert snapshot(server.root) == there and {r.method for r in server.requests()} <= {"GET", "HEAD"}
            assert not {r.path for r in server.requests()} & {"/in-2.tar", "/in-3.tar"}
        assert done.status == 0 and done.err == "trial run: 8 samples, 5 returned, 3 dropped; nothing was written\n"
        keys = [f"x/{record['key']}" for record in FLAT[:8] if record["cls"] != 1]
        assert [line for line in done.out.splitlines() if not line.startswith(" ")] == keys
        assert done.out.startswith("x/0/0\n  bin  1,234 bytes\n  txt      3 bytes   a\\tb\nx/0/2\n")

    def test_a_function_of_many_and_errors(self, place: Path, tmp_path: Path) -> None:
        script, spec = tmp_path / "s.py", str(place / SPEC)
        script.write_text("def process_samples(records):\n    yield {'key': 'all', 'cls': sum(1 for _ in records)}\n")
        done = run("htmapper", "-q", "-p", str(script), "--limit", "3", "--where", "shard > 0", spec, "-")
        assert done.out == "all\n  cls  1 byte   3\n" and done.err == ""
        script.write_text("def process_sample(record):\n    raise ValueError('oh')\n")
        failed = run("htmapper", "-p", str(script), "--limit", "3", spec, "-").error()
        assert re.search(r"in-0.tar.*0/0.*ValueError: oh", failed)
        skipped = run("htmapper", "-p", str(script), "--limit", "3", "--on-error", "skip", spec, "-")
        assert (skipped.status, skipped.out) == (3, "") and "3 skipped; nothing was written" in skipped.err
        failed = run("htmapper", "-p", str(script), "--limit", "3", "--fields", "jpg", spec, "-").error(2)
        assert "no sample has the field jpg" in failed


class TestPathsOfJson:
    @pytest.fixture(scope="class")
    @staticmethod
    def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return a dataset with numbers and texts in JSON, exact ones too, and names with dots."""
        scores = [0.5, -3, 1e3, 2, 9007199254740993, 9007199254740992]
        some = [
            {"key": f"k{i}", "json": {"score": score, "a": {"b": f"v{i % 2}"}, "c.d": [i], "ok": i < 2}}
            for i, score in enumerate(scores)
        ]
        folder = tmp_path_factory.mktemp("json")
        written_dataset(folder, "j-@2.tar", [some[:4], some[4:]])
        return folder / "j-@2.tar"

    @pytest.mark.parametrize(
        ("by", "options", "expected"),
        [
            ("json.score:float", [], "k1 k0 k3 k2"),
            ("json.score:float", ["--reverse"], "k2 k3 k0 k1"),
            ("json.score", [], "k1 k0 k2 k3"),
            ("json.a.b", [], "k0 k2 k1 k3"),
            ("json.c.d", ["--reverse"], "k3 k2 k1 k0"),
        ],
    )
    def test_sort(self, spec: Path, tmp_path: Path, by: str, options: list[str], expected: str) -> None:
        target = f"{tmp_path}/s-@1.tar"
        assert run("htsort", "-q", "--by", by, "--where", "shard = 0", *options, str(spec), target).status == 0
        assert [record["key"] for record in content(Path(target))] == expected.split()

    def test_integers_are_exact(self, spec: Path, tmp_path: Path) -> None:
        shardtools.sort(spec, tmp_path / "s-@1.tar", by="json.score:int", where="shard = 1")
        assert [record["key"] for record in content(tmp_path / "s-@1.tar")] == ["k5", "k4"]

    def test_groups(self, spec: Path, tmp_path: Path) -> None:
        def count(key: str, records: Any) -> Any:
            return {"key": key, "cls": sum(1 for _ in records)}

        shardtools.sort(spec, tmp_path / "s-@1.tar", by="json.a.b", reduce=count)
        assert content(tmp_path / "s-@1.tar") == [{"key": "v0", "cls": b"3"}, {"key": "v1", "cls": b"3"}]

    def test_what_is_not_there(self, spec: Path, tmp_path: Path) -> None:
        with pytest.raises(SampleError, match=r"the sample has no json.nope to sort by"):
            shardtools.sort(spec, tmp_path / "s-@1.tar", by="json.nope")
        with pytest.raises(SampleError, match=r"its json.score is not a whole number"):
            shardtools.sort(spec, tmp_path / "t-@1.tar", by="json.score:int")
        with pytest.raises(JobError, match=r"no sample has the field meta.json.x to sort by"):
            shardtools.sort(spec, tmp_path / "u-@1.tar", by="meta.json.x")
        with pytest.raises(JobError, match=r"no sample has the field json.nope"):
            shardtools.count(spec, "json.nope")

    def test_count(self, spec: Path) -> None:
        assert run("htextract", str(spec), "--count", "json.a.b").out == "3\tv0\n3\tv1\n"
        assert run("htextract", str(spec), "--count", "json.ok", "--where", "shard = 0").out == "2\tfalse\n2\ttrue\n"
        assert shardtools.count(spec, "json.score", limit=2).values == {"0.5": 1, "-3": 1}

    def test_histogram(self, spec: Path) -> None:
        options = ["--histogram", "json.score", "--where", "shard = 0", "--bins", "2"]
        shown = run("htextract", str(spec), *options).out.splitlines()
        assert [line.strip().split("  ")[0] for line in shown] == ["-3 to 498.5", "498.5 to 1000"]
        rows = run("htextract", str(spec), *options, "--format", "jsonl").out.splitlines()
        assert [*map(json.loads, rows)] == [
            {"low": -3, "high": 498.5, "count": 3},
            {"low": 498.5, "high": 1000, "count": 1},
        ]

    def test_json_that_is_none(self, tmp_path: Path) -> None:
        write_shard(tmp_path / "x-0.tar", [("a.json", b'{"n": 1}'), ("b.json", b"{"), ("c.json", b'{"n": 0}')])
        spec = str(tmp_path / "x-@1.tar")
        with pytest.raises(SampleError, match=r"b.*json.n: it is not JSON"):
            shardtools.count(spec, "json.n")
        found = shardtools.count(spec, "json.n", on_error="skip")
        assert found.values == {"1": 1, "0": 1} and [entry.key for entry in found.skipped] == ["b"]
        result = shardtools.sort(spec, tmp_path / "s-@1.tar", by="json.n:int", on_error="skip")
        assert [record["key"] for record in content(tmp_path / "s-@1.tar")] == ["c", "a"]
        assert [entry.key for entry in result.skipped()] == ["b"]


class TestUpload:
    """What htupload takes of an archive, a table and a folder; the samples are known before they are laid out."""

    @pytest.fixture(scope="class")
    @staticmethod
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("sources")
        texts = [(f"a{row:02d}", b"%d" % (row % 3)) for row in range(20)]
        files = [(f"{key}.{name}", data) for key, text in texts for name, data in (("cls", text), ("txt", b"x"))]
        write_shard(folder / "all.tgz", files)
        for name, data in files:
            (folder / "tree").mkdir(exist_ok=True)
            (folder / "tree" / name).write_bytes(data)
        (folder / "t.csv").write_text("id,label\n" + "".join(f"a{row:02d},{row % 3}\n" for row in range(20)))
        return folder

    @pytest.mark.parametrize("source", ["all.tgz", "t.csv"])
    def test_a_condition(self, folder: Path, tmp_path: Path, source: str) -> None:
        values = ["--value", "cls=label"] if source == "t.csv" else []
        options = [*values, "--where", "cls = 1 and row > 3", "--limit", "4"]
        done = run("htupload", "-q", *options, str(folder / source), f"{tmp_path}/u-@2.tar")
        assert done.status == 0, done
        assert [record["key"] for record in content(tmp_path / "u-@2.tar")] == ["a04", "a07", "a10", "a13"]
        manifest = json.loads((tmp_path / "u-@2.tar.json").read_text())
        assert manifest["job"]["choice"] == {"where": "cls = 1 and row > 3", "limit": 4}

    def test_a_share_is_that_of_shards(self, folder: Path, tmp_path: Path) -> None:
        shardtools.upload(folder / "tree", tmp_path / "all-@2.tar")
        expected = [row["key"] for row in shardtools.extract(tmp_path / "all-@2.tar", sample=0.4, seed=5)]
        shardtools.upload(folder / "tree", tmp_path / "some-@1.tar", sample=0.4, seed=5)
        assert [record["key"] for record in content(tmp_path / "some-@1.tar")] == expected
        with pytest.raises(OutputExistsError, match="made this shard"):
            shardtools.upload(folder / "tree", tmp_path / "some-@1.tar", sample=0.4, seed=6, resume=True)

    def test_what_costs_too_much_or_makes_no_sense(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(JobError, match="all of them to be read one by one; choose by key or row"):
            shardtools.upload(folder / "tree", tmp_path / "u-@1.tar", where="cls = 1")
        shardtools.upload(folder / "tree", tmp_path / "k-@1.tar", where="key >= 'a18'")
        assert [record["key"] for record in content(tmp_path / "k-@1.tar")] == ["a18", "a19"]
        with pytest.raises(JobError, match=r"names nope, but no sample has such a column; there are .*txt"):
            shardtools.upload(folder / "all.tgz", tmp_path / "u-@1.tar", where="nope = 1")
        with pytest.raises(JobError, match="no sample is chosen"):
            shardtools.upload(folder / "all.tgz", tmp_path / "u-@1.tar", where="cls = 9")
        assert "--fields: choose files with --include" in run("htupload", "--fields", "a", "x", "y").err

    def test_an_index_is_of_whole_shards(self, place: Path) -> None:
        done = run("htindex", "--where", "cls = 1", str(place / SPEC))
        assert done.status == 2 and "--where: an index describes whole shards" in done.err


class TestClasses:
    """``--class-from``: texts become class numbers."""

    @pytest.fixture(scope="class")
    @staticmethod
    def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
        labels = [["dog", "cat"], ["emu\n", "dog"], ["ape", "cat"]]
        shards = [
            [{"key": f"{i}{j}", "label.txt": text, "json": {"l": text}} for j, text in enumerate(some)]
            for i, some in enumerate(labels)
        ]
        folder = tmp_path_factory.mktemp("labels")
        written_dataset(folder, "l-@3.tar", shards)
        return folder / "l-@3.tar"

    NUMBERS = (b"2", b"1", b"3", b"2", b"0", b"1")

    @pytest.mark.parametrize("field", ["label.txt", "json.l"])
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_numbers_and_names(self, spec: Path, tmp_path: Path, field: str, jobs: int) -> None:
        shardtools.map(spec, tmp_path / "m-@3.tar", same, class_from=field, fields="json", jobs=jobs)
        found = content(tmp_path / "m-@3.tar")
        assert tuple(record["cls"] for record in found) == self.NUMBERS and {*found[0]} == {"key", "cls", "json"}
        manifest = json.loads((tmp_path / "m-@3.tar.json").read_text())
        assert manifest["classes"] == ["ape", "cat", "dog", "emu"] and manifest["job"]["choice"]["class_from"] == field
        options = ["--class-from", field, "--by", "cls:int", "-j", str(jobs), "-q", str(spec)]
        assert run("htsort", *options, f"{tmp_path}/s-@2.tar").status == 0
        assert [record["key"] for record in content(tmp_path / "s-@2.tar")] == ["20", "01", "21", "00", "11", "10"]
        assert json.loads((tmp_path / "s-@2.tar.json").read_text())["classes"] == manifest["classes"]
        done = run("htextract", "--count", "cls", f"{tmp_path}/s-@2.tar")
        assert done.out == "2\t1\tcat\n2\t2\tdog\n1\t0\tape\n1\t3\temu\n"

    def test_of_what_is_chosen_and_of_cls_itself(self, spec: Path, tmp_path: Path) -> None:
        shardtools.map(spec, tmp_path / "m-@3.tar", same, class_from="json.l", where="shard > 0", drop=["json"])
        assert [record["cls"] for record in content(tmp_path / "m-@3.tar")] == [b"3", b"2", b"0", b"1"]
        (tmp_path / "m-@3.tar.json").unlink()
        written_dataset(tmp_path, "c-@1.tar", [[{"key": "a", "cls": 7}, {"key": "b", "cls": 30}]])
        shardtools.map(tmp_path / "c-@1.tar", tmp_path / "d-@1.tar", same, class_from="cls")
        assert [record["cls"] for record in content(tmp_path / "d-@1.tar")] == [b"1", b"0"]

    def test_another_set_of_names_does_not_resume(self, spec: Path, tmp_path: Path) -> None:
        source, out = tmp_path / "c-@2.tar", tmp_path / "d-@2.tar"
        some = [[{"key": "a", "txt": "x"}], [{"key": "b", "txt": "y"}]]
        written_dataset(tmp_path, "c-@2.tar", some)
        shardtools.map(source, out, same, class_from="txt")
        assert shardtools.map(source, out, same, class_from="txt", resume=True).shards[0].resumed
        written_dataset(tmp_path, "c-@2.tar", [some[0], [{"key": "b", "txt": "a"}]])
        with pytest.raises(OutputExistsError, match="made this shard"):
            shardtools.map(source, out, same, class_from="txt", resume=True)

    def test_what_is_no_class(self, spec: Path, tmp_path: Path) -> None:
        out = tmp_path / "o-@2.tar"
        written_dataset(tmp_path, "c-@2.tar", [[{"key": "a", "txt": "x", "cls": 1}], [{"key": "b", "cls": 2}]])
        with pytest.raises(JobError, match=r"1 of 2 samples have no txt; .* --where \"txt is not null\""):
            shardtools.map(tmp_path / "c-@2.tar", out, same, class_from="txt")
        with pytest.raises(SampleError, match="the sample has a class; leave it out with --drop cls"):
            shardtools.map(tmp_path / "c-@2.tar", out, same, class_from="txt", where="txt is not null")
        with pytest.raises(JobError, match="no sample has the field nope; there are cls"):
            shardtools.map(tmp_path / "c-@2.tar", tmp_path / "p-@2.tar", same, class_from="nope")

    @pytest.mark.parametrize("source", ["tree", "t.csv", "t.parquet", "t.tar"])
    def test_upload(self, tmp_path: Path, source: str) -> None:
        texts = ["dog", "cat", "emu", "dog"]
        (tmp_path / "tree").mkdir()
        for row, text in enumerate(texts):
            (tmp_path / "tree" / f"{row}.label").write_text(f"{text}\n")
            (tmp_path / "tree" / f"{row}.txt").write_text("x")
        rows = [{"id": str(row), "label": text, "t": "x"} for row, text in enumerate(texts)]
        (tmp_path / "t.csv").write_text("id,label,t\n" + "".join(f"{','.join(row.values())}\n" for row in rows))
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
        paths = sorted((tmp_path / "tree").iterdir())
        write_shard(tmp_path / "t.tar", [(path.name, path.read_bytes()) for path in paths])
        options: Any = {"values": {"txt": "t"}} if source in ("t.csv", "t.parquet") else {}
        for jobs in (1, 2):
            out = tmp_path / f"o{jobs}-@2.tar"
            shardtools.upload(tmp_path / source, out, class_from="label", jobs=jobs, **options)
            found = [(record["key"], record["cls"]) for record in content(out)]
            assert found == [("0", b"1"), ("1", b"0"), ("2", b"2"), ("3", b"1")]
            assert json.loads((tmp_path / f"{out.name}.json").read_text())["classes"] == ["cat", "dog", "emu"]
        assert shardtools.upload(tmp_path / source, out, class_from="label", resume=True, **options).shards[0].resumed
        assert {*content(out)[0]} - {"label"} == {"key", "cls", "txt"}
        with pytest.raises(OutputExistsError):
            shardtools.upload(tmp_path / source, out, class_from="label", limit=3, resume=True, **options)
        with pytest.raises(JobError, match="nope"):
            shardtools.upload(tmp_path / source, tmp_path / "p-@1.tar", class_from="nope", **options)


@pytest.mark.parametrize("format", ["tsv", "csv", "jsonl"])
def test_a_field_that_none_of_few_samples_has(place: Path, format: str) -> None:
    failed = run("htextract", str(place / SPEC), "-f", "nope", "--limit", "2", "--format", format).error(2)
    assert failed == "no sample that was read has the field nope; there are cls, json, txt"
    assert run("htextract", str(place / SPEC), "-f", "txt", "--limit", "2").out == "0/0\tno 0\n0/1\tno 1\n"


@pytest.mark.parametrize("program", ["htsort", "htshuffle", "htmapper"])
def test_a_condition_about_one_of_several_sources(places: list[Path], tmp_path: Path, program: str) -> None:
    """It would leave out all of the other one."""
    written_dataset(tmp_path, "other-@1.tar", [[{"key": "other", "cap": b"x"}]])
    script = tmp_path / "s.py"
    script.write_text("def process_sample(record):\n    return record\n")
    more = ("-p", str(script)) if program == "htmapper" else ()
    sources = (str(places[1] / SPEC), str(tmp_path / "other-@1.tar"))
    target = str(tmp_path / "out-@5.tar")
    for condition in ("cls = 1", "cls = 1 and (cap = 'x' or txt is null)"):
        failed = run(program, *more, "--where", condition, *sources, target).error(2)
        assert "other-@1.tar: the condition is about cls, which no sample of this source has; choose from" in failed
    failed = run(program, *more, "--where", "cls = 1 or 'x'::int = 1", *sources, target).error(2)
    assert "the condition does not fit its columns: Could not convert string 'x' to INT32" in failed
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".shardtools*"))
    assert run(program, *more, "--where", "cls is null or cls = 1", *sources, target).status == 0


def test_a_condition_about_one_of_several_parts(places: list[Path], tmp_path: Path) -> None:
    """The part that lacks the column is named, whatever stands before it, with a manifest or without."""
    whole, other = str(places[1] / SPEC), str(tmp_path / "other-@1.tar")
    written_dataset(tmp_path, "other-@1.tar", [[{"key": "0/1", "cap": b"x"}]])
    (tmp_path / "other-@1.tar.json").unlink()
    out = str(tmp_path / "out-@5.tar")
    for sources in ((f"{whole}::{other}", str(places[2] / SPEC)), (other, whole)):
        failed = run("htsort", "--where", "cls = 1", "--merge", "outer", *sources, out).error(2)
        assert "other-@1.tar: the condition is about cls" in failed
