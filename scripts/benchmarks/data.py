"""The data, made once: shards of samples with one field of contents and a label.

Contents of ``.tar`` sets are random bytes, as of a JPEG. Contents of ``.tgz`` sets are words, which gzip shrinks to
about 40 %, so that it has something to do. Samples are written in the plain ustar format by Python's tarfile, with
mtime 0; the ``webdataset`` sets are written by webdataset's TarWriter as it does by default, with a pax header before
every member for the fraction of a second in its mtime. The ``shardtools`` sets have sidecars; the ``files`` sets are
folders, one for each shard, of files with the contents alone.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = 1
"""Part of every set's folder: raise it when what is written changes."""

NAME = "shardtools-benchmark"

POOL_BYTES = 16_000_000
"""Contents are cut from a pool of this size at random places."""


@dataclass(frozen=True)
class Dataset:
    """``shards`` shards of ``samples`` samples each, of ``size`` bytes of contents.

    They have the ``fields`` alone, if any are named, and are in the opposite order if it ``is_reversed``.
    """

    name: str
    shards: int
    samples: int
    size: int
    extension: str = ".tar"
    writer: str = "tarfile"
    fields: tuple[str, ...] = ()
    is_reversed: bool = False

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.shards}x{self.samples}-v{VERSION}"

    @property
    def pattern(self) -> str:
        """The spec of the shards, relative to the benchmark's folder."""
        return f"{self.folder}/@{self.shards:06d}{self.extension}"

    def names(self, shards: int | None = None) -> list[str]:
        """Return the names of the first ``shards`` shards, relative to the benchmark's folder."""
        return [f"{self.folder}/{i:06d}{self.extension}" for i in range(shards or self.shards)]


def choose_folder(needed: int) -> Path:
    """Return a folder for ``needed`` bytes: in /dev/shm if that is in memory and has room, else among temp files.

    In memory the disk's speed, and its noise, stay out of the ratios.
    """
    shm = Path("/dev/shm")
    folder = shm / NAME
    if folder.exists():
        return folder
    if (
        is_tmpfs(shm)
        and os.access(shm, os.W_OK)
        and min(shutil.disk_usage(shm).free, available_memory()) > 1.3 * needed
    ):
        return folder
    return Path(tempfile.gettempdir()) / NAME


def available_memory() -> int:
    """Return how many bytes of memory programs can still take, 0 if the system does not say."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def is_tmpfs(folder: Path) -> bool:
    """Return whether ``folder``, or the nearest folder above it that exists, is in memory."""
    while not folder.exists():
        folder = folder.parent
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return False
    above = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return bool(above) and max(above, key=lambda mount: len(mount[0]))[1] == "tmpfs"


def build(dataset: Dataset, root: Path) -> None:
    """Write the shards of ``dataset`` below ``root``, unless they are there."""
    final = root / dataset.folder
    if final.exists():
        return
    print(f"making {final}", file=sys.stderr, flush=True)
    partial = root / f"{dataset.folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pool = (make_words if dataset.extension == ".tgz" else make_noise)(POOL_BYTES)
    for i, name in enumerate(dataset.names()):
        samples = arrange(dataset, make_samples(dataset, pool, i))
        _WRITERS[dataset.writer](partial / Path(name).name, samples)
    partial.rename(final)


def size_of(dataset: Dataset, root: Path) -> int:
    """Return how many bytes the shards of ``dataset``, or its files, take."""
    if dataset.writer == "files":
        return dataset.shards * dataset.samples * dataset.size
    return sum((root / name).stat().st_size for name in dataset.names())


def touch_memory(folder: Path, size: int) -> None:
    """Write ``size`` bytes into ``folder`` and delete them.

    The pages that a result will go to have then been used before. On a virtual machine the first use of a page can
    cost more than all that is to be measured, and it would hit whoever comes first or writes most.
    """
    path = folder / "touched"
    chunk = bytes(1 << 20)
    with open(path, "wb") as file:
        for _ in range(-(-size // len(chunk))):
            file.write(chunk)
    path.unlink()


def make_noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


def make_words(size: int) -> bytes:
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randint(2, 9))) for _ in range(20_000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return " ".join(rng.choices(words, weights, k=size // 4)).encode()[:size]


def make_samples(dataset: Dataset, pool: bytes, shard: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield each sample's key and fields."""
    rng = random.Random(shard)
    name = "jpg" if dataset.size > 1000 else "txt"
    for i in range(dataset.samples):
        start = rng.randrange(len(pool) - dataset.size)
        label = b"%d" % rng.randrange(1000)
        yield f"{shard:06d}{i:06d}", {"cls": label, name: pool[start : start + dataset.size]}


def arrange(
    dataset: Dataset, samples: Iterator[tuple[str, dict[str, bytes]]]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Return samples in the order, and with the fields, that ``dataset`` has."""
    ordered = reversed(list(samples)) if dataset.is_reversed else samples
    return ((key, {name: fields[name] for name in dataset.fields or fields}) for key, fields in ordered)


def write_with_tarfile(path: Path, samples: Iterator[tuple[str, dict[str, bytes]]]) -> None:
    with open(path, "wb") as file:
        packed = gzip.GzipFile("", "wb", 6, file, mtime=0) if path.suffix == ".tgz" else file
        with tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT, bufsize=1 << 20) as archive:
            for key, fields in samples:
                for name, data in fields.items():
                    member = tarfile.TarInfo(f"{key}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        if packed is not file:
            packed.close()


def write_with_webdataset(path: Path, samples: Iterator[tuple[str, dict[str, bytes]]]) -> None:
    import webdataset

    with webdataset.TarWriter(str(path)) as writer:
        for key, fields in samples:
            writer.write({"__key__": key, **fields})


def write_with_shardtools(path: Path, samples: Iterator[tuple[str, dict[str, bytes]]]) -> None:
    from shardtools.shards.samples import Composer
    from shardtools.shards.sidecar import write_sidecar
    from shardtools.shards.writer import ShardWriter
    from shardtools.storage import get_storage

    composer = Composer()
    with get_storage(str(path)).create(str(path)) as sink:
        writer = ShardWriter(sink, str(path))
        for key, fields in samples:
            writer.add(*composer.compose({"key": key, **fields}))
        sidecar = writer.finish({})
    write_sidecar(str(path), sidecar)


def write_files(path: Path, samples: Iterator[tuple[str, dict[str, bytes]]]) -> None:
    """Write a folder of files, one for each sample, with its contents alone."""
    path.mkdir()
    for key, fields in samples:
        for name, data in fields.items():
            if name != "cls":
                (path / f"{key}.{name}").write_bytes(data)


_WRITERS: dict[str, Callable[[Path, Iterator[tuple[str, dict[str, bytes]]]], None]] = {
    "tarfile": write_with_tarfile,
    "webdataset": write_with_webdataset,
    "shardtools": write_with_shardtools,
    "files": write_files,
}
