"""tf-transform: values against numpy, the same bytes everywhere, no leak, errors before data, work done once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs import Result, run
from beam_jobs.verify import verify
from schemas import HeadraceError
from tests.transform.transform_job import (
    COMMAND,
    EVERYTHING,
    READY,
    ROOT,
    Row,
    digests,
    job,
    make_job,
    run_apart,
)

pytestmark = [
    pytest.mark.transform,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

MATERIALIZED = f"{{function: {EVERYTHING}, materialize: true}}"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("raw")
    return run(job(folder), folder / "out")


@pytest.fixture(scope="module")
def materialized(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("materialized")
    return run(job(folder, MATERIALIZED), folder / "out")


def read(path: Any, split: str, **options: Any) -> dict[str, Any]:
    """All features of a split in stored order, by name: arrays, or lists of lists."""
    import tensorflow as tf

    from loader import load

    dataset = load(path, split, shuffle=False, label=False, **({"batch_size": 64} | options))
    found: dict[str, list[Any]] = {}
    for batch in dataset:
        for name, value in batch.items():
            if isinstance(value, tf.RaggedTensor):
                found.setdefault(name, []).extend(value.to_list())
            elif options.get("batch_size", 64) is None:
                found.setdefault(name, []).append(value.numpy().tolist())
            else:
                found.setdefault(name, []).extend(value.numpy().tolist())
    return found


class TestValues:
    def test_are_those_of_numpy(self, raw: Result) -> None:
        before = read(raw.path, "train")
        after = read(raw.path, "train", transform=True)
        x = np.array(before["x"])
        np.testing.assert_allclose(after["z"], (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after["unit"], (x - x.min()) / (x.max() - x.min()), rtol=1e-5, atol=1e-6)
        vector = np.array(before["vector"])
        np.testing.assert_allclose(
            after["vector"], (vector - vector.mean(0)) / vector.std(0), rtol=1e-4, atol=1e-5
        )
        shares = np.bincount(after["bucket"]) / len(x)
        np.testing.assert_allclose(shares, 0.25, atol=0.02)
        towns = np.array(before["town"])
        for town in set(towns):
            own = x[towns == town]
            wanted = (own - own.mean()) / own.std()
            np.testing.assert_allclose(
                np.array(after["by_town"])[towns == town], wanted, rtol=1e-4, atol=1e-5
            )

    def test_vocabularies_are_those_of_a_counter(self, raw: Result) -> None:
        before, after = read(raw.path, "train"), read(raw.path, "train", transform=True)
        counts = Counter(before["town"])
        order = sorted(counts, key=lambda town: (counts[town], town), reverse=True)
        assert after["town"] == [order.index(town) for town in before["town"]]
        lines = (Path(raw.path) / "transform_fn/assets/towns").read_bytes().splitlines()
        assert lines == order
        tags = Counter(tag for row in before["tags"] for tag in row)
        ranked = sorted(tags, key=lambda tag: (tags[tag], str(tag).encode()), reverse=True)
        assert after["tags"] == [[ranked.index(tag) for tag in row] for row in before["tags"]]
        weights: dict[bytes, float] = {}
        for town, value in zip(before["town"], before["x"], strict=True):
            weights[town] = weights.get(town, 0.0) + abs(value)
        ranked_towns = sorted(weights, key=lambda town: weights[town], reverse=True)
        assert after["weighted"] == [ranked_towns.index(town) for town in before["town"]]

    def test_vocabularies_keep_counts_and_may_be_empty(self, tmp_path: Path) -> None:
        result = run(job(tmp_path, "tests.transform.functions:counted", more="pack: true"), tmp_path / "out")
        counts = Counter(read(result.path, "train")["town"])
        ranked = sorted(counts, key=lambda town: (counts[town], town), reverse=True)
        assets = Path(result.path) / "transform_fn/assets"
        wanted = [b"%d %s" % (counts[town], town) for town in ranked]
        assert (assets / "counted").read_bytes().splitlines() == wanted
        assert len((assets / "rare").read_bytes().splitlines()) == 1  # an entry that nothing is equal to

    def test_tfidf_is_that_of_its_formula(self, raw: Result) -> None:
        before, after = read(raw.path, "train"), read(raw.path, "train", transform=True)
        terms = (Path(raw.path) / "transform_fn/assets/terms").read_bytes().splitlines()
        rows = [_terms(text) for text in before["text"]]
        holding = Counter(term for row in rows for term in set(row))
        for row, indices, weights in zip(rows[:50], after["indices"], after["weights"], strict=False):
            known = Counter(terms.index(term) for term in row if term in terms)
            for index, weight in zip(indices, weights, strict=True):
                if index < len(terms) and index in known:
                    idf = np.log((len(rows) + 1) / (1 + holding[terms[index]])) + 1
                    assert weight == pytest.approx(known[index] / len(row) * idf, rel=1e-4)

    def test_ready_functions_are_those_of_numpy(self, tmp_path: Path) -> None:
        result = run(job(tmp_path, READY, more="pack: true"), tmp_path / "out")
        before, after = read(result.path, "train"), read(result.path, "train", transform=True)
        x = np.array(before["x"])
        assert after["x"] == before["x"]
        np.testing.assert_allclose(after["z"], (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5)
        scaled = 2 * (x - x.min()) / (x.max() - x.min()) - 1
        np.testing.assert_allclose(after["unit"], scaled, rtol=1e-4, atol=1e-5)
        counts = Counter(before["town"])
        order = sorted(counts, key=lambda town: (counts[town], town), reverse=True)[:3]
        known = [order.index(town) if town in order else None for town in before["town"]]
        assert all(a == b if b is not None else 3 <= a < 5 for a, b in zip(after["town"], known, strict=True))
        hot = np.array(after["hot"])
        assert hot.shape == (len(x), 4)
        assert [int(place) for place in hot.argmax(1)] == [3 if place is None else place for place in known]
        assert all(0 <= value < 7 for row in after["hashed"] for value in row)
        assert [len(row) for row in after["hashed"]] == [len(row) for row in before["tags"]]
        assert {"text_indices", "text_weights"} <= after.keys()


def _terms(text: bytes) -> list[bytes]:
    words = text.split()
    return words + [b" ".join(pair) for pair in pairwise(words)]


class TestServing:
    def test_training_serving_and_materialized_agree_bit_for_bit(
        self, raw: Result, materialized: Result
    ) -> None:
        batched = read(raw.path, "test", transform=True)
        assert read(raw.path, "test", transform=True, batch_size=None) == batched
        for size in (1, 7, 16, 65):
            assert read(raw.path, "test", transform=True, batch_size=size) == batched
        assert read(materialized.path, "test") == batched

    def test_tft_reads_the_version_itself(self, raw: Result) -> None:
        import tensorflow as tf
        import tensorflow_transform as tft

        output = tft.TFTransformOutput(str(raw.path))
        layer = output.transform_features_layer()
        before, after = read(raw.path, "test"), read(raw.path, "test", transform=True)
        batch = {
            "x": tf.constant(before["x"]),
            "town": tf.constant(before["town"]),
            "text": tf.constant(before["text"]),
            "tags": tf.ragged.constant(before["tags"], tf.int64).to_sparse(),
            "vector": tf.constant(before["vector"]),
            "label": tf.constant(before["label"], tf.int64),
        }
        served = layer(batch)
        assert served["z"].numpy().tolist() == after["z"]
        assert served["town"].numpy().tolist() == after["town"]
        assert output.vocabulary_size_by_name("towns") == 5
        assert output.transformed_feature_spec().keys() == after.keys()

    def test_versions_do_not_share_their_vocabularies(self, raw: Result, tmp_path: Path) -> None:
        def renamed(row: Row) -> Row:
            return {**row, "town": f"New {row['town']}"}

        other = run(job(tmp_path, change=renamed), tmp_path / "out")
        one, two = read(raw.path, "test", transform=True), read(other.path, "test", transform=True)
        assert set(two["town"]) <= set(range(5))
        assert one["town"] == read(raw.path, "test", transform=True)["town"]


class TestSameBytes:
    @pytest.mark.parametrize("transform", [EVERYTHING, MATERIALIZED])
    def test_whatever_runs_it(
        self, transform: str, raw: Result, materialized: Result, tmp_path: Path
    ) -> None:
        wanted = digests(Path(raw.path if transform == EVERYTHING else materialized.path))
        file = make_job(tmp_path, transform)
        for number, (seed, options) in enumerate(
            [
                ("1", ["--direct_num_workers=1"]),
                ("2", ["--direct_num_workers=4"]),
                ("3", ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]),
            ]
        ):
            version = run_apart(
                file, tmp_path / f"out{number}", *options, environment={"PYTHONHASHSEED": seed}
            )
            assert digests(version) == wanted

    def test_what_is_not_trained_on_changes_neither_the_graph_nor_train(
        self, raw: Result, tmp_path: Path
    ) -> None:
        train = set(read(raw.path, "train", features="x")["x"])

        def changed(row: Row) -> Row:
            if row["x"] in train:
                return row
            return {**row, "x": row["x"] * 1000, "town": "Elsewhere", "tags": [77], "text": "leak"}

        other = run(job(tmp_path, change=changed), tmp_path / "out")
        before, after = digests(Path(raw.path)), digests(Path(other.path))
        kept = [path for path in before if path.startswith("transform") or "-train" in path]
        assert len(kept) > 10
        assert {path: before[path] for path in kept} == {path: after[path] for path in kept}
        assert before.keys() == after.keys()
        assert any(before[path] != after[path] for path in before if "-test" in path)

    def test_a_killed_job_ends_with_the_same_bytes(self, raw: Result, tmp_path: Path) -> None:
        file, out = make_job(tmp_path), tmp_path / "out"
        process = subprocess.Popen(
            [*COMMAND, "run", str(file), "--out", str(out), "--direct_num_workers=1"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        analysis = out / "towns/.headrace/analysis"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if analysis.exists() and len(list(analysis.glob("*.part"))) >= 2:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = {path.name: path.stat().st_mtime_ns for path in analysis.glob("*.part")}
        assert found
        version = run_apart(file, out)
        assert digests(version) == digests(Path(raw.path))
        assert all((analysis / name).stat().st_mtime_ns == when for name, when in found.items())


class TestWork:
    def test_unchanged_shards_are_not_analysed_again(self, tmp_path: Path) -> None:
        transform = "{features: {z: {type: z_score, from: x}}}"
        run(job(tmp_path, transform), tmp_path / "out")
        analysis = tmp_path / "out/towns/.headrace/analysis"
        first = {path.name: path.stat().st_mtime_ns for path in analysis.glob("*")}
        assert len(first) == 4  # a part for each shard of train
        target = read(tmp_path / "out/towns/1.0.0", "train", features="x")["x"][0]

        def changed(row: Row) -> Row:
            return {**row, "x": 50.0} if row["x"] == target else row

        run(job(tmp_path, transform, version="2.0.0", change=changed), tmp_path / "out")
        second = {path.name: path.stat().st_mtime_ns for path in analysis.glob("*")}
        assert len(first.keys() & second.keys()) == 4
        assert all(second[name] == when for name, when in first.items())
        assert len(second) == 5

    def test_an_up_to_date_version_needs_no_tensorflow(self, raw: Result) -> None:
        file, out = Path(raw.path).parents[2] / "job-1.0.0.yaml", Path(raw.path).parents[1]
        code = (
            "import sys; from beam_jobs import load_job, run;"
            f"assert run(load_job({str(file)!r}), {str(out)!r}).up_to_date;"
            "assert 'tensorflow' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=os.environ, timeout=120)

    def test_verify_finds_a_changed_graph(self, raw: Result, materialized: Result, tmp_path: Path) -> None:
        assert verify(raw.path).ok
        assert verify(materialized.path).ok
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-r", str(raw.path), str(copy)], check=True)
        (copy / "transform_fn/assets/towns").write_text("Ulm\n")
        assert not verify(copy).ok
        with pytest.raises(HeadraceError, match="not the one that the manifest describes"):
            read(copy, "test", transform=True)

    def test_a_job_without_analysers_has_a_graph_too(self, tmp_path: Path) -> None:
        result = run(job(tmp_path, "tests.transform.functions:plain"), tmp_path / "out")
        before, after = read(result.path, "test"), read(result.path, "test", transform=True)
        assert after["y"] == (np.array(before["x"], np.float32) * 2).tolist()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "cannot be traced.*KeyError.*functions.py, line"),
        ("no_rows", "has no row for each record"),
        ("no_tensor", "'y' is no tensor"),
        ("no_dict", "must return a dict of tensors"),
        ("by_batch", "depends on its batch"),
        ("by_order", "depends on its batch"),
        ("by_chance", "depends on its batch"),
        ("fewer", "another number of rows"),
        ("informed", "cannot run in a fixed order"),
        ("absent", "cannot be imported"),
    ],
)
def test_a_bad_function_is_refused_before_data_are_read(function: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match=f"(?s){message}"):
        run(job(tmp_path, f"tests.transform.functions:{function}", rows=20), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.run"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wide", "'y' cannot be written into a record.*float64.*tf.cast"),
        ("without_label", "label is not among what the preprocessing_fn returns"),
    ],
)
def test_what_no_record_can_hold_is_not_materialized(function: str, message: str, tmp_path: Path) -> None:
    transform = f"{{function: 'tests.transform.functions:{function}', materialize: true}}"
    with pytest.raises(HeadraceError, match=f"(?s){message}"):
        run(job(tmp_path, transform, rows=20), tmp_path / "out")


def test_a_load_without_a_transform_says_so(materialized: Result, tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="holds transformed records already"):
        read(materialized.path, "test", transform=True)
    file = tmp_path / "job.yaml"
    text = make_job(tmp_path).read_text("utf-8")
    file.write_text(text[: text.index("transform:")], "utf-8")
    from beam_jobs import load_job

    result = run(load_job(file), tmp_path / "out")
    with pytest.raises(HeadraceError, match="has no transform"):
        read(result.path, "test", transform=True)
