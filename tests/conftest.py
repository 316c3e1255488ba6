"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import NginxServer, nginx_server


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    """A storage server whose folder is empty and this test's own."""
    root: Path = tmp_path_factory.mktemp("nginx")
    with nginx_server(root) as server:
        yield server
