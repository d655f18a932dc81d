"""What a record holds: the features of a data set, as written in a job and in a manifest."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

ImageFormat = Literal["jpeg", "png", "gif", "bmp", "webp", "tiff"]
# What a shard may hold, and with how many channels TensorFlow decodes it to (height, width, channels). A GIF it
# decodes to frames.
STORED_FORMATS = {"jpeg": (1, 3), "png": (1, 3, 4), "bmp": (3, 4)}

# A size or length, and what fits into the int64 and float32 that shards hold.
Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Float32 = Annotated[float, Field(ge=-3.4028234663852886e38, le=3.4028234663852886e38)]


DottedName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module.path:function")
]


class Model(BaseModel):
    """Base of all specs: frozen, and a field it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Packed(NamedTuple):
    """Where a packed feature lies in a record: which value of which vector, and how many there are."""

    vector: str
    place: int
    length: int


class _Feature(Model):
    _packed: Packed | None = PrivateAttr(
        None
    )  # no part of a job: the manifest says it for all features at once

    source: str | None = Field(
        None, alias="from", description="Column the values come from; the feature's own name where absent."
    )
    description: str = ""

    @property
    def packed(self) -> Packed | None:
        """Where the feature lies in a record; None where it is a feature of its own."""
        return self._packed

    def at(self, place: Packed) -> Self:
        """The same feature, packed."""
        copy = self.model_copy()
        copy._packed = place
        return copy


class ImageEncode(Model):
    """Store images in another form than they came in."""

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(95, ge=1, le=100, description="JPEG quality.")
    size: tuple[Size, Size] | None = Field(
        None, description="Height and width of the stored image, in pixels."
    )
    resize: Literal["stretch", "crop", "pad"] = Field(
        "stretch",
        description="How to reach `size`: ignore the aspect ratio, centre crop to it, or pad with black.",
    )


class ImageFeature(_Feature):
    """An encoded image; uint8 (height, width, channels) once decoded."""

    type: Literal["image"]
    shape: tuple[Size | None, Size | None, Literal[1, 3, 4]] = Field(
        (None, None, 3), description="Height, width, channels; null where any size is allowed."
    )
    formats: list[ImageFormat] = Field(
        ["jpeg", "png"], min_length=1, description="The true formats allowed, whatever a file's name says."
    )
    min_size: tuple[Size, Size] | None = Field(
        None, description="Smallest height and width allowed, in pixels."
    )
    max_pixels: int = Field(
        89_478_485, gt=0, description="Most pixels an image may claim; a larger one is not decoded at all."
    )
    check: Literal["decode", "header"] = Field(
        "decode", description="Decode every image in full, or trust its header and its end marker."
    )
    encode: ImageEncode | None = None

    @model_validator(mode="after")
    def _stored_formats(self) -> ImageFeature:
        stored = [self.encode.format] if self.encode is not None else self.formats
        for name in stored:
            if name not in STORED_FORMATS:
                raise ValueError(
                    f"TensorFlow cannot decode {name} to one image; add `encode: {{format: jpeg}}` to convert"
                )
            if self.shape[2] not in STORED_FORMATS[name]:
                raise ValueError(
                    f"TensorFlow decodes {name} to {' or '.join(map(str, STORED_FORMATS[name]))} channels, "
                    f"not {self.shape[2]}; mend `shape`, or add `encode: {{format: png}}` to convert"
                )
        return self

    @property
    def stored_format(self) -> str | None:
        """The one format the shards hold, or None where they hold several."""
        if self.encode is not None:
            return self.encode.format
        return self.formats[0] if len(self.formats) == 1 else None

    @property
    def stored_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width, channels of what the shards hold; None where they differ."""
        if self.encode is not None and self.encode.size is not None:
            return (*self.encode.size, self.shape[2])
        return self.shape


class ClassLabelFeature(_Feature):
    """One of a fixed list of names, stored as its int64 position."""

    type: Literal["class_label"]
    names: list[str] | Literal["folders"] = Field(
        description="The names in order of their numbers; `folders` takes the sorted folders of an image_folder."
    )
    default: str | None = Field(
        None, description="Given to records without one; they are dead letters otherwise."
    )

    @model_validator(mode="after")
    def _unique(self) -> ClassLabelFeature:
        if not isinstance(self.names, str):
            if not self.names:
                raise ValueError("names must not be empty")
            twice = {name for name in self.names if self.names.count(name) > 1}
            if twice:
                raise ValueError(f"names must be unique; {sorted(twice)} occur more than once")
            if self.default is not None and self.default not in self.names:
                raise ValueError(f"default {self.default!r} is not one of names")
        return self


class _Numeric(_Feature):
    source: str | list[str] | None = Field(  # type: ignore[assignment]
        None,
        alias="from",
        description="Column the values come from; the feature's own name where absent. "
        "A list packs several columns into one vector.",
    )
    shape: tuple[Size | None, ...] = Field(
        (), max_length=1, description="() for a number, (n) for a vector, (null) for a list of any length."
    )

    @model_validator(mode="before")
    @classmethod
    def _shape_of_columns(cls, data: Any) -> Any:
        """Several columns make a vector of as many values."""
        if isinstance(data, dict) and isinstance(data.get("from"), list) and "shape" not in data:
            return {**data, "shape": [len(data["from"])]}
        return data

    @model_validator(mode="after")
    def _shape_fits(self) -> Self:
        if isinstance(self.source, list) and self.shape != (len(self.source),):
            raise ValueError(f"shape must be [{len(self.source)}], one value for each column of `from`")
        return self


class Int64Feature(_Numeric):
    """A whole number, or a vector or list of them."""

    type: Literal["int64"]
    min: Int64 | None = None
    max: Int64 | None = None
    default: Int64 | None = None

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        _check_range(self.min, self.max, self.default)
        return self


class Float32Feature(_Numeric):
    """A number, or a vector or list of them. NaN and infinity are dead letters unless allowed."""

    type: Literal["float32"]
    min: Float32 | None = None
    max: Float32 | None = None
    default: Float32 | None = None
    allow_nan: bool = False

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        _check_range(self.min, self.max, self.default)
        return self


def _check_range(low: float | None, high: float | None, default: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"min {low} is above max {high}")
    if default is not None and ((low is not None and default < low) or (high is not None and default > high)):
        raise ValueError(f"default {default} is outside of min and max")


class BoolFeature(_Feature):
    """True or false, stored as int64 1 or 0."""

    type: Literal["bool"]
    default: bool | None = None


class TextFeature(_Feature):
    """UTF-8 text."""

    type: Literal["text"]
    vocabulary: list[str] | None = Field(
        None, min_length=1, description="The values allowed; any where absent."
    )
    max_bytes: int | None = Field(None, gt=0, description="Longest value allowed, in UTF-8 bytes.")
    default: str | None = None

    @model_validator(mode="after")
    def _default_allowed(self) -> Self:
        if self.default is not None:
            if self.vocabulary is not None and self.default not in self.vocabulary:
                raise ValueError(f"default {self.default!r} is not in vocabulary")
            if self.max_bytes is not None and len(self.default.encode()) > self.max_bytes:
                raise ValueError(f"default {self.default!r} is longer than max_bytes")
        return self


class BytesFeature(_Feature):
    """Raw bytes."""

    type: Literal["bytes"]
    max_bytes: int | None = Field(None, gt=0)


Feature = Annotated[
    ImageFeature
    | ClassLabelFeature
    | Int64Feature
    | Float32Feature
    | BoolFeature
    | TextFeature
    | BytesFeature,
    Field(discriminator="type"),
]
