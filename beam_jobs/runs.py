"""Sorted runs: what a partition leaves behind in the work directory.

A run is two files, named by its fingerprint. The records are written first, and each file appears whole or not at
all, so a run that has a `.run` is finished:

<fingerprint>.records   framed TFRecords, sorted by (split, key hash, row)
<fingerprint>.run
    index       a row of `INDEX_DTYPE` for each record, in the same order
    indexed     a row of what the shards' indexes hold of their features, in the same order
    fact:…      a value of what is noted of them beside, in the same order
    kept        a bit for each record: whether an earlier version's shards hold it rather than the records' file
    …           small sections of other stages: dead letters, matched rows of tables, outcomes
    footer      JSON: the sections' places and CRCs, those of the records, the summary
    trailer     length and CRC of the footer, magic

Once a version is committed its shards hold all records, and only the `.run` files stay.
Runs are not flushed to the disk one by one: the CRCs tell after a power cut which of them survived.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.blocks import offsets_of
from beam_jobs.pieces import are_large, bounds, copied, neighbours_together
from beam_jobs.sources.base import Partition
from beam_jobs.store import Sink
from beam_jobs.store_path import StorePath
from schemas.hashing import KEY_HASH_DTYPE

# hash: 128-bit key hash; length: bytes of the frame; row: the record's number in its source.
INDEX_DTYPE = np.dtype([("hash", KEY_HASH_DTYPE), ("length", "<u8"), ("row", "<i8")])
_TRAILER = struct.Struct("<II8s")
_MAGIC = b"HRRUN002"
RUN_SUFFIX = ".run"
RECORDS_SUFFIX = ".records"
_FACT = "fact:"
_MAX_FOOTER_BYTES = 1 << 28
_HELD_BYTES = 64 << 10  # a smaller run is read, and held, as a whole
_END_BYTES = 4 << 10  # most footers are smaller


@dataclass
class RunContent:
    """What a partition came to, before it is sorted.

    Attributes:
      records: chunks of framed TFRecords, large_binary.
      hashes: uint8 (n, 16) for each chunk.
      splits: int64 (n,) for each chunk.
      rows: int64 (n,) for each chunk.
      indexed: rows (n,) for each chunk, of one type; see `beam_jobs.indexed`.
      facts: the same; see `beam_jobs.facts`.
      kept: records that an earlier version's shards hold.
      sections: named bytes of other stages.
      summary: JSON-able; see `RunSummary`.
    """

    records: list[pa.LargeBinaryArray] = field(default_factory=list)
    hashes: list[npt.NDArray[np.void]] = field(default_factory=list)
    splits: list[npt.NDArray[np.int64]] = field(default_factory=list)
    rows: list[npt.NDArray[np.int64]] = field(default_factory=list)
    indexed: list[npt.NDArray[np.void]] = field(default_factory=list)
    facts: list[npt.NDArray[np.void]] = field(default_factory=list)
    kept: KeptRecords | None = None
    sections: dict[str, bytes] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptRecords:
    """Records that the shards of an earlier version hold.

    Attributes:
      version: that version.
      index: `INDEX_DTYPE` (n,).
      splits: int64 (n,).
      indexed: rows (n,), or none where indexes hold no feature.
      facts: rows (n,), or none where nothing is noted.
    """

    version: str
    index: npt.NDArray[np.void]
    splits: npt.NDArray[np.int64]
    indexed: npt.NDArray[np.void] | None
    facts: npt.NDArray[np.void] | None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      path: its `.run`.
      sections: place, length and CRC of each.
      records: bytes and CRC of its own records.
      keeps_from: the version whose shards hold its other records, if there are any.
      summary: see `RunSummary`.
      held: all of its file, where that is held.
    """

    path: StorePath
    sections: Mapping[str, tuple[int, int, int]]
    records: tuple[int, int]
    keeps_from: str | None
    summary: dict[str, Any]
    held: bytes = b""

    @property
    def splits(self) -> list[tuple[int, int]]:
        """Records and bytes of each split."""
        return [(records, size) for records, size in self.summary["splits"]]

    def released(self) -> Run:
        """The same, which holds nothing of its file."""
        return replace(self, held=b"")


