"""A data set written to an object store, gs:// or s3://, by fsspec's clients and with the retries of `schemas.remote`.

  whole or not      objects appear when their last byte has come. Up to 16 MiB come in one request, more in parts of
                    16 MiB, of which one is on its way while the next one fills
  as it was sent    size and checksum of every object are compared with what was sent
  tried again       as reads are; an attempt whose answer was lost and its repetition make one object
  no rename         a version's files are written under their final names, and its manifest last, only if there is
                    none: readers see the version from then on. A note in the work directory says whose stage it is
  one job           see `store_lock`: every request with which an object appears asks right before whether the job
                    still holds the lock

Credentials are those of the store's own tools, found where a worker runs; they are neither pickled nor logged.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from beam_jobs.objects import PART_BYTES, Objects, Upload
from beam_jobs.store import Part, Sink, Store, in_the_way, published_meanwhile
from beam_jobs.store_lock import ABSENT, LOCK, MAX_LOCK_BYTES, WORK, Rhythm, held, lost, renew, token_of
from schemas import HeadraceError
from schemas.naming import MANIFEST
from schemas.remote import RemotePlace
from schemas.remote_errors import redacted, told

_KINDS = {"gs": "store_gcs:GcsObjects", "gcs": "store_gcs:GcsObjects", "s3": "store_s3:S3Objects"}
_DELETED_TOGETHER = 1000
_log = logging.getLogger("headrace.storage")


class RemoteStore:
    """A prefix of a bucket.

    Args:
      url: of the data set, such as gs://bucket/datasets/elpv.
      token: of the lock that the job holds.
      place: what reaches it; by default a connection that the process shares.
      rhythm: of the lock.
    """

    durable = True

    def __init__(
        self,
        url: str,
        token: str | None = None,
        place: RemotePlace | None = None,
        rhythm: Rhythm | None = None,
    ) -> None:
        self._url, self._token, self._rhythm = url.rstrip("/"), token, rhythm or Rhythm()
        self._kind = _KINDS.get(url.partition("://")[0])
        if self._kind is None:
            raise HeadraceError(
                "Data sets cannot be written there.",
                where=redacted(url),
                allowed="a directory, gs://bucket/… or s3://bucket/…",
            )
        self._place = place or _connected(self._url)
        module, _, name = self._kind.partition(":")
        self._objects: Objects = getattr(importlib.import_module(f"beam_jobs.{module}"), name)(
            self._place, self._guard
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """The URL and the lock's token."""
        return RemoteStore, (self._url, self._token)

    @property
    def lock_file(self) -> None:
        """See `Store`."""
        return

    def where(self, path: str) -> str:
        """See `Store`."""
        return self._place.where(path)

    def local(self, path: str) -> str | None:  # noqa: ARG002
        """See `Store`."""
        return None

    def size(self, path: str) -> int | None:
        """See `Store`."""
        try:
            return self._place.run(self._objects.stat(path)).size
        except FileNotFoundError:
            return None

    def read(self, path: str, limit: int) -> bytes:
        """See `Store`."""
        return self._place.read_bytes(path, limit)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Store`."""
        data = bytearray(length)
        self.fill([(path, start, memoryview(data))])
        return bytes(data)

    def fill(self, parts: Sequence[Part]) -> None:
        """See `Store`."""
        found = self._place.read_ranges([(path, offset, len(target)) for path, offset, target in parts])
        for (path, offset, target), data in zip(parts, found, strict=True):
            if len(data) < len(target):
                raise OSError(f"{self.where(path)} ends before byte {offset + len(target)}")
            target[:] = data

    @contextmanager
    def writing(self, path: str, *, durable: bool) -> Iterator[Sink]:  # noqa: ARG002 - it always is
        """See `Store`."""
        sink = _RemoteSink(self._place, self._objects, path)
        try:
            yield sink
            sink.finish()
        except BaseException:
            sink.abort()
            raise

    def write(self, path: str, data: bytes, *, durable: bool) -> None:
        """See `Store`."""
        with self.writing(path, durable=durable) as sink:
            sink.write(data)

    def create(self, path: str, data: bytes) -> bool:
        """Writes an object that is not there yet; gives whether it holds `data` now, and not another one's."""
        return self.swap(path, data, ABSENT) is not None

    def get(self, path: str, limit: int = MAX_LOCK_BYTES) -> tuple[bytes, str] | None:
        """See `Swaps`."""
        try:
            return self._place.run(self._objects.get(path, limit))
        except FileNotFoundError:
            return None

    def swap(self, path: str, data: bytes, tag: str) -> str | None:
        """See `Swaps`."""
        try:
            return self._place.run(self._objects.put(path, data, tag))
        except FileExistsError:
            # Another one's, or ours by an attempt whose answer was lost.
            found = self.get(path, len(data))
            return found[1] if found is not None and found[0] == data else None
        except FileNotFoundError:
            if tag != ABSENT:
                return None
            raise _no_bucket(self._place) from None

    def copy(self, source: str, target: str) -> None:
        """See `Store`."""
        self._place.run(self._guarded())
        self._place.run(self._objects.copy(source, target))

    def names(self, prefix: str) -> list[str]:
        """See `Store`."""
        with _needs_bucket(self._place):
            return sorted(self._place.run(self._objects.names(f"{prefix}/" if prefix else "")))

    def delete(self, path: str) -> None:
        """See `Store`."""
        self._place.run(self._guarded())
        self._place.run(self._delete([path]))

    def delete_tree(self, prefix: str) -> None:
        """See `Store`."""
        paths = [f"{prefix}/{name}" for name in self.names(prefix)]
        for first in range(0, len(paths), _DELETED_TOGETHER):
            self._place.run(self._guarded())
            self._place.run(self._delete(paths[first : first + _DELETED_TOGETHER]))

    def tidy(self) -> None:
        """See `Store`."""
        self._place.run(self._objects.abort_uploads())

    @contextmanager
    def exclusive(self) -> Iterator[Store]:
        """See `Store`."""
        token = secrets.token_hex(8)
        with held(self, token, self._rhythm):
            yield RemoteStore(self._url, token, self._place, self._rhythm)

    def stage(self, version: str) -> str:
        """See `Store`."""
        return version

    def prepare(self, version: str) -> None:
        """See `Store`."""
        note = _stage_note(version)
        if self.size(note) is not None:
            return
        # A listing that lags may still show what was deleted.
        for name in self.names(version):
            if self.size(f"{version}/{name}") is not None:
                raise in_the_way(self.where(f"{version}/{name}"))
        self.write(note, b"{}", durable=True)

    def publish(self, version: str, manifest: bytes) -> None:
        """See `Store`."""
        if self._token is not None:
            renew(RemoteStore(self._url, place=self._place), self._token)
        if not self.create(f"{version}/{MANIFEST}", manifest):
            raise published_meanwhile(self.where(version))
        self.delete(_stage_note(version))

    async def _guard(self) -> None:
        """Raises an error unless the lock names our job, where we are a job's. One request, not tried again."""
        if self._token is None:
            return
        try:
            content = bytes(await self._place.call("cat_file", LOCK))
        except FileNotFoundError:
            content = b""
        if content and not content.endswith(b"}"):
            raise EOFError("half of the lock came")
        if token_of(content) != self._token:
            raise lost(self.where(""))

    async def _guarded(self) -> None:
        await self._place.persist(LOCK, self._guard)

    async def _delete(self, paths: Sequence[str]) -> None:
        for found in await asyncio.gather(*map(self._objects.delete, paths), return_exceptions=True):
            if isinstance(found, BaseException) and not isinstance(found, FileNotFoundError):
                raise found


class _RemoteSink(Sink):
    """An object being written; parts are sent when they are full and more follows."""

    def __init__(self, place: RemotePlace, objects: Objects, path: str) -> None:
        self._place, self._objects, self._path = place, objects, path
        self._buffer, self._written = bytearray(), 0
        self._upload: Upload | None = None
        self._sending: Future[None] | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        while len(view):
            if len(self._buffer) == PART_BYTES:
                self._send()
            room = PART_BYTES - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
        self._written += size
        return size

    def tell(self) -> int:
        return self._written

    def finish(self) -> None:
        """The object is there when this returns."""
        data = bytes(self._buffer)
        if self._upload is None:
            with _needs_bucket(self._place):
                self._place.run(self._objects.put(self._path, data))
            return
        self._sent()
        self._wait(self._place.begin(self._upload.finish(data)))

    def abort(self) -> None:
        """Nothing remains, if the store lets us clear it away; else `tidy` will."""
        try:
            if self._sending is not None:
                self._sending.cancel()
            if self._upload is not None:
                self._place.run(self._upload.abort())
        except Exception as error:
            _log.info("An upload could not be taken back: %s: %s", self._place.where(self._path), told(error))

    def _send(self) -> None:
        """Has the part sent while the next one fills."""
        self._sent()
        if self._upload is None:
            with _needs_bucket(self._place):
                self._upload = self._place.run(self._objects.upload(self._path))
        self._sending = self._place.begin(self._upload.part(bytes(self._buffer)))
        self._buffer = bytearray()

    def _sent(self) -> None:
        if self._sending is not None:
            self._wait(self._sending)

    def _wait(self, sending: Future[None]) -> None:
        try:
            sending.result()
        except FileNotFoundError:
            raise HeadraceError(
                "An upload has vanished from the store.",
                where=self._place.where(self._path),
                hint="Something clears away unfinished uploads there; run the same command again.",
            ) from None


@contextmanager
def _needs_bucket(place: RemotePlace) -> Iterator[None]:
    """What is written to or listed is missing only if the bucket is."""
    try:
        yield
    except FileNotFoundError:
        raise _no_bucket(place) from None


def _no_bucket(place: RemotePlace) -> HeadraceError:
    return HeadraceError(
        "There is no such bucket.", where=str(place), hint="Make it first, or give another --out."
    )


def _stage_note(version: str) -> str:
    return f"{WORK}/stage-{version}.json"


@functools.lru_cache(maxsize=8)
def _connected(url: str) -> RemotePlace:
    """The process's connection: what workers unpickle again and again is opened once."""
    return RemotePlace(url)
