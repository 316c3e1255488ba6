"""What goes from the calling program to every worker as it is: functions and values that only cloudpickle can pickle.

Carried -> cloudpickle, once -> bytes, in each task -> Carried -> unpickled once per process, when it is asked for
"""

from __future__ import annotations

import hashlib
import io
import linecache
import marshal
import os
import pickle
import platform
import threading
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, ClassVar, Generic, TypeVar

from shardtools.errors import ScriptError
from shardtools.forks import PerProcess
from shardtools.jobs.script import describe
from shardtools.lru import LRU

T = TypeVar("T")

MAX_PICKLED = 32 << 20
"""So many bytes a value may have when it is pickled: the scheduler and every worker keep them."""

MAX_SOURCE = 1 << 18
"""So many characters a source file may have to be sent along, for tracebacks."""


@dataclass(frozen=True)
class _Pickled:
    """A value as ``body``, from the version ``python`` of Python; ``digest`` is that of both."""

    python: str
    digest: bytes
    body: bytes

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Return what pickle takes it apart to; where it can the body is a buffer, which tasks can share."""
        return _Pickled, (self.python, self.digest, self.body if protocol < 5 else pickle.PickleBuffer(self.body))


@dataclass(frozen=True)
class _Value:
    value: Any
    size: int


_lock = PerProcess(threading.RLock)
_values: LRU[bytes, _Value] = LRU(2 * MAX_PICKLED, lambda value: value.size)


class Carried(Generic[T]):
    """A value of the calling program, with which it can be pickled: ``get`` returns it, here and there.

    Where it was made this is the very value. ``name`` is what messages call it; ``files`` are source files whose lines
    its tracebacks show, also where there are none.
    """

    def __init__(self, value: T, name: str, files: Sequence[str] = ()):
        self._name = name
        self._files = files
        self._get: Callable[[], T] = lambda: value
        self._pickled: _Pickled | None = None

    def get(self) -> T:
        """Return the value.

        Raises:
            ScriptError: it arrived pickled, and cannot be unpickled here.
        """
        return self._get()

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle takes it apart to.

        Raises:
            ScriptError: it cannot be pickled, or is too large.
        """
        with _lock.get():
            if self._pickled is None:
                self._pickled = _pickle(self._name, (self.get(), _read_sources(self._files)))
        return _arrived, (self._name, self._files, self._pickled)


def _arrived(name: str, files: Sequence[str], pickled: _Pickled) -> Carried[Any]:
    """Return what was carried here; it is unpickled when it is asked for."""
    carried: Carried[Any] = Carried(None, name, files)
    carried._pickled = pickled
    carried._get = lambda: _unpickled(name, pickled)
    return carried


class _Limited(io.BytesIO):
    """Takes so many bytes as a pickled value may have."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > MAX_PICKLED:
            what = f"{self._name} has more than {MAX_PICKLED >> 20} MB with its data, too much to send to every worker"
            raise ScriptError(what, fix="load such data inside the function, from a file or URL")
        return super().write(data)


def _pickle(name: str, value: object) -> _Pickled:
    import cloudpickle  # here, as it takes long to import and threads do not need it

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)

    stream = _Limited(name)
    try:
        Pickler(stream).dump(value)
    except ScriptError:
        raise
    except Exception as error:
        what = f"{name} cannot be sent to other processes: {describe(error)}"
        raise ScriptError(what, fix="make what it needs inside the function, or run on threads") from error
    body, python = stream.getvalue(), _python()
    return _Pickled(python, hashlib.blake2b(python.encode() + body, digest_size=16).digest(), body)


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    """Return what pickle takes code apart to: with the names of its files, which cloudpickle leaves out since 3.1."""
    return marshal.loads, (marshal.dumps(code),)


def _unpickled(name: str, pickled: _Pickled) -> Any:
    with _lock.get():
        if (known := _values.get(pickled.digest)) is None:
            known = _values.put(pickled.digest, _Value(_unpickle(name, pickled), len(pickled.body)))
    return known.value


def _unpickle(name: str, pickled: _Pickled) -> Any:
    import cloudpickle

    if pickled.python != _python():
        what = f"{name} comes from Python {pickled.python}, and this is {_python()}"
        raise ScriptError(what, fix="use the same Python wherever tasks run, or a script")
    try:
        value, sources = cloudpickle.loads(pickled.body)
    except Exception as error:
        is_missing = isinstance(error, ImportError | AttributeError)
        fix = "install it wherever tasks run: functions of modules travel by name" if is_missing else "run on threads"
        raise ScriptError(f"{name} cannot be loaded here: {describe(error)}", fix=fix) from error
    for file, text in sources.items():
        if not os.path.exists(file):  # an entry without a time stamp is never compared with a file of this name
            linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    return value


def _python() -> str:
    """Return the version of Python: code that is pickled by value runs on no other one."""
    return ".".join(platform.python_version_tuple()[:2])


def _read_sources(files: Sequence[str]) -> dict[str, str]:
    sources = {file: "".join(linecache.getlines(file)) for file in files}
    return {file: text for file, text in sources.items() if 0 < len(text) <= MAX_SOURCE}
