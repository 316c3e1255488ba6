"""Which modules are a program's own, and which are installed."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec, resolve_name
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


def imported_sources(code: types.CodeType, package: str | None) -> Iterator[tuple[str, bytes]]:
    """Yield name and source of each module of the program that a code of ``package`` imports, and of what these import.

    They are found as Python finds them, which imports the packages around them, but not the modules themselves.
    """
    seen: set[str] = set()
    waiting = [(code, package)]
    while waiting:
        for name in _imported_names(*waiting.pop()):
            if name in seen:
                continue
            seen.add(name)
            if (found := _find_source(name)) is None:
                continue
            source, inner = found
            yield name, source
            with suppress(SyntaxError, ValueError):  # whoever imports it is told
                waiting.append((compile(source, name, "exec", dont_inherit=True), inner))


def _imported_names(code: types.CodeType, package: str | None) -> Iterator[str]:
    """Yield the names of modules that a code may import, wherever in it; some of ``from a import b`` are none."""
    constants: list[Any] = [0, None]
    for step in dis.get_instructions(code):
        if (step.opname.startswith("LOAD_") and "CONST" in step.opname) or step.opname == "LOAD_SMALL_INT":
            constants = [constants[-1], step.argval]
        elif step.opname == "IMPORT_NAME":
            level, names = constants
            with suppress(ImportError, ValueError):
                module = resolve_name("." * level + step.argval, package) if level else step.argval
                parts = module.split(".")
                yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
                yield from (f"{module}.{name}" for name in names or () if name != "*")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _imported_names(constant, package)


def _find_source(name: str) -> tuple[bytes, str] | None:
    """Return the source of a module of the program, and the package that it is of; None of any other module."""
    if _is_standard(name) or name in _MAIN or name.partition(".")[0] == "shardtools":
        return None
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):  # it is no module: a function of one, say
        return None
    if (
        spec is None
        or spec.origin is None
        or not spec.origin.endswith(".py")
        or _INSTALLED & set(Path(spec.origin).parts)
    ):
        return None
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    return Path(spec.origin).read_bytes(), package
