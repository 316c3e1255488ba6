"""htextract: rows, formats, statistics, single samples, and what it says when it cannot."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import pty
import random
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import shardtools
from shardtools.errors import CorruptError
from shardtools.jobs.extraction.files import place_in
from shardtools.jobs.extraction.formats import DEFAULT_FORMAT
from shardtools.jobs.extraction.outputs import open_output
from shardtools.shards.sidecar import read_sidecar, write_sidecar
from tests import tars
from tests.cli.command import Argument, Outcome, call, check_failure, path_of, run
from tests.datasets import written_dataset

SHARDS, SAMPLES = 3, 40


def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (10 + i % 3, 7), i % 256).save(file, "PNG")
    return file.getvalue()


def samples(shard: int) -> list[dict[str, object]]:
    """Return the samples of a shard; every fifth has no caption."""
    found: list[dict[str, object]] = []
    for i in range(SAMPLES):
        number = shard * SAMPLES + i
        sample: dict[str, object] = {"key": f"{'abc'[shard]}/é {i:04d}", "cls": number % 7, "png": png(number)}
        sample["score.txt"] = f"{number / 8}"
        sample["json"] = {"n": number}
        if i % 5:
            sample["txt"] = f"no {number}\ta\\b\nend"
        found.append(sample)
    return found


ALL = [sample for shard in range(SHARDS) for sample in samples(shard)]
SPEC = f"in-@{SHARDS}.tgz"
FIELDS = "there are cls, json, png, score.txt, txt"


@pytest.fixture(scope="module", params=["sidecars", "bare"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, with its sidecars and manifest or without."""
    folder = tmp_path_factory.mktemp(request.param)
    written_dataset(folder, SPEC, [samples(shard) for shard in range(SHARDS)])
    if request.param == "bare":
        for path in [*folder.glob("*.npz"), *folder.glob("*.json")]:
            path.unlink()
    return folder


def extract(folder: Path, *arguments: Argument) -> Outcome:
    outcome = call(SPEC, *arguments, cwd=folder, program="htextract")
    assert outcome.err == "" or outcome.status, outcome
    return outcome


def lines(folder: Path, *arguments: Argument) -> list[str]:
    outcome = extract(folder, *arguments)
    assert outcome.status == 0
    assert outcome.out.endswith("\n") or not outcome.out
    return outcome.out.splitlines()


def fails(folder: Path, *arguments: Argument, status: int = 1) -> str:
    return check_failure(SPEC, *arguments, cwd=folder, status=status, program="htextract")


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


class TestRows:
    def test_keys(self, folder: Path) -> None:
        keys = [str(sample["key"]) for sample in ALL]
        assert lines(folder) == lines(folder, "--keys") == keys

    def test_fields_in_the_order_asked_for(self, folder: Path) -> None:
        expected = [
            "\t".join(
                [str(s["key"]), escaped(str(s.get("txt", ""))), str(s["cls"]), f"<{len(p)} bytes {crc32(p):08x}>"]
            )
            for s in ALL
            for p in [bytes(s["png"])]  # type: ignore[call-overload]
        ]
        assert lines(folder, "-f", "txt", "-f", "cls", "-f", "png") == expected
        assert lines(folder, "-f", "txt", "-f", "cls", "-f", "png", "-j", "1") == expected
        if folder.name.startswith("sidecars"):
            assert lines(folder, "-f", "txt", "-f", "cls", "-f", "png", "--verify") == expected
        else:
            assert "in-0.tgz: it has no matching sidecar" in fails(folder, "-f", "txt", "--verify", "-j", "1")

    def test_missing(self, folder: Path) -> None:
        assert len(lines(folder, "-f", "txt", "--missing", "skip")) == sum("txt" in s for s in ALL)
        assert fails(folder, "-f", "txt", "--missing", "error", "-j", "1").endswith(
            "in-0.tgz [a/é 0000]: the sample has no txt; use --missing empty or --missing skip"
        )
        outcome = call(SPEC, "-f", "txt", "--missing", "error", "--on-error", "skip", cwd=folder, program="htextract")
        assert outcome.status == 3 and len(outcome.out.splitlines()) == sum("txt" in s for s in ALL)
        assert (
            outcome.err.count("the sample has no txt") == 5 and "19 more; --report FILE lists them all" in outcome.err
        )

    @pytest.mark.parametrize("limit", [1, 39, 40, 41, 79, 120, 1000])
    def test_limit(self, folder: Path, limit: int) -> None:
        assert lines(folder, "-f", "cls", "--limit", str(limit)) == lines(folder, "-f", "cls")[:limit]

    @pytest.mark.parametrize(
        ("condition", "picks"),
        [
            ("cls == 3", lambda s: s["cls"] == 3),
            ("cls>=5", lambda s: s["cls"] >= 5),
            ("score.txt::double < 2.5", lambda s: float(s["score.txt"]) < 2.5),
            ("cls != 0", lambda s: s["cls"] != 0),
            ("key > 'b/é 0020'", lambda s: s["key"] > "b/é 0020"),
            ("txt < 'no 5'", lambda s: s.get("txt", "z") < "no 5"),
            ("cls = 3 and txt like 'no%'", lambda s: s["cls"] == 3 and s.get("txt", "").startswith("no")),
            ("size.score.txt = 3", lambda s: len(str(s["score.txt"])) == 3),
            ("cls = 3 and row >= 10 and shard = 1", lambda s: s["cls"] == 3 and "b/é 0010" <= s["key"] < "c"),
            ("json.n % 10 = 7", lambda s: s["json"]["n"] % 10 == 7),
            ("crc32.cls = 4108050209", lambda s: crc32(b"%d" % s["cls"]) == 4108050209),
        ],
    )
    def test_where(self, folder: Path, tmp_path: Path, condition: str, picks: object) -> None:
        keys = [str(s["key"]) for s in ALL if picks(s)]  # type: ignore[operator]
        assert keys
        assert lines(folder, "--where", condition) == keys
        assert lines(folder, "--where", condition, "--limit", "2") == keys[:2]
        script = tmp_path / "keys.py"
        script.write_text("def extract_sample(record): return record['key']")
        assert [line.split("\t")[0] for line in lines(folder, "-p", script, "--where", condition)] == keys

    def test_a_field_that_is_nowhere(self, folder: Path) -> None:
        assert fails(folder, "-f", "cls", "-f", "jpg", status=2) == f"no sample has the field jpg; {FIELDS}"
        for arguments in (["-f", "cls"], ["--count", "cls"]):
            message = fails(folder, *arguments, "--where", "x = 1", status=2)
            assert message.startswith(
                "the condition names x, but no sample has such a column; there are key, row, shard, "
            )

    def test_a_field_that_comes_late(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "x-@2.tar", [[{"key": "a", "cls": 1}], [{"key": "b", "txt": "t"}]])
        assert call("x-@2.tar", "-f", "txt", cwd=tmp_path, program="htextract").out == "a\t\nb\tt\n"


