"""Source `bigquery` through Beam's connector and Google's clients, against an emulator of BigQuery."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import Job, run
from beam_jobs.sources import Source
from schemas import parse_spec
from tests.engines.bigquery_clients import PROJECT, redirect
from tests.jobs.small_job import digests
from tests.servers import bigquery_server
from tests.sources import test_beam
from tests.sources.conformance import SourceSuite

pytestmark = [
    pytest.mark.dataflow,
    # Of the clients that Beam makes and never closes.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
COLUMNS = {"id": "string", "number": "int64", "words": "list<string>", "code": "int64"}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of an emulator, to which those that Beam makes are sent as well."""
    try:
        with bigquery_server() as ports, pytest.MonkeyPatch.context() as patch:
            made = redirect(*ports, patch.setattr)
            made.create_dataset("rows")
            yield made
    finally:
        gc.collect()  # what Beam never closes is told here, where it is ignored, and not when all tests are over


def name_of(place: Path) -> str:
    return f"{PROJECT}.rows.t{hashlib.md5(str(place).encode()).hexdigest()[:12]}"


def job(place: Path, release: str = "1.0.0") -> Job:
    source = {
        "kind": "bigquery",
        "table": name_of(place),
        "project": PROJECT,
        "key": "id",
        "columns": COLUMNS,
        "version": "1",
        "partitions": 8,
    }
    text = test_beam.JOB.replace("SOURCE", str(source).replace("'", '"')).replace("VERSION", release)
    return Job(parse_spec(text))


class TestBigQuery(SourceSuite):
    missing = r"A transform of yours failed(?s:.*)Not found: table:my-project\.rows\.t"

    @pytest.fixture(autouse=True)
    def _client(self, client: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.client = client
        self.out = tmp_path_factory

    def write(self, place: Path, count: int) -> None:
        from google.cloud import bigquery

        kinds = {"id": "STRING", "number": "INTEGER", "code": "STRING"}
        fields = [bigquery.SchemaField(name, kind) for name, kind in kinds.items()]
        fields.append(bigquery.SchemaField("words", "STRING", mode="REPEATED"))
        self.client.create_table(bigquery.Table(name_of(place), schema=fields))
        self._insert(place, [self._row(number) for number in range(count)])

    def append(self, place: Path) -> None:
        self._insert(place, [self._row(9999)])

    def spoil(self, place: Path) -> set[str]:
        self._insert(
            place, [{**self._row(5000), "code": "many"}, self._row(5001), {**self._row(5002), "code": ""}]
        )
        return {"bad_type"}

    def change(self, place: Path) -> None:
        self.client.query(f"UPDATE `{name_of(place)}` SET number = 0 WHERE number = 7").result()

    def open(self, place: Path) -> Source:
        return test_beam.materialized(job(place), self.out.mktemp("out"))

    def _row(self, number: int) -> dict[str, Any]:
        return {"id": f"r{number:05}", "number": number, "words": ["some", str(number)], "code": None}

    def _insert(self, place: Path, rows: list[dict[str, Any]]) -> None:
        if rows:
            assert self.client.insert_rows_json(name_of(place), rows) == []

    # What a table holds is known to nobody before it was read; `version` says that it is another.
    test_appending_leaves_earlier_partitions_as_they_are = None  # type: ignore[assignment]
    test_changed_bytes_change_one_identity = None  # type: ignore[assignment]

    def test_same_bytes_from_any_number_of_workers(self, tmp_path: Path) -> None:
        self.write(tmp_path / "t", 300)
        found = []
        for workers in (1, 3):
            flags = [f"--direct_num_workers={workers}"]
            result = run(job(tmp_path / "t"), tmp_path / str(workers), flags)
            assert result.manifest.books["rows"].written == 300
            found.append(digests(result.path))
        assert found[0] == found[1]
