"""The embedded runner, and an eye on its worker processes: Beam itself waits for ever for one that was killed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.portability.python_urns import EMBEDDED_PYTHON, EMBEDDED_PYTHON_GRPC, SUBPROCESS_SDK
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, fn_runner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineRunner

from beam_jobs import embedded_worker
from beam_jobs.engines import import_path
from schemas import HeadraceError

# What a worker process is given to end by itself once the pipeline is done.
_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.2
_CLOSED = "Channel closed prematurely"  # in Beam's error
_WORKER_THREAD = "run_worker"  # as Beam names the thread that waits for a worker process


def embedded_runner(options: PipelineOptions, lock: Path | None) -> PipelineRunner:
    """Beam's runner in this process, by a job that holds `lock`; its worker processes share it."""
    info = None
    if options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        # Worker processes learn the pipeline's options only from the provision service.
        info = ExtendedProvisionInfo(
            beam_provision_api_pb2.ProvisionInfo(
                pipeline_options=JobServiceHandle.encode_pipeline_options(options.get_all_options()),
                retrieval_token="unused",  # noqa: S106 - no artifact is ever retrieved
            )
        )
    return _EmbeddedRunner(embedded_worker.command(lock), provision_info=info)


class _EmbeddedRunner(FnApiRunner):
    """Beam's, with our command for worker processes, which has no option, and without servers for threads."""

    def __init__(self, command: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._command = command

    def run_via_runner_api(self, pipeline_proto: Any, options: PipelineOptions) -> Any:
        """Runs the pipeline, its workers started by our command."""
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == SUBPROCESS_SDK:
                environment.payload = self._command.encode()
            elif environment.urn == EMBEDDED_PYTHON_GRPC:
                # Workers that are threads of this process need no server to talk to it.
                environment.urn, environment.payload = EMBEDDED_PYTHON, b""
        return super().run_via_runner_api(pipeline_proto, options)

    def _get_bundle_manager(self, bundle_context_manager: Any) -> Any:
        found = super()._get_bundle_manager(bundle_context_manager)
        if type(found) is not fn_runner.ParallelBundleManager:
            return found
        return _BundleManager(
            bundle_context_manager,
            self._progress_frequency,
            cache_token_generator=self.get_cache_token_generator(static=False),
        )


class _BundleManager(fn_runner.ParallelBundleManager):
    """Beam's, which does not have every worker set up a stage of which but one has anything to do."""

    def process_bundle(
        self,
        inputs: Mapping[str, Any],
        expected_outputs: Any,
        fired_timers: Mapping[Any, Any],
        expected_output_timers: Any,
        dry_run: bool = False,
    ) -> Any:
        """Processes the inputs of a stage, by all workers at a time where there are enough elements."""
        parts = {name: given.partition(self._num_workers) for name, given in inputs.items()}
        if fired_timers or any(any(others) for part in parts.values() for others in part[1:]):
            return super().process_bundle(
                inputs, expected_outputs, fired_timers, expected_output_timers, dry_run
            )
        # Elements are dealt from the first worker on.
        first = {name: part[0] for name, part in parts.items()}
        return fn_runner.BundleManager.process_bundle(
            self, first, expected_outputs, fired_timers, expected_output_timers, dry_run
        )


def run_watched(run: Callable[[], None]) -> None:
    """Calls `run`, and ends the workers and the wait for them when one of them dies.

    Raises:
      HeadraceError: a worker process died.
    """
    outcome: list[BaseException | None] = []

    def target() -> None:
        try:
            run()
            outcome.append(None)
        except BaseException as error:  # handed to the caller's thread, whatever it is
            outcome.append(error)

    with _workers_can_import(), _noticed_deaths() as died:
        thread = threading.Thread(target=target, name="headrace-pipeline", daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not died.is_set():
                thread.join(_POLL_SECONDS)
        except BaseException:  # Ctrl-C reaches us alone where nobody types it
            _kill_workers()
            raise
        # A worker may fail while it shuts down, when all is done; then the pipeline ends as well.
        thread.join(_GRACE_SECONDS)
        # The pipeline may find that a worker's channel is closed before anyone sees that the worker is dead.
        closed = bool(outcome) and _CLOSED in str(outcome[0]) and died.wait(_GRACE_SECONDS)
    if thread.is_alive() or closed:
        _kill_workers()
        raise HeadraceError(
            "A worker process died, so the job was stopped.",
            hint="It may have run out of memory. What is finished is kept; run the same command again.",
        ) from (outcome[0] if outcome else None)
    if outcome and outcome[0] is not None:
        raise outcome[0]


@contextlib.contextmanager
def _noticed_deaths() -> Iterator[threading.Event]:
    """An event that is set when a worker process dies: the thread of Beam's that waits for it then raises."""
    died = threading.Event()
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.thread is not None and arguments.thread.name == _WORKER_THREAD:
            died.set()
        else:
            before(arguments)

    threading.excepthook = hook
    try:
        yield died
    finally:
        threading.excepthook = before


def _kill_workers() -> None:
    workers = psutil.Process().children(recursive=True)
    workers = [worker for worker in workers if embedded_worker.MODULE in _command_of(worker)]
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    psutil.wait_procs(workers, timeout=_GRACE_SECONDS)


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []  # it ended meanwhile


@contextlib.contextmanager
def _workers_can_import() -> Iterator[None]:
    """Lets worker processes import what this process can, such as user functions in the current folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = import_path()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
