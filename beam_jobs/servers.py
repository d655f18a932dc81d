"""The job server of a portable runner: a process that is started for one job, watched, and stopped with it."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from apache_beam.options.pipeline_options import JobServerOptions, PipelineOptions, PortableOptions
from apache_beam.runners.portability.flink_runner import FlinkJarJobServer
from apache_beam.runners.portability.prism_runner import PrismJobServer

from beam_jobs.engines import check_cluster, runner_name
from schemas import HeadraceError

_STOP_SECONDS = 10.0
_WORKERLESS_SECONDS = 15.0
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class JobServer:
    """A running job server, the file of all that it and its workers print, and whether it has lost its workers."""

    process: subprocess.Popen[bytes]
    log: Path
    lost: threading.Event = field(default_factory=threading.Event)

    def ended(self) -> bool:
        """Whether the process is there no more."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_POLL_SECONDS)
        return self.process.poll() is not None

    def last_words(self, lines: int) -> list[str]:
        """The last lines that it printed."""
        printed = self.log.read_text(errors="replace").strip().splitlines()
        return [f"  {line}" for line in printed[-lines:]]

    def watch_workers(self) -> None:
        """Ends the server when it has no worker process any more, which are its children: Prism may wait for ever."""

        def watch() -> None:
            seen = time.monotonic()
            while self.process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    if psutil.Process(self.process.pid).children():
                        seen = time.monotonic()
                if time.monotonic() > seen + _WORKERLESS_SECONDS:
                    self.lost.set()
                    self.process.kill()
                time.sleep(_POLL_SECONDS)

        threading.Thread(target=watch, name="headrace-workers", daemon=True).start()

    @staticmethod
    def hear_interrupts() -> None:
        """Takes Ctrl-C back from Beam, which would end the job server before the job can be cancelled."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def job_server(options: PipelineOptions) -> Iterator[JobServer | None]:
    """The job server that the options ask for, if any; the options then name its endpoint.

    Raises:
      HeadraceError: it does not start, or its cluster does not answer.
    """
    portable = options.view_as(PortableOptions)
    if runner_name(options) not in ("PrismRunner", "FlinkRunner") or portable.job_endpoint:
        yield None
        return
    check_cluster(options)
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        server, endpoint = _start(options, Path(folder))
        try:
            _await(server, endpoint, portable.job_server_timeout)
            portable.job_endpoint = endpoint
            yield server
        finally:
            portable.job_endpoint = None
            _stop(server.process)


def _start(options: PipelineOptions, folder: Path) -> tuple[JobServer, str]:
    if runner_name(options) == "PrismRunner":
        command, endpoint = PrismJobServer(options).subprocess_cmd_and_endpoint()
    else:
        served = options.view_as(JobServerOptions)
        served.artifacts_dir = served.artifacts_dir or str(folder / "artifacts")
        command, endpoint = FlinkJarJobServer(options).subprocess_cmd_and_endpoint()
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - a program that the user named, without a shell
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: the job is cancelled first
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call of the system
        )
    return JobServer(process, log), endpoint


def _die_with_parent() -> None:
    """In the child, before it runs: a kill -9 of ours must not leave a job behind that nobody waits for."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _await(server: JobServer, endpoint: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with grpc.insecure_channel(endpoint) as channel:
        ready = grpc.channel_ready_future(channel)
        while True:
            with contextlib.suppress(grpc.FutureTimeoutError):
                ready.result(timeout=_POLL_SECONDS)
                return
            if server.process.poll() is None and time.monotonic() < deadline:
                continue
            ready.cancel()
            program = Path(str(server.process.args[0])).name  # type: ignore[index]
            raise HeadraceError(
                "\n".join([f"The job server ({program}) did not start.", *server.last_words(12)]),
                hint="Is it the one of this machine and of this version of Beam?",
            )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
