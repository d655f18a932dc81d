"""Where partitions begin: at rows whose key says so, so that a row more disturbs only the partition it falls into."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources._sql.digest import offsets_of

PARTITION_BYTES = 32 << 20
_END_BYTES = 16


class Cutter:
    """Cuts rows that come one chunk after the other.

    A partition may begin at a row whose mark, a hash of its key, is below a bound: 1 in `average`, from a quarter
    of `average` rows on. Beyond twice as many, or half of `PARTITION_BYTES`, the bound rises, until at four times as
    many, or all those bytes, every row will do. After a change, cuts are soon where they were.
    """

    def __init__(self, average: int) -> None:
        self._average = average
        self._rows = self._bytes = 0

    def starts(self, keys: pa.Array, sizes: npt.NDArray[np.int64]) -> list[int]:
        """The places among these rows at which a partition begins, in order."""
        found: list[int] = []
        marks, place = _marks(keys), 0
        while place < len(marks):
            most = place + 4 * self._average + 1  # among so many rows there is a cut
            cut = self._next(marks[place:most], sizes[place:most])
            if cut is None:
                self._rows += len(marks) - place
                self._bytes += int(sizes[place:].sum())
                break
            place += cut
            found.append(place)
            self._rows, self._bytes = 1, int(sizes[place])
            place += 1
        return found

    def _next(self, marks: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64]) -> int | None:
        # What the partition holds before each of these rows, as shares of what it may hold at most.
        rows = (self._rows + np.arange(len(marks))) / (4 * self._average)
        filled = (self._bytes + np.concatenate([[0], np.cumsum(sizes[:-1])])) / PARTITION_BYTES
        full = np.maximum(rows, filled)
        bound = np.where(full < 1 / 16, 0.0, 1 / self._average)
        bound = np.maximum(bound, np.where(full > 0.5, np.square(np.square(2 * full - 1)), 0.0))
        # The first row of all begins a partition anyway.
        cuts = np.flatnonzero((marks < bound) & (self._rows + np.arange(len(marks)) > 0))
        return int(cuts[0]) if len(cuts) else None


def _marks(keys: pa.Array) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each key, of its length and its last 16 bytes: where keys differ, mostly."""
    offsets = offsets_of(keys)
    lengths = np.diff(offsets)
    data = keys.buffers()[2]
    padded = np.concatenate([np.zeros(_END_BYTES, np.uint8), np.frombuffer(data or b"", np.uint8)])
    ends = padded[offsets[1:, None] + np.arange(_END_BYTES)]
    ends[np.arange(_END_BYTES)[None, :] < _END_BYTES - lengths[:, None]] = 0
    words = ends.view("<u8")
    mixed = _mix(_mix(words[:, 0] ^ lengths.astype(np.uint64)) ^ words[:, 1])
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
