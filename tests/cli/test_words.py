"""One form for one thing in all programs and functions, and what is said of options and names that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

import shardtools
from shardtools.errors import JobError
from tests.cli.command import Argument, Outcome, call
from tests.datasets import written_dataset

SPEC = "in-@2.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, which is only read."""
    folder = tmp_path_factory.mktemp("words")
    samples = [{"key": str(i), "cls": i % 2, "txt": f"text {i}", "json": {"n": i}} for i in range(6)]
    written_dataset(folder, SPEC, [samples[:3], samples[3:]])
    return folder


def do(folder: Path, program: str, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program=program)


class TestNamesOfFields:
    """Several have commas, or options of their own, in all programs; in Python they are a list."""

    @pytest.mark.parametrize("option", ["-f", "--field", "--fields"])
    def test_columns_of_a_table(self, folder: Path, tmp_path: Path, option: str) -> None:
        outcome = do(folder, "htindex", "--table", option, "cls,txt:3", "--index", tmp_path, SPEC)
        assert outcome.status == 0 and "cls, txt; made" in outcome.out

    def test_columns_of_the_table_of_a_new_dataset(self, folder: Path, tmp_path: Path) -> None:
        names = ("--table-field", "caption,meta.json.n", "--rename", "txt=caption,json=meta.json")
        outcome = do(folder, "htshuffle", "--no-shuffle", "--table", *names, SPEC, tmp_path / "a-@1.tar")
        assert outcome.status == 0 and ".parquet: caption, meta.json.n; made" in outcome.out

    def test_lists(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(JobError, match=r"the field cls,txt; give several names as a list: \['cls', 'txt'\]"):
            shardtools.shuffle(folder / SPEC, tmp_path / "a-@1.tar", fields="cls,txt")
        with pytest.raises(TypeError, match="names are a text or a list of texts, not 5"):
            shardtools.shuffle(folder / SPEC, tmp_path / "a-@1.tar", drop=5)  # type: ignore[arg-type]
        result = shardtools.shuffle(folder / SPEC, tmp_path / "a-@1.tar", fields=["cls", "txt"], table="cls")
        assert result.tables[0].columns == ("cls",)
