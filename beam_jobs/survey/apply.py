"""Rules that are applied with what a survey of the train split found: values imputed, outliers treated, weights.

What was found is JSON-able and part of the plan:

impute    by column: {"all": value, "groups": {group: value}}
outliers  {"low": number or null, "high": number or null}
weights   {class: weight}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, Ledger
from beam_jobs.rules.distinct import as_mask, as_numbers, is_text, problems_at
from schemas import HeadraceError
from schemas.rules import Rule
from schemas.survey_rules import ImputeRule, OutliersRule, WeightsRule

Found = Mapping[str, Any]


def needs_survey(rule: Rule) -> bool:
    """Whether a rule can be applied only when the train split is known."""
    return isinstance(rule, OutliersRule | WeightsRule) or (
        isinstance(rule, ImputeRule) and rule.how is not None
    )


def title(rule: Rule) -> str:
    """What a rule does to which columns, for people."""
    match rule:
        case ImputeRule():
            by = "" if rule.by is None else f" by {rule.by}"
            return f"impute {', '.join(rule.impute)} with {rule.how}{by}"
        case OutliersRule():
            return rule.counted_as
        case WeightsRule():
            return f"weights {rule.weights} by {rule.by}"
    return ""


def is_missing(column: pa.Array) -> pa.Array:
    """Where a column has no value: null, or NaN."""
    return pc.is_null(column, nan_is_null=True)


def as_classes(column: pa.Array, where: str) -> pa.Array:
    """The values of a column as texts, for classes and groups.

    Raises:
      HeadraceError: they are lists, structs or bytes.
    """
    try:
        return column if is_text(column.type) else column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise HeadraceError(
            "The values of the column are no classes.",
            where=where,
            value=str(column.type),
            allowed="texts, numbers, bools or times",
        ) from error


def impute(batch: Batch, rule: ImputeRule, ledger: Ledger, found: Found | None) -> Batch:
    """Fills in what is missing; the books count the records by column.

    Raises:
      HeadraceError: the value does not fit the type of the column.
    """
    for name in rule.impute:
        column, where = batch.records.column(name), f"clean, impute {name}"
        missing = as_mask(is_missing(column))
        if not missing.any():
            continue
        if found is None:
            values = pa.array([rule.value]).take(pa.array(np.zeros(len(column), np.int64)))
        else:
            values = _values(batch, rule, found[name], where)
        kind = values.type if pa.types.is_null(column.type) else column.type
        filled = pc.if_else(pa.array(missing), _as_type(values, kind, where), column.cast(kind))
        ledger.repair(batch, f"impute {name}", missing)
        batch = batch.with_column(name, filled)
    return batch


def treat_outliers(batch: Batch, rule: OutliersRule, ledger: Ledger, found: Found) -> Batch:
    """Clips, drops or refuses numbers beyond the bounds found; whole numbers are clipped to whole numbers.

    Raises:
      HeadraceError: the column holds no numbers.
    """
    name, column = rule.outliers, batch.records.column(rule.outliers)
    numbers = as_numbers(column, f"clean, outliers {name}")
    low, high = found["low"], found["high"]
    below, above = as_mask(pc.less(numbers, low)), as_mask(pc.greater(numbers, high))
    beyond = below | above
    if rule.action == "drop":
        return ledger.drop(batch, rule.counted_as, beyond)
    if rule.action == "dead_letter":
        what = f"is not in [{low:g}, {high:g}]"
        return ledger.refuse(batch, "clean", problems_at(beyond, "outliers", name, column, what))
    ledger.repair(batch, rule.counted_as, beyond)
    kind = column.type
    if pa.types.is_integer(kind):
        low, high = math.ceil(low), math.floor(high)
    for mask, bound in ((below, low), (above, high)):
        if mask.any():
            column = pc.if_else(pa.array(mask), pa.scalar(bound).cast(kind), column)
    return batch.with_column(name, column)


def add_weights(batch: Batch, rule: WeightsRule, found: Found) -> Batch:
    """Adds the weight of each record's class, float64; null where the train split has no such class."""
    classes = as_classes(batch.records.column(rule.by), f"clean, weights {rule.weights}")
    weights = pa.array(list(found.values()), pa.float64())
    places = pc.index_in(classes, value_set=pa.array(list(found), classes.type), skip_nulls=True)
    return batch.with_column(rule.weights, weights.take(places))


def _values(batch: Batch, rule: ImputeRule, found: Found, where: str) -> pa.Array:
    """What would be imputed for each record: what was found for its group, or for all."""
    groups = found["groups"]
    values = pa.array([found["all"], *groups.values()])
    if rule.by is None:
        return values.take(pa.array(np.zeros(len(batch), np.int64)))
    names = as_classes(batch.records.column(rule.by), where)
    places = pc.index_in(names, value_set=pa.array(list(groups), names.type), skip_nulls=True)
    return values.take(pc.add(pc.fill_null(pc.cast(places, pa.int64()), -1), 1))


def _as_type(values: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    try:
        if pa.types.is_integer(kind) and pa.types.is_floating(values.type):
            values = pc.round(values, round_mode="half_to_even")
        if pa.types.is_floating(kind) and pa.types.is_floating(values.type):
            return values.cast(kind, safe=False)  # to the nearest float32
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise HeadraceError(
            "What would be imputed does not fit the column.",
            where=where,
            value=str(values[0].as_py()),
            allowed=f"a value of type {kind}",
        ) from error
