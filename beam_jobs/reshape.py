"""Rules that change a batch's columns: computed, selected, renamed, cast, flattened."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import OWN_PREFIX, Batch, Ledger, Problem
from beam_jobs.expressions import Expression, evaluate, parse_expression
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.rules import CastRule, ComputeRule, FlattenRule, RenameRule, SelectRule

_TYPES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}


def expressions(rule: ComputeRule) -> dict[str, Expression]:
    """The expressions of a rule, by the column that each makes.

    Raises:
      HeadraceError: one is no expression, or holds what is not allowed.
    """
    return {name: parse_expression(text, f"clean, compute {name}") for name, text in rule.compute.items()}


def compute_columns(batch: Batch, rule: ComputeRule, ledger: Ledger) -> Batch:
    """Adds or replaces columns; a record for which one cannot be computed is a dead letter."""
    problems: list[Problem] = []
    columns: dict[str, pa.Array] = {}
    users = _users(batch)
    for name, expression in expressions(rule).items():
        columns[name], failed = evaluate(expression, users)
        problems += [
            Problem(place, "compute", f"{name} = {expression.text}: {why}") for place, why in failed.items()
        ]
    for name, column in columns.items():
        batch = batch.with_column(name, column)
    return ledger.refuse(batch, "clean", problems)


def select_columns(batch: Batch, rule: SelectRule) -> Batch:
    """Keeps the rule's columns, and our own."""
    columns_after_select(rule, batch.columns)
    own = [name for name in batch.records.schema.names if name.startswith(OWN_PREFIX)]
    return batch.with_records(batch.records.select([*rule.select, *own]))


def columns_after_select(rule: SelectRule, columns: list[str]) -> list[str]:
    """The columns that the rule leaves.

    Raises:
      HeadraceError: one does not exist.
    """
    for name in rule.select:
        known(name, columns, "clean, select")
    return rule.select


def rename_columns(batch: Batch, rule: RenameRule) -> Batch:
    """Gives columns their new names."""
    columns_after_rename(rule, batch.columns)
    names = [rule.rename.get(name, name) for name in batch.records.schema.names]
    return batch.with_records(batch.records.rename_columns(names))


def columns_after_rename(rule: RenameRule, columns: list[str]) -> list[str]:
    """The names after the rule.

    Raises:
      HeadraceError: a column does not exist, or two would have one name.
    """
    for name in rule.rename:
        known(name, columns, "clean, rename")
    names = [rule.rename.get(name, name) for name in columns]
    _no_clash([rule.rename[name] for name in rule.rename], names, "clean, rename")
    return names


def cast_columns(batch: Batch, rule: CastRule, ledger: Ledger) -> Batch:
    """Changes the types of columns; a record with a value that would be lost is a dead letter."""
    problems: list[Problem] = []
    for name, kind in rule.cast.items():
        known(name, batch.columns, "clean, cast")
        before = batch.records.column(name)
        after, wrong = cast_or_places(_trimmed(before, kind), _TYPES[kind], f"clean, cast {name}")
        for place in wrong:
            value = shorten(repr(before[place].as_py()), 80)
            problems.append(Problem(place, "cast", f"{name}: {value} is no {kind}"))
        batch = batch.with_column(name, after)
    return ledger.refuse(batch, "clean", problems)


def flatten_column(batch: Batch, rule: FlattenRule) -> Batch:
    """Puts a column for each field in the place of a column of structs."""
    where = f"clean, flatten {rule.flatten}"
    known(rule.flatten, batch.columns, where)
    schema = batch.records.schema
    columns = dict(zip(schema.names, batch.records.columns, strict=True))
    if not pa.types.is_struct(columns[rule.flatten].type):
        raise HeadraceError(
            "Only a column of structs can be flattened.",
            where=where,
            value=str(columns[rule.flatten].type),
            allowed="a struct; a list stays a list",
        )
    fields = _fields(columns.pop(rule.flatten), rule.prefix, rule.depth)
    names = [*columns, *(name for name, _ in fields)]
    _no_clash([name for name, _ in fields], names, where)
    arrays = [*columns.values(), *(column for _, column in fields)]
    return batch.with_records(pa.RecordBatch.from_arrays(arrays, names=names))


def known(name: str, columns: list[str], where: str) -> None:
    """Whether a column exists.

    Raises:
      HeadraceError: it does not.
    """
    if name not in columns:
        raise HeadraceError(
            "There is no such column.", where=where, value=name, allowed=shorten(", ".join(columns), 400)
        )


def cast_or_places(column: pa.Array, kind: pa.DataType, where: str) -> tuple[pa.Array, list[int]]:
    """`column` as `kind`, null where a value cannot be, and the places of those: found by halving.

    Raises:
      HeadraceError: no value of the one type can be one of the other.
    """
    try:
        return pc.cast(column, kind), []
    except pa.ArrowNotImplementedError as error:
        raise HeadraceError(
            "There is no such cast.", where=where, value=f"{column.type} to {kind}", hint=str(error)
        ) from error
    except pa.ArrowInvalid:
        if len(column) == 1:
            return pa.nulls(1, kind), [0]
    half = len(column) // 2
    left, left_wrong = cast_or_places(column[:half], kind, where)
    right, right_wrong = cast_or_places(column[half:], kind, where)
    return pa.concat_arrays([left, right]), left_wrong + [place + half for place in right_wrong]


def _fields(column: pa.Array, prefix: str, depth: int) -> list[tuple[str, pa.Array]]:
    """The fields of a column of structs, null where the struct is."""
    found: list[tuple[str, pa.Array]] = []
    for field, values in zip(column.type, column.flatten(), strict=True):
        name = prefix + field.name
        if depth > 1 and pa.types.is_struct(values.type):
            found += _fields(values, f"{name}_", depth - 1)
        else:
            found.append((name, values))
    return found


def _no_clash(new: list[str], names: list[str], where: str) -> None:
    for name in new:
        if names.count(name) > 1 or name.startswith(OWN_PREFIX):
            raise HeadraceError(
                f"There would be two columns called {name!r}.",
                where=where,
                hint="Choose another name or `prefix:`, or leave the other column out by `select` before.",
            )


def _users(batch: Batch) -> pa.RecordBatch:
    """The user's columns: an expression cannot see our own."""
    return batch.records.select(batch.columns)


def _trimmed(column: pa.Array, kind: str) -> pa.Array:
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return pc.utf8_trim_whitespace(column) if text and kind != "string" else column
