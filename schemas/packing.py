"""Packing: the single numbers of a record in two vectors, one a type, instead of a feature each.

A record then holds two features rather than a dozen, which makes shards smaller and parsing faster. Names and
types stay those of the job: the manifest says which value of which vector a feature is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.features import (
    BoolFeature,
    ClassLabelFeature,
    Feature,
    Float32Feature,
    Int64Feature,
    Packed,
)

Packing = Mapping[str, Sequence[str]]  # the features of each vector, in the order of their values

FLOAT32, INT64 = "_float32", "_int64"  # no feature of a job can have these names


def vector_of(feature: Feature) -> str | None:
    """The vector that a feature is packed into; None for what is not packed."""
    match feature:
        case Float32Feature() if not feature.shape:
            return FLOAT32
        case Int64Feature() if not feature.shape:
            return INT64
        case ClassLabelFeature() | BoolFeature():
            return INT64
    return None


def pack(features: Mapping[str, Feature]) -> dict[str, list[str]]:
    """The features of each vector, by name. A vector of one value would save nothing, and is not made."""
    vectors: dict[str, list[str]] = {}
    for name in sorted(features):
        vector = vector_of(features[name])
        if vector is not None:
            vectors.setdefault(vector, []).append(name)
    return {vector: vectors[vector] for vector in sorted(vectors) if len(vectors[vector]) > 1}


def with_places(features: Mapping[str, Feature], packing: Packing) -> dict[str, Feature]:
    """The features, each with its place.

    Raises:
      ValueError: the packing names what is no such feature, or the same one twice.
    """
    placed = dict(features)
    for vector, names in packing.items():
        for place, name in enumerate(names):
            if name not in features or vector_of(features[name]) != vector or placed[name].packed:
                raise ValueError(f"{vector!r} cannot hold {name!r}")
            placed[name] = features[name].at(Packed(vector, place, len(names)))
    return placed


def stored_features(features: Mapping[str, Feature], packing: Packing) -> dict[str, Feature]:
    """What the records hold, for readers that know nothing of packing: vectors in place of packed features."""
    packed = {name for names in packing.values() for name in names}
    stored = {name: feature for name, feature in features.items() if name not in packed}
    for vector, names in packing.items():
        description, shape = f"Packed: {', '.join(names)}", (len(names),)
        if vector == FLOAT32:
            allow_nan = any(getattr(features[name], "allow_nan", False) for name in names)
            stored[vector] = Float32Feature(
                type="float32", shape=shape, description=description, allow_nan=allow_nan
            )
        else:
            stored[vector] = Int64Feature(type="int64", shape=shape, description=description)
    return stored


def unpack(values: Mapping[str, Any], packing: Packing) -> dict[str, Any]:
    """The lists of a record's values by feature, in the order of names; a vector of another length stays as it is."""
    unpacked = dict(values)
    for vector, names in packing.items():
        if len(values.get(vector, [])) == len(names):
            unpacked.update((name, [value]) for name, value in zip(names, unpacked.pop(vector), strict=True))
    return dict(sorted(unpacked.items()))
