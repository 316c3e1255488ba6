"""The user's script: read once, carried to every worker as text, loaded once per process.

    read_script -> Script (travels) -> load -> a module -> function -> what a job calls for each sample

Wherever the script runs, its tracebacks show its own name, line numbers and source lines. Functions of the calling
program can take its place (see `shardtools.jobs.functions`): jobs know both as `Code`.
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
from typing import Any, Protocol

from shardtools.errors import SampleError, ScriptError

_CORRECT = "correct the script"

MAX_MESSAGE = 300
"""So many characters of a user's exception are shown in a one-line message."""


ARGUMENTS = {
    "process_sample": ("record",),
    "process_samples": ("records",),
    "sort_key": ("record",),
    "reduce_samples": ("key", "records"),
    "combine_samples": ("key", "records"),
    "extract_sample": ("record",),
}
"""The functions that jobs call, and what each gets."""


class Code(Protocol):
    """What a job calls for samples: a `Script`, or `shardtools.jobs.functions.Functions`. It can be pickled."""

    @property
    def name(self) -> str:
        """What messages and reports call all of it."""

    @property
    def params(self) -> tuple[tuple[str, Any], ...]:
        """The parameters of its functions, as pairs."""

    @property
    def place(self) -> str | None:
        """What errors about it begin with, if anything."""

    @property
    def option(self) -> str:
        """What its user gives parameters with."""

    def load(self) -> object:
        """Return an object whose attributes are the functions; it is made once per process.

        Raises:
            ScriptError: it cannot be loaded here.
        """

    def facts(self, label: str) -> dict[str, Any]:
        """Return what outputs depend on, as JSON data under the ``label`` and ``"params"``."""

    def job(self) -> dict[str, Any]:
        """Return what a manifest and a report say of it: ``"script"`` and ``"params"``."""

    def title(self, name: str) -> str:
        """Return what messages call its function ``name``."""

    def subject(self, name: str) -> str:
        """Return what is to be corrected if its function ``name`` is wrong."""

    def shown_file(self, filename: str) -> str | None:
        """Return what messages call one of its source files, None for the file of other code."""

    def parameter(self, name: str, value: str | None = None) -> str:
        """Return how its user gives the parameter ``name`` (a value)."""


@dataclass(frozen=True)
class Script:
    """A script on its way: its ``text``, its ``name`` as the user gave it, and the ``-a`` parameters as pairs."""

    text: str
    name: str
    params: tuple[tuple[str, Any], ...] = field(default=(), hash=False)

    @property
    def place(self) -> str:
        """Its name: errors about it begin with that."""
        return self.name

    @property
    def option(self) -> str:
        """The option of the command line."""
        return "-a"

    def load(self) -> types.ModuleType:
        """Return the script as a module (see `load`)."""
        return load(self)

    def facts(self, label: str) -> dict[str, Any]:
        """Return its text and its parameters."""
        return {label: self.text, "params": sorted((name, repr(value)) for name, value in self.params)}

    def job(self) -> dict[str, Any]:
        """Return its name, without the folder, and its parameters."""
        return {"script": os.path.basename(self.name), "params": {name: repr(value) for name, value in self.params}}

    def title(self, name: str) -> str:
        """Return ``name``."""
        return name

    def subject(self, name: str) -> str:
        """Return that it is the script, whichever function is wrong."""
        return "the script"

    def shown_file(self, filename: str) -> str | None:
        """Return its name, if ``filename`` is that."""
        return self.name if filename == self.name else None

    def parameter(self, name: str, value: str | None = None) -> str:
        """Return the option that gives the parameter."""
        return f"-a {name}" if value is None else f"-a {name}={value}"


@dataclass(frozen=True)
class Bound:
    """A function with its parameters given: ``name`` is the jobs' name for it, ``title`` that of messages.

    It can be called itself; ``call`` is the same without the detour.
    """

    name: str
    call: Callable[..., Any]
    title: str

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
        innermost = _place(error, script)
        place = f"{script.name}:{innermost[1]}" if innermost else script.name
        raise ScriptError(describe(error), url=place, fix=fix) from error
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _module_name(script: Script) -> str:
    """Return a name that is no other module's, and the same on every machine."""
    stem = os.path.splitext(os.path.basename(script.name))[0]
    digest = hashlib.blake2b(f"{script.name}\0{script.text}".encode(), digest_size=6).hexdigest()
    return f"shardtools_script_{stem}_{digest}".replace(".", "_")


