"""The files that let others read a data set: TFDS's own metadata, and a tensorflow_metadata Schema.

How a record lies in `tf.train.Example`, which is what both describe (features sorted by name):

  image, text, bytes         bytes_list
  class_label, int64, bool   int64_list
  float32                    float_list

Every record has every feature; only lists may be empty.

TFDS is not imported: its JSON is plain, and a worker needs neither TFDS nor TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas.features import (
    BoolFeature,
    BytesFeature,
    ClassLabelFeature,
    Feature,
    Float32Feature,
    ImageFeature,
    Int64Feature,
    TextFeature,
)
from schemas.framing import FRAME_OVERHEAD
from schemas.manifest import SplitEntry
from schemas.naming import DATASET_INFO, FEATURES, TFMD_SCHEMA, labels_name

Json = dict[str, Any]
_TFDS = "tensorflow_datasets.core.features."
# TFDS checks channels for these two and refuses to be told of any other encoding.
_TFDS_ENCODINGS = ("jpeg", "png")


def interop_files(
    *,
    name: str,
    version: str,
    description: str,
    features: Mapping[str, Feature],
    label: str | None,
    splits: Mapping[str, SplitEntry],
) -> dict[str, bytes]:
    """Canonical bytes of each file by its path in the data set directory.

    `features` are those that the records hold, packed ones as vectors, and resolved: every class_label has its
    list of names. `tfds.builder_from_directory` reads the
    result with decoded images and class names; `schema.pbtxt` parses as a tensorflow_metadata Schema.
    """
    files = {
        FEATURES: _json_bytes(tfds_features(features)),
        DATASET_INFO: _json_bytes(
            tfds_info(
                name=name,
                version=version,
                description=description,
                features=features,
                label=label,
                splits=splits,
            )
        ),
        TFMD_SCHEMA: schema_pbtxt(features),
    }
    for feature_name, feature in features.items():
        if isinstance(feature, ClassLabelFeature) and _names_fit_tfds(feature.names):
            files[labels_name(feature_name)] = ("\n".join(feature.names) + "\n").encode()
    return dict(sorted(files.items()))


def tfds_features(features: Mapping[str, Feature]) -> Json:
    """The content of `features.json`."""
    return {
        "pythonClassName": f"{_TFDS}features_dict.FeaturesDict",
        "featuresDict": {"features": {name: _tfds_feature(features[name]) for name in sorted(features)}},
    }


def tfds_info(
    *,
    name: str,
    version: str,
    description: str,
    features: Mapping[str, Feature],
    label: str | None,
    splits: Mapping[str, SplitEntry],
) -> Json:
    """The content of `dataset_info.json`. Whole numbers are texts there, as in all JSON of protobuf."""
    info: Json = {
        "name": name,
        "version": version,
        "description": description,
        "fileFormat": "tfrecord",
        "moduleName": "headrace",
        "splits": [_tfds_split(split, splits[split]) for split in sorted(splits)],
    }
    keys = supervised_keys(features, label)
    if keys is not None:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in keys]}}
    return info


def supervised_keys(features: Mapping[str, Feature], label: str | None) -> tuple[str, str] | None:
    """The (input, label) that `as_supervised=True` gives; None where the input is not obvious."""
    if label is None or label not in features:  # a packed one is no feature of the record's
        return None
    inputs = [name for name in features if name != label]
    images = [name for name in inputs if isinstance(features[name], ImageFeature)]
    if len(inputs) != 1:
        inputs = images
    return (inputs[0], label) if len(inputs) == 1 else None


def schema_pbtxt(features: Mapping[str, Feature]) -> bytes:
    """The tensorflow_metadata Schema of `features` as protobuf text, in the order of their names."""
    schema = schema_pb2.Schema()
    for name in sorted(features):
        _schema_feature(schema.feature.add(), name, features[name])
    text: str = text_format.MessageToString(schema, as_utf8=True)
    return text.encode()


def _json_bytes(data: Json) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _names_fit_tfds(names: list[str] | str) -> bool:
    """Whether TFDS's file of labels can hold the names: one a line, without blanks at either end.

    TFDS strips each line and skips empty ones; a name that this would change is better left out with all the
    others, so that TFDS shows numbers, than shifted to its neighbour's number.
    """
    return all(name and name == name.strip() and not set(name) & set("\n\r") for name in names)


# --- TFDS ---


def _tfds_split(name: str, split: SplitEntry) -> Json:
    return {
        "name": name,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(shard.records) for shard in split.shards],
        # TFDS counts the records' bytes without their framing.
        "numBytes": str(split.bytes - FRAME_OVERHEAD * split.records),
    }


def _tfds_feature(feature: Feature) -> Json:
    content = _TFDS_FEATURES[feature.type](feature)
    return {**content, "description": feature.description} if feature.description else content


def _tfds_image(feature: ImageFeature) -> Json:
    image: Json = {"dtype": "uint8", "shape": _dimensions(feature.stored_shape)}
    if feature.stored_format in _TFDS_ENCODINGS:
        image["encodingFormat"] = feature.stored_format
    return {"pythonClassName": f"{_TFDS}image_feature.Image", "image": image}


def _tfds_class_label(feature: ClassLabelFeature) -> Json:
    return {
        "pythonClassName": f"{_TFDS}class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(len(feature.names))},
    }


def _tfds_text(_: TextFeature) -> Json:
    return {"pythonClassName": f"{_TFDS}text_feature.Text", "text": {}}


def _tfds_bytes(_: BytesFeature) -> Json:
    return _tfds_tensor("string", ())


def _tfds_number(feature: Int64Feature | Float32Feature | BoolFeature) -> Json:
    shape = () if isinstance(feature, BoolFeature) else feature.shape
    if shape == (None,):
        element = _tfds_tensor(feature.type, ())
        return {
            "pythonClassName": f"{_TFDS}sequence_feature.Sequence",
            "sequence": {"feature": element, "length": "-1"},
        }
    return _tfds_tensor(feature.type, shape)


def _tfds_tensor(dtype: str, shape: tuple[int | None, ...]) -> Json:
    kind = "tensor_feature.Tensor" if shape or dtype == "string" else "scalar.Scalar"
    return {
        "pythonClassName": _TFDS + kind,
        "tensor": {"dtype": dtype, "encoding": "none", "shape": _dimensions(shape)},
    }


def _dimensions(shape: tuple[int | None, ...]) -> Json:
    return {"dimensions": [str(-1 if size is None else size) for size in shape]} if shape else {}


_TFDS_FEATURES: dict[str, Callable[[Any], Json]] = {
    "image": _tfds_image,
    "class_label": _tfds_class_label,
    "int64": _tfds_number,
    "float32": _tfds_number,
    "bool": _tfds_number,
    "text": _tfds_text,
    "bytes": _tfds_bytes,
}


# --- tensorflow_metadata ---


def _schema_feature(out: schema_pb2.Feature, name: str, feature: Feature) -> None:
    out.name = name
    if feature.description:
        out.annotation.comment.append(feature.description)
    out.presence.min_fraction = 1.0
    shape = feature.shape if isinstance(feature, (Int64Feature, Float32Feature)) else ()
    if shape == (None,):
        # Without a fixed shape it is parsed as a VarLenFeature.
        out.value_count.min = 0
    else:
        # An image's shape is that of its bytes: one value.
        out.shape.SetInParent()
        for size in shape:
            out.shape.dim.add(size=size)
    _SCHEMA_DOMAINS[feature.type](out, feature)


def _schema_image(out: schema_pb2.Feature, _: ImageFeature) -> None:
    out.type = schema_pb2.BYTES
    out.image_domain.minimum_supported_image_fraction = 1.0


def _schema_class_label(out: schema_pb2.Feature, feature: ClassLabelFeature) -> None:
    out.type = schema_pb2.INT
    out.int_domain.name = out.name
    out.int_domain.min = 0
    out.int_domain.max = len(feature.names) - 1
    out.int_domain.is_categorical = True
    # An IntDomain has no place for names; a comment survives every tool that rewrites the schema.
    out.annotation.comment.append("names: " + json.dumps(feature.names, ensure_ascii=False))


def _schema_int64(out: schema_pb2.Feature, feature: Int64Feature) -> None:
    out.type = schema_pb2.INT
    _bounds(out.int_domain, feature.min, feature.max)


def _schema_float32(out: schema_pb2.Feature, feature: Float32Feature) -> None:
    out.type = schema_pb2.FLOAT
    _bounds(out.float_domain, feature.min, feature.max)
    if not feature.allow_nan:
        out.float_domain.disallow_nan = out.float_domain.disallow_inf = True


def _bounds(domain: Any, low: float | None, high: float | None) -> None:
    if low is not None:
        domain.min = low
    if high is not None:
        domain.max = high


def _schema_bool(out: schema_pb2.Feature, _: BoolFeature) -> None:
    out.type = schema_pb2.INT
    out.bool_domain.SetInParent()


def _schema_text(out: schema_pb2.Feature, feature: TextFeature) -> None:
    out.type = schema_pb2.BYTES
    if feature.vocabulary is not None:
        out.string_domain.name = out.name
        out.string_domain.value.extend(feature.vocabulary)


def _schema_bytes(out: schema_pb2.Feature, _: BytesFeature) -> None:
    out.type = schema_pb2.BYTES


_SCHEMA_DOMAINS: dict[str, Callable[[schema_pb2.Feature, Any], None]] = {
    "image": _schema_image,
    "class_label": _schema_class_label,
    "int64": _schema_int64,
    "float32": _schema_float32,
    "bool": _schema_bool,
    "text": _schema_text,
    "bytes": _schema_bytes,
}
