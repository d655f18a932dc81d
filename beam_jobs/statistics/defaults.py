"""How many records got the default of a feature: noted while the columns are there that it is missing from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.facts import Fact
from schemas.features import Feature
from schemas.spec import JobSpec

_FACT = "defaulted:"


def default_facts(spec: JobSpec, features: Mapping[str, Feature]) -> list[Fact]:
    """A fact for each feature that has a default, if there are to be statistics."""
    found = []
    for name, feature in sorted(features.items()):
        # Of a list whose values may be missing nothing is noted: it is there itself.
        if spec.statistics and has_default(feature) and getattr(feature, "shape", ()) != (None,):
            sources = feature.source if feature.source is not None else name
            columns = sources if isinstance(sources, list) else [sources]
            found.append(Fact(_FACT + name, np.dtype("?"), of_records=partial(_is_missing, columns=columns)))
    return found


def has_default(feature: Feature) -> bool:
    """Whether records without a value get one."""
    return getattr(feature, "default", None) is not None


def defaulted(rows: npt.NDArray[np.void]) -> dict[str, int]:
    """How many of the records, whose facts are `rows`, got the default of each feature that has one."""
    return {
        name.removeprefix(_FACT): int(rows[name].sum())
        for name in rows.dtype.names or ()
        if name.startswith(_FACT)
    }


def _is_missing(records: pa.RecordBatch, columns: Sequence[str]) -> npt.NDArray[np.bool_]:
    missing = np.zeros(records.num_rows, np.bool_)
    for column in columns:
        missing |= records.column(column).is_null().to_numpy(zero_copy_only=False)
    return missing
