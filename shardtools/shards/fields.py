"""Encode and decode a value by its field's extension, the last dotted part of the field: ``seg.png`` is a PNG.

    value -> encode(field, value) -> the bytes of a member -> decode(field, data) -> the same value

| extension | a value | its bytes |
|---|---|---|
| ``txt text transcript`` | str | UTF-8 |
| ``cls cls2 class index inx count id`` | int, or a numpy integer | decimal text |
| ``json jsn`` | what ``json.dumps`` takes, numpy scalars too | JSON, keys in the order given, no NaN or infinity |
| ``jsonl`` | a list or tuple of such values | one line of JSON for each |
| ``npy`` | a numpy array, or what turns into one | ``numpy.lib.format`` |
| ``npz`` | a dict of such arrays | a compressed zip of them, in the order given, the same bytes every time |
| ``png jpg jpeg webp bmp ppm pgm tif tiff`` | a uint8 array H×W, H×W×1, H×W×3, H×W×4, or a PIL image | the image |
| any of these and ``.gz``, as in ``json.gz`` | the same | the same, as gzip |

Bytes are written as they are, whatever the field. Nothing is ever pickled or unpickled. The extensions and what they
mean are those of webdataset's writer and decoder, so each reads what the other wrote. For images see ``images.py``.

A few bytes may claim to be an image of any size. What would decode to more bytes than `Limits.value` is not decoded.
"""

from __future__ import annotations

import gzip
import io
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from shardtools.errors import FieldError, LimitError
from shardtools.shards.images import IMAGE_FORMATS, ImageFormat, decode_image, encode_image
from shardtools.storage import current_options

if TYPE_CHECKING:
    import numpy as np

_PIECE = 1 << 20

Decoded = TypeVar("Decoded")


def encode(field: str, value: object, *, url: str | None = None, key: str | None = None) -> bytes:
    """Return the bytes of ``value`` in a field called ``field``; bytes, bytearray and memoryview as they are.

    ``url`` and ``key`` only tell an error where it happened.

    Raises:
        FieldError: the extension is not known, or does not take this value.

    >>> encode("cls", 7), encode("meta.json", {"b": 1, "a": None}), encode("any.thing", b"raw")
    (b'7', b'{"b": 1, "a": null}', b'raw')
    >>> encode("cls", "cat", url="a.tar", key="0001")
    Traceback (most recent call last):
    shardtools.errors.FieldError: a.tar [0001.cls]: a str cannot be written as .cls; give an int, or bytes
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    member = field if key is None else f"{key}.{field}"
    codec = _codec_of(field)
    if codec is None:
        raise FieldError(
            f"{_describe(value)} cannot be written: shardtools has no encoder for .{extension(field)}",
            url=url,
            member=member,
            fix="give bytes",
        )
    try:
        return codec.encode(value)
    except Exception as error:
        reason = f": {error}" if str(error) else ""
        raise FieldError(
            f"{_describe(value)} cannot be written as .{extension(field)}{reason}",
            url=url,
            member=member,
            fix=f"give {codec.takes}, or bytes",
        ) from error


def decode(field: str, data: bytes, *, url: str | None = None, key: str | None = None) -> object:
    """Return the value that ``data``, the bytes of a field called ``field``, stands for; ``data`` if it is not known.

    ``url`` and ``key`` only tell an error where it happened.

    Raises:
        FieldError: the bytes are not what the extension says.

    >>> decode("cls", b"7"), decode("meta.json", b"[1, 2.5]"), decode("any.thing", b"raw")
    (7, [1, 2.5], b'raw')
    >>> decode("cls", b"cat", url="a.tar", key="0001")
    Traceback (most recent call last):
    shardtools.errors.FieldError: a.tar [0001.cls]: the bytes are not .cls: not a decimal number: b'cat'
    """
    codec = _codec_of(field)
    return data if codec is None else decode_by(codec.decode, field, data, url=url, key=key)


def decode_by(
    call: Callable[[bytes], Decoded], field: str, data: bytes, *, url: str | None = None, key: str | None = None
) -> Decoded:
    """Return what ``call`` makes of ``data``, the bytes of a field called ``field``; whatever it raises is one error.

    Raises:
        FieldError: it raised something.
    """
    try:
        return call(data)
    except Exception as error:
        member = field if key is None else f"{key}.{field}"
        if isinstance(error, LimitError):
            raise FieldError(error.what, url=url, member=member, fix=error.fix) from error
        reason = str(error) or type(error).__name__
        raise FieldError(f"the bytes are not .{extension(field)}: {reason}", url=url, member=member) from error


def extension(field: str) -> str:
    """Return the last dotted part of a field's name, in lower case.

    >>> extension("seg.PNG"), extension("cls"), extension("json.gz")
    ('png', 'cls', 'gz')
    """
    return field.rpartition(".")[2].lower()


Kind = Literal["text", "number", "JSON", "JSON lines", "array", "arrays", "image", "bytes"]


def kind_of(field: str) -> Kind:
    """Return what the values of a field are; "bytes" where its extension has no codec.

    >>> kind_of("seg.png"), kind_of("json.gz"), kind_of("any.thing")
    ('image', 'JSON', 'bytes')
    """
    codec = _codec_of(field)
    return "bytes" if codec is None else codec.kind


@dataclass(frozen=True)
class Codec:
    """One way to write values of a ``kind``: ``encode`` and ``decode`` raise anything.

    ``takes`` says what ``encode`` accepts.
    """

    kind: Kind
    takes: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], object]


def _codec_of(field: str) -> Codec | None:
    stem, _, last = field.lower().rpartition(".")
    if last == "gz":
        inner = _CODECS.get(extension(stem))
        return inner and _gzipped(inner)
    return _CODECS.get(last)


def _gzipped(inner: Codec) -> Codec:
    return Codec(
        inner.kind,
        inner.takes,
        lambda value: gzip.compress(inner.encode(value), mtime=0),
        lambda data: inner.decode(_gunzip(data)),
    )


def _gunzip(data: bytes) -> bytes:
    limits, pieces, size = current_options().limits, [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while piece := file.read(_PIECE):
            size += len(piece)
            limits.check("value", size)
            pieces.append(piece)
    return b"".join(pieces)


def _describe(value: object) -> str:
    kind = type(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a {kind.__name__} of {value.dtype}, shape {tuple(value.shape)},"
    article = "an" if kind.__name__[0] in "aeiouAEIOU" else "a"
    return f"{article} {kind.__name__}"


# text and numbers


def _encode_text(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError
    return value.encode()


def _encode_int(value: Any) -> bytes:
    if isinstance(value, bool):
        raise TypeError("True and False are not numbers of classes")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError from None
    return str(number).encode()


def _decode_int(data: bytes) -> int:
    if not re.fullmatch(rb"\s*[-+]?[0-9]+\s*", data):
        raise ValueError(f"not a decimal number: {data[:20]!r}")
    return int(data)


# JSON


def _plain(value: Any) -> object:
    """Return a numpy scalar as a plain number: what json asks when it meets a type that it does not know."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"it holds {_describe(value).rstrip(',')}")


