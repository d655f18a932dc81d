"""What is asked of a database, as SQLAlchemy's expressions: names are quoted and values bound by it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.sql import quoted_name

from schemas.errors import HeadraceError
from schemas.sources import SqlSource

_ALIAS = "headrace"
ARROW = {
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "bytes": pa.large_binary(),
    "text": pa.string(),
    "int64[]": pa.list_(pa.int64()),
    "float64[]": pa.list_(pa.float64()),
    "bool[]": pa.list_(pa.bool_()),
    "string[]": pa.list_(pa.string()),
}
NO_KEYS = ("float64", "int64[]", "float64[]", "bool[]", "string[]")


@dataclass(frozen=True)
class Column:
    """A column of a table or a query.

    Attributes:
      kind: what it becomes, one of `ARROW`; `text` is whatever the database writes for a value of another type.
      type: the database's name of its type.
    """

    name: str
    kind: str
    type: str = ""


class Dialect(Protocol):
    """What differs from database to database in an expression."""

    def selected(self, column: Column, expression: Any, /) -> Any:
        """The column as it is to be sent."""
        ...

    def ordered(self, column: Column, expression: Any) -> Any:
        """The column as it is sorted and compared: text by its bytes in UTF-8, whatever its collation."""
        ...

    def bound(self, column: Column, value: Any, /) -> Any:
        """A value of the column to compare `ordered` with, as a bound parameter."""
        ...


@dataclass(frozen=True)
class Table:
    """A table or a query of which the columns are known.

    Attributes:
      rows: what to select from.
      columns: those to be sent: the records' own, then what else orders or names records.
      shown: how many of them are the records' own.
      order: places among `columns` of those that order the rows; the first may hold nulls where `by` is set. They are
        unique together.
      key: places of those that name a record.
      by: whether the first of `order` is no key column.
      stored: whether rows are ordered as they are stored: the first of `order` numbers them, the key follows.
    """

    rows: sa.FromClause
    columns: list[Column]
    shown: int
    order: list[int]
    key: list[int]
    by: bool
    stored: bool = False

    @property
    def sorted(self) -> list[int]:
        """The places of `order` that rows are sorted and compared by."""
        return self.order[:1] if self.stored else self.order

    @property
    def content(self) -> Table:
        """The table without what says where a row is stored, which is the last of its columns."""
        if not self.stored:
            return self
        return dataclasses.replace(self, columns=self.columns[:-1], order=self.order[1:], stored=False)


def as_from(spec: SqlSource, where: str, columns: Sequence[str] | None = None) -> sa.FromClause:
    """The spec's table or query; without `columns`, nothing but `*` can be asked of it."""
    names: list[Any] = [sa.column(quoted_name(name, True)) for name in columns or []]
    if spec.query is None:
        schema = None if spec.schema_name is None else quoted_name(spec.schema_name, True)
        return sa.table(quoted_name(str(spec.table), True), *names, schema=schema).alias(_ALIAS)
    # A line end, since a query may end in a comment.
    query = _bound(spec.query.strip().removesuffix(";") + "\n", spec, f"{where}.query")
    return query.columns(*names).subquery(_ALIAS)


def condition(spec: SqlSource, where: str) -> list[Any]:
    """The spec's `where`, if it has one."""
    return [] if spec.where is None else [_bound(f"({spec.where}\n)", spec, f"{where}.where")]


def _bound(sql: str, spec: SqlSource, where: str) -> sa.TextClause:
    text = sa.text(sql)
    names = set(text.compile().params)
    if names - set(spec.params):
        raise HeadraceError(
            "A parameter has no value.",
            where=where,
            value=", ".join(f":{name}" for name in sorted(names - set(spec.params))),
            allowed=", ".join(f":{name}" for name in spec.params) or "none",
            hint="Give it under `params:`; a colon that begins no parameter is written \\: here.",
        )
    if set(spec.params) - names:
        unused = ", ".join(sorted(set(spec.params) - names))
        raise HeadraceError("A parameter is not used.", where=where, value=unused)
    values = [sa.bindparam(name, value, type_=_type_of(value)) for name, value in spec.params.items()]
    return text.bindparams(*values) if values else text


def _type_of(value: object) -> Any:
    kinds = {bool: sa.Boolean(), int: sa.BigInteger(), float: sa.Double(), str: sa.Text()}
    return kinds.get(type(value), sa.Date())


def nothing(rows: sa.FromClause) -> sa.Select[Any]:
    """All columns and no row: what a table or query has."""
    return sa.select(sa.text("*")).select_from(rows).where(sa.text("1 = 0"))


def _expressions(table: Table) -> list[Any]:
    return [table.rows.c[column.name] for column in table.columns]


