"""Places records come from. A new kind is one new file and one line in `KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beam_jobs.sources.base import Fault, Partition, Source, SourceBatch
from beam_jobs.sources.beam import BeamRows
from beam_jobs.sources.bigquery import BigQuery
from beam_jobs.sources.csv import Csv
from beam_jobs.sources.huggingface import HuggingFace
from beam_jobs.sources.image_folder import ImageFolder
from beam_jobs.sources.python import Python
from beam_jobs.sources.tfds import Tfds

KINDS: dict[str, Callable[[str, Any, str], Source]] = {
    "beam": BeamRows,
    "bigquery": BigQuery,
    "csv": Csv,
    "huggingface": HuggingFace,
    "image_folder": ImageFolder,
    "python": Python,
    "tfds": Tfds,
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
