"""Which source reads which files: one line a kind, and files that belong together found by name and columns."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter

from beam_jobs.sources import Source, open_source
from beam_jobs.sources._places.listing import shown
from beam_jobs.sources._places.patterns import compile_patterns
from beam_jobs.starter.place import Place, escaped, join
from beam_jobs.starter.sniff import Found, head, nothing, sniff_csv, sniff_jsonl
from schemas.errors import HeadraceError
from schemas.sources import Source as SourceSpec

_PACKED = ("", ".gz", ".bz2", ".xz")
_Letters = TypeVar("_Letters", str, list[str])
_DIGITS = re.compile(r"\d+")
_ADAPTER: TypeAdapter[Any] = TypeAdapter(SourceSpec)
_SHARD = re.compile(r"-\d+-of-\d+$")
_MAX_NAMES = 200  # that differ in more than numbers; of what follows no tables are put together


def _packed(*suffixes: str) -> tuple[str, ...]:
    return tuple(suffix + packed for suffix in suffixes for packed in _PACKED)


class Kind(NamedTuple):
    """How files of one kind become sources.

    Attributes:
      kind: of the source.
      suffixes: what such files are called.
      sniff: gives the options that a file needs, or why it cannot be used.
      folders: whether `path` may be a folder, of which every file of the kind is read.
    """

    kind: str
    suffixes: tuple[str, ...]
    sniff: Callable[[str, str], Found | str] = nothing
    folders: bool = False


# Kinds of files that hold many records. A new kind is one line.
KINDS = (
    Kind("csv", _packed(".csv", ".tsv", ".tab"), sniff_csv),
    Kind("jsonl", _packed(".jsonl", ".ndjson", ".json"), sniff_jsonl),
    Kind("parquet", (".parquet", ".parq", ".pq"), folders=True),
    Kind("arrow", (".arrow", ".feather", ".ipc"), folders=True),
    Kind("orc", (".orc",), folders=True),
    Kind("avro", (".avro",), folders=True),
    Kind("tfrecord", (".tfrecord", ".tfrecords", ".tfrec", ".tfrecord.gz", ".tfrecords.gz")),
    Kind("webdataset", (".tar", ".tar.gz", ".tgz")),
)
# Kinds of files that are one record each, by what is in them.
MEDIA = {
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".m4a"),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm"),
    "text": (".txt", ".md", ".html", ".xml"),
    "array": (".npy", ".npz"),
}
# Written by Hugging Face's `save_to_disk`.
HUGGINGFACE = ("dataset_dict.json", "state.json")


@dataclass(frozen=True)
class Family:
    """Files that one source reads.

    Attributes:
      place: where they lie.
      kind: of the source.
      files: paths below the place; all that are read.
      path: file, pattern or folder that names them, relative to the place.
      pattern: whether it is a pattern, in which letters such as * mean something.
      found: options of the source and why.
      columns: what it yields, of the first file.
      skipped: why files are not among them.
    """

    place: Place
    kind: str
    files: list[str]
    path: str
    pattern: bool = False
    found: Found = field(default_factory=Found)
    columns: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """What the source is opened with."""
        return join(escaped(self.place.root) if self.pattern else self.place.root, self.path)

    @property
    def bytes(self) -> int:
        """How much its files hold."""
        return sum(max(self.place.sizes.get(name, 0), 0) for name in self.files)

    def open(self, root: str | None = None, **options: Any) -> Source:
        """The source; of other files where `root` is given."""
        settings = {**self.found.options, **options}
        return open_as(self.kind, root or self.root, settings)


def open_as(kind: str, root: str, options: dict[str, Any]) -> Source:
    """A source of some options."""
    return open_source("init", _ADAPTER.validate_python({"kind": kind, "path": root, **options}), root)


def media_of(name: str) -> str | None:
    """Which of MEDIA a file is by its name."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return next((media for media, suffixes in MEDIA.items() if suffix in suffixes), None)


def kind_of(name: str) -> Kind | None:
    """Which of KINDS a file is by its name."""
    lower = _SHARD.sub("", name.lower())
    return next((kind for kind in KINDS if lower.endswith(kind.suffixes)), None)


