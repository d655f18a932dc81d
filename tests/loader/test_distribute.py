"""The loader under tf.distribute: two devices of one machine, and several machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from loader import load

BATCH = 8


def test_every_input_pipeline_gets_its_rows(cells):
    """As on several machines: tf.distribute calls the function with each one's context."""

    def rows_of(context: tf.distribute.InputContext) -> list[list[int]]:
        data = load(
            cells,
            batch_size=context.get_per_replica_batch_size(BATCH) * context.num_input_pipelines,
            process_index=context.input_pipeline_id,
            process_count=context.num_input_pipelines,
            with_ids=True,
            features="image",
        )
        return [features["example_id"].numpy().tolist() for features, _ in data]

    whole = rows_of(tf.distribute.InputContext(1, 0, 1))
    hosts = [rows_of(tf.distribute.InputContext(4, host, 4)) for host in range(4)]
    assert [[i for row in rows for i in row] for rows in zip(*hosts, strict=True)] == whole


CHILD = """
import json, sys, tempfile
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from loader import load
from loader.callbacks import Backup

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
options = {"batch_size": 8, "with_ids": True, "features": "image"}

def steps(data):
    "The ids of every step, of all devices together."
    found = []
    for features, _ in data:
        parts = strategy.experimental_local_results(features["example_id"])
        found.append([int(i) for part in parts for i in part.numpy()])
    return found

found = {
    "plain": [[int(i) for i in x["example_id"]] for x, _ in load(sys.argv[1], **options)],
    "dataset": steps(strategy.experimental_distribute_dataset(load(sys.argv[1], **options))),
    "function": steps(strategy.distribute_datasets_from_function(lambda context: load(
        sys.argv[1], **{**options, "batch_size": context.get_per_replica_batch_size(8) * context.num_input_pipelines},
        process_index=context.input_pipeline_id, process_count=context.num_input_pipelines))),
}

class Seen(keras.callbacks.Callback):
    steps, stop = 0, 0
    def on_train_batch_end(self, batch, logs=None):
        Seen.steps += 1
        if Seen.steps == Seen.stop:
            raise KeyboardInterrupt

def train(place, stop=0):
    keras.utils.set_random_seed(1)
    Seen.steps, Seen.stop = 0, stop
    with strategy.scope():
        model = keras.Sequential([keras.Input((30, 30, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(1e-5, 0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = load(sys.argv[1], batch_size=8)
    history = model.fit(data, epochs=2, callbacks=[Backup(place, data, save_freq=4), Seen()], shuffle=False, verbose=0)
    return {"loss": history.history["loss"], "steps": Seen.steps, "bias": model.layers[-1].bias.numpy().tolist()}

with tempfile.TemporaryDirectory() as backups:
    found["whole"] = train(backups + "/a")
    try:
        train(backups + "/b", 18)
    except KeyboardInterrupt:
        found["rest"] = train(backups + "/b")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def mirrored(cells: Path) -> dict:
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(cells)], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_two_devices_share_the_batches_of_one(mirrored):
    assert mirrored["dataset"] == mirrored["plain"]


def test_two_devices_with_a_pipeline_of_their_own_make_the_same_batches(mirrored):
    assert mirrored["function"] == mirrored["plain"]


def test_fit_on_two_devices_goes_on_in_the_middle_of_an_epoch(mirrored):
    """Keras takes a batch to look at before it begins: no epoch is lost by that."""
    whole, rest = mirrored["whole"], mirrored["rest"]
    assert (whole["steps"], rest["steps"]) == (26, 26 - 16)
    assert rest["loss"] == pytest.approx(whole["loss"][1:])
    assert rest["bias"] == pytest.approx(whole["bias"])
