"""Statistics: what the values of a version look like, for each split and feature. The models of statistics.json.

Counts, sums and what follows from them (mean, std, zeros, missing) are exact, and rounded once, to float64. Quantiles,
histograms, top values and distinct counts are exact where there are few values, and say how far they may be off.
Like the manifest they depend on nothing but the records: the same job on the same bytes gives the same file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from schemas.errors import HeadraceError
from schemas.features import Int64, Model
from schemas.manifest import Count
from schemas.naming import STATISTICS
from schemas.storage import Place, open_place

STATISTICS_FORMAT_VERSION = 1
QUANTILES = 101  # the minimum, 99 percentiles, the maximum
BINS = 20  # of a histogram, at most
TOP_VALUES = 100
MAX_TOP_BYTES = 256  # of a text that is counted as a top value
MAX_STATISTICS_BYTES = 1 << 28
_MAX_LIST = 1 << 20

Number = Int64 | float
Rate = Annotated[float, Field(ge=0, le=1)]


class Histogram(Model):
    """Bins of equal width: counts[i] values lie in [edges[i], edges[i + 1]), the last edge included.

    Those of whole numbers hold as many of them each; the last may reach beyond the maximum.
    """

    edges: list[float] = Field(min_length=2, max_length=_MAX_LIST)
    counts: list[Count] = Field(min_length=1, max_length=_MAX_LIST)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.edges) != len(self.counts) + 1 or sorted(self.edges) != self.edges:
            raise ValueError("a histogram needs ascending edges, one more than counts")
        return self


class Numbers(Model):
    """Numbers, whatever they are of: values, lengths, pixels. Everything but `nan` and `infinite` is of finite ones."""

    count: Count = Field(0, description="Finite values.")
    nan: Count = 0
    infinite: Count = 0
    zeros: Count = 0
    min: Number | None = Field(
        None, description="Absent, as mean and std are, where there is no finite value."
    )
    max: Number | None = None
    mean: float | None = None
    std: float | None = Field(None, ge=0, description="Of the population: divided by `count`.")
    quantiles: list[Number] = Field(
        default_factory=list,
        max_length=_MAX_LIST,
        description="Equally spaced, from the minimum to the maximum: an equi-depth histogram. Each is a value that "
        "occurs: the smallest with at least so many values not above it.",
    )
    histogram: Histogram | None = None
    rank_error: Rate = Field(
        0.0,
        description="How far the true share of values not above a quantile may be from the stated one; 0: exact. "
        "A count of the histogram is off by at most twice this share of `count`.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        known = [value is not None for value in (self.min, self.max, self.mean, self.std, self.histogram)]
        if any(known) != bool(self.count) or all(known) != bool(self.count):
            raise ValueError("min, max, mean, std and histogram are there if there are values, else absent")
        if bool(self.quantiles) != bool(self.count) or len(self.quantiles) == 1:
            raise ValueError("there are at least two quantiles if there are values, else none")
        return self


class TopValue(Model):
    """A value and how often it occurs at least; at most `error` of its `Top` more."""

    value: str | Int64
    count: Count


class Top(Model):
    """The most frequent values, the most frequent first, equal ones by value."""

    values: list[TopValue] = Field(default_factory=list, max_length=_MAX_LIST)
    error: Count = Field(
        0, description="A value occurs at most so many times more than stated; 0: counts are exact."
    )
    skipped: Count = Field(0, description=f"Texts over {MAX_TOP_BYTES} bytes, which are not looked at.")


class Distinct(Model):
    """How many different values there are."""

    estimate: Count
    error: Rate = Field(
        0.0, description="Relative standard error of the estimate; 0: it is the exact number."
    )


class Images(Model):
    """What is known of encoded images; absent where nothing is."""

    formats: dict[str, Count] = Field(default_factory=dict, description="Images by their true format.")
    height: Numbers | None = Field(None, description="Pixels.")
    width: Numbers | None = Field(None, description="Pixels.")
    channels: Numbers | None = None
    brightness: Numbers | None = Field(
        None,
        description="Mean of an image's pixels, 0 to 255, of a sample: 8 images of 8 MiB. `count` says how "
        "many; none where the job decodes no image.",
    )


class FeatureStatistics(Model):
    """A feature in the records of a split.

    `numbers` is there for int64 and float32, over all values of all records; `labels` for class_label (every name,
    in the order of their numbers) and bool (`false`, `true`); `bytes` for text, bytes and image; `characters` for
    text; `lengths` for lists of any length; `top` for text and int64; `distinct` for all but images, class_label and
    bool; `images` for images.
    """

    type: Literal["image", "class_label", "int64", "float32", "bool", "text", "bytes"]
    count: Count = Field(description="Records that have a value.")
    missing: Count = Field(0, description="Records without one: an empty list.")
    defaulted: Count | None = Field(
        None, description="Records whose value was missing and is the default; absent where not known."
    )
    values: Count = Field(description="Values in all records.")
    numbers: Numbers | None = None
    labels: dict[str, Count] | None = None
    lengths: Numbers | None = Field(None, description="Values of a record.")
    bytes: Numbers | None = Field(None, description="Bytes of a value; of a text in UTF-8.")
    characters: Numbers | None = Field(None, description="Unicode characters of a text.")
    top: Top | None = None
    distinct: Distinct | None = None
    images: Images | None = None


class SplitStatistics(Model):
    """All features of a split."""

    records: Count
    bytes: Count = Field(description="Of its shards.")
    features: dict[str, FeatureStatistics]


class Statistics(Model):
    """The statistics of a version: what statistics.json holds."""

    format: Literal["headrace-statistics"] = "headrace-statistics"
    format_version: Literal[1] = 1
    splits: dict[str, SplitStatistics]

    def to_json(self) -> str:
        """The canonical text of the file: lists of numbers on one line, what is unknown left out."""
        return _text(self.model_dump(mode="json", exclude_none=True), 0) + "\n"


def read_statistics(directory: str | Path | Place) -> Statistics:
    """The statistics of the data set version in `directory`, a path or a URL.

    Raises:
      FileNotFoundError: the version has none.
      HeadraceError: they are damaged, too large, or another version of Headrace wrote them.
    """
    place = open_place(directory)
    where = place.where(STATISTICS)
    try:
        data = place.read_bytes(STATISTICS, MAX_STATISTICS_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HeadraceError("The statistics cannot be read.", where=where, value=str(error)) from error
    return parse_statistics(data, where)


def parse_statistics(data: bytes, where: str) -> Statistics:
    """The statistics in the bytes of a file; `where` names it in errors. See `read_statistics`."""
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise HeadraceError("The statistics are not JSON.", where=where, value=str(error)) from error
    if not isinstance(content, dict) or content.get("format") != "headrace-statistics":
        raise HeadraceError("This is not a file of statistics by Headrace.", where=where)
    version = content.get("format_version")
    if version != STATISTICS_FORMAT_VERSION:
        raise HeadraceError(
            "The statistics were written by another version of Headrace.",
            where=where,
            value=f"format_version {version!r}",
            allowed=f"format_version {STATISTICS_FORMAT_VERSION}",
            hint="Read them with the Headrace that wrote them, or prepare the data set again.",
        )
    try:
        return Statistics.model_validate(content)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise HeadraceError("The statistics are nested too deeply.", where=where) from error
        first = error.errors()[0]
        raise HeadraceError(
            f"The statistics are damaged: {first['msg']}.",
            where=f"{where}, field {'.'.join(str(part) for part in first['loc'])}",
            value=first.get("input"),
        ) from error


def _text(value: Any, depth: int) -> str:
    if isinstance(value, dict) and value:
        inner = [
            f"{' ' * (depth + 1)}{json.dumps(name, ensure_ascii=False)}: {_text(item, depth + 1)}"
            for name, item in value.items()
        ]
        return "{\n" + ",\n".join(inner) + "\n" + " " * depth + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        inner = [" " * (depth + 1) + json.dumps(item, ensure_ascii=False) for item in value]
        return "[\n" + ",\n".join(inner) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
