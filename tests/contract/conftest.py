"""Fixtures of the storage tests. The suite's own asserts explain themselves as those of a test module do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import NginxServer, nginx_server

pytest.register_assert_rewrite("tests.contract.suite")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    """One storage server for all tests of a module, each of which takes a folder of its own."""
    with nginx_server(tmp_path_factory.mktemp("web")) as server:
        yield server
