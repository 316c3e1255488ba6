"""Standard input and output, as real pipes of real processes."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from shardtools.errors import RefusedError, StorageError
from shardtools.storage import ByteRange, get_storage
from shardtools.storage.pipe import PipeStorage
from tests.contract.suite import MEGABYTES, OBJECT

COPY = """
import sys
from shardtools.storage import get_storage
pipe = get_storage("-")
with pipe.open("-") as stream, pipe.create("-") as sink:
    assert stream.stat.size is None and stream.stat.validator is None
    print("before", flush=False)
    buffer = bytearray(100_000)
    while count := stream.readinto(buffer):
        sink.writelines([memoryview(buffer)[:count // 2], memoryview(buffer)[count // 2:count]])
assert not sys.stdin.closed and not sys.stdout.closed
print("after")
"""


def run(script: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, timeout=60)


def test_a_copy_through_pipes() -> None:
    done = run(COPY, MEGABYTES)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"before\n" + MEGABYTES + b"after\n"


def test_nothing_comes_in() -> None:
    assert run(COPY).stdout == b"before\nafter\n"


def test_read_after_another_reader_has_begun() -> None:
    script = (
        "import sys; from shardtools.storage import get_storage;"
        "line = sys.stdin.buffer.readline(); sys.stdout.buffer.write(get_storage('-').read('-'))"
    )
    assert run(script, b"first line\n" + OBJECT).stdout == OBJECT


def test_a_reader_that_goes_away() -> None:
    script = (
        "import sys\n"
        "from shardtools.errors import UnavailableError\n"
        "from shardtools.storage import get_storage\n"
        "try:\n"
        "    with get_storage('-').create('-') as sink:\n"
        "        while True: sink.write(bytes(100_000))\n"
        "except UnavailableError as error:\n"
        "    assert isinstance(error.__cause__, BrokenPipeError)\n"
        "    sys.exit(f'stopped: {error}')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1000)
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 1
    # Nothing else: no second error from the interpreter's own flush at exit.
    assert said == "stopped: -: whatever read this pipe has closed it; let it read to the end\n"


def test_an_exception_inside_passes() -> None:
    script = (
        "from shardtools.storage import get_storage\n"
        "with get_storage('-').create('-') as sink:\n"
        "    sink.write(b'half')\n"
        "    raise SystemExit(7)\n"
    )
    done = run(script)
    assert (done.returncode, done.stdout) == (7, b"half")  # what went out cannot be taken back


def test_replaced_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    target = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(OBJECT)))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(target))
    data = PipeStorage().read("-")
    with PipeStorage().create("-") as sink:
        sink.write(data[:10])
        sink.writelines([data[10:20], memoryview(data)[20:]])
    assert target.getvalue() == OBJECT


def test_no_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(RefusedError, match=r"^-: there is no standard input; "):
        PipeStorage().open("-")
    with pytest.raises(RefusedError, match=r"^-: there is no standard output; "), PipeStorage().create("-") as sink:
        sink.write(b"x")


def test_a_closed_stream() -> None:
    stream = PipeStorage().open("-")
    stream.close()
    with pytest.raises(ValueError):
        stream.read(1)


def test_what_a_pipe_cannot_do() -> None:
    pipe = get_storage("-")
    for action in (
        lambda: pipe.read_ranges("-", [ByteRange(0, 1)]),
        lambda: pipe.create_exclusive("-", b""),
        lambda: pipe.stat("-"),
        lambda: pipe.list("-"),
        lambda: pipe.delete("-"),
    ):
        with pytest.raises(StorageError, match=r"^-: standard input and output cannot be .*; ") as raised:
            action()
        assert type(raised.value) is RefusedError
