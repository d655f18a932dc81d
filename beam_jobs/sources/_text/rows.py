"""Where the rows of delimited text begin and end, found in numpy: exact, and fast where the text is simple.

A quote opens only at the start of a field (RFC 4180), and within quotes a line end is text. A row ends at LF, CRLF
or a lone CR, as in Python's `csv` and in pyarrow, which parses the rows later and must see the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LF, _CR = 10, 13
Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dialect:
    """What tells rows and fields apart, as bytes.

    Attributes:
      delimiters: every byte that ends a field.
      quote: the quoting byte, b"" for none.
      blanks: bytes that alone make no record; a line of nothing else is blank.
      lone_cr: whether a CR that no LF follows ends a row.
    """

    delimiters: bytes = b","
    quote: bytes = b'"'
    blanks: bytes = b""
    lone_cr: bool = True


@dataclass(frozen=True)
class RowBlock:
    """Whole rows that follow each other in a file.

    Attributes:
      data: their bytes.
      offset: where `data` begins in the text.
      bounds: int64 (rows + 1,), where each row begins in `data`, and the end.
      blank: bool (rows,), rows that hold no record.
      quoted: whether any byte is the quote.
    """

    data: memoryview
    offset: int
    bounds: Positions
    blank: npt.NDArray[np.bool_]
    quoted: bool

    @property
    def records(self) -> int:
        """How many rows are not blank."""
        return len(self.blank) - int(np.count_nonzero(self.blank))


class RowTooLongError(ValueError):
    """A row is longer than allowed, or the text ends within quotes. `records` is how many came before it."""

    def __init__(self, records: int, *, open_quote: bool, start: bytes) -> None:
        super().__init__(records, open_quote, start)
        self.records = records
        self.open_quote = open_quote
        self.start = start


def row_blocks(
    read: Callable[[int], bytes], dialect: Dialect, chunk: int, max_row: int, offset: int = 0
) -> Iterator[RowBlock]:
    """The rows of the text that `read(size)` returns piece by piece (b"" at its end), about `chunk` bytes at a time.

    Raises:
      RowTooLongError: a row is longer than `max_row` bytes, or a quote is left open.
    """
    rest, records, final = b"", 0, False
    while not final:
        piece = read(chunk)
        final = not piece
        data = rest + piece if rest else piece
        if not data:
            return
        ends, open_quote = row_ends(data, dialect, final=final)
        if final and open_quote:
            raise RowTooLongError(
                records + _count(data, ends, dialect), open_quote=True, start=_tail(data, ends)
            )
        end = int(ends[-1]) if len(ends) else 0
        bounds = np.concatenate((np.zeros(1, dtype=np.int64), ends)) if end else ends
        if end:
            longest = int(np.argmax(np.diff(bounds)))
            if bounds[longest + 1] - bounds[longest] > max_row:
                start = bytes(data[bounds[longest] : bounds[longest] + 80])
                raise RowTooLongError(
                    records + _count(data, ends[:longest], dialect), open_quote=False, start=start
                )
        if len(data) - end > max_row:
            raise RowTooLongError(
                records + _count(data, ends, dialect), open_quote=open_quote, start=_tail(data, ends)
            )
        if end:
            quoted = bool(dialect.quote) and data.find(dialect.quote, 0, end) != -1
            block = RowBlock(memoryview(data)[:end], offset, bounds, _blank(data, bounds, dialect), quoted)
            records += block.records
            yield block
            offset += end
        rest = data[end:]


def row_ends(data: bytes, dialect: Dialect, *, final: bool) -> tuple[Positions, bool]:
    """Where each whole row of `data` ends (one past its line end), and whether the text ends within quotes.

    `data` begins at the start of a row. What follows the last line end is a row only if `final`.
    """
    view = np.frombuffer(data, dtype=np.uint8)
    ends = _line_ends(data, view, dialect, final=final)
    open_quote = False
    if dialect.quote and dialect.quote in data:
        ends, open_quote = _outside_quotes(view, ends, dialect)
    if final and not open_quote and (not len(ends) or ends[-1] < len(data)):
        ends = np.append(ends, len(data))
    return ends, open_quote


def _line_ends(data: bytes, view: Bytes, dialect: Dialect, *, final: bool) -> Positions:
    feeds = np.flatnonzero(view == _LF)
    if not dialect.lone_cr or b"\r" not in data:
        return feeds + 1
    returns = np.flatnonzero(view == _CR)
    following = np.zeros(len(returns), dtype=np.uint8)
    inner = returns + 1 < len(view)
    following[inner] = view[returns[inner] + 1]
    # A CR at the end of an unfinished text may turn out to be half of a CRLF.
    lone = returns[(following != _LF) & (inner | final)]
    return (np.union1d(feeds, lone) if len(lone) else feeds) + 1


def _outside_quotes(view: Bytes, ends: Positions, dialect: Dialect) -> tuple[Positions, bool]:
    """The line ends that are not within quotes, and whether the text ends within quotes."""
    quotes = np.flatnonzero(view == dialect.quote[0])
    starts_field = np.zeros(256, dtype=bool)
    starts_field[[_LF, _CR, *dialect.delimiters]] = True
    before = view[quotes - 1]
    can_open = starts_field[before]
    can_open[0] |= quotes[0] == 0
    # Every second quote opens, or is the second half of a doubled one: then parity says what is within quotes.
    again = before == dialect.quote[0]
    again[0] &= quotes[0] != 0
    if bool(np.all((can_open | again)[::2])):
        # The quotes before a line end; odd means within.
        inside = np.searchsorted(quotes, ends) & 1
        return ends[inside == 0], bool(len(quotes) & 1)
    opens, closes = _quoted_spans(quotes, can_open)
    if not len(opens):
        return ends, False
    spans = np.searchsorted(opens, ends) - 1
    outside = (spans < 0) | (closes[spans] < ends)
    return ends[outside], bool(closes[-1] >= len(view))


def _quoted_spans(quotes: Positions, can_open: npt.NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """Positions of the quotes that open and close a field, one by one: for text with quotes within plain fields."""
    at: list[int] = quotes.tolist()
    openers: list[bool] = can_open.tolist()
    opens, closes = [], []
    i, count = 0, len(at)
    while i < count:
        if not openers[i]:
            i += 1
            continue
        opens.append(at[i])
        i += 1
        while i + 1 < count and at[i + 1] == at[i] + 1:
            i += 2
        closes.append(at[i] if i < count else np.iinfo(np.int64).max)
        i += 1
    return np.array(opens, dtype=np.int64), np.array(closes, dtype=np.int64)


def _blank(data: bytes, bounds: Positions, dialect: Dialect) -> npt.NDArray[np.bool_]:
    """Which rows hold nothing but their line end (or `dialect.blanks`)."""
    view = np.frombuffer(data, dtype=np.uint8)
    lengths = np.diff(bounds)
    if dialect.blanks:
        plain = np.ones(256, dtype=bool)
        plain[[_LF, _CR, *dialect.blanks]] = False
        if bool(np.all(plain[view[bounds[:-1]]])):
            return np.zeros(len(lengths), dtype=bool)
        ink = plain[view[: bounds[-1]]]
        return np.add.reduceat(ink, bounds[:-1], dtype=np.int64) == 0
    first = view[bounds[:-1]]
    last = view[bounds[1:] - 1]
    return ((lengths == 1) & ((first == _LF) | (first == _CR))) | (
        (lengths == 2) & (first == _CR) & (last == _LF)
    )


def _count(data: bytes, ends: Positions, dialect: Dialect) -> int:
    if not len(ends):
        return 0
    bounds = np.concatenate((np.zeros(1, dtype=np.int64), ends))
    return int(np.count_nonzero(~_blank(data, bounds, dialect)))


def _tail(data: bytes, ends: Positions) -> bytes:
    start = int(ends[-1]) if len(ends) else 0
    return data[start : start + 80]
