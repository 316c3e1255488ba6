"""htupload as a user types it: layouts, options, what it says, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.cli.command import Argument, Outcome, call, check_failure, path_of
from tests.cli.test_progress import on_terminal
from tests.datasets import members, parts_of, snapshot
from tests.tars import Member, make_tar
from tests.unit.test_source_folder import write_tree

COUNT = 30
TREE = {
    f"{'cat' if i % 3 else 'dog'}/{i:02d}.{field}": b"%d-" % i * (i + 1)
    for i in range(COUNT)
    for field in ("jpg", "txt")
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which ``in`` holds 30 samples of two fields."""
    write_tree(tmp_path / "in", TREE)
    return tmp_path


def upload(folder: Path, *arguments: Argument) -> Outcome:
    """Run a command that succeeds."""
    outcome = call(*arguments, cwd=folder, program="htupload")
    assert outcome.status == 0, outcome
    return outcome


def refused(folder: Path, *arguments: Argument, status: int = 2) -> str:
    """Run a command that fails before it has written anything, and return its message."""
    before = snapshot(folder)
    message = check_failure(*arguments, cwd=folder, status=status, program="htupload")
    assert snapshot(folder) == before
    return message


def shards(folder: Path, spec: str) -> list[dict[str, bytes]]:
    """Return the members of each shard of ``name-@N.tar``."""
    name, count, ending = re.fullmatch(r"(.*)@(\d+)\.(.*)", spec).groups()  # type: ignore[union-attr]
    found = [dict(members(folder / f"{name}{i:0{len(count)}d}.{ending}")) for i in range(int(count))]
    assert sum(map(len, found)) == len(set().union(*found))
    return found


def merged(found: list[dict[str, bytes]]) -> dict[str, bytes]:
    return {name: data for shard in found for name, data in shard.items()}


def keys_of(shard: dict[str, bytes]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in shard))


