from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from beam_jobs.sources import Source
from tests.sql_servers import PASSWORD

from .conformance import SourceSuite
from .sql_work import PASSWORD_ENV, Work, table_at, working

KINDS = ("postgresql", "mysql", "sqlite", "duckdb")


@pytest.fixture(scope="module")
def works() -> Iterator[dict[str, Work]]:
    with working("postgresql") as one, working("mysql") as other:
        yield {work.kind: work for work in (one, other, Work("sqlite"), Work("duckdb"))}


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_ENV, PASSWORD)


@pytest.fixture(params=KINDS)
def work(request: pytest.FixtureRequest, works: dict[str, Work], tmp_path: Path) -> Work:
    return works[request.param].at(tmp_path)


class SqlSuite(SourceSuite):
    """A table with numbers as keys."""

    kind: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _work(self, works: dict[str, Work]) -> None:
        self.work = works[self.kind]

    def row(self, i: int) -> tuple[Any, ...]:
        return i, f"r{i:04d}", f"näme {i}", i / 8, bytes([i % 256, 0, 255])

    def write(self, place: Path, count: int) -> None:
        work, table = self.work.at(place), table_at(place)
        # No primary key: some tests put rows without a key there.
        types = {"id": "int", "code": "text", "name": "text", "score": "float", "data": "bytes"}
        columns = ", ".join(f"{name} {work.type(kind)}" for name, kind in types.items())
        work.run(
            f"DROP TABLE IF EXISTS {table}",
            f"CREATE TABLE {table} ({columns})",
            # Not in order: partitions are.
            rows=self.insert(place, reversed(range(count))),
        )

    def insert(self, place: Path, numbers: Any) -> tuple[str, Any]:
        return f"INSERT INTO {table_at(place)} VALUES (?, ?, ?, ?, ?)", map(self.row, numbers)

    def append(self, place: Path) -> None:
        self.work.at(place).run(rows=self.insert(place, [9999]))

    def spoil(self, place: Path) -> set[str]:
        table = table_at(place)
        self.work.at(place).run(
            f"INSERT INTO {table} (name) VALUES ('no key')", f"INSERT INTO {table} (name) VALUES ('nor this')"
        )
        return {"missing_key"}

    def change(self, place: Path) -> None:
        self.work.at(place).run(f"UPDATE {table_at(place)} SET name = 'NÄME 7' WHERE id = 7")

    def open(self, place: Path) -> Source:
        if place.name == "nowhere":
            place.mkdir()
            self.work.at(place).run("CREATE TABLE IF NOT EXISTS other (id integer)")
        options = {"table": table_at(place), "key": "id", "partition_rows": 8, **self.options}
        return self.work.at(place).source(**options)


class TestPostgreSql(SqlSuite):
    kind = "postgresql"


class TestMariaDb(SqlSuite):
    kind = "mysql"


class TestSqlite(SqlSuite):
    """Which keeps whatever it is given in whatever column."""

    kind = "sqlite"

    def spoil(self, place: Path) -> set[str]:
        self.work.at(place).run(
            f"INSERT INTO {table_at(place)} VALUES (5000, 'a', 'b', 'not a number', x'00')",
            f"INSERT INTO {table_at(place)} VALUES (5001, 'a', CAST(x'ff41' AS TEXT), 1.5, x'00')",
            f"INSERT INTO {table_at(place)} VALUES (5002, 'a', 'b', 1.5, x'00')",
        )
        return {"bad_type", "bad_encoding", *super().spoil(place)}


class TestDuckDb(SqlSuite):
    kind = "duckdb"


class TestPostgreSqlTextKeys(SqlSuite):
    """Keys are text, which the server would sort as people do; columns are picked, the key is none of them."""

    kind = "postgresql"
    options: ClassVar[dict[str, Any]] = {"key": "code", "columns": ["name", "data"]}


class TestMariaDbTextKeys(TestPostgreSqlTextKeys):
    kind = "mysql"


class TestPostgreSqlPartitionBy(SqlSuite):
    """Partitions are ranges of another column."""

    kind = "postgresql"
    options: ClassVar[dict[str, Any]] = {"key": ["code", "name"], "partition_by": "id"}


class TestMariaDbPartitionBy(TestPostgreSqlPartitionBy):
    kind = "mysql"


class TestSqlitePartitionBy(TestPostgreSqlPartitionBy):
    kind = "sqlite"


class TestDuckDbPartitionBy(TestPostgreSqlPartitionBy):
    kind = "duckdb"


class TestPostgreSqlQuery(SqlSuite):
    """Rows of a query with a parameter."""

    kind = "postgresql"

    def open(self, place: Path) -> Source:
        if place.name == "nowhere":
            return super().open(place)
        query = f"SELECT id, name, score * :twice AS score, data FROM {table_at(place)} WHERE name <> :never -- all"
        params = {"twice": 2.0, "never": "'; DROP TABLE x; --"}
        return self.work.at(place).source(query=query, params=params, key="id", partition_rows=8)


class TestMariaDbQuery(TestPostgreSqlQuery):
    kind = "mysql"


class TestSqliteQuery(TestPostgreSqlQuery):
    kind = "sqlite"


class TestDuckDbQuery(TestPostgreSqlQuery):
    kind = "duckdb"
