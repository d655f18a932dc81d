"""Opening delimited text: local or behind fsspec, compressed or not, as bytes that are UTF-8 or one byte a letter."""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec

from beam_jobs.sources._listing import local_root, remote_version
from schemas.errors import HeadraceError

_COMPRESSED: dict[str, Any] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
_DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError)
Read = Callable[[int], bytes]


class TextFiles(NamedTuple):
    """Where text files are: `names` are relative to `base`, sorted."""

    base: str
    names: list[str]


def find_files(root: str, where: str) -> TextFiles:
    """The file that `root` names, or all that match it as a pattern.

    Raises:
      HeadraceError: there is none, or it is a folder.
    """
    local = local_root(root)
    if local is not None:
        is_file, is_folder, expand = os.path.isfile, os.path.isdir, _glob_local
        path = local
    else:
        fs, path = _filesystem(root, where)
        is_file, is_folder, expand = fs.isfile, fs.isdir, fs.glob
    try:
        if is_file(path):
            base, _, name = path.rpartition("/")
            found = TextFiles(base if "/" in path else ".", [name])
        elif is_folder(path):
            raise HeadraceError(
                "The source is a folder, not a file.", where=where, value=root, hint=f"Try {root}/*.csv."
            )
        else:
            base = _fixed_part(path)
            matches = sorted(match for match in expand(path) if is_file(match))
            found = TextFiles(base, [os.path.relpath(match, base) for match in matches])
    except OSError as error:
        raise HeadraceError("The source cannot be listed.", where=where, value=f"{root}: {error}") from error
    if not found.names:
        raise HeadraceError(
            "There is no such file.", where=where, value=root, hint=_siblings(found.base, local is not None)
        )
    return found


class TextFile:
    """One file of delimited text, opened anew for each pass over it."""

    def __init__(self, root: str, base: str, name: str, encoding: str) -> None:
        self.name = name
        self.encoding = encoding
        self._path = f"{base}/{name}"
        self._fs = None if local_root(root) is not None else fsspec.core.url_to_fs(root)[0]
        self._unpack = _COMPRESSED.get(os.path.splitext(name)[1].lower())  # noqa: PTH122

    @property
    def seekable(self) -> bool:
        """Whether byte ranges of the file can be read on their own; else it is one stream of UTF-8."""
        return self._unpack is None and not self.transcoded

    @property
    def transcoded(self) -> bool:
        """Whether `open` converts to UTF-8: line ends of other wide encodings cannot be found by byte."""
        return not (is_utf8(self.encoding) or _one_byte(self.encoding))

    def version(self) -> Any:
        """JSON-able; changes whenever the bytes may have."""
        if self._fs is not None:
            self._fs.invalidate_cache()
            info = self._fs.info(self._path)
            return [int(info.get("size") or 0), remote_version(info)]
        status = os.stat(self._path)  # noqa: PTH116
        return [status.st_size, [status.st_mtime_ns, status.st_ctime_ns]]

    @contextmanager
    def open(self, start: int = 0, end: int | None = None) -> Iterator[Read]:
        """A function that reads the next so many bytes between `start` and `end` of the (converted) text.

        Raises:
          HeadraceError: the file cannot be read, or its compressed data are damaged.
        """
        try:
            with self._raw() as raw:
                yield _limited(self._reader(raw, start), None if end is None else end - start)
        except (OSError, *_DAMAGED) as error:
            raise HeadraceError("A file cannot be read.", where=self.name, value=str(error)) from error

    def raw_pieces(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of the file as stored, piece by piece: between `start` and `end` where it is seekable."""
        if not self.seekable:
            start, end = 0, None
        try:
            with self._raw() as raw:
                raw.seek(start)
                read = _limited(raw.read, None if end is None else end - start)
                while piece := read(1 << 20):
                    yield piece
        except OSError as error:
            raise HeadraceError("A file cannot be read.", where=self.name, value=str(error)) from error

    def _raw(self) -> BinaryIO:
        if self._fs is None:
            return open(self._path, "rb", buffering=0)
        return self._fs.open(self._path, "rb", block_size=4 << 20)

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


def _filesystem(root: str, where: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise HeadraceError(
            "The location cannot be opened.", where=where, value=f"{root}: {error}"
        ) from error
    return fs, path


def _glob_local(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  pathlib takes no absolute pattern


def _fixed_part(pattern: str) -> str:
    folders = pattern.split("/")[:-1]
    fixed = []
    for folder in folders:
        if glob.has_magic(folder):
            break
        fixed.append(folder)
    return "/".join(fixed) or ("/" if pattern.startswith("/") else ".")


def _siblings(base: str, local: bool) -> str | None:
    if not local:
        return None
    folder = Path(base)
    if not folder.is_dir():
        return f"There is no folder {base} either."
    names = sorted(child.name for child in folder.iterdir())
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{base} holds {', '.join(names[:10]) or 'nothing'}{more}."
