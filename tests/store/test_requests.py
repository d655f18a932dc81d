"""Whichever request to an object store fails; `scripts/soak/buckets.py` goes through all of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.store.conftest import REMOTE
from tests.store.one_request import WAYS, BadRequest, bench, check_request


@pytest.mark.parametrize("kind", REMOTE)
def test_sample_of_requests(kind: str, servers: Mapping[str, int], tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    with bench(tmp_path, kind, servers[kind]) as made:
        for _ in range(3):
            bad = BadRequest(chance.randrange(made.requests) + 1, chance.choice(WAYS))
            print(check_request(made, bad), flush=True)
        print(check_request(made, BadRequest(chance.randrange(made.requests) + 1, "403", True)))
