#!/usr/bin/env python3
"""One contender's work in a process of its own: what Headrace is measured against, and Headrace itself.

  python scripts/bench/contenders.py NAME DATA OUT

prints {"seconds": ..., "records": ...}. Imports are left out of the seconds, as anyone who compares would.
Each is written as its own documentation says; none is slowed down, and none but Headrace and `bare` syncs.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import JOBS, timed

SHARDS = 8
SHAPE = (375, 500, 3)
# The table of make_data.py: what a person would declare by hand.
TEXTS = ("trip_id", "vendor", "company")
CATEGORIES = {
    "weekday": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
    "payment": ["card", "cash", "app", "voucher", "unknown"],
}
INTS = ("pickup_area", "dropoff_area", "hour", "passengers", "seconds", "shared")
FLOATS = ("miles", "fare", "tip", "tolls", "extras", "pickup_lat", "pickup_lon", "speed")


def headrace(job: str) -> Callable[[Path, Path], None]:
    """`headrace run` from Python, with its defaults."""

    def contender(data: Path, out: Path) -> None:
        from apache_beam.runners.portability import fn_api_runner  # noqa: F401  the import is not the work

        from beam_jobs import load_job, run

        def work() -> int:
            result = run(load_job(JOBS / job, {"data": str(data)}), out=out)
            return sum(split.records for split in result.manifest.splits.values())

        timed(work)

    return contender


def _image_files(data: Path) -> list[tuple[str, str]]:
    """(path, class) of every image, in one order."""
    return [(str(path), path.parent.name) for path in sorted(data.glob("*/*.jpg"))]


def _tfds_images(data: Path, out: Path, *, beam_builder: bool) -> None:
    import apache_beam
    import tensorflow_datasets as tfds
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    beam: Any = apache_beam  # it ships no types
    names = sorted(path.name for path in data.iterdir() if path.is_dir())

    def example(file: tuple[str, str]) -> tuple[str, dict[str, Any]]:
        path, label = file
        return path, {"image": path, "label": label}

    class Photos(tfds.core.BeamBasedBuilder if beam_builder else tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = out  # where it looks for its README; a class in no package has none

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=SHAPE, encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=names),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:  # noqa: ARG002
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            files = _image_files(data)
            return beam.Create(files) | beam.Map(example) if beam_builder else map(example, files)

    def work() -> int:
        builder = Photos(data_dir=str(out))
        # In memory, in this process: named, or Beam would first look for its Prism binary.
        options = PipelineOptions(flags=[])
        config = tfds.download.DownloadConfig(beam_runner=FnApiRunner(), beam_options=options)
        builder.download_and_prepare(download_config=config)
        return int(builder.info.splits["train"].num_examples)

    tfds.disable_progress_bar()
    timed(work)


def tfds_beam(data: Path, out: Path) -> None:
    """TFDS's BeamBasedBuilder on the in-memory runner."""
    _tfds_images(data, out, beam_builder=True)


def tfds_generator(data: Path, out: Path) -> None:
    """TFDS's GeneratorBasedBuilder."""
    _tfds_images(data, out, beam_builder=False)


def bare_images(data: Path, out: Path) -> None:
    """The loop anyone would write: read, tf.train.Example, TFRecordWriter, fsync."""
    import tensorflow as tf

    def work() -> int:
        files = _image_files(data)
        classes = {name: i for i, name in enumerate(sorted({label for _, label in files}))}
        paths = [str(out / f"bare.tfrecord-{i:05d}-of-{SHARDS:05d}") for i in range(SHARDS)]
        writers = [tf.io.TFRecordWriter(path) for path in paths]
        for i, (path, label) in enumerate(files):
            with open(path, "rb") as file:
                image = file.read()
            writers[i % SHARDS].write(_image_example(tf, image, classes[label]).SerializeToString())
        for writer in writers:
            writer.close()
        _sync(paths)
        return len(files)

    timed(work)


def bare_decode(data: Path, out: Path) -> None:
    """The same with every image decoded in full, on two threads."""
    import tensorflow as tf
    from PIL import Image

    def work() -> int:
        files = _image_files(data)
        classes = {name: i for i, name in enumerate(sorted({label for _, label in files}))}

        def half(worker: int) -> list[str]:
            own = range(worker, SHARDS, 2)
            paths = [str(out / f"bare.tfrecord-{i:05d}-of-{SHARDS:05d}") for i in own]
            writers = [tf.io.TFRecordWriter(path) for path in paths]
            for i, (path, label) in enumerate(files[worker::2]):
                with open(path, "rb") as file:
                    image = file.read()
                with Image.open(io.BytesIO(image)) as picture:
                    picture.load()
                writers[i % len(own)].write(_image_example(tf, image, classes[label]).SerializeToString())
            for writer in writers:
                writer.close()
            return paths

        with ThreadPoolExecutor(2) as pool:
            for paths in pool.map(half, range(2)):
                _sync(paths)
        return len(files)

    timed(work)


def _image_example(tf: Any, image: bytes, label: int) -> Any:
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
        )
    )


