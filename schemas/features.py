"""What a record holds: the features of a data set, as written in a job and in a manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ImageFormat = Literal["jpeg", "png", "gif", "bmp", "webp", "tiff"]
# What tf.io.decode_image reads, and so what a shard may hold.
STORED_FORMATS = ("jpeg", "png", "gif", "bmp")


class Model(BaseModel):
    """Base of all specs: frozen, and a field it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class _Feature(Model):
    source: str | list[str] | None = Field(
        None,
        alias="from",
        description="Column the values come from; the feature's own name where absent. "
        "A list packs several numeric columns into one vector.",
    )
    description: str = ""


class _Required(_Feature):
    required: bool = Field(True, description="Whether a record without a value becomes a dead letter.")


class ImageEncode(Model):
    """Store images in another form than they came in."""

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(95, ge=1, le=100, description="JPEG quality.")
    size: tuple[int, int] | None = Field(None, description="Height and width of the stored image, in pixels.")
    resize: Literal["stretch", "crop", "pad"] = Field(
        "stretch",
        description="How to reach `size`: ignore the aspect ratio, centre crop to it, or pad with black.",
    )


class ImageFeature(_Feature):
    """An encoded image; uint8 (height, width, channels) once decoded."""

    type: Literal["image"]
    source: str | None = Field(None, alias="from")
    shape: tuple[int | None, int | None, Literal[1, 3, 4]] = Field(
        (None, None, 3), description="Height, width, channels; null where any size is allowed."
    )
    formats: list[ImageFormat] = Field(
        ["jpeg", "png"], min_length=1, description="The true formats allowed, whatever a file's name says."
    )
    min_size: tuple[int, int] | None = Field(None, description="Smallest height and width allowed, in pixels.")
    max_pixels: int = Field(
        89_478_485, gt=0, description="Most pixels an image may claim; a larger one is not decoded at all."
    )
    check: Literal["decode", "header"] = Field(
        "decode", description="Decode every image in full, or trust its header and its end marker."
    )
    encode: ImageEncode | None = None

    @model_validator(mode="after")
    def _stored_formats(self) -> ImageFeature:
        unreadable = [f for f in self.formats if f not in STORED_FORMATS]
        if unreadable and self.encode is None:
            raise ValueError(
                f"TensorFlow cannot decode {', '.join(unreadable)}; add `encode: {{format: jpeg}}` to convert"
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


class ClassLabelFeature(_Required):
    """One of a fixed list of names, stored as its int64 position."""

    type: Literal["class_label"]
    source: str | None = Field(None, alias="from")
    names: list[str] | Literal["folders"] = Field(
        description="The names in order of their numbers; `folders` takes the sorted folders of an image_folder."
    )
    default: str | None = Field(None, description="The name given to records without one.")

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


class _Numeric(_Required):
    shape: tuple[int | None, ...] = Field(
        (), max_length=1, description="() for a number, (n) for a vector, (null) for a list of any length."
    )


class Int64Feature(_Numeric):
    """A whole number, or a vector or list of them."""

    type: Literal["int64"]
    min: int | None = None
    max: int | None = None
    default: int | None = None


class Float32Feature(_Numeric):
    """A number, or a vector or list of them. NaN and infinity are dead letters unless allowed."""

    type: Literal["float32"]
    min: float | None = None
    max: float | None = None
    default: float | None = None
    allow_nan: bool = False


class BoolFeature(_Required):
    """True or false, stored as int64 1 or 0."""

    type: Literal["bool"]
    source: str | None = Field(None, alias="from")
    default: bool | None = None


class TextFeature(_Required):
    """UTF-8 text."""

    type: Literal["text"]
    source: str | None = Field(None, alias="from")
    vocabulary: list[str] | None = Field(None, description="The values allowed; any where absent.")
    max_bytes: int | None = Field(None, gt=0, description="Longest value allowed, in UTF-8 bytes.")
    default: str | None = None


class BytesFeature(_Required):
    """Raw bytes."""

    type: Literal["bytes"]
    source: str | None = Field(None, alias="from")
    max_bytes: int | None = Field(None, gt=0)


Feature = Annotated[
    ImageFeature | ClassLabelFeature | Int64Feature | Float32Feature | BoolFeature | TextFeature | BytesFeature,
    Field(discriminator="type"),
]
