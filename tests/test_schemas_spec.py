"""Job files: what is right is read, what is wrong names its place, the value and what is allowed."""

from __future__ import annotations

import contextlib
import pickle
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from schemas import HeadraceError, job_schema, load_spec, parse_spec
from schemas.errors import WireError, error_in_text, shorten
from schemas.load import fill_variables
from schemas.sources import Source
from schemas.units import format_bytes, parse_bytes, parse_share

JOBS = sorted((Path(__file__).parents[1] / "beam_jobs" / "jobs").glob("*.yaml"))

JOB = """\
name: pond
version: 1.0.0
sources:
  photos: {kind: image_folder, path: "${data}/photos"}
  labels: {kind: csv, path: labels.csv, key: file}
join:
  - {table: labels, left_on: path, right_on: file}
features:
  image: {type: image}
  label: {type: class_label, names: [fish, reed]}
  size:
    type: float32
    min: 0
label: label
"""


def source_kind(model: Any) -> str:
    kind: str = typing.get_args(model.model_fields["kind"].annotation)[0]
    return kind


def refused(text: str) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        parse_spec(text, "job.yaml")
    return caught.value


def with_feature(text: str) -> str:
    return f"{JOB}".replace("label: label\n", f"  extra: {text}\nlabel: label\n")


def test_a_job_is_read() -> None:
    spec = parse_spec(JOB)
    assert (spec.name, spec.version, spec.main_names) == ("pond", "1.0.0", ["photos"])
    assert list(spec.features) == ["image", "label", "size"]
    assert spec.split.fractions == {"train": 1.0}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_example_jobs_are_valid(path: Path) -> None:
    assert load_spec(path).features


def test_the_page_of_sources_shows_every_kind() -> None:
    page = Path(__file__).parents[1].joinpath("docs/sources.md").read_text("utf-8")
    shown = set()
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        for text in re.split(r"\n(?=\w)", block):
            (options,) = yaml.safe_load(text).values()
            shown.add(TypeAdapter(Source).validate_python(options).kind)
    assert shown == {source_kind(model) for model in typing.get_args(typing.get_args(Source)[0])}


def test_a_fingerprint_follows_the_job_and_not_where_things_are() -> None:
    spec = parse_spec(JOB)
    assert parse_spec(JOB).fingerprint == spec.fingerprint
    assert parse_spec(JOB + "vars: {data: /mnt/x}").fingerprint == spec.fingerprint
    assert parse_spec(JOB + "seed: 1").fingerprint != spec.fingerprint
    # A default written out is the same job.
    assert parse_spec(JOB + "seed: 0").fingerprint == spec.fingerprint


