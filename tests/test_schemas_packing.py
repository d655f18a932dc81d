"""Packing: which features share a vector, and how their values are found again."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter
from small_dataset import make

from schemas import HeadraceError
from schemas.features import Feature, Packed
from schemas.manifest import parse_manifest
from schemas.packing import pack, stored_features, unpack, with_places

FEATURES: dict[str, Feature] = TypeAdapter(dict[str, Feature]).validate_python(
    {
        "image": {"type": "image"},
        "wet": {"type": "bool"},
        "label": {"type": "class_label", "names": ["a", "b"]},
        "count": {"type": "int64"},
        "ids": {"type": "int64", "shape": [None]},
        "pair": {"type": "float32", "shape": [2]},
        "share": {"type": "float32"},
        "fare": {"type": "float32", "allow_nan": True},
        "title": {"type": "text"},
    }
)
PACKING = {"_float32": ["fare", "share"], "_int64": ["count", "label", "wet"]}


def test_scalars_of_one_type_share_a_vector() -> None:
    assert pack(FEATURES) == PACKING
    assert pack({name: FEATURES[name] for name in reversed(FEATURES)}) == PACKING


def test_one_scalar_alone_stays_as_it_is() -> None:
    assert pack({name: FEATURES[name] for name in ("share", "pair", "count", "wet")}) == {
        "_int64": ["count", "wet"]
    }
    assert pack({}) == {}


def test_every_feature_knows_its_place() -> None:
    placed = with_places(FEATURES, PACKING)
    assert placed["label"].packed == Packed("_int64", 1, 3)
    assert placed["share"].packed == Packed("_float32", 1, 2)
    assert [name for name, feature in placed.items() if feature.packed is None] == [
        "image",
        "ids",
        "pair",
        "title",
    ]
    assert all(feature.packed is None for feature in FEATURES.values())
    assert all(placed[name].model_dump() == FEATURES[name].model_dump() for name in FEATURES)


def test_what_the_records_hold_are_vectors() -> None:
    stored = stored_features(FEATURES, PACKING)
    assert list(stored) == ["image", "ids", "pair", "title", "_float32", "_int64"]
    assert (stored["_float32"].type, stored["_float32"].shape) == ("float32", (2,))  # type: ignore[union-attr]
    assert stored["_float32"].allow_nan  # type: ignore[union-attr]
    assert (stored["_int64"].type, stored["_int64"].shape) == ("int64", (3,))  # type: ignore[union-attr]
    assert stored["_int64"].description == "Packed: count, label, wet"


def test_values_are_found_again() -> None:
    values: dict[str, Any] = {"_int64": [7, 1, 0], "_float32": [0.5, 2.0], "title": [b"x"]}
    found = unpack(values, PACKING)
    assert found == {"count": [7], "fare": [0.5], "label": [1], "share": [2.0], "title": [b"x"], "wet": [0]}
    assert list(found) == sorted(found)
    assert unpack({"_int64": [7, 1]}, PACKING) == {"_int64": [7, 1]}


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        ({"_int64": ["label", "fare"]}, "'_int64' cannot hold 'fare'"),
        ({"_int64": ["label", "label"]}, "'_int64' cannot hold 'label'"),
        ({"_float32": ["pair"]}, "'_float32' cannot hold 'pair'"),
        ({"image": ["label"]}, "'image' cannot hold 'label'"),
        ({"_int64": ["colour"]}, "'_int64' cannot hold 'colour'"),
    ],
)
def test_a_manifest_that_packs_what_cannot_be_is_refused(packed: Any, message: str, tmp_path: Any) -> None:
    manifest = make(tmp_path / "d", records=2)
    features = {name: FEATURES[name] for name in ("image", "label", "fare", "pair")}
    changed = manifest.model_copy(update={"features": features, "packed": packed, "indexed": []})
    with pytest.raises(HeadraceError, match=f"The manifest is damaged: .*{message}"):
        parse_manifest(changed.to_json(), "m")
