"""Remote files as sources see them: a file system whose every request is tried again as `schemas.remote` says.

This is the one place where sources meet a network. Whatever reads through it, be it a text file, a folder or pyarrow,
gets pieces of 1 MiB, many at a time, and no fault that passes.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from beam_jobs.sources._places import http
from schemas.errors import HeadraceError
from schemas.remote import REQUEST_BYTES, Patience, RemotePlace
from schemas.remote_errors import UndeliveredError, redacted, refusal, status_of

PATIENCE = Patience()
_BLOCK_BYTES = 8 << 20
_BLIND_BLOCK_BYTES = (
    64 << 20
)  # of servers that know no ranges, which send a file from its beginning each time
_WEB = ("http", "https")
_MAGIC = re.compile(r"[*?\[]")


def remote_files(url: str) -> tuple[RemoteFiles, str]:
    """The file system of a URL, and the URL's path in it."""
    scheme, _, rest = url.partition("://")
    if scheme in _WEB:
        url, mark, query = url.partition("?")
        return _connected(f"{scheme}://any", mark + query), url
    if scheme in ("s3", "s3a", "gs", "gcs"):
        return _connected(f"{scheme}://any", ""), rest.strip("/")
    files = _connected(url, "")
    return files, files.place.root


@lru_cache(maxsize=32)
def _connected(url: str, query: str) -> RemoteFiles:
    """The process's connection: sources open files again and again."""
    return RemoteFiles(_Requests(url, query))


