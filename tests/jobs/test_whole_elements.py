"""The embedded runner's worker threads send whole elements, however long writing one takes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_jobs.gather import Deal
from beam_jobs.runners import parse_options, run_pipeline

ROOT = Path(__file__).resolve().parents[2]
# What is read of half an element may be a length of many gigabytes.
LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from tests.jobs.test_whole_elements import group_slowly
group_slowly({mode!r})
"""


class Slow:
    """A value that takes longer to write than the second in which Beam's timer would send what is there."""

    def __reduce__(self) -> tuple[Any, ...]:
        time.sleep(1.3)
        return (Slow, ())


def to_slow(key: int) -> tuple[int, Slow]:
    return key % 2, Slow()


def check(group: tuple[int, Any]) -> None:
    values = list(group[1])
    assert [type(value) for value in values] == [Slow, Slow], values
    print("group", group[0], len(values))


def group_slowly(mode: str) -> None:
    """Two groups of two such values."""

    def build(pipeline: beam.Pipeline) -> None:
        elements = pipeline | Deal([0, 1, 2, 3])
        _ = elements | beam.Map(to_slow) | beam.GroupByKey() | beam.Map(check)

    workers = 1 if mode == "in_memory" else 2
    run_pipeline(build, parse_options([f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"]))


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_no_element_is_sent_by_halves(mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(mode=mode)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split("\n")[:2]) == ["group 0 2", "group 1 2"]
