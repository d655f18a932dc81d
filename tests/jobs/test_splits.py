"""Every kind of split, from job to shards: who goes where, same bytes, updates, leaks, and the guide's examples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs import run
from beam_jobs.cli import main
from beam_jobs.diff import Change, diff
from beam_jobs.diff_text import blocks
from beam_jobs.inspect_dataset import inspect
from beam_jobs.job import Result
from beam_jobs.preview import preview
from beam_jobs.tables import Facts
from beam_jobs.verify import verify
from schemas import HeadraceError, JobSpec
from tests.jobs.small_job import digests, encoded_image, make_job, options

JOB = """
name: scans
version: 1.0.0
vars: {data: unset}
sources:
  scans: {kind: csv, path: "${data}/scans.csv", key: id, partition_bytes: 3000}
features:
  id: {type: text}
  patient: {type: text, default: ""}
  label: {type: text}
  x: {type: int64}
write: {shards: 2, max_dead_letters: 10%}
"""
Row = dict[str, Any]


def make_rows(count: int = 600, seed: int = 5) -> list[Row]:
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 57, count)
    return [
        {
            "id": f"s{n}",
            "patient": f"p{patients[n]}",
            "site": f"site{patients[n]}",
            "label": "abc"[int(rng.choice(3, p=[0.7, 0.25, 0.05]))],
            "taken_at": f"20{23 + n % 2}-{1 + n % 12:02}-{1 + n % 28:02}T{n % 24:02}:30",
            "subset": ["train", "extra", "val", "test", "other"][n % 5],
            "x": n,
        }
        for n in range(count)
    ]


def write_rows(data: Path, rows: list[Row]) -> None:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (data / "scans.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder, make_rows())
    (folder / "validation.txt").write_text("".join(f"s{n}\n" for n in range(0, 600, 7)))
    (folder / "test.csv").write_text("id,why\n" + "".join(f"s{n},x\n" for n in range(1, 600, 7)))
    return folder


def held(result: Result) -> dict[str, dict[str, Row]]:
    """The records of each split, by key."""
    found: dict[str, dict[str, Row]] = {name: {} for name in result.manifest.splits}
    for record in inspect(Path(result.path), records=100_000).records:
        assert record.values is not None
        values = {
            name: value[0].decode() if isinstance(value[0], bytes) else value[0]
            for name, value in record.values.items()
        }
        found[record.split][values["id"]] = values
    return found


def sizes(result: Result) -> list[int]:
    return [split.records for split in result.manifest.splits.values()]


def guide() -> Iterator[Any]:
    """The `split:` blocks of the guide, under their headings."""
    page = (Path(__file__).parents[2] / "docs/splits.md").read_text("utf-8")
    for section in re.split(r"\n## ", page)[1:]:
        heading = section.split("\n", 1)[0]
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)):
            yield pytest.param(block, id=f"{heading} {number}")


def as_guide_says(block: str, result: Result) -> None:
    """What the guide says of an example."""
    splits, rows = held(result), {row["id"]: row for row in make_rows()}
    where = {key: name for name, own in splits.items() for key in own}
    if "exact" in block:
        assert sizes(result) == [480, 60, 60]
    if "stratify" in block:
        assert sizes(result) == [480, 60, 60]
        for label in "abc":
            total = sum(row["label"] == label for row in rows.values())
            for share, own in zip([0.8, 0.1, 0.1], splits.values(), strict=True):
                assert abs(sum(row["label"] == label for row in own.values()) - total * share) < 1
    if "by: patient" in block:
        assert len({(rows[key]["patient"], name) for key, name in where.items()}) == 57
        assert result.manifest.leaks["patient"].groups == 57
    if "time:" in block:
        for key, name in where.items():
            assert (
                name
                == ("train", "validation", "test")[
                    (rows[key]["taken_at"] >= "2024-01-01") + (rows[key]["taken_at"] >= "2024-07-01")
                ]
            )
        assert len(where) == 600
    if "  column:" in block:
        names = {"train": "train", "extra": "train", "val": "validation", "test": "test"}
        assert where == {key: names[row["subset"]] for key, row in rows.items() if row["subset"] in names}
        assert result.manifest.books["scans"].dropped == {"in no split": 120}
    if "lists:" in block:
        for key, name in where.items():
            assert name == {0: "validation", 1: "test"}.get(int(key[1:]) % 7, "train")
        assert list(splits) == ["train", "validation", "test"]
    if "cap:" in block:
        labels = Counter(row["label"] for row in splits["train"].values())
        assert max(labels.values()) == 50
        assert result.manifest.books["scans"].dropped == {"over the cap": 600 - sum(sizes(result))}


@pytest.mark.parametrize("block", list(guide()))
def test_the_guide(block: str, data: Path, tmp_path: Path) -> None:
    first = run(make_job(data, JOB + block), tmp_path / "one", options("multi_threading", 1))
    as_guide_says(block, first)
    assert verify(first.path).ok
    assert all(book.balanced for book in first.manifest.books.values())
    many = run(make_job(data, JOB + block), tmp_path / "many", options("multi_threading", 4))
    assert digests(first.path) == digests(many.path)
    assert preview(make_job(data, JOB + block), tmp_path / "one").state == "up to date"
    # Another version of other data: as from scratch, and what it takes over is taken over.
    rows = make_rows(640)
    rows[3]["x"] = -3
    write_rows(data, [*rows[:200], *rows[220:]])
    job = make_job(data, JOB.replace("1.0.0", "2.0.0") + block)
    updated = run(job, tmp_path / "one")
    fresh = run(job, tmp_path / "fresh")
    assert updated.previous == "1.0.0"
    assert digests(updated.path) == digests(fresh.path)
    assert diff(first.path, updated.path).records is not None


EXACT = "split: {fractions: {train: 0.6, validation: 0.3, test: 0.1}, exact: true}\n"
GROUPED = EXACT.replace("exact: true", "exact: true, by: patient, stratify: label")


@pytest.mark.parametrize(
    "split", [EXACT, GROUPED, EXACT.replace("exact: true", "exact: groups, by: patient")]
)
def test_exact_fractions(split: str, data: Path, tmp_path: Path) -> None:
    result = run(make_job(data, JOB + split), tmp_path / "out")
    counts = np.array(sizes(result))
    patients = [len({row["patient"] for row in own.values()}) for own in held(result).values()]
    if split == EXACT:
        assert counts.tolist() == [360, 180, 60]
    elif "groups" in split:
        assert sum(patients) == 57
        assert (np.abs(np.array(patients) - 57 * np.array([0.6, 0.3, 0.1])) < 1).all()
    else:
        assert sum(patients) == 57
        assert (np.abs(counts - [360, 180, 60]) <= 3 * 17).all()  # of each label a group away


def test_exact_at_many_sizes(tmp_path: Path) -> None:
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    for size in (1 + rng.choice(400, 6, replace=False)).tolist():
        write_rows(tmp_path, make_rows(size, seed))
        bounds = np.sort(rng.integers(0, 1001, 2))
        shares = np.diff([0, *bounds, 1000]) / 1000
        names = ", ".join(f"s{n}: {share}" for n, share in enumerate(shares.tolist()))
        split = f"split: {{fractions: {{{names}}}, exact: true}}\n"
        result = run(make_job(tmp_path, JOB + split), tmp_path / f"out{size}")
        assert (np.abs(np.array(sizes(result)) - size * shares) < 1).all(), (size, shares, sizes(result))


def test_updates_of_photos_take_records_over_that_have_moved(tmp_path: Path) -> None:
    text = """
