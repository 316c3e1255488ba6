"""What every scheme of a server has, whoever adds it: a storage, a name in errors, and no password that is shown."""

from __future__ import annotations

import pytest

from shardtools.errors import SpecError
from shardtools.redaction import redact
from shardtools.schemes import SERVERS
from shardtools.storage import Storage, get_storage
from shardtools.urls import scheme_of


@pytest.mark.parametrize("scheme", SERVERS)
class TestEveryScheme:
    def test_it_has_a_storage(self, scheme: str) -> None:
        storage = get_storage(f"{scheme}://host/a.tar")
        assert isinstance(storage, Storage) and storage is get_storage(f"{scheme.upper()}://host/b.tar")

    def test_without_its_slashes_it_is_an_error(self, scheme: str) -> None:
        with pytest.raises(SpecError, match=f"write {scheme}://"):
            scheme_of(f"{scheme}:bucket/a.tar")

    @pytest.mark.parametrize("slashes", ["", "/", "//"])
    def test_no_password_is_shown(self, scheme: str, slashes: str) -> None:
        assert redact(f"{scheme}:{slashes}me:secret@host/a.tar") == f"{scheme}:{slashes}host/a.tar"


def test_an_error_names_all_that_have_a_storage() -> None:
    known = ", ".join(f"{scheme}:" for scheme in sorted((*SERVERS, "file")))
    with pytest.raises(SpecError, match=f"use a path or one of {known}$"):
        get_storage("nope://host/a.tar")
