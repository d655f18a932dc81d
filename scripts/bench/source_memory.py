#!/usr/bin/env python3
"""Peak memory of preparing the same rows from every kind of source, at one size and at four times that, or more.

The sum of RSS over `headrace run` and all its children. Image folders have memory.py. Shards are small, since a worker
holds some bytes for each record of one, and of rows as short as these a shard of the usual size holds a million.
PostgreSQL, MariaDB, MySQL and the emulator of BigQuery are those of the tests (CONTRIBUTING.md), started here on
loopback and not counted. That emulator, and the job which reads it by Beam's connector, run in .venv-dataflow
(`scripts/install --dataflow`).

Examples:
  python scripts/bench/source_memory.py
  python scripts/bench/source_memory.py --only csv jsonl postgresql --rows 200000
  python scripts/bench/source_memory.py --only parquet --times 4 8 16   what is left behind of each part adds up slowly
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import duckdb
import fastavro
import pyarrow as pa
import pyarrow.csv
import pyarrow.orc
import pyarrow.parquet
from custom_rows import PART, TEXT, parts, rows_of

sys.path.insert(0, str(common.ROOT))

from tests.servers import bigquery_server
from tests.sources.sql_work import PASSWORD_ENV, Work, working
from tests.sql_servers import PASSWORD

JOB = """
name: memory
version: 1.0.0
vars: {{data: unset}}
sources: {{rows: {source}}}
features: {features}
split: {{fractions: {{train: 1.0}}}}
write: {{shard_size: 4MB}}
"""
SCHEMA = pa.Table.from_pylist(list(rows_of(0, "1"))).schema
COLUMNS = ["id", "note", *(f"x{column}" for column in range(8))]
FEATURES = "{id: {type: text}, note: {type: text}, x0: {type: float32}, x7: {type: float32}}"
FLOATS = ", ".join(f"x{column}: float64" for column in range(8))
FUNCTIONS = "scripts.bench.custom_rows"
PROJECT = "my-project"
Batches = Iterator[list[dict[str, Any]]]
Command = list[str | Path]
HEADRACE: Command = [common.headrace()]
WITH_CLIENTS = common.ROOT / ".venv-dataflow/bin/python"


def batches(rows: int) -> Batches:
    """The rows, ten thousand at a time."""
    return (list(rows_of(part, str(rows))) for part in parts(str(rows)))


def tables(rows: int) -> Iterator[pa.Table]:
    return map(pa.Table.from_pylist, batches(rows))


def write_tables(writer: Any, rows: int) -> None:
    with writer:
        for table in tables(rows):
            writer.write(table)


def write_csv(place: Path, rows: int) -> None:
    write_tables(pa.csv.CSVWriter(place / "rows.csv", SCHEMA), rows)


def write_jsonl(place: Path, rows: int) -> None:
    with (place / "rows.jsonl").open("w") as file:
        for batch in batches(rows):
            file.writelines(json.dumps(row) + "\n" for row in batch)


def write_parquet(place: Path, rows: int) -> None:
    write_tables(pa.parquet.ParquetWriter(place / "train-0.parquet", SCHEMA), rows)


def write_arrow(place: Path, rows: int) -> None:
    write_tables(pa.ipc.new_file(place / "rows.arrow", SCHEMA), rows)


def write_orc(place: Path, rows: int) -> None:
    with pa.orc.ORCWriter(place / "rows.orc", stripe_size=4 << 20) as writer:
        for table in tables(rows):
            writer.write(table)


def write_avro(place: Path, rows: int) -> None:
    kinds = ["string", "string", *["double"] * 8]
    fields = [{"name": name, "type": kind} for name, kind in zip(COLUMNS, kinds, strict=True)]
    schema = fastavro.parse_schema({"type": "record", "name": "row", "fields": fields})
    with (place / "rows.avro").open("wb") as file:
        fastavro.writer(file, schema, (row for batch in batches(rows) for row in batch))


def write_tar(place: Path, rows: int) -> None:
    with tarfile.open(place / "rows.tar", "w") as tar:
        for batch in batches(rows):
            for row in batch:
                for suffix, text in (("id", row["id"]), ("note", row["note"])):
                    member = tarfile.TarInfo(f"{row['id']}.{suffix}")
                    member.size = len(text)
                    tar.addfile(member, io.BytesIO(text.encode()))


def write_files(place: Path, rows: int) -> None:
    for batch in batches(rows):
        for row in batch:
            path = place / "files" / row["id"][:6] / row["id"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(row["note"])


def write_zip(place: Path, rows: int) -> None:
    with zipfile.ZipFile(place / "rows.zip", "w") as archive:
        for batch in batches(rows):
            for row in batch:
                archive.writestr(f"files/{row['id'][:6]}/{row['id']}", row["note"])


def write_sqlite(place: Path, rows: int) -> None:
    with sqlite3.connect(place / "rows.sqlite") as connection:
        connection.execute(f"CREATE TABLE rows (id TEXT PRIMARY KEY, {', '.join(COLUMNS[1:])})")
        marks = ", ".join("?" * len(COLUMNS))
        for batch in batches(rows):
            connection.executemany(
                f"INSERT INTO rows VALUES ({marks})", [tuple(row.values()) for row in batch]
            )
    connection.close()


def write_duckdb(place: Path, rows: int) -> None:
    write_parquet(place, rows)
    with duckdb.connect(place / "rows.duckdb") as connection:
        connection.sql(f"CREATE TABLE rows AS SELECT * FROM '{place}/train-0.parquet'")


def write_server(work: Work, rows: int) -> None:
    """The same rows, made by the server, and a number as their key: MySQL's indexes order no text by its bytes."""
    name, text = work.quoted("rows"), work.type("text")
    floats = "".join(f", x{column} {work.type('float')}" for column in range(8))
    values = f"g, concat('r', right(concat('00000000', g), 9)), concat('{TEXT}', g)"
    values += "".join(f", g / {column + 1}e0" for column in range(8))
    series = NUMBERS[work.kind].format(last=rows - 1)
    hint = f"/*+ SET_VAR(cte_max_recursion_depth = {rows}) */"  # for MySQL; a comment for others
    work.run(
        f"DROP TABLE IF EXISTS {name}",
        f"CREATE TABLE {name} (n bigint PRIMARY KEY, id {text}, note {text}{floats})",
        f"INSERT INTO {name} SELECT {hint} {values} FROM {series}",
    )


