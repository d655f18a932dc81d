"""Anomalies: where the statistics of a version are not what its schema expects. The models of anomalies.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.features import Model

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
