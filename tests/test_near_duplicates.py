"""What finds duplicates, function by function: signatures, who meets whom, clusters."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.duplicates import buckets as buckets_module
from beam_jobs.duplicates.buckets import Buckets, Clusters, link
from beam_jobs.duplicates.images import (
    KEY_BITS,
    NO_KEY,
    SLACK,
    distances,
    thumbnail,
    window_keys,
)
from beam_jobs.duplicates.signatures import content_hashes
from beam_jobs.duplicates.texts import (
    EMPTY,
    HASHES,
    band_keys,
    bands_for,
    equal_minima,
    signatures,
)
from beam_jobs.facts import Picture
from tests.jobs.test_duplicates import HOW, picture, varied

PINNED_IMAGES = ["47ffd332450ba445", "a2aed4d46c3f330a", "9dece12ce0fa309c"]
PINNED_TEXT = "d7a57102c8dd9ecc"


def thumbnails(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of pictures, and of a variation of each."""
    rng = np.random.default_rng(seed)
    images = [picture(rng) for _ in range(count)]
    again = [varied(image, HOW[1 + place % 3], rng) for place, image in enumerate(images)]
    first = [varied(image, "same", rng) for image in images]
    return tuple(np.stack([thumbnail(Picture(data)) for data in each]) for each in (first, again))  # type: ignore[return-value]


def met(keys: tuple[np.ndarray, np.ndarray]) -> set[tuple[int, int]]:
    with Buckets(1, bits=KEY_BITS, slack=SLACK) as found:
        for each, asks in zip(keys, (False, True), strict=True):
            owners = np.repeat(np.arange(len(each)), each.shape[1])[each.ravel() != NO_KEY]
            found.add(each.ravel()[each.ravel() != NO_KEY], owners, asks=asks)
        pairs = list(found.pairs(among_all=False))
    return {pair for some, others in pairs for pair in zip(some.tolist(), others.tolist(), strict=True)}


def test_varied_pictures_meet_and_are_close_and_others_are_not() -> None:
    first, again = thumbnails(60, seed=3)
    pairs = met(window_keys(np.concatenate([first, again])))
    planted = {(number, number + 60) for number in range(60)}
    assert len(planted - pairs) <= 1
    assert np.sort(distances(first, again))[-2] < 0.02
    assert distances(first, np.roll(again, 1, axis=0)).min() > 0.3
    assert (distances(first, again) == distances(again, first)).all()


def test_flat_pictures_are_like_nothing() -> None:
    flat = np.full((2, 32, 32), 17, np.uint8)
    flat[1, 3, 3] = 20
    filed, asked = window_keys(flat)
    assert (filed == NO_KEY).all()
    assert (asked == NO_KEY).all()
    assert (distances(flat, flat) == 2).all()
    assert (distances(flat, thumbnails(2, 0)[0]) == 2).all()


def test_keys_and_distances_are_pinned() -> None:
    """Whole numbers throughout: the same on any machine."""
    rng = np.random.default_rng(5)
    some = rng.integers(0, 256, (20, 32, 32), dtype=np.uint8)
    others = np.clip(some.astype(int) + rng.integers(-40, 40, some.shape), 0, 255).astype(np.uint8)
    filed, asked = window_keys(some)
    found = [filed.tobytes(), asked.tobytes(), distances(some, others).tobytes()]
    assert [hashlib.sha256(data).hexdigest()[:16] for data in found] == PINNED_IMAGES


def words(rng: np.random.Generator, count: int) -> list[str]:
    return [f"w{n}" for n in rng.integers(0, 3000, count)]


def jaccard(some: list[str], others: list[str], size: int = 3) -> float:
    one, other = (
        {tuple(each[i : i + size]) for i in range(max(1, len(each) - size + 1))} for each in (some, others)
    )
    return len(one & other) / len(one | other)


def column(texts: list[str]) -> pa.Array:
    return pa.array([text.encode() for text in texts], pa.large_binary())


