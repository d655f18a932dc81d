"""Whole blocks: what the function sees, and that nothing of it is left in what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.transform,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def inputs(rows: int) -> dict[str, Any]:
    import tensorflow as tf

    random = np.random.default_rng(rows)
    lists = [[b"%d" % number for number in range(row % 3 + (row == rows - 1))] for row in range(rows)]
    return {
        "number": tf.constant(random.normal(size=rows), tf.float32),
        "matrix": tf.constant(random.normal(size=(rows, 3)), tf.float32),
        "lists": tf.ragged.constant(lists, tf.string, ragged_rank=1, row_splits_dtype=tf.int64).to_sparse(),
    }


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 200])
def test_a_function_sees_whole_blocks_and_gives_the_records(rows: int) -> None:
    import tensorflow as tf

    from beam_jobs.transform.padded import padded

    seen: dict[str, Any] = {}

    def same(values: dict[str, Any]) -> dict[str, Any]:
        seen.update(values)
        return {**values, "ragged": tf.RaggedTensor.from_sparse(values["lists"])}

    given = inputs(rows)
    back = padded(same)(given)
    whole = -(-rows // 64) * 64
    order = [*range(rows), *[rows - 1] * (whole - rows)]
    for name in ("number", "matrix"):
        np.testing.assert_array_equal(seen[name], given[name].numpy()[order])
        np.testing.assert_array_equal(back[name], given[name])
    lists = tf.RaggedTensor.from_sparse(given["lists"]).to_list()
    assert tf.RaggedTensor.from_sparse(seen["lists"]).to_list() == [lists[row] for row in order]
    assert back["ragged"].to_list() == lists
    for part in ("indices", "values", "dense_shape"):
        np.testing.assert_array_equal(getattr(back["lists"], part), getattr(given["lists"], part))


def test_rows_that_a_function_drops_are_missed() -> None:
    import tensorflow as tf

    from beam_jobs.transform.padded import padded

    def positive(values: dict[str, Any]) -> dict[str, Any]:
        return {"number": tf.boolean_mask(values["number"], values["number"] > 0)}

    for numbers in ([1.0, -1.0, 2.0], [1.0, 2.0, -1.0], [-1.0], [3.0] * 63 + [-1.0]):
        found = padded(positive)({"number": tf.constant(numbers)})["number"]
        assert len(found) != len(numbers)
