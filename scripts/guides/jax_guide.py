#!/usr/bin/env python3
"""Headrace with JAX: a page to read from top to bottom, and a script to run.

  scripts/quickstart                                    # makes out/elpv/1.0.0, if you have no data set yet
  python -m pip install jax optax orbax-checkpoint
  python scripts/guides/jax_guide.py out/elpv/1.0.0

It trains a small classifier, stops in the middle of an epoch, goes on from an Orbax checkpoint, and compares the
weights with those of a training that was not stopped.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import tensorflow as tf

from loader import load

# TensorFlow only feeds here: it must not take the accelerators' memory from JAX.
tf.config.set_visible_devices([], "GPU")

BATCH = 32  # over all hosts
SIZE = 32  # pixels
SAVE_EVERY = 5  # steps


# 1. Data. `repeat=True` goes on from epoch to epoch, each in a fresh order; `last_batch="drop"` keeps all shapes the
#    same, so that nothing is compiled twice. Every process of a JAX job gets its own rows of every batch, and all
#    together have the batch that a single one would have.
def training_data(directory: Path, state: Mapping[str, Any] | None = None) -> Any:
    return load(
        directory,
        "train",
        batch_size=BATCH,
        features="image",
        image_size=SIZE,
        augment="light",
        repeat=True,
        last_batch="drop",
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        state=state,
    )


# 2. Evaluation counts every record exactly once: the last batch is filled up with zeros, and a mask says which rows
#    are real. Every process makes the same number of steps.
def evaluation_data(directory: Path) -> Any:
    return load(
        directory,
        "validation",
        batch_size=BATCH,
        features="image",
        image_size=SIZE,
        last_batch="pad",
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


# 3. From the processes' rows to one global array, dealt to all devices of all processes. What `as_numpy_iterator`
#    gives are views of TensorFlow's memory: nothing is copied on the way.
MESH = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
BY_ROWS = jax.sharding.NamedSharding(MESH, jax.sharding.PartitionSpec("data"))


def to_devices(batch: Any) -> Any:
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(BY_ROWS, rows), batch)


def init(key: jax.Array) -> dict[str, jax.Array]:
    first, second, third = jax.random.split(key, 3)
    he = jax.nn.initializers.he_normal(in_axis=-2, out_axis=-1)
    return {
        "conv1": he(first, (3, 3, 1, 16)),
        "conv2": he(second, (3, 3, 16, 32)),
        "dense": he(third, (32, 2)),
        "bias": jnp.zeros(2),
    }


def predict(params: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    x = images.astype(jnp.float32) / 64 - 2
    for name in ("conv1", "conv2"):
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(x, params[name], (2, 2), "SAME", dimension_numbers=layout)
        )
    return x.max(axis=(1, 2)) @ params["dense"] + params["bias"]


OPTIMIZER = optax.adam(3e-3)


@jax.jit
def train_step(model: Any, images: jax.Array, labels: jax.Array) -> Any:
    params, moments = model

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(predict(params, images), labels).mean()

    updates, moments = OPTIMIZER.update(jax.grad(loss)(params), moments)
    return optax.apply_updates(params, updates), moments


@jax.jit
def correct(params: dict[str, jax.Array], images: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    return ((predict(params, images).argmax(1) == labels) * mask).sum()


def evaluate(params: dict[str, jax.Array], directory: Path) -> float:
    right = records = 0.0
    for batch in evaluation_data(directory).as_numpy_iterator():
        images, labels, mask = to_devices(batch)
        right += float(correct(params, images, labels, mask))
        records += float(mask.sum())
    return right / records


# 4. Training, and going on after a kill. The loader's place is a small dict that depends on the step alone: it is one
#    line of the checkpoint, however far the loader has read ahead. Another number of processes can go on from it.
def train(directory: Path, checkpoints: Path, steps: int) -> Any:
    params = init(jax.random.key(0))
    model, place = (params, OPTIMIZER.init(params)), None
    options = ocp.CheckpointManagerOptions(max_to_keep=1, save_interval_steps=SAVE_EVERY)
    with ocp.CheckpointManager(checkpoints.absolute(), options=options) as manager:
        if manager.latest_step() is not None:
            wanted = ocp.args.Composite(model=ocp.args.StandardRestore(model), loader=ocp.args.JsonRestore())
            saved = manager.restore(manager.latest_step(), args=wanted)
            model, place = saved.model, saved.loader
        data = training_data(directory, state=place)
        batches = data.as_numpy_iterator()
        for step in range(data.step + 1, steps + 1):
            model = train_step(model, *to_devices(next(batches)))
            both = ocp.args.Composite(
                model=ocp.args.StandardSave(model), loader=ocp.args.JsonSave(data.state(step))
            )
            manager.save(step, args=both)
    # 5. Does training wait for data? The loader has counted, step by step. (JAX computes while Python goes on: put
    #    `jax.block_until_ready(model)` into the loop to see the wait of each step rather than of many.)
    print(f"steps {data.step + 1} to {steps}: {data.stats()}")
    return model[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="the data set, such as out/elpv/1.0.0")
    parser.add_argument("--epochs", type=int, default=4, help="(default: 4)")
    args = parser.parse_args()
    steps = training_data(args.directory).steps_per_epoch() * args.epochs

    with tempfile.TemporaryDirectory() as checkpoints:
        whole = train(args.directory, Path(checkpoints, "whole"), steps)
        train(args.directory, Path(checkpoints, "stopped"), steps // 2 + 1)
        resumed = train(args.directory, Path(checkpoints, "stopped"), steps)

    same = all(np.array_equal(one, resumed[name]) for name, one in whole.items())
    accuracy = evaluate(resumed, args.directory)
    print(
        f"accuracy {accuracy:.4f}; resumed and uninterrupted weights are {'equal' if same else 'different'}"
    )


if __name__ == "__main__":
    main()
