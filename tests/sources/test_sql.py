from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import certifi
import duckdb
import numpy as np
import pytest
import yaml

from beam_jobs.sources import Partition, Source, open_source
from beam_jobs.sources import sql as sql_module
from beam_jobs.sources._sql import duckdb as duckdb_module
from beam_jobs.sources._sql.digest import RowsDigest
from beam_jobs.sources._sql.duckdb import DuckDbSession
from beam_jobs.sources._sql.place import LostConnectionError, Place, explained
from schemas.errors import HeadraceError
from schemas.load import parse_spec
from schemas.sources import SqlSource
from tests.servers import free_port
from tests.sql_servers import PASSWORD

from .conformance import SourceSuite, faults_of, read_all, records_of, same
from .sql_work import PASSWORD_ENV, Work, table_at, working

KINDS = ("postgresql", "mariadb", "mysql", "sqlite", "duckdb")
SERVERS = ("postgresql", "mariadb", "mysql")
MYSQLS = ("mariadb", "mysql")


@pytest.fixture(scope="module")
def works() -> Iterator[dict[str, Work]]:
    with contextlib.ExitStack() as stack:
        yield {kind: stack.enter_context(working(kind)) for kind in KINDS}


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
    kind = "mariadb"


class TestMySql(SqlSuite):
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
    kind = "mariadb"


class TestMySqlTextKeys(TestPostgreSqlTextKeys):
    kind = "mysql"


class TestPostgreSqlPartitionBy(SqlSuite):
    """Partitions are ranges of another column."""

    kind = "postgresql"
    options: ClassVar[dict[str, Any]] = {"key": ["code", "name"], "partition_by": "id"}


class TestMariaDbPartitionBy(TestPostgreSqlPartitionBy):
    kind = "mariadb"


class TestMySqlPartitionBy(TestPostgreSqlPartitionBy):
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
    kind = "mariadb"


class TestMySqlQuery(TestPostgreSqlQuery):
    kind = "mysql"


class TestSqliteQuery(TestPostgreSqlQuery):
    kind = "sqlite"


class TestDuckDbQuery(TestPostgreSqlQuery):
    kind = "duckdb"


ODD = 'we"ird `näme` %s :x; -- ?'


def test_names_with_quotes_and_blanks(work: Work) -> None:
    """In a table's name, a key's and a column's; among them what would be a parameter or a second statement."""
    table, key, other = f"t {ODD}", f"k {ODD}", f"o {ODD}"
    assert max(map(len, (table, key, other))) <= 64  # letters of a name in MySQL
    quoted = [work.quoted(name) for name in (table, key, other)]
    rows = ", ".join(f"({i}, 'v{i}')" for i in range(30))
    work.run(
        f"DROP TABLE IF EXISTS {quoted[0]}",
        f"CREATE TABLE {quoted[0]} ({quoted[1]} {work.type('int')}, {quoted[2]} {work.type('text')})",
        f"INSERT INTO {quoted[0]} VALUES {rows}",
    )
    source = work.source(table=table, key=key, columns=[other, key], partition_rows=4)
    assert source.columns() == [other, key]
    assert len(source.partitions()) > 2
    assert records_of(source) == [{other: f"v{i}", key: i} for i in range(30)]


HOSTILE = [
    "'; DROP TABLE victims; --",
    '" OR 1=1 --',
    "\\'; DELETE FROM victims; --",
    "%s :x ? $1",
    "näme \U0001f600",
    "",
]


def test_values_are_never_part_of_a_statement(work: Work) -> None:
    """In parameters, and in the keys that partitions begin with."""
    texts = [*HOSTILE, *(f"{text}{i}" for i in range(6) for text in HOSTILE)]
    texts = sorted(set(texts), key=lambda text: text.encode())
    work.run(
        "DROP TABLE IF EXISTS victims",
        f"CREATE TABLE victims (name {work.type('text')}, id {work.type('int')})",
        rows=("INSERT INTO victims VALUES (?, ?)", [(text, i) for i, text in enumerate(texts)]),
    )
    source = work.source(table="victims", key="name", partition_rows=1)
    assert [record["name"] for record in records_of(source)] == texts
    for text in HOSTILE:
        found = work.source(query="SELECT * FROM victims WHERE name = :it", params={"it": text}, key="id")
        assert [record["name"] for record in records_of(found)] == [text]
    many = work.source(
        table="victims", where="id < :most OR name = :it", params={"most": 3, "it": texts[9]}, key="id"
    )
    assert [record["id"] for record in records_of(many)] == [0, 1, 2, 9]


def test_text_is_sorted_by_its_bytes(work: Work) -> None:
    """Not as people sort it, without case and with blanks that do not count; each of these is another key."""
    texts = ["", " ", "A", "A ", "B", "Z", "a", "a ", "a-b", "aB", "ab", "b", "ä", "é", "\U0001f600"]
    work.run(
        "DROP TABLE IF EXISTS sorted",
        f"CREATE TABLE sorted (name {work.type('text')})",
        rows=("INSERT INTO sorted VALUES (?)", [(text,) for text in reversed(texts)]),
    )
    # DuckDB's tables come as they are stored, not so what is asked of them.
    asked = {"query": "SELECT * FROM sorted"} if work.kind == "duckdb" else {"table": "sorted"}
    source = work.source(key="name", partition_rows=1, **asked)
    assert len(source.partitions()) == len(texts)
    assert [record["name"] for record in records_of(source)] == sorted(texts, key=str.encode)


