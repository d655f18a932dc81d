"""What Beam pickles of a graph for workers of this process: as it is.

Beam compresses the pickle of each function by bzip2, so that a graph is small on its way to a service. That took a
quarter of the time that Beam needs for a job of ours by itself, and here the graph goes nowhere.
"""

from __future__ import annotations

import bz2
import contextlib
import threading
from collections.abc import Iterator

from apache_beam.internal import cloudpickle_pickler

_BZIP2 = b"BZh"  # begins what is compressed; no pickle does
_here = threading.local()


@contextlib.contextmanager
def uncompressed() -> Iterator[None]:
    """Lets this thread pickle without compressing, for workers of this process alone."""
    cloudpickle_pickler.bz2 = (
        _Bzip2  # for as long as the process lives: another thread may read what we pickle
    )
    _here.stays = True
    try:
        yield
    finally:
        _here.stays = False


class _Bzip2:
    """What Beam's pickler uses of the module `bz2`."""

    @staticmethod
    def compress(data: bytes, compresslevel: int = 9) -> bytes:
        return data if getattr(_here, "stays", False) else bz2.compress(data, compresslevel)

    @staticmethod
    def decompress(data: bytes) -> bytes:
        return bz2.decompress(data) if data.startswith(_BZIP2) else data
