from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.orc
import pytest

from beam_jobs.sources._columnar import orc_reader
from schemas.errors import HeadraceError

from .columnar import ColumnarSuite, RemoteSuite, open_columnar
from .conformance import read_all, records_of


class TestOrc(ColumnarSuite):
    kind = "orc"
    suffix = ".orc"

    def save(self, table: pa.Table, file: Path) -> None:
        pa.orc.write_table(table, file)


class TestRemoteOrc(RemoteSuite, TestOrc):
    """The same behind fsspec."""


def many_kinds(rows: int) -> pa.Table:
    numbers = range(rows)
    return pa.table(
        {
            "id": list(numbers),
            "real": [n / 3 for n in numbers],
            "text": [f"name {n % 13}" for n in numbers],
            "list": [[n] * (n % 4) for n in numbers],
            "struct": [{"a": n, "b": str(n)} for n in numbers],
            "yes": [n % 3 == 0 for n in numbers],
            "moment": pa.array(np.arange(rows), pa.timestamp("ns")),
        }
    )


@pytest.mark.parametrize("compression", ["uncompressed", "zlib", "zstd"])
def test_no_flipped_byte_ends_the_process(compression: str, tmp_path: Path) -> None:
    """Of 20,000 such files seven ended pyarrow's reader; it is another process."""
    seed = time.time_ns() % 2**32
    print("seed", seed)
    chance = random.Random(seed)
    file = tmp_path / "rows.orc"
    pa.orc.write_table(many_kinds(300), file, compression=compression, stripe_size=4096)
    good = file.read_bytes()
    outcomes: set[bool] = set()
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.choice([1, 1, 3])):
            place = chance.choice([chance.randrange(len(data)), -1 - chance.randrange(600)])
            data[place] ^= chance.randrange(1, 256)
        file.write_bytes(data)
        try:
            list(read_all(open_columnar("orc", file)))
        except HeadraceError as error:
            outcomes.add("rows.orc" in str(error))
    assert outcomes == {True}
    file.write_bytes(good)
    assert len(records_of(open_columnar("orc", file))) == 300


def readers() -> list[int]:
    """The processes of this one that read ORC."""
    return [
        int(place.parent.name)
        for place in Path("/proc").glob("[0-9]*/cmdline")
        if b"orc_program.py" in place.read_bytes()
        and f"PPid:\t{os.getpid()}\n" in (place.parent / "status").read_text()
    ]


def test_a_reader_that_dies_is_an_error_with_file_and_stripe(tmp_path: Path) -> None:
    pa.orc.write_table(pa.table({"id": range(2_000_000)}), tmp_path / "rows.orc")
    source = open_columnar("orc", tmp_path, partition_bytes=1 << 30)
    (partition,) = source.partitions()
    batches = source.read(partition)
    next(batches)
    for process in readers():
        os.kill(process, signal.SIGSEGV)
    while readers():
        time.sleep(0.01)
    with pytest.raises(
        HeadraceError, match=r"(?s)rows\.orc, stripe 0 \(rows 1 to 2000000\).*ended by SIGSEGV"
    ):
        list(batches)
    assert sum(batch.records.num_rows for batch in source.read(partition)) == 2_000_000


def test_a_reader_that_died_unused_is_not_used(tmp_path: Path) -> None:
    """It had seemed to run for as long as the system took to end it."""
    pa.orc.write_table(pa.table({"id": range(100)}), tmp_path / "rows.orc")
    source = open_columnar("orc", tmp_path)
    for _ in range(20):
        assert len(records_of(source)) == 100
        for process in readers():
            os.kill(process, signal.SIGKILL)


def test_readers_are_few_and_hold_nothing_when_they_are_done(tmp_path: Path) -> None:
    pa.orc.write_table(pa.table({"id": range(1000)}), tmp_path / "rows.orc")
    source = open_columnar("orc", tmp_path, partition_bytes=1 << 10)
    assert [record["id"] for record in records_of(source)] == list(range(1000))
    assert 1 <= len(orc_reader._idle) <= 2
    assert [child.opened for child in orc_reader._idle] == [None] * len(orc_reader._idle)
