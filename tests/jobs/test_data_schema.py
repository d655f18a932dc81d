"""A job with a schema: what stops it, what it tells, what it leaves; no byte depends on what was there before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from beam_jobs import Job, Result, load_job, run
from beam_jobs.cli import main
from beam_jobs.job import summary_lines
from beam_jobs.verify import verify
from schemas import HeadraceError
from schemas.data_schema import ImageRules, load_data_schema
from tests.jobs import small_job
from tests.jobs.small_job import digests, encoded_image, make_data, make_job, options

RECORDS = 400

JOB = """
name: trips
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: csv, path: "${data}/rows/*.csv", key: id}}
features:
  fare: {type: float32}
  kind: {type: text, max_bytes: 20}
  paid: {type: class_label, names: [cash, card]}
label: paid
split: {fractions: {train: 0.7, test: 0.3}}
write: {shards: {train: 3, test: 1}}
schema: {file: "${data}/schema.yaml"}
"""

SCHEMA = """
splits: {train: {min_records: 100}}
features:
  fare: {type: float32, min: 0, max: 50, drift: {jensen_shannon: 0.1}}
  kind: {type: text, values: [city, sea], drift: {infinity_norm: 0.1}, skew: {infinity_norm: 0.3}}
  paid: {type: class_label, values: [cash, card], balance: {min: 0.2}}
"""


def write_rows(folder: Path, *, kind: str = "city", fares: int = 40, cash: int = 2) -> None:
    """Four files; every third record is of the kind `sea`, one in `cash` paid cash, and one file has other fares."""
    (folder / "rows").mkdir(exist_ok=True)
    for part in range(4):
        rows = ["id,fare,kind,paid"]
        for number in range(part, RECORDS, 4):
            fare = number % (fares if part == 3 else 40)
            rows.append(
                f"t{number},{fare},{'sea' if number % 3 == 0 else kind},{'card' if number % cash else 'cash'}"
            )
        (folder / "rows" / f"part{part}.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows and a schema that they fit."""
    write_rows(tmp_path)
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    return tmp_path


def job(folder: Path, schema: str = "", version: str = "1.0.0", text: str = JOB) -> Job:
    """The job, with more below `schema:` and another version."""
    file = folder / "job.yaml"
    changed = text.replace('schema.yaml"}', f'schema.yaml"{schema}}}').replace(
        "version: 1.0.0", f"version: {version}"
    )
    file.write_text(changed)
    return load_job(file, {"data": str(folder)})


def told(result: Result) -> list[tuple[str, str | None, str | None]]:
    return [(each.kind, each.feature, each.split) for each in result.anomalies]


def change_schema(folder: Path, **changes: str) -> None:
    text = SCHEMA
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "schema.yaml").write_text(text)


def work(folder: Path) -> Path:
    return folder / "out" / "trips" / ".headrace"


def test_data_that_fit_are_committed_and_say_so(folder: Path) -> None:
    result = run(job(folder, ", skew: {between: [train, test]}"), folder / "out")
    assert result.anomalies == []
    told = json.loads((result.path / "anomalies.json").read_text())
    assert told["anomalies"] == []
    assert told["skew_between"] == ["train", "test"]
    assert "anomalies.json" in {entry.path for entry in result.manifest.files}
    assert "schema" not in "\n".join(summary_lines(result)).split()
    assert verify(result.path).ok


def test_a_job_without_a_schema_has_no_such_file(folder: Path) -> None:
    without = job(folder, text="\n".join(line for line in JOB.splitlines() if not line.startswith("schema")))
    result = run(without, folder / "out")
    assert not (result.path / "anomalies.json").exists()


def test_an_error_stops_the_job_and_leaves_all_as_it_was(folder: Path) -> None:
    first = run(job(folder), folder / "out")
    before = digests(first.path)
    change_schema(folder, **{"max: 50": "max: 20", "min_records: 100": "min_records: 1000"})
    with pytest.raises(HeadraceError, match="3 of 3 anomalies stop the job") as caught:
        run(job(folder, version="1.1.0"), folder / "out")
    error = caught.value
    assert "Nothing was committed" in error.what
    assert "too_few_records train: The split has too few records. Found" in error.what
    assert "above_max fare (train): Values are too large. Found maximum 39.0; allowed max 20.0." in error.what
    assert error.where == f"schema.file: {'${data}'}/schema.yaml"
    report = work(folder) / "anomalies-1.1.0.json"
    assert str(report) in str(error.hint)
    assert {each["kind"] for each in json.loads(report.read_text())["anomalies"]} == {
        "too_few_records",
        "above_max",
    }
    assert sorted(path.name for path in (folder / "out" / "trips").iterdir()) == [".headrace", "1.0.0"]
    assert digests(first.path) == before
    # Mended, it goes on from what is finished.
    runs = {path: path.stat().st_mtime_ns for path in (work(folder) / "runs").iterdir()}
    (folder / "schema.yaml").write_text(SCHEMA)
    second = run(job(folder, version="1.1.0"), folder / "out")
    assert second.anomalies == []
    assert not report.exists()
    assert {path: path.stat().st_mtime_ns for path in (work(folder) / "runs").iterdir()} == runs
    assert digests(first.path) == before


