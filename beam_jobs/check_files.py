"""One file of a data set against what the manifest and its index say of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from beam_jobs.check_columns import type_problem, value_problems
from beam_jobs.frames import Fault, HashingReader, Numbers, check_frames, walk_frames
from schemas import HeadraceError, Manifest, ShardIndex
from schemas.hashing import as_sortable, shard_bounds
from schemas.index import decode_index
from schemas.manifest import FileEntry, ShardEntry

MAX_PROBLEMS = 10  # told of one file in full; a file of other bytes has as many as it has records
MAX_INDEX_BYTES = 4 << 30  # 4 GiB: more than a hundred million records

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Problem:
    """One difference, and its exact place.

    Attributes:
      file: relative to the data set directory.
      what: a sentence about the file, the record or the field.
      offset: byte of the file where the record's frame starts, or where the file goes wrong.
      record: number of the record in its file, from 0.
      key_hash: of the record, in hex.
      field: of a JSON file.
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

    def problem(self, what: str, **place: Any) -> None:
        """Note a problem of this file."""
        self.problems.append(Problem(self.path, what, **place))


def check_file(directory: Path, entry: FileEntry, progress: Progress | None = None) -> Checked:
    """Presence, size and SHA-256 of a file."""
    checked = Checked(entry.path, entry.sha256)
    with _opened(directory, checked) as file:
        if file is not None:
            _finish(checked, entry, HashingReader(file, progress))
    return checked


def check_shard(
    directory: Path,
    manifest: Manifest,
    entry: ShardEntry,
    number: int,
    shards: int,
    *,
    progress: Progress | None = None,
) -> tuple[Checked, Checked]:
    """A shard with every frame, and its index with every row; what this says of features by a sample."""
    own_index, index = _check_index(directory, manifest, entry, number, shards)
    # What a damaged index says of the shard is worth nothing: then the frames' own headers lead.
    trusted = index if index is not None and not own_index.problems else None
    checked = Checked(entry.path, entry.sha256)
    with _opened(directory, checked) as file:
        if file is not None:
            size = os.fstat(file.fileno()).st_size
            offsets, lengths, end = _frames_of(trusted) if trusted is not None else walk_frames(file, size)
            reader = HashingReader(file, progress)
            faults = chain(check_frames(reader, offsets, lengths), [end] if end is not None else [])
            _note(checked, faults, trusted)
            _count(checked, entry, offsets, lengths, size)
            if index is not None and trusted is None:
                _rows_against_frames(own_index, index, offsets, lengths)
            _finish(checked, entry, reader)
            if trusted is not None and not checked.problems:
                _values_against_records(own_index, directory, entry, trusted, manifest)
    return checked, own_index


