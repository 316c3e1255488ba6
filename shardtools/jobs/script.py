"""The user's script: read once, carried to every worker as text, loaded once per process.

    read_script -> Script (travels) -> load -> a module -> function -> what a job calls for each sample

Wherever the script runs, its tracebacks show its own name, line numbers and source lines.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import os
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shardtools.errors import ScriptError

_CORRECT = "correct the script"

MAX_MESSAGE = 300
"""So many characters of a user's exception are shown in a one-line message."""


@dataclass(frozen=True)
class Script:
    """A script on its way: its ``text``, its ``name`` as the user gave it, and the ``-a`` parameters as pairs."""

    text: str
    name: str
    params: tuple[tuple[str, Any], ...] = field(default=(), hash=False)


@dataclass(frozen=True)
class Bound:
    """A function of a script with its parameters given: ``name`` is the script's name for it.

    It can be called itself; ``call`` is the same without the detour.
    """

    name: str
    call: Callable[..., Any]

    def __call__(self, argument: Any) -> Any:
        """Return what the function makes of ``argument``."""
        return self.call(argument)


def read_script(path: str | os.PathLike[str], assignments: Sequence[str] = ()) -> Script:
    """Return the script at ``path``, with the parameters of ``assignments``, each of them ``name=value``.

    A value is a Python literal if it can be read as one, else text: ``size=256`` is a number, ``mode=RGB`` a text.

    Raises:
        ScriptError: there is no such file, it is not UTF-8 text, or an assignment is none.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise ScriptError("there is no such script", url=name, fix="check the name") from error
    except UnicodeDecodeError as error:
        raise ScriptError("the script is not UTF-8 text", url=name, fix="save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ScriptError(f"the script cannot be read: {reason}", url=name, fix="check the name") from error
    params: dict[str, Any] = {}
    for assignment in assignments:
        key, value = _parse_assignment(assignment)
        if key in params:
            raise ScriptError(f"-a gives {key} twice", fix="give each parameter once")
        params[key] = value
    return Script(text, name, tuple(params.items()))


def _parse_assignment(assignment: str) -> tuple[str, Any]:
    key, equals, value = assignment.partition("=")
    if not equals or not key.isidentifier():
        raise ScriptError(f"-a {assignment} is not name=value", fix="write -a size=256")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about a text that was never meant to be Python
            return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return key, value


_lock = threading.RLock()
_modules: dict[tuple[str, str], types.ModuleType] = {}


def load(script: Script) -> types.ModuleType:
    """Return the script as a module; it is executed once per process, and per text.

    Raises:
        ScriptError: it is not Python, or its top level raises.
    """
    key = (script.name, script.text)
    with _lock:
        if key not in _modules:
            _modules[key] = _execute(script)
        return _modules[key]


def _execute(script: Script) -> types.ModuleType:
    # The entry has no time stamp, so linecache never compares it with a file of this name on this machine.
    lines = [line + "\n" for line in script.text.split("\n")]
    linecache.cache[script.name] = (len(script.text), None, lines, script.name)
    try:
        code = compile(script.text, script.name, "exec", dont_inherit=True)
    except SyntaxError as error:
        place = f"{script.name}:{error.lineno}" if error.lineno else script.name
        raise ScriptError(f"{type(error).__name__}: {error.msg}", url=place, fix=_CORRECT) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ScriptError(f"the script is not Python: {error}", url=script.name, fix=_CORRECT) from error
    module = types.ModuleType(_module_name(script))
    module.__file__ = script.name
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        is_import = isinstance(error, ImportError)
        fix = "install it wherever tasks run: the script travels alone" if is_import else _CORRECT
        line = _place(error, script)
        raise ScriptError(describe(error), url=f"{script.name}:{line[0]}" if line else script.name, fix=fix) from error
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _module_name(script: Script) -> str:
    """Return a name that is no other module's, and the same on every machine."""
    stem = os.path.splitext(os.path.basename(script.name))[0]
    digest = hashlib.blake2b(f"{script.name}\0{script.text}".encode(), digest_size=6).hexdigest()
    return f"shardtools_script_{stem}_{digest}".replace(".", "_")


