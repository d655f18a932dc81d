"""Which files a path or a pattern of a source names, local or behind fsspec."""

from __future__ import annotations

import glob
from typing import Any

import fsspec

from beam_jobs.sources._listing import local_root, nearby
from schemas.errors import HeadraceError


def find_files(root: str, where: str, suffix: str = ".csv") -> list[str]:
    """The file that `root` names, or all that match it as a pattern: sorted, relative to `base_of(root)`.

    `suffix` is what such files are called, for errors.

    Raises:
      HeadraceError: there is none, or it is a folder.
    """
    local = local_root(root) is not None
    fs, path = filesystem(root, where)
    try:
        fs.invalidate_cache()
        if fs.isfile(path):
            found = [path]
        elif fs.isdir(path):
            raise HeadraceError(
                "The source is a folder, not a file.", where=where, value=root, hint=f"Try {root}/*{suffix}."
            )
        else:
            matches = glob.glob(path, recursive=True) if local else fs.glob(path)  # noqa: PTH207  `path` may be absolute
            found = sorted(match for match in matches if fs.isfile(match))
    except OSError as error:
        raise HeadraceError("The source cannot be listed.", where=where, value=f"{root}: {error}") from error
    base = base_of(path)
    if not found:
        raise HeadraceError(
            "There is no such file.", where=where, value=root, hint=nearby(base) if local else None
        )
    return [name.removeprefix(base).lstrip("/") for name in found]


def filesystem(root: str, where: str) -> tuple[Any, str]:
    """The fsspec file system of `root`, and its path there.

    Raises:
      HeadraceError: there is no such file system, or its package is not installed.
    """
    try:
        local = local_root(root)
        if local is not None:
            return fsspec.filesystem("file"), local
        fs, path = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise HeadraceError(
            "The location cannot be opened.", where=where, value=f"{root}: {error}"
        ) from error
    return fs, path


def base_of(path: str) -> str:
    """The folders of `path` before the first that is a pattern."""
    fixed = []
    for folder in path.split("/")[:-1]:
        if glob.has_magic(folder):
            break
        fixed.append(folder)
    return "/".join(fixed) or ("/" if path.startswith("/") else "")
