"""One file of a data set against what the manifest and its index say of it."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_jobs.frames import Fault, HashingReader, Numbers, check_frames, walk_frames
from schemas import HeadraceError, ShardIndex
from schemas.errors import shorten
from schemas.hashing import as_sortable, shard_bounds
from schemas.index import decode_index
from schemas.manifest import FileEntry, ShardEntry

MAX_PROBLEMS = 10  # of one file; a file of other bytes has as many as it has records
_MAX_INDEX_BYTES = 4 << 30  # 4 GiB: a hundred million records

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Problem:
    """One difference, and its exact place.

    Attributes:
      file: relative to the data set directory.
      offset: byte in the file where the record's frame starts, or where the file goes wrong.
      record: number of the record in the file, from 0.
      key_hash: of the record, hex.
      field: of the manifest, where that is the file.
    """

    file: str
    what: str
    offset: int | None = None
    record: int | None = None
    key_hash: str | None = None
    field: str | None = None
    expected: str | None = None
    found: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The parts that are known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class Checked:
    """What one file turned out to hold."""

    path: str
    expected_sha256: str
    sha256: str | None = None
    bytes: int = 0
    records: int = 0
    problems: list[Problem] = field(default_factory=list)


def check_file(directory: Path, entry: FileEntry, progress: Progress | None = None) -> Checked:
    """Presence, size and SHA-256 of a file."""
    checked = Checked(entry.path, entry.sha256)
    with _Opened(directory, entry, checked) as opened:
        if opened is not None:
            reader = HashingReader(opened, progress)
            reader.drain()
            _finish(checked, entry, reader)
    return checked


def check_shard(
    directory: Path, entry: ShardEntry, number: int, shards: int, progress: Progress | None = None
) -> list[Checked]:
    """A shard with every frame of it, and its index with every row."""
    own_index, index = _check_index(directory, entry, number, shards)
    checked = Checked(entry.path, entry.sha256)
    with _Opened(directory, entry, checked) as opened:
        if opened is not None:
            reader = HashingReader(opened, progress)
            # What a damaged index says of the shard is worth nothing: then the frames' own headers lead.
            trusted = index if index is not None and not own_index.problems else None
            offsets, lengths, end = (
                (*_believable(trusted), None) if trusted is not None else walk_frames(opened, opened.size)
            )
            faults = chain(check_frames(reader, offsets, lengths), [end] if end is not None else [])
            checked.problems += _located(entry.path, faults, trusted)
            if end is None and not checked.problems:
                checked.problems += _after_records(entry, offsets, lengths, opened.size)
            if index is not None and trusted is None:
                own_index.problems += _rows_against_frames(entry.index.path, index, offsets, lengths)
            checked.records = len(offsets)
            reader.drain()
            _finish(checked, entry, reader)
    return [checked, own_index]


class _Opened:
    """A listed file, open; None, with the problem noted, where it cannot be."""

    def __init__(self, directory: Path, entry: FileEntry, checked: Checked) -> None:
        self._path = directory / entry.path
        self._checked = checked

    def __enter__(self) -> _SizedFile | None:
        try:
            # A pipe or a device under a shard's name would be read for ever.
            if not stat.S_ISREG(self._path.stat().st_mode):
                self._problem("is not a regular file")
                return None
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            self._problem("is missing")
        except OSError as error:
            self._problem(f"cannot be read: {error.strerror}")
        else:
            return self._file
        return None

    def __exit__(self, *_: object) -> None:
        ...
