"""How a delimited text is written, and whether a file holds JSON lines: by looking at its beginning."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from beam_jobs.sources._places.locate import find_files
from beam_jobs.sources._text.text_file import TextFile
from beam_jobs.starter.place import join
from schemas.errors import HeadraceError

_HEAD_BYTES = 1 << 20
_ROWS = 1000
_NULLS = {"", "NA", "NaN", "null", "NULL"}
_FILE = re.compile(r".*\.[A-Za-z][A-Za-z0-9]{1,4}", re.DOTALL)


@dataclass(frozen=True)
class Found:
    """Options of a source, and why each was chosen."""

    options: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)


def text_file(root: str, name: str, encoding: str) -> TextFile:
    """A file as the sources of delimited text read it."""
    path = join(root, name)
    return TextFile(path, find_files(path, "init")[0], encoding)


def head(root: str, name: str) -> tuple[bytes, bool]:
    """The first MiB of a text that may be compressed, and whether that is all of it."""
    data = b""
    with text_file(root, name, "latin-1").open() as read:
        while len(data) <= _HEAD_BYTES and (piece := read(_HEAD_BYTES + 1 - len(data))):
            data += piece
    return data[:_HEAD_BYTES], len(data) <= _HEAD_BYTES


def sniff_csv(root: str, name: str) -> Found | str:
    """Delimiter, quoting, header and encoding of a delimited text; or why it is none."""
    data, whole = head(root, name)
    if not data.strip():
        return "it is empty"
    encoding, text = _decoded(data)
    if "\0" in text:
        return "its content is no text"
    if not whole:
        text = text[: text.rfind("\n") + 1]
    found = Found()
    if encoding != "utf-8":
        found.options["encoding"] = encoding
        found.why["encoding"] = (
            "by its first bytes"
            if encoding == "utf-16"
            else "it is no UTF-8; cp1252 is another guess, and letters show which is right"
        )
    delimiter, quote, rows = _dialect(text, name)
    if delimiter != ",":
        found.options["delimiter"] = delimiter
    if not quote:
        found.options["quote"] = ""
        found.why["quote"] = "quotes in it stand for themselves"
    first, rest = rows[0], rows[1:]
    if _is_header(first, rest):
        names = _unique(first)
        if names != first:
            found.options["columns"] = names
            found.why["columns"] = "the header has empty or repeated names"
    else:
        found.options.update({"header": False, "columns": _guessed_names(rows)})
        found.why["header"] = "the first row looks like the others"
        found.why["columns"] = "name them as they should be called"
    return found


def _decoded(data: bytes) -> tuple[str, str]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16", data[: len(data) // 2 * 2].decode("utf-16", "replace")
    try:
        # A letter may be cut at the end of what was read.
        return "utf-8", data.decode("utf-8-sig") if len(data) < _HEAD_BYTES else _cut(data).decode(
            "utf-8-sig"
        )
    except UnicodeDecodeError:
        return "latin-1", data.decode("latin-1")


def _cut(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1] or data


def _dialect(text: str, name: str) -> tuple[str, str, list[list[str]]]:
    """Delimiter, quote and the first rows: those by which most rows have as many fields."""
    order = (
        ["\t", ",", ";", "|"] if ".tsv" in name.lower() or ".tab" in name.lower() else [",", "\t", ";", "|"]
    )
    best: tuple[float, int] = (0.0, 0)
    chosen: tuple[str, str, list[list[str]]] | None = None
    for delimiter in order:
        for quote in ('"', ""):
            rows = _rows(text, delimiter, quote)
            share, width = _regular(rows)
            if width > 1 and share >= 0.8 and (round(share, 2), min(width, 2)) > best:
                best, chosen = (round(share, 2), min(width, 2)), (delimiter, quote, rows)
    blank = [line.split() for line in text.splitlines()[:_ROWS] if line.strip()]
    share, width = _regular(blank)
    if width > 1 and share == 1 and (chosen is None or best[0] < 0.95):
        return "whitespace", '"', blank
    return chosen or (order[0], '"', _rows(text, order[0], '"'))


def _rows(text: str, delimiter: str, quote: str) -> list[list[str]]:
    style: Any = {"quotechar": '"'} if quote else {"quotechar": None, "quoting": csv.QUOTE_NONE}
    rows = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **style):
            if row:
                rows.append(row)
            if len(rows) == _ROWS:
                break
    except csv.Error:
        pass  # what was read says how regular it is
    return rows or [[text.partition("\n")[0]]]


def _regular(rows: list[list[str]]) -> tuple[float, int]:
    """The share of rows with the usual number of fields, and that number."""
    if not rows:
        return 0.0, 0
    width, count = sorted(Counter(map(len, rows)).items(), key=lambda pair: (-pair[1], -pair[0]))[0]
    return count / len(rows), width


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    """Whether the first row names the columns: no number, no file, nothing that occurs below it."""
    named = [cell.strip() for cell in first]
    if any(_is_number(cell) or (_FILE.fullmatch(cell) and "/" in cell) for cell in named):
        return False
    if not any(named):
        return False
    for place, cell in enumerate(named):
        below = [row[place].strip() for row in rest if len(row) == len(first)]
        filled = [value for value in below if value not in _NULLS]
        if filled and all(map(_is_number, filled)):
            return True
        if cell and cell in filled:
            return False
        if _FILE.fullmatch(cell) and filled and all(map(_FILE.fullmatch, filled)):
            return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip().lower() not in ("nan", "inf", "infinity")


def _unique(names: list[str]) -> list[str]:
    """The names, with others in place of those that are empty or occurred before."""
    out: list[str] = []
    for place, name in enumerate(names):
        wanted = name if name.strip() else ("row" if place == 0 else f"column_{place + 1}")
        number, base = 1, wanted
        while wanted in out or (wanted != name and wanted in names):
            number += 1
            wanted = f"{base}_{number}"
        out.append(wanted)
    return out


def _guessed_names(rows: list[list[str]]) -> list[str]:
    width = _regular(rows)[1]
    full = [row for row in rows if len(row) == width]
    names = [f"column_{place + 1}" for place in range(width)]
    for place in range(width):
        if all(_FILE.fullmatch(row[place].strip()) and not _is_number(row[place]) for row in full):
            names[place] = "file"
            break
    return names


def sniff_jsonl(root: str, name: str) -> Found | str:
    """Whether a file holds a JSON object on each line, and whether objects lie in them; or why it does not."""
    data, whole = head(root, name)
    if not data.strip():
        return "it is empty"
    lines = [line for line in data.splitlines() if line.strip()]
    if not whole and len(lines) > 1:
        lines.pop()
    try:
        first = json.loads(lines[0])
    except (ValueError, RecursionError):
        first = None
    if not isinstance(first, dict):
        return "it holds no JSON object on each line; `jq -c '.[]'` writes a list so"
    found = Found()
    if any(isinstance(value, dict) for line in lines[:_ROWS] for value in _values(line)):
        found.options["flatten"] = True
        found.why["flatten"] = "fields of nested objects are columns such as `user.name`"
    return found


def _values(line: bytes) -> list[Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return list(data.values()) if isinstance(data, dict) else []


def nothing(_root: str, _name: str) -> Found | str:
    """Kinds whose files say themselves what they are."""
    return Found()


def is_text(root: str, name: str) -> bool:
    """Whether a file holds UTF-8 text."""
    try:
        data, _ = head(root, name)
        _cut(data).decode()
    except (UnicodeDecodeError, HeadraceError):
        return False
    return b"\0" not in data
