"""From a runner's name and Beam options to a pipeline that runs, and fails when it should.

The embedded default is Beam's `FnApiRunner`, always named explicitly: `DirectRunner` first looks for Prism, and
downloads it where it is missing. What other runners need is in `engines`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, PortableOptions
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.runner import PipelineState
from apache_beam.runners.worker import bundle_processor
from apache_beam.runners.worker.statesampler import StateSampler, set_current_tracker

from beam_jobs.embedded import embedded_runner, run_watched
from beam_jobs.engines import (
    FLINK_OPTIONS,
    check_dry_run,
    check_output,
    complete,
    cores,
    is_embedded,
    runner_name,
)
from beam_jobs.files import scratch_errors
from beam_jobs.pickles import uncompressed
from beam_jobs.remembered import remembered
from beam_jobs.servers import JobServer, job_server
from beam_jobs.wire import WithoutKnownErrors
from schemas import HeadraceError
from schemas.errors import error_in_text

__all__ = ["check_output", "parse_options", "run_pipeline"]

_GRACE_SECONDS = 5.0
# As Beam names its threads that wait for a job server.
_WORKER_THREADS = ("run_worker_", "read_state", "read_grpc_client_inputs", "wait_until_finish_read")
_TOLD_LINES = 12  # of what a runner says of a failure that is none of ours
_FEW_BUFFERS = (
    "Flink's task managers need more network memory, or `taskmanager.network.sort-shuffle.min-buffers: 64`."
)
_GO_ON = "What is finished is kept; run the same command again."


def parse_options(flags: Sequence[str]) -> PipelineOptions:
    """Beam options from command-line flags, with the embedded runner on all cores as the default.

    Raises:
      HeadraceError: a flag is not one of Beam's, or the runner needs something that is missing.
    """
    options = PipelineOptions(list(flags))
    if flags:  # Beam takes 10 ms to tell all of them
        _refuse_unknown(options, flags)
    check_dry_run(options)
    if is_embedded(options):
        direct = options.view_as(DirectOptions)
        if not any(flag.startswith("--direct_running_mode") for flag in flags):
            direct.direct_running_mode = "multi_threading"
        if not any(flag.startswith("--direct_num_workers") for flag in flags):
            direct.direct_num_workers = 1 if direct.direct_running_mode == "in_memory" else cores()
    else:
        complete(options)
    return options


def _refuse_unknown(options: PipelineOptions, flags: Sequence[str]) -> None:
    known = options.get_all_options(drop_default=True)
    strange = set(options.get_all_options(drop_default=True, retain_unknown_options=True)) - set(known)
    if runner_name(options) == "FlinkRunner":
        strange -= FLINK_OPTIONS
    stray = [flag for flag in flags if not flag.startswith("-")] if not known else []
    if strange or stray:
        raise HeadraceError(
            "Unknown option.",
            value=", ".join([f"--{name}" for name in sorted(strange)] + stray),
            hint="`headrace run --help` lists the options; Beam's own are written --name=value.",
        )


def run_pipeline(
    build: Callable[[beam.Pipeline], None], options: PipelineOptions, lock: Path | None = None
) -> Any:
    """Builds a pipeline and runs it to its end, by a job that holds `lock`, if any; gives Beam's result.

    Raises:
      HeadraceError: a stage failed with one, a worker process died, or the engine failed.
      RuntimeError: a stage of the embedded runner failed in another way.
    """
    if not is_embedded(options):
        with _quiet_threads() as printed, job_server(options) as server:
            return _run_elsewhere(build, options, server, printed)
    by_processes = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    with remembered(), contextlib.nullcontext() if by_processes else uncompressed():
        with scratch_errors():  # it makes a folder for what it would upload
            pipeline = beam.Pipeline(runner=embedded_runner(options, lock), options=options)
        build(pipeline)
        if by_processes:
            return run_watched(lambda: _run(pipeline))
        return _run(pipeline)


def _run(pipeline: beam.Pipeline) -> None:
    try:
        with _known_errors(), _no_samplers(), _unpickled_here(), _whole_elements(), _nothing_cached():
            pipeline.run().wait_until_finish()
    except (HeadraceError, RuntimeError):
        raise
    except Exception as error:  # of a thread of ours: as a worker process tells it
        raise RuntimeError("".join(traceback.format_exception_only(error)).strip()) from error


def _run_elsewhere(
    build: Callable[[beam.Pipeline], None],
    options: PipelineOptions,
    server: JobServer | None,
    printed: WithoutKnownErrors,
) -> Any:
    """Runs on an engine of its own, which is told to stop when we are, and whose failures are said in a few lines."""
    name = runner_name(options)
    try:
        with _known_errors():
            pipeline = _checked_pipeline(options)
            build(pipeline)
            result = pipeline.run()
            if server is not None:
                server.hear_interrupts()
                if name == "PrismRunner" and options.view_as(PortableOptions).environment_type == "PROCESS":
                    server.watch_workers()
            try:
                result.wait_until_finish()
            except KeyboardInterrupt:
                printed.stopped = True
                with contextlib.suppress(grpc.RpcError):  # it has heard it too, and ended
                    result.cancel()
                raise
            if result.state not in (PipelineState.DONE, PipelineState.UNKNOWN):
                raise HeadraceError(f"The job ended as {result.state} on {name}.", hint=_GO_ON)
            return result
    except (grpc.RpcError, RuntimeError, ValueError) as error:
        what, told = f"The job failed on {name}.", _told(error, server)
        if server is not None and server.lost.is_set():
            what = f"The worker that {name} started has ended, and no other took its place."
        elif server is not None and server.ended():
            what = f"{name} ended in the middle of the job."
            if (status := server.process.returncode) < 0:
                # What was printed last are the laments of its workers.
                what, told = f"{name} was ended in the middle of the job, by signal {-status}.", []
        hint = f"{_FEW_BUFFERS} {_GO_ON}" if "network buffers" in str(error) else _GO_ON
        raise HeadraceError("\n".join([what, *told]), hint=hint) from error


def _checked_pipeline(options: PipelineOptions) -> beam.Pipeline:
    try:
        with scratch_errors():
            return beam.Pipeline(options=options)
    except ValueError as error:
        raise HeadraceError(f"Beam does not take these options. {error}".strip()) from error


def _told(error: Exception, server: JobServer | None) -> list[str]:
    """What is known of a failure, in a few lines."""
    if isinstance(error, grpc.RpcError):
        return server.last_words(_TOLD_LINES) if server is not None else [f"  {error.details()}"]
    lines = [f"  {line}" for line in str(error).strip().splitlines()]
    if len(lines) > _TOLD_LINES:
        lines = [*lines[: _TOLD_LINES // 2], "  …", *lines[-_TOLD_LINES // 2 :]]
    return lines


@contextlib.contextmanager
def _quiet_threads() -> Iterator[WithoutKnownErrors]:
    """No tracebacks of Beam's threads whose connection is gone: that it is, the main thread tells.

    Gives standard error as it is meanwhile, which can be told that the job was stopped.
    """
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, grpc.RpcError):
            before(arguments)

    threading.excepthook = hook
    with contextlib.redirect_stderr(WithoutKnownErrors(sys.stderr)) as printed:
        try:
            yield printed
        finally:
            # Those of a worker in this process, which notice only now that the job server is gone.
            for thread in threading.enumerate():
                if thread.name.startswith(_WORKER_THREADS):
                    thread.join(_GRACE_SECONDS)
            threading.excepthook = before


@contextlib.contextmanager
def _known_errors() -> Iterator[None]:
    """Lets HeadraceErrors of workers arrive as such, and once."""
    try:
        with contextlib.redirect_stderr(WithoutKnownErrors(sys.stderr)):
            yield
    except Exception as error:
        known = error if isinstance(error, HeadraceError) else error_in_text(str(error))
        if known is None:
            raise
        raise known from error


@contextlib.contextmanager
def _no_samplers() -> Iterator[None]:
    """Keeps workers of this process from sampling where time goes, which nobody looks at.

    For every stage and worker Beam starts a thread that does so, and waits at the end for it to wake up, up to 200 ms.
    """
    start, stop = StateSampler.start, StateSampler.stop
    StateSampler.start, StateSampler.stop = _only_started, _only_stopped
    try:
        yield
    finally:
        StateSampler.start, StateSampler.stop = start, stop


def _only_started(sampler: StateSampler) -> None:
    sampler.tracked_thread = threading.current_thread()
    set_current_tracker(sampler)
    sampler.started = True


def _only_stopped(sampler: StateSampler) -> None:
    set_current_tracker(None)
    sampler.finished = True


@contextlib.contextmanager
def _unpickled_here() -> Iterator[None]:
    """Lets workers of this process unpickle a stage's functions in the thread that is to call them.

    For every stage and worker Beam starts a thread for it, so as to end the worker where that takes an hour. To wait
    for the interpreter's lock twice takes longer than what the thread does.
    """
    before = bundle_processor.concurrent
    bundle_processor.concurrent = SimpleNamespace(futures=_HERE)
    try:
        yield
    finally:
        bundle_processor.concurrent = before


class _Here:
    """A pool of threads that does everything at once, in the thread that asks for it."""

    def __init__(self, **_: Any) -> None:
        """Takes what a pool takes."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Calls the function; what it raises is raised here."""
        done = Future[Any]()
        done.set_result(function(*arguments))
        return done


_HERE = SimpleNamespace(ThreadPoolExecutor=_Here, TimeoutError=TimeoutError)


@contextlib.contextmanager
def _whole_elements() -> Iterator[None]:
    """Keeps half an element from being sent to or from a worker.

    A timer of Beam's sends what has been written to its servers, once a second, whether or not another thread is in
    the middle of writing an element. The halves are read as elements: garbage, wrong values, or a count of 2**31 for
    which they take 20 GB. Zero turns it off.
    """
    before = worker_handlers.DATA_BUFFER_TIME_LIMIT_MS
    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
    try:
        yield
    finally:
        worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = before


@contextlib.contextmanager
def _nothing_cached() -> Iterator[None]:
    """Keeps workers of this process from caching what lies beside their elements, which this process has anyway.

    To know how much memory it takes, Beam walks through the globals of all modules: 2 ms for each stage and worker.
    """
    before = worker_handlers.STATE_CACHE_SIZE_MB
    worker_handlers.STATE_CACHE_SIZE_MB = 0
    try:
        yield
    finally:
        worker_handlers.STATE_CACHE_SIZE_MB = before