def select_rows(
    table: Table,
    dialect: Dialect,
    conditions: Sequence[Any],
    *,
    nulls: bool,
    sent: Sequence[Column] | None = None,
    first: Sequence[Any] | None = None,
    end: Sequence[Any] | None = None,
    last: Sequence[Any] | None = None,
) -> sa.Select[Any]:
    """The rows from `first` on, up to but without `end`, or up to and with `last`, in order.

    Args:
      nulls: whether the rows without a value in `partition_by` are meant, or those with one.
      sent: the columns to be sent, if not all.
    """
    order = _ordered(table, dialect, table.sorted[1:] if nulls else table.sorted)
    wanted = _wanted(table, dialect, conditions, nulls=nulls, first=first, end=end, last=last)
    # Names of our own: ORDER BY would else take a column's text for the column.
    expressions = [
        dialect.selected(column, table.rows.c[column.name]).label(f"headrace_{place}")
        for place, column in enumerate(table.columns if sent is None else sent)
    ]
    rows = sa.select(*expressions).select_from(table.rows).where(*wanted)
    return rows.execution_options(stored=True) if table.stored else rows.order_by(*order)


def _ordered(table: Table, dialect: Dialect, places: Sequence[int]) -> list[Any]:
    expressions = _expressions(table)
    return [dialect.ordered(table.columns[place], expressions[place]) for place in places]


def _bounds(table: Table, dialect: Dialect, places: Sequence[int], values: Sequence[Any]) -> list[Any]:
    return [dialect.bound(table.columns[place], value) for place, value in zip(places, values, strict=False)]


def _wanted(
    table: Table, dialect: Dialect, conditions: Sequence[Any], *, nulls: bool, **limits: Sequence[Any] | None
) -> list[Any]:
    """What `select_rows` asks of a row."""
    expressions = _expressions(table)
    places = table.sorted[1:] if nulls else table.sorted
    wanted = [
        *conditions,
        *(expressions[place].is_not(None) for place in dict.fromkeys([*places, *table.key])),
    ]
    if nulls:
        wanted.append(expressions[table.order[0]].is_(None))
    order = _ordered(table, dialect, places)
    for name, values in limits.items():
        if values is not None:
            # A name that no parameter of a user's can have: then a statement does for other numbers of rows too.
            bounds = (
                [sa.bindparam(numbered(name), values[0])]
                if table.stored
                else _bounds(table, dialect, places, values)
            )
            wanted.append(_compared(order, bounds, above=name == "first", equal=name != "end"))
    return wanted


def numbered(limit: str) -> str:
    """The parameter of a statement about stored rows that is the row number of `first`, `end` or `last`."""
    return f"{limit}-row"


def count_stored(
    table: Table, dialect: Dialect, conditions: Sequence[Any], **limits: Sequence[Any] | None
) -> sa.Select[Any]:
    """How many rows are stored within these limits, and 1 more if the first has the key that it had."""
    first = limits["first"] or []
    is_first = (
        column == value
        for column, value in zip(
            _ordered(table, dialect, table.order), _bounds(table, dialect, table.order, first), strict=True
        )
    )
    count = sa.func.count() + sa.func.count().filter(*is_first)
    wanted = _wanted(table, dialect, conditions, nulls=False, **limits)
    return sa.select(count.label("n")).select_from(table.rows).where(*wanted)


def find_stored(
    table: Table, dialect: Dialect, conditions: Sequence[Any], values: Sequence[Any]
) -> sa.Select[Any]:
    """Where the row is stored of which `values` were in `order`; -1 if it is gone."""
    number, *keys = _ordered(table, dialect, table.order)
    same = (
        column == value
        for column, value in zip(keys, _bounds(table, dialect, table.order[1:], values[1:]), strict=True)
    )
    place = sa.func.coalesce(sa.func.min(number), sa.literal_column("-1"))
    return sa.select(place.label("n")).select_from(table.rows).where(*conditions, *same)


def _compared(columns: Sequence[Any], values: Sequence[Any], *, above: bool, equal: bool) -> Any:
    """Whether the columns, compared one after the other, are above (or below) the values: a range for an index."""
    column, value = columns[0], values[0]
    if len(columns) == 1:
        if equal:
            return column >= value if above else column <= value
        return column > value if above else column < value
    rest = _compared(columns[1:], values[1:], above=above, equal=equal)
    if above:
        return sa.and_(column >= value, sa.or_(column > value, rest))
    return sa.and_(column <= value, sa.or_(column < value, rest))


def select_repeated(
    table: Table, dialect: Dialect, conditions: Sequence[Any]
) -> tuple[sa.Select[Any], Table]:
    """The first key that more than one row has, and the table of which that is a row."""
    keys = list(range(len(table.key)))
    columns = [table.columns[place] for place in table.key]
    expressions = [table.rows.c[column.name] for column in columns]
    order = [dialect.ordered(*pair) for pair in zip(columns, expressions, strict=True)]
    sent = [
        dialect.selected(column, expression).label(f"headrace_{place}")
        for place, column, expression in zip(keys, columns, expressions, strict=True)
    ]
    named = (expression.is_not(None) for expression in expressions)
    rows = sa.select(*sent).select_from(table.rows).where(*conditions, *named).group_by(*order)
    repeated = (
        rows.having(sa.func.count() > sa.literal_column("1")).order_by(*order).limit(sa.literal_column("1"))
    )
    return repeated, Table(table.rows, columns, len(keys), keys, keys, by=False)


def count_nameless(table: Table, conditions: Sequence[Any]) -> sa.Select[Any]:
    """How many rows lack a value in a column of the key."""
    expressions = _expressions(table)
    nameless = sa.or_(*(expressions[place].is_(None) for place in table.key))
    return sa.select(sa.func.count().label("n")).select_from(table.rows).where(*conditions, nameless)
