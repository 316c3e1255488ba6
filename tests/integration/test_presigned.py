"""URLs that were signed for one object each, and for GET: whatever else is asked for is refused.

moto does not look at signatures. A proxy before it does, as S3 would: what a signature does not fit is answered 403.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import boto3
import pytest
from botocore.config import Config

import shardtools as st
from shardtools.errors import AccessError, StaleTableError
from shardtools.shards.reader import ShardReader
from shardtools.storage import ByteRange, StorageOptions, get_storage, using
from shardtools.storage.limited import read_optional
from tests.cli.command import SECRET, run
from tests.contract.faults import Fault, FaultyProxy
from tests.datasets import members, sample_files, tar_bytes
from tests.moto_server import moto_server

REFUSED = Fault(answer=b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
NAMES = [f"in-{i}.tar" for i in range(3)]


def signature_of(method: str, target: str, host: str) -> str:
    """Return the signature that a request must have that is signed in its query (AWS Signature Version 4)."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.pop("X-Amz-Signature", None)
    asked = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    request = "\n".join([method, parts.path, asked, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"])
    scope = query.get("X-Amz-Credential", "").partition("/")[2]
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", query.get("X-Amz-Date", ""), scope, digest])
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def judge(data: bytes) -> Fault | None:
    """Refuse a request whose signature is not its own."""
    line, *headers = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    host = next(header.partition(": ")[2] for header in headers if header.lower().startswith("host: "))
    signature = dict(parse_qsl(urlsplit(target).query)).get("X-Amz-Signature")
    return None if signature == signature_of(method, target, host) else REFUSED


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """boto3's, whose URLs lead through the proxy; the bucket has three shards and an empty object."""
    with moto_server() as moto, FaultyProxy(moto.url, choose=judge) as proxy:
        behind = moto.client()
        behind.create_bucket(Bucket="bucket")
        for i, name in enumerate(NAMES):
            behind.put_object(Bucket="bucket", Key=name, Body=tar_bytes(sample_files(i, 5)))
        behind.put_object(Bucket="bucket", Key="empty", Body=b"")
        yield boto3.session.Session().client(
            "s3",
            endpoint_url=proxy.url.rstrip("/"),
            aws_access_key_id="tester",
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )


@pytest.fixture
def sign(client: Any) -> Callable[[str], str]:
    """Signs the URL of an object for GET."""
    return lambda name: client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": name})


def expected() -> list[tuple[str, bytes]]:
    return [(f"{i}/{row:04d}", b"%d" % row) for i in range(3) for row in range(5)]


def test_size_and_validator_are_asked_for_by_get(sign: Callable[[str], str]) -> None:
    data = tar_bytes(sample_files(0, 5))
    url = sign(NAMES[0])
    storage = get_storage(url)
    stat = storage.stat(url)
    assert stat.size == len(data) and stat.validator
    with storage.open(url) as stream:
        assert stream.stat.validator == stat.validator and stream.readall() == data
    assert storage.stat(sign("empty")).size == 0
    assert storage.read_ranges(url, [ByteRange(0, 0), ByteRange(600, 700)]) == [b"", data[600:700]]
    with pytest.raises(AccessError):
        storage.stat(url.replace(NAMES[0], NAMES[1]))


def test_what_need_not_be_there_is_not(sign: Callable[[str], str]) -> None:
    url = sign(NAMES[0])
    assert read_optional(url, "sidecar") == tar_bytes(sample_files(0, 5))
    assert read_optional(url.replace(NAMES[0], NAMES[1]), "sidecar") is None


def test_samples_by_number_and_key(sign: Callable[[str], str], tmp_path: Path) -> None:
    urls = [sign(name) for name in NAMES]
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        dataset = st.open(urls, cache=cache)
        assert [(record["key"], record["cls"]) for record in dataset] == expected()
        assert (dataset[7]["key"], dataset[7]["cls"]) == expected()[7] and len(dataset) == 15
        assert [(record["key"], record["cls"]) for record in dataset[3:12]] == expected()[3:12]
        assert dataset["2/0004"]["cls"] == b"4"
    assert len(st.open(urls[1])) == 5


@pytest.mark.parametrize("program", ["htshuffle", "htsort"])
def test_an_exchange(sign: Callable[[str], str], tmp_path: Path, program: str) -> None:
    outcome = run(*map(sign, NAMES), "out-@2.tar", cwd=tmp_path, program=program)
    assert outcome.status == 0, outcome
    found = [name for i in range(2) for name in members(tmp_path / f"out-{i}.tar")]
    assert len(found) == 30
    assert "Signature" not in outcome.out + outcome.err
    for path in tmp_path.glob("*.json"):
        assert "Signature" not in path.read_text()


def test_an_index_of_them(sign: Callable[[str], str], tmp_path: Path) -> None:
    outcome = run("--export", "wids", "-o", "i.json", *map(sign, NAMES), cwd=tmp_path, program="htindex")
    assert outcome.status == 0, outcome
    index = json.loads((tmp_path / "i.json").read_text())
    assert [entry["nsamples"] for entry in index["shardlist"]] == [5, 5, 5]
    assert "Signature" not in (tmp_path / "i.json").read_text()


def test_a_sidecar_cannot_be_written_there(sign: Callable[[str], str], tmp_path: Path) -> None:
    outcome = run(sign(NAMES[0]), cwd=tmp_path, env={"XDG_CACHE_HOME": str(tmp_path)}, program="htindex")
    assert outcome.status == 0
    assert "in-0.tar.index.npz: the server does not allow this (403 Forbidden); the index files go to" in outcome.err
    assert [path.name for path in tmp_path.rglob("*.npz")] == ["in-0.tar.index.npz"]


def test_an_insisting_reader_still_insists(sign: Callable[[str], str]) -> None:
    with using(StorageOptions(verify=True)), pytest.raises(StaleTableError, match="leave out --verify"):
        ShardReader(sign(NAMES[0]))
