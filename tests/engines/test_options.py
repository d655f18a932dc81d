"""What each engine needs, asked for before anything is read: nothing is ever downloaded in its place."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions, PrismRunnerOptions

from beam_jobs import run
from beam_jobs.runners import parse_options
from schemas import HeadraceError
from tests.engines.engine import WORKER, free_port
from tests.jobs.small_job import make_job


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    """A file that is no jar: enough for whoever only looks whether it is there."""
    file = tmp_path / "job-server.jar"
    file.write_text("not a jar")
    return file


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (["--runner=PrismRunner"], "neither on the PATH nor given", "go install .*/cmd/prism@v2"),
        (["--runner=PrismRunner", "--prism_location=/nowhere/prism"], "no such file", None),
        (
            ["--runner=FlinkRunner"],
            "needs Beam's job server for Flink",
            "mvn dependency:copy .*flink-1.20-job-server",
        ),
        (["--runner=FlinkRunner", "--flink_job_server_jar=/nowhere.jar"], "no such file", None),
        (["--runner=PortableRunner"], "needs the address of a job server", None),
        (["--runner=SparkRunner"], "does not run on that runner", None),
        (["--runner=DaskRunner"], "does not run on that runner", None),
        (["--runner=PrismRunner", "--number_of_execution_retries=2"], "Unknown option", None),
        (["--dry_run=True"], "Only Dataflow has a dry run", None),
        (["--runner=DataflowRunner"], "needs Google's clients", r"pip install 'headrace\[dataflow\]'"),
    ],
)
def test_what_is_missing_is_said(
    flags: list[str], message: str, hint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine may have Prism on its PATH.
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", "/bin"]))
    with pytest.raises(HeadraceError, match=message) as caught:
        parse_options(flags)
    if hint is not None:
        assert re.search(hint, caught.value.hint or "")


def test_prism_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prism = tmp_path / "prism"
    prism.write_text("#!/bin/sh\n")
    prism.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    options = parse_options(["--runner=PrismRunner"])
    assert options.view_as(PrismRunnerOptions).prism_location == str(prism)


@pytest.mark.parametrize("runner", ["--runner=PrismRunner", "--runner=apache_beam.runners.PrismRunner"])
def test_workers_are_processes_of_this_installation(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    options = parse_options([runner, "--prism_location=/bin/true"]).view_as(PortableOptions)
    assert options.environment_type == "PROCESS"
    config = json.loads(options.environment_config)
    assert config["command"] == str(WORKER)
    assert os.access(WORKER, os.X_OK)
    assert config["env"]["MALLOC_ARENA_MAX"] == "2"
    assert str(tmp_path) in config["env"]["PYTHONPATH"].split(os.pathsep)


def test_users_choice_of_workers_stays(jar: Path) -> None:
    flags = ["--environment_type=EXTERNAL", "--environment_config=localhost:50000"]
    options = parse_options(["--runner=FlinkRunner", f"--flink_job_server_jar={jar}", *flags])
    portable = options.view_as(PortableOptions)
    assert (portable.environment_type, portable.environment_config) == ("EXTERNAL", "localhost:50000")


def test_flink_in_this_machine_takes_all_cores(jar: Path) -> None:
    flags = ["--runner=FlinkRunner", "--flink_master=[local]", f"--flink_job_server_jar={jar}"]
    options = parse_options([*flags, "--number_of_execution_retries=2"]).view_as(FlinkRunnerOptions)
    assert options.parallelism == len(os.sched_getaffinity(0))


def test_cluster_that_does_not_answer(data: Path, jar: Path, tmp_path: Path) -> None:
    master = f"--flink_master=localhost:{free_port()}"
    flags = ["--runner=FlinkRunner", f"--flink_job_server_jar={jar}", master]
    with pytest.raises(HeadraceError, match="No Flink cluster answers there"):
        run(make_job(data), tmp_path, flags)


def test_job_server_that_is_none(data: Path, jar: Path, tmp_path: Path) -> None:
    flags = ["--runner=FlinkRunner", "--flink_master=[local]", f"--flink_job_server_jar={jar}"]
    with pytest.raises(HeadraceError, match=r"(?s)\(java\) did not start.*Invalid or corrupt jarfile"):
        run(make_job(data), tmp_path, flags)
