"""The random numbers of `loader.image_ops.uniform` and what follows from them, for whole batches. No TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Seeds = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Flip(Protocol):
    """A flip of `loader.image_ops`."""

    @property
    def axis(self) -> int: ...

    @property
    def probability(self) -> float: ...


def uniform(seeds: Seeds, count: int) -> npt.NDArray[np.float32]:
    """`count` numbers in [0, 1), float32 (n, count), for each of the seeds, int64 (n, 2): SplitMix64."""
    bits: npt.NDArray[np.uint64] = np.ascontiguousarray(seeds).view(np.uint64)
    gamma: npt.NDArray[np.uint64] = bits[:, 1:] * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    x: npt.NDArray[np.uint64] = bits[:, :1] + gamma * np.arange(1, count + 1).astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def flipped(flips: Sequence[Flip], seeds: Seeds, first: int) -> tuple[Flags | None, Flags | None]:
    """Which examples are mirrored left to right, and upside down, after all `flips`; None where none can be.

    `first` is the place of the first of them in the user's list of operations.
    """
    flags: dict[int, Flags] = {}
    for place, flip in enumerate(flips, first):
        chosen = uniform(seeds + np.array([0, place]), 1)[:, 0] < np.float32(flip.probability)
        flags[flip.axis] = flags[flip.axis] ^ chosen if flip.axis in flags else chosen
    return flags.get(1), flags.get(0)
