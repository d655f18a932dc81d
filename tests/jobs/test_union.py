"""Unions of sources: prefixes, samples, limits; same bytes, balanced books, updates as from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from beam_jobs import run
from beam_jobs.inspect_dataset import inspect
from beam_jobs.job import Result
from beam_jobs.planning import plan_job
from beam_jobs.union import find_bound
from beam_jobs.verify import verify
from schemas import HeadraceError
from schemas.hashing import as_sortable, key_hashes, ranks
from tests.jobs.small_job import digests, encoded_image, make_job, options

JOB = """
name: both
version: 1.0.0
vars: {data: unset}
sources:
  a: {kind: csv, path: "${data}/a.csv", key: id, partition_bytes: 500}
  b: {kind: csv, path: "${data}/b.csv", key: id, partition_bytes: 700}
  names: {kind: csv, path: "${data}/names.csv", key: code}
main: [a, {source: b, prefix: "b/", limit: 50}]
join:
  - {table: names, left_on: x, right_on: code}
features:
  id: {type: text}
  x: {type: int64}
  name: {type: text}
split: {fractions: {train: 0.5, test: 0.5}}
write: {shards: 2, max_dead_letters: 10%}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text("id,x\n" + "".join(f"k{n},{n % 90}\n" for n in range(200)))
    # The columns of a source need not have the order of the others'.
    (tmp_path / "b.csv").write_text("x,id\n" + "".join(f"{n % 90 + 100},k{n}\n" for n in range(300)))
    (tmp_path / "names.csv").write_text("code,name\n" + "".join(f"{n},n{n}\n" for n in range(250)))
    return tmp_path


def ids(result: Result) -> list[tuple[str, int]]:
    records = inspect(Path(result.path), records=10_000).records
    return sorted(
        (str(r.values["id"][0], "utf-8"), int(r.values["x"][0])) for r in records if r.values is not None
    )


def from_scratch(data: Path, tmp_path: Path, text: str, name: str, flags: Sequence[str] = ()) -> Result:
    return run(make_job(data, text), tmp_path / name, flags)


def test_one_job(data: Path, tmp_path: Path) -> None:
    first = from_scratch(data, tmp_path, JOB, "one", options("multi_threading", 1))
    many = from_scratch(data, tmp_path, JOB, "many", options("multi_threading", 4))
    assert digests(first.path) == digests(many.path)
    assert verify(first.path).ok
    books = first.manifest.books
    assert all(book.balanced for book in books.values())
    assert (books["a"].read, books["a"].written) == (200, 200)
    assert (books["b"].read, books["b"].written, books["b"].dropped) == (300, 50, {"over the limit": 250})
    taken = [(key, x) for key, x in ids(first) if x >= 100]
    # Which they are is a function of the keys.
    keys = [f"b/k{n}".encode() for n in range(300)]
    found = ranks(as_sortable(key_hashes(keys, 0)))
    expected = {keys[n].decode().removeprefix("b/") for n in np.argsort(found)[:50].tolist()}
    assert {key for key, _ in taken} == expected
    # A row of the table that only records over the limit asked for is dropped with them.
    assert books["names"].written == 90 + len({x for _, x in taken})
    assert books["names"].dropped["its records were not written"] == 90 - len({x for _, x in taken})
    assert books["names"].dropped["unmatched in a, b"] == 250 - 180
    per_shard = [shard.records for split in first.manifest.splits.values() for shard in split.shards]
    assert min(per_shard) > 30  # a limit takes from all shards alike


