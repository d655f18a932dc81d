"""The job spec: what to read, how to join, check and split it, and what to write."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from schemas.checks import SchemaCheck
from schemas.columns import indexed_by_default, why_no_column
from schemas.duplicates import Duplicates
from schemas.features import ClassLabelFeature, Feature, ImageFeature, Model, TextFeature
from schemas.hashing import fingerprint
from schemas.rules import Rule
from schemas.sources import Source
from schemas.split import Name, Split
from schemas.transforms import OneHot, Step, Transform, TransformField
from schemas.units import ByteSize, Share


class Join(Model):
    """Add a table's columns to every record with the same key."""

    table: Name = Field(description="The source to look up in.")
    # Not `on`, which YAML reads as true.
    by: str | list[str] | None = Field(None, description="Column or columns that both sides have.")
    left_on: str | list[str] | None = Field(
        None,
        description="Column or columns of the records, those of earlier joins included; compared as text.",
    )
    right_on: str | list[str] | None = Field(
        None, description="Column or columns of the table, in the same order."
    )
    many: Literal["first", "error", "list", "explode"] = Field(
        "first",
        description="What to do where the table has several rows of one key: use the first (the others are "
        "duplicates), end with an error, give each column as a list, or make a record of each row.",
    )
    prefix: str = Field("", max_length=100, description="Put before the names of the table's columns.")
    unmatched_left: Literal["dead_letter", "drop", "keep", "error"] = "dead_letter"
    unmatched_right: Literal["dead_letter", "drop", "error"] = "drop"
    broadcast: ByteSize = Field(
        64 << 20, ge=0, description="A larger table is shuffled by key, not held by every worker."
    )

    @model_validator(mode="after")
    def _keyed(self) -> Join:
        if (self.by is None) == (self.left_on is None) or (self.left_on is None) != (self.right_on is None):
            raise ValueError("a join needs `by`, or both `left_on` and `right_on`")
        if not self.left_keys or len(self.left_keys) != len(self.right_keys):
            raise ValueError("a join needs as many columns in `left_on` as in `right_on`, and at least one")
        return self

    @property
    def left_keys(self) -> list[str]:
        """The columns of the records to join by."""
        return _listed(self.left_on if self.by is None else self.by)

    @property
    def right_keys(self) -> list[str]:
        """The columns of the table to join by."""
        return _listed(self.right_on if self.by is None else self.by)


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


