"""File patterns: `**` crosses folders, `*` and `?` do not, and extensions match in any case."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from schemas.errors import HeadraceError

_ANY_FOLDER = "(?:[^/]+/)*"


def compile_patterns(patterns: Sequence[str]) -> Callable[[str], object]:
    """A test of whether a relative posix path matches any of `patterns`.

    `**` as a whole segment stands for any number of folders, none included; `*`, `?` and `[a-z]` stay within a
    segment. What follows the last dot matches in any case, because cameras write .JPG and people write *.jpg.

    Raises:
      HeadraceError: a pattern cannot be read.
    """
    if not patterns:
        return lambda _path: None
    if list(patterns) == ["**/*"]:  # as by default, and asked of every file
        return lambda path: "//" not in path and not path.startswith("/")
    found = [_regex(pattern) for pattern in patterns]
    # Those that begin in any folder share its search, which takes longer than all else.
    below = [regex.removeprefix(_ANY_FOLDER) for regex in found if regex.startswith(_ANY_FOLDER)]
    found = [regex for regex in found if not regex.startswith(_ANY_FOLDER)]
    if below:
        found.append(f"{_ANY_FOLDER}(?:{'|'.join(f'(?:{regex})' for regex in below)})")
    try:
        return re.compile("|".join(f"(?:{regex})" for regex in found), re.DOTALL).fullmatch
    except re.error as error:
        raise HeadraceError(
            "A file pattern cannot be read.",
            value=", ".join(patterns),
            allowed="**, *, ? and ranges such as [a-z]",
            hint=str(error),
        ) from None


def pruned_folders(patterns: Sequence[str]) -> Callable[[str], object]:
    """A test of whether all that lies below a relative folder is excluded by `patterns`, so need not be listed."""
    return compile_patterns([pattern[: -len("/**")] for pattern in patterns if pattern.endswith("/**")])


def _regex(pattern: str) -> str:
    pattern = pattern.removeprefix("./")
    if pattern.endswith("/"):
        pattern += "**"
    segments = pattern.split("/")
    parts = []
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == "**":
            parts.append(".+" if last else _ANY_FOLDER)
        else:
            parts.append(_segment(segment, last=last) + ("" if last else "/"))
    return "".join(parts)


def _segment(segment: str, *, last: bool) -> str:
    stem, dot, extension = segment.rpartition(".")
    if last and dot:
        return f"{_glob(stem)}\\.(?i:{_glob(extension)})"
    return _glob(segment)


def _glob(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        char = text[at]
        at += 1
        end = text.find("]", at + 1)
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and end != -1:
            inside = text[at:end].replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^")
            out.append(f"[^/{inside[1:]}]" if inside[0] == "!" else f"(?!/)[{inside}]")
            at = end + 1
        else:
            out.append(re.escape(char))
    return "".join(out)
