"""Hosts on a network of their own, as namespaces of this machine: each with an address, a disk, and processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PREPARE = """
mount --bind "$0/hosts" /etc/hosts
mount --bind "$0/disks/$1" "$0/disk"
mount -t tmpfs none "$0/disks"
cd "$0/disk"
shift
exec "$@"
"""


@dataclass(frozen=True)
class Host:
    """A machine of a `Network`: the folder ``disk`` is what it sees as `Network.disk`, which no other host sees.

    ``port`` is the end of its cable at the switch.
    """

    namespace: str
    address: str
    disk: Path
    port: str


class Network:
    """A switch, to which hosts are connected. A host knows the names of those that have joined, and nothing else.

    ``disk`` is where every host sees its own disk, which is also the folder that its processes start in.
    """

    def __init__(self, folder: Path, stack: ExitStack):
        self.disk = folder / "disk"
        self._folder = folder
        self._stack = stack
        self._prefix = f"st{os.getpid()}"
        self._hosts: dict[str, Host] = {}
        self.disk.mkdir()
        (folder / "hosts").write_text("127.0.0.1 localhost\n")
        self._switch = self._add_namespace("switch")
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")

    def _add_namespace(self, name: str) -> str:
        namespace = f"{self._prefix}-{name}"
        _ip("netns", "add", namespace)
        self._stack.callback(_remove, namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        return namespace

    def join(self, name: str) -> Host:
        """Connect a new host, which the others know by its name from now on."""
        number = len(self._hosts) + 1
        port = f"port{number}"
        host = Host(self._add_namespace(str(number)), f"10.77.0.{number}", self._folder / "disks" / name, port)
        host.disk.mkdir(parents=True)
        _ip("link", "add", "eth0", "netns", host.namespace, "type", "veth", "peer", port, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
        _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.namespace, "link", "set", "eth0", "up")
        with open(self._folder / "hosts", "a") as hosts:
            hosts.write(f"{host.address} {name}\n")
        self._hosts[name] = host
        return host

    def unplug(self, name: str) -> None:
        """Cut a host off: from now on, nothing that is sent to it or by it arrives."""
        _ip("-n", self._switch, "link", "set", self._hosts[name].port, "down")

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a command at a host, with ``env`` and little else in its environment; it is stopped at the end."""
        host = self._hosts[name]
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.disk),
            "TMPDIR": str(self.disk),
            "LOGNAME": "tester",
            **(env or {}),
        }
        inside = ["ip", "netns", "exec", host.namespace, "sh", "-ec", _PREPARE, str(self._folder), name]
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                [*inside, *command], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._stack.callback(_stop, process)
        return process

    def log(self, name: str) -> Path:
        """Return the path of what the commands of a host have said."""
        return self._folder / f"{name}.log"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _remove(namespace: str) -> None:
    """Remove a namespace, after the processes that are left in it."""
    left = subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True).stdout
    for pid in left.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", namespace)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def why_not() -> str | None:
    """Return why there can be no `network` here, or None if there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` here: install iproute2"
    probe = f"st{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
    except subprocess.CalledProcessError as error:
        return f"no network namespace can be made here: {error.stderr.decode().strip()}"
    try:
        subprocess.run(
            ["ip", "netns", "exec", probe, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True
        )
        _ip("link", "add", "eth0", "netns", probe, "type", "veth", "peer", "eth1", "netns", probe)
    except subprocess.CalledProcessError as error:
        return f"a network namespace cannot be used here: {error.stderr.decode().strip()}"
    finally:
        _ip("netns", "delete", probe)
    return None


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A context that gives a network without hosts, whose disks lie in ``folder``; everything ends with it."""
    with ExitStack() as stack:
        yield Network(folder, stack)