def _dump_json(value: object) -> str:
    return json.dumps(value, default=_plain, allow_nan=False)


def _encode_json(value: object) -> bytes:
    if isinstance(value, str):  # webdataset writes it raw, json quotes it: neither is a safe guess
        raise TypeError("if it is JSON already, give text.encode(); if not, json.dumps(text).encode()")
    return _dump_json(value).encode()


def _encode_jsonl(value: object) -> bytes:
    if not isinstance(value, list | tuple):
        raise TypeError
    return "".join(_dump_json(item) + "\n" for item in value).encode()


def _decode_jsonl(data: bytes) -> list[object]:
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]


# arrays


def _encode_npy(value: object) -> bytes:
    import numpy as np

    from shardtools.shards.npy import as_array

    stream = io.BytesIO()
    np.lib.format.write_array(stream, as_array(value), allow_pickle=False)
    return stream.getvalue()


def _decode_npy(data: bytes) -> np.ndarray[Any, Any]:
    from shardtools.shards.npy import load_npy

    return load_npy(data).copy(order="K")


def _encode_npz(value: object) -> bytes:
    from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

    if not isinstance(value, Mapping):
        raise TypeError
    stream = io.BytesIO()
    with ZipFile(stream, "w") as archive:
        for name, item in value.items():
            if not isinstance(name, str) or "\0" in name or name.endswith(".npy"):
                raise ValueError(f"{name!r} cannot be the name of an array")
            entry = ZipInfo(f"{name}.npy")  # dated 1980 unless told otherwise, so the bytes do not depend on the clock
            entry.compress_type = ZIP_DEFLATED
            archive.writestr(entry, _encode_npy(item))
    return stream.getvalue()


def _decode_npz(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    from zipfile import ZipFile

    from shardtools.shards.npy import load_npz

    if not data.startswith(b"PK"):
        raise ValueError("not a zip file")
    with ZipFile(io.BytesIO(data)) as archive:  # which reads no more of a member than it says it has
        current_options().limits.check("value", sum(entry.file_size for entry in archive.infolist()))
    return {name: array.copy(order="K") for name, array in load_npz(data).items()}


# codecs


def _image_codec(image_format: ImageFormat) -> Codec:
    return Codec("image", image_format.takes, partial(encode_image, image_format), decode_image)


_TEXT = Codec("text", "a str", _encode_text, bytes.decode)
_INT = Codec("number", "an int", _encode_int, _decode_int)
_JSON = Codec("JSON", "what json.dumps takes", _encode_json, json.loads)

_CODECS: dict[str, Codec] = {
    **dict.fromkeys(("txt", "text", "transcript"), _TEXT),
    **dict.fromkeys(("cls", "cls2", "class", "index", "inx", "count", "id"), _INT),
    **dict.fromkeys(("json", "jsn"), _JSON),
    "jsonl": Codec("JSON lines", "a list of what json.dumps takes", _encode_jsonl, _decode_jsonl),
    "npy": Codec("array", "a numpy array without objects", _encode_npy, _decode_npy),
    "npz": Codec("arrays", "a dict of numpy arrays without objects", _encode_npz, _decode_npz),
    **{name: _image_codec(image_format) for name, image_format in IMAGE_FORMATS.items()},
}

EXTENSIONS = tuple(_CODECS)
"""Those that are encoded and decoded; ``.gz`` may follow each."""
