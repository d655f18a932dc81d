"""Objects of S3 and what speaks its protocol, through s3fs.

An object's tag is its ETag. The store compares each request's bytes with their MD5 before it takes them, and we compare
that with the ETag, as not every server of the protocol does. An upload in parts carries a token in the object's
metadata, by which the object is known to be its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import secrets
from typing import Any

from beam_jobs.objects import MIB, Objects, Stat, damaged
from beam_jobs.store_lock import ABSENT

_TOKEN = "headrace-upload"  # noqa: S105 - names the metadata that holds it


class S3Objects(Objects):
    """See `Objects`."""

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """A request of botocore about an object."""
        bucket, key = self.split(path)
        return await self.place.files._call_s3(method, Bucket=bucket, Key=key, **options)

    async def persist(self, method: str, path: str, **options: Any) -> Any:
        """The same, tried again."""
        return await self.place.persist(path, lambda: self.call(method, path, **options))

    async def stat_once(self, path: str) -> Stat:
        """By one request."""
        found = await self.call("head_object", path)
        return Stat(int(found["ContentLength"]), found["ETag"], found.get("Metadata", {}).get(_TOKEN))

    async def put(self, path: str, data: bytes, tag: str | None = None) -> str:
        """See `Objects`."""
        digest = _md5(data)
        options = {} if tag is None else {"IfNoneMatch": "*"} if tag == ABSENT else {"IfMatch": tag}

        async def once() -> str:
            await self.guard()
            sent = await self.call("put_object", path, Body=data, ContentMD5=_text(digest), **options)
            _check(sent, digest)
            return str(sent["ETag"])

        return await self.place.persist(path, once, len(data) / MIB)

    async def upload(self, path: str) -> S3Upload:
        """See `Objects`."""
        token = secrets.token_hex(8)
        begun = await self.persist("create_multipart_upload", path, Metadata={_TOKEN: token})
        return S3Upload(self, path, begun["UploadId"], token)

    async def names(self, prefix: str) -> list[str]:
        """See `Objects`."""
        key = self.split(prefix)[1]
        pages = await self._pages("list_objects_v2", prefix, {"NextContinuationToken": "ContinuationToken"})
        return [item["Key"][len(key) :] for page in pages for item in page.get("Contents", [])]

    async def delete(self, path: str) -> None:
        """See `Objects`."""
        await self.persist("delete_object", path)

    async def abort_uploads(self) -> None:
        """See `Objects`."""
        marks = {"NextKeyMarker": "KeyMarker", "NextUploadIdMarker": "UploadIdMarker"}
        pages = await self._pages("list_multipart_uploads", "", marks)
        root = len(self.split("")[1])
        for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
            with contextlib.suppress(FileNotFoundError):
                await self.persist(
                    "abort_multipart_upload", upload["Key"][root:], UploadId=upload["UploadId"]
                )

    async def _pages(self, method: str, prefix: str, marks: dict[str, str]) -> list[Any]:
        """The pages of a listing; `marks`: what of a page asks for the next one, and as what."""
        bucket, key = self.split(prefix)
        pages: list[Any] = []
        options: dict[str, str] = {}

        async def once() -> Any:
            return await self.place.files._call_s3(method, Bucket=bucket, Prefix=key, **options)

        while not pages or pages[-1].get("IsTruncated"):
            pages.append(await self.place.persist(prefix, once))
            options = {ours: pages[-1][theirs] for theirs, ours in marks.items() if theirs in pages[-1]}
        return pages


class S3Upload:
    """A multipart upload."""

    def __init__(self, objects: S3Objects, path: str, upload: str, token: str) -> None:
        self._objects, self._path, self._id, self._token = objects, path, {"UploadId": upload}, token
        self._parts: list[dict[str, Any]] = []
        self._sent = 0

    async def part(self, data: bytes) -> None:
        """See `Upload`."""
        number, digest = len(self._parts) + 1, _md5(data)

        async def once() -> Any:
            options = {"PartNumber": number, "Body": data, "ContentMD5": _text(digest), **self._id}
            sent = await self._objects.call("upload_part", self._path, **options)
            _check(sent, digest)
            return sent

        sent = await self._objects.place.persist(self._path, once, len(data) / MIB)
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        self._sent += len(data)

    async def finish(self, data: bytes) -> None:
        """See `Upload`."""
        await self.part(data)
        attempts = 0

        async def once() -> None:
            nonlocal attempts
            attempts += 1
            if attempts > 1 and await self._is_there():
                return
            await self._objects.guard()
            parts = {"Parts": self._parts}
            await self._objects.call(
                "complete_multipart_upload", self._path, MultipartUpload=parts, **self._id
            )
            if not await self._is_there():
                raise damaged(f"{self._sent} bytes", "another object")

        await self._objects.place.persist(self._path, once)

    async def abort(self) -> None:
        """See `Upload`."""
        await self._objects.call("abort_multipart_upload", self._path, **self._id)

    async def _is_there(self) -> bool:
        """Whether the object is the one of this upload."""
        try:
            found = await self._objects.stat_once(self._path)
        except FileNotFoundError:
            return False
        return (found.size, found.check) == (self._sent, self._token)


def _check(sent: Any, digest: bytes) -> None:
    """Raises an error if an ETag that is an MD5 is not that of what was sent; with keys of one's own it is none."""
    tag = sent["ETag"].strip('"')
    encrypted = "SSECustomerAlgorithm" in sent or sent.get("ServerSideEncryption", "").startswith("aws:")
    if not encrypted and re.fullmatch("[0-9a-f]{32}", tag) and tag != digest.hex():
        raise damaged(f"bytes of MD5 {digest.hex()}", f"bytes of MD5 {tag}")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
