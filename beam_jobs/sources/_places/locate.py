"""Which files a path or a pattern of a source names, local or behind fsspec."""

from __future__ import annotations

import glob
import re
from functools import lru_cache
from typing import Any

import fsspec

from beam_jobs.sources._places.names import local_root, nearby
from beam_jobs.sources._places.remote import remote_files
from beam_jobs.sources._places.zip import ZipFiles
from schemas.errors import HeadraceError
from schemas.remote_errors import redacted

_MAX_NAMES = 100_000
_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<list>[^{}]*,[^{}]*))\}")


def find_files(root: str, where: str, suffix: str = ".csv") -> list[str]:
    """The file that `root` names, or all that match it as a pattern: sorted, relative to `base_of(root)`.

    `suffix` is what such files are called, for errors.

    Raises:
      HeadraceError: there is none, or it is a folder.
    """
    local = local_root(root) is not None
    fs, path = filesystem(root, where)
    given = redacted(root)
    try:
        fs.invalidate_cache()
        if fs.isfile(path):
            found = [path]
        elif fs.isdir(path):
            raise HeadraceError(
                "The source is a folder, not a file.",
                where=where,
                value=given,
                hint=f"Try {given}/*{suffix}.",
            )
        else:
            patterns = expand_braces(path)
            found = sorted({match for pattern in patterns for match in _matching(fs, pattern, local)})
            if len(patterns) > 1:
                _check_named(fs, patterns, where)
    except OSError as error:
        problem = redacted(str(error))
        raise HeadraceError(
            "The source cannot be listed.", where=where, value=f"{given}: {problem}"
        ) from error
    base = base_of(path)
    if not found:
        raise HeadraceError(
            "There is no such file.", where=where, value=given, hint=nearby(base) if local else None
        )
    return [name.removeprefix(base).lstrip("/") for name in found]


def _matching(fs: Any, pattern: str, local: bool) -> list[str]:
    matches = glob.glob(pattern, recursive=True) if local else fs.glob(pattern)  # noqa: PTH207  it may be absolute
    return [match for match in matches if fs.isfile(match)] if local else list(matches)


def _check_named(fs: Any, patterns: list[str], where: str) -> None:
    """A file that is named outright must be there; what a pattern matches is whatever is."""
    for name in patterns:
        if not glob.has_magic(name) and not fs.isfile(name):
            raise HeadraceError("There is no such file.", where=where, value=redacted(name))


def expand_braces(pattern: str) -> list[str]:
    """The patterns that one with {a,b} or {000..123} stands for, as a shell has them.

    Raises:
      HeadraceError: they are too many.
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    first, last = braces["first"], braces["last"]
    if first is None:
        choices = braces["list"].split(",")
    elif abs(int(last) - int(first)) >= _MAX_NAMES:
        raise _too_many(pattern)
    else:
        step = 1 if int(last) >= int(first) else -1
        width = len(first) if first.startswith("0") or last.startswith("0") else 0
        choices = [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
    rest = expand_braces(pattern[braces.end() :])
    if len(choices) * len(rest) > _MAX_NAMES:
        raise _too_many(pattern)
    return [pattern[: braces.start()] + choice + tail for choice in choices for tail in rest]


def _too_many(pattern: str) -> HeadraceError:
    return HeadraceError(
        "A pattern stands for too many names.", value=redacted(pattern), allowed=f"{_MAX_NAMES} names"
    )


def filesystem(root: str, where: str) -> tuple[Any, str]:
    """The fsspec file system of `root`, and its path there. Remote ones try again; see `_remote`.

    Raises:
      HeadraceError: there is no such file system, or its package is not installed.
    """
    local = local_root(root)
    if local is not None:
        return fsspec.filesystem("file"), local
    if root.startswith("zip://"):
        inner, mark, archive = root.removeprefix("zip://").partition("::")
        if not mark or archive.startswith("zip://"):
            raise HeadraceError(
                "A zip archive's place is missing." if not mark else "An archive in an archive is not read.",
                where=where,
                value=redacted(root),
                hint="Write zip://PATH_INSIDE::ARCHIVE, such as zip://*.csv::s3://bucket/a.zip.",
            )
        return _archive(archive), inner
    return remote_files(root)


@lru_cache(maxsize=8)
def _archive(url: str) -> ZipFiles:
    """The process's file system of an archive, for all threads: sources open files again and again."""
    files, path = filesystem(url, redacted(url))
    return ZipFiles(files, path, redacted(url))


def base_of(path: str) -> str:
    """The folders of `path` before the first that is a pattern."""
    fixed = []
    for folder in path.split("/")[:-1]:
        if glob.has_magic(folder) or _BRACES.search(folder):
            break
        fixed.append(folder)
    return "/".join(fixed) or ("/" if path.startswith("/") else "")
