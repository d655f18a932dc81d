"""Rows that functions give, for source_memory.py: what a user's own code would be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

PART = 10_000
TEXT = "a text of the length that captions have, more or less, "


def row(number: int) -> dict[str, Any]:
    """One row."""
    values = {f"x{column}": number / (column + 1) for column in range(8)}
    return {"id": f"r{number:09}", "note": f"{TEXT}{number}", **values}


def parts(path: str) -> list[int]:
    """The first numbers of all parts; `path` says how many rows there are."""
    return list(range(0, int(path), PART))


def rows_of(part: int, path: str) -> Iterator[dict[str, Any]]:
    """The rows of one part, of so many as `path` says."""
    return map(row, range(part, min(part + PART, int(path))))


class Rows(beam.PTransform):  # type: ignore[misc]  # Beam has no types
    """All rows, of a pipeline's own."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def expand(self, begin: Any) -> Any:
        """The begin of a pipeline → dicts."""
        return begin | beam.Create(parts(self.path)) | beam.FlatMap(rows_of, self.path)
