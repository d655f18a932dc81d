"""What the tests of columnar files share: a suite for every kind, which says how a table is written."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pytest

from beam_jobs.sources import Source, open_source
from schemas.errors import HeadraceError
from schemas.spec import JobSpec

from .conformance import SourceSuite, read_all


def open_columnar(kind: str, path: Path | str, **options: Any) -> Source:
    """A source of the kind, as a job opens it."""
    job = {
        "name": "job",
        "version": "1.0.0",
        "sources": {"rows": {"kind": kind, "path": "${data}", **options}},
        "features": {"x": {"type": "text"}},
    }
    return open_source("rows", JobSpec.model_validate(job).sources["rows"], str(path))


def rows_of(first: int, count: int) -> pa.Table:
    """`count` good rows, from number `first` on."""
    numbers = range(first, first + count)
    return pa.table(
        {
            "id": pa.array([f"r{i:05d}" for i in numbers], pa.string()),
            "text": pa.array([f"text {i} \N{LATIN SMALL LETTER E WITH ACUTE}" for i in numbers], pa.string()),
            "number": pa.array(list(numbers), pa.int32()),
            "words": pa.array([[i, i + 1] for i in numbers], pa.list_(pa.int64())),
        }
    )


def no_utf8(count: int) -> pa.Array:
    """Texts that claim to be UTF-8; the second is not."""
    texts = pa.array([b"fine", b"caf\xe9", *[b"fine too"] * (count - 2)], pa.binary())
    return texts.view(pa.string())


class ColumnarSuite(SourceSuite):
    """Files of some 10 rows each, below a folder."""

    kind: str
    suffix: str
    options: ClassVar[dict[str, Any]] = {"key": "id", "partition_bytes": 4000}

    @abstractmethod
    def save(self, table: pa.Table, file: Path) -> None:
        """Write one file, so that the same values take the same number of bytes."""

    def write(self, place: Path, count: int) -> None:
        if not count:
            self.save(rows_of(0, 0), place / f"00000{self.suffix}")
        for first in range(0, count, 10):
            self.save(rows_of(first, min(10, count - first)), place / f"{first:05d}{self.suffix}")

    def append(self, place: Path) -> None:
        self.save(rows_of(90000, 1), place / f"90000{self.suffix}")

    def spoil(self, place: Path) -> set[str]:
        table = rows_of(80000, 4)
        self.save(table.set_column(1, "text", no_utf8(4)), place / f"80000{self.suffix}")
        return {"bad_encoding"}

    def change(self, place: Path) -> None:
        table = rows_of(20, 10)
        changed = pa.array([text.replace("23", "XY") for text in table["text"].to_pylist()])
        size = (place / f"00020{self.suffix}").stat().st_size
        self.save(table.set_column(1, "text", changed), place / f"00020{self.suffix}")
        assert (place / f"00020{self.suffix}").stat().st_size == size

    def open(self, place: Path) -> Source:
        return open_columnar(self.kind, self.location(place), **self.options)

    def location(self, place: Path) -> str:
        """What a job names the folder."""
        return str(place)


class RemoteSuite(ColumnarSuite):
    """The same behind fsspec."""

    @pytest.fixture(autouse=True)
    def _bucket(self) -> Any:
        self.bucket = f"/{uuid.uuid4().hex}"
        self.fs = fsspec.filesystem("memory")
        yield
        if self.fs.exists(self.bucket):
            self.fs.rm(self.bucket, recursive=True)

    def location(self, place: Path) -> str:
        for file in place.glob(f"*{self.suffix}") if place.exists() else ():
            target = f"{self.bucket}/{file.name}"
            if not (self.fs.exists(target) and self.fs.cat(target) == file.read_bytes()):
                self.fs.pipe(target, file.read_bytes())
        return f"memory:/{self.bucket}"


def every_byte_flipped(file: Path, open_: Callable[[], Source], start: int) -> set[str]:
    """What is said of a file of which one byte is wrong, each from `start` on in turn: nothing but HeadraceErrors."""
    data = file.read_bytes()
    said = set()
    for place in range(start, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        try:
            read_all(open_())
        except HeadraceError as error:
            said.add(error.what)
    file.write_bytes(data)
    return said
