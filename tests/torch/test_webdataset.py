"""webdataset reads our shards as they are, and through our storage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import webdataset
from webdataset.gopen import gopen_schemes

from shardtools.errors import NotFoundError
from shardtools.torch import wds_opener
from tests.servers import NginxServer
from tests.torch.conftest import TOTAL


@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_webdataset_reads_our_shards(folder: Path, ending: str) -> None:
    urls = [f"file:{folder}/in-{i}.{ending}" for i in range(5)]
    found = [sample["txt"].decode() for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)]
    assert found == [f"no {i}" for i in range(TOTAL)]


def test_webdataset_through_our_storage(nginx: NginxServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, nginx.root, dirs_exist_ok=True)
    monkeypatch.setitem(gopen_schemes, "http", wds_opener)
    urls = [f"{nginx.url}in-{i}.tgz" for i in range(5)]
    found = [sample["txt"].decode() for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)]
    assert found == [f"no {i}" for i in range(TOTAL)]
    with pytest.raises(NotFoundError):
        list(webdataset.WebDataset([f"{nginx.url}no.tar"], shardshuffle=False))
    with pytest.raises(ValueError, match="reading"):
        wds_opener(urls[0], "wb")
