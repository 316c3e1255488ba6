"""Folders and lists of files as samples: what is grouped, named, left out and refused."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtools.errors import (
    AccessError,
    DuplicateKeyError,
    JobError,
    LimitError,
    NotFoundError,
    RefusedError,
    SpecError,
)
from shardtools.limits import Limits
from shardtools.shards.samples import Composer
from shardtools.sources import Source
from shardtools.sources.files import FileRules, ordered
from shardtools.sources.folder import LEADS_OUT, list_folder, list_paths, read_file
from shardtools.sources.opening import SourceRules, open_sources
from shardtools.storage import StorageOptions, using

Tree = Mapping[str, bytes]


def write_tree(root: Path, tree: Tree) -> Path:
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def samples(source: Source, rows: list[int] | None = None) -> dict[str, dict[str, bytes]]:
    """Return key and fields of all samples, as a task would read them: after its part was pickled."""
    part = pickle.loads(pickle.dumps(source.part(np.arange(len(source)) if rows is None else np.array(rows))))
    found = {}
    for i in range(len(part)):
        record = part.record(i)
        assert part.key(i) == record["key"]
        found[record.pop("key")] = record
    part.close()
    assert len(found) == len(part)
    return found


def keys(source: Source) -> list[str]:
    return [source.key(row) for row in range(len(source))]


MIXED = {
    "b.jpg": b"1",
    "a.jpg": b"2",
    "a.txt": b"3",
    "a.seg.png": b"4",
    "a-b.jpg": b"5",
    "a0.jpg": b"6",
    "d.x/a.jpg": b"7",
    "d.x/e/a.txt": b"8",
    "empty.bin": b"",
}


def test_files_of_a_sample_agree_up_to_the_first_dot(tmp_path: Path) -> None:
    source = list_folder(str(write_tree(tmp_path, MIXED)), FileRules())
    assert keys(source) == ["a-b", "a", "a0", "b", "empty", "d.x/a", "d.x/e/a"]
    assert samples(source) == {
        "a": {"jpg": b"2", "txt": b"3", "seg.png": b"4"},
        "a-b": {"jpg": b"5"},
        "a0": {"jpg": b"6"},
        "b": {"jpg": b"1"},
        "empty": {"bin": b""},
        "d.x/a": {"jpg": b"7"},
        "d.x/e/a": {"txt": b"8"},
    }
    assert list(source.left_out()) == [] and source.notes() == {}


def test_rows_in_any_order(tmp_path: Path) -> None:
    source = list_folder(str(write_tree(tmp_path, MIXED)), FileRules())
    assert list(samples(source, [5, 1, 3])) == ["d.x/a", "a", "b"]
    assert samples(source, [1])["a"] == {"jpg": b"2", "txt": b"3", "seg.png": b"4"}


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8)


@given(st.sets(st.tuples(st.sampled_from(["", "a/", "a.b/", "a/b/", "a-/"]), NAMES), max_size=40))
def test_files_of_a_sample_are_side_by_side(found: set[tuple[str, str]]) -> None:
    folders: dict[str, list[str]] = {}
    for prefix, name in found:
        folders.setdefault(prefix, []).append(name)
    left_out: list[tuple[str, str]] = []
    paths = ordered(folders.items(), FileRules(), left_out)
    assert len(paths) + len(left_out) == len(found)
    stems = [(path.rpartition("/")[0], path.rpartition("/")[2].partition(".")[0]) for path in paths]
    runs = [stem for i, stem in enumerate(stems) if i == 0 or stems[i - 1] != stem]
    assert len(runs) == len(set(stems))


def test_hidden_files_are_no_samples_and_others_are_told(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "a.txt": b"1",
            ".b.txt": b"2",
            ".git/c.txt": b"3",
            "README": b"4",
            "d.": b"5",
            "e/LICENSE": b"",
            "__x__/y.txt": b"",
        },
    )
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "away.txt").symlink_to("nowhere")
    (tmp_path / "self.txt").symlink_to("self.txt")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket.txt"))
    server.close()
    source = list_folder(str(tmp_path), FileRules())
    assert samples(source) == {"a": {"txt": b"1"}}
    no_dot = "its name has no dot followed by a field"
    assert dict(source.left_out()) == {
        f"{tmp_path}/README": no_dot,
        f"{tmp_path}/d.": no_dot,
        f"{tmp_path}/e/LICENSE": no_dot,
        f"{tmp_path}/__x__/y.txt": "names that begin and end with __ are reserved for metadata",
        f"{tmp_path}/pipe.txt": "it is not a regular file",
        f"{tmp_path}/socket.txt": "it is not a regular file",
        f"{tmp_path}/away.txt": "the link leads nowhere",
        f"{tmp_path}/self.txt": "the link cannot be followed",
    }


def test_links_are_followed_unless_in_circles(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"x/a.txt": b"1", "x/y/b.txt": b"2"})
    write_tree(tmp_path / "other", {"c.txt": b"3"})
    (tmp_path / "in" / "link.txt").symlink_to(tmp_path / "other" / "c.txt")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "x" / "y" / "up").symlink_to("../..")
    (tmp_path / "in" / "x" / "self").symlink_to(".")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "in")
    source = list_folder(str(tmp_path / "in"), FileRules(follow_links=True))
    assert samples(source) == {
        "x/a": {"txt": b"1"},
        "x/y/b": {"txt": b"2"},
        "folder/c": {"txt": b"3"},
        "link": {"txt": b"3"},
    }
    assert {Path(name).name for name, _ in source.left_out()} == {"up", "self", "back"}


def test_links_that_lead_out_are_left_out(tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"x/a.txt": b"1"})
    write_tree(tmp_path / "inside out", {"c.txt": b"3"})
    links = {"secret.txt": "../inside out/c.txt", "folder": tmp_path / "inside out", "round.txt": "../in/x/a.txt",
             "x/up": "../x2", "x/near.txt": "a.txt", "top": "/"}  # fmt: skip
    (tmp_path / "in" / "x2").mkdir()
    write_tree(tmp_path / "in" / "x2", {"d.txt": b"4"})
    for name, target in links.items():
        (tmp_path / "in" / name).symlink_to(target)
    (tmp_path / "link").symlink_to("in")
    for root in ("in", "link"):
        source = list_folder(str(tmp_path / root), FileRules())
        assert samples(source) == {
            "x/a": {"txt": b"1"},
            "x/near": {"txt": b"1"},
            "round": {"txt": b"1"},
            "x/up/d": {"txt": b"4"},
            "x2/d": {"txt": b"4"},
        }
        left_out = {Path(name).name: reason for name, reason in source.left_out()}
        assert left_out == dict.fromkeys(["secret.txt", "folder", "top"], LEADS_OUT)


def test_nothing_but_links_that_lead_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_tree(tmp_path / "blobs", {"1": b"1"})
    (tmp_path / "in" / "a.txt").symlink_to("../blobs/1")
    with pytest.raises(JobError, match=r"links that lead out of the folder; take .* --follow-links"):
        list_folder(str(tmp_path / "in"), FileRules())
    assert samples(list_folder(str(tmp_path / "in"), FileRules(follow_links=True))) == {"a": {"txt": b"1"}}


def test_folders_that_can_be_gone_through_in_millions_of_ways(tmp_path: Path) -> None:
    for i in range(12):
        write_tree(tmp_path / f"d{i}", {"a.txt": b"1"})
        for j in range(12):
            (tmp_path / f"d{i}" / f"to{j}").symlink_to(f"../d{j}")
    started = time.monotonic()
    with pytest.raises(JobError, match="links lead to this folder in more than 100 ways; remove such links"):
        list_folder(str(tmp_path), FileRules())
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("name", ["pipe.txt", "device.txt"])
def test_what_may_never_end_in_a_list(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is the user's word; but nobody waits for ever at a pipe, or for the end of /dev/zero."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    source = list_paths("-", name.encode(), FileRules())
    with pytest.raises(RefusedError, match=rf"{name}: this is a (named pipe|device), which may never end"):
        samples(source)


def test_a_sample_that_is_too_large(tmp_path: Path) -> None:
    """Of a file's size, or of what comes when it has none, no more is read than a sample may have."""
    write_tree(tmp_path, {"a.txt": b"1" * 600, "a.bin": b"2" * 600, "b.txt": b"3"})
    with open(tmp_path / "c.txt", "wb") as sparse:
        sparse.truncate(1 << 33)
    with using(StorageOptions(limits=Limits(sample=1000))):
        for name, member in (("a", "a.txt"), ("c", "c.txt")):
            source = list_folder(str(tmp_path), FileRules(include=(f"{name}.*",)))
            with pytest.raises(LimitError, match=rf"{member}: its sample has more than 1,000 bytes.*--max sample=SIZE"):
                samples(source)
            part = source.part(np.arange(1))
            with pytest.raises(LimitError, match=member):
                part.members(0, Composer())  # type: ignore[attr-defined]
            part.close()
        assert samples(list_folder(str(tmp_path), FileRules(include=("b.*",)))) == {"b": {"txt": b"3"}}
    with pytest.raises(LimitError, match=r"c\.txt: its sample has more than 4,294,967,296 bytes"):
        samples(list_folder(str(tmp_path), FileRules(include=("c.*",))))


