"""Tables for people: drawn on a terminal, plain lines elsewhere. What the data say cannot steer the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """Rows under a title. Columns whose heading starts with `>` hold numbers and are aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Facts:
    """Names and what is to be said of each, under a title."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Line:
    """A line of text."""

    text: str
    bold: bool = False


Block = Table | Facts | Line


def show(blocks: Sequence[Block], out: TextIO) -> None:
    """Write `blocks` to `out`, for a terminal or for a file as it is one or the other."""
    if out.isatty():
        console = Console(file=out, highlight=False)
        for block in blocks:
            _draw(console, block)
        return
    for block in blocks:
        out.write("\n".join(_plain(block)) + "\n")


def visible(text: str) -> str:
    """`text` with everything that is not printable escaped: line ends, and what terminals take for commands.

    >>> visible("a\\n\\x1b[31mred")
    'a\\\\n\\\\x1b[31mred'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _draw(console: Console, block: Block) -> None:
    if isinstance(block, Line):
        console.print(Text(visible(block.text), style="bold" if block.bold else ""))
        return
    table = RichTable(
        box=box.SIMPLE_HEAD if isinstance(block, Table) else None,
        pad_edge=False,
        show_edge=False,
        show_header=isinstance(block, Table),
    )
    if isinstance(block, Table):
        for column in block.columns:
            number = column.startswith(">")
            table.add_column(
                column.lstrip(">"), justify="right" if number else "left", overflow="fold", no_wrap=number
            )
    else:
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
    for row in block.rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print()
    console.print(Text(visible(block.title), style="bold"))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _plain(block: Block) -> list[str]:
    if isinstance(block, Line):
        return [visible(block.text)]
    if isinstance(block, Facts):
        pairs = [(visible(name), visible(text)) for name, text in block.rows]
        width = max((len(name) for name, _ in pairs), default=0)
        return [
            "",
            visible(block.title),
            *(f"  {name:<{width}}  {text}" for name, text in pairs),
        ]
    numbers = [column.startswith(">") for column in block.columns]
    rows = [
        [column.lstrip(">") for column in block.columns],
        *([visible(c) for c in row] for row in block.rows),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(numbers))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return ["", visible(block.title), *lines]