def test_folder_becomes_shards_of_equal_counts(folder: Path) -> None:
    outcome = upload(folder, "in", "out-@4.tar")
    assert re.fullmatch(rf"{folder}/out-@4.tar: 4 shards, 30 samples, [\d.]+ kB in [\d.]+ s\n", outcome.out)
    assert outcome.err == ""
    found = shards(folder, "out-@4.tar")
    assert merged(found) == TREE
    assert [len(shard) // 2 for shard in found] == [7, 8, 7, 8]
    assert [key for shard in found for key in keys_of(shard)] == sorted(name[:-4] for name in TREE if name[-1] == "g")
    assert set(snapshot(folder)) - set(snapshot(folder / "in")) >= parts_of("out", shards=4)
    manifest = json.loads((folder / "out-@4.tar.json").read_text())
    assert manifest["nsamples"] == COUNT and manifest["fields"] == {"jpg": COUNT, "txt": COUNT}
    assert manifest["job"] == {"program": "htupload", "sources": [f"{folder}/in"]}


@pytest.mark.parametrize("ending", ["tgz", "tar.gz", "tar.zst"])
def test_packed_shards(folder: Path, ending: str) -> None:
    upload(folder, "in", f"out-@3.{ending}")
    assert merged(shards(folder, f"out-@3.{ending}")) == TREE


def test_one_shard_and_standard_output(folder: Path) -> None:
    upload(folder, "in", "out.tar")
    done = subprocess.run([path_of("htupload"), "in", "-"], cwd=folder, capture_output=True, check=True, timeout=60)
    assert done.stdout == (folder / "out.tar").read_bytes()
    assert re.fullmatch(rb"-: 1 shard, 30 samples, .*\n", done.stderr)


def test_reader_that_goes_away(folder: Path) -> None:
    write_tree(folder / "in", {f"big/{i}.bin": bytes(100_000) for i in range(50)})
    code = f"{path_of('htupload')} in - | head -c 1000 | wc -c; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], cwd=folder, capture_output=True, check=True, text=True, timeout=60)
    assert done.stdout == "1000\n1\n"
    assert done.stderr == "htupload: error: -: whatever read this pipe has closed it; let it read to the end\n"


def test_auto_by_count_and_by_size(folder: Path) -> None:
    outcome = upload(folder, "in", "a-@auto.tar", "--shard-count", "8")
    assert outcome.out.startswith(f"{folder}/a-@000004.tar: 4 shards, 30 samples")
    assert [len(shard) // 2 for shard in shards(folder, "a-@000004.tar")] == [7, 8, 7, 8]
    outcome = upload(folder, "in", "b-@auto.tar", "--shard-size", "30kB")
    spec = re.match(rf"{folder}/(b-@\d+.tar): ", outcome.out)[1]  # type: ignore[index]
    assert merged(shards(folder, spec)) == TREE
    sizes = [path.stat().st_size for path in folder.glob("b-0*.tar")]
    assert max(sizes) <= 30_000 and min(sizes) > 10_000 and len(sizes) == 4


def test_manifest_and_spec_agree_for_auto(folder: Path) -> None:
    upload(folder, "in", "a-@auto.tgz", "--shard-count", "10")
    assert json.loads((folder / "a-@000003.tgz.json").read_text())["nsamples"] == COUNT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "a-@auto.tar"], "@auto needs a size of the shards; use @auto with --shard-size or --shard-count"),
        (["in", "a-@4.tar", "--shard-count", "3"], "the number of shards is given twice"),
        (["in", "a-@auto.tar", "--shard-count", "3", "--shard-size", "1MB"], "not both"),
        (["in", "a-@auto.tar", "--shard-size", "much"], "--shard-size much: not a valid size; write it as 500MB"),
        (["in", "a-@auto.tar", "--shard-size", "0"], "not a valid size"),
        (
            ["in", "a-@auto.tar", "--shard-size", "10kB"],
            "does not fit into a shard of 10,000 bytes; raise --shard-size",
        ),
        (["in", "a-@100.tar"], "30 samples do not fill 100 shards; make fewer shards"),
        (["in", "a-@4.zip"], "not the name of a shard; end it with one of .tar"),
        (["in", "in/a-@4.tar"], "the output would lie in the folder that is uploaded"),
        (["in", "a.tar", "--shuffle", "--seed", "-1"], "-1 cannot be a seed"),
        (["in", "a.tar", "--split", "train=1"], "{split} and --split go together"),
        (["in", "{split}.tar"], "{split} and --split go together"),
        (["in", "{split}.tar", "--split", "train=0.9,val=0.2"], "the shares of the splits add up to 1.1, not 1"),
        (["in", "{split}.tar", "--split", "train=0.9,train=0.1"], "the split train=0.9 makes no sense"),
        (["in", "{split}.tar", "--split", "a/b=0.9,b=0.1"], "the split a/b=0.9 makes no sense"),
        (["in", "{split}.tar", "--split", "a=1.5,b=-0.5"], "the split a=1.5 makes no sense"),
        (["in", "{split}.tar", "--split", "train"], "--split train: not of the form NAME=SHARE"),
        (["in", "{split}.tar", "--split", "train=most"], "a share must be a number"),
        (["in", "{split}.tar", "--split", "a=0.9999999,b=1e-7"], "the split b gets no samples"),
        (["in", "a.tar", "--rename", "jpeg"], "--rename jpeg: not of the form OLD=NEW"),
        (["in", "a.tar", "--rename", "jpeg=jpg"], "no file has the field jpeg; the fields are jpg, txt"),
        (["in", "a.tar", "--file", "jpg=path"], "--file does not apply to a folder"),
        (["in", "a.tar", "--key", "id"], "'id' is not a rule for the keys of files"),
        (["in", "a.tar", "--include", "*.png"], "there are no files to upload"),
        (["in/cat/01.jpg", "a.tar"], "htupload cannot read this kind of source"),
        (["in", "in", "a.tar"], "this source is named twice"),
        (["in", "-", "-c", "processes"], "standard output is not on the cluster"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    assert message in refused(folder, *arguments)


@pytest.mark.parametrize(
    ("name", "message"), [("none", "no such file or folder"), ("none.zip", "there is no such file")]
)
def test_sources_that_are_not_there(folder: Path, name: str, message: str) -> None:
    assert message in refused(folder, name, "a.tar", status=1)


def test_empty_folder(folder: Path) -> None:
    (folder / "empty").mkdir()
    assert refused(folder, "empty", "a.tar").startswith(f"{folder}/empty: there are no files to upload; ")


def test_existing_outputs_are_refused_before_any_work(folder: Path) -> None:
    upload(folder, "in", "out-@4.tar")
    assert "the output exists (and 8 more); use --resume" in refused(folder, "in", "out-@4.tar", status=1)
    upload(folder, "--overwrite", "--key", "number", "in", "out-@4.tar")
    assert keys_of(shards(folder, "out-@4.tar")[0])[0] == "000000000"


def test_resume_keeps_what_is_complete(folder: Path) -> None:
    upload(folder, "in", "out-@4.tar")
    before = snapshot(folder)
    (folder / "out-2.tar").unlink()
    outcome = upload(folder, "--resume", "in", "out-@4.tar")
    assert "4 shards, 30 samples" in outcome.out and "3 shards there already" in outcome.out
    assert snapshot(folder) == before
    os.utime(folder / "in" / "cat" / "01.jpg", (1, 1))
    message = refused(folder, "--resume", "in", "out-@4.tar", status=1)
    assert message.startswith(f"{folder}/out-0.tar: another job made this shard: another script or function,")
    upload(folder, "--resume", "--overwrite", "in", "out-@4.tar")
    assert merged(shards(folder, "out-@4.tar")) == TREE


def test_class_from_folder(folder: Path) -> None:
    upload(folder, "--class-from-folder", "in", "out-@4.tar")
    found = merged(shards(folder, "out-@4.tar"))
    assert {name: found[name] for name in TREE} == TREE
    for name in TREE:
        assert found[f"{name[:-4]}.cls"] == (b"0" if name.startswith("cat/") else b"1")
    assert json.loads((folder / "out-@4.tar.json").read_text())["classes"] == ["cat", "dog"]


def test_include_exclude_rename_and_keys(folder: Path) -> None:
    upload(folder, "--include", "*.jpg", "--exclude", "dog/*", "--rename", "jpg=png", "--key", "name", "in", "out.tar")
    expected = {name[4:].replace("jpg", "png"): data for name, data in TREE.items() if re.fullmatch("cat/.*jpg", name)}
    assert dict(members(folder / "out.tar")) == expected


def test_names_that_collide(folder: Path) -> None:
    write_tree(folder / "in", {"dog/01.jpg": b"x"})
    message = refused(folder, "--key", "name", "in", "out.tar", status=1)
    assert f"two samples have this key: {folder}/in/cat/01.jpg and {folder}/in/dog/01.jpg" in message


def test_two_files_for_one_field(folder: Path) -> None:
    write_tree(folder / "in", {"cat/01.jpeg": b"x"})
    arguments = ("--rename", "jpeg=jpg", "in", "out.tar")
    message = check_failure(*arguments, cwd=folder, program="htupload")
    assert message == (f"{folder}/in/cat/01.jpg: two files of the sample have the field jpg; rename one of them")
    outcome = call("--on-error", "skip", *arguments, cwd=folder, program="htupload")
    assert outcome.status == 3 and "29 samples" in outcome.out and "1 sample skipped" in outcome.out
    assert outcome.err == f"htupload: skipped: {folder}/in [cat/01]: {message}\n"


def test_shuffle_depends_on_the_seed_alone(folder: Path) -> None:
    def order(*options: str) -> list[str]:
        upload(folder, "--overwrite", "--shuffle", *options, "in", "s-@3.tar")
        found = shards(folder, "s-@3.tar")
        assert merged(found) == TREE
        return [key for shard in found for key in keys_of(shard)]

    first = order("--seed", "1")
    assert first == order("--seed", "1", "-j", "1") != sorted(first)
    assert order("--seed", "2") != first
    assert order() == order("--seed", "0")
    assert json.loads((folder / "s-@3.tar.json").read_text())["job"]["seed"] == 0


def split_of(folder: Path, *options: str) -> dict[str, str]:
    """Return the split of each key."""
    arguments = ("--split", "train=0.6,val=0.4", *options, "in", "{split}-@auto.tar", "--shard-count", "4")
    upload(folder, "--overwrite", *arguments)
    found = {}
    for name in ("train", "val"):
        for path in folder.glob(f"{name}-0*.tar"):
            found.update(dict.fromkeys(keys_of(dict(members(path))), name))
            path.unlink()
    return found


def test_split_of_a_sample_does_not_depend_on_the_others(folder: Path) -> None:
    whole = split_of(folder)
    assert len(whole) == COUNT and set(whole.values()) == {"train", "val"}
    shutil.rmtree(folder / "in" / "dog")
    write_tree(folder / "in", {f"cow/{i}.jpg": b"" for i in range(10)})
    fewer = split_of(folder, "--shuffle")
    assert {key: name for key, name in fewer.items() if key in whole} == {
        key: name for key, name in whole.items() if key.startswith("cat/")
    }
    assert split_of(folder, "--seed", "1") != fewer


def test_split_shares(folder: Path) -> None:
    write_tree(folder / "many", {f"{i}.txt": b"" for i in range(2000)})
    outcome = upload(folder, "--split", "train=0.9,val=0.1", "many", "{split}-@2.tar", "--report", "r.json")
    found = dict(re.findall(r"/(\w+)-@2.tar: 2 shards, ([\d,]+) samples", outcome.out))
    assert 1750 < int(found["train"].replace(",", "")) < 1850
    report = json.loads((folder / "r.json").read_text())
    assert report["counts"]["written"] == 2000 and report["shards"] == 4


def test_others_are_counted_and_told(folder: Path) -> None:
    write_tree(folder / "in", {"README": b"", "cat/LICENSE": b"", ".hidden.txt": b""})
    outcome = upload(folder, "in", "out-@4.tar", "--report", "r.json")
    assert outcome.out.endswith(", 2 files left out that belong to no sample\n")
    report = json.loads((folder / "r.json").read_text())
    assert [entry["name"] for entry in report["left_out"]] == [f"{folder}/in/README", f"{folder}/in/cat/LICENSE"]
    assert "no dot" in report["left_out"][0]["reason"]
    assert report["counts"]["written"] == COUNT and report["error"] is None


def test_links_that_lead_out(folder: Path) -> None:
    write_tree(folder / "other", {"secret.txt": b"x"})
    (folder / "in" / "away").symlink_to("../other")
    (folder / "in" / "cat" / "near.txt").symlink_to("01.txt")
    (folder / "in" / "loop").symlink_to(".")
    outcome = upload(folder, "in", "out-@4.tar", "--report", "r.json")
    assert outcome.out.endswith(
        ", 1 file left out that belong to no sample, 1 link left out that lead out of the folder (see --follow-links)\n"
    )
    report = json.loads((folder / "r.json").read_text())
    assert {entry["name"] for entry in report["left_out"]} == {f"{folder}/in/loop", f"{folder}/in/away"}
    assert report["counts"]["written"] == COUNT + 1
    told = upload(folder, "in", "out-@4.tar", "--dry-run", "--overwrite").out
    assert "links left out that lead out of the folder (see --follow-links): 1\n" in told
    upload(folder, "in", "out-@4.tar", "--follow-links", "--overwrite", "--report", "r.json")
    report = json.loads((folder / "r.json").read_text())
    assert report["counts"]["written"] == COUNT + 2


def test_dry_run(folder: Path) -> None:
    write_tree(folder / "in", {"README": b""})
    before = snapshot(folder)
    outcome = upload(folder, "--dry-run", "in", "out-@auto.tar", "--shard-count", "5")
    assert outcome.out.splitlines() == [
        f"would upload 30 samples to 6 shards: {folder}/out-@000006.tar",
        "outputs that exist: 0",
        f"{folder}/out-000000.tar: 5 samples, from cat/01 on",
        f"{folder}/out-000001.tar: 5 samples, from cat/08 on",
        "... and 4 more (-v shows them all)",
        "files left out that belong to no sample: 1",
    ]
    assert len(upload(folder, "--dry-run", "-v", "in", "out-@6.tar").out.splitlines()) == 10
    assert snapshot(folder) == before


def test_quiet(folder: Path) -> None:
    outcome = upload(folder, "-q", "in", "out.tar")
    assert (outcome.out, outcome.err) == ("", "")


@pytest.mark.parametrize("null", [True, False])
def test_list_of_files(folder: Path, null: bool) -> None:
    find = f"find in -type f -name '*.jpg' {'-print0' if null else ''}"
    command = f"{find} | {path_of('htupload')} --report r.json - out-@3.tar"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=True, text=True, timeout=60)
    assert "3 shards, 30 samples" in done.stdout
    assert merged(shards(folder, "out-@3.tar")) == {f"in/{name}": TREE[name] for name in TREE if name.endswith("jpg")}
    assert json.loads((folder / "r.json").read_text())["job"]["sources"] == ["-"]


