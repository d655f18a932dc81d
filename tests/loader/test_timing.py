"""The wait for data is counted, and only that; a loader's stats tell it with what was read and cached."""

from __future__ import annotations

import gc
import json
import shutil
import time

import numpy as np
import tensorflow as tf

from loader import load
from loader.timing import Waits
from schemas import read_manifest


def numbers(count: int, seconds: float = 0.0) -> tf.data.Dataset:
    def generate():
        for number in range(count):
            time.sleep(seconds)
            yield number

    return tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec([], tf.int64))


def test_a_slow_source_is_waited_for():
    waits = Waits()
    assert [int(x) for x in waits.timed(numbers(6, 0.02))] == [0, 1, 2, 3, 4, 5]
    found = waits.stats()
    assert (found["steps"], found["starts"]) == (6, 1)
    assert 5 * 0.02 <= found["seconds"] <= found["total_seconds"]
    assert found["mean_seconds"] == found["seconds"] / 5
    assert 0.02 / 1.05 <= found["p50_seconds"] <= found["p90_seconds"] <= found["max_seconds"]
    assert found["start_seconds"] >= 0.02


def test_a_slow_consumer_is_not_counted():
    waits = Waits()
    for _ in waits.timed(tf.data.Dataset.range(5)):
        time.sleep(0.05)
    found = waits.stats()
    assert found["total_seconds"] >= 4 * 0.05
    assert found["seconds"] <= found["total_seconds"] - 4 * 0.05 + 1e-3
    assert 0 <= found["share"] < 1


def test_the_pause_between_iterations_is_neither_waited_nor_worked():
    waits, worked = Waits(), 0.0
    dataset = waits.timed(numbers(3))
    for _ in range(2):
        started = time.perf_counter()
        list(dataset)
        worked += time.perf_counter() - started
        time.sleep(0.2)
    found = waits.stats()
    assert (found["steps"], found["starts"]) == (6, 2)
    assert found["total_seconds"] + found["start_seconds"] <= worked + 1e-3


def test_iterations_at_the_same_time_are_told_apart():
    waits = Waits()
    dataset = waits.timed(tf.data.Dataset.range(50))
    assert sum(1 for _ in zip(dataset, dataset, strict=True)) == 50
    found = waits.stats()
    assert (found["steps"], found["starts"]) == (100, 2)


def test_quantiles_are_read_off_a_histogram(rng):
    waits = Waits()
    seconds = 10 ** rng.uniform(-5, 1, 2000)
    add = tf.function(waits._add)
    for wait in seconds:
        add(tf.constant(False), tf.constant(wait), tf.constant(wait + 1))
    found = waits.stats()
    for name, share in (("p50_seconds", 0.5), ("p90_seconds", 0.9)):
        expected = np.quantile(seconds, share, method="inverted_cdf")
        assert abs(found[name] / expected - 1) <= 0.05, name
    assert found["max_seconds"] == seconds.max()
    np.testing.assert_allclose(
        [found["seconds"], found["total_seconds"]], [seconds.sum(), seconds.sum() + 2000]
    )


def test_elements_and_shapes_stay_as_they_are():
    dataset = tf.data.Dataset.from_tensor_slices(
        ({"a": tf.ragged.constant([[1], [2, 3]])}, [1.0, 2.0])
    ).batch(2)
    timed = Waits().timed(dataset)
    assert timed.element_spec == dataset.element_spec
    assert len(timed) == len(dataset)
    assert next(iter(timed))[0]["a"].to_list() == [[1], [2, 3]]


def test_stats_of_a_loader(cells):
    train = load(cells, "train", batch_size=10, cache="memory")
    for _ in range(2):
        list(train.as_numpy_iterator())
    found = train.stats()
    assert json.loads(json.dumps(found)) == found
    assert found["wait"]["steps"] == 2 * 11
    assert found["wait"]["starts"] == 2
    # The second epoch came from the cache.
    assert found["reader"]["records"] == 103
    assert found["cache"] == {"examples": 103, "room": 103}
    assert str(found).startswith("waited ")
    assert str(found).endswith(" to start")
    assert " for 22 steps, and " in str(found)


def test_stats_before_the_first_step(cells):
    found = load(cells, "train", batch_size=10).stats()
    assert (found["wait"]["steps"], found["wait"]["share"], found["wait"]["p90_seconds"]) == (0, 0.0, 0.0)
    assert str(found) == "waited 0.00 s of 0.00 s (0.0 %) for 0 steps, and 0.00 s to start"


def test_single_examples_are_not_timed(cells):
    train = load(cells, "train")
    list(train.take(7))
    found = train.stats()
    assert found["wait"] is None
    assert found["cache"] is None
    assert found["reader"]["records"] >= 7
    assert str(found).startswith("read ")


def test_iterations_may_outlive_their_loader(cells):
    batches = iter(load(cells, "train", batch_size=10))
    gc.collect()
    assert sum(len(labels) for _, labels in batches) == 103


def test_damaged_records_are_told(tmp_path, table):
    copy = shutil.copytree(table, tmp_path / "copy")
    shard = copy / read_manifest(copy).splits["train"].shards[1].path
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    loader = load(copy, "train", batch_size=100, features="number", on_corrupt="skip")
    list(loader)
    reader = loader.stats()["reader"]
    assert reader["corrupt_records"] == 1
    assert reader["corrupt"] == [
        {"shard": shard.name, "record": 0, "offset": 0, "reason": "its CRC does not fit its bytes"}
    ]


def test_under_a_strategy(cells):
    """A tf.Variable that is made in a strategy's scope would be mirrored."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    made = []

    def dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
        made.append(load(cells, "train", batch_size=10))
        return made[0]

    with strategy.scope():
        distributed = strategy.distribute_datasets_from_function(dataset)

        @tf.function
        def step(batch):
            return strategy.run(lambda x: tf.shape(x[0])[0], args=(batch,))

        rows = sum(int(step(batch)) for batch in distributed)
    assert rows == 103
    assert made[0].stats()["wait"]["steps"] == 11


def test_garbage_collected_while_a_function_is_traced_stays_out_of_its_graph():
    """A resource destroyed by an operation of that graph took a lock which the tracing held: it hung, now and then."""
    held = [Waits()]

    @tf.function
    def traced() -> tf.Tensor:
        held.clear()
        return tf.constant(1)

    graph = traced.get_concrete_function().graph
    assert [operation.type for operation in graph.get_operations()] == ["Const", "Identity"]
