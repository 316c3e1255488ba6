"""The tree of exceptions: as documented, whole after pickling, one line each, without secrets."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from shardtools import errors
from shardtools.errors import NotFoundError, ShardtoolsError, redact

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, ShardtoolsError)]


def documented() -> dict[str, tuple[str | None, str | None]]:
    """Return each class of the docstring's tree with its parent there and the builtin in parentheses."""
    found: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:[│├└─ ]{4})*)([A-Z]\w+Error)(?: +\((\w+)\))?", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            found[match[2]] = (path[depth - 1] if depth else None, match[3])
    return found


def test_the_docstring_shows_the_tree() -> None:
    actual = {}
    for cls in CLASSES:
        own = [base.__name__ for base in cls.__bases__ if base.__module__ == "shardtools.errors"]
        builtin = [base.__name__ for base in cls.__bases__ if base.__module__ == "builtins" and base is not Exception]
        assert len(own) <= 1 and len(builtin) <= 1, cls
        actual[cls.__name__] = (own[0] if own else None, builtin[0] if builtin else None)
    assert documented() == actual
    assert len(actual) > 15


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_says_what_it_means(cls: type[ShardtoolsError]) -> None:
    assert cls.__doc__ and cls.__doc__.strip().endswith(".")


@pytest.mark.parametrize("cls", CLASSES)
def test_pickled_and_copied_whole(cls: type[ShardtoolsError]) -> None:
    error = cls("what is wrong", url="/d/a.tar", member="k.png", fix="mend it")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is cls
        assert (twin.what, twin.url, twin.member, twin.fix) == ("what is wrong", "/d/a.tar", "k.png", "mend it")
        assert str(twin) == str(error) == "/d/a.tar [k.png]: what is wrong; mend it"
        assert twin.args == error.args


def raise_error() -> None:
    raise NotFoundError("there is no such object", url="http://me:pw@h/a", member="m", fix="check the name")


def test_crosses_processes() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(FileNotFoundError) as caught:
        pool.submit(raise_error).result()
    assert str(caught.value) == "http://h/a [m]: there is no such object; check the name"
    assert isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize("cls", CLASSES)
def test_repr_names_the_class_and_the_matter(cls: type[ShardtoolsError]) -> None:
    assert repr(cls("what is wrong", url="http://me:pw@h/a")) == f"{cls.__name__}('what is wrong')"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "it broke"),
        ({"url": "/a"}, "/a: it broke"),
        ({"member": "k.png"}, "[k.png]: it broke"),
        ({"fix": "mend it"}, "it broke; mend it"),
        ({"url": "/a", "member": "k", "fix": "mend it"}, "/a [k]: it broke; mend it"),
        ({"url": "/a\nb", "member": "k\t\nl", "fix": "mend\n\nit"}, "/a b [k l]: it broke; mend it"),
    ],
)
def test_reads_as_one_line(given: dict[str, str], text: str) -> None:
    assert str(ShardtoolsError("it\n  broke", **given)) == text


def test_at_fills_in_the_place() -> None:
    error = NotFoundError("gone", fix="check").at(url="http://me:pw@h/a", member="m")
    assert (type(error), str(error)) == (NotFoundError, "http://h/a [m]: gone; check")
    assert str(error.at(url="/other", member="n")) == str(error)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:pw@host/a", "http://host/a"),
        ("HTTPS://me:p%40w@host:81/d/a@3.tar?X-Amz-Signature=abc#f", "https://host:81/d/a@3.tar"),
        ("http://me:p@w@host/a", "http://host/a"),
        ("http://token@[::1]:80/a?k=v", "http://[::1]:80/a"),
        ("http://me:pw@[::1/a", "http://…"),
        ("http://host/a", "http://host/a"),
        ("s3://bucket/a?b#c@3.tar", "s3://bucket/a?b#c@3.tar"),
        ("/d/me@host/a?b", "/d/me@host/a?b"),
        ("-", "-"),
        ("", ""),
    ],
)
def test_secrets_of_a_url_are_left_out(url: str, shown: str) -> None:
    assert redact(url) == shown
    error = NotFoundError("gone", url=url)
    assert error.url == shown
    for text in (str(error), repr(error), repr(error.__dict__), str(pickle.dumps(error))):
        for secret in ("pw", "p%40w", "p@w", "token@", "Signature", "k=v"):
            assert secret not in text
    assert redact(shown) == shown


def test_os_errors_can_be_caught_as_such() -> None:
    error = errors.FullError("no space left", url="/a")
    assert isinstance(error, OSError)
    assert error.errno is None and errno.ENOSPC
    with pytest.raises(OSError, match="/a: no space left"):
        raise error


def test_no_password_of_a_spec_is_told() -> None:
    for spec in (
        "b.tar::http://me:s3cr3t@host/x",
        "{http://me:s3cr3t@h/a,http://me:s3cr3t@h/b}.tar",
        "http://me:s3cr3t@[::1]/x",
    ):
        assert "s3cr3t" not in str(errors.SpecError("the destination must be a single URL", url=spec))
