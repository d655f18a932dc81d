"""What Beam pickles for workers of this process."""

from __future__ import annotations

import threading
from typing import Any

from apache_beam.internal import cloudpickle_pickler

from beam_jobs.pickles import uncompressed

VALUE = {"rows": list(range(500))}


def test_pickles_of_all_threads_are_read_by_all() -> None:
    compressed = cloudpickle_pickler.dumps(VALUE)
    with uncompressed():
        plain = cloudpickle_pickler.dumps(VALUE)
        others: list[Any] = []
        other = threading.Thread(target=lambda: others.append(cloudpickle_pickler.dumps(VALUE)))
        other.start()
        other.join()
        assert [cloudpickle_pickler.loads(each) for each in (compressed, plain, *others)] == [VALUE] * 3
    assert others == [compressed], "a thread that sends its graph away compresses it"
    assert len(plain) > len(compressed)
    assert cloudpickle_pickler.dumps(VALUE) == compressed
    assert cloudpickle_pickler.loads(plain) == VALUE
