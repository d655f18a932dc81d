"""Folders as TFDS prepares them, written by the simplest code there is, and one prepared by TFDS itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tests.small_dataset import example, frame
from tests.sources.hf_data import png

ROWS_A_SHARD = 7
FEATURES = {
    "featuresDict": {
        "features": {
            "id": {"text": {}},
            "image": {"image": {"encodingFormat": "png"}},
            "label": {"classLabel": {"numClasses": "2"}},
            "words": {"sequence": {"feature": {"tensor": {"dtype": "int64", "shape": {}}}, "length": "-1"}},
        }
    }
}


def row(number: int) -> dict[str, list[Any]]:
    return {
        "id": [f"r{number:04d}".encode()],
        "image": [png(number)],
        "label": [number % 2],
        "words": list(range(number % 4)),
    }


def write_folder(place: Path, splits: Mapping[str, Sequence[Sequence[bytes]]]) -> None:
    """A folder of the splits, each a list of shards of records."""
    place.mkdir(parents=True, exist_ok=True)
    described = []
    for split, shards in splits.items():
        for number, records in enumerate(shards):
            file = place / f"pond-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
            file.write_bytes(b"".join(map(frame, records)))
        described.append({"name": split, "shardLengths": [str(len(records)) for records in shards]})
    info = {"name": "pond", "version": "1.0.0", "fileFormat": "tfrecord", "splits": described}
    (place / "dataset_info.json").write_text(json.dumps(info))
    (place / "features.json").write_text(json.dumps(FEATURES))
    (place / "label.labels.txt").write_text("cat\ndog\n")


def shards_of(numbers: Sequence[int]) -> list[list[bytes]]:
    """Records in shards of seven."""
    records = [example(row(number)) for number in numbers]
    return [records[at : at + ROWS_A_SHARD] for at in range(0, len(records), ROWS_A_SHARD)]


def add_shard(place: Path, records: Sequence[bytes]) -> None:
    """One more shard of the split `train`, under a name of its own as the others keep theirs."""
    info = json.loads((place / "dataset_info.json").read_text())
    more = {"name": "more", "shardLengths": [str(len(records))], "filepathTemplate": "added-{SHARD_INDEX}"}
    (place / "added-00000").write_bytes(b"".join(map(frame, records)))
    info["splits"].append(more)
    (place / "dataset_info.json").write_text(json.dumps(info))


class Pond(tfds.core.GeneratorBasedBuilder):
    """A data set with a feature of every kind that can be a column, and of some that cannot."""

    VERSION = tfds.core.Version("2.3.10")
    url_infos: ClassVar[dict[str, Any]] = {}  # nothing to download; looking for it needs a package more

    def _info(self) -> Any:
        f = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            features=f.FeaturesDict(
                {
                    "image": f.Image(shape=(None, None, 3), encoding_format="png"),
                    "label": f.ClassLabel(names=["cat", "dog"]),
                    "title": f.Text(),
                    "flag": np.bool_,
                    "real": np.float64,
                    "small": np.uint8,
                    "raw": np.str_,
                    "vector": f.Tensor(shape=(3,), dtype=np.float32),
                    "matrix": f.Tensor(shape=(2, 2), dtype=np.int32),
                    "packed": f.Tensor(shape=(3,), dtype=np.float32, encoding="zlib"),
                    "words": f.Sequence(np.int64),
                    "ragged": f.Sequence(f.Sequence(np.int64)),
                    "boxes": f.Sequence({"box": f.BBoxFeature(), "kind": f.ClassLabel(names=["p", "q"])}),
                    "deep": {"er": {"kind": f.ClassLabel(names=["x", "y", "z"])}},
                    "tags": f.Sequence(f.Text()),
                    "pair": f.Translation(["de", "en"]),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples(0, 12), "test": self._generate_examples(12, 15)}

    def _generate_examples(self, first: int, after: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(first, after):
            box = {"box": tfds.features.BBox(0.0, 0.25, 0.5, 1.0), "kind": i % 2}
            yield (
                i,
                {
                    "image": np.full((4, 5, 3), i, np.uint8),
                    "label": i % 2,
                    "title": f"café {i}",
                    "flag": i % 3 == 0,
                    "real": i / 3,
                    "small": i,
                    "raw": bytes([i, 255]),
                    "vector": [i, 0.5, -1],
                    "matrix": [[i, 1], [2, 3]],
                    "packed": [1, 2, 3],
                    "words": list(range(i % 4)),
                    "ragged": [[1], [2, 3]],
                    "boxes": [box] * (i % 3),
                    "deep": {"er": {"kind": i % 3}},
                    "tags": ["a", "b"][: i % 3],
                    "pair": {"de": "eins", "en": "one"},
                },
            )
