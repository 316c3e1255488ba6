"""What servers answer when they list, and what the cache's folder holds, with anything in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtools.storage import ByteRange, StorageOptions, get_storage, using
from tests.contract.test_endless import Canned, canned_server
from tests.datasets import sample_files, write_shard
from tests.gcs_servers import use_environment as use_google
from tests.hostile.bounds import bounds, our_errors
from tests.hostile.strategies import EDITS, edited, mutated_bytes, mutated_json, nested
from tests.hostile.test_fuzz import fuzz
from tests.moto_server import use_environment as use_amazon
from tests.servers import NginxServer

QUICK = StorageOptions(retries=0, timeout=20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canned]:
    with canned_server() as server:
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        use_amazon(monkeypatch, {"AWS_ENDPOINT_URL": server.url.rstrip("/"), **keys})
        use_google(monkeypatch, {"STORAGE_EMULATOR_HOST": server.url.rstrip("/")})
        yield server


def check_listing(server: Canned, prefix: str, ending: str, data: bytes) -> None:
    """Make sure that a listing ends, and gives names in the folder alone."""
    server.answers[ending] = lambda _: data
    with using(QUICK), bounds(), our_errors():
        for url in get_storage(prefix).list(prefix):
            assert url.startswith(prefix) and "/" not in url[len(prefix) :]


WEB = [{"name": "x-0.tar", "type": "file", "mtime": "Sat, 21 Nov 2026 10:00:00 GMT", "size": 10240}]
GOOGLE = {"kind": "storage#objects", "items": [{"name": "p/x-0.tar", "size": "10240"}], "prefixes": ["p/sub/"]}
AMAZON = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>p/</Prefix>
<KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>
<Contents><Key>p/x-0.tar</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified><ETag>"1"</ETag>
<Size>10240</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"""


def test_listing_of_a_web_server(server: Canned) -> None:
    @fuzz
    @given(st.one_of(mutated_json(WEB), mutated_bytes(json.dumps(WEB).encode()), st.sampled_from(nested())))
    def run(data: bytes) -> None:
        check_listing(server, f"{server.url}d/", "/d/", data)

    run()


def test_listing_of_google(server: Canned) -> None:
    @fuzz
    @given(st.one_of(mutated_json(GOOGLE), mutated_bytes(json.dumps(GOOGLE).encode()), st.sampled_from(nested())))
    def run(data: bytes) -> None:
        check_listing(server, "gs://b/p/", "/o", data)

    run()


def test_listing_of_amazon(server: Canned) -> None:
    @fuzz
    @given(mutated_bytes(AMAZON))
    def run(data: bytes) -> None:
        check_listing(server, "s3://b/p/", "/b", data)

    run()


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"2026-11-21T", b"12026-11-21T"),
        (b"2026-11-21T10:00:00.000Z", b"9999999999999999999999999999992026-11-21T10:00:00.000Z"),
        (b"<Size>10240", b"<Size>!1"),
        (b"<MaxKeys>1000", b"<MaxKeys>2 2"),
        (b"<Key>p/x-0.tar</Key>", b""),
        (b"<Contents>", b"<Contents><Contents>"),
    ],
)
def test_answers_that_boto3_cannot_read(server: Canned, good: bytes, bad: bytes) -> None:
    assert good in AMAZON
    check_listing(server, "s3://b/p/", "/b", AMAZON.replace(good, bad))


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    """A context in which a file is another one."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(before)


def test_folder_of_the_cache(nginx: NginxServer, tmp_path: Path) -> None:
    """Its account, the entries, and what stands behind them; what comes out is what the server has."""
    shard = write_shard(nginx.root / "x.tar", sample_files(0, 60, 900))
    whole = shard.read_bytes()
    url, options = f"{nginx.url}x.tar", StorageOptions(retries=0, timeout=20, cache=f"{tmp_path}/cache:20MB")
    ranges = [ByteRange(512, 4096), ByteRange(30_000, 30_100)]

    def read() -> None:
        storage = get_storage(url)
        assert storage.read_ranges(url, ranges) == [whole[part.start : part.stop] for part in ranges]
        with storage.open(url) as stream:
            assert stream.readall() == whole

    @fuzz
    @given(st.integers(0, 1000), EDITS)
    def run(number: int, edits: list[tuple[int, int, bytes]]) -> None:
        with using(options):
            read()
            files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
            path = files[number % len(files)]
            with changed(path, edited(path.read_bytes(), edits)), bounds(), our_errors():
                read()

    run()
