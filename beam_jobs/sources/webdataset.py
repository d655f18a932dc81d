"""Samples of WebDataset's tar shards: members with the same base name are one record, extensions its columns."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedIOBase, BufferedReader
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from beam_jobs.sources._places.file import StoredFile, changed
from beam_jobs.sources._places.locate import find_files
from beam_jobs.sources._places.names import shown
from beam_jobs.sources._sets.tar import Archive, Member, members
from beam_jobs.sources.base import Fault, Partition, SourceBatch
from schemas.errors import HeadraceError
from schemas.remote_errors import redacted
from schemas.sources import FieldType, WebDatasetSource

_BATCH_BYTES = 8 << 20
_FIRST_SAMPLES = 100  # say what the fields are
_MAX_MEMBERS = 1000  # of a sample
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile)
# As WebDataset decodes them; all else is bytes. Its pickles are bytes too.
_TYPES: dict[str, FieldType] = {
    **dict.fromkeys(("cls", "cls2", "class", "count", "index", "inx", "id"), "int64"),
    **dict.fromkeys(("txt", "text", "transcript"), "text"),
    **dict.fromkeys(("json", "jsn"), "json"),
}
_ARROW = {
    "bytes": pa.large_binary(),
    "text": pa.large_string(),
    "json": pa.large_string(),
    "int64": pa.int64(),
}


@dataclass
class _Sample:
    """Members that follow each other and have the same base name."""

    key: str
    offset: int
    size: int = 0
    members: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None

    def spoil(self, rule: str, member: Member, reason: str) -> None:
        """The first problem is the one that is told."""
        name = f"member {shown(member.name)!r}" if member.name else "the archive"
        self.problem = self.problem or (rule, f"{name} at byte {member.offset}: {reason}")
        self.values.clear()


class WebDataset:
    """Tar shards, in the order of their names.

    The key is the base name: a member's name up to the first dot after the last slash. What follows it, in lower case,
    names the column. Hidden files (`.name`) and WebDataset's own (`__name__`) are left out. A record's number is the
    byte at which its first header begins: of the unpacked tar where it is compressed. Tars that are compressed or
    remote are one partition each; others are cut where samples begin.
    """

    def __init__(self, name: str, spec: WebDatasetSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._where = f"sources.{name}"

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields."""
        return ["__key__", "__url__", *self._fields]

    def partitions(self) -> list[Partition]:
        """Ranges of samples that begin at the first one at or after each multiple of `partition_bytes`."""
        partitions: list[Partition] = []
        fields = self._fields
        for name in self._names():
            file = StoredFile(self.root, name)
            version = file.version()
            for start, end, records in self._ranges(file, version[0]):
                payload = {"file": name, "version": version, "range": [start, end], "fields": fields}
                identity = [name, version, start, end, fields]
                size = max((version[0] if end is None else end) - start, 1)
                partitions.append(Partition(self.name, len(partitions), identity, payload, size, records))
            if file.version() != version:
                raise changed(file.shown)
        if not any(partition.records is None or partition.records for partition in partitions):
            raise HeadraceError("The source holds no sample.", where=self._where, value=redacted(self.root))
        return partitions

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The samples of one partition, in batches of about 8 MiB."""
        payload = partition.payload
        file, (start, end) = StoredFile(self.root, payload["file"]), payload["range"]
        if file.version() != payload["version"]:
            raise changed(file.shown)
        samples: list[_Sample] = []
        total = 0
        for sample in self._samples(file, start, end, payload["version"][0], payload["fields"]):
            if samples and total + sample.size > _BATCH_BYTES:
                yield _batch(samples, payload["fields"], file.shown)
                samples, total = [], 0
            samples.append(sample)
            total += sample.size
        if samples:
            yield _batch(samples, payload["fields"], file.shown)
        if file.version() != payload["version"]:
            raise changed(file.shown)

    def origin(self, partition: Partition, row: int) -> str:
        """The shard, and the byte at which the sample begins."""
        name = partition.payload["file"]
        return f"{shown(name)}, byte {row}{' unpacked' if _is_packed(name) else ''}"

    def _names(self) -> list[str]:
        return find_files(self.root, self._where, ".tar")

    @cached_property
    def _fields(self) -> dict[str, FieldType]:
        """The columns of extensions, with their types; inferred from the first shard that has samples."""
        if self.spec.fields is not None:
            return {name.lower(): kind for name, kind in self.spec.fields.items()}
        names: set[str] = set()
        for name in self._names():
            file = StoredFile(self.root, name)
            samples = self._samples(file, 0, None, file.version()[0], None)
            for _, sample in zip(range(_FIRST_SAMPLES), samples, strict=False):
                names |= sample.values.keys()
            if names:
                return {name: _TYPES.get(name, "bytes") for name in sorted(names)}
        raise HeadraceError(
            "The source holds no file that belongs to a sample.",
            where=self._where,
            value=redacted(self.root),
            hint="Samples are members such as 0001.jpg and 0001.cls.",
        )

    def _ranges(self, file: StoredFile, size: int) -> Iterator[tuple[int, int | None, int | None]]:
        """Start, end and number of samples of each range."""
        if file.is_remote or _is_packed(file.name):
            yield 0, None, None
            return
        step, begin, count = self.spec.partition_bytes, 0, 0
        for sample in self._samples(file, 0, size, size, {}):
            if count and sample.offset >= (begin // step + 1) * step:
                yield begin, sample.offset, count
                begin, count = sample.offset, 0
            count += 1
        if count:
            yield begin, size, count

    def _samples(
        self, file: StoredFile, start: int, end: int | None, size: int, fields: dict[str, FieldType] | None
    ) -> Iterator[_Sample]:
        """The samples between two bytes; of other extensions than `fields` only the names, of None all names."""
        packed = _is_packed(file.name)
        if end is None and not packed:
            end = size
        sample: _Sample | None = None
        strict = self.spec.fields is None and bool(fields)
        with _opened(file, start, packed=packed) as archive:
            for member, content in members(archive, start, end):
                key, extension = _split(member.name)
                if member.problem is None and _is_hidden(member.name):
                    continue
                key = key or member.name  # "" where the rest of the archive cannot be read
                if sample is None or key != sample.key or not key:
                    if sample is not None:
                        if not member.name and not sample.values.keys() >= (fields or {}).keys():
                            sample.spoil(*_incomplete(member))
                        yield sample
                    sample = _Sample(key, member.offset)
                _add(sample, member, extension, self.spec.max_sample_bytes)
                if sample.problem is None and extension in sample.values:
                    sample.spoil("duplicate_member", member, f"the sample has .{extension} already")
                elif sample.problem is None and fields is None:
                    sample.values[extension] = None
                elif sample.problem is None and fields and extension in fields:
                    sample.values[extension] = _read(sample, member, content, fields[extension])
                elif sample.problem is None and strict:
                    known = ", ".join(fields or ())
                    reason = f"the first samples have no .{extension}, only {known}; name it in `fields:`"
                    sample.spoil("unexpected_field", member, reason)
            if sample is not None:
                yield sample


def _incomplete(member: Member) -> tuple[str, Member, str]:
    rule, reason = member.problem or ("", "")
    return rule, member, f"{reason}: it may have been part of the sample"


def _add(sample: _Sample, member: Member, extension: str, limit: int) -> None:
    sample.members += 1
    sample.size += member.size
    if member.problem is not None:
        sample.spoil(member.problem[0], member, member.problem[1])
    elif not extension:
        sample.spoil("no_extension", member, "its name has no extension, which would name a column")
    elif sample.size > limit:
        reason = f"with it the sample holds {sample.size} bytes; max_sample_bytes allows {limit}"
        sample.spoil("too_large", member, reason)
    elif sample.members > _MAX_MEMBERS:
        sample.spoil("too_many_members", member, f"a sample has at most {_MAX_MEMBERS}")


def _read(sample: _Sample, member: Member, content: Callable[[], bytes | None], kind: FieldType) -> Any:
    data = content()
    if data is None:
        sample.spoil("truncated_tar", member, f"the archive ends in its {member.size} bytes")
        return None
    if kind == "bytes":
        return data
    try:
        text = data.decode()
        if kind == "int64":
            number = int(text) if len(text) < 100 and "_" not in text else 1 << 63
            if not -(1 << 63) <= number < 1 << 63:
                raise ValueError("it has no 64 bits")
            return number
        if kind == "json":
            json.loads(text)
        return text
    except UnicodeDecodeError as error:
        sample.spoil(
            "invalid_utf8", member, f"byte {data[error.start]:#04x} at offset {error.start} is not UTF-8"
        )
    except (ValueError, RecursionError) as error:
        sample.spoil("bad_type", member, f"{shown(repr(data[:40]))} is no {kind}: {error}")
    return None


def _batch(samples: list[_Sample], fields: dict[str, FieldType], shard: str) -> SourceBatch:
    good = [sample for sample in samples if sample.problem is None]
    columns = [
        pa.array([shown(sample.key) for sample in good], pa.string()),
        pa.array([shard] * len(good), pa.string()),
        *(
            pa.array([sample.values.get(name) for sample in good], _ARROW[kind])
            for name, kind in fields.items()
        ),
    ]
    keys = pa.array([sample.key.encode("utf-8", "surrogateescape") for sample in good], pa.binary())
    records = pa.RecordBatch.from_arrays(columns, names=["__key__", "__url__", *fields])
    faults = [Fault(sample.offset, *sample.problem) for sample in samples if sample.problem is not None]
    return SourceBatch(records, keys, np.array([sample.offset for sample in good], np.int64), faults)


def _split(name: str) -> tuple[str, str]:
    """Key and extension by WebDataset's rule; no key where it has none."""
    folder, slash, last = name.rpartition("/")
    base, _, extension = last.partition(".")
    return (folder + slash + base if base else ""), extension.lower()


