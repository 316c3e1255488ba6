"""The sidecar of a shard: a file with its table, which also says that the shard is complete.

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
from shardtools.shards.columns import Texts, with_zero
from shardtools.shards.compression import Packing
from shardtools.shards.npy import Header, load_npz
from shardtools.shards.sidecar_check import fault_of_columns, fault_of_ends, fault_of_facts
from shardtools.shards.table import ShardTable, lay_out
from shardtools.storage import Stat, current_options, get_storage
from shardtools.storage.index_place import homes_of
from shardtools.storage.limited import read_optional
from shardtools.types import Ints
from shardtools.urls import beside

VERSION = 1
COLUMNS = ("key_data", "key_length", "members", "lead", "head", "size", "field")
"""The columns of every sidecar."""

_FACTS = ("version", "filesize", "checksum", "fields", "other", "job")
"""What the metadata of every sidecar have."""

VALIDATOR = "validator"
"""What the ``job`` of a sidecar that does not lie beside its shard notes of the shard, where its storage says one."""

_WIDTH = 8
"""Bytes of a number in a table."""


@dataclass(frozen=True)
class Sidecar:
    """What the sidecar says of its shard.

    ``filesize`` and ``checksum`` (``crc32:`` and 8 hexadecimal digits) are those of the shard as stored, ``table`` is
    its table. ``entries`` has a row for each entry point. ``job`` says what wrote the shard. ``packing`` is None where
    it is not noted.
    """

    filesize: int
    checksum: str
    table: ShardTable
    entries: Ints
    job: Mapping[str, Any]
    packing: Packing | None = None

    def __len__(self) -> int:
        return len(self.table)


def to_columns(table: ShardTable) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a table as in the file, except ``lead``."""
    columns: dict[str, npt.NDArray[Any]] = {
        "key_data": table.keys.data,
        "key_length": table.keys.sizes,
        "members": table.counts,
        "head": table.heads,
        "size": table.size,
        "field": table.field,
    }
    if table.crc32 is not None:
        columns["crc32"] = table.crc32
    return columns


def from_columns(columns: Mapping[str, npt.NDArray[Any]], fields: tuple[str, ...], other: int) -> ShardTable:
    """Return the table from the columns of a file, which were checked; a missing ``lead`` means 0."""
    wide = {name: columns[name].astype(np.int64) for name in COLUMNS if name in columns and name != "key_data"}
    return lay_out(
        Texts(columns["key_data"], np.cumsum(wide["key_length"])),
        wide["members"],
        fields,
        wide["field"],
        wide["head"],
        wide["size"],
        lead=wide.get("lead"),
        other=other,
        crc32=columns["crc32"].astype(np.uint32) if "crc32" in columns else None,
    )


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
    table = sidecar.table
    meta = {
        "version": VERSION,
        "filesize": sidecar.filesize,
        "checksum": sidecar.checksum,
        "fields": list(table.fields),
        "other": table.other,
        "job": dict(sidecar.job),
    }
    if sidecar.packing is not None:
        meta["packing"] = sidecar.packing
    text = json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()
    lead = table.start - with_zero(table.stop)[:-1]
    arrays = {name: narrow(column) for name, column in {**to_columns(table), "lead": lead}.items()}
    arrays["entries"] = sidecar.entries
    arrays["meta"] = np.frombuffer(text, np.uint8)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in sorted(arrays.items()):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:  # dated 1980, not now
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


