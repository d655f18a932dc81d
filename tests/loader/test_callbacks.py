"""Training with Keras that is killed and goes on, against training that is not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from loader import load
from loader.callbacks import Backup
from schemas import HeadraceError

# Keras' own, when it saves a variable.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

BATCH = 8  # 103 records: 12 batches of 8 and one of 7
EPOCHS = 3
STEPS = 13

CHILD = """
import hashlib, json, os, signal, sys, warnings
import keras, tensorflow as tf
from loader import load
from loader.callbacks import Backup

data, backup, kill_step, kill_flush = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
warnings.simplefilter("error", UserWarning)
tf.config.experimental.enable_op_determinism()

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Kill(keras.callbacks.Callback):
    steps = 0
    def on_train_batch_end(self, batch, logs=None):
        Kill.steps += 1
        if Kill.steps == kill_step:
            die()

flushes, fsync = 0, os.fsync
def counted(descriptor):
    global flushes
    flushes += 1
    if flushes == kill_flush:
        die()
    fsync(descriptor)
os.fsync = counted

def train(backup, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input((30, 30, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, strides=2),
        keras.layers.BatchNormalization(), keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(2),
    ])
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, 39)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
    )
    data_set = load(data, batch_size=8, augment="standard", seed=3)
    if backup:
        next(iter(data_set))  # a look, which uses an epoch up, but for Backup
    last = [Backup(backup, data_set, **options), Kill()] if backup else []
    history = model.fit(data_set, epochs=3, callbacks=last, verbose=0, shuffle=False,
                        validation_data=load(data, "validation", batch_size=8, last_batch="pad"))
    sha = hashlib.sha256()
    for variable in [*model.variables, *model.optimizer.variables]:
        sha.update(variable.numpy().tobytes())
    return {"epochs": history.epoch, "history": history.history, "sha": sha.hexdigest(), "steps": Kill.steps}

found = [train(backup, save_freq=int(sys.argv[5]))]
if len(sys.argv) > 6:
    keras.backend.clear_session()
    kill_step = kill_flush = 0
    found.append(train(None))
