"""What a function does, as a text that another process computes for the same function, and not for another one.

    function -> code, defaults, closure, the globals that it uses, the modules that it imports -> digest

Code of the program is followed: of ``__main__``, of the function's own module, and of every module that is not
installed. What is installed, and the standard library, counts by its name. Code counts as Python has compiled it, since
a file may have been edited after it was imported; so comments and line numbers do not count, but the version of Python
does.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shardtools.jobs.own_code import OwnCode, imported_sources

_GLOBAL_READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}

_HEAP_TYPE = 1 << 9
"""The flag of classes that are made at run time; all others belong to Python or an extension."""

_PLAIN: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"",
    type(...): lambda value: b"",
    type(NotImplemented): lambda value: b"",
    bool: lambda value: b"%d" % value,
    int: lambda value: hex(value).encode(),
    float: lambda value: value.hex().encode(),
    complex: lambda value: f"{value.real.hex()} {value.imag.hex()}".encode(),
    str: lambda value: value.encode("utf-8", "surrogatepass"),
    bytes: lambda value: value,
}

_NOT_OF_CLASS = {
    *("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__firstlineno__", "__static_attributes__", "__slotnames__", "__abstractmethods__"),
    *("_abc_impl", "__dataclass_fields__", "__dataclass_params__", "__orig_bases__", "__parameters__"),
}
"""Attributes of classes that do nothing, or that follow from others."""


class Unidentified(Exception):
    """A value has no identity that another process could compute. The text says which one."""


def identity_of(value: object) -> str:
    """Return a text that is the same in every process exactly for functions that do the same, and values that are same.

    Raises:
        Unidentified: it is, or uses, something that only this process has, such as a lock or an open file.

    >>> identity_of(lambda x, y=1: x + y) == identity_of(lambda x, y=1: x + y)
    True
    >>> identity_of(lambda x, y=1: x + y) == identity_of(lambda x, y=2: x + y)
    False
    """
    walk = _Walk(OwnCode(value))
    try:
        walk.add(value)
    except RecursionError as error:
        raise Unidentified("it is nested too deeply") from error
    return walk.digest().hex()


class _Walk:
    """Goes through a value and all that it uses, and feeds a hash with what it meets.

    What can be met again, through a cycle or because it is shared, is fed once, and then as its number.
    """

    def __init__(self, program: OwnCode):
        self._hash = hashlib.blake2b(digest_size=16)
        self.program = program
        self._numbers: ChainMap[int, int] = ChainMap()
        self._count = 0
        self._kept: list[object] = []
        self._modules: list[str] = []
        self._path: list[str] = []

    def digest(self) -> bytes:
        """Return the hash of everything so far."""
        return self._hash.digest()

    def add(self, value: Any) -> None:
        """Feed a value of any type."""
        kind = type(value)
        if kind in _PLAIN:
            self.feed(kind.__name__, _PLAIN[kind](value))
        elif kind is tuple:
            self.add_all("tuple", value)
        elif isinstance(value, types.ModuleType):
            self.feed("module", value.__name__)
        elif not self._is_known(value):
            adders = (adder for kinds, adder in _ADDERS if isinstance(value, kinds))
            next(adders, _add_object)(self, value)

    def feed(self, tag: str, data: bytes | str = b"") -> None:
        """Feed what a value is, and data of it."""
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        self._hash.update(f"{tag}:{len(raw)}:".encode())
        self._hash.update(raw)

    def add_all(self, tag: str, values: Iterable[Any]) -> None:
        """Feed values in their order."""
        some = list(values)
        self.feed(tag, str(len(some)))
        for value in some:
            self.add(value)

    def add_named(self, items: Iterable[tuple[Any, Any]]) -> None:
        """Feed values with their names, in their order."""
        for name, value in items:
            self.add(name)
            with self.at(name if isinstance(name, str) else "[…]"):
                self.add(value)

    def add_unordered(self, tag: str, values: Iterable[Any]) -> None:
        """Feed values whose order means nothing, and differs between processes."""
        self.feed(tag, b"".join(sorted(self._apart(value) for value in values)))

    def _apart(self, value: Any) -> bytes:
        walk = _Walk(self.program)
        walk._numbers, walk._count, walk._kept = self._numbers.new_child(), self._count, self._kept
        walk._modules, walk._path = self._modules, self._path
        walk.add(value)
        return walk.digest()

    def _is_known(self, value: Any) -> bool:
        """Return whether a value came before, and feed its number then."""
        if isinstance(value, types.CodeType | frozenset):  # whether constants are shared depends on who compiled them
            return False
        if (number := self._numbers.get(id(value))) is not None:
            self.feed("again", str(number))
            return True
        self._numbers[id(value)] = self._count
        self._count += 1
        self._kept.append(value)  # or another one could get its id
        return False

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """A context in which what cannot be identified is called ``name``."""
        self._path.append(name)
        yield
        self._path.pop()

    def unidentified(self, value: object) -> Unidentified:
        """Return the error for a value."""
        kind = f"of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
        return Unidentified(f"it uses {'.'.join(self._path)}, which is {kind}" if self._path else f"it is {kind}")

    @contextmanager
    def within(self, module: types.ModuleType) -> Iterator[bool]:
        """A context in which the attributes of a module are looked at; False if they are so already."""
        is_new = module.__name__ not in self._modules
        self._modules.append(module.__name__)
        yield is_new
        self._modules.pop()


def _add_set(walk: _Walk, value: set[Any] | frozenset[Any]) -> None:
    walk.add(type(value))
    walk.add(getattr(value, "__dict__", None))
    walk.add_unordered("set", value)


def _add_dict(walk: _Walk, value: dict[Any, Any] | types.MappingProxyType[Any, Any]) -> None:
    if type(value) not in (dict, types.MappingProxyType):
        _add_object(walk, value)
        return
    walk.feed("dict", str(len(value)))
    walk.add_named(value.items())


def _add_list(walk: _Walk, value: list[Any]) -> None:
    if type(value) is list:
        walk.add_all("list", value)
    else:
        _add_object(walk, value)


# --- code


def _add_function(walk: _Walk, value: types.FunctionType) -> None:
    if _add_by_name(walk, value):
        return
    walk.feed("function")
    _add_code(walk, value.__code__)
    walk.add(value.__defaults__)
    walk.add(value.__kwdefaults__)
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        with walk.at(name):
            try:
                contents = cell.cell_contents
            except ValueError:  # nothing has been assigned yet
                walk.feed("empty")
            else:
                walk.add(contents)
    _add_globals(walk, value)
    for name, source in imported_sources(value.__code__, value.__globals__.get("__package__")):
        walk.feed("import", name)
        walk.feed("source", source)
    walk.add_named((name, item) for name, item in vars(value).items() if name != "__wrapped__")


def _add_code(walk: _Walk, code: types.CodeType) -> None:
    walk.feed("code", code.co_code)
    walk.feed("exceptions", code.co_exceptiontable)
    walk.add((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags))
    walk.add((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
    walk.add(code.co_consts)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code and those of the functions, classes and comprehensions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _add_globals(walk: _Walk, value: types.FunctionType) -> None:
    """Feed the values of the globals that a function reads. One that it assigns to is its state, and counts by name."""
    codes = list(_codes(value.__code__))
    steps = [(step.opname, step.argval) for code in codes for step in dis.get_instructions(code)]
    steps = [step for step in steps if step != ("LOAD_NAME", "__name__")]  # of which every class takes its __module__
    assigned = {name for operation, name in steps if operation == "STORE_GLOBAL"}
    there, attributes = value.__globals__, {name for code in codes for name in code.co_names}
    for name in dict.fromkeys(name for operation, name in steps if operation in _GLOBAL_READS):
        walk.feed("global", name)
        if name in assigned or name not in there:
            continue
        with walk.at(name):
            walk.add(there[name])
            _add_attributes(walk, there[name], sorted(attributes))


def _add_attributes(walk: _Walk, module: object, names: Sequence[str]) -> None:
    """Feed what code with these ``names`` may use of a module of the program."""
    if not isinstance(module, types.ModuleType) or not walk.program.has(module.__name__):
        return
    with walk.within(module) as is_new:
        for name in names if is_new else ():
            if name in vars(module):
                walk.feed("attribute", name)
                with walk.at(name):
                    walk.add(vars(module)[name])
                    _add_attributes(walk, vars(module)[name], names)


def _add_class(walk: _Walk, value: type) -> None:
    if not value.__flags__ & _HEAP_TYPE:
        walk.feed("type", f"{value.__module__}.{value.__qualname__}")
        return
    if _add_by_name(walk, value):
        return
    walk.feed("class", value.__qualname__)
    walk.add(type(value))
    walk.add_all("bases", value.__bases__)
    walk.add_named((name, item) for name, item in vars(value).items() if name not in _NOT_OF_CLASS)


def _add_by_name(walk: _Walk, value: Any) -> bool:
    """Feed the name of a function or class that is installed, and can be found by it; return whether it is so."""
    module, name = value.__module__, value.__qualname__
    if module is None or walk.program.has(module):
        return False
    there: Any = sys.modules.get(module)
    for part in name.split("."):
        there = getattr(there, part, None)
    if there is not value:
        return False
    walk.feed("installed", f"{module}.{name}")
    return True


def _add_builtin(walk: _Walk, value: types.BuiltinFunctionType) -> None:
    owner = value.__self__
    walk.feed("builtin", f"{value.__module__}.{value.__qualname__}")
    if owner is not None and not isinstance(owner, types.ModuleType):
        walk.add(owner)


def _add_descriptor(walk: _Walk, value: Any) -> None:
    owner = value.__objclass__
    walk.feed("descriptor", f"{owner.__module__}.{owner.__qualname__}.{value.__name__}")


def _add_method(walk: _Walk, value: types.MethodType) -> None:
    walk.add_all("method", (value.__func__, value.__self__))


def _add_static(walk: _Walk, value: staticmethod[..., Any] | classmethod[Any, ..., Any]) -> None:
    walk.add_all(type(value).__name__, (value.__func__,))


def _add_property(walk: _Walk, value: property) -> None:
    walk.add_all("property", (type(value), value.fget, value.fset, value.fdel))


def _add_cached_property(walk: _Walk, value: functools.cached_property[Any]) -> None:
    walk.add_all("cached property", (value.func, value.attrname))


def _add_cached_function(walk: _Walk, value: Any) -> None:
    walk.add_all("cached function", (value.__wrapped__,))


# --- objects


def _add_object(walk: _Walk, value: Any) -> None:
    """Feed what pickle would take an object apart to.

    Raises:
        Unidentified: it cannot be.
    """
    try:
        if (content := _array_content(value)) is not None:
            walk.add_all("array", content)
            return
        reduce = copyreg.dispatch_table.get(type(value))
        parts = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    except Exception as error:
        raise walk.unidentified(value) from error
    if isinstance(parts, str):
        walk.feed("named", f"{getattr(value, '__module__', None)}.{parts}")
        return
    make, arguments, state, items, pairs, setter = (*parts, None, None, None, None)[:6]
    walk.add(make)
    walk.add(arguments)
    if isinstance(state, dict):
        walk.feed("state")
        walk.add_named(state.items())
    else:
        walk.add(state)
    walk.add_all("items", items or ())
    walk.add_all("pairs", pairs or ())
    walk.add(setter)


def _array_content(value: Any) -> tuple[str, tuple[int, ...], Any] | None:
    """Return the type, the shape and the elements of a numpy array or PyTorch tensor, None of anything else."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and type(value) in (numpy.ndarray, numpy.memmap):
        elements = value.tolist() if value.dtype.hasobject else value.tobytes()
        return str(value.dtype), value.shape, elements
    if torch is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()
    return None


_ADDERS: tuple[tuple[Any, Callable[[_Walk, Any], None]], ...] = (
    (types.FunctionType, _add_function),
    (type, _add_class),
    (types.MethodType, _add_method),
    (types.BuiltinFunctionType, _add_builtin),
    (types.CodeType, _add_code),
    ((set, frozenset), _add_set),
    ((dict, types.MappingProxyType), _add_dict),
    (list, _add_list),
    ((staticmethod, classmethod), _add_static),
    (property, _add_property),
    (functools.cached_property, _add_cached_property),
    (functools._lru_cache_wrapper, _add_cached_function),
    (
        (
            types.WrapperDescriptorType,
            types.MethodDescriptorType,
            types.ClassMethodDescriptorType,
            types.GetSetDescriptorType,
            types.MemberDescriptorType,
        ),
        _add_descriptor,
    ),
)
"""How to feed what is neither plain nor a tuple; what is nothing of these is an object."""
