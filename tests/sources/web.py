"""A web server of the tests' own: files with versions and index pages, with or without ranges, and redirects."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Any

from tests.servers import FileServer


class WebServer(FileServer):
    """The files of a directory.

    Args:
      directory: of the files.
      ranges: whether it answers requests for ranges, rather than send whole files.
      methods: that it knows; signed URLs often allow no HEAD.

    Attributes:
      redirects: where a path leads, instead of to a file.
      pages: index pages other than the list of what there is.
    """

    def __init__(self, directory: Path, *, ranges: bool = True, methods: tuple[str, ...] = ("GET",)) -> None:
        self.ranges, self.methods = ranges, methods
        self.redirects: dict[str, str] = {}
        self.pages: dict[str, bytes] = {}
        super().__init__(directory)

    def answer(self, handler: Any) -> None:
        path = urllib.parse.unquote(handler.path.partition("?")[0])
        target = self.redirects.get(path)
        if handler.command not in self.methods:
            return handler.reply(405, b"", {})
        if target is not None:
            return handler.reply(302, b"", {"Location": target})
        if not self.ranges:
            del handler.headers["Range"]
        folder = self.directory / path.strip("/")
        if folder.is_dir():
            names = sorted(f"{child.name}{'/' if child.is_dir() else ''}" for child in folder.iterdir())
            links = "".join(f'<a href="{urllib.parse.quote(name)}">{name}</a>\n' for name in ["../", *names])
            page = self.pages.get(path, f"<html><body>{links}</body></html>".encode())
            return handler.reply(200, page, {"Content-Type": "text/html"})
        return super().answer(handler)