class TestFormats:
    def test_raw(self, folder: Path) -> None:
        [line] = lines(folder, "-f", "json", "--raw", "--limit", "1")
        assert line == 'a/é 0000\t{"n": 0}'
        extract(folder, "-f", "png", "--raw", "--limit", "1", "-o", "raw.tsv", "--overwrite")
        assert (folder / "raw.tsv").read_bytes() == "a/é 0000\t".encode() + png(0) + b"\n"

    def test_base64(self, folder: Path) -> None:
        assert lines(folder, "-f", "png", "--base64")[5].split("\t")[1] == base64.b64encode(png(5)).decode()

    def test_csv(self, folder: Path) -> None:
        outcome = extract(folder, "-f", "txt", "-f", "cls", "--format", "csv")
        rows = list(csv.reader(io.StringIO(outcome.out, newline="")))
        assert rows == [["key", "txt", "cls"], *([s["key"], s.get("txt", ""), str(s["cls"])] for s in ALL)]

    def test_header(self, folder: Path) -> None:
        assert lines(folder, "-f", "cls", "--header", "--limit", "1") == ["key\tcls", "a/é 0000\t0"]

    def test_jsonl(self, folder: Path) -> None:
        found = [
            json.loads(line) for line in lines(folder, "-f", "txt", "-f", "cls", "-f", "json", "--format", "jsonl")
        ]
        assert found == [{name: s[name] for name in ("key", "txt", "cls", "json") if name in s} for s in ALL]

    def test_parquet(self, folder: Path) -> None:
        extract(folder, "-f", "txt", "-f", "cls", "-f", "png", "-o", "a.parquet", "--overwrite")
        found = parquet.read_table(folder / "a.parquet").to_pylist()
        assert found == [{"key": s["key"], "txt": s.get("txt"), "cls": s["cls"], "png": s["png"]} for s in ALL]
        extract(folder, "-f", "cls", "-f", "png", "--raw", "-o", "a.parquet", "--overwrite")
        found = parquet.read_table(folder / "a.parquet").to_pylist()
        assert found == [{"key": s["key"], "cls": b"%d" % s["cls"], "png": s["png"]} for s in ALL]  # type: ignore[str-bytes-safe]
        extract(folder, "-f", "cls", "-f", "png", "--base64", "-o", "a.parquet", "--overwrite", "--limit", "3")
        found = parquet.read_table(folder / "a.parquet").to_pylist()
        assert (
            found
            == [
                {"key": s["key"], "cls": s["cls"], "png": base64.b64encode(s["png"]).decode()}  # type: ignore[arg-type]
                for s in ALL[:3]
            ]
        )

    def test_npy(self, folder: Path) -> None:
        outcome = extract(folder, "-f", "cls", "-o", "a.npy", "--overwrite")
        assert outcome.out == "a.npy: 120 rows of 120 samples\n"
        found = np.load(folder / "a.npy")
        assert found.dtype == np.int64 and found.tolist() == [s["cls"] for s in ALL]
        extract(folder, "-f", "cls", "-o", "few.npy", "--overwrite", "--limit", "50")
        assert np.load(folder / "few.npy").tolist() == [s["cls"] for s in ALL[:50]]

    def test_npy_of_images(self, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 255, (6, 5, 4, 3), dtype=np.uint8)
        rows = [[{"key": f"{i}", "png": images[i]} for i in part] for part in (range(4), range(4, 6))]
        written_dataset(tmp_path, "x-@2.tar", rows)
        assert call("x-@2.tar", "-f", "png", "-o", "x.npy", cwd=tmp_path, program="htextract").status == 0
        assert np.array_equal(np.load(tmp_path / "x.npy"), images)

    def test_npy_that_cannot_be(self, folder: Path) -> None:
        assert "uint8 of shape (7, 11) after rows of uint8 of shape (7, 10)" in fails(
            folder, "-f", "png", "-o", "x.npy", "-j", "1"
        )
        assert "a str is not a number" in fails(folder, "-f", "score.txt", "-o", "x.npy", "-j", "1")
        assert "an npy file holds one column" in fails(folder, "-f", "cls", "-f", "png", "-o", "x.npy", status=2)
        assert "--raw does not go with csv" in fails(folder, "-f", "png", "--raw", "-o", "x.csv", status=2)
        assert not (folder / "x.npy").exists() and not (folder / "x.csv").exists()

    def test_an_output_that_exists(self, folder: Path) -> None:
        (folder / "there.tsv").write_text("mine")
        assert "the output exists; use --overwrite" in fails(folder, "-f", "cls", "-o", "there.tsv")
        assert (folder / "there.tsv").read_text() == "mine"

    def test_names_that_are_no_text(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "x-@1.tar", [[{"key": "a\udcff\tb", "txt": "t"}]])
        extracted = call("x-@1.tar", "-f", "txt", "-o", "x.tsv", cwd=tmp_path, program="htextract")
        assert extracted.status == 0 and (tmp_path / "x.tsv").read_bytes() == b"a\xff\\tb\tt\n"
        call("x-@1.tar", "-f", "txt", "-o", "x.jsonl", cwd=tmp_path, program="htextract")
        assert json.loads((tmp_path / "x.jsonl").read_text()) == {"key": "a\udcff\tb", "txt": "t"}


