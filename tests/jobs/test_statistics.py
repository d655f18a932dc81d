"""The statistics of a version: what pandas says of the same records, in files that Headrace and TFX read."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tensorflow_metadata.proto.v0 import statistics_pb2

from beam_jobs import load_job, run
from beam_jobs.cli import main
from beam_jobs.job import Result
from beam_jobs.statistics.show import print_statistics, statistics_of
from beam_jobs.verify import verify
from schemas import HeadraceError
from schemas.naming import STATISTICS, tfmd_statistics_name
from schemas.statistics import FeatureStatistics, Numbers, Statistics, read_statistics
from tests.jobs.small_job import digests, make_data, make_job

JOB = """
name: table
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: csv, path: "${data}", key: key, partition_bytes: 20000}}
features:
  kind: {type: class_label, names: [a, b, c, never]}
  count: {type: int64}
  large: {type: int64}
  share: {type: float32, allow_nan: true}
  fare: {type: float32}
  wet: {type: bool}
  word: {type: text}
  pair: {type: float32, from: [fare, share], allow_nan: true}
label: kind
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: {train: 3, test: 1}}
"""
RECORDS = 6000


def make_rows(path: Path, records: int = RECORDS) -> Path:
    """A table with huge numbers, NaN, infinity, and texts of other alphabets."""
    rng = np.random.default_rng(3)
    lines = ["key,kind,count,large,share,fare,wet,word"]
    words = ["plain", "grün", "雪", "☃ snow", ""]
    for i in range(records):
        share = {0: "nan", 1: "inf", 2: "-inf", 3: "-0.0"}.get(i % 50, f"{rng.normal():.6f}")
        large = int(rng.integers(-(2**63), 2**63 - 1))
        word = words[int(rng.integers(0, 5))] or f"text {int(rng.integers(0, 500))}"
        lines.append(
            f"k{i},{'aab'[i % 3] if i % 11 else 'c'},{int(rng.geometric(0.05))},{large},{share},"
            f"{rng.lognormal():.5f},{'true' if i % 7 else 'false'},{word}"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def prepare(rows: Path, out: Path, *changes: tuple[str, str], **options: bool) -> Result:
    text = JOB
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = rows.with_suffix(".yaml")
    file.write_text(text)
    return run(load_job(file, {"data": str(rows)}), out, **options)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("data") / "rows.csv")


@pytest.fixture(scope="module")
def version(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(prepare(rows, tmp_path_factory.mktemp("out")).path)


@pytest.fixture(scope="module")
def statistics(version: Path) -> Statistics:
    return read_statistics(version)


def frame_of(rows: Path, version: Path, split: str) -> pd.DataFrame:
    """The rows of a split as pandas reads them; which they are, TensorFlow's own reader says."""
    import tensorflow as tf

    names = [str(path) for path in sorted(version.glob(f"table-{split}*"))]
    large = set()
    for record in tf.data.TFRecordDataset(names).as_numpy_iterator():
        large.add(tf.train.Example.FromString(record).features.feature["large"].int64_list.value[0])
    frame = pd.read_csv(
        rows,
        dtype={"share": np.float32, "fare": np.float32, "large": np.int64},
        keep_default_na=False,
        na_values=["nan"],
    )
    return frame[frame["large"].isin(large)]