WRONG: dict[str, tuple[str, str, str, str | None, str | None]] = {
    # name: (job, what, where, value, allowed)
    "misspelt field": (
        JOB.replace("names:", "nmaes:"),
        "There is no field 'nmaes' here; did you mean 'names'?",
        "job.yaml:10, field features.label.nmaes",
        "nmaes",
        "from, description, type, names, default",
    ),
    "misspelt type": (
        JOB.replace("type: float32", "type: flaot32"),
        "'flaot32' is not known here; did you mean 'float32'?",
        "job.yaml:11, field features.size",
        "flaot32",
        "'image', 'class_label', 'int64', 'float32', 'bool', 'text', 'bytes'",
    ),
    "misspelt kind": (
        JOB.replace("kind: csv", "kind: cvs"),
        "'cvs' is not known here; did you mean 'csv'?",
        "job.yaml:5, field sources.labels",
        "cvs",
        ", ".join(repr(source_kind(model)) for model in typing.get_args(typing.get_args(Source)[0])),
    ),
    "missing type": (
        with_feature("{from: x}"),
        "The field 'type' is missing.",
        "job.yaml:14, field features.extra",
        None,
        None,
    ),
    "missing field": (
        JOB.replace("name: pond\n", ""),
        "The field 'name' is missing.",
        "job.yaml:1, field name",
        None,
        None,
    ),
    "a number where text belongs": (
        JOB.replace("version: 1.0.0", "version: 1.0"),
        "YAML reads this as float, not as text.",
        "job.yaml:2, field version",
        "1.0",
        "text; put it in quotes",
    ),
    "yes is true in YAML": (
        JOB.replace("[fish, reed]", "[fish, yes]"),
        "YAML reads this as bool, not as text",
        "job.yaml:10, field features.label.names.1",
        "True",
        "text; put it in quotes",
    ),
    "a field of a feature named as its type": (
        JOB.replace("image: {type: image}", "image: {type: image, check: maybe}"),
        "'maybe' is not known here.",
        "job.yaml:9, field features.image.check",
        "maybe",
        "'decode' or 'header'",
    ),
    "a label that is no feature": (
        JOB.replace("label: label\n", "label: lable\n"),
        "label: no feature is called 'lable'; there are ['image', 'label', 'size'].",
        "job.yaml:1",
        None,
        None,
    ),
    "fractions": (
        JOB + "split: {fractions: {train: 80%, test: 30%}}",
        "fractions must add up to 1, not 1.1.",
        "job.yaml:15, field split",
        None,
        None,
    ),
    "a split that TFDS takes for every split": (
        JOB + "split: {fractions: {all: 1}}",
        "no split may be called 'all'",
        "job.yaml:15, field split",
        None,
        None,
    ),
    "a share": (
        JOB + "write: {max_dead_letters: lots}",
        "expected a share such as 1% or 0.01.",
        "job.yaml:15, field write.max_dead_letters",
        "lots",
        None,
    ),
    "a size": (
        JOB + "write:\n  shard_size: 64 parsecs",
        "expected a size such as 64MiB or 500MB.",
        "job.yaml:16, field write.shard_size",
        "64 parsecs",
        None,
    ),
    "a rule": (
        JOB + "clean: [{mapp: a.b:c}]",
        "a rule needs its verb: `map: module:function`, `drop: name`, `where: expression`, ",
        "job.yaml:15, field clean.0",
        None,
        None,
    ),
    "a format that cannot be decoded": (
        with_feature("{type: image, formats: [webp]}"),
        "TensorFlow cannot decode webp to one image; add `encode: {format: jpeg}` to convert.",
        "job.yaml:14, field features.extra",
        None,
        None,
    ),
    "channels that cannot be decoded": (
        with_feature("{type: image, formats: [jpeg], shape: [null, null, 4]}"),
        "TensorFlow decodes jpeg to 1 or 3 channels, not 4",
        "job.yaml:14, field features.extra",
        None,
        None,
    ),
    "a joined table that is no source": (
        JOB.replace("table: labels", "table: lables"),
        "join: no source is called 'lables'",
        "job.yaml:1",
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_job_names_place_value_and_what_is_allowed(case: str) -> None:
    text, what, where, value, allowed = WRONG[case]
    error = refused(text)
    assert error.what.startswith(f"The job file is not valid: {what}")
    assert error.where == where
    if value is not None:
        assert error.value == value
    if allowed is not None:
        assert error.allowed == allowed


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{type: int64, min: 5, max: 2}", "min 5 is above max 2"),
        ("{type: float32, min: 0, max: 1, default: 2}", "default 2.0 is outside of min and max"),
        ("{type: int64, max: 99999999999999999999}", "less than or equal to 9223372036854775807"),
        ("{type: float32, max: 1.0e+300}", "less than or equal to 34028234663852886"),
        ("{type: float32, max: .inf}", "Input should be a finite number"),
        ("{type: int64, min: 1.5}", "valid integer"),
        ("{type: int64, shape: [0]}", "greater than or equal to 1"),
        ("{type: int64, shape: [2, 2]}", "at most 1 item"),
        ("{type: image, shape: [0, 5, 3]}", "greater than or equal to 1"),
        ("{type: image, shape: [5, 5, 2]}", "2 is not known here"),
        ("{type: image, encode: {size: [0, 5]}}", "greater than or equal to 1"),
        ("{type: image, formats: []}", "at least 1 item"),
        ("{type: text, vocabulary: []}", "at least 1 item"),
        ("{type: text, vocabulary: [a], default: b}", "default 'b' is not in vocabulary"),
        ("{type: text, max_bytes: 2, default: üü}", "default 'üü' is longer than max_bytes"),
        ("{type: class_label, names: []}", "names must not be empty"),
        ("{type: class_label, names: [a, b, a]}", r"names must be unique; ['a'] occur more than once"),
        ("{type: class_label, names: [a], default: b}", "default 'b' is not one of names"),
        ("{type: float32, from: [a, b], shape: [3]}", "shape must be [2], one value for each column"),
        ("{type: text, from: [a, b]}", "valid string"),
    ],
)
def test_a_feature_that_cannot_be_is_refused(text: str, what: str) -> None:
    error = refused(with_feature(text))
    assert what in error.what
    assert str(error.where).startswith("job.yaml:14, field features.extra")


