"""Nothing needs what Linux alone has: the same work in a process whose Python lacks all of that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets import members, write_shard, written_dataset
from tests.servers import NginxServer

LACKS = """
import mmap, os, sys

for name in (
    "O_TMPFILE copy_file_range eventfd memfd_create pidfd_open posix_fadvise posix_fallocate preadv process_cpu_count"
    " pwritev sched_getaffinity sched_setaffinity sendfile setns splice unshare"
).split():
    if hasattr(os, name):
        delattr(os, name)
for name in [name for name in dir(mmap) if name == "MAP_POPULATE" or name.startswith("MADV_")]:
    delattr(mmap, name)
for name in ("exists", "isdir"):
    real = getattr(os.path, name)
    setattr(os.path, name, lambda path, real=real: not str(path).startswith("/proc") and real(path))
"""
"""What makes an interpreter one of a system that is not Linux, as far as that can be done on Linux."""

WORK = (
    LACKS
    + """
from importlib import import_module
import shardtools as st
from shardtools.processors import processors
from shardtools.torch import ShardBatches

def command(program, *arguments):
    main = import_module(f"shardtools.cli.{program}").main
    try:
        main(list(arguments))
    except SystemExit as exit:
        assert not exit.code, (program, exit.code)

place = sys.argv[1]
assert processors() == os.cpu_count()
command("htmapper", "-q", "-p", "same.py", "in-@2.tar", f"{place}map-@2.tgz")
command("htshuffle", "-q", "--seed", "1", f"{place}map-@2.tgz", f"{place}mixed-@3.tar")
command("htupload", "-q", "packed.tgz", f"{place}files-@2.tar")
dataset = st.open(f"{place}mixed-@3.tar")
print(len(dataset), int(dataset.view("cls").sum()), sum(dataset[i]["cls"] == b"1" for i in range(40)))
loader = ShardBatches(f"{place}mixed-@3.tar", fields=("cls", "bin"), decode=None, shuffle=True, batch_size=7)
print(sum(len(batch[0]) for batch in loader))
"""
)


@pytest.mark.parametrize("where", ["disk", "server"])
def test_the_same_work_without_what_linux_alone_has(where: str, nginx: NginxServer, tmp_path: Path) -> None:
    rows = [[{"key": f"{s}/{i}", "cls": i % 2, "bin": bytes([i]) * 300_000} for i in range(20)] for s in range(2)]
    written_dataset(tmp_path, "in-@2.tar", rows)  # shards of 6 MB: a server gets them from a temporary file
    write_shard(tmp_path / "packed.tgz", [("a.txt", b"1"), ("b.txt", b"2")])
    (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
    place = nginx.url if where == "server" else f"{tmp_path}/"
    command = [sys.executable, "-c", WORK, place]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "40 20 20\n40\n", "")
    root = nginx.root if where == "server" else tmp_path
    assert [members(root / f"files-{i}.tar") for i in range(2)] == [[("a.txt", b"1")], [("b.txt", b"2")]]