def _is_hidden(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") or (name.startswith("__") and name.endswith("__"))


def _is_packed(name: str) -> bool:
    return name.lower().endswith((".gz", ".tgz"))


class _Seeking:
    broken = False

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.read = file.read

    def skip(self, size: int) -> bool:
        if size:
            self._file.seek(size, 1)
        return True


class _Unpacked:
    def __init__(self, file: BinaryIO) -> None:
        self._unpacked = gzip.GzipFile(fileobj=file)
        self.broken = False

    def read(self, size: int) -> bytes:
        try:
            return b"" if self.broken else self._unpacked.read(size)
        except _DAMAGED:
            self.broken = True
            return b""

    def skip(self, size: int) -> bool:
        while size > 0 and (piece := self.read(min(size, 1 << 20))):
            size -= len(piece)
        return not size


@contextmanager
def _opened(file: StoredFile, start: int, *, packed: bool) -> Iterator[Archive]:
    try:
        with file.raw() as raw:
            if packed:
                yield _Unpacked(raw)
                return
            raw.seek(start)
            yield _Seeking(raw if file.is_remote else BufferedReader(raw, 1 << 16))
    except (OSError, *_DAMAGED) as error:
        raise HeadraceError("A file cannot be read.", where=file.shown, value=str(error)) from error
