"""The htarray command: arrays by name and version, from a shell."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from shardtools import __version__
from shardtools.cli.array_line import ArrayLine, array_options, count
from shardtools.cli.common import FAILED, run_command, tell
from shardtools.cli.numbers import Whole
from shardtools.errors import redact
from shardtools.units import format_size

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

EPILOG = """\b
Examples:
  htarray ls s3://bucket/place                      all arrays of the branch main
  htarray info s3://bucket/place mnist/train:v1     one array of a version
  htarray log s3://bucket/place -n 10               the newest commits
  htarray tag s3://bucket/place v1                  a name for what is there now
  htarray diff s3://bucket/place v0 v1
  htarray compact s3://bucket/place                 chunks into few shards, in the order of the grid
  htarray export s3://bucket/place x:v1 out.zarr    copies; refs.json and refs.icechunk are references
  htarray import data.zarr s3://bucket/place
  htarray import --field jpg --resize 224x224 train-@1000.tgz s3://bucket/place images
  htarray push place s3://bucket/place

PLACE is a folder, http://, s3:// or gs://. A VERSION is a branch, a tag, or a commit such as @17 or try@17; by default
it is the branch main. Every command has --help.

Exit status: 0 done, 1 failed, 2 usage, 130 interrupted.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.version_option(__version__, "--version", prog_name="shardtools", help="Show the version and exit.")
def main() -> None:
    """Show, check and move arrays by name and version."""


def _run(line: ArrayLine, work: Callable[[], int | None]) -> None:
    run_command("htarray", line, lambda: work() or 0, resumes=False)


@main.command()
@array_options
@click.argument("name", required=False)
def info(line: ArrayLine, name: str | None) -> None:
    """Show what there is at PLACE, or the array NAME, such as mnist/train:v1."""

    def work() -> None:
        rows = _about_place(line.hub()) if name is None else _about_array(line.hub(), name)
        _table(rows)

    _run(line, work)


def _about_place(hub: Hub) -> list[list[str]]:
    head = hub.snapshot()
    return [
        ["place", redact(hub.url)],
        ["branches", ", ".join(hub.branches())],
        ["tags", ", ".join(hub.tags())],
        ["newest commit", f"main@{head.number}" if head.commit is not None else "none"],
        ["arrays", f"{len(hub.list()):,}"],
    ]


def _about_array(hub: Hub, name: str) -> list[list[str]]:
    array = hub.load(name)
    entries = [entry for _, entry in array.snapshot.scan(f"{array.path}/")]
    rows = [
        ["array", array.path],
        ["version", array.version],
        ["shape", str(array.shape)],
        ["dtype", str(array.dtype)],
        ["chunks", str(array.chunks)],
        ["fill value", str(array.fill_value)],
        ["written", count(len(entries), "chunk")],
        ["bytes as stored", format_size(sum(entry.size for entry in entries))],
        ["bytes in memory", format_size(array.nbytes)],
    ]
    if any(array.dims):
        rows.append(["dimensions", ", ".join(str(dim) for dim in array.dims)])
    return [*rows, *([f"attribute {key}", repr(value)] for key, value in array.attrs.items())]


def _table(rows: list[list[str]], left: int = 2) -> None:
    from shardtools.cli.tables import aligned

    for text in aligned(rows, left=left) if rows else ():
        tell(text)


@main.command()
@array_options
@click.argument("version", required=False)
def ls(line: ArrayLine, version: str | None) -> None:
    """List the arrays of VERSION."""

    def work() -> None:
        hub = line.hub()
        rows = [
            [name, str(array.dtype), "x".join(map(str, array.shape)) or "()"]
            for name, array in hub.metadata_of_all(version)
        ]
        _table(rows, left=3)

    _run(line, work)


@main.command()
@array_options
@click.argument("version", required=False)
@click.option("-n", "--limit", type=Whole(least=1), metavar="N", help="Show the newest N commits only.")
def log(line: ArrayLine, version: str | None, limit: int | None) -> None:
    """Show the commits of VERSION, the newest first."""

    def work() -> None:
        for number, commit in enumerate(line.hub().history(version)):
            if number == limit:
                return
            for write in commit.writes:
                author = f" by {write.author}" if write.author else ""
                tell(f"{commit.branch}@{commit.number}  {write.time[:19]}  {write.message}{author}")

    _run(line, work)