def make_cells(work: Work, rows: int = 400) -> Source:
    work.run(
        "DROP TABLE IF EXISTS cells",
        f"CREATE TABLE cells (id {work.type('int')} NOT NULL PRIMARY KEY, name {work.type('text')})",
        rows=("INSERT INTO cells VALUES (?, ?)", [(i * 10, f"n{i}") for i in range(rows)]),
    )
    return work.source(table="cells", partition_rows=20)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cells SET name = 'other' WHERE id = 2000",
        "DELETE FROM cells WHERE id = 2000",
        "INSERT INTO cells VALUES (2001, 'more')",
        "UPDATE cells SET id = 2002 WHERE id = 2000",
    ],
)
def test_rows_changed_while_reading_are_an_error(work: Work, statement: str) -> None:
    """And only in their own partition."""
    source = make_cells(work)
    partitions = source.partitions()
    work.run(statement)
    said = [error for partition in partitions if (error := why_unread(source, partition)) is not None]
    if work.kind == "duckdb" and statement.startswith("INSERT"):  # it is stored behind all others
        assert said == []
        return
    assert len(said) == 1
    assert "Rows were changed while the job was reading them" in said[0]
    assert ("cells, as stored from id = " if work.kind == "duckdb" else "cells, id ≥ ") in said[0]


def why_unread(source: Source, partition: Partition) -> str | None:
    try:
        list(source.read(partition))
    except HeadraceError as error:
        return str(error)
    return None


def test_rows_added_at_the_end_do_no_harm_while_reading(work: Work) -> None:
    source = make_cells(work)
    partitions = source.partitions()
    expected = [list(source.read(partition)) for partition in partitions]
    work.run("INSERT INTO cells VALUES (9999, 'later')")
    assert all(same(list(source.read(p)), batches) for p, batches in zip(partitions, expected, strict=True))
    assert sum(p.records or 0 for p in source.partitions()) == 401


def test_a_row_more_or_less_moves_only_nearby_partitions(work: Work) -> None:
    source = make_cells(work)
    before = {str(p.identity) for p in source.partitions()}
    work.run("INSERT INTO cells VALUES (2001, 'more')", "DELETE FROM cells WHERE id = 3000")
    after = {str(p.identity) for p in source.partitions()}
    assert 1 <= len(after - before) <= 4
    assert len(after & before) >= len(before) - 4


def test_rows_without_a_value_to_partition_by(work: Work) -> None:
    rows = [(i, None if i % 3 == 0 else i // 10) for i in range(60)]
    work.run(
        "DROP TABLE IF EXISTS parts",
        f"CREATE TABLE parts (id {work.type('int')}, part {work.type('int')})",
        rows=("INSERT INTO parts VALUES (?, ?)", rows),
    )
    source = work.source(table="parts", key="id", partition_by="part", partition_rows=5)
    found = [(record["id"], record["part"]) for record in records_of(source)]
    assert found == [row for row in rows if row[1] is not None] + [row for row in rows if row[1] is None]
    origins = {source.origin(p, 1) for p in source.partitions()}
    assert any(origin.startswith("parts, part ≥ 0, id ≥ 1") for origin in origins)
    assert any("no part, id ≥ 0" in origin for origin in origins)


def test_a_key_that_is_not_unique_is_an_error(work: Work) -> None:
    work.run(
        "DROP TABLE IF EXISTS twice",
        f"CREATE TABLE twice (id {work.type('int')}, name {work.type('text')})",
        rows=("INSERT INTO twice VALUES (?, ?)", [(min(i, 40), f"n{i}") for i in range(42)]),
    )
    with pytest.raises(HeadraceError, match=r"The key is not unique[\s\S]*id = 40"):
        work.source(table="twice", key="id").partitions()
    assert len(records_of(work.source(table="twice", key=["id", "name"]))) == 42


def test_a_table_without_primary_key_asks_for_a_key(work: Work) -> None:
    work.run(
        "DROP TABLE IF EXISTS bare", f"CREATE TABLE bare (id {work.type('int')}, name {work.type('text')})"
    )
    with pytest.raises(HeadraceError, match="no primary key"):
        work.source(table="bare").partitions()
    for field, options in {"key": {"key": "nope"}, "columns": {"columns": ["nope"], "key": "id"}}.items():
        with pytest.raises(
            HeadraceError, match=rf"no such column[\s\S]*rows\.{field}[\s\S]*nope[\s\S]*id, name"
        ):
            work.source(table="bare", **options).partitions()


def test_large_rows_come_in_small_batches(work: Work) -> None:
    image = bytes(range(256)) * (6 << 12)  # 6 MiB
    work.run(
        "DROP TABLE IF EXISTS images",
        f"CREATE TABLE images (id {work.type('int')}, image {work.type('bytes')})",
        rows=("INSERT INTO images VALUES (?, ?)", [(i, b"" if i < 300 else image) for i in range(312)]),
    )
    source = work.source(table="images", key="id")
    partitions = source.partitions()
    assert len(partitions) > 1
    assert all(p.bytes <= (32 << 20) + len(image) for p in partitions)
    batches = read_all(source)
    assert max(batch.records.nbytes for batch in batches) <= (8 << 20)
    assert batches[-1].records.column("image")[-1].as_py() == image


def test_types_of_postgresql(works: dict[str, Work]) -> None:
    work = works["postgresql"]
    work.run(
        "DROP TABLE IF EXISTS types",
        "DROP TYPE IF EXISTS mood",
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        """CREATE TABLE types AS SELECT 1::smallint AS small, -5::bigint AS big, 0.1::real AS real,
        2.5::double precision AS double, 12.50::numeric(10, 2) AS exact, 'NaN'::numeric AS nan, true AS yes,
        'x'::varchar(5) AS text, '\\x00ff'::bytea AS bytes, date '2024-02-29' AS day, 'infinity'::timestamp AS never,
        timestamp '2024-02-29 12:00:00.5' AS moment, timestamptz '2024-02-29 12:00:00+02' AS zoned,
        time '01:02' AS time,
        '{"a": [1]}'::json AS json, 'glad'::mood AS mood, '6b1f1d6e-6a5c-4e8a-9d0e-0a8f5a0e7c11'::uuid AS uuid,
        ARRAY[1, 2] AS numbers, ARRAY['a', NULL] AS words, ARRAY[1.5]::float8[] AS floats, NULL::int AS nothing""",
    )
    source = work.source(table="types", key=["day", "uuid", "exact", "zoned"])
    (record,) = records_of(source)
    assert record == {
        "small": 1, "big": -5, "real": pytest.approx(0.1), "double": 2.5, "exact": "12.50", "nan": "NaN", "yes": True,
        "text": "x", "bytes": b"\x00\xff", "day": "2024-02-29", "never": "infinity", "moment": "2024-02-29 12:00:00.5",
        "zoned": "2024-02-29 10:00:00+00", "time": "01:02:00", "json": '{"a": [1]}', "mood": "glad",
        "uuid": "6b1f1d6e-6a5c-4e8a-9d0e-0a8f5a0e7c11", "numbers": [1, 2], "words": ["a", None], "floats": [1.5],
        "nothing": None,
    }  # fmt: skip
    (key,) = read_all(source)[0].keys.to_pylist()
    assert key == b"2024-02-29|6b1f1d6e-6a5c-4e8a-9d0e-0a8f5a0e7c11|12.50|2024-02-29 10:00:00+00"


@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "mysql", "duckdb"])
def test_tables_of_another_schema(kind: str, works: dict[str, Work], tmp_path: Path) -> None:
    work, name = works[kind].at(tmp_path), 'an"other sch%ema'
    schema = work.quoted(name)
    work.run(
        f"CREATE SCHEMA {schema}",
        f"CREATE TABLE {schema}.things (id {work.type('int')} NOT NULL, part {work.type('int')}, "
        "PRIMARY KEY (part, id))",
        f"INSERT INTO {schema}.things VALUES (2, 1), (1, 2), (1, 1)",
    )
    source = work.source(schema=name, table="things")
    keys = [key for batch in read_all(source) for key in batch.keys.to_pylist()]
    assert (sorted(keys) if kind == "duckdb" else keys) == [b"1|1", b"1|2", b"2|1"]


