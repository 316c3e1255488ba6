"""A server that is far away: a proxy on this machine that answers late and sends slowly."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from select import select
from urllib.parse import urlsplit

_PIECE = 1 << 18


@contextmanager
def far(url: str, delay: float = 0.02, rate: float = 50e6) -> Iterator[str]:
    """Yield the URL of a proxy before the server at ``url``, in a process of its own.

    The first byte of each answer comes ``delay`` seconds after its request, and each connection carries at most
    ``rate`` bytes a second.
    """
    command = [sys.executable, "-P", __file__, url, str(delay), str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            yield proxy.stdout.readline().strip() if proxy.stdout else ""
        finally:
            proxy.terminate()


def _carry(client: socket.socket, target: tuple[str, int], delay: float, rate: float) -> None:
    """Carry one connection's bytes: requests by copying them, answers within the kernel."""
    read, write = os.pipe()
    with client, socket.create_connection(target) as server:
        due = 0.0
        while True:
            ready, _, _ = select([client, server], [], [])
            if client in ready:
                data = client.recv(1 << 16)
                if not data:
                    break
                due = max(due, time.monotonic() + delay)
                server.sendall(data)
                continue
            time.sleep(max(0.0, due - time.monotonic()))
            count = os.splice(server.fileno(), write, _PIECE)
            if not count:
                break
            left = count
            while left:
                left -= os.splice(read, client.fileno(), left)
            due = max(due, time.monotonic() - 0.01) + count / rate
    os.close(read)
    os.close(write)


def main(url: str, delay: str, rate: str) -> None:
    parts = urlsplit(url)
    target = (parts.hostname or "", parts.port or 80)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}{parts.path}", flush=True)
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_carry, args=(client, target, float(delay), float(rate)), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
