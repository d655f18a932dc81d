"""The schema: what the data of a version may look like. A YAML file that is kept beside the job, in its repository.

A job's features say of one record what it must hold; the schema says of all records together what is expected of
them: ranges, domains, shares, sizes, how many there are, and how far they may drift from an earlier version or differ
between splits. Bounds are inclusive, and what is absent is not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.features import Float32, ImageFormat, Int64, Model
from schemas.hashing import fingerprint
from schemas.load import FileKind, load_file, parse_file
from schemas.manifest import Count
from schemas.split import Name
from schemas.units import Share

MAX_VALUES = 100_000  # of a domain


def _ordered(low: float | None, high: float | None, what: str = "") -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"{what}min {low} is above {what}max {high}")


class Range(Model):
    """Bounds of whole numbers, such as lengths or pixels."""

    min: Count | None = None
    max: Count | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ordered(self.min, self.max)
        return self


class Balance(Model):
    """Bounds of the share of records that each class has."""

    min: Share | None = None
    max: Share | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ordered(self.min, self.max)
        return self


class NumberThresholds(Model):
    """How far two distributions of numbers may lie apart."""

    jensen_shannon: Share | None = Field(
        None, description="Most Jensen-Shannon divergence, base 2: 0 where they are equal, 1 where disjoint."
    )


class Thresholds(NumberThresholds):
    """How far two distributions of values may lie apart."""

    infinity_norm: Share | None = Field(
        None, description="Most difference of the shares of any one value (L-infinity)."
    )


class _Rules(Model):
    description: str = ""
    min_presence: Share | None = Field(
        None,
        description="Least share of records that have a value of their own: neither an empty list nor the default.",
    )


class _Domain(_Rules):
    min_domain_mass: Share = Field(1.0, description="Least share of values that are among `values`.")
    drift: Thresholds = Field(
        Thresholds(), description="From the version that the job's `schema.drift` names."
    )
    skew: Thresholds = Field(
        Thresholds(), description="Between the splits that the job's `schema.skew` names."
    )


class ImageRules(_Rules):
    """What is expected of images. `drift` and `skew` compare their brightness."""

    type: Literal["image"]
    height: Range = Field(Range(), description="Pixels.")
    width: Range = Field(Range(), description="Pixels.")
    channels: list[Annotated[int, Field(ge=1, le=4)]] | None = Field(None, min_length=1)
    formats: list[ImageFormat] | None = Field(None, min_length=1)
    bytes: Range = Field(Range(), description="Of an encoded image.")
    drift: NumberThresholds = NumberThresholds()
    skew: NumberThresholds = NumberThresholds()


class ClassLabelRules(_Domain):
    """What is expected of class labels."""

    type: Literal["class_label"]
    values: list[str] | None = Field(None, min_length=1, max_length=MAX_VALUES)
    balance: Balance = Balance()


class BoolRules(_Rules):
    """What is expected of truths; their values are `false` and `true`."""

    type: Literal["bool"]
    balance: Balance = Balance()
    drift: Thresholds = Thresholds()
    skew: Thresholds = Thresholds()


class Int64Rules(_Domain):
    """What is expected of whole numbers."""

    type: Literal["int64"]
    min: Int64 | None = None
    max: Int64 | None = None
    values: list[Int64] | None = Field(None, min_length=1, max_length=MAX_VALUES)
    length: Range = Field(Range(), description="Numbers of a record, for lists of any length.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ordered(self.min, self.max)
        return self


class Float32Rules(_Rules):
    """What is expected of numbers."""

    type: Literal["float32"]
    min: Float32 | None = None
    max: Float32 | None = None
    max_not_finite: Share | None = Field(
        None, description="Largest share of values that are NaN or infinite."
    )
    length: Range = Field(Range(), description="Numbers of a record, for lists of any length.")
    drift: NumberThresholds = NumberThresholds()
    skew: NumberThresholds = NumberThresholds()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ordered(self.min, self.max)
        return self


class TextRules(_Domain):
    """What is expected of texts."""

    type: Literal["text"]
    values: list[str] | None = Field(None, min_length=1, max_length=MAX_VALUES)
    characters: Range = Field(Range(), description="Unicode characters of a text.")
    bytes: Range = Field(Range(), description="UTF-8 bytes of a text.")


class BytesRules(_Rules):
    """What is expected of raw bytes."""

    type: Literal["bytes"]
    bytes: Range = Field(Range(), description="Of a value.")


Rules = Annotated[
    ImageRules | ClassLabelRules | BoolRules | Int64Rules | Float32Rules | TextRules | BytesRules,
    Field(discriminator="type"),
]


class SplitRules(Model):
    """What is expected of a split."""

    min_records: Count | None = None
    max_records: Count | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ordered(self.min_records, self.max_records)
        return self


class DataSchema(Model):
    """What the data of a version may look like; holds for every split."""

    description: str = ""
    splits: dict[Name, SplitRules] = Field(default_factory=dict, description="Splits that must be there.")
    features: dict[Name, Rules] = Field(min_length=1, description="Every feature, and no other.")

    @model_validator(mode="after")
    def _unique(self) -> Self:
        for name, rules in self.features.items():
            seen: set[object] = set()
            for value in getattr(rules, "values", None) or []:
                if value in seen:
                    raise ValueError(f"features.{name}: `values` holds {value!r} twice")
                seen.add(value)
        return self

    @property
    def fingerprint(self) -> str:
        """Content hash of what is expected: comments, descriptions and defaults written out change nothing."""
        return fingerprint(_bare(self.model_dump(mode="json", exclude_defaults=True)))

    def thresholds(self, which: Literal["drift", "skew"]) -> Mapping[str, NumberThresholds]:
        """The thresholds of every feature that has any."""
        found = {name: getattr(rules, which, None) for name, rules in self.features.items()}
        return {name: each for name, each in found.items() if each is not None and each != type(each)()}


def _bare(data: dict[str, Any]) -> dict[str, Any]:
    features = {
        name: {key: value for key, value in rules.items() if key != "description"}
        for name, rules in data["features"].items()
    }
    return {"splits": data.get("splits", {}), "features": features}


_KIND = FileKind(
    DataSchema,
    "schema",
    "a mapping with `features` and `splits`",
    "`headrace schema check DIR --schema FILE` reads a schema and compares a version with it.",
)


def load_data_schema(path: str | Path) -> DataSchema:
    """The schema in a YAML file.

    Raises:
      HeadraceError: the file cannot be read, is no YAML, or is no valid schema; the error names the line.
    """
    return load_file(path, _KIND)


def parse_data_schema(text: str, where: str = "schema") -> DataSchema:
    """The schema in YAML `text`; `where` names the file in errors. See `load_data_schema`."""
    return parse_file(text, where, _KIND)
