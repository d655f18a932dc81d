"""Anomalies: where the statistics of a version are not what its schema expects. The models of anomalies.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from schemas.errors import HeadraceError
from schemas.features import Model

_MAX_BYTES = 1 << 28

Action = Literal["warn", "stop"]
Severity = Literal["error", "warning"]
Kind = Literal[
    "missing_feature",
    "unknown_feature",
    "wrong_type",
    "missing_split",
    "too_few_records",
    "too_many_records",
    "low_presence",
    "below_min",
    "above_max",
    "not_finite",
    "unknown_values",
    "too_short",
    "too_long",
    "wrong_image_size",
    "wrong_channels",
    "wrong_format",
    "imbalance",
    "drift",
    "skew",
    "not_checked",
]
_WARNINGS: frozenset[Kind] = frozenset({"imbalance", "drift", "skew", "not_checked"})


class Anomaly(Model):
    """Something that the schema does not allow."""

    kind: Kind
    feature: str | None = None
    split: str | None = Field(None, description="Absent where it is the same in all.")
    what: str = Field(description="One sentence.")
    found: str
    allowed: str
    hint: str = Field(description="What to do next.")

    @property
    def severity(self) -> Severity:
        """An error where data break a bound; a warning where their distribution is unusual, or could not be checked."""
        return "warning" if self.kind in _WARNINGS else "error"

    @property
    def where(self) -> str:
        """The feature and split."""
        parts = [self.feature or "", f"({self.split})" if self.feature and self.split else self.split or ""]
        return " ".join(part for part in parts if part)


class Compared(Model):
    """The version from which drift was measured."""

    name: str
    version: str
    fingerprint: str


class Anomalies(Model):
    """What anomalies.json holds: the anomalies of a version that was committed all the same."""

    format: Literal["headrace-anomalies"] = "headrace-anomalies"
    format_version: Literal[1] = 1
    schema_fingerprint: str = Field(description="Content hash of the schema.")
    drift_from: Compared | None = None
    skew_between: list[str] = Field(default_factory=list)
    anomalies: list[Anomaly]

    def to_json(self) -> str:
        """The canonical text of the file."""
        return (
            json.dumps(self.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False) + "\n"
        )


def anomalies_json(anomalies: Iterable[Anomaly]) -> list[dict[str, Any]]:
    """Anomalies for scripts, with their severity."""
    return [{"severity": each.severity, **each.model_dump(exclude_none=True)} for each in anomalies]


def parse_anomalies(data: bytes, where: str) -> Anomalies:
    """The content of a file of anomalies; `where` names it in errors.

    Raises:
      HeadraceError: it is damaged.
    """
    try:
        return Anomalies.model_validate_json(data)
    except ValueError as error:
        raise HeadraceError("A file of anomalies is damaged.", where=where, value=str(error)) from error


def read_anomalies(path: Path) -> Anomalies:
    """The anomalies in a file of a version. See `parse_anomalies`."""
    try:
        data = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b""
    except OSError as error:
        raise HeadraceError("The anomalies cannot be read.", where=str(path), value=error.strerror) from error
    return parse_anomalies(data, str(path))
