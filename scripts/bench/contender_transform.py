#!/usr/bin/env python3
"""One contender of transform.py in a process of its own: Headrace, or the flow of TFX's own examples.

  python scripts/bench/contender_transform.py headrace|tfx DATA OUT

Both read a Parquet file, analyse it with the same preprocessing_fn, and write transformed records as TFRecords of
tf.train.Example. Imports are left out of the seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from common import JOBS, timed

FLOATS = ("miles", "fare", "tip", "tolls", "extras", "pickup_lat", "pickup_lon", "speed")
INTS = ("pickup_area", "dropoff_area", "hour", "passengers", "seconds", "shared")
WORDS = ("vendor", "company", "weekday", "payment")


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """What tutorials of TFX do to such a table: numbers scaled, places in buckets, words numbered."""
    import tensorflow_transform as tft

    outputs = {name: tft.scale_to_z_score(inputs[name]) for name in FLOATS if not name.startswith("pickup")}
    outputs |= {name: tft.bucketize(inputs[name], 10) for name in FLOATS if name.startswith("pickup")}
    outputs |= {
        name: tft.compute_and_apply_vocabulary(inputs[name], num_oov_buckets=1, vocab_filename=name)
        for name in WORDS
    }
    outputs |= {name: tft.scale_to_0_1(inputs[name]) for name in ("seconds", "passengers")}
    return outputs | {name: inputs[name] for name in ("hour", "pickup_area", "dropoff_area", "shared")}


def _headrace(data: Path, out: Path) -> None:
    import tensorflow_transform.beam  # noqa: F401  the import is not the work
    from apache_beam.runners.portability import fn_api_runner  # noqa: F401

    from beam_jobs import load_job, run

    def work() -> int:
        result = run(load_job(JOBS / "table_transform.yaml", {"data": str(data)}), out=out)
        return sum(split.records for split in result.manifest.splits.values())

    timed(work)


def _tfx(data: Path, out: Path) -> None:
    import apache_beam as beam
    import pyarrow.parquet as pq
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability import fn_api_runner
    from tensorflow_transform.coders import example_proto_coder

    spec = {
        **{name: tf.io.FixedLenFeature([], tf.float32) for name in FLOATS},
        **{name: tf.io.FixedLenFeature([], tf.int64) for name in INTS},
        **{name: tf.io.FixedLenFeature([], tf.string) for name in WORDS},
    }
    metadata = tft.DatasetMetadata.from_feature_spec(spec)
    options = PipelineOptions(["--direct_running_mode=multi_threading", "--direct_num_workers=0"])

    def work() -> int:
        with (
            beam.Pipeline(fn_api_runner.FnApiRunner(), options) as pipeline,
            tft_beam.Context(temp_dir=str(out / "temp")),
        ):
            rows = (
                pipeline
                | beam.io.ReadFromParquet(str(data), columns=list(spec))
                | beam.Map(lambda row: {n: v.encode() if isinstance(v, str) else v for n, v in row.items()})
            )
            (transformed, made), function = (rows, metadata) | tft_beam.AnalyzeAndTransformDataset(
                preprocessing_fn
            )
            coder = example_proto_coder.ExampleProtoCoder(made.schema)
            _ = (
                transformed
                | beam.Map(coder.encode)
                | beam.io.WriteToTFRecord(str(out / "train.tfrecord"), num_shards=8)
            )
            _ = function | tft_beam.WriteTransformFn(str(out / "transform"))
        return int(pq.ParquetFile(data).metadata.num_rows)

    timed(work)


if __name__ == "__main__":
    {"headrace": _headrace, "tfx": _tfx}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
