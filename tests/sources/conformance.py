"""What every source must do. A kind of source subclasses `SourceSuite` and supplies fixtures, no tests."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.sources import Partition, Source, SourceBatch
from schemas.errors import HeadraceError

BATCH_BYTES = 16 << 20  # "about 8 MiB"


class SourceSuite(ABC):
    """The suite; `place` is an empty folder of the test's own."""

    @abstractmethod
    def write(self, place: Path, count: int) -> None:
        """Put a source of `count` good records into `place`, enough for several partitions from 50 on."""

    @abstractmethod
    def append(self, place: Path) -> None:
        """Add one record that sorts last."""

    @abstractmethod
    def spoil(self, place: Path) -> set[str]:
        """Make some records unreadable; returns the rules of the faults to come."""

    @abstractmethod
    def change(self, place: Path) -> None:
        """Change bytes of some record, keeping the number of bytes."""

    @abstractmethod
    def open(self, place: Path) -> Source:
        """The source, opened anew as on another worker."""

    @pytest.mark.parametrize("count", [1, 2, 50, 300])
    def test_partitions_hold_each_record_once(self, tmp_path: Path, count: int) -> None:
        self.write(tmp_path, count)
        keys = [key for batch in read_all(self.open(tmp_path)) for key in batch.keys.to_pylist()]
        assert len(keys) == count
        assert len(set(keys)) == count
        assert None not in keys

    def test_fifty_records_fill_several_partitions(self, tmp_path: Path) -> None:
        self.write(tmp_path, 50)
        partitions = list(self.open(tmp_path).partitions())
        assert len(partitions) > 2
        assert [partition.ordinal for partition in partitions] == list(range(len(partitions)))

    def test_partitions_do_not_depend_on_listing_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.write(tmp_path, 50)
        expected = list(self.open(tmp_path).partitions())
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        shuffle_listings(monkeypatch, random.Random(seed))
        assert list(self.open(tmp_path).partitions()) == expected

    def test_partitions_survive_json(self, tmp_path: Path) -> None:
        self.write(tmp_path, 50)
        self.spoil(tmp_path)
        source = self.open(tmp_path)
        for partition in source.partitions():
            copy = through_json(partition)
            assert copy == partition
            assert same(list(source.read(copy)), list(source.read(partition)))

    def test_partitions_say_how_much_they_hold(self, tmp_path: Path) -> None:
        self.write(tmp_path, 50)
        self.spoil(tmp_path)
        source = self.open(tmp_path)
        for partition in source.partitions():
            batches = list(source.read(partition))
            assert partition.bytes > 0
            held = sum(len(batch.rows) + len(batch.faults) for batch in batches)
            assert partition.records in (None, held)

    def test_batches_are_whole_and_small(self, tmp_path: Path) -> None:
        self.write(tmp_path, 50)
        self.spoil(tmp_path)
        source = self.open(tmp_path)
        for batch in read_all(source):
            assert batch.records.schema.names == source.columns()
            assert batch.records.num_rows == len(batch.keys) == len(batch.rows)
            assert batch.records.nbytes <= BATCH_BYTES
            batch.records.validate(full=True)
            batch.keys.validate(full=True)

    def test_nothing_of_arrows_waits_for_the_collector_of_garbage(self, tmp_path: Path) -> None:
        """Few objects, much memory: what a cycle of them holds piles up until the collector comes by."""
        self.write(tmp_path, 50)
        source = self.open(tmp_path)
        partitions = list(source.partitions())
        gc.collect()
        gc.disable()
        try:
            for partition in partitions:
                list(source.read(partition))
            held = arrow_objects()
            gc.collect()
            assert held == arrow_objects()
        finally:
            gc.enable()

    def test_rereading_elsewhere_gives_equal_batches(self, tmp_path: Path) -> None:
        self.write(tmp_path, 50)
        self.spoil(tmp_path)
        assert same(read_all(self.open(tmp_path)), read_all(self.open(tmp_path)))

    def test_faults_are_counted_and_have_an_origin(self, tmp_path: Path) -> None:
        self.write(tmp_path, 50)
        before = read_all(self.open(tmp_path))
        rules = self.spoil(tmp_path)
        source = self.open(tmp_path)
        found, origins = [], []
        for partition in source.partitions():
            for batch in source.read(partition):
                found += batch.faults
                rows = [*batch.rows.tolist(), *(fault.row for fault in batch.faults)]
                origins += [source.origin(partition, row) for row in rows]
        assert {fault.rule for fault in found} == rules
        assert all(fault.reason for fault in found)
        assert len(set(origins)) == len(origins) >= sum(len(batch.rows) for batch in before)

    def test_appending_leaves_earlier_partitions_as_they_are(self, tmp_path: Path) -> None:
        self.write(tmp_path, 300)
        before = list(self.open(tmp_path).partitions())
        self.append(tmp_path)
        after = list(self.open(tmp_path).partitions())
        assert [p.identity for p in after[: len(before) - 1]] == [p.identity for p in before[:-1]]
        assert [p.identity for p in after] != [p.identity for p in before]

    def test_changed_bytes_change_one_identity(self, tmp_path: Path) -> None:
        self.write(tmp_path, 300)
        before = list(self.open(tmp_path).partitions())
        self.change(tmp_path)
        after = list(self.open(tmp_path).partitions())
        differ = [a.identity != b.identity for a, b in zip(after, before, strict=True)]
        assert sum(differ) == 1

    def test_an_empty_source_is_an_error(self, tmp_path: Path) -> None:
        self.write(tmp_path, 0)
        with pytest.raises(HeadraceError, match=r"holds no (row|file)"):
            list(self.open(tmp_path).partitions())

    missing = r"There is no such (file|folder|table)"

    def test_a_missing_source_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(HeadraceError, match=self.missing):
            list(self.open(tmp_path / "nowhere").partitions())