def test_tar_and_zip(folder: Path) -> None:
    scattered = sorted(TREE, key=lambda name: name[::-1])
    (folder / "in.tar").write_bytes(make_tar([Member(name, TREE[name]) for name in scattered]))
    subprocess.run(["tar", "czf", "in.tgz", "-C", "in", "."], cwd=folder, check=True)
    shutil.make_archive(str(folder / "in"), "zip", folder / "in")
    upload(folder, "in", "expected-@4.tar")
    expected = shards(folder, "expected-@4.tar")
    for name in ("in.tar", "in.tgz", "in.zip"):
        for place in ("threads", "processes") if name == "in.tgz" else ("threads",):
            upload(folder, "--overwrite", "-c", place, name, "out-@4.tar")
            assert shards(folder, "out-@4.tar") == expected
            assert (folder / "out-3.tar").read_bytes() == (folder / "expected-3.tar").read_bytes()


def test_unpacked_archive_is_not_for_a_cluster(folder: Path) -> None:
    subprocess.run(["tar", "czf", "in.tgz", "-C", "in", "."], cwd=folder, check=True)
    message = refused(folder, "-c", "127.0.0.1:1", "in.tgz", "out-@4.tar")
    assert message.startswith(
        f"{folder}/in.tgz: the archive is unpacked on this machine, where a cluster cannot read it; "
    )


