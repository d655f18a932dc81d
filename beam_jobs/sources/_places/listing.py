"""Listing the files below a folder, local or behind fsspec."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from beam_jobs.sources._places.locate import filesystem
from beam_jobs.sources._places.names import local_root, nearby, shown
from beam_jobs.sources._places.zip import ZipFiles
from schemas.errors import HeadraceError
from schemas.remote_errors import redacted

__all__ = ["File", "list_files", "local_root", "nearby", "remote_version", "shown"]

Test = Callable[[str], object]


class File(NamedTuple):
    """One listed file.

    Attributes:
      path: posix, relative to the root; bytes that are no UTF-8 are surrogate escapes.
      size: bytes, or -1 where the file cannot be looked at (a link that leads nowhere).
      version: JSON-able; changes whenever the bytes may have.
    """

    path: str
    size: int
    version: Any


def list_files(root: str, prune: Test) -> Iterator[File]:
    """Every file below `root`, sorted by path. Folders that `prune` matches are not entered.

    Of local files no more are in memory than one folder and those above it hold, of a bucket's no more than a page.

    Raises:
      HeadraceError: the folder is missing, not a folder, or part of it cannot be read.
    """
    local = local_root(root)
    return _walk(local, prune) if local is not None else _find(root)


def _walk(root: str, prune: Test) -> Iterator[File]:
    """Local files. Links to folders are followed, but never into a folder that encloses the link.

    So each path means the same whatever else is there, and a loop of links ends after one turn.
    """
    stack: list[tuple[str, File | frozenset[tuple[int, int]]]] = [("", frozenset())]
    while stack:
        path, found = stack.pop()
        if isinstance(found, File):
            yield found
            continue
        folder = os.path.join(root, path)  # noqa: PTH118  half of the listing time with pathlib
        try:
            # By its descriptor: the system need not find the way to the folder again for every file.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                status = os.fstat(descriptor)
                identity = (status.st_dev, status.st_ino)
                if identity in found:
                    continue
                with os.scandir(descriptor) as entries:
                    inside = _inside(entries, path, prune, found | {identity})
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unlistable(root, path, error) from error
        # As files of folders sort among others: by the whole path.
        inside.sort(key=_first, reverse=True)
        stack += inside


def _inside(
    entries: Iterable[os.DirEntry[str]], prefix: str, prune: Test, enclosing: frozenset[tuple[int, int]]
) -> list[tuple[str, File | frozenset[tuple[int, int]]]]:
    """The files of a folder, and its folders, whose paths end in a slash, with those that enclose them."""
    inside: list[tuple[str, File | frozenset[tuple[int, int]]]] = []
    for entry in entries:
        path = prefix + entry.name
        if _is_folder(entry):
            if not prune(path):
                inside.append((path + "/", enclosing))
        else:
            file = _entry(entry, path)
            if file is not None:
                inside.append((path, file))
    return inside


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entry(entry: os.DirEntry[str], path: str) -> File | None:
    try:
        status = entry.stat()
    except OSError as error:
        return File(path, -1, error.errno)
    # Sockets, pipes and devices are no records; a pipe would block its reader for ever.
    if not entry.is_file():
        return None
    # The change time too: `cp -p`, `rsync -t` and `touch -d` can replace bytes and keep the modification time.
    return File(path, status.st_size, [status.st_mtime_ns, status.st_ctime_ns])


def _find(root: str) -> Iterator[File]:
    try:
        fs, base = filesystem(root, root)
        base = base.rstrip("/")
        fs.invalidate_cache()
        if fs.isfile(base) and not _is_web(base):
            raise NotADirectoryError
        prefix, last = base + "/" if base else "", None
        for path, info in _in_order(fs, base):
            if last is not None and path <= last:
                raise HeadraceError(
                    "The store lists its objects in no order.", where=redacted(root), value=path
                )
            last = path
            # Object stores mark empty folders by objects whose name ends in a slash.
            if path.startswith(prefix) and not path.endswith("/"):
                yield File(path[len(prefix) :], int(info.get("size") or 0), remote_version(info))
        if last is None and not fs.exists(base):
            raise FileNotFoundError
    except OSError as error:
        raise _unlistable(redacted(root), "", error) from error


def _in_order(fs: Any, base: str) -> Iterator[tuple[str, Any]]:
    """Names and details below a folder, sorted. Buckets list by the bytes of names, but for directory buckets of S3."""
    if getattr(fs, "in_buckets", False) and not base.partition("/")[0].endswith("--x-s3"):
        return ((info["name"], info) for info in fs.objects(base + "/"))
    if isinstance(fs, ZipFiles):
        return fs.in_order(base)
    return iter(sorted(fs.find(base, detail=True).items()))


def _is_web(path: str) -> bool:
    """Whether a folder cannot be told from a file: a web server has a page for either."""
    return path.startswith(("http://", "https://"))


def remote_version(info: dict[str, Any]) -> Any:
    """What tells one version of a remote file from another, of what the file system knows."""
    names = (
        "ETag",
        "etag",
        "md5Hash",
        "content_md5",
        "generation",
        "version_id",
        "mtime",
        "LastModified",
        "last_modified",
        "updated",
        "created",
        "Last-Modified",
        "Content-MD5",
        "Digest",
        "crc32",
    )
    return {name: str(info[name]) for name in names if info.get(name) is not None}


def _unlistable(root: str, prefix: str, error: Exception) -> HeadraceError:
    where = f"{root}/{prefix}".rstrip("/") if prefix else root
    if isinstance(error, NotADirectoryError):
        return HeadraceError(
            "The source is a file, not a folder.", where=where, hint="Name the folder that holds it."
        )
    if isinstance(error, FileNotFoundError):
        return HeadraceError("There is no such folder.", where=where, hint=nearby(root))
    return HeadraceError(
        "A folder cannot be read.",
        where=where,
        value=(error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__,
        hint="Give read permission, or leave it out with `exclude`.",
    )
