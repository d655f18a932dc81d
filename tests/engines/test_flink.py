"""Jobs on a real Flink cluster of two task managers, and on the one within Beam's job server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions

from beam_jobs import run
from beam_jobs.engines import check_cluster
from beam_jobs.runners import parse_options
from schemas import HeadraceError
from tests.engines.conftest import Expected
from tests.engines.engine import LATE, LEARNT, SLOW, await_, await_first_run, output, start
from tests.engines.flink_cluster import JOB_SERVER, FlinkCluster
from tests.jobs.small_job import digests, make_job

NO_BUDGET = {"max_dead_letters: 20%": "max_dead_letters: 0"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    with FlinkCluster(tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


@pytest.fixture
def job_server() -> str:
    assert JOB_SERVER.exists(), f"{JOB_SERVER} is missing: run scripts/engines"
    return f"--flink_job_server_jar={JOB_SERVER}"


def flags(master: str, *more: str) -> list[str]:
    return ["--runner=FlinkRunner", f"--flink_master={master}", *more]


def test_all_slots_are_taken(cluster: FlinkCluster, tmp_path: Path) -> None:
    jar = tmp_path / "a.jar"
    jar.touch()
    options = parse_options(flags(cluster.master, f"--flink_job_server_jar={jar}"))
    check_cluster(options)
    assert options.view_as(FlinkRunnerOptions).parallelism == 4
    assert options.view_as(PortableOptions).sdk_worker_parallelism == 1
    fewer = parse_options(flags(cluster.master, f"--flink_job_server_jar={jar}", "--parallelism=3"))
    check_cluster(fewer)
    assert fewer.view_as(FlinkRunnerOptions).parallelism == 3


def test_cluster_without_task_managers(tmp_path: Path) -> None:
    jar = tmp_path / "a.jar"
    jar.touch()
    with FlinkCluster(tmp_path / "flink", managers=0) as empty:
        options = parse_options(flags(empty.master, f"--flink_job_server_jar={jar}"))
        with pytest.raises(HeadraceError, match="has no task managers"):
            check_cluster(options)


def test_same_bytes_in_the_job_server(
    data: Path, expected: Expected, job_server: str, tmp_path: Path
) -> None:
    wanted = expected({})
    assert digests(run(make_job(data), tmp_path, flags("[local]", job_server)).path) == wanted


def test_same_bytes_on_the_cluster(
    data: Path, expected: Expected, cluster: FlinkCluster, job_server: str, tmp_path: Path
) -> None:
    wanted = expected({})
    chosen = flags(cluster.master, job_server)
    assert digests(run(make_job(data), tmp_path, chosen).path) == wanted


@pytest.mark.parametrize("changes", [LATE, LEARNT], ids=["late", "learnt"])
def test_same_bytes_of_rules_about_all_records(
    changes: dict[str, str],
    data: Path,
    expected: Expected,
    cluster: FlinkCluster,
    job_server: str,
    tmp_path: Path,
) -> None:
    wanted = expected(changes)
    result = run(make_job(data, **changes), tmp_path, flags(cluster.master, job_server))
    assert digests(result.path) == wanted


def test_same_bytes_by_the_pool_of_a_machine(
    data: Path, expected: Expected, pool: str, job_server: str, tmp_path: Path
) -> None:
    """With one task manager, as every machine has: two of them give their workers the same names."""
    wanted = expected({})
    external = ["--environment_type=EXTERNAL", f"--environment_config={pool}"]
    with FlinkCluster(tmp_path / "flink", managers=1) as cluster:
        chosen = flags(cluster.master, job_server, *external)
        assert digests(run(make_job(data), tmp_path / "out", chosen).path) == wanted


def test_errors_of_workers_arrive(data: Path, cluster: FlinkCluster, job_server: str, tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="Too many dead letters: 8 of 200 records of 'photos'"):
        run(make_job(data, **NO_BUDGET), tmp_path, flags(cluster.master, job_server))


@pytest.mark.parametrize("victim", ["worker", "task manager"])
def test_killed_worker_or_task_manager(
    victim: str, data: Path, expected: Expected, cluster: FlinkCluster, job_server: str, tmp_path: Path
) -> None:
    """The job recovers or fails cleanly; either way a re-run leaves the same bytes."""
    wanted = expected(SLOW)
    job = make_job(data, **SLOW)
    process = start(data, tmp_path, flags(cluster.master, job_server))
    await_first_run(process, tmp_path)
    manager = cluster.managers[0]
    if victim == "worker":
        await_(lambda: bool(_workers(manager.pid)))
        _workers(manager.pid)[0].kill()
    else:
        manager.kill()
        manager.wait()
        cluster.managers.pop(0)
        cluster.add_manager()
    process.wait(timeout=180)
    if process.returncode:
        assert "run the same command again" in output(process, code=1)
    await_(lambda: cluster.overview().get("taskmanagers") == 2, seconds=120)
    assert digests(run(job, tmp_path, flags(cluster.master, job_server)).path) == wanted


def test_interrupt_cancels_the_job(
    data: Path, expected: Expected, cluster: FlinkCluster, job_server: str, tmp_path: Path
) -> None:
    wanted = expected(SLOW)
    job = make_job(data, **SLOW)
    process = start(data, tmp_path, flags(cluster.master, job_server))
    started = await_first_run(process, tmp_path)
    process.send_signal(signal.SIGINT)
    assert "partitions are finished and kept" in output(process, code=130)
    assert not psutil.wait_procs(started, timeout=20)[1]
    await_(lambda: cluster.overview().get("jobs-running") == 0)
    assert digests(run(job, tmp_path, flags(cluster.master, job_server)).path) == wanted


def test_killed_command_and_its_job(
    data: Path, expected: Expected, cluster: FlinkCluster, job_server: str, tmp_path: Path
) -> None:
    """The cluster goes on with its job, beside the next one; what comes out is the next one's, whole."""
    wanted = expected(SLOW)
    job = make_job(data, **SLOW)
    process = start(data, tmp_path, flags(cluster.master, job_server))
    await_first_run(process, tmp_path)
    process.kill()
    process.communicate()
    assert cluster.overview().get("jobs-running") == 1
    assert digests(run(job, tmp_path, flags(cluster.master, job_server, "--parallelism=2")).path) == wanted
    await_(lambda: cluster.overview().get("jobs-running") == 0, seconds=120)
    assert digests(tmp_path / "cells/1.0.0") == wanted


def test_too_little_network_memory(data: Path, job_server: str, tmp_path: Path) -> None:
    with FlinkCluster(tmp_path / "flink", managers=1, buffers=8192) as cluster:
        process = start(data, tmp_path / "out", flags(cluster.master, job_server))
        assert "sort-shuffle.min-buffers: 64" in output(process, code=1)


def _workers(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "headrace-worker" in " ".join(child.cmdline())]
