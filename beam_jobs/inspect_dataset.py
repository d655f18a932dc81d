"""What is in a data set: splits, features, books, dead letters, a few records. TensorFlow is not needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.examples import DamagedRecordError, Values, parse_example, read_record
from beam_jobs.tables import Block, Facts, Line, Table, show
from beam_jobs.values import json_of, shown
from schemas import Books, HeadraceError, Manifest, read_index, read_manifest
from schemas.anomalies import Anomalies, anomalies_json, read_anomalies
from schemas.columns import is_list
from schemas.errors import shorten
from schemas.features import ClassLabelFeature, Feature, ImageFeature, TextFeature
from schemas.naming import ANOMALIES, DEAD_LETTERS
from schemas.packing import unpack
from schemas.units import format_bytes

_LETTER_EXAMPLES = 3  # of each rule
_SHOWN_NAMES = 100  # characters
_LETTER_COLUMNS = ("source", "origin", "stage", "rule", "reason")


@dataclass(frozen=True)
class Record:
    """A record, or why it cannot be shown.

    Attributes:
      split, shard, number: where it lies; number counts in the shard, from 0.
      key_hash: in hex.
      values: by feature; empty where there is a problem.
    """

    split: str
    shard: str
    number: int
    key_hash: str = ""
    values: Mapping[str, Values] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Inspection:
    """What is in a data set version.

    Attributes:
      letters: a few dead letters of each `stage.rule`.
      letters_problem: why they cannot be read, if so.
      anomalies: where its data were not what its job's schema expects; None where it had no schema.
    """

    directory: str
    manifest: Manifest
    letters: Mapping[str, list[dict[str, str]]]
    letters_problem: str
    records: tuple[Record, ...]
    anomalies: Anomalies | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything for scripts; images and bytes as what they are, not what they hold."""
        manifest = self.manifest
        features = manifest.features
        return {
            "directory": self.directory,
            **manifest.model_dump(
                mode="json", include={"name", "version", "description", "headrace_version", "fingerprint"}
            ),
            "label": manifest.spec.get("label"),
            "indexed": manifest.indexed,
            "packed": manifest.packed,
            "surveyed": [each.model_dump() for each in manifest.surveyed],
            "splits": {
                name: {"records": split.records, "bytes": split.bytes, "shards": len(split.shards)}
                for name, split in manifest.splits.items()
            },
            "features": {
                name: feature.model_dump(mode="json", by_alias=True, exclude_none=True)
                for name, feature in features.items()
            },
            "books": {source: books.model_dump() for source, books in manifest.books.items()},
            "leaks": {column: proof.model_dump() for column, proof in manifest.leaks.items()},
            "dead_letters": {
                rule: {"count": count, "examples": self.letters.get(rule, [])}
                for rule, count in manifest.dead_letters.items()
            },
            **({} if self.anomalies is None else {"anomalies": anomalies_json(self.anomalies.anomalies)}),
            "records": [_record_json(record, features) for record in self.records],
        }


def inspect(directory: str | Path, *, records: int = 3) -> Inspection:
    """What is in the data set version in `directory`, with the first `records` of each split.

    Raises:
      HeadraceError: there is no data set, or its manifest is damaged.
    """
    if records < 0:
        raise HeadraceError("The number of records must not be negative.", where="--records", value=records)
    root = Path(directory)
    manifest = read_manifest(root)
    problem = ""
    letters: dict[str, list[dict[str, str]]] = {}
    try:
        letters = _letters(root, manifest)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        problem = f"{DEAD_LETTERS} cannot be read: {error}"
    first = [
        record for split in manifest.splits for record in islice(_records(root, manifest, split), records)
    ]
    anomalies = None
    if any(entry.path == ANOMALIES for entry in manifest.files):
        anomalies = read_anomalies(root / ANOMALIES)
    return Inspection(str(root), manifest, letters, problem, tuple(first), anomalies)


