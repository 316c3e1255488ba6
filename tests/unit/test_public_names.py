"""What `import shardtools` shows: names, types for users of mypy, and functions that agree with the commands."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest

import shardtools as st
from shardtools.__main__ import PROGRAMS
from shardtools.programs.choosing import ChoiceKeywords, choice_of
from shardtools.programs.exchanging import ExchangeKeywords, exchange_settings
from shardtools.programs.extract import RowKeywords, _extract
from shardtools.programs.keywords import ReadKeywords, WriteKeywords
from shardtools.programs.running import run_options

USER = """
from typing import Iterator, Mapping
from typing_extensions import assert_type
import shardtools as st
from distributed import Client

def shrink(record: Mapping[str, bytes], size: int) -> dict[str, object]:
    return {"key": record["key"], "txt": record["txt"][:size]}

def count(key: object, records: Iterator[Mapping[str, bytes]]) -> dict[str, object]:
    return {"key": str(key), "json": {"n": sum(1 for record in records)}}

assert_type(st.upload("texts", "a-@2.tar", class_from_folder=True, shard_count=10, overwrite=True), st.JobResult)
result = st.map("a-@2.tar", "b-@2.tar", shrink, params={"size": 3}, version="1", jobs=2, resume=True, progress=True)
assert_type(result, st.JobResult)
assert_type(result.counts.written, int)
assert_type(st.map("a-@2.tar", "b-@2.tar", "script.py", cluster="processes"), st.JobResult)
assert_type(st.shuffle(["a-@2.tar"], "b-@2.tar", seed=7, memory="2GB"), st.JobResult)
assert_type(st.sort("a-@2.tar", "b-@2.tar", by="cls:int", reduce=count), st.JobResult)
rows = st.extract("a-@2.tar", fields=["cls"], limit=10)
assert_type(rows, st.Rows)
for row in rows:
    assert_type(row, Mapping[str, object])
assert_type(st.extract("a-@2.tar", fields=["cls"], output="rows.csv"), st.ExtractResult)
assert_type(st.stats("a-@2.tar").filesize, int)
assert_type(st.count("a-@2.tar", "cls"), st.ValueCounts)
assert_type(st.index("a-@2.tar", check=True).samples, int)
assert_type(st.info("a-@2.tar"), st.Description)
assert_type(st.open("a-@2.tar"), st.Dataset)
assert_type(st.show("a-@2.tar").url, str)
assert_type(st.Limits(sample=10).sample, int)
try:
    st.shuffle("a-@2.tar", "b-@2.tar")
except st.ShardtoolsError as error:
    print(error)
"""
WRONG = """
import shardtools as st

