"""How a job deals its records to splits: by a hash, by time, by a column that names the split, or by lists."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from schemas.features import Model
from schemas.units import Share

_NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=100)]

# What may become of a record that belongs to no split, besides going to one.
_FATES = ("dead_letter", "drop", "error")


def _as_text(value: object) -> object:
    """YAML reads 2024-01-01 as a date, 7 as a number and true as a bool; columns are compared as text."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


Moment = Annotated[str, BeforeValidator(_as_text)]
Value = Annotated[str, BeforeValidator(_as_text)]
Values = Annotated[list[Value], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]


def parse_zone(text: str) -> timezone:
    """The zone that `UTC` or an offset such as `+02:00` names; names such as Europe/Berlin change their meaning.

    Raises:
      ValueError: it is neither.
    """
    if text == "UTC":
        return UTC
    try:
        zone = datetime.fromisoformat(f"2000-01-01T00:00{text}").tzinfo
    except ValueError:
        zone = None
    if not isinstance(zone, timezone):
        raise ValueError(f"the zone must be UTC or an offset such as +02:00, not {text!r}")
    return zone


def parse_moment(text: str, zone: timezone) -> int:
    """A date or time in ISO 8601 as microseconds since 1970 in UTC; in `zone` where it names none.

    Raises:
      ValueError: it is none.
    """
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Cap(Model):
    """Most records of each class, whatever the classes' sizes."""

    by: str = Field(description="Column whose values are the classes.")
    most: int = Field(ge=1, description="Records of a class: those with the smallest hashes of their keys.")
    splits: list[Name] | None = Field(
        None, description="Splits that it holds for, each by itself; the first alone where absent."
    )


