"""Databases to work on in tests: the same few calls for each kind."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pymysql
from adbc_driver_postgresql import dbapi as adbc

from beam_jobs.sources import Source, open_source
from schemas.sources import SqlSource
from tests.sql_servers import PASSWORD, Server, mariadb, mysql, postgresql

PASSWORD_ENV = "HEADRACE_TEST_PASSWORD"
_MYSQL = {"int": "bigint", "text": "varchar(400)", "float": "double", "bytes": "longblob"}
_TYPES = {
    "postgresql": {"int": "bigint", "text": "text", "float": "double precision", "bytes": "bytea"},
    "mariadb": _MYSQL,
    "mysql": _MYSQL,
    "sqlite": {"int": "integer", "text": "text", "float": "real", "bytes": "blob"},
    "duckdb": {"int": "bigint", "text": "varchar", "float": "double", "bytes": "blob"},
}
_SESSIONS = "SELECT id FROM information_schema.processlist WHERE user = 'reader' AND id <> CONNECTION_ID()"
_OTHERS = {
    "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'headrace'",
    "mariadb": _SESSIONS,
    "mysql": _SESSIONS,
}


@dataclass(frozen=True)
class Work:
    """A database; files of SQLite and DuckDB lie at `place`."""

    kind: str
    server: Server | None = None
    place: Path = Path()

    @property
    def url(self) -> str:
        if self.server is not None:
            return self.server.url
        return f"{self.kind}:///{self.place}/work.{self.kind}"

    def at(self, place: Path) -> Work:
        return Work(self.kind, self.server, place)

    def quoted(self, name: str) -> str:
        mark = "`" if self.kind in ("mariadb", "mysql") else '"'
        return mark + name.replace(mark, mark * 2) + mark

    def type(self, name: str) -> str:
        return _TYPES[self.kind].get(name, name)

    def run(self, *statements: str, rows: tuple[str, Iterable[Sequence[Any]]] | None = None) -> None:
        """Statements, and one more that is run for each of `rows`, with ? for values."""
        with self._connected() as (cursor, mark):
            for statement in statements:
                cursor.execute(statement)
            if rows is not None:
                statement, values = rows
                for number in range(statement.count("?")):
                    statement = statement.replace("?", mark.format(number + 1), 1)
                listed = [tuple(row) for row in values]
                if listed:
                    cursor.executemany(statement, listed)

    def end_others(self) -> None:
        """Ends all other connections of the servers' user."""
        with self._connected() as (cursor, _):
            cursor.execute(_OTHERS[self.kind])
            if self.kind == "postgresql":
                return
            for (number,) in cursor.fetchall():
                with contextlib.suppress(pymysql.err.OperationalError):  # it is gone already
                    cursor.execute(f"KILL {number}")

    def source(self, **options: Any) -> Source:
        if self.server is not None:
            options = {"password_env": PASSWORD_ENV, **options}
        spec = SqlSource(kind="sql", url="${db}", **options)
        return open_source("rows", spec, self.url)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[tuple[Any, str]]:
        if self.kind == "postgresql":
            uri = self.url.replace("reader@", f"reader:{PASSWORD}@")
            with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
                yield cursor, "${}"
        elif self.kind in ("mariadb", "mysql"):
            assert self.server is not None
            connection = pymysql.connect(
                host="127.0.0.1",
                port=self.server.port,
                user="reader",
                password=PASSWORD,
                database="work",
                autocommit=True,
            )
            with connection, connection.cursor() as cursor:
                yield cursor, "%s"
        elif self.kind == "sqlite":
            with (
                contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection,
                connection,
            ):
                yield connection.cursor(), "?"
        else:
            with duckdb.connect(self.url.removeprefix("duckdb:///")) as connection:
                yield connection, "?"


@contextlib.contextmanager
def working(kind: str) -> Iterator[Work]:
    """A database of a kind, with its server where it has one."""
    servers = {"postgresql": postgresql, "mariadb": mariadb, "mysql": mysql}
    if kind not in servers:
        yield Work(kind)
        return
    with servers[kind]() as server:
        yield Work(kind, server)


def table_at(place: Path) -> str:
    """A table of the test's own on a server that tests share."""
    return f"t{hashlib.md5(str(place).encode()).hexdigest()[:12]}"
