"""Whatever call of a job the system refuses: a clear error, versions untouched, and a re-run that completes.

`scripts/soak/faults.py` does all calls of all jobs with all errors; here is a sample of them.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_jobs import run
from schemas import HeadraceError
from tests.jobs.faults import DIE, ERRORS, FIRST, HALF, NAME, SECOND, Bench, Fault, bench, check_fault
from tests.jobs.small_job import digests, make_data, make_job, options


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("bench")) as made:
        yield made


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("rich"), "features") as made:
        yield made


def test_calls_are_counted(small: Bench) -> None:
    """Those of Python and those of Arrow alike, of every stage."""
    verbs = {call.split()[0] for call in small.calls}
    assert {"mkdir", "open", "write", "pwrite", "truncate", "fsync", "rename", "unlink", "rmdir"} <= verbs
    places = " ".join(small.calls)
    for place in (
        "lock",
        "tables/*-0.arrow",
        "runs/*.run",
        "-of-00002.arrow",
        "dead_letters.parquet",
        "manifest",
    ):
        assert place in places


def test_calls_of_every_step_are_counted(rich: Bench) -> None:
    places = " ".join(rich.calls)
    for place in (
        "survey0-1.0.0.jsonl",
        "survey/*.survey",
        "rows/*/*/00001.arrow",
        "tables/part-*.arrow",
        "placements-1.0.0/*.run",
        "duplicates-*/report.parquet",
        "signatures/",
        "statistics-1.0.0/*",
        "drift-1.0.0.json",
        "anomalies.json",
        "temporary",
    ):
        assert place in places


def test_sample_of_all_calls_and_errors(small: Bench) -> None:
    _check_some(small.complete(), small, 20)


def test_sample_of_calls_of_other_steps(small: Bench, rich: Bench) -> None:
    _check_some([fault for fault in rich.complete() if fault.site not in small.sites()], rich, 5)


def _check_some(faults: list[Fault], made: Bench, count: int) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    for fault in random.Random(seed).sample(faults, count):
        print(check_fault(made, fault), flush=True)


@pytest.mark.parametrize("call", ["write", "mkdir"])
def test_temporary_files_that_are_refused(call: str, small: Bench) -> None:
    """The list of partitions, and a folder of Beam's; a traceback, once."""
    site = f"{call} temporary"
    count = small.sites()[site]
    for error in ("ENOSPC", "EACCES"):
        assert check_fault(small, Fault(site, count, error)).endswith("→ 1")


def test_lock_that_is_written_in_two_parts(small: Bench) -> None:
    """It named nobody then, and the job believed that another had taken it."""
    assert check_fault(small, Fault(f"pwrite {NAME}/.headrace/lock", how=HALF)).endswith("→ 0")


def test_tidying_that_is_refused_is_done_by_the_next_run(rich: Bench) -> None:
    """It believed that all was done."""
    site = f"unlink {NAME}/.headrace/placements-{SECOND}/duplicates-*/report.parquet"
    assert check_fault(rich, Fault(site, error="EACCES")).endswith("→ 1")


def test_worker_process_that_is_refused(tmp_path: Path) -> None:
    """Beam's tracebacks of it are not shown, and where it is killed the job says so."""
    with bench(tmp_path, in_workers=True) as made:
        site = f"writev {NAME}/.headrace/runs/.*.records.tmp"
        assert check_fault(made, Fault(site, 2, "EIO")).endswith("→ 1")
        assert check_fault(made, Fault(site, 3, how=DIE)).endswith("→ 1")


@pytest.mark.parametrize("error", sorted(ERRORS))
def test_commit_that_is_refused(error: str, small: Bench) -> None:
    """The rename that makes the version."""
    site = f"rename {NAME}/{SECOND}"
    assert small.sites()[site] == 1
    assert check_fault(small, Fault(site, error=error)).endswith("→ 1")


def test_joined_table_that_is_cut_short(small: Bench) -> None:
    """Its writes: a table that lacked some bytes was never made again."""
    for site, count in small.sites().items():
        if site.startswith(f"write {NAME}/.headrace/tables"):
            for number in range(1, count + 1, max(count // 6, 1)):
                check_fault(small, Fault(site, number, how=HALF))


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_clock_that_jumps(mode: str, small: Bench) -> None:
    """By hours and years to either side, twenty times a second."""
    seed = random.randrange(1, 10**6)
    print("seed", seed)
    small.restart()
    done = small.faults.run(Fault(clock=seed), small.data, options(mode, 2))
    assert done.code == 0, done.output + done.errors
    out = small.faults.out / NAME
    assert digests(out / SECOND) == small.second
    assert digests(out / FIRST) == small.first
    again = small.faults.run(Fault(clock=seed + 1), small.data)
    assert json.loads(again.output)["up_to_date"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_data(tmp_path_factory.mktemp("data"), faults=True)
    make_job(folder)
    return folder


@pytest.mark.parametrize("place", [".", ".headrace", ".headrace/runs", ".headrace/stage-1.0.0"])
def test_folder_that_may_not_be_written(place: str, data: Path, tmp_path: Path) -> None:
    """Root may write everywhere but in what is marked as immutable."""
    job = make_job(data)
    first = run(job, tmp_path / "out")
    before = digests(first.path)
    second = make_job(data, **{"version: 1.0.0": "version: 1.0.1"})
    folder = tmp_path / "out" / "cells" / place.replace("1.0.0", "1.0.1")
    folder.mkdir(exist_ok=True)
    subprocess.run(["chattr", "+i", folder], check=True)
    try:
        with pytest.raises(HeadraceError, match="Cannot write: Operation not permitted") as caught:
            run(second, tmp_path / "out", from_scratch=True)
        assert "change its permissions" in (caught.value.hint or "")
        assert digests(first.path) == before
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)
    assert digests(run(second, tmp_path / "out").path)
    make_job(data)