def inspect_command(directory: str, *, records: int, as_json: bool) -> int:
    """`headrace inspect`: prints what is in a data set; gives the exit code."""
    inspection = inspect(directory, records=records)
    if as_json:
        sys.stdout.write(
            json.dumps(inspection.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )
    else:
        print_inspection(inspection)
    return 0


def print_inspection(inspection: Inspection, out: TextIO | None = None) -> None:
    """What is in the data set, for people."""
    show(list(_blocks(inspection)), out or sys.stdout)


def _letters(root: Path, manifest: Manifest) -> dict[str, list[dict[str, str]]]:
    """The first dead letters of each rule."""
    found: dict[str, list[dict[str, str]]] = {}
    if not manifest.dead_letters or all(entry.path != DEAD_LETTERS for entry in manifest.files):
        return found
    wanted = sum(min(count, _LETTER_EXAMPLES) for count in manifest.dead_letters.values())
    with pq.ParquetFile(root / DEAD_LETTERS) as file:
        for batch in file.iter_batches(batch_size=4096, columns=list(_LETTER_COLUMNS)):
            for row in batch.to_pylist():
                examples = found.setdefault(f"{row['stage']}.{row['rule']}", [])
                if len(examples) < _LETTER_EXAMPLES:
                    examples.append({name: str(row[name]) for name in ("source", "origin", "reason")})
                    wanted -= 1
            if wanted <= 0:
                break
    return found


def _records(root: Path, manifest: Manifest, split: str) -> Iterator[Record]:
    """The records of a split in stored order; a damaged one says so, and so does a shard without index."""
    for shard in manifest.splits[split].shards:
        try:
            index = read_index(root / shard.index.path)
        except (HeadraceError, OSError) as error:
            why = error.what.rstrip(".") if isinstance(error, HeadraceError) else str(error)
            yield Record(split, shard.path, 0, problem=why)
            continue
        for number in range(len(index)):
            key_hash = index.key_hashes[number].tobytes().hex()
            try:
                values = unpack(parse_example(read_record(root / shard.path, index, number)), manifest.packed)
                yield Record(split, shard.path, number, key_hash, values)
            except (DamagedRecordError, OSError) as error:
                yield Record(split, shard.path, number, key_hash, problem=str(error))


# --- for people ---


def _blocks(inspection: Inspection) -> Iterator[Block]:
    manifest = inspection.manifest
    records = sum(split.records for split in manifest.splits.values())
    shards = sum(len(split.shards) for split in manifest.splits.values())
    size = sum(split.bytes for split in manifest.splits.values())
    yield Line(f"{manifest.name} {manifest.version}", bold=True)
    if manifest.description:
        yield Line(manifest.description)
    yield Line(
        f"{records:,} records in {shards:,} shards, {format_bytes(size)}, by Headrace {manifest.headrace_version}"
    )
    yield Table("Splits", ("split", ">records", ">share", ">shards", ">bytes", ">a record"), [
        (name, f"{split.records:,}", f"{split.records / max(records, 1):.1%}", f"{len(split.shards):,}",
         format_bytes(split.bytes), format_bytes(split.bytes / max(split.records, 1)))
        for name, split in manifest.splits.items()
    ])  # fmt: skip
    label = manifest.spec.get("label")
    yield Table("Features", ("feature", "type", "shape", "holds", "in the index"), [
        (f"{name} (label)" if name == label else name, feature.type, _shape(feature), _holds(feature),
         ("lengths" if is_list(feature) else "values") if name in manifest.indexed else "")
        for name, feature in manifest.features.items()
    ])  # fmt: skip
    if manifest.packed:
        yield Facts("Packed in the records", [(v, ", ".join(names)) for v, names in manifest.packed.items()])
    yield Table("Books", ("source", ">read", ">written", ">dead", ">dropped", ">duplicates", ""), [
        _book_row(source, books) for source, books in manifest.books.items()
    ])  # fmt: skip
    dropped = [
        (f"{source}: {rule}", f"{count:,} dropped")
        for source, books in manifest.books.items()
        for rule, count in books.dropped.items()
    ]
    if dropped:
        yield Facts("Dropped on purpose", dropped)
    if manifest.leaks:
        yield Facts(
            "Values in two splits",
            [
                (column, f"{proof.in_two_splits:,} of {proof.groups:,} looked at")
                for column, proof in manifest.leaks.items()
            ],
        )
    repaired = [
        (f"{source}: {rule}", f"{count:,} repaired")
        for source, books in manifest.books.items()
        for rule, count in books.repaired.items()
    ]
    if repaired:
        yield Facts("Repaired", repaired)
    if manifest.surveyed:
        yield Facts(
            "Learnt from the train split",
            [(each.name, shorten(json.dumps(each.found, ensure_ascii=False))) for each in manifest.surveyed],
        )
    if inspection.anomalies is not None and inspection.anomalies.anomalies:
        yield Facts("Anomalies", [
            (shorten(f"{each.kind} {each.where}", 60), shorten(f"{each.found}; allowed {each.allowed}"))
            for each in inspection.anomalies.anomalies
        ])  # fmt: skip
    yield from _letter_blocks(inspection)
    for record in inspection.records:
        yield _record_block(record, manifest.features)


def _book_row(source: str, books: Books) -> tuple[str, ...]:
    counts = (books.read, books.written, books.dead_lettered, sum(books.dropped.values()), books.duplicates)
    return (source, *(f"{count:,}" for count in counts), "balanced" if books.balanced else "NOT BALANCED")


def _letter_blocks(inspection: Inspection) -> Iterator[Block]:
    if inspection.letters_problem:
        yield Line(inspection.letters_problem)
    for rule, count in inspection.manifest.dead_letters.items():
        examples = inspection.letters.get(rule, [])
        some = f", {len(examples)} of them" if len(examples) < count else ""
        title = f"Dead letters: {rule}, {count:,}{some}"
        yield Facts(title, [(shorten(row["origin"], 60), shorten(row["reason"])) for row in examples])


def _record_block(record: Record, features: Mapping[str, Feature]) -> Block:
    title = f"Record {record.number} of {record.shard}"
    if record.values is None:
        return Facts(title, [("cannot be shown", f"{record.problem}; see `headrace verify`")])
    return Facts(title, [(name, shown(features.get(name), values)) for name, values in record.values.items()])


def _shape(feature: Feature) -> str:
    if isinstance(feature, ImageFeature):
        return "×".join("?" if size is None else str(size) for size in feature.stored_shape)
    shape = getattr(feature, "shape", ())
    return f"[{'any' if shape[0] is None else shape[0]}]" if shape else ""


def _holds(feature: Feature) -> str:
    """What values a feature allows."""
    if isinstance(feature, ImageFeature):
        return feature.stored_format or ", ".join(feature.formats)
    if isinstance(feature, ClassLabelFeature):
        names = list(feature.names)
        return shorten(f"{len(names)}: {', '.join(names)}", _SHOWN_NAMES)
    if isinstance(feature, TextFeature) and feature.vocabulary is not None:
        return shorten(f"{len(feature.vocabulary)}: {', '.join(feature.vocabulary)}", _SHOWN_NAMES)
    low, high = getattr(feature, "min", None), getattr(feature, "max", None)
    if low is None and high is None:
        return ""
    low, high = (None if bound is None else f"{bound:,}" for bound in (low, high))
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}"


# --- for scripts ---


def _record_json(record: Record, features: Mapping[str, Feature]) -> dict[str, Any]:
    place = {"split": record.split, "shard": record.shard, "record": record.number}
    if record.values is None:
        return {**place, "problem": record.problem}
    values = {name: json_of(features.get(name), items) for name, items in record.values.items()}
    return {**place, "key_hash": record.key_hash, "values": values}
