"""The scan for rows against Python's csv module, over texts made to be nasty."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_jobs.sources._text.ranges import cut_ranges, digest_of
from beam_jobs.sources._text.rows import Dialect, RowBlock, RowTooLongError, row_blocks, row_ends

DIALECTS = [Dialect(), Dialect(b";", b"'"), Dialect(b"\t", b""), Dialect(b" \t", b'"', b" \t")]
TEXTS = st.text(alphabet='a,"\n\r ', max_size=40).map(str.encode)
FIELDS = st.text(alphabet='ab,"\n\r ;', max_size=8)


COMMA = DIALECTS[0]


def scan(data: bytes, chunk: int, dialect: Dialect = COMMA) -> list[RowBlock]:
    return list(row_blocks(io.BytesIO(data).read, dialect, chunk, 1 << 20))


def rows_of(blocks: list[RowBlock]) -> list[bytes]:
    return [
        bytes(block.data[low:high])
        for block in blocks
        for low, high, blank in zip(block.bounds[:-1], block.bounds[1:], block.blank, strict=True)
        if not blank
    ]


def slow_rows(data: bytes, dialect: Dialect) -> tuple[list[bytes], bool]:
    """Rows that are not blank, one byte at a time, and whether a quote is left open."""
    rows, begin, quoted, at_start, at = [], 0, False, True, 0
    enders = dialect.delimiters
    while at < len(data):
        char = data[at : at + 1]
        if quoted:
            if char == dialect.quote:
                if data[at + 1 : at + 2] == dialect.quote:
                    at += 1
                else:
                    quoted = False
        elif char == dialect.quote and at_start and dialect.quote:
            quoted, at_start = True, False
        elif char in (b"\n", b"\r"):
            if char == b"\r" and data[at + 1 : at + 2] == b"\n":
                at += 1
            rows.append(data[begin : at + 1])
            begin, at_start = at + 1, True
        else:
            at_start = char in enders
        at += 1
    if begin < len(data):
        rows.append(data[begin:])
    return [row for row in rows if row.strip(b"\r\n" + dialect.blanks)], quoted


@settings(max_examples=1000)
@given(TEXTS, st.integers(1, 50))
@example(b'a,"b\n",c\n', 3)
@example(b'a"b\nc"d\n', 100)
@example(b'""a"\n,"""",""\r\n"', 2)
@example(b"a\r\r\n\rb", 1)
def test_rows_are_those_of_the_csv_module(data: bytes, chunk: int) -> None:
    expected = [row for row in csv.reader(io.StringIO(data.decode(), newline="")) if row]
    if slow_rows(data, COMMA)[1]:
        with pytest.raises(RowTooLongError) as caught:
            scan(data, chunk)
        assert (caught.value.open_quote, caught.value.records) == (True, len(expected) - 1)
        return
    rows = rows_of(scan(data, chunk))
    assert [next(csv.reader(io.StringIO(row.decode(), newline=""))) for row in rows] == expected


@settings(max_examples=1000)
@given(
    st.text(alphabet="ab,;\t'\"\n\r ", max_size=40).map(str.encode),
    st.integers(1, 50),
    st.sampled_from(DIALECTS),
)
def test_rows_are_those_of_a_slow_state_machine(data: bytes, chunk: int, dialect: Dialect) -> None:
    rows, open_quote = slow_rows(data, dialect)
    if open_quote:
        with pytest.raises(RowTooLongError) as caught:
            scan(data, chunk, dialect)
        assert (caught.value.open_quote, caught.value.records) == (True, len(rows) - 1)
    else:
        assert rows_of(scan(data, chunk, dialect)) == rows


@settings(max_examples=300)
@given(
    st.lists(st.lists(FIELDS, min_size=1, max_size=4), max_size=20),
    st.integers(1, 50),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_found_whole(table: list[list[str]], chunk: int, end: str) -> None:
    text = io.StringIO(newline="")
    # Quoting all, because the csv module writes a lone carriage return without quotes and then reads two rows.
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(table)
    data = text.getvalue().encode()
    blocks = scan(data, chunk)
    assert sum(block.records for block in blocks) == len(table)
    assert b"".join(bytes(block.data) for block in blocks) == data


@settings(max_examples=500)
@given(TEXTS, st.integers(1, 30), st.integers(1, 12), TEXTS)
def test_ranges_are_whole_rows_and_appending_moves_none(
    data: bytes, chunk: int, size: int, more: bytes
) -> None:
    try:
        ranges = list(cut_ranges(scan(data, chunk), 0, size))
        longer = list(cut_ranges(scan(data + b"\n" + more, 1 << 20), 0, size))
    except RowTooLongError:
        return
    assert ranges == list(cut_ranges(scan(data, 1 << 20), 0, size))
    assert b"".join(data[part.start : part.end] for part in ranges) == data
    first = 1
    for part in ranges:
        text = data[part.start : part.end]
        rows, open_quote = slow_rows(text, Dialect())
        assert (part.first, part.records, open_quote) == (first, len(rows), False)
        assert part.digest == digest_of([text])
        first += len(rows)
    assert longer[: max(len(ranges) - 1, 0)] == ranges[:-1]


def test_ranges_begin_at_the_first_row_at_or_after_each_border() -> None:
    data = b"aaaa\nbb\nc\n" + b"d" * 30 + b"\nee\n"
    ranges = list(cut_ranges(scan(data, 7), 0, 8))
    assert [data[part.start : part.end] for part in ranges] == [
        b"aaaa\nbb\n",
        b"c\n" + b"d" * 30 + b"\n",
        b"ee\n",
    ]
    assert [part.first for part in ranges] == [1, 3, 5]


@pytest.mark.parametrize(
    ("data", "records", "open_quote"),
    [
        (b"a\nb\n" + b"c" * 99 + b"\n", 2, False),
        (b"a\n" + b"c" * 99, 1, False),
        (b'a\n"c' + b"\n" * 99, 1, True),
    ],
)
@pytest.mark.parametrize("chunk", [5, 1000])
def test_rows_that_are_too_long_are_named(data: bytes, records: int, open_quote: bool, chunk: int) -> None:
    with pytest.raises(RowTooLongError) as caught:
        list(row_blocks(io.BytesIO(data).read, Dialect(), chunk, 50))
    assert (caught.value.records, caught.value.open_quote) == (records, open_quote)
    assert caught.value.start


def test_an_unfinished_carriage_return_waits_for_its_line_feed() -> None:
    ends, _ = row_ends(b"a\r\nb\r", Dialect(), final=False)
    assert ends.tolist() == [3]
    ends, _ = row_ends(b"a\r\nb\r", Dialect(), final=True)
    assert ends.tolist() == [3, 5]