def check_numbers(found: Numbers | None, values: pd.Series) -> None:
    """Counts, extremes and quantiles are exact; mean and std differ from pandas' by its own rounding."""
    assert found is not None
    finite = values[np.isfinite(values)]
    assert found.nan == int(values.isna().sum())
    assert found.infinite == len(values) - found.nan - len(finite)
    assert found.count == len(finite)
    assert found.zeros == int((finite == 0).sum())
    assert (found.min, found.max) == (finite.min(), finite.max())
    wide = [float(value) for value in finite]
    assert found.mean == pytest.approx(math.fsum(wide) / len(wide), rel=1e-14, abs=1e-300)
    assert found.std == pytest.approx(finite.astype(np.float64).std(ddof=0), rel=1e-9)
    ordered = np.sort(finite.to_numpy())
    slack = math.ceil(found.rank_error * len(finite))
    for percent, quantile in enumerate(found.quantiles):
        rank = max(1, -(-len(finite) * percent // 100))
        assert np.searchsorted(ordered, quantile, side="left") - slack < rank
        assert rank <= np.searchsorted(ordered, quantile, side="right") + slack
    assert found.histogram is not None
    edges = found.histogram.edges
    assert sum(found.histogram.counts) == len(finite)
    places = np.searchsorted(
        ordered, [math.ceil(edge) if values.dtype == np.int64 else edge for edge in edges[1:-1]]
    )
    counts = np.diff([0, *places, len(ordered)])
    assert np.abs(counts - found.histogram.counts).max() <= 2 * slack


@pytest.mark.parametrize("split", ["train", "test"])
def test_statistics_are_those_of_pandas(
    split: str, rows: Path, version: Path, statistics: Statistics
) -> None:
    frame = frame_of(rows, version, split)
    found = statistics.splits[split]
    features = found.features
    assert found.records == len(frame) > 1000
    assert all(feature.count == len(frame) and not feature.missing for feature in features.values())
    for name in ("count", "large", "share", "fare"):
        check_numbers(features[name].numbers, frame[name])
        distinct = features[name].distinct
        assert distinct is not None
        finite = frame[name][np.isfinite(frame[name])]
        assert abs(distinct.estimate - finite.nunique()) <= 4 * distinct.error * finite.nunique()
    pair = features["pair"]
    assert pair.values == 2 * len(frame)
    check_numbers(pair.numbers, pd.concat([frame["fare"], frame["share"]]))
    kinds = frame["kind"].value_counts()
    assert features["kind"].labels == {name: kinds.get(name, 0) for name in ("a", "b", "c", "never")}
    assert features["wet"].labels == {"false": (~frame["wet"]).sum(), "true": frame["wet"].sum()}
    check_text(features["word"], frame["word"])
    check_top(features["count"], frame["count"])


def check_text(found: FeatureStatistics, values: pd.Series) -> None:
    assert found.distinct is not None
    assert (found.distinct.estimate, found.distinct.error) == (values.nunique(), 0)
    check_numbers(found.characters, values.str.len())
    check_numbers(found.bytes, values.map(lambda text: len(text.encode())))
    check_top(found, values)


def check_top(found: FeatureStatistics, values: pd.Series) -> None:
    assert found.top is not None
    assert found.top.error == 0
    counts = sorted(values.value_counts().items(), key=lambda pair: (-pair[1], pair[0]))
    assert [(top.value, top.count) for top in found.top.values] == counts[:100]


@pytest.mark.parametrize("split", ["train", "test"])
def test_tfx_reads_the_same_numbers(split: str, version: Path, statistics: Statistics) -> None:
    data = (version / tfmd_statistics_name(split)).read_bytes()
    parsed = statistics_pb2.DatasetFeatureStatisticsList.FromString(data)
    (dataset,) = parsed.datasets
    expected = statistics.splits[split]
    assert (dataset.name, dataset.num_examples) == (split, expected.records)
    told = {feature.path.step[0]: feature for feature in dataset.features}
    assert told.keys() == expected.features.keys()
    for name, feature in told.items():
        own = expected.features[name]
        kind = feature.WhichOneof("stats")
        common = getattr(feature, kind).common_stats
        assert (common.num_non_missing, common.num_missing) == (own.count, own.missing)
        assert common.tot_num_values == own.values
        assert common.min_num_values == common.max_num_values == (2 if name == "pair" else 1)
        if own.numbers is not None:
            numbers = feature.num_stats
            assert (numbers.min, numbers.max) == (float(own.numbers.min or 0), float(own.numbers.max or 0))
            assert (numbers.mean, numbers.std_dev) == (own.numbers.mean, own.numbers.std)
            assert numbers.num_zeros == own.numbers.zeros
            assert numbers.median == float(own.numbers.quantiles[50])
            standard, quantiles = numbers.histograms
            assert standard.num_nan == own.numbers.nan
            assert own.numbers.histogram is not None
            assert [bucket.sample_count for bucket in standard.buckets] == own.numbers.histogram.counts
            assert quantiles.buckets[0].low_value == numbers.min
            assert len(quantiles.buckets) == 10
    label = told["kind"].num_stats
    names = expected.features["kind"].labels or {}
    total = sum(place * count for place, count in enumerate(names.values()))
    assert label.mean == pytest.approx(total / expected.records, rel=1e-15)
    assert (label.min, label.max, label.num_zeros) == (0, 2, names["a"])
    word = told["word"].string_stats
    assert expected.features["word"].top is not None
    assert [(top.value, int(top.frequency)) for top in word.top_values] == [
        (top.value, top.count) for top in expected.features["word"].top.values
    ]


def test_packed_records_have_the_same_statistics(rows: Path, statistics: Statistics, tmp_path: Path) -> None:
    result = prepare(rows, tmp_path, ("label: kind\n", "label: kind\npack: true\n"))
    packed = read_statistics(result.path)
    for name, split in packed.splits.items():
        assert split.features == statistics.splits[name].features


def test_without_statistics_the_rest_is_the_same(rows: Path, version: Path, tmp_path: Path) -> None:
    result = prepare(rows, tmp_path, ("label: kind\n", "label: kind\nstatistics: false\n"))
    found, expected = digests(Path(result.path)), digests(version)
    assert verify(result.path).ok
    gone = {name for name in expected if "statistics" in name}
    assert gone == {STATISTICS, *(tfmd_statistics_name(split) for split in ("train", "test"))}
    assert found.keys() == expected.keys() - gone
    assert all(found[name] == expected[name] for name in found.keys() - {"manifest.json"})
    assert not list(tmp_path.rglob(".headrace/statistics-*"))


def test_a_version_without_statistics_gets_them_from_its_shards(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(version, copy)
    expected = (copy / STATISTICS).read_text()
    (copy / STATISTICS).unlink()
    assert main(["statistics", f"file://{copy}", "--json"]) == 0
    assert capsys.readouterr().out == expected
    assert main(["statistics", str(copy)]) == 0
    assert "computed from its shards" in capsys.readouterr().out


def test_a_later_version_has_the_statistics_of_one_from_scratch(tmp_path: Path) -> None:
    """Two of three shards are links, whose statistics are not made again, and are found even if they are lost."""
    data = make_data(tmp_path / "data")
    run(make_job(data), tmp_path / "out")
    first = {path.name: path.read_bytes() for path in tmp_path.glob("out/cells/.headrace/statistics-1.0.0/*")}
    assert len(first) == 6
    (data / "photos" / "a" / "photo0000.jpg").unlink(missing_ok=True)
    (data / "photos" / "a" / "photo0000.png").unlink(missing_ok=True)
    for out, later in (("out", "2.0.0"), ("scratch", "2.0.0"), ("out", "3.0.0")):
        if later == "3.0.0":
            shutil.rmtree(tmp_path / "out" / "cells" / ".headrace" / "statistics-2.0.0")
        run(make_job(data, **{"version: 1.0.0": f"version: {later}"}), tmp_path / out)
    second = tmp_path / "out" / "cells" / "2.0.0"
    assert (second / STATISTICS).read_bytes() != (tmp_path / "out/cells/1.0.0" / STATISTICS).read_bytes()
    assert digests(second) == digests(tmp_path / "scratch" / "cells" / "2.0.0")
    third = tmp_path / "out" / "cells" / "3.0.0"
    assert (second / STATISTICS).read_bytes() == (third / STATISTICS).read_bytes()
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("out/cells/.headrace/statistics-3.0.0/*")}
    assert sum(first.get(name) == data for name, data in kept.items()) == 5


def test_statistics_of_removed_versions_go(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    run(make_job(data), tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "cells" / "1.0.0")
    run(make_job(data, **{"version: 1.0.0": "version: 2.0.0"}), tmp_path / "out")
    names = {path.name for path in tmp_path.glob("out/cells/.headrace/statistics-*") if list(path.iterdir())}
    assert names == {"statistics-2.0.0"}


def test_images_are_measured(tmp_path: Path) -> None:
    result = run(make_job(make_data(tmp_path / "data")), tmp_path / "out")
    split = read_statistics(result.path).splits["train"]
    images = split.features["image"].images
    assert images is not None
    assert set(images.formats) == {"jpeg", "png"}
    assert sum(images.formats.values()) == split.records
    for numbers, size in ((images.height, 20), (images.width, 24), (images.channels, 3)):
        assert numbers is not None
        assert (numbers.count, numbers.min, numbers.max) == (split.records, size, size)
    assert images.brightness is not None
    assert 0 < images.brightness.count <= split.records
    assert images.brightness.mean == pytest.approx(127.5, abs=5)  # of noise
    text = io.StringIO()
    print_statistics(result.manifest, read_statistics(result.path), out=text)
    assert "jpeg" in text.getvalue()


def test_statistics_for_people(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statistics", str(version), "--split", "train"]) == 0
    text = capsys.readouterr().out
    for piece in ("Numbers", "Classes", "a ", "never 0", "about", '"grün"', "NaN", "▁"):
        assert piece in text
    assert "test: " not in text
    assert main(["statistics", str(version), "--split", "nowhere"]) == 1
    assert "no such split" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "class", "statistics"])
def test_damaged_files_are_errors(damage: str, version: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(version, copy)
    shard = copy / "table-test.tfrecord-00000-of-00001"
    if damage == "statistics":
        (copy / STATISTICS).write_text(json.dumps({"format": "headrace-statistics", "format_version": 1}))
        match = "damaged"
    else:
        (copy / STATISTICS).unlink()
        data = shard.read_bytes()
        if damage == "cut":
            shard.write_bytes(data[:-1])
            match = "not as long as its index"
        else:
            shard.write_bytes(data[:12] + b"\xff" * 200 + data[212:])
            match = "cannot be read"
    with pytest.raises(HeadraceError, match=match):
        statistics_of(str(copy))


@pytest.mark.parametrize("packed", ["", "pack: true"])
def test_defaults_are_counted(packed: str, tmp_path: Path) -> None:
    """Of a later version that takes shards over as well, with and without the statistics that it finds there."""
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "key,a,b,c\n" + "".join(f"k{i},{'' if i % 4 else i},{i},{'' if i % 3 else 'x'}\n" for i in range(400))
    )
    job = f"""
name: table
version: 1.0.0
vars: {{data: unset}}
sources: {{rows: {{kind: csv, path: "${{data}}", key: key, partition_bytes: 1000}}}}
features:
  a: {{type: int64, default: 7}}
  b: {{type: int64, default: 7}}
  c: {{type: text, default: none}}
  pair: {{type: float32, from: [a, b], default: 0}}
  plain: {{type: int64, from: b}}
write: {{shards: 2}}
{packed}
"""
    found = []
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        if version == "3.0.0":
            shutil.rmtree(tmp_path / "out" / "table" / ".headrace" / "statistics-2.0.0")
        (tmp_path / "job.yaml").write_text(job.replace("1.0.0", version))
        result = run(load_job(tmp_path / "job.yaml", {"data": str(rows)}), tmp_path / "out")
        features = read_statistics(result.path).splits["train"].features
        found.append({name: feature.defaulted for name, feature in features.items()})
        assert result.taken_over["shards"] == (0 if version == "1.0.0" else 2)
    assert found == [{"a": 300, "b": 0, "c": 266, "pair": 300, "plain": None}] * 3