UNUSUAL: list[list[dict[str, bytes]]] = [
    [
        {"jpg": b"\xff\xd8 no real one \0", "cls": b"7", "txt": b"a cat", "json": b'{"a": 1}', "seg.png": b"\0\0"},
        {"jpg": b"", "cls": b" 7\n", "txt": b"", "json": b'{ "a":1 }\n'},
        {"cls": b"007", "txt": b"caf\xe9\xff", "json": b"\xff\xfe", "x": b"text", "seg.png": b""},
    ],
    [],
    [
        {"jpg": b"\x80" * 100_000, "cls": b"-0", "txt": "caf\\xe9 ☃\0\r\n".encode(), "seg.png": bytes(range(256))},
        {"jpg": b"text", "cls": b"9223372036854775807", "json": b"no json", "meta.txt": b"\xc3"},
    ],
]


class TestThereAndBack:
    """What htextract writes as Parquet or npy, htupload reads back as the same bytes."""

    def write(self, folder: Path) -> list[dict[str, object]]:
        rows = [
            [{"key": f"{'abc'[i]}/é {j}", **fields} for j, fields in enumerate(some)] for i, some in enumerate(UNUSUAL)
        ]
        written_dataset(folder, "in-@3.tgz", rows)
        return [row for some in rows for row in some]

    @pytest.mark.parametrize("more", [[], ["--raw"], ["-j", "1", "--limit", "100"]], ids=str)
    @pytest.mark.parametrize(
        "fields", [["jpg", "cls"], ["cls", "txt", "json", "seg.png", "x", "meta.txt", "jpg"]], ids=str
    )
    def test_parquet(self, tmp_path: Path, fields: list[str], more: list[str]) -> None:
        rows = self.write(tmp_path)
        options = [text for name in fields for text in ("-f", name)]
        outcome = call("in-@3.tgz", *options, *more, "-o", "x.parquet", cwd=tmp_path, program="htextract")
        assert outcome.status == 0, outcome
        table = parquet.read_table(tmp_path / "x.parquet")
        assert table.column_names == ["key", *fields]
        kinds = {"cls": "int64", "txt": "string", "json": "string", "meta.txt": "string"} if "--raw" not in more else {}
        assert [str(table.schema.field(name).type) for name in fields] == [kinds.get(name, "binary") for name in fields]
        assert call("x.parquet", "out-@2.tar", cwd=tmp_path, program="htupload").status == 0
        found = [dict(record) for record in shardtools.open(str(tmp_path / "out-@2.tar"))]
        assert found == [{name: row[name] for name in ("key", *fields) if name in row} for row in rows]

    def test_a_column_of_other_name(self, tmp_path: Path) -> None:
        rows = self.write(tmp_path)
        call("in-@3.tgz", "-f", "cls", "-f", "json", "-o", "x.parquet", cwd=tmp_path, program="htextract")
        call("--value", "label=cls", "x.parquet", "out-@1.tar", cwd=tmp_path, program="htupload")
        assert [record["label"] for record in shardtools.open(str(tmp_path / "out-@1.tar"))] == [r["cls"] for r in rows]

    def test_cells_that_somebody_has_changed(self, tmp_path: Path) -> None:
        """What is noted for a row is used only if the row is still what it was."""
        self.write(tmp_path)
        call("in-@3.tgz", "-f", "cls", "-o", "x.parquet", cwd=tmp_path, program="htextract")
        meta = parquet.ParquetFile(tmp_path / "x.parquet").metadata.metadata
        table = parquet.read_table(tmp_path / "x.parquet")
        turned = table.take(list(range(len(table)))[::-1])
        with parquet.ParquetWriter(tmp_path / "x.parquet", turned.schema) as writer:
            writer.write_table(turned)
            writer.add_key_value_metadata({b"shardtools": meta[b"shardtools"]})
        call("x.parquet", "out-@1.tar", cwd=tmp_path, program="htupload")
        found = [int(record["cls"]) for record in shardtools.open(str(tmp_path / "out-@1.tar"))]
        assert found == turned.column("cls").to_pylist()

    def test_too_much_that_is_no_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path)
        monkeypatch.setattr("shardtools.jobs.extraction.outputs.MAX_EXACT_BYTES", 4)
        message = check_failure(
            "in-@3.tgz", "-f", "txt", "-o", "x.parquet", cwd=tmp_path, program="htextract", status=2
        )
        assert "txt and other columns have more than 4 bytes of values" in message and message.endswith(
            "use --raw, which writes all fields as bytes"
        )
        assert not (tmp_path / "x.parquet").exists()

    @pytest.mark.parametrize("label", [b"", b"cat", b"9223372036854775808"])
    def test_what_is_no_number(self, tmp_path: Path, label: bytes) -> None:
        written_dataset(tmp_path, "x-@1.tar", [[{"key": "a", "cls": label}]])
        message = check_failure("x-@1.tar", "-f", "cls", "-o", "x.parquet", cwd=tmp_path, program="htextract")
        assert "x-0.tar [a.cls]: " in message and message.endswith("use --raw, which writes bytes, or another format")
        call("x-@1.tar", "-f", "cls", "--raw", "-o", "x.parquet", cwd=tmp_path, program="htextract")
        call("x.parquet", "out-@1.tar", cwd=tmp_path, program="htupload")
        assert shardtools.open(str(tmp_path / "out-@1.tar"))[0]["cls"] == label

    def test_npy(self, tmp_path: Path) -> None:
        values = [b"ab\0\0", b"\0\0\0\0", b"\xff\xfe\0a"]
        written_dataset(tmp_path, "x-@1.tar", [[{"key": f"{i}", "bin": value} for i, value in enumerate(values)]])
        assert call("x-@1.tar", "-f", "bin", "-o", "x.npy", cwd=tmp_path, program="htextract").status == 0
        assert [row.tobytes() for row in np.load(tmp_path / "x.npy", allow_pickle=False)] == values
        call("--as", "bin=x", "x.npy", "out-@1.tar", cwd=tmp_path, program="htupload")
        assert [record["bin"] for record in shardtools.open(str(tmp_path / "out-@1.tar"))] == values

    @pytest.mark.parametrize("value", [b"abc", b""])
    def test_npy_of_different_lengths(self, tmp_path: Path, value: bytes) -> None:
        written_dataset(tmp_path, "x-@1.tar", [[{"key": "a", "bin": b"ab"}, {"key": "b", "bin": value}]])
        message = check_failure("x-@1.tar", "-f", "bin", "-o", "x.npy", cwd=tmp_path, program="htextract")
        assert "x-0.tar [b.bin]: " in message and message.endswith("use another format, such as parquet")


