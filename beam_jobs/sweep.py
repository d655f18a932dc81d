"""Tidying a work directory: what no committed version and no unfinished job needs any more goes."""

from __future__ import annotations

import shutil

from beam_jobs.listing import read_partitions
from beam_jobs.plan import Workspace
from beam_jobs.previous import notes
from beam_jobs.runs import RECORDS_SUFFIX


def strip(workspace: Workspace) -> set[str]:
    """Removes the records of runs that committed versions were made of: their shards hold them. Gives the runs."""
    committed: set[str] = set()
    for version in notes(workspace.root):
        listed = Workspace(workspace.root, version).partitions
        if listed.exists():
            committed |= {each.run for each in read_partitions(listed)}
    for run in committed:
        (workspace.runs / run).with_suffix(RECORDS_SUFFIX).unlink(missing_ok=True)
    return committed


def sweep(workspace: Workspace) -> None:
    """Leaves what later jobs take over from committed versions: their notes, and their runs without records."""
    committed, versions = strip(workspace), notes(workspace.root)
    for run in workspace.runs.iterdir():
        if run.name not in committed:
            run.unlink(missing_ok=True)
    shutil.rmtree(workspace.tables)
    shutil.rmtree(workspace.shard_notes)
    workspace.dead_letters.unlink(missing_ok=True)
    for kind in ("partitions-*.jsonl", "inputs-*.json", "repeated-*.bin"):
        for file in workspace.work.glob(kind):
            if file.stem.partition("-")[2] not in versions:
                file.unlink(missing_ok=True)
