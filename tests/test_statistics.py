"""What statistics are made of: exact sums, quantiles and counts within their errors, records read side by side."""

from __future__ import annotations

import io
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_jobs.encode import encode_records, pack_columns
from beam_jobs.image_headers import FORMATS
from beam_jobs.statistics import canonical
from beam_jobs.statistics.accumulate import FeatureAccumulator, NumberStatistics
from beam_jobs.statistics.canonical import PADDING, Spans, gathered, read_columns, stored
from beam_jobs.statistics.distinct import MOST, DistinctCount, mixed, number_hashes
from beam_jobs.statistics.pictures import look_at
from beam_jobs.statistics.quantiles import MAX_POINTS, Quantiles, Summary, compress, summarise, tally
from beam_jobs.statistics.shard import Scan, ShardStatistics
from beam_jobs.statistics.sums import Sums
from beam_jobs.statistics.texts import hashes_and_characters
from beam_jobs.statistics.top import MOST as MOST_TOP
from beam_jobs.statistics.top import TopValues, counted
from schemas import HeadraceError
from schemas.features import (
    BoolFeature,
    BytesFeature,
    ClassLabelFeature,
    Feature,
    Float32Feature,
    ImageFeature,
    Int64Feature,
    TextFeature,
)
from schemas.packing import FLOAT32, INT64


def generator() -> np.random.Generator:
    """A generator of a seed that is printed."""
    seed = random.randrange(10**6)
    print("seed", seed)
    return np.random.default_rng(seed)


# --- sums ---

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50)
INTS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50)


def check_sums(values: np.ndarray[Any, Any]) -> None:
    sums = Sums.of(values.dtype)
    sums.add(values)
    exact = [Fraction(value) for value in values.tolist()]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    assert Fraction(sums.first) * Fraction(2) ** sums.unit == sum(exact)
    assert Fraction(sums.second) * Fraction(4) ** sums.unit == sum(value * value for value in exact)
    assert sums.mean == float(mean)
    assert sums.std == float(np.sqrt(float(variance)))


@given(FLOATS)
def test_sums_of_floats_are_exact(values: list[float]) -> None:
    check_sums(np.array(values, np.float32))


@given(INTS)
def test_sums_of_whole_numbers_are_exact(values: list[int]) -> None:
    check_sums(np.array(values, np.int64))


def test_sums_of_many_are_the_same_in_any_order_and_grouping() -> None:
    rng = generator()
    floats = (rng.normal(size=300_000) * 10.0 ** rng.integers(-30, 30, 300_000)).astype(np.float32)
    ints = rng.integers(-(2**63), 2**63 - 1, 300_000)
    for values in (floats, ints):
        one, other = Sums.of(values.dtype), Sums.of(values.dtype)
        one.add(values)
        for part in np.array_split(rng.permutation(values), 7):
            each = Sums.of(values.dtype)
            each.add(part)
            other.merge(each)
        assert one == other
        assert one.first == int(sum(Fraction(v) for v in values.tolist()) / Fraction(2) ** one.unit)


# --- quantiles ---


def summary_of(values: np.ndarray[Any, Any]) -> Summary:
    return compress(*tally(values)) if values.dtype == np.int64 else summarise(np.sort(values))


def check_ranks(summary: Summary, values: np.ndarray[Any, Any]) -> None:
    """The rank of every value is within the error that the summary states."""
    ordered = np.sort(values)
    true = np.searchsorted(ordered, ordered, side="right")
    ends = np.concatenate([[0], np.cumsum(summary.weights)])
    told = ends[np.searchsorted(summary.values, ordered, side="right")]
    assert int(np.abs(true - told).max()) <= summary.error
    assert ends[-1] == len(values)
    assert len(summary.values) <= MAX_POINTS


