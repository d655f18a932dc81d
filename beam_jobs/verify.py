"""Is a data set what its manifest says? Every SHA-256, CRC, count, size and index row against the bytes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from beam_jobs.check_files import MAX_PROBLEMS, Checked, Problem, Progress, check_file, check_shard
from beam_jobs.check_manifest import letters_problems, manifest_problems, tfds_problems
from beam_jobs.tables import visible
from schemas import HeadraceError, Manifest, read_manifest
from schemas.manifest import all_files
from schemas.naming import MANIFEST
from schemas.units import format_bytes

_BAR_BYTES = 1 << 30  # 1 GiB takes about a second


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
        *manifest_problems(root, manifest),
        *(problem for file in checked for problem in file.problems),
        *letters_problems(root, manifest),
        *tfds_problems(root, manifest),
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
            tasks.append(
                partial(check_shard, root, manifest, shard, number, len(split.shards), progress=progress)
            )
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
    with _watched(directory, sys.stderr) as progress:
        report = verify(directory, progress=progress)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=1) + "\n")
    else:
        print_report(report)
    return 0 if report.ok else 1


@contextmanager
def _watched(directory: str, stream: TextIO) -> Iterator[Progress | None]:
    """A bar on a terminal while a large data set is read; nothing elsewhere."""
    try:
        total = sum(entry.bytes for entry in all_files(read_manifest(directory)))
    except HeadraceError:
        total = 0
    if total < _BAR_BYTES or not stream.isatty():
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar("Verifying", *columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


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
