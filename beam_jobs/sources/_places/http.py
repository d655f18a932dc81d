"""Files of web servers: by byte range where the server knows ranges, and from no link-local address.

A job file may come from elsewhere, and so may a redirect. Link-local addresses are where clouds answer a machine with
its own credentials; they are looked for where the connection is made, so that names, redirects and every way to write
an address are covered.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urljoin

from schemas.errors import HeadraceError
from schemas.remote_errors import redacted

_LOCAL = [
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",  # Amazon's, Alibaba's and Oracle's, which are not link-local
        "100.100.100.200/32",
        "192.0.0.192/32",
    )
]
_PIECE = 1 << 16
_MAX_PAGE_BYTES = 64 << 20
_MAX_URL = 2000  # a server can lead on and on


def refuse_local(address: str) -> None:
    """Raises an error if an address is link-local, or one of those that tell a machine its credentials."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        embedded = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if embedded is None and found in ipaddress.ip_network("64:ff9b::/96"):
            embedded = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = embedded or found
    if any(found in network for network in _LOCAL if network.version == found.version):
        raise HeadraceError(
            "A URL leads to an address of this machine's own network, such as that of a cloud's metadata server.",
            value=str(found),
            allowed="any but link-local addresses (169.254.0.0/16, fe80::/10)",
            hint="The URL, its host's name or a redirect leads there. Nothing was read.",
        )


async def guarded_client(**options: Any) -> Any:
    """A client of aiohttp that connects to no such address."""
    import aiohttp

    def made(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        refuse_local(str(address[0]))
        return socket.socket(family, kind, protocol)

    options.pop("loop", None)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, socket_factory=made), **options)


async def info(files: Any, url: str) -> dict[str, Any]:
    """Size and version of a file, by a request for its first byte: signed URLs often allow no other method."""
    async with _got(files, url, "bytes=0-0", 416) as response:
        headers = response.headers
        total = re.fullmatch(r"bytes (?:\*|\d+-\d+)/(\d+)", headers.get("Content-Range", ""))
        length = headers.get("Content-Length", "") if response.status == 200 else ""
        found = total[1] if total else length if "Content-Encoding" not in headers else ""
        if response.status == 206 and not found.isdigit():
            raise EOFError("a part of the file came that does not say which")
        if not found.isdigit():
            raise HeadraceError("The server does not say how large a file is.", value=str(response.status))
        version = {
            name: headers[name]
            for name in ("ETag", "Content-MD5", "Digest", "Last-Modified")
            if name in headers
        }
        return {
            "name": url,
            "size": int(found),
            "type": "file",
            "ranges": response.status != 200,
            **version,
        }


async def cat_file(files: Any, url: str, start: int, end: int) -> bytes:
    """The bytes `start` … `end - 1`; of a server that sends the whole file, no more than those are kept."""
    async with _got(files, url, f"bytes={start}-{end - 1}") as response:
        begin = 0 if response.status == 200 else start
        said = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if said and int(said[1]) != begin:
            raise EOFError(f"bytes from {said[1]} came where those from {begin} were asked for")
        data = bytearray()
        async for piece in response.content.iter_chunked(_PIECE):
            data += piece[max(start - begin, 0) :]
            begin += len(piece)
            if len(data) >= end - start:
                break
        return bytes(data[: end - start])


async def ls(files: Any, url: str) -> list[dict[str, Any]]:
    """What a folder's index page leads to below itself; not the page in another order, and not up."""
    async with _got(files, url) as response:
        page = bytearray()
        if response.content_type == "text/html":
            async for piece in response.content.iter_chunked(_PIECE):
                page += piece
                if len(page) > _MAX_PAGE_BYTES:
                    raise HeadraceError(
                        "A folder's index page is too long.",
                        value=redacted(url),
                        allowed=f"{_MAX_PAGE_BYTES} bytes",
                    )
        parser = _Links()
        parser.feed(page.decode(response.charset or "utf-8", "replace"))
    base = f"{_plain(url.partition('?')[0]).rstrip('/')}/"
    joined = {urljoin(base, link) for link in parser.found if not set("?#") & set(link)}
    below = sorted(name for name in map(_plain, joined) if name.startswith(base) and name != base)
    kinds = {True: "directory", False: "file"}
    return [
        {"name": name, "size": None, "type": kinds[name.endswith("/")]}
        for name in below
        if len(name) < _MAX_URL and ".." not in unquote(name).split("/")
    ]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _plain(url: str) -> str:
    """A URL as people write it; what would mean something else then stays as it is."""

    def plain(escaped: re.Match[str]) -> str:
        text = unquote(escaped[0], errors="surrogateescape")
        return text if text.isprintable() and not set(text) & set("%?#/;") else escaped[0]

    return re.sub("(?:%[0-9A-Fa-f]{2})+", plain, url)


@asynccontextmanager
async def _got(files: Any, url: str, range_: str | None = None, *allowed: int) -> AsyncIterator[Any]:
    import aiohttp

    session = await files.set_session()
    headers = {"Range": range_, "Accept-Encoding": "identity"} if range_ else {}
    try:
        async with session.get(files.encode_url(url), headers=headers) as response:
            if response.status not in allowed:
                files._raise_not_found_for_status(response, url)
            yield response
    except (aiohttp.InvalidURL, aiohttp.TooManyRedirects, aiohttp.NonHttpUrlClientError) as error:
        # Not a fault of the network, which would be tried again.
        raise HeadraceError("The URL leads nowhere.", value=redacted(str(error) or url)) from None
