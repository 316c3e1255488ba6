"""Small datasets for the tests, made with Python's tarfile, and what became of them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import zstandard

from shardtools.jobs.options import RunOptions
from shardtools.jobs.report import JobResult
from shardtools.jobs.upload import UploadOptions, plan_upload, run_upload
from shardtools.shards.manifest import ShardEntry, build_manifest, write_manifest
from shardtools.shards.samples import Composer
from shardtools.shards.sidecar import write_sidecar
from shardtools.shards.writer import ShardWriter
from shardtools.sources import Source
from shardtools.spec import Destination
from shardtools.storage import get_storage

UPLOADS = ".shardtools-tmp"
"""Where our nginx keeps uploads under way; no listing shows it."""

Files = Iterable[tuple[str, bytes]]


def tar_bytes(files: Files, format: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar file that holds ``files``, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pack(data: bytes, name: str) -> bytes:
    """Return a tar file packed as its name says."""
    if name.endswith(("gz",)):
        return gzip.compress(data, 1, mtime=0)
    if name.endswith(".zst"):
        return zstandard.compress(data, 1)
    return data


def write_shard(path: Path, files: Files) -> Path:
    """Write a shard; its name says how it is packed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(tar_bytes(files), path.name))
    return path


def sample_files(shard: int, samples: int, size: int = 20) -> Iterator[tuple[str, bytes]]:
    """Yield the members of so many samples of two fields, ``cls`` and ``txt`` of about ``size`` bytes."""
    for i in range(samples):
        yield f"{shard}/{i:04d}.cls", b"%d" % (i % 10)
        yield f"{shard}/{i:04d}.txt", (b"%d-%d " % (shard, i)).ljust(size, b".")


def write_dataset(folder: Path, shards: int, samples: int, *, name: str = "in", ending: str = "tar") -> str:
    """Write ``in-@N.tar`` into ``folder`` and return this spec, without the folder."""
    width = len(str(shards))
    for shard in range(shards):
        write_shard(folder / f"{name}-{shard:0{width}d}.{ending}", sample_files(shard, samples))
    return f"{name}-@{shards}.{ending}"


def members(path: Path) -> list[tuple[str, bytes]]:
    """Return names and contents of the members of a shard, as tarfile reads it."""
    data = path.read_bytes()
    if path.name.endswith(".zst"):
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    return tar_members(data)


def tar_members(data: bytes) -> list[tuple[str, bytes]]:
    """Return names and contents of the members of a plain or gzipped tar file."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(info.name, archive.extractfile(info).read()) for info in archive if info.isfile()]  # type: ignore[union-attr]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file under ``folder``, hidden ones too, but not what belongs to nginx; folders end with ``/``."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if UPLOADS not in path.relative_to(folder).parts:
            found.update({name + "/": b""} if path.is_dir() else {name: path.read_bytes()})
    return found


def parts_of(name: str, *, shards: int, ending: str = "tar") -> set[str]:
    """Return the names of all files of a complete dataset that htmapper has written."""
    width = len(str(shards))
    files = {f"{name}-{i:0{width}d}.{ending}" for i in range(shards)}
    return files | {f"{file}.index.npz" for file in files} | {f"{name}-@{shards}.{ending}.json"}


def written_dataset(folder: Path, spec: str, shards: Sequence[Sequence[Mapping[str, object]]]) -> None:
    """Write a dataset as shardtools does, with sidecars and a manifest, from a list of records for each shard."""
    destination = Destination(str(folder / spec))
    entries = []
    for url, records in zip(destination.urls(), shards, strict=True):
        composer = Composer()
        with get_storage(url).create(url) as sink:
            writer = ShardWriter(sink, url)
            for record in records:
                writer.add(*composer.compose(record))
            sidecar = writer.finish({})
        write_sidecar(url, sidecar)
        entries.append(ShardEntry(url, len(sidecar), sidecar.filesize, sidecar.checksum, sidecar.table.count_fields()))
    write_manifest(destination, build_manifest(destination, entries, {}))


def upload_source(
    source: Source,
    destination: str,
    layout: UploadOptions = UploadOptions(),  # noqa: B008 - it is frozen
    options: RunOptions = RunOptions(),  # noqa: B008
) -> list[JobResult]:
    """Write the samples of an open source; return what became of each split."""
    return run_upload(plan_upload(source, destination, layout, options), source, options)
