"""Cleaning rules: each by its verb; those that drop records by a value or call the user's function are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, Ledger, Problem
from beam_jobs.expressions import Expression, check_columns
from beam_jobs.functions import load_function
from beam_jobs.reshape import (
    cast_columns,
    columns_after_rename,
    columns_after_select,
    compute_columns,
    expressions,
    flatten_column,
    known,
    rename_columns,
    select_columns,
)
from beam_jobs.rules.conditions import condition, drop_where, keep_where, refuse_where, repair_where, repairs
from beam_jobs.rules.languages import Languages
from beam_jobs.rules.numbers import convert_units, parse_numbers, unit_factors
from beam_jobs.rules.spellings import map_spellings
from beam_jobs.rules.texts import normalize_texts, tag_language
from beam_jobs.rules.times import parse_times, patterns
from beam_jobs.rules.zones import zone_table
from beam_jobs.survey.apply import add_weights, impute, treat_outliers
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.rules import (
    CastRule,
    ComputeRule,
    DeadLetterRule,
    DropRule,
    FlattenRule,
    MapRule,
    RenameRule,
    RepairRule,
    Rule,
    SelectRule,
    WhereRule,
)
from schemas.survey_rules import ImputeRule, OutliersRule, WeightsRule
from schemas.value_rules import (
    ConvertUnitsRule,
    NormalizeTextRule,
    OneOfRule,
    ParseNumberRule,
    ParseTimeRule,
    TagLanguageRule,
    spelling,
)

UserFunction = Callable[[dict[str, Any]], dict[str, Any] | None]


_APPLIED: dict[type, Callable[[Batch, Any, Ledger, Any], Batch]] = {
    MapRule: lambda batch, rule, ledger, _: map_records(batch, rule, ledger),
    DropRule: lambda batch, rule, ledger, _: drop(batch, rule, ledger),
    RepairRule: lambda batch, rule, ledger, _: repair_where(batch, rule, ledger),
    DeadLetterRule: lambda batch, rule, ledger, _: refuse_where(batch, rule, ledger),
    WhereRule: lambda batch, rule, ledger, _: keep_where(batch, rule, ledger),
    ComputeRule: lambda batch, rule, ledger, _: compute_columns(batch, rule, ledger),
    SelectRule: lambda batch, rule, *_: select_columns(batch, rule),
    RenameRule: lambda batch, rule, *_: rename_columns(batch, rule),
    CastRule: lambda batch, rule, ledger, _: cast_columns(batch, rule, ledger),
    FlattenRule: lambda batch, rule, *_: flatten_column(batch, rule),
    NormalizeTextRule: lambda batch, rule, ledger, _: normalize_texts(batch, rule, ledger),
    TagLanguageRule: lambda batch, rule, *_: tag_language(batch, rule),
    ParseNumberRule: lambda batch, rule, ledger, _: parse_numbers(batch, rule, ledger),
    ParseTimeRule: parse_times,
    ConvertUnitsRule: convert_units,
    OneOfRule: lambda batch, rule, ledger, _: map_spellings(batch, rule, ledger),
    ImputeRule: impute,
    OutliersRule: treat_outliers,
    WeightsRule: lambda batch, rule, _, found: add_weights(batch, rule, found),
}


def apply_rule(batch: Batch, rule: Rule, ledger: Ledger, found: Any = None) -> Batch:
    """The batch after one rule; `found` is what was found for it beforehand, by `constants` or a survey."""
    for name in columns_used(rule):
        known(name, batch.columns, f"clean, {verb(rule)}")
    return _APPLIED[type(rule)](batch, rule, ledger, found)


def verb(rule: Rule) -> str:
    """The verb of a rule."""
    return next(iter(type(rule).model_fields))


def constants(rule: Rule) -> dict[str, Any] | None:
    """What a rule needs that depends on no record, JSON-able: clocks of a time zone, factors between units.

    Raises:
      HeadraceError: there is no such zone, or no such conversion.
    """
    if isinstance(rule, ParseTimeRule):
        return zone_table(rule.zone, f"clean, parse_time {', '.join(rule.parse_time)}")
    return dict(unit_factors(rule)) if isinstance(rule, ConvertUnitsRule) else None


def columns_used(rule: Rule) -> list[str]:
    """The columns that a rule names; none of those that name them in expressions or change names."""
    match rule:
        case DropRule() if rule.column is not None:
            return [rule.column]
        case CastRule():
            return list(rule.cast)
        case FlattenRule():
            return [rule.flatten]
        case NormalizeTextRule():
            return rule.normalize_text
        case TagLanguageRule():
            return [rule.tag_language]
        case ParseNumberRule():
            return rule.parse_number
        case ParseTimeRule():
            return rule.parse_time
        case ConvertUnitsRule():
            return [rule.convert_units, *([rule.unit_column] if rule.unit_column else [])]
        case OneOfRule():
            return [rule.one_of]
        case ImputeRule():
            return [*rule.impute, *([rule.by] if rule.by else [])]
        case OutliersRule():
            return [rule.outliers]
        case WeightsRule():
            return [rule.by]
    return []


def columns_after(rule: Rule, columns: list[str] | None) -> list[str] | None:
    """The columns there are after a rule, known before anything is read; None where that depends on the data.

    Raises:
      HeadraceError: the rule refers to a column that does not exist, or an expression of it is not allowed.
    """
    found = _expressions_of(rule)
    made = _made_by(rule)
    if isinstance(rule, SelectRule):
        return rule.select if columns is None else columns_after_select(rule, columns)
    if columns is None:
        return None
    for expression in found:
        check_columns(expression, columns)
    for name in columns_used(rule):
        known(name, columns, f"clean, {verb(rule)}")
    match rule:
        case MapRule() | FlattenRule():
            return None  # a struct's fields and what a user's function adds are known only later
        case RenameRule():
            return columns_after_rename(rule, columns)
    return list(dict.fromkeys([*columns, *made]))


def _expressions_of(rule: Rule) -> list[Expression]:
    """The expressions of a rule, each of which is one."""
    match rule:
        case ComputeRule():
            return list(expressions(rule).values())
        case RepairRule():
            return [condition(rule), *repairs(rule).values()]
        case WhereRule() | DeadLetterRule():
            return [condition(rule)]
        case DropRule() if rule.where is not None:
            return [condition(rule)]
    return []


def _made_by(rule: Rule) -> list[str]:
    """The columns that a rule adds. What can be said against it without any column is said."""
    match rule:
        case ComputeRule():
            return list(rule.compute)
        case RepairRule():
            return list(rule.set)
        case TagLanguageRule():
            Languages.of(tuple(rule.languages or ()))
            return [rule.into]
        case ParseTimeRule():
            patterns(rule)
        case ConvertUnitsRule() | OneOfRule():
            return [rule.into] if rule.into else []
        case WeightsRule():
            return [rule.weights]
    return []


def drop(batch: Batch, rule: DropRule, ledger: Ledger) -> Batch:
    """Drops records by a column's value or by a condition."""
    return drop_by_value(batch, rule, ledger) if rule.where is None else drop_where(batch, rule, ledger)


