"""Cleaning rules of the job spec: what is done to records between joining and checking them, in order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator

from schemas.features import DottedName, Model


def _not_ours(name: str) -> str:
    if name.startswith("headrace:"):
        raise ValueError("names that begin with headrace: are our own")
    return name


ColumnName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_not_ours)]
Expression = Annotated[
    str, Field(min_length=1, max_length=10_000, description="A DuckDB SQL expression over columns.")
]
CastType = Literal["string", "int32", "int64", "float32", "float64", "bool", "date", "timestamp"]


class MapRule(Model):
    """A function of yours from one record (a dict of columns) to another, or None to drop it."""

    map: DottedName
    columns: list[str] | None = Field(
        None, description="The columns passed to it; all but bytes where absent."
    )


class DropRule(Model):
    """Leave out records by a column's value."""

    drop: str = Field(min_length=1, max_length=100, description="A name for the rule; the books count by it.")
    column: str
    values: list[str | int | float | bool | None] = Field(min_length=1, description="null means no value.")


class WhereRule(Model):
    """Keep the records for which an expression is true; the others are counted as dropped."""

    where: Expression
    name: str | None = Field(
        None, min_length=1, max_length=100, description="The books count by it; the expression where absent."
    )

    @property
    def counted_as(self) -> str:
        """The name in the books."""
        text = f"not {self.where}"
        return self.name or (text if len(text) <= 100 else f"{text[:99]}…")


class ComputeRule(Model):
    """Columns by expression; all of a rule see the columns as they were before it."""

    compute: dict[ColumnName, Expression] = Field(min_length=1)


class SelectRule(Model):
    """Keep these columns only."""

    select: list[ColumnName] = Field(min_length=1)

    @field_validator("select")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if repeated := sorted({name for name in value if value.count(name) > 1}):
            raise ValueError(f"columns are listed more than once: {repeated}")
        return value


class RenameRule(Model):
    """Give columns other names, all at once: two may swap theirs."""

    rename: dict[ColumnName, ColumnName] = Field(min_length=1, description="New names by old ones.")

    @field_validator("rename")
    @classmethod
    def _apart(cls, value: dict[str, str]) -> dict[str, str]:
        names = list(value.values())
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several columns would be called {repeated}")
        return value


class CastRule(Model):
    """Change the types of columns; a value that cannot be changed without loss is a dead letter."""

    cast: dict[ColumnName, CastType] = Field(min_length=1)


class FlattenRule(Model):
    """Replace a column of structs by a column for each of their fields."""

    flatten: ColumnName
    prefix: Annotated[str, AfterValidator(_not_ours)] = Field(
        "", max_length=100, description="Put before the names of the fields."
    )
    depth: int = Field(1, ge=1, le=20, description="How many levels; structs that lie deeper stay structs.")


VERBS = ("map", "drop", "where", "compute", "select", "rename", "cast", "flatten")


def _rule_kind(rule: object) -> str | None:
    """A rule is known by its verb."""
    names = rule if isinstance(rule, dict) else vars(rule) if isinstance(rule, Model) else {}
    return next((verb for verb in VERBS if verb in names), None)


Rule = Annotated[
    Annotated[MapRule, Tag("map")]
    | Annotated[DropRule, Tag("drop")]
    | Annotated[WhereRule, Tag("where")]
    | Annotated[ComputeRule, Tag("compute")]
    | Annotated[SelectRule, Tag("select")]
    | Annotated[RenameRule, Tag("rename")]
    | Annotated[CastRule, Tag("cast")]
    | Annotated[FlattenRule, Tag("flatten")],
    Discriminator(
        _rule_kind,
        custom_error_type="unknown_rule",
        custom_error_message="a rule needs its verb: `map: module:function`, `drop: name`, `where: expression`, "
        "`compute: {column: expression}`, `select: [columns]`, `rename: {old: new}`, `cast: {column: type}` or "
        "`flatten: column`",
    ),
]
