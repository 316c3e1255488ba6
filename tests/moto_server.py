"""A real S3 server for the tests: moto's, as a process of its own on a free loopback port."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.loaders import JSONFileLoader, Loader

from tests.servers import ServerError, stop, wait_until

NO_CREDENTIALS: Mapping[str, str | None] = {
    "AWS_ACCESS_KEY_ID": None,
    "AWS_SECRET_ACCESS_KEY": None,
    "AWS_SESSION_TOKEN": None,
    "AWS_PROFILE": None,
    "AWS_DEFAULT_REGION": None,
    "AWS_REGION": None,
    "AWS_ENDPOINT_URL": None,
    "AWS_ENDPOINT_URL_S3": None,
    "AWS_CA_BUNDLE": None,
    "AWS_ROLE_ARN": None,
    "AWS_WEB_IDENTITY_TOKEN_FILE": None,
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": None,
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": None,
    "AWS_CONFIG_FILE": "/nowhere/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What keeps the settings of this machine away from a test; None for what must not be set."""

_read_once = functools.cache(JSONFileLoader().load_file)


class _SharedFiles(JSONFileLoader):
    """Reads botocore's descriptions of its services once in a process, not in each session: that takes 0.1 s."""

    def load_file(self, file_path: str) -> Any:
        return _read_once(file_path)


Loader.FILE_LOADER_CLASS = _SharedFiles


@dataclass(frozen=True)
class MotoServer:
    """A running S3 server; ``url`` ends with a slash."""

    url: str

    def environment(self) -> dict[str, str]:
        """Return what a program needs in its environment to use this server."""
        return {
            "AWS_ENDPOINT_URL": self.url.rstrip("/"),
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "s3cr3t",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """Return a client of boto3's that goes straight to this server, always the same one."""
        return _client(self.url)


@functools.cache
def _client(url: str) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        aws_access_key_id="behind",
        aws_secret_access_key="its-back",
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def use_environment(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str | None]) -> None:
    """Set the environment of a test to ``variables``, and of what else AWS reads to nothing."""
    monkeypatch.setattr("shardtools.storage._instances", {})  # which know an environment of before
    for name, value in {**NO_CREDENTIALS, **variables}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@contextmanager
def moto_server() -> Iterator[MotoServer]:
    """Run an S3 server, which is empty.

    Raises:
        ServerError: it did not start.
    """
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def answers() -> bool:
        if process.poll() is not None:
            raise ServerError(f"moto's server ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        wait_until(answers, "moto's server")
        yield MotoServer(f"http://127.0.0.1:{port}/")
    finally:
        stop(process)
