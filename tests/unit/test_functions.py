"""Functions in place of a script: what identifies them, what they accept, and how errors name them."""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shardtools.errors import ScriptError
from shardtools.jobs.carried import MAX_PICKLED
from shardtools.jobs.functions import Functions, functions_of
from shardtools.jobs.identity import Unidentified, identity_of
from shardtools.jobs.script import defines, failure, function, where

ROOT = str(Path(__file__).resolve().parents[2])

SAME = {
    "comments and blank lines": ("def f(r):\n    return r", "# more\n\n\ndef f(r):  # here\n\n    return r"),
    "its name": ("def f(r):\n    return r['a']", "def g(r):\n    return r['a']\nf = g"),
    "annotations": ("def f(r):\n    return r", "def f(r: dict) -> dict:\n    return r"),
    "a lambda or not": ("def f(r):\n    return 1", "f = lambda r: 1"),
    "a global that is not used": ("A = 1\ndef f(r):\n    return r", "A = 2\ndef f(r):\n    return r"),
    "a helper that is not used": ("def h(): 1\ndef f(r): return 0", "def h(): return 2\ndef f(r): return 0"),
    "a set in another order": ("A = set('abc')\ndef f(r): return A", "A = set('cba')\ndef f(r): return A"),
    "a set of sets": (
        "A = {frozenset('ab'), frozenset('cd')}\ndef f(r): return A",
        "A = {frozenset('dc'), frozenset('ba')}\ndef f(r): return A",
    ),
    "a constant set": ("def f(r): return r in {'a', 'b', 'c', 'd'}", "def f(r): return r in {'a', 'b', 'c', 'd'}"),
    "a global that it assigns": (
        "A = None\ndef f(r):\n    global A\n    A = A or 5\n    return A",
        "A = 5\ndef f(r):\n    global A\n    A = A or 5\n    return A",
    ),
    "where a class within it is defined": (
        "def f(r):\n    class A:\n        n = 1\n    return A",
        "__name__ = 'other'\ndef f(r):\n    class A:\n        n = 1\n    return A",
    ),
    "an object that is a copy": (
        "class A: pass\na = A()\ndef f(r): return a",
        "import copy\nclass A: pass\na = copy.copy(A())\ndef f(r): return a",
    ),
}
"""Programs whose `f` does the same."""

WRAPPER = "import functools\ndef d(g):\n    @functools.wraps(g)\n    def w(r): return g(r)\n    return w\n@d\n"
DATACLASS = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass A:\n    n: int\n"
FACTORY = "from dataclasses import dataclass, field\n@dataclass\nclass A:\n    "
FIELDS = "import numpy as np\nLAYOUT = {'formats': ['i', 'i'], 'offsets': [0, 0]}\n"

