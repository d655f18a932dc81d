"""What a folder of TFDS says of itself: the files of each split, and what its examples hold. TFDS is not imported.

An example has a feature for each leaf of features.json, named by its path: `objects/bbox`.

  image, text, video         bytes_list     one value; of a video one for each frame
  class label                int64_list     names are in `path-with-dashes.labels.txt`
  tensor, bounding box       by its dtype   as many values as its shape says, one after the other
  sequence                   as its leaf    the values of all its elements, one after the other
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from beam_jobs.sources._places.listing import File, list_files, shown
from beam_jobs.sources._places.stored import StoredFile
from schemas.errors import HeadraceError, shorten
from schemas.framing import FRAME_OVERHEAD
from schemas.naming import DATASET_INFO, FEATURES, labels_name

_VERSION = re.compile(r"^\d+\.\d+\.\d+$")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_FORMAT = "tfrecord"


@dataclass(frozen=True)
class Leaf:
    """A feature of the examples that can be a column.

    Attributes:
      key: its name in an example.
      column: that of its column.
      type: of one value.
      listed: whether a record holds a list of them.
      is_class: whether it is the number of a class.
    """

    key: str
    column: str
    type: pa.DataType
    listed: bool
    is_class: bool = False

    @cached_property
    def kind(self) -> str:
        """In which of an example's lists it is."""
        if pa.types.is_string(self.type) or pa.types.is_large_binary(self.type):
            return "bytes_list"
        return "float_list" if self.type == pa.float32() else "int64_list"

    @property
    def arrow(self) -> pa.DataType:
        """The type of its column."""
        return pa.list_(self.type) if self.listed else self.type


@dataclass(frozen=True)
class Shard:
    """A file of a split.

    Attributes:
      file: as listed.
      records: how many it holds.
    """

    file: File
    records: int


def find_folder(root: str, name: str | None, where: str) -> tuple[str, dict[str, File]]:
    """The folder of one version below `root`, and the files in it by their names.

    Raises:
      HeadraceError: there is none, or there are several and none is named.
    """
    parts, _, version = (name or "").partition(":")
    folder = "/".join(part for part in (root.rstrip("/"), parts, version) if part)
    files = {file.path: file for file in list_files(folder, _is_hidden)}
    holders = [path.rpartition("/")[0] for path in files if path.rpartition("/")[2] == DATASET_INFO]
    if "" not in holders:
        versions = [path for path in holders if _VERSION.match(path)]
        if not versions:
            configurations = sorted({path.partition("/")[0] for path in holders})
            raise HeadraceError(
                "The folder holds several data sets." if configurations else "There is no prepared data set.",
                where=f"{where}, {folder}",
                value=shown(shorten(", ".join(configurations))) or None,
                allowed=f"a folder with {DATASET_INFO} and {FEATURES}",
                hint="Name one, as in `name: glue/cola`."
                if configurations
                else "TFDS prepares it with `tfds build` or `tfds.load`; Headrace downloads nothing.",
            )
        latest = max(versions, key=lambda path: [int(number) for number in path.split(".")])
        folder = f"{folder}/{latest}"
        files = {
            path.removeprefix(f"{latest}/"): file._replace(path=path.removeprefix(f"{latest}/"))
            for path, file in files.items()
            if path.startswith(f"{latest}/")
        }
    for needed in (DATASET_INFO, FEATURES):
        if needed not in files:
            raise HeadraceError(
                "A file of the data set is missing.", where=f"{where}, {folder}", value=needed
            )
    return folder, files


def find_shards(folder: str, files: Mapping[str, File], where: str) -> dict[str, list[Shard]]:
    """The shards of each split, in order, as dataset_info.json says.

    Raises:
      HeadraceError: it says what cannot be, or names files that are not there.
    """
    info = StoredFile(folder, DATASET_INFO, where).json()
    where = f"{where}, {DATASET_INFO}"
    if not isinstance(info, dict) or not isinstance(info.get("splits"), list):
        raise HeadraceError("The file describes no data set.", where=where, allowed="name, version, splits …")
    stored_as = info.get("fileFormat", _FORMAT)
    if stored_as != _FORMAT:
        raise HeadraceError(
            "The data set is in another format.",
            where=f"{where}, fileFormat",
            value=stored_as,
            allowed=_FORMAT,
            hint="Prepare it again: `tfds build --file_format=tfrecord`.",
        )
    found: dict[str, list[Shard]] = {}
    for split in info["splits"]:
        name, lengths = (
            (split.get("name"), split.get("shardLengths", [])) if isinstance(split, dict) else ("", None)
        )
        if not isinstance(name, str) or not isinstance(lengths, list):
            raise HeadraceError("A split is not described.", where=where, value=shorten(repr(split)))
        template = str(split.get("filepathTemplate") or _TEMPLATE)
        found[name] = [
            _shard(_fill(template, str(info.get("name")), name, number, len(lengths)), length, files, where)
            for number, length in enumerate(lengths)
        ]
    return found


