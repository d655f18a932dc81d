"""Which records of a job are duplicates of each other, and what becomes of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.features import Model

_Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]


class Near(Model):
    """How alike the images or texts of two records must be."""

    feature: _Name = Field(description="An image or text feature.")
    distance: float = Field(
        0.02,
        gt=0,
        le=0.2,
        description="Of images: 1 less the correlation of what both show. Finds pictures that were encoded anew, "
        "resized, or cropped by up to a tenth at each side.",
    )
    similarity: float = Field(
        0.8, ge=0.5, le=1, description="Of texts: the share of their shingles that both have (Jaccard)."
    )
    shingle: Literal["words", "characters"] = Field(
        "words", description="What a text's shingles are made of."
    )
    size: int = Field(3, ge=1, le=16, description="How many words or characters make a shingle.")


class Check(Model):
    """One way in which records are compared."""

    exact: Annotated[list[_Name], Field(min_length=1)] | None = Field(
        None, description="Features that duplicates have in common, byte by byte as they are stored."
    )
    near: Near | None = None

    @model_validator(mode="after")
    def _one(self) -> Check:
        if (self.exact is None) == (self.near is None):
            raise ValueError("a check is either `exact: [features]` or `near: {feature: …}`")
        return self


class Duplicates(Model):
    """Records that hold the same, or nearly, under different keys; of each cluster of them one survives."""

    checks: list[Check] = Field(min_length=1)
    action: Literal["drop", "report", "keep_within_split"] = Field(
        "drop",
        description="Leave out all of a cluster but its survivor, only list them, or leave out those that lie in "
        "another split than the survivor.",
    )
    keep: Literal["first", "largest", "hash"] = Field(
        "first",
        description="The survivor: the first in the order of the sources, the one with the most bytes, or the one with "
        "the smallest hash of its key, which stays when sources are listed in another order.",
    )
    against: list[str] = Field(
        default_factory=list,
        description="Earlier versions (1.0.0), or directories of other data sets, made with the same checks: what is a "
        "duplicate of their records is left out here.",
    )
