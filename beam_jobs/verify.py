"""Is a data set what its manifest says? Every SHA-256, CRC, count, size and index row against the bytes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from beam_jobs.check_files import MAX_PROBLEMS, Checked, Problem, Progress, check_file, check_shard
from beam_jobs.tables import visible
from schemas import HeadraceError, JobSpec, Manifest, read_manifest
from schemas.hashing import fingerprint
from schemas.manifest import all_files
from schemas.naming import DATASET_INFO, DEAD_LETTERS, MANIFEST, index_name, shard_name
from schemas.units import format_bytes

_MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class Report:
    """What was checked, and everything that differs.

    Attributes:
      directory: of the data set version.
      name, version: of the data set, empty where the manifest cannot be read.
      files, records, bytes: how much was read, the manifest left out.
      seconds: how long it took.
      problems: every difference, that of the manifest first.
    """

    directory: str
    name: str
    version: str
    files: int
    records: int
    bytes: int
    seconds: float
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing differs; the command's exit code is 0 then, and 1 otherwise."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report for scripts."""
        head = {name: value for name, value in vars(self).items() if name not in ("problems", "seconds")}
        return {
            "ok": self.ok,
            **head,
            "seconds": round(self.seconds, 3),
            "problems": [problem.to_json() for problem in self.problems],
        }


def verify(directory: str | Path, *, threads: int | None = None, progress: Progress | None = None) -> Report:
    """Check a data set version against its manifest, and the manifest against itself.

    Args:
      directory: of the version, with its manifest.json.
      threads: files checked at once; the number of cores where None.
      progress: called with the number of bytes of each piece read, from any thread.

    Raises:
      HeadraceError: there is no data set in `directory` at all.
    """
    start, root = time.monotonic(), Path(directory)
    try:
        manifest = read_manifest(root)
    except HeadraceError as error:
        if not (root / MANIFEST).exists():
            raise
        problem = Problem(MANIFEST, error.what, field=error.where, expected=error.allowed, found=error.value)
        return Report(str(root), "", "", 0, 0, 0, time.monotonic() - start, (problem,))
    tasks = _file_tasks(root, manifest, progress)
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        checked = [file for files in pool.map(lambda task: task(), tasks) for file in files]
    _name_swapped(checked)
    problems = [
        *_manifest_problems(root, manifest),
        *(problem for file in checked for problem in file.problems),
        *_letters_problems(root, manifest),
        *_tfds_problems(root, manifest),
        *_unlisted(root, manifest),
    ]
    return Report(
        directory=str(root),
        name=manifest.name,
        version=manifest.version,
        files=sum(file.sha256 is not None for file in checked),
        records=sum(file.records for file in checked),
        bytes=sum(file.bytes for file in checked),
        seconds=time.monotonic() - start,
        problems=tuple(dict.fromkeys(problems)),
    )


def _file_tasks(
    root: Path, manifest: Manifest, progress: Progress | None
) -> list[Callable[[], tuple[Checked, ...]]]:
    tasks: list[Callable[[], tuple[Checked, ...]]] = []
    for split in manifest.splits.values():
        for number, shard in enumerate(split.shards):
            tasks.append(partial(check_shard, root, shard, number, len(split.shards), progress))
    for entry in manifest.files:
        tasks.append(lambda entry=entry: (check_file(root, entry, progress),))  # type: ignore[misc]
    return tasks


def _name_swapped(checked: list[Checked]) -> None:
    """A file that holds another file's bytes has one problem, not as many as it has records."""
    owners = {file.expected_sha256: file.path for file in checked}
    for file in checked:
        owner = owners.get(file.sha256 or "")
        if owner is not None and file.sha256 != file.expected_sha256:
            file.problems = [Problem(file.path, f"holds the bytes of {owner}")]


def _differs(field: str, what: str, expected: object, found: object, file: str = MANIFEST) -> Problem:
    return Problem(file, what, field=field, expected=str(expected), found=str(found))


def _manifest_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
    if (root / MANIFEST).read_bytes() != manifest.to_json().encode():
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
        main = JobSpec.model_validate(manifest.spec).main_name
    except ValidationError as error:
        yield Problem(MANIFEST, f"the job in it is not valid: {error.errors()[0]['msg']}", field="spec")
        return
    written = manifest.books[main].written if main in manifest.books else None
    records = sum(split.records for split in manifest.splits.values())
    if written != records:
        yield _differs(f"books.{main}.written", "is not what the splits hold", records, written)


def _fingerprint_problems(manifest: Manifest) -> Iterator[Problem]:
    shards = {name: [shard.sha256 for shard in split.shards] for name, split in manifest.splits.items()}
    whole = fingerprint(manifest.spec_fingerprint, shards)
    if whole != manifest.fingerprint:
        yield _differs("fingerprint", "is not that of its spec and shards", whole, manifest.fingerprint)


def _letters_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
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


def _tfds_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
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


def _unlisted(root: Path, manifest: Manifest) -> list[Problem]:
    listed = {entry.path for entry in all_files(manifest)} | {MANIFEST}
    found = [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
    ]
    extra = sorted(path for path in found if path not in listed)
    problems = [Problem(path, "is not part of the data set") for path in extra[:MAX_PROBLEMS]]
    if len(extra) > MAX_PROBLEMS:
        problems.append(
            Problem(".", f"{len(extra) - MAX_PROBLEMS} more files that are not part of the data set")
        )
    return problems


def verify_command(directory: str, *, as_json: bool) -> int:
    """`headrace verify`: prints the report; gives the exit code, 1 where anything differs."""
    report = verify(directory)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=1) + "\n")
    else:
        print_report(report)
    return 0 if report.ok else 1


def print_report(report: Report, out: TextIO | None = None) -> None:
    """The report for people: one line if all is well, otherwise a line for each difference, by file."""
    out = out or sys.stdout
    rate = report.bytes / max(report.seconds, 1e-9)
    what = f"{report.name} {report.version}".strip() or report.directory
    amount = (
        f"{report.records:,} records in {report.files} files, {format_bytes(report.bytes)} "
        f"in {report.seconds:.1f} s ({format_bytes(rate)}/s)"
    )
    if report.ok:
        print(f"{what} is intact: {amount}.", file=out)
        return
    count = len(report.problems)
    print(f"{what} is damaged: {count} problem{'s' * (count > 1)} in {report.directory}", file=out)
    last = None
    for problem in report.problems:
        if problem.file != last:
            print(f"\n{visible(problem.file)}", file=out)
            last = problem.file
        print(f"  {visible(describe(problem))}", file=out)
    print(f"\nChecked {amount}. Copy the damaged files again, or prepare the version again.", file=out)


def describe(problem: Problem) -> str:
    """One line about a problem, without its file."""
    place = [
        f"record {problem.record}" if problem.record is not None else "",
        f"byte {problem.offset:,}" if problem.offset is not None else "",
        f"key hash {problem.key_hash}" if problem.key_hash else "",
        problem.field or "",
    ]
    text = ", ".join(part for part in place if part)
    text = f"{text}: {problem.what}" if text else problem.what
    if problem.expected is not None or problem.found is not None:
        parts = [("expected", problem.expected), ("found", problem.found)]
        text += f" ({', '.join(f'{name} {value}' for name, value in parts if value is not None)})"
    return text