OTHER = {
    "its code": ("def f(r): return r + 1", "def f(r): return r - 1"),
    "a constant": ("def f(r): return 1", "def f(r): return 2"),
    "the type of a constant": ("def f(r): return 1", "def f(r): return 1.0"),
    "true and one": ("def f(r): return True", "def f(r): return 1"),
    "the sign of zero": ("def f(r): return 0.0", "def f(r): return -0.0"),
    "a nested constant": (
        "def f(r):\n    def g(): return 1\n    return g",
        "def f(r):\n    def g(): return 2\n    return g",
    ),
    "a constant set": ("def f(r): return r in {'a', 'b'}", "def f(r): return r in {'a', 'c'}"),
    "an attribute": ("def f(r): return r.a", "def f(r): return r.b"),
    "what it catches": (
        "def f(r):\n    try: r()\n    except KeyError: pass\n    r()",
        "def f(r):\n    try: r(); r()\n    except KeyError: pass",
    ),
    "a default": ("def f(r, a=1): return a", "def f(r, a=2): return a"),
    "a default of a keyword": ("def f(r, *, a=1): return a", "def f(r, *, a=2): return a"),
    "the name of a parameter": ("def f(r, a=1): return a", "def f(r, b=1): return b"),
    "a closure": ("def m(n): return lambda r: n\nf = m(1)", "def m(n): return lambda r: n\nf = m(2)"),
    "two lambdas in one line": ("g, f = lambda r: 1, lambda r: 2", "g, f = lambda r: 2, lambda r: 1"),
    "a global": ("A = 1\ndef f(r): return A", "A = 2\ndef f(r): return A"),
    "a global of a comprehension": ("A = 1\ndef f(r): return [A for _ in r]", "A = 2\ndef f(r): return [A for _ in r]"),
    "a global that hides a builtin": ("def f(r): return len(r)", "def len(r): return 0\ndef f(r): return len(r)"),
    "the order of a dict": ("A = {1: 1, 2: 2}\ndef f(r): return A", "A = {2: 2, 1: 1}\ndef f(r): return A"),
    "how values are joined": ("A = ['ab', 'c']\ndef f(r): return A", "A = ['a', 'bc']\ndef f(r): return A"),
    "what is in which list": ("A = [[1], 2]\ndef f(r): return A", "A = [[1, 2]]\ndef f(r): return A"),
    "a set": ("A = {1, 2}\ndef f(r): return A", "A = {1, 3}\ndef f(r): return A"),
    "a helper": ("def h(r): return 1\ndef f(r): return h(r)", "def h(r): return 2\ndef f(r): return h(r)"),
    "a helper's helper": (
        "def g(): return 1\ndef h(r): return g()\ndef f(r): return h(r)",
        "def g(): return 2\ndef h(r): return g()\ndef f(r): return h(r)",
    ),
    "a helper that calls back": (
        "def h(r): return f(r) if r else 1\ndef f(r): return h(r)",
        "def h(r): return f(r) if r else 2\ndef f(r): return h(r)",
    ),
    "a decorator": (
        "def d(g): return lambda r: g(r) + 1\n@d\ndef f(r): return r",
        "def d(g): return lambda r: g(r) + 2\n@d\ndef f(r): return r",
    ),
    "what is decorated": (
        WRAPPER + "def f(r): return 1",
        WRAPPER + "def f(r): return 2",
    ),
    "what is cached": (
        "import functools\n@functools.lru_cache\ndef f(r): return 1",
        "import functools\n@functools.lru_cache\ndef f(r): return 2",
    ),
    "a partial's argument": (
        "import functools\ndef g(r, a): return a\nf = functools.partial(g, a=1)",
        "import functools\ndef g(r, a): return a\nf = functools.partial(g, a=2)",
    ),
    "a partial's function": (
        "import functools\ndef g(r, a): return a\nf = functools.partial(g, a=1)",
        "import functools\ndef g(r, a): return -a\nf = functools.partial(g, a=1)",
    ),
    "a method": (
        "class A:\n    def m(self, r): return 1\nf = A().m",
        "class A:\n    def m(self, r): return 2\nf = A().m",
    ),
    "what a method is bound to": (
        "class A:\n    def __init__(self, n): self.n = n\n    def m(self, r): return self.n\nf = A(1).m",
        "class A:\n    def __init__(self, n): self.n = n\n    def m(self, r): return self.n\nf = A(2).m",
    ),
    "a class method": (
        "class A:\n    @classmethod\n    def m(cls): return 1\ndef f(r): return A.m()",
        "class A:\n    @classmethod\n    def m(cls): return 2\ndef f(r): return A.m()",
    ),
    "a property": (
        "class A:\n    @property\n    def p(self): return 1\ndef f(r): return A().p",
        "class A:\n    @property\n    def p(self): return 2\ndef f(r): return A().p",
    ),
    "a callable object": (
        "class A:\n    def __call__(self, r): return 1\nf = A()",
        "class A:\n    def __call__(self, r): return 2\nf = A()",
    ),
    "an object's slots": (
        "class A:\n    __slots__ = 'n'\n    def __init__(self, n): self.n = n\na = A(1)\ndef f(r): return a.n",
        "class A:\n    __slots__ = 'n'\n    def __init__(self, n): self.n = n\na = A(2)\ndef f(r): return a.n",
    ),
    "a base class": (
        "class B:\n    def m(self): return 1\nclass A(B): pass\ndef f(r): return A().m()",
        "class B:\n    def m(self): return 2\nclass A(B): pass\ndef f(r): return A().m()",
    ),
    "a dataclass": (
        DATACLASS + "a = A(1)\ndef f(r): return a.n",
        DATACLASS + "a = A(2)\ndef f(r): return a.n",
    ),
    "a dataclass's default": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int = 1\ndef f(r): return A()",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int = 2\ndef f(r): return A()",
    ),
    "a dataclass's factory": (
        FACTORY + "n: list = field(default_factory=list)\ndef f(r): return A()",
        FACTORY + "n: list = field(default_factory=dict)\ndef f(r): return A()",
    ),
    "an enumeration": (
        "import enum\nclass A(enum.Enum):\n    X = 1\n    Y = 2\ndef f(r): return A.X",
        "import enum\nclass A(enum.Enum):\n    X = 3\n    Y = 2\ndef f(r): return A.X",
    ),
    "a member of an enumeration": (
        "import enum\nclass A(enum.Enum):\n    X = 1\n    Y = 2\ndef f(r, a=A.X): return a",
        "import enum\nclass A(enum.Enum):\n    X = 1\n    Y = 2\ndef f(r, a=A.Y): return a",
    ),
    "a pattern": (
        "import re\nP = re.compile('a')\ndef f(r): return P",
        "import re\nP = re.compile('b')\ndef f(r): return P",
    ),
    "a named tuple": (
        "from collections import namedtuple\nA = namedtuple('A', 'x')(1)\ndef f(r): return A",
        "from collections import namedtuple\nA = namedtuple('A', 'x')(2)\ndef f(r): return A",
    ),
    "another kind of dict": (
        "from collections import OrderedDict\nA = OrderedDict(a=1)\ndef f(r): return A",
        "from collections import OrderedDict\nA = OrderedDict(a=2)\ndef f(r): return A",
    ),
    "a list that holds itself": (
        "A = [1]\nA.append(A)\ndef f(r): return A",
        "A = [2]\nA.append(A)\ndef f(r): return A",
    ),
    "elements of an array": (
        "import numpy as np\nA = np.arange(5000)\ndef f(r): return A",
        "import numpy as np\nA = np.arange(5000)\nA[2500] = 0\ndef f(r): return A",
    ),
    "the type of an array": (
        "import numpy as np\nA = np.zeros(4, 'i4')\ndef f(r): return A",
        "import numpy as np\nA = np.zeros(4, 'f4')\ndef f(r): return A",
    ),
    "the fields of an array": (
        FIELDS + "A = np.zeros(2, {'names': ['a', 'b'], **LAYOUT})\ndef f(r): return A",
        FIELDS + "A = np.zeros(2, {'names': ['a', 'c'], **LAYOUT})\ndef f(r): return A",
    ),
    "the shape of an array": (
        "import numpy as np\nA = np.zeros((2, 3))\ndef f(r): return A",
        "import numpy as np\nA = np.zeros((3, 2))\ndef f(r): return A",
    ),
    "objects in an array": (
        "import numpy as np\nA = np.array(['a', None], object)\ndef f(r): return A",
        "import numpy as np\nA = np.array(['b', None], object)\ndef f(r): return A",
    ),
    "a function of an installed module": (
        "import json\ndef f(r, g=json.loads): return g(r)",
        "import json\ndef f(r, g=json.dumps): return g(r)",
    ),
    "a builtin": ("def f(r, g=len): return g(r)", "def f(r, g=max): return g(r)"),
    "what a builtin is bound to": ("f = 'a'.join", "f = 'b'.join"),
    "which module": ("import json as m\ndef f(r): return m", "import pickle as m\ndef f(r): return m"),
    "which function of numpy": (
        "from numpy import add as g\ndef f(r): return g",
        "from numpy import subtract as g\ndef f(r): return g",
    ),
    "a function of another file": (
        "from one import h\ndef f(r): return h(r)",
        "from two import h\ndef f(r): return h(r)",
    ),
    "a function of a module of the program": (
        "import one as m\ndef f(r): return m.h(r)",
        "import two as m\ndef f(r): return m.h(r)",
    ),
}
"""Programs whose `f` does something else."""

