"""What the README shows of htmapper works as it stands there, in a fresh folder with nothing else."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from pathlib import Path

import pytest

from shardtools.spec import Destination, expand
from shardtools.storage import get_storage
from tests.cli.command import run
from tests.dask_cluster import dask_cluster
from tests.datasets import members, write_shard
from tests.gcs_servers import gcs_emulator, use_environment
from tests.servers import nginx_server

README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
SECTION = README.partition("\n## htmapper\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
COMMANDS = re.findall(r"^    (htmapper .*)$", SECTION, re.MULTILINE)


def files(shard: int) -> list[tuple[str, bytes]]:
    """Return the members of a shard of which every second sample has all that the README's script needs."""
    found = []
    for i in range(4):
        names = ["bin.png", "lines.png", "txt"] if i % 2 == 0 else ["lines.png", "txt"]
        found += [(f"{shard}/{i}.{name}", f"{shard} {i} {name}".encode()) for name in names]
    return found


def test_first_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command as it is written, but for the addresses and, since a thousand shards take long, their number."""
    [command] = COMMANDS
    root, work = tmp_path / "root", tmp_path / "work"
    root.mkdir()
    work.mkdir()
    (work / "script.py").write_text(BLOCKS[0])
    with ExitStack() as stack:
        server = stack.enter_context(nginx_server(root))
        use_environment(monkeypatch, {"STORAGE_EMULATOR_HOST": stack.enter_context(gcs_emulator("bucket"))})
        cluster = stack.enter_context(dask_cluster(workers=2))
        for i in range(3):
            write_shard(tmp_path / f"{i}.tgz", files(i))
            with get_storage("gs://").create(f"gs://bucket/Volume_{i}.tgz") as sink:
                sink.write((tmp_path / f"{i}.tgz").read_bytes())
        program, *arguments = shlex.split(command)
        assert program == "htmapper"
        replaced = [
            argument.replace("localhost:8786", cluster.address).replace("http://host/", server.url).replace("1000", "3")
            for argument in arguments
        ]
        assert sum(a != b for a, b in zip(arguments, replaced, strict=True)) == 3
        outcome = run(*replaced, cwd=work)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{server.url}processed-@3.tgz: 3 shards, 6 samples, ")
    assert [path.name for path in work.iterdir()] == ["script.py"]
    for i in range(3):
        assert members(root / f"processed-{i}.tgz") == [
            (f"{i}/{j}.{new}", f"{i} {j} {old}".encode())
            for j in (0, 2)
            for new, old in (("lines.png", "lines.png"), ("png", "bin.png"))
        ]


def test_specs() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", README.partition("\n## Naming shards\n")[2], re.MULTILINE)
    specs = {spec: told for spec, told in rows if ".tar" in spec or ".tgz" in spec}
    assert len(specs) >= 6
    for spec, told in specs.items():
        if "@auto" in spec:
            assert Destination(spec).resolve(7).urls()[6].endswith("out-000006.tar")
            continue
        urls = [url.rpartition("/")[2] for url in expand(spec, lambda prefix: [f"{prefix}1.tar", f"{prefix}2.tar"])]
        for named in re.findall(r"`([^`]+)`", told):
            assert named in urls
        assert len(urls) == {"train-@000012.tar": 12, "train-@1000.tgz": 1000, "train-*.tar": 2}.get(spec, len(urls))
    assert len(expand("{train,val}-{000..123}.tar")) == 248
