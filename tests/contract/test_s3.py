"""S3, against moto's server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from shardtools.errors import ConflictUnsupportedError
from shardtools.storage.retry import RetryPolicy
from shardtools.storage.s3 import S3Storage
from tests.contract.faults import FaultyProxy
from tests.contract.suite import ODD_NAMES, BucketContract, Place
from tests.moto_server import MotoServer, moto_server, use_environment

QUICK = RetryPolicy(attempts=4, base=0.01, cap=0.05)
BUCKET = "bucket"


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(autouse=True)
def environment(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    use_environment(monkeypatch, moto.environment())


@dataclass(frozen=True)
class S3Place(Place):
    """A folder in the bucket, and boto3 as the way to it behind the storage's back."""

    client: Any
    prefix: str

    def put(self, name: str, data: bytes) -> str:
        self.client.put_object(Bucket=BUCKET, Key=self.prefix + name, Body=data)
        return self.url(name)

    def get(self, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=BUCKET, Key=self.prefix + name)["Body"].read()
        return data

    def files(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self.prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        uploads = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=self.prefix).get("Uploads", [])
        return sorted(keys + [f"unfinished {upload['Key']}" for upload in uploads])


@pytest.fixture
def place(moto: MotoServer) -> S3Place:
    prefix = f"{uuid.uuid4().hex}/"
    return S3Place(S3Storage(QUICK), f"s3://{BUCKET}/{prefix}", moto.client(), prefix)


class TestS3(BucketContract):
    @pytest.fixture
    def place(self, place: S3Place) -> Place:
        return place

    @pytest.mark.parametrize("name", [name for name in ODD_NAMES if "\n" not in name])
    def test_odd_names(self, place: Place, name: str) -> None:
        """Without the one with a line break, which moto's server finds no way for."""
        super().test_odd_names(place, name)

    @pytest.mark.slow
    def test_list_of_many(self, place: Place) -> None:
        super().test_list_of_many(place)


def test_a_service_that_ignores_if_none_match(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyProxy(moto.url, drops="If-None-Match") as proxy:
        use_environment(monkeypatch, {**moto.environment(), "AWS_ENDPOINT_URL": proxy.url.rstrip("/")})
        prefix = f"{uuid.uuid4().hex}/"
        place = S3Place(S3Storage(QUICK), f"s3://{BUCKET}/{prefix}", moto.client(), prefix)
        for name in ("x", "x", "y"):
            with pytest.raises(ConflictUnsupportedError, match=rf"{name}: this service lets two .*; let one process"):
                place.storage.create_exclusive(place.url(name), b"mine")
        assert place.files() == []
        assert sum(line.startswith("PUT ") for line in proxy.requests) == 2  # it is asked once


def test_one_that_keeps_to_it_is_asked_once(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyProxy(moto.url) as proxy:
        use_environment(monkeypatch, {**moto.environment(), "AWS_ENDPOINT_URL": proxy.url.rstrip("/")})
        prefix = f"{uuid.uuid4().hex}/"
        place = S3Place(S3Storage(QUICK), f"s3://{BUCKET}/{prefix}", moto.client(), prefix)
        for name in ("x", "y", "z"):
            place.storage.create_exclusive(place.url(name), b"mine")
        S3Storage(QUICK, timeout=5).create_exclusive(place.url("w"), b"mine")
        assert place.files() == [prefix + name for name in "wxyz"]
        assert sum(line.startswith("PUT ") for line in proxy.requests) == 2 + 4
