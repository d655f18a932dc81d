"""Runners other than the embedded one: which are offered, what each needs, and defaults that reach for no network."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    StandardOptions,
    TestOptions,
    WorkerOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner
from apache_beam.version import __version__ as beam_version

from beam_jobs.memory import ARENAS, ARENAS_VARIABLE
from beam_jobs.worker import COMMAND, TASKS
from schemas import HeadraceError

EMBEDDED_NAMES = ("DirectRunner", "FnApiRunner", "EmbeddedRunner")
OFFERED = ("FnApiRunner", "PrismRunner", "FlinkRunner", "DataflowRunner", "PortableRunner")
# Of the options that Beam's job server for Flink alone knows, those that mean something for a batch job.
FLINK_OPTIONS = frozenset(
    [
        "attached_mode",
        "execution_mode_for_batch",
        "execution_retry_delay",
        "faster_copy",
        "flink_conf_dir",
        "job_check_interval_in_secs",
        "max_bundle_size",
        "max_bundle_time_mills",
        "number_of_execution_retries",
        "object_reuse",
        "re_iterable_group_by_key_result",
    ]
)
_FLINK_VERSION = "1.20"
_ANSWER_SECONDS = 20


def runner_name(options: PipelineOptions) -> str:
    """The runner that the options ask for, without its module."""
    return str(options.view_as(StandardOptions).runner or "DirectRunner").split(".")[-1]


def is_embedded(options: PipelineOptions) -> bool:
    """Whether the options ask for the embedded runner."""
    return runner_name(options) in EMBEDDED_NAMES


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0))


def import_path() -> str:
    """A PYTHONPATH with which a worker imports what this process can, such as user functions in the current folder."""
    return os.pathsep.join(dict.fromkeys(str(Path(path).resolve()) for path in sys.path))


def complete(options: PipelineOptions) -> None:
    """Fills in what the user has left to us.

    Raises:
      HeadraceError: the runner is not offered, or needs something that is missing.
    """
    match runner_name(options):
        case "PrismRunner":
            _complete_prism(options)
        case "FlinkRunner":
            _complete_flink(options)
        case "DataflowRunner":
            _check_dataflow(options)
        case "PortableRunner":
            if not options.view_as(PortableOptions).job_endpoint:
                raise HeadraceError(
                    "PortableRunner needs the address of a job server.", allowed="--job_endpoint=HOST:PORT"
                )
        case other:
            raise HeadraceError(
                "Headrace does not run on that runner.", value=f"--runner={other}", allowed=", ".join(OFFERED)
            )
    if runner_name(options) != "DataflowRunner":
        _complete_environment(options.view_as(PortableOptions))


def _complete_environment(portable: PortableOptions) -> None:
    """Workers are processes of this installation: they end when their runner does, as threads of ours would not."""
    portable.environment_type = portable.environment_type or "PROCESS"
    if portable.environment_type == "PROCESS" and not (
        portable.environment_config or portable.environment_options
    ):
        portable.environment_config = json.dumps(_worker_process())


def check_dry_run(options: PipelineOptions) -> None:
    """Refuses Beam's dry run where Beam would run the job all the same.

    Raises:
      HeadraceError: the runner has no dry run.
    """
    if options.view_as(TestOptions).dry_run and not is_graph_check(options):
        raise HeadraceError(
            "Only Dataflow has a dry run of Beam's.",
            value=f"--dry_run with {runner_name(options)}",
            allowed="--runner=DataflowRunner",
        )


def _worker_process() -> dict[str, Any]:
    """Beam's PROCESS environment with this installation's worker, which others must have at the same path."""
    command = Path(sys.executable).with_name(COMMAND)
    if not command.exists():
        raise HeadraceError(
            "This installation lacks the program that runners start as a worker.",
            where=str(command),
            hint="Install it again: pip install --force-reinstall --no-deps headrace",
        )
    return {"command": str(command), "env": {"PYTHONPATH": import_path(), ARENAS_VARIABLE: ARENAS}}


def check_output(options: PipelineOptions, out: str | Path) -> None:
    """Refuses an output that some of the runner's workers cannot reach.

    Raises:
      HeadraceError: workers of Dataflow share no disk with this machine.
    """
    if runner_name(options) == "DataflowRunner" and "://" not in str(out) and not is_graph_check(options):
        raise HeadraceError(
            "Workers of Dataflow cannot write to this machine's disk.",
            where="--out",
            value=str(out),
            allowed="a place that every worker reaches",
            hint="--dry_run=True builds and checks the job's graph without running it.",
        )


def is_graph_check(options: PipelineOptions) -> bool:
    """Whether only the graph is to be built and checked, and nothing run: Beam's own dry run."""
    return runner_name(options) == "DataflowRunner" and bool(options.view_as(TestOptions).dry_run)


