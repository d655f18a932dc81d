"""Rules that act where a condition holds: records left out, dropped, refused or repaired."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from beam_jobs.batch import Batch, Ledger, Problem
from beam_jobs.expressions import Expression, evaluate, parse_expression
from beam_jobs.reshape import cast_or_places
from beam_jobs.rules.distinct import Mask, as_mask
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.rules import ComputeRule, DeadLetterRule, DropRule, RepairRule, Rule, WhereRule

_Conditional = WhereRule | DropRule | DeadLetterRule | RepairRule


def has_expression(rule: Rule) -> bool:
    """Whether the engine of expressions has a part in a rule."""
    return isinstance(rule, ComputeRule) or getattr(rule, "where", None) is not None


def condition(rule: _Conditional) -> Expression:
    """The condition of a rule.

    Raises:
      HeadraceError: it is no expression, or holds what is not allowed.
    """
    match rule:
        case WhereRule():
            name = f"where {rule.counted_as}"
        case DropRule():
            name = f"drop {rule.drop}"
        case DeadLetterRule():
            name = f"dead_letter {rule.dead_letter}"
        case RepairRule():
            name = f"repair {rule.repair}"
    assert rule.where is not None
    return parse_expression(rule.where, f"clean, {name}")


def repairs(rule: RepairRule) -> dict[str, Expression]:
    """The expressions of the columns that a rule sets.

    Raises:
      HeadraceError: one is no expression, or holds what is not allowed.
    """
    return {
        name: parse_expression(text, f"clean, repair {rule.repair}, set {name}")
        for name, text in rule.set.items()
    }


def keep_where(batch: Batch, rule: WhereRule, ledger: Ledger) -> Batch:
    """Drops the records for which the condition is not true; one where it fails is a dead letter."""
    true, problems = _holds(batch, condition(rule))
    return ledger.leave_out(batch, "clean", problems, {rule.counted_as: ~true})


def drop_where(batch: Batch, rule: DropRule, ledger: Ledger) -> Batch:
    """Drops the records for which the condition is true; one where it fails is a dead letter."""
    true, problems = _holds(batch, condition(rule))
    return ledger.leave_out(batch, "clean", problems, {rule.drop: true})


def refuse_where(batch: Batch, rule: DeadLetterRule, ledger: Ledger) -> Batch:
    """Makes dead letters of the records for which the condition is true, or fails."""
    true, problems = _holds(batch, condition(rule))
    reason = rule.reason or shorten(rule.where, 400)
    problems += [Problem(place, rule.dead_letter, reason) for place in np.flatnonzero(true).tolist()]
    return ledger.refuse(batch, "clean", problems)


def repair_where(batch: Batch, rule: RepairRule, ledger: Ledger) -> Batch:
    """Sets columns of the records for which the condition is true; one that cannot be repaired is a dead letter.

    A column keeps its type. A new one is null where nothing was set.
    """
    true, problems = _holds(batch, condition(rule))
    places = np.flatnonzero(true)
    chosen = batch.records.select(batch.columns).take(pa.array(places))
    columns = {}
    for name, expression in repairs(rule).items():
        values, failed = evaluate(expression, chosen)
        problems += [
            Problem(int(places[n]), "repair", f"{name} = {expression.text}: {why}")
            for n, why in failed.items()
        ]
        before = batch.records.column(name) if name in batch.columns else pa.nulls(len(batch), values.type)
        after, lost = cast_or_places(values, before.type, expression.where)
        problems += [
            Problem(
                int(places[n]),
                "repair",
                f"{name}: {shorten(repr(values[n].as_py()), 80)} is no {before.type}",
            )
            for n in lost
        ]
        order = np.arange(len(batch))
        order[places] = len(batch) + np.arange(len(places))
        columns[name] = pa.concat_arrays([before, after]).take(pa.array(order))
    marks = np.zeros(len(batch), np.bool_)
    marks[places] = True
    marks[[problem.place for problem in problems]] = False
    ledger.repair(batch, rule.repair, marks)
    for name, column in columns.items():
        batch = batch.with_column(name, column)
    return ledger.refuse(batch, "clean", problems)


def _holds(batch: Batch, expression: Expression) -> tuple[Mask, list[Problem]]:
    """Where a condition is true; where it fails it is not, and there is a problem."""
    values, failed = evaluate(expression, batch.records.select(batch.columns))
    if not pa.types.is_boolean(values.type):
        raise HeadraceError(
            "The condition is neither true nor false.",
            where=expression.where,
            value=expression.text,
            allowed=f"a bool, not {values.type}",
        )
    problems = [Problem(place, "where", f"{expression.text}: {why}") for place, why in failed.items()]
    failures = np.zeros(len(batch), np.bool_)
    failures[list(failed)] = True
    return as_mask(values) & ~failures, problems
