"""Objects of Google Cloud Storage, by its JSON API through gcsfs.

An object's tag is its generation. What is uploaded is compared with its CRC-32C: by the store before the object
appears where one request brings it, by us afterwards where it comes in parts.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
from typing import Any
from urllib.parse import quote

import google_crc32c

from beam_jobs.objects import MIB, Objects, Stat, damaged
from beam_jobs.store_lock import ABSENT
from schemas.remote_errors import undelivered

_QUANTUM = 256 << 10  # parts are whole multiples of it, but for the last one


class GcsObjects(Objects):
    """See `Objects`."""

    async def call(self, method: str, url: str, *arguments: str, **options: Any) -> Any:
        """A request of gcsfs: headers and body, or JSON if that is asked for."""
        if "data" in options:  # aiohttp sends a file piece by piece, and warns of long bytes
            options["data"] = io.BytesIO(options["data"])
        return await self.place.files._call(method, url, *arguments, **options)

    def upload_url(self, path: str) -> str:
        """Where an object is sent to."""
        return f"{self.place.files._location}/upload/storage/v1/b/{quote(self.split(path)[0])}/o"

    async def stat_once(self, path: str) -> Stat:
        """By one request."""
        return _stat_of(await self.call("GET", "b/{}/o/{}", *self.split(path), json_out=True))

    async def put(self, path: str, data: bytes, tag: str | None = None) -> str:
        """See `Objects`."""
        boundary, check = secrets.token_hex(16), _text(google_crc32c.Checksum(data))
        about = json.dumps({"name": self.split(path)[1], "crc32c": check})
        body = b"".join(
            [
                f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n".encode(),
                f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
                data,
                f"\r\n--{boundary}--".encode(),
            ]
        )
        options = {} if tag is None else {"ifGenerationMatch": "0" if tag == ABSENT else tag}

        async def once() -> str:
            await self.guard()
            found = await self.call(
                "POST",
                self.upload_url(path),
                uploadType="multipart",
                headers={"Content-Type": f"multipart/related; boundary={boundary}"},
                data=body,
                json_out=True,
                **options,
            )
            return _matched(_stat_of(found), len(data), check).tag

        return await self.place.persist(path, once, len(data) / MIB)

    async def upload(self, path: str) -> GcsUpload:
        """See `Objects`."""

        async def once() -> str:
            headers, _ = await self.call(
                "POST", self.upload_url(path), uploadType="resumable", json={"name": self.split(path)[1]}
            )
            return str(headers["Location"])

        return GcsUpload(self, path, await self.place.persist(path, once))

    async def names(self, prefix: str) -> list[str]:
        """See `Objects`."""
        bucket, key = self.split(prefix)
        found: list[str] = []
        page: dict[str, str] = {}

        async def once() -> Any:
            options = {"prefix": key, "fields": "items/name,nextPageToken", **page}
            return await self.call("GET", "b/{}/o", bucket, json_out=True, **options)

        while True:
            reply = await self.place.persist(prefix, once)
            found += [item["name"][len(key) :] for item in reply.get("items", [])]
            if not reply.get("nextPageToken"):
                return found
            page = {"pageToken": reply["nextPageToken"]}

    async def delete(self, path: str) -> None:
        """See `Objects`."""

        async def once() -> None:
            await self.call("DELETE", "b/{}/o/{}", *self.split(path))

        await self.place.persist(path, once)

    async def abort_uploads(self) -> None:
        """They cannot be listed, cost nothing, and end by themselves after a week."""


class GcsUpload:
    """A resumable upload: after a failed request the store is asked how much has come, and gets the rest."""

    def __init__(self, objects: GcsObjects, path: str, url: str) -> None:
        self._objects, self._path, self._url = objects, path, url
        self._crc, self._sent = google_crc32c.Checksum(), 0

    async def part(self, data: bytes) -> None:
        """See `Upload`."""
        await self._send(data, last=False)

    async def finish(self, data: bytes) -> None:
        """See `Upload`."""
        found = await self._send(data, last=True)
        try:
            _matched(found, self._sent, _text(self._crc))
        except EOFError as error:
            raise undelivered(self._objects.place.where(self._path), str(error)) from None

    async def abort(self) -> None:
        """See `Upload`."""
        await self._objects.call("DELETE", self._url)

    async def _send(self, data: bytes, *, last: bool) -> Stat:
        """Sends the bytes that follow; gives what the store has then, the object if they were the last."""
        start, end = self._sent, self._sent + len(data)
        attempts = 0

        async def once() -> Stat:
            nonlocal attempts
            attempts += 1
            came = start
            if attempts > 1:
                found = await self._ask()
                if found.tag if last else found.size == end:
                    return found
                came = found.size
                if found.tag or not start <= came <= end:
                    raise undelivered(self._objects.place.where(self._path), "the upload is gone")
            if last:
                await self._objects.guard()
            span = f"bytes {came}-{end - 1}/{end if last else '*'}"
            found = _progress(*await self._send_once("POST", span, data[came - start :]))
            if not (found.tag if last else found.size == end):
                raise EOFError(f"the store took {found.size - start} of {len(data)} bytes")
            return found

        found = await self._objects.place.persist(self._path, once, len(data) / MIB)
        self._crc.update(data)
        self._sent = end
        return found

    async def _ask(self) -> Stat:
        """What has come so far."""
        try:
            return _progress(*await self._send_once("PUT", "bytes */*", b""))
        except FileNotFoundError:  # the upload has ended: is this the object it made?
            return await self._objects.stat_once(self._path)

    async def _send_once(self, method: str, span: str, data: bytes) -> Any:
        # Not PUT for a part: aiohttp would send it again by itself if the connection breaks.
        return await self._objects.call(method, self._url, headers={"Content-Range": span}, data=data)


def _progress(headers: Any, body: bytes) -> Stat:
    """From the answer to a part: the object, or with an empty tag how much of it has come."""
    if "Range" in headers:
        return Stat((int(headers["Range"].rpartition("-")[2]) + 1) // _QUANTUM * _QUANTUM, "", None)
    return _stat_of(json.loads(body)) if body else Stat(0, "", None)


def _stat_of(found: Any) -> Stat:
    return Stat(int(found["size"]), str(found["generation"]), found.get("crc32c"))


def _matched(found: Stat, size: int, check: str | None) -> Stat:
    """The object, if it is what was sent."""
    if (found.size, found.check) != (size, check):
        raise damaged(f"{size} bytes, CRC {check}", f"{found.size} bytes, CRC {found.check}")
    return found


def _text(checksum: Any) -> str:
    return base64.b64encode(checksum.digest()).decode()
