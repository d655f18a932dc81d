"""Files behind a URL, through fsspec: byte ranges, many at a time, each tried again when the network fails it.

Every byte comes by one kind of request: a range of a file. No listing, no request a file just to see it is there.

  near ranges   of one file, with a gap of at most 64 KiB between them, are one request: a request costs a Python
                client about a millisecond of processor time, in which 64 KiB arrive
  at a time     32 requests, for all callers together; at most 1 MiB of wanted ranges and gaps in each, unless a
                single range is larger. So 32 MiB are on their way at most, besides what callers hold already
  time limit    30 s for a request and 10 s for each MiB of it, so that a stalled connection stalls nothing
  tried again   timeouts, broken connections, short bodies, 408, 425, 429 and 5xx: 8 times or for 2 minutes,
                after 0.25, 0.5, 1 … 16 s, each times a random number from 0.5 to 1.5
  not again     whatever else the server refuses: 401, 403, 404 …

gcsfs, s3fs and botocore would try again by themselves, each in its own way and unseen; here they are told not to.
Credentials are the business of those packages: their environment variables, files and metadata servers, or
storage options.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import re
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from schemas.errors import HeadraceError
from schemas.storage import Range, check_limit, missing

GAP_BYTES = 64 << 10
REQUEST_BYTES = 1 << 20
REQUESTS = 32

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
_AGAIN = {408, 425, 429}  # and 5xx
# Errors without an HTTP status that mean the network: by name, so that no client has to be imported to know them.
_NETWORK = {
    "ClientError",  # aiohttp
    "HTTPClientError", "IncompleteRead", "ResponseParserError",  # botocore
    "RequestException", "RefreshError", "TransportError", "ChecksumError",  # requests, google.auth, gcsfs
}  # fmt: skip
_SECRETS = re.compile(r"(?<=://)[^/@\s'\"]+@|\?[^\s'\")\]]+")

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
        self._files, self._root = _file_system(self._url, dict(options or {}))
        self._many = asyncio.Semaphore(REQUESTS)
        self._pool = None if self._files.async_impl else ThreadPoolExecutor(REQUESTS, "headrace-remote")
        self._lock = threading.Lock()
        self.reads = self.retries = 0

    def __str__(self) -> str:
        return redacted(self._url)

    def where(self, path: str) -> str:
        """See `Place`."""
        return redacted(f"{self._url}/{path}")

    def size(self, path: str) -> int:
        """See `Place`."""
        return self._run(self._size(path))

    def read_bytes(self, path: str, limit: int) -> bytes:
        """See `Place`."""
        data = self._run(self._request(path, 0, limit + 1, whole=True))
        check_limit(data, limit, self.where(path))
        return data

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """See `Place`."""
        try:
            return self._run(self._read_ranges(ranges))
        except FileNotFoundError as error:
            raise missing(str(error)) from None

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Have fsspec's own thread do it, and wait."""
        import fsspec.asyn

        future = asyncio.run_coroutine_threadsafe(work, fsspec.asyn.get_loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        out = [b""] * len(ranges)

        async def fetch(path: str, start: int, stop: int, members: list[int]) -> None:
            data = await self._request(path, start, stop)
            for member in members:
                _, offset, length = ranges[member]
                out[member] = data[offset - start : offset - start + length]

        async with _Together() as together:
            for request in merged(ranges):
                together.start(fetch(*request))
        return out

    async def _request(self, path: str, start: int, stop: int, *, whole: bool = False) -> bytes:
        """The bytes `start` … `stop - 1`, fewer where the file ends; `whole`: it surely ends before."""
        begun, patience, short = time.monotonic(), self._patience, False
        limit = patience.timeout + patience.timeout_per_mib * (0 if whole else stop - start) / (1 << 20)
        for attempt in range(1, patience.attempts + 1):
            try:
                async with self._many:
                    self.reads += 1
                    data = await asyncio.wait_for(self._cat(path, start, stop), limit)
                if len(data) == stop - start or whole:
                    return data
                if len(data) > stop - start:
                    raise self._error(path, f"{len(data)} bytes came where {stop - start} were asked for")
                if short and await self._size(path) < stop:
                    return data  # the file ends here, and the caller knows what that means
                short = True
                problem = f"{len(data)} of {stop - start} bytes"
            except Exception as error:
                status = _status(error)
                if status == 416:
                    return b""
                if not _is_transient(error, status):
                    raise self._refusal(path, error, status) from None
                problem = _told(error)
            delay = patience.delay * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311
            spent = time.monotonic() - begun
            if attempt == patience.attempts or spent + delay > patience.seconds:
                break
            self.retries += 1
            _log.info("Trying again in %.2f s: %s: %s", delay, self.where(path), problem)
            await asyncio.sleep(delay)
        raise self._error(path, f"{problem}; {attempt} attempts in {spent:.1f} s")

    async def _cat(self, path: str, start: int, stop: int) -> bytes:
        name = f"{self._root}/{path}{self._query}"
        if self._pool is None:
            return bytes(await self._files._cat_file(name, start=start, end=stop))
        work = functools.partial(self._files.cat_file, name, start=start, end=stop)
        return bytes(await asyncio.get_running_loop().run_in_executor(self._pool, work))

    async def _size(self, path: str) -> int:
        name = f"{self._root}/{path}{self._query}"
        try:
            if self._pool is None:
                work = self._files._info(name)
            else:
                work = asyncio.get_running_loop().run_in_executor(self._pool, self._files.info, name)
            return int((await asyncio.wait_for(work, self._patience.timeout))["size"])
        except Exception as error:
            raise self._refusal(path, error, _status(error)) from None

    # Errors never carry the client's own as a cause: its text may hold a signed URL.

    def _error(self, path: str, problem: str) -> HeadraceError:
        return HeadraceError(
            "The store does not deliver.",
            where=self.where(path),
            value=problem,
            hint="Check that it can be reached from here and answers range requests; training can go on from "
            "its last state once it does.",
        )

    def _refusal(self, path: str, error: Exception, status: int | None) -> Exception:
        if isinstance(error, HeadraceError):
            return error
        if isinstance(error, FileNotFoundError) or status == 404:
            return FileNotFoundError(self.where(path))
        if status in (401, 403) or isinstance(error, PermissionError) or "redentials" in type(error).__name__:
            return HeadraceError(
                "The store refuses access.",
                where=self.where(path),
                value=_told(error),
                hint="Check the credentials that the store's own tools use here (GOOGLE_APPLICATION_CREDENTIALS, "
                "AWS_PROFILE …) or give storage_options; some stores answer so for a wrong name too.",
            )
        return HeadraceError("The store refuses the request.", where=self.where(path), value=_told(error))


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


def redacted(text: str) -> str:
    """`text` without passwords and signatures of URLs in it."""
    return _SECRETS.sub("", text)


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
    elif scheme in ("gs", "gcs") and hasattr(type(files)._request, "__wrapped__"):
        files._request = functools.partial(type(files)._request.__wrapped__, files)
    return files, root


def _defaults(scheme: str, options: dict[str, Any]) -> dict[str, Any]:
    if scheme not in ("s3", "s3a"):
        return options
    ours = {"retries": {"total_max_attempts": 1}, "max_pool_connections": REQUESTS}
    return {**options, "config_kwargs": {**ours, **options.get("config_kwargs", {})}}


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error of aiohttp, gcsfs or botocore."""
    while error is not None:
        response = getattr(error, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        for found in (
            metadata.get("HTTPStatusCode"),
            getattr(error, "status", None),
            getattr(error, "code", None),
        ):
            if str(found).isdigit():
                return int(str(found))
        if str(error).startswith("Forbidden"):  # gcsfs keeps no more of a 403
            return 403
        error = error.__cause__
    return None


def _is_transient(error: Exception, status: int | None) -> bool:
    if isinstance(error, HeadraceError | FileNotFoundError | PermissionError | IsADirectoryError):
        return False
    if status is not None and status >= 400:
        return status >= 500 or status in _AGAIN or (status == 401 and "Invalid Credentials" in str(error))
    names = {base.__name__ for kind in (error, error.__cause__) for base in type(kind).__mro__}
    return isinstance(error, OSError | TimeoutError | asyncio.TimeoutError | EOFError) or bool(
        names & _NETWORK
    )


def _told(error: BaseException) -> str:
    return redacted(f"{type(error).__name__}: {error}".removesuffix(": "))