@pytest.mark.parametrize("kind", MYSQLS)
def test_types_of_mariadb_and_mysql(kind: str, works: dict[str, Work]) -> None:
    work = works[kind]
    work.run(
        "DROP TABLE IF EXISTS types",
        """CREATE TABLE types (tiny tinyint(1), big bigint unsigned, padded int(5) unsigned zerofill, single float,
        dbl double, exact decimal(10, 2), words varchar(9) CHARACTER SET latin1, raw varbinary(9), fixed binary(3),
        bits bit(9), day date, moment datetime(3), zoned timestamp, clock time, year year, mood enum('sad', 'glad'),
        several set('a', 'b'), doc json, nothing int)""",
        "SET time_zone = '+02:00'",
        "INSERT INTO types VALUES (1, 18446744073709551615, 7, 0.1, 2.5, 12.5, 'é', x'00ff', 'x', b'100000001', "
        "'2024-02-29', '2024-02-29 12:00:00.5', '2024-02-29 12:00:00', '-100:30:00', 1999, 'glad', 'b,a', "
        "'{\"a\": [1]}', NULL)",
    )
    expected = {
        "tiny": 1, "big": 2**64 - 1, "padded": 7, "single": pytest.approx(0.1, rel=1e-7), "dbl": 2.5, "exact": "12.50",
        "words": "é", "raw": b"\x00\xff", "fixed": b"x\x00\x00", "bits": 257, "day": "2024-02-29",
        "moment": "2024-02-29 12:00:00.500", "zoned": "2024-02-29 10:00:00", "clock": "-100:30:00", "year": 1999,
        "mood": "glad", "several": "a,b", "doc": '{"a": [1]}', "nothing": None,
    }  # fmt: skip
    source = work.source(table="types", key=["day", "exact", "words", "moment"])
    assert records_of(source) == [expected]
    for key in expected.keys() - {"single", "dbl", "nothing"}:
        assert records_of(work.source(table="types", key=key)) == [expected]


@pytest.mark.parametrize("kind", MYSQLS)
@pytest.mark.parametrize("key", ["day", "moment"])
def test_dates_that_no_calendar_has(kind: str, key: str, works: dict[str, Work]) -> None:
    """As the server writes them, in its order; strict servers refuse them as bounds, which keys are."""
    work = works[kind]
    days = ["0000-00-00", "2024-00-10", "2024-02-00", "2024-02-31"]
    work.run(
        "DROP TABLE IF EXISTS days",
        "CREATE TABLE days (day date, moment datetime)",
        "SET sql_mode = 'ALLOW_INVALID_DATES'",
        rows=("INSERT INTO days VALUES (?, ?)", [(day, f"{day} 00:00:00") for day in days]),
    )
    source = work.source(table="days", key=key, partition_rows=1)
    assert len(source.partitions()) == 4
    assert [record["day"] for record in records_of(source)] == days


@pytest.mark.parametrize("kind", MYSQLS)
def test_what_a_server_sets_for_all_leaves_out_nothing(kind: str, works: dict[str, Work]) -> None:
    """A limit of rows, and modes in which names and text are quoted otherwise."""
    work = works[kind]
    names = ["' OR '1'='1", "\\' OR '1'='1' --", "b\\", "c"]
    settings = {"sql_select_limit": "2", "sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES,TRADITIONAL'"}
    work.run(
        "DROP TABLE IF EXISTS quoted",
        "CREATE TABLE quoted (name varchar(40), id int)",
        *(f"SET GLOBAL {name} = {value}" for name, value in settings.items()),
        rows=("INSERT INTO quoted VALUES (?, ?)", [(name, i) for i, name in enumerate(names)]),
    )
    try:
        source = work.source(table="quoted", key="name", partition_rows=1)
        assert [record["name"] for record in records_of(source)] == names
        for number, name in enumerate(names):
            source = work.source(table="quoted", where="name = :it", params={"it": name}, key="id")
            assert [record["id"] for record in records_of(source)] == [number]
    finally:
        work.run(*(f"SET GLOBAL {name} = DEFAULT" for name in settings))


