"""Arrays in the npy format, and several of them in an npz, as bytes.

numpy reads them too, but it parses each header as Python, which sometimes fails in several threads at the same
time (python/cpython#106905, in 3.11 before 3.11.9 and 3.12 before 3.12.3: ``SystemError: AST constructor recursion
depth mismatch``), and takes longer than small arrays themselves. Here a header in numpy's own form is matched instead.
"""

from __future__ import annotations

import ast
import io
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x93NUMPY"
_MOST = 1 << 20
_PLAIN = re.compile(r"\{'descr': '([^'\\]+)', 'fortran_order': (True|False), 'shape': \(((?:\d+, ?)*\d*)\), \} *\n?")


@dataclass(frozen=True)
class Header:
    """The header of an array, and how many bytes it takes itself (``size``)."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int

    @property
    def nbytes(self) -> int:
        """The bytes of the array's data."""
        return prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Return the header of the array at the position of ``file``; its data follows.

    Raises:
        ValueError: there is none, or it is damaged.

    >>> import io
    >>> np.save(file := io.BytesIO(), np.zeros((2, 3), "int16"))
    >>> read_header(io.BytesIO(file.getvalue()))
    Header(dtype=dtype('int16'), shape=(2, 3), fortran=False, size=128)
    """
    head = file.read(8)
    if len(head) < 8 or not head.startswith(_MAGIC):
        raise ValueError(f"not an array: it begins with {head!r}")
    version = head[6]
    if version not in (1, 2, 3):
        raise ValueError(f"version {version} of the npy format is not known")
    width, layout = (2, "<H") if version == 1 else (4, "<I")
    (length,) = struct.unpack(layout, _exactly(file, width))
    if length > _MOST:
        raise ValueError("its header is too long")
    text = _exactly(file, length).decode("utf-8" if version == 3 else "latin-1")
    try:
        fields = _parse(text)
        dtype = np.lib.format.descr_to_dtype(fields["descr"])
        shape, fortran = fields["shape"], fields["fortran_order"]
        is_shape = isinstance(shape, tuple) and all(type(length) is int and length >= 0 for length in shape)
    except (ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError) as error:
        raise ValueError("its header cannot be read") from error
    if not is_shape or not isinstance(fortran, bool):
        raise ValueError("its header cannot be read")
    return Header(dtype, shape, fortran, 8 + width + length)


def _parse(text: str) -> Any:
    if found := _PLAIN.fullmatch(text):
        shape = tuple(int(length) for length in found[3].split(",") if length.strip())
        return {"descr": found[1], "fortran_order": found[2] == "True", "shape": shape}
    for _ in range(100):
        try:
            return ast.literal_eval(text.strip())
        except SystemError:  # by the other threads' doing, see above
            continue
    return ast.literal_eval(text.strip())


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it ends too early")
    return data


def as_array(value: object) -> npt.NDArray[Any]:
    """Return a value that declares itself an array as a numpy array; a list does not, and its type would be a guess.

    Raises:
        TypeError: it is not an array, or one that an npy file cannot hold.
    """
    if not hasattr(value, "__array__"):
        raise TypeError
    array = np.asanyarray(value)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("it has a mask, which would be lost")
    if array.dtype.hasobject:
        raise TypeError("it holds Python objects, which only pickle could write")
    return array


def load_npy(data: bytes) -> npt.NDArray[Any]:
    """Return the array in ``data``. It shares the memory of ``data``, so it is read-only.

    Raises:
        ValueError: there is none, it is damaged, or it holds Python objects.

    >>> np.save(file := io.BytesIO(), np.arange(3))
    >>> load_npy(file.getvalue())
    array([0, 1, 2])
    """
    header = read_header(io.BytesIO(data))
    return _array(header, data, header.size)


def _refuse_others(header: Header) -> None:
    """Raise if an array's elements are Python objects, or have no size."""
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, which only pickle could read")
    if not header.dtype.itemsize and 0 not in header.shape:
        raise ValueError("its elements have no size")


def _array(header: Header, data: bytes, start: int) -> npt.NDArray[Any]:
    """Return the array whose data begin at ``start`` and end with ``data``."""
    _refuse_others(header)
    rest = len(data) - start - header.nbytes
    if rest < 0:
        raise ValueError("it ends too early")
    if rest:
        raise ValueError(f"{rest} bytes follow the array")
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    order: Any = "F" if header.fortran else "C"
    return np.ndarray(header.shape, header.dtype, data, start, order=order)


def load_npz(data: bytes, check: Callable[[Mapping[str, Header]], None] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays in an npz, by name; they are read-only.

    ``check`` is called with the headers of all arrays before any array is read, and may raise.

    Raises:
        ValueError: a member is not an array, holds Python objects, or has the name of another.
        zipfile.BadZipFile: it is damaged, or not a zip file; damage may also raise other errors of `zipfile`.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive, ExitStack() as files:
        infos = archive.infolist()
        opened = {info.filename.removesuffix(".npy"): files.enter_context(archive.open(info)) for info in infos}
        headers = {name: read_header(file) for name, file in opened.items()}
        if len(opened) < len(infos):
            raise ValueError("two arrays have the same name")
        for header in headers.values():
            _refuse_others(header)
        if any(h.size + h.nbytes != info.file_size for h, info in zip(headers.values(), infos, strict=True)):
            raise ValueError("an array does not have the size that its header says")
        if check is not None:
            check(headers)
        return {name: _array(headers[name], file.read(), 0) for name, file in opened.items()}
