"""What one fault may spoil: the answers about itself, and nothing else; and how htview ends."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
from PIL import Image

import shardtools as st
from shardtools.errors import JobError, SpecError
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from tests.datasets import write_shard
from tests.viewer.test_server import Browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two shards with its table."""
    folder = tmp_path_factory.mktemp("faults")
    for number in range(2):
        write_shard(folder / f"good-{number}.tar", _members(3 * number))
    st.index(str(folder / "good-@2.tar"), table=True)
    return folder


def _members(first: int) -> Iterator[tuple[str, bytes]]:
    for i in range(first, first + 3):
        yield f"s{i}.cls", b"%d" % (i % 3)
        yield f"s{i}.txt", b"text %d" % i


def test_ctrl_c_ends_at_once_though_browsers_keep_connections_open(folder: Path) -> None:
    command = [sys.executable, "-m", "shardtools", "htview", str(folder / "good-@2.tar")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        assert url.hostname is not None
        connections = [HTTPConnection(url.hostname, url.port, timeout=30) for _ in range(3)]
        try:
            for connection in connections:
                connection.request("GET", f"{url.path}api/datasets")
                assert connection.getresponse().read()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=5) == ("", "") and process.returncode == 130
        finally:
            process.kill()
            for connection in connections:
                connection.close()


def test_a_program_that_shows_ends_though_browsers_keep_connections_open(folder: Path) -> None:
    program = "import sys, shardtools as st; print(st.show(sys.argv[1]), flush=True); input()"
    command = [sys.executable, "-c", program, str(folder / "good-@2.tar")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        assert url.hostname is not None
        connection = HTTPConnection(url.hostname, url.port, timeout=30)
        try:
            connection.request("GET", f"{url.path}api/datasets")
            assert connection.getresponse().read()
            process.communicate("\n", timeout=10)
            assert process.returncode == 0
        finally:
            process.kill()
            connection.close()


def damage(path: Path, data: bytes) -> None:
    """Replace the only occurrence of some bytes by zeros."""
    whole = path.read_bytes()
    assert whole.count(data) == 1
    path.write_bytes(whole.replace(data, bytes(len(data))))


def copy_of(folder: Path, target: Path) -> str:
    """Copy the dataset; return its spec."""
    shutil.copytree(folder, target)
    return str(target / "good-@2.tar")


def test_a_damaged_first_sample_spoils_its_own_field_only(folder: Path, tmp_path: Path) -> None:
    spec = copy_of(folder, tmp_path / "bad")
    damage(tmp_path / "bad" / "good-0.tar", b"text 0")
    with serve([spec], StorageOptions()) as server:
        browser = Browser(server)
        examples = {field["name"]: field["example"] for field in browser.json("0/about")["fields"]}
        assert examples == {"cls": "0", "txt": None}
        fields = browser.json("0/samples", count=1)["samples"][0]["fields"]
        assert [field["name"] for field in fields if "error" in field] == ["txt"]


def test_what_is_not_there_is_not_shown_and_spoils_no_other_address(folder: Path, tmp_path: Path) -> None:
    good = st.show(str(folder / "good-@2.tar"))
    gone = st.open(copy_of(folder, tmp_path / "gone"))
    (tmp_path / "gone" / "good-1.tar").unlink()
    with pytest.raises(st.ShardtoolsError, match=r"good-1\.tar"):
        gone.show()
    for one in (5, [str(folder)], None):
        with pytest.raises(JobError, match=f"{type(one).__name__} objects cannot be shown"):
            st.show(cast(str, one))
    assert st.show(str(folder / "good-@2.tar")).url.partition("#")[0] == good.url.partition("#")[0]


def test_a_dataset_that_goes_away_spoils_only_what_names_it(folder: Path, tmp_path: Path) -> None:
    bad = copy_of(folder, tmp_path / "bad")
    with serve([bad, str(folder / "good-@2.tar")], StorageOptions()) as server:
        shutil.rmtree(tmp_path / "bad")
        browser = Browser(server)
        assert "good-0.tar" in browser.json("0/about", 404)["error"]
        assert browser.json("1/about")["samples"] == 6
        assert browser.json("sql", q="select count(*) from d1")["rows"] == [[6]]
        assert browser.json("sql", 404, q="select count(*) from samples")["error"]


def test_an_unknown_scheme_is_that_of_what_was_typed() -> None:
    with pytest.raises(SpecError, match=r"^ftp://x/y-0.tar: unknown scheme ftp:; use a path or one of"):
        serve(["ftp://x/y-@2.tar"], StorageOptions())


def test_bins_end_with_the_largest_value(folder: Path) -> None:
    with serve([str(folder / "good-@2.tar")], StorageOptions()) as server:
        browser = Browser(server)
        histogram = next(one for one in browser.json("0/about")["histograms"] if one["column"] == "cls")
        assert histogram["edges"] == [0, 1, 2, 2] and histogram["counts"] == [2, 2, 2]
        last = browser.json("0/samples", where="cls >= 2 and cls <= 2")
        assert last["total"] == histogram["counts"][-1]


def test_a_number_that_is_none_is_told_which_there_are(folder: Path) -> None:
    with serve([str(folder / "good-@2.tar")], StorageOptions()) as server:
        for text in ("x", "9" * 30, "-1"):
            assert Browser(server).json("0/samples", 400, at=text)["error"] == "at must be a number from 0 to 5"
            error = Browser(server).json("0/field", 400, index=text, field="txt")["error"]
            assert error == "index must be a number from 0 to 5"


def test_thumbnails_are_as_large_as_the_page_asks(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (1500, 600), 9).save(stream, "tiff")
    write_shard(tmp_path / "a.tar", [("a.tif", stream.getvalue())])
    with serve([str(tmp_path / "a.tar")], StorageOptions()) as server:
        for size in (256, 512, 1024):
            answer, data = Browser(server).get("api/0/thumb", index=0, field="tif", size=size)
            assert answer.status == 200 and Image.open(io.BytesIO(data)).width == size
