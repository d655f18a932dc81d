"""YAML with comments: lines that a person edits, whatever the names in them hold."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_WIDTH = 110
_COMMENT_AT = 64  # the last column at which a comment beside a line begins
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|, |[^",]+|,')
_PLAIN_PATH = re.compile(r"[A-Za-z_$./][\w./:${}*-]*")


class Page:
    """Lines of a job file, each with a comment beside it or above it."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str]] = []

    def add(self, text: str, why: str = "") -> None:
        """A line, or several where a list is too long for one."""
        self._lines += [(line, why if place == 0 else "") for place, line in enumerate(_folded(text))]

    def say(self, text: str, indent: int = 0) -> None:
        """A comment on lines of its own."""
        margin = " " * indent
        for line in textwrap.wrap(printable(text), _WIDTH - indent - 2, break_on_hyphens=False):
            self._lines.append((f"{margin}# {line}", ""))

    def off(self, text: str, why: str = "") -> None:
        """A line that is commented out."""
        margin = " " * (len(text) - len(text.lstrip(" ")))
        self._lines.append((f"{margin}# {text.lstrip(' ')}", why))

    def gap(self) -> None:
        """An empty line."""
        self._lines.append(("", ""))

    def text(self) -> str:
        """The whole file."""
        out: list[str] = []
        block: list[tuple[str, str]] = []
        for line in [*self._lines, ("", "")]:
            if line[0]:
                block.append(line)
                continue
            widths = [len(text) for text, why in block if why and len(text) + 2 <= _COMMENT_AT]
            at = max(widths, default=0) + 2
            for text, why in block:
                out += _commented(text, printable(why), at)
            block = []
            out.append("")
        return "\n".join(out).rstrip("\n") + "\n"


def _commented(text: str, why: str, at: int) -> list[str]:
    if not why:
        return [text]
    beside = f"{text:<{at}}# {why}"
    if len(text) + 2 <= at and len(beside) <= _WIDTH:
        return [beside]
    margin = " " * (len(text) - len(text.lstrip(" ")))
    wrapped = textwrap.wrap(why, _WIDTH - len(margin) - 2, break_on_hyphens=False)
    return [*(f"{margin}# {line}" for line in wrapped), text]


def _folded(text: str) -> list[str]:
    """A line cut after commas where it is too wide."""
    lines = []
    margin = " " * (len(text) - len(text.lstrip(" ")) + 4)
    while len(text) > _WIDTH:
        commas = [found.end() for found in _TOKENS.finditer(text) if found.group() == ", "]
        fitting = [at for at in commas if len(margin) < at <= _WIDTH]
        if not fitting and not commas:
            break
        cut = fitting[-1] if fitting else commas[0]
        lines.append(text[: cut - 1])
        text = margin + text[cut:]
    return [*lines, text]


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return scalar(value)


def scalar(value: Any, *, path: bool = False) -> str:
    """A number, truth or text as YAML reads it back; a text of a path may hold `${name}` unquoted."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    pattern = _PLAIN_PATH if path else _PLAIN
    if text.isascii() and pattern.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char in "\t\n":
        return "\\t" if char == "\t" else "\\n"
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str) -> str:
    """`text` as a comment may hold it: no line end, nothing that cannot be seen."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)
