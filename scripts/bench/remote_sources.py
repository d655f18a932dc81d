#!/usr/bin/env python3
"""Sources read from an object store on this machine, against the bare client with the same concurrency.

  files     many objects, by image_folder; against s3fs asked for each of them, 64 at a time
  shard     one large object, by webdataset; against s3fs asked for its pieces of 1 MiB, 16 at a time

The store is a process of its own which speaks as much of S3 as reading takes, from memory, so that the clients and not
the server are what is measured. The sources also infer columns, look for changes and make batches; the bare client
lists and keeps the bytes.

Examples:
  python scripts/bench/remote_sources.py
  python scripts/bench/remote_sources.py --files 500 --rounds 3 --json
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tarfile
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import common

BUCKET = "bucket"
MIB = 1 << 20


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--files", type=int, default=1000, help="objects of about 40 KB (default: 1000)")
    parser.add_argument("--shard", type=int, default=256, help="MiB of the shard (default: 256)")
    parser.add_argument("--serve", action="store_true", help="be the store")
    args = parser.parse_args()
    if args.serve:
        asyncio.run(_serve(args.files, args.shard))
        return
    command = [sys.executable, __file__, "--serve", "--files", str(args.files), "--shard", str(args.shard)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "k",
                "AWS_SECRET_ACCESS_KEY": "s",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            found = {
                "files": _compare(_read_files, _bare_files, args.rounds),
                "shard": _compare(_read_shard, _bare_shard, args.rounds),
            }
        finally:
            server.kill()
    if args.json:
        print(json.dumps(found))
        return
    for name, each in found.items():
        print(
            f"{name:<8} source {each['source']:.2f} s, bare client {each['bare']:.2f} s: "
            f"{100 * each['ratio']:.0f} % of its speed"
        )


def _compare(source: Callable[[], int], bare: Callable[[], int], rounds: int) -> dict[str, float]:
    """Medians of alternating runs; the first of each warms up."""
    seconds: dict[Callable[[], int], list[float]] = {source: [], bare: []}
    for _ in range(rounds + 1):
        sizes = []
        for contender, times in seconds.items():
            begun = time.perf_counter()
            sizes.append(contender())
            times.append(time.perf_counter() - begun)
        assert sizes[0] == sizes[1], f"{sizes} bytes were read"
    medians = [statistics.median(times[1:]) for times in seconds.values()]
    return {"source": medians[0], "bare": medians[1], "ratio": medians[1] / medians[0]}


def _read_files() -> int:
    return _read({"kind": "image_folder", "path": "x"}, f"s3://{BUCKET}/files", "image")


def _read_shard() -> int:
    return _read({"kind": "webdataset", "path": "x"}, f"s3://{BUCKET}/shard.tar", "bin")


def _read(options: dict[str, Any], root: str, column: str) -> int:
    from pydantic import TypeAdapter

    from beam_jobs.sources import open_source
    from schemas.sources import Source

    spec: Any = TypeAdapter(Source).validate_python(options)
    source, total = open_source("source", spec, root), 0
    for partition in source.partitions():
        for batch in source.read(partition):
            values = batch.records.column(column)
            total += sum(len(value.as_buffer()) for value in values)
    return total


def _bare_files() -> int:
    files = _client()
    found = files.find(f"{BUCKET}/files", detail=True)
    # By range, which s3fs reads faster than an object without one.
    return sum(map(len, _gather(files, [(path, 0, info["size"]) for path, info in found.items()], 64)))


def _bare_shard() -> int:
    files = _client()
    path = f"{BUCKET}/shard.tar"
    size = files.info(path)["size"]
    pieces = _gather(files, [(path, at, min(at + MIB, size)) for at in range(0, size, MIB)], 16)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        return sum(member.size for member in archive)


def _gather(files: Any, wanted: list[tuple[str, int | None, int | None]], at_a_time: int) -> list[bytes]:
    import fsspec.asyn

    async def all_of_them() -> list[bytes]:
        turns = asyncio.Semaphore(at_a_time)

        async def one(path: str, start: int | None, end: int | None) -> bytes:
            async with turns:
                return bytes(await files._cat_file(path, start=start, end=end))

        return await asyncio.gather(*(one(*each) for each in wanted))

    return list(fsspec.asyn.sync(fsspec.asyn.get_loop(), all_of_them))


def _client() -> Any:
    import fsspec

    config = {"max_pool_connections": 64}
    return fsspec.filesystem("s3", config_kwargs=config, use_listings_cache=False)


def _objects(count: int, mib: int) -> dict[str, bytes]:
    chance = random.Random(0)
    found = {
        f"files/{number:05d}.jpg": chance.randbytes(chance.randrange(20_000, 60_000))
        for number in range(count)
    }
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for number in range(mib * 10):
            info = tarfile.TarInfo(f"{number:06d}.bin")
            info.size = MIB // 10
            archive.addfile(info, io.BytesIO(chance.randbytes(info.size)))
    return {**found, "shard.tar": sink.getvalue()}


async def _serve(count: int, mib: int) -> None:
    objects = _objects(count, mib)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                writer.write(_answer(objects, request))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _answer(objects: dict[str, bytes], request: str) -> bytes:
    """One of three requests: list, look at, or read an object."""
    method, path, _ = request.split(" ", 2)
    path, _, query = path.partition("?")
    key = urllib.parse.unquote(path).removeprefix(f"/{BUCKET}").strip("/")
    asked = re.search(r"(?i)\r\nrange: bytes=(\d+)-(\d+)", request)
    status, extra = "200 OK", ""
    if "list-type=2" in query:
        prefix = urllib.parse.parse_qs(query).get("prefix", [""])[0]
        items = "".join(
            f"<Contents><Key>{name}</Key><Size>{len(data)}</Size><ETag>&quot;{len(data)}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, data in objects.items() if name.startswith(prefix)
        )  # fmt: skip
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()
    elif key not in objects:
        status, body = "404 Not Found", b""
    else:
        body = objects[key]
        if asked:
            start, stop = int(asked[1]), min(int(asked[2]) + 1, len(body))
            status, extra = "206 Partial Content", f"Content-Range: bytes {start}-{stop - 1}/{len(body)}\r\n"
            body = body[start:stop]
        extra += f'ETag: "{len(objects[key])}"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode()
    return head if method == "HEAD" else head + body


if __name__ == "__main__":
    main()
