"""Two versions' records, matched by key hash: which were added, removed, changed, moved to another split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from beam_jobs.diff_bytes import equal_frames
from beam_jobs.diff_walk import Rows, Version, shared_shards, walk
from schemas import HeadraceError

KINDS = ("added", "removed", "changed", "moved")

Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Spot:
    """Where a record lies: its split, shard, number in the shard from 0, byte offset and length of its frame."""

    split: str
    shard: str
    record: int
    offset: int
    length: int


@dataclass(frozen=True)
class Example:
    """A record that differs.

    Attributes:
      kind: one of `KINDS`; a record that was moved and changed is "moved".
      key_hash: in hex.
      before, after: where it lies in each version, None where it does not.
    """

    kind: str
    key_hash: str
    before: Spot | None
    after: Spot | None


@dataclass
class Counts:
    """What became of a split's records; those that left the split and changed, too, count as moved."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    moved_in: int = 0
    moved_out: int = 0
    unchanged: int = 0


@dataclass
class Matched:
    """What became of all records.

    Attributes:
      splits: by the names of both versions' splits.
      moves: how many records went from one split to another, and how many of them changed on the way.
      examples: the first few of each kind, in key-hash order.
    """

    splits: dict[str, Counts]
    moves: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class _Step:
    """Records of both versions in one range of hashes, matched; places are rows of `old` and `new`.

    Attributes:
      removed, added: (n,) rows that have no partner.
      pairs: (n,) rows of `old` and of `new` with the same key.
      moved, same: bool (n,), of each pair: whether the splits differ, and whether the bytes are the same.
    """

    old: Rows
    new: Rows
    removed: Places
    added: Places
    pairs: tuple[Places, Places]
    moved: Mask
    same: Mask


def match(before: Version, after: Version, examples: int = 0) -> Matched:
    """What became of the records of `before` in `after`, with the first few of each kind.

    Raises:
      HeadraceError: an index or a record that is looked at is missing or damaged.
    """
    names = list(dict.fromkeys([*before.manifest.splits, *after.manifest.splits]))
    matched = Matched({name: Counts() for name in names})
    for name, counts in matched.splits.items():
        for number in shared_shards(before.manifest, after.manifest, name):
            counts.unchanged += before.manifest.splits[name].shards[number].records
    for old, new in walk(before, after, names):
        step = _match(old, new)
        _count(step, names, matched)
        _list(step, names, matched, examples)
    return matched


def _match(old: Rows, new: Rows) -> _Step:
    order, twice = _merge(old, new)
    is_new = order >= len(old)
    _refuse_repeated(old, new, order[:-1][twice & (is_new[1:] == is_new[:-1])])
    first, second = (np.zeros(len(order), np.bool_) for _ in range(2))  # of a pair
    first[:-1], second[1:] = twice, twice
    alone = ~(first | second)
    a, b = order[first], order[second] - len(old)
    return _Step(
        old,
        new,
        removed=order[alone & ~is_new],
        added=order[alone & is_new] - len(old),
        pairs=(a, b),
        moved=old.splits[a] != new.splits[b],
        same=_same(old, new, a, b),
    )


def _merge(old: Rows, new: Rows) -> tuple[Places, Mask]:
    """Both sides' records by key hash, equal ones old before new; and which have the hash of the next one."""
    high, low = (
        np.concatenate([old.hashes[half], new.hashes[half]]).astype(np.uint64) for half in ("hi", "lo")
    )
    order = np.argsort(high, kind="stable")  # it merges what is sorted already, which `lexsort` does not
    alike = high[order[1:]] == high[order[:-1]]
    twice = alike & (low[order[1:]] == low[order[:-1]])
    if not np.array_equal(alike, twice):  # two keys share half a hash: never by chance
        order = np.lexsort((low, high))
        twice = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    return order, twice


def _refuse_repeated(old: Rows, new: Rows, repeated: Places) -> None:
    if not len(repeated):
        return
    row = int(repeated[0])
    side, row = (old, row) if row < len(old) else (new, row - len(old))
    raise HeadraceError(
        "A key lies in two splits of one version, so its records cannot be matched.",
        where=str(side.version.place),
        value=f"key hash {side.hashes[row].tobytes().hex()}",
        hint="Headrace commits no such version: prepare it again.",
    )


def _same(old: Rows, new: Rows, a: Places, b: Places) -> Mask:
    """Which of the pairs of records hold the same bytes."""
    same = np.zeros(len(a), np.bool_)
    alike = old.lengths[a] == new.lengths[b]
    for one, other in _ways(old.splits[a[alike]], new.splits[b[alike]]):
        here, there = old.shards[one], new.shards[other]
        these = alike & (old.splits[a] == one) & (new.splits[b] == other)
        if here.sha256 == there.sha256:
            known = these & (old.offsets[a] == new.offsets[b])  # the same bytes of the same file
            same |= known
            these &= ~known
        same[these] = equal_frames(
            (old.version.place, here.path),
            (new.version.place, there.path),
            old.offsets[a[these]],
            new.offsets[b[these]],
            old.lengths[a[these]],
        )
    return same


def _ways(old: Places, new: Places) -> list[tuple[int, int]]:
    """The combinations of splits that there are."""
    return sorted(set(map(tuple, np.unique(np.stack([old, new], axis=1), axis=0).tolist())))


def _count(step: _Step, names: Sequence[str], matched: Matched) -> None:
    a, b = step.old.splits[step.pairs[0]], step.new.splits[step.pairs[1]]
    stayed = ~step.moved
    for kind, splits in (
        ("added", step.new.splits[step.added]),
        ("removed", step.old.splits[step.removed]),
        ("changed", a[stayed & ~step.same]),
        ("unchanged", a[stayed & step.same]),
        ("moved_out", a[step.moved]),
        ("moved_in", b[step.moved]),
    ):
        for name, count in zip(names, np.bincount(splits, minlength=len(names)).tolist(), strict=True):
            counts = matched.splits[name]
            setattr(counts, kind, getattr(counts, kind) + count)
    for one, other in _ways(a[step.moved], b[step.moved]):
        way, these = (names[one], names[other]), (a == one) & (b == other)
        count, changed = matched.moves.get(way, (0, 0))
        matched.moves[way] = count + int(these.sum()), changed + int((these & ~step.same).sum())


def _list(step: _Step, names: Sequence[str], matched: Matched, examples: int) -> None:
    changed = ~step.moved & ~step.same
    nowhere = np.full(max(len(step.removed), len(step.added)), -1)
    for kind, old, new in (
        ("added", nowhere, step.added),
        ("removed", step.removed, nowhere),
        ("changed", step.pairs[0][changed], step.pairs[1][changed]),
        ("moved", step.pairs[0][step.moved], step.pairs[1][step.moved]),
    ):
        wanted = max(0, examples - sum(example.kind == kind for example in matched.examples))
        for a, b in zip(old[:wanted].tolist(), new[:wanted].tolist(), strict=False):
            key_hash = (step.old.hashes[a] if a >= 0 else step.new.hashes[b]).tobytes().hex()
            here, there = _spot(step.old, a, names), _spot(step.new, b, names)
            matched.examples.append(Example(kind, key_hash, here, there))


def _spot(rows: Rows, row: int, names: Sequence[str]) -> Spot | None:
    if row < 0:
        return None
    split = int(rows.splits[row])
    place = (int(column[row]) for column in (rows.records, rows.offsets, rows.lengths))
    return Spot(names[split], rows.shards[split].path, *place)