MANY = """
import collections, dataclasses, datetime, decimal, enum, functools, pathlib, re, abc
import numpy as np

class Color(enum.Enum):
    RED, BLUE = 1, 2

class Access(enum.Flag):
    READ, WRITE = 1, 2

class Point(collections.namedtuple("Point", "x y")):
    pass

class Base(abc.ABC):
    @abc.abstractmethod
    def run(self): ...

class Names(set):
    pass

@dataclasses.dataclass
class Config(Base):
    names: set = dataclasses.field(default_factory=set)
    def run(self):
        return {Color.RED, Access.READ | Access.WRITE, *self.names}

CONFIG = Config({"a", "b", "c"})
VALUES = [
    np.float32(1), np.dtype("f4,i8"), np.random.default_rng(1), np.add, np.linalg.norm, Point(1, 2), Color.BLUE,
    Access.READ, pathlib.PurePosixPath("/x"), datetime.datetime(2020, 1, 1), decimal.Decimal("1.5"), re.compile("a"),
    collections.Counter("abca"), collections.defaultdict(list, {1: [2]}), range(3), slice(1), Names("xyz"), 1j, ...,
    10**6000, "\\udc80", functools.partial(print, sep=""), str.upper, {}.get, frozenset({("a", frozenset("bcd"))}),
]

def f(record, colors=frozenset({"red", "green", "blue"}), *, table={"x": {"p", "q", "r"}}):
    def inner():
        return [name for name in VALUES if name in {"one", "two", "three"}]
    return inner, CONFIG.run(), Names
"""
"""A program that uses much, often in sets."""

