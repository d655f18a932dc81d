"""Preparing data sets: from heterogeneous sources to deterministic, sharded TFRecords, on Apache Beam.

from beam_jobs import load_job, run
result = run(load_job("job.yaml"), out="out")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_jobs.job import Result, run
    from beam_jobs.planning import Job, load_job

__all__ = ["Job", "Result", "load_job", "run"]

_HOMES = {"Job": "planning", "Result": "job", "load_job": "planning", "run": "job"}


def __getattr__(name: str) -> Any:
    """Loads Beam only when a job is run: the console command must answer `--help` at once."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"beam_jobs.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
