"""The htview command."""

from __future__ import annotations

import atexit
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import click

from shardtools.cli.common import INTERRUPTED, run_command, tell
from shardtools.cli.numbers import Whole
from shardtools.cli.options import Needed, add_options
from shardtools.cli.storage_line import STORAGE_OPTIONS, VERBOSE_OPTION, VERSION_OPTION, StorageLine

EPILOG = """\b
Examples:
  htview train-@1000.tgz                      prints the address of a page, until Ctrl-C
  htview --open s3://bucket/train-@1000.tgz
  htview before-@100.tgz after-@100.tgz       side by side
  htview s3://bucket/place                    the arrays of a hub
  htview --publish http://host/train-@1000.tgz        a page beside it, for all

SRC is a dataset, or the place of a hub. The page shows what is in it: fields, classes and histograms, samples with
thumbnails, arrays and their versions. Conditions and SQL are answered by the table, if there is one, which htindex
--table makes. The server is on 127.0.0.1, only reads, and answers only to who has the secret in its address. On a
server far away: ssh -L 8000:127.0.0.1:8000 HOST, htview --port 8000 there, and open the address here.

Exit status: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

_OPTIONS = [
    click.option("--port", type=Whole(0, 65535), default=0, metavar="N", help="The port.  [default: any]"),
    click.option("--open", "opens", is_flag=True, help="Open the page in the browser."),
    click.option("--publish", is_flag=True, help="Write a page beside the dataset, which needs no htview, and end."),
    click.option("--to", metavar="URL", help="With --publish: the folder for the page.  [default: NAME.view]"),
    click.option("--overwrite", is_flag=True, help="With --publish: replace the page that is there."),
    *STORAGE_OPTIONS,
    VERBOSE_OPTION,
    VERSION_OPTION,
]
_ARGUMENTS = [click.argument("sources", cls=Needed, nargs=-1, required=True, metavar="SRC...")]


@dataclass(frozen=True, kw_only=True)
class ViewLine(StorageLine):
    """What was typed."""

    sources: tuple[str, ...]
    port: int
    opens: bool
    publish: bool
    to: str | None
    overwrite: bool

    @property
    def named(self) -> tuple[tuple[str, ...], str | None]:
        """The datasets, and the place of a page."""
        return self.sources, self.to


def _add_options(command: click.decorators.FC) -> click.decorators.FC:
    return add_options(command, "line", ViewLine, _ARGUMENTS, _OPTIONS)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@_add_options
def main(line: ViewLine) -> None:
    """Show datasets and arrays in a browser, by a page that this computer serves, or that is published."""
    run_command("htview", line, lambda: _publish(line) if line.publish else _serve(line), resumes=False)


def _serve(line: ViewLine) -> int:
    from shardtools.programs.view import open_browser, serve

    with serve(line.sources, line.run_options().storage, line.port) as server:
        tell(server.url)
        if line.opens:
            open_browser(server.url)
        with suppress(KeyboardInterrupt):  # which is how it ends
            server.wait()
    _leave()


def _leave() -> NoReturn:
    """End the program as interrupted, without waiting for what threads still read for the page."""
    atexit._run_exitfuncs()  # removes temporary files
    os._exit(INTERRUPTED)


def _publish(line: ViewLine) -> int:
    from shardtools.urls import at_home
    from shardtools.viewer.publish import publish

    to = None if line.to is None else at_home(line.to)
    for source in line.sources:
        found = publish(at_home(source), line.run_options().storage, to, overwrite=line.overwrite)
        tell(found.link or f"{found.page} (a web server must serve it)")
    return 0
