"""What a database is to the `sql` source, and which there are."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from beam_jobs.sources._sql.chunks import Chunk
from beam_jobs.sources._sql.place import Place
from beam_jobs.sources._sql.statements import Column, Dialect, Table
from schemas.sources import SqlSource


class Session(Protocol):
    """A connection that only reads, in one transaction and so from one snapshot where the database has them."""

    def describe(self, statement: Any) -> list[Column]:
        """The columns that a statement gives."""
        ...

    def primary_key(self, spec: SqlSource) -> list[str]:
        """The columns of the table's primary key; none where it has none."""
        ...

    def settle(self, table: Table, spec: SqlSource, /) -> Table:
        """The table with the types of columns that `describe` could not know, and ordered as it is read fastest."""
        ...

    def chunks(self, statement: Any, table: Table) -> Iterator[Chunk]:
        """The rows that a statement gives, in its order, in chunks of about 4 MiB.

        A statement of a partition has the execution option `row_bytes`: how many its rows had on average. One of rows
        as they are stored has `stored`: no order is asked for, and the database keeps that one; `like` may be a
        statement that differs from it in the row numbers only, which are `values` by parameter.
        """
        ...

    def state(self) -> str | None:
        """The state that the database is in: while it stays, so do the rows of tables. None: nobody can tell."""
        ...

    def count(self, statement: Any) -> int:
        """The number that a statement gives."""
        ...


class Database(Dialect, Protocol):
    """A database and its dialect."""

    @property
    def place(self) -> Place:
        """Where it is."""
        ...

    def session(self) -> AbstractContextManager[Session]:
        """A new session.

        Raises:
          HeadraceError: the database refuses.
          LostConnectionError: another attempt may do; the session's methods raise it too.
        """
        ...


_CLASSES = {"postgresql": "PostgreSql", "mysql": "MySql", "sqlite": "Sqlite", "duckdb": "DuckDb"}


def open_database(place: Place, where: str) -> Database:
    """The database at `place`; its client is imported only now.

    Raises:
      ModuleNotFoundError: the client is not installed.
    """
    module = importlib.import_module(f"beam_jobs.sources._sql.{place.kind}")
    return cast(Database, getattr(module, _CLASSES[place.kind])(place, where))
