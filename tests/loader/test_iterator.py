"""An iterator of a loader gives each batch once, in order, whoever takes them: a loop, another thread, TensorFlow."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import time

import pytest
import tensorflow as tf

from loader import load
from loader.iterator import BatchIterator

STEP = 0.003  # seconds: longer than what a thread is worth
BATCHES = 11  # of 10 of 103 examples


def made(cells, **options) -> BatchIterator:
    batches = iter(load(cells, "train", batch_size=10, with_ids=True, **options))
    assert isinstance(batches, BatchIterator)
    return batches


def ids(batch) -> list[int]:
    return batch[0]["example_id"].numpy().tolist()


@pytest.fixture(scope="module")
def expected(cells) -> list[list[int]]:
    """Ids of each batch of two epochs."""
    loader = load(cells, "train", batch_size=10, with_ids=True)
    return [ids(batch) for _ in range(2) for batch in loader.take(1000)]


def in_graph(batches, count: int) -> list[list[int]]:
    take = tf.function(lambda it: next(it)[0]["example_id"])
    return [take(batches).numpy().tolist() for _ in range(count)]


@pytest.mark.parametrize("seconds", [0.0, STEP])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_loop(cells, expected, seconds, prefetch):
    loader, found = load(cells, "train", batch_size=10, with_ids=True, prefetch=prefetch), []
    for _ in range(2):
        for batch in loader:
            found.append(ids(batch))
            time.sleep(seconds)
    assert found == expected
    wait = loader.stats()["wait"]
    assert (wait["steps"], wait["starts"]) == (2 * BATCHES, 2)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_batch_is_taken_ahead_only_where_that_is_allowed(cells, prefetch):
    batches = made(cells, prefetch=prefetch)
    for _ in range(3):
        next(batches)
        time.sleep(STEP)
    assert (batches._coming is not None) == bool(prefetch)


@pytest.mark.parametrize("seconds", [0.0, STEP])
@pytest.mark.parametrize("taken", [0, 1, 5, BATCHES - 1, BATCHES])
def test_tensorflow_goes_on_where_python_was(cells, expected, taken, seconds):
    loader = load(cells, "train", batch_size=10, with_ids=True)
    batches, found = iter(loader), []
    for _ in range(taken):
        found.append(ids(next(batches)))
        time.sleep(seconds)
    found += in_graph(batches, BATCHES - taken)
    assert found == expected[:BATCHES]
    with pytest.raises(tf.errors.OutOfRangeError):
        in_graph(batches, 1)
    with pytest.raises(StopIteration):
        next(batches)
    assert loader.stats()["wait"]["steps"] == BATCHES
    if taken < BATCHES:
        assert [ids(batch) for batch in loader] == expected[BATCHES:]


def test_tensorflow_goes_on_in_an_endless_iteration(cells):
    options = {"repeat": True}
    whole, batches = made(cells, **options), made(cells, **options)
    expected, found = [ids(next(whole)) for _ in range(30)], []
    for _ in range(13):
        found.append(ids(next(batches)))
        time.sleep(STEP)
    assert found + in_graph(batches, 10) + [ids(next(batches)) for _ in range(7)] == expected


def test_python_and_tensorflow_take_turns(cells, expected):
    batches = made(cells)
    found = [ids(next(batches)), *in_graph(batches, 2), ids(batches.get_next()), *in_graph(batches, 1)]
    found += [batches.get_next_as_optional().get_value()[0]["example_id"].numpy().tolist()]
    assert found + [ids(batch) for batch in batches] == expected[:BATCHES]


def test_an_iterator_that_a_function_closes_over(cells, expected):
    batches = made(cells)
    found = [ids(next(batches))]
    take = tf.function(lambda: next(batches)[0]["example_id"])
    found += [take().numpy().tolist() for _ in range(BATCHES - 1)]
    assert found == expected[:BATCHES]


def test_a_loop_inside_a_function(cells, expected):
    loader = load(cells, "train", batch_size=10, with_ids=True)

    @tf.function
    def total(batches):
        result = tf.constant(0, tf.int64)
        for inputs, _ in batches:
            result += tf.reduce_sum(inputs["example_id"])
        return result

    assert int(total(loader)) == int(total(iter(loader))) == sum(range(103))
    assert loader.stats()["wait"]["steps"] == 2 * BATCHES


def test_many_threads_share_an_iteration(cells, expected):
    batches, found, lock = made(cells), [], threading.Lock()

    def take() -> None:
        for batch in batches:
            with lock:
                found.append(ids(batch))
            time.sleep(STEP)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(take) for _ in range(4)]:
            future.result()
    assert sorted(found) == sorted(expected[:BATCHES])


def test_after_an_error_the_iteration_goes_on_as_tensorflows_do(cells):
    def fail(features, seed):
        with tf.control_dependencies([tf.debugging.Assert(tf.constant(False), ["too bright"])]):
            return {name: tf.identity(value) for name, value in features.items()}

    batches = iter(load(cells, "train", batch_size=10, augment=[fail]))
    for _ in range(4):
        with pytest.raises(tf.errors.InvalidArgumentError, match="too bright"):
            next(batches)
        time.sleep(STEP)


def test_the_thread_ends_with_the_iterator(cells):
    def running() -> int:
        return sum(thread.name.startswith("headrace-next") for thread in threading.enumerate())

    before, batches = running(), made(cells, repeat=True)
    for _ in range(3):
        next(batches)
        time.sleep(STEP)
    assert running() == before + 1
    del batches
    gc.collect()
    stop = time.monotonic() + 10
    while running() > before and time.monotonic() < stop:
        time.sleep(0.01)
    assert running() == before


def test_it_knows_no_more_than_an_iterator(cells):
    batches = made(cells)
    assert not hasattr(batches, "shape")
    assert batches.element_spec == load(cells, "train", batch_size=10, with_ids=True).element_spec
