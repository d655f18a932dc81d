"""The errors a user meets: what, where, the value, what is allowed, what to do next."""

from __future__ import annotations

import json
from typing import Final

_MARK: Final = "headrace-error:"


class HeadraceError(Exception):
    """An error that a user can act on.

    Args:
      what: one sentence that says what went wrong.
      where: the place: a field path, a file, a file and row.
      value: the offending value, shortened when long.
      allowed: what would have been accepted.
      hint: what to do next.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        value: object = None,
        allowed: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.value = None if value is None else shorten(value if isinstance(value, str) else repr(value))
        self.allowed = allowed
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        """The error as a user reads it: a sentence, then a line for each thing known."""
        lines = [self.what]
        for name in ("where", "value", "allowed", "hint"):
            text = getattr(self, name)
            if text is not None:
                lines.append(f"  {name + ':':<9}{text}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, str | None]:
        """The parts by name, for `--json` output."""
        return {name: getattr(self, name) for name in ("what", "where", "value", "allowed", "hint")}

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders, and keyword-only fields need help with that."""
        return (_rebuild, (self.to_json(),))


def _rebuild(parts: dict[str, str | None]) -> HeadraceError:
    what = parts.pop("what") or ""
    return HeadraceError(what, **parts)


class WireError(RuntimeError):
    """A HeadraceError on its way through a runner that keeps only the text of an exception."""

    def __init__(self, error: HeadraceError) -> None:
        super().__init__(f"{_MARK}{json.dumps(error.to_json())}")


def error_in_text(text: str) -> HeadraceError | None:
    """The last HeadraceError that a runner's exception text carries, or None."""
    for line in reversed(text.splitlines()):
        _, mark, rest = line.rpartition(_MARK)
        if mark:
            try:
                # Runners add text of their own behind it, which may hold braces too.
                return _rebuild(json.JSONDecoder().raw_decode(rest)[0])
            except (ValueError, TypeError, AttributeError):
                continue
    return None


def shorten(text: str, limit: int = 200) -> str:
    """`text` on one line, cut to `limit` characters with the cut marked."""
    text = text.replace("\n", "\\n").replace("\r", "\\r")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