def test_archive_is_not_written_over(folder: Path) -> None:
    (folder / "in.tar").write_bytes(make_tar([Member("a.txt", b"1")]))
    assert "this shard is an input and an output" in refused(folder, "--overwrite", "in.tar", "in.tar")


def test_tables_and_arrays(folder: Path) -> None:
    rows = [f"{i},cat/{i:02d}.jpg,{i % 7}" for i in range(COUNT) if i % 3]
    (folder / "in" / "table.csv").write_text("\n".join(["id,path,label", *rows]))
    upload(folder, "--file", "jpg=path", "--value", "cls=label", "in/table.csv", "out-@2.tar")
    expected = {f"{i}.jpg": TREE[f"cat/{i:02d}.jpg"] for i in range(COUNT) if i % 3}
    expected |= {f"{i}.cls": b"%d" % (i % 7) for i in range(COUNT) if i % 3}
    assert merged(shards(folder, "out-@2.tar")) == expected
    np.savez(folder / "a.npz", x=np.arange(12).reshape(6, 2), y=np.arange(6))
    upload(folder, "--as", "npy=x", "--as", "cls=y", "a.npz", "arrays-@2.tar")
    found = merged(shards(folder, "arrays-@2.tar"))
    assert [found[f"{i:09d}.cls"] for i in range(6)] == [b"%d" % i for i in range(6)]


