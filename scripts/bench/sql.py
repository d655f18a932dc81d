#!/usr/bin/env python3
"""How fast the `sql` source reads a table of six columns, against its client's own fetch of the same rows, sorted.

Tables of DuckDB alone are read in no order of the key, so what its own fetch takes unsorted is told too. That fetch
uses two threads, so `two` tells how fast as many workers read, a partition each.
Starts PostgreSQL, MariaDB and MySQL itself, on loopback; SQLite and DuckDB are files. All in turn, the best of each.

Example:
  python scripts/bench/sql.py --rows 300000 --rounds 3
  python scripts/bench/sql.py --kinds duckdb --rounds 15
  python scripts/bench/sql.py --kinds sqlite --nulls
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pymysql
from adbc_driver_postgresql import dbapi as adbc
from pymysql.cursors import SSCursor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from beam_jobs.sources import Partition
from tests.sources.sql_work import PASSWORD_ENV, Work, working
from tests.sql_servers import PASSWORD

COLUMNS = "id, name, score, grade, taken, ok"
QUERY = f"SELECT {COLUMNS} FROM cells"
SORTED = f"{QUERY} ORDER BY id"
MOST_ROWS = 1 << 14
NUMBERED = {  # rows of one column g, from 1 to n
    "postgresql": "generate_series(1, {n}) r(g)",
    "mariadb": "(SELECT seq AS g FROM seq_1_to_{n}) r",
    "mysql": "r",
    "sqlite": "r",
    "duckdb": "range(1, {n} + 1) r(g)",
}
COUNTED = "WITH RECURSIVE r(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM r WHERE g < {n}) "
NAMED = {"mariadb": "concat('name of row ', g)", "mysql": "concat('name of row ', g)"}


def filling(kind: str, rows: int, nulls: bool) -> str:
    """The statement for the table's rows; with nulls, of which name, score and grade have one in five, three, seven."""
    score = "g * 1.5e0" if kind in NAMED else "g * 1.5"
    values = {5: NAMED.get(kind, "'name of row ' || g"), 3: score, 7: "g % 10"}
    if nulls:
        values = {every: f"CASE WHEN g % {every} <> 0 THEN {value} END" for every, value in values.items()}
    hint = f"/*+ SET_VAR(cte_max_recursion_depth = {rows}) */ " if kind == "mysql" else ""
    start = COUNTED.format(n=rows) if NUMBERED[kind] == "r" else ""
    columns = ", ".join(["g", *values.values(), "'2024-01-01'", "g % 2"])
    return f"{start}SELECT {hint}{columns} FROM {NUMBERED[kind].format(n=rows)}"


def fill(work: Work, rows: int, nulls: bool) -> None:
    kinds = {"id": "int", "name": "text", "score": "float", "grade": "int", "taken": "text", "ok": "int"}
    columns = ", ".join(f"{name} {work.type(kind)}" for name, kind in kinds.items())
    work.run(f"CREATE TABLE cells ({columns}, PRIMARY KEY (id))")
    work.run(f"INSERT INTO cells {filling(work.kind, rows, nulls)}")


def fetched(cursor: Any) -> int:
    count = 0
    while rows := cursor.fetchmany(MOST_ROWS):
        count += len(rows)
    return count


def raw_postgresql(work: Work, query: str) -> int:
    uri = work.url.replace("reader@", f"reader:{PASSWORD}@")
    with adbc.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return sum(batch.num_rows for batch in cursor.fetch_record_batch())


def raw_mysql(work: Work, query: str) -> int:
    assert work.server is not None
    arguments: dict[str, Any] = {"host": "127.0.0.1", "port": work.server.port, "user": "reader"}
    arguments |= {"password": PASSWORD, "database": "work", "cursorclass": SSCursor}
    with pymysql.connect(**arguments) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return fetched(cursor)


def raw_sqlite(work: Work, query: str) -> int:
    with contextlib.closing(sqlite3.connect(work.url.removeprefix("sqlite:///"))) as connection:
        return fetched(connection.execute(query))


def raw_duckdb(work: Work, query: str) -> int:
    with duckdb.connect(work.url.removeprefix("duckdb:///"), read_only=True) as connection:
        return sum(batch.num_rows for batch in connection.sql(query).to_arrow_reader(MOST_ROWS))


RAW: dict[str, Callable[[Work, str], int]] = {
    "postgresql": raw_postgresql,
    "mariadb": raw_mysql,
    "mysql": raw_mysql,
    "sqlite": raw_sqlite,
    "duckdb": raw_duckdb,
}


def shuffle(work: Work) -> None:
    """The table's rows, stored in another order than that of the key."""
    work.run(
        "CREATE TABLE kept AS SELECT * FROM cells",
        "DELETE FROM cells",
        "INSERT INTO cells SELECT * FROM kept ORDER BY hash(id)",
    )


def measure(work: Work, rows: int, rounds: int, told: str) -> None:
    if work.kind == "duckdb":
        time.sleep(2.5)  # rows of a file that has just been changed are hashed once more
    raw = RAW[work.kind]
    source = work.source(table="cells")
    partitions = source.partitions()

    def read_one(partition: Partition) -> int:
        # Opened anew for each partition, as by jobs.
        return sum(len(batch.rows) for batch in work.source(table="cells").read(partition))

    def read_by_two() -> int:
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(read_one, partitions))

    contenders: dict[str, Callable[[], int]] = {
        "raw": lambda: raw(work, SORTED),
        "unsorted": lambda: raw(work, QUERY),
        "read": lambda: sum(map(read_one, partitions)),
        "two": read_by_two,
        "plan": lambda: sum(p.records or 0 for p in source.partitions()),
    }
    best: dict[str, list[float]] = {}
    gc.collect()
    gc.freeze()  # as jobs do, which do not look again and again at what was imported
    if work.kind != "duckdb":  # whose clients fetch by one thread, and whose tables are read sorted
        del contenders["unsorted"], contenders["two"]
    for _ in range(rounds):
        for name, contender in contenders.items():
            clocks = (time.perf_counter, time.process_time)
            started = [clock() for clock in clocks]
            assert contender() == rows
            spent = [clock() - start for clock, start in zip(clocks, started, strict=True)]
            best[name] = list(map(min, spent, best.get(name, spent)))
    wall, cpu = ({name: found[place] for name, found in best.items()} for place in (0, 1))
    rates = "".join(f" {name} {rows / seconds:>9,.0f}/s" for name, seconds in wall.items())
    shares = f"{wall['raw'] / wall['read']:.0%} of raw (goal 70 %), by processor time {cpu['raw'] / cpu['read']:.0%}"
    for name in ("read", "two") if work.kind == "duckdb" else ():
        shares += f"; {name} {wall['unsorted'] / wall[name]:.0%} of unsorted"
        shares += f", by processor time {cpu['unsorted'] / cpu[name]:.0%}"
    print(f"{told:<18}{rates}  {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=NUMBERED, default=list(NUMBERED))
    parser.add_argument("--nulls", action="store_true", help="some values of three columns are nulls")
    args = parser.parse_args()
    os.environ[PASSWORD_ENV] = PASSWORD
    for kind in args.kinds:
        with working(kind) as work, tempfile.TemporaryDirectory() as folder:
            placed = work.at(Path(folder))
            fill(placed, args.rows, args.nulls)
            measure(placed, args.rows, args.rounds, kind)
            if kind == "duckdb":
                shuffle(placed)
                measure(placed, args.rows, args.rounds, "duckdb, shuffled")


if __name__ == "__main__":
    main()
