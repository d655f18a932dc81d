"""Names of files in a data set directory. TFDS's own naming, so that its reader finds the shards."""

from __future__ import annotations

MANIFEST = "manifest.json"
FEATURES = "features.json"
DATASET_INFO = "dataset_info.json"
TFMD_SCHEMA = "schema.pbtxt"
STATISTICS = "statistics.json"
ANOMALIES = "anomalies.json"
DEAD_LETTERS = "dead_letters/dead_letters.parquet"
DUPLICATES = "duplicates/duplicates.parquet"
INDEX_DIR = "index"
TRANSFORM_FN = "transform_fn"  # with the next, what tft.TFTransformOutput reads of a version's directory
TRANSFORMED_METADATA = "transformed_metadata"
SIGNATURES_DIR = "signatures"


def shard_name(dataset: str, split: str, shard: int, shards: int) -> str:
    """`elpv-train.tfrecord-00000-of-00008`: the file of one shard.

    >>> shard_name("elpv", "train", 0, 8)
    'elpv-train.tfrecord-00000-of-00008'
    """
    return f"{dataset}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


def index_name(shard_file: str) -> str:
    """The index of a shard, relative to the data set directory.

    >>> index_name("elpv-train.tfrecord-00000-of-00008")
    'index/elpv-train.tfrecord-00000-of-00008.arrow'
    """
    return f"{INDEX_DIR}/{shard_file}.arrow"


def labels_name(feature: str) -> str:
    """The file of a class label's names, one a line: where TFDS looks for them."""
    return f"{feature}.labels.txt"


def tfmd_statistics_name(split: str) -> str:
    """The statistics of a split as a `DatasetFeatureStatisticsList`: where TFX's StatisticsGen puts them."""
    return f"statistics/Split-{split}/FeatureStats.pb"


def signatures_name(shard_file: str) -> str:
    """What duplicates of a shard's records are found by, relative to the data set directory."""
    return f"{SIGNATURES_DIR}/{shard_file}.arrow"
