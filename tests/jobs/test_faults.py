"""What a job does when the world fails it: a clear error, nothing half-written, and a re-run that completes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from beam_jobs import run
from beam_jobs.lock import exclusive
from beam_jobs.verify import verify
from schemas import HeadraceError
from tests.jobs.small_job import digests, make_data, make_job, options

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_data(tmp_path_factory.mktemp("data"), faults=True)
    make_job(folder)
    return folder


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return digests(run(make_job(data), tmp_path_factory.mktemp("out")).path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of some kilobytes; needs root, as CI has."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place], check=True)
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def test_full_disk_at_many_moments(
    data: Path, expected: dict[str, bytes], small_disk: Callable[[int], Path]
) -> None:
    """Disks from too small for one run to just too small for the last file: an error each time, then it completes."""
    failures = 0
    for kilobytes in (40, 160, 280, 400, 500, 560, 620, 680):
        disk = small_disk(kilobytes)
        failed = _failure(lambda disk=disk: run(make_job(data), disk))
        if failed:
            failures += 1
            assert "No space left on device" in failed
            assert not (disk / "cells" / "1.0.0").exists()
            assert not list(disk.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert digests(run(make_job(data), disk).path) == expected
    print("failures", failures)
    assert failures >= 4


def test_full_disk_leaves_the_older_version(data: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(900)
    before = digests(run(make_job(data), disk).path)
    with pytest.raises(HeadraceError, match="No space left on device"):
        run(make_job(data, **{"version: 1.0.0": "version: 2.0.0"}), disk, from_scratch=True)
    make_job(data)
    assert digests(disk / "cells" / "1.0.0") == before
    assert not (disk / "cells" / "2.0.0").exists()


def test_read_only_file_system(data: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(4096)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(HeadraceError, match="Read-only file system") as caught:
        run(make_job(data), disk)
    assert "another --out" in (caught.value.hint or "")


def test_out_is_a_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(HeadraceError, match="Not a directory"):
        run(make_job(data), tmp_path / "out")


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="There is no such folder"):
        run(make_job(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out" / "cells").exists()


def test_existing_version_of_another_job_is_left_alone(data: Path, tmp_path: Path) -> None:
    before = digests(run(make_job(data), tmp_path).path)
    with pytest.raises(HeadraceError, match=r"Version 1\.0\.0 exists already, and its job changed since"):
        run(make_job(data, **{"train: 3": "train: 4"}), tmp_path)
    make_job(data)
    assert digests(tmp_path / "cells" / "1.0.0") == before


def test_changed_sources_need_a_new_version(tmp_path: Path) -> None:
    job = make_job(make_data(tmp_path, records=40))
    run(job, tmp_path / "out")
    with (tmp_path / "labels.csv").open("a") as labels:
        labels.write("more.png,0.5,1,2,3,used,\n")
    with pytest.raises(
        HeadraceError, match=r"Version 1\.0\.0 exists already, and its sources or functions changed"
    ):
        run(job, tmp_path / "out")


def test_second_run_does_nothing(data: Path, tmp_path: Path) -> None:
    first = run(make_job(data), tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    second = run(make_job(data), tmp_path)
    assert second.up_to_date
    assert not first.up_to_date
    assert {path: path.stat().st_mtime_ns for path in second.path.rglob("*")} == stamps


def test_of_the_work_only_what_later_versions_take_over_stays(data: Path, tmp_path: Path) -> None:
    made = run(make_job(data), tmp_path)
    work = tmp_path / "cells/.headrace"
    assert {path.name for path in work.iterdir()} == {
        "inputs-1.0.0.json",
        "lock",
        "partitions-1.0.0.jsonl",
        "runs",
        "statistics-1.0.0",
    }
    assert len(list((work / "statistics-1.0.0").iterdir())) == 6  # shards
    runs = list((work / "runs").iterdir())
    assert len(runs) == made.partitions
    assert {path.suffix for path in runs} == {".run"}


def test_damaged_run_is_made_again(data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="Too many dead letters"):
        run(make_job(data, **{"max_dead_letters: 20%": "max_dead_letters: 0"}), tmp_path)
    damaged, cut, *_ = sorted((tmp_path / "cells/.headrace/runs").iterdir())
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:-1])
    assert digests(run(make_job(data), tmp_path).path) == expected


def test_two_jobs_on_one_output(data: Path, tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "cells" / ".headrace" / "lock", "token"),
        pytest.raises(HeadraceError, match="Another job is writing to this output") as caught,
    ):
        run(make_job(data), tmp_path)
    assert f"process {os.getpid()}" in (caught.value.value or "")
    run(make_job(data), tmp_path)


def test_lock_of_a_dead_process_is_free(data: Path, tmp_path: Path) -> None:
    lock = tmp_path / "cells" / ".headrace" / "lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps({"pid": 999_999_999, "host": "gone"}))
    assert not run(make_job(data), tmp_path).up_to_date


def test_readers_see_a_whole_version_or_none(data: Path, tmp_path: Path) -> None:
    done, seen = threading.Event(), []

    def poll() -> None:
        while not done.is_set():
            if (tmp_path / "cells" / "1.0.0").exists():
                seen.append(verify(tmp_path / "cells" / "1.0.0").ok)

    thread = threading.Thread(target=poll)
    thread.start()
    run(make_job(data), tmp_path)
    time.sleep(0.2)
    done.set()
    thread.join()
    assert seen
    assert all(seen)


def test_killed_worker_process_ends_the_job(data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Beam would wait for ever."""
    process = _start(data, tmp_path, "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    worker = _first_worker(process.pid)
    worker.kill()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    assert "A worker process died" in output
    assert not [child for child in psutil.process_iter() if _is_worker_of(child, process.pid)]
    assert digests(run(make_job(data), tmp_path).path) == expected


def test_interrupt_ends_worker_processes(data: Path, tmp_path: Path) -> None:
    process = _start(data, tmp_path, "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    _first_worker(process.pid)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert not psutil.wait_procs(workers, timeout=20)[1]


def test_interrupt_says_how_to_go_on(data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    process = _start(data, tmp_path)
    while process.poll() is None and not list(tmp_path.glob("cells/.headrace/runs/*.run")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "partitions are finished and kept" in output
    assert "Run the same command again" in output
    assert "Traceback" not in output
    assert digests(run(make_job(data), tmp_path, options("multi_threading", 2)).path) == expected


def test_user_function_that_cannot_be_imported(data: Path, tmp_path: Path) -> None:
    job = make_job(data, **{"small_job:grade": "small_job:grate"})
    make_job(data)
    with pytest.raises(HeadraceError, match="A user function cannot be imported"):
        run(job, tmp_path)


def _failure(job: Callable[[], object]) -> str:
    """The first line of the error that the job ends with, empty where it succeeds."""
    try:
        job()
    except HeadraceError as error:
        return error.what
    return ""


def _start(data: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    # A shell starts what it runs in the background deaf to SIGINT, and CI may be run so.
    hearing = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{hearing}; import sys; from beam_jobs.cli import entry; sys.exit(entry())"
    arguments = ["run", str(data / "job.yaml"), f"--var=data={data}", f"--out={out}", *flags]
    return subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _first_worker(pid: int) -> psutil.Process:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children(recursive=True):
            if "beam_jobs.embedded_worker" in child.cmdline():
                return child
        time.sleep(0.02)
    raise AssertionError("no worker process was started")


def _is_worker_of(process: psutil.Process, pid: int) -> bool:
    try:
        return process.ppid() == pid and "beam_jobs.embedded_worker" in process.cmdline()
    except psutil.Error:
        return False
