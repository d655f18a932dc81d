"""From a runner's name and Beam options to a pipeline that runs, and fails when it should.

The embedded default is Beam's `FnApiRunner`, always named explicitly: `DirectRunner` first looks for Prism, and
downloads it where it is missing.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import apache_beam as beam
import psutil
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineRunner
from apache_beam.runners.worker.statesampler import DEFAULT_SAMPLING_PERIOD_MS, StateSampler

from schemas import HeadraceError
from schemas.errors import error_in_text

EMBEDDED_NAMES = ("DirectRunner", "FnApiRunner", "EmbeddedRunner")
# What a worker process is given to end by itself once the pipeline is done.
_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.2
_SAMPLING_PERIOD_MS = 10
_WORKER_THREAD = "run_worker"  # as Beam names the thread that waits for a worker process
_WORKER_MODULE = "apache_beam.runners.worker.sdk_worker_main"


def parse_options(flags: Sequence[str]) -> PipelineOptions:
    """Beam options from command-line flags, with the embedded runner on all cores as the default.

    Raises:
      HeadraceError: a flag is not one of Beam's.
    """
    options = PipelineOptions(list(flags))
    known = options.get_all_options(drop_default=True)
    strange = sorted(
        set(options.get_all_options(drop_default=True, retain_unknown_options=True)) - set(known)
    )
    stray = [flag for flag in flags if not flag.startswith("-")] if not known else []
    if strange or stray:
        raise HeadraceError(
            "Unknown option.",
            value=", ".join([f"--{name}" for name in strange] + stray),
            hint="`headrace run --help` lists the options; Beam's own are written --name=value.",
        )
    direct = options.view_as(DirectOptions)
    if is_embedded(options):
        if not any(flag.startswith("--direct_running_mode") for flag in flags):
            direct.direct_running_mode = "multi_threading"
        if not any(flag.startswith("--direct_num_workers") for flag in flags):
            direct.direct_num_workers = 1 if direct.direct_running_mode == "in_memory" else cores()
    return options


def is_embedded(options: PipelineOptions) -> bool:
    """Whether the options ask for the embedded runner."""
    return (options.view_as(StandardOptions).runner or "DirectRunner").split(".")[-1] in EMBEDDED_NAMES


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0))


def run_pipeline(build: Callable[[beam.Pipeline], None], options: PipelineOptions) -> None:
    """Builds a pipeline and runs it to its end.

    Raises:
      HeadraceError: a stage failed with one, or a worker process died.
      RuntimeError: a stage failed in another way.
    """
    runner = _embedded_runner(options) if is_embedded(options) else None
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    if runner is not None and options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        _run_watched(lambda: _run(pipeline))
    else:
        _run(pipeline)


def _embedded_runner(options: PipelineOptions) -> PipelineRunner:
    # Worker processes learn the pipeline's options only from the provision service.
    info = beam_provision_api_pb2.ProvisionInfo(
        pipeline_options=JobServiceHandle.encode_pipeline_options(options.get_all_options()),
        retrieval_token="unused",  # noqa: S106 - no artifact is ever retrieved
    )
    return FnApiRunner(provision_info=ExtendedProvisionInfo(info))


def _run(pipeline: beam.Pipeline) -> None:
    try:
        with (
            contextlib.redirect_stderr(_WithoutKnownErrors(sys.stderr)),
            _prompt_samplers(),
            _whole_elements(),
        ):
            pipeline.run().wait_until_finish()
    except Exception as error:
        known = error if isinstance(error, HeadraceError) else error_in_text(str(error))
        if known is None:
            raise
        raise known from error


@contextlib.contextmanager
def _prompt_samplers() -> Iterator[None]:
    """Lets a stage of this process end when its work does.

    At a stage's end Beam joins a thread that samples where time goes, and which by then sleeps 200 ms at a time:
    two stages of a small job wait longer for it than they work. There is no option for that period.
    """
    initializer = StateSampler.__init__
    before = initializer.__defaults__
    if before == (DEFAULT_SAMPLING_PERIOD_MS,):  # else Beam has changed, and knows better
        initializer.__defaults__ = (_SAMPLING_PERIOD_MS,)
    try:
        yield
    finally:
        initializer.__defaults__ = before


@contextlib.contextmanager
def _whole_elements() -> Iterator[None]:
    """Keeps workers that are threads from sending half an element.

    A timer of Beam's sends what such a worker has written, once a second, whether or not another thread is in the
    middle of writing an element. The runner reads the halves as elements: garbage, wrong values, or a count of
    2**31 for which it takes 20 GB. Workers of their own processes have no such timer. Zero turns it off.
    """
    before = worker_handlers.DATA_BUFFER_TIME_LIMIT_MS
    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
    try:
        yield
    finally:
        worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = before


class _WithoutKnownErrors(io.TextIOBase):
    """Standard error without the tracebacks that Beam prints of errors that reach the user in a better form."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Passes on what is no known error."""
        return len(text) if error_in_text(text) is not None else self._stream.write(text)

    def flush(self) -> None:
        """Flushes the stream itself."""
        self._stream.flush()


def _run_watched(run: Callable[[], None]) -> None:
    """Runs with an eye on the worker processes: Beam itself waits for ever for one that was killed."""
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
            while thread.is_alive() and not died.wait(_POLL_SECONDS):
                pass
        except BaseException:  # Ctrl-C reaches us alone where nobody types it
            _kill_workers()
            raise
        # A worker may fail while it shuts down, when all is done; then the pipeline ends as well.
        thread.join(_GRACE_SECONDS)
    if thread.is_alive():
        _kill_workers()
        raise HeadraceError(
            "A worker process died, so the job was stopped.",
            hint="It may have run out of memory. What is finished is kept; run the same command again.",
        )
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
    workers = [worker for worker in workers if _WORKER_MODULE in " ".join(_command_of(worker))]
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
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(str(Path(path).resolve()) for path in sys.path))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
