"""The boot program of a worker: what runners start where a task is to run, as `headrace-worker`.

It follows Beam's container contract: it asks the runner's provision service for endpoints and options, hands them to
Beam's worker in the environment, and becomes that worker. Runners whose workers are processes (`PROCESS`) start it
themselves; Beam's worker pool (`EXTERNAL`) does so with `--container_executable`. It installs nothing: the packages
are those of its own Python.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from beam_jobs.memory import bound_memory
from beam_jobs.wire import TASKS_VARIABLE

COMMAND = "headrace-worker"
# At a time. Prism hands a worker 8, Flink as many as a task manager has slots; each may hold a hundred megabytes, and
# Python makes little of more of them in one process.
TASKS = 4
_ANSWER_SECONDS = 60.0
_POLL_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a worker until its runner dismisses it."""
    arguments = _parser().parse_args(argv)
    bound_memory()
    os.environ.setdefault(TASKS_VARIABLE, str(TASKS))
    end_with(os.getppid())
    # Beam's worker pool gives its workers a pipe for standard output that it never reads: 64 KiB of a user
    # function's prints, and they would wait for ever.
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # User functions may lie in the current folder, as they may for the command itself.
    if "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109 - of the process, as sys.path means it
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    # Prism puts the name in quotes, which are no part of it.
    worker_id = arguments.id.strip("'\"")
    os.environ.update(environment(worker_id, arguments, provision(worker_id, arguments.provision_endpoint)))

    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])
    return 0


def entry() -> None:
    """The console command."""
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a bundle that was given up may have left threads behind


def provision(worker_id: str, endpoint: str) -> Any:
    """What the runner tells a worker that starts: a `ProvisionInfo` of Beam's.

    Raises:
      grpc.RpcError: nobody answers there.
    """
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc

    with grpc.insecure_channel(endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        answer = service.GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=[("worker_id", worker_id)],
            timeout=_ANSWER_SECONDS,
            wait_for_ready=True,
        )
    return answer.info


def environment(worker_id: str, arguments: argparse.Namespace, info: Any) -> dict[str, str]:
    """The variables in which Beam's worker looks for its endpoints and options."""
    from google.protobuf import json_format, text_format  # type: ignore[import-untyped]

    variables = {
        "WORKER_ID": worker_id,
        "SEMI_PERSISTENT_DIRECTORY": arguments.semi_persist_dir,
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options, indent=None),
    }
    for name, endpoint, given in (
        ("CONTROL", info.control_endpoint, arguments.control_endpoint),
        ("LOGGING", info.logging_endpoint, arguments.logging_endpoint),
        ("STATUS", info.status_endpoint, ""),
    ):
        # A runner may name its endpoints on the command line, by the service, or both.
        if given:
            endpoint.url = given
        if endpoint.url:
            variables[f"{name}_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(endpoint)
    return variables


def end_with(parent: int) -> None:
    """Ends this process when its parent has ended: nobody else would, after a kill -9 of the runner."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="headrace-parent", daemon=True).start()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Started by Beam runners, not by people: a worker that has Headrace installed.",
        epilog="A pool of such workers, for --environment_type=EXTERNAL:\n"
        "  python -m apache_beam.runners.worker.worker_pool_main --service_port=50000 "
        f"--container_executable={COMMAND}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--id", required=True, help="the worker's name")
    parser.add_argument(
        "--provision_endpoint", required=True, metavar="HOST:PORT", help="where the runner tells the rest"
    )
    for name in ("control_endpoint", "logging_endpoint", "artifact_endpoint"):
        parser.add_argument(f"--{name}", default="", metavar="HOST:PORT")
    parser.add_argument("--semi_persist_dir", default="/tmp", metavar="DIR")  # noqa: S108 - the contract's default
    return parser


if __name__ == "__main__":
    entry()
