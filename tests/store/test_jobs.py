"""Jobs that write to object stores which fail, lose answers, list late: the bytes of a local job, or a clear error."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import fsspec
import pytest

from beam_jobs import join, lookup, run
from beam_jobs.data_schema.infer import infer_schema
from beam_jobs.data_schema.versions import read_version
from beam_jobs.job import Result
from schemas import HeadraceError, read_manifest
from tests.jobs.small_job import JOB, digests, make_data, make_job, options
from tests.store.conftest import BAD_DAY, REMOTE, Bucket

ROOT = Path(__file__).resolve().parents[2]
RECORDS = 60
THREADS = options("multi_threading", 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", records=RECORDS, faults=True)


def prepare(data: Path, out: str | Path, version: str = "1.0.0", **more) -> Result:
    job = make_job(data, JOB.replace("version: 1.0.0", f"version: {version}"))
    return run(job, str(out), more.pop("options", THREADS), **more)


def objects(url: str) -> dict[str, bytes]:
    """Every object below a URL."""
    fs, base = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return {path.removeprefix(f"{base}/"): fs.cat_file(path) for path in fs.find(base)}


def out_of(bucket: Bucket) -> str:
    return bucket.url.rpartition("/")[0]


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("faults", [{}, BAD_DAY], ids=["good", "bad day"])
def test_the_bytes_of_a_local_job(
    data: Path, tmp_path: Path, make_bucket: Callable[..., Bucket], kind: str, faults: Mapping[str, float]
) -> None:
    bucket = make_bucket(kind, faults)
    local = prepare(data, tmp_path / "out")
    done = prepare(data, out_of(bucket))
    bucket.proxy.shares = {}
    assert str(done.path) == f"{out_of(bucket)}/cells/1.0.0"
    assert objects(str(done.path)) == digests(local.path)
    assert dataclasses.replace(done, path="", seconds=0) == dataclasses.replace(local, path="", seconds=0)
    assert prepare(data, out_of(bucket)).up_to_date
    left = {path.rpartition(".")[2] for path in objects(f"{out_of(bucket)}/cells/.headrace/runs")}
    assert left == {"run"}


def test_a_later_version_takes_over(data: Path, tmp_path: Path, bucket: Bucket) -> None:
    prepare(data, out_of(bucket))
    next(path for path in (data / "photos/a").iterdir() if path.stat().st_size > 1000).unlink()
    updated = prepare(data, out_of(bucket), "2.0.0")
    assert updated.taken_over["records"] > RECORDS / 2
    assert updated.taken_over["shards"] > 0
    assert objects(str(updated.path)) == digests(prepare(data, tmp_path / "out", "2.0.0").path)


@pytest.mark.parametrize("kind", REMOTE)
def test_a_listing_that_lags(
    data: Path, tmp_path: Path, make_bucket: Callable[..., Bucket], kind: str
) -> None:
    bucket = make_bucket(kind)
    bucket.proxy.frozen = True
    prepare(data, out_of(bucket))
    assert prepare(data, out_of(bucket)).up_to_date
    updated = prepare(data, out_of(bucket), "2.0.0")
    bucket.proxy.frozen = False
    assert objects(str(updated.path)) == digests(prepare(data, tmp_path / "out", "2.0.0").path)


def test_a_version_is_not_visible_before_it_is_whole(data: Path, bucket: Bucket) -> None:
    strict = JOB.replace("max_dead_letters: 20%", "max_dead_letters: 0")
    with pytest.raises(HeadraceError, match="Too many dead letters"):
        run(make_job(data, strict), out_of(bucket), THREADS)
    with pytest.raises(HeadraceError, match="There is no data set here"):
        read_manifest(f"{bucket.url.rpartition('/')[0]}/cells/1.0.0")
    done = prepare(data, out_of(bucket))
    assert done.partitions_reused == done.partitions
    assert read_manifest(str(done.path)) == done.manifest


@pytest.mark.parametrize("moment", [0.3, 0.6, 0.9])
def test_a_killed_job_goes_on(data: Path, tmp_path: Path, bucket: Bucket, moment: float) -> None:
    """Its lock is that of a dead process of this machine, and taken at once."""
    asked = bucket.proxy.asked.total()
    prepare(data, f"{out_of(bucket)}/first")
    whole = bucket.proxy.asked.total() - asked
    make_job(data)
    command = "import sys; from beam_jobs.cli import entry; sys.exit(entry())"
    arguments = ["run", str(data / "job.yaml"), f"--var=data={data}", f"--out={out_of(bucket)}", "--quiet"]
    asked = bucket.proxy.asked.total()
    with subprocess.Popen([sys.executable, "-c", command, *arguments, *THREADS], cwd=ROOT) as process:
        while process.poll() is None and bucket.proxy.asked.total() - asked < moment * whole:
            time.sleep(0.01)
        process.kill()
    done = prepare(data, out_of(bucket))
    assert objects(str(done.path)) == digests(prepare(data, tmp_path / "out").path)


def test_two_jobs_on_one_output(data: Path, bucket: Bucket) -> None:
    with bucket.open().exclusive():
        pass
    store = Bucket(bucket.kind, bucket.proxy, bucket.environment, f"{out_of(bucket)}/cells").open()
    with store.exclusive(), pytest.raises(HeadraceError, match="Another job is writing") as caught:
        prepare(data, out_of(bucket))
    assert "process " in str(caught.value.value)
    assert not prepare(data, out_of(bucket)).up_to_date


def test_a_store_that_is_gone(data: Path, bucket: Bucket) -> None:
    with pytest.raises(HeadraceError, match=r"bucket|not reach|cannot be reached|no such"):
        prepare(data, f"{bucket.url.partition('://')[0]}://no-such-bucket/out")


def test_worker_processes(data: Path, tmp_path: Path, bucket: Bucket) -> None:
    done = prepare(data, out_of(bucket), options=options("multi_processing", 2))
    assert objects(str(done.path)) == digests(prepare(data, tmp_path / "out").path)
    assert "geheim" not in json.dumps({k: v.decode("latin1") for k, v in objects(out_of(bucket)).items()})


def test_a_table_that_is_shuffled_in_a_bucket(
    data: Path, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are read as a whole, and hardly any is held."""
    monkeypatch.setattr(join, "_BUCKET_BYTES", 500)
    monkeypatch.setattr(lookup, "_HELD_BYTES", 2000)
    job = make_job(data, JOB.replace("{table: labels,", "{table: labels, broadcast: 0,"))
    done = run(job, out_of(bucket), THREADS)
    assert done.shuffled["labels"] > 4
    assert objects(str(done.path)) == digests(run(job, tmp_path / "out", THREADS).path)


