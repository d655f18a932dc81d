"""What a job expects of its data: the schema read, and the version found that drift is measured from. No Beam."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from beam_jobs.data_schema.versions import read_version
from schemas.anomalies import Compared
from schemas.checks import PREVIOUS, OnAnomaly, SchemaCheck
from schemas.data_schema import DataSchema, load_data_schema
from schemas.errors import HeadraceError
from schemas.hashing import fingerprint
from schemas.load import fill_variables

FIELD = "schema"  # of a job
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Expectations:
    """All that a worker needs to know to judge statistics.

    Attributes:
      check: the job's wishes.
      schema: what is expected.
      place: where the version lies that drift is measured from; None for the one that was committed last.
      compared: which one it is.
    """

    check: SchemaCheck
    schema: DataSchema
    place: str | None = None
    compared: Compared | None = None

    @property
    def fingerprint(self) -> str:
        """Of all that decides what is told of the data, but for the job's own words."""
        compared = None if self.compared is None else self.compared.fingerprint
        return fingerprint(self.schema.fingerprint, compared)


def expect(
    check: SchemaCheck, variables: Mapping[str, str], splits: Collection[str], place_of: Callable[[str], str]
) -> Expectations:
    """The schema of a job, and what else its data are compared with.

    Args:
      check: the job's wishes.
      variables: values of the variables in paths.
      splits: names of those that the job writes.
      place_of: the directory of another version of the data set.

    Raises:
      HeadraceError: the schema is missing or not valid, or the job asks for a comparison that cannot be made.
    """
    schema = load_data_schema(fill_variables(check.file, variables, f"{FIELD}.file"))
    for which in ("drift", "skew"):
        if getattr(check, which) is not None and not schema.thresholds(which):
            raise HeadraceError(
                f"The schema has no threshold of {which}, so there is nothing to compare.",
                where=f"{FIELD}.{which}",
                allowed=f"features.NAME.{which}: {{jensen_shannon: 0.1}} in {check.file}",
                hint=f"Add thresholds there, or remove `{FIELD}.{which}` from the job.",
            )
    if check.skew is not None:
        between = check.skew.between
        wrong = [name for name in between if name not in splits] or sorted(
            name for name in set(between) if between.count(name) > 1
        )
        if wrong:
            raise HeadraceError(
                "Skew is measured between different splits of the job.",
                where=f"{FIELD}.skew.between",
                value=wrong[0],
                allowed=", ".join(splits),
            )
    if isinstance(check.on_anomaly, OnAnomaly):
        for name in check.on_anomaly.features:
            if name not in schema.features:
                raise HeadraceError(
                    "The schema has no such feature.",
                    where=f"{FIELD}.on_anomaly.features",
                    value=name,
                    allowed=", ".join(schema.features),
                )
    if check.drift is None or check.drift.against == PREVIOUS:
        return Expectations(check, schema)
    against = check.drift.against
    if _VERSION.fullmatch(against):
        place = place_of(against)
    else:
        place = fill_variables(against, variables, f"{FIELD}.drift.against")
    return Expectations(check, schema, place, read_version(place).identity)
