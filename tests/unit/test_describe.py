"""What `describe` says of datasets: against what was written, in few requests, and when something is wrong."""

from __future__ import annotations

import io
import json
import wave
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

import shardtools as st
from shardtools.errors import NotFoundError
from shardtools.query.describe import UNKNOWN_SHARDS, Description, describe
from shardtools.query.examples import LONGEST, example_of
from shardtools.query.histograms import find_histograms
from shardtools.query.table import DatasetTable
from tests.datasets import write_dataset, written_dataset
from tests.recording_server import recording_server

SHARDS, SAMPLES = 3, 20
RECORDS = [
    [
        {
            "key": f"{s}/{i:03d}",
            "cls": (s + i) % 3,
            "txt": f"\x1b[2J {i}\nb",
            "png": np.full((4, 5, 3), i, np.uint8),
            "npy": np.zeros((2, 3), np.float32),
            "json": {"w": 1.5 * i, "id": 2**60 + i},
        }
        for i in range(SAMPLES)
    ]
    for s in range(SHARDS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``d-@3.tar``, its sidecars, manifest, table and keys; the tests change copies only."""
    folder = tmp_path_factory.mktemp("described")
    written_dataset(folder, "d-@3.tar", RECORDS)
    st.index(str(folder / "d-@3.tar"), table=True)
    return folder


def copied(folder: Path, target: Path) -> str:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return str(target / "d-@3.tar")


def fits(found: Description) -> dict[str, bool | None]:
    return {file.what: file.fits for file in found.files}


class TestAll:
    def test_what_was_written(self, folder: Path) -> None:
        found = describe(str(folder / "d-@3.tar"))
        assert (found.shards, found.samples, found.partial, found.problems) == (3, 60, False, ())
        assert found.bytes == sum(path.stat().st_size for path in folder.glob("d-?.tar"))
        fields = {field.name: field for field in found.fields}
        assert {name: (field.kind, field.count) for name, field in fields.items()} == {
            "cls": ("number", 60),
            "txt": ("text", 60),
            "png": ("image", 60),
            "npy": ("array", 60),
            "json": ("JSON", 60),
        }
        assert (fields["txt"].example, fields["png"].example) == ("\\x1b[2J 0\\x0ab", "PNG image, 5 x 4")
        assert fields["npy"].example == "float32 array of shape (2, 3)" and fields["cls"].mean_bytes == 1
        assert set(fits(found).values()) == {True}
        assert found.origin is not None and found.origin.written is not None and found.origin.written[:2] == "20"
        assert json.loads(json.dumps(asdict(found)))["samples"] == 60

    def test_histograms_and_classes(self, folder: Path) -> None:
        found = describe(str(folder / "d-@3.tar"))
        spread = {one.column: one for one in found.histograms}
        assert set(spread) == {"cls", "json.w", "json.id"}
        assert spread["cls"].bins == (20, 20, 20) and spread["cls"].step == 1
        widths = [record["json"]["w"] for shard in RECORDS for record in shard]  # type: ignore[index]
        assert spread["json.w"].bins == tuple(np.histogram(widths, 30)[0].tolist())
        assert found.classes is not None
        assert [(one.number, one.count) for one in found.classes.listed] == [(0, 20), (1, 20), (2, 20)]
        assert (found.classes.more, found.classes.without) == (0, 0)

    @pytest.mark.parametrize("ending", ["tgz", "tar.zst"])
    def test_without_any_index(self, tmp_path: Path, ending: str) -> None:
        """The fields and examples are those of the first samples; the rest is unknown, and said to be."""
        found = describe(str(tmp_path / write_dataset(tmp_path, 3, 5, ending=ending)))
        assert (found.samples, found.partial, found.bytes, found.origin) == (5, True, None, None)
        assert [(field.name, field.example) for field in found.fields] == [("cls", "0"), ("txt", "0-0 " + "." * 16)]
        assert fits(found)["sidecars"] is False and not any(file.exists for file in found.files)

    def test_sidecars_of_some_shards(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, UNKNOWN_SHARDS + 1, 2)
        st.index(str(tmp_path / spec))
        (tmp_path / f"{spec}.json").unlink()
        found = describe(str(tmp_path / spec))
        assert (found.looked_at, found.samples, found.partial) == (UNKNOWN_SHARDS, 2 * UNKNOWN_SHARDS, True)
        found = describe(str(tmp_path / "in-0*.tar"))
        assert (found.shards, found.samples, found.partial) == (10, 20, False)

    def test_few_requests(self, folder: Path, tmp_path: Path) -> None:
        with recording_server(tmp_path / "server") as server:
            copied(folder, server.root)
            found = describe(f"{server.url}d-@3.tar")
            assert found.samples == 60 and set(fits(found).values()) == {True} and found.histograms
            assert len(server.requests()) <= 12


class TestWrong:
    def test_a_shard_that_was_replaced(self, folder: Path, tmp_path: Path) -> None:
        """It is noticed where it is looked at, and the others are described."""
        spec = copied(folder, tmp_path)
        (tmp_path / "d-2.tar").write_bytes((tmp_path / "d-2.tar").read_bytes() + bytes(512))
        found = describe(spec)
        assert found.samples == 60 and fits(found)["sidecars"] is False
        (tmp_path / "d-2.tar").unlink()
        found = describe(spec)
        assert len(found.problems) == 1 and "d-2.tar" in found.problems[0]

    def test_files_that_do_not_fit(self, folder: Path, tmp_path: Path) -> None:
        spec = copied(folder, tmp_path)
        changed = [[{**record, "cls": 7} for record in shard] for shard in RECORDS]
        written_dataset(tmp_path, "d-@3.tar", [*RECORDS[:2], changed[2]])
        found = describe(spec)
        assert fits(found) == {"manifest": True, "sidecars": True, "table": False, "keys": False}
        assert found.histograms == () and "1 of 3 shards have changed" in found.files[2].note

    @pytest.mark.parametrize("ending", ["json", "parquet", "keys"])
    def test_a_damaged_file(self, folder: Path, tmp_path: Path, ending: str) -> None:
        spec = copied(folder, tmp_path)
        (tmp_path / f"d-@3.tar.{ending}").write_bytes(b"{nothing")
        found = describe(spec)
        what = {"json": "manifest", "parquet": "table"}.get(ending, ending)
        [file] = [file for file in found.files if file.what == what]
        assert (file.exists, file.fits) == (True, False) and file.note

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            describe(str(tmp_path / "d-@3.tar"))

    @settings(max_examples=50)
    @given(some.sampled_from(["txt", "json", "cls", "png", "npy", "npz", "npz.gz", "wav", "bin"]), some.binary())
    def test_examples_of_any_bytes(self, field: str, data: bytes) -> None:
        text = example_of(field, data)
        assert text.isprintable() and len(text) <= LONGEST

    def test_a_sound_is_told_by_its_header(self) -> None:
        stream = io.BytesIO()
        with wave.open(stream, "wb") as sound:
            sound.setparams((2, 2, 44_100, 0, "NONE", ""))
            sound.writeframes(bytes(4 * 52_920))
        assert example_of("wav", stream.getvalue()) == "WAV sound, 1.2 s, 44.1 kHz"
        assert example_of("wav", stream.getvalue()[:14]) == "14 bytes: 52 49 46 46 04 3b 03 00 57 41 56 45 …"


@settings(max_examples=20, deadline=None)
@given(
    values=some.lists(some.none() | some.integers(-(2**70), 2**70) | some.floats(-1e300, 1e300), min_size=1, max_size=9)
)
@example([1e17, 1e17 + 16, 0.5e17])
@example([5e-324, 0.0])
@example([-1.7e308, 1.7e308])
def test_histograms_of_any_numbers(tmp_path_factory: pytest.TempPathFactory, values: list[float | None]) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    written_dataset(folder, "d-@1.tar", [[{"key": f"{i}", "json": {"v": v}} for i, v in enumerate(values)]])
    st.index(str(folder / "d-@1.tar"), table=True)
    for found in find_histograms(DatasetTable(str(folder / "d-@1.tar"))):
        numbers = [float(value) for value in values if value is not None]
        assert (found.low, found.high) == (min(numbers), max(numbers))
        assert sum(found.bins) == found.count == len(numbers) and found.other == len(values) - len(numbers)
        assert found.bins[0] > 0 and found.bins[-1] > 0
        assert Counter(numbers)[found.low] <= found.bins[0]
