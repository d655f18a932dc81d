#!/usr/bin/env python3
"""Headrace with PyTorch: a page to read from top to bottom, and a script to run.

  scripts/quickstart                                    # makes out/elpv/1.0.0, if you have no data set yet
  python -m pip install torch
  python scripts/guides/pytorch_guide.py out/elpv/1.0.0

It trains a small classifier, stops in the middle of an epoch, goes on from a checkpoint, and compares the weights
with those of a training that was not stopped. There is no DataLoader in it: the loader is one already, with its own
threads instead of worker processes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
import torch
from torch import nn

from loader import load

# TensorFlow only feeds here: it must not take the accelerators' memory from PyTorch.
tf.config.set_visible_devices([], "GPU")

BATCH = 32  # over all processes
SIZE = 32  # pixels
SAVE_EVERY = 5  # steps
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# `torchrun` tells each process which one it is. With those, every process gets its rows of every batch.
RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


# 1. Data. `repeat=True` goes on from epoch to epoch, each in a fresh order. Nothing is wasted by a DistributedSampler's
#    padding, and there is no `set_epoch` to forget.
def training_data(directory: Path, state: Mapping[str, Any] | None = None) -> Any:
    return load(
        directory,
        "train",
        batch_size=BATCH,
        features="image",
        image_size=SIZE,
        augment="light",
        repeat=True,
        process_index=RANK,
        process_count=WORLD_SIZE,
        state=state,
    )


# 2. Evaluation counts every record exactly once: the last batch is filled up with zeros, and a mask says which rows
#    are real. Every process makes the same number of steps; add up `right` and `records` over them.
def evaluation_data(directory: Path) -> Any:
    return load(
        directory,
        "validation",
        batch_size=BATCH,
        features="image",
        image_size=SIZE,
        last_batch="pad",
        process_index=RANK,
        process_count=WORLD_SIZE,
    )


# 3. From TensorFlow's tensors to PyTorch's, without a copy: they share the memory, so change nothing in place.
def to_torch(tensor: tf.Tensor) -> torch.Tensor:
    shared = torch.from_dlpack(tf.experimental.dlpack.to_dlpack(tensor))
    return shared.to(DEVICE, non_blocking=True)


def to_channels_first(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 64 - 2


def make_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 16, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 2),
    ]
    return nn.Sequential(*layers).to(DEVICE)


@torch.no_grad()
def evaluate(model: nn.Module, directory: Path) -> float:
    right = records = 0.0
    for images, labels, mask in evaluation_data(directory):
        hits = model(to_channels_first(to_torch(images))).argmax(1) == to_torch(labels)
        right += float((hits * to_torch(mask)).sum())
        records += float(to_torch(mask).sum())
    return right / records


# 4. Training, and going on after a kill. The loader's place is a small dict that depends on the step alone: it goes
#    into the checkpoint beside the weights, however far the loader has read ahead. Another number of processes can go
#    on from it. The checkpoint appears by a rename, so a kill leaves the last whole one.
def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Mapping[str, Any]) -> None:
    aside = path.with_suffix(".tmp")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader}, aside)
    aside.replace(path)


def train(directory: Path, checkpoint: Path, steps: int) -> nn.Module:
    model, place = make_model(), None
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        place = saved["loader"]
    data = training_data(directory, state=place)
    for step, (images, labels) in zip(range(data.step + 1, steps + 1), data, strict=False):
        loss = nn.functional.cross_entropy(model(to_channels_first(to_torch(images))), to_torch(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % SAVE_EVERY == 0 and RANK == 0:
            save(checkpoint, model, optimizer, data.state(step))
    # 5. Does training wait for data? The loader has counted, step by step.
    print(f"steps {data.step + 1} to {steps}: {data.stats()}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="the data set, such as out/elpv/1.0.0")
    parser.add_argument("--epochs", type=int, default=4, help="(default: 4)")
    args = parser.parse_args()
    steps = training_data(args.directory).steps_per_epoch() * args.epochs

    with tempfile.TemporaryDirectory() as checkpoints:
        whole = train(args.directory, Path(checkpoints, "whole.pt"), steps)
        train(args.directory, Path(checkpoints, "stopped.pt"), steps // 2 + 1)
        resumed = train(args.directory, Path(checkpoints, "stopped.pt"), steps)

    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    same = all(torch.equal(one, other) for one, other in pairs)
    accuracy = evaluate(resumed, args.directory)
    print(
        f"accuracy {accuracy:.4f}; resumed and uninterrupted weights are {'equal' if same else 'different'}"
    )


if __name__ == "__main__":
    main()