def test_a_first_version_that_is_stopped_goes_on_with_its_runs_and_shards(folder: Path) -> None:
    change_schema(folder, **{"max: 50": "max: 20"})
    with pytest.raises(HeadraceError, match="above_max fare"):
        run(job(folder), folder / "out")
    assert not (folder / "out" / "trips" / "1.0.0").exists()
    shards = {
        path: path.stat().st_mtime_ns for path in work(folder).rglob("*.tfrecord-*") if path.suffix != ".json"
    }
    assert shards
    (folder / "schema.yaml").write_text(SCHEMA)
    result = run(job(folder), folder / "out")
    assert result.partitions_reused == result.partitions == 4
    inside = {path.name: path.stat().st_mtime_ns for path in result.path.rglob("*.tfrecord-*")}
    for path, written in shards.items():
        assert inside.get(path.name, written) == written
    fresh = run(job(folder), folder / "fresh")
    assert digests(result.path) == digests(fresh.path)


def test_mended_data_cost_what_was_mended(folder: Path) -> None:
    write_rows(folder, fares=90)
    with pytest.raises(HeadraceError, match="above_max fare"):
        run(job(folder), folder / "out")
    write_rows(folder)
    result = run(job(folder), folder / "out")
    assert (result.partitions_reused, result.partitions) == (3, 4)
    assert digests(result.path) == digests(run(job(folder), folder / "fresh").path)


def test_warnings_are_committed_written_down_and_told(folder: Path) -> None:
    write_rows(folder, cash=8)
    result = run(job(folder), folder / "out")
    assert told(result) == [("imbalance", "paid", "train"), ("imbalance", "paid", "test")]
    written = json.loads((result.path / "anomalies.json").read_text())["anomalies"]
    assert [each["kind"] for each in written] == ["imbalance", "imbalance"]
    lines = "\n".join(summary_lines(result))
    assert "schema       imbalance paid (train): 'cash' 12." in lines
    assert [each["severity"] for each in result.to_json()["anomalies"]] == ["warning", "warning"]
    again = run(job(folder), folder / "out")
    assert again.up_to_date
    assert told(again) == told(result)


@pytest.mark.parametrize(
    ("wish", "stops"),
    [
        (", on_anomaly: warn", False),
        (", on_anomaly: stop", True),
        (", on_anomaly: {errors: warn}", False),
        (", on_anomaly: {errors: warn, warnings: stop}", True),
        (", on_anomaly: {errors: warn, features: {fare: stop}}", True),
        (", on_anomaly: {features: {fare: warn}}", False),
        (", on_anomaly: {features: {kind: warn}}", True),
    ],
)
def test_what_stops_is_as_the_job_wishes(folder: Path, wish: str, stops: bool) -> None:
    """An error of `fare`, a warning of `paid`."""
    write_rows(folder, fares=90, cash=8)
    if stops:
        with pytest.raises(HeadraceError, match="Nothing was committed"):
            run(job(folder, wish), folder / "out")
        return
    result = run(job(folder, wish), folder / "out")
    assert {kind for kind, *_ in told(result)} == {"above_max", "imbalance"}


def test_the_same_bytes_for_any_number_of_workers(folder: Path) -> None:
    write_rows(folder, fares=90, cash=8)
    found = []
    for number, (mode, workers) in enumerate(
        [("multi_threading", 1), ("multi_threading", 4), ("multi_processing", 2)]
    ):
        wish = ", on_anomaly: warn, skew: {between: [train, test]}"
        found.append(digests(run(job(folder, wish), folder / f"out{number}", options(mode, workers)).path))
    assert found[0] == found[1] == found[2]
    assert b"above_max" in found[0]["anomalies.json"]


def test_worker_processes_stop_the_job_too(folder: Path) -> None:
    write_rows(folder, fares=90)
    with pytest.raises(HeadraceError, match="above_max fare") as caught:
        run(job(folder), folder / "out", options("multi_processing", 2))
    assert "anomalies-1.0.0.json" in str(caught.value.hint)


