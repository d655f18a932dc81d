"""What sources of columnar files have in common: partitions of a file's own chunks, and one shape for all files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa

from beam_jobs.sources._columnar.data_files import DataFile, data_files
from beam_jobs.sources._columnar.plain import Leaf, leaves_of
from beam_jobs.sources._columnar.shape import Shape, is_wanted, shape_of, unpack
from beam_jobs.sources._columnar.sizes import small_batches
from beam_jobs.sources._places.file import changed
from beam_jobs.sources.base import Partition, SourceBatch
from schemas.errors import HeadraceError
from schemas.hashing import fingerprint

_MAX_SLICES = 64  # of one chunk: reading one passes over those before it
_THREADS = 16  # that look at files, which is mostly waiting where they are remote


class Chunk(NamedTuple):
    """What a file of the kind is made of: a row group, a record batch, a stripe.

    Attributes:
      rows: how many it holds.
      bytes: about how many its columns take in memory.
      digest: changes whenever its rows may.
      offset: byte of the file at which it begins, for kinds that need to know.
    """

    rows: int
    bytes: int
    digest: str
    offset: int = 0


class Layout(NamedTuple):
    """What is in a file: the leaves that are asked for, by name, and its chunks."""

    leaves: dict[str, Leaf]
    chunks: list[Chunk]


class Part(NamedTuple):
    """Rows of a file: whole chunks, or some rows of one.

    Attributes:
      start, end: the numbers of the chunks.
      skip: rows of them that come before.
      rows: how many it holds.
      first: number of its first row in the file, from 1.
      bytes: about how many its columns take in memory.
      digest: changes whenever its rows may.
      offset: byte of the file at which they begin, for kinds that need to know.
    """

    start: int
    end: int
    skip: int
    rows: int
    first: int
    bytes: int
    digest: str
    offset: int


class Columnar(ABC):
    """Rows of files that hold columns. A kind says what is in a file, and reads its chunks.

    A row's number counts from 1 in its file. The key is the text of the key column; several are joined by `|`, with
    `|` and `\\` within them escaped by `\\`; without a key column it is `file:row`. All files together have the
    columns of each, null where a file has none of that name. What columns become is said in `_plain`.
    """

    suffixes: ClassVar[Sequence[str]]
    chunk_name: ClassVar[str]

    def __init__(self, name: str, spec: Any, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._where = f"sources.{name}"

    @abstractmethod
    def layout(self, file: DataFile, version: Any) -> Layout:
        """What is in a file of that version; of none, only its leaves."""

    @abstractmethod
    def chunks(self, file: DataFile, part: Part) -> Iterator[pa.RecordBatch]:
        """The rows of a part, in batches of bounded memory."""

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields."""
        return self._shape(self._layouts(whole=False)).columns

    def partitions(self) -> list[Partition]:
        """Chunks of a file, several up to `partition_bytes` or a part of a large one.

        Their identity is a hash of the bytes that are read, so that neither copying a file nor adding another of the
        same columns changes any. A remote file is not read for it where its store tells versions apart.
        """
        layouts = self._layouts(whole=True)
        shape = self._shape(layouts)
        partitions: list[Partition] = []
        for file, version, layout in layouts:
            for part in cut_chunks(layout.chunks, self.spec.partition_bytes):
                payload = {"file": file.name, "version": version, "part": list(part), "shape": shape.pack()}
                identity = [file.name, part.first, part.rows, part.digest, shape.fingerprint]
                ordinal = len(partitions)
                partitions.append(
                    Partition(self.name, ordinal, identity, payload, max(part.bytes, 1), part.rows)
                )
        if not partitions:
            raise HeadraceError("The source holds no row.", where=self._where, value=self.root)
        return partitions

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The rows of one partition, in batches of about 8 MiB."""
        payload = partition.payload
        part, shape = Part(*payload["part"]), unpack(payload["shape"], self.spec)
        file = DataFile(self.root, payload["file"])
        version = file.version()
        if version != payload["version"] and part not in cut_chunks(
            self.layout(file, version).chunks, self.spec.partition_bytes
        ):
            raise changed(file.shown)
        first = part.first
        with self.reading(file, part):
            for records in self.chunks(file, part):
                for few in small_batches(records):
                    yield shape.batch(few, first, file.name)
                    first += few.num_rows
        if file.version() != version:
            raise changed(file.shown)
        if first - part.first != part.rows:
            found = f"it has {first - part.first} rows in place of the {part.rows} that the file tells of"
            raise self._damaged(file, part, found)

    def origin(self, partition: Partition, row: int) -> str:
        """The file and the number of the row, from 1."""
        return f"{DataFile(self.root, partition.payload['file']).shown}, row {row}"

    def wanted(self, schema: pa.Schema, file: DataFile) -> dict[str, Leaf]:
        """The leaves of a file that are asked for."""
        leaves = leaves_of(schema, f"{self._where}, {file.shown}")
        return {name: leaf for name, leaf in leaves.items() if is_wanted(name, self.spec)}

    @contextmanager
    def reading(self, file: DataFile, part: Part | None = None) -> Iterator[None]:
        """Gives errors of what reads files the name of the file, and of the part."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError) as error:
            raise self._damaged(file, part, str(error) or type(error).__name__) from error

    def _damaged(self, file: DataFile, part: Part | None, reason: str) -> HeadraceError:
        where = f"{self._where}, {file.shown}"
        if part is not None:
            last = f" to {part.end - 1}" if part.end - part.start > 1 else ""
            rows = f"rows {part.first} to {part.first + part.rows - 1}"
            where += f", {self.chunk_name} {part.start}{last} ({rows})"
        return HeadraceError(
            f"{'Rows' if part else 'A file'} cannot be read as {self.spec.kind}.",
            where=where,
            value=reason,
            hint="It is damaged, cut short or of another kind: bring the file anew, or leave it out with `path`.",
        )

    def _layouts(self, *, whole: bool) -> list[tuple[DataFile, Any, Layout]]:
        def look(name: str) -> tuple[DataFile, Any, Layout]:
            file = DataFile(self.root, name)
            version = file.version() if whole else None
            return file, version, self.layout(file, version)

        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(look, data_files(self.root, self.suffixes, self._where)))

    def _shape(self, layouts: Iterable[tuple[DataFile, Any, Layout]]) -> Shape:
        return shape_of([(file.name, layout.leaves) for file, _, layout in layouts], self.spec, self._where)


