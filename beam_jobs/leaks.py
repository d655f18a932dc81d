"""The check that no key lies in two splits: possible only where columns, and not the key alone, choose the split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from beam_jobs.store_path import StorePath
from schemas import HeadraceError
from schemas.hashing import KEY_HASH_DTYPE, as_sortable, shard_bounds
from schemas.index import decode_index
from schemas.manifest import SplitEntry
from schemas.split import Split

_CHUNK_RECORDS = 4_000_000  # whose hashes are held at a time, 24 bytes each


def refuse_straddling_keys(directory: StorePath, splits: Mapping[str, SplitEntry], split: Split) -> None:
    """Looks through the indexes of all shards, one range of the hash space after the other.

    Raises:
      HeadraceError: two splits hold records of one key; the error counts such keys and names the first.
    """
    chunks = sum(split.records for split in splits.values()) // _CHUNK_RECORDS + 1
    names = list(splits)
    found, first = 0, ""
    for chunk in range(chunks):
        parts = [_hashes(directory, split, chunk, chunks) for split in splits.values()]
        hashes = np.concatenate(parts, dtype=KEY_HASH_DTYPE)
        owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        order = np.lexsort((hashes["lo"], hashes["hi"]))
        again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        if len(again) and not found:
            one, other = order[again[0]], order[again[0] + 1]
            first = (
                f"key hash {hashes[one].tobytes().hex()} in {names[owners[one]]} and {names[owners[other]]}"
            )
        found += len(again)
    if found:
        raise HeadraceError(
            f"{found:,} keys have records in two splits, so the splits would leak. Nothing was committed.",
            where="split.by" if split.by is not None else f"split.{split.kind}",
            value=f"{_column(split)}: {first}",
            hint="Records of one key have different groups: mend the key or the column, or split by the key.",
        )


def _column(split: Split) -> str | None:
    return next(
        (name for name in (split.by, split.stratify, split.time, split.column) if name is not None), None
    )


def _hashes(directory: StorePath, split: SplitEntry, chunk: int, chunks: int) -> npt.NDArray[np.void]:
    """The key hashes of a split that lie in one of `chunks` equal ranges of the hash space, in order."""
    parts = [np.zeros(0, dtype=KEY_HASH_DTYPE), *_parts(directory, split, chunk, chunks)]
    return np.concatenate(parts, dtype=KEY_HASH_DTYPE)


def _parts(
    directory: StorePath, split: SplitEntry, chunk: int, chunks: int
) -> Iterator[npt.NDArray[np.void]]:
    bounds, shards = shard_bounds(chunks), len(split.shards)
    for number, shard in enumerate(split.shards):
        # Shard and chunk are both ranges of the same space: they overlap unless one ends before the other begins.
        if (number + 1) * chunks <= chunk * shards or (chunk + 1) * shards <= number * chunks:
            continue
        path = directory / shard.index.path
        hashes = as_sortable(decode_index(path.read(), str(path)).key_hashes)
        low = int(np.searchsorted(hashes, bounds[chunk]))
        high = int(np.searchsorted(hashes, bounds[chunk + 1])) if chunk + 1 < chunks else len(hashes)
        yield hashes[low:high]