@pytest.mark.parametrize("kind", ["normal", "few", "heavy", "ids", "huge"])
@pytest.mark.parametrize("size", [1, 5, 3000, 400_000])
def test_ranks_are_within_the_stated_error(kind: str, size: int) -> None:
    rng = generator()
    values = {
        "normal": lambda: rng.normal(size=size).astype(np.float32),
        "few": lambda: rng.integers(0, 1000, size),
        "heavy": lambda: np.where(rng.random(size) < 0.5, 0.25, rng.random(size)).astype(np.float32),
        "ids": lambda: rng.permutation(size).astype(np.int64),
        "huge": lambda: rng.integers(-(2**63), 2**63 - 1, size),
    }[kind]()
    quantiles = Quantiles(values.dtype)
    for part in np.array_split(values, max(1, size // 20_000)):
        quantiles.add(summary_of(part))
    summary = quantiles.summary()
    check_ranks(summary, values)
    assert summary.error <= 0.0025 * size
    if kind == "few" or size <= MAX_POINTS:
        assert summary.error == 0
        # numpy's method "inverted_cdf", but for its rounding of 0.14 * 3000.
        places = [max(0, -(-size * percent // 100) - 1) for percent in range(101)]
        np.testing.assert_array_equal(summary.quantiles(101), np.sort(values)[places])


def test_merging_shards_keeps_the_error_known() -> None:
    rng = generator()
    values = rng.lognormal(size=2_000_000).astype(np.float32)
    whole = Quantiles(np.float32)
    for part in np.array_split(values, 100):
        shard = Quantiles(np.float32)
        for block in np.array_split(part, 3):
            shard.add(summarise(np.sort(block)))
        whole.add(shard.summary())
    check_ranks(whole.summary(), values)
    print("rank error", whole.summary().error / len(values))
    assert whole.summary().error / len(values) < 0.0025


# --- distinct ---


@pytest.mark.parametrize("count", [0, 1, MOST - 1, MOST, 50_000, 1_000_000])
def test_distinct_counts_are_within_four_standard_errors(count: int) -> None:
    rng = generator()
    hashes = mixed(rng.permutation(count).astype(np.uint64) + np.uint64(rng.integers(2**60)))
    distinct = DistinctCount()
    for part in np.array_split(np.concatenate([hashes, hashes[::2]]), 9):
        distinct.add(part)
    estimate, error = distinct.estimate
    assert (error == 0) == (count < MOST)
    assert abs(estimate - count) <= 4 * error * count


def test_distinct_counts_are_the_same_in_any_grouping() -> None:
    rng = generator()
    hashes = mixed(rng.integers(0, 20_000, 100_000).astype(np.uint64))
    together, merged = DistinctCount(), DistinctCount()
    together.add(hashes)
    for part in np.array_split(rng.permutation(hashes), 11):
        one = DistinctCount()
        one.add(part)
        merged.add(one.smallest)
    np.testing.assert_array_equal(together.smallest, merged.smallest)


def test_zeros_are_one_number_and_nan_is_none() -> None:
    distinct = DistinctCount()
    numbers = NumberStatistics(np.float32, distinct)
    numbers.add(np.array([0.0, -0.0, np.nan, 7.0], np.float32))
    numbers.add(np.array([-0.0, np.inf], np.float32))
    assert distinct.estimate == (2, 0.0)


def test_different_numbers_have_different_hashes() -> None:
    assert len(set(number_hashes(np.arange(-1000, 1000)).tolist())) == 2000


# --- top values ---


def test_top_values_are_within_the_stated_error() -> None:
    rng = generator()
    values = (rng.zipf(1.3, 300_000) % 100_000).astype(np.uint64)
    true = dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True))
    whole = TopValues()
    for shard in np.array_split(values, 5):
        top = TopValues()
        for part in np.array_split(shard, 4):
            keys, counts = counted(part)
            top.add(keys, counts)
        whole.merge(top)
    assert 0 < whole.error <= len(values) / MOST_TOP
    assert len(whole.keys) <= MOST_TOP
    for key, count in zip(whole.keys.tolist(), whole.counts.tolist(), strict=True):
        assert count <= true[key] <= count + whole.error
    missing = max(count for key, count in true.items() if key not in set(whole.keys.tolist()))
    assert missing <= whole.error


def test_few_values_are_counted_exactly_with_their_texts() -> None:
    top = TopValues()
    keys = np.array([5, 9], np.uint64)
    for _ in range(3):
        top.add(keys, np.array([1, 2]), lambda place: [b"five", b"nine"][place])
    other = TopValues()
    other.merge(top)
    assert other.error == 0
    assert dict(zip(other.keys.tolist(), other.counts.tolist(), strict=True)) == {5: 3, 9: 6}
    assert other.texts == {5: b"five", 9: b"nine"}


# --- texts ---


def spans_of(values: list[bytes]) -> Spans:
    sizes = np.array([len(value) for value in values], np.int64)
    data = np.frombuffer(b"".join(values) + bytes(range(1, 256)) * 3, np.uint8)
    return Spans(data, np.cumsum(sizes) - sizes, sizes)


@given(st.lists(st.text(max_size=400), min_size=1, max_size=20))
def test_a_texts_hash_and_characters_depend_on_it_alone(texts: list[str]) -> None:
    values = [text.encode() for text in texts]
    hashes, characters = hashes_and_characters(spans_of(values), True)
    assert characters.tolist() == [len(text) for text in texts]
    for value, found in zip(values, hashes.tolist(), strict=True):
        assert hashes_and_characters(spans_of([value]), True)[0].tolist() == [found]
    assert len(set(hashes.tolist())) == len(set(values))


# --- numbers ---


def test_numbers_that_are_not_finite_are_counted_apart() -> None:
    numbers = NumberStatistics(np.float32)
    numbers.add(np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 2.0], np.float32))
    found = numbers.result()
    assert (found.count, found.nan, found.infinite, found.zeros) == (3, 1, 2, 2)
    assert (found.min, found.max, found.quantiles[50]) == (0.0, 2.0, 0.0)


def test_no_number_and_one_number() -> None:
    numbers = NumberStatistics(np.int64)
    numbers.add(np.zeros(0, np.int64))
    assert numbers.result().count == 0
    numbers.add(np.array([-(2**63)]))
    found = numbers.result()
    assert found.min == found.max == found.quantiles[0] == -(2**63)
    assert found.std == 0.0
    assert found.histogram is not None
    assert found.histogram.counts == [1]


def test_bins_of_whole_numbers_are_whole() -> None:
    numbers = NumberStatistics(np.int64)
    numbers.add(np.arange(24))
    histogram = numbers.result().histogram
    assert histogram is not None
    assert histogram.edges == [2 * step - 0.5 for step in range(13)]
    assert histogram.counts == [2] * 12
    numbers.add(np.array([-(2**63), 2**63 - 1]))
    histogram = numbers.result().histogram
    assert histogram is not None
    assert sum(histogram.counts) == 26


# --- records ---

FEATURES: dict[str, Feature] = {
    "a_number": Float32Feature(type="float32"),
    "b_vector": Float32Feature(type="float32", shape=(3,)),
    "c_list": Float32Feature(type="float32", shape=(None,)),
    "d_whole": Int64Feature(type="int64"),
    "e_pair": Int64Feature(type="int64", shape=(2,)),
    "f_list": Int64Feature(type="int64", shape=(None,)),
    "g_label": ClassLabelFeature(type="class_label", names=["x", "y"]),
    "h_bool": BoolFeature(type="bool"),
    "i_text": TextFeature(type="text"),
    "j_bytes": BytesFeature(type="bytes"),
    "k" * 100: Int64Feature(type="int64"),
    "small": Int64Feature(type="int64"),
}


def binary(values: list[bytes]) -> pa.Array:
    return pa.array(values, pa.large_binary())


def columns_of(rng: np.random.Generator, rows: int) -> dict[str, pa.Array]:
    """Values of every kind, huge, negative and empty ones among them."""

    def lists(values: Any, sizes: Any) -> pa.Array:
        return pa.LargeListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)), pa.array(values)
        )

    def whole(count: int) -> Any:
        return rng.integers(-(2**63), 2**63 - 1, count) >> rng.integers(0, 63, count)

    sizes, others = rng.integers(0, 5, rows), rng.integers(0, 90, rows)
    return {
        "a_number": pa.array(rng.normal(size=rows).astype(np.float32)),
        "b_vector": lists(rng.normal(size=3 * rows).astype(np.float32), np.full(rows, 3)),
        "c_list": lists(rng.normal(size=int(others.sum())).astype(np.float32), others),
        "d_whole": pa.array(whole(rows)),
        "e_pair": lists(whole(2 * rows), np.full(rows, 2)),
        "f_list": lists(whole(int(sizes.sum())), sizes),
        "g_label": pa.array(rng.integers(0, 2, rows)),
        "h_bool": pa.array(rng.integers(0, 2, rows)),
        "i_text": binary([("ü☃a" * int(n)).encode() for n in rng.integers(0, 150, rows)]),
        "j_bytes": binary([rng.bytes(int(n)) for n in rng.integers(0, 700, rows)]),
        "k" * 100: pa.array(whole(rows)),
        "small": pa.array(rng.integers(0, 100, rows)),
    }


