"""What a job does with the schema of its data: `schema:` in a job file. The schema itself is `schemas.data_schema`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from schemas.anomalies import Action, Anomaly
from schemas.features import Model

PREVIOUS = "previous"


class OnAnomaly(Model):
    """What an anomaly does: `warn` is told and written down, `stop` commits nothing."""

    errors: Action = Field(
        "stop", description="Broken bounds: types, ranges, domains, sizes, numbers of records."
    )
    warnings: Action = Field(
        "warn", description="Unusual distributions: imbalance, drift, skew; and what could not be checked."
    )
    features: dict[str, Action] = Field(
        default_factory=dict, description="Of these features, whatever it is."
    )


class DriftCheck(Model):
    """The version that distributions are compared with."""

    against: str = Field(
        PREVIOUS,
        min_length=1,
        description="`previous`: the version of this data set that was committed last; or a version of it, such as "
        "1.0.0; or the directory or URL of one.",
    )


class SkewCheck(Model):
    """The splits whose distributions are compared."""

    between: list[str] = Field(
        min_length=2, max_length=100, description="The first is compared with each of the others."
    )


def _action_kind(value: object) -> str:
    return "errors" if isinstance(value, dict | OnAnomaly) else "str"


class SchemaCheck(Model):
    """The schema that a version's statistics are compared with before it is committed."""

    file: str = Field(min_length=1, description="The schema; `headrace schema infer` writes one.")
    # The tags are what `schemas.load` leaves out of the place of a mistake.
    on_anomaly: Annotated[
        Annotated[Action, Tag("str")] | Annotated[OnAnomaly, Tag("errors")], Discriminator(_action_kind)
    ] = Field(
        OnAnomaly(),
        description="`warn` or `stop` for all, or `{errors: …, warnings: …, features: {name: …}}`; where absent "
        "errors stop and warnings warn.",
    )
    drift: DriftCheck | None = Field(None, description="Measure drift by the schema's thresholds.")
    skew: SkewCheck | None = Field(None, description="Measure skew by the schema's thresholds.")

    def action(self, anomaly: Anomaly) -> Action:
        """What an anomaly does."""
        if isinstance(self.on_anomaly, str):
            return self.on_anomaly
        by_severity = self.on_anomaly.errors if anomaly.severity == "error" else self.on_anomaly.warnings
        return self.on_anomaly.features.get(anomaly.feature or "", by_severity)
