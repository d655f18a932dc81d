"""The file beside a run that says where each of its records goes: the number of its split, or why it is left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from google_crc32c import value as crc32c

from beam_jobs.store_path import StorePath
from beam_jobs.union import OVER_LIMIT

Final = npt.NDArray[np.int16]
_DTYPE = np.dtype("<i2")
_CRC_BYTES = 4
OVER_CAP = "over the cap"

EXACT_DUPLICATE = "exact duplicate"
NEAR_DUPLICATE = "near-duplicate"

# The rules that leave records out once all are known, as the books name them. The first has the code -1.
RULES = (OVER_LIMIT, OVER_CAP, EXACT_DUPLICATE, NEAR_DUPLICATE)


def code_of(rule: str) -> int:
    """The negative number that stands for a rule in place of a split."""
    return -1 - RULES.index(rule)


def write_placement(path: StorePath, final: Final) -> str:
    """Writes the file, 2 bytes a record; gives its CRC32C as text."""
    data = final.astype(_DTYPE).tobytes()
    crc = crc32c(data)
    path.write(data + crc.to_bytes(_CRC_BYTES, "little"), durable=False)
    return f"{crc:08x}"


def read_placement(path: StorePath) -> Final | None:
    """Where all records of a run go, int16 (n,); None where no file is there that is whole."""
    try:
        data = path.read()
    except FileNotFoundError:
        return None
    data, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    return np.frombuffer(data, _DTYPE) if crc32c(data).to_bytes(_CRC_BYTES, "little") == crc else None


def read_places(path: StorePath, start: int, stop: int) -> Final:
    """Where the records `start` to `stop` of a run go, int16 (n,), from a file that this job has written."""
    size = _DTYPE.itemsize
    return np.frombuffer(path.read_range(start * size, (stop - start) * size), _DTYPE)
