from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import Job, run
from beam_jobs import materialize as materializing
from beam_jobs.listing import write_partitions
from beam_jobs.materialize import materialize
from beam_jobs.planning import plan_job
from beam_jobs.previous import list_partitions
from beam_jobs.runners import parse_options
from beam_jobs.sources import Source
from schemas import parse_spec
from schemas.errors import HeadraceError
from tests.jobs.small_job import digests, options
from tests.sources.beam_functions import COLUMNS

from .conformance import SourceSuite, faults_of, read_all, records_of
from .test_python import TestPython as PythonSuite

FUNCTIONS = "tests.sources.beam_functions"
JOB = """
name: rows
version: VERSION
sources:
  rows: SOURCE
features: {id: {type: text}}
write: {max_dead_letters: 100%}
"""


def job(transform: str, columns: dict[str, str], release: str = "1.0.0", **options: Any) -> Job:
    fields = {
        "kind": "beam",
        "transform": f"{FUNCTIONS}:{transform}",
        "key": "id",
        "columns": columns,
        **options,
    }
    return Job(parse_spec(JOB.replace("SOURCE", str(fields).replace("'", '"')).replace("VERSION", release)))


def materialized(made: Job, out: Path) -> Source:
    """The source, its rows in the work directory of a job on `out`."""
    plan, partitions = plan_job(made, out)
    plan.workspace.root.store.prepare(plan.workspace.version)
    write_partitions(plan.workspace.partitions, list_partitions(plan, partitions))
    materialize(plan, parse_options([]))
    return plan.source("rows")


class TestBeam(SourceSuite):
    missing = r"A user function failed(?s:.*)FileNotFoundError"

    @pytest.fixture(autouse=True)
    def _out(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.out = tmp_path_factory

    def write(self, place: Path, count: int) -> None:
        PythonSuite().write(place, count)
        (place / "empty.txt").write_text("")

    def append(self, place: Path) -> None:
        PythonSuite().append(place)

    def spoil(self, place: Path) -> set[str]:
        return PythonSuite().spoil(place)

    def change(self, place: Path) -> None:
        PythonSuite().change(place)

    def open(self, place: Path) -> Source:
        return materialized(job("Lines", COLUMNS, path=str(place), partitions=8), self.out.mktemp("out"))

    # What a transform will give is known to nobody before it has run.
    test_appending_leaves_earlier_partitions_as_they_are = None  # type: ignore[assignment]
    test_changed_bytes_change_one_identity = None  # type: ignore[assignment]


def test_identities_know_code_version_path_columns_and_number(tmp_path: Path) -> None:
    def identities(**options: Any) -> list[Any]:
        made = job(**{"transform": "Lines", "columns": COLUMNS, "path": "a", "partitions": 4, **options})
        return [partition.identity for partition in plan_job(made, tmp_path)[1]]

    plain = identities()
    assert len({str(identity) for identity in plain}) == 4
    others = ({"version": "2"}, {"path": "b"}, {"columns": {**COLUMNS, "more": "bool"}}, {"partitions": 5})
    for other in others:
        assert not [identity for identity in identities(**other) if identity in plain]


def test_rows_of_one_key_or_none_have_one_order(tmp_path: Path) -> None:
    columns = {"id": "string", "number": "int64", "data": "bytes"}
    made = job("same_keys", columns, partitions=3)
    found = [records_of(materialized(made, tmp_path / str(attempt))) for attempt in range(3)]
    assert found[0] == found[1] == found[2]
    assert sorted(record["number"] for record in found[0]) == list(range(20))


def test_reasons_of_faults(tmp_path: Path) -> None:
    place = tmp_path / "d"
    place.mkdir()
    (place / "a.txt").write_text("r1,x,1\n!text,no dict,0\n!type,x,many\n!column,y,3\n")
    source = materialized(job("Lines", COLUMNS, path=str(place), partitions=1), tmp_path)
    assert faults_of(source) == [
        ("partition 0 of 1, row 1", "bad_type", "column 'number': 'many' is no int64"),
        ("partition 0 of 1, row 2", "not_a_record", "'no dict' is no dict"),
        (
            "partition 0 of 1, row 3",
            "unknown_column",
            "there is no column 'numbre'; there are id, number, words",
        ),
    ]
    assert [record["id"] for record in records_of(source)] == ["r1"]


def test_batches_are_small_and_partitions_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job("large", {"id": "string", "data": "bytes"}, partitions=1)
    batches = read_all(materialized(made, tmp_path / "a"))
    assert sum(batch.records.num_rows for batch in batches) == 6
    assert max(batch.records.nbytes for batch in batches) <= 9 << 20
    monkeypatch.setattr(materializing, "MAX_PARTITION_BYTES", 8 << 20)
    with pytest.raises(HeadraceError, match=r"too large(?s:.*)in one of 1\n.*8.4 MB\n.*partitions: 6"):
        materialized(made, tmp_path / "b")


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        ("failing", {}, r"A transform of yours failed.\n.*sources.rows\n.*ZeroDivisionError"),
        ("absent", {}, r"cannot be imported.\n.*sources.rows.transform\n.*absent"),
        ("Images", {"path": "x"}, r"A user function failed.\n.*sources.rows.transform(?s:.*)TypeError"),
        ("Images", {"key": "ids"}, r"does not exist(?s:.*)Did you mean 'id'"),
    ],
)
def test_errors(tmp_path: Path, transform: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadraceError, match=message):
        materialized(job(transform, {"id": "string"}, **options), tmp_path)


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_errors_are_the_same_in_every_mode(tmp_path: Path, mode: str) -> None:
    made, flags = job("failing", {"id": "string"}), options(mode, 1 if mode == "in_memory" else 2)
    with pytest.raises(HeadraceError) as caught:
        run(made, tmp_path / "out", flags)
    assert caught.value.what == "A transform of yours failed."
    assert re.fullmatch(
        r"ZeroDivisionError: division by zero \[while running '.*'\]", str(caught.value.value)
    )


def test_nothing_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "d"
    place.mkdir()
    PythonSuite().write(place, 30)
    result = run(job("Lines", COLUMNS, path=str(place)), tmp_path / "out")
    assert result.manifest.books["rows"].written == 30
    work = tmp_path / "out/rows/.headrace"
    assert not [file for file in work.rglob("*") if file.suffix in (".arrow", ".spill")]
    monkeypatch.setattr(materializing, "build_rows", None)
    assert run(job("Lines", COLUMNS, path=str(place)), tmp_path / "out").up_to_date
    later = run(job("Lines", COLUMNS, "1.0.1", path=str(place)), tmp_path / "out")
    assert later.taken_over["records"] == 30
    shards = [name for name in digests(Path(result.path)) if "tfrecord-" in name]
    assert [digests(Path(result.path))[name] for name in shards] == [
        digests(Path(later.path))[name] for name in shards
    ]


def test_a_job_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two parts of the rows, they are made anew; killed behind them, they are not."""
    place = tmp_path / "d"
    place.mkdir()
    PythonSuite().write(place, 30)
    made = job("Lines", COLUMNS, path=str(place))
    expected = digests(Path(run(made, tmp_path / "expected").path))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name in ("write_counts", "read_counts"):
        out = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(materializing, name, killed)
            with pytest.raises((HeadraceError, KeyboardInterrupt)):
                run(made, out)
        assert digests(Path(run(made, out).path)) == expected
