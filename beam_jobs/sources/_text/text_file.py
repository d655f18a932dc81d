"""Opening delimited text: local or behind fsspec, compressed or not, as bytes that are UTF-8 or one byte a letter."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from beam_jobs.sources._places.file import StoredFile
from schemas.errors import HeadraceError

_COMPRESSED: dict[str, Any] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile, zlib.error)
Read = Callable[[int], bytes]


class TextFile(StoredFile):
    """One file of delimited text."""

    def __init__(self, root: str, name: str, encoding: str) -> None:
        super().__init__(root, name)
        self.encoding = encoding
        self._unpack = _COMPRESSED.get(os.path.splitext(name)[1].lower())  # noqa: PTH122

    @property
    def seekable(self) -> bool:
        """Whether byte ranges of the file can be read on their own; else it is one stream of UTF-8."""
        return self._unpack is None and not self.transcoded and not self.is_packed

    @property
    def transcoded(self) -> bool:
        """Whether `open` converts to UTF-8: line ends of other wide encodings cannot be found by byte."""
        return not (is_utf8(self.encoding) or _one_byte(self.encoding))

    @property
    def text_encoding(self) -> str:
        """The encoding of what `open` reads."""
        return "utf-8" if self.transcoded or is_utf8(self.encoding) else self.encoding

    @contextmanager
    def open(self, start: int = 0, end: int | None = None) -> Iterator[Read]:
        """A function that reads the next so many bytes between `start` and `end` of the (converted) text.

        Raises:
          HeadraceError: the file cannot be read, or its compressed data are damaged.
        """
        try:
            with self.raw() as raw:
                yield _limited(self._reader(raw, start), None if end is None else end - start)
        except (OSError, *DAMAGED) as error:
            raise HeadraceError("A file cannot be read.", where=self.shown, value=str(error)) from error

    def stored(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of the file as stored, piece by piece: between `start` and `end` where it is seekable."""
        if not self.seekable:
            start, end = 0, None
        try:
            with self.raw() as raw:
                raw.seek(start)
                read = _limited(raw.read, None if end is None else end - start)
                while piece := read(1 << 20):
                    yield piece
        except (OSError, *DAMAGED) as error:
            raise HeadraceError("A file cannot be read.", where=self.shown, value=str(error)) from error

    def _reader(self, raw: BinaryIO, start: int) -> Read:
        if self.seekable:
            raw.seek(start)
            return raw.read
        read: Read = raw.read if self._unpack is None else self._unpack(raw).read
        if self.transcoded:
            read = _transcode(read, self.encoding)
        while start > 0:
            start -= len(read(min(start, 1 << 20)) or b"." * start)
        return read


def is_utf8(encoding: str) -> bool:
    """Whether text in `encoding` is UTF-8 already."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


def _one_byte(encoding: str) -> bool:
    every = bytes(range(256))
    return len(every.decode(encoding, "replace")) == 256 and every[:128].decode(encoding, "replace").isascii()


def _transcode(read: Read, encoding: str) -> Read:
    """The text as UTF-8. What cannot be decoded becomes bytes that are no UTF-8, and so a fault of its own row."""
    codecs.register_error("headrace-mark", _mark)
    decoder = codecs.getincrementaldecoder(encoding)("headrace-mark")

    def converted(size: int) -> bytes:
        while True:
            piece = read(size)
            text = decoder.decode(piece, final=not piece)
            if text or not piece:
                return text.encode("utf-8", "surrogatepass")

    return converted


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


def _limited(read: Read, size: int | None) -> Read:
    if size is None:
        return read
    left = size

    def limited(wanted: int) -> bytes:
        nonlocal left
        piece = read(min(wanted, left))
        left -= len(piece)
        return piece

    return limited