IDENTIFY = """
import importlib, json, sys
from shardtools.jobs.identity import identity_of
names = json.load(sys.stdin)
json.dump({name: identity_of(importlib.import_module(name).f) for name in names}, sys.stdout)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all programs: ``same_0_a.py`` and ``same_0_b.py`` are the first pair, and so on."""
    folder = tmp_path_factory.mktemp("programs")
    for kind, pairs in ("same", SAME), ("other", OTHER):
        for number, pair in enumerate(pairs.values()):
            for side, text in zip("ab", pair, strict=True):
                (folder / f"{kind}_{number}_{side}.py").write_text(text)
    (folder / "one.py").write_text("def h(r): return 1")
    (folder / "two.py").write_text("def h(r): return 2")
    (folder / "many.py").write_text(MANY)
    return folder


def identities(folder: Path, seed: int) -> dict[str, str]:
    """Return the identity of the `f` of each program, as a process computes it that hashes with ``seed``."""
    names = [*sorted(path.stem for path in folder.glob("*_[ab].py")), "many"]
    ran = subprocess.run(
        [sys.executable, "-B", "-c", IDENTIFY],
        input=json.dumps(names),
        cwd=folder,
        env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def found(folder: Path) -> Iterator[dict[int, dict[str, str]]]:
    yield {seed: identities(folder, seed) for seed in (1, 2)}


class TestIdentity:
    def test_is_the_same_in_every_process(self, found: dict[int, dict[str, str]]) -> None:
        assert found[1] == found[2]

    @pytest.mark.parametrize("number", range(len(SAME)), ids=list(SAME))
    def test_of_what_does_the_same(self, number: int, found: dict[int, dict[str, str]]) -> None:
        assert found[1][f"same_{number}_a"] == found[2][f"same_{number}_b"]

    @pytest.mark.parametrize("number", range(len(OTHER)), ids=list(OTHER))
    def test_of_what_does_something_else(self, number: int, found: dict[int, dict[str, str]]) -> None:
        assert found[1][f"other_{number}_a"] != found[1][f"other_{number}_b"]

    def test_does_not_depend_on_what_was_called(self) -> None:
        def call(record: int) -> Any:
            return sorted({record, 1}) if record else None

        before = identity_of(call)
        for record in range(100):  # enough that Python specializes its code
            call(record)
        assert identity_of(call) == before

    def test_of_a_main_program_and_of_the_same_as_a_module(self, tmp_path: Path) -> None:
        text = "def h(r): return {r, 1}\ndef f(r): return h(r)\n"
        (tmp_path / "program.py").write_text(
            f"from shardtools.jobs.identity import identity_of\n{text}"
            "if __name__ == '__main__':\n    print(identity_of(f))"
        )
        commands = (["program.py"], ["-c", "import program; print(program.identity_of(program.f))"])
        env = {"PYTHONPATH": f"{ROOT}:."}
        ran = [
            subprocess.run([sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True)
            for command in commands
        ]
        assert ran[0].stdout == ran[1].stdout and len(ran[0].stdout) == 33, ran[0].stderr

    def test_of_a_file_that_was_edited_after_its_import(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "edited_later.py").write_text("def f(r): return 1\n")
        import edited_later  # type: ignore[import-not-found]

        before = identity_of(edited_later.f)
        (tmp_path / "edited_later.py").write_text("def f(r): return 2\n")
        assert identity_of(edited_later.f) == before

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (threading.Lock(), "_thread.lock"),
            ((i for i in ()), "generator"),
            (sys._getframe(), "frame"),
        ],
        ids=["lock", "generator", "frame"],
    )
    def test_of_what_only_this_process_has(self, value: object, kind: str) -> None:
        def call(record: object) -> object:
            return value

        with pytest.raises(Unidentified, match=f"^it uses value, which is of type {re.escape(kind)}$"):
            identity_of(call)

    def test_of_an_open_file(self) -> None:
        with open(__file__) as file, pytest.raises(Unidentified, match=r"^it uses file, which is of type _io\."):
            identity_of(lambda record: file)

    def test_names_the_way_to_what_it_cannot_identify(self) -> None:
        held = SimpleNamespace(locks={"all": threading.Lock()})

        def helper(record: object) -> object:
            return held

        def call(record: object) -> object:
            return helper(record)

        with pytest.raises(Unidentified, match=r"^it uses helper\.held\.locks\.all, which is of type _thread\.lock$"):
            identity_of(call)

    def test_of_tensors_without_plain_bytes(self) -> None:
        sparse = pytest.importorskip("torch").eye(3).to_sparse()
        with pytest.raises(Unidentified, match=r"^it uses sparse, which is of type torch\.Tensor$"):
            identity_of(lambda record: sparse)

    @pytest.mark.parametrize(
        "body",
        [
            "import lib.a\n    return lib.a.g()",
            "from lib import a\n    return a.g()",
            "from lib.a import g\n    return g()",
            "from lib import b\n    return b.g()",
            "def inner():\n        import lib.b\n    return inner()",
        ],
    )
    def test_of_what_it_imports_itself(self, body: str, tmp_path: Path) -> None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "__init__.py").touch()
        (tmp_path / "lib" / "b.py").write_text("from .a import g\nimport json, numpy\n")
        ending = f"def f(r):\n    {body}\nprint(identity_of(f))\n"
        (tmp_path / "main.py").write_text(f"from shardtools.jobs.identity import identity_of\n{ending}")
        env = os.environ | {"PYTHONPATH": ROOT, "PYTHONDONTWRITEBYTECODE": "1"}
        found = []
        for value in (1, 1, 2):
            (tmp_path / "lib" / "a.py").write_text(f"def g(): return {value}\n")
            command = [sys.executable, "main.py"]
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=True, timeout=60)
            found.append(done.stdout)
        assert found[0] == found[1] != found[2]

    def test_of_what_is_nested_too_deeply(self) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(Unidentified, match="nested too deeply"):
            identity_of(deep)
        while deep:
            deep = deep.pop()

    def test_of_tensors(self) -> None:
        torch = pytest.importorskip("torch")
        kinds = (torch.float32, torch.bfloat16, torch.int8, torch.bool)
        made = [[torch.tensor([[0, 1], [1, 1]], dtype=kind) for kind in kinds] for _ in range(2)]
        assert [identity_of(tensor) for tensor in made[0]] == [identity_of(tensor) for tensor in made[1]]
        assert len({identity_of(tensor) for tensor in made[0]}) == len(kinds)
        assert identity_of(made[0][0]) != identity_of(made[0][0].T.reshape(4))
        layers = [torch.nn.Linear(2, 2) for _ in range(2)]
        layers[1].load_state_dict(layers[0].state_dict())
        assert identity_of(layers[0]) == identity_of(layers[1])
        assert identity_of(layers[0]) != identity_of(torch.nn.Linear(2, 2))