def drop_by_value(batch: Batch, rule: DropRule, ledger: Ledger) -> Batch:
    """Drops the records whose column has one of the rule's values.

    Raises:
      HeadraceError: the column does not exist, or holds lists or structs.
    """
    assert rule.column is not None
    assert rule.values is not None
    column = batch.records.column(rule.column)
    if pa.types.is_nested(column.type):
        raise HeadraceError(
            "The column holds lists or structs, which are dropped by no single value.",
            where=f"clean, drop {rule.drop}",
            value=f"{rule.column}: {column.type}",
            hint="`where:` takes a condition over them.",
        )
    texts = pa.array([spelling(value) for value in rule.values if value is not None], pa.string())
    # Bytes may be no text; the values' bytes they may be all the same.
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    kind = column.type if is_bytes else pa.string()
    found = pc.is_in(column.cast(kind), value_set=texts.cast(kind))
    if None in rule.values:
        found = pc.or_(found, pc.is_null(column))
    return ledger.drop(batch, rule.drop, found.to_numpy(zero_copy_only=False))


def map_records(batch: Batch, rule: MapRule, ledger: Ledger) -> Batch:
    """Calls the user's function with each record as a dict; None drops it, an exception makes it a dead letter.

    Raises:
      HeadraceError: the function does not exist, or gives neither a dict nor None.
    """
    function: UserFunction = load_function(rule.map, f"clean, map {rule.map}")
    names = rule.columns or [
        name for name in batch.columns if not pa.types.is_large_binary(batch.records.schema.field(name).type)
    ]
    _check_columns(batch, names, f"clean, map {rule.map}")
    results: list[dict[str, Any] | None] = []
    problems = []
    for place, record in enumerate(batch.records.select(names).to_pylist()):
        try:
            results.append(function(record))
        except Exception as error:  # whatever a user's function raises is that record's own fault
            problems.append(Problem(place, rule.map, shorten(f"{type(error).__name__}: {error}")))
            results.append({})
        if not isinstance(results[-1], dict | None):
            raise HeadraceError(
                "A user function gave something that is no record.",
                where=f"clean, map {rule.map}, {ledger.origin(int(batch.rows[place]))}",
                value=results[-1],
                allowed="a dict of columns, or None to drop the record",
            )
    refused = np.zeros(len(batch), dtype=np.bool_)
    refused[[problem.place for problem in problems]] = True
    dropped = np.array([result is None for result in results], dtype=np.bool_)
    kept = [
        result
        for result, gone in zip(results, refused | dropped, strict=True)
        if result is not None and not gone
    ]
    batch = ledger.drop(ledger.refuse(batch, "clean", problems), rule.map, dropped[~refused])
    return _with_results(batch, kept, names)


def _with_results(batch: Batch, results: list[dict[str, Any]], names: list[str]) -> Batch:
    """The columns the function was given, replaced by what it gave back; a key it leaves out is missing."""
    given = dict.fromkeys([*names, *(key for result in results for key in sorted(result))])
    for name in given:
        values = [result.get(name) for result in results]
        before = batch.records.schema.field(name).type if name in batch.records.schema.names else None
        batch = batch.with_column(name, _array(values, before, name))
    return batch


def _array(values: list[Any], before: pa.DataType | None, name: str) -> pa.Array:
    if before is not None:
        try:
            return pa.array(values, before)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass  # the function changed the column's type, which is its right
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise HeadraceError(
            "A user function gave values of mixed types for one column.", where=name, value=str(error)
        ) from error


def _check_columns(batch: Batch, columns: list[str], where: str) -> None:
    names = batch.columns
    for column in columns:
        if column not in names:
            raise HeadraceError(
                "The column does not exist.", where=where, value=column, allowed=", ".join(names)
            )