def write_run(path: StorePath, content: RunContent, splits: int) -> Run:
    """Sort `content` and write it to `path`; adds records and bytes of each split to the summary."""
    index, order, split_of = _sort(content)
    lengths = index["length"]
    own = order < sum(map(len, content.records))
    content.summary["splits"] = [
        [int((split_of == split).sum()), int(lengths[split_of == split].sum())] for split in range(splits)
    ]
    records = (int(lengths[own].sum()), 0)
    if records[0]:
        with records_path(path).writing(durable=False) as file:
            records = (records[0], _write_records(file, content.records, order[own]))
    sections: dict[str, tuple[int, int, int]] = {}
    keeps_from = content.kept.version if content.kept is not None and not bool(own.all()) else None
    kept = content.kept
    facts = _in_order(content.facts, None if kept is None else kept.facts, order)
    parts = {
        "index": index.tobytes(),
        "indexed": _in_order(content.indexed, None if kept is None else kept.indexed, order).tobytes(),
        # Each by itself, so that who wants one need not read the others.
        **{_FACT + name: facts[name].tobytes() for name in facts.dtype.names or ()},
        **content.sections,
    }
    if keeps_from is not None:
        parts["kept"] = np.packbits(~own).tobytes()
    position = 0
    for name, data in parts.items():
        sections[name] = (position, len(data), google_crc32c.value(data))
        position += len(data)
    footer = json.dumps(
        {"sections": sections, "records": records, "keeps_from": keeps_from, "summary": content.summary}
    ).encode()
    end = footer + _TRAILER.pack(len(footer), google_crc32c.value(footer), _MAGIC)
    with path.writing(durable=False) as file:
        file.writev([np.frombuffer(data, np.uint8) for data in (*parts.values(), end)])
    return Run(path, sections, records, keeps_from, content.summary)


def records_path(path: StorePath) -> StorePath:
    """The file of a run's own records, if it has any."""
    return path.with_suffix(RECORDS_SUFFIX)


def _write_records(file: Sink, chunks: list[pa.LargeBinaryArray], order: npt.NDArray[np.int64]) -> int:
    """Writes the records of all chunks in `order`; gives the CRC32C of what was written."""
    crc = google_crc32c.Checksum()
    for parts in in_order(chunks, order):
        for part in parts:
            crc.update(part)
        file.writev(parts)
    return _value(crc)


def in_order(
    chunks: list[pa.LargeBinaryArray], order: npt.NDArray[np.int64]
) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """The records of all chunks, taken together, in `order`: lists of parts that are to lie back to back.

    Small ones are copied together; `chunks` is emptied then, so that their memory is not held twice.
    """
    if are_large(sum(chunk.nbytes for chunk in chunks), len(order)):
        # Large records go from where they are into the file; a call for each costs less than copying them.
        yield from _gathered(chunks, order)
    else:
        values = _joined(chunks)
        lengths = np.diff(offsets_of(values))[order]
        for start, stop in pairwise(bounds(lengths)):
            size = int(lengths[start:stop].sum())
            yield [copied(values, order[start:stop], lengths[start:stop])[:size]]


def _gathered(
    chunks: list[pa.LargeBinaryArray], order: npt.NDArray[np.int64]
) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """The records of all chunks in `order`, as views of them, a few MiB at a time."""
    buffers = [np.frombuffer(chunk.buffers()[2], dtype=np.uint8) for chunk in chunks]
    offsets = [offsets_of(chunk) for chunk in chunks]
    owners = np.repeat(np.arange(len(chunks)), [len(chunk) for chunk in chunks])[order]
    starts = np.concatenate([part[:-1] for part in offsets])[order]
    ends = np.concatenate([part[1:] for part in offsets])[order]
    for start, stop in pairwise(bounds(ends - starts)):
        yield neighbours_together(buffers, owners[start:stop], starts[start:stop], ends[start:stop])


def _joined(chunks: list[pa.LargeBinaryArray]) -> pa.LargeBinaryArray:
    """All chunks as one array; the list is emptied, so that their memory is not held twice."""
    if not chunks:
        return pa.array([], pa.large_binary())
    values = pa.concat_arrays(chunks) if len(chunks) > 1 else chunks[0]
    chunks.clear()
    return values


def partition_of(run: Run) -> Partition:
    """The partition that a run was built of."""
    return Partition(**json.loads(read_section(run, "partition")))


def open_run(path: StorePath, *, check: bool = False) -> Run | None:
    """The run in `path`, or None where there is none that is whole. It holds its file where that is small.

    `check` compares every section with its CRC, for runs that an earlier process left behind: on this machine they may
    not have outlived a power cut.
    """
    check = check and not path.store.durable
    size = path.size()
    if size is None or size < _TRAILER.size:
        return None
    start = 0 if size <= _HELD_BYTES else max(0, size - _END_BYTES)
    end = path.read_range(start, size - start)
    length, crc, magic = _TRAILER.unpack(end[-_TRAILER.size :])
    if magic != _MAGIC or length > min(_MAX_FOOTER_BYTES, size - _TRAILER.size):
        return None
    begin = size - _TRAILER.size - length
    footer = end[begin - start : -_TRAILER.size] if begin >= start else path.read_range(begin, length)
    if google_crc32c.value(footer) != crc:
        return None
    data = json.loads(footer)
    sections = {name: (start, count, crc) for name, (start, count, crc) in data["sections"].items()}
    held = b"" if start else end
    run = Run(path, sections, tuple(data["records"]), data["keeps_from"], data["summary"], held)
    if check and not all(
        first + count <= size and _is_intact(run, first, count, crc)
        for first, count, crc in sections.values()
    ):
        return None
    return run


