"""Two processes share arrays on a server: one labels handwritten digits, the other trains on what is labelled so far.

    scripts/serve /tmp/served 8080
    python examples/team_arrays.py label http://localhost:8080/team
    python examples/team_arrays.py train http://localhost:8080/team        in another terminal, or on another machine

They may be started in any order. Images and labels are written together, as one commit, so that whoever trains never
sees one without the other. The version that the last model was trained on gets a tag: it can be trained again on the
same data. It needs scikit-learn, for the digits.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

import shardtools as st

Array = npt.NDArray[Any]

NEEDED = 1000
BATCH = 100


def label(url: str, seconds: float) -> None:
    """Write images and their labels, a batch in each commit, with ``seconds`` of work between them."""
    digits = load_digits()
    hub = st.hub(url)
    with hub.transaction("begin", author="label") as t:
        if "digits" not in t:
            t.array("digits/images", shape=(0, 8, 8), chunks=(BATCH, 8, 8), dtype="uint8")
            t.array("digits/labels", shape=0, chunks=BATCH, dtype="int8")
    for start in range(len(hub.load("digits/labels")), NEEDED, BATCH):
        time.sleep(seconds)
        rows = slice(start, start + BATCH)
        with hub.transaction(f"label {start} to {start + BATCH}", author="label") as t:
            t["digits/images"].append(digits.images[rows])
            t["digits/labels"].append(digits.target[rows])
        print(f"labelled {start + BATCH}", flush=True)


def train(url: str, seconds: float) -> None:
    """Train on each version that has more labels than the one before; look for one every few ``seconds``."""
    hub = st.hub(url)
    while "digits/labels" not in hub:
        time.sleep(seconds)
    labels, trained = hub.load("digits/labels"), 0
    while trained < NEEDED:
        if len(labels.refresh()) == trained:
            time.sleep(seconds)
            continue
        images = hub.load(f"digits/images@{labels.snapshot.number}")  # of the same commit as the labels
        trained = len(labels)
        print(f"{labels.version}: {trained} labels, accuracy {accuracy(images[:], labels[:]):.1%}", flush=True)
    hub.tag("trained", labels.version.removeprefix("main"), message="the data of the last model", author="train")
    print(f"tagged {labels.version}")


def accuracy(images: Array, labels: Array) -> float:
    """Train on three quarters, by linear regression, and return the share of the others that is recognised."""
    inputs = np.column_stack([images.reshape(len(images), -1) / 16, np.ones(len(images))])
    wanted = np.eye(10)[labels]
    test = np.arange(len(images)) % 4 == 0
    weights = np.linalg.solve(inputs[~test].T @ inputs[~test] + np.eye(65), inputs[~test].T @ wanted[~test])
    return float(np.mean((inputs[test] @ weights).argmax(1) == labels[test]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["label", "train"], help="what this process does")
    parser.add_argument("url", help="the place of the arrays, such as http://localhost:8080/team")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds between two commits, or two looks (1)")
    arguments = parser.parse_args()
    {"label": label, "train": train}[arguments.what](arguments.url, arguments.seconds)
