"""The small job's data, and the bytes that the embedded runner makes of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beam_jobs import run
from tests.engines.engine import ROOT, WORKER, await_, free_port, stop
from tests.jobs.small_job import digests, make_data, make_job, options

Expected = Callable[[dict[str, str]], dict[str, bytes]]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("engines"), faults=True)


@pytest.fixture(scope="session")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """The version that the embedded runner makes of the small job with some of its text replaced."""
    made: dict[str, dict[str, bytes]] = {}

    def of(changes: dict[str, str]) -> dict[str, bytes]:
        if str(changes) not in made:
            job = make_job(data, **changes)
            made[str(changes)] = digests(
                run(job, tmp_path_factory.mktemp("out"), options("in_memory", 1)).path
            )
        return made[str(changes)]

    return of


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Beam's own pool of workers, which starts ours; gives its address."""
    port = free_port()
    log = tmp_path_factory.mktemp("pool") / "log"
    module = "apache_beam.runners.worker.worker_pool_main"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, f"--service_port={port}", f"--container_executable={WORKER}"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        await_(lambda: b"Started worker pool" in log.read_bytes())
        yield f"localhost:{port}"
    finally:
        stop(process)
        print(log.read_text(errors="replace")[-4000:])
