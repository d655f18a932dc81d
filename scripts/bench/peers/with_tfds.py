"""TensorFlow Datasets: read back with builder_from_directory, images undecoded, the crop fused with decoding.

That is what its guide to performance advises (SkipDecoding, then decode_and_crop_jpeg). Shuffling before
decoding keeps the buffer small. The rest is as for tf.data by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import tensorflow as tf
import tensorflow_datasets as tfds
from harness import Batches
from with_tfdata import LEVELS, SHARDS, decode_batches


def prepare(images: list[Path], out: Path) -> None:
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.Scalar(tf.int64),
        }
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="photos", version=tfds.core.Version("1.0.0"), data_dir=str(out), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, supervised_keys=("image", "label"))
    writer = tfds.core.SequentialWriter(info, -(-len(images) // SHARDS))
    writer.initialize_splits(["train"])
    for label, path in enumerate(images):
        writer.add_examples({"train": [{"image": path.read_bytes(), "label": label}]})
    writer.close_all()


def load(images: list[Path], out: Path, level: str) -> Any:  # noqa: ARG001
    builder = tfds.builder_from_directory(out)
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = builder.as_dataset(
        split="train",
        shuffle_files=True,
        as_supervised=True,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(
            options=options,
            interleave_cycle_length=SHARDS,
            num_parallel_calls_for_decode=2,
            num_parallel_calls_for_interleave_files=2,
            try_autocache=False,
            skip_prefetch=True,
        ),
    )
    dataset = decode_batches(dataset.shuffle(1024), lambda jpeg, label: (LEVELS[level](jpeg), label))

    def epoch() -> Batches:
        return iter(dataset)

    return epoch


if __name__ == "__main__":
    harness.main(["tensorflow-datasets", "tensorflow"], prepare, load)