@pytest.mark.parametrize("kind", REMOTE)
def test_a_survey_in_a_bucket(
    data: Path, tmp_path: Path, make_bucket: Callable[..., Bucket], kind: str
) -> None:
    """What rules learn lies in the bucket too, and a later version asks new partitions only."""
    bucket = make_bucket(kind, BAD_DAY)
    learning = JOB.replace(
        "  - map:",
        "  - {parse_number: probability, missing: [unknown]}\n"
        "  - {outliers: probability, quantiles: [0.1, 0.9]}\n  - map:",
    ).replace("fractions: {train: 0.6, validation: 0.2, test: 0.2}, by: module", "fractions: {train: 1}")
    learning = learning.replace("{train: 3, validation: 1, test: 2}", "2")
    local = run(make_job(data, learning), tmp_path / "out", THREADS)
    done = run(make_job(data, learning), out_of(bucket), THREADS)
    bucket.proxy.shares = {}  # or what is read here would be cut short too
    assert local.manifest.surveyed
    assert objects(str(done.path)) == digests(local.path)
    parts = objects(f"{out_of(bucket)}/cells/.headrace/survey")
    assert len(parts) == done.partitions
    next(path for path in (data / "photos/a").iterdir() if path.stat().st_size > 1000).unlink()
    updated = run(
        make_job(data, learning.replace("version: 1.0.0", "version: 2.0.0")), out_of(bucket), THREADS
    )
    kept = set(parts) & set(objects(f"{out_of(bucket)}/cells/.headrace/survey"))
    assert kept == set(parts)
    assert updated.manifest.surveyed


def test_a_schema_is_kept_to_in_a_bucket(data: Path, tmp_path: Path, bucket: Bucket) -> None:
    """Drift is measured from the version before, which lies in the bucket too; what stops leaves nothing visible."""
    first = prepare(data, out_of(bucket))
    schema = tmp_path / "schema.yaml"
    schema.write_text(infer_schema(read_version(str(first.path)).statistics, "cells"))
    checked = f"{JOB}schema: {{file: {schema}, drift: {{against: previous}}}}\n"

    def later(out: str | Path, version: str) -> Result:
        return run(make_job(data, checked.replace("version: 1.0.0", f"version: {version}")), out, THREADS)

    second = later(out_of(bucket), "1.1.0")
    assert [each for each in second.anomalies if each.severity == "error"] == []
    assert objects(str(second.path)) == digests(later(tmp_path / "out", "1.1.0").path)
    schema.write_text(schema.read_text().replace("type: image", "type: image\n    bytes: {max: 1}"))
    with pytest.raises(HeadraceError, match=r"too_long image[\s\S]*anomalies-1.2.0.json"):
        later(out_of(bucket), "1.2.0")
    with pytest.raises(HeadraceError, match="There is no data set here"):
        read_manifest(f"{out_of(bucket)}/cells/1.2.0")


def test_placed_in_a_bucket(data: Path, tmp_path: Path, bucket: Bucket) -> None:
    """Where all records decide about splits, the files beside the runs lie in the bucket too."""
    exact = JOB.replace("by: module}", "by: module, stratify: label, cap: {by: label, most: 15}}")
    run(make_job(data, exact), out_of(bucket), THREADS)
    next(path for path in (data / "photos/a").iterdir() if path.stat().st_size > 1000).unlink()
    job = make_job(data, exact.replace("version: 1.0.0", "version: 2.0.0"))
    updated = run(job, out_of(bucket), THREADS)
    assert updated.taken_over["records"] > RECORDS / 2
    assert "over the cap" in updated.manifest.books["photos"].dropped
    assert objects(str(updated.path)) == digests(run(job, tmp_path / "out", THREADS).path)
