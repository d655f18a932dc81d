#!/usr/bin/env python3
"""Peak memory of preparing the same rows from every kind of source, at one size and at four times that, or more.

The sum of RSS over `headrace run` and all its children. Image folders have memory.py. Shards are small, since a worker
holds some bytes for each record of one, and of rows as short as these a shard of the usual size holds a million.

Examples:
  python scripts/bench/source_memory.py
  python scripts/bench/source_memory.py --only csv jsonl sqlite --rows 200000
  python scripts/bench/source_memory.py --only parquet --times 4 8 16   what is left behind of each part adds up slowly
"""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import tarfile
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
from custom_rows import PART, parts, rows_of

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
Batches = Iterator[list[dict[str, Any]]]


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


def write_headrace(place: Path, rows: int) -> None:
    """A data set of ours, which is one of TFDS and TFRecords, too."""
    write_csv(place, rows)
    spec = '{kind: csv, path: "${data}/rows.csv", key: id}'
    prepare(place, spec, FEATURES, place / "set").run()


def write_nothing(place: Path, rows: int) -> None:
    (place / "rows").write_text(str(rows))


def listed(kind: str, file: str, more: str = "") -> str:
    return f'{{kind: {kind}, path: "${{data}}/{file}", key: id{more}}}'


SQL = '{{kind: sql, url: "{0}:///${{data}}/rows.{0}", table: rows, key: id}}'
WEBDATASET = '{kind: webdataset, path: "${data}/rows.tar", fields: {id: text, note: text}}'
FILES = '{kind: files, path: "${data}/files", text: true}'
PYTHON = (
    f'{{kind: python, partitions: "{FUNCTIONS}:parts", read: "{FUNCTIONS}:rows_of", path: ROWS, key: id}}'
)
BEAM = (
    f'{{kind: beam, transform: "{FUNCTIONS}:Rows", path: ROWS, key: id,'
    f" columns: {{id: string, note: string, {FLOATS}}}}}"
)
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
    "files": (FILES, write_files),
    "sqlite": (SQL.format("sqlite"), write_sqlite),
    "duckdb": (SQL.format("duckdb"), write_duckdb),
    "python": (PYTHON, write_nothing),
    "beam": (BEAM, write_nothing),
}
OTHER_FEATURES = {
    "webdataset": "{id: {type: text}, note: {type: text}}",
    "files": "{name: {type: text}, text: {type: text}}",
    "tfrecord": FEATURES,
}
FEWER = {"files": 20}  # a file is dear to make


def prepare(place: Path, source: str, features: str, out: Path) -> common.Contender:
    job = place / "job.yaml"
    job.write_text(JOB.format(source=source, features=features))
    command: list[str | Path] = [common.headrace(), "run", job, "--var", f"data={place}", "--out", out]
    return common.Contender("headrace", command, output=out)


def main() -> None:
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--rows", type=int, default=300_000, help="of the smaller size (default: 300000)")
    parser.add_argument(
        "--times", type=int, nargs="+", default=[4], help="so many times the rows (default: 4)"
    )
    parser.add_argument("--only", nargs="+", choices=SOURCES, default=list(SOURCES))
    args = parser.parse_args()
    work = (args.work / "out" / "sources").resolve()
    runs, goals = [], []
    for kind in args.only:
        source, write = SOURCES[kind]
        peaks = []
        for times in (1, *args.times):
            rows = max(1, times * args.rows // FEWER.get(kind, 1) // PART) * PART
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write(work, rows)
            features = OTHER_FEATURES.get(kind, FEATURES)
            contender = prepare(work, source.replace("ROWS", f'"{rows}"'), features, work / "out")
            contender.name = f"{kind} x{times}"
            run = contender.run(interval=0.02)
            common.note(f"{contender.name:>14}: {rows:,} rows, {run.rss_mb:.0f} MB, {run.wall_seconds:.1f} s")
            runs.append(run)
            peaks.append(run.rss_mb)
        for times, peak in zip(args.times, peaks[1:], strict=True):
            grown = round(peak / peaks[0], 2)
            goals.append(
                common.Goal(f"{kind}: {times} times the rows", grown, 1.25, at_least=False, unit="x")
            )
    shutil.rmtree(work, ignore_errors=True)
    common.report(args, runs, goals)


if __name__ == "__main__":
    main()
