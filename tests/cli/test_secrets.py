"""What is secret is not shown: in errors, with -v, in reports, in logs, whatever way it was given."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import shardtools as st
from shardtools import redaction
from shardtools.errors import NotFoundError, SpecError, StorageError
from shardtools.redaction import conceal, redact
from shardtools.spec import expand
from shardtools.storage import get_storage
from tests.cli.command import run
from tests.datasets import write_dataset

SIGNATURE = "0123456789abcdef0123456789abcdef"
QUERY = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261124&X-Amz-Signature={SIGNATURE}"
PARTS = ("hunt", "er2", "hunter2")


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_seen", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
    return tmp_path


@pytest.mark.parametrize(
    "source",
    [
        f"http://127.0.0.1:1/x-@3.tar?{QUERY}",
        f"http://127.0.0.1:1/x.tar?sig={SIGNATURE}",
        f"http://127.0.0.1:1/x.tar?anything={SIGNATURE}",
        "http://me:hunter2@127.0.0.1:1/x.tar",
        "http://me:hunt/er2@127.0.0.1:1/x-@3.tar",
        "http://me:hunt#er2@127.0.0.1:1/x-@3.tar",
        "http://me:hunt?er2@127.0.0.1:1/x-@3.tar",
        "http://me:hunt::er2@127.0.0.1:1/x-@3.tar",
        "http://me:hunt@er2@127.0.0.1:1/x-@3.tar",
        "http:/me:hunter2@127.0.0.1:1/x-@3.tar",
        "http:me:hunter2@127.0.0.1:1/x-@3.tar",
        "ftp://me:hunter2@127.0.0.1:1/x-@3.tar",
        "http://me:hunter2@127.0.0.1:port/x-@3.tar",
        "http://me:hunter2@[::1/x-@3.tar",
        "{http://me:hunter2@127.0.0.1:1/x,http://me:hunter2@127.0.0.1:1/y}.tar",
        "http://me:hunter2@127.0.0.1:1/{x.tar",
    ],
)
@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_of_a_source(folder: Path, source: str, verbose: list[str]) -> None:
    arguments = [*verbose, "--retries", "0", "--report", "report.json", "-p", "same.py"]
    for line in ([source, "out-@3.tar"], ["in.tar", source]):
        outcome = run(*arguments, *line, cwd=folder)
        assert outcome.status in (1, 2), outcome
        report = folder / "report.json"
        shown = outcome.out + outcome.err + (report.read_text() if report.exists() else "")
        for secret in (SIGNATURE, "AKIDEXAMPLE", *PARTS):
            assert secret not in shown
        assert not verbose or "Traceback" in shown


@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_of_the_environment(folder: Path, verbose: list[str]) -> None:
    """A library's own message has it, as urllib3's of headers that it cannot send."""
    (folder / "bad.py").write_text(
        "import os\n"
        "def process_sample(record):\n"
        "    raise ValueError(os.environ['AWS_SECRET_ACCESS_KEY'] + ' ' + os.environ['SHARDTOOLS_HTTP_HEADERS'])\n"
    )
    write_dataset(folder, 1, 1)
    secrets = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG", "SHARDTOOLS_HTTP_HEADERS": "X-Key: Bearer t0psecret"}
    for more in ([], ["--on-error", "skip"], ["-c", "processes"]):
        arguments = [
            *verbose,
            *more,
            "-p",
            "bad.py",
            "--report",
            "report.json",
            "--overwrite",
            "in-@1.tar",
            "out-@1.tar",
        ]
        outcome = run(*arguments, cwd=folder, env=secrets)
        assert outcome.status in (1, 3), outcome
        shown = outcome.out + outcome.err + (folder / "report.json").read_text()
        assert "wJalr" not in shown and "t0psecret" not in shown
        assert "ValueError" in shown


def test_what_is_told_at_the_end(folder: Path) -> None:
    write_dataset(folder, 1, 1)
    outcome = run("-f", "cls", "-o", "http://me:hunter2@127.0.0.1:1/x.tsv", "--retries", "0", "in-@1.tar",
                  cwd=folder, program="htextract")  # fmt: skip
    assert "hunter2" not in outcome.out + outcome.err and outcome.status == 1


def test_the_password_of_a_spec_is_not_taken_for_a_path() -> None:
    with pytest.raises(SpecError, match="in a password write") as raised:
        expand("http://me:hunt::er2@host/x-@3.tar")
    assert str(raised.value).startswith("http://host/x-@3.tar: ")


def test_of_logs(caplog: pytest.LogCaptureFixture) -> None:
    from shardtools.cli.common import _Concealing

    redact("http://me:hunter2@host/a.tar")
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "went to %s as %s", ("http://a:b@host/x", "hunter2"), None)
    assert _Concealing().format(record) == "went to http://host/x as …"


def test_of_the_repr_of_a_dataset(tmp_path: Path) -> None:
    spec = write_dataset(tmp_path, 1, 1)
    dataset = st.open(spec)
    dataset.spec = "http://me:hunter2@host/x-@3.tar"
    assert "hunter2" not in repr(dataset)
    dataset.spec = ["http://me:hunter2@host/x-@3.tar"]
    assert "hunter2" not in repr(dataset)


def test_of_what_other_libraries_say() -> None:
    url = "http://me:hunter2@127.0.0.1:1/x.tar?token=0123456789abcdefghij"
    with pytest.raises(StorageError):
        get_storage(url).read_ranges("http://me:hunter2@[::1/x", [])
        get_storage(url).read("http://me:hunter2@[::1/x")
    error = NotFoundError("hunter2 was refused with 0123456789abcdefghij", url=url, fix="ask hunter2")
    assert str(error) == "http://127.0.0.1:1/x.tar: … was refused with …; ask …"


@pytest.mark.parametrize(
    "text",
    [
        "http://host/a.tar: there is no such object (404 Not Found); check the URL",
        "s3://bucket/a?b=c&d=e#f@3.tar: it is gone",
        "/data/me@host/a?key=1.tar and x-@3.tar, train@2:rest",
        "http://example.com:80/data/me@host/x.tar, x:80/a",
        "write it as http://localhost:9023 or http://HOST:PORT",
        "mail me@example.com, or see https://example.com/path?",
        "it has 1,000 samples & 3 fields = 3,000 members?",
        "a sample has the key 'token=abc' and the field sig=1",
        json.dumps({"url": "http://host/a", "key": "x=1&y=2"}),
        "",
    ],
)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    for url in (
        "http://me:pw@host/a?v=1&page=train",
        "http://example.com:80/data/me@host/x.tar",
        "http://x:80/a-@3.tar",
    ):
        redact(url)
    assert conceal(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            f"with url: /b/k?{QUERY} (Caused by x)",
            "/b/k?X-Amz-Algorithm=…&X-Amz-Credential=…&X-Amz-Signature=… (Caused",
        ),
        ("for url: https://h/b?x=1&y=2", "for url: https://h/b"),
        ("GET 'http://me:pw@h/b?x=1'", "GET 'http://h/b'"),
        ("Failed to parse: http://u:s3cr3t@[::1/x", "Failed to parse: http://[::1/x"),
    ],
)
def test_what_is_left_of_a_text(text: str, shown: str) -> None:
    assert shown in conceal(text)
