"""Listing the files below a folder, local or behind fsspec."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from beam_jobs.sources._places.locate import filesystem
from beam_jobs.sources._places.names import local_root, nearby, shown
from beam_jobs.sources._places.zip import ZipFiles
from schemas.errors import HeadraceError
from schemas.remote_errors import redacted

__all__ = ["File", "list_files", "local_root", "local_version", "nearby", "remote_version", "shown"]

Test = Callable[[str], object]
_Folders = frozenset[tuple[int, int]]


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


_Found = tuple[str, File | _Folders]  # a path, and its file, or the folders that enclose it


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
    stack: list[Iterator[_Found]] = [iter([("", frozenset())])]
    while stack:
        for path, found in stack[-1]:
            if isinstance(found, File):
                yield found
            else:
                stack.append(iter(_inside(root, path, prune, found)))
                break
        else:
            stack.pop()


def _inside(root: str, path: str, prune: Test, enclosing: _Folders) -> list[_Found]:
    """The files of a folder, and its folders, whose paths end in a slash, with those that enclose them; sorted."""
    try:
        # By its descriptor: the system need not find the way to the folder again for every file.
        descriptor = os.open(os.path.join(root, path), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH118
        try:
            status = os.fstat(descriptor)
            identity = (status.st_dev, status.st_ino)
            if identity in enclosing:
                return []
            found = list(_entries(descriptor, path, prune, enclosing | {identity}))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unlistable(root, path, error) from error
    # As files of folders sort among others: by the whole path.
    found.sort(key=itemgetter(0))
    return found


def _entries(descriptor: int, prefix: str, prune: Test, enclosing: _Folders) -> Iterator[_Found]:
    # All in one loop: of a large folder each call of a function would take a tenth of the time.
    for name in os.listdir(descriptor):
        path = prefix + name
        try:
            status = os.stat(name, dir_fd=descriptor)
        except OSError as error:  # a link to itself, or one that leads nowhere
            yield path, File(path, -1, error.errno)
            continue
        mode = status.st_mode
        # Sockets, pipes and devices are no records; a pipe would block its reader for ever.
        if stat.S_ISREG(mode):
            yield path, File(path, status.st_size, local_version(status))
        elif stat.S_ISDIR(mode) and not prune(path):
            yield path + "/", enclosing


def local_version(status: os.stat_result) -> str:
    """What tells one version of a local file from another."""
    # The change time too: `cp -p`, `rsync -t` and `touch -d` can replace bytes and keep the modification time.
    return f"{status.st_mtime_ns} {status.st_ctime_ns}"


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
