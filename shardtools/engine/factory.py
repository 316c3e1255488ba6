"""A user's function that returns a Dask client or cluster, named as ``MODULE:CALLABLE`` or ``FILE.py:CALLABLE``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from distributed import Client

from shardtools.errors import SchedulerError

if TYPE_CHECKING:
    from distributed.deploy import Cluster

_NAME = re.compile(r"(?P<module>.+\.py|[^\W\d][\w.]*):(?P<attribute>[^\W\d][\w.]*)")

_WANTED = "return a distributed.Client, or a cluster such as LocalCluster, KubeCluster or SLURMCluster"


def is_factory(text: str) -> bool:
    """Return whether a text is of the form ``MODULE:CALLABLE`` or ``FILE.py:CALLABLE``.

    >>> [is_factory(text) for text in ("my.clusters:make", "~/k.py:make", "host:8786", "tcp://host:8786", "a.json")]
    [True, True, False, False, False]
    """
    return _NAME.fullmatch(text) is not None


def is_cluster(value: object) -> bool:
    """Return whether a value is a Dask cluster, as `distributed.Client` decides it."""
    return isinstance(getattr(value, "scheduler_address", None), str)


def make_cluster(text: str) -> Client | Cluster:
    """Return what the callable that ``text`` names returns.

    Raises:
        SchedulerError: there is no such callable, it raises an error, or what it returns is no client or cluster.
    """
    file, _, _ = text.rpartition(":")
    with _importing_from(os.path.dirname(os.path.abspath(file)) if file.endswith(".py") else os.getcwd()):
        function = _find(text)
        try:
            made = function()
        except Exception as error:
            what = f"{text} failed: {type(error).__name__}: {error}"
            raise SchedulerError(what, fix="see where with -v, and correct it") from error
    if isinstance(made, Client) or is_cluster(made):
        return made
    raise SchedulerError(f"{text} returned a {type(made).__name__}", fix=_WANTED)


def _find(text: str) -> Callable[[], Any]:
    match = _NAME.fullmatch(text)
    if match is None:
        raise SchedulerError(f"{text!r} is not of the form MODULE:CALLABLE", fix="write it as my_module:make_cluster")
    name, attribute = match["module"], match["attribute"]
    found: Any = _load_file(name) if name.endswith(".py") else _import(name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise SchedulerError(f"{name} has no {attribute}", fix="check the name after the colon")
        found = getattr(found, part)
    if not callable(found):
        raise SchedulerError(f"{text} is a {type(found).__name__}, not callable", fix=f"name a function: {_WANTED}")
    return found  # type: ignore[no-any-return]  # any callable may be there


def _load_file(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise SchedulerError("there is no such file", url=path, fix="check the path before the colon")
    name = os.path.basename(path).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SchedulerError("this is not a Python file", url=path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SchedulerError(f"it cannot be run: {type(error).__name__}: {error}", url=path) from error
    return module


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        what = f"the module {name} cannot be imported: {type(error).__name__}: {error}"
        raise SchedulerError(what, fix="install it, or give FILE.py:CALLABLE, or HOST:PORT with a number") from error


@contextmanager
def _importing_from(folder: str) -> Iterator[None]:
    """A context in which modules of a folder can be imported, as those beside a script are."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
