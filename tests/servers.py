"""Servers on loopback: S3 and GCS as their own processes, files over HTTP, and a proxy that fails on purpose."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

BUCKET = "bucket"
SLOW_SECONDS = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(*command: str, python: str | Path = sys.executable) -> Iterator[int]:
    """A server process, `{port}` in its command filled in; yields the port once it answers."""
    port = free_port()
    arguments = [str(python), *(part.format(port=port) for part in command)]
    # A file: nobody would drain a pipe.
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(process, port, log)
            yield port
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[bytes], port: int, log: IO[str], seconds: int = 60) -> None:
    """Until the server answers; `log` is what it writes."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        ended = process.poll() is not None
        assert not ended, f"{process.args!r} ended: {log.seek(0) or log.read()}"
        assert time.monotonic() < deadline, f"{process.args!r} does not answer"
        time.sleep(0.05)


def s3_server() -> contextlib.AbstractContextManager[int]:
    return running("-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}")


def gcs_server() -> contextlib.AbstractContextManager[int]:
    emulator = str(Path(__file__).with_name("gcs_emulator.py"))
    return running(emulator, "start", "-H", "127.0.0.1", "--port", "{port}", "-M", "-q")


@contextlib.contextmanager
def bigquery_server(python: str | Path = sys.executable) -> Iterator[tuple[int, int]]:
    """An emulator of BigQuery, by a Python that has it; yields its ports of REST and of gRPC."""
    program = str(Path(__file__).with_name("engines") / "bigquery_emulator.py")
    grpc_port = free_port()
    ports = ["--rest-port={port}", f"--grpc-port={grpc_port}"]
    with running(program, "start", *ports, python=python) as rest_port:
        yield rest_port, grpc_port


@contextlib.contextmanager
def emulator(kind: str) -> Iterator[int]:
    """A server of that kind, "gcs" or "s3", with an empty bucket."""
    with (s3_server if kind == "s3" else gcs_server)() as port:
        if kind == "s3":
            call(port, "PUT", f"/{BUCKET}")
        else:
            body = json.dumps({"name": BUCKET}).encode()
            call(port, "POST", "/storage/v1/b?project=p", body, **{"Content-Type": "application/json"})
        yield port


