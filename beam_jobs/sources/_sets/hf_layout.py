"""Which files of a Hugging Face folder hold which split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from beam_jobs.sources._places.listing import File, list_files, shown
from beam_jobs.sources._places.stored import StoredFile
from schemas.errors import HeadraceError, shorten

DATASET_INFO, _STATE, _DICT = "dataset_info.json", "state.json", "dataset_dict.json"
_NUMBERED = re.compile(r"-\d{5,}-of-\d{5,}$")
_ALLOWED = "a folder that `save_to_disk` wrote, one of Parquet files, or one of `datasets`' cache"


def find_splits(root: str, where: str) -> dict[str, list[File]]:
    """The files of each split, in order: as `save_to_disk` says, or by the names of Parquet or Arrow files.

    Raises:
      HeadraceError: the folder is missing, or holds nothing of the kind.
    """
    files = {file.path: file for file in list_files(root, _hidden)}
    if _DICT in files:
        names = _strings(StoredFile(root, _DICT, where).json(), "splits", f"{where}, {_DICT}")
        return {name: _saved(root, f"{name}/", files, where)[1] for name in names}
    if _STATE in files:
        name, saved = _saved(root, "", files, where)
        return {name: saved}
    kinds = (".parquet", _parquet_split), (".arrow", _cached_split)
    for suffix, split_of in kinds:
        # Files that `datasets` caches for itself are copies of the same records.
        named = [path for path in files if path.endswith(suffix) and "/cache-" not in f"/{path}"]
        if named:
            return _grouped({path: split_of(path.removesuffix(suffix)) for path in named}, files, where)
    found = shorten(shown(", ".join(files)), 120)
    raise HeadraceError(
        "The folder holds no file of a data set." if files else "The folder holds no file.",
        where=f"{where}, {root}",
        value=found or None,
        allowed=_ALLOWED,
    )


def _saved(root: str, folder: str, files: Mapping[str, File], where: str) -> tuple[str, list[File]]:
    """The split's name and files that a `state.json` lists."""
    path = f"{folder}{_STATE}"
    if path not in files:
        raise HeadraceError("A split has no state.json.", where=where, value=path, allowed=_ALLOWED)
    state = StoredFile(root, path, where).json()
    where = f"{where}, {shown(path)}"
    if isinstance(state, dict) and (state.get("_indices_data_files") or state.get("_indices_files")):
        raise HeadraceError(
            "The data set was saved with a list of indices, by an old version of `datasets`.",
            where=where,
            hint="Save it again with a version of today.",
        )
    listed = state.get("_data_files") if isinstance(state, dict) else None
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed or []]
    for name in names:
        # A name that leads elsewhere would have the job read any file of the machine.
        if not isinstance(name, str) or f"{folder}{name}" not in files or "/" in name:
            raise HeadraceError("A file that is listed does not exist.", where=where, value=name)
    return str(state.get("_split") or "train"), [files[f"{folder}{name}"] for name in names]


def _strings(data: Any, field: str, where: str) -> list[str]:
    names = data.get(field) if isinstance(data, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise HeadraceError(f"`{field}` is no list of names.", where=where, value=shorten(repr(names)))
    return names


def _parquet_split(path: str) -> str:
    """`data/train-00000-of-00002`, `train/0000`, `test`: the split's name; `train` where there is none."""
    folder, _, name = path.rpartition("/")
    if _NUMBERED.search(name):
        return _NUMBERED.sub("", name)
    folder = folder.rpartition("/")[2]
    return folder if folder not in ("", "data") else name if not name.isdigit() else "train"


def _cached_split(path: str) -> str:
    """`name-train-00000-of-00002`, `name-train`."""
    return _NUMBERED.sub("", path.rpartition("/")[2]).rpartition("-")[2]


def _grouped(splits: Mapping[str, str], files: Mapping[str, File], where: str) -> dict[str, list[File]]:
    found: dict[str, list[File]] = {}
    for path in sorted(splits):
        found.setdefault(splits[path], []).append(files[path])
    for name, some in found.items():
        folders = sorted({file.path.rpartition("/")[0] for file in some})
        if len(folders) > 1:
            raise HeadraceError(
                f"The split {name!r} lies in several folders: they may be several data sets.",
                where=where,
                value=shown(", ".join(folders)),
                hint="Name the one that is meant in `path`.",
            )
    return found


def _hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")
