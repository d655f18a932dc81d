"""What changed between two committed versions of a data set: records, shards, features, job, books, dead letters.

Only what differs is read: both manifests, the indexes of shards that are not the same, and of their records those
that have the same key and the same length.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from beam_jobs.diff_records import Matched, match
from beam_jobs.diff_walk import Version
from schemas import HeadraceError, JobSpec, Manifest
from schemas.manifest import SplitEntry
from schemas.naming import DATASET_INFO, MANIFEST, STATISTICS, tfmd_statistics_name

_PARTS = ("features", "job", "surveyed", "books", "dead_letters", "leaks", "duplicates", "files")


@dataclass(frozen=True)
class Change:
    """A field that differs, None on the side that does not have it."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class ShardCounts:
    """What became of a split's shards.

    Attributes:
      before, after: how many each version has.
      identical: of those after, how many have the SHA-256 of any shard before.
      rewritten: the others.
      reindexed: of the identical ones, how many have another index.
    """

    before: int
    after: int
    identical: int
    rewritten: int
    reindexed: int


@dataclass(frozen=True)
class Diff:
    """All that differs between two versions.

    Attributes:
      before, after: the versions.
      records: what became of each record.
      shards: by split.
      features, job, surveyed, books, dead_letters, leaks, duplicates, files: fields that differ. Not the job's
        version; nor `dataset_info.json`, which holds it; nor statistics, which follow from the records.
      notes: what is needed to understand the rest.
      seconds: how long it took.
    """

    before: Version
    after: Version
    records: Matched
    shards: Mapping[str, ShardCounts]
    features: tuple[Change, ...]
    job: tuple[Change, ...]
    surveyed: tuple[Change, ...]
    books: tuple[Change, ...]
    dead_letters: tuple[Change, ...]
    leaks: tuple[Change, ...]
    duplicates: tuple[Change, ...]
    files: tuple[Change, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def totals(self) -> dict[str, int]:
        """Records of all splits by what became of them; each record is counted once."""
        counts = self.records.splits.values()
        kinds = {"added": "added", "removed": "removed", "changed": "changed", "moved": "moved_out"}
        kinds["unchanged"] = "unchanged"
        return {kind: sum(getattr(split, name) for split in counts) for kind, name in kinds.items()}

    @property
    def equal(self) -> bool:
        """Whether nothing differs; the command's exit code is 0 then, and 1 otherwise."""
        changed = sum(count for kind, count in self.totals.items() if kind != "unchanged")
        shards = any(c.rewritten or c.reindexed or c.before != c.after for c in self.shards.values())
        return not (changed or shards or any(getattr(self, part) for part in _PARTS))

    def to_json(self) -> dict[str, Any]:
        """The differences for scripts."""
        from beam_jobs.diff_text import example_json

        return {
            "equal": self.equal,
            **{side: _identity(getattr(self, side)) for side in ("before", "after")},
            "records": self.totals,
            "splits": {
                name: {**asdict(counts), "shards": asdict(self.shards[name])}
                for name, counts in self.records.splits.items()
            },
            "moved": [
                {"from": one, "to": other, "records": count, "changed": changed}
                for (one, other), (count, changed) in sorted(self.records.moves.items())
            ],
            **{part: [asdict(change) for change in getattr(self, part)] for part in _PARTS},
            "notes": list(self.notes),
            "examples": [example_json(example, self.before, self.after) for example in self.records.examples],
            "seconds": round(self.seconds, 3),
        }


def diff(before: str | Path, after: str | Path, *, records: int = 0) -> Diff:
    """What changed from the version in `before` to that in `after`.

    Args:
      before, after: directories of committed versions, or their URLs.
      records: how many examples to list of records that were added, of those removed, changed and moved.

    Raises:
      HeadraceError: there is no data set, or what has to be read of it is damaged.
    """
    if records < 0:
        raise HeadraceError("The number of records must not be negative.", where="--records", value=records)
    start = time.monotonic()
    old, new = Version(str(before)), Version(str(after))
    a, b = old.manifest, new.manifest
    jobs = [_job(version) for version in (old, new)]
    changes = {
        "features": _changes(*({n: f.model_dump(by_alias=True, mode="json", exclude_none=True)
                                for n, f in m.features.items()} for m in (a, b))),
        "job": _changes(*jobs),
        "surveyed": _changes(*({each.name: each.found for each in m.surveyed} for m in (a, b))),
        "books": _changes(*({n: books.model_dump() for n, books in m.books.items()} for m in (a, b))),
        "dead_letters": _changes(dict(a.dead_letters), dict(b.dead_letters), deep=False),
        "leaks": _changes(*({n: proof.model_dump() for n, proof in m.leaks.items()} for m in (a, b))),
        "duplicates": _changes(*({} if m.duplicates is None else m.duplicates.model_dump() for m in (a, b))),
        "files": _changes(_other_files(a), _other_files(b), deep=False),
    }  # fmt: skip
    notes = []
    if jobs[0]["seed"] != jobs[1]["seed"]:
        notes.append(
            "The jobs' `seed` differs, so no key has the same hash in both: all records count as removed and added."
        )
    return Diff(
        before=old,
        after=new,
        records=match(old, new, records),
        shards=_shard_counts(a, b),
        **{part: tuple(found) for part, found in changes.items()},
        notes=tuple(notes),
        seconds=time.monotonic() - start,
    )


def diff_command(before: str, after: str, *, records: int, as_json: bool) -> int:
    """`headrace diff`: prints what differs; gives the exit code, 1 where anything does."""
    found = diff(before, after, records=records)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        from beam_jobs.diff_text import blocks
        from beam_jobs.tables import show

        show(list(blocks(found)), sys.stdout)
    return 0 if found.equal else 1


def _identity(version: Version) -> dict[str, Any]:
    fields = {"name", "version", "headrace_version", "fingerprint"}
    return {"directory": str(version.place), **version.manifest.model_dump(mode="json", include=fields)}


def _job(version: Version) -> dict[str, Any]:
    """The job with its defaults filled in, so that one that is written out is no difference."""
    try:
        spec = JobSpec.model_validate(version.manifest.spec)
    except ValidationError as error:
        raise HeadraceError(
            f"The job in the manifest is not valid: {error.errors()[0]['msg']}.",
            where=version.place.where(MANIFEST),
            hint="Read it with the Headrace that wrote it, or prepare the data set again.",
        ) from error
    return spec.model_dump(by_alias=True, mode="json", exclude={"vars", "version", "features"})


def _other_files(manifest: Manifest) -> dict[str, str]:
    # These say of the records what the records say.
    follow = {DATASET_INFO, STATISTICS, *map(tfmd_statistics_name, manifest.splits)}
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path not in follow}


