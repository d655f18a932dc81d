"""Rules that learn from the train split: against pandas, same bytes however made, nothing learnt from other splits."""

from __future__ import annotations

import io
import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from beam_jobs import run
from beam_jobs.diff import diff
from beam_jobs.inspect_dataset import inspect, print_inspection
from beam_jobs.planning import plan_job
from beam_jobs.preview import preview
from beam_jobs.survey import exact
from beam_jobs.survey import run as survey
from beam_jobs.verify import verify
from schemas import HeadraceError, Manifest
from schemas.hashing import split_of, split_positions
from schemas.survey_rules import WeightsRule
from tests.jobs.small_job import digests, make_job, options

ROWS = 1200
JOB = """
name: ships
version: 1.0.0
vars: {data: unset}
sources:
  rows:
    kind: csv
    path: "${data}/*.csv"
    key: id
    partition_bytes: 2000
    types: {age: int64, fare: float64, size: float64}
clean:
  - {impute: age, with: median, by: sex}
  - {impute: size, with: mean}
  - {impute: sex, with: most_frequent}
  - {outliers: size, z_score: 2, action: drop, name: odd sizes}
  - {outliers: fare, iqr: 1.5}
  - {impute: fare, value: 0}
  - {weights: weight, by: cabin}
features:
  age: {type: int64}
  fare: {type: float32}
  size: {type: float32}
  sex: {type: text}
  weight: {type: float32}
  name: {type: text, from: id}
split: {fractions: {train: 0.6, validation: 0.2, test: 0.2}}
write: {shards: {train: 3, validation: 1, test: 1}, max_dead_letters: 10%}
"""


def make_rows(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [f"r{n}" for n in range(ROWS)],
            "age": pd.array(rng.integers(1, 90, ROWS), "Int64"),
            "fare": rng.gamma(2, 30, ROWS).round(3),
            "size": rng.normal(170, 12, ROWS).round(2),
            "sex": rng.choice(["male", "female"], ROWS, p=[0.6, 0.4]).astype(object),
            "cabin": rng.choice(["first", "second", "third"], ROWS, p=[0.1, 0.3, 0.6]),
        }
    )
    for name, share in (("age", 0.2), ("fare", 0.05), ("size", 0.1), ("sex", 0.05)):
        frame.loc[rng.random(ROWS) < share, name] = None
    return frame


def write_rows(frame: pd.DataFrame, folder: Path, files: int = 2) -> Path:
    for number, part in enumerate(np.array_split(np.arange(len(frame)), files)):
        frame.iloc[part].to_csv(folder / f"{number}.csv", index=False)
    return folder


def is_in(frame: pd.DataFrame, split: int) -> np.ndarray:
    """Which rows are in a split of the job."""
    positions = split_positions([name.encode() for name in frame["id"]], 0)
    return split_of(positions, [0.6, 0.2, 0.2]) == split


@pytest.fixture
def frame() -> pd.DataFrame:
    return make_rows()


