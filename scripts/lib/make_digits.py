"""Write scikit-learn's handwritten digits as a dataset of 8 shards: make_digits.py FOLDER

1797 scans of 8 by 8 pixels, from the test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits"
(UCI, 1998). Only the standard library packs them: these are shards as anybody would make them.
"""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SHARDS = 8


def add_member(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))


def encode_png(levels: np.ndarray) -> bytes:
    """Return a grey PNG of an array whose levels are 0 to 16."""
    file = io.BytesIO()
    Image.fromarray((levels * 255 / 16).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def main(folder: Path) -> None:
    digits = load_digits()
    for number, indexes in enumerate(np.array_split(np.arange(len(digits.images)), SHARDS)):
        with tarfile.open(folder / f"digits-{number}.tgz", "w:gz") as shard:
            for index in indexes.tolist():
                key = f"digits/{index:04d}"
                add_member(shard, f"{key}.png", encode_png(digits.images[index]))
                add_member(shard, f"{key}.cls", str(digits.target[index]).encode())
                add_member(shard, f"{key}.json", json.dumps({"index": index, "scan": [8, 8]}).encode())


main(Path(sys.argv[1]))
