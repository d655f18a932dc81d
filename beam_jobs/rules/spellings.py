"""Values that mean the same, given one spelling."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, Ledger, Problem
from beam_jobs.rules.distinct import as_mask, distinct_texts, is_text, problems_at
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.value_rules import OneOfRule


def map_spellings(batch: Batch, rule: OneOfRule, ledger: Ledger) -> Batch:
    """Gives each value the spelling that is kept; what becomes of others the rule says. The column is text.

    Raises:
      HeadraceError: the column holds lists, structs or bytes.
    """
    where = f"clean, one_of {rule.one_of}"
    column = batch.records.column(rule.one_of)
    if not is_text(column.type):
        try:
            column = pc.cast(column, pa.string())
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise HeadraceError("The values are no texts.", where=where, value=str(column.type)) from error
    texts, places = distinct_texts(column, where)
    known = rule.spellings
    kept = [known.get(rule.compared(text)) for text in texts.to_pylist()]
    values = pa.array(kept, texts.type).take(places)
    other = as_mask(pc.and_(pc.is_null(values), pc.is_valid(column)))
    problems: list[Problem] = []
    dropped = {}
    if rule.otherwise == "keep":
        values = pc.coalesce(values, column)
    elif rule.otherwise == "drop":
        dropped[f"not one of: {rule.one_of}"] = other
    elif rule.otherwise == "dead_letter":
        allowed = f"is none of {shorten(', '.join(rule.values), 120)}"
        problems = problems_at(other, "one_of", rule.one_of, column, allowed)
    batch = batch.with_column(rule.into or rule.one_of, values)
    return ledger.leave_out(batch, "clean", problems, dropped)
