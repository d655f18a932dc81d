"""A program of its own, which knows ORC and nothing else: what a hostile file does to pyarrow ends it alone.

Bytes of a remote file it asks for from the process that started it (`orc_reader`). A message is a line of JSON, and
as many bytes behind it as its `size` says. Run by path, so that none of Headrace's packages is imported.
"""

from __future__ import annotations

import io
import json
import resource
import signal
import sys
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow.orc import ORCFile

# A few bytes of a file can claim any number of rows.
MAX_BYTES = 4 << 30  # of memory
MAX_SECONDS = 120  # of processor time for a stripe


class Parent:
    """The process that started this one."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next message."""
        line = self._source.readline()
        if not line:
            raise EOFError
        message = json.loads(line)
        return message, self._source.read(message.get("size", 0))

    def send(self, message: dict[str, Any], data: Any = b"") -> None:
        """A message."""
        size = memoryview(data).nbytes
        self._sink.write(json.dumps({**message, "size": size}).encode() + b"\n")
        self._sink.write(data)
        self._sink.flush()


class Asked(io.RawIOBase):
    """The file, whose bytes the parent reads."""

    def __init__(self, parent: Parent, size: int) -> None:
        self._parent = parent
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self._place = place + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._place)
        size = left if size < 0 else min(size, left)
        self._parent.send({"read": [self._place, size]})
        _, data = self._parent.receive()
        self._place += len(data)
        return data


class Reader:
    """What is asked for: a file, then its stripes one by one, then rows of the stripe."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._orc: Any = None
        self._rows: Any = None

    def open(self, path: str | None, size: int) -> tuple[dict[str, Any], Any]:
        """A file of this machine, or one of so many bytes: its schema, and how many stripes it has."""
        file = Asked(self._parent, size) if path is None else open(path, "rb", buffering=0)  # noqa: SIM115
        self._orc = ORCFile(pa.PythonFile(file, mode="r"))
        return {"stripes": self._orc.nstripes}, self._orc.schema.serialize()

    def stripe(self, number: int, columns: list[str]) -> tuple[dict[str, Any], Any]:
        """How many rows a stripe has, and how many bytes they take."""
        self._rows = None
        self._rows = self._orc.read_stripe(number, columns=columns)
        self._rows.validate()
        return {"rows": self._rows.num_rows, "bytes": self._rows.nbytes}, b""

    def rows(self, start: int, count: int) -> tuple[dict[str, Any], Any]:
        """Rows of the stripe."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._rows.schema) as stream:
            stream.write_batch(self._rows.slice(start, count))
        return {}, sink.getvalue()

    def ping(self) -> tuple[dict[str, Any], Any]:
        """That it runs."""
        return {}, b""

    def close(self) -> tuple[dict[str, Any], Any]:
        """Nothing is held any more."""
        self._orc = self._rows = None
        return {}, b""


def main() -> None:
    """Answers until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it says when to end
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    parent = Parent(sys.stdin.buffer, sys.stdout.buffer)
    reader = Reader(parent)
    while True:
        try:
            call, _ = parent.receive()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)  # ends the process
        try:
            answer = getattr(reader, call["call"])(*call["arguments"])
        except EOFError:
            return
        except Exception as error:
            parent.send({"error": str(error) or type(error).__name__})
        else:
            parent.send(*answer)


if __name__ == "__main__":
    main()