def framed(columns: dict[str, pa.Array]) -> tuple[Any, Any]:
    records, sizes = encode_records(columns)
    return np.frombuffer(records.buffers()[2], np.uint8), sizes.astype(np.int64)


def read(data: Any, sizes: Any, form: dict[str, canonical.Stored]) -> dict[str, canonical.Column]:
    padded = np.concatenate([data, np.full(PADDING, 0xFF, np.uint8)])
    stops = np.cumsum(sizes)
    return read_columns(padded, stops - sizes + 12, stops - 4, form, "shard")


def check_column(column: canonical.Column, expected: pa.Array) -> None:
    if isinstance(column.values, Spans):
        spans = column.values
        found = [
            spans.data[a : a + n].tobytes()
            for a, n in zip(spans.starts.tolist(), spans.sizes.tolist(), strict=True)
        ]
        assert found == expected.to_pylist()
        return
    flat = expected.values if pa.types.is_large_list(expected.type) else expected
    np.testing.assert_array_equal(column.values, flat.to_numpy(zero_copy_only=False))
    if column.counts is not None and pa.types.is_large_list(expected.type):
        assert column.counts.tolist() == [len(value) for value in expected.to_pylist()]


@pytest.mark.parametrize("rows", [1, 2, 500])
def test_columns_are_what_was_encoded(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = columns_of(generator(), rows)
    data, sizes = framed(columns)

    def refuse(*_: object) -> None:
        raise AssertionError("our own records must not be read as those of others")

    monkeypatch.setattr(canonical, "_read_any", refuse)
    found = read(data, sizes, stored(FEATURES, {}))
    assert found.keys() == columns.keys()
    for name, column in found.items():
        check_column(column, columns[name])


def test_packed_columns_are_what_was_encoded() -> None:
    rng = generator()
    features: dict[str, Feature] = {name: Int64Feature(type="int64") for name in ("a", "b")}
    features |= {name: Float32Feature(type="float32") for name in ("c", "d", "e")}
    packing = {FLOAT32: ["c", "d", "e"], INT64: ["a", "b"]}
    columns = {
        name: pa.array(rng.integers(-5, 10**12, 50) if name < "c" else rng.random(50).astype(np.float32))
        for name in features
    }
    data, sizes = framed(pack_columns(columns, packing))
    statistics = ShardStatistics(features, packing)
    Scan(statistics, sizes, "shard").take([data])
    for name, found in statistics.results().items():
        values = columns[name].to_numpy()
        assert found.numbers is not None
        assert found.numbers.max == values.max()
        assert found.numbers.mean == pytest.approx(values.astype(np.float64).mean(), rel=1e-12)


def test_records_of_another_form_are_read_all_the_same() -> None:
    columns = columns_of(generator(), 20)
    names = sorted(columns)
    # As the writer has them, but for one feature that lies in another place.
    swapped = dict(zip(names, [columns[name] for name in names], strict=True))
    data, sizes = framed({**{name: swapped[name] for name in names}, "zz_more": pa.array(np.arange(20))})
    found = read(data, sizes, stored(FEATURES, {}))
    for name, column in found.items():
        check_column(column, columns[name])


def test_missing_features_are_counted() -> None:
    columns = columns_of(generator(), 20)
    data, sizes = framed({"a_number": columns["a_number"]})
    statistics = ShardStatistics(FEATURES, {})
    Scan(statistics, sizes, "shard").take([data])
    found = statistics.results()
    assert (found["a_number"].count, found["a_number"].missing) == (20, 0)
    assert (found["i_text"].count, found["i_text"].missing) == (0, 20)
    assert found["d_whole"].numbers is not None
    assert found["d_whole"].numbers.count == 0


def test_damaged_records_are_an_error_never_a_crash() -> None:
    rng = generator()
    columns = columns_of(rng, 30)
    data, sizes = framed(columns)
    form = stored(FEATURES, {})
    refused = 0
    for _ in range(300):
        damaged = data.copy()
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        try:
            read(damaged, sizes, form)
        except HeadraceError:
            refused += 1
    print("refused", refused)
    assert refused > 0


@pytest.mark.parametrize("alike", [True, False])
def test_damaged_records_are_never_read_as_something_else(alike: bool) -> None:
    """Where records are read side by side, they are read as one by one."""
    rng = generator()
    rows = 300
    columns = columns_of(rng, rows)
    if alike:  # all of one layout, but for a number that has two bytes in a few of them
        columns = {name: columns[name] for name in ("a_number", "b_vector", "g_label", "small")}
        columns["code"] = binary([b"%06d" % n for n in range(rows)])
        columns["d_whole"] = pa.array(np.where(rng.random(rows) < 0.01, 300, 7))
        columns["e_large"] = pa.array(rng.integers(2**40, 2**41, rows))
    features = {**FEATURES, "code": TextFeature(type="text"), "e_large": Int64Feature(type="int64")}
    form = stored({name: features[name] for name in columns}, {})
    data, sizes = framed(columns)
    padded = np.concatenate([data, np.full(PADDING, 0xFF, np.uint8)])
    stops = np.cumsum(sizes)
    starts, ends = stops - sizes + 12, stops - 4
    for name, column in read_columns(padded, starts, ends, form, "shard").items():
        check_column(column, columns[name])
    same = 0
    for _ in range(200):
        damaged = padded.copy()
        for record in rng.integers(0, rows, rng.integers(1, 3)):
            damaged[rng.integers(starts[record], ends[record])] ^= 1 << rng.integers(0, 8)
        try:
            wanted = canonical._read_any(damaged, starts, ends, form, "shard")
        except HeadraceError:
            continue
        found = read_columns(damaged, starts, ends, form, "shard")
        for name, column in found.items():
            if isinstance(column.values, Spans):
                assert isinstance(wanted[name].values, Spans)
                assert gathered(column.values).tobytes() == gathered(wanted[name].values).tobytes()
            else:
                np.testing.assert_array_equal(column.values, wanted[name].values)
        same += 1
    print("same", same)
    assert same > 20


def test_a_class_that_does_not_exist_is_an_error() -> None:
    features: dict[str, Feature] = {"label": ClassLabelFeature(type="class_label", names=["x"])}
    data, sizes = framed({"label": pa.array([0, 1])})
    with pytest.raises(HeadraceError, match="stands for no class"):
        Scan(ShardStatistics(features, {}), sizes, "shard").take([data])


# --- shards ---


def test_parts_of_any_size_give_the_same_bytes() -> None:
    rng = generator()
    data, sizes = framed(columns_of(rng, 3000))
    whole = ShardStatistics(FEATURES, {})
    Scan(whole, sizes, "shard").take([data])
    parts = ShardStatistics(FEATURES, {})
    cuts = np.sort(rng.integers(0, len(data), 50))
    Scan(parts, sizes, "shard").take(np.split(data, cuts))
    assert whole.encode() == parts.encode()
    # Lying anywhere in memory, with anything behind.
    lies = rng.permutation(len(sizes))
    starts = np.empty(len(sizes), np.int64)
    starts[lies] = np.cumsum(sizes[lies]) - sizes[lies]
    records = np.split(data, np.cumsum(sizes)[:-1])
    behind = np.full(PADDING, 0xFF, np.uint8)
    there = ShardStatistics(FEATURES, {})
    there.add(np.concatenate([*(records[place] for place in lies), behind]), starts, sizes, "shard")
    assert whole.encode() == there.encode()


def test_what_is_kept_of_a_shard_is_all_of_it() -> None:
    data, sizes = framed(columns_of(generator(), 3000))
    statistics = ShardStatistics(FEATURES, {})
    Scan(statistics, sizes, "shard").take([data])
    encoded = statistics.encode()
    again = ShardStatistics(FEATURES, {})
    assert again.merge(encoded)
    assert again.results() == statistics.results()
    assert again.encode() == encoded


@pytest.mark.parametrize("damage", [b"", b"x" * 40, "cut", "flip"])
def test_damaged_statistics_of_a_shard_are_not_merged(damage: bytes | str) -> None:
    data, sizes = framed(columns_of(generator(), 10))
    statistics = ShardStatistics(FEATURES, {})
    Scan(statistics, sizes, "shard").take([data])
    encoded = statistics.encode()
    flipped = encoded[:100] + bytes([encoded[100] ^ 1]) + encoded[101:]
    bad = {"cut": encoded[:-1], "flip": flipped}.get(str(damage), damage)
    assert isinstance(bad, bytes)
    empty = ShardStatistics(FEATURES, {})
    assert not empty.merge(bad)
    assert all(feature.count == 0 for feature in empty.results().values())


# --- images ---


def encoded(pixels: np.ndarray[Any, Any], kind: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()


def test_images_are_measured_and_bad_ones_only_counted() -> None:
    rng = generator()
    ramp = np.broadcast_to(np.linspace(0, 250, 96).astype(np.uint8)[:, None, None], (96, 72, 3))
    noise = rng.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    jpeg, png = encoded(ramp, "jpeg"), encoded(noise, "png")
    cut = jpeg[:-60] + b"\xff\xd9"
    found = look_at(spans_of([jpeg, png, cut, b"", b"no image", jpeg[:30]]), decode=True)
    kinds = [*FORMATS, "unknown"]
    assert [kinds[kind] for kind in found["format"]] == ["jpeg", "png", "jpeg", "unknown", "unknown", "jpeg"]
    sizes = [(96, 72, 3), (40, 50, 4), (96, 72, 3), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    assert found[["height", "width", "channels"]].tolist() == sizes
    statistics = FeatureAccumulator(
        ImageFeature(type="image", formats=["jpeg", "png"], shape=(None, None, 3))
    )
    statistics.add_pictures(found)
    images = statistics.result().images
    assert images is not None
    assert images.formats == {"jpeg": 3, "png": 1, "unknown": 2}
    assert images.height is not None
    assert images.height.count == 3


def test_some_images_are_decoded_which_their_bytes_choose() -> None:
    rng = generator()
    noise = [rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(400)]
    images = [encoded(pixels, "png") for pixels in noise]
    found = look_at(spans_of(images), decode=True)["brightness"]
    looked = np.flatnonzero(~np.isnan(found))
    assert 20 < len(looked) < 100  # of 400, one in eight
    means = [np.asarray(Image.fromarray(noise[place]).convert("L")).mean() for place in looked]
    assert found[looked] == pytest.approx(means, abs=0.01)
    order = rng.permutation(len(images))
    again = look_at(spans_of([images[place] for place in order]), decode=True)["brightness"]
    np.testing.assert_array_equal(again, found[order])
    assert np.isnan(look_at(spans_of(images), decode=False)["brightness"]).all()


def test_brightness_of_a_jpeg_is_that_of_its_blocks() -> None:
    ramp = np.broadcast_to(np.linspace(0, 250, 96).astype(np.uint8)[:, None, None], (96, 72, 3))
    rng = generator()
    noisy = [ramp + rng.integers(0, 5, ramp.shape) for _ in range(80)]
    images = [encoded(pixels.astype(np.uint8), "jpeg") for pixels in noisy]
    found = look_at(spans_of(images), decode=True)["brightness"]
    looked = np.flatnonzero(~np.isnan(found))
    assert len(looked)
    means = [np.asarray(Image.open(io.BytesIO(images[place])).convert("L")).mean() for place in looked]
    assert found[looked] == pytest.approx(means, abs=2)
