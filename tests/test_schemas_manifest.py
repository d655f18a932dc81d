"""The manifest: what is written is read, and what is foreign, damaged or hostile is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_dataset import make

from schemas import Books, HeadraceError, Manifest, read_manifest
from schemas.hashing import fingerprint
from schemas.manifest import all_files, confined, is_sealed, parse_manifest
from schemas.naming import MANIFEST, index_name, labels_name, shard_name


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make(tmp_path_factory.mktemp("d") / "pond", records=8)


def changed(manifest: Manifest, **fields: Any) -> str:
    return json.dumps({**json.loads(manifest.to_json()), **fields})


def test_a_manifest_is_read_as_it_was_written(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(manifest.to_json(), "utf-8")
    found = read_manifest(tmp_path)
    assert found == manifest
    assert found.to_json() == manifest.to_json()


def test_its_seal_is_the_hash_of_all_the_rest(manifest: Manifest) -> None:
    seal = json.loads(manifest.to_json())["seal"]
    assert json.loads(manifest.model_copy().to_json())["seal"] == seal
    for change in ({"description": "x"}, {"headrace_version": "9"}, {"dead_letters": {}}):
        assert json.loads(manifest.model_copy(update=change).to_json())["seal"] != seal


def test_a_seal_fits_what_was_written_and_nothing_else(manifest: Manifest) -> None:
    text = manifest.to_json()
    assert is_sealed(text)
    data = json.loads(text)
    for other in (
        text[:-1],
        text.replace("pond", "bond", 1),
        text.replace('"pond"', '"pond" ', 1),
        json.dumps({**data, "seal": "0" * 32}, indent=1, ensure_ascii=False) + "\n",
        "{}",
        "[]",
        "{",
    ):
        assert not is_sealed(other)


def test_a_seal_fits_a_manifest_of_another_version_with_more_fields(manifest: Manifest) -> None:
    data = json.loads(manifest.to_json())
    del data["seal"]
    data["novelty"] = {"x": 1.5}
    sealed = {**data, "seal": fingerprint(data)}
    assert is_sealed(json.dumps(sealed, indent=1, ensure_ascii=False) + "\n")


def test_order_of_features_is_kept(manifest: Manifest) -> None:
    assert list(parse_manifest(manifest.to_json(), "m").features) == list(manifest.features)


def test_all_files_are_shards_indexes_and_others(manifest: Manifest) -> None:
    paths = [entry.path for entry in all_files(manifest)]
    assert len(paths) == len(set(paths)) == 5 + 5 + 5
    assert "dead_letters/dead_letters.parquet" in paths
    assert MANIFEST not in paths


@pytest.mark.parametrize(
    ("books", "balanced"),
    [
        (Books(), True),
        (Books(read=10, written=4, dead_lettered=3, dropped={"a": 1, "b": 1}, duplicates=1), True),
        (Books(read=10, written=9), False),
        (Books(read=9, written=10), False),
    ],
)
def test_books_balance_or_not(books: Books, balanced: bool) -> None:
    assert books.balanced is balanced


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(manifest: Manifest, version: object) -> None:
    with pytest.raises(HeadraceError, match="written by another version of Headrace") as caught:
        parse_manifest(changed(manifest, format_version=version), "m")
    assert caught.value.value == f"format_version {version!r}"
    assert caught.value.allowed == "format_version 1"
    assert "prepare the data set again" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The manifest is not JSON"),
        ("{", "The manifest is not JSON"),
        ("[" * 100_000, "The manifest is not JSON"),
        ("9" * 10_000, "The manifest is not JSON"),
        ("[]", "not a Headrace manifest"),
        ("{}", "not a Headrace manifest"),
        ('{"format": "other", "format_version": 1}', "not a Headrace manifest"),
        (
            '{"format": "headrace", "format_version": 1}',
            r"damaged: Field required.\n.*field headrace_version",
        ),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, message: str) -> None:
    with pytest.raises(HeadraceError, match=message):
        parse_manifest(text, "m")


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("records", -1, "records"),
        ("bytes", "many", "bytes"),
        ("bytes", 2**63, "bytes"),
        ("bytes", 1.5, "bytes"),
        ("sha256", "abc", "sha256"),
        ("sha256", "A" * 64, "sha256"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_damaged_field_is_named(manifest: Manifest, field: str, value: object, where: str) -> None:
    splits = json.loads(manifest.to_json())["splits"]
    splits["train"]["shards"][2][field] = value
    with pytest.raises(
        HeadraceError, match=f"The manifest is damaged.*\n.*field splits.train.shards.2.{where}"
    ):
        parse_manifest(changed(manifest, splits=splits), "m")


HOSTILE = [
    "../secret",
    "a/../../secret",
    "/etc/passwd",
    "a//b",
    "./a",
    "a/.",
    "a/",
    "",
    "..",
    "a\\..\\b",
    "a\0b",
]


@pytest.mark.parametrize("path", HOSTILE)
@pytest.mark.parametrize("place", ["shard", "index", "file"])
def test_no_file_outside_of_the_data_set_is_named(manifest: Manifest, path: str, place: str) -> None:
    data = json.loads(manifest.to_json())
    shard = data["splits"]["train"]["shards"][0]
    {"shard": shard, "index": shard["index"], "file": data["files"][0]}[place]["path"] = path
    with pytest.raises(HeadraceError, match="The manifest names a file outside the data set"):
        parse_manifest(json.dumps(data), "m")


@given(st.text(max_size=30))
def test_a_confined_path_stays_below(path: str) -> None:
    root = Path("/data/set")
    try:
        kept = confined(path, "m")
    except HeadraceError:
        return
    assert kept == path
    assert ".." not in Path(path).parts
    assert (root / path).is_relative_to(root)
    assert root / path != root


def test_a_missing_manifest_points_to_versions_below(manifest: Manifest, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        (tmp_path / "pond" / version).mkdir(parents=True)
        (tmp_path / "pond" / version / MANIFEST).write_text(manifest.to_json(), "utf-8")
    for directory in (tmp_path, tmp_path / "pond"):
        with pytest.raises(HeadraceError, match="There is no data set here") as caught:
            read_manifest(directory)
        assert caught.value.hint == f"Did you mean {tmp_path / 'pond' / '1.1.0'}?"
    with pytest.raises(HeadraceError, match="Give the directory of one version"):
        read_manifest(tmp_path / "nowhere")


def test_a_manifest_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(HeadraceError, match=r"The manifest cannot be read.*\n.*\n.*codec can't decode"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(HeadraceError, match="The manifest cannot be read"):
        read_manifest(tmp_path)


def test_an_enormous_manifest_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / MANIFEST).write_text(" " * 100)
    monkeypatch.setattr("schemas.manifest._MAX_MANIFEST_BYTES", 99)
    with pytest.raises(HeadraceError, match="A file is larger than it can be"):
        read_manifest(tmp_path)


def test_names_are_those_that_tfds_looks_for() -> None:
    assert shard_name("elpv", "train", 3, 16) == "elpv-train.tfrecord-00003-of-00016"
    assert (
        index_name("elpv-train.tfrecord-00003-of-00016") == "index/elpv-train.tfrecord-00003-of-00016.arrow"
    )
    assert labels_name("label") == "label.labels.txt"
