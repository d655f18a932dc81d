"""Runs are the same whether they are held or read in parts, and no changed byte of one goes unnoticed."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import merge, run, runs
from beam_jobs.finished import open_finished
from beam_jobs.local_store import LocalStore
from beam_jobs.plan import JobPlan
from beam_jobs.runs import (
    RunContent,
    has_records,
    open_run,
    read_index,
    read_section,
    records_path,
    write_run,
)
from beam_jobs.store_path import StorePath
from schemas import HeadraceError
from schemas.hashing import as_sortable, key_hashes
from tests.jobs.small_job import digests, make_data, make_job

SECTIONS = {"dead_letters": b"some letters", "outcomes": bytes(range(256)), "empty": b""}


def written(folder: Path) -> StorePath:
    rng = np.random.default_rng(3)
    keys = [f"key {n}".encode() for n in range(40)]
    content = RunContent(
        records=[pa.array([rng.bytes(50) for _ in keys], pa.large_binary())],
        hashes=[as_sortable(key_hashes(keys, 0))],
        splits=[np.arange(len(keys)) % 2],
        rows=[np.arange(len(keys))],
        sections=dict(SECTIONS),
        summary={"read": len(keys)},
    )
    path = StorePath(LocalStore(folder), "0123.run")
    write_run(path, content, 2)
    return path


# As a whole; its footer by the read of its end, or by one more.
@pytest.mark.parametrize(("held", "end"), [(1 << 16, 1 << 12), (0, 600), (0, 20)])
def test_what_is_read_is_what_was_written(
    held: int, end: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    whole = open_run(path)
    assert whole is not None
    assert whole.held == path.read()
    monkeypatch.setattr(runs, "_HELD_BYTES", held)
    monkeypatch.setattr(runs, "_END_BYTES", end)
    for found in (open_run(path), open_run(path, check=True), whole.released()):
        assert found is not None
        assert dataclasses.replace(found, held=b"") == whole.released()
        assert {name: read_section(found, name) for name in SECTIONS} == SECTIONS
        assert read_section(found, "no such") == b""
        assert read_index(found).tobytes() == read_index(whole).tobytes()
        assert read_index(found, 7, 12).tobytes() == read_index(whole)[7:12].tobytes()


@pytest.mark.parametrize(("held", "end"), [(1 << 16, 1 << 12), (0, 20)])
def test_a_changed_byte_is_seen(held: int, end: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    path = written(tmp_path)
    file = Path(str(path))
    data = file.read_bytes()
    monkeypatch.setattr(runs, "_HELD_BYTES", held)
    monkeypatch.setattr(runs, "_END_BYTES", end)
    for place in random.Random(seed).sample(range(len(data)), 300):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert open_run(path, check=True) is None, place
        file.write_bytes(data[:place])
        assert open_run(path, check=True) is None, place
    file.write_bytes(data)
    assert open_run(path, check=True) is not None


def test_a_changed_byte_of_its_records_is_seen_where_it_is_looked_for(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = open_run(path, check=True)
    assert found is not None
    assert has_records(found, check=True)
    file = Path(str(records_path(path)))
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert has_records(found, check=False)
    assert not has_records(found, check=True)
    file.write_bytes(data[:-1])
    assert not has_records(found, check=False)
    file.unlink()
    assert not has_records(found, check=False)
    assert open_run(path, check=True) is not None  # a committed version's runs have lost theirs


def test_shards_of_more_runs_than_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data")
    job = make_job(data)
    first = run(job, tmp_path / "held")
    assert first.partitions > 1
    monkeypatch.setattr(merge, "_HELD_RUNS", 1)
    assert digests(Path(run(job, tmp_path / "released").path)) == digests(Path(first.path))


def test_a_finished_run_that_is_replaced_is_opened_again(tmp_path: Path) -> None:
    """It is not opened again as long as it is the same file, nor once it has vanished."""
    path = written(tmp_path)
    workspace = SimpleNamespace(runs=StorePath(path.store, ""))
    plan = cast("JobPlan", SimpleNamespace(workspace=workspace))
    first = open_finished(plan, path.name)
    assert open_finished(plan, path.name).sections is first.sections
    path.write(path.read(), durable=False)
    again = open_finished(plan, path.name)
    assert again == first
    assert again.sections is not first.sections
    path.delete()
    with pytest.raises(HeadraceError, match="has vanished"):
        open_finished(plan, path.name)