def write_bigquery(port: int, rows: int) -> None:
    """The same rows, made by the emulator."""
    floats = "".join(f", g / {column + 1} AS x{column}" for column in range(8))
    values = (
        f"CONCAT('r', LPAD(CAST(g AS STRING), 9, '0')) AS id, CONCAT('{TEXT}', CAST(g AS STRING)) AS note"
    )
    series = f"UNNEST(GENERATE_ARRAY(0, {rows - 1})) AS g"
    for query in (
        "CREATE SCHEMA IF NOT EXISTS memory",
        f"CREATE OR REPLACE TABLE memory.rows AS SELECT {values}{floats} FROM {series}",
    ):
        url = f"http://127.0.0.1:{port}/bigquery/v2/projects/{PROJECT}/queries"
        body = json.dumps({"query": query, "useLegacySql": False}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(url, body, headers)).close()


def write_headrace(place: Path, rows: int) -> None:
    """A data set of ours, which is one of TFDS and TFRecords, too."""
    write_csv(place, rows)
    spec = '{kind: csv, path: "${data}/rows.csv", key: id}'
    prepare(place, spec, FEATURES, place / "set").run()


def write_nothing(place: Path, rows: int) -> None:
    (place / "rows").write_text(str(rows))


def listed(kind: str, file: str, more: str = "") -> str:
    return f'{{kind: {kind}, path: "${{data}}/{file}", key: id{more}}}'


