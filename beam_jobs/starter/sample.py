"""Some records of a source, chosen the same way every time, and no more of them than fit."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from beam_jobs.image_headers import Header, ImageProblemError, read_header, true_format
from beam_jobs.sources.base import Partition, Source, SourceBatch, is_selective
from beam_jobs.starter.kinds import Family
from beam_jobs.starter.place import join
from beam_jobs.starter.sniff import text_file

_RECORDS = 100_000
_BYTES = 64 << 20  # of a sample; more of large files is read only where their source has to
_PARTITIONS = 16
_FILES = 8  # of a source that has many
_FILE_RECORDS = 2_000  # whole files: images
_PIECE = 4 << 20  # of a large text
_TEXTS = ("csv", "jsonl")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_SPREAD = ("image_folder", "files", "huggingface")  # which give any part of all their files
T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """What bytes in a record turned out to be.

    Attributes:
      header: of an image.
      text: whether they are UTF-8 that people can read.
    """

    header: Header | None = None
    text: bool = False


@dataclass
class Sample:
    """What was read of a source.

    Attributes:
      columns: names in order, of all columns.
      values: chunks of the columns that hold no bytes.
      looks: of each column of bytes, what its values are.
      records: how many were read.
      faults: why some could not be.
      unreadable: how many of them.
      whole: whether that is all the source holds.
    """

    columns: list[str] = field(default_factory=list)
    values: dict[str, pa.ChunkedArray] = field(default_factory=dict)
    looks: dict[str, list[Look | None]] = field(default_factory=dict)
    records: int = 0
    faults: list[str] = field(default_factory=list)
    unreadable: int = 0
    whole: bool = True


def take(family: Family) -> Sample:
    """A sample of the records of a source.

    Raises:
      HeadraceError: the source cannot be read.
    """
    with _smaller(family) as (source, whole):
        return _read(source, whole=whole)


@contextmanager
def _smaller(family: Family) -> Iterator[tuple[Source, bool]]:
    """The source, or one of a part of its files where reading them all would take long."""
    if family.bytes <= _BYTES:
        yield family.open(), True
        return
    names = _spread(family.files, _FILES)
    if family.kind not in _TEXTS:
        # Their sources look at files, and at parts of them, without reading all.
        if family.kind not in _SPREAD and len(family.files) > 1:
            name = family.files[len(family.files) // 2]
            yield family.open(join(family.place.root, name)), False
        else:
            yield family.open(), True
        return
    with tempfile.TemporaryDirectory(prefix="headrace-init-") as folder:
        for number, name in enumerate(names):
            _copy_pieces(family, name, Path(folder) / f"{number:02d}.txt", _BYTES // len(names))
        # What is converted on reading is UTF-8 in the copy.
        converted = {"encoding": "utf-8"} if family.found.options.get("encoding") == "utf-16" else {}
        yield family.open(f"{folder}/*.txt", **converted), False


def _copy_pieces(family: Family, name: str, target: Path, most: int) -> None:
    """The beginning of a text and pieces of the rest, cut at line ends."""
    file = text_file(family.place.root, name, family.found.options.get("encoding", "utf-8"))
    size = file.version()[0]
    count = max(most // _PIECE, 1) if file.seekable and size > most else 1
    with target.open("wb") as out:
        for number in range(count):
            start = number * size // count
            with file.open(start) as read:
                left = min(_PIECE, most) if count > 1 else most
                data = bytearray()
                while left and (piece := read(min(left, 1 << 20))):
                    data += piece
                    left -= len(piece)
            begin = data.find(b"\n") + 1 if start else 0
            out.write(memoryview(data)[begin : data.rfind(b"\n") + 1 or len(data)])


def _read(source: Source, *, whole: bool) -> Sample:
    partitions = list(source.partitions())
    known = [partition.records for partition in partitions]
    records = None if None in known else sum(count or 0 for count in known)
    singly = is_selective(source)
    most = _FILE_RECORDS if singly else _RECORDS
    size = sum(partition.bytes for partition in partitions)
    everything = size <= _BYTES and (records is None or records <= most)
    chosen = partitions if everything else _spread(partitions, _PARTITIONS)
    sample = Sample(columns=source.columns(), whole=whole and everything)
    chunks: dict[str, list[pa.Array]] = {name: [] for name in sample.columns}
    for partition in chosen:
        left = most - sample.records if everything else most // len(chosen)
        room = _BYTES if everything else _BYTES // len(chosen)
        for batch in _batches(source, partition, left):
            if left <= 0 or room <= 0:
                sample.whole = False
                break
            for fault in batch.faults[:3]:
                sample.faults.append(f"{source.origin(partition, fault.row)}: {fault.rule}, {fault.reason}")
            sample.unreadable += len(batch.faults)
            kept = batch.records.slice(0, left)
            sample.whole = sample.whole and kept.num_rows == batch.records.num_rows
            left, room = left - kept.num_rows, room - kept.nbytes
            sample.records += kept.num_rows
            for name, column in zip(kept.schema.names, kept.columns, strict=True):
                if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                    sample.looks.setdefault(name, []).extend(_look(cell) for cell in column)
                else:
                    # A copy: a slice would keep all of its batch, bytes and all.
                    chunks[name].append(pa.concat_arrays([column]))
    sample.values = {name: pa.chunked_array(_one_type(arrays)) for name, arrays in chunks.items() if arrays}
    return sample


def _batches(source: Source, partition: Partition, most: int) -> Iterator[SourceBatch]:
    if is_selective(source) and partition.records and partition.records > most:
        return iter(source.read_rows(partition, _spread(range(partition.records), max(most, 1))))
    return source.read(partition)


def _one_type(arrays: list[pa.Array]) -> list[pa.Array]:
    """A source may yield nulls where it knows no type yet."""
    types = [array.type for array in arrays if not pa.types.is_null(array.type)]
    return [array.cast(types[0]) if types and array.type != types[0] else array for array in arrays]


def _look(cell: pa.Scalar) -> Look | None:
    data = cell.as_buffer()
    if data is None:
        return None
    content = data.to_pybytes()
    kind = true_format(content)
    if kind is None:
        return Look(text=_is_text(content))
    try:
        return Look(read_header(content, kind))
    except ImageProblemError:
        return Look()


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return _CONTROL.search(content) is None


def _spread(items: Sequence[T], most: int) -> list[T]:
    """So many of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[0]]
    return [items[number * (len(items) - 1) // (most - 1)] for number in range(most)]