def shrink(record: dict[str, Any], size: int = 256) -> dict[str, Any]:
    return {**record, "size": size}


def total(key: str, records: Iterator[Any], *, scale: int) -> Any:
    return sum(scale for _ in records)


class Scale:
    def __call__(self, record: Any, by: int = 1) -> Any:
        return record * by


class TestFunctions:
    def test_are_the_very_functions_here(self) -> None:
        made = functions_of({"process_sample": shrink}, {"size": 8})
        bound = function(made, "process_sample", "process_samples")
        assert made.load().process_sample is shrink
        assert (bound.name, bound.title, bound.call({})) == ("process_sample", "shrink", {"size": 8})
        assert defines(made, "process_sample", "sort_key") == {"process_sample"}
        assert made.job() == {"script": "shrink", "params": {"size": "8"}}

    def test_pickled_they_are_the_same_elsewhere(self) -> None:
        factor = np.arange(3)

        def scaled(record: Any, by: int = 1) -> Any:
            return factor * record * by

        made = functions_of({"process_sample": scaled}, {"by": 2})
        there: Functions = pickle.loads(pickle.dumps(made))
        again: Functions = pickle.loads(pickle.dumps(there))
        assert there == made and hash(there) == hash(made) and there.text == made.text
        assert there.load().process_sample is not scaled
        assert there.load().process_sample is again.load().process_sample
        assert function(there, "process_sample").call(3).tolist() == [0, 6, 12]

    def test_are_unpickled_once_by_many_threads(self) -> None:
        made = functions_of({"process_sample": lambda record: "once by many threads"})
        sent = pickle.dumps(made)
        calls: list[object] = []
        threads = [
            threading.Thread(target=lambda: calls.append(pickle.loads(sent).load().process_sample)) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(calls) == 16 and len(set(map(id, calls))) == 1

    def test_several_are_one(self) -> None:
        made = functions_of(
            {"sort_key": lambda record, scale=1: record["key"], "reduce_samples": total}, {"scale": 3}, version="1"
        )
        assert (made.name, made.subject("reduce_samples")) == ("<lambda>, total", "total")
        assert function(made, "reduce_samples", positional=2).call("key", iter("ab")) == 6

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (shrink, "shrink"),
            (functools.partial(functools.partial(shrink), size=3), "shrink"),
            (Scale(), "Scale"),
            (Scale().__call__, "__call__"),
            (dict, "dict"),
            (len, "len"),
            (lambda record: record, "<lambda>"),
        ],
    )
    def test_names(self, call: Callable[..., Any], name: str) -> None:
        assert functions_of({"process_sample": call}).name == name

    def test_parameters_that_are_not_plain_are_not_written(self) -> None:
        params = {"a": [1, {"b": None}], "b": np.arange(3), "c": "x" * 1000, "d": (Scale(),), "e": b"x"}
        made = functions_of({"process_sample": lambda record, **given: record}, params)
        shown = {"a": "[1, {'b': None}]", "b": "<ndarray>", "c": "<str>", "d": "<tuple>", "e": "b'x'"}
        assert made.job()["params"] == shown

    @pytest.mark.parametrize(
        ("params", "is_same"),
        [
            ({"a": 1, "b": {"x", "y"}}, True),
            ({"b": {"y", "x"}, "a": 1}, True),
            ({"a": 1.0, "b": {"x", "y"}}, False),
            ({"a": 1, "b": {"x"}}, False),
            ({"a": 1}, False),
        ],
    )
    @pytest.mark.parametrize("version", [None, "1"])
    def test_parameters_are_a_part_of_the_identity(
        self, params: dict[str, Any], is_same: bool, version: str | None
    ) -> None:
        def call(record: Any, a: Any = 0, b: Any = 0) -> Any:
            return a, b

        before = functions_of({"process_sample": call}, {"a": 1, "b": {"x", "y"}}, version).facts("script")
        assert (functions_of({"process_sample": call}, params, version).facts("script") == before) == is_same

    def test_a_version_stands_for_all_that_they_do(self) -> None:
        def made(value: object, version: str | None) -> Functions:
            def call(record: Any) -> Any:
                return value

            return functions_of({"process_sample": call}, version=version)

        assert made(1, "a").text == made(threading.Lock(), "a").text
        assert made(1, "a").text != made(1, "b").text
        assert made(1, "a").text != functions_of({"process_sample": shrink}, version="a").text
        assert (
            functions_of({"process_sample": shrink}, version="a").text
            != functions_of({"extract_sample": shrink}, version="a").text
        )


