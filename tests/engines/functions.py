"""User functions of the jobs that run on engines."""

from __future__ import annotations

import time
from typing import Any

from tests.jobs.small_job import grade


def slow(record: dict[str, Any]) -> dict[str, Any] | None:
    """Grades, and gives a test the time to kill somebody."""
    time.sleep(0.02)
    return grade(record)


def chatty(record: dict[str, Any]) -> dict[str, Any] | None:
    """Grades, and prints more than a pipe holds that nobody reads."""
    print("." * 4096)
    return grade(record)
