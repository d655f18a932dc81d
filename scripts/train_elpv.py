#!/usr/bin/env python3
"""Train a small Keras classifier on the prepared ELPV data: is this solar cell defective?

A few convolutions on 96 x 96 pixels, made for two CPU cores and a minute, not for a record. It shows what a
training script needs of Headrace: `load`, and nothing else.

Example:
  python scripts/train_elpv.py out/elpv/1.0.0 --epochs 6
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing on standard error: TensorFlow greets on it, from C++, whatever its log level is."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no news of every compilation
with silence():
    import keras
    import tensorflow as tf
    from keras import layers

    from loader import load
    from loader.augment import FlipLeftRight, FlipUpDown

    tf.config.list_logical_devices()  # wakes the devices up, which is the other greeting

SIZE = 96
BATCH = 32


def make_model() -> keras.Model:
    """Four convolutions, the first at half resolution, and an average: 101,000 weights."""

    def convolution(filters: int, strides: int = 1) -> list[layers.Layer]:
        return [
            layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]

    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            layers.Rescaling(1 / 64, offset=-2),
            *convolution(16, strides=2),
            *convolution(32),
            layers.MaxPool2D(),
            *convolution(64),
            layers.MaxPool2D(),
            *convolution(128),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.2),
            layers.Dense(2),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", help="the data set, such as out/elpv/1.0.0")
    parser.add_argument("--epochs", type=int, default=4, help="(default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order (default: 0)")
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)

    # The same records in the same order with the same flips, whenever it is run with this seed.
    train = load(
        args.directory,
        "train",
        batch_size=BATCH,
        seed=args.seed,
        features="image",
        image_size=SIZE,
        augment=[FlipLeftRight(), FlipUpDown()],
    )
    validation = load(args.directory, "validation", batch_size=BATCH, features="image", image_size=SIZE)

    steps = len(train) * args.epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=2e-3, warmup_steps=max(1, steps // 5)
    )
    model = make_model()
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU it takes longer to compile than it saves here
    )
    started = time.perf_counter()
    # shuffle=False: `load` has done that, and Keras would warn that it cannot.
    model.fit(train, validation_data=validation, epochs=args.epochs, shuffle=False, verbose=2)
    seconds = time.perf_counter() - started

    loss, accuracy = model.evaluate(validation, verbose=0)
    labels = Counter(int(label) for _, batch in validation for label in batch)
    majority = max(labels.values()) / labels.total()
    print(
        f"\nvalidation  loss {loss:.3f}, accuracy {accuracy:.1%}; always the commoner class: {majority:.1%}"
    )
    print(f"training    {args.epochs} epochs in {seconds:.1f} s; {train.stats()}")


if __name__ == "__main__":
    main()