def arrow_objects() -> list[str]:
    """The types of all objects of pyarrow's that the collector of cyclic garbage knows of, sorted."""
    kinds = map(type, gc.get_objects())
    return sorted(kind.__name__ for kind in kinds if str(kind.__module__).startswith("pyarrow"))


def through_json(partition: Partition) -> Partition:
    """The partition as a worker in another process gets it."""
    return Partition(**json.loads(json.dumps(dataclasses.asdict(partition))))


def read_all(source: Source) -> list[SourceBatch]:
    """Every batch of every partition."""
    return [batch for partition in source.partitions() for batch in source.read(partition)]


def same(some: list[SourceBatch], others: list[SourceBatch]) -> bool:
    """Whether batches are equal in everything."""
    return len(some) == len(others) and all(
        a.records.equals(b.records)
        and a.keys.equals(b.keys)
        and a.rows.tolist() == b.rows.tolist()
        and a.faults == b.faults
        for a, b in zip(some, others, strict=True)
    )


def records_of(source: Source) -> list[dict[str, Any]]:
    """Every record as a dict."""
    return [record for batch in read_all(source) for record in batch.records.to_pylist()]


def faults_of(source: Source) -> list[tuple[str, str, str]]:
    """Origin, rule and reason of every fault."""
    return [
        (source.origin(partition, fault.row), fault.rule, fault.reason)
        for partition in source.partitions()
        for batch in source.read(partition)
        for fault in batch.faults
    ]


def shuffle_listings(monkeypatch: pytest.MonkeyPatch, shuffler: random.Random) -> None:
    """Let the system list folders in another order every time."""
    real = os.scandir

    class Shuffled:
        def __init__(self, path: Any = ".") -> None:
            with real(path) as entries:
                found = list(entries)
            shuffler.shuffle(found)
            self._entries = iter(found)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            return next(self._entries)

        def close(self) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