def test_minima_estimate_jaccard_and_bands_find_what_is_similar() -> None:
    rng = np.random.default_rng(1)
    first = [words(rng, int(rng.integers(20, 200))) for _ in range(600)]
    again = []
    for text in first:
        edited = list(text)
        for place in rng.integers(0, len(text), int(rng.integers(0, 1 + len(text) // 15))):
            edited[place] = "edited"
        again.append(edited)
    some, others = (
        signatures(column([" ".join(text) for text in each]), "words", 3) for each in (first, again)
    )
    true = np.array([jaccard(a, b) for a, b in zip(first, again, strict=True)])
    estimate = equal_minima(some, others) / HASHES
    error = np.sqrt(true * (1 - true) / HASHES)
    assert np.abs(estimate - true).max() < 0.2
    assert np.abs(estimate - true).mean() < error.mean() + 0.005
    assert abs((estimate - true).mean()) < 0.01
    similar = estimate >= 0.8
    assert similar.sum() > 100
    shared = (band_keys(some, 0.8) == band_keys(others, 0.8)).any(axis=1)
    assert shared[similar].mean() >= 0.99
    strangers = (band_keys(some, 0.8)[1:] == band_keys(some, 0.8)[:-1]).any(axis=1)
    assert strangers.mean() < 0.01


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.95, 1.0])
def test_bands_are_as_long_as_recall_allows(similarity: float) -> None:
    bands, rows = bands_for(similarity)
    assert bands * rows <= HASHES
    assert 1 - (1 - similarity**rows) ** bands >= 0.99
    longer = rows + 1
    assert longer > HASHES or 1 - (1 - similarity**longer) ** (HASHES // longer) < 0.99


@pytest.mark.parametrize(("shingle", "size"), [("words", 3), ("characters", 5)])
def test_layout_and_case_do_not_matter_and_what_is_empty_is_like_nothing(shingle: str, size: int) -> None:
    texts = [
        "Ärger über 12 Dinge, die fehlen",
        "ärger  über\n12 dinge! die FEHLEN.",
        "",
        " .,! ",
        "kurz",
        "Kurz",
    ]
    found = signatures(column(["before", *texts]).slice(1), shingle, size)  # type: ignore[arg-type]
    same = [(a, b) for a, b in itertools.combinations(range(6), 2) if (found[a] == found[b]).all()]
    assert same == [(0, 1), (2, 3), (4, 5)]
    assert (found[2:4] == EMPTY).all()
    assert equal_minima(found[:1], found[4:5])[0] < 8


def test_a_text_has_the_same_signature_whatever_it_is_batched_with() -> None:
    rng = np.random.default_rng(2)
    texts = [" ".join(words(rng, int(rng.integers(0, 40)))) for _ in range(50)]
    for shingle in ("words", "characters"):
        together = signatures(column(texts), shingle, 4)
        alone = np.concatenate([signatures(column([text]), shingle, 4) for text in texts])
        assert (together == alone).all()
    digest = hashlib.sha256(signatures(column(["one two three four"] * 2), "words", 3).tobytes())
    assert digest.hexdigest()[:16] == PINNED_TEXT


def test_content_hashes_are_of_the_named_features_alone() -> None:
    columns = {
        "a": column(["x", "x", "y"]),
        "n": pa.array([1, 1, 1]),
        "other": pa.array([1.0, 2.0, 3.0], pa.float32()),
    }
    found = [row.tobytes() for row in content_hashes(columns, ["a", "n"])]
    assert found[0] == found[1] != found[2]
    assert len({row.tobytes() for row in content_hashes(columns, ["a", "n", "other"])}) == 3


def test_buckets_pair_what_has_a_key_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets_module, "_PART_ENTRIES", 100)
    rng = np.random.default_rng(4)
    keys = rng.integers(0, 300, 500).astype(np.uint64)
    with Buckets(len(keys)) as buckets:
        for part in np.array_split(np.arange(500), 7):
            buckets.add(keys[part], part)
        found = list(buckets.pairs(among_all=True))
    clusters = Clusters(500)
    link(clusters, iter(found), lambda some, _: np.ones(len(some), np.bool_))
    together = defaultdict(set)
    for number, root in enumerate(clusters.roots(np.arange(500)).tolist()):
        together[root].add(number)
    expected = defaultdict(set)
    for number, key in enumerate(keys.tolist()):
        expected[key].add(number)
    assert sorted(map(sorted, together.values())) == sorted(map(sorted, expected.values()))
    assert all(root == min(numbers) for root, numbers in together.items())


def test_a_bucket_of_any_size_costs_no_square() -> None:
    """All keys alike: each is compared with the first few, whether or not they are alike."""
    count, calls = 5_000, []
    clusters = Clusters(count)

    def alike(some: np.ndarray, _: np.ndarray) -> np.ndarray:
        calls.append(len(some))
        return np.ones(len(some), np.bool_)

    with Buckets(count) as buckets:
        buckets.add(np.zeros(count, np.uint64), np.arange(count))
        compared = sum(len(some) for some, _ in buckets.pairs(among_all=True))
        assert compared <= count * buckets_module._LEADERS
        link(clusters, buckets.pairs(among_all=True), alike)
    assert sum(calls) == count - 1
    assert (clusters.roots(np.arange(count)) == 0).all()
