"""Cleaning rules: each by its verb; those that leave records out by a value or call the user's function are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, Ledger, Problem
from beam_jobs.expressions import check_columns
from beam_jobs.functions import load_function
from beam_jobs.reshape import (
    cast_columns,
    columns_after_rename,
    columns_after_select,
    compute_columns,
    expressions,
    flatten_column,
    keep_where,
    known,
    rename_columns,
    select_columns,
)
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.rules import (
    CastRule,
    ComputeRule,
    DropRule,
    FlattenRule,
    MapRule,
    RenameRule,
    Rule,
    SelectRule,
    WhereRule,
)

UserFunction = Callable[[dict[str, Any]], dict[str, Any] | None]


def apply_rule(batch: Batch, rule: Rule, ledger: Ledger) -> Batch:
    """The batch after one rule."""
    match rule:
        case MapRule():
            return map_records(batch, rule, ledger)
        case DropRule():
            return drop_by_value(batch, rule, ledger)
        case WhereRule():
            return keep_where(batch, rule, ledger)
        case ComputeRule():
            return compute_columns(batch, rule, ledger)
        case SelectRule():
            return select_columns(batch, rule)
        case RenameRule():
            return rename_columns(batch, rule)
        case CastRule():
            return cast_columns(batch, rule, ledger)
        case FlattenRule():
            return flatten_column(batch, rule)


def columns_after(rule: Rule, columns: list[str] | None) -> list[str] | None:
    """The columns there are after a rule, known before anything is read; None where that depends on the data.

    Raises:
      HeadraceError: the rule refers to a column that does not exist, or an expression of it is not allowed.
    """
    if isinstance(rule, WhereRule | ComputeRule):
        made = expressions(rule)
        if columns is None:
            return None
        for expression in made.values():
            check_columns(expression, columns)
        return columns if isinstance(rule, WhereRule) else list(dict.fromkeys([*columns, *made]))
    if isinstance(rule, SelectRule):
        return rule.select if columns is None else columns_after_select(rule, columns)
    if columns is None:
        return None
    match rule:
        case RenameRule():
            return columns_after_rename(rule, columns)
        case DropRule():
            known(rule.column, columns, f"clean, drop {rule.drop}")
            return columns
        case CastRule():
            for name in rule.cast:
                known(name, columns, "clean, cast")
            return columns
        case FlattenRule():
            known(rule.flatten, columns, f"clean, flatten {rule.flatten}")
    return None  # a struct's fields and what a user's function adds are known only later


def drop_by_value(batch: Batch, rule: DropRule, ledger: Ledger) -> Batch:
    """Drops the records whose column has one of the rule's values.

    Raises:
      HeadraceError: the column does not exist, or holds lists or structs.
    """
    _check_columns(batch, [rule.column], f"clean, drop {rule.drop}")
    column = batch.records.column(rule.column)
    if pa.types.is_nested(column.type):
        raise HeadraceError(
            "The column holds lists or structs, which are dropped by no single value.",
            where=f"clean, drop {rule.drop}",
            value=f"{rule.column}: {column.type}",
            hint="`where:` takes a condition over them.",
        )
    texts = pa.array([_text(value) for value in rule.values if value is not None], pa.string())
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


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