def defines(script: Script, *names: str) -> set[str]:
    """Return which of ``names`` the script defines.

    Raises:
        ScriptError: the script cannot be loaded.
    """
    module = load(script)
    return {name for name in names if hasattr(module, name)}


def function(script: Script, *names: str, positional: int = 1) -> Bound:
    """Return the one function of ``names`` that the script defines, its parameters bound as keywords.

    The function is to be called with ``positional`` arguments, 1 or 2.

    Raises:
        ScriptError: the script cannot be loaded, defines none of the functions or several of them, or the function
            does not take the parameters, or needs others.
    """
    module = load(script)
    found = [name for name in names if hasattr(module, name)]
    if not found:
        raise ScriptError(
            f"the script defines no {' or '.join(names)}", url=script.name, fix=f"define {_example(names[0])}"
        )
    if len(found) > 1:
        raise ScriptError(f"the script defines {' and '.join(found)}", url=script.name, fix="define one of them")
    name = found[0]
    call = getattr(module, name)
    if not callable(call):
        what = f"{name} is not a function, but of type {type(call).__name__}"
        raise ScriptError(what, url=script.name, fix=f"define {_example(name)}")
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise ScriptError(f"{name} is async", url=script.name, fix="define a plain function")
    params = dict(script.params)
    _check_params(script, name, call, params, positional)
    return Bound(name, partial(call, **params) if params else call)


def _example(name: str, *params: str) -> str:
    data = {"reduce_samples": "key, records", "combine_samples": "key, records", "process_samples": "records"}
    return f"{name}({', '.join((data.get(name, 'record'), *params))})"


def _check_params(script: Script, name: str, call: Callable[..., Any], params: dict[str, Any], positional: int) -> None:
    """Make sure that ``call(something, **params)`` fits, or, with two ``positional`` ones, ``call(a, b, **params)``."""
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):  # a builtin that does not tell
        return
    kinds = inspect.Parameter
    by_position = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    takes = list(signature.parameters.values())
    ordinary = [p for p in takes if p.kind in by_position]
    starred = any(p.kind is kinds.VAR_POSITIONAL for p in takes)
    if len(ordinary) < positional and not starred:
        what = f"{name} takes no argument" if not ordinary else f"{name} takes one argument only"
        raise ScriptError(what, url=script.name, fix=f"define {_example(name)}")
    named = takes[min(len(ordinary), positional) :]
    known = [p.name for p in named if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    if taken := next((p.name for p in takes[: max(positional, 1)] if p.name in params), None):
        raise ScriptError(
            f"-a cannot set {taken}: {name} gets the data in it", url=script.name, fix=f"leave out -a {taken}"
        )
    unknown = [key for key in params if key not in known]
    if unknown and not any(p.kind is kinds.VAR_KEYWORD for p in named):
        fix = f"it takes {', '.join(known)}" if known else f"define {_example(name, unknown[0])}"
        raise ScriptError(f"{name} takes no parameter {unknown[0]}", url=script.name, fix=fix)
    optional = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    missing = [p.name for p in named if p.default is p.empty and p.kind not in optional and p.name not in params]
    if missing:
        raise ScriptError(f"{name} needs {missing[0]}", url=script.name, fix=f"give it with -a {missing[0]}=VALUE")


def describe(error: BaseException) -> str:
    """Return the type and the text of an exception in one line of bounded length.

    >>> describe(ValueError("bad\\n  label")), describe(KeyError("png")), describe(StopIteration())
    ('ValueError: bad label', "KeyError: 'png'", 'StopIteration')
    """
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        text = "(its text cannot be shown)"
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def where(error: BaseException, script: Script) -> str:
    """Return `describe` of an exception and the innermost place in the script that its traceback goes through.

    An example: ``ValueError: bad label (script.py:12 in process_sample)``. The place is left out where there is none.
    """
    place = _place(error, script)
    return f"{describe(error)} ({script.name}:{place[0]} in {place[1]})" if place else describe(error)


def _place(error: BaseException, script: Script) -> tuple[int, str] | None:
    """Return the line and the function of the innermost frame in the script."""
    frames = traceback.walk_tb(error.__traceback__)
    places = [(line, frame.f_code.co_name) for frame, line in frames if frame.f_code.co_filename == script.name]
    return places[-1] if places else None
