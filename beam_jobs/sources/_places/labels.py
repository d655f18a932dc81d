"""Labels in paths: a template such as `{label}/{id}.jpg`, or a regular expression with named groups."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import HeadraceError
from schemas.sources import GROUP_IN_REGEX

_PIECES = re.compile(r"\{(?P<group>\w+)\}|(?P<folders>\*\*/)|(?P<rest>\*\*$)|(?P<some>\*)|(?P<one>\?)")


class PathLabels:
    """What the named groups of a pattern match in paths.

    Matching is RE2's, by way of Arrow: its time is linear in the path, whatever the pattern and the path.

    Raises:
      HeadraceError: the pattern cannot be read.
    """

    def __init__(self, pattern: str, where: str) -> None:
        inner = pattern if GROUP_IN_REGEX.search(pattern) else _template(pattern)
        self._regex = rf"\A(?s:{inner})\z"
        try:
            self.columns([""])
        except pa.ArrowInvalid as error:
            raise HeadraceError(
                "The pattern of paths cannot be read.",
                where=where,
                value=pattern,
                allowed="{name}, *, ** and ?, or a regular expression (RE2) with groups (?P<name>…)",
                hint=str(error),
            ) from None

    def matches(self, paths: Sequence[str]) -> list[bool]:
        """Whether each path matches as a whole."""
        return self._extract(paths).is_valid().to_pylist()

    def columns(self, paths: Sequence[str]) -> dict[str, pa.Array]:
        """The text of every group, by name; '' where an optional group did not take part."""
        found = self._extract(paths)
        return dict(zip((field.name for field in found.type), found.flatten(), strict=True))

    def _extract(self, paths: Sequence[str]) -> pa.Array:
        return pc.extract_regex(pa.array(paths, pa.string()), self._regex)


def _template(pattern: str) -> str:
    out, at = [], 0
    for piece in _PIECES.finditer(pattern):
        out.append(re.escape(pattern[at : piece.start()]))
        at = piece.end()
        match piece.lastgroup:
            case "group":
                out.append(f"(?P<{piece['group']}>[^/]+)")
            case "folders":
                out.append("(?:[^/]+/)*")
            case "rest":
                out.append(".+")
            case "some":
                out.append("[^/]*")
            case _:
                out.append("[^/]")
    return "".join([*out, re.escape(pattern[at:])])
