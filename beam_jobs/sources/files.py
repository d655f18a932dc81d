"""Every file below a folder as one record: its path, its bytes, and what its path says."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np
import pyarrow as pa

from beam_jobs.sources._places.labels import PathLabels
from beam_jobs.sources._places.listing import File, list_files
from beam_jobs.sources._places.names import local_root, shown
from beam_jobs.sources._places.patterns import compile_patterns, pruned_folders
from beam_jobs.sources._places.reading import ahead, decoded, read_files, wanted
from beam_jobs.sources.base import Fault, Partition, SourceBatch
from schemas.errors import HeadraceError
from schemas.remote_errors import redacted
from schemas.sources import FilesSource, ImageFolderSource

_BATCH_BYTES = 8 << 20
_PARTITION_BYTES = 32 << 20
_LISTED_FILES = 4096  # matched with the patterns at a time


class Files:
    """Files below a folder that match the spec's patterns.

    Columns: `path` (posix, relative; undecodable bytes shown as \\xNN), `data` (the file's bytes; `text` where the spec
    asks for that), `size`, `folder` (name of the folder the file lies in directly, '' where that is the root),
    `name`, `stem` (name without extension), `suffix` (the extension, with its dot), and the groups of `pattern`.
    The key is the path's bytes, which are unique even where two undecodable names are shown alike.
    """

    def __init__(self, name: str, spec: FilesSource | ImageFolderSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._names = [*spec.columns, *spec.groups]
        self._labels = None if spec.pattern is None else PathLabels(spec.pattern, f"sources.{name}.pattern")

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields."""
        return list(self._names)

    def partitions(self) -> Iterator[Partition]:
        """Chunks of the sorted listing, cut where a hash of a path says so: an added file disturbs only its own."""
        for ordinal, chunk in enumerate(cut(self._files(), self.spec.partition_files)):
            listed = json.dumps(chunk).encode()
            identity = hashlib.blake2b(listed, digest_size=16).hexdigest()
            size = sum(max(file.size, 1) for file in chunk)
            payload = {"first": chunk[0].path, "last": chunk[-1].path, "files": _packed(listed)}
            yield Partition(self.name, ordinal, identity, payload, size, len(chunk))

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The files of one partition, in batches of at most 8 MiB or one file."""
        return self.read_rows(partition, range(len(_files_of(partition))))

    def read_rows(self, partition: Partition, rows: Sequence[int]) -> Iterator[SourceBatch]:
        """Some of the files of one partition, in batches of at most 8 MiB or one file."""
        return ahead(self._batch, self._chosen(_files_of(partition), rows), local_root(self.root) is None)

    def _chosen(self, files: list[File], rows: Sequence[int]) -> Iterator[dict[int, File]]:
        """The files of each batch, by row."""
        start = 0
        while start < len(rows):
            end, total = start, 0
            while end < len(rows) and (end == start or total + max(files[rows[end]].size, 0) <= _BATCH_BYTES):
                total += wanted(files[rows[end]], self.spec.max_file_bytes)
                end += 1
            yield {row: files[row] for row in rows[start:end]}
            start = end

    def identities(self, partition: Partition) -> list[bytes]:
        """A hash of each file's path, size and times."""
        return [_identity(file) for file in _files_of(partition)]

    def bounds(self, partition: Partition) -> tuple[str, str]:
        """The first and the last path."""
        return partition.payload["first"], partition.payload["last"]

    def origin(self, partition: Partition, row: int) -> str:
        """The file's path, relative to the folder."""
        return shown(_files_of(partition)[row].path)

    def folders(self, partitions: Iterable[Partition]) -> list[str]:
        """The sorted names of the folders that files lie in directly; '' for files at the root is left out."""
        paths = {file.path.rpartition("/")[0] for part in partitions for file in _files_of(part)}
        return sorted({shown(path.rpartition("/")[2]) for path in paths} - {""})

    def _files(self) -> Iterator[File]:
        included, excluded = compile_patterns(self.spec.include), compile_patterns(self.spec.exclude)
        found = list_files(self.root, pruned_folders(self.spec.exclude))
        first, kinds, some = None, Counter[str](), False
        while piece := list(islice(found, _LISTED_FILES)):
            files = [file for file in piece if included(file.path) and not excluded(file.path)]
            if self._labels is not None and self.spec.unmatched == "exclude":
                matched = self._labels.matches([shown(file.path) for file in files])
                files = [file for file, match in zip(files, matched, strict=True) if match]
            yield from files
            some = some or bool(files)
            if not some:
                first = first or piece[0].path
                kinds.update(os.path.splitext(file.path)[1] or "(no extension)" for file in piece)  # noqa: PTH122
        if not some:
            listed = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common(8))
            raise HeadraceError(
                "The folder holds no file."
                if first is None
                else "No file in the folder matches the patterns.",
                where=f"sources.{self.name}, {redacted(self.root)}",
                value=f"include {self.spec.include}, exclude {self.spec.exclude}"
                + (f", pattern {self.spec.pattern}" if self.spec.pattern else ""),
                hint=None
                if first is None
                else f"Found instead: {shown(listed)}; the first is {shown(first)!r}.",
            )

    def _batch(self, files: dict[int, File]) -> SourceBatch:
        unmatched = self._unmatched(files)
        wanted_files = {row: file for row, file in files.items() if row not in unmatched}
        data, kept, faults = read_files(
            self.root, wanted_files, self.spec.max_file_bytes, empty=self.spec.allows_empty
        )
        if self.spec.is_text:
            data, kept, wrong = decoded(data, kept)
            faults += wrong
        faults += [Fault(row, "no_match", reason) for row, reason in unmatched.items()]
        good = [files[row].path for row in kept]
        paths = [shown(path) for path in good]
        names = [path.rpartition("/")[2] for path in paths]
        split = [os.path.splitext(name) for name in names]  # noqa: PTH122
        found = {
            "path": pa.array(paths, pa.string()),
            self.spec.content: data,
            "size": pa.array([files[row].size for row in kept], pa.int64()),
            "folder": pa.array([_folder(path) for path in paths], pa.string()),
            "name": pa.array(names, pa.string()),
            "stem": pa.array([stem for stem, _ in split], pa.string()),
            "suffix": pa.array([suffix for _, suffix in split], pa.string()),
        }
        if self._labels is not None:
            found |= self._labels.columns(paths)
        keys = pa.array([path.encode("utf-8", "surrogateescape") for path in good], pa.binary())
        records = pa.RecordBatch.from_arrays([found[name] for name in self._names], names=self._names)
        rows = np.array(kept, dtype=np.int64)
        return SourceBatch(records, keys, rows, sorted(faults, key=lambda fault: fault.row))

    def _unmatched(self, files: dict[int, File]) -> dict[int, str]:
        """Rows of the files whose paths do not match `pattern`, with the reason."""
        if self._labels is None:
            return {}
        matched = self._labels.matches([shown(file.path) for file in files.values()])
        reason = f"the path does not match the pattern {self.spec.pattern!r}"
        return {row: reason for row, match in zip(files, matched, strict=True) if not match}


