#!/usr/bin/env python3
"""A version with 1 % more images, three changed and two deleted, against building it from scratch.

Each level is prepared once as version 1.0.0. Then the folder changes, and version 2.0.0 is prepared twice: beside
1.0.0, from which it takes over what has not changed, and alone from scratch, in turn, all of it in the page cache; the
best of each is told, and the medians. The bytes must be equal. Times are of the whole command, and of the job without
starting Python and importing Beam.

  keep      images kept as they are: nothing but reading and writing
  check     every image decoded, to check it
  convert   every image decoded, cut to 256 x 256 and encoded again

Examples:
  python scripts/bench/append.py
  python scripts/bench/append.py --images 2000 --only convert --json
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common

LEVELS = {
    "keep": "{type: image, formats: [jpeg], shape: [375, 500, 3], check: header}",
    "check": "{type: image, formats: [jpeg], shape: [375, 500, 3], check: decode}",
    "convert": "{type: image, formats: [jpeg], shape: [null, null, 3],"
    " encode: {format: jpeg, size: [256, 256], resize: crop}}",
}
JOB = """
name: photos
version: VERSION
vars: {data: unset}
sources: {photos: {kind: image_folder, path: "${data}"}}
features: {image: IMAGE, label: {type: class_label, names: folders}}
split: {fractions: {train: 0.9, test: 0.1}}
"""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="how many to begin with (default: 10000)")
    parser.add_argument("--only", nargs="+", choices=LEVELS, default=list(LEVELS), help=" | ".join(LEVELS))
    args = parser.parse_args()
    data = common.ensure(args.work / "images", "images", 13_688, args.work / "images")
    files = sorted(path for path in data.rglob("*.jpg"))
    random.Random(0).shuffle(files)
    more = args.images // 100
    if len(files) < args.images + more:
        sys.exit(f"{data} holds {len(files)} images, too few")
    work = args.work / "out" / "append"
    found = {
        level: measure(level, data, files[: args.images + more], more, work, args.rounds)
        for level in args.only
    }
    if args.json:
        print(json.dumps({"images": args.images, "load_average": os.getloadavg(), "levels": found}, indent=1))
        return
    for level, each in found.items():
        print(f"{level}: {args.images:,} images, {more} added, 3 changed, 2 deleted: {each['taken_over']}")
        for name in ("job", "command"):
            scratch, update = each["scratch"][name], each["update"][name]
            best, middle = (of(update) / of(scratch) for of in (min, statistics.median))
            print(
                f"  {name:<8} from scratch {min(scratch):6.2f} s, update {min(update):5.2f} s: {best:6.1%} "
                f"(medians {statistics.median(scratch):.2f} and {statistics.median(update):.2f} s: {middle:.1%})"
            )
    print(f"load average over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def measure(level: str, data: Path, files: list[Path], more: int, work: Path, rounds: int) -> dict[str, Any]:
    shutil.rmtree(work, ignore_errors=True)
    folder = work / "photos"
    for file in files[more:]:
        place(file, data, folder)
    prepare(level, folder, "1.0.0", work / "before")
    for file in files[:more]:
        place(file, data, folder)
    for file in files[more : more + 3]:
        changed = folder / file.relative_to(data)
        changed.unlink()
        shutil.copyfile(files[more + 10], changed)
    for file in files[more + 3 : more + 5]:
        (folder / file.relative_to(data)).unlink()
    runs: dict[str, list[dict[str, Any]]] = {"scratch": [], "update": []}
    for _ in range(rounds):
        for name, ran in runs.items():
            out = work / name
            shutil.rmtree(out, ignore_errors=True)
            if name == "update":  # files are never changed once they have their names
                shutil.copytree(work / "before", out, copy_function=os.link)
                common.warm(out)
            common.warm(folder)
            ran.append(prepare(level, folder, "2.0.0", out))
        if len({json.dumps(digests(ran[-1]["path"])) for ran in runs.values()}) > 1:
            sys.exit(f"{level}: the bytes differ")
    return {
        name: {clock: [run[clock] for run in ran] for clock in ("job", "command")}
        for name, ran in runs.items()
    } | {"taken_over": runs["update"][-1]["taken_over"]}


def place(file: Path, data: Path, folder: Path) -> None:
    """A link to a file at its place below the folder."""
    target = folder / file.relative_to(data)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(file, target)


def prepare(level: str, folder: Path, version: str, out: Path) -> dict[str, Any]:
    job = out.parent / "job.yaml"
    job.write_text(JOB.replace("VERSION", version).replace("IMAGE", LEVELS[level]))
    os.sync()
    headrace = Path(sys.executable).with_name("headrace")
    command = [str(part) for part in (headrace, "run", job, "--var", f"data={folder}", "--out", out)]
    command += ["--json", "--quiet"]
    start = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - start
    result = json.loads(ran.stdout)
    return {
        "job": result["seconds"],
        "command": wall,
        "path": result["path"],
        "taken_over": result["taken_over"],
    }


def digests(version: str) -> dict[str, str]:
    return {
        str(path.relative_to(version)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(version).rglob("*")
        if path.is_file()
    }


if __name__ == "__main__":
    main()
