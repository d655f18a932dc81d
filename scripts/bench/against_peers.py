#!/usr/bin/env python3
"""The loader against its peers: the same images, the same machine, the same run.

  center   the middle 224 x 224 of every image: uint8, batches of 64
  random   a random resized crop to 224 x 224, mirrored half of the time, normalised: float32, batches of 64

Every contender is one file of scripts/bench/peers, which says how it is tuned. Each runs in a process of its own, in
an environment that holds its versions (made on first use below --work/envs, 8 GB; FFCV is compiled and wants Debian's
packages {ffcv_needs}). The images are converted once into each one's own
format. Per level, all contenders are started and run an epoch that is not timed, in which their pixels are checked;
then each runs one epoch a round, in turn, while all others are stopped (SIGSTOP). Every epoch must hold every image
exactly once. All data are in the page cache.

Examples:
  scripts/bench_loader
  scripts/bench_loader --only headrace,dali,grain --level random --limit 2000
  scripts/bench_loader --rounds 5 --json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import HERE, ROOT, ensure, note, parser, warm

PEERS = HERE / "peers"
LEVELS = {"center": "uint8", "random": "float32"}
SIZE = 224
OURS = "headrace"
FFCV_NEEDS = "libopencv-dev libturbojpeg0-dev pkg-config g++"
# Contender -> its environment: requirements-ENVIRONMENT.txt, or this Python's where there is none.
CONTENDERS = {
    OURS: None,
    "tfdata": None,
    "tfds": None,
    "dali": "dali",
    "grain": "grain",
    "ffcv": "torch",
    "litdata": "torch",
    "webdataset": "torch",
    "mosaic": "torch",
    "imagefolder": "torch",
}
_ENVIRON = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
}


class Failed(Exception):
    """A contender could not be prepared or run."""


@dataclass
class Epoch:
    """One epoch of one contender, as it told and as its processes were watched."""

    seconds: float
    cpu_seconds: float
    told: dict[str, Any] = field(repr=False)

    @property
    def images(self) -> int:
        return int(self.told["images"])


class Contender:
    """A process that runs epochs when told to, and is stopped, with all its children, in between."""

    def __init__(self, name: str, python: Path, images: Path, data: Path, level: str):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.scratch = tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [python, PEERS / f"with_{name}.py", "run", images, data, level],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            bufsize=1,
            env=os.environ | _ENVIRON | {"TMPDIR": self.scratch.name},
            cwd=data,
            start_new_session=True,  # a group of processes that signals reach together
        )
        self.versions: dict[str, str] = {}

    def ready(self) -> None:
        """Wait until it has imported what it needs and built its pipeline."""
        self.versions = self._answer()["versions"]

    def epoch(self, *, check: bool = False) -> Epoch:
        """Run one epoch while nothing else of ours runs."""
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        before = self._cpu()
        print("check" if check else "epoch", file=self.process.stdin)
        told = self._answer()
        epoch = Epoch(told.pop("seconds"), self._cpu() - before, told)
        self._signal(signal.SIGSTOP)
        return epoch

    def end(self) -> None:
        """Let the process end by itself, so that it takes its shared memory with it."""
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def close(self) -> None:
        """Wait for the end, but not for long; then end the process and its children by force."""
        self.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=20)
        self._signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()
        self.scratch.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            status = self.process.wait()
            raise Failed(f"{self.name} ended with {status}:\n{self.log.read()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self.process.pid, number)

    def _cpu(self) -> float:
        """CPU seconds of the process, its children, and their children that have ended."""
        root, total = psutil.Process(self.process.pid), 0.0
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(
                psutil.NoSuchProcess
            ):  # ended meanwhile: counted with its parent's children
                total += sum(process.cpu_times()[:4])  # user, system, and both of ended children
        return total


def environment(name: str | None, work: Path) -> Path:
    """The Python of an environment, which is made if it is missing or has other requirements."""
    if name is None:
        return Path(sys.executable)
    requirements = PEERS / f"requirements-{name}.txt"
    place = work / "envs" / name
    python, made_of = place / "bin/python", place / "requirements.txt"
    if made_of.is_file() and made_of.read_bytes() == requirements.read_bytes():
        return python
    note(f"making the environment {place}")
    shutil.rmtree(place, ignore_errors=True)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        _run([uv, "venv", "--quiet", "--python", sys.executable, place])
        _run([uv, "pip", "install", "--quiet", "--python", python, "-r", requirements])
    else:
        _run([sys.executable, "-m", "venv", place])
        _run([python, "-m", "pip", "install", "--quiet", "-r", requirements])
    shutil.copyfile(requirements, made_of)
    return python


def _run(command: list[Any]) -> None:
    ended = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | _ENVIRON,
        check=False,
    )
    if ended.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")


def choose(source: Path, limit: int | None, work: Path) -> tuple[Path, int]:
    """A file that lists the images, one path a line, and their number; a sample lies in a folder of its own."""
    images = sorted(source.resolve().glob("*/*.jpg"))
    if not images:
        sys.exit(f"{source} holds no folders of .jpg files")
    place = work / f"images-{limit if limit and limit < len(images) else len(images)}"
    listing = place / "images.txt"
    if listing.is_file():
        return listing, len(listing.read_text().splitlines())
    if limit and limit < len(images):
        sample = sorted(random.Random(0).sample(images, limit))
        images = [place / "images" / path.parent.name / path.name for path in sample]
        for path, original in zip(images, sample, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, path)
    place.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{path}\n" for path in images))
    return listing, len(images)


def prepare(name: str, python: Path, listing: Path) -> Path:
    """The images in a contender's own format, converted on first use; ours always, as our code changes."""
    place = listing.parent / name
    if name == OURS:
        shutil.rmtree(place, ignore_errors=True)
    if not place.is_dir():
        note(f"preparing the images for {name}")
        aside = place.with_name(f".{name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        _run([python, PEERS / f"with_{name}.py", "prepare", listing, aside])
        aside.rename(place)
    return place


def reference(listing: Path) -> np.ndarray:
    """The mean of every image's middle, sorted: what a contender's pixels are checked against."""
    import simplejpeg  # type: ignore[import-untyped]

    kept = listing.parent / "means.npy"
    if not kept.is_file():
        means = []
        for path in listing.read_text().splitlines():
            image = simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")
            top, left = (image.shape[0] - SIZE) // 2, (image.shape[1] - SIZE) // 2
            means.append(image[top : top + SIZE, left : left + SIZE].mean())
        np.save(kept, np.sort(means))
    found: np.ndarray = np.load(kept)
    return found


def wrong(epoch: Epoch, level: str, count: int) -> str | None:
    """What is wrong with an epoch, if anything is."""
    told = epoch.told
    if told["images"] != count or told["missing"] or told["repeated"]:
        return f"{told['images']} of {count} images, {told['missing']} missing, {told['repeated']} repeated"
    if not told["shuffled"]:
        return "the images came in stored order"
    shapes = ([SIZE, SIZE, 3], [3, SIZE, SIZE])
    if len(told["kinds"]) != 1 or told["kinds"][0][0] not in shapes or told["kinds"][0][1] != LEVELS[level]:
        return f"batches of {told['kinds']}"
    return None


def wrong_pixels(epoch: Epoch, level: str, means: np.ndarray) -> str | None:
    """What is wrong with the pixels: of the middle, each image's mean; of random crops, the overall mean and range."""
    told = epoch.told
    found = np.array(told.pop("means"))
    if level == "center":
        away = float(np.abs(found - means).max())
        return f"the means of the images are up to {away:.1f} away from the reference" if away > 1.5 else None
    # (means - 115) / 57 is about what normalising makes of them; crops are lighter or darker than middles.
    away = abs(float(found.mean()) - (float(means.mean()) - 114.5) / 57.6)
    if away > 0.15 or not -2.3 < told["low"] < -1.5 or not 1.5 < told["high"] < 2.8:
        return (
            f"values of {told['low']:.2f} to {told['high']:.2f}, their mean {away:.2f} away from the expected"
        )
    return None


def run_level(level: str, ready: dict[str, tuple[Path, Path]], listing: Path, count: int, rounds: int) -> Any:
    """All contenders on one level; (versions, epochs, failures) by name."""
    means = reference(listing)
    running: dict[str, Contender] = {}
    epochs: dict[str, list[Epoch]] = {}
    failures: dict[str, str] = {}

    def attempt(name: str, *, check: bool) -> Epoch | None:
        try:
            if check:
                running[name].ready()
            epoch = running[name].epoch(check=check)
            problem = wrong(epoch, level, count) or (wrong_pixels(epoch, level, means) if check else None)
            if problem:
                raise Failed(f"{name}: {problem}")
        except Failed as error:
            failures[name] = str(error)
            running.pop(name).close()
            return None
        return epoch

    try:
        for name, (python, data) in ready.items():
            running[name] = Contender(name, python, listing, data, level)
        for name in ready:
            attempt(name, check=True)
        for turn in range(rounds):
            # Forwards, then backwards: nobody always follows the same one.
            for name in _turned(list(running), turn):
                epoch = attempt(name, check=False)
                if epoch is not None:
                    epochs.setdefault(name, []).append(epoch)
                    note(
                        f"{level}  round {turn + 1}/{rounds}  {name:<12} {epoch.images / epoch.seconds:7.0f} img/s"
                        f"   CPU {epoch.cpu_seconds / epoch.images * 1e6:5.0f} µs an image"
                    )
        versions = {name: contender.versions for name, contender in running.items()}
    finally:
        for contender in running.values():
            contender.end()
        for contender in running.values():
            contender.close()
    return versions, {name: found for name, found in epochs.items() if name in versions}, failures


def _turned(names: list[str], turn: int) -> Iterator[str]:
    return reversed(names) if turn % 2 else iter(names)


def table(epochs: dict[str, list[Epoch]]) -> dict[str, dict[str, float]]:
    """By contender, the fastest first."""
    found: dict[str, dict[str, float]] = {}
    for name, own in epochs.items():
        speeds = [epoch.images / epoch.seconds for epoch in own]
        found[name] = {
            "images_per_second": round(statistics.median(speeds)),
            "best_images_per_second": round(max(speeds)),
            "cpu_us_per_image": round(statistics.median(e.cpu_seconds / e.images * 1e6 for e in own)),
        }
    if OURS in found:
        ours = epochs[OURS]
        for name, row in found.items():
            # Round by round, as both had the same noise.
            row["ours_is_times"] = round(
                statistics.median(
                    a.images / a.seconds / (b.images / b.seconds)
                    for a, b in zip(ours, epochs[name], strict=True)
                ),
                3,
            )
    return dict(sorted(found.items(), key=lambda item: -item[1]["images_per_second"]))


def show(level: str, rows: dict[str, dict[str, float]], versions: dict[str, dict[str, str]]) -> None:
    """One level's table, for people."""
    print(f"\n{level:<14}{'img/s':>7}{'best':>8}{'CPU µs':>8}{'ours is':>10}   versions")
    for name, row in rows.items():
        times = f"{row['ours_is_times']:.2f} x" if "ours_is_times" in row and name != OURS else ""
        told = ", ".join(f"{package} {version}" for package, version in versions[name].items())
        print(
            f"{name:<14}{row['images_per_second']:>7.0f}{row['best_images_per_second']:>8.0f}"
            f"{row['cpu_us_per_image']:>8.0f}{times:>10}   {told}"
        )


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser((__doc__ or "").format(ffcv_needs=FFCV_NEEDS))
    made.set_defaults(work=ROOT / "data/bench/peers")
    made.add_argument(
        "--images", type=Path, help="class folders of JPEGs (default: made in data/bench/images)"
    )
    made.add_argument("--limit", type=int, help="take a sample of so many images")
    made.add_argument("--level", choices=LEVELS, action="append", help="both if absent")
    made.add_argument("--only", help=f"contenders, with commas between: {','.join(CONTENDERS)}")
    args = made.parse_args()
    args.only = args.only.split(",") if args.only else list(CONTENDERS)
    unknown = sorted(set(args.only) - set(CONTENDERS))
    if unknown:
        made.error(f"--only {','.join(unknown)}: there are {', '.join(CONTENDERS)}")
    if args.rounds < 1:
        made.error(f"--rounds {args.rounds}: must be 1 or more")
    return args


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or stopped processes would be left behind
    work = args.work.resolve()
    images = args.images or ensure(ROOT / "data/bench/images", "images", 13_688, ROOT / "data/bench/images")
    listing, count = choose(images, args.limit, work)
    ready: dict[str, tuple[Path, Path]] = {}
    failures: dict[str, str] = {}
    for name in args.only:
        try:
            python = environment(CONTENDERS[name], work)
            ready[name] = (python, prepare(name, python, listing))
        except Failed as error:
            failures[name] = str(error)
    files, size = warm(listing.parent)
    files, size = files + count, size + sum(warm(Path(p))[1] for p in listing.read_text().splitlines())
    note(f"{count:,} images; {files:,} files of {size / 1e9:.1f} GB are in the page cache")
    results: dict[str, Any] = {}
    for level in args.level or list(LEVELS):
        versions, epochs, failed = run_level(level, ready, listing, count, args.rounds)
        failures |= {f"{name}, {level}": what for name, what in failed.items()}
        rows = table(epochs)
        results[level] = {"contenders": rows, "versions": versions}
        if not args.json:
            show(level, rows, versions)
            sys.stdout.flush()
    load = f"load average over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    if args.json:
        more = {"images": count, "rounds": args.rounds, "failures": failures, "load_average": os.getloadavg()}
        print(json.dumps(results | more, indent=1))
    else:
        print(f"\n{count:,} images, {args.rounds} rounds; {load}")
    for name, what in failures.items():
        note(f"\nFAILED {name}: {what}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