class TestScript:
    def script(self, folder: Path, body: str) -> tuple[str, str]:
        (folder / "script.py").write_text(f"def extract_sample(record, k=1):\n    {body}\n")
        return "-p", "script.py"

    def test_values(self, folder: Path) -> None:
        arguments = self.script(folder, "return int(record['cls']) * k")
        assert lines(folder, *arguments, "-a", "k=10") == [f"{s['key']}\t{10 * int(str(s['cls']))}" for s in ALL]

    def test_dicts(self, folder: Path) -> None:
        arguments = self.script(
            folder,
            "return {'n': len(record['png']), 'c': record['cls'], 'l': [1], 'x': None} if 'txt' in record else None",
        )
        expected = [s for s in ALL if "txt" in s]
        assert lines(folder, *arguments) == [
            f"{s['key']}\t{len(bytes(s['png']))}\t{s['cls']}\t[1]\t"  # type: ignore[call-overload]
            for s in expected
        ]
        extract(folder, *arguments, "-o", "s.parquet", "--overwrite")
        table = parquet.read_table(folder / "s.parquet")
        assert table.column_names == ["key", "n", "c", "l", "x"] and table.num_rows == len(expected)
        assert lines(folder, *arguments, "--where", "cls == 1", "--limit", "1")[0].startswith("a/é 0001\t")

    def test_rows_that_do_not_fit_together(self, folder: Path) -> None:
        arguments = self.script(folder, "return {'a': 1} if record['__index__'] != 7 else {'b': 1}")
        assert "a row has the columns b after others with a; use --format jsonl" in fails(folder, *arguments, "-j", "1")
        assert len(lines(folder, *arguments, "--format", "jsonl")) == len(ALL)

    def test_shards_that_do_not_fit_together(self, folder: Path) -> None:
        arguments = self.script(folder, "return {record['key'][0]: 1}")
        message = fails(folder, *arguments, status=2)
        assert "its rows have b, and a in " in message and message.endswith("use --format jsonl")

    def test_one_that_fails(self, folder: Path) -> None:
        arguments = self.script(folder, "return 1 / (record['__index__'] - 3)")
        message = fails(folder, *arguments, "-j", "1")
        assert "in-0.tgz [a/é 0003]: ZeroDivisionError: division by zero (script.py:2 in extract_sample)" in message
        outcome = call(SPEC, *arguments, "--on-error", "skip", "--report", "r.json", cwd=folder, program="htextract")
        assert outcome.status == 3 and len(outcome.out.splitlines()) == len(ALL) - SHARDS
        report = json.loads((folder / "r.json").read_text())
        assert [entry["key"] for entry in report["skipped"]] == ["a/é 0003", "b/é 0003", "c/é 0003"]
        assert report["counts"] == {"shards": 3, "samples": 120, "rows": 117}

    def test_one_without_the_function(self, folder: Path) -> None:
        (folder / "script.py").write_text("def process_sample(record): pass\n")
        assert "the script defines no extract_sample; define extract_sample(record)" in fails(folder, "-p", "script.py")


