"""Promise 1: one job and the same source bytes give the same bytes, however they are made."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beam_jobs import run
from beam_jobs.sources._places import listing
from tests.jobs.small_job import digests, make_data, make_job, options

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), faults=True)


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    result = run(make_job(data), tmp_path_factory.mktemp("out"), options("in_memory", 1))
    return digests(result.path)


@pytest.mark.parametrize(
    ("mode", "workers"),
    [
        ("in_memory", 1),
        ("multi_threading", 1),
        ("multi_threading", 2),
        ("multi_threading", 4),
        ("multi_processing", 1),
        ("multi_processing", 2),
        ("multi_processing", 4),
    ],
)
def test_runner_modes(
    mode: str, workers: int, data: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    result = run(make_job(data), tmp_path, options(mode, workers))
    assert digests(result.path) == expected


def test_shuffled_listings(
    data: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    order = random.Random(seed)
    real_scandir = os.scandir

    class Shuffled:
        """os.scandir with its entries in another order."""

        def __init__(self, path: str) -> None:
            with real_scandir(path) as entries:
                found = list(entries)
            order.shuffle(found)
            self.entries = iter(found)

        def __enter__(self) -> Shuffled:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Shuffled:
            return self

        def __next__(self) -> os.DirEntry[str]:
            return next(self.entries)

        def close(self) -> None:
            pass

    monkeypatch.setattr(listing.os, "scandir", Shuffled)
    result = run(make_job(data), tmp_path)
    assert digests(result.path) == expected


def test_other_places(data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(data, elsewhere, copy_function=shutil.copy)
    result = run(make_job(elsewhere), tmp_path / "other out")
    assert digests(result.path) == expected


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_hash_seeds(hash_seed: str, data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    make_job(data)
    _command(data, tmp_path, PYTHONHASHSEED=hash_seed).check_returncode()
    assert digests(tmp_path / "cells" / "1.0.0") == expected


def test_killed_and_resumed(data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Killed with -9 again and again, each time a little later, until one run gets through."""
    make_job(data)
    kills = 0
    for delay in [0.05 * step for step in range(100)]:
        process = subprocess.Popen(_arguments(data, tmp_path), cwd=ROOT, stderr=subprocess.DEVNULL)
        _wait_for_first_run(tmp_path, process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        assert (
            not (tmp_path / "cells" / "1.0.0" / "manifest.json").exists()
            or digests(tmp_path / "cells" / "1.0.0") == expected
        )
    print("kills", kills)
    assert kills >= 1
    assert digests(tmp_path / "cells" / "1.0.0") == expected


def _wait_for_first_run(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the job has begun to leave something behind, so that a kill hits the middle of it."""
    while process.poll() is None and not list(out.glob("cells/.headrace/runs/*.run")):
        time.sleep(0.01)


def _arguments(data: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-c",
        "import sys; from beam_jobs.cli import main; sys.exit(main())",
        "run",
        str(data / "job.yaml"),
        f"--var=data={data}",
        f"--out={out}",
        "--quiet",
    ]


def _command(data: Path, out: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _arguments(data, out),
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
