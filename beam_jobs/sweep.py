"""Tidying a work directory: what no committed version and no unfinished job needs any more goes."""

from __future__ import annotations

import json

from beam_jobs.listing import read_partitions
from beam_jobs.previous import notes
from beam_jobs.runs import RECORDS_SUFFIX
from beam_jobs.workspace import Workspace

# Kinds of files of the work directory that belong to a version, beside those of surveys.
_NOTES = ("partitions", "inputs", "repeated", "drift", "analysis")


def strip(workspace: Workspace) -> set[str]:
    """Removes the records of runs that committed versions were made of: their shards hold them. Gives the runs."""
    committed = {
        listed.run
        for version in notes(workspace)
        for listed in read_partitions(workspace.of(version).partitions)
    }
    for name in workspace.runs.names():
        run, _, suffix = name.rpartition(".")
        if f".{suffix}" == RECORDS_SUFFIX and f"{run}.run" in committed:
            (workspace.runs / name).delete()
    return committed


def _analysed(workspace: Workspace) -> list[str]:
    """What the transform of a version was made of."""
    try:
        names: list[str] = json.loads(workspace.analysed.read())
    except FileNotFoundError:
        return []
    return names


def sweep(workspace: Workspace) -> None:
    """Leaves what later jobs take over from committed versions: their notes, and their runs without records."""
    committed, versions = strip(workspace), notes(workspace)
    for name in workspace.runs.names():
        if name not in committed:
            (workspace.runs / name).delete()
    answers = {
        listed.run
        for name in workspace.work.names()
        if name.startswith("survey") and _version_of(name) in versions
        for listed in read_partitions(workspace.work / name)
    }
    for name in workspace.survey.names():
        if name not in answers:
            (workspace.survey / name).delete()
    for directory in (workspace.tables, workspace.rows, workspace.raw):
        directory.delete_tree()
    analysed = {name for version in versions for name in _analysed(workspace.of(version))}
    for name in workspace.analysis.names():
        if name not in analysed:
            (workspace.analysis / name).delete()
    workspace.dead_letters.delete()
    workspace.anomalies.delete()
    for name in workspace.work.names():
        kind, _, rest = name.partition("-")
        noted = kind in _NOTES or kind.startswith("survey")
        if noted and "/" not in name and _version_of(name) not in versions:
            (workspace.work / name).delete()
        version, _, run = rest.partition("/")
        gone = version not in versions
        if (kind == "placements" and (gone or run not in committed)) or (kind == "statistics" and gone):
            (workspace.work / name).delete()
    workspace.shard_notes.delete_tree()  # last: while they are there, a job that finds its version done sweeps again


def _version_of(name: str) -> str:
    """The version that a file of the work directory is of: <kind>-<version>.<suffix>."""
    return name.partition("-")[2].rpartition(".")[0]
