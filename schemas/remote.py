"""Files behind a URL, through fsspec: byte ranges, many at a time, each tried again when the network fails it.

Every byte comes by one kind of request: a range of a file. No listing, no request a file just to see it is there.

  near ranges   of one file, with a gap of at most 64 KiB between them, are one request: a request costs 0.2 ms
                of processor time (gcsfs) to 1.1 ms (s3fs), and a few KiB more cost less
  at a time     64 requests, for all callers together, of at most 1 MiB: what is longer is cut. So 64 MiB are on
                their way at most, besides what callers hold already
  time limit    30 s for a request and 10 s for each MiB of it, so that a stalled connection stalls nothing
  tried again   timeouts, broken connections, short bodies, 408, 425, 429 and 5xx: 8 times or for 2 minutes,
                after 0.25, 0.5, 1 … 16 s, each times a random number from 0.5 to 1.5
  not again     whatever else the server refuses: 401, 403, 404 …

gcsfs, s3fs and botocore would try again by themselves, each in its own way and unseen; here they are told not to.
Nor may gcsfs list a path to learn the size of a file.
Credentials are the business of those packages: their environment variables, files and metadata servers, or
storage options.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from schemas.errors import HeadraceError
from schemas.remote_errors import is_transient, redacted, refusal, status_of, told, undelivered
from schemas.storage import Range, missing, too_large

GAP_BYTES = 64 << 10
REQUEST_BYTES = 1 << 20
REQUESTS = 64

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
_T = TypeVar("_T")
_log = logging.getLogger("headrace.storage")


@dataclass(frozen=True)
class Patience:
    """How long to wait for a store.

    Attributes:
      attempts: most requests for the same bytes.
      seconds: no further attempt after this time.
      timeout: seconds for a request; `timeout_per_mib` more for each MiB.
      delay: seconds before the second attempt, and twice as long before each further one.
    """

    attempts: int = 8
    seconds: float = 120
    timeout: float = 30
    timeout_per_mib: float = 10
    delay: float = 0.25


class RemotePlace:
    """A directory behind a URL. Any number of threads may use it.

    Args:
      url: such as gs://bucket/elpv/1.0.0. What follows a `?` goes behind every file's name.
      options: for fsspec's file system of that URL.
      patience: how long to wait for it.
    """

    is_remote = True

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, patience: Patience | None = None
    ) -> None:
        url, mark, query = url.partition("?")
        self._url, self._query = url.rstrip("/"), mark + query
        self._patience = patience or Patience()
        self.files, self.root = _file_system(self._url, dict(options or {}))
        self._many = asyncio.Semaphore(REQUESTS)
        self._pool = None if self.files.async_impl else ThreadPoolExecutor(REQUESTS, "headrace-remote")
        self.reads = self.retries = 0

    def __str__(self) -> str:
        return redacted(self._url)

    def where(self, path: str) -> str:
        """See `Place`."""
        return redacted(f"{self._url}/{path}")

    def name(self, path: str) -> str:
        """What the file system calls a file."""
        return f"{self.root}/{path}{self._query}"

    def size(self, path: str) -> int:
        """See `Place`."""
        return self.run(self._size(path))

    def read_bytes(self, path: str, limit: int) -> bytes:
        """See `Place`."""
        size = self.size(path)
        if size > limit:
            raise too_large(self.where(path), size, limit)
        return self.run(self._read(path, 0, size))

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """See `Place`."""
        try:
            return self.run(self._read_ranges(ranges))
        except FileNotFoundError as error:
            raise missing(str(error)) from None

    def begin(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Have fsspec's own thread do it."""
        import fsspec.asyn

        return asyncio.run_coroutine_threadsafe(work, fsspec.asyn.get_loop())

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Have fsspec's own thread do it, and wait."""
        future = self.begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        out = [b""] * len(ranges)

        async def fetch(path: str, start: int, stop: int, members: list[int]) -> None:
            data = await self._read(path, start, stop)
            for member in members:
                _, offset, length = ranges[member]
                out[member] = data[offset - start : offset - start + length]

        async with _Together() as together:
            for request in merged(ranges):
                together.start(fetch(*request))
        return out

    async def _read(self, path: str, start: int, stop: int, end: int | None = None) -> bytes:
        """The bytes `start` … `stop - 1` by as many requests as they need; `end`: where the file should end."""
        starts = range(start, stop, REQUEST_BYTES)
        if len(starts) <= 1:
            return await self._request(path, start, stop, end)
        parts: dict[int, bytes] = {}

        async def part(first: int) -> None:
            parts[first] = await self._request(path, first, min(first + REQUEST_BYTES, stop), end)

        async with _Together() as together:
            for first in starts:
                together.start(part(first))
        return b"".join(parts[first] for first in starts)

    async def _request(self, path: str, start: int, stop: int, end: int | None = None) -> bytes:
        """The bytes `start` … `stop - 1`, fewer where the file ends before."""

        async def once() -> bytes:
            try:
                data = bytes(await self.call("cat_file", path, start=start, end=stop))
            except Exception as error:
                if status_of(error) == 416:  # the range begins behind the end
                    return b""
                raise
            if len(data) > stop - start:
                raise undelivered(
                    self.where(path), f"{len(data)} bytes came where {stop - start} were asked for"
                )
            if len(data) < stop - start and (end is None or len(data) != end - start):
                there = min(stop, int((await self.call("info", path))["size"] or stop)) - start
                if len(data) < there:
                    raise EOFError(f"{len(data)} of {there} bytes came")
            return data

        if start == stop:
            return b""
        return await self.persist(path, once, (stop - start) / (1 << 20))

    async def _size(self, path: str) -> int:
        async def once() -> int:
            size = (await self.call("info", path))["size"]
            if size is None:
                raise undelivered(self.where(path), "the server does not say how large the file is")
            return int(size)

        return await self.persist(path, once)

    async def persist(self, path: str, once: Callable[[], Awaitable[_T]], mib: float = 0) -> _T:
        """What `once` gives, a request about `path` that moves `mib`, tried until it comes or the patience ends.

        Raises:
          FileNotFoundError: nothing is there.
          FileExistsError: the request's precondition does not hold.
          HeadraceError: the store refuses the request, or does not deliver.
        """
        begun, patience = time.monotonic(), self._patience
        for attempt in range(1, patience.attempts + 1):
            try:
                async with self._many:
                    self.reads += 1
                    return await asyncio.wait_for(once(), patience.timeout + patience.timeout_per_mib * mib)
            except Exception as error:
                status = status_of(error)
                if not is_transient(error, status):
                    raise refusal(
                        self.where(path), error, status
                    ) from None  # its cause may hold a signed URL
                problem = told(error)
            delay = patience.delay * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311
            spent = time.monotonic() - begun
            if attempt == patience.attempts or spent + delay > patience.seconds:
                break
            self.retries += 1
            _log.info("Trying again in %.2f s: %s: %s", delay, self.where(path), problem)
            await asyncio.sleep(delay)
        raise undelivered(self.where(path), f"{attempt} attempts in {spent:.1f} s, the last: {problem}")

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """A method of the file system, on this thread's loop or in a thread of its own as it is made for."""
        name = self.name(path)
        if self._pool is None:
            return await getattr(self.files, f"_{method}")(name, **options)
        work = functools.partial(getattr(self.files, method), name, **options)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def merged(ranges: Sequence[Range]) -> list[tuple[str, int, int, list[int]]]:
    """Requests for all ranges: path, start, stop, and which ranges each brings. Near ranges share one."""
    found: list[tuple[str, int, int, list[int]]] = []
    for member in sorted(range(len(ranges)), key=lambda k: ranges[k][:2]):
        path, offset, length = ranges[member]
        if found:
            last, start, stop, members = found[-1]
            new = max(stop, offset + length)
            if path == last and offset - stop <= GAP_BYTES and new - start <= REQUEST_BYTES:
                members.append(member)
                found[-1] = (path, start, new, members)
                continue
        found.append((path, offset, offset + length, [member]))
    return found