def test_hard_names(folder: Path) -> None:
    names = [b"a b.txt", b"new\nline.txt", "schön.txt".encode(), b"\xff\xfe.txt", ("x" * 120).encode() + b".txt"]
    (folder / "hard").mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(folder / "hard"), name), "wb") as file:
            file.write(name)
    done = subprocess.run(
        [path_of("htupload"), "hard", "out.tar"],
        cwd=folder,
        capture_output=True,
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert b"5 samples" in done.stdout
    with tarfile.open(folder / "out.tar") as archive:
        found = {os.fsencode(info.name): archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    assert found == {name: name for name in names}
    (folder / "back").mkdir()
    subprocess.run(["tar", "xf", "../out.tar"], cwd=folder / "back", check=True)
    subprocess.run(["diff", "-r", "hard", "back"], cwd=folder, check=True)


def test_bar_knows_samples_bytes_and_time(folder: Path) -> None:
    write_tree(folder / "in", {f"big/{i}.bin": os.urandom(200_000) for i in range(300)})
    status, out, shown = on_terminal("-j", "1", "in", "out.tgz", cwd=folder, program="htupload")
    assert status == 0 and "1 shard, 330 samples" in out
    lines = [line.strip() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert re.fullmatch(r"0% \|\s+\| 0/330 samples, 0 B", lines[0])
    rates = r"[\d,]+ samples/s, [\d.]+ [kMG]?B/s"
    assert re.fullmatch(rf"100% \|█+\| 330/330 samples, 60.0 MB, {rates}", lines[-1])
    for line in lines[1:]:
        assert re.fullmatch(rf"\d+% \|.*\| \d+/330 samples, [\d.]+ [kM]?B, {rates}(, [\d.]+ s left)?", line), line
