"""What a dataset, a view and a record look like at a prompt and in a notebook."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import shardtools
from shardtools.reading import Dataset
from shardtools.shards.samples import Record
from tests.datasets import write_dataset
from tests.servers import NginxServer

SIGNATURE = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def secret_spec(nginx: NginxServer) -> str:
    """A spec with a password and a signature, which the server does not ask for."""
    spec = write_dataset(nginx.root / "secret", 3, 2)
    return f"http://me:hunter2@{urlsplit(nginx.url).netloc}/secret/{spec}?sig={SIGNATURE}"


def test_no_password_is_shown(nginx: NginxServer, secret_spec: str) -> None:
    for dataset in (shardtools.open(secret_spec), shardtools.open([secret_spec])):
        view = dataset.view("cls")
        shown = [repr(each) for each in (dataset, view, view[1:], view.ragged, dataset.indexed(0), dataset.shard(0))]
        shown += [repr(dataset.options), repr(view.to_dask()), repr(dataset[0])]
        assert not [text for text in shown if "hunter2" in text or SIGNATURE in text]
        assert all(f"{nginx.url}secret/in-" in text for text in (shown[0], shown[1], shown[4]))


def test_a_long_list_of_shards_is_shown_by_its_start(tmp_path: Path) -> None:
    write_dataset(tmp_path, 5, 2)
    dataset = Dataset([f"{tmp_path}/in-{i}.tar" for i in range(5)], shardtools.open(f"{tmp_path}/in-@5.tar").options)
    first = ", ".join(repr(f"{tmp_path}/in-{i}.tar") for i in range(3))
    assert repr(dataset) == f"<Dataset [{first}, and 2 more]: 5 shards>"
    assert repr(dataset.view("txt")) == f"<FieldView 'txt' of 10 samples of [{first}, and 2 more]>"


def test_a_record_is_shown_in_short() -> None:
    record = Record({"key": "a/0017", "seg.png": bytes(12_345), "cls": b"7", "txt": "word " * 100, "x": np.eye(3)})
    assert repr(record) == (
        "Record({'key': 'a/0017', 'seg.png': <12,345 bytes>, 'cls': b'7', "
        "'txt': 'word word word word word word word wo...rd word word word word word word word ', "
        "'x': <float64 array of shape (3, 3)>})"
    )
    assert str(record) == repr(record)
    assert repr(dict(record)).startswith("{'key': 'a/0017', 'seg.png': b'\\x00\\x00")


def test_a_short_record_stays_one() -> None:
    record = Record({"key": "a", "jpg": bytes(100)})
    record.url, record.index = "x.tar", 3
    twin = pickle.loads(pickle.dumps(record))
    assert twin == record == {"key": "a", "jpg": bytes(100)}
    assert (twin.url, twin.index) == ("x.tar", 3)


def test_the_length_of_a_record_shown_is_bounded() -> None:
    wide: object = "x" * 1000
    for _ in range(8):
        wide = dict.fromkeys(range(30), wide)
    record = Record({"key": "k" * 1000, **{f"{i}.json": wide for i in range(1000)}})
    assert len(repr(record)) < 20_000
    assert "\x1b" not in repr(Record({"key": "\x1b[2J", "\x1b[2J": b"\x1b[2J", "txt": "\x1b[2J"}))
    looped = Record({"key": "a"})
    looped["self"] = {"looped": looped}
    assert repr(looped).startswith("Record({'key': 'a', 'self': {'looped': ")