def _changes(before: dict[str, Any], after: dict[str, Any], *, deep: bool = True) -> list[Change]:
    """The fields that differ, those of nested objects and lists by their path."""
    old, new = ((dict(_flat(side)) if deep else side) for side in (before, after))
    return [
        Change(field, old.get(field), new.get(field))
        for field in dict.fromkeys([*old, *new])
        if old.get(field) != new.get(field)
    ]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items: Mapping[str, Any] = {}
    if isinstance(value, dict):
        items = value
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = {str(number): item for number, item in enumerate(value)}
    if not items:
        yield path, value
    for name, item in items.items():
        yield from _flat(item, f"{path}.{name}" if path else name)


def _shard_counts(before: Manifest, after: Manifest) -> dict[str, ShardCounts]:
    indexes: dict[str, set[str]] = {}
    for split in before.splits.values():
        for shard in split.shards:
            indexes.setdefault(shard.sha256, set()).add(shard.index.sha256)
    count = partial(_split_shards, indexes)
    names = dict.fromkeys([*before.splits, *after.splits])
    return {name: count(before.splits.get(name), after.splits.get(name)) for name in names}


def _split_shards(
    indexes: Mapping[str, set[str]], before: SplitEntry | None, after: SplitEntry | None
) -> ShardCounts:
    shards = after.shards if after else []
    identical = [shard for shard in shards if shard.sha256 in indexes]
    return ShardCounts(
        before=len(before.shards) if before else 0,
        after=len(shards),
        identical=len(identical),
        rewritten=len(shards) - len(identical),
        reindexed=sum(shard.index.sha256 not in indexes[shard.sha256] for shard in identical),
    )