class _Requests(RemotePlace):
    """A whole file system; paths are those of its own."""

    def __init__(self, url: str, query: str) -> None:
        self.scheme = url.partition("://")[0]
        self.is_web = self.scheme in _WEB
        guarded = {"get_client": http.guarded_client}
        chained = (
            {"http": guarded, "https": guarded} if "::" in url else {}
        )  # simplecache::https://… and the like
        try:
            super().__init__(url, guarded if self.is_web else chained, PATIENCE)
        except OSError as error:  # of archives, which are opened at once
            failed = refusal(redacted(url), error, status_of(error))
            raise (
                failed
                if isinstance(failed, HeadraceError)
                else HeadraceError("There is no such file.", where=redacted(url))
            ) from None
        self.suffix = query
        self.blind: set[str] = set()  # web servers that know no ranges

    def name(self, path: str) -> str:
        return path + self.suffix

    def where(self, path: str) -> str:
        return redacted(path if "://" in path else f"{self.scheme}://{path}")

    async def call(self, method: str, path: str, **options: Any) -> Any:
        if not self.is_web or method not in ("info", "ls", "cat_file"):
            return await super().call(method, path, **options)
        if method == "ls":
            return await http.ls(self.files, self.name(path))
        if method == "cat_file":
            return await http.cat_file(self.files, self.name(path), **options)
        found = await http.info(self.files, self.name(path))
        if not found["ranges"]:
            self.blind.add(_server(path))
        return {**found, "name": path}

    async def read(self, path: str, start: int, stop: int, end: int | None = None) -> bytes:
        """The bytes `start` … `stop - 1`; `end`: where the file should end."""
        if _server(path) in self.blind:
            return await self._request(path, start, stop, end)
        return await self._read(path, start, stop, end)

    async def page(
        self, bucket: str, prefix: str, token: str | None, *, deep: bool, limit: int | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of what a bucket holds below a prefix, and what asks for the next; if not `deep`, up to a slash."""

        async def once() -> Any:
            if self.scheme in ("s3", "s3a"):
                asked = {"ContinuationToken": token, "Delimiter": None if deep else "/", "MaxKeys": limit}
                given = {name: value for name, value in asked.items() if value is not None}
                return await self.files._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **given)
            asked = {"pageToken": token, "delimiter": None if deep else "/", "maxResults": limit}
            given = {name: value for name, value in asked.items() if value is not None}
            return await self.files._call("GET", "b/{}/o", bucket, prefix=prefix, json_out=True, **given)

        page = await self.persist(f"{bucket}/{prefix}", once)
        found = [_object(bucket, item) for item in page.get("Contents") or page.get("items") or []]
        return found, page.get("NextContinuationToken") or page.get("nextPageToken")


class RemoteFiles(AbstractFileSystem):
    """A file system to read from. Errors are `HeadraceError`, or FileNotFoundError where nothing is there."""

    cachable = False

    def __init__(self, place: _Requests) -> None:
        super().__init__()
        self.place = place
        self.in_buckets = place.scheme in ("s3", "s3a", "gs", "gcs")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, type and version of a file."""
        place = self.place
        return dict(place.run(place.persist(path, lambda: place.call("info", path))))

    def infos(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        """The same of many."""
        place = self.place

        async def one(path: str) -> Any:
            return await place.persist(path, lambda: place.call("info", path))

        async def all_of_them() -> Any:
            return await asyncio.gather(*map(one, paths))

        return list(place.run(all_of_them()))

    def isfile(self, path: str) -> bool:
        """Whether there is such a file."""
        try:
            return bool(self.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def isdir(self, path: str) -> bool:
        """Whether anything lies below the path."""
        try:
            if self.in_buckets:
                return any(True for _ in self.objects(path.rstrip("/") + "/", limit=1))
            if self.place.is_web:
                return bool(self.ls(path))
            return bool(self.info(path)["type"] == "directory")
        except FileNotFoundError:
            return False

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such a file or folder."""
        return self.isfile(path) or self.isdir(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What lies directly below a folder."""
        place = self.place
        found = place.run(place.persist(path, lambda: place.call("ls", path, detail=True)))
        return list(found) if detail else [info["name"] for info in found]

    def find(
        self, path: str, maxdepth: Any = None, withdirs: bool = False, detail: bool = False, **_: Any
    ) -> Any:
        """Every file below a folder, with its size."""
        if self.in_buckets:
            found = {info["name"]: info for info in self.objects(path.rstrip("/") + "/")}
        else:
            everything = super().find(path, maxdepth, withdirs, detail=True, on_error="raise").items()
            found = {name: info for name, info in everything if "type" in info}
            unknown = [
                name for name, info in found.items() if info["type"] == "file" and info.get("size") is None
            ]
            found |= dict(zip(unknown, self.infos(unknown), strict=True))
        return found if detail else list(found)

    def glob(self, path: str, maxdepth: Any = None, **options: Any) -> Any:
        """Files whose names match a pattern."""
        if not self.in_buckets:
            try:
                return super().glob(path, maxdepth, **options)
            except FileNotFoundError:
                return []
        magic = _MAGIC.search(path)
        fixed = path[: magic.start()] if magic else path
        found = self.objects(fixed, deep="/" in path[len(fixed) :])
        matching = re.compile(fsspec.utils.glob_translate(path)).match
        return sorted(info["name"] for info in found if matching(info["name"]))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes between two places of a file."""
        stop = self.info(path)["size"] if end is None else end
        return self.place.run(self.place.read(path, start or 0, stop))

    def cat_whole(self, paths: Sequence[str], sizes: Sequence[int]) -> list[bytes | Exception]:
        """The bytes of whole files of these sizes, and one more of a file that has grown.

        Raises:
          UndeliveredError: the store fails; what concerns one file only is given in its place.
        """
        place = self.place

        async def all_of_them() -> Any:
            reads = (place.read(path, 0, size + 1, end=size) for path, size in zip(paths, sizes, strict=True))
            return await asyncio.gather(*reads, return_exceptions=True)

        found = place.run(all_of_them())
        for each in found:
            if isinstance(each, UndeliveredError):
                raise each
        return list(found)

    def cat_ranges(
        self, paths: Sequence[str], starts: Any, ends: Any, *_: Any, **__: Any
    ) -> list[bytes | Exception]:
        """The bytes of each range, as many at a time as there may be requests."""
        place = self.place

        async def all_of_them() -> Any:
            reads = (place.read(*range_) for range_ in zip(paths, starts, ends, strict=True))
            return await asyncio.gather(*reads)

        return list(place.run(all_of_them()))

    def invalidate_cache(self, *_: Any) -> None:
        """Forgets what a file system that keeps listings knows."""
        self.place.files.invalidate_cache()

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise HeadraceError("Sources are only read.", where=self.place.where(path), value=mode)
        size = int(self.info(path)["size"])
        blind = _server(path) in self.place.blind
        return io.BufferedReader(_RemoteFile(self.place, path, size, blind=blind), 1 << 16)

    def objects(
        self, prefix: str, *, deep: bool = True, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """What a bucket holds below a prefix, page by page, as stores list it: by the bytes of the names."""
        bucket, _, key = prefix.partition("/")
        token = None
        while True:
            found, token = self.place.run(self.place.page(bucket, key, token, deep=deep, limit=limit))
            yield from found
            if not token or limit is not None:
                return


class _RemoteFile(io.RawIOBase):
    """A file read block by block, the next one on its way while one is used; blocks grow while reading goes on."""

    def __init__(self, place: _Requests, path: str, size: int, *, blind: bool) -> None:
        self._place, self._path, self._size, self._blind = place, path, size, blind
        self._at, self._start, self._block = 0, 0, b""
        self._next: Future[bytes] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        if self._at >= self._size:
            return 0
        if not self._start <= self._at < self._start + len(self._block):
            self._fetch()
        begin = self._at - self._start
        data = self._block[begin : begin + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        self._block = b""
        super().close()

    def _fetch(self) -> None:
        """The block that begins where reading is."""
        length = len(self._block)
        goes_on = bool(length) and self._at == self._start + length
        coming, self._next = self._next, None
        if coming is None or not goes_on:
            if coming is not None:
                coming.cancel()
            coming = self._begin(self._at, min(2 * length, _BLOCK_BYTES) if goes_on else REQUEST_BYTES)
        self._start, self._block = self._at, coming.result()
        if not self._block:
            raise HeadraceError(
                "A file was changed while the job was reading it.",
                where=self._place.where(self._path),
                value=f"it ends at byte {self._at} now",
            )
        end = self._start + len(self._block)
        if goes_on and end < self._size and not self._blind:
            self._next = self._begin(end, min(2 * len(self._block), _BLOCK_BYTES))

    def _begin(self, start: int, length: int) -> Future[bytes]:
        stop = min(start + (_BLIND_BLOCK_BYTES if self._blind else length), self._size)
        return self._place.begin(self._place.read(self._path, start, stop))

    def _drop(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _server(path: str) -> str:
    return "/".join(path.split("/", 3)[:3]) if "://" in path else ""


def _object(bucket: str, item: dict[str, Any]) -> dict[str, Any]:
    name, size = item.get("Key") or item["name"], item.get("Size", item.get("size", 0))
    return {**item, "name": f"{bucket}/{name}", "size": int(size), "type": "file"}