def test_images_and_lists_fit_the_schema_that_was_inferred_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path)
    first = run(make_job(data), tmp_path / "out")
    assert main(["schema", "infer", str(first.path), "-o", str(tmp_path / "schema.yaml")]) == 0
    rules = load_data_schema(tmp_path / "schema.yaml").features
    assert isinstance(rules["image"], ImageRules)
    assert rules["image"].model_dump(exclude_defaults=True, include={"height", "width", "channels", "formats"}) == {
        "height": {"min": 20, "max": 20}, "width": {"min": 24, "max": 24}, "channels": [3], "formats": ["jpeg", "png"],
    }  # fmt: skip
    skew = "skew: {between: [train, validation, test]}"
    checked = f'schema: {{file: "${{data}}/schema.yaml", {skew}, drift: {{against: "1.0.0"}}}}\n'
    second = run(make_job(data, small_job.JOB.replace("1.0.0", "1.1.0") + checked), tmp_path / "out")
    assert second.anomalies == []
    # What the version says of itself to TFX's tools is a schema too.
    told = ["schema", "import", str(first.path / "schema.pbtxt"), "-o", str(tmp_path / "own.yaml")]
    assert main(told) == 0
    assert main(["schema", "check", str(first.path), "--schema", str(tmp_path / "own.yaml")]) == 0
    # Planted: other sizes, colours, words.
    (tmp_path / "other").mkdir()
    for path in (make_data(tmp_path / "other", records=60) / "photos").rglob("*.jpg"):
        path.write_bytes(encoded_image(np.random.default_rng(1), size=(40, 50)))
    capsys.readouterr()
    elsewhere = checked.replace("${data}", str(tmp_path)).replace("1.0.0", str(first.path))
    with pytest.raises(HeadraceError, match="Nothing was committed"):
        run(make_job(tmp_path / "other", small_job.JOB + elsewhere), tmp_path / "third")
    report = json.loads((tmp_path / "third/cells/.headrace/anomalies-1.0.0.json").read_text())["anomalies"]
    found = {(each["kind"], each.get("feature"), each["found"]) for each in report}
    assert {("wrong_image_size", "image", "40 pixels"), ("wrong_image_size", "image", "50 pixels")} <= found


def test_values_that_are_missing_at_the_source_are_missed_though_a_default_fills_them(folder: Path) -> None:
    for part in (folder / "rows").iterdir():
        part.write_text(part.read_text().replace(",sea,", ",,"))
    text = JOB.replace("max_bytes: 20}", "max_bytes: 20, default: city}")
    change_schema(folder, **{"type: text,": "type: text, min_presence: 0.6,"})
    assert run(job(folder, text=text), folder / "out").anomalies == []
    change_schema(folder, **{"type: text,": "type: text, min_presence: 0.8,"})
    with pytest.raises(
        HeadraceError, match=r"low_presence kind \(train\): Too few records have a value of their own"
    ):
        run(job(folder, version="1.1.0", text=text), folder / "out")


def test_inspect_shows_anomalies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(folder, cash=8)
    result = run(job(folder), folder / "out")
    assert main(["inspect", str(result.path)]) == 0
    assert "imbalance paid (train)" in capsys.readouterr().out
    assert main(["inspect", str(result.path), "--json"]) == 0
    assert [each["kind"] for each in json.loads(capsys.readouterr().out)["anomalies"]] == [
        "imbalance",
        "imbalance",
    ]


# --- Drift ---


def test_drift_from_the_version_before_is_told_and_is_no_part_of_the_version(folder: Path) -> None:
    wish = ", drift: {against: previous}"
    assert run(job(folder, wish), folder / "out").anomalies == []
    assert not (work(folder) / "drift-1.0.0.json").exists()
    write_rows(folder, kind="sea")
    second = run(job(folder, wish, "1.1.0"), folder / "out")
    assert told(second) == [("drift", "kind", "train"), ("drift", "kind", "test")]
    assert "moved away from those of trips 1.0.0" in second.anomalies[0].what
    assert json.loads((second.path / "anomalies.json").read_text())["anomalies"] == []
    noted = json.loads((work(folder) / "drift-1.1.0.json").read_text())
    assert noted["drift_from"]["version"] == "1.0.0"
    assert told(run(job(folder, wish, "1.1.0"), folder / "out")) == told(second)
    # Where nothing was before, it has the same bytes.
    alone = run(job(folder, wish, "1.1.0"), folder / "alone")
    assert alone.anomalies == []
    assert digests(alone.path) == digests(second.path)
    write_rows(folder)
    with pytest.raises(HeadraceError, match="drift kind"):
        run(job(folder, wish + ", on_anomaly: stop", "1.2.0"), folder / "out")
    # The latest version is the one that drift is measured from: nothing has moved since.
    write_rows(folder, kind="sea")
    assert run(job(folder, wish + ", on_anomaly: stop", "1.3.0"), folder / "out").anomalies == []


