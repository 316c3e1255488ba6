"""Functions of the calling program in place of a script.

    functions_of -> Functions, which stand wherever a `shardtools.jobs.script.Script` does

On threads the very functions run. To other processes those of ``__main__``, of a notebook or of another function travel
by value, and those of modules that can be imported by name, as cloudpickle decides.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import CodeType, SimpleNamespace
from typing import Any

from shardtools.errors import ScriptError
from shardtools.jobs.carried import Carried
from shardtools.jobs.identity import Unidentified, identity_of
from shardtools.jobs.options import RunOptions
from shardtools.jobs.script import ARGUMENTS, Code, function

_GIVE_VERSION = 'give version="1", and another one whenever it does something else'

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_MAX_SHOWN = 200


@dataclass(frozen=True)
class Functions:
    """Functions by the names that jobs look for, with parameters: they stand wherever a script does.

    ``name`` is what the program calls them, ``titles`` what it calls each. ``text`` is the same exactly if they do the
    same with the same parameters (see `shardtools.jobs.identity`), or have the same version. ``files`` are their source
    files, ``shown`` their parameters as text, and ``contents`` the functions and parameters themselves.
    """

    name: str
    text: str
    titles: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    shown: tuple[tuple[str, str], ...]
    contents: Carried[tuple[dict[str, Any], dict[str, Any]]] = field(compare=False, repr=False)

    @property
    def params(self) -> tuple[tuple[str, Any], ...]:
        """The parameters, as pairs.

        Raises:
            ScriptError: they cannot be unpickled here.
        """
        return tuple(self.contents.get()[1].items())

    @property
    def place(self) -> None:
        """None: errors name the function themselves."""

    @property
    def option(self) -> str:
        """The keyword that gives parameters."""
        return "params"

    def load(self) -> SimpleNamespace:
        """Return an object whose attributes are the functions.

        Raises:
            ScriptError: they cannot be unpickled here.
        """
        return SimpleNamespace(**self.contents.get()[0])

    def facts(self, label: str) -> dict[str, Any]:
        """Return the identity, which the parameters are a part of."""
        return {label: self.text, "params": []}

    def job(self) -> dict[str, Any]:
        """Return the name, and the parameters or their types."""
        return {"script": self.name, "params": dict(self.shown)}

    def title(self, name: str) -> str:
        """Return what the program calls the function."""
        return dict(self.titles).get(name, name)

    def subject(self, name: str) -> str:
        """Return what the program calls the function, or all of them if there is none of this name."""
        return dict(self.titles).get(name, self.name)

    def shown_file(self, filename: str) -> str | None:
        """Return the file's name without the folder, if one of the functions is defined in it."""
        return os.path.basename(filename) if filename in self.files else None

    def parameter(self, name: str, value: str | None = None) -> str:
        """Return the keyword that gives the parameter."""
        return f"{name} of params" if value is None else f'params={{"{name}": {value}}}'


def functions_of(
    functions: Mapping[str, Callable[..., object]],
    params: Mapping[str, object] | None = None,
    version: str | None = None,
    *,
    resumes: bool = True,
) -> Functions:
    """Return functions for a job, by the names that it looks for, such as ``process_sample``.

    ``params`` are keywords for each of them. With a ``version``, which is to change whenever they do something else,
    their identity is their qualified names and this. If the job ``resumes`` none, they need no identity.

    Raises:
        ScriptError: one is no function, does not take the parameters, or has neither an identity nor a version.

    >>> def shrink(record, size=256):
    ...     return {**record, "txt": record["txt"][:size]}
    >>> functions_of({"process_sample": shrink}, {"size": 128}).name
    'shrink'
    >>> functions_of({"process_sample": shrink}, {"sise": 128})
    Traceback (most recent call last):
    shardtools.errors.ScriptError: shrink takes no parameter sise; it takes size
    """
    if unknown := next((name for name in functions if name not in ARGUMENTS), None):
        raise ScriptError(f"no job calls {unknown}", fix=f"jobs call {', '.join(ARGUMENTS)}")
    params = dict(params or {})
    titles = {name: own_name(call) if callable(call) else name for name, call in functions.items()}
    name = ", ".join(dict.fromkeys(titles.values()))
    files = tuple(dict.fromkeys(file for call in functions.values() for file in _files_of(call)))
    made = Functions(
        name,
        "",
        tuple(titles.items()),
        files,
        tuple((key, _show(value)) for key, value in params.items()),
        Carried((dict(functions), params), name, files),
    )
    for wanted in functions:
        function(made, wanted, positional=len(ARGUMENTS[wanted]))
    try:
        return replace(made, text=_identify(functions, params, version))
    except ScriptError:
        if resumes:
            raise
        return replace(made, text=f"unknown {secrets.token_hex(16)}")  # which no other job has


def _identify(functions: Mapping[str, Callable[..., object]], params: Mapping[str, object], version: str | None) -> str:
    """Return the identity of functions and parameters as a text."""
    facts: dict[str, Any] = {"params": {}}
    for name, call in sorted(functions.items()):
        if version is None:
            facts[name] = _identity(call, own_name(call), _GIVE_VERSION)
        else:
            facts[name] = [own_name(call, "__qualname__"), version]
    for name, value in sorted(params.items()):
        fix = f"bind it to the function with functools.partial, and {_GIVE_VERSION}"
        facts["params"][name] = _identity(value, f"the parameter {name}", fix)
    return json.dumps(facts)


def _identity(value: object, title: str, fix: str) -> str:
    try:
        return identity_of(value)
    except Unidentified as error:
        raise ScriptError(f"{title} cannot be compared with that of another run: {error}", fix=fix) from error


def check_sendable(options: RunOptions, *codes: Code | None) -> None:
    """Make sure that what tasks call can be sent to where they run.

    Raises:
        ScriptError: it cannot be pickled, or is too large.
    """
    if options.cluster != "threads":
        pickle.dumps(codes)


def own_name(call: object, attribute: str = "__name__") -> str:
    """Return the name that a function has of its own, also within a `functools.partial`, or else that of its type.

    >>> own_name(functools.partial(print, end="")), own_name(functools.partial)
    ('print', 'partial')
    """
    while isinstance(call, functools.partial):
        call = call.func
    name = getattr(call, attribute, None)
    return name if isinstance(name, str) else str(getattr(type(call), attribute))


def _files_of(call: object) -> Iterator[str]:
    """Yield the names of the files in which a function is defined, also a wrapped one."""
    seen: set[int] = set()
    while call is not None and id(call) not in seen:
        seen.add(id(call))
        if isinstance(code := getattr(call, "__code__", None), CodeType):
            yield code.co_filename
        call = _inner(call)


def _inner(call: Any) -> object:
    """Return the function that does what another callable does, if there is one."""
    if isinstance(call, functools.partial):
        return call.func
    if inspect.ismethod(call):
        return call.__func__
    if inspect.isclass(call):
        return call.__init__
    wrapped = getattr(call, "__wrapped__", None)
    return wrapped if wrapped is not None or inspect.isroutine(call) else type(call).__call__


def _show(value: object) -> str:
    """Return a parameter as text for the manifest: one that is not plain, or long, by its type."""
    text = repr(value) if _is_plain(value) else ""
    return text if 0 < len(text) <= _MAX_SHOWN else f"<{type(value).__name__}>"


def _is_plain(value: object, depth: int = 3) -> bool:
    if type(value) in _PLAIN:
        return True
    if not depth or not isinstance(value, list | tuple | dict):
        return False
    items = [*value, *value.values()] if isinstance(value, dict) else value
    return all(_is_plain(item, depth - 1) for item in items)
