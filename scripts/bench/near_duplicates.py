#!/usr/bin/env python3
"""Near-duplicates of images: how many planted ones are found, how many finds are wrong, and how the time grows.

Real images, of which one in five is planted again: cropped by up to a tenth at each side, encoded anew at a quality of
30 to 95, resized to 0.5 to 2 times, or all three. The images of make_data.py are windows of nine photos themselves, so
many of them are near-duplicates without being planted. Where each comes from is known, so every pair that is found is
judged: it is wrong if the two show different photos (one mirrored is another photo), or if what both show is less
than 60 % of what they show together; a crop of a tenth at each side leaves 64 %.

The cost is the processor time of finding clusters among signatures that have the spectra of real ones, but other
phases: pictures that have nothing in common but what all photos have.

Examples:
  python scripts/bench/near_duplicates.py
  python scripts/bench/near_duplicates.py --count 2000 --signatures 1000
"""

from __future__ import annotations

import io
import random
import sys
import time
from pathlib import Path

import common
import make_data
import numpy as np
import numpy.typing as npt
from PIL import Image

from beam_jobs.duplicates.buckets import Buckets
from beam_jobs.duplicates.find import compared, find_clusters
from beam_jobs.duplicates.gathered import RECORD, Gathered
from beam_jobs.duplicates.images import KEY_BITS, NO_KEY, SLACK, THUMBNAIL, distances, thumbnail, window_keys
from beam_jobs.facts import Picture
from schemas.duplicates import Check, Near
from schemas.features import Feature, ImageFeature

KINDS = ("cropped", "encoded anew", "resized", "all three")
SHARED = 0.6  # of what two images show together, at least, for a pair that is right
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=Path, default=common.ROOT / "data/bench/images")
    parser.add_argument("--photos", type=Path, default=common.ROOT / "data/photos")
    parser.add_argument("--count", type=int, default=10_000, help="of the images that are taken")
    parser.add_argument("--signatures", type=int, default=10_000, help="at 1×, for the cost")
    parser.add_argument("--distance", type=float, default=Near(feature="image").distance)
    args = parser.parse_args()
    files = sorted(args.images.rglob("*.jpg"), key=lambda path: path.stem[-6:])[: args.count]
    if not files:
        sys.exit(f"no images in {args.images}: python scripts/bench/make_data.py images 13688 {args.images}")
    begun = time.perf_counter()
    sources = np.stack([thumbnail(Picture(file.read_bytes())) for file in files])
    each = (time.perf_counter() - begun) / len(files)
    windows = _windows(files, args.photos)
    planted, boxes = _plant(files, windows)
    common.note(
        f"{len(files):,} images, {each * 1e3:.2f} ms for the signature of one; {len(planted):,} planted"
    )
    goals = (
        []
        if args.count == 300
        else _quality(sources, planted, np.concatenate([windows, boxes]), args.distance)
    )
    goals += _cost(sources, args.signatures)
    common.report(args, [], goals)


def _windows(files: list[Path], photos: Path) -> Floats:
    """Of each image the number of its photo, twice, and one more if mirrored; left, top, right, bottom."""
    sizes = [Image.open(path).size for path in make_data.find_photos([photos])]
    found = []
    for file in files:
        window = make_data.draw_window(random.Random(f"0/{int(file.stem[-6:])}"), sizes)
        found.append((2 * window.photo + window.mirrored, *window.box))
    return np.array(found)


def _plant(files: list[Path], windows: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """The signatures of every fifth image, changed, and what they show."""
    rng = np.random.default_rng(0)
    found, boxes = [], []
    for place in range(0, len(files), 5):
        kind = KINDS[place // 5 % len(KINDS)]
        image = Image.open(files[place]).convert("RGB")
        box, quality = windows[place].copy(), 95
        if kind in ("cropped", "all three"):
            left, top, right, bottom = (
                round(s * n) for s, n in zip(rng.uniform(0, 0.1, 4), image.size * 2, strict=True)
            )
            cut = np.array([left, top, -right, -bottom])
            if box[0] % 2:  # mirrored: what is cut at the left is the photo's right
                cut = np.array([right, top, -left, -bottom])
            box[1:] += cut * np.tile(box[3:] - box[1:3], 2) / np.tile(image.size, 2)
            image = image.crop((left, top, image.width - right, image.height - bottom))
        if kind in ("resized", "all three"):
            scale = rng.uniform(0.5, 2)
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.BICUBIC)
        if kind in ("encoded anew", "all three"):
            quality = int(rng.integers(30, 96))
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=quality)
        found.append(thumbnail(Picture(sink.getvalue())))
        boxes.append(box)
    return np.stack(found), np.stack(boxes)


