"""The sidecar of a shard: its table as a file, and the mark that the shard is complete.

``train-0000.tgz.index.npz`` is an ``.npz`` file that `numpy.load` opens, with these columns:

* for each sample ``key_length`` (``key_data`` holds the keys, end to end), ``members``, how many it has, and ``lead``,
  the bytes between the sample before and this one that belong to neither;
* for each member ``head``, the bytes before its data since the end of the member before (its header blocks), ``size``
  of its data, ``field``, and ``crc32`` of its data where it is known;
* ``entries``, pairs of offsets in the tar file and in the packed file: where a packed shard can be entered;
* ``meta``, JSON as bytes: version, the shard's ``filesize`` and ``checksum``, its ``packing`` (``tar``, ``gzip`` or
  ``zstd``; sidecars written before it was noted have none), the names of the ``fields``, and the ``job`` that wrote it.

A sidecar may come from a stranger: `parse` checks all of it before anything is used (``sidecar_check.py``).

Distances instead of offsets keep the columns narrow. The file is the same, byte for byte, for the same shard.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import LimitError, StaleTableError
from shardtools.shards.columns import Texts
from shardtools.shards.compression import Packing
from shardtools.shards.npy import Header, load_npz
from shardtools.shards.sidecar_check import find_fault
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK
from shardtools.spec import beside
from shardtools.storage import current_options, get_storage, read_optional
from shardtools.types import Ints

VERSION = 1
COLUMNS = ("key_data", "key_length", "members", "lead", "head", "size", "field")
"""What every sidecar has."""

_WIDTH = 8
"""Bytes of a number in a table."""

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Sidecar:
    """What the sidecar says of its shard.

    ``filesize`` and ``checksum`` (``crc32:`` and 8 hexadecimal digits) are those of the shard as stored. ``entries``
    has a row for each entry point. ``job`` says what wrote the shard. ``packing`` is None where it is not noted.
    """

    filesize: int
    checksum: str
    fields: tuple[str, ...]
    other: int
    columns: Columns
    entries: Ints
    job: Mapping[str, Any]
    packing: Packing | None = None

    def __len__(self) -> int:
        return len(self.columns["members"])

    def count_fields(self) -> dict[str, int]:
        """Return how many samples have each field, by name."""
        counts = np.bincount(self.columns["field"], minlength=len(self.fields))
        return {name: int(count) for name, count in sorted(zip(self.fields, counts, strict=True))}

    def table(self) -> ShardTable:
        """Return the table of the shard."""
        columns = {name: self.columns[name].astype(np.int64) for name in COLUMNS if name != "key_data"}
        size, head, lead = columns["size"], columns["head"], columns["lead"]
        first = np.concatenate(([0], np.cumsum(columns["members"])))
        padded = (size + BLOCK - 1) // BLOCK * BLOCK
        gap = head.copy()
        gap[first[:-1]] += lead
        offset = np.cumsum(gap + padded) - padded
        last = first[1:] - 1
        return ShardTable(
            keys=Texts(self.columns["key_data"], np.cumsum(columns["key_length"])),
            start=offset[first[:-1]] - head[first[:-1]],
            stop=offset[last] + padded[last],
            first=first,
            fields=self.fields,
            field=columns["field"],
            offset=offset,
            size=size,
            other=self.other,
        )


def columns_of(table: ShardTable) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a table as a sidecar holds them; without checksums, which a table does not have."""
    padded_stop = table.offset + (table.size + BLOCK - 1) // BLOCK * BLOCK
    before = np.concatenate(([0], padded_stop[:-1]))[: len(table.offset)]
    first = table.first[:-1]
    before[first] = table.start
    lead = table.start - np.concatenate(([0], table.stop[:-1]))[: len(table)]
    return {
        "key_data": table.keys.data,
        "key_length": np.diff(table.keys.ends, prepend=0),
        "members": np.diff(table.first),
        "lead": lead,
        "head": table.offset - before,
        "size": table.size,
        "field": table.field,
    }


