"""The direction of the arrows: what a layer may import, and what importing it may load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import shardtools

BASE = [
    "schemes",
    "redaction",
    "errors",
    "types",
    "forks",
    "lru",
    "limits",
    "units",
    "json_text",
    "processors",
    "urls",
    "spec",
    "storage",
    "shards",
    "engine",
    "log",
    "query",
]
READING = ["dataset", "view", "loader", "torch", "tensorflow", "reading"]
WRITING = ["sources", "jobs"]
TOP = ["arrays", "viewer", "programs", "cli", "__main__"]
LAYERS = BASE + READING + WRITING + TOP
DOTTED = re.compile(r"shardtools(\.\w+)+")
ROOT = Path(shardtools.__file__).parent
HEAVY = {
    "dask",
    "distributed",
    "requests",
    "botocore",
    "numpy",
    "PIL",
    "zstandard",
    "isal",
    "webdataset",
    "torch",
    "zarr",
    "duckdb",
}


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def allowed_for(layer: str) -> set[str]:
    """Give the layers that one may import: itself, and those before it, but the two wings do not know each other."""
    for wing in (READING, WRITING):
        if layer in wing:
            return {*BASE, *wing[: wing.index(layer) + 1]}
    return set(LAYERS[: LAYERS.index(layer) + 1])


def imports_of(path: Path) -> Iterator[str]:
    """Give the layers that a module imports, wherever in it: also those whose dotted names it has as texts."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # what import_module is called with
            names = [node.value] if DOTTED.fullmatch(node.value) else []
        yield from (name.split(".")[1] for name in names if name.startswith("shardtools."))


def test_each_layer_imports_only_from_those_before_it() -> None:
    modules = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert {layer_of(path) for path in modules} == set(LAYERS)
    for path in modules:
        allowed = {*allowed_for(layer_of(path)), "__version__"}
        assert set(imports_of(path)) <= allowed, path.relative_to(ROOT)


def test_each_folder_of_modules_is_a_package() -> None:
    """Else an installed copy lacks it, which a checkout does not show."""
    folders = {path.parent for path in ROOT.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_names_given_to_import_module_are_followed(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('_LAZY = {"open": "shardtools.view.field_view"}\nimport_module(_LAZY["open"])\n')
    assert list(imports_of(module)) == ["view"]


def test_the_package_itself_imports_only_when_asked() -> None:
    code = "import sys, shardtools; print(*(name for name in sys.modules if name.startswith('shardtools.')))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("shardtools", HEAVY),
        ("shardtools.errors", HEAVY),
        ("shardtools.urls", HEAVY),
        ("shardtools.spec", HEAVY),
        ("shardtools.storage", HEAVY),
        ("shardtools.engine", HEAVY),
        ("shardtools.jobs.script", HEAVY),
        ("shardtools.engine.threads", HEAVY - {"dask"}),
        ("shardtools.cli.htmapper", HEAVY),
    ],
)
def test_importing_is_cheap(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert module in loaded
    assert heavy & set(loaded) == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports at the top of modules alone: what is imported within a function is asked for when all are there."""
    modules = {
        ".".join(("shardtools", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {name: set(_modules_imported(path, modules)) - {name} for name, path in modules.items()}
    TopologicalSorter(graph).prepare()


def _modules_imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                yield from (found for found in (name, name.rpartition(".")[0]) if found in modules)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