print(json.dumps(found))
"""


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)


def test_killed_training_ends_bit_for_bit_as_if_it_had_not_been(cells, tmp_path, rng):
    """Killed after a random step, then while a backup is being written; the next `fit` finishes."""
    freq = int(rng.integers(2, 6))
    step, flush = int(rng.integers(freq, 30)), int(rng.integers(1, 4))
    print(f"save_freq {freq}, killed after step {step}, then at flush {flush} of a backup")
    killed = run(cells, tmp_path / "backup", step, 0, freq)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    saved = json.loads((tmp_path / "backup" / "backup.json").read_text())
    # After the last step of an epoch, the backup waits for the epoch's end.
    assert saved["loader"]["step"] >= step - 2 * freq
    killed = run(cells, tmp_path / "backup", 0, flush, freq)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    between = json.loads((tmp_path / "backup" / "backup.json").read_text())
    assert (between == saved) == (flush < 3)  # the commit lies before the third
    done = run(cells, tmp_path / "backup", 0, 0, freq, "and the reference")
    assert done.returncode == 0, done.stderr
    resumed, reference = json.loads(done.stdout)
    assert resumed["sha"] == reference["sha"]
    assert resumed["steps"] == EPOCHS * STEPS - between["loader"]["step"]
    first = between["epoch"]
    assert resumed["epochs"] == list(range(first, EPOCHS))
    # The metrics of the interrupted epoch too are those of the whole of it.
    assert resumed["history"] == {name: values[first:] for name, values in reference["history"].items()}
    assert not (tmp_path / "backup").exists()


class Stop(keras.callbacks.Callback):
    """Breaks training off at a step, as Ctrl-C does."""

    def __init__(self, step: int = 0) -> None:
        super().__init__()
        self.left, self.seen = step, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen == self.left:
            raise KeyboardInterrupt


def make_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((30, 30, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-5, 0.9), loss, metrics=["accuracy"], jit_compile=False)
    return model


def fit(
    directory: Path, place: Path, stop: int = 0, data: Any = None, **options: Any
) -> tuple[Any, int, Any]:
    fitting = {name: options.pop(name) for name in ("steps_per_epoch",) if name in options}
    loader = load(directory, **{"batch_size": BATCH, **options.pop("load", {})})
    model, counter = make_model(), Stop(stop)
    backup = Backup(place, loader, **options)
    data = data(loader) if data else loader
    try:
        history = model.fit(
            data, epochs=EPOCHS, callbacks=[backup, counter], verbose=0, shuffle=False, **fitting
        )
    except KeyboardInterrupt:
        return None, counter.seen, model
    return history, counter.seen, model


@pytest.mark.parametrize(
    ("load_options", "fit_options"),
    [
        ({}, {}),
        ({"repeat": 2}, {}),
        ({"repeat": True}, {"steps_per_epoch": 9}),
        ({"last_batch": "drop"}, {}),
    ],
)
def test_every_kind_of_epoch(cells, tmp_path, load_options, fit_options, rng):
    whole, steps, reference = fit(cells, tmp_path / "a", load=load_options, **fit_options)
    stop = int(rng.integers(1, steps))
    print(f"stopped after {stop} of {steps}")
    *_, seen, _ = fit(cells, tmp_path / "b", stop, load=load_options, save_freq=1, **fit_options)
    assert seen == stop
    rest, seen, model = fit(cells, tmp_path / "b", load=load_options, save_freq=1, **fit_options)
    # After an epoch's last step there is no backup before its end.
    assert seen in (steps - stop, steps - stop + 1)
    np.testing.assert_array_equal(model.layers[-1].kernel.numpy(), reference.layers[-1].kernel.numpy())
    assert rest.history["loss"] == whole.history["loss"][rest.epoch[0] :]
    assert rest.epoch[-1] == EPOCHS - 1


def test_what_is_made_of_the_loader_goes_on_too(cells, tmp_path):
    def doubled(loader: Any) -> Any:
        return loader.map(lambda x, y: (x * 2, y)).prefetch(2)

    whole, steps, _ = fit(cells, tmp_path / "a", data=doubled)
    fit(cells, tmp_path / "b", 17, data=doubled, save_freq=5)
    rest, seen, _ = fit(cells, tmp_path / "b", data=doubled, save_freq=5)
    assert (seen, rest.epoch) == (steps - 15, [1, 2])
    assert rest.history["loss"] == whole.history["loss"][1:]


def test_backup_by_epochs_can_be_kept(cells, tmp_path):
    fit(cells, tmp_path / "b", 30, delete=False)
    assert json.loads((tmp_path / "b" / "backup.json").read_text())["loader"]["step"] == 26
    rest, seen, _ = fit(cells, tmp_path / "b", delete=False)
    assert (seen, rest.epoch) == (13, [2])
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "000000000039.weights.h5",
        "backup.json",
    ]
    rest, seen, model = fit(cells, tmp_path / "b", delete=False)
    assert (seen, rest.epoch) == (0, [])
    # Another `fit` of the same model begins at its own epoch.
    assert model.fit(load(cells, batch_size=64), verbose=0, shuffle=False).epoch == [0]


def test_other_callbacks_can_end_training_at_the_end_of_a_short_epoch(cells, tmp_path):
    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = True

    for first in (True, False):
        place = tmp_path / str(first)
        fit(cells, place, 17, save_freq=5)
        loader = load(cells, batch_size=BATCH)
        callbacks = [Enough(), Backup(place, loader)]
        history = make_model().fit(
            loader, epochs=9, callbacks=callbacks[:: 1 if first else -1], verbose=0, shuffle=False
        )
        assert history.epoch == [1]


def test_one_host_writes_and_all_restore(cells, tmp_path):
    hosts = [{"load": {"process_index": i, "process_count": 2}} for i in range(2)]
    fit(cells, tmp_path / "b", 17, save_freq=5, **hosts[1])
    assert not (tmp_path / "b").exists()
    fit(cells, tmp_path / "b", 17, save_freq=5, **hosts[0])
    rest, seen, _ = fit(cells, tmp_path / "b", save_freq=5, **hosts[1])
    assert (seen, rest.epoch) == (39 - 15, [1, 2])
    assert (tmp_path / "b" / "backup.json").exists()
    rest, seen, _ = fit(cells, tmp_path / "b", save_freq=5, **hosts[0])
    assert (seen, rest.epoch) == (39 - 15, [1, 2])
    assert not (tmp_path / "b").exists()


def train(model: keras.Model, loader: Any, place: Path, **options: Any) -> None:
    model.fit(loader, epochs=EPOCHS, callbacks=[Backup(place, loader)], verbose=0, shuffle=False, **options)


def test_mistakes_are_told(cells, tmp_path):
    loader = load(cells, batch_size=BATCH)
    with pytest.raises(HeadraceError, match=r"(?s)save_freq.*0"):
        Backup(tmp_path, loader, save_freq=0)
    unbuilt = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    unbuilt.compile("sgd", "mse")
    with pytest.raises(HeadraceError, match=r"(?s)no weights yet.*model\.build"):
        train(unbuilt, loader, tmp_path)
    with pytest.raises(HeadraceError, match=r"(?s)not one of the loader.*5.*13.*repeat=True"):
        train(make_model(), loader, tmp_path, steps_per_epoch=5)
    endless = load(cells, batch_size=BATCH, repeat=True)
    with pytest.raises(HeadraceError, match="steps_per_epoch"):
        train(make_model(), endless, tmp_path)
    fit(cells, tmp_path, 17, save_freq=5)
    other = load(cells, batch_size=BATCH, seed=5)
    with pytest.raises(HeadraceError, match="another order of examples"):
        train(make_model(), other, tmp_path)
    model = make_model()
    model.compile(model.optimizer, model.loss, metrics=["sparse_top_k_categorical_accuracy", "accuracy"])
    with pytest.raises(HeadraceError, match=r"(?s)another model.*same metrics"):
        train(model, loader, tmp_path)
