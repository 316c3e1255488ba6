"""Sidecars as a stranger would make them: right in all but one thing."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def load(data: bytes) -> tuple[Arrays, dict[str, Any]]:
    """Return the columns of a sidecar, and what its meta says."""
    with np.load(io.BytesIO(data)) as arrays:
        columns = {name: arrays[name].copy() for name in arrays.files}
    return columns, json.loads(columns.pop("meta").tobytes())


def save(columns: Arrays, meta: dict[str, Any] | bytes) -> bytes:
    """Return the bytes of a sidecar with these columns and this meta."""
    text = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    file = io.BytesIO()
    np.savez(file, **columns, meta=np.frombuffer(text, np.uint8))
    return file.getvalue()


def with_raw_column(data: bytes, name: str, raw: bytes, zeros: int = 0) -> bytes:
    """Return a sidecar of which the bytes of one column are these, and so many megabytes of zeros, packed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as after:
        for info in before.infolist():
            is_it = info.filename == f"{name}.npy"
            with after.open(info.filename, "w", force_zip64=True) as member:
                member.write(raw if is_it else before.read(info))
                for _ in range(zeros * is_it):
                    member.write(bytes(1 << 20))
    return file.getvalue()


def npy_head(descr: str, shape: str) -> bytes:
    """Return the head of an npy file that claims this."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def set_column(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays, dict[str, Any]], None]:
    """Return what changes a column."""

    def apply(columns: Arrays, meta: dict[str, Any]) -> None:
        columns[name] = change(columns[name])

    return apply


def set_meta(name: str, value: Any) -> Callable[[Arrays, dict[str, Any]], None]:
    """Return what changes an entry of the meta."""

    def apply(columns: Arrays, meta: dict[str, Any]) -> None:
        meta[name] = value

    return apply


def put(at: int, value: int) -> Callable[[Any], Any]:
    """Return what changes one number of a column."""

    def change(column: Any) -> Any:
        column = column.astype(np.int64)
        column[at] = value
        return column

    return change


COLUMNS = ("key_data", "key_length", "members", "lead", "head", "size", "field", "crc32")

FAULTS: dict[str, Callable[[Arrays, dict[str, Any]], None]] = {
    "field out of range": set_column("field", put(3, 7)),
    "field below zero": set_column("field", put(3, -1)),
    "a field twice": set_column("field", lambda c: c * 0),
    "key length too short": set_column("key_length", put(1, 1)),
    "key length zero": set_column("key_length", put(1, 0)),
    "key length below zero": set_column("key_length", put(1, -3)),
    "keys joined": set_column("key_length", lambda c: np.array([c.sum(), *[0] * (len(c) - 1)])),
    "a key with NUL": set_column("key_data", put(1, 0)),
    "a key that ends with a slash": set_column("key_data", put(3, ord("/"))),
    "a key with a dot": set_column("key_data", put(2, ord("."))),
    "members below one": set_column("members", put(1, 0)),
    "members that are not there": set_column("members", put(1, 1000)),
    "head of no block": set_column("head", put(2, 100)),
    "head of none": set_column("head", put(2, 0)),
    "head below zero": set_column("head", put(2, -512)),
    "spans that overlap": set_column("lead", put(1, -1024)),
    "lead of no block": set_column("lead", put(1, 7)),
    "size below zero": set_column("size", put(2, -1)),
    "size beyond the shard": set_column("size", put(2, 1 << 40)),
    "size beyond all": set_column("size", lambda c: np.full(len(c), (1 << 63) - 1, np.uint64)),
    "a shard that is too short": set_column("head", lambda c: c * 40),
    "a checksum too large": set_column("crc32", put(0, 1 << 33)),
    **{f"short {name}": set_column(name, lambda c: c[:-1]) for name in COLUMNS},
    **{f"empty {name}": set_column(name, lambda c: c[:0]) for name in COLUMNS},
    **{f"two-dimensional {name}": set_column(name, lambda c: c[:, None]) for name in COLUMNS},
    **{f"float {name}": set_column(name, lambda c: c.astype(float)) for name in COLUMNS},
    **{f"text {name}": set_column(name, lambda c: c.astype("S3")) for name in COLUMNS},
    **{f"empty texts {name}": set_column(name, lambda c: np.zeros(len(c), "S1").view("V1")) for name in COLUMNS},
    **{
        f"structured {name}": set_column(name, lambda c: np.zeros(len(c), [("a", "u1"), ("b", "u4")]))
        for name in COLUMNS
    },
    **{f"scalar {name}": set_column(name, lambda c: c[0]) for name in COLUMNS},
    "entries of one column": set_column("entries", lambda c: np.zeros(4, np.int64)),
    "entries in a plain shard": set_column("entries", lambda c: np.array([[0, 0]])),
    "entries of three": set_column("entries", lambda c: np.zeros((2, 3), np.int64)),
    "field with a slash": set_meta("fields", ["x/../../outside/evil", "txt"]),
    "field key": set_meta("fields", ["key", "txt"]),
    "field __url__": set_meta("fields", ["__url__", "txt"]),
    "field empty": set_meta("fields", ["", "txt"]),
    "fields alike": set_meta("fields", ["txt", "txt"]),
    "fields that are numbers": set_meta("fields", [1, 2]),
    "fields that are a text": set_meta("fields", "ab"),
    "fields nested": set_meta("fields", [["a"], ["b"]]),
    "no fields": set_meta("fields", None),
    "too few fields": set_meta("fields", ["bin"]),
    "filesize below zero": set_meta("filesize", -1),
    "filesize a text": set_meta("filesize", "10240"),
    "filesize true": set_meta("filesize", True),
    "filesize huge": set_meta("filesize", 10**30),
    "other below zero": set_meta("other", -5),
    "other a fraction": set_meta("other", 1.5),
    "checksum a number": set_meta("checksum", 5),
    "checksum a word": set_meta("checksum", "md5:abc"),
    "packing unknown": set_meta("packing", "lzma"),
    "packing a list": set_meta("packing", ["tar"]),
    "job a text": set_meta("job", "htmapper"),
    "job none": set_meta("job", None),
    "version a list": set_meta("version", [1]),
}
"""What is wrong with a sidecar, and how it is made so."""

PACKED_FAULTS: dict[str, Callable[[Arrays, dict[str, Any]], None]] = {
    "entries that do not rise": set_column("entries", lambda c: c[::-1]),
    "entries that begin late": set_column("entries", lambda c: c[1:]),
    "entries below zero": set_column("entries", lambda c: c - 1),
    "an entry inside a sample": set_column("entries", lambda c: c + np.array([[0, 0]] + [[512, 0]] * (len(c) - 1))),
    "an entry behind the shard": set_column("entries", lambda c: np.append(c, [[c[-1, 0] + 512, 1 << 40]], axis=0)),
    "the same entry twice": set_column("entries", lambda c: np.repeat(c, 2, axis=0)),
}