def test_names_of_all_kinds(tmp_path: Path) -> None:
    names = [b"a b.txt", b"new\nline.txt", "schön/日本.txt".encode(), b"\xff\xfe.txt", b"tab\t'\"$(x);.txt", b"-r.txt"]
    (tmp_path / "schön").mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(name)
    found = samples(list_folder(str(tmp_path), FileRules()))
    assert found == {os.fsdecode(name[:-4]): {"txt": name} for name in names}


def test_keys_by_rule(tmp_path: Path) -> None:
    write_tree(tmp_path, {"x/b.jpg": b"1", "x/b.txt": b"2", "a.jpg": b"3", "y/c.jpg": b"4"})

    def with_key(rule: str) -> list[str]:
        return keys(list_folder(str(tmp_path), FileRules(key=rule)))  # type: ignore[arg-type]

    assert with_key("path") == ["a", "x/b", "y/c"]
    assert with_key("name") == ["a", "b", "c"]
    assert with_key("number") == ["000000000", "000000001", "000000002"]
    assert with_key("hash") == [blake2b(key, digest_size=8).hexdigest() for key in (b"a", b"x/b", b"y/c")]


def test_names_that_collide_are_both_named(tmp_path: Path) -> None:
    write_tree(tmp_path, {"x/b.jpg": b"1", "y/a.jpg": b"3", "y/b.txt": b"4"})
    with pytest.raises(DuplicateKeyError) as caught:
        list_folder(str(tmp_path), FileRules(key="name"))
    assert f"{tmp_path}/x/b.jpg and {tmp_path}/y/b.txt" in str(caught.value) and "[b]" in str(caught.value)
    assert "--key path" in str(caught.value.fix)


