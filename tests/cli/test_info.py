"""htinfo and `shardtools.info`: what is shown of datasets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import shardtools as st
from shardtools.errors import SpecError
from tests.cli.command import Argument, Outcome, call, check_failure
from tests.datasets import write_dataset, written_dataset

RECORDS = [[{"key": f"{s}/{i}", "cls": i % 2, "txt": f"\x1b[2J{i}"} for i in range(4)] for s in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``d-@2.tar`` and its table, and ``e-@2.tar``, which was made from it."""
    folder = tmp_path_factory.mktemp("shown")
    written_dataset(folder, "d-@2.tar", RECORDS)
    manifest = json.loads((folder / "d-@2.tar.json").read_text())
    (folder / "d-@2.tar.json").write_text(json.dumps({**manifest, "classes": ["cat", "\x1b[2J"], "license": "CC-BY"}))
    st.index(str(folder / "d-@2.tar"), table=True)
    st.map(str(folder / "d-@2.tar"), str(folder / "e-@2.tar"), lambda record: record)
    return folder


def info(folder: Path, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program="htinfo")


def words(outcome: Outcome) -> list[list[str]]:
    return [line.split() for line in outcome.out.splitlines()]


def test_text(folder: Path) -> None:
    outcome = info(folder, "d-@2.tar", "--shards")
    lines = words(outcome)
    assert outcome.status == 0 and "\x1b" not in outcome.out
    for line in (
        ["samples", "8"],
        ["license", "CC-BY"],
        ["cls", "number", "8", "1", "B", "0"],
        ["txt", "text", "8", "5", "B", "\\x1b[2J0"],
        ["cls", "8", "0", "0", "1", "██"],
        ["0", "cat", "4"],
        ["1", "\\x1b[2J", "4"],
        ["table", "fits", "d-@2.tar.parquet"],
        ["d-1.tar", "4", f"{(folder / 'd-1.tar').stat().st_size:,}", "yes"],
    ):
        assert line in lines, outcome.out


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    values = (b"1.5", b"1e999", b"NaN", b"null", b"2.5")
    samples = [{"key": str(i), "json": b'{"x": %s}' % value, "cls": 3} for i, value in enumerate(values)]
    written_dataset(tmp_path, "n-@1.tar", [samples])
    st.index(str(tmp_path / "n-@1.tar"), table=True)
    lines = words(info(tmp_path, "n-@1.tar"))
    assert ["column", "values", "without", "NaN", "or", "inf", "smallest", "largest"] in lines
    assert ["json.x", "2", "1", "2", "1.5", "2.5"] in [line[:6] for line in lines]


def test_what_made_it(folder: Path) -> None:
    outcome = info(folder, "e-@2.tar")
    assert ["made", "by", "htmapper"] in words(outcome) and ["from", str(folder / "d-@2.tar")] in words(outcome)


def test_json(folder: Path) -> None:
    first, second = map(json.loads, info(folder, "--json", "d-@2.tar::e-@2.tar").out.splitlines())
    assert (first["samples"], second["samples"]) == (8, 8)
    assert second["origin"]["program"] == "htmapper"


def test_without_a_manifest(tmp_path: Path) -> None:
    spec = write_dataset(tmp_path, 40, 2)
    st.index(str(tmp_path / spec))
    (tmp_path / f"{spec}.json").unlink()
    (tmp_path / "in-39.tar").unlink()
    lines = words(info(tmp_path, spec, "--shards"))
    assert ["samples", "at", "least", "64"] in lines
    assert ["in-39.tar", "missing", "yes"] in lines


def test_bad_sources(folder: Path) -> None:
    assert "there is no such file" in check_failure("nope-@2.tar", cwd=folder, program="htinfo")
    assert "standard input is no dataset" in check_failure("-", cwd=folder, status=2, program="htinfo")
    with pytest.raises(SpecError, match="several datasets"):
        st.info("d-@2.tar::e-@2.tar")
