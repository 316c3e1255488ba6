"""Datasets and views over servers: what is moved for what is asked for."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shardtools
from tests.datasets import written_dataset
from tests.moto_server import moto_server, use_environment
from tests.servers import NginxServer, wait_until


def images() -> np.ndarray:  # type: ignore[type-arg]
    """Return 60 real photographs of 120 x 160 points: cut from two that scikit-learn has."""
    from sklearn.datasets import load_sample_images  # imported here, since collecting the tests needs no scikit-learn

    photos = list(load_sample_images().images)
    return np.stack([photos[i % 2][10 * (i % 20) : 10 * (i % 20) + 120, 7 * i : 7 * i + 160] for i in range(60)])


def digits() -> list[int]:
    """Return 60 real labels: those of the first digits that scikit-learn has."""
    from sklearn.datasets import load_digits

    labels: list[int] = load_digits().target[:60].tolist()
    return labels


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, list[list[dict[str, object]]]]:  # type: ignore[type-arg]
    """Photographs as JPEG files decode them, and the shards that hold them."""
    decoded, shards = [], []
    photos, labels = images(), digits()
    for shard in range(3):
        rows: list[dict[str, object]] = []
        for i in range(20):
            file = io.BytesIO()
            number = 20 * shard + i
            Image.fromarray(photos[number]).save(file, "JPEG", quality=95)
            decoded.append(np.array(Image.open(io.BytesIO(file.getvalue()))))
            rows.append({"key": f"{number:04d}", "jpg": file.getvalue(), "cls": labels[number]})
        shards.append(rows)
    return np.stack(decoded), shards


def sent(nginx: NginxServer) -> int:
    """Return how many bytes of shards the server has sent, once it has written down all of them."""
    last = (0, 0.0)

    def settled() -> bool:
        nonlocal last
        size, now = nginx.log_path.stat().st_size, time.monotonic()
        if size != last[0] or not last[1]:
            last = size, now
        return now - last[1] > 0.2

    wait_until(settled, "the log of the server")
    found = re.findall(r'"GET /\S+\.(?:tar|tgz) HTTP/1.1" \d+ (\d+) ', nginx.log_path.read_text())
    return sum(map(int, found))


class TestHttp:
    @pytest.fixture(params=["tar", "tgz"])
    def spec(self, request: pytest.FixtureRequest, nginx: NginxServer, pictures: object) -> str:
        written_dataset(nginx.root, f"photos-@3.{request.param}", pictures[1])  # type: ignore[index]
        return f"{nginx.url}photos-@3.{request.param}"

    def test_the_first_lines(self, spec: str, pictures: object, tmp_path: Path) -> None:
        array = pictures[0]  # type: ignore[index]
        dataset = shardtools.open(spec, cache=str(tmp_path / "cache"))
        photos = dataset.view("jpg")
        assert photos.shape == (60, 120, 160, 3)
        assert np.array_equal(photos[0], array[0]) and np.array_equal(photos[-1], array[-1])
        part = photos[0:10, 20:100, 50:150]
        assert part.mean() == pytest.approx(array[0:10, 20:100, 50:150].mean())
        assert part.std() == pytest.approx(array[0:10, 20:100, 50:150].std())
        assert np.array_equal(np.asarray(photos[::7]), array[::7])
        assert np.array_equal(np.asarray(photos[[5, 40, 5]]), array[[5, 40, 5]])
        assert np.asarray(dataset.view("cls")).tolist() == digits()
        assert dataset["0041"].index == 1

    def test_what_was_read_is_in_the_cache(self, spec: str, nginx: NginxServer, tmp_path: Path) -> None:
        for shard in nginx.root.iterdir():
            os.utime(shard, (1e9, 1e9))  # what was written this second may change again, and is not kept
        for read in (lambda ds: list(ds), lambda ds: ds[7], lambda ds: ds[21:25], lambda ds: ds.view("cls")[3]):
            found = []
            for _ in range(2):
                before = sent(nginx)
                found.append(read(shardtools.open(spec, cache=str(tmp_path / "cache"))))
                moved = sent(nginx) - before
            assert found[0] == found[1] and moved == 0

    def test_only_what_is_needed_is_moved(self, spec: str, nginx: NginxServer, pictures: object) -> None:
        dataset = shardtools.open(spec)
        assert len(dataset) == 60 and dataset.fields == ("cls", "jpg")
        before = sent(nginx)
        assert before == 0
        own = sum(len(bytes(row["jpg"])) for row in pictures[1][1][3:9])  # type: ignore[index]
        dataset[23:29]
        moved = sent(nginx)
        largest = 1.3 * own if spec.endswith(".tar") else own + 600_000
        assert own < moved < largest
        dataset.view("cls")[25]
        assert sent(nginx) - moved < (4000 if spec.endswith(".tar") else 600_000)

    def test_iteration_reads_each_shard_once(self, spec: str, nginx: NginxServer) -> None:
        assert [record["key"] for record in shardtools.open(spec)] == [f"{i:04d}" for i in range(60)]
        size = sum(path.stat().st_size for path in nginx.root.glob("photos-?.t*") if not path.name.endswith(".npz"))
        assert sent(nginx) <= 1.02 * size


def test_over_s3(pictures: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array, shards = pictures  # type: ignore[misc]
    with moto_server() as server:
        use_environment(monkeypatch, server.environment())
        server.client().create_bucket(Bucket="bucket")
        written_dataset(tmp_path, "photos-@3.tgz", shards)
        for path in tmp_path.iterdir():
            server.client().upload_file(str(path), "bucket", path.name)
        dataset = shardtools.open("s3://bucket/photos-@3.tgz")
        photos = dataset.view("jpg")
        assert photos.shape == array.shape and np.array_equal(photos[25], array[25])
        assert photos[0:10, 20:100, 50:150].mean() == pytest.approx(array[0:10, 20:100, 50:150].mean())
        assert photos[::9].max() == array[::9].max()


def test_the_contact_sheet(pictures: object, nginx: NginxServer, tmp_path: Path) -> None:
    written_dataset(nginx.root, "photos-@3.tgz", pictures[1])  # type: ignore[index]
    example = Path(__file__).resolve().parents[2] / "examples" / "contact_sheet.py"
    command = [sys.executable, str(example), f"{nginx.url}photos-@3.tgz", "jpg", "sheet.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("60 samples with cls, jpg; sheet.png shows 40\ntheir mean is ")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (804, 504)
        assert np.asarray(sheet)[4:100, 4:100].std() > 10