def find_leaves(folder: str, where: str) -> list[Leaf]:
    """What the examples hold that can be a column: single values, and lists of one dimension or as if of one.

    Raises:
      HeadraceError: features.json describes nothing of the kind.
    """
    features = StoredFile(folder, FEATURES, where).json()
    leaves: list[Leaf] = []
    stack: list[tuple[str, Any, bool]] = [("", features, False)]
    while stack:
        key, feature, listed = stack.pop()
        if not isinstance(feature, dict):
            continue
        match feature:
            case {"featuresDict": {"features": dict(inner)}}:
                stack += [
                    (f"{key}/{name}".lstrip("/"), inner[name], listed) for name in sorted(inner, reverse=True)
                ]
            case {"sequence": {"feature": dict(inner)}}:
                # Lists of lists are ragged, and stored as several features.
                if not (listed or "sequence" in inner):
                    stack.append((key, inner, True))
            case {"translation": {"languages": list(languages)}} if not feature["translation"].get(
                "variableLanguagesPerExample"
            ):
                leaves += [
                    _leaf(f"{key}/{language}", pa.string(), listed)
                    for language in sorted(map(str, languages))
                ]
            case _:
                leaves += _leaves(key, feature, listed)
    if not leaves:
        raise HeadraceError("The data set has no feature that can be read.", where=f"{where}, {FEATURES}")
    return leaves


def find_names(folder: str, leaves: list[Leaf], where: str) -> dict[str, list[str]]:
    """The names of every class label that is no list, by the name of its column."""
    found = {}
    for leaf in leaves:
        file = StoredFile(folder, labels_name(leaf.key.replace("/", "-")), where)
        if leaf.is_class and not leaf.listed and file.exists():
            lines = file.text().split("\n")
            found[leaf.column] = [line.strip() for line in lines if line.strip()]
    return found


def _leaves(key: str, feature: Mapping[str, Any], listed: bool) -> list[Leaf]:
    """What a feature without features of its own is; none where it cannot be a column."""
    match feature:
        case {"image": _}:
            return [_leaf(key, pa.large_binary(), listed)]
        case {"text": _}:
            return [_leaf(key, pa.string(), listed)]
        case {"classLabel": _}:
            return [replace(_leaf(key, pa.int64(), listed), is_class=True)]
        case {"video": _} if not listed:
            return [_leaf(key, pa.large_binary(), True)]
        case {"boundingBox": _}:
            return [_leaf(key, pa.float32(), True)]
        case {"tensor": dict(tensor)} if tensor.get("encoding", "none") == "none":
            shape = tensor.get("shape") or {}
            kind = _value_type(str(tensor.get("dtype")))
            return [] if kind is None else [_leaf(key, kind, listed or bool(shape.get("dimensions")))]
        case _:
            return []


def _leaf(key: str, kind: pa.DataType, listed: bool) -> Leaf:
    return Leaf(key, key.replace("/", "."), kind, listed)


def _value_type(dtype: str) -> pa.DataType | None:
    if dtype.startswith(("int", "uint")):
        return pa.int64()
    if dtype.startswith("float"):
        return pa.float32()  # what an example holds, whatever the tensor's own precision
    return {"bool": pa.bool_(), "string": pa.large_binary()}.get(dtype)


def _shard(name: str, length: object, files: Mapping[str, File], where: str) -> Shard:
    if name not in files:
        raise HeadraceError("A shard does not exist.", where=where, value=shown(name))
    records = int(length) if isinstance(length, str | int) and re.fullmatch(r"\d{1,18}", str(length)) else -1
    if not 0 <= records <= files[name].size // FRAME_OVERHEAD:
        raise HeadraceError(
            "A shard cannot hold as many records as is said.",
            where=f"{where}, {shown(name)}",
            value=repr(length),
            allowed=f"at most {files[name].size // FRAME_OVERHEAD} in {files[name].size} bytes",
        )
    return Shard(files[name], records)


def _fill(template: str, dataset: str, split: str, number: int, shards: int) -> str:
    values = {
        "DATASET": dataset,
        "SPLIT": split,
        "FILEFORMAT": _FORMAT,
        "SHARD_INDEX": f"{number:05d}",
        "NUM_SHARDS": f"{shards:05d}",
        "SHARD_X_OF_Y": f"{number:05d}-of-{shards:05d}",
    }
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")
