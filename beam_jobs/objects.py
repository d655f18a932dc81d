"""What is asked of an object store, whichever kind it is; `store_gcs.py` and `store_s3.py` say how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from schemas.remote import RemotePlace

PART_BYTES = 16 << 20  # of an upload in parts; S3 takes 10,000 of them, so 160 GB
MIB = 1 << 20
# Awaited by every attempt right before the request with which an object appears; raises when it must not.
Guard = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Stat:
    """An object as the store describes it.

    Attributes:
      size: bytes.
      tag: of its present state, for a conditional write.
      check: its checksum, or what else its uploader knows it by.
    """

    size: int
    tag: str
    check: str | None


class Upload(Protocol):
    """An object on its way in parts of `PART_BYTES`, there only once it is finished."""

    async def part(self, data: bytes) -> None:
        """Sends what comes next."""
        ...

    async def finish(self, data: bytes) -> None:
        """Sends the last part, of at least one byte; the object is there then, and holds what was sent."""
        ...

    async def abort(self) -> None:
        """Throws away what was sent."""
        ...


class Objects(ABC):
    """The objects below a place, by relative path. Every method tries again as the place's patience says.

    All raise FileNotFoundError where the object is missing, or the bucket is.

    Args:
      place: what reaches them.
      guard: see `Guard`.
    """

    def __init__(self, place: RemotePlace, guard: Guard) -> None:
        self.place, self.guard = place, guard

    def split(self, path: str) -> tuple[str, str]:
        """Bucket and key."""
        bucket, _, key = f"{self.place.root}/{path}".partition("/")
        return bucket, key

    async def stat(self, path: str) -> Stat:
        """Of an object that may be missing; asked of the object itself."""
        return await self.place.persist(path, lambda: self.stat_once(path))

    @abstractmethod
    async def stat_once(self, path: str) -> Stat:
        """By one request."""

    async def get(self, path: str, limit: int) -> tuple[bytes, str]:
        """An object, or more than `limit` bytes of it, and a tag that no newer state of it has."""

        async def once() -> tuple[bytes, str]:
            found = await self.stat_once(path)
            size = min(found.size, limit + 1)
            data = bytes(await self.place.call("cat_file", path, start=0, end=size)) if size else b""
            if len(data) < size:
                raise EOFError(f"{len(data)} of {size} bytes came")
            return data, found.tag

        return await self.place.persist(path, once, limit / MIB)

    @abstractmethod
    async def put(self, path: str, data: bytes, tag: str | None = None) -> str:
        """Writes an object in one request, if its state has `tag`, or is `ABSENT`; gives the tag of the new one.

        The store has compared what came with a checksum of what was sent.

        Raises:
          FileExistsError: its state is another one; maybe ours, from an attempt whose answer was lost.
        """

    @abstractmethod
    async def upload(self, path: str) -> Upload:
        """Begins an upload in parts."""

    @abstractmethod
    async def names(self, prefix: str) -> list[str]:
        """Paths below a prefix that ends in a slash, relative to it."""

    @abstractmethod
    async def delete(self, path: str) -> None:
        """Deletes an object."""

    async def copy(self, source: str, target: str) -> None:
        """Copies an object inside the store."""
        old = await self.stat(source)

        async def once() -> None:
            names = (f"{self.place.root}/{path}" for path in (source, target))
            await self.place.files._cp_file(*names)
            found = await self.stat_once(target)
            if found.size != old.size:
                raise damaged(f"{old.size} bytes", f"{found.size} bytes")

        await self.place.persist(target, once, old.size / MIB)

    @abstractmethod
    async def abort_uploads(self) -> None:
        """Throws away the parts of all unfinished uploads, where the store keeps those."""


def damaged(sent: str, found: str) -> EOFError:
    """The error, which is worth another attempt, for an object that is not what was sent."""
    return EOFError(f"the store holds {found} where {sent} were sent")
