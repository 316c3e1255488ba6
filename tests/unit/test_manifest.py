"""The manifest of a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shardtools.errors import CorruptError, JobError, LimitError
from shardtools.limits import Limits
from shardtools.shards.manifest import (
    ShardEntry,
    build_manifest,
    class_names,
    common_facts,
    count_fields,
    find_manifest,
    find_manifests,
    read_manifest,
    write_manifest,
)
from shardtools.spec import Destination
from shardtools.storage import StorageOptions, using
from shardtools.storage.expansion import look_up


def entries(urls: list[str]) -> list[ShardEntry]:
    return [
        ShardEntry(url, 10 + i, 1000 * (i + 1), f"crc32:0000000{i}", {"jpg": 10 + i, f"f{i}": 1})
        for i, url in enumerate(urls)
    ]


def test_a_manifest_adds_up_its_shards() -> None:
    out = Destination("http://host/d/out-@3.tgz")
    manifest = build_manifest(out, entries(out.urls()), {"name": "map"})
    assert (manifest["name"], manifest["nsamples"], manifest["filesize"]) == ("out-@3.tgz", 33, 6000)
    assert manifest["fields"] == {"f0": 1, "f1": 1, "f2": 1, "jpg": 33}
    assert list(manifest["fields"]) == sorted(manifest["fields"])
    assert manifest["job"] == {"name": "map"}


def test_it_is_a_shard_index_of_wids() -> None:
    """Version 1: what wids reads is the kind, the version and each shard's url and number of samples."""
    out = Destination("/d/out-@2.tar")
    manifest = build_manifest(out, entries(out.urls()), {})
    assert (manifest["__kind__"], manifest["wids_version"]) == ("wids-shard-index-v1", 1)
    assert manifest["shardlist"] == [
        {"url": "out-0.tar", "nsamples": 10, "filesize": 1000, "checksum": "crc32:00000000"},
        {"url": "out-1.tar", "nsamples": 11, "filesize": 2000, "checksum": "crc32:00000001"},
    ]


def test_urls_elsewhere_stay_whole_and_lose_their_secrets() -> None:
    out = Destination("/d/out-@2.tar")
    shards = entries(["/e/x.tar", "http://me:pw@host/y.tar?sig=1"])
    urls = [shard["url"] for shard in build_manifest(out, shards, {})["shardlist"]]
    assert urls == ["/e/x.tar", "http://host/y.tar"]


def test_a_dataset_of_no_samples() -> None:
    manifest = build_manifest(Destination("/d/out.tar"), [ShardEntry("/d/out.tar", 0, 10240, "crc32:0", {})], {})
    assert (manifest["nsamples"], manifest["fields"], len(manifest["shardlist"])) == (0, {}, 1)


def test_count_fields() -> None:
    assert count_fields([{"b": 1, "a": 2}, {}, {"a": 5}]) == {"a": 7, "b": 1}
    assert count_fields([]) == {}


def test_the_file_stands_beside_the_shards_and_reads_back(tmp_path: Path) -> None:
    out = Destination(f"{tmp_path}/wählt-@2.tar")
    manifest = build_manifest(out, entries(out.urls()), {"name": "ключ"})
    write_manifest(out, manifest)
    data = (tmp_path / "wählt-@2.tar.json").read_bytes()
    assert json.loads(data) == manifest
    assert "wählt-0.tar".encode() in data and data.endswith(b"}\n"), "to be read by people, too"


def test_names_that_are_not_utf8_read_back(tmp_path: Path) -> None:
    out = Destination(f"{tmp_path}/out-@1.tar")
    shard = ShardEntry(f"{tmp_path}/\udcff.tar", 1, 1, "crc32:0", {"\udcfe": 1})
    manifest = build_manifest(out, [shard], {})
    write_manifest(out, manifest)
    loaded = json.loads((tmp_path / "out-@1.tar.json").read_bytes())
    assert loaded == manifest and loaded["shardlist"][0]["url"] == "\udcff.tar"


SHARD = {"url": "a-0.tar", "nsamples": 3}


def manifest_text(**changed: object) -> str:
    return json.dumps({"shardlist": [SHARD], "fields": {"cls": 3}, "job": {}} | changed)


