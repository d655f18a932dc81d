"""Which record comes when: a pure function of the data set, the seed, the epoch and the position. No TensorFlow.

Blocks of consecutive records are permuted over the whole split, and the sequence this gives is permuted again
within windows of many blocks. Where records are large a block is one record, and the order is a plain random
permutation of the split. Where they are small, a block is what one read fetches, and a window is what memory
holds at a time; the records of a shard lie in hash order already, so blocks hold unrelated records.

Both permutations sort records by keys that come raw from Philox 4x64-10 (Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3", 2011). NumPy promises the raw stream of a bit generator for ever, but not what `permutation`
makes of it; and the 4-round ciphers of `index_shuffle` in TensorFlow and Grain are visibly not random at some
sizes. Changing anything here changes the order of every training run: a new major version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loader.memo import kept
from schemas.hashing import fingerprint

Ids = npt.NDArray[np.int64]

BLOCK_BYTES = 8 << 10  # 8 KiB: a read this large costs little more than a smaller one
WINDOW_BYTES = 32 << 20  # 32 MiB: 4,096 blocks, so that a batch mixes blocks as a global shuffle does
MAX_BLOCKS = 1 << 22  # sorting this many keys takes half a second and 100 MB


@dataclass(frozen=True)
class Plan:
    """The order of one split.

    Attributes:
      records: number of records in the split; an example's id is its position in 0 … records - 1.
      data: names the data set version and the part of it, such as a fingerprint; another one, another order.
      seed: chosen by the user.
      shuffle: False for stored order.
      block: records of a block.
      window: blocks of a window.
    """

    records: int
    data: str
    seed: int = 0
    shuffle: bool = True
    block: int = 1
    window: int = 1

    @property
    def identity(self) -> str:
        """Names all that decides the order but the epoch."""
        return fingerprint("plan", *dataclasses.astuple(self))

    @property
    def is_even(self) -> bool:
        """All epochs have the same number of positions."""
        return True

    @property
    def has_holes(self) -> bool:
        """Every position holds an example."""
        return False

    def count(self, epoch: int) -> int:  # noqa: ARG002 (other orders differ from epoch to epoch)
        """Positions of an epoch."""
        return self.records

    def ids(self, epoch: int, start: int, stop: int) -> Ids:
        """The ids at positions `start` … `stop - 1` of an epoch: int64 of shape (stop - start,)."""
        if not self.shuffle:
            return np.arange(start, stop, dtype=np.int64)
        if self.block == 1:
            return block_order(self, epoch)[start:stop]
        size = self.window_records
        parts = []
        for window in range(start // size, -(-stop // size)):
            ids = window_order(self, epoch, window)
            parts.append(ids[max(start - window * size, 0) : stop - window * size])
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @property
    def window_records(self) -> int:
        """Records of every window but the last."""
        return self.block * self.window

    def seeds(self, epoch: int, positions: Ids, ids: Ids) -> npt.NDArray[np.int64]:  # noqa: ARG002
        """What random operations on the examples `ids` are seeded with in an epoch: int64 of shape (n, 2).

        Their positions play no part, since an example comes once an epoch.
        """
        key = np.frombuffer(self._key("augment", epoch), "<u8")
        with np.errstate(over="ignore"):
            first = _mix(_mix(ids.astype(np.uint64) + key[0]) ^ key[1])
            second = _mix(first + np.uint64(0x9E3779B97F4A7C15))
        return np.stack([first, second], axis=-1).view(np.int64)

    def _spread(self, order: Ids, window: int) -> Ids:
        """The records of a window's blocks, blocks in permuted order, before the window's own permutation."""
        # All blocks are full but the last of the split, so those behind it lie earlier by what it lacks.
        lack = len(order) * self.block - self.records
        short = int(np.flatnonzero(order == len(order) - 1)[0])
        first = window * self.window_records
        shift = lack if first >= (short + 1) * self.block - lack else 0
        stop = min(first + self.window_records, self.records)
        low = (first + shift) // self.block
        blocks = order[low : low + self.window + 2]
        ids = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
        ids = ids[ids < self.records]
        skip = first + shift - low * self.block
        return ids[skip : skip + stop - first]

    def _key(self, purpose: str, *numbers: int) -> bytes:
        return philox_key(purpose, self.data, self.seed, *numbers)


def make_plan(
    records: int, total_bytes: int, data: str, *, seed: int, shuffle: bool, block_bytes: int = BLOCK_BYTES
) -> Plan:
    """The plan of a split of `records` records in `total_bytes` bytes, with blocks and windows that suit them."""
    mean = max(1, total_bytes // max(1, records))
    block = max(1, block_bytes // mean, -(-records // MAX_BLOCKS))
    window = max(1, WINDOW_BYTES // (block * mean))
    return Plan(records, data, seed, shuffle, block, window)


@kept(2)
def block_order(plan: Plan, epoch: int) -> Ids:
    """All blocks of an epoch in the order they are read: int64 of shape (blocks,), not to be written to."""
    order = sorted_by_philox(-(-plan.records // plan.block), plan._key("blocks", epoch))
    order.flags.writeable = False
    return order


@kept(4)
def window_order(plan: Plan, epoch: int, window: int) -> Ids:
    """The ids of one window in their final order, int64, not to be written to."""
    ids = plan._spread(block_order(plan, epoch), window)
    ids = ids[sorted_by_philox(len(ids), plan._key("window", epoch, window))]
    ids.flags.writeable = False
    return ids


def philox_key(*words: str | int) -> bytes:
    """A 128-bit key that is another one for other words."""
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=16).digest()


def sorted_by_philox(count: int, key: bytes) -> Ids:
    """A random permutation of 0 … count - 1: positions sorted by 64 random bits each."""
    philox = np.random.Philox(key=np.frombuffer(key, "<u8").astype(np.uint64))
    return np.argsort(philox.random_raw(count), kind="stable").astype(np.int64, copy=False)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Stafford's variant 13 of the 64-bit MurmurHash3 finaliser, as in SplitMix64 (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
