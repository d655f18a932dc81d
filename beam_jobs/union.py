"""Unions: what each of several main sources gives of its records. Samples and limits go by a hash of the key.

So they depend on neither order nor partitions. A sample is known record by record; a limit once all are, see
`beam_jobs.placement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, Ledger
from schemas import HeadraceError
from schemas.hashing import as_sortable, key_hashes, ranks
from schemas.spec import Member

NOT_SAMPLED = "not sampled"
OVER_LIMIT = "over the limit"
_BUCKETS = 1 << 16

Ranks = npt.NDArray[np.uint64]


def with_prefix(keys: pa.Array, prefix: str) -> pa.Array:
    """The keys, binary (n,), with the prefix before each; null stays null."""
    if not prefix:
        return keys
    return pc.binary_join_element_wise(pa.scalar(prefix.encode(), keys.type), keys, pa.scalar(b"", keys.type))


def take_sample(batch: Batch, member: Member, seed: int, ledger: Ledger) -> Batch:
    """Drops the records that are not in the member's sample."""
    if member.sample >= 1:
        return batch
    found = ranks(as_sortable(key_hashes(batch.keys.to_pylist(), seed)))
    # 2**53 keeps the product exact, as for splits.
    bound = np.uint64(min(round(member.sample * 2**53), 2**53 - 1) << 11)
    return ledger.drop(batch, NOT_SAMPLED, found >= bound)


def find_bound(limit: int, parts: Iterable[Ranks], again: Iterable[Ranks]) -> int:
    """The `limit`-th smallest of all ranks, which come twice in parts: memory is that of one part.

    Equal ranks are equal keys, of which only one is written: so all of them are within the bound.
    """
    counts = np.zeros(_BUCKETS, np.int64)
    for part in parts:
        counts += np.bincount((part >> np.uint64(48)).astype(np.int64), minlength=_BUCKETS)
    bucket = int(np.searchsorted(np.cumsum(counts), limit))
    rest = limit - int(counts[:bucket].sum())
    here = [part[(part >> np.uint64(48)).astype(np.int64) == bucket] for part in again]
    return int(np.partition(np.concatenate(here), rest - 1)[rest - 1])


def check_shapes(columns: Iterator[tuple[str, list[str]]]) -> list[str]:
    """The columns that all members of a union have; those of the first, in its order.

    Raises:
      HeadraceError: they differ.
    """
    first, expected = next(columns)
    for name, found in columns:
        if sorted(found) != sorted(expected):
            differ = sorted(set(found) ^ set(expected))
            raise HeadraceError(
                f"The sources {first!r} and {name!r} have different columns, so they have no union.",
                where="main",
                value=", ".join(differ),
                allowed=f"those of {first}: {', '.join(expected)}",
                hint="Name the columns alike, for a csv source with `columns:`, or prepare two data sets.",
            )
    return expected
