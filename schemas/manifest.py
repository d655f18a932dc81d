"""The manifest: the committed description of a data set version. Written last; without it there is no version.

It holds nothing that depends on where, when or on how many machines it was made: the same job on the same
source bytes gives the same manifest, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.columns import why_no_column
from schemas.errors import HeadraceError
from schemas.features import Feature, Model
from schemas.hashing import fingerprint
from schemas.naming import MANIFEST, TRANSFORM_FN, TRANSFORMED_METADATA
from schemas.packing import with_places
from schemas.storage import Place, open_place

MANIFEST_FORMAT_VERSION = 1
_MAX_MANIFEST_BYTES = 1 << 30

# Of records or bytes. Readers add such numbers as int64, so even hostile ones must leave room for that.
Count = Annotated[int, Field(ge=0, le=2**62)]


class FileEntry(Model):
    """A file of the data set: its path relative to the data set directory, size and SHA-256."""

    path: str
    bytes: Count
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ShardEntry(FileEntry):
    """A shard and its index."""

    records: Count
    index: FileEntry


class SplitEntry(Model):
    """A split: its records, the bytes of its shard files, and its shards in key-hash order."""

    records: Count
    bytes: Count
    shards: list[ShardEntry]


class Books(Model):
    """What became of every record of one source."""

    read: Count = 0
    written: Count = 0
    dead_lettered: Count = 0
    dropped: dict[str, Count] = Field(
        default_factory=dict, description="Records left out on purpose, by rule."
    )
    duplicates: Count = 0
    added: Count = Field(0, description="Records that one-to-many joins made of one, beyond the first.")
    repaired: dict[str, Count] = Field(
        default_factory=dict,
        description="Records of which a rule mended a value, by rule, whatever became of them; they balance nothing.",
    )

    @property
    def balanced(self) -> bool:
        """Whether every record read is accounted for."""
        gone = self.dead_lettered + sum(self.dropped.values()) + self.duplicates
        return self.read + self.added == self.written + gone


class Surveyed(Model):
    """What a cleaning rule was applied with, found in the train split."""

    rule: Annotated[int, Field(ge=0, description="Its place in the job's `clean:`, from 0.")]
    name: str
    found: dict[str, Any]


class LeakProof(Model):
    """What a check for leaks between splits has looked at. A version with a leak is not committed."""

    groups: Count = Field(description="Groups looked at: values of the column in any split.")
    in_two_splits: Count = 0


class DuplicatesEntry(Model):
    """What was found when the records were compared with each other; duplicates.parquet lists them.

    Each cluster of duplicates is counted once.
    """

    records: Count = Field(description="Compared.")
    clusters: Count
    left_out: Count
    pairs_across_splits: Count = Field(
        description="Of duplicates that both were written, to different splits."
    )
    against: dict[str, str] = Field(
        default_factory=dict, description="Fingerprints of the versions that they were compared with too."
    )


class Manifest(Model):
    """A data set version."""

    format: Literal["headrace"] = "headrace"
    format_version: Literal[1] = 1
    headrace_version: str
    name: str
    version: str
    description: str = ""
    fingerprint: str = Field(description="Content hash of the spec, of every shard and of the transform.")
    spec_fingerprint: str
    spec: dict[str, Any] = Field(description="The job as written, variables not filled in.")
    features: dict[str, Feature]
    indexed: list[str] = Field(
        default_factory=list, description="Features that the shards' indexes hold too; see `schemas.columns`."
    )
    packed: dict[str, list[str]] = Field(
        default_factory=dict,
        description="The features that each vector of a record holds, in the order of its values.",
    )
    splits: dict[str, SplitEntry]
    books: dict[str, Books]
    leaks: dict[str, LeakProof] = Field(
        default_factory=dict,
        description="Columns no value of which lies in two splits, and how that was found.",
    )
    dead_letters: dict[str, int] = Field(description="Dead letters by `stage.rule`.")
    surveyed: list[Surveyed] = Field(
        default_factory=list,
        description="What cleaning rules found in the train split, such as means and bounds.",
    )
    duplicates: DuplicatesEntry | None = None
    files: list[FileEntry] = Field(description="Every other file of the version.")

    @model_validator(mode="after")
    def _indexable(self) -> Manifest:
        for name in self.indexed:
            if name not in self.features or why_no_column(self.features[name]) is not None:
                raise ValueError(f"no index can hold a feature {name!r}")
        return self

    @model_validator(mode="after")
    def _placed(self) -> Manifest:
        self.features.update(with_places(self.features, self.packed))
        return self

    def to_json(self) -> str:
        """The canonical text of the manifest file, with a seal: the content hash of all the rest."""
        unasked = {"duplicates"} if self.duplicates is None else set()
        unasked |= set() if self.leaks else {"leaks"}
        data = self.model_dump(by_alias=True, mode="json", exclude=unasked)
        return _text({**data, "seal": fingerprint(data)})


def read_manifest(directory: str | Path | Place) -> Manifest:
    """The manifest of the data set version in `directory`, a path or a URL.

    Raises:
      HeadraceError: there is none, it is damaged, or another version of Headrace wrote it.
    """
    place = open_place(directory)
    where = place.where(MANIFEST)
    try:
        text = place.read_bytes(MANIFEST, _MAX_MANIFEST_BYTES).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "Give the directory of one version: where manifest.json is."
        raise HeadraceError(
            "There is no data set here: no manifest.json.",
            where=str(place),
            hint=hint if place.is_remote else _versions_below(Path(str(place))),
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise HeadraceError("The manifest cannot be read.", where=where, value=str(error)) from error
    return parse_manifest(text, where)


def parse_manifest(text: str, where: str) -> Manifest:
    """The manifest in `text`; `where` names the file in errors. See `read_manifest`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HeadraceError("The manifest is not JSON.", where=where, value=str(error)) from error
    if not isinstance(data, dict) or data.get("format") != "headrace":
        raise HeadraceError("This manifest.json is not a Headrace manifest.", where=where)
    version = data.get("format_version")
    if version != MANIFEST_FORMAT_VERSION:
        raise HeadraceError(
            "The manifest was written by another version of Headrace.",
            where=where,
            value=f"format_version {version!r}",
            allowed=f"format_version {MANIFEST_FORMAT_VERSION}",
            hint="Read it with the Headrace that wrote it, or prepare the data set again.",
        )
    data.pop(
        "seal", None
    )  # `headrace verify` checks it; who edits a description by hand should still be read
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise HeadraceError(
            f"The manifest is damaged: {first['msg']}.",
            where=f"{where}, field {'.'.join(str(part) for part in first['loc'])}",
            value=first.get("input"),
        ) from error
    for entry in all_files(manifest):
        confined(entry.path, where)
    return manifest