st.map("a-@2.tar", "b-@2.tar")
st.shuffle("a-@2.tar", "b-@2.tar", sede=7)
st.sort("a-@2.tar", "b-@2.tar", merge="middle")
st.extract("a-@2.tar", fields=7)
st.index("a-@2.tar", resume=True)
st.nothing
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> list[str]:
    """What mypy, in its strictest form, says of a user's programs: lines that begin with their names.

    It remembers from run to run what it knows of modules that have not changed.
    """
    folder = tmp_path_factory.mktemp("user")
    (folder / "right.py").write_text(USER)
    (folder / "wrong.py").write_text(WRONG)
    (folder / "mypy.ini").write_text("[mypy]\nstrict = True\n[mypy-pandas.*]\nignore_missing_imports = True\n")
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("mypy")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", cache, "right.py", "wrong.py"]
    env = os.environ | {"PYTHONPATH": str(Path(st.__file__).parents[1])}  # an editable installation is none for mypy
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 1, done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def test_all_names_are_there() -> None:
    assert st.__all__ == sorted(st.__all__)
    assert set(st.__all__) <= set(dir(st))
    for name in st.__all__:
        assert inspect.getdoc(getattr(st, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        st.nothing  # noqa: B018


def test_what_types_are_told_of_is_what_is_there() -> None:
    block = next(node for node in ast.parse(Path(st.__file__).read_text()).body if isinstance(node, ast.If))
    told = {
        alias.asname or alias.name: getattr(importlib.import_module(node.module or ""), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {name: getattr(st, name) for name in st.__all__}


def test_a_users_program_is_typed(told: list[str]) -> None:
    assert [line for line in told if not line.startswith("wrong.py:")] == []


def test_a_users_mistakes_are_found(told: list[str]) -> None:
    assert {int(line.split(":")[1]) for line in told if line.startswith("wrong.py:")} == {4, 5, 6, 7, 8, 9}


NAMES = {"assignments": "params", "maxima": "limits"}
"""What is called otherwise in Python: what a command gets as a text is a mapping or an object there."""
COMMAND_ONLY = {"table_fields", "quiet", "verbose", "dry_run", "version", "help"}
PAIRS: list[tuple[str, list[Callable[..., Any]], dict[str, str], set[str]]] = [
    ("htmapper", [st.map], {"script": "function"}, set()),
    ("htupload", [st.upload], {}, set()),
    ("htshuffle", [st.shuffle, exchange_settings], {}, set()),
    ("htsort", [st.sort, exchange_settings], {}, set()),
    ("htindex", [st.index], {}, {"fields"}),
    ("htinfo", [st.info], {"sources": "source"}, {"as_json"}),
    ("htcp", [st.copy], {"sources": "source"}, set()),
    ("htview", [st.show, st.publish], {"sources": "source", "opens": "open"}, {"port", "publish"}),
    ("htrm", [st.remove], {"sources": "source"}, {"yes"}),
    (
        "htextract",
        [st.extract, _extract, st.stats, st.count],
        {"script": "function"},
        {"keys", "stats", "count", "histogram", "bins", "sample", "at", "to", "trust_index"},
    ),
]
"""Each program, the functions that have its options, which of them have other names, and which are of commands alone:
`Dataset` has samples, keys are what `extract` gives without fields, and the fields of `index` are its ``table``."""


@pytest.mark.parametrize(("program", "functions", "names", "own"), PAIRS, ids=[pair[0] for pair in PAIRS])
def test_functions_have_the_options_of_commands(
    program: str, functions: list[Callable[..., Any]], names: dict[str, str], own: set[str]
) -> None:
    parameters = {
        name: parameter
        for call in (run_options, *functions)
        for name, parameter in inspect.signature(call).parameters.items()
    }
    command: click.Command = importlib.import_module(f"shardtools.cli.{program}").main
    required = ["-p", "script.py"] if program == "htmapper" else []
    arguments = ["a.tar", "b.tar"][: sum(isinstance(option, click.Argument) for option in command.params)]
    typed = command.make_context(program, [*required, *arguments]).params
    for option in command.params:
        assert option.name is not None
        if option.name in COMMAND_ONLY | own or getattr(option, "hidden", False):
            continue
        name = {**NAMES, **names}.get(option.name, option.name)
        assert name in parameters, f"{program} has --{option.name}"
        default = parameters[name].default
        if name in ("params", "limits", "memory", *names.values()) or default is inspect.Parameter.empty:
            continue
        assert (default or None) == (typed[option.name] or None), name


def test_keywords_are_those_that_are_taken() -> None:
    taken = set(inspect.signature(run_options).parameters)
    assert WriteKeywords.__optional_keys__ == taken
    assert ReadKeywords.__optional_keys__ == taken - {"resume", "table", "dimensions"}
    chosen = set(inspect.signature(choice_of).parameters) - {"seed"}
    assert ChoiceKeywords.__optional_keys__ == chosen
    exchanged = set(inspect.signature(exchange_settings).parameters)
    assert ExchangeKeywords.__optional_keys__ == taken | chosen | exchanged
    of_rows = set(inspect.signature(_extract).parameters) - {"sources", "output", "how", "keywords"}
    assert RowKeywords.__optional_keys__ - ReadKeywords.__optional_keys__ - chosen == of_rows


def test_programs_are_listed() -> None:
    done = subprocess.run([sys.executable, "-m", "shardtools"], capture_output=True, text=True, check=True, timeout=60)
    scripts = {
        script.name
        for script in metadata.entry_points(group="console_scripts")
        if script.value.startswith("shardtools.")
    }
    assert set(PROGRAMS) == scripts
    for name in PROGRAMS:
        assert f"\n  {name}" in done.stdout


def test_a_program_is_run(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shardtools", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    done = run("htindex", "a.tar")
    assert done.returncode == 1
    assert done.stderr == f"htindex: error: {tmp_path}/a.tar: there is no such file; check the path\n"
    done = run("htmapp", "a.tar")
    assert done.returncode == 2 and done.stderr.startswith("shardtools: error: there is no program htmapp; give one of")


@pytest.mark.parametrize(
    "function", [st.map, st.upload, st.shuffle, st.sort, st.extract, st.stats, st.count, st.index, st.copy]
)
def test_help_shows_every_keyword(function: Callable[..., Any]) -> None:
    shown = inspect.signature(function).parameters
    assert {"cluster", "jobs", "on_error", "cache"} <= set(shown)
    assert ("resume" in shown) == (function in (st.map, st.upload, st.shuffle, st.sort, st.copy))
    assert "keywords" not in shown
    text = inspect.getdoc(function) or ""
    assert [name for name in shown if f"``{name}``" not in text] == [], "each is explained"
