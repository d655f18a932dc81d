#!/usr/bin/env python3
"""Headrace with Keras: a page to read from top to bottom, and a script to run.

  scripts/quickstart                                    # makes out/elpv/1.0.0, if you have no data set yet
  python scripts/guides/keras_guide.py out/elpv/1.0.0

It trains a small classifier, breaks training off in the middle of an epoch, goes on, and compares the weights with
those of a training that was not stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from loader import load
from loader.callbacks import Backup

BATCH = 32  # over all hosts
SIZE = 32  # pixels


# 1. Data. `load` gives a tf.data.Dataset. The training split is shuffled over all of its records and augmented; an
#    order and an augmentation that depend on the data set, the seed and the epoch, and on nothing else.
#    Where several hosts train together, tell each which one it is: it gets its rows of every batch.
def training_data(directory: Path, host: int = 0, hosts: int = 1) -> Any:
    return load(
        directory,
        "train",
        batch_size=BATCH,
        features="image",
        image_size=SIZE,
        augment="light",
        process_index=host,
        process_count=hosts,
    )


# 2. Evaluation counts every record exactly once: the last batch is filled up with zeros, and a third part of each
#    element says which rows are real. Keras takes it for sample weights. On several hosts all make the same number of
#    steps, which is what collective operations need.
def evaluation_data(directory: Path) -> Any:
    return load(
        directory, "validation", batch_size=BATCH, features="image", image_size=SIZE, last_batch="pad"
    )


def make_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            keras.layers.Rescaling(1 / 64, offset=-2),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(2),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        jit_compile=False,
    )
    return model


# 3. Training, and going on after a kill: `Backup` saves model, optimizer and the loader's position in one commit and
#    restores them when `fit` begins. The same lines serve the first start and every other one.
#    shuffle=False: `load` has done that, and Keras would warn that it cannot.
def train(directory: Path, backup: Path, epochs: int, stop: int | None = None) -> keras.Model:
    data, model = training_data(directory), make_model()
    callbacks = [Backup(backup, data, save_freq=5), *([Interrupt(stop)] if stop else [])]
    history = model.fit(
        data,
        epochs=epochs,
        validation_data=evaluation_data(directory),
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )
    print(
        f"epochs {[epoch + 1 for epoch in history.epoch]}, accuracy {history.history['val_accuracy'][-1]:.1%}"
    )
    # 4. Does training wait for data? The loader has counted, step by step.
    print(data.stats())
    return model


class Interrupt(keras.callbacks.Callback):
    """Breaks training off after some steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="the data set, such as out/elpv/1.0.0")
    parser.add_argument("--epochs", type=int, default=4, help="(default: 4)")
    args = parser.parse_args()
    # The data are always the same; this makes TensorFlow's own operations so, at some cost.
    tf.config.experimental.enable_op_determinism()

    with tempfile.TemporaryDirectory() as backups:
        whole = train(args.directory, Path(backups, "whole"), args.epochs)
        half = len(training_data(args.directory)) * args.epochs // 2 + 1
        try:
            train(args.directory, Path(backups, "stopped"), args.epochs, stop=half)
        except KeyboardInterrupt:
            print(f"stopped after step {half}")
        resumed = train(args.directory, Path(backups, "stopped"), args.epochs)

    pairs = zip(whole.get_weights(), resumed.get_weights(), strict=True)
    same = all(np.array_equal(one, other) for one, other in pairs)
    _, accuracy = resumed.evaluate(evaluation_data(args.directory), verbose=0)
    print(
        f"accuracy {accuracy:.4f}; resumed and uninterrupted weights are {'equal' if same else 'different'}"
    )


# 5. Several devices of one machine: make the model within `with tf.distribute.MirroredStrategy().scope():` and give
#    `fit` the same loader; each device gets its part of every batch. (Keras takes one batch to look at before it
#    begins; `Backup` starts the loader over after that.)
#    Several machines: tf.distribute tells each which part of the input is its own:
#
#      strategy.distribute_datasets_from_function(
#          lambda context: load(
#              directory,
#              batch_size=context.get_per_replica_batch_size(BATCH) * context.num_input_pipelines,
#              process_index=context.input_pipeline_id,
#              process_count=context.num_input_pipelines,
#          )
#      )

if __name__ == "__main__":
    main()
