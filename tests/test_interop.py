"""What others read: TFDS with decoded images and names, tensorflow_metadata's schema with parsed records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import text_format
from pydantic import TypeAdapter
from tensorflow_metadata.proto.v0 import schema_pb2

from beam_jobs.interop import interop_files, schema_pbtxt, supervised_keys
from schemas.features import Feature
from schemas.manifest import FileEntry, ShardEntry, SplitEntry
from schemas.naming import index_name, shard_name

# TFDS reads protobuf's descriptors in a way that protobuf 6 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")

FEATURES: Mapping[str, dict[str, Any]] = {
    "image": {"type": "image", "formats": ["png"], "shape": [4, 5, 3], "description": "a photo"},
    "grey": {"type": "image", "formats": ["jpeg"], "shape": [None, None, 1]},
    "mixed": {"type": "image", "formats": ["jpeg", "png", "bmp"]},
    "label": {"type": "class_label", "names": ["mono", "poly", "Ünï cödé"]},
    "count": {"type": "int64", "min": 0, "max": 1000},
    "ids": {"type": "int64", "shape": [None]},
    "pair": {"type": "int64", "shape": [2]},
    "p": {"type": "float32", "min": 0, "max": 1},
    "vector": {"type": "float32", "shape": [3], "allow_nan": True},
    "floats": {"type": "float32", "shape": [None]},
    "flag": {"type": "bool"},
    "text": {"type": "text", "vocabulary": ["red", "grün"]},
    "raw": {"type": "bytes"},
}


def feature(**fields: Any) -> Feature:
    return TypeAdapter(Feature).validate_python(fields)


def features(fields: Mapping[str, dict[str, Any]] = FEATURES) -> dict[str, Feature]:
    return {name: feature(**content) for name, content in fields.items()}


def record(i: int) -> dict[str, Any]:
    """The values of record `i`, as tf.train.Example holds them and a reader should give them back."""
    rng = np.random.default_rng(i)
    picture = rng.integers(0, 256, (4, 5, 3), np.uint8)
    grey = np.full((6 + i, 7, 1), 40 * i, np.uint8)
    encoded = [tf.io.encode_jpeg, tf.io.encode_png][i % 2](np.full((3, 4, 3), 90, np.uint8)).numpy()
    return {
        "image": (tf.io.encode_png(picture).numpy(), picture),
        "grey": (tf.io.encode_jpeg(grey).numpy(), grey),
        "mixed": (encoded, tf.io.decode_image(encoded).numpy()),
        "label": i % 3,
        "count": 100 * i,
        "ids": list(range(i)),
        "pair": [i, -i],
        "p": i / 7,
        "vector": [i, float("nan"), 0.5],
        "floats": [0.25] * (3 - i % 3),
        "flag": i % 2,
        "text": ["red", "grün"][i % 2].encode(),
        "raw": bytes([i, 0, 255]),
    }


def example(values: Mapping[str, Any], kinds: Mapping[str, Feature]) -> bytes:
    out = tf.train.Example()
    for name, value in values.items():
        item = out.features.feature[name]
        flat = [value[0]] if isinstance(value, tuple) else value if isinstance(value, list) else [value]
        if kinds[name].type in ("image", "text", "bytes"):
            item.bytes_list.value.extend(flat)
        elif kinds[name].type == "float32":
            item.float_list.value.extend(flat)
        else:
            item.int64_list.value.extend(flat)
    return out.SerializeToString(deterministic=True)


def write(
    directory: Path,
    fields: Mapping[str, dict[str, Any]],
    splits: Mapping[str, list[list[dict[str, Any]]]],
    label: str | None = None,
    name: str = "demo",
) -> list[dict[str, Any]]:
    """A data set of `splits` (lists of shards of records) in `directory`; its records in order."""
    kinds = features(fields)
    entries = {}
    for split, shards in splits.items():
        written = []
        for number, records in enumerate(shards):
            file = shard_name(name, split, number, len(shards))
            with tf.io.TFRecordWriter(str(directory / file)) as writer:
                for values in records:
                    writer.write(example(values, kinds))
            size = (directory / file).stat().st_size
            index = FileEntry(path=index_name(file), bytes=0, sha256="0" * 64)
            written.append(
                ShardEntry(path=file, bytes=size, sha256="0" * 64, records=len(records), index=index)
            )
        entries[split] = SplitEntry(
            records=sum(s.records for s in written), bytes=sum(s.bytes for s in written), shards=written
        )
    files = interop_files(
        name=name,
        version="1.2.3",
        description="A «demo».",
        features=kinds,
        label=label,
        splits=entries,
    )
    for path, content in files.items():
        (directory / path).write_bytes(content)
    return [values for shards in splits.values() for records in shards for values in records]


def expected(value: Any) -> Any:
    return value[1] if isinstance(value, tuple) else value


def test_tfds_reads_every_type_with_its_values_and_dtypes(tmp_path: Path) -> None:
    records = write(tmp_path, FEATURES, {"train": [[record(0), record(1)], [], [record(2), record(3)]]})
    builder = tfds.builder_from_directory(tmp_path)
    got = list(builder.as_dataset(split="train", shuffle_files=False).as_numpy_iterator())
    assert len(got) == len(records)
    dtypes = {
        **dict.fromkeys(["image", "grey", "mixed"], np.uint8),
        **dict.fromkeys(["label", "count", "ids", "pair"], np.int64),
        **dict.fromkeys(["p", "vector", "floats"], np.float32),
        "flag": np.bool_,
    }
    for actual, values in zip(got, records, strict=True):
        assert actual.keys() == FEATURES.keys()
        for name, value in values.items():
            assert name not in dtypes or actual[name].dtype == dtypes[name], name
            np.testing.assert_array_equal(
                actual[name], np.array(expected(value), dtypes.get(name)), err_msg=name
            )


def test_tfds_knows_names_splits_and_descriptions(tmp_path: Path) -> None:
    one, two = record(0), record(1)
    write(tmp_path, FEATURES, {"train": [[one], [two]], "validation": [[two]], "test": [[]]}, name="MyData2")
    info = tfds.builder_from_directory(tmp_path).info
    assert (info.name, str(info.version), info.description) == ("MyData2", "1.2.3", "A «demo».")
    assert info.features["label"].names == ["mono", "poly", "Ünï cödé"]
    assert info.features["label"].int2str(2) == "Ünï cödé"
    assert info.features["image"].doc.desc == "a photo"
    assert {name: split.shard_lengths for name, split in info.splits.items()} == {
        "train": [1, 1],
        "validation": [1],
        "test": [0],
    }
    size = sum(f.stat().st_size - 16 for f in tmp_path.glob("*train.tfrecord*"))
    assert info.splits["train"].num_bytes == size


def test_tfds_gives_pairs_where_there_is_a_label(tmp_path: Path) -> None:
    fields = {name: FEATURES[name] for name in ("image", "label", "p")}
    values = {name: record(1)[name] for name in fields}
    write(tmp_path, fields, {"train": [[values]]}, label="label")
    builder = tfds.builder_from_directory(tmp_path)
    [(image, label)] = builder.as_dataset(split="train", as_supervised=True).as_numpy_iterator()
    np.testing.assert_array_equal(image, values["image"][1])
    assert label == 1


def test_the_pair_is_the_only_image_or_the_only_other_feature() -> None:
    kinds = features()
    assert supervised_keys({k: kinds[k] for k in ("image", "label", "p")}, "label") == ("image", "label")
    assert supervised_keys({k: kinds[k] for k in ("vector", "p")}, "p") == ("vector", "p")
    assert supervised_keys({k: kinds[k] for k in ("image", "grey", "label")}, "label") is None
    assert supervised_keys({k: kinds[k] for k in ("vector", "pair", "p")}, "p") is None
    assert supervised_keys({"image": kinds["image"]}, None) is None


@pytest.mark.parametrize("names", [["a", " b"], ["a", "line\nbreak"], ["a", ""], ["a", "b\r"]])
def test_names_that_a_labels_file_cannot_hold_are_left_out(tmp_path: Path, names: list[str]) -> None:
    fields = {"label": {"type": "class_label", "names": names}}
    write(tmp_path, fields, {"train": [[{"label": 1}]]})
    assert not list(tmp_path.glob("*.labels.txt"))
    builder = tfds.builder_from_directory(tmp_path)
    assert [r["label"] for r in builder.as_dataset(split="train").as_numpy_iterator()] == [1]
    assert builder.info.features["label"].num_classes == 2


def parse_schema(kinds: Mapping[str, Feature]) -> schema_pb2.Schema:
    return text_format.Parse(schema_pbtxt(kinds).decode(), schema_pb2.Schema())


def test_schema_says_types_domains_and_presence() -> None:
    found = {f.name: f for f in parse_schema(features()).feature}
    assert list(found) == sorted(FEATURES)
    assert all(f.presence.min_fraction == 1 for f in found.values())
    assert (found["count"].int_domain.min, found["count"].int_domain.max) == (0, 1000)
    assert not found["pair"].HasField("int_domain")
    label = found["label"].int_domain
    assert (label.is_categorical, label.min, label.max) == (True, 0, 2)
    assert found["label"].annotation.comment == ['names: ["mono", "poly", "Ünï cödé"]']
    p = found["p"].float_domain
    assert (p.min, p.max, p.disallow_nan, p.disallow_inf) == (0, 1, True, True)
    assert not found["vector"].HasField("float_domain")
    assert found["flag"].HasField("bool_domain")
    assert found["flag"].type == schema_pb2.INT
    assert list(found["text"].string_domain.value) == ["red", "grün"]
    assert found["image"].HasField("image_domain")
    assert found["image"].annotation.comment == ["a photo"]
    assert [d.size for d in found["vector"].shape.dim] == [3]
    assert found["ids"].HasField("value_count")


@pytest.mark.transform
def test_transform_derives_a_feature_spec_that_parses_the_records(tmp_path: Path) -> None:
    from tensorflow_transform.tf_metadata import schema_utils

    records = write(tmp_path, FEATURES, {"train": [[record(0), record(1), record(2)]]})
    text = (tmp_path / "schema.pbtxt").read_text("utf-8")
    spec = schema_utils.schema_as_feature_spec(text_format.Parse(text, schema_pb2.Schema())).feature_spec
    fixed = {name for name, s in spec.items() if isinstance(s, tf.io.FixedLenFeature)}
    assert fixed == FEATURES.keys() - {"ids", "floats"}
    shards = tf.data.TFRecordDataset([str(f) for f in tmp_path.glob("*.tfrecord*")])
    [batch] = shards.batch(8).map(lambda b: tf.io.parse_example(b, spec))
    for name in fixed:
        values = [v[0] if isinstance(v, tuple) else v for v in (r[name] for r in records)]
        np.testing.assert_array_equal(batch[name].numpy(), np.array(values, batch[name].numpy().dtype))
    np.testing.assert_array_equal(tf.sparse.to_dense(batch["ids"]), [[0, 0], [0, 0], [0, 1]])


def test_files_are_canonical_whatever_the_order_of_features() -> None:
    kinds = features()
    turned = dict(reversed(kinds.items()))
    args: dict[str, Any] = {
        "name": "d",
        "version": "1.0.0",
        "description": "",
        "label": "label",
        "splits": {},
    }
    files = interop_files(features=kinds, **args)
    assert files == interop_files(features=turned, **args)
    assert list(files) == ["dataset_info.json", "features.json", "label.labels.txt", "schema.pbtxt"]
    assert json.loads(files["dataset_info.json"])["splits"] == []
