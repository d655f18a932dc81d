"""Cleaning rules for the values of columns: texts, languages, numbers, times, units, and one spelling of many."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.features import Model
from schemas.rule_parts import Action, ColumnName, Columns

Text = Annotated[str, Field(max_length=1000)]
# Letters, whole exponents, * and /: what a unit needs, and nothing that could be computed at length.
_WORD = r"[A-Za-zµμΩ°Å_]{1,40}(?:(?:\*\*|\^)-?[1-9])?"
Unit = Annotated[str, Field(max_length=100, pattern=rf"^{_WORD}(?:\s*[*/]\s*{_WORD})*$")]


class NormalizeTextRule(Model):
    """Bring texts into one form."""

    normalize_text: Columns
    unicode: Literal["NFC", "NFKC", "NFD", "NFKD", "keep"] = "NFC"
    control: Literal["remove", "space", "keep"] = Field(
        "remove", description="What becomes of control characters; tabs and line ends are white space."
    )
    whitespace: Literal["collapse", "strip", "keep"] = Field(
        "collapse", description="Runs of white space to one space and none at the ends; or only the latter."
    )
    case: Literal["keep", "fold", "lower", "upper"] = Field(
        "keep", description="`fold` is for comparing: ß becomes ss."
    )
    max_length: int | None = Field(None, ge=1, le=2**31 - 1, description="Of the text that comes out.")
    length_in: Literal["characters", "bytes"] = Field(
        "characters", description="Unicode code points, or bytes of UTF-8."
    )
    too_long: Literal["truncate", "dead_letter", "drop"] = Field(
        "dead_letter", description="Truncated between code points; the books count it as repaired."
    )
    empty: Literal["keep", "null", "dead_letter", "drop"] = Field(
        "keep", description="What becomes of a text of which nothing is left."
    )


class TagLanguageRule(Model):
    """Write the language of a text into a column, as a code such as en."""

    tag_language: ColumnName
    into: ColumnName = "language"
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] | None = Field(
        None, min_length=2, description="ISO 639 codes to choose from; all that are known where absent."
    )
    min_confidence: float = Field(
        0.0, ge=0, lt=1, description="Texts whose language is less certain are `unknown`."
    )
    unknown: Text = Field("und", description="What is written for a text whose language cannot be told.")


class ParseNumberRule(Model):
    """Make numbers of texts as people write them."""

    parse_number: Columns
    type: Literal["float64", "int64"] = "float64"
    decimal: Literal[".", ","] = "."
    thousands: Literal[".", ",", "'", "’", " ", "_"] | None = Field(
        None, description="Between groups of three digits; a space stands for the narrow ones too."
    )
    percent: bool = Field(False, description="12 % is 0.12; the sign is refused otherwise.")
    currency: list[Annotated[str, Field(min_length=1, max_length=10)]] = Field(
        default_factory=list, description="Signs allowed before or behind the number, such as € or USD."
    )
    parentheses: bool = Field(False, description="(12) is -12.")
    missing: list[Text] = Field(
        default_factory=lambda: [""], description="Texts that stand for no value; white space aside."
    )

    @model_validator(mode="after")
    def _apart(self) -> ParseNumberRule:
        if self.thousands == self.decimal:
            raise ValueError("parse_number: `thousands` and `decimal` cannot be the same")
        if any(
            any(c.isdigit() or c in "+-().,'%" for c in sign) or not sign.strip() for sign in self.currency
        ):
            raise ValueError("parse_number: a currency sign holds no digits, and no sign that numbers have")
        if self.percent and self.type == "int64":
            raise ValueError("parse_number: a percentage is no whole number; use `type: float64`")
        return self


class ParseTimeRule(Model):
    """Make timestamps of texts, in UTC."""

    parse_time: Columns
    formats: list[Annotated[str, Field(min_length=2, max_length=100)]] | None = Field(
        None,
        min_length=1,
        description="Tried in order: %Y %y %m %d %j %b %B %H %I %p %M %S %f %z %T %F and plain text. ISO 8601 where "
        "absent. Names of months are English.",
    )
    zone: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_+\-/]*$", max_length=60)] = Field(
        "UTC", description="Of texts without an offset, such as Europe/Berlin."
    )
    ambiguous: Literal["dead_letter", "earlier", "later"] = Field(
        "dead_letter", description="Of an hour that comes twice, as clocks go back."
    )
    nonexistent: Literal["dead_letter", "shift"] = Field(
        "dead_letter", description="Of an hour that is left out, as clocks go forward: `shift` moves it on."
    )
    unit: Literal["s", "ms", "us", "ns"] = Field("us", description="Finer digits are cut off.")
    not_before: str | None = Field(None, description="ISO 8601, in UTC; earlier times are dead letters.")
    not_after: str | None = Field(None, description="ISO 8601, in UTC; later times are dead letters.")
    missing: list[Text] = Field(
        default_factory=lambda: [""], description="Texts that stand for no value; white space aside."
    )


class ConvertUnitsRule(Model):
    """Convert numbers to one unit."""

    convert_units: ColumnName
    to: Unit
    unit: Unit | None = Field(None, description="Of all values.")
    unit_column: ColumnName | None = Field(None, description="The column that says the unit of each value.")
    units: dict[Annotated[str, Field(max_length=100)], Unit] | list[Unit] | None = Field(
        None, min_length=1, description="Those that the column may hold: a list, or units by what it says."
    )
    into: ColumnName | None = Field(None, description="A column to write to; the same where absent.")

    @model_validator(mode="after")
    def _one_way(self) -> ConvertUnitsRule:
        if (self.unit is None) == (self.unit_column is None):
            raise ValueError("convert_units needs `unit`, or `unit_column` with the `units` it may hold")
        if (self.unit_column is None) != (self.units is None):
            raise ValueError("convert_units: `unit_column` and `units` go together")
        return self

    @property
    def units_by_text(self) -> dict[str, str]:
        """Units by what the column says; a fixed one by an empty text."""
        if self.units is None:
            return {"": self.unit or ""}
        return self.units if isinstance(self.units, dict) else {unit: unit for unit in self.units}


class OneOfRule(Model):
    """Give values that mean the same one spelling."""

    one_of: ColumnName
    values: dict[Annotated[str, Field(max_length=1000)], list[str | int | float | bool]] = Field(
        min_length=1, description="Other spellings by the one that is kept."
    )
    ignore_case: bool = Field(
        False, description="Compare without regard to case and to white space at the ends."
    )
    otherwise: Action | Literal["keep", "null"] = Field(
        "dead_letter", description="What becomes of a value that is none of them."
    )
    into: ColumnName | None = Field(None, description="A column to write to; the same where absent.")

    @model_validator(mode="after")
    def _told_apart(self) -> OneOfRule:
        seen: dict[str, str] = {}
        for name, others in self.values.items():
            for other in [self.compared(name), *(self.compared(spelling(each)) for each in others)]:
                if seen.setdefault(other, name) != name:
                    raise ValueError(f"one_of: {other!r} stands for both {seen[other]!r} and {name!r}")
        return self

    @property
    def spellings(self) -> dict[str, str]:
        """The spelling that is kept by every other one, as it is compared."""
        return {
            self.compared(other): name
            for name, others in self.values.items()
            for other in [name, *map(spelling, others)]
        }

    def compared(self, text: str) -> str:
        """What is compared of a text."""
        return text.strip().casefold() if self.ignore_case else text


def spelling(value: str | int | float | bool) -> str:
    """A value of YAML as the text that a column would hold."""
    return str(value).lower() if isinstance(value, bool) else str(value)
