"""The wait timer counts the wait for data, and only that."""

from __future__ import annotations

import time

import tensorflow as tf

from loader import WaitTimer


def slow(seconds: float) -> tf.data.Dataset:
    def numbers():
        for number in range(5):
            time.sleep(seconds)
            yield number

    return tf.data.Dataset.from_generator(numbers, output_signature=tf.TensorSpec([], tf.int64))


def test_a_slow_source_is_waited_for():
    wait = WaitTimer()
    assert [int(x) for x in wait.timed(slow(0.02))] == [0, 1, 2, 3, 4]
    assert wait.elements == 5
    assert 5 * 0.02 <= wait.seconds <= wait.total_seconds
    assert str(wait).startswith("waited ")


def test_a_slow_consumer_is_not_counted():
    wait = WaitTimer()
    for _ in wait.timed(tf.data.Dataset.range(5)):
        time.sleep(0.05)
    assert wait.total_seconds >= 4 * 0.05
    assert wait.seconds <= wait.total_seconds - 4 * 0.05 + 1e-3


def test_elements_and_shapes_stay_as_they_are():
    dataset = tf.data.Dataset.from_tensor_slices(
        ({"a": tf.ragged.constant([[1], [2, 3]])}, [1.0, 2.0])
    ).batch(2)
    timed = WaitTimer().timed(dataset)
    assert timed.element_spec == dataset.element_spec
    assert len(timed) == len(dataset)
    assert next(iter(timed))[0]["a"].to_list() == [[1], [2, 3]]


def test_reset():
    wait = WaitTimer()
    list(wait.timed(tf.data.Dataset.range(3)))
    wait.reset()
    assert (wait.elements, wait.seconds, wait.total_seconds) == (0, 0, 0)