def _quality(
    sources: npt.NDArray[np.uint8], planted: npt.NDArray[np.uint8], windows: Floats, distance: float
) -> list[common.Goal]:
    """Recall of the planted pairs, and precision of all that is found."""
    every, count = np.concatenate([sources, planted]), len(sources)
    begun = time.perf_counter()
    pairs = _meeting(every)
    near = pairs[distances(every[pairs[:, 0]], every[pairs[:, 1]]) <= distance]
    seconds = time.perf_counter() - begun
    right = _shared(windows[near[:, 0]], windows[near[:, 1]]) >= SHARED
    own = near[near[:, 1] >= count]
    found = own[own[:, 0] == 5 * (own[:, 1] - count), 1] - count
    for place, kind in enumerate(KINDS):
        recall = (found % len(KINDS) == place).sum() / len(range(place, len(planted), len(KINDS)))
        common.note(f"{kind:<14} {recall:.4f} found")
    of_sources = near[:, 1] < count
    common.note(
        f"{len(pairs):,} pairs met, {len(near):,} are near-duplicates, {of_sources.sum():,} of them among the images; "
        f"{(~right).sum():,} are wrong, {(~right & ~of_sources).sum():,} with a planted one; {seconds:.1f} s"
    )
    return [
        common.Goal(f"recall of {len(planted):,} planted pairs", len(found) / len(planted), 0.95, True, ""),
        common.Goal(f"precision of {len(near):,} pairs found", float(right.mean()), 0.99, True, ""),
    ]


def _meeting(every: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """All pairs with a key in common, (n, 2): what a job compares, but for those that are in one cluster by then."""
    filed, asked = window_keys(every)
    with Buckets(filed.size + asked.size, bits=KEY_BITS, slack=SLACK) as buckets:
        for keys, asks in ((filed, False), (asked, True)):
            owners = np.repeat(np.arange(len(every)), keys.shape[1])[keys.ravel() != NO_KEY]
            buckets.add(keys.ravel()[keys.ravel() != NO_KEY], owners, asks=asks)
        found = [np.stack(pairs, axis=1) for pairs in buckets.pairs(among_all=False)]
    return np.unique(np.concatenate(found), axis=0)


def _shared(some: Floats, others: Floats) -> Floats:
    """How much of what two images show together both show."""
    sides = np.minimum(some[:, 3:], others[:, 3:]) - np.maximum(some[:, 1:3], others[:, 1:3])
    both = np.maximum(sides, 0).prod(axis=1)
    areas = [(each[:, 3:] - each[:, 1:3]).prod(axis=1) for each in (some, others)]
    return np.where(some[:, 0] == others[:, 0], both / (areas[0] + areas[1] - both), 0)


def _cost(sources: npt.NDArray[np.uint8], base: int) -> list[common.Goal]:
    """The time for 1, 4 and 16 times as many signatures."""
    features: dict[str, Feature] = {"image": ImageFeature(type="image")}
    check = compared(Check(near=Near(feature="image")), features)
    rng, seconds = np.random.default_rng(1), list[float]()
    for times in (1, 4, 16):
        count = base * times
        rows = np.zeros(count, [(check.fact, THUMBNAIL)])
        for start in range(0, count, 4096):
            size = min(4096, count - start)
            some = sources[rng.integers(0, len(sources), size)].astype(np.float64)
            rows[check.fact][start : start + size] = _with_other_phases(some, rng)
        gathered = Gathered(np.zeros(count, RECORD), rows, [0, count])
        begun = time.process_time()
        _, _, clusters = next(find_clusters(gathered, [check]))
        seconds.append(time.process_time() - begun)
        together = count - len(np.unique(clusters.roots(np.arange(count))))
        common.note(
            f"{count:>8,} signatures {seconds[-1]:8.2f} s  {seconds[-1] / count * 1e3:.3f} ms each; {together:,} joined"
        )
    return [
        common.Goal("time for 4 times as many signatures", seconds[1] / seconds[0], 8, False),
        common.Goal("time for 16 times as many signatures", seconds[2] / seconds[0], 64, False),
    ]


def _with_other_phases(some: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Pictures with as much of each frequency as these have, in other places: photos to all statistics of that kind."""
    means = some.mean(axis=(1, 2), keepdims=True)
    phases = np.angle(np.fft.rfft2(rng.normal(size=some.shape)))
    found = np.fft.irfft2(np.abs(np.fft.rfft2(some - means)) * np.exp(1j * phases), s=some.shape[1:])
    thumbnails: npt.NDArray[np.uint8] = np.clip(np.rint(found + means), 0, 255).astype(np.uint8)
    return thumbnails


if __name__ == "__main__":
    main()
