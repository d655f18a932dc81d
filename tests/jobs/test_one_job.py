"""One job at a time on one output, whatever is left of the job before: worker processes, threads, or a stale lock."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import beam_jobs.build
from beam_jobs import lock, run
from beam_jobs.lock import exclusive
from schemas import HeadraceError
from tests.jobs.kills import ROOT, finished_runs, start, wait_for_lock
from tests.jobs.small_job import digests, make_data, make_job, options

SMALL = {"partition_files: 16": "partition_files: 4"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_data(tmp_path_factory.mktemp("data"), faults=True)
    make_job(folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return digests(run(make_job(data, **SMALL), tmp_path_factory.mktemp("out")).path)


def test_worker_processes_die_with_their_job(data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Even those that are stopped, which would wake up when another job has long begun."""
    process = start(data, tmp_path, options("multi_processing", 2), subprocess.DEVNULL)
    wait_for_lock(process, tmp_path)
    while not finished_runs(tmp_path):
        assert process.poll() is None
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    process.kill()
    process.wait()
    try:
        assert not psutil.wait_procs(workers, timeout=60)[1]
    finally:
        for worker in workers:
            if worker.is_running():
                worker.kill()
    assert digests(run(make_job(data, **SMALL), tmp_path).path) == expected


def test_job_waits_for_the_worker_processes_of_a_dead_one(tmp_path: Path) -> None:
    with _left_behind(tmp_path) as (path, worker):
        threading.Timer(0.3, worker.kill).start()
        with exclusive(path, "token"):
            worker.wait(10)  # it is dead, but no one has asked yet
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_worker_process_of_a_dead_job_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_ORPHANS_SECONDS", 0.2)
    with (
        _left_behind(tmp_path) as (path, _),
        pytest.raises(HeadraceError, match="Worker processes of a job that has died") as caught,
        exclusive(path, "token"),
    ):
        pass
    assert "process 999999999 on" in (caught.value.value or "")


@contextmanager
def _left_behind(folder: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A lock whose job is dead, and a process that holds it still, as its worker would."""
    path = folder / ".headrace" / "lock"
    command = "import pathlib, sys, time; from beam_jobs.lock import shared"
    command += "; print(shared(pathlib.Path(sys.argv[1])), flush=True); time.sleep(3600)"
    arguments = [sys.executable, "-c", command, str(path)]
    path.parent.mkdir()
    path.touch()
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert int(worker.stdout.readline())
        path.write_text(json.dumps({"pid": 999_999_999, "host": socket.gethostname()}))
        try:
            yield path, worker
        finally:
            worker.kill()


def test_worker_that_comes_too_late(tmp_path: Path) -> None:
    """Its job has died before it took the lock; it may be another job's by now."""
    with exclusive(tmp_path / "lock", "token"):
        late = subprocess.run(
            [sys.executable, "-m", "beam_jobs.embedded_worker", "999999999", str(tmp_path / "lock")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert late.returncode == 1
    assert "The job of this worker has ended" in late.stderr


def test_failed_job_leaves_no_thread_at_work(
    data: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beam's other threads went on after `run` had raised and dropped its lock."""
    real, calls, slow = beam_jobs.build.write_run, iter(range(10**6)), 0.05

    def failing(path: Path, *arguments: object) -> object:
        if next(calls) == 1:
            raise HeadraceError("this partition fails")
        time.sleep(slow)
        return real(path, *arguments)

    monkeypatch.setattr(beam_jobs.build, "write_run", failing)
    with pytest.raises(HeadraceError, match="this partition fails"):
        run(make_job(data, **SMALL), tmp_path, options("multi_threading", 2))
    left = finished_runs(tmp_path)
    time.sleep(10 * slow)
    assert finished_runs(tmp_path) == left
    monkeypatch.undo()
    assert digests(run(make_job(data, **SMALL), tmp_path).path) == expected


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_jobs_that_begin_together(mode: str, data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """One does it; the others fail clearly, or find it done. Each has other shards, so a mixture would show."""
    wanted = {}
    jobs = []
    for number, shards in enumerate((3, 4, 5, 6)):
        folder = tmp_path / f"job{number}"
        folder.mkdir()
        (folder / "photos").symlink_to(data / "photos")
        (folder / "labels.csv").symlink_to(data / "labels.csv")
        job = make_job(folder, **SMALL, **{"train: 3": f"train: {shards}"})
        wanted[number] = expected if shards == 3 else digests(run(job, tmp_path / f"alone{number}").path)
        jobs.append(folder)
    out = tmp_path / "out"
    processes = [start(folder, out, options(mode, 2)) for folder in jobs]
    done = []
    for number, process in enumerate(processes):
        output, errors = process.communicate(timeout=300)
        if process.returncode == 0:
            done.append(number)
        else:
            assert process.returncode == 1, errors
            said = json.loads(output)["error"]["what"]
            assert said.startswith(
                ("Another job is writing to this output", "Version 1.0.0 exists already")
            ), said
    assert len(done) == 1
    assert digests(out / "cells" / "1.0.0") == wanted[done[0]]