class TestStatistics:
    def test_count(self, folder: Path) -> None:
        counts = Counter(str(s["cls"]) for s in ALL)
        expected = [
            f"{count}\t{value}" for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]
        assert lines(folder, "--count", "cls") == expected
        assert lines(folder, "--count", "cls", "--where", "cls == 2") == [f"{counts['2']}\t2"]
        found = [json.loads(line) for line in lines(folder, "--count", "cls", "--format", "jsonl")]
        assert found == [{"value": line.split("\t")[1], "count": int(line.split("\t")[0])} for line in expected]
        assert lines(folder, "--count", "txt", "--format", "csv")[0] == "count,value"

    def test_stats(self, folder: Path) -> None:
        table = "\n".join(lines(folder, "--stats"))
        assert "samples             120\n" in table and "samples in a shard  40 to 40, median 40\n" in table
        [found] = [json.loads(line) for line in lines(folder, "--stats", "--format", "jsonl")]
        sizes = sorted(len(str(s["txt"]).encode()) for s in ALL if "txt" in s)
        assert found["fields"]["txt"] == {
            "samples": len(sizes),
            "missing": pytest.approx(0.2),
            "bytes": {"min": sizes[0], "median": np.median(sizes), "max": sizes[-1], "total": sum(sizes)},
        }
        assert found["filesize"] == sum(path.stat().st_size for path in folder.glob("in-?.tgz"))
        assert (found["samples"], found["shards"]) == (120, 3)

    def test_stats_of_images(self, folder: Path) -> None:
        assert lines(folder, "--stats", "--decode")[-2:] == [
            "image     width  height  sizes   most frequent",
            "png    10 to 12  7 to 7      3  12x7 (33.33 %)",
        ]

    def test_a_damaged_image(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "x-@1.tar", [[{"key": "a", "png": png(0)}, {"key": "b", "png": b"nothing"}]])
        message = check_failure("x-@1.tar", "--stats", "--decode", cwd=tmp_path, program="htextract")
        assert "x-0.tar [b.png]: not an image: it begins with b'nothing'" in message
        skipped = call("x-@1.tar", "--stats", "--decode", "--on-error", "skip", cwd=tmp_path, program="htextract")
        assert skipped.status == 3 and "10x7 (100 %)" in skipped.out

    def test_histogram(self, folder: Path) -> None:
        found = lines(folder, "--histogram", "cls")
        assert [line.split()[:2] for line in found] == [
            [str(v), str(c)]
            for v, c in sorted(Counter(s["cls"] for s in ALL).items())  # type: ignore[type-var]
        ]
        intervals = lines(folder, "--histogram", "score.txt", "--bins", "5")
        assert len(intervals) == 5 and sum(int(line.split()[3]) for line in intervals) == 120
        assert intervals[0].split()[:3] == ["0", "to", "2.975"]

    def test_no_numbers(self, folder: Path) -> None:
        message = fails(folder, "--histogram", "txt", "-j", "1")
        assert "in-0.tgz [a/é 0001.txt]: 'no 1" in message and "is not a number; choose another field" in message

    def test_a_field_that_is_nowhere(self, folder: Path) -> None:
        for option in ("--count", "--histogram"):
            assert fails(folder, option, "jpg", status=2) == f"no sample has the field jpg; {FIELDS}"

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("json.a", "a value at json.a: it is an object or null; name a value in the object: json.a.b"),
            ("json.none", "a value at json.none: it is null; there are json, json.a, json.none"),
            ("json.c", "the field json.c; there are json, json.a, json.none"),
        ],
    )
    def test_a_path_without_values(self, tmp_path: Path, path: str, message: str) -> None:
        samples = [{"key": str(i), "json": {"a": inner, "none": None}} for i, inner in enumerate([None, {"b": 1}])]
        written_dataset(tmp_path, "in-@2.tar", [samples[:1], samples[1:]])
        for option in ("--count", "--histogram"):
            said = check_failure("in-@2.tar", option, path, cwd=tmp_path, status=2, program="htextract")
            assert said == f"no sample has {message}"


