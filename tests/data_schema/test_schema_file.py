"""Schema files: what is right is read, what is wrong or hostile says where and why; inferred, exported, imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from beam_jobs.cli import main
from beam_jobs.data_schema.check import find_anomalies
from beam_jobs.data_schema.differences import drift_from, skew_between
from beam_jobs.data_schema.infer import infer_schema
from beam_jobs.data_schema.tfmd import from_pbtxt, to_pbtxt
from schemas import HeadraceError
from schemas.anomalies import read_anomalies
from schemas.data_schema import load_data_schema, parse_data_schema
from schemas.statistics import Statistics
from tests.data_schema.made import SCHEMA, feature, numbers, only, schema, statistics, top

SEED = 7

WRONG: dict[str, tuple[str, str, str | None, str | None]] = {
    # name: (schema, what, where, allowed)
    "misspelt field": (
        "features:\n  a: {type: text, valeus: [x]}",
        "There is no field 'valeus' here; did you mean 'values'?",
        "s.yaml:2, field features.a.valeus",
        "description, min_presence, min_domain_mass, drift, skew, type, values, characters, bytes",
    ),
    "a field of another type": (
        "features:\n  a: {type: float32, values: [1.5]}",
        "There is no field 'values' here.",
        "s.yaml:2, field features.a.values",
        "description, min_presence, type, min, max, max_not_finite, length, drift, skew",
    ),
    "misspelt type": (
        "features:\n  a: {type: flaot32}",
        "'flaot32' is not known here; did you mean 'float32'?",
        "s.yaml:2, field features.a",
        "'image', 'class_label', 'bool', 'int64', 'float32', 'text', 'bytes'",
    ),
    "no type": ("features: {a: {min: 1}}", "The field 'type' is missing.", "s.yaml:1, field features.a", None),
    "unknown part": (
        "features: {a: {type: bool}}\nsplit: {}",
        "There is no field 'split' here; did you mean 'splits'?",
        "s.yaml:2, field split",
        "description, splits, features",
    ),
    "no features": (
        "splits: {train: {}}",
        "The field 'features' is missing.", "s.yaml:1, field features", "Every feature, and no other.",
    ),
    "min above max": (
        "features: {a: {type: int64, min: 3, max: 2}}", "min 3 is above max 2.", "s.yaml:1, field features.a", None,
    ),
    "records": (
        "splits: {train: {min_records: 3, max_records: 2}}\nfeatures: {a: {type: bool}}",
        "min 3 is above max 2.", "s.yaml:1, field splits.train", None,
    ),
    "share above 1": (
        "features: {a: {type: text, drift: {infinity_norm: 2}}}",
        "Input should be less than or equal to 1.", "s.yaml:1, field features.a.drift.infinity_norm", None,
    ),
    "no float has a largest share of one value": (
        "features: {a: {type: float32, drift: {infinity_norm: 0.1}}}",
        "There is no field 'infinity_norm' here.", "s.yaml:1, field features.a.drift.infinity_norm", "jensen_shannon",
    ),
    "twice": (
        "features: {a: {type: text, values: [x, y, x]}}", "features.a: `values` holds 'x' twice.", "s.yaml:1", None,
    ),
    "number as text": (
        "features: {a: {type: text, values: [1]}}",
        "YAML reads this as int, not as text.", "s.yaml:1, field features.a.values.0", "text; put it in quotes",
    ),
    "a number beyond all numbers": (
        f"features: {{a: {{type: int64, max: {'9' * 400}}}}}",
        "Input should be less than or equal to 9223372036854775807.", "s.yaml:1, field features.a.max", None,
    ),
    "infinity": (
        "features: {a: {type: float32, max: .inf}}",
        "Input should be a finite number.", "s.yaml:1, field features.a.max", None,
    ),
    "alias": ("features: {a: &x {type: bool}, b: *x}", "", None, None),
    "empty": ("", "", None, "a mapping with `features` and `splits`"),
    "a list": ("- a", "", None, "a mapping with `features` and `splits`"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_place(name: str) -> None:
    text, what, where, allowed = WRONG[name]
    with pytest.raises(HeadraceError) as caught:
        parse_data_schema(text, "s.yaml")
    assert "chema file" in caught.value.what
    assert "job" not in str(caught.value)
    if what:
        assert caught.value.what == f"The schema file is not valid: {what}"
    if where is not None:
        assert caught.value.where == where
    assert caught.value.allowed == allowed


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("features: " + "[" * 60 + "]" * 60, "The schema file is nested too deeply"),
        ("{" * 20_000, "The schema file is nested too deeply|not valid YAML"),
        ("a: !!python/object/apply:os.system [x]", "The schema file is not valid YAML"),
        ("features: {a: {type: bool}, a: {type: bool}}", "The same key is written twice"),
        ("a: &a [x]\nb: *a", "A schema file must not use YAML aliases"),
        ("features: \x00", "The schema file is not valid YAML"),
        (f"features: {{a: {{type: int64, min: {'1' * 5000}}}}}", "The schema file is not valid"),
    ],
)
def test_hostile_files_are_refused(text: str, what: str) -> None:
    with pytest.raises(HeadraceError, match=what):
        parse_data_schema(text, "s.yaml")


def test_files_that_are_too_large_or_hold_too_many_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "schema.yaml"
    file.write_text(SCHEMA)
    assert load_data_schema(file) == schema()
    with pytest.raises(
        HeadraceError, match=r"There is no such schema file.*\n.*\n.*Did you mean .*schema.yaml"
    ):
        load_data_schema(tmp_path / "shema.yaml")
    with pytest.raises(HeadraceError, match=r"List should have at most 3 items|at most 100000"):
        parse_data_schema(
            "features: {a: {type: int64, values: [" + ",".join(map(str, range(100_001))) + "]}}"
        )
    monkeypatch.setattr("schemas.load._MAX_SPEC_BYTES", 5)
    with pytest.raises(HeadraceError, match="The schema file is too large"):
        load_data_schema(file)


def test_a_fingerprint_follows_what_is_expected() -> None:
    same = SCHEMA.replace("type: bool", "description: yes or no\n    type: bool").replace(
        "min_domain_mass: 0.99", "min_domain_mass: 99%"
    )
    assert parse_data_schema(same + "# words\n").fingerprint == schema().fingerprint
    assert parse_data_schema(SCHEMA.replace("max: 99", "max: 98")).fingerprint != schema().fingerprint
    assert (
        parse_data_schema(SCHEMA.replace("min_records: 500", "min_records: 1")).fingerprint
        != schema().fingerprint
    )


# --- Inferred ---


def test_an_inferred_schema_fits_what_it_was_inferred_from() -> None:
    known = statistics()
    inferred = parse_data_schema(infer_schema(known, "pond 1.0.0"))
    assert find_anomalies(inferred, known) == []
    assert drift_from(inferred, known, known, "") == []
    assert skew_between(inferred, known, ["train", "test"]) == []
    assert set(inferred.features) == set(known.splits["train"].features)
    assert inferred.splits["train"].min_records == 500


def test_an_inferred_schema_has_room_but_not_for_everything() -> None:
    inferred = parse_data_schema(infer_schema(statistics(), "pond 1.0.0"))
    rules = {name: each.model_dump(exclude_defaults=True) for name, each in inferred.features.items()}
    assert (rules["age"]["min"], rules["age"]["max"]) == (0, 149)
    assert (rules["weight"]["min"], rules["weight"]["max"]) == (0, 0.15)
    assert rules["weight"]["max_not_finite"] == 0
    assert rules["kind"]["values"] == ["city", "sea"]
    assert "values" not in rules["name"]  # a hundred, each ten times: no domain
    assert rules["name"]["characters"] == {"max": 40, "min": 0}
    assert rules["photo"]["height"] == {"min": 5, "max": 40}
    assert "channels" not in rules["photo"]  # several
    assert rules["label"]["balance"] == {"min": 0.12, "max": 0.88}
    assert rules["tags"]["min_presence"] == 0.85
    assert rules["label"]["drift"] == {"infinity_norm": 0.068}
    assert rules["weight"]["skew"] == {"jensen_shannon": 0.05}
    few = only(weight=feature("float32", values=3, numbers=numbers([1.0, 2.0, 3.0])))
    assert "drift" not in parse_data_schema(infer_schema(few, "x")).features["weight"].model_dump(
        exclude_defaults=True
    )


def test_chance_alone_is_no_drift() -> None:
    """Of 60 pairs of samples of the same distributions none drifts, whatever the size; moved ones do."""
    rng = np.random.default_rng(SEED)
    print(f"seed {SEED}")

    def sample(size: int, moved: float = 0.0) -> Statistics:
        ages = rng.integers(0, 1000, size) + int(1000 * moved)
        kinds = rng.choice(4, size, p=[0.4 + moved / 2, 0.3, 0.2 - moved / 2, 0.1])
        zeros = np.where(rng.random(size) < 0.3 - moved / 4, 0.0, rng.lognormal(moved, 1, size))
        return only(
            weight=feature("float32", values=size, numbers=numbers(rng.normal(moved, 1, size))),
            photo=feature("float32", values=size, numbers=numbers(zeros)),
            age=feature("int64", values=size, numbers=numbers(ages), top=top({int(ages[0]): 1}, error=1)),
            kind=feature("text", values=size, top=top({f"k{n}": int((kinds == n).sum()) for n in range(4)})),
        )

    for size in (60, 200, 1000, 20_000):
        for _ in range(15):
            before = sample(size)
            inferred = parse_data_schema(infer_schema(before, "x"))
            assert drift_from(inferred, sample(size), before, "") == []
    before = sample(20_000)
    inferred = parse_data_schema(infer_schema(before, "x"))
    moved = drift_from(inferred, sample(20_000, 0.2), before, "")
    assert {each.feature for each in moved} >= {"kind", "age"}


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (1990, 2020, True, (1975, 2035)),
        (-5, 7, True, (-11, 13)),
        (3, 3, True, (3, 3)),
        (-(2**63), 2**63 - 1, True, (None, None)),
        (0.25, 0.75, False, (0, 1)),
        (-1e30, 1e38, False, (-6e37, 1.6e38)),
    ],
)
def test_bounds_are_half_as_wide_again(
    low: float, high: float, whole: bool, expected: tuple[float, float]
) -> None:
    values = numbers([low, high])
    values = values.model_copy(update={"min": low, "max": high})
    kind = "int64" if whole else "float32"
    known = only(age=feature(kind, numbers=values, top=top({}, error=1) if whole else None))
    inferred = parse_data_schema(infer_schema(known, "x"))
    rules = inferred.features["age"].model_dump()
    assert (rules["min"], rules["max"]) == expected
    assert find_anomalies(inferred, known) == []


def test_hostile_names_and_values_are_written_as_they_are() -> None:
    odd = ["a: b", "# no comment", "line\nend", "'", '"', "\x00\x1b[31m", "yes", "1", "ünï", "{}", " x "]
    known = only(kind=feature("text", top=top(dict.fromkeys(odd, 90)), values=990))
    text = infer_schema(known, "a\nfeatures: {}")
    assert sorted(parse_data_schema(text).features["kind"].model_dump()["values"]) == sorted(odd)
    label = only(label=feature("class_label", labels=dict.fromkeys(odd, 90)))
    assert parse_data_schema(infer_schema(label, "x")).features["label"].model_dump()["values"] == odd


# --- tensorflow_metadata ---


def test_a_schema_travels_through_tensorflow_metadata_and_back() -> None:
    exported = to_pbtxt(schema())
    assert parse_data_schema(from_pbtxt(exported, "schema.pbtxt")) == schema()
    inferred = parse_data_schema(infer_schema(statistics(), "x"))
    assert parse_data_schema(from_pbtxt(to_pbtxt(inferred), "schema.pbtxt")) == inferred


def test_tools_of_tfx_find_what_they_know() -> None:
    found = text_format.Parse(to_pbtxt(schema()), schema_pb2.Schema())
    by_name = {each.name: each for each in found.feature}
    assert by_name["kind"].string_domain.value == ["city", "sea"]
    assert by_name["kind"].distribution_constraints.min_domain_mass == 1
    assert (by_name["age"].int_domain.min, by_name["age"].int_domain.max) == (0, 99)
    assert by_name["weight"].float_domain.disallow_nan
    assert by_name["weight"].drift_comparator.jensen_shannon_divergence.threshold == 0.05
    assert by_name["label"].skew_comparator.infinity_norm.threshold == 0.1
    assert (by_name["parts"].value_count.min, by_name["parts"].value_count.max) == (1, 5)
    assert by_name["tags"].presence.min_fraction == 0.8
    assert by_name["photo"].image_domain.max_image_byte_size == 900
    assert found.dataset_constraints.min_examples_count == 500


def test_what_another_tool_has_changed_counts() -> None:
    changed = to_pbtxt(schema()).replace("max: 99", "max: 120").replace('value: "sea"', 'value: "land"')
    rules = parse_data_schema(from_pbtxt(changed, "x")).features
    assert rules["age"].model_dump()["max"] == 120
    assert rules["kind"].model_dump()["values"] == ["city", "land"]
    assert rules["photo"] == schema().features["photo"]


def test_schemas_of_tfx_and_of_our_versions_are_read(tmp_path: Path) -> None:
    text = """
        feature { name: "fare" type: FLOAT presence { min_fraction: 0.5 min_count: 1 } float_domain { min: 0.1 } }
        feature { name: "company" type: BYTES domain: "company" drift_comparator { infinity_norm { threshold: 0.01 } } }
        feature { name: "hour" type: INT int_domain { min: 0 max: 23 is_categorical: true } }
        feature { name: "tips" type: INT bool_domain {} }
        feature { name: "kind" type: INT int_domain { max: 1 is_categorical: true }
                  annotation { comment: "names: [\\"a\\", \\"b\\"]" } }
        string_domain { name: "company" value: "A" value: "B" }
    """
    rules = {
        name: each.model_dump(exclude_defaults=True)
        for name, each in parse_data_schema(from_pbtxt(text, "x")).features.items()
    }
    assert rules == {
        "fare": {"type": "float32", "min_presence": 0.5, "min": 0.1},
        "company": {"type": "text", "values": ["A", "B"], "drift": {"infinity_norm": 0.01}},
        "hour": {"type": "int64", "min": 0, "max": 23},
        "tips": {"type": "bool"},
        "kind": {"type": "class_label", "values": ["a", "b"]},
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("feature { nme: 'x' }", "The file is no Schema of tensorflow_metadata"),
        ("{" * 5000, "The file is no Schema of tensorflow_metadata"),
        ('feature { name: "x" type: STRUCT }', "A feature is of a type that no feature of Headrace has"),
        ('feature { name: "x" }', "A feature is of a type that no feature of Headrace has"),
        ('feature { name: "a/b" type: INT }', "The schema file is not valid: String should match pattern"),
        ("", "The schema file is not valid"),
        (
            'feature { name: "x" type: INT annotation { comment: "headrace: {\\"evil\\": 1}" } }',
            "no field 'evil'",
        ),
    ],
)
def test_what_is_no_schema_of_tensorflow_metadata(text: str, what: str) -> None:
    with pytest.raises(HeadraceError, match=what):
        from_pbtxt(text, "x.pbtxt")


# --- The command ---


def test_the_command_writes_compares_and_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad = tmp_path / "statistics.json", tmp_path / "bad.json"
    good.write_text(statistics().to_json())
    bad.write_text(
        statistics(age=feature("int64", numbers=numbers([-500, 5]), top=top({-500: 500, 5: 500}))).to_json()
    )
    assert main(["schema", "infer", str(good)]) == 0
    assert capsys.readouterr().out == "Wrote schema.yaml.\n"
    assert main(["schema", "infer", str(good)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["schema", "infer", str(good), "--force"]) == 0
    assert main(["schema", "check", str(good), "--schema", "schema.yaml", "--against", str(good)]) == 0
    assert "statistics.json is as the schema says." in capsys.readouterr().out
    assert main(["schema", "check", str(bad), "--schema", "schema.yaml"]) == 1
    told = capsys.readouterr().out
    assert "bad.json: 1 error, 0 warnings." in told
    assert (
        "below_min  age (train)\n  Values are too small.\n  found:   minimum -500\n  allowed: min 0" in told
    )
    assert (
        main(
            [
                "schema",
                "check",
                str(bad),
                "--schema",
                "schema.yaml",
                "--against",
                str(good),
                "--skew",
                "train",
                "test",
                "--json",
            ]
        )
        == 1
    )
    told = capsys.readouterr().out
    assert '"kind": "skew"' in told
    assert '"kind": "drift"' in told
    assert main(["schema", "check", str(bad), "--schema", "schema.yaml", "--skew", "train", "dev"]) == 1
    assert "There is no such split to compare" in capsys.readouterr().err
    assert main(["schema", "export", "schema.yaml"]) == 0
    assert main(["schema", "import", "schema.pbtxt", "--output", "back.yaml"]) == 0
    assert load_data_schema("back.yaml") == load_data_schema("schema.yaml")
    capsys.readouterr()
    assert main(["schema", "check", str(tmp_path / "none"), "--schema", "schema.yaml", "--json"]) == 1
    assert "There is no data set here" in capsys.readouterr().out
    assert main(["schema"]) == 0
    assert '"JobSpec"' in capsys.readouterr().out


def test_a_job_is_validated_with_its_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(
        "name: a\nversion: 1.0.0\nvars: {here: .}\nsources: {rows: {kind: csv, path: x.csv, key: id}}\n"
        "features: {x: {type: bool}}\nschema: {file: '${here}/schema.yaml'}\n"
    )
    (tmp_path / "schema.yaml").write_text("features: {x: {type: bool}}")
    assert main(["validate", "job.yaml"]) == 0
    (tmp_path / "schema.yaml").write_text("features: {x: {type: boll}}")
    assert main(["validate", "job.yaml"]) == 1
    assert "'boll' is not known here; did you mean 'bool'?" in capsys.readouterr().err


def test_damaged_anomalies_say_so(tmp_path: Path) -> None:
    for data in (b"", b"{}", b"[" * 10_000, b'{"schema_fingerprint": "x", "anomalies": [{"kind": "odd"}]}'):
        (tmp_path / "anomalies.json").write_bytes(data)
        with pytest.raises(HeadraceError, match="A file of anomalies is damaged"):
            read_anomalies(tmp_path / "anomalies.json")
    with pytest.raises(HeadraceError, match="The anomalies cannot be read"):
        read_anomalies(tmp_path / "none")
