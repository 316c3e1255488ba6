"""One form for one thing in all programs and functions, and what is said of options and names that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

import shardtools
from shardtools.__main__ import PROGRAMS
from shardtools.cli.companions import ALL, NEEDS
from shardtools.errors import JobError
from shardtools.loader.batches import ShardBatches
from tests.cli.command import Argument, Outcome, call
from tests.datasets import written_dataset

SPEC = "in-@2.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, which is only read."""
    folder = tmp_path_factory.mktemp("words")
    samples = [{"key": str(i), "cls": i % 2, "txt": f"text {i}", "json": {"n": i}} for i in range(6)]
    written_dataset(folder, SPEC, [samples[:3], samples[3:]])
    (folder / "same.py").write_text("def process_sample(record):\n    return record\n")
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


def commands() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield each command and its options that need others."""
    for program in PROGRAMS:
        main = import_module(f"shardtools.cli.{program}").main
        for command in [f"{program} {name}" for name in main.commands] if isinstance(main, click.Group) else [program]:
            there = {option.name for option in _command(command).params}
            rules = {**{name: others for name, others in ALL.items() if name in there}, **NEEDS.get(command, {})}
            yield from ((command, name, others) for name, others in rules.items())


def _command(name: str) -> click.Command:
    program, _, inner = name.partition(" ")
    main = import_module(f"shardtools.cli.{program}").main
    found = main.commands[inner] if inner else main
    assert isinstance(found, click.Command)
    return found


def typed(command: click.Command, name: str) -> list[str]:
    """Return an option with a value, as it may be typed."""
    [option] = [option for option in command.params if option.name == name]
    if isinstance(option, click.Argument):
        return ["x"]
    if isinstance(option, click.Option) and option.is_flag:
        return [option.opts[0]]
    value = option.type.choices[-1] if isinstance(option.type, click.Choice) else "1"
    return [option.opts[0], str(value)]


class TestValues:
    """What is said of a value says what is accepted."""

    @pytest.mark.parametrize(
        ("program", "line", "message"),
        [
            ("htextract", "--sample 50% --keys IN", "50% is not a share, which is a number from 0 to 1, such as 0.01."),
            ("htshuffle", "--sample half IN out.tar", "half is not a share, which is a number from 0 to 1"),
            ("htextract", "--histogram cls --bins x IN", "'--bins': x is not a whole number of 1 or more."),
            ("htextract", "--at 1.5 IN", "'--at': 1.5 is not a whole number."),
            ("htview", "--port 99999 IN", "'--port': 99999 is not a whole number from 0 to 65535."),
            ("htcp", "--timeout 1m IN out-@2.tar", "'--timeout': 1m is not a number of seconds, such as 0.5 or 60."),
            ("htcp", "--timeout 0 IN out-@2.tar", "'--timeout': 0 is not a number of seconds"),
        ],
    )
    def test_numbers(self, folder: Path, program: str, line: str, message: str) -> None:
        outcome = do(folder, program, *line.replace("IN", SPEC).split(" "))
        assert outcome.status == 2 and message in outcome.err

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("-f json.n", 'the field json.n; htquery shows such columns: htquery SRC "select key, json.n from'),
            ("-f size.txt", 'the field size.txt; htquery shows such columns: htquery SRC "select key, size.txt from'),
            ("-f CLS", "no sample has the field CLS; there is cls, which differs only in case"),
            ("-f key", "key is no field, and each row begins with the key; leave it out of the fields (-f)"),
            ("--count size.txt", 'htquery counts such columns: htquery SRC "select size.txt, count(*) from samples '),
        ],
    )
    def test_columns_that_are_no_fields(self, folder: Path, line: str, message: str) -> None:
        assert message in do(folder, "htextract", *line.split(" "), SPEC).error(2)


class TestMistakes:
    """What a newcomer types, and is told."""

    @pytest.mark.parametrize(
        ("program", "line", "message"),
        [
            ("htupload", ["IN"], "Missing argument: SRC... and DST are needed."),
            ("htquery", ["IN"], "Missing argument: [NAME=]SRC... and QUERY are needed."),
            ("htinfo", [], "Missing argument: SRC... is needed."),
            ("htupload", ["-f", "jpg", "IN", "out.tar"], "-f: choose files with --include and --exclude"),
            ("htextract", ["--where", "cls = 1", "--where", "row = 1", "IN"], "--where is given twice; join"),
            ("htextract", ["--count", "cls", "--count", "txt", "IN"], "--count is given twice; count one"),
            ("htextract", ["-f", ",", "IN"], "there is no name in ','; give names, as in jpg,cls"),
            ("htextract", ["-f", "cls", "-o", "x.csv", "--format", "jsonl", "IN"], "x.csv does not fit --format jsonl"),
            ("htextract", ["--count", "cls,txt", "IN"], "cls,txt is several fields; ask for one at a time"),
            ("htextract", ["--where", "txt = dog", "IN"], "; a text has single quotes: 'dog'"),
            ("htextract", ["--where", "clss = 1", "IN"], "; did you mean cls?"),
            ("htsort", ["--by", "cls:desc", "IN", "out.tar"], "; --reverse sorts in descending order"),
            ("htsort", ["--by", "size.txt", "IN", "out.tar"], "; a script's sort_key(record) can sort by"),
            ("htquery", ["IN", "select", "cls from samples"], "as a=SRC b=SRC; QUERY is one argument"),
            ("htmapper", ["-p", "same.py", "IN", "out.tar"], "2 input shards cannot be mapped to 1 output shard; ask"),
        ],
    )
    def test_it(self, folder: Path, program: str, line: list[str], message: str) -> None:
        outcome = do(folder, program, *(part.replace("IN", SPEC) for part in line))
        assert outcome.status == 2 and outcome.out == "" and message in outcome.err


class TestOptionsWithoutEffect:
    @pytest.mark.parametrize(("name", "option", "others"), [*commands()])
    def test_without_the_options_that_they_need(
        self, folder: Path, name: str, option: str, others: tuple[str, ...]
    ) -> None:
        command, (program, *inner) = _command(name), name.split(" ")
        line = [*inner, *typed(command, option)]
        for needed in command.params:
            if needed.required:
                line += ["-p", "x"] if needed.name == "script" else ["x"]
        said = do(folder, program, *line).error(2)
        written = typed(command, option)[0]
        assert said.startswith(f"{written} needs {typed(command, others[0])[0] if others != ('name',) else 'NAME'}")
        assert said.endswith(f"or leave out {written}")

    @pytest.mark.parametrize(
        ("program", "line", "message"),
        [
            ("htextract", "--keys --raw IN", "--raw does not go with --keys; leave it out"),
            ("htextract", "--at 1 --report x IN", "--report does not go with --sample KEY or --at; leave it out"),
            ("htextract", "--at 1 --sample 0.5 IN", "--sample and --at cannot be used together; ask for one thing"),
            ("htextract", "--sample 0.5 --to x IN", "--to does not go with rows; leave it out"),
            ("htextract", "--stats --limit 3 IN", "--limit does not go with --stats; ask htquery, as in: htquery SRC"),
            ("htextract", "--stats -o x.parquet IN", "this is not written as parquet; give --format tsv or jsonl"),
            ("htextract", "-f cls --header -o x.jsonl IN", "--header does not go with jsonl; leave it out"),
            ("htview", "--publish --port 80 IN", "--port does not go with --publish; leave it out"),
            ("htmapper", "-p same.py --limit 1 --resume IN -", "--resume does not go with a trial run; leave it out"),
        ],
    )
    def test_beside_others(self, folder: Path, program: str, line: str, message: str) -> None:
        assert do(folder, program, *line.replace("IN", SPEC).split(" ")).error(2).startswith(message)

    def test_sidecars_of_what_has_none(self, folder: Path, tmp_path: Path) -> None:
        for option in ("--index=x", "--verify=x"):
            outcome = do(folder, "htupload", option, SPEC, tmp_path / "a-@1.tar")
            assert outcome.status == 2 and "it is about sidecars that are read" in outcome.err
        with pytest.raises(JobError, match="verify is about sidecars"):
            shardtools.upload(folder, tmp_path / "a-@1.tar", verify=True)

    def test_conflicts(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(JobError, match="--on-conflict needs --merge"):
            shardtools.sort(folder / SPEC, tmp_path / "a-@1.tar", on_conflict="first")

    def test_buckets(self, folder: Path) -> None:
        with pytest.raises(JobError, match=r"buckets=\[1, 2\] needs bucket_by; give bucket_by"):
            ShardBatches(str(folder / SPEC), fields="cls", buckets=[1, 2])


class TestTypes:
    """What Python would say of a wrong type far from where it was given."""

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda spec, ds: shardtools.open(5), "a dataset is a path, a URL or a list of such, not of type int"),
            (lambda spec, ds: ds.view(["cls", "txt"]), "a view is of one field"),
            (lambda spec, ds: shardtools.sql(ds, "select 1"), "a query is a text, and comes before the datasets"),
            (lambda spec, ds: shardtools.count(spec, ["cls"]), "field is of type list; name one field"),
            (lambda spec, ds: shardtools.sort(spec, "x-@1.tar", by=["cls"]), "by is of type list; name one field"),
            (lambda spec, ds: shardtools.stats(ds), "not of type Dataset; give its spec, and where= for some of its"),
        ],
    )
    def test_a_wrong_one(self, folder: Path, call: Callable[[str, Any], object], message: str) -> None:
        spec = str(folder / SPEC)
        with pytest.raises((TypeError, JobError), match=re.escape(message)):
            call(spec, shardtools.open(spec))
