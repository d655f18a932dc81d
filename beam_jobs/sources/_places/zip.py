"""The members of a zip archive, local or remote, read in place: nothing is extracted to disk.

An archive that lies about itself is refused as a whole, before any of it is unpacked: names that lead out of it,
links, members that overlap (bombs of a few KiB are made so), that are encrypted, or that unpack to more than a thousand
times their size.
"""

from __future__ import annotations

import bisect
import io
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from fsspec.spec import AbstractFileSystem

from schemas.errors import HeadraceError
from schemas.remote_errors import redacted

# The entries of a million files; each takes about 600 bytes of memory while it is read.
_MAX_DIRECTORY_BYTES = 64 << 20
_MAX_RATIO = 1100  # deflate cannot do more than 1032
_HEADER_BYTES = 30
_FIELDS = ("CRC", "compress_type", "flag_bits", "header_offset", "compress_size", "file_size")
_ROW = np.dtype([(name, "<i8") for name in _FIELDS] + [("date_time", "<u2", (6,))])
_TAIL_BYTES = 66_000  # hold the end of the directory, whatever comment follows it


class _Members:
    """What a directory says of its members, in order of their names: 100 bytes each, in place of 700 as `ZipInfo`s.

    No string of theirs is kept, which would keep the memory around it from being given back.
    """

    def __init__(self, members: list[zipfile.ZipInfo]) -> None:
        members = sorted(members, key=lambda member: member.filename)
        names = [member.filename.encode() for member in members]
        self._names = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)], dtype=np.int64)
        fields = ((*(getattr(member, name) for name in _FIELDS), member.date_time) for member in members)
        self._rows = np.fromiter(fields, _ROW, len(members))

    def get(self, name: str) -> zipfile.ZipInfo | None:
        """The member of that name."""
        place = self._place(name)
        return self._at(place) if place < len(self._rows) and self._name(place) == name else None

    def below(self, prefix: str) -> Iterator[zipfile.ZipInfo]:
        """The members whose names begin so, sorted."""
        for place in range(self._place(prefix), len(self._rows)):
            if not self._name(place).startswith(prefix):
                return
            yield self._at(place)

    def _place(self, name: str) -> int:
        return bisect.bisect_left(range(len(self._rows)), name, key=self._name)

    def _name(self, place: int) -> str:
        return self._names[self._ends[place] : self._ends[place + 1]].decode()

    def _at(self, place: int) -> zipfile.ZipInfo:
        *values, date = self._rows[place].tolist()
        member = zipfile.ZipInfo(self._name(place))
        year, month, day, hour, minute, second = map(int, date)
        member.date_time = year, month, day, hour, minute, second
        for name, value in zip(_FIELDS, values, strict=True):
            setattr(member, name, value)
        return member


