"""Cleaning rules of the job spec: what is done to records between joining and checking them, in order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from schemas.features import DottedName, Model
from schemas.rule_parts import BookName, ColumnName, Expression, not_ours, once
from schemas.survey_rules import ImputeRule, OutliersRule, WeightsRule
from schemas.value_rules import (
    ConvertUnitsRule,
    NormalizeTextRule,
    OneOfRule,
    ParseNumberRule,
    ParseTimeRule,
    TagLanguageRule,
)

CastType = Literal["string", "int32", "int64", "float32", "float64", "bool", "date", "timestamp"]


class MapRule(Model):
    """A function of yours from one record (a dict of columns) to another, or None to drop it."""

    map: DottedName
    columns: list[str] | None = Field(
        None, description="The columns passed to it; all but bytes where absent."
    )


class DropRule(Model):
    """Leave out records by a column's value, or by a condition."""

    drop: BookName = Field(description="A name for the rule; the books count by it.")
    column: str | None = None
    values: list[str | int | float | bool | None] | None = Field(
        None, min_length=1, description="Of the column; null means no value."
    )
    where: Expression | None = Field(None, description="The condition, in place of a column and values.")

    @model_validator(mode="after")
    def _one_way(self) -> DropRule:
        if (self.column is None) != (self.values is None) or (self.where is None) == (self.column is None):
            raise ValueError("a drop rule needs `column` and `values`, or `where` with a condition")
        return self


class RepairRule(Model):
    """Set columns of the records for which a condition is true; all expressions see the columns as they were."""

    repair: BookName = Field(description="A name for the rule; the books count the records that it repaired.")
    where: Expression
    set: dict[ColumnName, Expression] = Field(min_length=1, description="New values by column.")


class DeadLetterRule(Model):
    """Refuse the records for which a condition is true."""

    dead_letter: BookName = Field(description="The rule that the dead letters name.")
    where: Expression
    reason: str | None = Field(
        None, min_length=1, max_length=400, description="For people; the condition where absent."
    )


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

    select: Annotated[list[ColumnName], AfterValidator(once)] = Field(min_length=1)


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
    prefix: Annotated[str, AfterValidator(not_ours)] = Field(
        "", max_length=100, description="Put before the names of the fields."
    )
    depth: int = Field(1, ge=1, le=20, description="How many levels; structs that lie deeper stay structs.")


# A rule is known by its verb; the order matters where a rule has another's verb as a field.
VERBS = (
    "map",
    "drop",
    "repair",
    "dead_letter",
    "where",
    "compute",
    "select",
    "rename",
    "cast",
    "flatten",
    "normalize_text",
    "tag_language",
    "parse_number",
    "parse_time",
    "convert_units",
    "one_of",
    "impute",
    "outliers",
    "weights",
)


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
    | Annotated[FlattenRule, Tag("flatten")]
    | Annotated[RepairRule, Tag("repair")]
    | Annotated[DeadLetterRule, Tag("dead_letter")]
    | Annotated[NormalizeTextRule, Tag("normalize_text")]
    | Annotated[TagLanguageRule, Tag("tag_language")]
    | Annotated[ParseNumberRule, Tag("parse_number")]
    | Annotated[ParseTimeRule, Tag("parse_time")]
    | Annotated[ConvertUnitsRule, Tag("convert_units")]
    | Annotated[OneOfRule, Tag("one_of")]
    | Annotated[ImputeRule, Tag("impute")]
    | Annotated[OutliersRule, Tag("outliers")]
    | Annotated[WeightsRule, Tag("weights")],
    Discriminator(
        _rule_kind,
        custom_error_type="unknown_rule",
        custom_error_message="a rule needs its verb: `map: module:function`, `drop: name`, `where: expression`, "
        "`compute: {column: expression}`, or another one of " + ", ".join(VERBS),
    ),
]
