"""Folders of whole files: which of them are records, where their source begins, and whether folders are classes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from beam_jobs.starter.kinds import Family, common_folder, media_of
from beam_jobs.starter.place import Place, escaped, join
from beam_jobs.starter.sniff import Found, is_text

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}
_NO_CLASSES = {"images", "image", "imgs", "img", "photos", "pictures", "data", "audio", "files", "raw"}
_MASKS = {"masks", "mask", "annotations", "annotation", "segmentation", "segmentations", "labels", "gt"}
_MAX_CLASSES = 2000
_NOTES = re.compile(
    r"(?:readme|license|licence|copying|changelog|citation|notice)\b.*", re.IGNORECASE | re.DOTALL
)
# Rather than sound or pictures a text beside a table is what is written about it.
_ORDER = ("image", "audio", "video", "array", "text")


@dataclass(frozen=True)
class Media:
    """Files that are one record each.

    Attributes:
      place: where they lie.
      media: what they are, of MEDIA.
      files: paths below the place.
      left_out: files of the kind that are no records, and why.
      classes: names of the folders, where these are classes.
    """

    place: Place
    media: str
    files: list[str]
    left_out: dict[str, list[str]]
    classes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The source's kind."""
        return "image_folder" if self.media == "image" else "files"

    @property
    def column(self) -> str:
        """The column of the content."""
        return {"image": "image", "text": "text"}.get(self.media, "data")

    def raised(self) -> Media | None:
        """The same seen from the folder above, from which a table elsewhere may name the files."""
        folder, slash, last = self.place.root.rpartition("/")
        written = self.place.written.rpartition("/")[0]
        if last in ("", ".", "..") or folder.endswith(("/", ":")) or "?" in last:
            return None
        root = folder or slash
        files = [f"{last}/{name}" for name in self.files]
        sizes = {f"{last}/{name}": size for name, size in self.place.sizes.items()}
        return replace(self, place=Place(root, written or slash, files, sizes, self.place.cut), files=files)

    def family(self, folder: str) -> Family:
        """The source, with paths relative to a folder of the place."""
        prefix = f"{folder}/" if folder else ""
        below = f"{common_folder(self.files)}/".removeprefix(prefix).lstrip("/")
        inside = [name.removeprefix(prefix).removeprefix(below) for name in self.files]
        suffixes = sorted({os.path.splitext(name)[1].lower() for name in inside})  # noqa: PTH122
        depth = "" if all("/" not in name for name in inside) else "*/**/" if self.classes else "**/"
        options: dict[str, Any] = {"include": [f"{escaped(below)}{depth}*{suffix}" for suffix in suffixes]}
        why = {"include": f"{len(self.files):,} files" + (" and more" if self.place.cut else "")}
        if self.media == "text":
            options["text"] = True
            why["text"] = "they are UTF-8; without this the bytes are kept"
        place = self.place
        files = [name.removeprefix(prefix) for name in self.files]
        sizes = {name.removeprefix(prefix): place.sizes.get(name, -1) for name in self.files}
        written = join(place.written, folder) if folder else place.written
        below_root = Place(
            join(place.root, folder) if folder else place.root, written, files, sizes, place.cut
        )
        columns: tuple[str, ...] = ("path", self.column, "folder", "name", "stem")
        if self.kind == "files":
            columns = (*columns, "size", "suffix")
        return Family(below_root, self.kind, files, "", found=Found(options, why), columns=columns)


def media_in(place: Place, files: Sequence[str]) -> dict[str, Media]:
    """The files that are one record each, by what they are."""
    found: dict[str, list[str]] = {}
    for name in files:
        if (media := media_of(name)) is not None and not _NOTES.fullmatch(name.rpartition("/")[2]):
            found.setdefault(media, []).append(name)
    groups = {}
    for media in sorted(found, key=_ORDER.index):
        names = found[media]
        if media == "text" and not is_text(place.root, names[0]):
            continue
        groups[media] = _media(place, media, names)
    return groups


def _media(place: Place, media: str, files: list[str]) -> Media:
    left_out: dict[str, list[str]] = {}
    masks = [name for name in files if _parent(name).lower() in _MASKS]
    if masks and len(masks) < len(files):
        left_out["masks or annotations, for a record has one image"] = masks
        hidden = set(masks)
        files = [name for name in files if name not in hidden]
    classes = _class_folders(files)
    if classes:
        folder = common_folder(files)
        loose = [name for name in files if _below(name, folder) == name.rpartition("/")[2]]
        if loose:
            left_out["in no folder of a class"] = loose
            hidden = set(loose)
            files = [name for name in files if name not in hidden]
    return Media(place, media, files, left_out, classes)


def _class_folders(files: Sequence[str]) -> tuple[str, ...]:
    """The folders' names where they look like classes: several, none of them a split, a number of shards or a kind."""
    common = common_folder(files)
    counts = Counter(_parent(name) for name in files if "/" in _below(name, common))
    names = sorted(counts)
    if not 2 <= len(names) <= _MAX_CLASSES or sum(counts.values()) < 2 * len(names):
        return ()
    lower = {name.lower() for name in names}
    numbered = all(name.isdigit() and len(name) > 2 for name in names)
    if lower <= SPLITS or lower & _NO_CLASSES or lower & _MASKS or numbered:
        return ()
    # One in ten may lie loose beside the folders, such as a picture of them all.
    return tuple(names) if sum(counts.values()) * 10 >= 9 * len(files) else ()


def splits_in(files: Sequence[str]) -> list[str]:
    """Folders called as splits are."""
    return sorted({part for name in files for part in name.split("/")[:-1] if part.lower() in SPLITS})


def _parent(name: str) -> str:
    return name.rpartition("/")[0].rpartition("/")[2]


def _below(name: str, folder: str) -> str:
    return name.removeprefix(f"{folder}/") if folder else name