def test_partitions_and_order_do_not_matter(data: Path, tmp_path: Path) -> None:
    first = from_scratch(data, tmp_path, JOB, "one")
    text = JOB.replace("partition_bytes: 700", "partition_bytes: 100000")
    lines = (data / "b.csv").read_text().splitlines()
    (data / "b.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    other = from_scratch(data, tmp_path, text, "other")
    assert ids(first) == ids(other)
    assert [s.sha256 for s in first.manifest.splits["train"].shards] == [
        s.sha256 for s in other.manifest.splits["train"].shards
    ]


def test_without_a_prefix_the_first_source_wins(data: Path, tmp_path: Path) -> None:
    text = JOB.replace('{source: b, prefix: "b/", limit: 50}', "b")
    result = from_scratch(data, tmp_path, text, "out")
    books = result.manifest.books
    assert (books["a"].written, books["a"].duplicates) == (200, 0)
    assert (books["b"].written, books["b"].duplicates, books["b"].read) == (100, 200, 300)
    assert verify(result.path).ok
    other = from_scratch(data, tmp_path, text.replace("[a, b]", "[b, a]"), "other")
    assert (other.manifest.books["a"].written, other.manifest.books["b"].written) == (0, 300)


def test_samples_are_nested_and_about_as_large_as_asked(data: Path, tmp_path: Path) -> None:
    taken = {}
    for share in (0.2, 0.5, 1.0):
        text = JOB.replace("limit: 50", f"sample: {share}")
        result = from_scratch(data, tmp_path, text, f"out{share}")
        book = result.manifest.books["b"]
        assert book.balanced
        assert book.written == 300 - book.dropped.get("not sampled", 0)
        taken[share] = set(ids(result))
    assert taken[0.2] < taken[0.5] < taken[1.0]
    assert 30 < len(taken[0.2]) - 200 < 90
    assert 110 < len(taken[0.5]) - 200 < 190


def test_a_limit_of_one_source_alone(data: Path, tmp_path: Path) -> None:
    text = JOB.replace('main: [a, {source: b, prefix: "b/", limit: 50}]', "main: [{source: a, limit: 33}]")
    text = text.replace('  b: {kind: csv, path: "${data}/b.csv", key: id, partition_bytes: 700}\n', "")
    result = from_scratch(data, tmp_path, text, "out")
    assert (result.manifest.books["a"].written, len(ids(result))) == (33, 33)
    more = from_scratch(data, tmp_path, text.replace("limit: 33", "limit: 1000"), "more")
    assert (more.manifest.books["a"].written, more.manifest.books["a"].dropped) == (200, {})


def test_updates_are_as_from_scratch(data: Path, tmp_path: Path) -> None:
    """What is over a limit lies in no shard: a later version reads it again."""
    from_scratch(data, tmp_path, JOB, "out")
    for version in ("2.0.0", "3.0.0", "4.0.0"):
        text = JOB.replace("1.0.0", version)
        match version:
            case "2.0.0":
                with (data / "b.csv").open("a") as file:
                    file.write("".join(f"{n},new{n}\n" for n in range(100, 140)))
            case "3.0.0":
                lines = (data / "b.csv").read_text().splitlines()
                (data / "b.csv").write_text("\n".join([lines[0], *lines[100:]]) + "\n")
            case "4.0.0":
                with (data / "a.csv").open("a") as file:
                    file.write("more,5\n")
        updated = from_scratch(data, tmp_path, text, "out")
        assert updated.previous is not None
        fresh = from_scratch(data, tmp_path, text, f"fresh{version}")
        assert digests(updated.path) == digests(fresh.path)
    assert updated.taken_over["records"] >= 100


PHOTOS = """
name: photos
version: 1.0.0
vars: {data: unset}
sources:
  old: {kind: image_folder, path: "${data}/old", partition_files: 8}
  new: {kind: image_folder, path: "${data}/new", partition_files: 8}
main:
  - source: old
    prefix: old/
    limit: 20
  - source: new
    prefix: new/
    sample: 0.7
features:
  image: {type: image}
  label: {type: class_label, names: folders}
"""


def test_images_over_a_limit_are_read_again_and_the_others_taken_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in (f"{source}/{'xyz'[n % 3]}/{n}.jpg" for source in ("old", "new") for n in range(60)):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(encoded_image(rng))
    (tmp_path / "data/new/w").mkdir()
    (tmp_path / "data/new/w/1.jpg").write_bytes(encoded_image(rng))
    first = run(make_job(tmp_path / "data", PHOTOS), tmp_path / "out")
    assert first.manifest.features["label"].names == ["w", "x", "y", "z"]
    assert first.manifest.books["old"].written == 20
    for n in range(0, 60, 7):
        (tmp_path / f"data/old/{'xyz'[n % 3]}/{n}.jpg").unlink()
    job = make_job(tmp_path / "data", PHOTOS.replace("1.0.0", "2.0.0"))
    updated = run(job, tmp_path / "out")
    fresh = run(job, tmp_path / "fresh")
    assert digests(updated.path) == digests(fresh.path)
    assert updated.manifest.books["old"].written == 20
    new = first.manifest.books["new"]
    assert updated.taken_over["records"] >= new.written + 10
    assert Counter(updated.manifest.books["new"].dropped) == Counter(new.dropped)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("main: [a, ", "main: [a, c, ", "no source is called 'c'"),
        ("main: [a, ", "main: [a, a, ", "'a' is listed more than once"),
        ("main: [a, ", "main: [names, a, ", "every source is joined as a table"),
        ("limit: 50", "limit: 0", "greater than or equal to 1"),
        ("limit: 50", "limt: 50", "no field 'limt' here; did you mean 'limit'"),
        ("limit: 50", "sample: 1.5", "less than or equal to 1"),
        ("limit: 50", "sample: 3", r"load\(\[…, …\], weights=\[3, 1\]\)"),
        ("limit: 50", "weight: 3", r"no `weight`.*load\(\[…, …\], weights=\[3, 1\]\)"),
        ('main: [a, {source: b, prefix: "b/", limit: 50}]', "main: a", "neither `main` nor joined"),
    ],
)
def test_mistakes(old: str, new: str, message: str, data: Path) -> None:
    with pytest.raises(HeadraceError, match=message):
        make_job(data, JOB, **{old: new})


def test_sources_of_different_shapes(data: Path, tmp_path: Path) -> None:
    (data / "b.csv").write_text("id,y\nk1,2\n")
    with pytest.raises(HeadraceError, match="'a' and 'b' have different columns") as caught:
        plan_job(make_job(data, JOB), tmp_path / "out")
    assert caught.value.value == "x, y"


def test_bounds() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2**63, 10_000, np.uint64) * np.uint64(2)
    values[:5000] %= np.uint64(1 << 49)  # most lie in two buckets
    parts = [values[:10], values[10:7000], values[7000:]]
    for limit in (1, 2, 4999, 5000, 5001, 9999, 10_000):
        assert find_bound(limit, iter(parts), iter(parts)) == int(np.sort(values)[limit - 1])


def test_ranks_are_pinned_and_independent_of_the_order_of_hashes() -> None:
    hashes = as_sortable(key_hashes([str(n).encode() for n in range(10_000)], 0))
    found = ranks(hashes)
    assert found[:2].tolist() == [17297847601835521151, 2547830984424077221]
    order = np.argsort(hashes)
    assert abs(np.corrcoef(np.arange(10_000), found[order].astype(float))[0, 1]) < 0.03
    assert abs(float(found.astype(float).mean()) / 2**63 - 1) < 0.02
