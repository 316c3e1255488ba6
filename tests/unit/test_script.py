"""The user's script: read, carried, loaded, checked, and named in what its users see when it fails."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardtools.errors import ScriptError, printable
from shardtools.jobs.script import MAX_MESSAGE, Script, describe, function, load, read_script, where

NAMES = ("process_sample", "process_samples")


def script(text: str, name: str = "script.py", **params: Any) -> Script:
    return Script(textwrap.dedent(text).lstrip("\n"), name, tuple(params.items()))


class TestRead:
    def test_text_name_and_parameters(self, tmp_path: Path) -> None:
        path = tmp_path / "my script.py"
        path.write_bytes("x = 'é'\r\ny = 2\n".encode("utf-8-sig"))
        read = read_script(path, ["size=256", "mode=RGB"])
        assert read == Script("x = 'é'\ny = 2\n", str(path), (("size", 256), ("mode", "RGB")))
        assert hash(read) == hash(read_script(str(path), ["size=256", "mode=RGB"]))
        assert pickle.loads(pickle.dumps(read)) == read

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1", 1),
            ("-2.5e3", -2500.0),
            ("None", None),
            ("True", True),
            ("(1, 'a')", (1, "a")),
            ("[1, 2]", [1, 2]),
            ("{'a': 1}", {"a": 1}),
            ("'1'", "1"),
            ("b'x'", b"x"),
            ("", ""),
            ("RGB", "RGB"),
            ("a=b", "a=b"),
            ("007", "007"),
            ("true", "true"),
            ("1x", "1x"),
            ("(1)(2)", "(1)(2)"),
            ("'\\d'", "\\d"),
            ("__import__('os')", "__import__('os')"),
            ("\x00", "\x00"),
            ("(" * 500, "(" * 500),
            ("http://host/a?b=c", "http://host/a?b=c"),
        ],
    )
    @pytest.mark.filterwarnings("error")
    def test_values_are_literals_or_text(self, tmp_path: Path, text: str, value: object) -> None:
        (tmp_path / "s.py").touch()
        ((name, read),) = read_script(tmp_path / "s.py", [f"x={text}"]).params
        assert (name, read, type(read)) == ("x", value, type(value))

    @pytest.mark.parametrize("assignment", ["size", "=1", "", "a-b=1", "1a=2", "a b=1"])
    def test_what_is_no_assignment(self, tmp_path: Path, assignment: str) -> None:
        (tmp_path / "s.py").touch()
        with pytest.raises(ScriptError, match=r"^-a .*is not name=value; write -a size=256$"):
            read_script(tmp_path / "s.py", [assignment])

    def test_a_parameter_twice(self, tmp_path: Path) -> None:
        (tmp_path / "s.py").touch()
        with pytest.raises(ScriptError, match=r"^-a gives a twice; give each parameter once$"):
            read_script(tmp_path / "s.py", ["a=1", "b=1", "a=1"])

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
        for name, message in [
            ("none.py", "there is no such script; check the name"),
            ("", "the script cannot be read: Is a directory; check the name"),
            ("latin.py", "the script is not UTF-8 text; save it as UTF-8"),
            ("a\0b", "the script cannot be read: embedded null byte; check the name"),
        ]:
            with pytest.raises(ScriptError) as caught:
                read_script(tmp_path / name)
            assert str(caught.value) == f"{printable(str(tmp_path / name))}: {message}"


class TestLoad:
    def test_once_per_process_and_text(self) -> None:
        one, other = script("import threading; x = object()"), script("import threading; x = object()  # other")
        modules: list[object] = []
        threads = [threading.Thread(target=lambda: modules.append(load(one).x)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(modules) == 16 and len(set(map(id, modules))) == 1
        assert load(pickle.loads(pickle.dumps(one))).x is modules[0]
        assert load(other).x is not modules[0]

    def test_two_scripts_of_one_name_keep_apart(self) -> None:
        assert [load(script(f"x = {i}", name="same.py")).x for i in (1, 2, 1)] == [1, 2, 1]

    def test_is_not_run_as_a_program_and_shadows_nothing(self) -> None:
        module = load(script("ran = __name__ == '__main__'", name="/d/json.py"))
        assert (module.ran, module.__file__) == (False, "/d/json.py")
        assert module.__name__.startswith("shardtools_script_json_")
        assert sys.modules[module.__name__] is module
        assert sys.modules.get("json") is not module

    def test_dataclasses_pickles_and_annotations_work(self) -> None:
        module = load(
            script("""
                from dataclasses import dataclass

                @dataclass
                class Box:
                    size: int
                    kind: type[int] = int

                def annotated(x: int) -> int:
                    return x
            """)
        )
        assert pickle.loads(pickle.dumps(module.Box(3))) == module.Box(3)
        assert module.annotated.__annotations__ == {"x": int, "return": int}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x = 1\ndef f(:\n    pass\n", "script.py:2: SyntaxError: "),
            ("if True:\npass\n", "script.py:2: IndentationError: "),
            ("x = 1\n\n1 / 0\n", "script.py:3: ZeroDivisionError: division by zero"),
            ("def f():\n    raise ValueError('no\\n  good')\nf()\n", "script.py:2: ValueError: no good"),
            ("import json\njson.loads('{')\n", "script.py:2: JSONDecodeError: "),
            ("import sys\nsys.exit(3)\n", "script.py:2: SystemExit: 3"),
            (
                "import no_such_module\n",
                "script.py:1: ModuleNotFoundError: No module named 'no_such_module'; install it",
            ),
            ("x = '\x00'\n", "script.py"),
            ("(" * 10_000, "script.py"),
            ("x = " + "-" * 100_000 + "1", "script.py"),
        ],
    )
    def test_what_cannot_be_loaded(self, text: str, message: str) -> None:
        before = set(sys.modules)
        for _ in range(2):
            with pytest.raises(ScriptError) as caught:
                load(Script(text, "script.py"))
            assert str(caught.value).startswith(message)
            assert "\n" not in str(caught.value)
        assert not [name for name in set(sys.modules) - before if "script" in name]

    def test_ctrl_c_passes(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            load(script("raise KeyboardInterrupt"))

    def test_tracebacks_show_the_script_on_any_machine(self, tmp_path: Path) -> None:
        text = "# \f a form feed ends no line\n\ndef process_sample(record):\n    return record['nothing']  # here\n"
        carried = tmp_path / "carried"
        carried.write_bytes(pickle.dumps(Script(text, "mine/script.py")))
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "script.py").write_text("another\nfile\nof this\nname\n")
        code = (
            "import pickle, sys, traceback; from shardtools.jobs.script import *; "
            "s = pickle.load(open('carried', 'rb')); call = function(s, 'process_sample').call\n"
            "try: call({})\n"
            "except KeyError as error: traceback.print_exc(); print(where(error, s))"
        )
        ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
        assert (
            "File \"mine/script.py\", line 4, in process_sample\n    return record['nothing']  # here\n" in ran.stderr
        )
        assert ran.stdout == "KeyError: 'nothing' (mine/script.py:4 in process_sample)\n"


class TestFunction:
    def test_without_parameters_it_is_the_scripts_own(self) -> None:
        bound = function(script("def process_sample(record): return record * 2"), *NAMES)
        assert (bound.name, bound.call(3), bound(3)) == ("process_sample", 6, 6)
        assert bound.call.__name__ == "process_sample"

    def test_the_other_name(self) -> None:
        bound = function(script("def process_samples(records):\n    yield from records"), *NAMES)
        assert (bound.name, list(bound.call([1, 2]))) == ("process_samples", [1, 2])

    @pytest.mark.parametrize(
        "signature",
        [
            "record, size, mode='L'",
            "record, *, size, mode='L'",
            "record, /, size, mode='L'",
            "record, **given",
            "*records, size, mode='L'",
            "record, size, *rest, mode='L', **given",
        ],
    )
    def test_parameters_are_bound_as_keywords(self, signature: str) -> None:
        bound = function(
            script(f"def process_sample({signature}): return sorted(locals())", size=8, mode="RGB"), *NAMES
        )
        assert bound.call({})

    def test_parameters_arrive(self) -> None:
        text = """
            class Scale:
                def __call__(self, record, by=1, *, to=0):
                    return record * by + to

            process_sample = Scale()
        """
        assert function(script(text, to=5, by=2), *NAMES).call(10) == 25
        assert function(script(text), *NAMES).call(10) == 10

    @pytest.mark.parametrize("text", ["process_sample = dict", "process_sample = print"])
    def test_builtins_are_taken_as_they_are(self, text: str) -> None:
        assert callable(function(script(text), *NAMES).call)

    @pytest.mark.parametrize(
        ("text", "params", "message"),
        [
            ("x = 1", {}, "the script defines no process_sample or process_samples; define process_sample(record)"),
            (
                "def process_sample(r): pass\ndef process_samples(r): pass",
                {},
                "the script defines process_sample and process_samples; define one of them",
            ),
            (
                "process_sample = 3",
                {},
                "process_sample is not a function, but of type int; define process_sample(record)",
            ),
            ("async def process_sample(r): pass", {}, "process_sample is async; define a plain function"),
            ("async def process_samples(r):\n    yield 1", {}, "process_samples is async; define a plain function"),
            ("def process_sample(): pass", {}, "process_sample takes no argument; define process_sample(record)"),
            ("def process_samples(): pass", {}, "process_samples takes no argument; define process_samples(records)"),
            ("def process_sample(*, r): pass", {}, "process_sample takes no argument; define process_sample(record)"),
            (
                "def process_sample(r): pass",
                {"size": 1},
                "process_sample takes no parameter size; define process_sample(record, size)",
            ),
            (
                "def process_sample(r, mode=1, *, way=2): pass",
                {"mode": 1, "size": 1},
                "process_sample takes no parameter size; it takes mode, way",
            ),
            (
                "def process_sample(record, mode=1): pass",
                {"record": 1},
                "-a cannot set record: process_sample gets the data in it; leave out -a record",
            ),
            (
                "def process_sample(record, **given): pass",
                {"record": 1},
                "-a cannot set record: process_sample gets the data in it; leave out -a record",
            ),
            (
                "def process_sample(r, size, *, way): pass",
                {"size": 1},
                "process_sample needs way; give it with -a way=VALUE",
            ),
        ],
    )
    def test_what_does_not_fit(self, text: str, params: dict[str, Any], message: str) -> None:
        with pytest.raises(ScriptError) as caught:
            function(script(text, **params), *NAMES)
        assert str(caught.value) == f"script.py: {message}"


class TestWhere:
    def failure(self, text: str, argument: object = None) -> tuple[Exception, Script]:
        made = script(text)
        call: Callable[[Any], Any] = function(made, *NAMES).call
        with pytest.raises(Exception) as caught:
            list(call(argument))
        return caught.value, made

    def test_names_the_innermost_line_of_the_script(self) -> None:
        text = """
            import json

            def read(text):
                return json.loads(text)

            def process_sample(record):
                return read(record)
        """
        error, made = self.failure(text, "{")
        assert where(error, made).startswith("JSONDecodeError: Expecting property name")
        assert where(error, made).endswith(" (script.py:4 in read)")

    def test_in_a_generator(self) -> None:
        text = """
            def process_samples(records):
                for record in records:
                    yield 1 / record
        """
        error, made = self.failure(text, [1, 0])
        assert where(error, made) == "ZeroDivisionError: division by zero (script.py:3 in process_samples)"

    def test_without_a_place_in_the_script(self) -> None:
        try:
            int("x")
        except ValueError as error:
            assert where(error, script("")) == "ValueError: invalid literal for int() with base 10: 'x'"
        assert where(ValueError("never raised"), script("")) == "ValueError: never raised"

    def test_is_one_line_of_bounded_length(self) -> None:
        error, made = self.failure("def process_sample(r): raise ValueError('many\\n\\tlines ' * 1000)")
        line = where(error, made)
        assert line.startswith("ValueError: many lines many lines") and "\n" not in line
        assert line.endswith("… (script.py:1 in process_sample)")
        assert len(line) < MAX_MESSAGE + 60

    def test_of_an_error_that_cannot_be_shown(self) -> None:
        class Shy(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no")

        assert describe(Shy()) == "Shy: (its text cannot be shown)"
        assert describe(ValueError("")) == "ValueError"

    def test_exit_has_a_place_too(self) -> None:
        made = script("import sys\ndef process_sample(r): sys.exit('enough')")
        with pytest.raises(SystemExit) as caught:
            function(made, *NAMES).call({})
        assert where(caught.value, made) == "SystemExit: enough (script.py:2 in process_sample)"
        assert "sys.exit('enough')" in "".join(traceback.format_exception(caught.value))