class ZipFiles(AbstractFileSystem):
    """The files of an archive.

    Args:
      files: the file system that holds the archive.
      path: its path there.
      shown: its name for errors.
    """

    cachable = False

    def __init__(self, files: Any, path: str, shown: str) -> None:
        super().__init__()
        self._files, self._path, self._shown = files, path, shown
        self._version: Any = None
        self._members = _Members([])
        self._lock = threading.Lock()
        self.invalidate_cache()

    def invalidate_cache(self, *_: Any) -> None:
        """Reads the archive's directory again if the archive has changed."""
        try:
            self._files.invalidate_cache()
            info = self._files.info(self._path)
        except FileNotFoundError:
            raise HeadraceError("There is no such file.", where=self._shown) from None
        version = {name: str(value) for name, value in info.items()}
        with self._lock:
            self._load(version, int(info["size"]))

    def _load(self, version: Any, size: int) -> None:
        if version != self._version:
            try:
                raw = self._files.open(self._path, "rb")
                _check_size(raw, size, self._shown)
                self._archive = zipfile.ZipFile(raw)
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise HeadraceError(
                    "The archive cannot be read.", where=self._shown, value=redacted(str(error))
                ) from error
            members = [member for member in self._archive.infolist() if not member.is_dir()]
            self._bounds = _checked(members, self._archive.start_dir, self._shown)
            self._members = _Members(members)
            self._version = version
            # Ten times as large, and of no use any more.
            self._archive.filelist.clear()
            self._archive.NameToInfo.clear()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, type and version of a member."""
        path = path.strip("/")
        member = self._members.get(path)
        if member is not None:
            return _info(path, member)
        if not path or next(self._members.below(path + "/"), None) is not None:
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(f"{path} in {self._shown}")

    def is_packed(self, path: str) -> bool:
        """Whether a member can be read from its beginning only."""
        member = self._members.get(path.strip("/"))
        return member is not None and member.compress_type != zipfile.ZIP_STORED

    def find(self, path: str, *_: Any, detail: bool = False, **__: Any) -> Any:
        """Every member below a folder."""
        return dict(self.in_order(path)) if detail else [name for name, _ in self.in_order(path)]

    def in_order(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every member below a folder, sorted by name, each only when it is asked for: there may be a million."""
        prefix = path.strip("/") + "/" if path.strip("/") else ""
        return ((member.filename, _info(member.filename, member)) for member in self._members.below(prefix))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Every member below a folder."""
        return list(self.find(path, detail=True).values()) if detail else self.find(path)

    def cat_whole(self, paths: Sequence[str], _sizes: Sequence[int]) -> list[bytes | Exception]:
        """The bytes of members, or what is wrong with them."""
        members = [self._members.get(path.strip("/")) for path in paths]
        found: list[bytes | Exception] = [FileNotFoundError(path) for path in paths]
        there = [(place, member) for place, member in enumerate(members) if member is not None]
        spans = [self._span(member) for _, member in there]
        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        stored = self._files.cat_ranges([self._path] * len(there), starts, ends)
        for (place, member), data in zip(there, stored, strict=True):
            found[place] = _unpacked(data, member)
        return found

    def _open(self, path: str, *_: Any, **__: Any) -> Any:
        member = self._members.get(path.strip("/"))
        if member is None:
            raise FileNotFoundError(f"{path} in {self._shown}")
        return self._archive.open(member)

    def _span(self, member: zipfile.ZipInfo) -> tuple[int, int]:
        """Where a member's header and bytes lie; its header's own lengths are not known yet."""
        start = member.header_offset
        following = int(self._bounds[np.searchsorted(self._bounds, start, side="right")])
        return start, min(following, start + _HEADER_BYTES + 2 * 0xFFFF + member.compress_size)


def _check_size(raw: Any, size: int, shown: str) -> None:
    """Raises an error where the archive's directory would take too much memory."""
    start = max(size - _TAIL_BYTES, 0)
    raw.seek(start)
    tail = raw.read(size - start)
    end = tail.rfind(b"PK\5\6")
    length = struct.unpack_from("<I", tail, end + 12)[0] if 0 <= end <= len(tail) - 22 else 0
    large = tail.rfind(b"PK\6\6", 0, end)
    if length == 0xFFFFFFFF and 0 <= large <= len(tail) - 48:
        length = struct.unpack_from("<Q", tail, large + 40)[0]
    if length > _MAX_DIRECTORY_BYTES:
        raise _refused(shown, f"a directory of {length} bytes", f"at most {_MAX_DIRECTORY_BYTES}")
    raw.seek(0)


def _checked(members: list[zipfile.ZipInfo], directory: int, shown: str) -> npt.NDArray[np.int64]:
    """Where each member begins, and the directory, in order, after a look at everything that can be a lie."""
    seen = set()
    for member in members:
        name = member.orig_filename
        if (
            name.startswith(("/", "\\"))
            or "\0" in name
            or {"..", ""} & set(name.replace("\\", "/").split("/"))
        ):
            raise _refused(shown, f"member {name!r}", "names that stay within the archive")
        if member.filename in seen:
            raise _refused(shown, f"member {name!r} twice", "each name once")
        seen.add(member.filename)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _refused(shown, f"member {name!r}, a symbolic link", "files")
        if member.flag_bits & 0x41 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(shown, f"member {name!r}", "members that are not encrypted, stored or deflated")
        if member.file_size > _MAX_RATIO * max(member.compress_size, 1) or (
            member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size
        ):
            sizes = f"{member.compress_size} bytes that unpack to {member.file_size}"
            raise _refused(shown, f"member {name!r}: {sizes}", f"at most {_MAX_RATIO} times the bytes")
    ordered = sorted(members, key=lambda member: member.header_offset)
    bounds = [*(member.header_offset for member in ordered), directory]
    for member, (start, end) in zip(ordered, pairwise(bounds), strict=True):
        if start < 0 or start + _HEADER_BYTES + member.compress_size > end:
            raise _refused(shown, f"member {member.orig_filename!r}", "members that do not overlap")
    return np.array(bounds, np.int64)


def _refused(shown: str, value: str, allowed: str) -> HeadraceError:
    return HeadraceError(
        "The archive is not read, as it could do harm.",
        where=shown,
        value=value,
        allowed=allowed,
        hint="Make the archive anew from its files.",
    )


def _unpacked(data: Any, member: zipfile.ZipInfo) -> bytes | Exception:
    if isinstance(data, Exception):
        return data
    if data[:4] != b"PK\3\4" or len(data) < _HEADER_BYTES:
        return OSError("its header is damaged")
    start = _HEADER_BYTES + sum(struct.unpack_from("<HH", data, 26))
    try:
        with zipfile.ZipExtFile(io.BytesIO(data[start:]), "r", member) as file:
            unpacked: bytes = file.read(member.file_size + 1)  # so much, and no more, is unpacked at a time
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return OSError(f"its bytes are damaged: {error}")
    return unpacked


def _info(name: str, member: zipfile.ZipInfo) -> dict[str, Any]:
    return {
        "name": name,
        "size": member.file_size,
        "type": "file",
        "crc32": member.CRC,
        "mtime": "-".join(map(str, member.date_time)),
    }
