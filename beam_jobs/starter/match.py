"""Which columns belong together: keys of tables, and tables to be looked up in, by names and by values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from beam_jobs.starter.guess import Guess
from beam_jobs.starter.place import stem_of

_KEY_NAMES = (
    "id",
    "key",
    "uid",
    "uuid",
    "guid",
    "path",
    "filepath",
    "filename",
    "file",
    "image",
    "imageid",
    "name",
)
_GENERIC = {"id", "key", "index", "name", "row"}
_MIN_COVERED = 0.5
_MAX_PATHS = 100_000


class Match(NamedTuple):
    """A column of records whose values are found in a column of a table.

    Attributes:
      left, right: the columns.
      folder: the folder below which `path` has the table's values, where that is the left column.
      unmatched: of the records looked at, how many have no row.
      looked_at: how many that were.
      unused: of the table's rows looked at, how many no record has.
      repeated: whether several rows of the table have one value.
    """

    left: str
    right: str
    folder: str
    unmatched: int
    looked_at: int
    unused: int
    repeated: bool


def key_of(columns: Mapping[str, Guess], *, whole: bool) -> str | None:
    """The column that names a record: unique, and called like a key; any of unique words where all rows are known."""
    able = [name for name, guess in columns.items() if guess.unique and guess.is_id]
    named = sorted((name for name in able if _rank(name) < len(_KEY_NAMES)), key=_rank)
    if named:
        return named[0]
    texts = [name for name in able if whole and columns[name].one_word]
    return texts[0] if texts else None


def is_like_key(name: str) -> bool:
    """Whether a column is called as what names records, such as user_id: of such, new values are to be expected."""
    return _rank(name) < _KEY_NAMES.index("path")


def only_names(name: str) -> bool:
    """Whether a key is called as what says nothing else of a record."""
    return _rank(name) < _KEY_NAMES.index("name")


def _rank(name: str) -> int:
    """How much a name sounds like a key; the less the more."""
    word = _word(name)
    if word in _KEY_NAMES:
        return _KEY_NAMES.index(word)
    parts = [part for part in re.split(r"[^a-z0-9]+", _snake(name)) if part]
    return next((place for place, key in enumerate(_KEY_NAMES[:9]) if key in parts), len(_KEY_NAMES))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _word(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def match_paths(paths: Sequence[str], common: str, columns: Mapping[str, pa.ChunkedArray]) -> Match | None:
    """The table column whose values are paths, names or stems of files.

    Args:
      paths: of the files, sorted.
      common: the folder that holds them all.
      columns: of the table, without those of bytes and lists.
    """
    paths = paths[:_MAX_PATHS]
    folders = [common[:end] for end, letter in enumerate(common + "/") if letter == "/"]
    ways: list[tuple[str, str, list[str]]] = [("path", "", list(paths))]
    ways += [("path", folder, [path[len(folder) + 1 :] for path in paths]) for folder in folders if folder]
    for left, values in (
        ("name", [path.rpartition("/")[2] for path in paths]),
        ("stem", [stem_of(path) for path in paths]),
    ):
        if len(set(values)) == len(values):
            ways.append((left, "", values))
    found: list[tuple[tuple[float, ...], Match]] = []
    for place, (right, column) in enumerate(columns.items()):
        values = _texts(column)
        distinct = set(values)
        if not distinct:
            continue
        for order, (left, folder, have) in enumerate(ways):
            known = set(have)
            hits = sum(value in distinct for value in have)
            rows = sum(value in known for value in distinct)
            covered = max(hits / len(have), rows / len(distinct))
            # A stem may be a number, which many columns hold.
            if covered < (0.8 if left == "stem" else _MIN_COVERED) or (
                left == "stem" and hits < 2 < len(have)
            ):
                continue
            match = Match(
                left,
                right,
                folder,
                len(have) - hits,
                len(have),
                len(distinct) - rows,
                len(distinct) < len(values),
            )
            rank = (
                -round(covered, 1),
                float(match.repeated),
                float(order),
                float(_rank(right)),
                float(place),
            )
            found.append((rank, match))
    return min(found)[1] if found else None


def match_tables(
    left: Mapping[str, pa.ChunkedArray],
    right: Mapping[str, pa.ChunkedArray],
    table: str,
    *,
    whole: bool,
) -> Match | None:
    """Columns of two tables whose names and values both say that they are the same."""
    found: list[tuple[tuple[float, ...], Match]] = []
    for place, (name, column) in enumerate(left.items()):
        have = _texts(column)
        if not have:
            continue
        for order, (other, values) in enumerate(right.items()):
            least = _likeness(name, other, table)
            if least is None:
                continue
            texts = _texts(values)
            distinct = set(texts)
            hits = sum(value in distinct for value in have)
            used = set(have)
            rows = sum(value in used for value in distinct)
            # Where only a part of the table was seen, the rest may hold what is missing.
            covered = hits / len(have) if whole else max(hits / len(have), rows / max(len(distinct), 1))
            if covered < least:
                continue
            repeated = len(distinct) < len(texts)
            match = Match(name, other, "", len(have) - hits, len(have), len(distinct) - rows, repeated)
            found.append(((float(repeated), -round(covered, 1), float(place), float(order)), match))
    return min(found)[1] if found else None


def _likeness(left: str, right: str, table: str) -> float | None:
    """The share of values that must be found, given what the columns are called; None where names differ."""
    a, b = _word(left), _word(right)
    if a == b:
        return 0.95 if a in _GENERIC else _MIN_COVERED
    word = _word(table)
    singular = {word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word)}
    if b in ("id", "key", "code", "name", "uid") and a in {f"{one}{b}" for one in singular} | singular:
        return _MIN_COVERED
    return _MIN_COVERED if a in {f"{one}{b}" for one in singular} else None


def group_of(columns: Mapping[str, pa.ChunkedArray], taken: Sequence[str]) -> str | None:
    """A column that says which records belong together, such as user_id: it must not straddle two splits."""
    for name, column in columns.items():
        if name in taken or not is_like_key(name):
            continue
        values = _texts(column)
        counts = Counter(values)
        if values and len(counts) * 1.2 < len(values) and len(counts) >= 10:
            return name
    return None


def _texts(column: pa.ChunkedArray) -> list[str]:
    kind = column.type
    if pa.types.is_nested(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return []
    return [value for value in column.cast(pa.large_string()).to_pylist() if value is not None]