def families_of(place: Place, files: Sequence[str], unusable: dict[str, list[str]]) -> list[Family]:
    """The tables and shards among some files. Files that cannot be used go to `unusable`, by reason."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name in files:
        kind = kind_of(name)
        if kind is not None:
            folder, slash, last = name.rpartition("/")
            alike.setdefault((kind.kind, folder + slash + _DIGITS.sub("#", last)), []).append(name)
    shapes: dict[str, list[Family]] = {}
    for number, ((kind_name, _), names) in enumerate(sorted(alike.items())):
        kind = next(each for each in KINDS if each.kind == kind_name)
        for family in _one_shape(place, kind, names, unusable):
            shapes.setdefault(_signature(family) if number < _MAX_NAMES else str(number), []).append(family)
    found = [family for same in shapes.values() for family in _merged(place, same)]
    return sorted(found, key=lambda family: family.files[0])


def tabbed(place: Place) -> Family | None:
    """The table that a single .txt is, with tabs as spreadsheets write it; else it is a text."""
    name = place.files[0] if len(place.files) == 1 else ""
    if not name.lower().endswith(".txt"):
        return None
    family = _family(place, Kind("csv", (".txt",), sniff_csv), name, {})
    return family if family is not None and family.found.options.get("delimiter") == "\t" else None


def _merged(place: Place, families: list[Family]) -> list[Family]:
    """Families of the same shape as one, where a path can name the files of all of them."""
    if len(families) == 1:
        return families
    files = sorted(name for family in families for name in family.files)
    kind = next(each for each in KINDS if each.kind == families[0].kind)
    path = _covering(place, kind, files)
    return families if path is None else [replace(families[0], files=files, path=path[0], pattern=path[1])]


def _one_shape(
    place: Place, kind: Kind, names: list[str], unusable: dict[str, list[str]]
) -> Iterator[Family]:
    """Files whose names differ in numbers only: one table where the first and the last have the same columns."""
    usable = []
    for name in dict.fromkeys([names[0], names[-1]]):
        family = _family(place, kind, name, unusable)
        if family is not None:
            usable.append(family)
    if not usable:
        # Of many files with one fault, two are enough to know.
        for name in names[1:-1]:
            unusable.setdefault(next(reversed(unusable)), []).append(name)
        return
    path = _covering(place, kind, names)
    if len(names) > 1 and len(usable) == 2 and path and _signature(usable[0]) == _signature(usable[1]):
        yield replace(usable[0], files=names, path=path[0], pattern=path[1])
        return
    yield from usable
    for name in names[1:-1]:
        family = _family(place, kind, name, unusable)
        if family is not None:
            yield family


def _family(place: Place, kind: Kind, name: str, unusable: dict[str, list[str]]) -> Family | None:
    reason: str | None
    try:
        found = kind.sniff(place.root, name)
        if isinstance(found, Found):
            family = Family(place, kind.kind, [name], name, found=found)
            return replace(family, columns=_columns(family))
        reason = found
    except HeadraceError as error:
        reason = error.what.rstrip(".")
    unusable.setdefault(reason, []).append(name)
    return None


def _columns(family: Family) -> tuple[str, ...]:
    if family.kind != "jsonl":
        return tuple(family.open().columns())
    # The source would read all lines to know.
    data, _ = head(family.place.root, family.files[0])
    names: dict[str, None] = {}
    for line in data.splitlines()[:100]:
        try:
            names |= dict.fromkeys(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue
    return tuple(sorted(names))


def _signature(family: Family) -> str:
    return json.dumps([family.kind, family.columns, family.found.options], default=str)


def _covering(place: Place, kind: Kind, files: Sequence[str]) -> tuple[str, bool] | None:
    """A path that names exactly these files among all of the place, and whether it is a pattern."""
    wanted = set(files)
    if len(wanted) == 1:
        return files[0], False
    folder = common_folder(files)
    prefix = f"{folder}/" if folder else ""
    below = {name for name in place.files if name.startswith(prefix)}
    if kind.folders and wanted == {name for name in below if name.lower().endswith(kind.suffixes)}:
        return folder, False
    last = [name.rpartition("/")[2] for name in files]
    start = last[0][: _same(last)]
    ends = [name[len(start) :][::-1] for name in last]
    end = ends[0][: _same(ends)][::-1]
    flat = all("/" not in name[len(prefix) :] for name in files)
    for text in (f"*{os.path.splitext(last[0])[1]}", f"{escaped(start)}*{escaped(end)}"):  # noqa: PTH122
        pattern = escaped(prefix) + (text if flat else f"**/{text}")
        matches = compile_patterns([pattern])
        if {name for name in place.files if matches(name)} == wanted:
            return pattern, True
    return None


def common_folder(files: Sequence[str]) -> str:
    """The deepest folder that holds all files, '' for the root."""
    folders = [name.split("/")[:-1] for name in files]
    return "/".join(folders[0][: _same(folders)])


def _same(sequences: Sequence[_Letters]) -> int:
    """How many elements all begin with."""
    # What the first and the last in order have in common, those between have too.
    low, high = min(sequences), max(sequences)
    pairs = enumerate(zip(low, high, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(low), len(high)))


def examples(names: Sequence[str], most: int = 3) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more