class Split(Model):
    """How records are dealt to named splits: by a hash, unless `time`, `column` or `lists` says otherwise."""

    fractions: dict[Name, Share] = Field(
        default_factory=lambda: {"train": 1.0},
        min_length=1,
        description="Shares of a hash, so that adding data moves no record.",
    )
    by: str | None = Field(
        None,
        description="Column whose equal values stay together; the key where absent. What `lists` hold, too.",
    )
    stratify: str | None = Field(
        None, description="Column within each of whose values the fractions hold, within one record."
    )
    exact: bool | Literal["groups"] = Field(
        False,
        description="Whether the fractions hold within one record, or as near as whole groups of `by` allow; "
        "`groups` counts groups, not their records.",
    )
    seed: int = 0
    time: str | None = Field(None, description="Column whose times decide, by `before` and `after`.")
    before: dict[Name, Moment] = Field(
        default_factory=dict,
        description="For each split but the last, in order, the time at which it has ended.",
    )
    after: Name | None = Field(None, description="The split of all later records.")
    zone: str = Field("UTC", description="Of times that name none: UTC, or an offset such as +02:00.")
    unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="Of a column of whole numbers: since 1970, in UTC."
    )
    column: str | None = Field(None, description="Column whose values name the split, by `values`.")
    values: dict[Name, Values] = Field(
        default_factory=dict, description="For each split the values that name it, compared as text."
    )
    lists: dict[Name, str] = Field(
        default_factory=dict,
        description="For each split a file of keys, or of values of `by`: .parquet, .csv, or text with one a line.",
    )
    list_column: str | None = Field(
        None, description="Column of those .parquet and .csv files; their only one where absent."
    )
    otherwise: str = Field(
        "dead_letter",
        description="Where records go that have no time, no known value or are in no list: the name of a split, "
        "dead_letter, drop or error.",
    )
    leaks: list[str] = Field(
        default_factory=list,
        description="Columns no value of which may be in two splits, besides `by`; checked before anything is written.",
    )
    cap: Cap | None = Field(None, description="Most records of each class.")

    @property
    def kind(self) -> Literal["fractions", "time", "column", "lists"]:
        """What decides."""
        if self.time is not None:
            return "time"
        if self.column is not None:
            return "column"
        return "lists" if self.lists else "fractions"

    @property
    def names(self) -> list[str]:
        """The splits in the order of their numbers."""
        match self.kind:
            case "time":
                return [*self.before, *([] if self.after is None else [self.after])]
            case "column":
                return list(self.values)
            case "lists":
                return list(dict.fromkeys([*([] if self.drops_others else [self.otherwise]), *self.lists]))
            case _:
                return list(self.fractions)

    @property
    def drops_others(self) -> bool:
        """Whether records that belong to no split go to none."""
        return self.otherwise in _FATES

    @property
    def ranked(self) -> bool:
        """Whether fractions hold exactly, so that all records together decide."""
        return bool(self.exact) or self.stratify is not None

    @property
    def by_key(self) -> bool:
        """Whether records of one key are always in one split."""
        own = self.kind == "lists" or (self.kind == "fractions" and self.stratify is None)
        return self.by is None and own

    @property
    def groups(self) -> list[str]:
        """The columns no value of which may be in two splits."""
        return list(dict.fromkeys([*([] if self.by is None else [self.by]), *self.leaks]))

    @model_validator(mode="after")
    def _whole(self) -> Split:
        total = sum(self.fractions.values())
        if abs(total - 1) > 1e-9:
            raise ValueError(f"fractions must add up to 1, not {total:g}")
        # By values, not by what was written out: a job that is read back from its dump is the same job.
        fields = {
            name: field.get_default(call_default_factory=True) for name, field in Split.model_fields.items()
        }
        told = {name for name, default in fields.items() if getattr(self, name) != default}
        given = told & {"fractions", "time", "column", "lists"}
        if len(given) > 1:
            raise ValueError(f"one of them decides, not several: {', '.join(sorted(given))}")
        needs = {
            "before": ("time",),
            "after": ("time",),
            "zone": ("time",),
            "unit": ("time",),
            "values": ("column",),
            "list_column": ("lists",),
            "by": ("fractions", "lists"),
            "stratify": ("fractions",),
            "exact": ("fractions",),
            "seed": ("fractions",),
            "otherwise": ("time", "column", "lists"),
        }
        for field, kinds in needs.items():
            if field in told and self.kind not in kinds:
                raise ValueError(f"`{field}` goes with `{'` or `'.join(kinds)}`, not with `{self.kind}`")
        return self

    @model_validator(mode="after")
    def _decided(self) -> Split:
        if self.kind == "time":
            if not self.before or self.after is None or self.after in self.before:
                raise ValueError("`time` needs `before`, a time for each split, and `after`, one split more")
            zone = parse_zone(self.zone)
            moments = [_moment(name, text, zone) for name, text in self.before.items()]
            if any(later <= earlier for earlier, later in pairwise(moments)):
                raise ValueError("the times of `before` must grow, split by split")
        if self.kind == "column":
            named = [value for values in self.values.values() for value in values]
            if not named:
                raise ValueError("`column` needs `values`: for each split the values that name it")
            if again := sorted({value for value in named if named.count(value) > 1}):
                raise ValueError(f"values name more than one split: {again}")
        if self.exact == "groups" and self.by is None:
            raise ValueError("`exact: groups` needs `by`, the column of the groups")
        return self

    @model_validator(mode="after")
    def _named(self) -> Split:
        if "all" in self.names:
            raise ValueError(
                "no split may be called 'all': to TFDS that means every split; choose another name"
            )
        if self.kind != "fractions" and not self.drops_others and self.otherwise not in self.names:
            known = [*_FATES, *self.names] if self.kind != "lists" else [*_FATES, "a name"]
            raise ValueError(f"otherwise: {self.otherwise!r} is none of {', '.join(known)}")
        if fates := sorted(set(self.names) & set(_FATES)):
            raise ValueError(f"no split may be called {fates[0]!r}: `otherwise` has it mean something else")
        if self.cap is not None and (unknown := sorted(set(self.cap.splits or []) - set(self.names))):
            raise ValueError(f"cap.splits: there are no splits {unknown}; there are {self.names}")
        return self


def _moment(name: str, text: str, zone: timezone) -> int:
    try:
        return parse_moment(text, zone)
    except ValueError:
        raise ValueError(
            f"before, {name}: {text!r} is no date or time such as 2024-07-01 or 2024-07-01T12:00+02:00"
        ) from None
