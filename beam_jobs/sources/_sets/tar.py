"""The members of a tar archive, found header by header: nothing is extracted, and no header is believed unchecked.

Python's `tarfile` follows chains of headers by recursion and takes what extended headers say at any length; here both
are bounded, and what is wrong is said of the member it is wrong with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

_BLOCK = 512
_MAX_EXTENDED_BYTES = 1 << 20  # of a pax header or a long name
_MAX_ZEROS = 1 << 20  # between archives that were written one after the other; more of them is the end
_FILES = (b"0", b"\0", b"7")
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}


class Archive(Protocol):
    """What members are read from: a file, or a stream that is being unpacked.

    Attributes:
      broken: whether its compressed data ended, or were damaged, before their end.
    """

    broken: bool

    def read(self, size: int, /) -> bytes:
        """The next so many bytes; fewer at the end."""
        ...

    def skip(self, size: int) -> bool:
        """Passes over so many bytes; gives whether they were there, where only reading tells."""
        ...


class Member(NamedTuple):
    """One member.

    Attributes:
      name: as it is written; bytes that are no UTF-8 are surrogate escapes.
      offset: of its first header.
      size: bytes of its content, which comes next.
      problem: rule and reason where its content is not to be taken.
    """

    name: str
    offset: int
    size: int
    problem: tuple[str, str] | None = None


class _Header(NamedTuple):
    name: bytes
    kind: bytes  # b"" where there is none
    size: int


_NOTHING = _Header(b"", b"", 0)


class _Extended(NamedTuple):
    name: bytes | None = None
    size: int | None = None
    problem: tuple[str, str] | None = None


def members(
    archive: Archive, start: int, end: int | None
) -> Iterator[tuple[Member, Callable[[], bytes | None]]]:
    """The files of an archive, each with what reads its content; where that is not called, it is passed over.

    It gives None where the archive ends in the content. Folders are left out. The last member is one with the problem
    `damaged_tar` or `truncated_tar` where no more of the archive can be understood.

    Args:
      archive: at `start`.
      start: where a header begins.
      end: where the archive ends, None if only reading it tells.
    """
    for begun, at, header, problem in _headers(archive, start, end):
        name = header.name.decode("utf-8", "surrogateescape")
        size, whole = header.size, _padded(header.size)
        if not header.kind:
            yield Member(name, begun, 0, problem), bytes
            return
        ends = Member(name, begun, 0, ("truncated_tar", f"the archive ends in its {size} bytes"))
        if end is not None and end - at < whole:
            yield ends, bytes
            return
        taken, complete = False, True
        if header.kind in _FILES:

            def content_of(size: int = size, whole: int = whole) -> bytes | None:
                nonlocal taken, complete
                data = archive.read(whole)
                taken, complete = True, len(data) == whole
                return data[:size] if complete else None

            yield Member(name, begun, size, problem or _unsafe(name)), content_of
        elif header.kind != b"5":
            what = _KINDS.get(header.kind, f"of the unknown kind {header.kind!r}")
            yield Member(name, begun, 0, ("not_a_file", f"it is {what}")), bytes
        if not taken and not archive.skip(whole):
            yield ends, bytes
            return
        if not complete:
            return


def _headers(
    archive: Archive, start: int, end: int | None
) -> Iterator[tuple[int, int, _Header, tuple[str, str] | None]]:
    """The headers of members: where the first one of each begins, where its content does, what they say together."""
    at, begun, zeros, extended = start, start, 0, _Extended()
    while (end is None or at < end) and zeros <= _MAX_ZEROS:
        block = archive.read(_BLOCK)
        if len(block) == _BLOCK and not block.strip(b"\0"):
            at, zeros, extended = at + _BLOCK, zeros + _BLOCK, _Extended()
            begun = at
            continue
        header = _parsed(block)
        if header is None:
            if block or archive.broken:
                rule = "truncated_tar" if len(block) < _BLOCK else "damaged_tar"
                yield (
                    begun,
                    at,
                    _NOTHING,
                    (rule, f"there is no header at byte {at}; what follows cannot be read"),
                )
            return
        at, zeros = at + _BLOCK, 0
        if header.kind in (b"x", b"g", b"L", b"K"):
            whole = _padded(header.size)
            content = archive.read(whole) if header.size <= _MAX_EXTENDED_BYTES else b""
            there = len(content) == whole if content else archive.skip(whole)
            if not there or (end is not None and end - at < whole):
                yield begun, at, _NOTHING, ("truncated_tar", f"the archive ends in a header, at byte {at}")
                return
            if header.size <= _MAX_EXTENDED_BYTES:
                extended = _extend(extended, header.kind, content[: header.size])
            else:
                reason = f"a header of {header.size} bytes extends its own; {_MAX_EXTENDED_BYTES} are allowed"
                extended = _Extended(problem=("damaged_tar", reason))
            at += _padded(header.size)
            continue
        name = header.name if extended.name is None else extended.name
        size = header.size if extended.size is None else extended.size
        # Links and devices have no content, whatever their size says.
        size = 0 if header.kind in (b"1", b"2", b"3", b"4", b"5", b"6") else size
        yield begun, at, _Header(name, header.kind, size), extended.problem
        at += _padded(size)
        begun, extended = at, _Extended()


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _parsed(block: bytes) -> _Header | None:
    """What a header says; None where it is none."""
    total = sum(block) - sum(block[148:156]) + 8 * 32
    size = _number(block[124:136])
    if len(block) < _BLOCK or _number(block[148:156]) != total or size is None:
        return None
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0]
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _Header(name, block[156:157], size)


def _number(field: bytes) -> int | None:
    if field[:1] == b"\x80":  # GNU's, for what octal digits cannot hold
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    try:
        return int(digits or b"0", 8) if not digits.startswith((b"-", b"+")) and b"_" not in digits else None
    except ValueError:
        return None


def _extend(extended: _Extended, kind: bytes, content: bytes) -> _Extended:
    match kind:
        case b"L":
            return extended._replace(name=content.rstrip(b"\0"))
        case b"x":
            return _pax(extended, content)
        case _:  # of links, and for all members: neither names nor sizes
            return extended


def _pax(extended: _Extended, content: bytes) -> _Extended:
    damaged = extended._replace(problem=("damaged_tar", "its extended header cannot be read"))
    at = 0
    while at < len(content):
        digits = content[at : at + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, mark, value = content[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if not mark or at + length > len(content) or content[at + length - 1 : at + length] != b"\n":
            return damaged
        at += length
        if key == b"path":
            extended = extended._replace(name=value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                return damaged
            extended = extended._replace(size=int(value))
        elif key.startswith(b"GNU.sparse"):
            extended = extended._replace(problem=("not_a_file", "it is a sparse file"))
    return extended


def _unsafe(name: str) -> tuple[str, str] | None:
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        return "unsafe_name", "its name leads out of the archive"
    return None