def refused(functions: dict[str, Any], params: dict[str, Any] | None = None) -> str:
    with pytest.raises(ScriptError) as caught:
        functions_of(functions, params)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestErrors:
    @pytest.mark.parametrize(
        ("functions", "params", "message"),
        [
            ({"map": shrink}, {}, "no job calls map; jobs call process_sample, process_samples, sort_key, "),
            ({"process_sample": 3}, {}, "process_sample is not a function, but of type int; define process_sample("),
            ({"process_sample": shrink}, {"sise": 1}, "shrink takes no parameter sise; it takes size"),
            ({"reduce_samples": total}, {}, 'total needs scale; give it with params={"scale": VALUE}'),
            ({"reduce_samples": shrink}, {"record": 1}, "params cannot set record: shrink gets the data in it; leave"),
            ({"combine_samples": Scale().__call__}, {"by": 2}, "params cannot set by: __call__ gets the data in it; "),
            (
                {"reduce_samples": lambda key: key},
                {},
                "<lambda> takes one argument only; define <lambda>(key, records)",
            ),
            ({"process_sample": lambda: 0}, {}, "<lambda> takes no argument; define <lambda>(record)"),
        ],
    )
    def test_what_does_not_fit(self, functions: dict[str, Any], params: dict[str, Any], message: str) -> None:
        assert refused(functions, params).startswith(message)

    def test_async(self) -> None:
        async def later(record: Any) -> Any:
            return record

        assert refused({"process_sample": later}) == "later is async; define a plain function"

    def test_what_is_not_there(self) -> None:
        with pytest.raises(ScriptError, match=r"^shrink defines no sort_key; define sort_key\(record\)$"):
            function(functions_of({"process_sample": shrink}), "sort_key")

    def test_without_identity(self) -> None:
        lock = threading.Lock()

        def call(record: Any, guard: Any = None) -> Any:
            return lock

        start = "call cannot be compared with that of another run: it uses lock, which is of type _thread.lock; "
        assert refused({"process_sample": call}) == start + (
            'give version="1", and another one whenever it does something else'
        )
        message = refused({"process_sample": lambda record, guard: record}, {"guard": lock})
        assert message.startswith("the parameter guard cannot be compared with that of another run: it is of type ")
        assert "; bind it to the function with functools.partial, and give version=" in message

    def test_what_cannot_be_pickled(self) -> None:
        lock = threading.Lock()
        made = functions_of({"process_sample": lambda record: lock}, version="1")
        with pytest.raises(ScriptError) as caught:
            pickle.dumps(made)
        assert str(caught.value) == (
            "<lambda> cannot be sent to other processes: TypeError: cannot pickle '_thread.lock' object; "
            "make what it needs inside the function, or run on threads"
        )

    def test_what_is_too_large(self) -> None:
        data = bytes(MAX_PICKLED)
        made = functions_of({"process_sample": lambda record: data})
        with pytest.raises(ScriptError) as caught:
            pickle.dumps(made)
        assert str(caught.value) == (
            "<lambda> has more than 32 MB with its data, too much to send to every worker; "
            "load such data inside the function, from a file or URL"
        )

    def test_another_version_of_python(self) -> None:
        text = pickle.dumps(functions_of({"process_sample": lambda record: "of another Python"}))
        here = ".".join(map(str, sys.version_info[:2]))
        old = pickle.loads(text.replace(here.encode(), b"3.".ljust(len(here), b"9")))
        with pytest.raises(ScriptError, match=rf"^<lambda> comes from Python 3\.9+, and this is {here}; use the same "):
            old.load()

    @pytest.mark.parametrize(
        "body", ["from gone_with_it import call", "import gone_with_it\ndef call(r): return gone_with_it"]
    )
    def test_a_module_that_is_not_there(self, body: str, tmp_path: Path) -> None:
        (tmp_path / "gone_with_it.py").write_text("def call(record): return record\n")
        (tmp_path / "send.py").write_text(
            f"import pickle, sys\nfrom shardtools.jobs.functions import functions_of\n{body}\n"
            "sys.stdout.buffer.write(pickle.dumps(functions_of({'process_sample': call})))"
        )
        ran = subprocess.run([sys.executable, "send.py"], cwd=tmp_path, env={"PYTHONPATH": ROOT}, capture_output=True)
        made = pickle.loads(ran.stdout)
        with pytest.raises(ScriptError) as caught:
            made.load()
        assert str(caught.value) == (
            "call cannot be loaded here: ModuleNotFoundError: No module named 'gone_with_it'; "
            "install it wherever tasks run: functions of modules travel by name"
        )

    def test_where_a_function_failed(self) -> None:
        def wrapper(record: Any) -> Any:
            return shrink(record, **record)

        made = functions_of({"process_sample": functools.partial(wrapper)})
        with pytest.raises(TypeError) as caught:
            function(made, "process_sample").call({"no": 1})
        line = wrapper.__code__.co_firstlineno + 1
        assert where(caught.value, made) == (
            f"TypeError: shrink() got an unexpected keyword argument 'no' (test_functions.py:{line} in wrapper)"
        )
        assert failure(caught.value, made, "process_sample").fix == (
            "correct wrapper, or skip such samples with --on-error skip"
        )


def test_source_lines_travel(tmp_path: Path) -> None:
    """A worker without the program's file shows its lines all the same."""
    text = textwrap.dedent("""
        import pickle, sys
        from shardtools.jobs.functions import functions_of

        def broken(record):
            return record["nothing"]  # here

        sys.stdout.buffer.write(pickle.dumps(functions_of({"process_sample": broken})))
    """)
    (tmp_path / "program.py").write_text(text)
    sent = subprocess.run(
        [sys.executable, tmp_path / "program.py"], env={"PYTHONPATH": ROOT}, capture_output=True, check=True
    ).stdout
    (tmp_path / "program.py").unlink()
    code = (
        "import pickle, sys, traceback; call = pickle.load(sys.stdin.buffer).load().process_sample\n"
        "try: call({})\nexcept KeyError: traceback.print_exc()"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=sent, env={"PYTHONPATH": ROOT}, capture_output=True)
    assert 'program.py", line 6, in broken\n    return record["nothing"]  # here\n' in ran.stderr.decode()
