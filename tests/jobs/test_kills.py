"""SIGKILL at random moments: every re-run completes, with the same bytes and nothing done twice.

`scripts/soak/kills.py` does the same a hundred times, on a larger job.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.jobs.kills import FIRST, SECOND, Tally, kill_round, make_bench
from tests.jobs.small_job import options


def test_killed_at_random_moments(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance, tally = random.Random(seed), Tally()
    bench = make_bench(tmp_path, 200, options("multi_threading", 2))
    while tally.kills.total() < 8:
        kill_round(bench, (FIRST, SECOND)[tally.kills.total() % 2], chance, tally)
    print(tally.to_json())
    assert tally.polls > 8


def test_killed_where_all_records_decide(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance, tally = random.Random(seed), Tally()
    changes = {"by: module}": "by: module, stratify: label, cap: {by: label, most: 50}}"}
    bench = make_bench(tmp_path, 200, options("multi_threading", 2), changes)
    while tally.kills.total() < 4:
        kill_round(bench, (FIRST, SECOND)[tally.kills.total() % 2], chance, tally)
    print(tally.to_json())
