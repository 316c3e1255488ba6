"""A storage of generated shards, every request to which takes a while: what a client asks for at scale, and how long.

    slow://indexed/x-@100000.tar     shards with sidecars and a manifest
    slow://bare/x-@100000.tar        shards with sidecars alone
    slow://anywhere/else             what was written there; contents are kept up to `KEPT` bytes

Nothing is written before `install` was called with how many shards there are.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import shardtools.storage as shardtools_storage
from shardtools.errors import ExistsError, NotFoundError, RefusedError
from shardtools.shards.manifest import ShardEntry, build_manifest, write_manifest
from shardtools.shards.samples import Composer
from shardtools.shards.sidecar import dump
from shardtools.shards.writer import ShardWriter
from shardtools.spec import Destination
from shardtools.storage import ByteRange, Stat, Storage, Stream

KEPT = 1 << 16
SAMPLES = 20
PAGE = 1000
"""Names that one request lists."""

_GENERATED = re.compile(r"slow://(?:indexed|bare)/x-([0-9]+)\.tar(\.index\.npz)?")


class _Bytes(Stream):
    def __init__(self, data: bytes):
        super().__init__()
        self.stat = Stat(len(data), "1")
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._file.readinto(buffer)


class _Sink(io.BytesIO):
    def writelines(self, parts: object) -> None:
        for part in parts:  # type: ignore[attr-defined]
            self.write(part)


class SlowStorage(Storage):
    """Generated and written objects. ``delay`` is how many seconds each request takes, ``requests`` counts them."""

    delay = 0.0
    shards = 0
    requests: ClassVar[Counter[str]] = Counter()
    objects: ClassVar[dict[str, bytes]] = {}
    sidecar = b""
    filesize = 0
    _lock = threading.Lock()

    def _wait(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1
        if self.delay:
            time.sleep(self.delay)

    def _is_there(self, url: str) -> re.Match[str] | None:
        match = _GENERATED.fullmatch(url)
        return match if match and int(match[1]) < self.shards else None

    def _get(self, url: str) -> bytes:
        if (data := self.objects.get(url)) is not None:
            return data
        match = self._is_there(url)
        if match and match[2]:
            return self.sidecar
        raise NotFoundError("there is no such object", url=url)

    def open(self, url: str) -> Stream:
        self._wait("GET")
        return _Bytes(self._get(url))

    def read_ranges(self, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        self._wait("GET")
        data = self._get(url)
        return [data[some.start : some.stop] for some in ranges]

    @contextmanager
    def create(self, url: str) -> Iterator[_Sink]:
        sink = _Sink()
        yield sink
        self._wait("PUT")
        data = sink.getvalue()
        self.objects[url] = data if len(data) <= KEPT or url.endswith(".json") else b""

    def create_exclusive(self, url: str, data: bytes) -> None:
        self._wait("PUT")
        if url in self.objects:
            raise ExistsError("there is one already", url=url)
        self.objects[url] = data

    def stat(self, url: str) -> Stat:
        self._wait("HEAD")
        match = self._is_there(url)
        if match and not match[2]:
            return Stat(self.filesize, "1")
        return Stat(len(self._get(url)), "1")

    def folders(self, folder: str) -> list[str]:
        raise RefusedError("this server does not list", url=folder)

    def list(self, prefix: str) -> list[str]:
        names = [url for url in list(self.objects) if url.startswith(prefix)]
        generated = re.match(r"slow://(indexed|bare)/", prefix)
        if generated:
            width = len(str(self.shards))
            both = [f"{generated[0]}x-{i:0{width}d}.tar{end}" for i in range(self.shards) for end in ("", ".index.npz")]
            names += [name for name in both if name.startswith(prefix)]
        for _ in range(1 + len(names) // PAGE):
            self._wait("LIST")
        return sorted(names)

    def delete(self, url: str) -> None:
        self._wait("DELETE")
        self.objects.pop(url, None)


def install(shards: int, delay: float = 0.02) -> str:
    """Let there be so many shards, and let each request take ``delay`` seconds; return the numbers in specs."""
    shardtools_storage._BACKENDS["slow"] = (__name__, "SlowStorage")
    SlowStorage.shards = shards
    sink = _Sink()
    writer, composer = ShardWriter(sink, "x.tar"), Composer()
    for index in range(SAMPLES):
        writer.add(*composer.compose({"key": f"{index:06d}", "cls": index, "jpg": bytes(100)}))
    sidecar = writer.finish({})
    SlowStorage.sidecar, SlowStorage.filesize = dump(sidecar), sidecar.filesize
    target = Destination(f"slow://indexed/x-@{shards}.tar")
    fields = sidecar.table.count_fields()
    entries = [ShardEntry(url, SAMPLES, sidecar.filesize, sidecar.checksum, fields) for url in target.urls()]
    write_manifest(target, build_manifest(target, entries, {"program": "benchmark"}))
    SlowStorage.requests.clear()
    SlowStorage.delay = delay
    return f"@{shards}"


def asked() -> str:
    """Return how many requests there were, by kind."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(SlowStorage.requests.items()))


def pretend(urls: Sequence[str], data: bytes = b"") -> None:
    """Let there be objects at ``urls``."""
    SlowStorage.objects.update(dict.fromkeys(urls, data))
