#!/usr/bin/env python3
"""Make the data the benchmarks run on: the same bytes for the same seed.

  images    JPEGs of 500 x 375, about 40 KB each: seeded crops, flips and colour changes of real photos
            that scikit-image and scikit-learn ship, in ten class folders
  table     a CSV of numbers and short texts, as tabular data look: 18 columns and a key
  parquet   such a CSV as Parquet, as pyarrow writes it by itself
  multiply  a folder of images blown up to a size, under other names: real copies or hard links

Examples:
  python scripts/bench/make_data.py images 13688 data/bench/images
  python scripts/bench/make_data.py table 300000 data/bench/table.csv
  python scripts/bench/make_data.py multiply data/bench/images data/bench/images-2GB --size 2GB
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from schemas.units import format_bytes, parse_bytes

CLASSES = ("barrow", "channel", "flume", "gate", "mill", "penstock", "race", "sluice", "weir", "wheel")
SIZE = (500, 375)
QUALITY = 86  # chosen so that the mean is that of ImageNet-like photos: 570 MB for 13,688
PHOTOS = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/ihc.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/motorcycle_right.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
_photos: list[Image.Image] = []


def find_photos(places: list[Path]) -> list[Path]:
    """The photos, from the first of `places` (site-packages and the like) that has each."""
    found = []
    for name in PHOTOS:
        here = [place / name for place in places if (place / name).is_file()]
        if not here:
            lookup = ", ".join(str(p) for p in places)
            sys.exit(
                f"{name} is in none of: {lookup}.\n"
                "  python -m pip install --no-deps --target data/photos -r scripts/bench/requirements.txt"
            )
        found.append(here[0])
    return found


def _load(paths: list[Path]) -> None:
    _photos[:] = [Image.open(path).convert("RGB") for path in paths]


@dataclass(frozen=True)
class Window:
    """What of which photo an image shows: left, top, right, bottom in the photo's pixels."""

    photo: int
    box: tuple[float, float, float, float]
    mirrored: bool


def draw_window(rng: random.Random, sizes: list[tuple[int, int]]) -> Window:
    """The window of the image whose numbers `rng` draws; `sizes` are widths and heights of the photos."""
    photo = rng.randrange(len(sizes))
    whole_width, whole_height = sizes[photo]
    # At least 60 % of the photo's height, in the shape of the result: large enough to stay a photo.
    height = rng.uniform(0.6, 1.0) * min(whole_height, whole_width * SIZE[1] / SIZE[0])
    width = height * SIZE[0] / SIZE[1]
    left, top = rng.uniform(0, whole_width - width), rng.uniform(0, whole_height - height)
    return Window(photo, (left, top, left + width, top + height), rng.random() < 0.5)


def make_image(seed: int, index: int) -> bytes:
    """Image number `index`: a function of both numbers and the photos, whoever computes it and when."""
    rng = random.Random(f"{seed}/{index}")
    window = draw_window(rng, [photo.size for photo in _photos])
    image = _photos[window.photo].resize(SIZE, Image.Resampling.BICUBIC, box=window.box)
    if window.mirrored:
        image = ImageOps.mirror(image)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.85, 1.15))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.8, 1.2))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _write_image(task: tuple[int, int, str]) -> int:
    seed, index, directory = task
    data = make_image(seed, index)
    folder = CLASSES[index % len(CLASSES)]
    Path(directory, folder, f"{folder}-{index:06d}.jpg").write_bytes(data)
    return len(data)


def make_images(count: int, directory: Path, *, seed: int, photos: list[Path], jobs: int) -> int:
    """Write `count` images below `directory`; the bytes written."""
    found = find_photos(photos)
    for folder in CLASSES:
        (directory / folder).mkdir(parents=True, exist_ok=True)
    tasks = ((seed, index, str(directory)) for index in range(count))
    with multiprocessing.get_context("spawn").Pool(jobs, _load, (found,)) as pool:
        return sum(pool.imap_unordered(_write_image, tasks, chunksize=64))


