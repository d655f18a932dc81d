#!/usr/bin/env python3
"""Seeking: how soon the first batch comes, how small a state is, and whether what follows is what would have come.

  first batch   in fresh processes, from the call of `load` to the first batch in hand, imports left out: a cold start,
                a resume at 90 % of the epoch, and a cold start on a data set of 1,000 shards, in turn
  state         bytes of `loader.state(step)` as JSON, beside a checkpoint of a tf.data iterator that shuffles the same
                images in a buffer of 1,024 or as many as are given
  tails         at random steps of an epoch, in processes that never ran TensorFlow before, from H hosts to H' hosts:
                ids and values of all that is left of the epoch equal those of the run that was not stopped

Examples:
  python scripts/bench/loader_resume.py out/photos/1.0.0 out/trips/1.0.0 --shards out/trips-1000/1.0.0
  python scripts/bench/loader_resume.py out/photos/1.0.0 out/trips/1.0.0 --only tails --steps 200
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HOSTS = (1, 2, 4, 8)
IMAGES: dict[str, Any] = {"batch_size": 64, "image_size": 224, "augment": True, "seed": 1}
TABLE: dict[str, Any] = {"batch_size": 64, "with_ids": True, "seed": 1}


def first_batch(directory: str, options: dict[str, Any]) -> None:
    """Prints seconds to the first batch. Runs in a process of its own."""
    import tensorflow as tf

    from loader import load

    tf.constant(0)  # wakes TensorFlow up, which is part of its import
    start = time.perf_counter()
    next(iter(load(directory, **options)))
    print(time.perf_counter() - start)


def measure_first_batch(images: str, shards: str | None, rounds: int) -> dict[str, Any]:
    """Medians over fresh processes, taken in turn."""
    cases: dict[str, tuple[str, float, dict[str, Any]]] = {
        "cold": (images, 0.0, IMAGES),
        "resumed at 90 %": (images, 0.9, IMAGES),
    }
    if shards:
        cases["cold, 1,000 shards"] = (shards, 0.0, TABLE)
        cases["resumed at 90 %, 1,000 shards"] = (shards, 0.9, TABLE)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    # States come from elsewhere, so that a resumed process is as new to TensorFlow as a cold one.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        states = {name: pool.apply(_state_at, case) for name, case in cases.items()}
    for _ in range(rounds):
        for name, (directory, _, options) in cases.items():
            given = json.dumps({**options, "state": states[name]})
            command = [sys.executable, __file__, directory, "--first-batch", given]
            ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            seconds[name].append(float(ran.stdout.split()[-1]))
    median = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    ratio = round(median["resumed at 90 %"] / median["cold"], 2)
    return {"seconds to the first batch": median, "resumed / cold": ratio}


def _state_at(directory: str, at: float, options: dict[str, Any]) -> dict[str, Any] | None:
    from loader import load

    if not at:
        return None
    loader = load(directory, **options)
    return loader.state(int(loader.steps_per_epoch() * at))


def measure_state(directory: str, buffer: int) -> dict[str, Any]:
    """Bytes of a state, and of a tf.data checkpoint of the same images in shuffled order."""
    import tensorflow as tf

    from loader import load
    from schemas import read_manifest

    loader = load(directory, **IMAGES)
    state = len(json.dumps(loader.state(loader.steps_per_epoch() // 2)))
    shards = read_manifest(directory).splits["train"].shards
    files = [f"{directory}/{shard.path}" for shard in shards if shard.records]
    dataset = tf.data.TFRecordDataset(files).shuffle(buffer, seed=1).batch(64).prefetch(2)
    iterator = iter(dataset)
    for _ in range(10):
        next(iterator)
    with tempfile.TemporaryDirectory() as folder:
        tf.train.Checkpoint(iterator=iterator).save(f"{folder}/iterator")
        checkpoint = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"bytes of a state": state, f"bytes of a tf.data checkpoint, buffer {buffer:,}": checkpoint}


def steps_of(directory: str, hosts: int, state: dict[str, Any] | None) -> list[bytes]:
    """A digest of ids and values for each step from a state to the end of the epoch, all hosts' rows together."""
    import tensorflow as tf

    from loader import load

    loaders = [
        load(directory, **TABLE, process_index=i, process_count=hosts, state=state) for i in range(hosts)
    ]
    found = []
    for elements in zip(*loaders, strict=True):
        sha = hashlib.blake2b(digest_size=16)
        for parts in zip(*(tf.nest.flatten(element) for element in elements), strict=True):
            sha.update(
                b"".join(
                    b"".join(p) if p.dtype == object else p.tobytes() for p in (x.numpy() for x in parts)
                )
            )
        found.append(sha.digest())
    return found


def measure_tails(directory: str, count: int, seed: int) -> dict[str, Any]:
    """How many of `count` random steps were resumed exactly, each in a fresh process, by other hosts than saved it."""
    chosen = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    # Imported once, used never: every process is new to TensorFlow all the same.
    context.set_forkserver_preload(["tensorflow", "loader"])
    with context.Pool(2, maxtasksperchild=1) as pool:
        whole = pool.apply(steps_of, (directory, 1, None))  # never stopped
        states = pool.apply(_states, (directory,))
        steps = sorted(chosen.randrange(len(whole)) for _ in range(count))
        jobs = [(directory, chosen.choice(HOSTS), states[step]) for step in steps]
        found = pool.starmap(steps_of, jobs, chunksize=1)
    equal = sum(whole[step:] == tail for step, tail in zip(steps, found, strict=True))
    return {"steps of the epoch": len(whole), "resumed": count, "equal": equal, "seed": seed}


def _states(directory: str) -> list[dict[str, Any]]:
    from loader import load

    # Saved by one of several hosts.
    loader = load(directory, **TABLE, process_index=3, process_count=8)
    return [loader.state(step) for step in range(loader.steps_per_epoch())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", help="a prepared data set of JPEGs with a label")
    parser.add_argument("table", nargs="?", help="a prepared table, for the tails")
    parser.add_argument("--shards", help="a prepared table in 1,000 shards: write.shards of its job")
    parser.add_argument("--only", choices=["first", "state", "tails"], action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--buffer", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--first-batch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_batch:
        first_batch(arguments.directory, json.loads(arguments.first_batch))
        return
    wanted = arguments.only or ["first", "state", "tails"]
    if "first" in wanted:
        print(
            json.dumps(measure_first_batch(arguments.directory, arguments.shards, arguments.rounds), indent=1)
        )
    if "state" in wanted:
        print(json.dumps(measure_state(arguments.directory, arguments.buffer), indent=1))
    if "tails" in wanted:
        table = arguments.table or arguments.directory
        print(json.dumps(measure_tails(table, arguments.steps, arguments.seed), indent=1))


if __name__ == "__main__":
    main()
