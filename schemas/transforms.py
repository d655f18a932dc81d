"""What a job says of tf-transform: a function of the user's, or ready ones by feature; analysed on one split only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from schemas.features import DottedName, Float32, Model, Size

_Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]


class _Step(Model):
    source: _Name | None = Field(
        None, alias="from", description="The feature it is made of; the one of its own name where absent."
    )


class ZScore(_Step):
    """(x - mean) / standard deviation; float32 of the same shape."""

    type: Literal["z_score"]


class MinMax(_Step):
    """Scaled so that the least value is `min` and the largest `max`; float32 of the same shape."""

    type: Literal["min_max"]
    min: Float32 = 0.0
    max: Float32 = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> MinMax:
        if self.min >= self.max:
            raise ValueError(f"min {self.min} is not below max {self.max}")
        return self


class Bucketize(_Step):
    """The number of the bucket that a value falls into, of buckets with about as many values each; int64."""

    type: Literal["bucketize"]
    buckets: int = Field(ge=2, le=100_000)
    epsilon: float = Field(
        0.01, gt=0, le=0.5, description="How far from equal the buckets may be, as a share."
    )


class _Words(_Step):
    top_k: Size | None = Field(None, description="Only the commonest so many.")
    frequency_threshold: Size | None = Field(None, description="Only those that occur at least so often.")
    oov_buckets: int = Field(
        0, ge=0, le=2**31 - 1, description="Numbers for values that are not in the vocabulary, by a hash."
    )


class Vocabulary(_Words):
    """The place of a value in the list of all values, the commonest first; -1 where it has none. int64."""

    type: Literal["vocabulary"]


class OneHot(_Words):
    """A vector with a 1 at the place of the value in the vocabulary; float32 (top_k + oov_buckets)."""

    type: Literal["one_hot"]

    @model_validator(mode="after")
    def _bounded(self) -> OneHot:
        if self.top_k is None:
            raise ValueError("one_hot needs top_k: how long the vector is")
        return self


class TfIdf(_Step):
    """Words and their weights, tf-idf, as two lists: `<name>_indices`, int64, and `<name>_weights`, float32."""

    type: Literal["tfidf"]
    ngrams: tuple[Size, Size] = Field((1, 1), description="From how many words to how many make a term.")
    top_k: Size = Field(description="The commonest so many terms count; one more number is for all others.")
    frequency_threshold: Size | None = Field(None, description="Only terms that occur at least so often.")
    lower: bool = Field(True, description="Whether upper case and lower case are the same.")
    smooth: bool = Field(True, description="Whether idf counts one more record that holds every term.")

    @model_validator(mode="after")
    def _ordered(self) -> TfIdf:
        if self.ngrams[0] > self.ngrams[1]:
            raise ValueError(f"ngrams must grow, as [1, 2] does; not {list(self.ngrams)}")
        return self


class Hash(_Step):
    """A hash of a value, 0 … buckets - 1; int64. It needs no analysis."""

    type: Literal["hash"]
    buckets: Size


Step = Annotated[
    ZScore | MinMax | Bucketize | Vocabulary | OneHot | TfIdf | Hash, Field(discriminator="type")
]


class Transform(Model):
    """How tf-transform changes the records."""

    function: DottedName | None = Field(
        None, description="A preprocessing_fn: gets and returns tensors by feature, and may analyse them."
    )
    features: dict[_Name, Step] = Field(
        default_factory=dict,
        description="Ready functions by the name of what they make. Features without a step of their own name stay "
        "as they are.",
    )
    split: _Name = Field("train", description="The only split that is analysed.")
    materialize: bool = Field(
        False,
        description="Write the transformed records into the shards; else they stay as they are, and readers apply "
        "transform_fn/.",
    )

    @model_validator(mode="after")
    def _one(self) -> Transform:
        if (self.function is None) == (not self.features):
            raise ValueError("transform needs either `function` or `features`")
        return self


def _kind(value: object) -> str:
    return "function" if isinstance(value, dict | Transform) else "str"


# The tags are what `schemas.load` leaves out of the place of a mistake.
TransformField = Annotated[
    Annotated[DottedName, Tag("str")] | Annotated[Transform, Tag("function")], Discriminator(_kind)
]
