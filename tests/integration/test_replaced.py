"""A dataset that replaces one with another number of shards: nothing is left of that, and nothing else goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import shardtools as st
from shardtools.jobs import replaced
from tests.cli.command import Outcome, call
from tests.datasets import parts_of, sample_files, snapshot, write_dataset, write_shard, written_dataset
from tests.servers import NginxServer

SAME = "def process_sample(record):\n    return record\n"
OLD, NEW = 5, 3
PROGRAMS = ["htmapper", "htupload", "htshuffle", "htsort"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "same.py").write_text(SAME)
    for shards in (OLD, NEW, 7):
        rows = [[{"key": f"{shard}-{i}", "txt": "t"} for i in range(2)] for shard in range(shards)]
        written_dataset(tmp_path, f"in{shards}-@{shards}.tar", rows)
    for i in range(2 * 7):
        for shards in (OLD, NEW, 7):
            path = tmp_path / f"files{shards}" / f"{i}.txt"
            path.parent.mkdir(exist_ok=True)
            if i < 2 * shards:
                path.write_text("t")
    return tmp_path


def make(folder: Path, program: str, shards: int, place: str, *options: str) -> Outcome:
    """Make a dataset of so many shards, two samples each, whose number a program finds out by itself."""
    arguments = {
        "htmapper": ("-j", "1", "-p", "same.py", f"in{shards}-@{shards}.tar", f"{place}out-@auto.tar"),
        "htupload": (f"files{shards}", f"{place}out-@auto.tar", "--shard-count", "2"),
        "htshuffle": ("--seed", "1", f"in{shards}-@{shards}.tar", f"{place}out-@auto.tar"),
        "htsort": (f"in{shards}-@{shards}.tar", f"{place}out-@auto.tar", "--shard-count", "2"),
    }[program]
    return call(*options, *arguments, cwd=folder, program=program)


def done(outcome: Outcome) -> Outcome:
    assert (outcome.status, outcome.err) == (0, ""), outcome
    return outcome


def parts(shards: int) -> set[str]:
    """Return the names of all files of a dataset with six digits."""
    names = {f"out-{i:06d}.tar" for i in range(shards)}
    return names | {f"{name}.index.npz" for name in names} | {f"out-@{shards:06d}.tar.json"}


def outputs(root: Path) -> set[str]:
    return {name for name in snapshot(root) if name.lstrip(".").startswith("out")}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("where", ["disk", "server"])
def test_with_fewer_or_more_shards(program: str, where: str, folder: Path, nginx: NginxServer) -> None:
    root, place = (folder, "") if where == "disk" else (nginx.root, nginx.url)
    done(make(folder, program, OLD, place))
    assert outputs(root) == parts(OLD)
    done(make(folder, program, NEW, place, "--overwrite"))
    assert outputs(root) == parts(NEW)
    assert len(st.open(f"{place or f'{folder}/'}out-@{NEW:06d}.tar")) == 2 * NEW
    done(make(folder, program, OLD, place, "--overwrite"))
    assert outputs(root) == parts(OLD)


@pytest.mark.parametrize("where", ["disk", "server"])
def test_table_keys_summary_and_page_go_too(where: str, folder: Path, nginx: NginxServer) -> None:
    root, place = (folder, "") if where == "disk" else (nginx.root, nginx.url)
    done(make(folder, "htmapper", OLD, place))
    old = f"{place or f'{folder}/'}out-@{OLD:06d}.tar"
    st.index(old, table=True)
    st.publish(old)
    page = root / f"out-@{OLD:06d}.tar.view"
    (page / "notes.txt").touch()
    assert len(outputs(root)) > len(parts(OLD)) + 25
    done(make(folder, "htmapper", NEW, place, "--overwrite"))
    assert outputs(root) == parts(NEW) | {f"{page.name}/", f"{page.name}/notes.txt"}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("where", ["disk", "server"])
def test_a_shard_that_nobody_knows_of(program: str, where: str, folder: Path, nginx: NginxServer) -> None:
    root, place = (folder, "") if where == "disk" else (nginx.root, nginx.url)
    done(make(folder, program, OLD, place))
    (root / f"out-@{OLD:06d}.tar.json").unlink()
    before = snapshot(root)
    outcome = make(folder, program, NEW, place, "--overwrite")
    assert outcome.error() == (
        f"{place or f'{folder}/'}out-000003.tar: this shard (and 1 more) comes after the last one that is "
        "written, and no manifest says which dataset it belongs to; delete it, or choose another destination"
    )
    assert snapshot(root) == before
    done(make(folder, program, 7, place, "--overwrite"))  # replaces them all
    assert outputs(root) == parts(7)


@pytest.mark.parametrize("program", ["htmapper", "htupload", "htshuffle"])
@pytest.mark.parametrize("flags", [("--resume",), ("--overwrite",), ("--resume", "--overwrite")])
@pytest.mark.parametrize("moment", ["a shard", "the manifest", "a removal", "all removals"])
def test_killed_at_a_moment(
    moment: str, flags: tuple[str, ...], program: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is there then vouches for nothing that is wrong, and the next one ends the work."""
    done(make(folder, program, OLD, ""))
    old = snapshot(folder)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "a shard":
            patch.setattr("shardtools.jobs.target.write_sidecar", kill)
        elif moment == "the manifest":
            module = "exchange.exchange" if program == "htshuffle" else "run"
            patch.setattr(f"shardtools.jobs.{module}.write_manifest", kill)
        elif moment == "a removal":
            real = replaced.sidecar_url
            patch.setattr(replaced, "sidecar_url", lambda url: kill() if "000004" in url else real(url))
        else:
            patch.setattr("shardtools.storage.local.LocalStorage.delete", _but_not(f"@{OLD:06d}.tar.json", kill))
        with pytest.raises(BaseException):  # noqa: B017 - one that ends a task comes as an error of the engine
            done(make(folder, program, NEW, "", "--overwrite"))
    found = snapshot(folder)
    assert found != old and f"out-@{OLD:06d}.tar.json" in found
    assert "shardlist" not in json.loads(found[f"out-@{OLD:06d}.tar.json"])
    if moment == "a shard" and "--overwrite" not in flags:
        return  # the other shards are those of another job, as ever
    done(make(folder, program, NEW, "", *flags))
    assert outputs(folder) == parts(NEW)