def test_columns_make_a_vector() -> None:
    spec = parse_spec(with_feature("{type: float32, from: [a, b, c]}"))
    assert getattr(spec.features["extra"], "shape", None) == (3,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (JOB + "name: other", r"The same key is written twice.\n.*job.yaml, line 15\n.*name"),
        (JOB.replace("min: 0", "min: 0\n    min: 1"), r"The same key is written twice.\n.*line 14"),
        (JOB + "clean: &a []", None),
        (JOB + "vars: &a {x: y}\nclean: *a", r"must not use YAML aliases.\n.*job.yaml, line 16"),
        ("? [a, b]\n: 1", r"A key must be one word, not a list or a mapping.\n.*job.yaml, line 1"),
        ("[" * 100_000, r"nested too deeply.\n.*job.yaml"),
        ("- " * 20_000, r"nested too deeply.\n.*job.yaml"),
        ("a: [", r"not valid YAML.\n.*job.yaml:1"),
        ("a: b\n\tc: d", r"not valid YAML.\n.*job.yaml:2"),
        (
            "a: !!python/object:os.system {}",
            r"not valid YAML.\n.*job.yaml:1\n.*could not determine a constructor",
        ),
        ("a: \0", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: 1\n---\nb: 2", r"not valid YAML.\n.*job.yaml:2\n.*but found another document"),
        ("", "The job file holds no job"),
        ("- a", "The job file holds no job"),
        ("just words", "The job file holds no job"),
    ],
)
def test_yaml_that_surprises_is_refused(text: str, message: str | None) -> None:
    if message is None:
        parse_spec(text)
        return
    with pytest.raises(HeadraceError, match=message):
        parse_spec(text, "job.yaml")


@given(st.text(max_size=200))
def test_any_text_is_a_job_or_an_error(text: str) -> None:
    with pytest.raises(HeadraceError):
        parse_spec(text)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [*parse_spec(JOB).model_dump(), "surprise"]


@given(st.dictionaries(st.sampled_from(FIELDS), TREES, min_size=1, max_size=3))
def test_a_job_with_anything_anywhere_is_a_job_or_an_error(changes: dict[str, Any]) -> None:
    job = {**yaml.safe_load(JOB), **changes}
    with contextlib.suppress(HeadraceError):
        parse_spec(yaml.safe_dump(job, allow_unicode=True))


def test_files_that_cannot_be_read_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elpv.yaml").write_text(JOB)
    assert load_spec(tmp_path / "elpv.yaml").name == "pond"
    with pytest.raises(HeadraceError, match=r"There is no such job file.*\n.*\n.*Did you mean .*elpv.yaml\?"):
        load_spec(tmp_path / "elvp.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xfc")
    with pytest.raises(HeadraceError, match="The job file cannot be read"):
        load_spec(tmp_path / "latin.yaml")
    with pytest.raises(HeadraceError, match="The job file cannot be read"):
        load_spec(tmp_path)
    monkeypatch.setattr("schemas.load._MAX_SPEC_BYTES", 5)
    with pytest.raises(HeadraceError, match="The job file is too large"):
        load_spec(tmp_path / "elpv.yaml")


def test_variables_are_filled_in_and_missed() -> None:
    assert fill_variables("${data}/x/${data}", {"data": "/d"}, "f") == "/d/x//d"
    assert fill_variables("no $data {x} $", {}, "f") == "no $data {x} $"
    # What a variable holds is not filled in again.
    assert fill_variables("${a}", {"a": "${b}", "b": "x"}, "f") == "${b}"
    with pytest.raises(HeadraceError, match=r"The variable \$\{dta\} has no value") as caught:
        fill_variables("${dta}/x", {"data": "/d", "other": ""}, "sources.s.path")
    assert (caught.value.where, caught.value.allowed) == ("sources.s.path", "data, other")
    assert "did you mean 'data'?" in str(caught.value.hint)


# --- the JSON Schema for editors ---