def call(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        data = response.read()
        assert response.status < 300, f"{method} {path}: {response.status} {data[:500]!r}"
        return data
    finally:
        connection.close()


def upload_s3(port: int, directory: Path, prefix: str) -> None:
    call(port, "PUT", f"/{BUCKET}")
    for path, data in files(directory):
        call(
            port,
            "PUT",
            urllib.parse.quote(f"/{BUCKET}/{prefix}/{path}"),
            data,
            **{"x-amz-acl": "public-read"},
        )


def upload_gcs(port: int, directory: Path, prefix: str) -> None:
    with contextlib.suppress(AssertionError):  # there already
        body = json.dumps({"name": BUCKET}).encode()
        call(port, "POST", "/storage/v1/b?project=p", body, **{"Content-Type": "application/json"})
    for path, data in files(directory):
        name = urllib.parse.quote(f"{prefix}/{path}", safe="")
        call(port, "POST", f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}", data)


def files(directory: Path) -> Iterator[tuple[str, bytes]]:
    """All but empty ones: the GCS emulator breaks at them, and no reader asks for them."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.stat().st_size:
            yield path.relative_to(directory).as_posix(), path.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # headers and body leave apart: the client's delayed answer would cost 40 ms
    )
    server: Any

    def do_GET(self) -> None:
        self.server.answer(self)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        """Silence."""

    def reply(self, status: int, body: bytes, headers: Mapping[str, str], send: int | None = None) -> None:
        """`send`: bytes of the body after which the connection breaks."""
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:send])
        if send is not None:
            self.wfile.flush()
            self.reset()

    def reset(self) -> None:
        """Breaks the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # else clients wait seconds for a second try to connect

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is nothing to print."""

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class FileServer(_Server):
    """The files of a directory over HTTP, by range."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__()

    def answer(self, handler: _Handler) -> None:
        path = self.directory / urllib.parse.unquote(handler.path.partition("?")[0].lstrip("/"))
        if not path.is_file():
            return handler.reply(404, b"no such file", {})
        data, headers, status = path.read_bytes(), {"Accept-Ranges": "bytes"}, 200
        headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'
        asked = handler.headers.get("Range")
        if asked:
            start, stop = (int(part) for part in asked.removeprefix("bytes=").split("-"))
            if start >= len(data):
                return handler.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{min(stop + 1, len(data)) - 1}/{len(data)}"
            data, status = data[start : stop + 1], 206
        if handler.command == "HEAD":
            headers["Content-Length"] = str(len(data))
        return handler.reply(status, data, headers)


class Faults(_Server):
    """A proxy before a server, which fails some requests, the same ones whenever the seed is the same.

    Args:
      port: of the server behind it.
      seed: decides, with the request and how often it came, whether and how it fails.
      shares: of requests that fail in each way: "503", "429", "403" …; "reset": the connection breaks in the middle
        of the body; "short": half of the body, as if it were all; "slow": 2 s late; "stall": never; "lost": the
        server has done it, and the answer never comes; "cut": the connection breaks before the server hears of it;
        "flip": a bit of what was sent is another one.
      at_most: failures of the same request.

    Attributes:
      count: failures, by their way.
      asked: requests, by method and path, as `Store.requests` names them.
      frozen: whether listings are as they were when first asked for.
    """

    def __init__(self, port: int, seed: int, shares: Mapping[str, float], at_most: int = 2) -> None:
        self.behind, self.seed, self.shares, self.at_most = port, seed, shares, at_most
        self.count: Counter[str] = Counter()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.frozen = False
        self._listings: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        super().__init__()

    def answer(self, handler: _Handler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        sent = handler.rfile.read(length)
        if len(sent) < length:  # the client has gone
            handler.close_connection = True
            return None
        fault = self._fault(handler)
        if fault == "stall":
            time.sleep(5)
            handler.close_connection = True
            return None
        if fault.isdigit():
            return handler.reply(int(fault), b"<Error><Code>SlowDown</Code></Error>", {"Retry-After": "0"})
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        if fault == "cut":
            return handler.reset()
        if fault == "flip" and sent:
            middle = len(sent) // 2
            sent = sent[:middle] + bytes([sent[middle] ^ 1]) + sent[middle + 1 :]
        status, body, headers = self._listed(handler) or self._forward(handler, sent)
        if fault == "lost":
            return handler.reset()
        if fault == "reset":
            return handler.reply(status, body, headers, send=len(body) // 2)
        if fault == "short" and status < 300 and handler.command == "GET":
            headers.pop("Content-Range", None)
            return handler.reply(status, body[: len(body) // 2], headers)
        return handler.reply(status, body, headers)

    def _forward(self, handler: _Handler, sent: bytes) -> tuple[int, bytes, dict[str, str]]:
        # Writes one after the other: moto looks and then writes, and two of its threads may both find nothing there.
        turn = contextlib.nullcontext() if handler.command in ("GET", "HEAD") else self._lock
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=30)
        try:
            headers = {name: value for name, value in handler.headers.items() if name != "Expect"}
            with turn:
                connection.request(handler.command, handler.path, sent or None, headers)
                response = connection.getresponse()
                body = response.read()
            return response.status, body, dict(response.getheaders())
        finally:
            connection.close()

    def _listed(self, handler: _Handler) -> tuple[int, bytes, dict[str, str]] | None:
        """The answer to a listing, where listings are frozen."""
        path = handler.path
        if not self.frozen or handler.command != "GET" or not ("list-type=" in path or "/o?" in path):
            return None
        if path not in self._listings:
            self._listings[path] = self._forward(handler, b"")
        return self._listings[path]

    def _fault(self, handler: _Handler) -> str:
        # The name of an upload is a random number.
        path = re.sub(r"upload_?id=[^&]*", "", handler.path, flags=re.IGNORECASE)
        range_ = handler.headers.get("Range") or handler.headers.get("Content-Range") or ""
        key = (path, range_ if handler.command == "GET" and range_ else handler.command + range_)
        with self._lock:
            self.asked[f"{handler.command} {handler.path}"] += 1
            self._seen[key] += 1
            turn = self._seen[key]
            name = f"{self.seed} {key} {turn}".encode()
            chance = random.Random(hashlib.sha256(name).digest()).random()
            if turn <= self.at_most:
                for fault, share in self.shares.items():
                    chance -= share
                    if chance < 0:
                        self.count[fault] += 1
                        return fault
        return ""


# gcsfs asks an emulator for what emulators do not know, and waits a minute for the answer.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