def _sync(paths: list[str]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _rows(data: Path) -> Iterator[dict[str, str]]:
    with open(data, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def tfds_generator_table(data: Path, out: Path) -> None:
    """TFDS's GeneratorBasedBuilder over csv.DictReader, as its guide shows."""
    _tfds_table(out, lambda: _rows(data))


def tfds_generator_parquet(data: Path, out: Path) -> None:
    """TFDS's GeneratorBasedBuilder over the rows that pyarrow gives."""
    _tfds_table(out, lambda: _parquet_rows(data))


def _tfds_table(out: Path, rows: Callable[[], Iterator[dict[str, Any]]]) -> None:
    import numpy as np
    import tensorflow_datasets as tfds

    class Trips(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = out

        def _info(self) -> Any:
            features = {
                **{name: tfds.features.Text() for name in TEXTS},
                **{name: tfds.features.ClassLabel(names=names) for name, names in CATEGORIES.items()},
                **dict.fromkeys(INTS, np.int64),
                **dict.fromkeys(FLOATS, np.float32),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:  # noqa: ARG002
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
            for row in rows():
                example: dict[str, Any] = {name: row[name] for name in (*TEXTS, *CATEGORIES)}
                example.update({name: int(row[name]) for name in INTS})
                example.update({name: float(row[name]) for name in FLOATS})
                yield row["trip_id"], example

    def work() -> int:
        builder = Trips(data_dir=str(out))
        builder.download_and_prepare()
        return int(builder.info.splits["train"].num_examples)

    tfds.disable_progress_bar()
    timed(work)


def bare_table(data: Path, out: Path) -> None:
    """csv.reader, tf.train.Example, TFRecordWriter, fsync."""
    import tensorflow as tf

    def work() -> int:
        paths = [str(out / f"bare.tfrecord-{i:05d}-of-{SHARDS:05d}") for i in range(SHARDS)]
        writers = [tf.io.TFRecordWriter(path) for path in paths]
        numbers = {name: {label: i for i, label in enumerate(names)} for name, names in CATEGORIES.items()}
        count = 0
        with open(data, encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            at = {name: i for i, name in enumerate(next(rows))}
            texts = [(name, at[name]) for name in TEXTS]
            categories = [(name, at[name], numbers[name]) for name in CATEGORIES]
            ints, floats = [(name, at[name]) for name in INTS], [(name, at[name]) for name in FLOATS]
            for row in rows:
                example = tf.train.Example()
                feature = example.features.feature
                for name, i in texts:
                    feature[name].bytes_list.value.append(row[i].encode())
                for name, i, labels in categories:
                    feature[name].int64_list.value.append(labels[row[i]])
                for name, i in ints:
                    feature[name].int64_list.value.append(int(row[i]))
                for name, i in floats:
                    feature[name].float_list.value.append(float(row[i]))
                writers[count % SHARDS].write(example.SerializeToString())
                count += 1
        for writer in writers:
            writer.close()
        _sync(paths)
        return count

    timed(work)


def _parquet_rows(data: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(data).iter_batches():
        yield from batch.to_pylist()


def _table_example(tf: Any, row: dict[str, Any], numbers: dict[str, dict[str, int]]) -> bytes:
    """A row as a serialized tf.train.Example."""
    example = tf.train.Example()
    feature = example.features.feature
    for name in TEXTS:
        feature[name].bytes_list.value.append(row[name].encode())
    for name, labels in numbers.items():
        feature[name].int64_list.value.append(labels[row[name]])
    for name in INTS:
        feature[name].int64_list.value.append(row[name])
    for name in FLOATS:
        feature[name].float_list.value.append(row[name])
    serialized: bytes = example.SerializeToString()
    return serialized


def _numbers() -> dict[str, dict[str, int]]:
    return {name: {label: i for i, label in enumerate(names)} for name, names in CATEGORIES.items()}


def beam_parquet(data: Path, out: Path) -> None:
    """Beam's own: ReadFromParquet, a Map to tf.train.Example, WriteToTFRecord, on the in-memory runner."""
    import apache_beam
    import tensorflow as tf
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    beam: Any = apache_beam  # it ships no types
    numbers = _numbers()

    def work() -> int:
        with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(flags=[])) as pipeline:
            _ = (
                pipeline
                | beam.io.ReadFromParquet(str(data))
                | beam.Map(lambda row: _table_example(tf, row, numbers))
                | beam.io.WriteToTFRecord(str(out / "beam"), num_shards=SHARDS)
            )
        return sum(1 for path in out.glob("beam*") for _ in tf.data.TFRecordDataset(str(path)))

    timed(work)


def bare_parquet(data: Path, out: Path) -> None:
    """pyarrow, tf.train.Example, TFRecordWriter, fsync."""
    import tensorflow as tf

    def work() -> int:
        paths = [str(out / f"bare.tfrecord-{i:05d}-of-{SHARDS:05d}") for i in range(SHARDS)]
        writers = [tf.io.TFRecordWriter(path) for path in paths]
        numbers, count = _numbers(), 0
        for row in _parquet_rows(data):
            writers[count % SHARDS].write(_table_example(tf, row, numbers))
            count += 1
        for writer in writers:
            writer.close()
        _sync(paths)
        return count

    timed(work)


CONTENDERS: dict[str, Callable[[Path, Path], None]] = {
    "headrace_keep": headrace("images_keep.yaml"),
    "headrace_decode": headrace("images_decode.yaml"),
    "headrace_table": headrace("table.yaml"),
    "headrace_parquet": headrace("table_parquet.yaml"),
    "tfds_beam": tfds_beam,
    "tfds_generator": tfds_generator,
    "tfds_generator_table": tfds_generator_table,
    "bare_images": bare_images,
    "bare_decode": bare_decode,
    "bare_table": bare_table,
    "tfds_generator_parquet": tfds_generator_parquet,
    "beam_parquet": beam_parquet,
    "bare_parquet": bare_parquet,
}


def main() -> None:
    if len(sys.argv) != 4 or sys.argv[1] not in CONTENDERS:
        print(__doc__, "\nNAME is one of", ", ".join(CONTENDERS))
        sys.exit(0 if "--help" in sys.argv else 2)
    CONTENDERS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))


if __name__ == "__main__":
    main()
