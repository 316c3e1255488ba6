"""Scripts that cannot be used, or that fail on a sample."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.command import call, check_failure
from tests.datasets import members, snapshot, write_shard

# What a script says, and what htmapper says of it, which begins with the script's name.
UNUSABLE = {
    "does not parse": (
        "def process_sample(record)\n    return record\n",
        r"bad.py:1: SyntaxError: expected ':'; correct the script$",
    ),
    "bad indentation": (
        "def process_sample(record):\nreturn 1\n",
        r"bad.py:2: IndentationError: .*; correct the script$",
    ),
    "defines neither": ("def process(record): pass\n", r"bad.py: the script defines no process_sample or .*; define"),
    "defines both": (
        "def process_sample(r): pass\ndef process_samples(r): pass\n",
        r"bad.py: the script defines process_sample and process_samples; define one",
    ),
    "not a function": (
        "process_sample = 3\n",
        r"bad.py: process_sample is not a function, but of type int; define process_sample\(record\)",
    ),
    "async": ("async def process_sample(record): pass\n", r"bad.py: process_sample is async; define"),
    "takes nothing": ("def process_sample(): pass\n", r"bad.py: process_sample takes no argument; define"),
    "needs more": ("def process_sample(record, size): pass\n", r"bad.py: process_sample needs size; give it with -a"),
    "raises at once": ("x = 1\nx / 0\n", r"bad.py:2: ZeroDivisionError: division by zero; correct the script"),
    "imports what is not there": ("import no_such_module\n", r"bad.py:1: ModuleNotFoundError: .*; install it wherever"),
    "exits at once": ("import sys\nsys.exit(3)\n", r"bad.py:2: SystemExit: 3; correct the script"),
}

# Scripts that fail on the sample b/2, and what is said after URL and key.
FAILING = {
    "raises": ("raise ValueError('bad\\nlabel')", r"ValueError: bad label \(bad.py:3 in process_sample\); correct"),
    "raises deep inside": (
        "return [{}[i] for i in [7]]",
        r"KeyError: 7 \(bad.py:3 in (<listcomp>|process_sample)\); correct",
    ),
    "exits": ("raise SystemExit('enough')", r"SystemExit: enough \(bad.py:3 in process_sample\); correct"),
    "returns a number": ("return 3", r"process_sample returned int; return None, a record \(a dict\), or several"),
    "returns a text": ("return 'ab'", r"process_sample returned str; return None"),
    "returns bytes": ("return b'ab'", r"process_sample returned bytes; return None"),
    "returns True": ("return True", r"process_sample returned bool; return None"),
    "returns a list of texts": ("return ['ab']", r"a record must be a dict, not str; return None"),
    "yields and raises": ("return (1 / 0 for _ in 'a')", r"ZeroDivisionError: .*bad.py:3 in <genexpr>\); correct"),
    "gives no key": ("return {'txt': 'x'}", r"the record has no key; return it with"),
    "gives a key that is no text": ("return {'key': 7, 'txt': 'x'}", r"a key must be a str, not 7; return it with"),
    "gives an empty key": ("return {'key': '', 'txt': 'x'}", r"'' is not a valid key; a key is"),
    "gives a dotted key": ("return {'key': 'a.b', 'txt': 'x'}", r"'a.b' is not a valid key; a key is"),
    "gives no fields": ("return {'key': 'a'}", r"the record has no fields; return None to drop"),
    "gives a bad field": ("return {'key': 'a', 'x/y': b''}", r"'x/y' is not a valid name of a field; name fields like"),
    "gives a field that is no text": ("return {'key': 'a', 3: b''}", r"a field's name must be a str, not 3; name"),
    "gives what cannot be encoded": ("return {'key': 'z', 'png': 3.5}", r"a float cannot be written as .png; "),
    "gives an unknown type": (
        "return {'key': 'z', 'foo': 3}",
        r"an int cannot be written: .* no encoder for .foo; ",
    ),
    "gives None as a value": ("return {'key': 'z', 'txt': None}", r"a NoneType cannot be written as .txt; "),
    "gives a key again": ("return {'key': 'b/1', 'txt': 'x'}", r"the script returned two samples with this key; give"),
    "gives a key twice": (
        "return [{'key': 'z', 'txt': 'x'}] * 2",
        r"the script returned two samples with this key; give",
    ),
}


@pytest.fixture
def shard(folder: Path) -> Path:
    return write_shard(folder / "in.tar", [(f"b/{i}.txt", b"%d" % i) for i in range(5)])


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_script(name: str, folder: Path, shard: Path) -> None:
    text, says = UNUSABLE[name]
    (folder / "bad.py").write_text(text)
    before = snapshot(folder)
    message = check_failure("-p", "bad.py", "in.tar", "new/out.tar", cwd=folder)
    assert re.match(says, message), message
    assert snapshot(folder) == before


def test_script_that_is_not_there(folder: Path, shard: Path) -> None:
    message = check_failure("-p", "no.py", "in.tar", "out.tar", cwd=folder)
    assert message == "no.py: there is no such script; check the name"


def test_script_that_is_no_text(folder: Path, shard: Path) -> None:
    message = check_failure("-p", "in.tar", "in.tar", "out.tar", cwd=folder)
    assert re.match(r"in.tar(:\w+)?: .*(null|not Python)", message)
    (folder / "latin.py").write_bytes(b"# \xe9\n")
    message = check_failure("-p", "latin.py", "in.tar", "out.tar", cwd=folder)
    assert message == "latin.py: the script is not UTF-8 text; save it as UTF-8"


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("colour=red", r"same.py: process_sample takes no parameter colour; define process_sample\(record, colour\)"),
        ("record=1", r"same.py: .*record.*; "),
        ("size", r"-a size is not name=value; write -a size=256"),
        ("=3", r"-a =3 is not name=value; "),
        ("a b=3", r"-a a b=3 is not name=value; "),
    ],
)
def test_bad_parameter(argument: str, says: str, folder: Path, shard: Path) -> None:
    assert re.match(says, check_failure("-p", "same.py", "-a", argument, "in.tar", "out.tar", cwd=folder))
    assert "out.tar" not in snapshot(folder)


def test_parameter_twice(folder: Path, shard: Path) -> None:
    message = check_failure("-p", "same.py", "-a", "a=1", "-a", "a=2", "in.tar", "out.tar", cwd=folder)
    assert message == "-a gives a twice; give each parameter once"


def failing_script(statement: str) -> str:
    return f"def process_sample(record):\n    if record['key'] == 'b/2':\n        {statement}\n    return record\n"


@pytest.mark.parametrize("name", FAILING)
class TestFailingScript:
    def test_stops(self, name: str, folder: Path, shard: Path) -> None:
        statement, says = FAILING[name]
        (folder / "bad.py").write_text(failing_script(statement))
        (folder / "new").mkdir()
        message = check_failure("-p", "bad.py", "in.tar", "new/out.tar", cwd=folder)
        place, _, rest = message.partition("]: ")
        assert re.match(re.escape(str(shard)) + r" \[(b/2|b/1|a|z|z\.\w+)$", place), place
        assert re.match(says, rest), message
        assert snapshot(folder / "new") == {}

    def test_is_skipped(self, name: str, folder: Path, shard: Path) -> None:
        statement, says = FAILING[name]
        (folder / "bad.py").write_text(failing_script(statement))
        outcome = call("-p", "bad.py", "--on-error", "skip", "--report", "r.json", "in.tar", "new/out.tar", cwd=folder)
        assert outcome.status == 3
        line, *more = outcome.err.splitlines()
        assert not more and re.match(r"htmapper: skipped: " + re.escape(str(shard)) + r" \[(b/2|z|b/1)\]: ", line)
        assert re.match(says.partition("; ")[0], line.partition("]: ")[2])
        kept = [f"b/{i}.txt" for i in (0, 1, 3, 4)]
        assert [name for name, _ in members(folder / "new/out.tar") if name != "z.txt"] == kept
        report = json.loads((folder / "r.json").read_text())
        assert report["error"] is None
        assert report["counts"] | {"written": 0} == {
            "read": 5, "dropped": 0, "skipped": 1, "written": 0, "others": 0
        }  # fmt: skip
        [entry] = report["skipped"]
        assert line == f"htmapper: skipped: {entry['shard']} [{entry['key']}]: {entry['reason']}"


BATCHED = {
    "raises": ("    raise OSError('no')", r"OSError: no \(bad.py:4 in process_samples\); correct"),
    "yields a number": ("    yield 3", r"a record must be a dict, not int; return"),
    "yields no key": ("    yield {'txt': 'x'}", r"the record has no key; return it"),
}


@pytest.mark.parametrize("name", BATCHED)
def test_failing_batches(name: str, folder: Path, shard: Path) -> None:
    """Nobody can tell which sample it was: all of the batch are named, and skipped."""
    statement, says = BATCHED[name]
    (folder / "bad.py").write_text(
        f"def process_samples(records):\n    for record in records:\n        pass\n{statement}\n"
    )
    message = check_failure("-p", "bad.py", "in.tar", "out.tar", cwd=folder)
    place, _, rest = message.partition("]: ")
    assert place == f"{shard} [b/0 … b/4"
    assert re.match(says, rest), message
    outcome = call("-p", "bad.py", "--on-error", "skip", "in.tar", "out.tar", cwd=folder)
    assert outcome.status == 3
    assert "0 samples," in outcome.out and "5 samples skipped" in outcome.out
    assert len(outcome.err.splitlines()) == 5
    assert members(folder / "out.tar") == []


@pytest.mark.parametrize("returned", ["3", "None", "record", "b'x'"])
def test_batched_script_that_returns_no_records(returned: str, folder: Path, shard: Path) -> None:
    (folder / "bad.py").write_text(
        f"def process_samples(records):\n    record = next(records)\n    return {returned}\n"
    )
    message = check_failure("-p", "bad.py", "in.tar", "out.tar", cwd=folder)
    assert re.search(r"\]: process_samples returned \w+; yield records \(dicts\) from it$", message)


def test_traceback_shows_the_script(folder: Path, shard: Path) -> None:
    (folder / "bad.py").write_text(failing_script("raise ValueError(record['txt'])  # this very line"))
    for cluster in ("threads", "processes"):
        outcome = call("-v", "-c", cluster, "-p", "bad.py", "in.tar", "out.tar", cwd=folder)
        assert outcome.status == 1
        assert 'File "bad.py", line 3, in process_sample' in outcome.err
        assert "raise ValueError(record['txt'])  # this very line" in outcome.err


def test_only_the_first_skipped_are_told(folder: Path, shard: Path) -> None:
    (folder / "bad.py").write_text("def process_sample(record):\n    raise ValueError('no')\n")
    write_shard(folder / "in.tar", [(f"{i}.txt", b"") for i in range(1200)])
    outcome = call("-p", "bad.py", "--on-error", "skip", "in.tar", "out.tar", cwd=folder)
    assert outcome.status == 3
    lines = outcome.err.splitlines()
    assert len(lines) == 6
    assert lines[-1] == "htmapper: skipped: 1,195 more; --report FILE lists them all"
    outcome = call(
        "-p", "bad.py", "--on-error", "skip", "--overwrite", "--report", "r.json", "in.tar", "out.tar", cwd=folder
    )
    assert outcome.err.splitlines()[-1] == "htmapper: skipped: 1,195 more; see r.json"
    assert len(json.loads((folder / "r.json").read_text())["skipped"]) == 1200
