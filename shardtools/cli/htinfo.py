"""The htinfo command."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from shardtools.cli.common import run_command, tell
from shardtools.cli.options import Needed, add_options
from shardtools.cli.storage_line import STORAGE_OPTIONS, VERBOSE_OPTION, VERSION_OPTION, StorageLine

if TYPE_CHECKING:
    pass

EPILOG = """\b
Examples:
  htinfo train-@1000.tgz
  htinfo s3://bucket/train-@1000.tgz s3://bucket/val-@50.tgz
  htinfo --shards train-@1000.tgz             also a line for each shard
  htinfo --json train-@1000.tgz | jq .samples

htinfo reads the manifest, the table, the sidecars of two shards and some fields: about a dozen requests, whatever
the number of shards. Without a manifest it looks at the first 32 shards, and says "at least". An example is of the
first sample that has the field. Classes are counted, and the values of columns shown from the smallest to the
largest, if there is a table, which htindex --table makes. Of one on a server with more than 256 MB only the end is
read.

Exit status: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

_OPTIONS = [
    click.option("--shards", is_flag=True, help="Also list the shards: names, samples, bytes, and sidecars."),
    click.option("--json", "as_json", is_flag=True, help="Write JSON instead, a line for each dataset."),
    *STORAGE_OPTIONS,
    VERBOSE_OPTION,
    VERSION_OPTION,
]
_ARGUMENTS = [click.argument("sources", cls=Needed, nargs=-1, required=True, metavar="SRC...")]


@dataclass(frozen=True, kw_only=True)
class InfoLine(StorageLine):
    """What was typed."""

    sources: tuple[str, ...]
    shards: bool
    as_json: bool

    @property
    def named(self) -> tuple[tuple[str, ...]]:
        """The datasets."""
        return (self.sources,)


def _add_options(command: click.decorators.FC) -> click.decorators.FC:
    return add_options(command, "line", InfoLine, _ARGUMENTS, _OPTIONS)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@_add_options
def main(line: InfoLine) -> None:
    """Show what the datasets SRC are: size, fields, classes, origin and index files."""
    run_command("htinfo", line, lambda: _show(line), resumes=False)


def _show(line: InfoLine) -> int:
    from shardtools.cli.info_text import lines_of
    from shardtools.programs.info import describe_source, single_specs
    from shardtools.storage import using

    with using(line.run_options().storage):
        for number, spec in enumerate(single_specs(line.sources)):
            found = describe_source(spec, shards=line.shards)
            if line.as_json:
                tell(json.dumps(asdict(found)))
                continue
            for text in ([""] if number else []) + lines_of(found):
                tell(text)
    return 0