def is_sealed(text: str) -> bool:
    """Whether the text of a manifest is as it was written, by this or another version of Headrace."""
    try:
        data = json.loads(text)
        rest = {name: value for name, value in data.items() if name != "seal"}
        return bool(text == _text(data) and data["seal"] == fingerprint(rest))
    except (ValueError, RecursionError, AttributeError, KeyError):
        return False


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def content_fingerprint(
    spec_fingerprint: str, splits: Mapping[str, SplitEntry], files: Iterable[FileEntry]
) -> str:
    """The content hash of a version: of its spec, every shard, and the files of its transform, if it has one."""
    shards = {name: [shard.sha256 for shard in split.shards] for name, split in splits.items()}
    model = sorted(
        (entry.path, entry.sha256)
        for entry in files
        if entry.path.split("/")[0] in (TRANSFORM_FN, TRANSFORMED_METADATA)
    )
    return fingerprint(spec_fingerprint, shards, *([model] if model else []))


def all_files(manifest: Manifest) -> list[FileEntry]:
    """Every file of the version but the manifest itself."""
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    return [*shards, *(shard.index for shard in shards), *manifest.files]


def confined(path: str, where: str) -> str:
    """`path` if it stays inside the data set directory.

    Raises:
      HeadraceError: it is absolute, climbs out with `..`, or is empty.
    """
    parts = path.split("/")
    if (
        not path
        or path.startswith("/")
        or "\\" in path
        or "\0" in path
        or any(p in ("", ".", "..") for p in parts)
    ):
        raise HeadraceError(
            "The manifest names a file outside the data set.",
            where=where,
            value=path,
            allowed="a relative path",
        )
    return path


def _versions_below(directory: Path) -> str:
    if directory.is_dir():
        found = sorted(
            str(p.parent) for p in [*directory.glob(f"*/{MANIFEST}"), *directory.glob(f"*/*/{MANIFEST}")]
        )
        if found:
            return f"Did you mean {found[-1]}?"
    return "Give the directory of one version, such as out/elpv/1.0.0, or prepare one with `headrace run`."
