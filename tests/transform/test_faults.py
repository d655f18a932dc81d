"""A job with a transform whose calls fail; see `tests/jobs/test_faulty_disk.py`."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.jobs.faults import Bench, Fault, bench, check_fault

pytestmark = pytest.mark.transform


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("bench"), "transform") as made:
        yield made


def test_sample_of_calls(made: Bench) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    for fault in random.Random(seed).sample(made.complete(), 5):
        print(check_fault(made, fault), flush=True)


@pytest.mark.parametrize("call", ["open", "write", "mkdir", "rename"])
def test_temporary_files_of_tensorflow_that_are_refused(call: str, made: Bench) -> None:
    """The user's function was blamed for them, or a traceback told."""
    site = f"{call} temporary"
    for number in (made.sites()[site] // 2 + 1, made.sites()[site]):
        print(check_fault(made, Fault(site, number, "EACCES")))


def test_what_tensorflow_could_not_remove_is_no_part_of_a_version(made: Bench) -> None:
    """An index of half-written variables was."""
    for number in range(4, 8):
        print(check_fault(made, Fault("unlink temporary", number, "EACCES")))
