"""The differences of two versions as people and scripts read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from beam_jobs.diff_records import KINDS, Example, Spot
from beam_jobs.diff_walk import Version
from beam_jobs.examples import MAX_RECORD_BYTES, DamagedRecordError, Values, data_of, parse_example
from beam_jobs.tables import Block, Facts, Line, Table
from beam_jobs.values import json_of, shown
from schemas.errors import shorten
from schemas.features import Feature
from schemas.packing import unpack

if TYPE_CHECKING:
    from beam_jobs.diff import Diff

_SHOWN_FEATURES = 3  # of a record without label
_SHOWN_CHANGES = 20
_SHOWN_VALUE, _SHOWN_SHA256 = 60, 12  # characters
_TITLES = {
    "job": "Job",
    "features": "Features",
    "surveyed": "Learnt from the train split",
    "books": "Books",
    "dead_letters": "Dead letters",
    "leaks": "Checked for leaks",
    "duplicates": "Duplicates",
    "files": "Other files, by SHA-256",
}


def blocks(diff: Diff) -> Iterator[Block]:
    """All differences, for people."""
    old, new = diff.before.manifest, diff.after.manifest
    yield Line(f"{old.name} {old.version} → {new.name} {new.version}", bold=True)
    totals = diff.totals
    if diff.equal:
        shards = sum(counts.after for counts in diff.shards.values())
        yield Line(f"Nothing differs: {totals['unchanged']:,} records in {shards:,} shards.")
        return
    yield Line(", ".join(f"{count:,} {kind}" for kind, count in totals.items() if count) or "no records")
    for text in diff.notes:
        yield Line(text)
    kinds = ("added", "removed", "changed", "moved in", "moved out", "unchanged")
    yield Table("Records", ("split", *(f">{kind}" for kind in kinds)), [
        (name, *(f"{getattr(counts, kind.replace(' ', '_')):,}" for kind in kinds))
        for name, counts in diff.records.splits.items()
    ])  # fmt: skip
    if diff.records.moves:
        yield Table("Moved", ("from", "to", ">records", ">changed too"), [
            (*way, f"{count:,}", f"{changed:,}") for way, (count, changed) in sorted(diff.records.moves.items())
        ])  # fmt: skip
    columns = ("before", "after", "identical", "rewritten", "reindexed")
    yield Table("Shards", ("split", *(f">{column}" for column in columns)), [
        (name, *(f"{getattr(counts, column):,}" for column in columns)) for name, counts in diff.shards.items()
    ])  # fmt: skip
    for part, title in _TITLES.items():
        changes = getattr(diff, part)
        if changes:
            more = len(changes) - _SHOWN_CHANGES
            rest = f", and {more:,} more with --json" if more > 0 else ""
            most = _SHOWN_SHA256 if part == "files" else _SHOWN_VALUE
            yield Facts(title + rest, [
                (change.field, f"{_value(change.before, most)} → {_value(change.after, most)}")
                for change in changes[:_SHOWN_CHANGES]
            ])  # fmt: skip
    for example in sorted(diff.records.examples, key=lambda example: KINDS.index(example.kind)):
        yield _example_block(example, diff.before, diff.after)


def _value(value: Any, most: int) -> str:
    if value is None:
        return "none"
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), most)


def _example_block(example: Example, before: Version, after: Version) -> Block:
    spots = [spot for spot in (example.before, example.after) if spot is not None]
    places = " → ".join(f"record {spot.record} of {spot.shard}" for spot in spots)
    rows = [("key hash", example.key_hash)]
    try:
        for name, values in _values(example, before, after).items():
            texts = ["absent" if items is None else shown(feature, items) for feature, items in values]
            alike = len(texts) > 1 and texts[0] == texts[1]  # images of one size, long texts
            rows.append((name, f"{texts[0]} (other bytes)" if alike else " → ".join(texts)))
    except DamagedRecordError as error:
        rows.append(("cannot be shown", f"{error}; see `headrace verify`"))
    return Facts(f"{example.kind.capitalize()}: {places}", rows)


def example_json(example: Example, before: Version, after: Version) -> dict[str, Any]:
    """An example for scripts, values as `headrace inspect` gives them: one, or those before and after."""
    told: dict[str, Any] = {"kind": example.kind, "key_hash": example.key_hash}
    for side, spot in (("before", example.before), ("after", example.after)):
        told[side] = spot and {"split": spot.split, "shard": spot.shard, "record": spot.record}
    try:
        told["values"] = {
            name: forms[0] if len(forms) == 1 else dict(zip(("before", "after"), forms, strict=True))
            for name, values in _values(example, before, after).items()
            if (forms := [None if items is None else json_of(feature, items) for feature, items in values])
        }
    except DamagedRecordError as error:
        told["problem"] = str(error)
    return told


def _values(
    example: Example, before: Version, after: Version
) -> dict[str, list[tuple[Feature | None, Values | None]]]:
    """Of a record that changed, the features that differ, on both sides; else its label or first features.

    Raises:
      DamagedRecordError: it cannot be read.
    """
    sides = [(version, spot) for version, spot in ((before, example.before), (after, example.after)) if spot]
    held = [_read(version, spot) for version, spot in sides]
    names = [name for name in dict.fromkeys([*held[0], *held[-1]]) if held[0].get(name) != held[-1].get(name)]
    if names:
        both = [(version.manifest.features, values) for (version, _), values in zip(sides, held, strict=True)]
        return {name: [(f.get(name), values.get(name)) for f, values in both] for name in names}
    manifest, values = sides[-1][0].manifest, held[-1]
    label = manifest.spec.get("label")
    names = [label] if label in values else list(values)[:_SHOWN_FEATURES]
    return {name: [(manifest.features.get(name), values[name])] for name in names}


def _read(version: Version, spot: Spot) -> dict[str, Values]:
    if spot.length > MAX_RECORD_BYTES:
        raise DamagedRecordError(f"a record of {spot.length} bytes is too long to show")
    (frame,) = version.place.read_ranges([(spot.shard, spot.offset, spot.length)])
    return unpack(parse_example(data_of(frame, spot.offset, spot.length)), version.manifest.packed)
