"""Jobs on Prism, Beam's portable local runner: the same bytes, and a clean end whoever is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from beam_jobs import run
from schemas import HeadraceError
from tests.engines.conftest import Expected
from tests.engines.engine import CHATTY, GRADE, LATE, LEARNT, SLOW, await_first_run, one, output, prism, start
from tests.jobs.small_job import digests, make_job

NO_BUDGET = {"max_dead_letters: 20%": "max_dead_letters: 0"}


@pytest.fixture(params=["LOOPBACK", "PROCESS", "EXTERNAL"])
def flags(request: pytest.FixtureRequest) -> list[str]:
    """Prism with each kind of worker that it can have here."""
    flags = prism(f"--environment_type={request.param}")
    if request.param == "EXTERNAL":
        flags.append(f"--environment_config={request.getfixturevalue('pool')}")
    return flags


def test_same_bytes(data: Path, expected: Expected, flags: list[str], tmp_path: Path) -> None:
    wanted = expected({})
    assert digests(run(make_job(data), tmp_path, flags).path) == wanted


@pytest.mark.parametrize("changes", [LATE, LEARNT], ids=["late", "learnt"])
def test_same_bytes_of_rules_about_all_records(
    changes: dict[str, str], data: Path, expected: Expected, tmp_path: Path
) -> None:
    wanted = expected(changes)
    result = run(make_job(data, **changes), tmp_path, prism("--environment_type=PROCESS"))
    assert digests(result.path) == wanted


def test_printing_hangs_no_worker(data: Path, expected: Expected, pool: str, tmp_path: Path) -> None:
    wanted = expected(CHATTY)
    flags = prism("--environment_type=EXTERNAL", f"--environment_config={pool}")
    assert digests(run(make_job(data, **CHATTY), tmp_path, flags).path) == wanted


def test_errors_of_workers_arrive(data: Path, flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="Too many dead letters: 8 of 200 records of 'photos'") as caught:
        run(make_job(data, **NO_BUDGET), tmp_path, flags)
    assert caught.value.where == "write.max_dead_letters"
    assert "truncated_image, such as b/photo0007.jpg" in caught.value.what


def test_function_in_the_current_folder(data: Path, tmp_path: Path) -> None:
    """A worker process finds it too, wherever it is started."""
    (tmp_path / "mine.py").write_text(
        "def grade(record):\n    return {**record, 'label': 'good', 'words': []}\n"
    )
    make_job(data, **{GRADE: "mine:grade"})
    flags = prism("--environment_type=PROCESS")
    output(start(data, tmp_path / "out", flags, cwd=tmp_path), code=0)
    assert (tmp_path / "out/cells/1.0.0/manifest.json").exists()


def test_no_network_is_used(data: Path, expected: Expected, tmp_path: Path) -> None:
    """In a network of its own, which has a loopback interface only; needs root, as CI has."""
    wanted = expected({})
    make_job(data)
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    output(start(data, tmp_path, prism("--environment_type=PROCESS"), prefix=alone), code=0)
    assert digests(tmp_path / "cells/1.0.0") == wanted


@pytest.mark.parametrize("victim", ["headrace-worker", "--job_port"])
def test_killed_worker_or_runner(victim: str, data: Path, expected: Expected, tmp_path: Path) -> None:
    wanted = expected(SLOW)
    job = make_job(data, **SLOW)
    flags = prism("--environment_type=PROCESS")
    process = start(data, tmp_path, flags)
    started = await_first_run(process, tmp_path)
    one(started, victim).kill()
    printed = output(process, code=1)
    assert "PrismRunner" in printed
    assert "What is finished is kept; run the same command again." in printed
    assert not psutil.wait_procs(started, timeout=20)[1]
    result = run(job, tmp_path, flags)
    assert result.partitions_reused > 0
    assert digests(result.path) == wanted


def test_killed_command_leaves_nobody_behind(data: Path, expected: Expected, tmp_path: Path) -> None:
    wanted = expected(SLOW)
    job = make_job(data, **SLOW)
    flags = prism("--environment_type=PROCESS")
    process = start(data, tmp_path, flags)
    started = await_first_run(process, tmp_path)
    assert "MALLOC_ARENA_MAX=2" in _environment(one(started, "headrace-worker"))
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(started, timeout=20)[1]
    assert digests(run(job, tmp_path, flags).path) == wanted


@pytest.mark.parametrize("kind", ["LOOPBACK", "PROCESS"])
def test_interrupt_ends_everything(kind: str, data: Path, expected: Expected, tmp_path: Path) -> None:
    wanted = expected(SLOW)
    job = make_job(data, **SLOW)
    flags = prism(f"--environment_type={kind}")
    process = start(data, tmp_path, flags)
    started = await_first_run(process, tmp_path)
    process.send_signal(signal.SIGINT)
    printed = output(process, code=130)
    assert "partitions are finished and kept" in printed
    assert not psutil.wait_procs(started, timeout=20)[1]
    assert digests(run(job, tmp_path, flags).path) == wanted


def test_worker_that_does_not_start(data: Path, tmp_path: Path) -> None:
    flags = prism("--environment_type=PROCESS", '--environment_config={"command": "/bin/false"}')
    make_job(data)
    printed = output(start(data, tmp_path, flags), code=1)
    # As it happens, Prism fails, or waits for ever.
    assert "The job failed on PrismRunner" in printed or "no other took its place" in printed


def test_prism_that_is_none(data: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match=r"The job server \(false\) did not start"):
        run(make_job(data), tmp_path, ["--runner=PrismRunner", "--prism_location=/bin/false"])


def _environment(process: psutil.Process) -> list[str]:
    return [f"{name}={value}" for name, value in process.environ().items()]