class TestSample:
    @pytest.mark.parametrize("number", [0, 39, 40, 79, 119, -1])
    def test_by_number(self, folder: Path, number: int) -> None:
        sample = ALL[number]
        shown = lines(folder, "--at", str(number))
        assert shown[0].startswith(f"{sample['key']}: sample {number % SAMPLES} of ")
        assert extract(folder, "--at", str(number), "-f", "cls").out == str(sample["cls"])

    def test_by_key_as_files(self, folder: Path, tmp_path: Path) -> None:
        written = lines(folder, "--sample", "b/é 0007", "--to", tmp_path / "to")
        sample = ALL[SAMPLES + 7]
        assert written == [str(tmp_path / "to" / f"é 0007.{name}") for name in sorted(sample) if name != "key"]
        assert (tmp_path / "to" / "é 0007.png").read_bytes() == sample["png"]
        assert (tmp_path / "to" / "é 0007.txt").read_text() == sample["txt"]
        message = fails(folder, "--sample", "b/é 0007", "--to", tmp_path / "to")
        assert "the output exists" in message

    def test_what_is_not_there(self, folder: Path) -> None:
        assert fails(folder, "--sample", "b", status=2) == "no sample has the key b; htextract --keys lists them all"
        message = fails(folder, "--at", "120", status=2)
        assert message == "index 120 is out of range: the dataset has 120 samples; the first sample has index 0"
        assert "the sample has no field txt; its fields are cls, json, png" in fails(
            folder, "--at", "0", "-f", "txt", status=2
        )
        assert "only one field can be written to standard output" in fails(
            folder, "--at", "1", "-f", "txt", "-f", "cls", status=2
        )

    def test_a_key_leads_nowhere_else(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "x-@1.tar", [[{"key": "../../up", "txt": "t"}]])
        call("x-@1.tar", "--at", "0", "--to", "to", cwd=tmp_path, program="htextract")
        assert (tmp_path / "to" / "up.txt").read_text() == "t"


BAD = {
    "two things": (("--stats", "--count", "cls"), "--stats and --count cannot be used together"),
    "two samples": (("--sample", "a", "--at", "1"), "--sample and --at cannot be used together"),
    "fields of statistics": (("--stats", "-f", "cls"), "-f does not go with --stats"),
    "a limit of one sample": (("--at", "1", "--limit", "1"), "--limit does not go with --sample KEY or --at"),
    "decoded rows": (("--decode",), "--decode needs --stats"),
    "keys and fields": (("--keys", "-f", "cls"), "-f, --keys and -p cannot be used together"),
    "a field twice": (("-f", "cls", "-f", "cls"), "a field is given twice with -f"),
    "raw and base64": (("-f", "cls", "--raw", "--base64"), "--raw and --base64 cannot be used together"),
    "no condition": (("--where", "cls = = 3"), 'syntax error at or near "=", here: cls = ^= 3'),
    "a condition of no truth": (("--where", "cls + 3"), "the condition is of type BIGINT, not true or false"),
    "a query": (("--where", "cls in (select 1)"), "the condition has a query, which it may not"),
}


@pytest.mark.parametrize("name", BAD)
def test_options_that_do_not_go_together(name: str, folder: Path) -> None:
    arguments, says = BAD[name]
    assert says in fails(folder, *arguments, status=2)