def test_drift_from_a_version_that_the_job_names_is_part_of_the_version(folder: Path) -> None:
    first = run(job(folder), folder / "out")
    write_rows(folder, kind="sea")
    second = run(job(folder, ', drift: {against: "1.0.0"}', "1.1.0"), folder / "out")
    written = json.loads((second.path / "anomalies.json").read_text())
    assert [each["kind"] for each in written["anomalies"]] == ["drift", "drift"]
    assert written["drift_from"] == {
        "name": "trips", "version": "1.0.0", "fingerprint": first.manifest.fingerprint
    }  # fmt: skip
    assert told(second) == [("drift", "kind", "train"), ("drift", "kind", "test")]
    # By its path, and from elsewhere.
    wish = f", drift: {{against: {first.path}}}"
    elsewhere = run(job(folder, wish, "1.1.0"), folder / "elsewhere")
    other, same = digests(elsewhere.path), digests(second.path)
    assert other["anomalies.json"] == same["anomalies.json"]
    assert str(folder).encode() not in other["anomalies.json"]


def test_a_named_version_that_is_not_there_is_an_error_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(HeadraceError, match="There is no data set here"):
        run(job(folder, ', drift: {against: "0.9.0"}'), folder / "out")
    assert not (folder / "out").exists()
    without = run(
        job(folder, text=JOB.replace("schema:", "statistics: false\n#").replace("1.0.0", "0.9.0")),
        folder / "out",
    )
    assert not (without.path / "statistics.json").exists()
    with pytest.raises(HeadraceError, match="The version has no statistics"):
        run(job(folder, ', drift: {against: "0.9.0"}'), folder / "out")
    result = run(job(folder, ", drift: {against: previous}"), folder / "out")
    assert told(result) == [("not_checked", None, None)]
    assert "trips 0.9.0: it has no statistics" in result.anomalies[0].what


def test_a_damaged_version_is_not_compared_with(folder: Path) -> None:
    first = run(job(folder), folder / "out")
    file = first.path / "statistics.json"
    file.write_text(file.read_text().replace("39.0", "38.0"))
    with pytest.raises(HeadraceError, match="statistics of the version are not as they were committed"):
        run(job(folder, ', drift: {against: "1.0.0"}', "1.1.0"), folder / "out")


# --- The schema of a version that exists ---


def test_a_version_that_was_committed_under_another_schema_is_left_as_it_is(folder: Path) -> None:
    first = run(job(folder), folder / "out")
    (folder / "schema.yaml").write_text(
        "# Other words, the same rules.\n" + SCHEMA.replace("max: 50", "max: 50.0")
    )
    assert run(job(folder), folder / "out").up_to_date
    change_schema(folder, **{"max: 50": "max: 60"})
    with pytest.raises(
        HeadraceError,
        match=r"and its schema, or the version that it is compared with[\s\S]*headrace schema check",
    ):
        run(job(folder), folder / "out")
    # A new version takes everything over.
    second = run(job(folder, version="1.0.1"), folder / "out")
    assert second.taken_over["records"] == RECORDS
    assert second.taken_over["shards"] == 4
    assert digests(second.path) == digests(run(job(folder, version="1.0.1"), folder / "fresh").path)
    assert [s.sha256 for s in second.manifest.splits["train"].shards] == [
        s.sha256 for s in first.manifest.splits["train"].shards
    ]


WRONG = {
    "no schema": ({}, JOB.replace("schema.yaml", "none.yaml"), "There is no such schema file"),
    "bad schema": ({"type: text": "type: txt"}, JOB, "The schema file is not valid: 'txt' is not known here"),
    "no statistics": ({}, JOB.replace("schema:", "statistics: false\nschema:"), "what is compared are statistics"),
    "itself": ({}, JOB.replace('yaml"}', 'yaml", drift: {against: 1.0.0}}'), "cannot be compared with itself"),
    "misspelt": ({}, JOB.replace('yaml"}', 'yaml", on_anomlay: warn}'), "did you mean 'on_anomaly'"),
    "action": ({}, JOB.replace('yaml"}', 'yaml", on_anomaly: halt}'), "'halt' is not known here"),
    "no such split": ({}, JOB.replace('yaml"}', 'yaml", skew: {between: [train, dev]}}'), "Skew is measured between"),
    "one split": ({}, JOB.replace('yaml"}', 'yaml", skew: {between: [train, train]}}'), "Skew is measured between"),
    "no such feature": (
        {}, JOB.replace('yaml"}', 'yaml", on_anomaly: {features: {fair: warn}}}'), "The schema has no such feature"
    ),
    "no threshold": (
        {", skew: {infinity_norm: 0.3}": ""}, JOB.replace('yaml"}', 'yaml", skew: {between: [train, test]}}'),
        "The schema has no threshold of skew",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_it_is_told_before_anything_is_read(folder: Path, name: str) -> None:
    changes, text, what = WRONG[name]
    change_schema(folder, **changes)
    with pytest.raises(HeadraceError, match=what):
        run(job(folder, text=text), folder / "out")
    assert not (folder / "out").exists()