def cut(files: Iterable[File], average: int) -> Iterator[list[File]]:
    """Content-defined chunks of a sorted listing: about `average` files, at most 4 × that and about 32 MiB.

    A chunk begins where a path's hash says so. One that is too large is halved at its smallest hash, again and
    again: cuts then depend on nothing but the files near them, where cutting every n files would move them all.
    """
    chunk: list[File] = []
    marks: list[int] = []
    for file in files:
        mark = _mark(file.path)
        if chunk and mark % average == 0:
            yield from _halved(chunk, marks, average)
            chunk, marks = [], []
        chunk.append(file)
        marks.append(mark)
    yield from _halved(chunk, marks, average)


def _halved(files: list[File], marks: list[int], average: int) -> Iterator[list[File]]:
    stack = [(0, len(files))]
    while stack:
        low, high = stack.pop()
        size = sum(max(file.size, 0) for file in files[low:high])
        if high - low > 1 and (high - low > 4 * average or size > _PARTITION_BYTES):
            middle = min(range(low + 1, high), key=marks.__getitem__)
            stack += [(middle, high), (low, middle)]
        else:
            yield files[low:high]


def _packed(listed: bytes) -> str:
    """A listing as text, about 15 bytes a file: the driver holds those of all partitions, in several copies."""
    # b64, because b85 is written in Python and would take a third of the whole listing's time.
    return base64.b64encode(zlib.compress(listed, 3)).decode("ascii")


def _files_of(partition: Partition) -> list[File]:
    return _unpacked(partition.payload["files"])


@lru_cache(maxsize=64)  # a plan and its workers ask for them again, and `origin` for one file at a time
def _unpacked(listed: str) -> list[File]:
    return list(map(File._make, json.loads(zlib.decompress(base64.b64decode(listed)))))


def _identity(file: File) -> bytes:
    # A third of what JSON takes, for every file of every partition in which one has changed.
    text = f"{file.path}\0{file.size}\0{file.version}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _mark(path: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
    )


def _folder(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2]