def rows_between(batches: Iterable[pa.RecordBatch], skip: int, rows: int) -> Iterator[pa.RecordBatch]:
    """So many rows of the batches, after those that are skipped."""
    for records in batches:
        own = records.slice(skip, rows)
        skip = max(0, skip - records.num_rows)
        rows -= own.num_rows
        if own.num_rows:
            yield own
        if not rows:
            return


def cut_chunks(chunks: Sequence[Chunk], size: int) -> list[Part]:
    """Parts of about `size` bytes: neighbouring chunks while they fit, and parts of one that does not."""
    parts: list[Part] = []
    start, first, rows, held = 0, 1, 0, 0

    def close(end: int) -> None:
        nonlocal first, rows, held, start
        if rows:
            digest = fingerprint([chunk.digest for chunk in chunks[start:end]])
            parts.append(Part(start, end, 0, rows, first, held, digest, chunks[start].offset))
        start, first, rows, held = end, first + rows, 0, 0

    for number, chunk in enumerate(chunks):
        if held + chunk.bytes > size:
            close(number)
        if chunk.bytes > size and chunk.rows > 1:
            slices = min(-(-chunk.bytes // size), _MAX_SLICES, chunk.rows)
            for piece in range(slices):
                low, high = (chunk.rows * edge // slices for edge in (piece, piece + 1))
                share = chunk.bytes * (high - low) // chunk.rows
                at = (first + low, share, chunk.digest, chunk.offset)
                parts.append(Part(number, number + 1, low, high - low, *at))
            start, first = number + 1, first + chunk.rows
        else:
            rows, held = rows + chunk.rows, held + chunk.bytes
    close(len(chunks))
    return parts
