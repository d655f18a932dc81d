"""Cutting one text file into byte ranges whose borders appending never moves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from beam_jobs.sources._places.file import changed
from beam_jobs.sources._text.rows import RowBlock
from beam_jobs.sources._text.text_file import TextFile

_HASH_BYTES = 16


class Range(NamedTuple):
    """Whole rows of a file.

    Attributes:
      start, end: bytes of the file.
      first: number of its first record, from 1.
      records: how many it holds; blank lines do not count.
      digest: content hash of its bytes.
    """

    start: int
    end: int
    first: int
    records: int
    digest: str


def cut_ranges(blocks: Iterable[RowBlock], start: int, size: int) -> Iterator[Range]:
    """Ranges that begin at `start`, then at the first row at or after each multiple of `size` bytes of the file.

    The last range ends with the last row. Blocks count their offsets from `start`.
    """
    begin = end = start
    first, records, digest = 1, 0, hashlib.blake2b(digest_size=_HASH_BYTES)
    for block in blocks:
        base, row, rows = start + block.offset, 0, len(block.blank)
        while row < rows:
            border = (begin // size + 1) * size
            cut = max(int(np.searchsorted(block.bounds[:-1], border - base)), row)
            low, high = block.bounds[[row, cut]].tolist()
            digest.update(block.data[low:high])
            records += cut - row - int(np.count_nonzero(block.blank[row:cut]))
            row, end = cut, base + high
            if row < rows:
                yield Range(begin, end, first, records, digest.hexdigest())
                begin, first, records = end, first + records, 0
                digest = hashlib.blake2b(digest_size=_HASH_BYTES)
        # Bytes behind the last row go on with it.
        rest = block.data[int(block.bounds[-1]) :]
        digest.update(rest)
        end = base + len(block.data)
    if end > begin:
        yield Range(begin, end, first, records, digest.hexdigest())


def digest_of(pieces: Iterable[bytes]) -> str:
    """The content hash of a range's bytes, as in `Range.digest`."""
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def verify_range(file: TextFile, part: Range, planned: Any) -> Any:
    """The file's version now, after making sure that the range's bytes are those that were planned.

    Raises:
      HeadraceError: they are not.
    """
    version = file.version()
    # Rows may have been appended: what matters is this range's own bytes.
    if version != planned and digest_of(file.stored(part.start, part.end)) != part.digest:
        raise changed(file.shown)
    return version
