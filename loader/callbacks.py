"""Keras: training that goes on where it was stopped, in the middle of an epoch too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from loader.checks import check_count
from loader.loader import Loader
from schemas import HeadraceError

BACKUP_FORMAT = 1
_COMMIT = "backup.json"
_END_OF_EPOCH = "end of epoch"  # what a model's `stop_training` is for the moment: true, but not True


class Backup(keras.callbacks.Callback):
    """Saves model, optimizer and the loader's position together, and restores them when `fit` begins.

    >>> train = load("out/elpv/1.0.0", batch_size=64, augment=True)                      # doctest: +SKIP
    >>> backup = Backup("backup/run1", train, save_freq=500)                             # doctest: +SKIP
    >>> model.fit(train, epochs=10, callbacks=[backup], shuffle=False)                   # doctest: +SKIP

    Run the same script again after a kill: `fit` goes on at the step of the last backup, with the rest of the epoch,
    and computes what it would have computed. What is restored: weights, optimizer, seeds of random layers such as
    Dropout, the epoch's metrics so far, the epoch's number and the loader's position, whatever was taken from the
    loader before. What is not: the state of other callbacks, and random state outside of the model (Keras' global
    seed generator, `tf.random`). `History` begins with the epoch that was interrupted; its batches are numbered from
    0 again. Metrics are taken for sums over batches, as those of Keras are.

    A backup is one commit: `backup.json`, put in place by a rename, names the file of weights. A kill at any moment
    leaves the last whole backup. With several hosts the first one writes, and all restore; the directory must be one
    that all of them see.

    Args:
      directory: of this training's backup and nothing else.
      loader: what `load` gave: the training data, from which what is given to `fit` may be made by `map` and the like.
      save_freq: steps from one backup to the next, or "epoch".
      delete: whether to remove the backup when training has ended.

    Raises:
      HeadraceError: when `fit` begins: the model is not built, the backup is of another model or order of examples,
        or an epoch of `fit` is not one of the loader's (without `repeat=True`).
    """

    def __init__(
        self, directory: str | Path, loader: Loader, *, save_freq: int | str = "epoch", delete: bool = True
    ) -> None:
        super().__init__()
        if save_freq != "epoch":
            check_count("save_freq", save_freq, 1)
        self._directory = Path(directory)
        self._loader = loader
        self._freq = None if isinstance(save_freq, str) else save_freq
        self._delete = delete
        self._step = 0  # of the training: how many batches have been learnt from
        self._epoch = 0  # Keras' number of the one that runs
        self._begin = 0  # the step at which it began in this `fit`
        self._done = 0  # of it, before this `fit`
        self._left = 0  # of it, in this `fit`
        self._saved = 0  # the step of the last backup
        self._metrics: list[Any] | None = None

    def on_train_begin(self, logs: object = None) -> None:  # noqa: ARG002
        """Restores the last backup, if there is one."""
        if not self.model.built:
            raise HeadraceError(
                "The model has no weights yet into which a backup could be restored.",
                where="Backup",
                value=f"model {self.model.name!r}",
                hint="Give it a keras.Input, or call model.build(…) before model.fit(…).",
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._step, self._done, self._metrics = self._loader.step, 0, None
        if (self._directory / _COMMIT).exists():
            self._restore()
        self._saved = self._step

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Puts the loader to where training stands: Keras or the user may have taken batches from it to look at."""
        asked = self.params["steps"]
        self._epoch, self._begin = epoch, self._step
        rest = self._loader._seek(self._step)
        if rest is None and asked is None:
            raise HeadraceError("Epochs without end need model.fit(…, steps_per_epoch=…).", where="Backup")
        self._left = asked - self._done if rest is None else rest
        if rest is not None and not self._done and asked not in (None, rest):
            raise HeadraceError(
                "An epoch of model.fit is not one of the loader.",
                where="Backup, steps_per_epoch",
                value=asked,
                allowed=str(rest),
                hint="Use load(…, repeat=True) to train by steps. In each step, one batch must be taken.",
            )

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        """Saves, where it is time, and ends an epoch that is shorter than Keras thinks."""
        if self._metrics is not None:
            # Only now have all of them been made. Keras' metrics are sums over batches; this adds those before.
            self._assign(self.model.metrics_variables, self._metrics, add=True)
            self._metrics = None
        taken = min(batch + 1, self._left)
        self._step = self._begin + taken
        if taken < self._left:
            if self._freq and self._step // self._freq > self._saved // self._freq:
                self._save(self._epoch, self._done + taken)
        elif taken != self.params["steps"] and not self.model.stop_training:
            # Keras would run into the end of the data, and warn of it.
            self.model.stop_training = _END_OF_EPOCH

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Saves, where it is time."""
        if self.model.stop_training is _END_OF_EPOCH:
            self.model.stop_training = False  # unless another callback has set it to True since
        whole = self._step == self._begin + self._left
        if whole and (self._freq is None or self._step // self._freq > self._saved // self._freq):
            # Only now, so that what is done with a finished epoch (validation …) belongs to the backup.
            self._save(epoch + 1, 0)
        self._done = 0

    def on_train_end(self, logs: object = None) -> None:  # noqa: ARG002
        """Removes the backup."""
        self.model._initial_epoch = None  # or the next `fit` of this model would begin there
        if self._delete and self._writes and self._directory.exists():
            (self._directory / _COMMIT).unlink(missing_ok=True)
            self._sweep()
            if not any(self._directory.iterdir()):
                self._directory.rmdir()

    @property
    def _writes(self) -> bool:
        return self._loader._recipe.batches.process_index == 0

    def _save(self, epoch: int, batch: int) -> None:
        self._saved = self._step
        if not self._writes:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        weights = self._directory / f"{self._step:012d}.weights.h5"
        self.model.save_weights(weights, overwrite=True)
        _flush(weights)
        note = {
            "headrace_backup": BACKUP_FORMAT,
            "weights": weights.name,
            "epoch": epoch,
            "batch": batch,
            "loader": self._loader.state(self._step),
            # Keras' files of weights leave these out.
            "seeds": _values(self._seed_variables()),
            "metrics": _values(self.model.metrics_variables) if batch else None,
        }
        aside = self._directory / f"{_COMMIT}.tmp"
        aside.write_text(json.dumps(note))
        _flush(aside)
        aside.replace(self._directory / _COMMIT)
        _flush(self._directory)
        self._sweep(weights.name)

    def _sweep(self, but: str = "") -> None:
        """Removes the weights of other backups: older ones, and of one that a kill interrupted."""
        for path in self._directory.glob("*.weights.h5"):
            if path.name != but:
                path.unlink()
        (self._directory / f"{_COMMIT}.tmp").unlink(missing_ok=True)

    def _restore(self) -> None:
        note = json.loads((self._directory / _COMMIT).read_text())
        if note["headrace_backup"] != BACKUP_FORMAT:
            raise HeadraceError(
                "The backup was saved by another version of Headrace.",
                where=str(self._directory),
                value=f"format {note['headrace_backup']!r}",
                allowed=f"format {BACKUP_FORMAT}",
            )
        self._loader._resume(note["loader"])
        self.model.load_weights(self._directory / note["weights"])
        self._assign(self._seed_variables(), note["seeds"])
        self._metrics = note["metrics"]
        self._step, self._done = self._loader.step, note["batch"]
        self.model._initial_epoch = note["epoch"]

    def _seed_variables(self) -> list[Any]:
        """The state of the model's random layers."""
        others = {id(v) for v in [*self.model.weights, *self.model.metrics_variables]}
        return [v for v in self.model.variables if id(v) not in others]

    def _assign(self, variables: list[Any], values: list[Any], add: bool = False) -> None:
        arrays = [np.asarray(value, v.dtype) for v, value in zip(variables, values, strict=False)]
        if [v.shape for v in variables] != [a.shape for a in arrays] or len(arrays) != len(values):
            raise HeadraceError(
                "The backup is of another model.",
                where=str(self._directory),
                hint="Compile the same model with the same metrics, or remove the backup.",
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(keras.ops.convert_to_numpy(variable) + array if add else array)


def _values(variables: list[Any]) -> list[Any]:
    # Through float64 and its shortest text, which give every float32 back bit by bit.
    return [keras.ops.convert_to_numpy(v).tolist() for v in variables]


def _flush(path: Path) -> None:
    """Makes it last through a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