def parse(data: bytes, url: str) -> Sidecar:
    """Return the sidecar from the bytes of its file; ``url`` is the shard's, for messages.

    Raises:
        StaleTableError: the bytes are not a sidecar of this version, or it cannot describe any shard.
        LimitError: its table would take more memory than a sidecar's may.
    """
    try:
        columns = load_npz(data, lambda headers: _check_headers(headers, url))
        meta = json.loads(columns.pop("meta").tobytes())
        facts = {"packing": None, **{name: meta[name] for name in _FACTS}, **meta}
        if not isinstance(facts["fields"], list):
            raise ValueError("its fields are not a list")
        entries = columns.pop("entries").astype(np.int64)
    except (MemoryError, SystemError, LimitError):  # which do not come from the bytes
        raise
    except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged bytes
        raise StaleTableError("the sidecar is damaged", url=sidecar_url(url), fix="delete it") from error
    if (version := facts["version"]) != VERSION:
        raise StaleTableError(f"the sidecar has format {version}, not {VERSION}", url=sidecar_url(url), fix="delete it")
    if wrong := fault_of_facts(facts) or fault_of_columns(columns, len(facts["fields"])):
        raise StaleTableError(f"the sidecar is wrong: {wrong}", url=sidecar_url(url), fix="delete it")
    table = from_columns(columns, tuple(facts["fields"]), facts["other"])
    sidecar = Sidecar(facts["filesize"], facts["checksum"], table, entries, facts["job"], facts["packing"])
    if wrong := fault_of_ends(sidecar):
        raise StaleTableError(f"the sidecar is wrong: {wrong}", url=sidecar_url(url), fix="delete it")
    return sidecar


def _check_headers(headers: Mapping[str, Header], url: str) -> None:
    """Check the headers of the columns, before memory is allocated for any.

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
            raise ValueError(f"{name} is not a column of whole numbers")
    if headers["key_data"].dtype != np.uint8 or headers["meta"].dtype != np.uint8:
        raise ValueError("its texts are not bytes")
    held = sum(
        header.nbytes if header.dtype == np.uint8 and name in ("key_data", "meta") else prod(header.shape) * _WIDTH
        for name, header in headers.items()
    )
    current_options().limits.check("sidecar", held, url=sidecar_url(url))


def find_sidecar(url: str, stat: Stat) -> Sidecar | None:
    """Return the sidecar of a shard that is read, from any of the places where its index files may lie.

    None if there is none that matches the shard, of which storage says ``stat``.

    Raises:
        StorageError: it cannot be read.
        LimitError: it is larger than a sidecar may be.
    """
    for home in homes_of(url):
        if (sidecar := FoundSidecar(home, read_optional(sidecar_url(home), "sidecar")).parse(url, stat)) is not None:
            return sidecar
    return None


@dataclass(frozen=True)
class FoundSidecar:
    """The bytes of a sidecar, None if there is none, and the home where it lies."""

    home: str
    data: bytes | None

    def parse(self, url: str, stat: Stat) -> Sidecar | None:
        """Return the sidecar; None if it does not match the shard at ``url``.

        Beside a shard is what was written along with it. Elsewhere it may be of a shard of the same size that was
        replaced, which the validator shows.
        """
        sidecar = parse_if_of(self.data, url, stat.size)
        if sidecar is None or self.home == url or stat.validator is None:
            return sidecar
        return sidecar if sidecar.job.get(VALIDATOR) in (None, stat.validator) else None


def fetch_sidecar(url: str) -> FoundSidecar:
    """Return the first sidecar that a shard has in the places where its index files may lie, unchecked.

    Raises:
        StorageError, LimitError: as `find_sidecar` does.
    """
    for home in homes_of(url):
        if (data := read_optional(sidecar_url(home), "sidecar")) is not None:
            return FoundSidecar(home, data)
    return FoundSidecar(url, None)


def read_sidecar(url: str, filesize: int | None) -> Sidecar | None:
    """Return the sidecar beside a shard that was written; None if there is none that matches ``filesize`` bytes.

    Raises:
        StorageError: it cannot be read.
        LimitError: it is larger than a sidecar may be.
    """
    return parse_if_of(read_optional(sidecar_url(url), "sidecar"), url, filesize)


def parse_if_of(data: bytes | None, url: str, filesize: int | None) -> Sidecar | None:
    """Return the sidecar of a shard from the bytes of its file; see `read_sidecar`."""
    try:
        sidecar = None if data is None else parse(data, url)
    except StaleTableError:
        return None
    return sidecar if sidecar is not None and filesize in (None, sidecar.filesize) else None


def write_sidecar(url: str, sidecar: Sidecar) -> None:
    """Write the sidecar of the shard at ``url``, which says that it is complete."""
    with get_storage(url).create(sidecar_url(url)) as sink:
        sink.write(dump(sidecar))
