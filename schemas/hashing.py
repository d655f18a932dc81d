"""Where a record goes: its key's seeded 128-bit hash, its split and its shard.

Everything here is a pure function of the key and the seed, so that adding records never moves others.
BLAKE2b (RFC 7693) was chosen because it is keyed by design, in the standard library, identical on every
machine and costs 0.6 µs a key. Changing any function here changes every data set: a new format version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

KEY_HASH_BYTES = 16
# One structured type for a 128-bit big-endian hash: sorts as the bytes do.
KEY_HASH_DTYPE = np.dtype([("hi", ">u8"), ("lo", ">u8")])


def key_hashes(keys: Iterable[bytes], seed: int) -> npt.NDArray[np.uint8]:
    """The 128-bit hashes of `keys`, uint8 of shape (n, 16): a record's identity, order and shard."""
    return _digests(keys, _salt("key", seed), KEY_HASH_BYTES)


def split_positions(groups: Iterable[bytes], seed: int) -> npt.NDArray[np.uint64]:
    """For each key or group a position in [0, 2**64), uint64 of shape (n,), independent of `key_hashes`."""
    return _digests(groups, _salt("split", seed), 8).view(">u8").ravel().astype(np.uint64)


def value_hashes(values: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """For each value of a column a name in [1, 2**64), uint64 of shape (n,): 0 is left for no value."""
    found = _digests(values, _salt("value", 0), 8).view(">u8").ravel().astype(np.uint64)
    return np.maximum(found, np.uint64(1))


def ranks(hashes: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """For each key hash (`KEY_HASH_DTYPE`) a position in [0, 2**64), uint64 of shape (n,), independent of its order.

    The finaliser of SplitMix64 (Steele, Lea, Flood 2014) over both halves: what is sampled by it lies in all shards.
    """
    mixed = hashes["hi"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ hashes["lo"].astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def split_of(positions: npt.NDArray[np.uint64], fractions: Sequence[float]) -> npt.NDArray[np.int64]:
    """The index of the split that holds each position, int64 of shape (n,).

    `fractions` add up to 1. The bounds are exact integers, so no float rounding can differ by machine.
    """
    return np.searchsorted(split_bounds(fractions), positions, side="right").astype(np.int64)


def split_bounds(fractions: Sequence[float]) -> npt.NDArray[np.uint64]:
    """The upper bounds of all splits but the last, in [0, 2**64), uint64."""
    total, bounds = 0.0, []
    for fraction in fractions[:-1]:
        total += fraction
        # 2**53 keeps the product exact; a fraction finer than that cannot be written as a float anyway.
        bounds.append(min(round(total * 2**53), 2**53 - 1) << 11)
    return np.array(bounds, dtype=np.uint64)


def shard_bounds(shards: int) -> npt.NDArray[np.void]:
    """Lower bounds of each shard's range of the 128-bit hash space, `KEY_HASH_DTYPE` of shape (shards,)."""
    bounds = np.zeros(shards, dtype=KEY_HASH_DTYPE)
    for shard in range(shards):
        # The smallest hash h with h * shards >> 128 == shard.
        low = -((-shard << 128) // shards)
        bounds[shard] = (low >> 64, low & (2**64 - 1))
    return bounds


def as_sortable(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """View of (n, 16) uint8 hashes as `KEY_HASH_DTYPE` of shape (n,), which sorts and searches as the bytes do."""
    return np.ascontiguousarray(hashes).view(KEY_HASH_DTYPE).ravel()


def find_hashes(hashes: npt.NDArray[np.void], among: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """Where each hash is `among` others, which are sorted: int64 (n,), -1 where it is not. All `KEY_HASH_DTYPE`."""
    if not len(among):
        return np.full(len(hashes), -1, np.int64)
    # Half of a hash is enough unless one repeats, and numbers are found in a twentieth of the time.
    high = among["hi"].astype(np.uint64)
    if bool((high[1:] == high[:-1]).any()):
        places = np.searchsorted(among, hashes)
    else:
        places = np.searchsorted(high, hashes["hi"].astype(np.uint64))
    places = np.minimum(places, len(among) - 1).astype(np.int64)
    return np.where(among[places] == hashes, places, -1)


def fingerprint(*parts: object) -> str:
    """The content hash of JSON-able `parts`, 32 hex digits: equal parts, equal fingerprint, on any machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _salt(purpose: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{purpose}:{seed}".encode(), digest_size=16).digest()


def _digests(keys: Iterable[bytes], salt: bytes, size: int) -> npt.NDArray[np.uint8]:
    copy = hashlib.blake2b(digest_size=size, salt=salt).copy  # a third faster than a new one for each key

    def digest(key: bytes) -> bytes:
        hasher = copy()
        hasher.update(key)
        return hasher.digest()

    joined = b"".join([digest(key) for key in keys])
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, size)
