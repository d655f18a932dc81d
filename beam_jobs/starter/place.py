"""What lies at a path or URL: its files, and how it is written in a job without secrets."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit, urlunsplit

from beam_jobs.sources._places.listing import list_files, local_root
from beam_jobs.sources._places.locate import filesystem
from schemas.errors import HeadraceError

MAX_FILES = 200_000  # looked at below one folder
_OURS = ("manifest.json", "features.json")  # beside each other: a data set that Headrace wrote
_ZIP = "zip://"
_WEB = ("http://", "https://")
_NOISE = {"thumbs.db", "desktop.ini", "_success"}


@dataclass(frozen=True)
class Place:
    """One argument of `headrace init`.

    Attributes:
      root: the folder, or what comes before the file's name, as it is opened.
      written: the same without secrets.
      files: paths below it, sorted.
      sizes: bytes of each of them, -1 where it is not known.
      cut: whether there are more files than were looked at.
    """

    root: str
    written: str
    files: list[str]
    sizes: dict[str, int]
    cut: bool = False


def join(root: str, name: str) -> str:
    """A path below a root; a signed URL is the file itself, and one within an archive ends with the archive."""
    if not name:
        return root
    if root.startswith(_ZIP):
        inner, mark, archive = root.removeprefix(_ZIP).partition("::")
        return f"{_ZIP}{join(inner, name)}{mark}{archive}"
    if is_signed(root):
        return root
    return f"{root.rstrip('/')}/{name}" if root else name


def is_signed(url: str) -> bool:
    """Whether something follows a URL's path, which belongs to that very file."""
    return "://" in url and "?" in url


def look(given: str) -> Place:
    """The files at a path or URL.

    Raises:
      HeadraceError: there is nothing, or it cannot be listed.
    """
    try:
        given.encode()
    except UnicodeEncodeError:
        raise HeadraceError(
            "The path is no UTF-8, so no job file can hold it.",
            value=given.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
            hint="Rename it, or run the command from within the folder and name it as `.`.",
        ) from None
    fs, path = filesystem(given, "init")
    try:
        # A web server has a page for a folder too.
        is_page = given.startswith(_WEB) and given.endswith("/")
        is_file = not is_page and fs.isfile(path)
        size = int(fs.info(path).get("size") or -1) if is_file else -1
    except OSError as error:
        raise HeadraceError("The location cannot be looked at.", value=f"{given}: {error}") from error
    if is_file and path.lower().endswith(".zip") and not given.startswith(_ZIP):
        return look(f"{_ZIP}::{given}")
    if is_file and given.startswith(_ZIP):
        inner, _, archive = given.removeprefix(_ZIP).partition("::")
        folder, _, name = inner.rpartition("/")
        root = f"{_ZIP}{folder}::{archive}"
        return Place(root, without_secrets(root), [name], {name: size})
    if is_file:
        folder, _, name = given.partition("?")[0].rpartition("/")
        if is_signed(given):
            return Place(given, without_secrets(given), [name], {name: size})
        folder, _, name = given.rpartition("/")
        root = folder or ("/" if given.startswith("/") else "")
        return Place(root, without_secrets(root), [name], {name: size})
    root = given.rstrip("/") or "/"
    listed = list(islice(_listed(root), MAX_FILES + 1))
    if not listed:
        raise HeadraceError(
            "The folder holds no file.",
            value=without_secrets(given),
            hint="Name the folder or the files that hold your data.",
        )
    files = _without_ours([name for name, _ in listed[:MAX_FILES]])
    sizes = dict(listed[:MAX_FILES])
    return Place(root, without_secrets(root), files, sizes, len(listed) > MAX_FILES)


def _listed(root: str) -> Iterator[tuple[str, int]]:
    for file in list_files(root, _hidden):
        if not _hidden(file.path) and file.path.rpartition("/")[2].lower() not in _NOISE:
            yield file.path, file.size


def _hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _without_ours(files: list[str]) -> list[str]:
    """The files that are no part of a data set that Headrace wrote: `out/` beside the data is usual."""
    names = set(files)
    ours = {
        folder + slash
        for folder, slash, name in (file.rpartition("/") for file in files)
        if name == _OURS[0] and f"{folder}{slash}{_OURS[1]}" in names
    }
    # By every folder above, so that the time does not grow with the number of versions.
    return [file for file in files if not any(f"{folder}/" in ours for folder in _folders(file))]


def _folders(file: str) -> Iterator[str]:
    while "/" in file:
        file = file.rpartition("/")[0]
        yield file


def without_secrets(url: str) -> str:
    """The URL without a user, a password and what follows `?`: keys and signatures lie there."""
    if "::" in url:
        inner, _, archive = url.partition("::")
        return f"{inner}::{without_secrets(archive)}"
    if local_root(url) is not None:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def escaped(root: str) -> str:
    """`root` where a pattern follows it."""
    return glob.escape(root)


def stem_of(name: str) -> str:
    """A file's name without its folders and extension."""
    return os.path.splitext(name.rpartition("/")[2])[0]  # noqa: PTH122