def test_vectors_of_mysql_are_their_bytes(works: dict[str, Work]) -> None:
    """Of which its client makes text, else."""
    work = works["mysql"]
    work.run(
        "DROP TABLE IF EXISTS vectors",
        "CREATE TABLE vectors (id int PRIMARY KEY, v vector(3))",
        "INSERT INTO vectors VALUES (1, TO_VECTOR('[1, 2, -3.5]')), (2, NULL)",
    )
    first, second = records_of(work.source(table="vectors"))
    assert np.frombuffer(first["v"], "<f4").tolist() == [1, 2, -3.5]
    assert second["v"] is None


def test_mysql_with_tls(works: dict[str, Work], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user who may not come without; by the certificate that the server made for itself, and by no other."""
    work = works["mysql"]
    assert work.server is not None
    work.run(
        "DROP TABLE IF EXISTS secrets",
        "CREATE TABLE secrets (id int PRIMARY KEY)",
        "INSERT INTO secrets VALUES (1)",
        f"CREATE USER IF NOT EXISTS secure@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL",
        "GRANT SELECT ON work.* TO secure@'127.0.0.1'",
    )
    url = f"mysql://secure:{PASSWORD}@127.0.0.1:{work.server.port}/work?ssl_ca="
    authority = f"{work.server.folder}/data/ca.pem"
    spec = SqlSource(kind="sql", url_env="WHOLE_URL", table="secrets")
    monkeypatch.setenv("WHOLE_URL", url + authority)
    assert records_of(open_source("rows", spec, "")) == [{"id": 1}]
    for options, message in {
        certifi.where(): "self-signed certificate",
        f"{authority}&ssl_verify_identity=true": "IP address mismatch",
    }.items():
        monkeypatch.setenv("WHOLE_URL", url + options)
        with pytest.raises(HeadraceError, match=rf"certificate verify failed: .*{message}") as caught:
            open_source("rows", spec, "").partitions()
        assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_types_of_duckdb(works: dict[str, Work], tmp_path: Path) -> None:
    work = works["duckdb"].at(tmp_path)
    work.run(
        """CREATE TABLE types AS SELECT 1::utinyint AS tiny, 18446744073709551615::ubigint AS big, 2.5::double AS dbl,
        12.5::decimal(10, 2) AS exact, true AS yes, 'x' AS words, '\\x00\\xFF'::blob AS raw, DATE '2024-02-29' AS day,
        TIMESTAMP '2024-02-29 12:00:00.5' AS moment, [1, 2] AS numbers, {'a': 1} AS pair,
        170141183460469231731687303715884105727::hugeint AS huge, NULL::integer AS nothing"""
    )
    source = work.source(table="types", key=["day", "huge", "moment"])
    (record,) = records_of(source)
    assert record == {
        "tiny": 1, "big": 2**64 - 1, "dbl": 2.5, "exact": "12.50", "yes": True, "words": "x", "raw": b"\x00\xff",
        "day": "2024-02-29", "moment": "2024-02-29 12:00:00.5", "numbers": [1, 2], "pair": "{'a': 1}",
        "huge": str(2**127 - 1), "nothing": None,
    }  # fmt: skip


SHUFFLED = (
    """CREATE TABLE t AS SELECT g AS id, g % 7 AS part, 'name ' || g AS name FROM range(5000) r(g) {order}"""
)


@pytest.mark.parametrize("order", ["ORDER BY id", "ORDER BY hash(id)", "ORDER BY id % 2500, id"])
@pytest.mark.parametrize(
    "options",
    [
        {"key": "id"},
        {"key": "name"},
        {"key": ["part", "id"]},
        {"key": "id", "partition_by": "part"},
        {"key": "id", "partition_by": "part", "table": "t"},
        {"key": "id", "where": "part < 3"},
        {"key": "RowId", "table": "numbered"},
        {"key": "id", "query": "SELECT * FROM t WHERE part < 9", "table": None},
    ],
)
def test_duckdb_rows_come_in_order_however_they_are_stored(
    works: dict[str, Work],
    tmp_path: Path,
    order: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where they have no numbers of DuckDB's, or are to be parted otherwise."""
    work = works["duckdb"].at(tmp_path)
    numbered = "CREATE TABLE numbered AS SELECT id AS RowId, * FROM t"
    work.run(SHUFFLED.format(order=order), "CREATE VIEW v AS SELECT * FROM t", numbered)
    source = work.source(**{"table": "v", "partition_rows": 700, **options})
    found = records_of(source)
    order_by = [options["partition_by"]] if "partition_by" in options else []
    order_by += [options["key"]] if isinstance(options["key"], str) else options["key"]
    assert found == sorted(found, key=lambda row: [row[name] for name in order_by])
    assert {row["id"] for row in found} == {n for n in range(5000) if "where" not in options or n % 7 < 3}
    # The same where a partition has become too large to be held as it is looked at.
    monkeypatch.setattr("beam_jobs.sources._sql.duckdb._SORTED_BYTES", 1)
    assert records_of(source) == found


@pytest.mark.parametrize("order", ["ORDER BY id", "ORDER BY hash(id)"])
@pytest.mark.parametrize(
    "options",
    [
        {"key": "id"},
        {"key": ["part", "id"]},
        {"key": "name"},
        {"key": "id", "where": "part < :most", "table": "T"},
    ],
)
def test_duckdb_tables_are_read_as_they_are_stored(
    works: dict[str, Work], tmp_path: Path, order: str, options: dict[str, Any]
) -> None:
    """Each partition is a range of what is stored, all together are the table, and neighbours share nothing."""
    work = works["duckdb"].at(tmp_path)
    work.run(SHUFFLED.format(order=order))
    params = {"params": {"most": 3}} if "where" in options else {}
    source = work.source(**{"table": "t", "columns": ["id"], "partition_rows": 200, **options, **params})
    with duckdb.connect(str(tmp_path / "work.duckdb"), read_only=True) as connection:
        ids = connection.sql(
            f"SELECT id FROM t {'WHERE part < 3' if params else ''} ORDER BY rowid"
        ).fetchall()
    partitions = source.partitions()
    assert len(partitions) > 3
    assert partitions == source.partitions()
    assert [record["id"] for record in records_of(source)] == [n for (n,) in ids]
    reversed_reads = [list(source.read(partition)) for partition in reversed(partitions)]
    in_order = [list(source.read(partition)) for partition in partitions]
    assert all(same(*pair) for pair in zip(reversed(reversed_reads), in_order, strict=True))


MIXED = """CREATE TABLE t AS SELECT g AS id, CASE WHEN g % 50 = 3 THEN NULL ELSE g % 90 END AS part,
CASE g % 60 WHEN 5 THEN NULL WHEN 6 THEN 'é|\\日' || g ELSE 'name ' || g END AS name, repeat('x', g % 900) AS text,
CASE WHEN g % 3 = 0 THEN NULL ELSE encode('b' || g) END AS raw, [g, NULL] AS list FROM range(3000) r(g) {order}"""


@pytest.mark.parametrize("rows", [40, 500, 65_536])
@pytest.mark.parametrize("key", ["id", "name", ["part", "id"], ["name", "part"]])
def test_duckdb_tables_have_the_same_records_in_whatever_order_they_are_stored(
    works: dict[str, Work], tmp_path: Path, key: str | list[str], rows: int
) -> None:
    """By keys of numbers, of text and of both, of which some are missing, wherever partitions begin."""
    names = [key] if isinstance(key, str) else key
    found, missing = [], []
    for number, order in enumerate(("ORDER BY id", "ORDER BY hash(id)", "ORDER BY id % 90, name DESC")):
        work = works["duckdb"].at(tmp_path / str(number))
        work.place.mkdir()
        work.run(MIXED.format(order=order))
        source = work.source(table="t", key=key, partition_rows=rows)
        batches = [batch for partition in source.partitions() for batch in source.read(partition)]
        records = [record for batch in batches for record in batch.records.to_pylist()]
        keys = [key for batch in batches for key in batch.keys.to_pylist()]
        found.append(sorted(zip(keys, records, strict=True), key=lambda pair: pair[0]))
        missing.append(sum(len(batch.faults) for batch in batches))
        with duckdb.connect(str(work.place / "work.duckdb"), read_only=True) as connection:
            named = " AND ".join(f"{name} IS NOT NULL" for name in names)
            stored = (
                connection.sql(f"SELECT * FROM t WHERE {named} ORDER BY rowid").to_arrow_table().to_pylist()
            )
        assert records == stored
    assert found[0] == found[1] == found[2]
    assert missing == [3000 - len(found[0])] * 3
    assert len({key for key, _ in found[0]}) == len(found[0])


def test_duckdb_statements_are_those_of_each_source(works: dict[str, Work], tmp_path: Path) -> None:
    """What is kept of one table's partitions is not taken for another's: other parameters, columns, files, tables."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = (works["duckdb"].at(tmp_path / name) for name in ("first", "second"))
    for work, more in ((first, 0), (second, 100)):
        work.run(f"CREATE TABLE t AS SELECT range + {more} AS id, range % 5 AS part FROM range(40)")
        work.run("CREATE TABLE u AS SELECT id + 1000 AS id, part FROM t")
    small: dict[str, Any] = {"key": "id", "partition_rows": 7}
    for _ in range(2):
        for most in (2, 3):
            where = {"where": "part < :most", "params": {"most": most}}
            found = [row["part"] for row in records_of(first.source(table="t", **small, **where))]
            assert sorted(set(found)) == list(range(most))
            assert len(found) == 8 * most
        assert sum(row["id"] for row in records_of(second.source(table="t", **small))) == 40 * 100 + 780
        assert min(row["id"] for row in records_of(second.source(table="u", **small))) == 1100
        assert list(records_of(first.source(table="t", columns=["part"], **small))[0]) == ["part"]


def test_duckdb_times_are_in_utc_wherever_they_are_read(works: dict[str, Work], tmp_path: Path) -> None:
    work = works["duckdb"].at(tmp_path)
    work.run("CREATE TABLE t AS SELECT 1 AS id, TIMESTAMPTZ '2024-02-29 12:00:00+02' AS zoned")
    program = (
        "from beam_jobs.sources import open_source; from schemas.sources import SqlSource\n"
        "source = open_source('rows', SqlSource(kind='sql', url='${db}', table='t', key='id'), "
        f"{work.url!r})\n"
        "for partition in source.partitions():\n"
        "    print([batch.records.column('zoned').to_pylist() for batch in source.read(partition)])"
    )
    environment = {**os.environ, "TZ": "Asia/Tokyo"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
    assert said.stdout.decode().strip() == "[['2024-02-29 10:00:00+00']]"


@pytest.mark.parametrize(
    "change", ["UPDATE t SET name = 'x' WHERE id = {id}", "DELETE FROM t WHERE id = {id}"]
)
@pytest.mark.parametrize("place", [0, 1, -1])
def test_duckdb_rows_that_were_changed_are_an_error_wherever_they_are(
    works: dict[str, Work], tmp_path: Path, change: str, place: int
) -> None:
    """The first row of a partition, by which its place is known again, and others."""
    work = works["duckdb"].at(tmp_path)
    work.run(SHUFFLED.format(order="ORDER BY hash(id)"))
    source = work.source(table="t", key="id", partition_rows=100)
    partitions = source.partitions()
    ids = [[r["id"] for batch in source.read(p) for r in batch.records.to_pylist()] for p in partitions]
    work.run(change.format(id=ids[2][place]))
    unread = {number for number, partition in enumerate(partitions) if why_unread(source, partition)}
    # That before ends where this one began, and its end has to be found again if rows were numbered anew.
    assert unread in ({2}, {1, 2})


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were hashed, call by call."""
    found: list[int] = []
    add = RowsDigest.add

    def counted(digest: RowsDigest, arrays: Any, faults: Any = ()) -> None:
        found.append(len(arrays[0]))
        add(digest, arrays, faults)

    monkeypatch.setattr(RowsDigest, "add", counted)
    return found


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits until what was written is taken for settled, which takes 50 ms from now on."""
    monkeypatch.setattr(duckdb_module, "_TICK_NS", 50_000_000)
    time.sleep(0.1)


def test_duckdb_rows_are_hashed_only_where_the_file_was_changed(
    works: dict[str, Work], tmp_path: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = works["duckdb"].at(tmp_path)
    work.run(SHUFFLED.format(order="ORDER BY hash(id)"))
    source = work.source(table="t", key="id", partition_rows=700)
    assert all(partition.payload["state"] is None for partition in source.partitions()), "it has just changed"
    hashed.clear()
    settle(monkeypatch)
    partitions = source.partitions()
    assert sum(hashed) == 5000
    hashed.clear()
    before = [batch for partition in partitions for batch in source.read(partition)]
    assert not hashed
    for change in (
        lambda: os.utime(tmp_path / "work.duckdb"),
        lambda: work.run("CREATE TABLE other (a INT)"),
    ):
        change()
        hashed.clear()
        assert same([batch for partition in partitions for batch in source.read(partition)], before)
        assert sum(hashed) == 5000


@pytest.mark.parametrize(
    "options", [{"table": "t", "where": "id >= 0"}, {"query": "SELECT * FROM t"}, {"table": "seen"}]
)
def test_duckdb_rows_that_may_change_without_the_file_are_hashed(
    works: dict[str, Work], tmp_path: Path, hashed: list[int], options: dict[str, str]
) -> None:
    work = works["duckdb"].at(tmp_path)
    work.run(SHUFFLED.format(order="ORDER BY id"))
    work.run(f"COPY t TO '{tmp_path}/t.csv'", f"CREATE VIEW seen AS SELECT * FROM '{tmp_path}/t.csv'")
    source = work.source(key="id", partition_rows=700, **options)
    partitions = source.partitions()
    hashed.clear()
    assert sum(len(batch.rows) for p in partitions for batch in source.read(p)) == sum(hashed) == 5000
    if options.get("table") == "seen":
        text = (tmp_path / "t.csv").read_text()
        (tmp_path / "t.csv").write_text(text.replace("name 17\n", "name 71\n"))
        assert sum(why_unread(source, partition) is not None for partition in partitions) == 1


@pytest.mark.parametrize("settled", [True, False])
def test_duckdb_changes_are_noticed_whatever_the_file_looks_like(
    works: dict[str, Work], tmp_path: Path, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same size, its times set back, right after it was planned; or in the log beside it alone."""
    work = works["duckdb"].at(tmp_path)
    file = tmp_path / "work.duckdb"
    work.run(SHUFFLED.format(order="ORDER BY id"))
    source = work.source(table="t", key="id", partition_rows=700)
    for statements in (
        ["UPDATE t SET part = 1 - part WHERE id = 2500"],
        ["PRAGMA disable_checkpoint_on_shutdown", "UPDATE t SET part = 1 - part WHERE id = 2500"],
    ):
        if settled:
            settle(monkeypatch)
        partitions = source.partitions()
        assert all((partition.payload["state"] is not None) == settled for partition in partitions)
        status = file.stat()
        work.run(*statements)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert sum(why_unread(source, partition) is not None for partition in partitions) == 1
    assert (tmp_path / "work.duckdb.wal").exists()


def test_duckdb_rows_of_two_states_are_not_taken_for_one(
    works: dict[str, Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = works["duckdb"].at(tmp_path)
    work.run("CREATE TABLE t AS SELECT range AS id, repeat('x', 2000) AS text FROM range(10000)")
    source = work.source(table="t", key="id")
    settle(monkeypatch)
    (partition, *_) = source.partitions()
    states = iter([partition.payload["state"]])
    monkeypatch.setattr(DuckDbSession, "state", lambda _: next(states, "another"))
    batches = source.read(partition)
    next(batches)
    with pytest.raises(HeadraceError, match="Rows were changed while the job was reading them"):
        list(batches)


@pytest.mark.parametrize("gone", ["id % 3 = 0 OR id > 4000", "rowid < 3000"])
def test_duckdb_rows_that_are_numbered_anew(gone: str, works: dict[str, Work], tmp_path: Path) -> None:
    """As they are once others were deleted: partitions that were found before are still read, if they are the same."""
    work = works["duckdb"].at(tmp_path)
    work.run(SHUFFLED.format(order="ORDER BY hash(id)"), f"DELETE FROM t WHERE {gone}")
    source = work.source(table="t", key="id", partition_rows=100)
    partitions = source.partitions()
    expected = [list(source.read(partition)) for partition in partitions]

    def numbers() -> list[Any]:
        with duckdb.connect(str(tmp_path / "work.duckdb"), read_only=True) as connection:
            return connection.sql("SELECT id, rowid FROM t WHERE id % 3 = 1 AND id < 4000").fetchall()

    before = numbers()
    work.run("INSERT INTO t SELECT 10000 + g, 0, 'later' FROM range(3000) r(g)")
    assert numbers() != before
    for partition, batches in zip(partitions, expected, strict=True):
        assert same(list(source.read(partition)), batches)
    # What is planned now has the same content, so the same identity, up to the rows that are new.
    known = len(partitions) - 1
    later = source.partitions()[:known]
    assert [(p.identity, source.origin(p, 1)) for p in later] == [
        (p.identity, source.origin(p, 1)) for p in partitions[:known]
    ]
    first = expected[1][0].records.column("id")[0].as_py()
    work.run(f"DELETE FROM t WHERE id = {first}", "INSERT INTO t VALUES (9999, 0, 'later')")
    unread = {number for number, partition in enumerate(partitions) if why_unread(source, partition)}
    # The partition that began with it; and that before, where its end has to be found again.
    assert unread in ({1}, {0, 1})


@pytest.mark.parametrize("rows", ["ORDER BY id", "ORDER BY hash(id)"])
def test_a_duckdb_key_that_is_not_unique_is_an_error_wherever_its_rows_are(
    works: dict[str, Work], tmp_path: Path, rows: str
) -> None:
    work = works["duckdb"].at(tmp_path)
    work.run(
        SHUFFLED.format(order=rows), "INSERT INTO t VALUES (7, 9, 'again'), (NULL, 1, 'x'), (NULL, 1, 'x')"
    )
    with pytest.raises(HeadraceError, match=r"The key is not unique[\s\S]*id = 7\n"):
        work.source(table="t", key="id").partitions()
    with pytest.raises(HeadraceError, match=r"The key is not unique[\s\S]*part = 0\n"):
        work.source(table="t", key="part").partitions()
    for options in ({"key": ["id", "part"]}, {"key": "id", "where": "part < 9"}):
        assert len(records_of(work.source(table="t", **options))) > 4990


def test_a_duckdb_file_is_locked_only_while_it_is_read(works: dict[str, Work], tmp_path: Path) -> None:
    work = works["duckdb"].at(tmp_path)
    work.run(SHUFFLED.format(order=""))
    source = work.source(table="t", key="id", partition_rows=700)
    write = f"import duckdb; duckdb.connect({str(tmp_path / 'work.duckdb')!r}).execute('CREATE TABLE {{}} (a INT)')"
    first, second, *_ = source.partitions()
    for number, partition in enumerate((first, second)):
        batches = source.read(partition)
        next(batches)
        refused = [sys.executable, "-c", write.format("no")]
        locked = subprocess.run(refused, check=False, capture_output=True, text=True)
        assert "Conflicting lock" in locked.stderr
        list(batches)
        subprocess.run([sys.executable, "-c", write.format(f"t{number}")], check=True)


def test_duckdb_files_of_one_name_or_of_a_reserved_one(works: dict[str, Work], tmp_path: Path) -> None:
    """A query may call the file by the name that DuckDB gives it, while another of that name is read too."""
    sources = []
    for name, value in (("a/cells.x", 1), ("b/CELLS.db", 2), ("memory.duckdb", 3), ("o'\"dd.db", 4)):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        with duckdb.connect(str(file)) as connection:
            connection.execute(f"CREATE TABLE t AS SELECT {value} AS id")
        spec = SqlSource(kind="sql", url="${db}", table="t", key="id")
        sources.append(open_source("rows", spec, f"duckdb:///{file}"))
    partitions = [source.partitions()[0] for source in sources]
    readers = [source.read(partition) for source, partition in zip(sources, partitions, strict=True)]
    assert [next(reader).records.to_pylist() for reader in readers] == [[{"id": n}] for n in (1, 2, 3, 4)]
    for reader in readers:
        reader.close()
    spec = SqlSource(kind="sql", url="${db}", query="SELECT id FROM cells.main.t", key="id")
    assert records_of(open_source("rows", spec, f"duckdb:///{tmp_path}/a/cells.x")) == [{"id": 1}]


def test_values_of_sqlite(works: dict[str, Work], tmp_path: Path) -> None:
    """Each value has a type of its own there; a query's columns have that of their first value."""
    work = works["sqlite"].at(tmp_path)
    work.run(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INT, r REAL, x, b BLOB)",
        "INSERT INTO t VALUES (1, 1, 1, 'text', x'00'), (2, 'many', 2.5, 'more', x'ff'), (3, 3, 3, 3, NULL), "
        "(4, 0.5, 4, 'half', NULL)",
    )
    source = work.source(table="t")
    assert records_of(source) == [{"id": 1, "n": 1, "r": 1.0, "x": "text", "b": b"\x00"}]
    assert faults_of(source) == [
        ("t, id ≥ 1, row 2", "bad_type", "column 'n': 'many' is no int64"),
        ("t, id ≥ 1, row 3", "bad_type", "column 'x': 3 is no string"),
        ("t, id ≥ 1, row 4", "bad_type", "column 'n': 0.5 is no int64"),  # Arrow would make it 0
    ]
    query = work.source(
        query="SELECT id, n + 0.5 AS half, x FROM t WHERE id IN (1, 3)", key="id", columns=["half", "id"]
    )
    assert records_of(query) == [{"half": 1.5, "id": 1}, {"half": 3.5, "id": 3}]


@pytest.mark.parametrize("kind", SERVERS)
def test_lost_connections_are_made_again(kind: str, works: dict[str, Work]) -> None:
    """In the midst of rows, of which none is there twice, and between partitions."""
    work = works[kind]
    work.run(
        "DROP TABLE IF EXISTS lengthy",
        f"CREATE TABLE lengthy (id {work.type('int')} NOT NULL PRIMARY KEY, data {work.type('bytes')})",
        rows=("INSERT INTO lengthy VALUES (?, ?)", [(i, bytes([i]) * 200_000) for i in range(150)]),
    )
    source = work.source(table="lengthy")
    partitions = source.partitions()
    expected = [
        key for partition in partitions for batch in source.read(partition) for key in batch.keys.to_pylist()
    ]
    work.end_others()
    found = []
    for partition in partitions:
        for batch in source.read(partition):
            found += batch.keys.to_pylist()
            if len(found) < 100:
                work.end_others()
    assert found == expected
    assert len(found) == 150


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_is_not_there_is_an_error(
    kind: str, works: dict[str, Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_module, "_FIRST_PAUSE", 0.001)
    url = f"{kind}://reader@127.0.0.1:{free_port()}/work"
    spec = SqlSource(kind="sql", url=url, password_env=PASSWORD_ENV, table="t")
    with pytest.raises(HeadraceError, match="The database cannot be reached") as caught:
        open_source("rows", spec, url).partitions()
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("(1317, 'Query execution was interrupted')", True),  # of KILL QUERY
        ("(4031, 'The client was disconnected by the server because of inactivity.')", True),
        ("(1053, 'Server shutdown in progress')", True),
        ("(3024, 'Query execution was interrupted, maximum statement execution time exceeded')", False),
        ("(1969, 'Query execution was interrupted (max_statement_time exceeded)')", False),
    ],
)
def test_what_mysql_says_of_connections_that_are_worth_another_attempt(text: str, lost: bool) -> None:
    place = Place("mysql", "mysql://host/db")
    assert isinstance(explained(OSError(text), place, "sources.rows"), LostConnectionError) is lost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "postgresql://me:hush@host/db", "table": "t"}, "must not hold a password"),
        ({"url": "mysql://host/db?user=me&password=hush", "table": "t"}, "must not hold a password"),
        (
            {"url_env": "postgresql://me:hush@host/db", "table": "t"},
            "takes the name of an environment variable",
        ),
        (
            {"url": "mysql://me@host/db", "password_env": "hush!", "table": "t"},
            "takes the name of an environment",
        ),
        ({"url": "mysql://me@host/db", "url_env": "URL", "table": "t"}, "one of `url` and `url_env`"),
        ({"table": "t"}, "one of `url` and `url_env`"),
        (
            {"url": "mysql://me@host/db", "table": "t", "query": "SELECT 1", "key": "id"},
            "one of `table` and `query`",
        ),
        ({"url": "mysql://me@host/db", "query": "SELECT 1"}, "`query` needs `key: column`"),
        (
            {"url": "mysql://me@host/db", "query": "SELECT 1", "key": "a", "schema": "s"},
            "`schema` goes with `table`",
        ),
    ],
)
def test_what_a_job_may_not_say(options: dict[str, Any], message: str) -> None:
    job = {
        "name": "n",
        "version": "1.0.0",
        "sources": {"rows": {"kind": "sql", **options}},
        "features": {"label": {"type": "int64"}},
    }
    with pytest.raises(HeadraceError, match=message) as caught:
        parse_spec(yaml.safe_dump(job))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:hush@host/db", "A password stands in the URL"),
        ("postgresql://me:hu/sh@host/db", "A password stands in the URL"),
        ("oracle://host/db", "no such kind of database"),
        ("postgresql://host", "names no host or no database"),
        ("sqlite://", "A file must be named"),
        ("just text", "no URL of a database"),
        ("sqlite:///nowhere.db", "There is no such file"),
        ("mysql://me@host/db?local_infile=1", "an option that is not known"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    """Those that variables bring are looked at once more."""
    spec = SqlSource(kind="sql", url="${db}", table="t", key="id")
    with pytest.raises(HeadraceError, match=message) as caught:
        open_source("rows", spec, url).partitions()
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_environment_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_HERE", raising=False)
    for options in ({"url_env": "NOT_HERE"}, {"url": "mysql://me@host/db", "password_env": "NOT_HERE"}):
        spec = SqlSource(kind="sql", table="t", key="id", **options)
        with pytest.raises(HeadraceError, match=r"environment variable is not set[\s\S]*NOT_HERE"):
            open_source("rows", spec, spec.path).partitions()


def test_parameters_are_all_given_and_all_used(works: dict[str, Work], tmp_path: Path) -> None:
    work = works["sqlite"].at(tmp_path)
    work.run("CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with pytest.raises(HeadraceError, match=r"A parameter has no value[\s\S]*:most"):
        work.source(table="t", where="id < :most").partitions()
    with pytest.raises(HeadraceError, match=r"A parameter is not used[\s\S]*least"):
        work.source(table="t", where="id < :most", params={"most": 3, "least": 1}).partitions()


def test_a_missing_client_names_the_extra(works: dict[str, Work], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    monkeypatch.delitem(sys.modules, "beam_jobs.sources._sql.mysql", raising=False)
    with pytest.raises(HeadraceError, match=r"headrace\[sql\]"):
        works["mysql"].source(table="t").partitions()


def test_only_one_select(work: Work) -> None:
    """What a query does beyond is refused by the database: it stands in a SELECT, in a transaction that only reads."""
    make_cells(work, 3)
    for query in (
        "DELETE FROM cells",
        "SELECT 1 AS id; DELETE FROM cells",
        "SELECT 1 AS id) x; DELETE FROM cells; --",
    ):
        with pytest.raises(HeadraceError, match="The database refuses"):
            work.source(query=query, key="id").partitions()
    assert len(records_of(work.source(table="cells"))) == 3