NUMBERS = {
    "postgresql": "generate_series(0, {last}) AS s(g)",
    "mariadb": "(SELECT seq AS g FROM seq_0_to_{last}) AS s",
    "mysql": "(WITH RECURSIVE r(g) AS (SELECT 0 UNION ALL SELECT g + 1 FROM r WHERE g < {last}) SELECT g FROM r) AS s",
}
SQL = '{{kind: sql, url: "{0}:///${{data}}/rows.{0}", table: rows, key: id}}'
WEBDATASET = '{kind: webdataset, path: "${data}/rows.tar", fields: {id: text, note: text}}'
FILES = '{{kind: files, path: "{}", text: true}}'
PYTHON = (
    f'{{kind: python, partitions: "{FUNCTIONS}:parts", read: "{FUNCTIONS}:rows_of", path: ROWS, key: id}}'
)
TYPED = f"key: id, columns: {{id: string, note: string, {FLOATS}}}"
BEAM = f'{{kind: beam, transform: "{FUNCTIONS}:Rows", path: ROWS, {TYPED}}}'
BIGQUERY = f'{{kind: bigquery, table: {PROJECT}.memory.rows, project: {PROJECT}, version: "1", {TYPED}}}'
SOURCES: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "csv": (listed("csv", "rows.csv"), write_csv),
    "jsonl": (listed("jsonl", "rows.jsonl"), write_jsonl),
    "parquet": (listed("parquet", "train-0.parquet"), write_parquet),
    "arrow": (listed("arrow", "rows.arrow"), write_arrow),
    "orc": (listed("orc", "rows.orc"), write_orc),
    "avro": (listed("avro", "rows.avro"), write_avro),
    "tfrecord": (listed("tfrecord", "set/memory/1.0.0/*.tfrecord-*"), write_headrace),
    "tfds": (listed("tfds", "set/memory/1.0.0"), write_headrace),
    "huggingface": (listed("huggingface", ""), write_parquet),
    "webdataset": (WEBDATASET, write_tar),
    "files": (FILES.format("${data}/files"), write_files),
    "zip": (FILES.format("zip://files::${data}/rows.zip"), write_zip),
    "sqlite": (SQL.format("sqlite"), write_sqlite),
    "duckdb": (SQL.format("duckdb"), write_duckdb),
    "python": (PYTHON, write_nothing),
    "beam": (BEAM, write_nothing),
}
NAMED = "{name: {type: text}, text: {type: text}}"
OTHER_FEATURES = {
    "webdataset": "{id: {type: text}, note: {type: text}}",
    "files": NAMED,
    "zip": NAMED,
    "tfrecord": FEATURES,
}
FEWER = {"files": 20, "zip": 20}  # a file is dear to make
KINDS = [*NUMBERS, "bigquery", *SOURCES]  # a server that is missing is told before all else is measured


@contextlib.contextmanager
def source_of(kind: str) -> Iterator[tuple[str, Callable[[Path, int], None], Command]]:
    """The source as a job has it, what writes its rows and what `headrace` is, with a server where it has one."""
    if kind == "bigquery":
        with bigquery_server(WITH_CLIENTS) as ports:
            headrace: Command = [WITH_CLIENTS, "-m", "tests.engines.bigquery_clients", *map(str, ports)]
            yield BIGQUERY, lambda _, rows: write_bigquery(ports[0], rows), headrace
    elif kind in NUMBERS:
        with working(kind) as work:
            source = f'{{kind: sql, url: "{work.url}", password_env: {PASSWORD_ENV}, table: rows, key: n}}'
            yield source, lambda _, rows: write_server(work, rows), HEADRACE
    else:
        yield *SOURCES[kind], HEADRACE


def measure(kind: str, work: Path, few: int, times: list[int]) -> Iterator[common.Run]:
    """A run for each number of rows: about so few, and so many times as many."""
    few = max(1, few // FEWER.get(kind, 1) // PART) * PART
    with source_of(kind) as (source, write, headrace):
        for many in times:
            rows = many * few
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write(work, rows)
            features = OTHER_FEATURES.get(kind, FEATURES)
            contender = prepare(work, source.replace("ROWS", f'"{rows}"'), features, work / "out", headrace)
            contender.name = f"{kind} x{many}"
            run = contender.run(interval=0.02)
            common.note(f"{contender.name:>14}: {rows:,} rows, {run.rss_mb:.0f} MB, {run.wall_seconds:.1f} s")
            yield run


def prepare(
    place: Path, source: str, features: str, out: Path, headrace: Command = HEADRACE
) -> common.Contender:
    job = place / "job.yaml"
    job.write_text(JOB.format(source=source, features=features))
    command = [*headrace, "run", job, "--var", f"data={place}", "--out", out]
    return common.Contender("headrace", command, output=out)


def main() -> None:
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--rows", type=int, default=300_000, help="of the smaller size (default: 300000)")
    parser.add_argument(
        "--times", type=int, nargs="+", default=[4], help="so many times the rows (default: 4)"
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    args = parser.parse_args()
    work = (args.work / "out" / "sources").resolve()
    os.environ[PASSWORD_ENV] = PASSWORD
    runs, goals = [], []
    for kind in args.only:
        found = list(measure(kind, work, args.rows, [1, *args.times]))
        runs += found
        peaks = [run.rss_mb for run in found]
        for times, peak in zip(args.times, peaks[1:], strict=True):
            grown = round(peak / peaks[0], 2)
            goals.append(
                common.Goal(f"{kind}: {times} times the rows", grown, 1.25, at_least=False, unit="x")
            )
    shutil.rmtree(work, ignore_errors=True)
    common.report(args, runs, goals)


if __name__ == "__main__":
    main()