@main.command()
@array_options
@click.argument("name", required=False)
@click.argument("version", required=False)
@click.option("-m", "--message", default="", metavar="TEXT", help="What the tag is for.")
@click.option("--author", default="", metavar="NAME", help="Who makes it.")
def tag(line: ArrayLine, name: str | None, version: str | None, message: str, author: str) -> None:
    """Name VERSION for ever, or, without NAME, list all tags."""

    def work() -> None:
        hub = line.hub()
        if name is None:
            for there in hub.tags():
                tell(there)
            return
        made = hub.tag(name, version, message=message, author=author)
        line.say(f"{name} is {made.commit.branch}@{made.commit.number}")

    _run(line, work)


@main.command()
@array_options
@click.argument("name", required=False)
@click.argument("version", required=False)
def branch(line: ArrayLine, name: str | None, version: str | None) -> None:
    """Make the branch NAME, which begins at VERSION, or, without NAME, list all branches."""

    def work() -> None:
        hub = line.hub()
        if name is None:
            for there in hub.branches():
                tell(there)
            return
        hub.branch(name, version)
        line.say(f"{name} begins at {version or 'main'}")

    _run(line, work)


@main.command()
@array_options
@click.argument("before")
@click.argument("after", required=False)
def diff(line: ArrayLine, before: str, after: str | None) -> None:
    """Show what the versions BEFORE and AFTER differ in."""

    def work() -> None:
        found = line.hub().diff(before, after)
        for sign, names in (("+", found.added), ("-", found.removed), ("~", found.metadata)):
            for name in names:
                tell(f"{sign} {name or '(the root)'}")
        for name, number in found.chunks.items():
            tell(f"  {name}: {count(number, 'chunk')}")
        if not found:
            line.say("no difference")

    _run(line, work)


@main.command()
@array_options
@click.argument("version", metavar="[BRANCH]", required=False)
@click.option("--shard-size", default="1GB", metavar="SIZE", show_default=True, help="Bytes of a shard.")
@click.option("--author", default="", metavar="NAME", help="Who does it.")
def compact(line: ArrayLine, version: str | None, shard_size: str, author: str) -> None:
    """Copy the live chunks of BRANCH into few shards; others may write meanwhile."""

    def work() -> None:
        with line.progress() as advance:
            done = line.hub().compact(version, shard_size=shard_size, author=author, advance=advance)
        if not done.shards:
            line.say("there is nothing to compact")
        else:
            line.say(f"{count(done.members, 'member')} in {count(done.shards, 'shard')}, {format_size(done.nbytes)}")

    _run(line, work)


@main.command()
@array_options
@click.argument("version", metavar="[BRANCH]", required=False)
@click.option("--keep", type=Whole(least=1), metavar="N", help="Keep the newest N commits.")
@click.option("--older-than", metavar="AGE", help="Let older commits expire: 12h, 30d or 8w.")
def expire(line: ArrayLine, version: str | None, keep: int | None, older_than: str | None) -> None:
    """Let old commits of BRANCH expire: they can no longer be read, except by tags and other branches."""

    def work() -> None:
        first = line.hub().expire(version, keep=keep, older_than=older_than)
        line.say(f"{version or 'main'} can be read from @{first} on")

    _run(line, work)


@main.command()
@array_options
@click.option("--grace", metavar="AGE", default="1d", show_default=True, help="At least 1h; or 12h, 30d, 8w.")
def gc(line: ArrayLine, grace: str) -> None:
    """Delete data that no version needs, and needed AGE ago when gc ran before."""

    def work() -> None:
        found = line.hub().gc(grace)
        done = f"{count(found.deleted, 'folder')} deleted ({count(found.objects, 'object')})"
        line.say(f"{done}, {found.waiting:,} may be in a run {grace} later")

    _run(line, work)


