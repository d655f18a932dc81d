"""Records to arrays by the native core: what `loader.decode.parse` makes tensors of. No TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loader import native
from loader.records import Records
from schemas import HeadraceError
from schemas.features import BoolFeature, BytesFeature, Feature, Float32Feature, ImageFeature, TextFeature

_INT64, _FLOAT32, _SPAN = range(3)  # kinds of fields; see _native.pyi
_DTYPES: dict[int, Any] = {_INT64: np.int64, _FLOAT32: np.float32, _SPAN: np.int64}

Array = npt.NDArray[Any]


def can_parse(features: Mapping[str, Feature]) -> bool:
    """Whether the core is there, and all of the features have a fixed number of values."""
    return native.core is not None and not any(getattr(f, "shape", ()) == (None,) for f in features.values())


class Columns:
    """The features of n records as arrays that are filled from record `start` to record `stop`.

    class_label, int64: int64 (n,) or (n, length) · float32: float32 · bool: bool · text, bytes: bytes objects ·
    image: int64 (n, 3), where in the buffers each lies.
    """

    def __init__(self, features: Mapping[str, Feature], count: int) -> None:
        self._features = features
        self._arrays = {name: np.empty(_shape(f, count), _DTYPES[_kind(f)]) for name, f in features.items()}
        self._texts = {n: np.empty(count, object) for n, f in features.items() if _is_text(f)}
        vectors: dict[str, list[Array | None]] = {}
        self._fields: list[tuple[str, int, int, list[Array | None], str]] = []
        for name, feature in features.items():
            packed, array = feature.packed, self._arrays[name]
            if packed is None:
                length = array[0].size if count and _kind(feature) != _SPAN else 1
                self._fields.append((name, _kind(feature), length, [array], name))
            else:
                if packed.vector not in vectors:
                    vectors[packed.vector] = [None] * packed.length
                    field = (packed.vector, _kind(feature), packed.length, vectors[packed.vector], name)
                    self._fields.append(field)
                vectors[packed.vector][packed.place] = array
        self._fields.sort(key=lambda field: field[0].encode())  # as records have them

    def __getitem__(self, name: str) -> Array:
        if name in self._texts:
            return self._texts[name]
        array = self._arrays[name]
        return array != 0 if isinstance(self._features[name], BoolFeature) else array

    def fill(self, records: Records, start: int, ids: npt.NDArray[np.int64], where: str) -> None:
        """Rows `start` and on from `records`, which are those of `ids` of the data set `where`.

        Raises:
          HeadraceError: a record does not hold the features as the manifest says.
        """
        stop = start + len(records)
        rows = slice(start, stop)
        fields = [
            (name.encode(), kind, length, [None if array is None else array[rows] for array in arrays])
            for name, kind, length, arrays, _ in self._fields
        ]
        wrong = native.require().parse(records.buffers, np.ascontiguousarray(records.spans), fields)
        if wrong is not None:
            row, number = wrong
            raise _unlike(self._features, self._fields, number, f"{where}, record {ids[row]}")
        for name, texts in self._texts.items():
            texts[rows] = Records(records.buffers, self._arrays[name][rows]).texts()


def _unlike(
    features: Mapping[str, Feature], fields: Sequence[tuple[Any, ...]], number: int, where: str
) -> HeadraceError:
    hint = "The data set's manifest is not of these shards: copy it again in full, or prepare it again."
    if number >= len(fields):
        return HeadraceError("A record is no tf.train.Example.", where=where, hint=hint)
    name, kind, length, _, feature = fields[number]
    what = {_INT64: "whole numbers", _FLOAT32: "float32 numbers", _SPAN: "texts of bytes"}[kind]
    return HeadraceError(
        "A record does not hold what the manifest declares.",
        where=f"{where}, feature {name!r}",
        value="absent, of another type or of another length",
        allowed=f"{length} {what} ({features[feature].type})",
        hint=hint,
    )


def _kind(feature: Feature) -> int:
    if isinstance(feature, Float32Feature):
        return _FLOAT32
    return _SPAN if isinstance(feature, ImageFeature) or _is_text(feature) else _INT64


def _is_text(feature: Feature) -> bool:
    return isinstance(feature, (TextFeature, BytesFeature))


def _shape(feature: Feature, count: int) -> tuple[int, ...]:
    if _kind(feature) == _SPAN:
        return (count, 3)
    return (count, *getattr(feature, "shape", ()))
