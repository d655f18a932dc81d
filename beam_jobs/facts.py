"""Facts: what is noted of every record beside it, as values of fixed width, while its columns are at hand.

They travel as the features of the indexes do (`beam_jobs.indexed`): sorted with the run, kept after the commit, taken
over with the record. But no version shows them: they are for what is computed of whole data sets later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.blocks import offsets_of
from beam_jobs.image_headers import Header, open_pillow, read_header, true_format
from beam_jobs.image_verify import decode_jpeg

Rows = npt.NDArray[np.void]
Values = npt.NDArray[Any]

# Pixels that each side of a picture's luma has at least, where the picture itself is that large.
LUMA_SIDE = 128


class Picture:
    """An image; what facts ask of it is computed once for all of them.

    Attributes:
      data: as it is stored.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    @cached_property
    def format(self) -> str | None:
        """Its true format; None where that is none that is known, which no image is that has passed its checks."""
        return true_format(self.data)

    @cached_property
    def header(self) -> Header:
        """Its size and channels, which all have that have passed their checks.

        Raises:
          ImageProblemError: they cannot be read.
        """
        assert self.format is not None
        return read_header(self.data, self.format)

    @cached_property
    def luma(self) -> npt.NDArray[np.uint8]:
        """How bright it is, uint8 (height, width): of a large JPEG a smaller picture, decoded by scaled transforms.

        The same on every processor: libjpeg-turbo's accurate transforms are, and Pillow's ITU-R 601 is of integers.
        """
        if self.header.format == "jpeg":
            pixels: npt.NDArray[np.uint8] = decode_jpeg(self.data, "GRAY", LUMA_SIDE)[:, :, 0]
            return pixels
        return np.asarray(open_pillow(self.data, self.header.format).convert("L"))


@dataclass(frozen=True)
class Fact:
    """A fact of every record.

    Attributes:
      name: of its field in a row. What changes the values must be in the name or the type: both are in fingerprints.
      kind: of a value: a number, or a vector of fixed length.
      of_columns: from the features' columns, as they go into the shards, to n values of `kind`.
      of_records: from the columns that features are made of, as rules left them; in place of `of_columns`.
      of_picture: from an image of the feature `image` to a value of `kind`; in place of `of_columns`.
    """

    name: str
    kind: np.dtype[Any]
    of_columns: Callable[[Mapping[str, pa.Array]], Values] | None = None
    of_records: Callable[[pa.RecordBatch], Values] | None = None
    image: str = ""
    of_picture: Callable[[Picture], Any] | None = None


def row_of(facts: Sequence[Fact]) -> np.dtype[np.void]:
    """The type of a row: a field for each fact, by its name."""
    return np.dtype([(fact.name, fact.kind) for fact in facts])


def describe(facts: Sequence[Fact]) -> list[list[str]]:
    """What fingerprints hold of facts: names and types, in order."""
    return [[fact.name, str(fact.kind)] for fact in facts]


def make_facts(
    columns: Mapping[str, pa.Array], facts: Sequence[Fact], records: pa.RecordBatch | None = None
) -> Rows:
    """The rows of `records` whose features, as they go into the shards, are `columns`."""
    rows = np.zeros(len(next(iter(columns.values()))), row_of(facts))
    for fact in facts:
        if fact.of_columns is not None:
            rows[fact.name] = fact.of_columns(columns)
        if fact.of_records is not None:
            assert records is not None
            rows[fact.name] = fact.of_records(records)
    for image in sorted({fact.image for fact in facts if fact.of_picture is not None}):
        own = [fact for fact in facts if fact.of_picture is not None and fact.image == image]
        for place, data in enumerate(_values(columns[image])):
            picture = Picture(data)
            for fact in own:
                assert fact.of_picture is not None
                rows[fact.name][place] = fact.of_picture(picture)
    return rows


def _values(column: pa.LargeBinaryArray) -> Iterator[bytes]:
    """The values one at a time, so that each can use the memory of the one before."""
    offsets = offsets_of(column).tolist()
    memory = memoryview(column.buffers()[2] or b"")
    for start, end in pairwise(offsets):
        yield bytes(memory[start:end])