def test_two_files_for_one_field(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.jpg": b"1", "a.jpeg": b"2", "b.jpeg": b"3"})
    source = list_folder(str(tmp_path), FileRules(rename=(("jpeg", "jpg"),)))
    part = source.part(np.arange(2))
    assert part.record(1) == {"key": "b", "jpg": b"3"}
    with pytest.raises(DuplicateKeyError, match=r"a\.jpg: two files of the sample have the field jpg"):
        part.record(0)


@pytest.mark.parametrize("name", ["a.key", "a.__x"])
def test_names_that_cannot_be_fields(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, {name: b"1"})
    field = name[2:]
    with pytest.raises(JobError, match=f"{name}: '{field}' is not a valid name of a field; use --rename {field}=NEW"):
        list_folder(str(tmp_path), FileRules())
    assert samples(list_folder(str(tmp_path), FileRules(rename=((field, "txt"),)))) == {"a": {"txt": b"1"}}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (FileRules(include=("*.jpg",)), ["a", "x/a", "x/b"]),
        (FileRules(include=("x/*",)), ["x/a", "x/b"]),
        (FileRules(include=("*.jpg", "*.cls"), exclude=("x/*",)), ["a", "b"]),
        (FileRules(exclude=("b.*",)), ["a", "x/a"]),
        (FileRules(include=("[ab].c*",)), ["b"]),
    ],
)
def test_include_and_exclude(tmp_path: Path, rules: FileRules, expected: list[str]) -> None:
    write_tree(tmp_path, {"a.jpg": b"", "b.cls": b"", "x/a.jpg": b"", "x/b.jpg": b"", "README": b""})
    source = list_folder(str(tmp_path), rules)
    assert keys(source) == expected
    assert list(source.left_out()) == [] or rules.exclude == ("b.*",)


