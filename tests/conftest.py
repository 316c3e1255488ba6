"""Fixtures that many tests share."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers import NginxServer, nginx_server

# A shell's & and nohup start the tests with signals ignored, and children inherit that. Of a signal with a handler,
# one that does nothing, they get the default.
for _name in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_name) is signal.SIG_IGN:
        signal.signal(_name, lambda *_: None)


settings.register_profile("tests", deadline=None, max_examples=60)
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="Run the tests marked as slow, too.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(scope="session", autouse=True)
def caches() -> Iterator[None]:
    """No test leaves anything in the caches of who runs it, or finds what another run has left there."""
    with tempfile.TemporaryDirectory(prefix="shardtools-caches-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        yield


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    """A storage server whose folder is empty and this test's own."""
    root: Path = tmp_path_factory.mktemp("nginx")
    with nginx_server(root) as server:
        yield server
