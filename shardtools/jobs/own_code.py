"""Which modules are a program's own, and which are installed."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

_MAIN = ("__main__", "__mp_main__")

_INSTALLED = {"site-packages", "dist-packages"}


class OwnCode:
    """Tells the modules of the program that defines ``function`` from those that are installed.

    Its own are the main module, those that lie in no folder of installed packages, and the one of the function, unless
    that is of the standard library.

    >>> own = OwnCode(lambda record: record)
    >>> own.has("__main__"), own.has("json"), own.has("numpy")
    (True, False, False)
    """

    def __init__(self, function: object):
        module = _module_of(function)
        self._known = {} if module is None or _is_standard(module) else {module: True}

    def has(self, module: str) -> bool:
        """Return whether the module of this name is the program's own."""
        if module not in self._known:
            self._known[module] = _is_own(module)
        return self._known[module]


def _module_of(value: Any) -> str | None:
    """Return the name of the module that a function, also within a `functools.partial`, is of."""
    while isinstance(value, functools.partial):
        value = value.func
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else None


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names and module not in _MAIN


def _is_own(module: str) -> bool:
    if module in _MAIN:
        return True
    if _is_standard(module) or module.partition(".")[0] == "shardtools":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not _INSTALLED & set(Path(file).parts)