def test_classes(tmp_path: Path) -> None:
    write_tree(tmp_path, {"dog/a.jpg": b"1", "cat/b.jpg": b"2", "cat/b.txt": b"3", "bird/x/c.jpg": b"4"})
    source = list_folder(str(tmp_path), FileRules(classes=True))
    assert samples(source) == {
        "bird/x/c": {"jpg": b"4", "cls": b"0"},
        "cat/b": {"jpg": b"2", "txt": b"3", "cls": b"1"},
        "dog/a": {"jpg": b"1", "cls": b"2"},
    }
    assert source.notes() == {"classes": ["bird/x", "cat", "dog"]}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"dog/a.jpg": b"", "b.jpg": b""}, "b.jpg: this file is in no folder of a class"),
        ({"dog/a.jpg": b"", "dog/a.cls": b""}, "some files have the field cls already"),
    ],
)
def test_folders_without_classes(tmp_path: Path, tree: Tree, message: str) -> None:
    with pytest.raises(JobError, match=message):
        list_folder(str(write_tree(tmp_path, tree)), FileRules(classes=True))


def test_sizes_are_those_of_members(tmp_path: Path) -> None:
    deep = "d" * 120 + "/a.txt"
    write_tree(tmp_path, {"a.jpg": bytes(1000), "a.txt": b"", "b.jpg": bytes(512), deep: b"1"})
    assert list_folder(str(tmp_path), FileRules()).sizes().tolist() == [512 + 1024 + 512, 1024, 4 * 512]
    write_tree(tmp_path / "c", {"x/b.jpg": bytes(512)})
    assert list_folder(str(tmp_path / "c"), FileRules(classes=True)).sizes().tolist() == [2 * 1024]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no such file"):
        list_folder(str(tmp_path / "none"), FileRules())
    with pytest.raises(JobError, match="there are no files to upload"):
        list_folder(str(tmp_path), FileRules())
    write_tree(tmp_path, {"README": b"", "a.jpg": b""})
    with pytest.raises(JobError, match=r"there are no files to upload; .*--include"):
        list_folder(str(tmp_path), FileRules(include=("*.png",)))


def test_facts_change_with_the_files_alone(tmp_path: Path) -> None:
    source = list_folder(str(write_tree(tmp_path, {"a.txt": b"1", "b.txt": b"2"})), FileRules())
    before = source.part(np.arange(2)).facts()
    read = source.part(np.arange(2))
    read.record(0), read.record(1)
    assert read.facts() == before == source.part(np.arange(2)).facts()
    os.utime(tmp_path / "b.txt", ns=(0, 10**18))
    assert read.facts() == before, "what was read is what counts"
    assert source.part(np.arange(2)).facts() != before
    other = list_folder(str(tmp_path), FileRules(key="number")).part(np.arange(2)).facts()
    assert other != source.part(np.arange(2)).facts()


def test_file_that_vanished_or_is_shut(tmp_path: Path) -> None:
    source = list_folder(str(write_tree(tmp_path, {"a.txt": b"1", "b.txt": b"2"})), FileRules())
    (tmp_path / "a.txt").unlink()
    part = source.part(np.arange(2))
    with pytest.raises(NotFoundError, match=rf"{tmp_path}/a.txt: there is no such file"):
        part.record(0)
    assert part.record(1) == {"key": "b", "txt": b"2"}


@pytest.mark.parametrize("size", [0, 1, 4095, 1 << 17, (1 << 24) - 1, 1 << 24, (1 << 24) + 1])
def test_read_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    write_tree(tmp_path, {"a.bin": data})
    assert read_file(str(tmp_path / "a.bin")) == data
    assert samples(list_folder(str(tmp_path), FileRules())) == {"a": {"bin": data}}


def test_files_that_do_not_say_their_size() -> None:
    assert read_file("/proc/self/status").startswith(b"Name:")


def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(AccessError, match="permission denied"):
        read_file(str(path))


# lists


def test_list_of_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"x/a.jpg": b"1", "x/a.txt": b"2", "b.jpg": b"3"})
    monkeypatch.chdir(tmp_path)
    source = list_paths("-", b"x/a.txt\n./b.jpg\nx//a.jpg\n", FileRules())
    assert samples(source) == {"b": {"jpg": b"3"}, "x/a": {"jpg": b"1", "txt": b"2"}}


