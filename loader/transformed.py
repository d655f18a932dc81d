"""The analysed function of a data set, applied to batches: the same graph, and so the same values, as at inference."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from loader.checks import check_name
from loader.decode import Features
from schemas import HeadraceError, Manifest
from schemas.features import Feature, ImageFeature
from schemas.manifest import FileEntry
from schemas.naming import TRANSFORM_FN
from schemas.storage import Place

_PREFIX = f"{TRANSFORM_FN}/"


class Transformed:
    """The function of a data set's `transform_fn/`, which is TensorFlow's own SavedModel.

    Attributes:
      features: those that records are read for: all that it takes, and images, which pass by it.
      taken: the names of those that it takes.
      names: of what comes out.

    Raises:
      HeadraceError: the data set has none, holds transformed records already, or the files are damaged.
    """

    def __init__(self, manifest: Manifest, place: Place) -> None:
        files = [entry for entry in manifest.files if entry.path.startswith(_PREFIX)]
        if not files:
            raise _unfit(place, "The data set has no transform.", "Its job has no `transform:`.")
        declared = manifest.spec.get("transform")
        if isinstance(declared, dict) and declared.get("materialize"):
            raise _unfit(
                place, "The data set holds transformed records already.", "Leave transform=True out."
            )
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            for entry in files:
                path = Path(folder) / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_read(place, entry))
            self._model = tf.saved_model.load(f"{folder}/{TRANSFORM_FN}")
        self._function = self._model.transform_fn
        (self._specs,), _ = self._function.structured_input_signature
        self.features: dict[str, Feature] = {
            name: feature
            for name, feature in manifest.features.items()
            if name in self._specs or isinstance(feature, ImageFeature)
        }
        self.taken = frozenset(self._specs)
        images = [name for name in self.features if name not in self._specs]
        self.names = [*images, *sorted(self._function.structured_outputs)]

    def __call__(self, features: Features, *, batched: bool) -> Features:
        """The features with what comes out in the place of what goes in; lists are ragged."""
        inputs = {name: _as_taken(features.pop(name), spec, batched) for name, spec in self._specs.items()}
        outputs = {name: _as_given(value) for name, value in sorted(self._function(inputs).items())}
        if not batched:
            outputs = {name: value[0] for name, value in outputs.items()}
        return {**features, **outputs}


def _as_taken(value: Any, spec: Any, batched: bool) -> Any:
    """A feature as the graph takes it: in a batch, lists of any length sparse, truths as 0 and 1."""
    if isinstance(spec, tf.SparseTensorSpec):
        ragged = (
            value if batched else tf.RaggedTensor.from_tensor(value[tf.newaxis], row_splits_dtype=tf.int64)
        )
        return tf.cast(ragged, spec.dtype).to_sparse()
    return tf.cast(value if batched else value[tf.newaxis], spec.dtype)


def _as_given(value: Any) -> Any:
    if isinstance(value, tf.SparseTensor) and value.shape.rank == 2:
        return tf.RaggedTensor.from_sparse(value, row_splits_dtype=tf.int64)
    return value


def _read(place: Place, entry: FileEntry) -> bytes:
    data = place.read_bytes(entry.path, entry.bytes)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise HeadraceError(
            "A file of the data set's transform is not the one that the manifest describes.",
            where=place.where(entry.path),
            hint="Copy the data set again in full, or prepare it again.",
        )
    return data


def _unfit(place: Place, what: str, hint: str) -> HeadraceError:
    return HeadraceError(what, where=f"{place}, transform=True", hint=hint)


def choose_outputs(
    model: Transformed, manifest: Manifest, features: str | Sequence[str] | None, label: str | bool
) -> tuple[list[str], tuple[str, ...] | None, str | None]:
    """The features to read, those of what comes out that are wanted (None: all), and the label's name.

    Raises:
      HeadraceError: there is no such feature.
    """
    declared = manifest.spec.get("label")
    name = label if isinstance(label, str) else declared if label and declared in model.names else None
    if name is not None:
        check_name("label", name, model.names, "The data set's transform gives no such feature.")
    if features is None:
        return list(model.features), None, name
    wanted = [features] if isinstance(features, str) else list(features)
    for each in wanted:
        check_name("features", each, model.names, "The data set's transform gives no such feature.")
    needed = [each for each in model.features if each in wanted or each in model.taken]
    return needed, (*wanted, *([name] if name else [])), name
