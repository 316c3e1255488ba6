"""What a hub and its arrays look like in a notebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import shardtools as st
from shardtools.arrays.hub_shown import ARRAYS

ATTACK = "<script>alert(1)</script>"


def test_a_hub_shows_its_arrays_and_an_array_its_facts(tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"), single_writer=True)
    assert "there are no arrays here" in hub._repr_html_()
    array = hub.array("deep/x", shape=(3, 2000), chunks=(1, 500), dtype="int16", dimension_names=(ATTACK, "t"))
    array.set_attrs({"of": ATTACK})
    page = hub._repr_html_()
    cells = ["deep/x", "3 × 2,000", "int16", "1 × 500", f"{array.version}"]
    assert all(f">{cell}</td>" in page for cell in cells) and "and more" not in page
    shown = array._repr_html_()
    assert f"HubArray deep/x:{array.version}" in shown and "12.0 kB" in shown
    assert shown.count("&lt;script&gt;") == 2 and "<script" not in shown


def test_of_many_arrays_the_first_are_shown(tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"), single_writer=True)
    with hub.transaction() as transaction:
        for number in range(ARRAYS + 5):
            transaction.array(f"a{number:03d}", shape=(), dtype="u1")
    page = hub._repr_html_()
    assert page.count("a number") == 2 * ARRAYS and f"a{ARRAYS - 1:03d}" in page
    assert "and more" in page and f"a{ARRAYS:03d}" not in page


def test_what_is_not_there_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(st.ShardtoolsError, match="there are no arrays here"):
        st.hub(str(tmp_path / "nothing")).show()


def test_the_link_of_an_array_has_its_version(tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"), single_writer=True)
    array = hub.array("deep/x", like=np.arange(6).reshape(2, 3))
    assert array.show().url == f"{hub.show().url}&arrays/deep%2Fx&version={array.version.replace('@', '%40')}"
