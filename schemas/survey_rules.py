"""Cleaning rules that need to know the train split before they can be applied: see `beam_jobs.survey.run`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from schemas.features import Model
from schemas.rule_parts import BookName, ColumnName, Columns


def _in_order(quantiles: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= quantiles[0] < quantiles[1] <= 1:
        raise ValueError("quantiles are two numbers of 0 to 1, the smaller first")
    return quantiles


class ImputeRule(Model):
    """Fill in values that are missing: null, and NaN in a column of floats."""

    impute: Columns
    how: Literal["mean", "median", "most_frequent"] | None = Field(
        None, alias="with", description="Of the train split; of whole numbers the nearest whole number."
    )
    value: str | int | float | bool | None = Field(None, description="A constant, in place of `with`.")
    by: ColumnName | None = Field(
        None, description="A column: each of its values has its own; that of all records where it has none."
    )

    @model_validator(mode="after")
    def _one_way(self) -> ImputeRule:
        if (self.how is None) == (self.value is None):
            raise ValueError("impute needs `with: mean | median | most_frequent`, or a `value`")
        if self.by is not None and (self.how is None or self.by in self.impute):
            raise ValueError("impute: `by` goes with `with`, and names another column")
        return self


class OutliersRule(Model):
    """Cut off, drop or refuse numbers far from those of the train split; null and NaN are left as they are."""

    outliers: ColumnName
    z_score: float | None = Field(
        None, gt=0, description="Further from the mean than so many standard deviations."
    )
    iqr: float | None = Field(
        None, gt=0, description="So many interquartile ranges below the first quartile or above the third."
    )
    quantiles: Annotated[tuple[float, float], AfterValidator(_in_order)] | None = Field(
        None, description="Below the first or above the second of these quantiles, such as [0.01, 0.99]."
    )
    action: Literal["clip", "drop", "dead_letter"] = Field(
        "clip", description="`clip` sets them to the bound; the books count it as repaired."
    )
    name: BookName | None = Field(None, description="The books count by it; `outliers COLUMN` where absent.")

    @model_validator(mode="after")
    def _one_way(self) -> OutliersRule:
        if sum(each is not None for each in (self.z_score, self.iqr, self.quantiles)) != 1:
            raise ValueError("outliers needs one of `z_score`, `iqr` and `quantiles`")
        return self

    @property
    def counted_as(self) -> str:
        """The name in the books."""
        return self.name or f"outliers {self.outliers}"


class WeightsRule(Model):
    """A column of weights that balance the classes of the train split."""

    weights: ColumnName = Field(description="The new column.")
    by: ColumnName = Field(description="The column of the classes.")
    method: Literal["inverse_frequency", "effective_number"] = Field(
        "inverse_frequency",
        description="records / (classes × records of the class); or by the effective number of samples.",
    )
    beta: float = Field(0.999, ge=0, lt=1, description="Of `effective_number` (Cui et al. 2019).")
