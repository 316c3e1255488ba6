"""A folder on each of the four backends, on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gcs_servers import strict_gcs
from tests.gcs_servers import use_environment as use_gcs
from tests.moto_server import moto_server
from tests.moto_server import use_environment as use_s3
from tests.servers import nginx_server

BACKENDS = ("local", "nginx", "s3", "gs")
EACH_BACKEND = ("local", "nginx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("s3", "gs")))
"""The same for tests that write much, which are slow on the servers that are processes of Python."""


@contextmanager
def running(backend: str, folder: Path, front: Callable[[str], str] = str) -> Iterator[str]:
    """Run the server of a backend, and give out the URL of a folder on it, without a slash at the end.

    ``front`` starts what stands before the server at a URL, and returns its URL.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        if backend == "local":
            yield str(folder)
        elif backend == "nginx":
            with nginx_server(folder) as nginx:
                yield front(nginx.url).rstrip("/")
        elif backend == "s3":
            with moto_server() as moto:
                moto.client().create_bucket(Bucket="bucket")
                use_s3(monkeypatch, moto.environment() | {"AWS_ENDPOINT_URL": front(moto.url).rstrip("/")})
                yield "s3://bucket"
        else:
            with strict_gcs("bucket") as gcs:
                use_gcs(monkeypatch, {"STORAGE_EMULATOR_HOST": front(gcs.url).rstrip("/")})
                yield "gs://bucket"
