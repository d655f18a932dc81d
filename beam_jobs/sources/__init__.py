"""Places records come from. A new kind is one new file and one line in `KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beam_jobs.sources.arrow import Arrow
from beam_jobs.sources.avro import Avro
from beam_jobs.sources.base import Fault, Partition, Source, SourceBatch
from beam_jobs.sources.beam import BeamRows
from beam_jobs.sources.bigquery import BigQuery
from beam_jobs.sources.csv import Csv
from beam_jobs.sources.files import Files
from beam_jobs.sources.huggingface import HuggingFace
from beam_jobs.sources.image_folder import ImageFolder
from beam_jobs.sources.jsonl import Jsonl
from beam_jobs.sources.orc import Orc
from beam_jobs.sources.parquet import Parquet
from beam_jobs.sources.python import Python
from beam_jobs.sources.sql import Sql
from beam_jobs.sources.tfds import Tfds
from beam_jobs.sources.tfrecord import Tfrecord
from beam_jobs.sources.webdataset import WebDataset

KINDS: dict[str, Callable[[str, Any, str], Source]] = {
    "arrow": Arrow,
    "avro": Avro,
    "beam": BeamRows,
    "bigquery": BigQuery,
    "csv": Csv,
    "files": Files,
    "huggingface": HuggingFace,
    "image_folder": ImageFolder,
    "jsonl": Jsonl,
    "orc": Orc,
    "parquet": Parquet,
    "python": Python,
    "sql": Sql,
    "tfds": Tfds,
    "tfrecord": Tfrecord,
    "webdataset": WebDataset,
}


def open_source(name: str, spec: Any, root: str) -> Source:
    """The source that `spec` describes.

    Args:
      name: its name in the job.
      spec: the source's part of the job spec; its `kind` chooses the class.
      root: `spec.path` with variables filled in.
    """
    return KINDS[spec.kind](name, spec, root)


__all__ = ["KINDS", "Fault", "Partition", "Source", "SourceBatch", "open_source"]