def test_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a-@1.tar.json").write_text(manifest_text(classes=["cat"], license="MIT", name="x", base="y"))
    found = read_manifest(f"{tmp_path}/a-@1.tar.json")
    assert (found.names, found.counts, found.fields, found.job) == (("a-0.tar",), (3,), {"cls": 3}, {})
    assert found.facts == {"classes": ["cat"], "license": "MIT"} and found.classes == ["cat"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"shardlist": [], "x": ' + "9" * 100_000 + "}",
        "[]",
        "{}",
        "\udcff",
        '{"shardlist": {}}',
        '{"shardlist": [7]}',
        '{"shardlist": [{"url": 7, "nsamples": 1}]}',
        *(manifest_text(shardlist=[SHARD | {"nsamples": n}]) for n in (-1, 1.5, "3", None, True, 1 << 63, 10**300)),
        manifest_text(shardlist=[SHARD | {"nsamples": (1 << 63) - 1}, SHARD]),
        manifest_text(fields=["cls"]),
        manifest_text(fields={"cls": -1}),
        manifest_text(job=[]),
        manifest_text(classes={"0": "cat"}),
        manifest_text(classes=[1]),
        manifest_text(note=json.loads("[" * 200 + "]" * 200)),
    ],
    ids=range(24),
)
def test_a_manifest_that_is_damaged(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is one of our errors for whoever needs it; for others it is as if there were none, and they are told."""
    (tmp_path / "a-@1.tar.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorruptError, match=r"a-@1\.tar\.json: the manifest is damaged: .*; delete it"):
        read_manifest(f"{tmp_path}/a-@1.tar.json")
    assert find_manifest(f"{tmp_path}/a-@1.tar", [f"{tmp_path}/a-0.tar"]) is None
    assert "the manifest is damaged" in caplog.text


def test_a_manifest_that_is_too_large(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a-@1.tar.json").write_text(manifest_text())
    with using(StorageOptions(limits=Limits(manifest=10))):
        with pytest.raises(LimitError, match="its manifest has more than 10 bytes"):
            read_manifest(f"{tmp_path}/a-@1.tar.json")
        assert find_manifest(f"{tmp_path}/a-@1.tar", [f"{tmp_path}/a-0.tar"]) is None
    assert find_manifest(f"{tmp_path}/a-@1.tar", [f"{tmp_path}/a-0.tar"]) is not None
    assert find_manifest(f"{tmp_path}/a-@1.tar", [f"{tmp_path}/b-0.tar"]) is None
    assert find_manifest(f"{tmp_path}/b-@1.tar", [f"{tmp_path}/b-0.tar"]) is None


def facts_of(sources: str | list[str]) -> dict[str, Any]:
    return common_facts(find_manifests(look_up(sources)))


class TestFacts:
    def write(self, folder: Path, name: str, **facts: object) -> str:
        spec = f"{folder}/{name}-@1.tar"
        shard = {"url": f"{name}-0.tar", "nsamples": 3}
        (folder / f"{name}-@1.tar.json").write_text(manifest_text(shardlist=[shard], **facts))
        return spec

    def test_what_all_sources_say_alike(self, tmp_path: Path) -> None:
        a = self.write(tmp_path, "a", license="MIT", text="one", classes=["cat", "dog"])
        b = self.write(tmp_path, "b", license="MIT", text="two", classes=["cat", "dog", "emu"])
        assert facts_of(a) == {"license": "MIT", "text": "one", "classes": ["cat", "dog"]}
        assert facts_of([a, b]) == facts_of(f"{b}::{a}") == {"license": "MIT", "classes": ["cat", "dog", "emu"]}
        assert facts_of([a, f"{tmp_path}/nothing-@3.tar"]) == {}

    def test_other_numbers(self, tmp_path: Path) -> None:
        a = self.write(tmp_path, "a", classes=["cat", "dog"])
        b = self.write(tmp_path, "b", classes=["dog"])
        with pytest.raises(JobError, match=r"a-@1\.tar: class 0 is 'cat', and 'dog' in .*b-@1\.tar; give the classes"):
            facts_of([b, a])
        assert class_names(look_up([b, a])) is None

    def test_no_names(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        a = self.write(tmp_path, "a", classes=["cat", "dog"])
        b = self.write(tmp_path, "b", fields={"jpg": 3})
        assert facts_of([a, b]) == {"classes": ["cat", "dog"]} and not caplog.text
        c = self.write(tmp_path, "c")
        assert facts_of([a, b, c]) == {} and "c-@1.tar: its classes have no names" in caplog.text

    def test_shards_one_by_one(self, tmp_path: Path) -> None:
        assert facts_of([f"{tmp_path}/{i}.tar" for i in range(1000)]) == {}