@main.command()
@array_options
@click.argument("version", required=False)
def verify(line: ArrayLine, version: str | None) -> None:
    """Read all chunks of VERSION, check and decode them."""

    def work() -> int:
        with line.progress() as advance:
            found = line.hub().verify(version, advance=advance)
        for problem in found.problems:
            tell(problem.reason if problem.key in problem.reason else f"{problem.key}: {problem.reason}", err=True)
        wrong = f"{len(found.problems):,} wrong" if found.problems else "all right"
        line.say(f"{count(found.chunks, 'chunk')}, {format_size(found.nbytes)}: {wrong}")
        return FAILED if found.problems else 0

    _run(line, work)


@main.command()
@array_options
@click.argument("name")
@click.argument("destination", metavar="DST")
@click.option(
    "--format",
    type=click.Choice(["zarr", "npy", "kerchunk", "icechunk"]),
    help="A Zarr directory, a .npy file, or references: a JSON file, or an Icechunk repository.  [default: by the "
    "name of DST: .npy, .json, .icechunk, else a directory]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export(line: ArrayLine, name: str, destination: str, format: str | None, overwrite: bool) -> None:
    """Write the array or group NAME, such as x:v1, to DST; or with :v1 or @17 all of a version."""

    def work() -> None:
        os.environ.setdefault("ICECHUNK_LOG", "error")  # it warns of concurrent commits to folders, and there is one
        with line.progress() as advance:
            done = line.hub().export(name, destination, format, overwrite=overwrite, advance=advance)
        line.say(f"{redact(done.destination)}: {count(done.chunks, 'chunk')}, {format_size(done.nbytes)} written")

    _run(line, work)


@main.command("import")
@click.argument("source", metavar="SRC")
@array_options
@click.argument("name", required=False, default="")
@click.option("--field", metavar="FIELD", help="SRC are shards: take this field of all samples.")
@click.option("--resize", metavar="HxW", help="With --field: the size that images get.")
@click.option("-c", "--cluster", default="threads", metavar="WHERE", help="With --field: as for htmapper.")
@click.option("-j", "--jobs", type=Whole(least=1), metavar="N", help="With --field: parts at a time.")
@click.option("--author", default="", metavar="NAME", help="Who does it.")
def import_(
    line: ArrayLine,
    source: str,
    name: str,
    field: str | None,
    resize: str | None,
    cluster: str,
    jobs: int | None,
    author: str,
) -> None:
    """Copy SRC into PLACE as NAME: a Zarr directory, a .npy or .npz file, or a field of shards."""

    def work() -> None:
        with line.progress() as advance:
            if field is None:
                done = line.hub().import_from(source, name, author=author, advance=advance)
                line.say(
                    f"{count(len(done.arrays), 'array')}, {count(done.chunks, 'chunk')}, {format_size(done.nbytes)}"
                )
                return
            from shardtools.programs.import_samples import import_samples

            array = import_samples(
                line.hub(), source, name, field, resize, cluster=cluster, jobs=jobs, author=author, advance=advance
            )
        line.say(f"{array.path}: {array.dtype} of shape {array.shape}")

    _run(line, work)


@main.command()
@array_options
@click.argument("other")
def pull(line: ArrayLine, other: str) -> None:
    """Bring what PLACE lacks of the place OTHER."""
    _run(line, lambda: _bring(line, other, line.hub().pull))


@main.command()
@array_options
@click.argument("other")
def push(line: ArrayLine, other: str) -> None:
    """Bring what the place OTHER lacks of PLACE."""
    _run(line, lambda: _bring(line, other, line.hub().push))


def _bring(line: ArrayLine, other: str, bring: Callable[..., object]) -> None:
    from shardtools.arrays.sync import SyncResult

    with line.progress() as advance:
        before = SyncResult()

        def progress(done: SyncResult) -> None:
            nonlocal before
            advance(done.objects - before.objects, done.nbytes - before.nbytes)
            before = done

        done = bring(other, progress=progress)
    assert isinstance(done, SyncResult)
    line.say(f"{count(done.commits, 'commit')}, {count(done.objects, 'object')}, {format_size(done.nbytes)}")
