"""The shards as a dataset of TensorFlow: what its tensors are, its epochs, its errors, and what it leaves behind."""

from __future__ import annotations

import io
import os
import shutil
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shardtools
from shardtools.errors import FieldError, JobError, NotFoundError, SampleError
from shardtools.torch import ShardBatches
from tests.contract.faults import FaultyProxy
from tests.datasets import members, write_dataset, write_shard, written_dataset
from tests.servers import NginxServer, wait_until
from tests.torch.conftest import SIZES, TOTAL, samples


@pytest.fixture(scope="module")
def tf() -> Any:
    """TensorFlow, without what it logs."""
    before = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        return pytest.importorskip("tensorflow")
    finally:
        if before is None:
            del os.environ["TF_CPP_MIN_LOG_LEVEL"]
        else:
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = before


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``in-@2.tar``: 30 images of one brightness, which is ten times their label; made by PIL."""
    folder: Path = tmp_path_factory.mktemp("images")
    for shard in range(2):
        files = []
        for i in range(15 * shard, 15 * shard + 15):
            stream = io.BytesIO()
            Image.new("RGB", (9, 8), (20 * (i % 10), i, 7)).save(stream, "PNG")
            files += [(f"{i:04d}.cls", b"%d" % (i % 10)), (f"{i:04d}.png", stream.getvalue())]
        write_shard(folder / f"in-{shard}.tar", files)
    return folder


def ids(dataset: Any) -> list[list[int]]:
    """Return the first value of each batch."""
    return [batch[0].numpy().tolist() for batch in dataset]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def kinds(tf: Any, dataset: Any) -> Any:
    return tf.nest.map_structure(lambda spec: (tuple(spec.shape), spec.dtype.name), dataset.element_spec)


# --- values


@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
def test_bytes_are_those_of_the_members(tf: Any, folder: Path, ending: str) -> None:
    data = shardtools.open(f"{folder}/in-@5.{ending}").to_tf(
        ("txt", "cls", "__key__", "__index__", "__pad__", "__shard__"), decode=False, batch_size=7
    )
    assert kinds(tf, data) == (*[((None,), "string")] * 3, ((None,), "int64"), ((None,), "bool"), ((None,), "string"))
    wanted = dict(member for shard in range(5) for member in members(folder / f"in-{shard}.{ending}"))
    columns = [np.concatenate(column) for column in zip(*data.as_numpy_iterator(), strict=True)]
    keys = [key.decode() for key in columns[2]]
    assert len(keys) == TOTAL
    assert columns[0].tolist() == [wanted[f"{key}.txt"] for key in keys]
    assert columns[1].tolist() == [wanted[f"{key}.cls"] for key in keys]
    assert columns[3].tolist() == [row for size in SIZES for row in range(size)]
    assert not columns[4].any()
    assert columns[5].tolist() == [f"in-{i}.{ending}".encode() for i, size in enumerate(SIZES) for _ in range(size)]


def test_images_and_labels(tf: Any, images: Path) -> None:
    data = shardtools.open(f"{images}/in-@2.tar").to_tf(("png", "cls"), batch_size=4)
    assert kinds(tf, data) == (((None, 8, 9, 3), "uint8"), ((None,), "int64"))
    files = [member for shard in range(2) for member in members(images / f"in-{shard}.tar")]
    wanted = np.stack([np.array(Image.open(io.BytesIO(data))) for name, data in files if name.endswith(".png")])
    pixels, labels = (np.concatenate(column) for column in zip(*data.as_numpy_iterator(), strict=True))
    assert np.array_equal(pixels, wanted)
    assert labels.tolist() == [i % 10 for i in range(30)]


def test_transform_gives_structures_and_tensors(tf: Any, images: Path) -> None:
    def made(image: Any, label: int) -> Any:
        return {"image": tf.image.resize(image, (4, 4)), "text": (f"n{label}", b"\0\xff\0")}, np.float32(label)

    data = shardtools.open(f"{images}/in-@2.tar").to_tf(("png", "cls"), transform=made, batch_size=30)
    image, text = ((None, 4, 4, 3), "float32"), ((None,), "string")
    assert kinds(tf, data) == ({"image": image, "text": (text, text)}, ((None,), "float32"))
    [(values, _)] = data
    assert values["text"][0].numpy().tolist() == [b"n%d" % (i % 10) for i in range(30)]
    assert set(values["text"][1].numpy().tolist()) == {b"\0\xff\0"}
    assert values["image"].numpy()[:, 0, 0, 1].tolist() == list(range(30))


def test_a_signature_of_your_own(tf: Any, images: Path, spec: str) -> None:
    signature = (tf.TensorSpec((None, 8, None, 3), tf.float16), tf.TensorSpec((None,), tf.uint8))
    data = shardtools.open(f"{images}/in-@2.tar").to_tf(("png", "cls"), batch_size=30, signature=signature)
    assert data.element_spec == signature
    [(pixels, labels)] = data
    assert pixels.shape == (30, 8, 9, 3) and labels.numpy().tolist() == [i % 10 for i in range(30)]

    def ragged(rows: list[Any]) -> Any:
        return tf.ragged.constant([list(range(number)) for (number,) in rows], dtype=tf.int64)

    options: dict[str, Any] = {"collate": ragged, "batch_size": 10}
    data = shardtools.open(spec).to_tf(("id",), signature=tf.RaggedTensorSpec((None, None), tf.int64), **options)
    lengths = [row for batch in data for row in batch.row_lengths().numpy().tolist()]
    assert lengths == list(range(TOTAL))
    with pytest.raises(JobError, match=r"collate\(\) has a RaggedTensor, .* give signature="):
        shardtools.open(spec).to_tf(("id",), **options)
    data = shardtools.open(spec).to_tf(("id",), collate=lambda rows: {"count": len(rows)}, batch_size=10)
    assert [batch["count"].numpy() for batch in data] == [10] * 10 + [4]


# --- epochs


def test_each_iteration_is_the_next_epoch(tf: Any, spec: str) -> None:
    reference = ShardBatches(spec, fields=("id",), decode=True, shuffle=True, seed=3, batch_size=6, uneven="uneven")
    epochs = []
    for epoch in range(5):
        reference.set_epoch(epoch)
        epochs.append([batch[0].tolist() for batch in reference])
    data = shardtools.open(spec).to_tf(("id",), shuffle=True, seed=3, batch_size=6)
    assert epochs[0] != epochs[1] and sorted(flat(epochs[0])) == sorted(flat(epochs[1])) == list(range(TOTAL))
    assert ids(data) == epochs[0]
    for batch in data:
        assert batch[0].numpy().tolist() == epochs[1][0]
        break
    unused = iter(data)  # Keras makes one after each epoch
    assert ids(data.repeat(2)) == epochs[2] + epochs[3]
    assert next(unused)[0].numpy().tolist() == epochs[4][0]
    assert ids(shardtools.open(spec).to_tf(("id",), shuffle=True, seed=3, batch_size=6, epoch=2)) == epochs[2]


@pytest.mark.parametrize("uneven", ["drop", "pad", "uneven"])
def test_length_is_known_where_counts_are(tf: Any, spec: str, uneven: str) -> None:
    data = shardtools.open(spec).to_tf(("id",), batch_size=10, uneven=uneven)
    assert len(data) == len(ids(data)) == (10 if uneven == "drop" else 11)


def test_ranks_share_the_samples(tf: Any, spec: str) -> None:
    ranks = [shardtools.open(spec).to_tf(("id",), batch_size=4, rank=rank, world_size=3) for rank in range(3)]
    assert len({len(data) for data in ranks}) == 1
    assert sorted(number for data in ranks for number in flat(ids(data))) == list(range(TOTAL))
    policy = ranks[0].options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.OFF, "they are not dealt again"


def test_only_one_shard_is_read_for_the_signature(tf: Any, nginx: NginxServer) -> None:
    name = write_dataset(nginx.root, 3, 20)
    with FaultyProxy(nginx.url) as proxy:
        source = shardtools.open(proxy.url + name)
        data = source.to_tf(("cls", "txt"), batch_size=8)
        assert source.counts is None and data.cardinality() == tf.data.UNKNOWN_CARDINALITY
        assert {line.split()[1] for line in proxy.requests if ".tar HTTP" in line} == {"/in-0.tar"}
        assert [len(batch) for batch in ids(data)] == [8] * 7 + [4]
        assert len(source.to_tf(("cls", "txt"), batch_size=8)) == 8, "the pass has told the counts"


def test_options_of_storage_are_kept(tf: Any, nginx: NginxServer, tmp_path: Path) -> None:
    written_dataset(nginx.root, "in-@2.tgz", samples((20, 20)))
    data = shardtools.open(f"{nginx.url}in-@2.tgz", cache=str(tmp_path / "cache")).to_tf(("id",), batch_size=8)
    assert flat(ids(data)) == list(range(40))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept, "the cache was used"


def test_keras_trains_from_a_server(tf: Any, nginx: NginxServer, images: Path) -> None:
    shutil.copytree(images, nginx.root, dirs_exist_ok=True)
    seen: Counter[int] = Counter()

    def scaled(image: Any, label: int) -> Any:
        seen[int(image[0, 0, 1])] += 1
        return image[:1, :1, 0].ravel().astype(np.float32) / 100, np.float32(label)

    signature = (tf.TensorSpec((None, 1), tf.float32), tf.TensorSpec((None,), tf.float32))
    source = shardtools.open(f"{nginx.url}in-@2.tar")
    assert len(source) == 30
    data = source.to_tf(("png", "cls"), transform=scaled, shuffle=True, batch_size=4, threads=1, signature=signature)
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential([tf.keras.layers.Input((1,)), tf.keras.layers.Dense(1)])
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1), loss="mse")
    losses = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert losses[1] < losses[0] / 2
    assert seen == dict.fromkeys(range(30), 2)


# --- errors


def test_leaving_early_stops_the_threads(tf: Any, folder: Path) -> None:
    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("shardtools")}

    before = ours()
    for ending in ("tar", "tgz"):
        data = shardtools.open(f"{folder}/in-@5.{ending}").to_tf(("id",), batch_size=2)
        wait_until(lambda: not ours() - before, "the threads that read the first batch to end")
        for _ in data:
            assert ours() - before
            break
        wait_until(lambda: not ours() - before, "threads to end")


def test_errors_while_iterating_say_what_ours_say(tf: Any, nginx: NginxServer) -> None:
    written_dataset(nginx.root, "in-@2.tgz", samples((200, 200)))
    damaged = nginx.root / "in-1.tgz"
    data = bytearray(damaged.read_bytes())
    data[40:-40] = bytes(len(data) - 80)
    damaged.write_bytes(data)
    source = shardtools.open(f"{nginx.url}in-@2.tgz")
    with pytest.raises(tf.errors.OpError, match=r"CorruptError: http://\S+/in-1.tgz( \[k/0200\])?: "):
        ids(source.to_tf(("id",), batch_size=8))
    assert flat(ids(source.to_tf(("id",), batch_size=8, on_error="skip", max_skips=(999, 999))))[:200] == [*range(200)]
    os.unlink(damaged)
    with pytest.raises(tf.errors.OpError, match=r"NotFoundError: http://\S+/in-1.tgz: .*no such"):
        ids(shardtools.open(f"{nginx.url}in-@2.tgz").to_tf(("id",), batch_size=8))


def test_errors_of_the_first_samples_are_ours(tf: Any, spec: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"in-0.tar \[k/0000\]: the sample has no field jpg"):
        shardtools.open(spec).to_tf(("id", "jpg"))
    with pytest.raises(SampleError, match=r"in-0.tar \[k/0000\]: transform failed: ZeroDivisionError"):
        shardtools.open(spec).to_tf(("id",), transform=lambda number: 1 // number)
    shutil.copytree(folder, tmp_path / "in")
    os.unlink(tmp_path / "in" / "in-0.tar")
    source = shardtools.open(str(tmp_path / "in" / "in-@5.tar"))
    with pytest.raises(NotFoundError, match=r"in-0.tar"):
        source.to_tf(("id",))
    assert set(flat(ids(source.to_tf(("id",), on_error="skip")))) == set(range(10, TOTAL))


def test_first_samples_that_are_skipped(tf: Any, tmp_path: Path) -> None:
    rows = samples((4, 4))
    rows[0][0]["cls"] = rows[0][1]["cls"] = b"cat"
    written_dataset(tmp_path, "in-@2.tar", rows)
    source = shardtools.open(str(tmp_path / "in-@2.tar"))
    with pytest.raises(FieldError, match=r"in-0.tar \[k/0000.cls\]"):
        source.to_tf(("cls",), batch_size=4)
    assert flat(ids(source.to_tf(("cls",), batch_size=4, on_error="skip"))) == [2, 3, 4, 5, 6, 7]
    with pytest.raises(SampleError, match=r"in-0.tar \[k/0003\]: the sample has no field jpg"):
        source.to_tf(("jpg",), batch_size=4, on_error="skip", max_skips=(1, 1))
    with pytest.raises(JobError, match=r"no sample could be read.*signature="):
        source.to_tf(("jpg",), batch_size=4, on_error="skip")


def test_values_that_cannot_be_tensors(tf: Any, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {
            "key": f"{i}",
            "json": {"a": {"b": None}},
            "meta.json": {"a": i, "b": i},
            "keys.json": {"a": i} if i % 2 else {"b": i},
            "jsonl": [i],
            "npy": np.zeros((3, 2 + i % 2)),
            "png": np.full((2, 2), 100 * i, np.uint16 if i == 3 else np.uint8),
            "time.npy": np.array([i], "M8[s]"),
            "number.json": i if i < 3 else i + 0.5,
        }
        for i in range(4)
    ]
    written_dataset(tmp_path, "in-@1.tar", [rows])
    source = shardtools.open(str(tmp_path / "in-@1.tar"))
    for field, what in {
        "json": r"json\['a'\]\['b'\] has a NoneType, which cannot become a tensor; give transform=",
        "keys.json": "keys.json has different items in different samples; give transform=",
        "jsonl": "jsonl has a list, which cannot become a tensor; give transform=",
        "npy": r"npy differs in shape: \(3, 2\), \(3, 3\); give transform=",
        "time.npy": r"time.npy is of datetime64\[s\], which TensorFlow does not support; give transform=",
    }.items():
        with pytest.raises(JobError, match=what):
            source.to_tf((field,), batch_size=2)
    for field, what in {
        "npy": r"npy has shape \(1, 3, 3\) in a batch, not \(None, 3, 2\); give transform=.* or signature=",
        "png": "png has numbers in a batch that uint8 cannot hold; ",
        "keys.json": r"keys.json does not have the items b of the signature; give another signature=",
        "number.json": "number.json has float64 in a batch, not int64; ",
    }.items():
        with pytest.raises(tf.errors.OpError, match=what):
            list(source.to_tf((field,)))
    assert [batch["b"].numpy().tolist() for (batch,) in source.to_tf(("meta.json",), batch_size=3)] == [[0, 1, 2], [3]]


def test_batches_that_are_not_what_the_signature_says(tf: Any, spec: str) -> None:
    number = tf.TensorSpec((None,), tf.int64)
    for signature, what in (
        ((number, number), "a batch does not have the items 0, 1 of"),
        ({"id": number}, "a batch does not have the items id of"),
        ((tf.TensorSpec((None,), tf.string),), "id has int64 in a batch, not string"),
    ):
        with pytest.raises(tf.errors.OpError, match=what):
            ids(shardtools.open(spec).to_tf(("id",), signature=signature))


def test_arguments_are_checked(tf: Any, spec: str) -> None:
    for options, what in (
        ({"rank": 2, "world_size": 2}, "rank 2 is out of range for world_size 2"),
        ({"batch_size": 0}, "positive"),
    ):
        with pytest.raises(JobError, match=what):
            shardtools.open(spec).to_tf(("id",), **options)
    with pytest.raises(TypeError, match="batchsize"):
        shardtools.open(spec).to_tf(("id",), batchsize=3)


def test_without_tensorflow(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(JobError, match="TensorFlow is not installed; install it: pip install tensorflow"):
        shardtools.open(spec).to_tf(("id",))


def test_one_field_is_given_as_it_is(tf: Any, spec: str) -> None:
    [first, *_] = shardtools.open(spec).to_tf("id", batch_size=3)
    assert [part.numpy().tolist() for part in first] == [[0, 1, 2]]