def narrow(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a column of whole numbers, none negative, in the smallest type that holds them."""
    return column.astype(np.min_scalar_type(int(column.max()) if len(column) else 0), copy=False)


def sidecar_url(url: str) -> str:
    """Return the URL of a shard's sidecar.

    >>> sidecar_url("http://host/train-0000.tgz")
    'http://host/train-0000.tgz.index.npz'
    """
    return beside(url, ".index.npz")


def dump(sidecar: Sidecar) -> bytes:
    """Return the sidecar as the bytes of its file."""
    meta = {
        "version": VERSION,
        "filesize": sidecar.filesize,
        "checksum": sidecar.checksum,
        "fields": list(sidecar.fields),
        "other": sidecar.other,
        "job": dict(sidecar.job),
    }
    if sidecar.packing is not None:
        meta["packing"] = sidecar.packing
    text = json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()
    arrays = {name: narrow(column) for name, column in sidecar.columns.items()}
    arrays["entries"] = sidecar.entries
    arrays["meta"] = np.frombuffer(text, np.uint8)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in sorted(arrays.items()):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:  # dated 1980, not now
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


def parse(data: bytes, url: str) -> Sidecar:
    """Return the sidecar that `dump` gave ``data`` for; ``url`` is the shard's, for messages.

    Raises:
        StaleTableError: the bytes are not a sidecar of this version, or what it says cannot be true of any shard.
        LimitError: its table would take more memory than a sidecar's may.
    """
    try:
        columns = load_npz(data, lambda headers: _check_headers(headers, url))
        meta = json.loads(columns.pop("meta").tobytes())
        version = meta["version"]
        if not isinstance(meta["fields"], list):
            raise ValueError("its fields are no list")
        sidecar = Sidecar(
            filesize=meta["filesize"],
            checksum=meta["checksum"],
            fields=tuple(meta["fields"]),
            other=meta["other"],
            columns={name: column for name, column in columns.items() if name in (*COLUMNS, "crc32")},
            entries=columns["entries"].astype(np.int64),
            job=meta["job"],
            packing=meta.get("packing"),
        )
    except (MemoryError, SystemError, LimitError):  # which say nothing of the bytes
        raise
    except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged bytes
        raise StaleTableError("the sidecar is damaged", url=sidecar_url(url), fix="delete it") from error
    if version != VERSION:
        raise StaleTableError(f"the sidecar has format {version}, not {VERSION}", url=sidecar_url(url), fix="delete it")
    if wrong := find_fault(sidecar):
        raise StaleTableError(f"the sidecar is wrong: {wrong}", url=sidecar_url(url), fix="delete it")
    return sidecar


def _check_headers(headers: Mapping[str, Header], url: str) -> None:
    """Look at what the heads of the columns claim, before there is room made for any.

    Raises:
        ValueError: they are not those of a sidecar.
        LimitError: they claim too much.
    """
    for name in (*COLUMNS, "entries", "meta"):
        if name not in headers:
            raise ValueError(f"it has no {name}")
    for name, header in headers.items():
        is_pairs = name == "entries"
        if header.dtype.kind not in "iu" or len(header.shape) != 1 + is_pairs or (is_pairs and header.shape[1] != 2):
            raise ValueError(f"{name} is no column of whole numbers")
    if headers["key_data"].dtype != np.uint8 or headers["meta"].dtype != np.uint8:
        raise ValueError("its texts are no bytes")
    held = sum(
        header.nbytes if header.dtype == np.uint8 and name in ("key_data", "meta") else prod(header.shape) * _WIDTH
        for name, header in headers.items()
    )
    current_options().limits.check("sidecar", held, url=sidecar_url(url))


def read_sidecar(url: str, filesize: int | None) -> Sidecar | None:
    """Return the sidecar of a shard; None if there is none, or it is not that of a shard of ``filesize`` bytes.

    Raises:
        StorageError: it cannot be read.
        LimitError: it is larger than a sidecar may be.
    """
    data = read_optional(sidecar_url(url), "sidecar")
    try:
        sidecar = None if data is None else parse(data, url)
    except StaleTableError:
        return None
    return sidecar if sidecar is not None and filesize in (None, sidecar.filesize) else None


def write_sidecar(url: str, sidecar: Sidecar) -> None:
    """Write the sidecar of the shard at ``url``, which marks it as complete."""
    with get_storage(url).create(sidecar_url(url)) as sink:
        sink.write(dump(sidecar))
