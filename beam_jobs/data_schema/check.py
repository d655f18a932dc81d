"""Statistics compared with a schema: a pure function that lists anomalies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from beam_jobs.data_schema.distances import counts_of
from beam_jobs.data_schema.single import as_single, shortest
from schemas.anomalies import Anomaly, Kind
from schemas.data_schema import (
    Balance,
    BoolRules,
    ClassLabelRules,
    DataSchema,
    Float32Rules,
    ImageRules,
    Int64Rules,
    Range,
    Rules,
    SplitRules,
    TextRules,
)
from schemas.errors import shorten
from schemas.statistics import MAX_TOP_BYTES, FeatureStatistics, Numbers, Statistics

_SHOWN = 5  # values in a message
_MAX_SHOWN = 60  # characters of each
_CLEAN = "Mend the source, or drop or repair such records under `clean:`"
_UNITS = {
    "length": "values",
    "characters": "characters",
    "bytes": "bytes",
    "height": "pixels",
    "width": "pixels",
}


def find_anomalies(schema: DataSchema, statistics: Statistics) -> list[Anomaly]:
    """Where the statistics are not what the schema expects: features, splits, then values split by split."""
    found = [*_features(schema, statistics), *_splits(schema, statistics)]
    for split, own in statistics.splits.items():
        for name, rules in schema.features.items():
            feature = own.features.get(name)
            if feature is not None and feature.type == rules.type:
                found += _values(_Subject(name, split, own.records, feature), rules)
    return found


def _features(schema: DataSchema, statistics: Statistics) -> Iterator[Anomaly]:
    types = {name: each.type for split in statistics.splits.values() for name, each in split.features.items()}
    for name, rules in schema.features.items():
        if name not in types:
            yield Anomaly(
                kind="missing_feature",
                feature=name,
                what="The feature is missing.",
                found=shorten(", ".join(types)) or "no features",
                allowed=f"{name}: {rules.type}",
                hint=f"Add it to the job's `features:`, or remove `features.{name}` from the schema.",
            )
        elif types[name] != rules.type:
            yield Anomaly(
                kind="wrong_type",
                feature=name,
                what="The feature is of another type.",
                found=types[name],
                allowed=rules.type,
                hint=f"Mend the type in the job, or `features.{name}` in the schema.",
            )
    for name, kind in types.items():
        if name not in schema.features:
            yield Anomaly(
                kind="unknown_feature",
                feature=name,
                what="The schema has no such feature.",
                found=f"{name}: {kind}",
                allowed=shorten(", ".join(schema.features)),
                hint=f"Add `features.{name}: {{type: {kind}}}` to the schema, or remove it from the job.",
            )


def _splits(schema: DataSchema, statistics: Statistics) -> Iterator[Anomaly]:
    for name, rules in schema.splits.items():
        if name in statistics.splits:
            yield from _records(name, statistics.splits[name].records, rules)
        else:
            yield Anomaly(
                kind="missing_split",
                split=name,
                what="The split is missing.",
                found=", ".join(statistics.splits),
                allowed=", ".join(schema.splits),
                hint=f"Mend the job's `split:`, or remove `splits.{name}` from the schema.",
            )


def _records(split: str, records: int, rules: SplitRules) -> Iterator[Anomaly]:
    low, high = rules.min_records, rules.max_records
    if low is not None and records < low:
        kind, word, allowed = "too_few_records", "few", f"at least {low:,}"
    elif high is not None and records > high:
        kind, word, allowed = "too_many_records", "many", f"at most {high:,}"
    else:
        return
    yield Anomaly(
        kind=kind,
        split=split,
        what=f"The split has too {word} records.",
        found=f"{records:,}",
        allowed=allowed,
        hint="The books say what was read, dropped and dead-lettered; if the number is right, "
        f"change `splits.{split}` in the schema.",
    )


@dataclass(frozen=True)
class _Subject:
    """A feature of a split.

    Attributes:
      name, split: which one.
      records: of the split.
      feature: its statistics.
    """

    name: str
    split: str
    records: int
    feature: FeatureStatistics

    def anomaly(
        self, kind: Kind, what: str, *, found: str, allowed: str, field: str, mend: str = _CLEAN
    ) -> Anomaly:
        """An anomaly of the feature that a change of `field` in the schema would allow."""
        return Anomaly(
            kind=kind,
            feature=self.name,
            split=self.split,
            what=what,
            found=found,
            allowed=allowed,
            hint=f"{mend}; if the data are right, change `features.{self.name}.{field}` in the schema.",
        )

    def not_checked(self, field: str) -> Anomaly:
        """The anomaly of statistics that do not know what the schema asks for."""
        return Anomaly(
            kind="not_checked",
            feature=self.name,
            split=self.split,
            what=f"The statistics do not tell the {field} of its values.",
            found="not known",
            allowed=f"{field} of every value",
            hint=f"Prepare the data as a new version, or remove `features.{self.name}.{field}` from the schema.",
        )


def _values(subject: _Subject, rules: Rules) -> Iterator[Anomaly]:
    feature = subject.feature
    yield from _presence(subject, rules.min_presence)
    match rules:
        case ImageRules():
            yield from _images(subject, rules)
            yield from _sizes(subject, rules.bytes, feature.bytes, "bytes")
        case ClassLabelRules():
            yield from _domain(subject, rules.values, rules.min_domain_mass)
            yield from _balance(subject, rules.balance)
        case BoolRules():
            yield from _balance(subject, rules.balance)
        case Int64Rules():
            yield from _range(subject, rules.min, rules.max)
            yield from _domain(subject, rules.values, rules.min_domain_mass)
            yield from _sizes(subject, rules.length, feature.lengths, "length")
        case Float32Rules():
            low, high = (None if bound is None else as_single(bound) for bound in (rules.min, rules.max))
            yield from _range(subject, low, high)
            yield from _not_finite(subject, rules.max_not_finite)
            yield from _sizes(subject, rules.length, feature.lengths, "length")
        case TextRules():
            yield from _domain(subject, rules.values, rules.min_domain_mass)
            yield from _sizes(subject, rules.characters, feature.characters, "characters")
            yield from _sizes(subject, rules.bytes, feature.bytes, "bytes")
        case _:
            yield from _sizes(subject, rules.bytes, feature.bytes, "bytes")


def _presence(subject: _Subject, least: float | None) -> Iterator[Anomaly]:
    own = subject.feature.count - (subject.feature.defaulted or 0)
    if least is not None and subject.records and own / subject.records < least:
        yield subject.anomaly(
            "low_presence",
            "Too few records have a value of their own.",
            found=f"{own:,} of {subject.records:,} ({own / subject.records:.4%})",
            allowed=f"at least {least:.4%}",
            field="min_presence",
            mend="Look for the missing values at the source",
        )


def _range(subject: _Subject, low: float | None, high: float | None) -> Iterator[Anomaly]:
    numbers = subject.feature.numbers
    if numbers is None or numbers.min is None or numbers.max is None:
        return
    if low is not None and numbers.min < low:
        found, allowed = f"minimum {_shortest(numbers.min)}", f"min {_shortest(low)}"
        yield subject.anomaly("below_min", "Values are too small.", found=found, allowed=allowed, field="min")
    if high is not None and numbers.max > high:
        found, allowed = f"maximum {_shortest(numbers.max)}", f"max {_shortest(high)}"
        yield subject.anomaly("above_max", "Values are too large.", found=found, allowed=allowed, field="max")


def _shortest(value: float) -> float:
    return value if isinstance(value, int) else shortest(value)


def _not_finite(subject: _Subject, most: float | None) -> Iterator[Anomaly]:
    numbers = subject.feature.numbers
    if numbers is None or most is None:
        return
    bad, total = numbers.nan + numbers.infinite, numbers.count + numbers.nan + numbers.infinite
    if total and bad / total > most:
        yield subject.anomaly(
            "not_finite",
            "Too many values are NaN or infinite.",
            found=f"{numbers.nan:,} NaN and {numbers.infinite:,} infinite of {total:,} ({bad / total:.4%})",
            allowed=f"at most {most:.4%}",
            field="max_not_finite",
            mend="Mend the source, or remove `allow_nan` from the job",
        )


def _sizes(subject: _Subject, bounds: Range, sizes: Numbers | None, field: str) -> Iterator[Anomaly]:
    """Lengths of texts and lists, sizes of images and of their files."""
    if bounds == Range() or not subject.feature.values:
        return
    if sizes is None or sizes.min is None or sizes.max is None:
        yield subject.not_checked(field)
        return
    of_image, unit = field in ("height", "width"), _UNITS[field]
    what = f"Some images have too {{}} a {field}." if of_image else f"Some have too {{}} {unit}."
    if bounds.min is not None and sizes.min < bounds.min:
        yield subject.anomaly(
            "wrong_image_size" if of_image else "too_short",
            what.format("small" if of_image else "few"),
            found=f"{sizes.min:,} {unit}",
            allowed=f"at least {bounds.min:,}",
            field=f"{field}.min",
        )
    if bounds.max is not None and sizes.max > bounds.max:
        yield subject.anomaly(
            "wrong_image_size" if of_image else "too_long",
            what.format("large" if of_image else "many"),
            found=f"{sizes.max:,} {unit}",
            allowed=f"at most {bounds.max:,}",
            field=f"{field}.max",
        )


def _images(subject: _Subject, rules: ImageRules) -> Iterator[Anomaly]:
    images = subject.feature.images
    yield from _sizes(subject, rules.height, None if images is None else images.height, "height")
    yield from _sizes(subject, rules.width, None if images is None else images.width, "width")
    if not subject.feature.values:
        return
    mend = "Mend the source, or convert them with `encode:` in the job"
    if rules.channels is not None:
        seen = None if images is None or images.channels is None else _channels(images.channels)
        if not seen:
            yield subject.not_checked("channels")
        elif wrong := [each for each in seen if each not in rules.channels]:
            yield subject.anomaly(
                "wrong_channels",
                "Some images have other channels.",
                found=", ".join(map(str, wrong)),
                allowed=" or ".join(map(str, rules.channels)),
                field="channels",
                mend=mend,
            )
    if rules.formats is not None:
        formats = {} if images is None else images.formats
        others = {name: count for name, count in formats.items() if count and name not in rules.formats}
        if not formats:
            yield subject.not_checked("formats")
        elif others:
            yield subject.anomaly(
                "wrong_format",
                "Some images have another format.",
                found=", ".join(f"{count:,} {name}" for name, count in sorted(others.items())),
                allowed=" or ".join(rules.formats),
                field="formats",
                mend=mend,
            )


def _channels(numbers: Numbers) -> list[int]:
    """Which numbers of channels occur: no two of them share a bin."""
    if numbers.histogram is None:
        return []
    bins = list(zip(pairwise(numbers.histogram.edges), numbers.histogram.counts, strict=True))
    return [
        each
        for each in range(1, 5)
        if each in (numbers.min, numbers.max)
        or any(count and low <= each < high for (low, high), count in bins)
    ]


def _domain(subject: _Subject, values: Sequence[str | int] | None, least: float) -> Iterator[Anomaly]:
    counts, top = counts_of(subject.feature), subject.feature.top
    if values is None or counts is None or not counts.total:
        return
    domain = {str(value) for value in values}
    inside = sum(count for value, count in counts.listed.items() if value in domain)
    if top is not None and not counts.complete:
        # Values of the domain that are not listed may occur as often as the rarest that is, or be too long for it.
        unlisted = domain - counts.listed.keys()
        rarest = min(counts.listed.values(), default=0)
        unsure = len(unlisted) * rarest + len(domain) * top.error
        if any(len(value.encode()) > MAX_TOP_BYTES for value in unlisted):
            unsure += top.skipped
        inside += min(unsure, counts.rest)
    outside = counts.total - inside
    if inside / counts.total >= least:
        return
    unknown = {value: count for value, count in counts.listed.items() if count and value not in domain}
    shown = sorted(unknown, key=lambda value: (-unknown[value], value))
    examples = [f"{shorten(value, _MAX_SHOWN)!r} ({unknown[value]:,})" for value in shown[:_SHOWN]]
    examples += ["…"] if len(shown) > _SHOWN else []
    yield subject.anomaly(
        "unknown_values",
        "Too many values are not in the domain.",
        found=f"{outside:,} of {counts.total:,}{': ' if examples else ''}{', '.join(examples)}",
        allowed=f"{'all' if least == 1 else f'at least {least:.4%}'} of {shorten(', '.join(map(repr, values)), 120)}",
        field="values",
        mend="Correct them at the source or under `clean:`",
    )


def _balance(subject: _Subject, bounds: Balance) -> Iterator[Anomaly]:
    labels = subject.feature.labels or {}
    total = sum(labels.values())
    if not total:
        return
    shares = {name: count / total for name, count in labels.items()}
    mend = "Collect more of what is rare, or cap what is common"
    rare = {name: share for name, share in shares.items() if share < (bounds.min or 0)}
    common = {name: share for name, share in shares.items() if bounds.max is not None and share > bounds.max}
    if rare:
        yield subject.anomaly(
            "imbalance",
            "Some values are too rare.",
            found=_shown(rare),
            allowed=f"at least {bounds.min:.4%} each",
            field="balance.min",
            mend=mend,
        )
    if common:
        yield subject.anomaly(
            "imbalance",
            "A value is too common.",
            found=_shown(common),
            allowed=f"at most {bounds.max:.4%}",
            field="balance.max",
            mend=mend,
        )


def _shown(shares: Mapping[str, float]) -> str:
    names = sorted(shares, key=lambda name: (shares[name], name))
    told = [f"{shorten(name, _MAX_SHOWN)!r} {shares[name]:.4%}" for name in names[:_SHOWN]]
    return ", ".join(told + (["…"] if len(names) > _SHOWN else []))