class _Together:
    """Tasks that end together: the first error cancels all others."""

    async def __aenter__(self) -> _Together:
        self._tasks: list[asyncio.Task[None]] = []
        return self

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.gather(*self._tasks)
        except BaseException:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            raise


def _file_system(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """fsspec's file system for a URL, of our own and without retries of its own, and the URL's path in it."""
    scheme = url.partition("://")[0]
    extra = f"headrace[{_EXTRAS[scheme]}]" if scheme in _EXTRAS else "the fsspec package for it"
    try:
        import fsspec

        known = {"skip_instance_cache": True, "use_listings_cache": False}
        files, root = fsspec.core.url_to_fs(url, **known, **_defaults(scheme, options))
    except ImportError as error:
        raise HeadraceError(
            f"Reading from {scheme}:// needs a package that is not installed.",
            where=redacted(url),
            value=str(error),
            hint=f"pip install '{extra}'" if scheme in _EXTRAS else f"Install {extra}.",
        ) from error
    except (ValueError, TypeError) as error:
        raise HeadraceError(
            "This is no place to read from.", where=redacted(url), value=redacted(str(error))
        ) from None
    if scheme in ("s3", "s3a"):
        files.retries = 1
    elif scheme in ("gs", "gcs"):
        if hasattr(type(files)._request, "__wrapped__"):
            files._request = functools.partial(type(files)._request.__wrapped__, files)
        if hasattr(files, "_get_object"):
            # Its _info lists as well, in case the path is a directory's, and where the empty list comes
            # first it asks for the object once more.
            files._info = files._get_object
    return files, root


def _defaults(scheme: str, options: dict[str, Any]) -> dict[str, Any]:
    if scheme not in ("s3", "s3a"):
        return options
    ours = {
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": REQUESTS,
        # What beam_jobs writes carries its MD5; not every server knows the CRC that botocore would add.
        "request_checksum_calculation": "when_required",
    }
    return {**options, "config_kwargs": {**ours, **options.get("config_kwargs", {})}}
