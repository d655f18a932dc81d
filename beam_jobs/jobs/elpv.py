"""The user function of the ELPV job."""

from __future__ import annotations

from typing import Any


def defective_or_functional(record: dict[str, Any]) -> dict[str, Any]:
    """Adds the binary label: a cell that is defective with probability 0.5 or more counts as defective."""
    record["label"] = "defective" if float(record["probability"]) >= 0.5 else "functional"
    return record