name: photos
version: 1.0.0
vars: {data: unset}
sources:
  photos: {kind: image_folder, path: "${data}/photos", partition_files: 16}
features: {image: {type: image}, label: {type: class_label, names: folders}}
split: {fractions: {train: 0.5, test: 0.5}, stratify: folder, cap: {by: folder, most: 30}}
write: {shards: 2}
"""
    rng = np.random.default_rng(3)
    photos = [tmp_path / f"data/photos/{'xy'[n % 3 % 2]}/{n}.png" for n in range(120)]
    for path in photos:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_image(rng, "png"))
    first = run(make_job(tmp_path / "data", text), tmp_path / "out")
    assert sizes(first) == [60 - 10, 60]
    assert first.manifest.books["photos"].dropped == {"over the cap": 10}
    for version, gone in (("2.0.0", photos[::5]), ("3.0.0", photos[1:9:5])):
        for path in gone:
            path.unlink()
        job = make_job(tmp_path / "data", text.replace("1.0.0", version))
        updated = run(job, tmp_path / "out")
        fresh = run(job, tmp_path / f"fresh{version}")
        assert digests(updated.path) == digests(fresh.path)
        assert verify(updated.path).ok
        # Only what was left out is read again.
        assert updated.taken_over["records"] >= sum(sizes(updated)) - 10


TABLED = (
    JOB.replace(
        "features:", "join:\n  - {table: sites, left_on: site, right_on: site, many: MANY}\nfeatures:"
    )
    .replace("sources:", 'sources:\n  sites: {kind: csv, path: "${data}/sites.csv", key: site}')
    .replace("label: {type: text}", "label: {type: text}\n  height: {type: int64SHAPE}")
)


@pytest.mark.parametrize(("many", "shape"), [("first", ""), ("list", ", shape: [null]")])
def test_rows_of_tables_that_only_records_over_a_cap_hold(
    many: str, shape: str, data: Path, tmp_path: Path
) -> None:
    rows = [f"site{n},{n}{again}" for n in range(60) for again in range(1 + (many == "list"))]
    (data / "sites.csv").write_text("\n".join(["site,height", *rows]) + "\n")
    text = TABLED.replace("MANY", many).replace("SHAPE", shape)
    split = "split: {fractions: {train: 1.0}, cap: {by: label, most: 9}}\n"
    result = run(make_job(data, text + split), tmp_path / "out")
    held_sites = {row["patient"] for row in held(result)["train"].values()}
    each = 2 if many == "list" else 1
    book = result.manifest.books["sites"]
    assert book.balanced
    assert book.written == len(held_sites) * each
    assert book.dropped["its records were not written"] == (57 - len(held_sites)) * each


def train_shards(result: Result) -> list[str]:
    return [shard.sha256 for shard in result.manifest.splits["train"].shards]


STRATIFIED = "split: {fractions: {train: 0.6, validation: 0.3, test: 0.1}, stratify: label}\n"
KINDS = [param.values[0] for param in guide()]


@pytest.mark.parametrize("split", [*KINDS, GROUPED, STRATIFIED])
def test_no_change_of_test_data_reaches_the_train_shards(split: str, data: Path, tmp_path: Path) -> None:
    first = run(make_job(data, JOB + split), tmp_path / "first")
    train = held(first)["train"]
    rows = make_rows()
    for row in rows:
        if row["id"] not in train:
            row["x"] += 1_000_000
    write_rows(data, rows)
    changed = run(make_job(data, JOB + split), tmp_path / "changed")
    assert train_shards(first) == train_shards(changed)
    spec = make_job(data, JOB + split).spec.split
    if spec.ranked or spec.cap is not None:
        return
    write_rows(data, [row for row in rows if row["id"] in train])
    if set(sizes(first)[1:]) == {0}:
        return
    alone = run(make_job(data, JOB + split), tmp_path / "alone")
    assert train_shards(first) == train_shards(alone)


@pytest.mark.parametrize("workers", [1, 3])
def test_planted_leaks_are_all_found(workers: int, data: Path, tmp_path: Path) -> None:
    split = "split: {column: subset, values: {train: [train, extra], test: [val, test, other]}, leaks: [patient]}\n"
    rows = make_rows()
    for row in rows:
        row["subset"] = "train" if int(row["patient"][1:]) % 2 else "test"
    write_rows(data, rows)
    good = run(make_job(data, JOB + split), tmp_path / "good")
    assert good.manifest.leaks["patient"].groups == 57
    rng = np.random.default_rng(7)
    for planted in (1, 2, 9):
        leaked = [dict(row) for row in rows]
        patients = rng.choice(57, planted, replace=False).tolist()
        for patient in patients:
            one = next(row for row in leaked if row["patient"] == f"p{patient}")
            one["subset"] = "test" if one["subset"] == "train" else "train"
        write_rows(data, leaked)
        flags = options("multi_threading", workers)
        with pytest.raises(
            HeadraceError, match=f"Values of 'patient' that have records in two splits: {planted} of 57"
        ) as caught:
            run(make_job(data, JOB + split), tmp_path / f"out{planted}", flags)
        assert caught.value.where == "split.leaks"
        assert "is in train" in str(caught.value.value)
        assert "is in test" in str(caught.value.value)
        assert "scans.csv" in str(caught.value.value)
        assert not list((tmp_path / f"out{planted}/scans").glob("1.0.0/*"))


def test_a_group_column_beside_the_one_to_split_by(data: Path, tmp_path: Path) -> None:
    split = "split: {fractions: {train: 0.5, test: 0.5}, by: patient, leaks: [label]}\n"
    with pytest.raises(
        HeadraceError, match="Values of 'label' that have records in two splits: 3 of 3"
    ) as caught:
        run(make_job(data, JOB + split), tmp_path / "out")
    assert str(caught.value.value).count("is in train") == 2


def test_keys_in_two_strata(data: Path, tmp_path: Path) -> None:
    """Records of one key are one group: what repeats a key goes where the first does, and is a duplicate."""
    rows = make_rows()
    again = [{**row, "label": "c", "subset": "test"} for row in rows[:40]]
    write_rows(data, [*rows, *again])
    result = run(make_job(data, JOB + STRATIFIED), tmp_path / "out")
    assert sizes(result) == [360, 180, 60]
    assert result.manifest.books["scans"].duplicates == 40
    split = "split: {column: subset, values: {train: [train, extra], test: [val, test, other]}}\n"
    with pytest.raises(HeadraceError, match="keys have records in two splits") as caught:
        run(make_job(data, JOB + split), tmp_path / "column")
    assert caught.value.where == "split.column"


PLACED = (
    "split: {fractions: {train: 0.6, test: 0.4}, by: patient, stratify: label, cap: {by: label, most: 90}}\n"
)


@pytest.mark.parametrize(("mode", "workers"), [("in_memory", 1), ("multi_processing", 2)])
def test_runner_modes(mode: str, workers: int, data: Path, tmp_path: Path) -> None:
    expected = run(make_job(data, JOB + PLACED), tmp_path / "expected", options("multi_threading", 3))
    result = run(make_job(data, JOB + PLACED), tmp_path / "out", options(mode, workers))
    assert digests(result.path) == digests(expected.path)


def test_partitions_and_order_do_not_matter(data: Path, tmp_path: Path) -> None:
    first = run(make_job(data, JOB + PLACED), tmp_path / "first")
    write_rows(data, make_rows()[::-1])
    other = run(make_job(data, (JOB + PLACED).replace("3000", "700")), tmp_path / "other")
    for name, split in first.manifest.splits.items():
        assert [s.sha256 for s in split.shards] == [s.sha256 for s in other.manifest.splits[name].shards]


def test_a_job_without_late_rules_has_no_files_beside_its_runs(data: Path, tmp_path: Path) -> None:
    plain = "split: {fractions: {train: 0.6, test: 0.4}}\n"
    run(make_job(data, JOB + plain), tmp_path / "plain")
    run(make_job(data, JOB + PLACED), tmp_path / "placed")
    work = "scans/.headrace"
    assert not [p for p in (tmp_path / "plain" / work).iterdir() if p.name.startswith("placements")]
    runs = {p.name for p in (tmp_path / "placed" / work / "runs").iterdir()}
    # The file of mixed groups is for the job alone.
    assert {p.name for p in (tmp_path / "placed" / work / "placements-1.0.0").iterdir()} == runs


def test_a_damaged_file_beside_a_run_costs_reading_again(data: Path, tmp_path: Path) -> None:
    run(make_job(data, JOB + PLACED), tmp_path / "out")
    for path in (tmp_path / "out/scans/.headrace/placements-1.0.0").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    job = make_job(data, JOB.replace("1.0.0", "2.0.0") + PLACED)
    updated = run(job, tmp_path / "out")
    assert updated.taken_over["records"] == 0
    assert digests(updated.path) == digests(run(job, tmp_path / "fresh").path)


CAPPED = "split: {fractions: {train: 1.0}, cap: {by: label, most: 40}}\n"


def test_runs_are_taken_over_although_records_were_left_out(data: Path, tmp_path: Path) -> None:
    first = run(make_job(data, JOB + CAPPED), tmp_path / "out")
    rows = make_rows()
    write_rows(data, [*rows, {**rows[0], "id": "last", "label": "d"}])
    job = make_job(data, JOB.replace("1.0.0", "2.0.0") + CAPPED)
    updated = run(job, tmp_path / "out")
    assert updated.taken_over["partitions"] == first.partitions - 1
    assert digests(updated.path) == digests(run(job, tmp_path / "fresh2").path)
    # Records of a class that the last partition no longer holds make room for others, which are read now.
    write_rows(data, [row for row in rows if row["x"] < 560 or row["label"] != "a"])
    job = make_job(data, JOB.replace("1.0.0", "3.0.0") + CAPPED)
    updated = run(job, tmp_path / "out")
    assert 0 < updated.taken_over["partitions"] < first.partitions - 1
    assert digests(updated.path) == digests(run(job, tmp_path / "fresh3").path)
    assert verify(updated.path).ok


def test_what_inspect_says_of_leaks(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(make_job(data, JOB + PLACED), tmp_path / "out")
    assert inspect(Path(result.path)).to_json()["leaks"] == {"patient": {"groups": 57, "in_two_splits": 0}}
    assert main(["inspect", str(result.path)]) == 0
    assert re.search(r"patient +0 of 57 looked at", capsys.readouterr().out)


def test_diff_says_what_was_checked_for_leaks(data: Path, tmp_path: Path) -> None:
    checked = run(make_job(data, JOB + PLACED), tmp_path / "out")
    other = JOB.replace("version: 1.0.0", "version: 2.0.0") + "split: {fractions: {train: 0.6, test: 0.4}}\n"
    plain = run(make_job(data, other), tmp_path / "out")
    found = diff(checked.path, plain.path)
    assert Change("patient.groups", 57, None) in found.leaks
    assert not diff(plain.path, plain.path).leaks
    assert "Checked for leaks" in [block.title for block in blocks(found) if isinstance(block, Facts)]


def test_limits_then_fractions(data: Path, tmp_path: Path) -> None:
    """What is over a limit is left out before fractions are counted, and caps come last."""
    text = JOB.replace("features:", "main: [{source: scans, limit: 333}]\nfeatures:")
    split = "split: {fractions: {train: 0.5, test: 0.5}, exact: true, cap: {by: label, most: 20}}\n"
    result = run(make_job(data, text + split), tmp_path / "out")
    dropped = result.manifest.books["scans"].dropped
    assert dropped["over the limit"] == 267
    assert sizes(result)[1] in (166, 167)
    labels = Counter(row["label"] for row in held(result)["train"].values())
    assert max(labels.values()) == 20
    assert dropped["over the cap"] == 333 - sum(sizes(result))


def test_runs_without_a_record(data: Path, tmp_path: Path) -> None:
    rows = [{**row, "x": row["x"] if 100 < row["x"] < 400 else "none"} for row in make_rows()]
    write_rows(data, rows)
    job = make_job(data, JOB.replace("10%", "60%") + PLACED)
    result = run(job, tmp_path / "out")
    assert result.manifest.dead_letters == {"validate.wrong_type": 301}
    assert verify(result.path).ok


def test_spec_of_the_manifest_is_the_job(data: Path, tmp_path: Path) -> None:
    for number, split in enumerate([*KINDS, PLACED]):
        spec = make_job(data, JOB + split).spec
        dumped = spec.model_dump(by_alias=True, mode="json", exclude={"vars"}, exclude_unset=True)
        assert JobSpec.model_validate(dumped).fingerprint == spec.fingerprint, number