@pytest.fixture
def data(frame: pd.DataFrame, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return write_rows(frame, tmp_path / "data")


def found_of(manifest: Manifest) -> dict[int, dict[str, Any]]:
    return {each.rule: each.found for each in manifest.surveyed}


def records_of(version: Path) -> pd.DataFrame:
    rows = [
        {
            name: value[0].decode() if isinstance(value[0], bytes) else value[0]
            for name, value in record.values.items()
        }
        for record in inspect(version, records=ROWS).records
        if record.values is not None
    ]
    return pd.DataFrame(rows).set_index("name").sort_index()


def test_what_pandas_would_do(frame: pd.DataFrame, data: Path, tmp_path: Path) -> None:
    result = run(make_job(data, JOB), tmp_path / "out")
    found = found_of(result.manifest)
    missing = frame.isna().sum()
    expected = frame.copy()
    train = expected[is_in(frame, 0)]
    ages = train.groupby("sex")["age"].median()
    assert found[0]["age"]["groups"] == {sex: round(float(age)) for sex, age in ages.items()}
    assert found[0]["age"]["all"] == round(float(train["age"].median()))
    guess = expected["sex"].map(found[0]["age"]["groups"]).fillna(found[0]["age"]["all"])
    expected["age"] = expected["age"].fillna(guess.astype("Int64"))

    assert found[1]["size"]["all"] == pytest.approx(train["size"].mean(), rel=1e-15)
    expected["size"] = expected["size"].fillna(found[1]["size"]["all"])
    assert found[2]["sex"] == {"all": train["sex"].mode()[0], "groups": {}}
    expected["sex"] = expected["sex"].fillna("male")

    train = expected[is_in(frame, 0)]
    low, high = (train["size"].mean() + sign * 2 * train["size"].std(ddof=0) for sign in (-1, 1))
    assert (found[3]["low"], found[3]["high"]) == pytest.approx((low, high), rel=1e-14)
    odd = ~expected["size"].between(low, high)
    expected = expected[~odd]

    train = expected[is_in(expected, 0)]
    first, third = np.quantile(train["fare"].dropna(), [0.25, 0.75])
    assert (found[4]["low"], found[4]["high"]) == (
        first - 1.5 * (third - first),
        third + 1.5 * (third - first),
    )
    clipped = (expected["fare"] > found[4]["high"]).sum() + (expected["fare"] < found[4]["low"]).sum()
    expected["fare"] = expected["fare"].clip(found[4]["low"], found[4]["high"]).fillna(0)

    counts = expected[is_in(expected, 0)]["cabin"].value_counts()
    weights = {name: counts.sum() / (3 * count) for name, count in counts.items()}
    assert found[6] == pytest.approx(weights, rel=1e-15)
    expected["weight"] = expected["cabin"].map(found[6])

    books = result.manifest.books["rows"]
    assert books.balanced
    assert books.dropped == {"odd sizes": int(odd.sum())}
    assert books.repaired == {
        "impute age": missing["age"],
        "impute fare": int(frame.loc[~odd, "fare"].isna().sum()),
        "impute sex": missing["sex"],
        "impute size": missing["size"],
        "outliers fare": clipped,
    }
    here = records_of(result.path)
    there = expected.set_index("id").sort_index()
    assert here.index.tolist() == there.index.tolist()
    assert here["age"].tolist() == there["age"].tolist()
    assert here["sex"].tolist() == there["sex"].tolist()
    for name in ("fare", "size", "weight"):
        assert here[name].tolist() == there[name].astype(np.float32).tolist()
    assert not verify(result.path).problems


def test_same_bytes_however_made(data: Path, tmp_path: Path) -> None:
    job = make_job(data, JOB)
    first = run(job, tmp_path / "one", options("multi_threading", 1))
    many = run(job, tmp_path / "many", options("multi_threading", 4))
    processes = run(job, tmp_path / "processes", options("multi_processing", 2))
    assert digests(first.path) == digests(many.path) == digests(processes.path)
    coarse = run(
        make_job(data, JOB, **{"partition_bytes: 2000": "partition_bytes: 1000000"}), tmp_path / "coarse"
    )
    assert found_of(coarse.manifest) == found_of(first.manifest)
    shards = [name for name in digests(first.path) if "tfrecord" in name]
    assert all(digests(coarse.path)[name] == digests(first.path)[name] for name in shards)


def test_nothing_is_learnt_from_other_splits(frame: pd.DataFrame, data: Path, tmp_path: Path) -> None:
    """Every record of validation and test is changed; the train shards stay byte for byte."""
    job = make_job(data, JOB)
    before = run(job, tmp_path / "before")
    other = ~is_in(frame, 0)
    rng = np.random.default_rng(1)
    frame.loc[other, "age"] = 99
    frame.loc[other, "fare"] = rng.normal(1e6, 1e5, other.sum())
    frame.loc[other, "size"] = 1e5 * (1 + rng.random(other.sum()))
    frame.loc[other, ["sex", "cabin"]] = ["other", "fourth"]
    write_rows(frame, data)
    after = run(make_job(data, JOB, **{"max_dead_letters: 10%": "max_dead_letters: 90%"}), tmp_path / "after")
    assert found_of(before.manifest) == found_of(after.manifest)
    was, now = digests(before.path), digests(after.path)
    train = [name for name in was if "-train." in name]
    assert len(train) == 6
    assert all(was[name] == now[name] for name in train)
    assert after.manifest.splits["test"].records == 0  # odd sizes, all of them


def test_a_changed_train_record_changes_what_is_found(
    frame: pd.DataFrame, data: Path, tmp_path: Path
) -> None:
    before = run(make_job(data, JOB), tmp_path / "out")
    row = int(np.flatnonzero(is_in(frame, 0) & frame["size"].notna())[5])
    frame.loc[row, "size"] += 1
    write_rows(frame, data)
    text = JOB.replace("1.0.0", "1.1.0")
    updated = run(make_job(data, text), tmp_path / "out")
    assert found_of(updated.manifest) != found_of(before.manifest)
    assert updated.previous is None  # every record may be another
    assert digests(updated.path) == digests(run(make_job(data, text), tmp_path / "fresh").path)


def test_updates_take_over_where_nothing_else_was_found(
    frame: pd.DataFrame, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_job(data, JOB), tmp_path / "out")
    row = int(np.flatnonzero(is_in(frame, 2))[5])
    frame.loc[row, "fare"] = 12.5
    write_rows(frame, data)
    text = JOB.replace("1.0.0", "1.1.0")
    asked = count_surveyed(monkeypatch)
    updated = run(make_job(data, text), tmp_path / "out")
    assert updated.previous == "1.0.0"
    read = updated.partitions - updated.taken_over["partitions"]
    assert 0 < read < updated.partitions / 2
    assert len(asked) == read * len(survey.passes(make_job(data, text).spec.clean))
    assert digests(updated.path) == digests(run(make_job(data, text), tmp_path / "fresh").path)


GROWING = """
name: ships
version: 1.0.0
vars: {data: unset}
sources:
  rows: {kind: csv, path: "${data}/*.csv", key: id, partition_bytes: 2000, types: {age: int64}}
clean:
  - {impute: age, with: median, by: sex}
features:
  age: {type: int64}
split: {fractions: {train: 0.6, test: 0.4}}
"""


def test_a_grown_source_asks_new_partitions_only(
    frame: pd.DataFrame, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(data, GROWING)
    first = run(job, tmp_path / "out")
    more = make_rows(seed=5).head(40)
    more["id"] = [f"new{n}" for n in range(40)]
    more.to_csv(data / "9.csv", index=False)
    text = GROWING.replace("1.0.0", "1.1.0")
    asked = count_surveyed(monkeypatch)
    second = run(make_job(data, text), tmp_path / "out")
    assert len(asked) == second.partitions - first.partitions > 0
    assert digests(second.path) == digests(run(make_job(data, text), tmp_path / "fresh").path)


def count_surveyed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The parts that are written from now on."""
    seen: list[Any] = []
    real = survey.Answers.encode
    monkeypatch.setattr(survey.Answers, "encode", lambda self: seen.append(self) or real(self))
    return seen


def test_a_survey_that_was_killed_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(data, JOB)
    whole = run(job, tmp_path / "whole")
    real, calls = survey.Answers.encode, []

    def failing(self: Any) -> bytes:
        calls.append(1)
        if len(calls) == 30:
            raise HeadraceError("Stopped here.")
        return real(self)

    monkeypatch.setattr(survey.Answers, "encode", failing)
    with pytest.raises(HeadraceError, match="Stopped here"):
        run(job, tmp_path / "out", options("multi_threading", 1))
    parts = len(list((tmp_path / "out/ships/.headrace/survey").iterdir()))
    assert parts == 29
    calls[:] = [1] * 100
    result = run(job, tmp_path / "out")
    every = len(survey.passes(job.spec.clean)) * result.partitions
    assert len(calls) == 100 + every - parts
    assert digests(result.path) == digests(whole.path)


def test_parts_go_when_their_version_has_gone(data: Path, tmp_path: Path) -> None:
    result = run(make_job(data, JOB), tmp_path / "out")
    folder = tmp_path / "out/ships/.headrace/survey"
    every = len(survey.passes(make_job(data, JOB).spec.clean)) * result.partitions
    assert len(list(folder.iterdir())) == every
    text = JOB.replace("1.0.0", "2.0.0").replace("z_score: 2", "z_score: 3")
    run(make_job(data, text), tmp_path / "out")
    both = len(list(folder.iterdir()))
    assert every < both < 2 * every  # those of the surveys before the changed rule are the same
    shutil.rmtree(result.path)
    run(make_job(data, text.replace("2.0.0", "3.0.0")), tmp_path / "out")
    assert len(list(folder.iterdir())) == every


def test_a_damaged_part_is_told(data: Path, tmp_path: Path) -> None:
    run(make_job(data, JOB), tmp_path / "out")
    part = sorted((tmp_path / "out/ships/.headrace/survey").iterdir())[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(HeadraceError, match="is damaged or gone") as caught:
        run(make_job(data, JOB.replace("1.0.0", "1.1.0")), tmp_path / "out")
    assert caught.value.where == str(part)
    part.unlink()
    run(make_job(data, JOB.replace("1.0.0", "1.1.0")), tmp_path / "out")


def test_passes() -> None:
    job = parse(JOB)
    # The median by sex and the mean of sizes are of the same records; the commonest sex too. Then they change.
    assert survey.passes(job) == [[0, 1, 2], [3], [4], [6]]
    assert survey.passes(parse(JOB.replace("action: drop", "action: clip"))) == [[0, 1, 2], [3, 4], [6]]


def parse(text: str) -> list[Any]:
    from schemas import parse_spec

    return list(parse_spec(text).clean)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{train: 0.6, validation", "{a: 0.6, validation", "which split is for training"),
        ("test: 0.2}}", "test: 0.2}, exact: true}", "only all records together tell"),
        ("test: 0.2}}", "test: 0.2}, stratify: cabin}", "only all records together tell"),
        ("test: 0.2}}", "test: 0.2}, cap: {by: cabin, most: 9}}", "only all records together tell"),
        ("test: 0.2}}", "test: 0.2}, by: cabins}", "There is no such column"),
        ("{impute: age,", "{impute: ages,", "There is no such column"),
        ("by: sex", "by: sexes", "There is no such column"),
        ("{outliers: fare, iqr: 1.5}", "{outliers: fare}", "needs one of"),
        ("{outliers: fare, iqr: 1.5}", "{outliers: fare, quantiles: [0.9, 0.1]}", "the smaller first"),
        ("with: mean", "with: middle", "'middle' is not known here"),
        ("{impute: fare, value: 0}", "{impute: fare}", "impute needs"),
        ("{weights: weight, by: cabin}", "{weights: weight, by: cabins}", "There is no such column"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(
    old: str, new: str, message: str, data: Path, tmp_path: Path
) -> None:
    text = JOB.replace("{train: 3, validation: 1, test: 1}", "1")
    with pytest.raises(HeadraceError, match=message):
        plan_job(make_job(data, text, **{old: new}), tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{outliers: size, z_score: 2", "{outliers: sex, z_score: 2", "The rule is for numbers"),
        ("{impute: size, with: mean}", "{impute: cabin, with: mean}", "The rule is for numbers"),
        ("{impute: size, with: mean}", "{impute: nothing, with: most_frequent}", "no value to go by"),
        ("{impute: fare, value: 0}", "{impute: fare, value: much}", "does not fit the column"),
    ],
)
def test_what_cannot_be_known_before(
    old: str, new: str, message: str, frame: pd.DataFrame, tmp_path: Path
) -> None:
    frame["nothing"] = None
    write_rows(frame, tmp_path)
    with pytest.raises(HeadraceError, match=message) as caught:
        run(make_job(tmp_path, JOB, **{old: new}), tmp_path / "out")
    assert "clean, " in (caught.value.where or "")


def test_the_split_is_that_of_the_rule(frame: pd.DataFrame, tmp_path: Path) -> None:
    write_rows(frame, tmp_path)
    grouped = JOB.replace("test: 0.2}}", "test: 0.2}, by: cabin}")
    # Of the three groups one may not be in the train split, so that its class has no weight.
    grouped = grouped.replace("weight: {type: float32}", "weight: {type: float32, default: 0}")
    result = run(make_job(tmp_path, grouped), tmp_path / "out")
    assert result.manifest.surveyed
    late = grouped.replace("features:", "  - compute: {cabin: cabin || fare}\nfeatures:", 1)
    with pytest.raises(HeadraceError, match="changes what the split depends on, behind a rule"):
        run(make_job(tmp_path, late), tmp_path / "late")
    early = grouped.replace("clean:", "clean:\n  - compute: {cabin: upper(cabin)}", 1)
    assert run(make_job(tmp_path, early), tmp_path / "early").manifest.surveyed


@pytest.mark.parametrize(
    "split",
    [
        "{column: cabin, values: {train: [third], test: [first]}, otherwise: drop}",
        "{lists: {train: '${data}/train.txt', test: '${data}/test.txt'}, otherwise: drop}",
    ],
)
def test_splits_that_are_told(split: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    write_rows(frame, tmp_path)
    for name, cabin in (("train", "third"), ("test", "first")):
        (tmp_path / f"{name}.txt").write_text("\n".join(frame.loc[frame["cabin"] == cabin, "id"]) + "\n")
    text = GROWING.replace("{fractions: {train: 0.6, test: 0.4}}", split)
    first, second = (run(make_job(tmp_path, text), tmp_path / name) for name in ("one", "two"))
    ages = frame[frame["cabin"] == "third"].groupby("sex")["age"].median()
    found = found_of(first.manifest)[0]["age"]["groups"]
    assert found == {sex: round(float(age)) for sex, age in ages.items()}
    assert first.manifest.books["rows"].dropped == {"in no split": int((frame["cabin"] == "second").sum())}
    assert digests(first.path) == digests(second.path)


def test_too_many_groups(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MAX_GROUPS", 5)
    with pytest.raises(HeadraceError, match="too many different groups"):
        run(make_job(data, JOB, **{"by: sex": "by: id"}), tmp_path / "out")


def test_a_dry_run_says_that_it_cannot_know(data: Path, tmp_path: Path) -> None:
    from beam_jobs.preview import preview_lines

    job = make_job(data, JOB)
    found = preview(job, tmp_path / "out")
    assert found.surveys == 4
    assert any("the train split is read 4 times before" in line for line in preview_lines(found, "rows"))


def test_with_joins_and_a_union(frame: pd.DataFrame, tmp_path: Path) -> None:
    """What a survey sees has been joined, and comes from every source."""
    write_rows(frame.drop(columns=["fare"]), tmp_path)
    frame[["id", "fare"]].to_csv(tmp_path / "table.txt", index=False)
    text = JOB.replace(
        """clean:""",
        """  fares: {kind: csv, path: "${data}/table.txt", key: id, types: {fare: float64}}
  more: {kind: csv, path: "${data}/more.txt", key: id, types: {age: int64, size: float64}}
main: [rows, {source: more, prefix: m/}]
join:
  - {table: fares, left_on: id, right_on: id, unmatched_left: keep}
clean:""",
        1,
    ).replace("types: {age: int64, fare: float64, size: float64}", "types: {age: int64, size: float64}")
    more = make_rows(seed=3).drop(columns=["fare"]).head(300)
    more.to_csv(tmp_path / "more.txt", index=False)
    one = run(make_job(tmp_path, text), tmp_path / "one", options("multi_threading", 1))
    two = run(make_job(tmp_path, text), tmp_path / "two", options("multi_threading", 4))
    assert digests(one.path) == digests(two.path)
    more = more.merge(frame[["id", "fare"]], on="id")
    every = pd.concat([frame.assign(key=frame["id"]), more.assign(key="m/" + more["id"])])
    train = every[is_in(every.assign(id=every["key"]), 0)]
    found = found_of(one.manifest)
    assert found[1]["size"]["all"] == pytest.approx(train["size"].mean(), rel=1e-15)
    assert found[0]["age"]["groups"] == {
        k: round(float(v)) for k, v in train.groupby("sex")["age"].median().items()
    }


LINES = """
name: lines
version: 1.0.0
vars: {data: unset}
sources:
  rows:
    kind: beam
    transform: tests.sources.beam_functions:Lines
    path: "${data}/lines"
    key: id
    columns: {id: string, number: int64, words: list<string>}
    partitions: 4
clean:
  - {outliers: number, quantiles: [0.1, 0.9]}
features: {number: {type: int64}}
"""


def test_rows_of_a_transform_are_there_before_they_are_asked(tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    numbers = np.random.default_rng(0).integers(0, 1000, 300)
    (tmp_path / "lines/a.txt").write_text(
        "".join(f"k{n},word,{number}\n" for n, number in enumerate(numbers))
    )
    job = make_job(tmp_path, LINES)
    first, second = (run(job, tmp_path / name) for name in ("one", "two"))
    assert digests(first.path) == digests(second.path)
    low, high = np.quantile(numbers, [0.1, 0.9])
    assert found_of(first.manifest) == {0: {"low": low, "high": high}}
    assert first.manifest.books["rows"].repaired == {
        "outliers number": int(((numbers < low) | (numbers > high)).sum())
    }


def test_what_was_found_is_shown(data: Path, tmp_path: Path) -> None:
    first = run(make_job(data, JOB), tmp_path / "out")
    out = io.StringIO()
    print_inspection(inspect(first.path, records=0), out)
    text = out.getvalue()
    assert "Learnt from the train split" in text
    assert "impute age with median by sex" in text
    assert "rows: impute age" in text
    changed = JOB.replace("1.0.0", "2.0.0").replace("iqr: 1.5", "iqr: 2")
    second = run(make_job(data, changed), tmp_path / "out")
    fields = {change.field for change in diff(first.path, second.path).surveyed}
    assert fields == {"outliers fare.high", "outliers fare.low"}


def test_weights_of_classes() -> None:
    counts = {"a": 10, "b": 1000, "c": 1}
    rule = WeightsRule(weights="w", by="c", method="effective_number", beta=0.99)
    found = survey.class_weights(rule, counts)
    raw = {name: (1 - 0.99) / (1 - 0.99**n) for name, n in counts.items()}
    expected = {name: value * 3 / sum(raw.values()) for name, value in raw.items()}
    assert found == pytest.approx(expected, rel=1e-12)
    assert sum(found.values()) == pytest.approx(3)
    assert survey.class_weights(rule.model_copy(update={"beta": 0.0}), counts) == dict.fromkeys("abc", 1.0)
    plain = survey.class_weights(WeightsRule(weights="w", by="c"), counts)
    assert sum(plain[name] * counts[name] for name in counts) == pytest.approx(1011)


@pytest.mark.parametrize("seed", range(3))
def test_moments_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=2000) * 10.0 ** rng.integers(-300, 150, 2000)
    numbers[:6] = [0, -0.0, 5e-324, 1.7e308, -1.7e308, 1e-310]
    found = exact.moments(numbers[:900]) + exact.moments(numbers[900:])
    whole = [Fraction(number) for number in numbers.tolist()]
    assert Fraction(found.total, 1 << 1127) == sum(whole)
    assert Fraction(found.squares, 1 << 2254) == sum(number * number for number in whole)
    assert found.mean == float(sum(whole) / 2000)
    plain = exact.moments(rng.normal(5, 2, 1000))
    assert plain.count == 1000
    assert math.isfinite(plain.deviation)


def test_quantiles_are_numpys() -> None:
    rng = np.random.default_rng(7)
    numbers = np.concatenate([rng.normal(size=999), [0.0, -0.0, 5e-324, 1e300, -1e300], np.full(50, 3.5)])
    groups = rng.integers(0, 4, len(numbers))
    shares = [0, 0.1, 0.25, 0.5, 2 / 3, 0.99, 1]

    def parts() -> Any:
        for piece in np.array_split(np.arange(len(numbers)), 7):
            yield exact.Part(groups[piece], exact.keys_of(numbers[piece]), np.ones(len(piece), np.int64))

    found = exact.quantiles(parts, np.bincount(groups), shares)
    for group in range(4):
        assert found[group].tolist() == np.quantile(numbers[groups == group], shares).tolist()


def test_the_manifest_keeps_what_was_found(data: Path, tmp_path: Path) -> None:
    result = run(make_job(data, JOB), tmp_path / "out")
    text = json.loads((result.path / "manifest.json").read_text())
    assert [each["name"] for each in text["surveyed"]][:2] == [
        "impute age with median by sex",
        "impute size with mean",
    ]