@contextmanager
def _opened(directory: Path, checked: Checked) -> Iterator[BinaryIO | None]:
    """A listed file, open; None, with the problem noted, where it cannot be opened."""
    try:
        file = _open_regular(directory / checked.path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        checked.problem("is missing" if missing else f"cannot be opened: {error.strerror}")
        yield None
        return
    with file:
        try:
            yield file
        except OSError as error:
            checked.problem(f"cannot be read: {error.strerror}")


def _open_regular(path: Path) -> BinaryIO:
    # A pipe under a shard's name would keep us waiting for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return open(path, "rb", buffering=0)


def _finish(checked: Checked, entry: FileEntry, reader: HashingReader) -> None:
    """Read to the end, then compare size and hash."""
    reader.drain()
    checked.sha256, checked.bytes = reader.sha256, reader.position
    if reader.position != entry.bytes:
        checked.problem("its size differs", expected=f"{entry.bytes} bytes", found=f"{reader.position} bytes")
    if checked.sha256 != entry.sha256:
        checked.problem("its SHA-256 differs", expected=entry.sha256, found=checked.sha256)


def _check_index(
    directory: Path, manifest: Manifest, entry: ShardEntry, number: int, shards: int
) -> tuple[Checked, ShardIndex | None]:
    checked = check_file(directory, entry.index)
    if checked.sha256 is None or checked.bytes > MAX_INDEX_BYTES:
        return checked, None
    try:
        data = (directory / entry.index.path).read_bytes()
    except OSError as error:
        checked.problem("cannot be read", found=str(error))
        return checked, None
    return checked, check_index(checked, data, manifest, entry, number=number, shards=shards)


def check_index(
    checked: Checked, data: bytes, manifest: Manifest, entry: ShardEntry, *, number: int, shards: int
) -> ShardIndex | None:
    """The index in `data`, its problems noted: against itself, the manifest, and its place among `shards`."""
    try:
        index = decode_index(data, entry.index.path)
    except HeadraceError as error:
        checked.problem(error.what, found=error.value)
        return None
    if len(index) != entry.records:
        checked.problem(
            "its rows are not the shard's records", expected=str(entry.records), found=str(len(index))
        )
    elif index.end != entry.bytes:
        checked.problem(
            "it describes a file of another size", expected=str(entry.bytes), found=str(index.end)
        )
    _check_hashes(checked, index, number, shards)
    differs = type_problem(index, manifest)
    if differs is not None:
        checked.problem("its columns are not the manifest's", expected=differs[0], found=differs[1])
    return index


def _check_hashes(checked: Checked, index: ShardIndex, number: int, shards: int) -> None:
    """Key hashes rise strictly, and lie in the shard's range."""
    rows = as_sortable(index.key_hashes)
    high, low = rows["hi"].astype(np.uint64), rows["lo"].astype(np.uint64)
    rises = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
    bounds = shard_bounds(shards)
    outside = ~_reaches(high, low, bounds[number])
    if number + 1 < shards:
        outside |= _reaches(high, low, bounds[number + 1])
    for what, bad in (
        ("the key hash is not above the one before", np.flatnonzero(~rises) + 1),
        ("the key hash is outside the shard's range", np.flatnonzero(outside)),
    ):
        for row in bad[:MAX_PROBLEMS].tolist():
            checked.problem(what, record=row, key_hash=index.key_hashes[row].tobytes().hex())
        _and_more(checked, len(bad))


def _reaches(
    high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], bound: np.void
) -> npt.NDArray[np.bool_]:
    """Which 128-bit numbers are not below `bound`."""
    bound_high, bound_low = np.uint64(bound["hi"]), np.uint64(bound["lo"])
    return np.asarray((high > bound_high) | ((high == bound_high) & (low >= bound_low)))


def _frames_of(index: ShardIndex) -> tuple[Numbers, Numbers, None]:
    # An index that is trusted ends where the manifest says the file does, so nothing overflows.
    return index.offsets.astype(np.int64), index.lengths.astype(np.int64), None


def _note(checked: Checked, faults: Iterable[Fault], index: ShardIndex | None) -> None:
    count = 0
    for fault in faults:
        count += 1
        if count > MAX_PROBLEMS:
            continue
        known = index is not None and fault.record is not None
        checked.problem(
            fault.what,
            offset=fault.offset,
            record=fault.record,
            key_hash=index.key_hashes[fault.record].tobytes().hex() if index is not None and known else None,
            expected=fault.expected or None,
            found=fault.found or None,
        )
    _and_more(checked, count)


def _and_more(checked: Checked, count: int) -> None:
    if count > MAX_PROBLEMS:
        checked.problem(f"{count - MAX_PROBLEMS} more records with such a problem")


def _count(checked: Checked, entry: ShardEntry, offsets: Numbers, lengths: Numbers, size: int) -> None:
    """The records found are the manifest's, and nothing follows them."""
    checked.records = len(offsets)
    if checked.problems:
        return
    if len(offsets) != entry.records:
        checked.problem(
            "the number of its records differs", expected=str(entry.records), found=str(len(offsets))
        )
    end = int(offsets[-1] + lengths[-1]) if len(offsets) else 0
    if size > end:
        checked.problem(f"{size - end} bytes follow its last record", offset=end)


def _values_against_records(
    checked: Checked, directory: Path, entry: ShardEntry, index: ShardIndex, manifest: Manifest
) -> None:
    count = 0
    for record, feature, held, said in value_problems(directory, entry, index, manifest):
        count += 1
        if count <= MAX_PROBLEMS:
            what = "it differs from the record's own value"
            checked.problem(what, record=record, field=feature, expected=held, found=said)
    _and_more(checked, count)


def _rows_against_frames(checked: Checked, index: ShardIndex, offsets: Numbers, lengths: Numbers) -> None:
    """The first row of a suspect index that contradicts the shard's own frames."""
    common = min(len(index), len(offsets))
    differs = np.flatnonzero(
        (index.offsets[:common] != offsets[:common].astype(np.uint64))
        | (index.lengths[:common] != lengths[:common].astype(np.uint64))
    )
    if len(differs):
        row = int(differs[0])
        checked.problem(
            "the row is not what the shard holds",
            record=row,
            expected=f"{lengths[row]} bytes at {offsets[row]}",
            found=f"{index.lengths[row]} bytes at {index.offsets[row]}",
        )
