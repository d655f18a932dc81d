"""Jobs from columnar files: the bytes that the same rows give as CSV, for any number of workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest

from beam_jobs import load_job, run
from beam_jobs.job import Result
from schemas import HeadraceError
from tests.jobs.small_job import digests, options

RECORDS = 600

JOB = """
name: trips
version: 1.0.0
vars: {data: unset}
sources:
  trips: {kind: KIND, path: "${data}/trips", key: id, partition_bytes: 4000}
  areas: {kind: KIND, path: "${data}/areas", key: area}
main: trips
join: [{table: areas, left_on: area, right_on: area}]
features:
  id: {type: text}
  district: {type: class_label, names: [north, south]}
  year: {type: int64, min: 2020}
  fare: {type: float32, min: 0}
  seconds: {type: int64}
  note: {type: text, default: none}
label: district
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: {train: 3, test: 1}}
"""


def trips(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "id": [f"t{i:04d}" for i in numbers],
            "area": pa.array([i % 7 for i in numbers], pa.int32()),
            "fare": [i / 4 for i in numbers],
            "seconds": pa.array([i * 1000 for i in numbers], pa.timestamp("s")),
            "note": pa.array([None if i % 5 == 0 else f"note {i}" for i in numbers]).dictionary_encode(),
        }
    )


def areas() -> pa.Table:
    return pa.table(
        {"area": list(range(7)), "district": ["north", "south", "north", "south", *["north"] * 3]}
    )


def save_parquet(table: pa.Table, file: Path) -> None:
    pa.parquet.write_table(table, file, row_group_size=70)


def save_orc(table: pa.Table, file: Path) -> None:
    plain = table.schema.get_field_index("note")
    if plain >= 0:  # ORC has no dictionaries
        table = table.set_column(plain, "note", table["note"].cast(pa.string()))
    pa.orc.write_table(table, file)


def save_stream(table: pa.Table, file: Path) -> None:
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


def save_feather(table: pa.Table, file: Path) -> None:
    pa.feather.write_feather(table, file, chunksize=70)


def save_avro(table: pa.Table, file: Path) -> None:
    types = {"int32": "int", "int64": "long", "double": "double", "timestamp[s]": "long"}
    fields = [{"name": f.name, "type": ["null", types.get(str(f.type), "string")]} for f in table.schema]
    with file.open("wb") as out:
        schema = {"type": "record", "name": "row", "fields": fields}
        if "seconds" in table.column_names:
            table = table.set_column(3, "seconds", table["seconds"].cast(pa.int64()))
        fastavro.writer(out, schema, table.to_pylist(), codec="deflate", sync_interval=2000)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "arrow": save_stream,
    "arrow/feather": save_feather,
    "avro": save_avro,
    "orc": save_orc,
    "parquet": save_parquet,
}


def suffix(kind: str) -> str:
    return kind.rsplit("/", maxsplit=1)[-1]


def make_data(kind: str, folder: Path) -> Path:
    """Trips of two years in folders of their own, and the table of areas."""
    for year, first in ((2023, 0), (2024, RECORDS // 2)):
        place = folder / f"trips/year={year}"
        place.mkdir(parents=True)
        WRITERS[kind](trips(first, RECORDS // 2), place / f"part.{suffix(kind)}")
    (folder / "areas").mkdir()
    WRITERS[kind](areas(), folder / f"areas/areas.{suffix(kind)}")
    return folder


def make_csv(folder: Path) -> Path:
    """The same rows as CSV."""
    parts = [trips(0, RECORDS // 2), trips(RECORDS // 2, RECORDS // 2)]
    whole = pa.concat_tables(
        part.append_column("year", pa.array([year] * len(part)))
        .set_column(3, "seconds", part["seconds"].cast(pa.int64()))
        .set_column(4, "note", part["note"].cast(pa.string()))
        for part, year in zip(parts, (2023, 2024), strict=True)
    )
    pa.csv.write_csv(whole, folder / "trips")
    pa.csv.write_csv(areas(), folder / "areas")
    return folder


def prepare(kind: str, data: Path, out: Path, workers: int = 1) -> Result:
    out.mkdir(exist_ok=True)
    text = JOB.replace("KIND", kind.split("/", maxsplit=1)[0])
    if kind != "csv":
        text = text.replace("partition_bytes", "times: s, partition_bytes")
    (out / "job.yaml").write_text(text)
    return run(load_job(out / "job.yaml", {"data": str(data)}), out, options("multi_threading", workers))


@pytest.fixture(scope="module")
def from_csv(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    data = make_csv(tmp_path_factory.mktemp("csv"))
    return digests(prepare("csv", data, tmp_path_factory.mktemp("out")).path)


@pytest.mark.parametrize("kind", WRITERS)
def test_same_bytes_as_csv(kind: str, from_csv: dict[str, bytes], tmp_path: Path) -> None:
    data = make_data(kind, tmp_path / "data")
    one = prepare(kind, data, tmp_path / "one")
    book = one.manifest.books["trips"]
    assert (book.read, book.written) == (RECORDS, RECORDS)
    records = {name: data for name, data in from_csv.items() if "tfrecord" in name}
    assert len(records) == 8  # shards and their indexes
    assert {name: data for name, data in digests(one.path).items() if "tfrecord" in name} == records
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(data, elsewhere, copy_function=shutil.copy)
    assert digests(prepare(kind, elsewhere, tmp_path / "four", 4).path) == digests(one.path)


@pytest.mark.parametrize("kind", WRITERS)
def test_an_added_file_is_all_that_is_read(kind: str, tmp_path: Path) -> None:
    data = make_data(kind, tmp_path / "data")
    prepare(kind, data, tmp_path / "out")
    WRITERS[kind](trips(RECORDS, 10), data / f"trips/year=2024/part2.{suffix(kind)}")
    job = (tmp_path / "out/job.yaml").read_text().replace("version: 1.0.0", "version: 1.1.0")
    (tmp_path / "out/job.yaml").write_text(job)
    result = run(load_job(tmp_path / "out/job.yaml", {"data": str(data)}), tmp_path / "out")
    assert result.manifest.books["trips"].read == RECORDS + 10
    assert result.taken_over["records"] == RECORDS


def test_numbers_make_no_bytes(tmp_path: Path) -> None:
    save_parquet(pa.table({"x": [1, 2]}), tmp_path / "t.parquet")
    (tmp_path / "job.yaml").write_text(
        f"name: t\nversion: 1.0.0\nsources: {{t: {{kind: parquet, path: {tmp_path}}}}}\n"
        "features: {x: {type: bytes}}\n"
    )
    with pytest.raises(
        HeadraceError, match=r"(?s)cannot be made of a column of that type.*features\.x.*int64"
    ):
        run(load_job(tmp_path / "job.yaml"), tmp_path / "out")


def test_bytes_that_are_no_text_are_dead_letters(tmp_path: Path) -> None:
    save_parquet(pa.table({"x": [b"yes", b"\xff"]}), tmp_path / "t.parquet")
    (tmp_path / "job.yaml").write_text(
        f"name: t\nversion: 1.0.0\nsources: {{t: {{kind: parquet, path: {tmp_path}}}}}\n"
        "features: {x: {type: bool}}\nwrite: {max_dead_letters: 50%}\n"
    )
    result = run(load_job(tmp_path / "job.yaml"), tmp_path / "out")
    assert result.manifest.books["t"].dead_lettered == 1
