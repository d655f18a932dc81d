"""Elements dealt to workers."""

from __future__ import annotations

import threading

import apache_beam as beam
import pytest

from beam_jobs.gather import Deal, there_and_back
from beam_jobs.runners import parse_options, run_pipeline

_lock = threading.Lock()
_taken: dict[int, list[int]] = {}


def work_of(element: int) -> int:
    return element


class _Take(beam.DoFn):
    """Notes the elements of each bundle."""

    def start_bundle(self) -> None:
        self._some: list[int] = []

    def process(self, element: int) -> None:
        self._some.append(element)

    def finish_bundle(self) -> None:
        with _lock:
            _taken[id(self._some)] = self._some


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_get_as_much_work_each(workers: int) -> None:
    _taken.clear()
    elements = [5, 90, 7, 40, 60, 55, 1, 3]
    run_pipeline(
        lambda pipeline: pipeline | Deal(elements, work_of) | beam.ParDo(_Take()),
        parse_options([f"--direct_num_workers={workers}"]),
    )
    taken = sorted((some for some in _taken.values() if some), key=lambda some: some[0])
    assert len(taken) == workers
    assert sorted(element for some in taken for element in some) == sorted(elements)
    assert all(some == sorted(some, reverse=True) for some in taken), "the largest first"
    if workers == 2:
        assert taken == [[60, 55, 5, 3], [90, 40, 7, 1]]


def test_the_last_to_get_one_gets_the_next() -> None:
    assert there_and_back([9, 8, 7, 6, 5, 4, 3], 3) == [9, 8, 7, 4, 5, 6, 3]
    assert there_and_back([9, 8, 7, 6, 5], 2) == [9, 8, 6, 7, 5]
    assert there_and_back([], 2) == []


def test_one_element_is_a_matter_of_one_worker() -> None:
    _taken.clear()
    run_pipeline(
        lambda pipeline: pipeline | Deal([7]) | beam.ParDo(_Take()), parse_options(["--direct_num_workers=3"])
    )
    assert list(_taken.values()) == [[7]]