def defines(code: Code, *names: str) -> set[str]:
    """Return which of ``names`` the code defines.

    Raises:
        ScriptError: it cannot be loaded.
    """
    functions = code.load()
    return {name for name in names if hasattr(functions, name)}


def function(code: Code, *names: str, positional: int = 1) -> Bound:
    """Return the one function of ``names`` that the code defines, its parameters bound as keywords.

    The function is to be called with ``positional`` arguments, 1 or 2.

    Raises:
        ScriptError: the code cannot be loaded, defines none of the functions or several of them, or the function
            does not take the parameters, or needs others.
    """
    functions = code.load()
    found = [name for name in names if hasattr(functions, name)]
    if not found:
        what = f"{code.subject(names[0])} defines no {' or '.join(names)}"
        raise ScriptError(what, url=code.place, fix=f"define {_example(names[0], names[0])}")
    name = found[0]
    if len(found) > 1:
        what = f"{code.subject(name)} defines {' and '.join(found)}"
        raise ScriptError(what, url=code.place, fix="define one of them")
    call, title = getattr(functions, name), code.title(name)
    if not callable(call):
        what = f"{title} is not a function, but of type {type(call).__name__}"
        raise ScriptError(what, url=code.place, fix=f"define {_example(name, title)}")
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise ScriptError(f"{title} is async", url=code.place, fix="define a plain function")
    params = dict(code.params)
    _check_params(code, name, call, params, positional)
    return Bound(name, partial(call, **params) if params else call, title)


def _example(name: str, title: str, *params: str) -> str:
    return f"{title}({', '.join((*ARGUMENTS.get(name, ('record',)), *params))})"


def _check_params(code: Code, name: str, call: Callable[..., Any], params: dict[str, Any], positional: int) -> None:
    """Make sure that ``call(something, **params)`` fits, or, with two ``positional`` ones, ``call(a, b, **params)``."""
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):  # a builtin that does not tell
        return
    kinds, title = inspect.Parameter, code.title(name)
    by_position = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    takes = list(signature.parameters.values())
    ordinary = [p for p in takes if p.kind in by_position]
    starred = any(p.kind is kinds.VAR_POSITIONAL for p in takes)
    if len(ordinary) < positional and not starred:
        what = f"{title} takes no argument" if not ordinary else f"{title} takes one argument only"
        raise ScriptError(what, url=code.place, fix=f"define {_example(name, title)}")
    named = takes[min(len(ordinary), positional) :]
    known = [p.name for p in named if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    if taken := next((p.name for p in takes[: max(positional, 1)] if p.name in params), None):
        what = f"{code.option} cannot set {taken}: {title} gets the data in it"
        raise ScriptError(what, url=code.place, fix=f"leave out {code.parameter(taken)}")
    unknown = [key for key in params if key not in known]
    if unknown and not any(p.kind is kinds.VAR_KEYWORD for p in named):
        fix = f"it takes {', '.join(known)}" if known else f"define {_example(name, title, unknown[0])}"
        raise ScriptError(f"{title} takes no parameter {unknown[0]}", url=code.place, fix=fix)
    optional = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    missing = [p.name for p in named if p.default is p.empty and p.kind not in optional and p.name not in params]
    if missing:
        fix = f"give it with {code.parameter(missing[0], 'VALUE')}"
        raise ScriptError(f"{title} needs {missing[0]}", url=code.place, fix=fix)


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


def where(error: BaseException, code: Code) -> str:
    """Return `describe` of an exception and the innermost place in the code that its traceback goes through.

    An example: ``ValueError: bad label (script.py:12 in process_sample)``. The place is left out where there is none.
    """
    place = _place(error, code)
    return f"{describe(error)} ({place[0]}:{place[1]} in {place[2]})" if place else describe(error)


def failure(error: BaseException, code: Code, name: str, unit: str = "samples") -> SampleError:
    """Return the error for what the function ``name`` has raised; ``unit`` is what can be skipped."""
    fix = f"correct {code.subject(name)}, or skip such {unit} with --on-error skip"
    return SampleError(where(error, code), fix=fix)


def _place(error: BaseException, code: Code) -> tuple[str, int, str] | None:
    """Return the file, the line and the function of the innermost frame in the code."""
    frames = traceback.walk_tb(error.__traceback__)
    files = [(code.shown_file(frame.f_code.co_filename), line, frame.f_code.co_name) for frame, line in frames]
    return next(((file, line, name) for file, line, name in reversed(files) if file is not None), None)
