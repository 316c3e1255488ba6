"""What README.md and docs/ link to is there: files, headings, and modules that they name."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from shardtools.shards.fields import EXTENSIONS
from tests.unit.test_layers import LAYERS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "nginx" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPages:
    def test_links_lead_somewhere(self, page: Path) -> None:
        assert find_broken_links(page) == []

    def test_files_that_it_names_exist(self, page: Path) -> None:
        folders = "shardtools|scripts|examples|docs|nginx|deploy|tests"
        named = re.findall(rf"`((?:{folders})/[\w./-]*)[ `]", page.read_text("utf-8"))
        assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_map_has_every_layer() -> None:
    drawing = (ROOT / "docs" / "map.md").read_text("utf-8").split("```")[1]
    assert [layer for layer in LAYERS if not re.search(rf"\b{layer}\b", drawing)] == []


def test_formats_has_every_extension_that_is_encoded() -> None:
    table = (
        (ROOT / "docs" / "formats.md").read_text("utf-8").partition("\n## Values of fields\n")[2].partition("\n## ")[0]
    )
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(EXTENSIONS)


def packages_of(text: str) -> set[str]:
    """Return the names of the packages in lines of requirements."""
    return set(re.findall(r"^\s*([\w-]+)", text, re.MULTILINE))


def test_the_changelog_says_what_each_dependency_is_for() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    needed, extras = packages_of(config["options"]["install_requires"]), config["options.extras_require"]
    page = (ROOT / "CHANGELOG.md").read_text("utf-8").partition("\n### Dependencies\n")[2]
    first, second = ([line for line in part.splitlines() if line[0:1] == "|"] for part in page.split("\nThe extras "))
    assert {name for line in first for name in re.findall(r"`([\w-]+)`", line.split("|")[1])} == needed
    named = {name for line in second for name in re.findall(r"`([\w-]+)`", line.split("|")[2])}
    assert named == set().union(*map(packages_of, extras.values()))
    assert {name for line in second for name in re.findall(r"`([\w-]+)`", line.split("|")[1])} == set(extras)


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# Head line\n[1](#head-line) [2](#other) [3](a.md#head-line) [4](b.md) [5](http://host/b.md)\n")
    assert find_broken_links(page) == ["#other", "b.md"]
