"""Train a network on handwritten digits from a server, and continue after an interruption.

    htshuffle http://localhost:8080/digits-@8.tgz http://localhost:8080/shuffled-@8.tgz
    python examples/train_digits.py http://localhost:8080/shuffled-@8.tgz digits.pt
    python examples/train_digits.py http://localhost:8080/shuffled-@8.tgz digits.pt --resume

The last shard is the test set. The dataset must be shuffled once for that, since it is ordered by who wrote the digits.
scripts/demo makes the dataset, and says how to serve it.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import shardtools
from shardtools.torch import ShardIterable


def scaled(image: np.ndarray[Any, Any], label: int) -> tuple[np.ndarray[Any, Any], int]:
    """Return an image as the network takes it: one channel, from 0 to 1."""
    return image[None].astype(np.float32) / 255, label


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 10),
    )


def accuracy(model: nn.Module, test: ShardIterable) -> float:
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in test:
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    model.train()
    return right / total


def save(path: str, **contents: Any) -> None:
    """Write a checkpoint; whoever is stopped meanwhile keeps the one before."""
    torch.save(contents, f"{path}.new")
    os.replace(f"{path}.new", path)


def main(arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more of them only wait for each other in so small a network
    *shards, last = shardtools.open(arguments.url).urls
    options: dict[str, Any] = {"fields": ("png", "cls"), "transform": scaled, "batch_size": 32}
    train = ShardIterable(shards, shuffle=True, seed=1, **options)
    test = ShardIterable(last, uneven="uneven", **options)
    loader = DataLoader(train, batch_size=None, num_workers=arguments.workers)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    if arguments.resume:
        checkpoint = torch.load(arguments.checkpoint)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        train.load_state_dict(checkpoint["loader"])
        print(f"resumed in epoch {train.epoch}, after {checkpoint['loader']['delivered']} samples of it", flush=True)

    begin = time.perf_counter()
    for epoch in range(train.epoch, arguments.epochs):
        train.set_epoch(epoch)
        for count, (images, labels) in enumerate(loader, start=1):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if count % arguments.every == 0:
                state = train.state_dict(batches=count)
                save(arguments.checkpoint, model=model.state_dict(), optimizer=optimizer.state_dict(), loader=state)
        print(f"epoch {epoch}: loss {loss.item():.3f}, test accuracy {accuracy(model, test):.1%}", flush=True)
    seconds = time.perf_counter() - begin
    stats = train.stats()
    print(
        f"loader: {stats['batches']:.0f} batches, {stats['samples']:.0f} samples, {stats['bytes'] / 1e6:.2f} MB in "
        f"{seconds:.1f} s, of which training waited {stats['waited']:.1f} s; {stats['skipped']:.0f} skipped"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the shards, such as http://localhost:8080/shuffled-@8.tgz")
    parser.add_argument("checkpoint", help="the file to write, and to read with --resume")
    parser.add_argument("--epochs", type=int, default=5, help="epochs to train (5)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read and decode (0: threads)")
    parser.add_argument("--every", type=int, default=10, help="batches between two checkpoints (10)")
    parser.add_argument("--resume", action="store_true", help="continue where the checkpoint was written")
    main(parser.parse_args())