def _but_not(ending: str, kill: object) -> object:
    from shardtools.storage.local import LocalStorage

    real = LocalStorage.delete

    def delete(self: LocalStorage, url: str) -> None:
        if url.endswith(ending):
            kill()  # type: ignore[operator]
        real(self, url)

    return delete


def test_nothing_is_removed_if_nothing_is_made(folder: Path) -> None:
    done(make(folder, "htmapper", OLD, ""))
    before = outputs(folder), snapshot(folder)
    (folder / "same.py").write_text("def process_sample(record):\n    raise ValueError\n")
    assert "ValueError" in make(folder, "htmapper", NEW, "", "--overwrite").error()
    (folder / "same.py").write_text(SAME)
    assert (outputs(folder), snapshot(folder)) == before


def test_without_overwrite_nothing_is_removed(folder: Path) -> None:
    done(make(folder, "htmapper", OLD, ""))
    (folder / "more").mkdir()
    for path in folder.glob("out-*"):
        if "00000" in path.name and not path.name.startswith("out-@") and int(path.name[4:10]) < NEW:
            path.rename(folder / "more" / path.name)
    done(make(folder, "htmapper", NEW, "", "--resume"))
    assert outputs(folder) == parts(OLD) | parts(NEW)


def test_numbers_of_another_width_are_another_dataset(folder: Path) -> None:
    """They share no file, and to have both is common: the same samples in few large shards and in many."""
    write_dataset(folder, 16, 2, name="out")
    assert call("-p", "same.py", "out-@16.tar", "copy-@16.tar", cwd=folder).status == 0
    before = {name: data for name, data in snapshot(folder).items() if name.startswith("copy")}
    for _ in range(2):
        done(call("--seed", "1", "--overwrite", "out-@16.tar", "copy-@8.tar", cwd=folder, program="htshuffle"))
        found = {name: data for name, data in snapshot(folder).items() if name.startswith("copy")}
        assert set(found) == parts_of("copy", shards=16) | parts_of("copy", shards=8)
        assert {name: found[name] for name in before} == before


def test_a_source_is_not_removed(folder: Path) -> None:
    written_dataset(folder, "x-@20.tar", [[{"key": f"{i}", "txt": "t"}] for i in range(20)])
    before = snapshot(folder)
    arguments = ("--seed", "1", "--overwrite", "x-{10..19}.tar", "x-@10.tar")
    error = call(*arguments, cwd=folder, program="htshuffle").error(2)
    assert error.startswith(
        f"{folder}/x-10.tar: this source belongs to the dataset that would be replaced, and removed"
    )
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    "text", ["", "[]", '{"shardlist": 3}', '{"shardlist": [{}]}', '{"shardlist": [{"url": 1}]}', "[" * 100_000]
)
def test_what_is_no_manifest_is_left_alone(text: str, folder: Path) -> None:
    (folder / "out-@000009.tar.json").write_text(text)
    done(make(folder, "htmapper", NEW, "", "--overwrite"))
    assert outputs(folder) == parts(NEW) | {"out-@000009.tar.json"}


def test_a_manifest_names_only_what_lies_beside_it(folder: Path) -> None:
    """Others' shards are not removed because a manifest names them."""
    done(make(folder, "htmapper", OLD, ""))
    (folder / "other").mkdir()
    write_shard(folder / "other/out-000004.tar", sample_files(0, 1))
    manifest = folder / f"out-@{OLD:06d}.tar.json"
    data = json.loads(manifest.read_text())
    data["shardlist"] += [{"url": name} for name in ("other/out-000004.tar", "in3-0.tar", "../x.tar", "same.py")]
    manifest.write_text(json.dumps(data))
    before = snapshot(folder)
    done(make(folder, "htmapper", NEW, "", "--overwrite"))
    after = snapshot(folder)
    assert outputs(folder) == parts(NEW)
    assert set(before) - set(after) == parts(OLD) - parts(NEW)


def test_dry_run_tells(folder: Path) -> None:
    for program in PROGRAMS:
        done(make(folder, program, OLD, "", "--overwrite"))
        before = snapshot(folder)
        outcome = done(make(folder, program, NEW, "", "--overwrite", "--dry-run"))
        assert "to be removed at the end: 2 shards of what is replaced\n" in outcome.out
        assert snapshot(folder) == before
