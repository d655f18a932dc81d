"""ORC files read by a process of its own, since pyarrow's reader trusts them: a damaged one can end its process."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

PROGRAM = Path(__file__).with_name("orc_program.py")
_BATCH_BYTES = 4 << 20
_IDLE = 2  # processes that are kept for the next file or part, of 60 MB each
_KEPT = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "TZDIR")
_lock = threading.Lock()
_idle: list[_Process] = []


class _Stripe(NamedTuple):
    number: int
    columns: list[str]
    rows: int
    bytes: int


class _Opened:
    """What a process holds: a file, and the stripe that was read of it last, until its last row was asked for."""

    def __init__(self, key: Any, schema: pa.Schema, stripes: int) -> None:
        self.key = key
        self.schema = schema
        self.stripes = stripes
        self.stripe: _Stripe | None = None


class OrcReader:
    """One ORC file: its schema, and how many stripes it has."""

    def __init__(self, process: _Process, file: BinaryIO, key: Any) -> None:
        self._process = process
        self._file = file
        if process.opened is None or process.opened.key != key:
            path = os.path.abspath(file.name) if isinstance(file, io.FileIO) else None  # noqa: PTH100
            found, data = process.call(file, "open", path, file.seek(0, os.SEEK_END))
            process.opened = _Opened(key, pa.ipc.read_schema(pa.py_buffer(data)), found["stripes"])
        self._opened = process.opened
        self.schema = self._opened.schema
        self.stripes = self._opened.stripes

    def count(self, stripe: int, columns: Sequence[str]) -> int:
        """How many rows a stripe has, of which the columns are read."""
        return self._stripe(stripe, columns).rows

    def read(self, number: int, columns: Sequence[str], skip: int, most: int) -> Iterator[pa.RecordBatch]:
        """A stripe's columns behind the rows that are skipped, of so many rows at most, about 4 MiB at a time."""
        stripe = self._stripe(number, columns)
        step = max(1, stripe.rows * _BATCH_BYTES // max(1, stripe.bytes))
        end = min(stripe.rows, skip + most)
        for start in range(skip, end, step):
            _, data = self._process.call(self._file, "rows", start, min(step, end - start))
            with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
                yield from stream
        if end == stripe.rows:
            self._opened.stripe = None

    def _stripe(self, number: int, columns: Sequence[str]) -> _Stripe:
        held = self._opened.stripe
        if held is None or (held.number, held.columns) != (number, list(columns)):
            self._opened.stripe = None
            found, _ = self._process.call(self._file, "stripe", number, list(columns))
            held = _Stripe(number, list(columns), found["rows"], found["bytes"])
            self._opened.stripe = held
        return held


@contextlib.contextmanager
def open_orc(file: BinaryIO, key: Any = None) -> Iterator[OrcReader]:
    """The ORC file that `file` reads.

    Args:
      key: the same for no other bytes. With it a stripe of which some rows were read is kept for who reads the next.

    Raises:
      OSError, ValueError: so does whatever is done with the reader where it cannot be read.
    """
    process = _taken(key)
    try:
        yield OrcReader(process, file, key)
    finally:
        process.release(keep=key is not None)


def _taken(key: Any) -> _Process:
    with _lock:
        # First who holds what is wanted, then who holds nothing.
        _idle.sort(key=lambda process: process.opened is not None and 1 - 2 * (process.opened.key == key))
        while _idle:
            process = _idle.pop(0)
            if process.answers():
                return process
            process.stop()
    return _Process()


class _Process:
    """A process that runs `orc_program`."""

    def __init__(self) -> None:
        # It has none of our modules, of what is open here, and of the environment's secrets.
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self.opened: _Opened | None = None
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept,
        )

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def answers(self) -> bool:
        """Whether it can be used: while the system ends it, it seems to run and says nothing."""
        try:
            self.call(io.BytesIO(), "ping")
        except OSError:
            return False
        return True

    def call(self, file: BinaryIO, name: str, *arguments: Any) -> tuple[Any, Any]:
        """What the program answers to a call, while it is given the bytes of `file` that it asks for."""
        try:
            self._send({"call": name, "arguments": arguments})
            while True:
                answer, data = self._receive()
                if "read" not in answer:
                    break
                start, size = answer["read"]
                file.seek(start)
                found = file.read(size)
                self._send({"size": len(found)}, found)
        except (BrokenPipeError, EOFError):
            raise OSError(f"pyarrow's reader, a process of its own, {self._end()}") from None
        except BaseException:
            self._process.kill()  # it waits for what will not come
            raise
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer, data

    def release(self, *, keep: bool) -> None:
        """Keeps the process for whoever comes next if it is as it should be, and what it holds if `keep` is set."""
        if not keep or self.opened is None or self.opened.stripe is None:
            self.opened = None
            with contextlib.suppress(OSError):
                self.call(io.BytesIO(), "close")
        with _lock:
            if self.lives and len(_idle) < _IDLE:
                _idle.append(self)
                return
        self.stop()

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _end(self) -> str:
        code = self._process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    def _send(self, message: dict[str, Any], data: bytes = b"") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n" + data)
        self._process.stdin.flush()

    def _receive(self) -> tuple[Any, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError
        message = json.loads(line)
        data = self._process.stdout.read(message["size"])
        if len(data) < message["size"]:
            raise EOFError
        return message, data


@atexit.register
def _stop_all() -> None:
    with _lock:
        while _idle:
            _idle.pop().stop()