class Member(Model):
    """One of the sources whose records are written."""

    source: Name
    prefix: str = Field("", max_length=200, description="Put before the keys of its records.")
    sample: float = Field(
        1.0, gt=0, le=1, description="The share of its records to take, by a hash of the key."
    )
    limit: int | None = Field(
        None, ge=1, description="Most records of it to write: those with the smallest hashes of their keys."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_weight(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        share = value.get("weight", value.get("sample"))
        if share is not None and ("weight" in value or (isinstance(share, int | float) and share > 1)):
            raise ValueError(
                "a data set holds a record once, so that `sample` is less than or equal to 1 and there is no `weight`; "
                "for more of a source prepare it as a data set of its own, and mix: `load([…, …], weights=[3, 1])`"
            )
        return value


def _member_kind(value: object) -> str:
    return "source" if isinstance(value, dict | Member) else "str"


def _main_kind(value: object) -> str:
    return "list[]" if isinstance(value, list) else "str"


# The tags are what `schemas.load` leaves out of the place of a mistake.
_Members = list[
    Annotated[
        Annotated[Name, Tag("str")] | Annotated[Member, Tag("source")],
        Discriminator(_member_kind),
    ]
]
_Main = Annotated[
    Annotated[Name, Tag("str")] | Annotated[_Members, Field(min_length=1), Tag("list[]")],
    Discriminator(_main_kind),
]


class Write(Model):
    """What the data set looks like on disk."""

    shards: (
        dict[Name, Annotated[int, Field(ge=1, le=99_999)]] | Annotated[int, Field(ge=1, le=99_999)] | None
    ) = Field(None, description="Shards of each split; chosen by `shard_size` where absent.")
    shard_size: ByteSize = Field(
        64 << 20, gt=0, description="Most bytes of a shard, about; the number of shards is a power of two."
    )
    max_dead_letters: Share = Field(
        0.01, description="Share of a source's records that may be dead letters before nothing is committed."
    )


_NUMBERS = ("int64", "float32", "bool", "class_label")
_WORDS = ("text", "int64", "class_label")
_STEP_TYPES = {
    **dict.fromkeys(("z_score", "min_max", "bucketize"), _NUMBERS),
    **dict.fromkeys(("vocabulary", "one_hot", "hash"), _WORDS),
    "tfidf": ("text",),
}


def _check_step(where: str, step: Step, feature: Feature) -> None:
    """A ready function must know what to do with the feature that it is given."""
    if feature.type not in _STEP_TYPES[step.type]:
        raise ValueError(
            f"{where}: {step.type} makes nothing of {feature.type}; it takes {', '.join(_STEP_TYPES[step.type])}"
        )
    if isinstance(step, OneHot) and getattr(feature, "shape", None):
        raise ValueError(f"{where}: one_hot takes single values, not a vector or list")


class JobSpec(Model):
    """One data set version: from sources to shards."""

    name: Name
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="Of the data set, such as 1.0.0.")
    description: str = ""
    vars: dict[Name, str] = Field(
        default_factory=dict, description="Variables for paths, with their defaults."
    )
    sources: dict[Name, Source] = Field(min_length=1)
    main: _Main | None = Field(
        None,
        description="The source whose records are written; needed where there are several. A list of sources of one "
        "shape is their union: names, or `{source: …, prefix: …, sample: …, limit: …}`.",
    )
    join: list[Join] = Field(default_factory=list)
    clean: list[Rule] = Field(default_factory=list)
    features: dict[Name, Feature] = Field(min_length=1)
    label: Name | None = Field(None, description="The feature that training predicts.")
    index: list[Name] | None = Field(
        None,
        description="Features that the shards' indexes hold too, so that filters, labels and lengths are known "
        "without reading a record: numbers, class_labels, bools and short texts by their values, lists of any "
        "length by the number of their values. Where absent: the label and every list of any length.",
    )
    pack: bool = Field(
        False,
        description="Store the single numbers of a record (float32; int64, class_label and bool) as one vector of "
        "each type: smaller shards that are parsed faster. The loader gives them by their names all the same; other "
        "readers see the vectors.",
    )
    transform: TransformField | None = Field(
        None,
        description="tf-transform: a preprocessing_fn, as `module.path:function` or with options, or ready functions.",
    )
    statistics: bool = Field(
        True, description="Write statistics of every feature: statistics.json, and files that TFX tools read."
    )
    duplicates: Duplicates | None = Field(
        None,
        description="Compare all records with each other, and leave out those that hold the same as others.",
    )
    split: Split = Split()
    # Not `schema`, which pydantic's models have already.
    expected: SchemaCheck | None = Field(
        None,
        alias="schema",
        description="A schema that statistics are compared with before anything is committed.",
    )
    write: Write = Write()
    seed: int = Field(0, description="Of the records' order and shards.")

    @model_validator(mode="after")
    def _used(self) -> JobSpec:
        tables = [join.table for join in self.join]
        for table in tables:
            if table not in self.sources:
                raise ValueError(f"join: no source is called {table!r}; there are {sorted(self.sources)}")
            if tables.count(table) > 1:
                raise ValueError(f"join: {table!r} is joined more than once")
        mains = [] if self.main is None else self.main_names
        for name in mains:
            if name not in self.sources:
                raise ValueError(f"main: no source is called {name!r}; there are {sorted(self.sources)}")
            if mains.count(name) > 1:
                raise ValueError(f"main: {name!r} is listed more than once")
        rest = [name for name in self.sources if name not in tables and name not in mains]
        if rest and (self.main is not None or len(rest) > 1):
            unused = rest if self.main is not None else rest[1:]
            raise ValueError(f"sources: {unused} are neither `main` nor joined; join them or remove them")
        if (not rest and self.main is None) or set(mains) & set(tables):
            raise ValueError(
                "main: every source is joined as a table; name one that the tables are joined to"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> JobSpec:
        if self.label is not None and self.label not in self.features:
            raise ValueError(f"label: no feature is called {self.label!r}; there are {sorted(self.features)}")
        if isinstance(self.write.shards, dict):
            unknown = sorted(set(self.write.shards) ^ set(self.split.names))
            if unknown:
                raise ValueError(f"write.shards and split must name the same splits; see {unknown}")
        for name, feature in self.features.items():
            folders = isinstance(feature, ClassLabelFeature) and feature.names == "folders"
            if folders and any(
                self.sources[main].kind not in ("image_folder", "files") for main in self.main_names
            ):
                raise ValueError(
                    f"features.{name}: `names: folders` needs an image_folder or files as the main source"
                )
        return self

    @model_validator(mode="after")
    def _comparable(self) -> JobSpec:
        if self.expected is not None and not self.statistics:
            raise ValueError("schema: what is compared are statistics; remove `statistics: false`")
        drift = None if self.expected is None else self.expected.drift
        if drift is not None and drift.against == self.version:
            raise ValueError(f"schema.drift: version {self.version} cannot be compared with itself")
        return self

    @model_validator(mode="after")
    def _splits_of_duplicates(self) -> JobSpec:
        if (
            self.split.ranked
            and self.duplicates is not None
            and self.duplicates.action == "keep_within_split"
        ):
            raise ValueError(
                "duplicates: `keep_within_split` needs splits that each record's own row decides, not `exact` or "
                "`stratify`; use `drop`"
            )
        return self

    @model_validator(mode="after")
    def _indexable(self) -> JobSpec:
        for name in self.index or []:
            if name not in self.features:
                raise ValueError(f"index: no feature is called {name!r}; there are {sorted(self.features)}")
            if (why := why_no_column(self.features[name])) is not None:
                raise ValueError(f"index: {name!r} cannot be in an index: {why}")
            if self.indexed.count(name) > 1:
                raise ValueError(f"index: {name!r} is listed more than once")
        return self

    @model_validator(mode="after")
    def _transformable(self) -> JobSpec:
        transform = self.transforming
        if transform is None:
            return self
        if self.split.names and transform.split not in self.split.names:
            raise ValueError(
                f"transform.split: there is no split {transform.split!r}; there are {sorted(self.split.names)}"
            )
        for name, step in transform.features.items():
            source = step.source or name
            if source not in self.features:
                raise ValueError(
                    f"transform.features.{name}: no feature is called {source!r}; there are {sorted(self.features)}"
                )
            _check_step(f"transform.features.{name}", step, self.features[source])
        return self

    @model_validator(mode="after")
    def _deduplicable(self) -> JobSpec:
        for check in self.duplicates.checks if self.duplicates is not None else []:
            for name in check.exact or ([check.near.feature] if check.near is not None else []):
                if name not in self.features:
                    raise ValueError(
                        f"duplicates: no feature is called {name!r}; there are {sorted(self.features)}"
                    )
            near = check.near
            if near is None:
                continue
            feature, given = self.features[near.feature], near.model_fields_set
            image, text = isinstance(feature, ImageFeature), isinstance(feature, TextFeature)
            if not image and not text:
                raise ValueError(
                    f"duplicates: {near.feature!r} is neither an image nor a text; compare it by `exact`"
                )
            wrong = {"similarity", "shingle", "size"} if image else {"distance"}
            if wrong & given:
                raise ValueError(
                    f"duplicates: {sorted(wrong & given)} is not for {feature.type} features such as {near.feature!r}"
                )
        return self

    @property
    def transforming(self) -> Transform | None:
        """What tf-transform is to do, if anything."""
        if isinstance(self.transform, str):
            return Transform(function=self.transform)
        return self.transform

    @property
    def members(self) -> list[Member]:
        """The sources whose records are written, in order."""
        if isinstance(self.main, list):
            return [Member(source=each) if isinstance(each, str) else each for each in self.main]
        tables = {join.table for join in self.join}
        return [Member(source=self.main or next(name for name in self.sources if name not in tables))]

    @property
    def main_names(self) -> list[str]:
        """The names of the sources whose records are written, in order."""
        return [member.source for member in self.members]

    @property
    def indexed(self) -> list[str]:
        """The features that the shards' indexes hold too."""
        return indexed_by_default(self.features, self.label) if self.index is None else self.index

    @property
    def placed_late(self) -> bool:
        """Whether where records go, or whether they are left out, is known only once all are read."""
        limited = any(member.limit is not None for member in self.members)
        capped = self.split.cap is not None
        return limited or self.duplicates is not None or self.split.ranked or capped

    @property
    def fingerprint(self) -> str:
        """Content hash of what the job says; `vars` are where things are, not what they are, and stay out.

        So do fields with their default value: a release that changes a default changes no job.
        """
        return fingerprint(
            self.model_dump(by_alias=True, mode="json", exclude={"vars"}, exclude_defaults=True)
        )
