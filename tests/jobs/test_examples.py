"""Every example job, end to end: prepared, verified, read by TFDS, TFX's schema tools and our own loader."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import beam_jobs
from beam_jobs import load_job, run
from beam_jobs.verify import verify

EXAMPLES = Path(beam_jobs.__file__).parent / "jobs"


def _elpv_data() -> Path:
    spec = find_spec("elpv_dataset")
    assert spec is not None, "elpv-dataset is not installed: scripts/install installs it"
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def test_every_example_is_tested_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == {"elpv.yaml"}


@pytest.fixture(scope="module")
def elpv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = load_job(EXAMPLES / "elpv.yaml", {"data": str(_elpv_data())})
    result = run(job, tmp_path_factory.mktemp("out"))
    assert result.manifest.books["cells"].written == 2624
    assert result.manifest.books["labels"].written == 2624
    return result.path


def test_elpv_is_intact(elpv: Path) -> None:
    report = verify(elpv)
    assert report.ok, report


def test_elpv_bytes_are_pinned(elpv: Path) -> None:
    """The same on every machine: a change here is a change of every data set, and needs a major version."""
    from schemas import read_manifest

    shard = read_manifest(elpv).splits["validation"].shards[0]
    assert shard.records == 275
    assert shard.sha256 == PINNED_SHA256


@pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated:DeprecationWarning")  # TFDS on a newer protobuf
def test_tfds_reads_elpv(elpv: Path) -> None:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(elpv)
    assert builder.info.features["label"].names == ["functional", "defective"]
    records = list(tfds.as_numpy(builder.as_dataset(split="validation")))
    assert len(records) == builder.info.splits["validation"].num_examples == 275
    assert records[0]["image"].shape == (300, 300, 1)
    assert records[0]["image"].dtype == np.uint8
    assert 0.2 < np.mean([record["label"] for record in records]) < 0.5


def test_schema_parses_elpv(elpv: Path) -> None:
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = text_format.Parse((elpv / "schema.pbtxt").read_text(), schema_pb2.Schema())
    assert {feature.name for feature in schema.feature} == {"image", "label", "probability", "wafer"}
    shard = elpv / "elpv-test.tfrecord-00000-of-00001"
    record = next(iter(tf.data.TFRecordDataset(str(shard)).take(1)))
    assert len(tf.train.Example.FromString(record.numpy()).features.feature) == 4


def test_loader_reads_elpv(elpv: Path) -> None:
    from loader import load

    features, labels = next(iter(load(elpv, "validation", batch_size=16)))
    assert features["image"].shape == (16, 300, 300, 1)
    assert labels.shape == (16,)


PINNED_SHA256 = "c6514a025b4e5ddcfdf1d213a34a60220f37055caaf74601ef925894173ab6c7"
