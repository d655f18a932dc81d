"""A manifest against itself, and against the files that tell the same in another form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from beam_jobs.check_files import Problem
from schemas import JobSpec, Manifest
from schemas.manifest import all_files, content_fingerprint, is_sealed
from schemas.naming import DATASET_INFO, DEAD_LETTERS, MANIFEST, index_name, shard_name

_MAX_JSON_BYTES = 64 << 20


def _differs(field: str, what: str, expected: object, found: object, file: str = MANIFEST) -> Problem:
    return Problem(file, what, field=field, expected=str(expected), found=str(found))


def manifest_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
    """Its seal, sums, names, books and fingerprint."""
    if not is_sealed((root / MANIFEST).read_bytes().decode("utf-8", "replace")):
        yield Problem(
            MANIFEST, "was changed after it was written; what is said below of other files may be its fault"
        )
    for name, split in manifest.splits.items():
        where = f"splits.{name}"
        for field in ("records", "bytes"):
            total, said = sum(getattr(shard, field) for shard in split.shards), getattr(split, field)
            if total != said:
                yield _differs(f"{where}.{field}", "is not the sum of its shards", total, said)
        for number, shard in enumerate(split.shards):
            wanted = shard_name(manifest.name, name, number, len(split.shards))
            place = f"{where}.shards.{number}"
            if shard.path != wanted:
                yield _differs(f"{place}.path", "names another file", wanted, shard.path)
            if shard.index.path != index_name(wanted):
                yield _differs(
                    f"{place}.index.path", "names another file", index_name(wanted), shard.index.path
                )
    for path, count in Counter(entry.path for entry in all_files(manifest)).items():
        if count > 1:
            yield Problem(MANIFEST, "lists a file more than once", found=path)
    yield from _books_problems(manifest)
    yield from _fingerprint_problems(manifest)


def _books_problems(manifest: Manifest) -> Iterator[Problem]:
    for source, books in manifest.books.items():
        if not books.balanced:
            rule = "read = written + dead_lettered + dropped + duplicates"
            yield _differs(
                f"books.{source}", "the books do not balance", rule, json.dumps(books.model_dump())
            )
    # A duplicate is counted on its own in the books, and has a letter too.
    letters = sum(books.dead_lettered + books.duplicates for books in manifest.books.values())
    counted = sum(manifest.dead_letters.values())
    if letters != counted:
        yield _differs("dead_letters", "are not as many as the books say", letters, counted)
    try:
        mains = JobSpec.model_validate(manifest.spec).main_names
    except ValidationError as error:
        yield Problem(MANIFEST, f"the job in it is not valid: {error.errors()[0]['msg']}", field="spec")
        return
    known = [manifest.books[main].written for main in mains if main in manifest.books]
    written = sum(known) if len(known) == len(mains) else None
    records = sum(split.records for split in manifest.splits.values())
    if written != records:
        where = ", ".join(f"books.{main}.written" for main in mains)
        yield _differs(where, "is not what the splits hold", records, written)


def _fingerprint_problems(manifest: Manifest) -> Iterator[Problem]:
    whole = content_fingerprint(manifest.spec_fingerprint, manifest.splits, manifest.files)
    if whole != manifest.fingerprint:
        yield _differs("fingerprint", "is not that of its spec and shards", whole, manifest.fingerprint)


def letters_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
    """The dead letters in the Parquet file are, rule by rule, as many as the manifest says."""
    if all(entry.path != DEAD_LETTERS for entry in manifest.files):
        if manifest.dead_letters:
            yield Problem(MANIFEST, "counts dead letters but lists no file of them", field="files")
        return
    found: Counter[str] = Counter()
    try:
        with pq.ParquetFile(root / DEAD_LETTERS) as file:
            for batch in file.iter_batches(columns=["stage", "rule"]):
                groups = (
                    pa.Table.from_batches([batch]).group_by(["stage", "rule"]).aggregate([([], "count_all")])
                )
                for row in groups.to_pylist():
                    found[f"{row['stage']}.{row['rule']}"] += row["count_all"]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        if (root / DEAD_LETTERS).exists():
            yield Problem(DEAD_LETTERS, "is not the Parquet file of the dead letters", found=str(error)[:200])
        return
    for rule in sorted({*found, *manifest.dead_letters}):
        wanted = manifest.dead_letters.get(rule, 0)
        if found[rule] != wanted:
            yield _differs(
                rule, "are not as many rows as the manifest counts", wanted, found[rule], DEAD_LETTERS
            )


def tfds_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
    """TFDS reads as many records of each shard as there are."""
    path = root / DATASET_INFO
    if all(entry.path != DATASET_INFO for entry in manifest.files) or not path.is_file():
        return
    wanted = {name: [shard.records for shard in split.shards] for name, split in manifest.splits.items()}
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("too large")
        info = json.loads(path.read_bytes())
        found = {split["name"]: [int(n) for n in split.get("shardLengths", [])] for split in info["splits"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield Problem(DATASET_INFO, "is not what TFDS reads", found=str(error)[:200])
        return
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            where = f"splits.{name}.shardLengths"
            yield _differs(
                where, "are not the shards' records", wanted.get(name), found.get(name), DATASET_INFO
            )