def test_the_json_schema_is_valid_and_accepts_what_we_accept() -> None:
    import jsonschema

    schema = job_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for text in [JOB, *(path.read_text("utf-8") for path in JOBS)]:
        validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize("case", ["misspelt field", "misspelt type", "misspelt kind", "missing field"])
def test_the_json_schema_refuses_what_we_refuse(case: str) -> None:
    import jsonschema

    with pytest.raises(jsonschema.ValidationError, match=r"valid under|not allowed|required|is not"):
        jsonschema.Draft202012Validator(job_schema()).validate(yaml.safe_load(WRONG[case][0]))


# --- errors ---

ERROR = HeadraceError("It failed.", where="here", value={"a": 1}, allowed="b", hint="try\nagain")


def test_an_error_reads_well() -> None:
    assert (
        str(ERROR) == "It failed.\n  where:   here\n  value:   {'a': 1}\n  allowed: b\n  hint:    try\nagain"
    )
    assert str(HeadraceError("It failed.")) == "It failed."
    assert HeadraceError("x", value="v" * 500).value == "v" * 199 + "…"


def test_an_error_crosses_processes() -> None:
    again = pickle.loads(pickle.dumps(ERROR))
    assert (type(again), again.to_json()) == (HeadraceError, ERROR.to_json())


@pytest.mark.parametrize("around", ["{}", "RuntimeError: {} [while running 'Read {{x}}']", "a\n  {} }}\nb"])
def test_an_error_is_found_in_the_text_of_a_runner(around: str) -> None:
    found = error_in_text(around.format(WireError(ERROR)))
    assert found is not None
    assert found.to_json() == ERROR.to_json()


def test_the_last_error_is_the_one() -> None:
    first, last = WireError(HeadraceError("first")), WireError(HeadraceError("last"))
    found = error_in_text(f"{first}\n{last}\nheadrace-error:{{broken")
    assert found is not None
    assert found.what == "last"
    assert error_in_text("no error here") is None
    assert error_in_text("headrace-error:[1]") is None


def test_long_and_broken_texts_are_shortened() -> None:
    assert shorten("a\nb\r") == "a\\nb\\r"
    assert shorten("x" * 10, 5) == "xxxx…"


# --- units ---


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("1.5 GB", 1_500_000_000), ("10", 10), (" 2 kb ", 2000), ("3B", 3), (7, 7)],
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1 TBx", "1e3", "9" * 400 + "GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 64MiB or 500MB"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.5 %", 0.005), (0.2, 0.2)])
def test_shares_are_read(text: object, share: float) -> None:
    assert parse_share(text) == share


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a share such as 1% or"):
        parse_share("half")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (558_000_000, "558.0 MB"), (3e12, "3.0 TB")],
)
def test_sizes_are_written_for_people(size: float, text: str) -> None:
    assert format_bytes(size) == text


def with_transform(text: str) -> str:
    return f"{JOB}transform: {text}\n"


def test_a_transform_is_a_name_or_options() -> None:
    short = parse_spec(with_transform("pond.prepare:preprocessing_fn")).transforming
    long = parse_spec(with_transform("{function: 'pond.prepare:preprocessing_fn'}")).transforming
    assert short is not None
    assert short == long
    assert (short.function, short.split, short.materialize) == (
        "pond.prepare:preprocessing_fn",
        "train",
        False,
    )
    assert parse_spec(JOB).transforming is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{split: train}", "needs either `function` or `features`"),
        ("{function: 'a:b', features: {size: {type: z_score}}}", "needs either"),
        ("{function: 'a:b', split: holdout}", "there is no split 'holdout'"),
        ("{features: {size: {type: zscore}}}", "did you mean 'z_score'"),
        ("{features: {size: {type: bucketize}}}", "'buckets' is missing"),
        ("{features: {x: {type: z_score}}}", "no feature is called 'x'"),
        ("{features: {size: {type: vocabulary}}}", "vocabulary makes nothing of float32"),
        ("{features: {image: {type: z_score}}}", "z_score makes nothing of image"),
        ("{features: {label: {type: one_hot}}}", "one_hot needs top_k"),
        ("{features: {size: {type: min_max, min: 2, max: 1}}}", "min 2.0 is not below max 1.0"),
        ("prepare", "should match pattern"),
    ],
)
def test_a_transform_that_cannot_be_is_refused(text: str, message: str) -> None:
    assert message in str(refused(with_transform(text)))