def test_a_damaged_shard(tmp_path: Path) -> None:
    written_dataset(tmp_path, SPEC, [samples(shard) for shard in range(SHARDS)])
    for path in tmp_path.glob("*.npz"):
        path.unlink()
    data = (tmp_path / "in-1.tgz").read_bytes()
    (tmp_path / "in-1.tgz").write_bytes(data[: len(data) // 2])
    for arguments in (("-f", "cls"), ("--stats",), ("--count", "cls"), ("--sample", "c/é 0001")):
        assert "in-1.tgz" in fails(tmp_path, *arguments)
    outcome = call(SPEC, "-f", "cls", "--on-error", "skip", cwd=tmp_path, program="htextract")
    assert outcome.status == 3 and "skipped: " in outcome.err and "in-1.tgz" in outcome.err
    keys = [str(s["key"]) for shard in (0, 2) for s in samples(shard)]
    assert [line.split("\t")[0] for line in outcome.out.splitlines()] == keys


def test_a_stale_sidecar_is_not_believed(tmp_path: Path) -> None:
    written_dataset(tmp_path, "x-@1.tar", [[{"key": f"{i}", "txt": "old" * 9000} for i in range(9)]])
    old = (tmp_path / "x-0.tar.index.npz").read_bytes()
    written_dataset(tmp_path, "x-@1.tar", [[{"key": f"{i}", "txt": "new"} for i in range(9)]])
    (tmp_path / "x-0.tar.index.npz").write_bytes(old)
    found = call("x-@1.tar", "-f", "txt", cwd=tmp_path, program="htextract")
    assert found.out == "".join(f"{i}\tnew\n" for i in range(9))


def test_one_of_the_same_size_is_found_out(tmp_path: Path) -> None:
    choose = random.Random(0)
    rows = [[{"key": f"{i}", "bin": choose.randbytes(9000), "txt": "old"} for i in range(9)]]
    written_dataset(tmp_path, "x-@1.tar", rows)
    path = tmp_path / "x-0.tar"
    path.write_bytes(path.read_bytes().replace(b"old", b"new"))
    message = check_failure("x-@1.tar", "-f", "txt", cwd=tmp_path, program="htextract")
    assert (
        "x-0.tar [0.txt]: its checksum is not the one in the sidecar; if the shard was replaced on purpose" in message
    )


class TestFilesStayInTheirFolder:
    """Names come from a shard or its sidecar, which somebody else may have made."""

    def test_a_sidecar_whose_field_leads_out(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "x-@1.tar", [[{"key": "0", "txt": b"evil"}]])
        url = str(tmp_path / "x-0.tar")
        sidecar = read_sidecar(url, None)
        assert sidecar is not None
        table = replace(sidecar.table, fields=("x/../../outside/evil",))
        write_sidecar(url, replace(sidecar, table=table))
        call("x-@1.tar", "--at", "0", "--to", "to/deep", cwd=tmp_path, program="htextract")
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "to") == [
            "x-0.tar", "x-0.tar.index.npz", "x-@1.tar.json",
        ]  # fmt: skip
        assert not list(tmp_path.rglob("evil"))

    @pytest.mark.parametrize(
        ("key", "field"),
        [("a", "x/../../evil"), ("a", "/etc/x"), ("a", "x\0"), ("a", "../x"), ("a", "x/y"), ("../..", "/x"), ("", "")],
    )
    @pytest.mark.parametrize("folder", ["to", "http://host/to", "s3://bucket"])
    def test_names_that_lead_out(self, key: str, field: str, folder: str) -> None:
        if (key, field) == ("", ""):
            assert place_in(folder, "", "x", url="a.tar") == f"{folder}/.x"
            return
        with pytest.raises(CorruptError, match=r"^a\.tar \[.*\]: the name of this field leads out of the folder"):
            place_in(folder, key, field, url="a.tar")

    def test_names_that_a_server_would_read_otherwise(self) -> None:
        place = place_in("http://host/to/", "d/a%2f..%2f?x", "txt", url="a.tar")
        assert place == "http://host/to/a%252f..%252f%3Fx.txt"

    @pytest.mark.parametrize("name", ["../../out.txt", "/tmp/shardtools-out.txt", "d/../../../out.txt"])
    def test_members_of_a_tar_file_that_lead_out(self, name: str, tmp_path: Path) -> None:
        """They are read as they are named, and the file has only the last component."""
        (tmp_path / "x-0.tar").write_bytes(tars.make_tar([tars.Member(name, b"data")]))
        outcome = call("x-@1.tar", "--at", "0", "--to", "d/to", cwd=tmp_path, program="htextract")
        assert outcome.status == 0 and (tmp_path / "d/to" / Path(name).name).read_bytes() == b"data"
        assert not (tmp_path / "out.txt").exists() and not (tmp_path.parent / "out.txt").exists()
        assert not Path("/tmp/shardtools-out.txt").exists()

    def test_a_link_in_the_place_of_the_file(self, tmp_path: Path) -> None:
        written_dataset(tmp_path, "x-@1.tar", [[{"key": "0", "txt": b"new"}]])
        (tmp_path / "to").mkdir()
        (tmp_path / "precious").write_bytes(b"old")
        for target in ("precious", "not there"):
            (tmp_path / "to" / "0.txt").unlink(missing_ok=True)
            (tmp_path / "to" / "0.txt").symlink_to(tmp_path / target)
            arguments = ("x-@1.tar", "--at", "0", "--to", "to", "--overwrite")
            message = check_failure(*arguments, cwd=tmp_path, program="htextract")
            assert message.startswith(
                f"{tmp_path}/to/0.txt: this is a symbolic link, which may lead out of the folder; "
            )
        assert (tmp_path / "precious").read_bytes() == b"old" and not (tmp_path / "not there").exists()


@pytest.mark.parametrize(
    "arguments",
    [["-f", "txt"], ["--keys"], ["--stats"], ["--count", "txt"], ["--at", "0"], ["--sample", "0", "-f", "txt"]],
)
def test_devices_as_outputs(arguments: list[str], tmp_path: Path) -> None:
    written_dataset(tmp_path, "x-@1.tar", [[{"key": "0", "txt": b"new"}, {"key": "1", "txt": b"newer"}]])
    plain = run("x-@1.tar", *arguments, cwd=tmp_path, program="htextract")
    assert plain.status == 0 and plain.out
    for _ in range(2):
        for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
            shown = run("x-@1.tar", *arguments, "-o", name, cwd=tmp_path, program="htextract")
            assert shown == plain
        gone = run("x-@1.tar", *arguments, "-o", "/dev/null", "-q", cwd=tmp_path, program="htextract")
        assert (gone.status, gone.out, gone.err) == (0, "", "")
    assert Path("/dev/null").is_char_device()


def test_standard_output_in_a_file(tmp_path: Path) -> None:
    """What a shell's >> has opened is written on, not from its beginning."""
    written_dataset(tmp_path, "x-@1.tar", [[{"key": "0", "txt": b"new"}]])
    command = [path_of("htextract"), "x-@1.tar", "--keys", "-o", "/dev/stdout"]
    for _ in range(2):
        with (tmp_path / "keys").open("ab") as file:
            subprocess.run(command, cwd=tmp_path, stdout=file, check=True, timeout=60)
    assert (tmp_path / "keys").read_text() == "0\n0\n"


def test_a_pipe_as_a_shard(tmp_path: Path) -> None:
    """One that a shell makes is read; one that has a name may have nobody who writes to it."""
    written_dataset(tmp_path, "x-@1.tar", [[{"key": "0", "txt": b"new"}]])
    os.mkfifo(tmp_path / "pipe.tar")
    failed = run("pipe.tar", "--keys", cwd=tmp_path, program="htextract")
    assert failed.error().startswith(f"{tmp_path}/pipe.tar: this is a named pipe, which may never end; name a")
    shell = f"{path_of('htextract')} <(cat x-0.tar) -f txt; cat x-0.tar | {path_of('htextract')} /dev/stdin -f txt"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0\tnew\n0\tnew\n", done.stderr


EVIL = "a\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eb"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[2J\\x0d\\x9b31m\\u202eb"


def on_a_terminal(*arguments: Argument, cwd: Path) -> str:
    """Return what a user sees who runs htextract on a terminal."""
    controlling, terminal = pty.openpty()
    seen = []

    def read() -> None:
        with suppress(OSError):  # the last one has closed the terminal
            while data := os.read(controlling, 1 << 16):
                seen.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    command = [path_of("htextract"), "x-@1.tar", *map(os.fspath, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(
        command, cwd=cwd, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        process.wait(timeout=60)
    reader.join()
    os.close(controlling)
    return b"".join(seen).decode().replace("\r\n", "\n")


class TestControlCharacters:
    """A key or a text may hold what a terminal obeys; it is shown there, and nowhere else changed."""

    @pytest.fixture
    def evil(self, tmp_path: Path) -> Path:
        written_dataset(tmp_path, "x-@1.tar", [[{"key": EVIL, "txt": EVIL, "e\x1b[2J": b"x"}]])
        return tmp_path

    @pytest.mark.parametrize(
        "arguments",
        [["--keys"], ["-f", "txt"], ["-f", "txt", "--format", "csv"], ["--at", "0"], ["--stats"], ["--count", "txt"],
         ["--at", "0", "-f", "txt"], ["--at", "0", "--to", "to"], ["--sample", "none"], ["--sample", "no\x1b[2J"],
         ["--sample", EVIL], ["-f", "txt", "-p", "script.py", "-v"], ["-v", "-f", "none"]],
        ids=str,
    )  # fmt: skip
    def test_on_a_terminal(self, arguments: list[str], evil: Path) -> None:
        seen = on_a_terminal(*arguments, cwd=evil)
        assert not set(seen) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x202E)}, repr(seen)
        if arguments[0] in ("--keys", "--sample", "--count"):
            assert any(text in seen for text in (SHOWN, SHOWN.replace("\\x0d", "\\r"), "no\\x1b[2J", "the key none"))
        if arguments == ["--stats"]:
            assert "e\\x1b[2J" in seen

    def test_to_a_pipe(self, evil: Path) -> None:
        command = [path_of("htextract"), "x-@1.tar", "--keys"]
        done = subprocess.run(command, cwd=evil, capture_output=True, check=True, timeout=60)
        assert done.stdout == EVIL.replace("\r", "\\r").encode() + b"\n"
        done = subprocess.run([*command[:2], "--at", "0", "-f", "txt"], cwd=evil, capture_output=True, check=True)
        assert done.stdout == EVIL.encode()

    def test_in_errors_always(self, evil: Path) -> None:
        failed = run("x-@1.tar", "--sample", EVIL, "-f", "none", cwd=evil, program="htextract")
        assert "a\\x1b]0;owned\\x07\\x1b[2J" in failed.error(2) and "\x1b" not in failed.err
        error = CorruptError("it is \x1b[2J", url="http://host/\u202e.tar", member="\x9b", fix="\udc9b")
        assert str(error) == "http://host/\\u202e.tar [\\x9b]: it is \\x1b[2J; \\x9b"


def test_an_index_that_names_other_places(tmp_path: Path) -> None:
    written_dataset(tmp_path, "x-@1.tar", [[{"key": "0", "txt": b"new"}]])
    (tmp_path / "d").mkdir()
    shards = [{"url": "../x-0.tar", "nsamples": 1}]
    (tmp_path / "d" / "i.json").write_text(json.dumps({"wids_version": 1, "shardlist": shards}))
    for options in ([], ["-f", "txt"]):
        message = check_failure("d/i.json", "--at", "0", *options, cwd=tmp_path, status=2, program="htextract")
        assert message == (
            f"{tmp_path}/d/i.json: the index names a place outside of its folder: {tmp_path}/x-0.tar; "
            "if you trust the index, allow that with --trust-index, or trust_index=True in Python"
        )
    shown = call("d/i.json", "--at", "0", "-f", "txt", "--trust-index", cwd=tmp_path, program="htextract")
    assert shown.out == "new"


def test_rows_that_were_lost_in_a_temporary_file() -> None:
    """A file is not made of fewer rows than there were."""
    with pytest.raises(CorruptError, match="rows that waited in a temporary file are lost"):
        open_output(io.BytesIO(), DEFAULT_FORMAT).add(None, io.BytesIO(b"a\t1\n"), 8)
