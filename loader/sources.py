"""The data sets that `load` reads: one, or several whose features must fit together. No TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loader.bucket import Buckets, Lengths
from loader.checks import check_name
from loader.dataset import Split, open_split
from loader.packing import Packing
from loader.part import Part, Where, filtered, parse_part, split_name
from loader.plan import Plan, make_plan
from schemas import HeadraceError, Manifest
from schemas.columns import is_list
from schemas.features import ClassLabelFeature, Feature, ImageFeature

Directory = str | Path


@dataclass(frozen=True)
class Source:
    """The records that are wanted of a data set.

    Attributes:
      manifest: of the data set.
      split: that holds them.
      part: which of the split's records they are.
    """

    manifest: Manifest
    split: Split
    part: Part

    @property
    def mean_bytes(self) -> int:
        """Of a record."""
        return max(1, self.split.bytes // max(1, self.split.records))

    @property
    def data(self) -> str:
        """Names these records: others, another name."""
        return f"{self.manifest.fingerprint}/{self.part.name}"

    @property
    def words(self) -> str:
        """The same for people."""
        return f"{self.manifest.name} {self.manifest.version}, {self.part.name}"

    def plan(self, *, seed: int, shuffle: bool, block_bytes: int) -> Plan:
        """The order of these records by themselves."""
        total = self.mean_bytes * len(self.part)
        return make_plan(
            len(self.part), total, self.data, seed=seed, shuffle=shuffle, block_bytes=block_bytes
        )


def open_sources(
    directory: Directory | Sequence[Directory],
    split: str | Sequence[str],
    where: Where | Sequence[Where | None] | None,
    storage_options: Mapping[str, Any] | None,
) -> list[Source]:
    """The data set in `directory`, or those in several.

    Args:
      directory: of one version, or of several.
      split: or a part of it, for all or of each.
      where: a filter, for all or of each.
      storage_options: for fsspec's file systems.

    Raises:
      HeadraceError: there is no such data set, split, part or column; or not as many as there are directories.
    """
    directories = [directory] if isinstance(directory, (str, Path)) else list(directory)
    count = len(directories)
    splits = [split] * count if isinstance(split, str) else list(split)
    filters = [where] * count if where is None or callable(where) else list(where)
    for name, given in (("directory", directories), ("split", splits), ("where", filters)):
        if not given or len(given) != count:
            raise HeadraceError(
                "Of several data sets each needs its own.",
                where=name,
                value=f"{len(given)}",
                allowed=f"one for all, or {count} for {count} directories" if count else "at least one",
            )
    return [
        _open(*one, storage_options=storage_options) for one in zip(directories, splits, filters, strict=True)
    ]


def _open(
    directory: Directory, split: str, where: Where | None, storage_options: Mapping[str, Any] | None
) -> Source:
    name = split_name(split)
    manifest, stored = open_split(directory, name, storage_options)
    part = parse_part(split, {name: stored.records})
    return Source(manifest, stored, filtered(part, where, stored.column) if where is not None else part)


def choose(
    sources: Sequence[Source], features: str | Sequence[str] | None, label: str | bool
) -> tuple[dict[str, Feature], str | None]:
    """The features to read, the label last, and the label's name.

    Args:
      sources: of which all must have them.
      features: those that are wanted; None for all.
      label: True for the one that the data sets declare, False for none, or its name.

    Raises:
      HeadraceError: there is no such feature, or it is another one elsewhere.
    """
    first, *others = (source.manifest for source in sources)
    name = (first.spec.get("label") if label else None) if isinstance(label, bool) else label
    wanted = (
        [features] if isinstance(features, str) else list(first.features if features is None else features)
    )
    for asked in wanted:
        check_name("features", asked, first.features, "The data set has no such feature.")
    if name is not None:
        check_name("label", name, first.features, "The data set has no such feature.")
    order = [asked for asked in wanted if asked != name] + ([name] if name else [])
    chosen = {asked: first.features[asked] for asked in order}
    for other in others:
        if label is True and other.spec.get("label") != name:
            raise _unlike(first, other, "labels", name, other.spec.get("label"))
        extra = other.features if features is None else ()
        for missing in [
            asked for asked in [*chosen, *extra] if (asked in chosen) != (asked in other.features)
        ]:
            held = ("there", "missing") if missing in chosen else ("missing", "there")
            raise _unlike(first, other, f"features: {missing!r}", *held)
        chosen = {
            asked: _both(asked, feature, other.features[asked], first, other)
            for asked, feature in chosen.items()
        }
    return chosen, name


def _both(name: str, feature: Feature, other: Feature, one: Manifest, two: Manifest) -> Feature:
    """The feature that stands for both."""
    if isinstance(feature, ImageFeature) and isinstance(other, ImageFeature):
        if feature.shape[2] == other.shape[2]:
            sizes = zip(feature.stored_shape[:2], other.stored_shape[:2], strict=True)
            height, width = (a if a == b else None for a, b in sizes)
            formats = dict.fromkeys(_formats(feature) + _formats(other))
            return ImageFeature(type="image", shape=(height, width, feature.shape[2]), formats=list(formats))
        raise _unlike(one, two, f"channels of {name!r}", feature.shape[2], other.shape[2])
    checks: list[tuple[str, Callable[[Feature], object]]] = [
        ("types", lambda f: f.type),
        ("shapes", lambda f: list(getattr(f, "shape", ()))),
        ("class names", lambda f: f.names if isinstance(f, ClassLabelFeature) else None),
        ("places in the records' vectors", lambda f: f.packed),
    ]
    for what, aspect in checks:
        if aspect(feature) != aspect(other):
            raise _unlike(one, two, f"{what} of {name!r}", aspect(feature), aspect(other))
    return feature


def check_lists(
    sequences: Buckets | Packing, features: Mapping[str, Feature], *, batch_size: int | None, augmented: bool
) -> None:
    """Refuse what cannot be put into buckets or packed.

    Raises:
      HeadraceError: a feature is no list or is not read; a scalar is to be packed, or single examples into buckets.
    """
    lists = [name for name, feature in features.items() if is_list(feature)]
    for name in sequences.names:
        check_name(
            "sequences", name, lists, "There is no list of any length of this name among the features."
        )
    if isinstance(sequences, Buckets):
        if batch_size is None:
            raise HeadraceError(
                "Buckets are of batches.", where="sequences=Buckets(…)", hint="Give load(…, batch_size=…)."
            )
        return
    rest = [name for name in features if name not in sequences.names]
    if rest:
        raise HeadraceError(
            "A row of several examples has no place for features that are not packed.",
            where="sequences=Packing(…), features",
            value=", ".join(rest),
            allowed=", ".join(sequences.names),
            hint="Name in Packing all lists that are to be packed, and no other features.",
        )
    if augmented:
        raise HeadraceError(
            "Packed rows cannot be augmented: they hold several examples.",
            where="augment, sequences=Packing(…)",
        )


def lengths_of(sources: Sequence[Source], sequences: Buckets | Packing) -> Lengths:
    """How many values each example has, int32 (examples,), from the indexes.

    Raises:
      HeadraceError: an example has too many, or its lists are not of one length where they are to be packed; or the
        indexes do not hold the lengths.
    """
    columns = [
        np.concatenate([source.part.of(source.split.column(name)) for source in sources])
        for name in sequences.names
    ]
    lengths = np.maximum.reduce(columns)
    for name, column in zip(sequences.names, columns, strict=True):
        unlike = np.count_nonzero(column != columns[0]) if isinstance(sequences, Packing) else 0
        if unlike:
            raise HeadraceError(
                "Only lists of one length can be packed together.",
                where=f"sequences=Packing({list(sequences.names)}, …)",
                value=f"{unlike:,} of {len(lengths):,} examples have more or fewer values of {name!r}",
                allowed=f"as many as of {sequences.names[0]!r}",
            )
        long = np.count_nonzero(column > sequences.most)
        if long:
            raise HeadraceError(
                f"{long:,} of {len(lengths):,} examples have more values of {name!r} than fit.",
                where=f"sequences={type(sequences).__name__}(…)",
                value=f"up to {column.max():,} values",
                allowed=f"at most {sequences.most:,}",
                hint=f"Leave them out with where=lambda index: index[{name!r}] <= {sequences.most}, or make more room.",
            )
    return lengths


def _formats(feature: ImageFeature) -> list[Any]:
    return [feature.stored_format] if feature.stored_format else list(feature.formats)


def _unlike(one: Manifest, two: Manifest, what: str, mine: object, other: object) -> HeadraceError:
    return HeadraceError(
        f"The data sets cannot be mixed: they differ in their {what}.",
        where=f"{two.name} {two.version}",
        value=other,
        allowed=f"{mine}, as in {one.name} {one.version}",
        hint="Prepare them with the same declarations, or name what all have alike: features=[…], label=….",
    )
