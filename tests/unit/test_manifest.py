"""The manifest of a dataset."""

from __future__ import annotations

import json
from pathlib import Path

from shardtools.shards.manifest import ShardEntry, build_manifest, count_fields, write_manifest
from shardtools.spec import Destination


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
