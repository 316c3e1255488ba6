"""Fixtures that many tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import NginxServer, nginx_server

# A shell's & and nohup start the tests with signals ignored, and children inherit that. Of a signal with a handler,
# one that does nothing, they get the default.
for _name in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_name) is signal.SIG_IGN:
        signal.signal(_name, lambda *_: None)


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    """A storage server whose folder is empty and this test's own."""
    root: Path = tmp_path_factory.mktemp("nginx")
    with nginx_server(root) as server:
        yield server