def test_list_of_absolute_paths_with_newlines(tmp_path: Path) -> None:
    write_tree(tmp_path, {"x/a\nb.jpg": b"1", "x/c.txt": b"2"})
    text = f"{tmp_path}/x/c.txt\0{tmp_path}/x/a\nb.jpg\0".encode()
    key = f"{tmp_path}/x/".removeprefix("/")
    assert samples(list_paths("-", text, FileRules())) == {f"{key}a\nb": {"jpg": b"1"}, f"{key}c": {"txt": b"2"}}
    assert keys(list_paths("-", text, FileRules(key="name"))) == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the list names no files"),
        (b"\n\n", "the list names no files"),
        (b"README\n", "the list names no files"),
        (b"../a.jpg\n", r"\.\./a\.jpg: the path leads out of this folder; give absolute paths"),
        (b"a.jpg\n./a.jpg\n", "the list names this file twice"),
    ],
)
def test_bad_lists(text: bytes, message: str) -> None:
    with pytest.raises(JobError, match=message):
        list_paths("-", text, FileRules())


# what a user may name


def test_several_folders(tmp_path: Path) -> None:
    write_tree(tmp_path, {"one/a.jpg": b"1", "two/b.jpg": b"2", "two/c.jpg": b"3"})
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    source = open_sources(folders)
    assert samples(source) == {"a": {"jpg": b"1"}, "b": {"jpg": b"2"}, "c": {"jpg": b"3"}}
    assert list(samples(source, [2, 0])) == ["c", "a"]
    assert source.sizes().tolist() == [1024] * 3
    numbered = open_sources(folders, SourceRules(key="number"))
    assert list(samples(numbered)) == ["000000000", "000000001", "000000002"]
    write_tree(tmp_path, {"one/c.png": b"4"})
    with pytest.raises(DuplicateKeyError, match=f"{tmp_path}/one/c.png and {tmp_path}/two/c.jpg"):
        open_sources(folders)


def test_folder_whose_name_looks_like_a_spec(tmp_path: Path) -> None:
    write_tree(tmp_path, {"x-@10/a.jpg": b"1", "{a,b}/b.jpg": b"2"})
    assert keys(open_sources([str(tmp_path / "x-@10"), str(tmp_path / "{a,b}")])) == ["a", "b"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (SourceRules(key="id"), "'id' is not a rule for the keys of files; use --key path, name, number or hash"),
        (SourceRules(files=(("jpg", "x"),)), "--file does not apply to a folder; leave it out; it is for a table"),
        (SourceRules(values=(("jpg", "x"),)), "--value does not apply to a folder"),
        (SourceRules(arrays=(("jpg", "x"),)), "--as does not apply to a folder; leave it out; it is for an array"),
        (SourceRules(rename=(("png", "x"),)), "--rename png=x: no file has the field png; the fields are jpg, txt"),
    ],
)
def test_options_that_do_not_apply(tmp_path: Path, rules: SourceRules, message: str) -> None:
    write_tree(tmp_path, {"a.jpg": b"1", "a.txt": b"2"})
    with pytest.raises(JobError) as caught:
        open_sources([str(tmp_path)], rules)
    assert message in str(caught.value)


def test_options_of_files_do_not_apply_to_tables(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.csv": b"x\n1\n"})
    for rules in (SourceRules(classes=True), SourceRules(include=("*",)), SourceRules(rename=(("a", "b"),))):
        with pytest.raises(JobError, match=r"does not apply to a table; .* a folder, a list of files or an archive"):
            open_sources([str(tmp_path / "a.csv")], rules)


def test_what_cannot_be_uploaded(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.jpg": b"1"})
    with pytest.raises(
        JobError, match=r"cannot read this kind of source; give a folder, - for .*\.parquet, \.npy, \.npz"
    ):
        open_sources([str(tmp_path / "a.jpg")])
    with pytest.raises(JobError, match="cannot read this kind of source"):
        open_sources(["http://localhost/folder/"])
    with pytest.raises(NotFoundError, match="there is no such file or folder"):
        open_sources([str(tmp_path / "photos")])
    with pytest.raises(NotFoundError, match="there is no such file"):
        open_sources([str(tmp_path / "a.tar")])
    with pytest.raises(SpecError, match="this source is named twice"):
        open_sources([str(tmp_path), f"{tmp_path}/"])


def test_one_name_is_given_as_it_is(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.jpg": b"1", "b.png": b"2"})
    assert set(samples(open_sources(str(tmp_path), SourceRules(include="*.jpg")))) == {"a"}
    assert set(samples(list_folder(str(tmp_path), FileRules(exclude="*.jpg")))) == {"b"}