def _complete_prism(options: PipelineOptions) -> None:
    if options.view_as(PortableOptions).job_endpoint:
        return
    prism = options.view_as(PrismRunnerOptions)
    location = prism.prism_location or shutil.which("prism")
    if location is None:
        raise HeadraceError(
            "PrismRunner needs Prism, which is neither on the PATH nor given.",
            allowed="--prism_location=/path/to/prism",
            hint=f"go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam_version}",
        )
    if "://" not in location and not Path(location).is_file():
        raise HeadraceError("There is no such file.", where="--prism_location", value=location)
    prism.prism_location = location


def _complete_flink(options: PipelineOptions) -> None:
    portable, flink = options.view_as(PortableOptions), options.view_as(FlinkRunnerOptions)
    flink.flink_master = FlinkRunner.add_http_scheme(flink.flink_master)
    if not portable.job_endpoint:
        _check_job_server(flink.flink_job_server_jar)
        launcher = options.view_as(JobServerOptions).job_server_java_launcher
        if shutil.which(launcher) is None:
            raise HeadraceError(
                "FlinkRunner needs Java, which is not there.",
                value=launcher,
                hint="On Debian: apt-get install default-jre-headless",
            )
    if flink.flink_master in MAGIC_HOST_NAMES and flink.parallelism < 1:
        flink.parallelism = cores()


def _check_job_server(jar: str | None) -> None:
    if jar is None:
        artifact = f"org.apache.beam:beam-runners-flink-{_FLINK_VERSION}-job-server:{beam_version}"
        raise HeadraceError(
            "FlinkRunner needs Beam's job server for Flink, and nothing is downloaded unasked.",
            allowed="--flink_job_server_jar=/path/to/the.jar",
            hint=f"For Flink {_FLINK_VERSION}: mvn dependency:copy -Dartifact={artifact} -DoutputDirectory=.",
        )
    if "://" not in jar and not Path(jar).is_file():
        raise HeadraceError("There is no such file.", where="--flink_job_server_jar", value=jar)


def check_cluster(options: PipelineOptions) -> None:
    """Asks a Flink cluster whether it can take the job, and takes all of its free slots if none are asked for.

    Raises:
      HeadraceError: nobody answers at the master's address, or no task manager is there.
    """
    flink = options.view_as(FlinkRunnerOptions)
    if runner_name(options) != "FlinkRunner" or flink.flink_master in MAGIC_HOST_NAMES:
        return
    try:
        request = urllib.request.Request(f"{flink.flink_master}/overview")  # noqa: S310 - add_http_scheme
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
            overview = json.load(answer)
        slots, free = int(overview["slots-total"]), int(overview["slots-available"])
        managers = int(overview["taskmanagers"])
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError) as error:
        raise HeadraceError(
            "No Flink cluster answers there.",
            where="--flink_master",
            value=f"{flink.flink_master}: {error}",
            allowed="HOST:PORT of the job manager's REST interface, or [local]",
        ) from error
    if not slots:
        raise HeadraceError(
            "The Flink cluster has no task managers, or knows nothing of their slots yet.",
            where="--flink_master",
            value=f"{flink.flink_master}: {managers} task managers, 0 slots",
            hint="Start one, taskmanager.sh start, and wait until its slots are in the cluster's overview.",
        )
    if flink.parallelism < 1:
        flink.parallelism = free or slots
    if "sdk_worker_parallelism" not in options.get_all_options(drop_default=True):
        # Worker processes of a task manager, so that its slots find a worker that has a turn for them.
        options.view_as(PortableOptions).sdk_worker_parallelism = math.ceil(slots / managers / TASKS)


def _check_dataflow(options: PipelineOptions) -> None:
    if find_spec("apitools") is None or find_spec("google.cloud.dataflow_v1beta3") is None:
        raise HeadraceError(
            "DataflowRunner needs Google's clients, which are not installed.",
            hint="pip install 'headrace[dataflow]'",
        )
    worker = options.view_as(WorkerOptions)
    if not worker.sdk_container_image:
        raise HeadraceError(
            "Workers of Dataflow need a container image that has Headrace installed.",
            allowed="--sdk_container_image=REGISTRY/IMAGE:TAG",
            hint="README.md has a Dockerfile for it.",
        )
