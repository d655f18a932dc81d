"""What all tests of transforms need."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """TensorFlow as a job's own process has it, before any test makes a tensor."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