def has_records(run: Run, *, check: bool) -> bool:
    """Whether the file of a run's own records is there and, if that is to be checked, as it was written."""
    length, crc = run.records
    if not length:
        return True
    own = records_path(run.path)
    check = check and not own.store.durable
    return own.size() == length and (not check or _intact(own, 0, length, crc))


def read_section(run: Run, name: str) -> bytes:
    """The bytes of a section, empty where the run has none of that name."""
    if name not in run.sections:
        return b""
    start, length, _ = run.sections[name]
    return _read(run, start, length)


def read_index(run: Run, start: int = 0, stop: int | None = None) -> npt.NDArray[np.void]:
    """Rows `start` to `stop` of the run's index, `INDEX_DTYPE`."""
    stop = run.sections["index"][1] // INDEX_DTYPE.itemsize if stop is None else stop
    return _read_rows(run, "index", INDEX_DTYPE, start, stop)


def read_indexed(run: Run, row: np.dtype[np.void], start: int, stop: int) -> npt.NDArray[np.void]:
    """Rows `start` to `stop` of what the shards' indexes hold of the records, of type `row`."""
    return _read_rows(run, "indexed", row, start, stop)


def read_facts(run: Run, row: np.dtype[np.void], start: int, stop: int) -> npt.NDArray[np.void]:
    """Rows `start` to `stop` of what is noted of the records beside them: the facts that `row` has fields for."""
    rows = np.zeros(stop - start, row)
    for name in (row.names or ()) if len(rows) else ():
        rows[name] = _read_rows(run, _FACT + name, row[name], start, stop)
    return rows


def _read_rows(run: Run, section: str, row: np.dtype[np.void], start: int, stop: int) -> npt.NDArray[np.void]:
    at = run.sections[section][0] + start * row.itemsize
    return np.frombuffer(_read(run, at, (stop - start) * row.itemsize), dtype=row)


def _read(run: Run, start: int, length: int) -> bytes:
    return run.held[start : start + length] if run.held else run.path.read_range(start, length)


def read_kept(run: Run, start: int, stop: int) -> npt.NDArray[np.bool_]:
    """Which of the records `start` to `stop` the shards of `keeps_from` hold, bool (n,)."""
    if run.keeps_from is None:
        return np.zeros(stop - start, np.bool_)
    bits = np.frombuffer(read_section(run, "kept"), np.uint8)
    return np.unpackbits(bits, count=stop)[start:].astype(np.bool_)


def _sort(content: RunContent) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The index in sorted order, the order itself, and the split of each sorted record."""
    kept = [] if content.kept is None else [content.kept.index]
    kept_splits = [] if content.kept is None else [content.kept.splits]
    if not content.records and not kept:
        empty = np.zeros(0, dtype=np.int64)
        return np.zeros(0, dtype=INDEX_DTYPE), empty, empty
    hashes = np.concatenate([*content.hashes, *(part["hash"] for part in kept)], dtype=KEY_HASH_DTYPE)
    splits = np.concatenate([*content.splits, *kept_splits])
    rows = np.concatenate([*content.rows, *(part["row"] for part in kept)])
    lengths = np.concatenate(
        [*(np.diff(offsets_of(chunk)) for chunk in content.records), *(part["length"] for part in kept)]
    )
    order = hash_order(hashes, rows)
    if bool((splits != splits[:1]).any()):
        order = order[np.argsort(splits[order].astype(np.uint16), kind="stable")]
    index = np.zeros(len(order), dtype=INDEX_DTYPE)
    index["hash"], index["length"], index["row"] = hashes[order], lengths[order], rows[order]
    return index, order, splits[order]


def hash_order(hashes: npt.NDArray[np.void], *then: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The order of key hashes, and of equal ones by each of `then`: int64 (n,)."""
    # Half of a hash is enough unless a key repeats, and sorting by one number takes a tenth of the time.
    high = hashes["hi"].astype(np.uint64)
    order = np.argsort(high)
    ordered = high[order]
    if bool((ordered[1:] == ordered[:-1]).any()):
        return np.lexsort((*reversed(then), hashes["lo"], hashes["hi"]))
    return order


def _in_order(
    chunks: list[npt.NDArray[np.void]], kept: npt.NDArray[np.void] | None, order: npt.NDArray[np.int64]
) -> npt.NDArray[np.void]:
    parts = [*chunks, *([] if kept is None else [kept])]
    if not parts:
        return np.zeros(0, np.dtype([]))
    return np.concatenate(parts, dtype=parts[0].dtype)[order]


def _is_intact(run: Run, start: int, length: int, crc: int) -> bool:
    if run.held:
        return google_crc32c.value(_read(run, start, length)) == crc
    return _intact(run.path, start, length, crc)


def _intact(path: StorePath, start: int, length: int, crc: int) -> bool:
    checksum = google_crc32c.Checksum()
    for piece in path.pieces(start, length):
        checksum.update(piece)
    return _value(checksum) == crc


def _value(checksum: google_crc32c.Checksum) -> int:
    return int.from_bytes(checksum.digest(), "big")