def table_lines(rows: int, seed: int) -> Iterator[str]:
    """A table of trips, as tabular data look: a key, counts, measures, categories."""
    rng = np.random.Generator(np.random.Philox(seed))

    def pick(names: list[str]) -> list[str]:
        return [names[i] for i in rng.integers(0, len(names), rows)]

    def measure(mean: float, digits: int) -> list[str]:
        return [f"{x:.{digits}f}" for x in rng.gamma(2.0, mean / 2.0, rows)]

    def count(low: int, high: int) -> list[str]:
        return [str(x) for x in rng.integers(low, high, rows)]

    columns: dict[str, list[str]] = {
        "trip_id": [f"t{i:07d}" for i in range(rows)],
        "vendor": pick(["acme", "bolt", "crow", "dart"]),
        "weekday": pick(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]),
        "payment": pick(["card", "cash", "app", "voucher", "unknown"]),
        "company": pick([f"company {i:02d}" for i in range(40)]),
        "pickup_area": count(1, 78),
        "dropoff_area": count(1, 78),
        "hour": count(0, 24),
        "passengers": count(1, 7),
        "seconds": count(30, 7200),
        "miles": measure(3.2, 5),
        "fare": measure(14.0, 4),
        "tip": measure(2.0, 4),
        "tolls": measure(0.4, 4),
        "extras": measure(0.8, 4),
        "pickup_lat": [f"{x:.9f}" for x in rng.normal(41.9, 0.05, rows)],
        "pickup_lon": [f"{x:.9f}" for x in rng.normal(-87.6, 0.05, rows)],
        "speed": measure(18.0, 8),
        "shared": count(0, 2),
    }
    yield ",".join(columns) + "\n"
    for values in zip(*columns.values(), strict=True):
        yield ",".join(values) + "\n"


def make_table(rows: int, file: Path, *, seed: int) -> int:
    """Write the table to `file`; the bytes written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8", newline="") as out:
        out.writelines(table_lines(rows, seed))
    return file.stat().st_size


def make_parquet(table: Path, file: Path) -> int:
    """Write the CSV `table` as Parquet; the bytes written."""
    import pyarrow.csv
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.csv.read_csv(table), file)
    return file.stat().st_size


def multiply(source: Path, directory: Path, *, size: int, links: bool) -> tuple[int, int]:
    """Fill `directory` with the images of `source`, over and over, until `size` bytes; (files, bytes)."""
    files = sorted(p for p in source.rglob("*") if p.is_file())
    if not files:
        sys.exit(f"{source} holds no files; make some with `images` first")
    done = count = lap = 0
    while done < size:
        for path in files:
            if done >= size:
                break
            target = directory / path.parent.relative_to(source) / f"{lap:03d}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                (os.link if links else shutil.copyfile)(path, target)
            done += path.stat().st_size
            count += 1
        lap += 1
    return count, done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    images = commands.add_parser("images", help="class folders of JPEGs")
    images.add_argument("count", type=int, nargs="?", default=13_688)
    images.add_argument("directory", type=Path)
    images.add_argument("--photos", type=Path, action="append", help="where skimage/ and sklearn/ lie")
    images.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    table = commands.add_parser("table", help="a CSV")
    table.add_argument("rows", type=int, nargs="?", default=300_000)
    table.add_argument("file", type=Path)
    parquet = commands.add_parser("parquet", help="a CSV as Parquet")
    parquet.add_argument("table", type=Path)
    parquet.add_argument("file", type=Path)
    copies = commands.add_parser("multiply", help="blow a folder of images up to a size")
    copies.add_argument("source", type=Path)
    copies.add_argument("directory", type=Path)
    copies.add_argument("--size", default="2GB", help="how much, such as 500MB or 8GB (default: 2GB)")
    copies.add_argument(
        "--links", action="store_true", help="hard links, which take no room, in place of copies"
    )
    for command in (images, table):
        command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    if args.command == "images":
        places = args.photos or [Path("data/photos"), *(Path(p) for p in sys.path if p)]
        size = make_images(args.count, args.directory, seed=args.seed, photos=places, jobs=args.jobs)
        what = f"{args.count:,} images in {args.directory}"
    elif args.command == "table":
        size = make_table(args.rows, args.file, seed=args.seed)
        what = f"{args.rows:,} rows in {args.file}"
    elif args.command == "parquet":
        what, size = str(args.file), make_parquet(args.table, args.file)
    else:
        wanted = parse_bytes(args.size)
        if not isinstance(wanted, int):
            parser.error(f"--size {args.size}: expected a size such as 2GB")
        count, size = multiply(args.source, args.directory, size=wanted, links=args.links)
        what = f"{count:,} files in {args.directory}"
    print(f"{what}: {format_bytes(size)}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
