"""The htquery command."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import click

from shardtools.cli.common import as_long_as_it_is_read, run_command
from shardtools.cli.options import Needed, add_options
from shardtools.cli.storage_line import STORAGE_OPTIONS, VERBOSE_OPTION, VERSION_OPTION, StorageLine

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions

EPILOG = """\b
Examples:
  htquery train-@1000.tgz "select cls, count(*) from samples group by cls order by 2 desc"
  htquery train-@1000.tgz "select key, json.width from samples where json.width > 4000" -o large.csv
  htquery a=images-@8.tar b=captions-@8.tar "select key from a anti join b using (key)"

QUERY is one query in DuckDB's SQL. In it, the dataset SRC is called samples, and NAME=SRC is called NAME. Each must
have a table, which htindex --table makes: htquery reads nothing else. The columns are key, shard, row, size.jpg and so
on, the values of small fields such as cls, and paths of JSON such as json.width.

Exit status: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

Format = Literal["table", "csv", "jsonl", "parquet"]

_OPTIONS = [
    click.option(
        "-o",
        "--output",
        default="-",
        metavar="FILE",
        help="A path or URL to write to. Its ending gives the format.  [default: standard output]",
    ),
    click.option(
        "--format",
        type=click.Choice(["table", "csv", "jsonl", "parquet"]),
        help="The format of the result.  [default: table on a terminal, else csv]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace an existing FILE."),
    *STORAGE_OPTIONS,
    VERBOSE_OPTION,
    VERSION_OPTION,
]
_ARGUMENTS = [
    click.argument("tables", cls=Needed, nargs=-1, required=True, metavar="[NAME=]SRC..."),
    click.argument("query", metavar="QUERY"),
]
_NAMED = re.compile(r"([A-Za-z_]\w*)=(.+)", re.DOTALL)
_MISNAMED = re.compile(r"([^=/:]*)=.*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class QueryLine(StorageLine):
    """What was typed."""

    tables: tuple[str, ...]
    query: str
    output: str
    format: Format | None
    overwrite: bool

    @property
    def datasets(self) -> list[tuple[str, str]]:
        """The name and the spec of each dataset."""
        found = [_NAMED.fullmatch(text) for text in self.tables]
        return [
            ("samples", text) if match is None else (match[1], match[2])
            for text, match in zip(self.tables, found, strict=True)
        ]

    @property
    def sources(self) -> tuple[str, ...]:
        """The specs of the datasets."""
        return tuple(spec for _, spec in self.datasets)

    @property
    def named(self) -> tuple[tuple[str, ...], str]:
        """The datasets, and the output."""
        return self.sources, self.output

    def run_options(self) -> RunOptions:
        """Return the options of storage, and whether an output may be replaced."""
        return replace(super().run_options(), overwrite=self.overwrite)


def _add_options(command: click.decorators.FC) -> click.decorators.FC:
    return add_options(command, "line", QueryLine, _ARGUMENTS, _OPTIONS)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@_add_options
def main(line: QueryLine) -> None:
    """Run QUERY, in SQL, over the tables of datasets."""
    run_command("htquery", line, lambda: as_long_as_it_is_read(lambda: _query(line)), resumes=False)


def _query(line: QueryLine) -> int:
    from shardtools.cli.query_output import format_of, write_result
    from shardtools.dataset.sharded import ShardedDataset
    from shardtools.errors import JobError, SpecError
    from shardtools.query.sql import run_sql

    for text in line.sources:
        if (match := _MISNAMED.fullmatch(text)) is not None:
            if text.endswith("="):
                raise SpecError(f"{text} names no dataset", fix="write it as a=SRC")
            fix = "write it as a=SRC, with letters, digits and _ in the name; a path with = begins with ./"
            raise SpecError(f"{match[1]!r} is not a name for a dataset", fix=fix)
    options = line.run_options()
    chosen = format_of(line.output, line.format)
    names = [name for name, _ in line.datasets]
    for name in names:
        if names.count(name) > 1:
            fix = "give each one of its own, as a=SRC b=SRC; QUERY is one argument"
            raise JobError(f"two datasets have the name {name}", fix=fix)
    tables = {name: ShardedDataset(spec, options.storage).table_rows() for name, spec in line.datasets}
    write_result(run_sql(line.query, tables), line.query, line.output, chosen, options)
    return 0
