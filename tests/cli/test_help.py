"""What the commands say of themselves, and what the README says of them."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def console_scripts() -> list[str]:
    """Return the names of the commands that the package installs."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    return [line.partition("=")[0].strip() for line in lines]


def help_of(command: str, flag: str = "--help") -> str:
    path = str(Path(sys.executable).parent / command)
    done = subprocess.run([path, flag], capture_output=True, check=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def options_of(command: str) -> str:
    """Return what the help says of options; of a command with commands of its own, what theirs says."""
    text = help_of(command).partition("Examples:")[0]
    options, _, commands = text.partition("Options:")[2].partition("\nCommands:\n")
    for name in re.findall(r"^  (\w+)", commands, re.MULTILINE):
        path = str(Path(sys.executable).parent / command)
        done = subprocess.run([path, name, "-h"], capture_output=True, check=True, text=True, timeout=60)
        options += done.stdout.partition("Options:")[2]
    return options


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))


def section_of(title: str) -> str:
    """Return a section of the README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("command", console_scripts())
class TestEveryCommand:
    def test_help_has_an_example_and_every_option_a_text(self, command: str) -> None:
        text = help_of(command)
        assert text.startswith(f"Usage: {command} ")
        assert re.search(rf"^ +{command} \S.*\S$", text.partition("Examples:")[2], re.MULTILINE)
        assert "Exit status: 0 done, 1 failed, 2 usage" in text
        options = text.partition("Options:\n")[2].partition("\n\n")[0]
        for entry in re.split(r"\n(?=  -)", options):
            assert re.search(r"\s{2,}[A-Z].*\.", entry, re.DOTALL), entry
        assert max(map(len, text.splitlines())) <= 110
        assert help_of(command, "-h") == text

    def test_readme_names_it(self, command: str) -> None:
        assert f"`{command}`" in README and re.search(rf"^    {command} ", README, re.MULTILINE)

    def test_readme_and_help_know_the_same_options(self, command: str) -> None:
        """Those that every program has, such as --help, need no word in the README."""
        options = options_of(command)
        offered = options_in(options)
        section, shared = section_of(command), section_of("What all commands share")
        named = options_in(section)
        assert named and named <= offered
        told = named | options_in(shared)
        assert offered - told <= {
            "--script",
            "--arg",
            "--cluster",
            "--jobs",
            "--quiet",
            "--verbose",
            "--version",
            "--help",
        }
        for short in set(re.findall(r"^  (-[a-z]),", options, re.MULTILINE)) - {"-h", "-q"}:
            assert re.search(rf"[` ]{short}[` ]", section + shared), short

    def test_help_imports_nothing_heavy(self, command: str) -> None:
        code = (
            "import json, runpy, sys\n"
            f"sys.argv = [{command!r}, '--help']\n"
            "sys.stdout, real = sys.stderr, sys.stdout\n"
            "try:\n"
            f"    from shardtools.cli.{command} import main; main()\n"
            "except SystemExit:\n"
            "    json.dump(sorted(sys.modules), real)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
        assert "Usage:" in done.stderr
        loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
        heavy = {
            "dask",
            "distributed",
            "numpy",
            "requests",
            "urllib3",
            "isal",
            "zstandard",
            "PIL",
            "tqdm",
            "boto3",
            "botocore",
        }
        assert "shardtools" in loaded and not loaded & heavy


def test_import_of_the_package_is_cheap() -> None:
    code = "import sys, shardtools; print(len([n for n in sys.modules if n.startswith('shardtools')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
    assert done.stdout == "1\n"
