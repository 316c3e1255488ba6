"""What htmapper refuses before it does anything."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.cli.command import SECRET, call, check_failure, run
from tests.datasets import snapshot, write_dataset

HERE = "HERE"
"""Stands for the test's folder in what a command is given."""


@pytest.fixture
def dataset(folder: Path) -> Path:
    write_dataset(folder, 3, 2)
    return folder


def fails(folder: Path, *arguments: str, status: int) -> str:
    """Return what a command says that must fail and leave everything as it is."""
    before = snapshot(folder)
    given = [argument.replace(HERE, str(folder)) for argument in arguments]
    message = check_failure("-p", "same.py", *given, cwd=folder, status=status)
    assert snapshot(folder) == before
    return message.replace(str(folder), HERE)


SPECS = {
    "zero shards": (("in-@0.tar", "out-@3.tar"), r"in-@0.tar: the spec names zero shards; give the number"),
    "zero outputs": (("in-@3.tar", "out-@0.tar"), r".*out-@0.tar: the spec names zero shards; give the number"),
    "no match": (("no-*.tar", "out-@3.tar"), r"no-\*.tar: no shards match this pattern; check the name"),
    "star in a folder": (
        ("*/in.tar", "out-@3.tar"),
        r"\*/in.tar: a \* is only allowed in the last part of the path; use",
    ),
    "the same twice": (
        ("in-0.tar", "in-0.tar", "out-@2.tar"),
        r"HERE/in-0.tar: this shard is named twice; name each shard once",
    ),
    "the same in other words": (
        ("in-0.tar", "x/..//./in-{0..1}.tar", "out-@3.tar"),
        r"HERE/in-0.tar: this shard is named twice",
    ),
    "the same as a file URL": (
        ("in-0.tar::file://HERE/in-0.tar", "out-@2.tar"),
        r"HERE/in-0.tar: this shard is named twice",
    ),
    "the same on a server": (
        ("http://me:s3cr3t@HOST:80/a.tar", "http://host/a.tar", "out-@2.tar"),
        r"http://host/a.tar: this shard is named twice",
    ),
    "braces": (("in-{0..tar", "out.tar"), r"in-\{0..tar: unbalanced braces; write"),
    "auto as a source": (("in-@auto.tar", "out.tar"), r"in-@auto.tar: @auto is for outputs only; give"),
    "an empty source": (("", "out.tar"), r"the spec is empty; name"),
    "an empty destination": (("in-0.tar", ""), r"the destination must be a single URL; give one spec"),
    "two destinations": (
        ("in-@3.tar", "a-@2.tar::b.tar"),
        r"a-@2.tar::b.tar: the destination must be a single URL; give one spec",
    ),
    "an unknown scheme": (("ftp://host/a.tar", "out.tar"), r"ftp://host/a.tar: unknown scheme ftp:; use a path"),
    "a scheme without slashes": (
        ("gs:bucket/a.tar", "out.tar"),
        r"gs:bucket/a.tar: // is missing after gs:; write gs://",
    ),
    "a destination without slashes": (("in-0.tar", "http:host/a.tar"), r"http:host/a.tar: // is missing after http:"),
    "an unknown scheme of the destination": (("in-0.tar", "ftp://host/a.tar"), r"ftp://host/a.tar: unknown scheme"),
    "no name of a shard": (("in-@3.tar", "out-@3.zip"), r"HERE/out-0.zip: .*; .*\.tar"),
    "other counts": (
        ("in-@3.tar", "out-@4.tar"),
        r"HERE/out-@4.tar: 3 input shards cannot be mapped to 4 output shards; ask for 3, or use htshuffle",
    ),
    "many into one": (("in-@3.tar", "out.tar"), r"HERE/out.tar: 3 input shards cannot .* 1 output.*htshuffle"),
    "many into a pipe": (("in-@3.tar", "-"), r"-: 3 input shards cannot be mapped to 1 output .*htshuffle"),
    "a pipe on processes": (
        ("-c", "processes", "-", "out.tar"),
        r"standard input and output cannot .*; leave out -c",
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_specs(name: str, dataset: Path) -> None:
    arguments, says = SPECS[name]
    message = fails(dataset, *arguments, status=2)
    assert re.match(says, message), message


class TestInputAsOutput:
    SAYS = "this shard is an input and an output; write to another destination"

    @pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--resume",), ("--overwrite", "--resume")])
    @pytest.mark.parametrize(
        "destination", ["in-@3.tar", "./x/../in-@3.tar", "HERE/in-@3.tar", "file://HERE/in-@3.tar", "link/in-@3.tar"]
    )
    def test_local(self, destination: str, flags: tuple[str, ...], dataset: Path) -> None:
        (dataset / "link").symlink_to(dataset)
        message = fails(dataset, *flags, "in-@3.tar", destination, status=2)
        assert message == f"HERE/in-0.tar: {self.SAYS}"

    def test_one_of_many(self, dataset: Path) -> None:
        assert fails(dataset, "--overwrite", "in-{2,1,0}.tar", "in-@3.tar", status=2).endswith(self.SAYS)

    @pytest.mark.parametrize(
        "destination", ["http://host/d/a%20b.tar", "http://u:s3cr3t@HOST:80/d/a%20b.tar", "http://host/d/a b.tar"]
    )
    def test_http(self, destination: str, dataset: Path) -> None:
        message = fails(dataset, "--overwrite", "http://host/d/a%20b.tar", destination, status=2)
        assert message == f"http://host/d/a%20b.tar: {self.SAYS}"


class TestReport:
    @pytest.mark.parametrize(
        "report",
        ["in-1.tar", "out-2.tar", "x/../out-2.tar.index.npz", "HERE/out-@3.tar.json", "file://HERE/out-@3.tar.json"],
    )
    def test_that_would_destroy_something(self, report: str, dataset: Path) -> None:
        message = fails(dataset, "--report", report, "in-@3.tar", "out-@3.tar", status=2)
        assert message.endswith(": the report would replace a part of a dataset; give it a name of its own")

    def test_and_shard_on_one_pipe(self, dataset: Path) -> None:
        message = fails(dataset, "--report", "-", "in-0.tar", "-", status=2)
        assert message == "-: the report would replace a part of a dataset; give it a name of its own"

    def test_that_cannot_be_written_is_an_error_when_all_is_done(self, dataset: Path) -> None:
        outcome = call("-p", "same.py", "--report", "in-0.tar/r.json", "in-@3.tar", "out-@3.tar", cwd=dataset)
        assert outcome.error().startswith("in-0.tar/r.json: there is ")
        assert (dataset / "out-@3.tar.json").exists()

    def test_that_cannot_be_written_does_not_hide_the_error(self, dataset: Path) -> None:
        (dataset / "in-1.tar").unlink()
        command = ("-p", "same.py", "--report", "in-0.tar/r.json", "in-@3.tar", "out-@3.tar")
        assert call(*command, cwd=dataset).error() == f"{dataset}/in-1.tar: there is no such file; check the path"
        outcome = call("-v", *command, "--resume", cwd=dataset)
        assert "\nthe report was not written: in-0.tar/r.json: there is " in outcome.err


class TestExisting:
    SAYS = "; use --resume to continue the job, or --overwrite to replace"

    @pytest.mark.parametrize("name", ["out-1.tar", "out-2.tar.index.npz", "out-@3.tar.json"])
    def test_any_of_them_alone(self, name: str, dataset: Path) -> None:
        (dataset / name).write_bytes(b"mine")
        message = fails(dataset, "in-@3.tar", "out-@3.tar", status=1)
        assert message == f"HERE/{name}: the output exists{self.SAYS}"
        assert call("-q", "-p", "same.py", "--overwrite", "in-@3.tar", "out-@3.tar", cwd=dataset).status == 0

    def test_many(self, dataset: Path) -> None:
        assert call("-q", "-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=dataset).status == 0
        assert fails(dataset, "in-@3.tar", "out-@3.tar", status=1) == (
            f"HERE/out-0.tar: the output exists (and 6 more){self.SAYS}"
        )

    def test_auto(self, dataset: Path) -> None:
        (dataset / "out-000002.tar").write_bytes(b"mine")
        assert fails(dataset, "in-@3.tar", "out-@auto.tar", status=1) == (
            f"HERE/out-000002.tar: the output exists{self.SAYS}"
        )

    def test_hidden(self, dataset: Path) -> None:
        (dataset / ".out-1.tar").write_bytes(b"mine")
        assert fails(dataset, "in-@3.tar", ".out-@3.tar", status=1) == f"HERE/.out-1.tar: the output exists{self.SAYS}"

    def test_dry_run_refuses_too(self, dataset: Path) -> None:
        (dataset / "out-1.tar").write_bytes(b"mine")
        fails(dataset, "--dry-run", "in-@3.tar", "out-@3.tar", status=1)

    def test_others_of_the_folder_do_not_matter(self, dataset: Path) -> None:
        for name in ("out-3.tar", "out-@4.tar.json", "out-0.tar.bak", "out-00.tar", "out-0.tgz"):
            (dataset / name).write_bytes(b"mine")
        assert call("-q", "-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=dataset).status == 0

    def test_folder(self, dataset: Path) -> None:
        (dataset / "out-0.tar").mkdir()
        message = fails(dataset, "-j", "1", "in-@3.tar", "out-@3.tar", status=1)
        assert message == "HERE/out-0.tar: this is a folder; choose another name"


class TestLimits:
    """--max, which lets things from outside be larger or smaller."""

    @pytest.mark.parametrize("text", ["sample", "sample=", "sample=abc", "sample=0", "sample=-1", "shard=1GB", "=1GB"])
    def test_that_are_none(self, text: str, dataset: Path) -> None:
        message = fails(dataset, "--max", text, "in-@3.tar", "out-@3.tar", status=2)
        kinds = "sample, value, header, sidecar, manifest, index, listing"
        assert message == f"--max {text}: not of the form KIND=SIZE; write it as sample=8GB; the kinds are {kinds}"

    def test_of_a_sample(self, dataset: Path) -> None:
        """It travels to where the tasks run."""
        for where in ("threads", "processes"):
            options = ("-c", where, "-j", "1", "--max", "sample=1kB", "--max", "header=1GB")
            message = fails(dataset, *options, "in-0.tar", "out.tar", status=1)
            said = "its sample has more than 1,000 bytes, which is the limit; raise the limit if it may be so large"
            raising = "--max sample=SIZE, in Python limits=Limits(sample=SIZE)"
            assert message == f"HERE/in-0.tar [0/0000]: {said}: {raising}"


class TestCluster:
    def test_no_scheduler(self, dataset: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            message = call(
                "-c", address, "--wait", "0", "-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=dataset
            ).error()
        assert not (dataset / "out-0.tar").exists()
        assert message.startswith(f"no Dask scheduler answers at {address} (nothing listens there); start one with ")

    @pytest.mark.parametrize("cluster", ["thread", "localhost", "host:port:1", ""])
    def test_no_address(self, cluster: str, dataset: Path) -> None:
        message = fails(dataset, "-c", cluster, "in-@3.tar", "out-@3.tar", status=1)
        assert message.startswith(f"{cluster!r} names no Dask cluster; give threads, ")

    def test_old_dataset_survives_it(self, dataset: Path) -> None:
        """Nothing is deleted for an overwrite that does not even start."""
        assert call("-q", "-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=dataset).status == 0
        fails(dataset, "--overwrite", "-c", "nowhere", "in-@3.tar", "out-@3.tar", status=1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("in-@3.tar", "out-@3.tar"), "Missing option '-p' / '--script'"),
        (("-p", "same.py", "in-@3.tar"), "Missing argument"),
        (("-p", "same.py"), "Missing argument"),
        (("-p", "same.py", "-j", "0", "in-@3.tar", "out-@3.tar"), "Invalid value for '-j' / '--jobs'"),
        (("-p", "same.py", "--on-error", "cry", "in-@3.tar", "out-@3.tar"), "Invalid value for '--on-error'"),
        (("-p", "same.py", "--no-such", "in-@3.tar", "out-@3.tar"), "No such option"),
    ],
)
def test_usage(arguments: tuple[str, ...], says: str, dataset: Path) -> None:
    before = snapshot(dataset)
    outcome = call(*arguments, cwd=dataset)
    assert outcome.status == 2
    assert outcome.err.startswith("Usage: htmapper [OPTIONS] SRC... DST\n")
    assert says in outcome.err.splitlines()[-1]
    assert snapshot(dataset) == before


def test_secrets_are_not_shown(dataset: Path) -> None:
    """As a process, because then all that is printed counts, whoever prints it."""
    url = f"http://me:{SECRET}@127.0.0.1:9/in-@3.tar?sig={SECRET}"
    for arguments in ((url, "out-@2.tar"), ("-v", url, "out-@2.tar"), ("in-@3.tar", f"{url}::b.tar")):
        outcome = run("-p", "same.py", *arguments, cwd=dataset)
        assert outcome.status == 2
        assert SECRET not in outcome.out + outcome.err
        assert outcome.err.splitlines()[-1].startswith("htmapper: error: ")
