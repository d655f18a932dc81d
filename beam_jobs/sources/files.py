"""Every file below a folder as one record: its path, its bytes, and what its path says."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
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
_LISTED_FILES = 4096  # looked at together
_ZSTD = pa.Codec("zstd", compression_level=1)
_AS_BYTES = ("utf-8", "surrogateescape")
# Between the parts of a listing; no local path holds it, and one of a bucket, which may, another that none has.
_END, _END_WITHIN = "\0", "\udc00"
_JSON = "\1"


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
        for ordinal, chunk in enumerate(
            cut(self._files(), self.spec.partition_files, self.spec.partition_bytes)
        ):
            listing = Listing(*map(list, zip(*chunk, strict=True)))
            listed = listing.encode()
            identity = hashlib.blake2b(listed, digest_size=16).hexdigest()
            size = int(np.maximum(listing.sizes, 1).sum())
            payload = {"first": chunk[0].path, "last": chunk[-1].path, "files": _packed(listed)}
            yield Partition(self.name, ordinal, identity, payload, size, len(chunk))

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The files of one partition, in batches of at most 8 MiB or one file."""
        return self.read_rows(partition, range(len(_listing(partition))))

    def read_rows(self, partition: Partition, rows: Sequence[int]) -> Iterator[SourceBatch]:
        """Some of the files of one partition, in batches of at most 8 MiB or one file."""
        return ahead(self._batch, self._chosen(_listing(partition), rows), local_root(self.root) is None)

    def _chosen(self, listing: Listing, rows: Sequence[int]) -> Iterator[dict[int, File]]:
        """The files of each batch, by row."""
        batch, total = dict[int, File](), 0
        for row in rows:
            file = listing.file(row)
            if batch and total + max(file.size, 0) > _BATCH_BYTES:
                yield batch
                batch, total = {}, 0
            batch[row] = file
            total += wanted(file, self.spec.max_file_bytes)
        if batch:
            yield batch

    def identities(self, partition: Partition) -> Sequence[Hashable]:
        """Each file's path, size and version."""
        return _listing(partition).identities()

    def bounds(self, partition: Partition) -> tuple[str, str]:
        """The first and the last path."""
        return partition.payload["first"], partition.payload["last"]

    def origin(self, partition: Partition, row: int) -> str:
        """The file's path, relative to the folder."""
        return shown(_listing(partition).paths[row])

    def folders(self, partitions: Iterable[Partition]) -> list[str]:
        """The sorted names of the folders that files lie in directly; '' for files at the root is left out."""
        found = {path.rpartition("/")[0] for part in partitions for path in _listing(part).paths}
        return sorted({shown(folder.rpartition("/")[2]) for folder in found} - {""})

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
        keys = pa.array([path.encode(*_AS_BYTES) for path in good], pa.binary())
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


@dataclass(frozen=True)
class Listing:
    """The files of a partition, by the column: a third of what they would take one by one.

    Attributes:
      paths, sizes, versions: see `File`.
    """

    paths: list[str]
    sizes: list[int]
    versions: list[Any]

    def encode(self) -> bytes:
        """All of it, in half the time that JSON takes."""
        # As JSON what is no text: the versions of files in a bucket, the error of one that cannot be looked at.
        versions = [v if type(v) is str else f"{_JSON}{json.dumps(v)}" for v in self.versions]
        joined = _END.join([*self.paths, *map(str, self.sizes), *versions])
        if joined.count(_END) != 3 * len(self) - 1:
            paths = [path.replace(_END, _END_WITHIN) for path in self.paths]
            joined = _END.join([*paths, *map(str, self.sizes), *versions])
        return joined.encode("utf-8", "surrogatepass")

    @staticmethod
    def decode(encoded: bytes) -> Listing:
        """What `encode` gave."""
        parts = encoded.decode("utf-8", "surrogatepass").split(_END)
        files = len(parts) // 3
        paths, sizes, versions = parts[:files], parts[files : 2 * files], parts[2 * files :]
        if _END_WITHIN.encode("utf-8", "surrogatepass") in encoded:
            paths = [path.replace(_END_WITHIN, _END) for path in paths]
        return Listing(
            paths, list(map(int, sizes)), [json.loads(v[1:]) if v[:1] == _JSON else v for v in versions]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, row: int) -> File:
        """One of them."""
        return File(self.paths[row], self.sizes[row], self.versions[row])

    def identities(self) -> Sequence[Hashable]:
        """Each file's path, size and version."""
        return list(zip(self.paths, self.sizes, map(str, self.versions), strict=True))


def cut(files: Iterable[File], average: int, most: int) -> Iterator[list[File]]:
    """Content-defined chunks of a sorted listing: about `average` files, at most 4 × that and `most` bytes or one file.

    A chunk begins where a path's hash says so. One that is too large is halved at its smallest hash, again and
    again: cuts then depend on nothing but the files near them, where cutting every n files would move them all.
    """
    files, chunk = iter(files), list[File]()
    marks = np.zeros(0, np.uint64)
    while piece := list(islice(files, _LISTED_FILES)):
        first = len(chunk)
        chunk += piece
        marks = np.concatenate([marks, _marks(piece)])
        starts = (np.flatnonzero(marks[first:] % average == 0) + first).tolist()
        borders = [0, *(start for start in starts if start)]
        for low, high in pairwise(borders):
            yield from _halved(chunk[low:high], marks[low:high], average, most)
        chunk, marks = chunk[borders[-1] :], marks[borders[-1] :]
    if chunk:
        yield from _halved(chunk, marks, average, most)


def _halved(
    files: list[File], marks: npt.NDArray[np.uint64], average: int, most: int
) -> Iterator[list[File]]:
    sizes = np.fromiter((file.size for file in files), np.int64, len(files))
    ends = np.concatenate([[0], np.cumsum(np.maximum(sizes, 0))])
    stack = [(0, len(files))]
    while stack:
        low, high = stack.pop()
        if high - low > 1 and (high - low > 4 * average or ends[high] - ends[low] > most):
            middle = low + 1 + int(np.argmin(marks[low + 1 : high]))
            stack += [(middle, high), (low, middle)]
        else:
            yield files[low:high]


def _marks(files: list[File]) -> npt.NDArray[np.uint64]:
    """A hash of each file's path."""
    found = [hashlib.blake2b(file.path.encode(*_AS_BYTES), digest_size=8).digest() for file in files]
    return np.frombuffer(b"".join(found), ">u8").astype(np.uint64)


def _packed(listed: bytes) -> str:
    """A listing as text, about 20 bytes a file: the driver holds those of all partitions, in several copies."""
    # b64, because b85 is written in Python and would take a third of the whole listing's time.
    return f"{len(listed)} {base64.b64encode(_ZSTD.compress(listed, asbytes=True)).decode('ascii')}"


def _listing(partition: Partition) -> Listing:
    return _unpacked(partition.payload["files"])


@lru_cache(maxsize=64)  # a plan and its workers ask for them again, and `origin` for one file at a time
def _unpacked(listed: str) -> Listing:
    size, _, packed = listed.partition(" ")
    return Listing.decode(_ZSTD.decompress(base64.b64decode(packed), int(size), asbytes=True))


def _folder(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2]
