"""Lists of keys or groups, one a split: read when a job is planned, and given to workers as one file of hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources import open_source
from beam_jobs.sources._places.locate import filesystem
from beam_jobs.store_path import StorePath
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.hashing import KEY_HASH_DTYPE, as_sortable, find_hashes, key_hashes
from schemas.remote_errors import redacted
from schemas.sources import CsvSource, ParquetSource

MAX_LIST_BYTES = 256 << 20
MAX_ENTRIES = 20_000_000

# A listed value's hash and the number of its split.
_ENTRY = np.dtype([("hash", KEY_HASH_DTYPE), ("split", "<i8")])
Entries = npt.NDArray[np.void]


@dataclass(frozen=True)
class Lists:
    """What a job's lists say.

    Attributes:
      path: the file of their entries in the work directory, named by what the lists hold.
      digest: of what they hold.
    """

    path: StorePath
    digest: str

    def numbers(self, values: pa.Array) -> npt.NDArray[np.int64]:
        """The number of the split of each value, text or binary; -1 where it is in no list or null. int64 (n,)."""
        entries = _read_entries(self.path)
        found = np.full(len(values), -1, np.int64)
        valid = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        texts = values.cast(pa.binary()).drop_null().to_pylist()
        if not len(entries) or not texts:
            return found
        places = find_hashes(as_sortable(key_hashes(texts, 0)), entries["hash"])
        found[valid] = np.where(places >= 0, entries["split"][places], -1)
        return found


def read_lists(files: Mapping[str, str], splits: Sequence[str], column: str | None) -> tuple[Entries, str]:
    """The entries of all lists, sorted by hash, and the digest of what they are.

    Args:
      files: path or URL of each split's list.
      splits: all splits, in the order of their numbers.
      column: of the lists that are tables.

    Raises:
      HeadraceError: a list is missing, too large or unreadable, or a value is in two of them.
    """
    parts, count = [np.zeros(0, _ENTRY)], 0
    for name, path in files.items():
        for values in _values(path, column, f"split.lists.{name}"):
            part = np.zeros(len(values), _ENTRY)
            part["hash"], part["split"] = as_sortable(key_hashes(values, 0)), splits.index(name)
            parts.append(part)
            count += len(part)
            if count > MAX_ENTRIES:
                raise HeadraceError(
                    "The lists of splits are too long.",
                    where="split.lists",
                    allowed=f"{MAX_ENTRIES:,} entries",
                )
    together = np.concatenate(parts, dtype=_ENTRY)
    entries = together[np.lexsort((together["split"], together["hash"]["lo"], together["hash"]["hi"]))]
    again = np.zeros(len(entries), np.bool_)
    again[1:] = entries["hash"][1:] == entries["hash"][:-1]
    twice = np.flatnonzero(again & (entries["split"] != np.roll(entries["split"], 1)))
    if len(twice):
        raise HeadraceError(
            f"Values that are in the lists of two splits: {len(twice):,}.",
            where="split.lists",
            value=_value_of(files, column, entries["hash"][twice[0]]),
            allowed="each in one list",
        )
    entries = entries[~again]
    return entries, hashlib.blake2b(entries.tobytes(), digest_size=16).hexdigest()


def _value_of(files: Mapping[str, str], column: str | None, wanted: np.void) -> str:
    """The listed value that has a hash, for people."""
    for name, path in files.items():
        for values in _values(path, column, f"split.lists.{name}"):
            here = np.flatnonzero(as_sortable(key_hashes(values, 0)) == wanted)
            if len(here):
                return shorten(values[int(here[0])].decode("utf-8", "replace"), 100)
    raise AssertionError("it was there a moment ago")


def write_lists(lists: Lists, entries: Entries, digest: str) -> None:
    """Leaves the entries where workers look for them.

    Raises:
      HeadraceError: they are not those of the plan any more.
    """
    if digest != lists.digest:
        raise HeadraceError(
            "A list was changed while the job began.", where="split.lists", hint="Run the same command again."
        )
    if not lists.path.exists():
        lists.path.write(entries.tobytes(), durable=False)


_held: dict[
    str, Entries
] = {}  # by place, which tells the content: one in a process, for all of its partitions


def _read_entries(path: StorePath) -> Entries:
    name = str(path)
    entries = _held.get(name)
    if entries is None:
        entries = np.frombuffer(path.read(), _ENTRY)
        _held.clear()
        _held[name] = entries
    return entries


def _values(path: str, column: str | None, where: str) -> Iterator[list[bytes]]:
    """What a list holds, some at a time."""
    if path.endswith((".parquet", ".csv")):
        try:
            yield from _of_table(path, column, where)
        except HeadraceError as error:
            error.where = where  # not a source of the job's
            raise
        return
    data = _read(path, where)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HeadraceError("The list is not UTF-8.", where=where, value=redacted(path)) from error
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    yield [line for line in lines if line]


def _of_table(path: str, column: str | None, where: str) -> Iterator[list[bytes]]:
    """The values of a column, read as a source of the job would be."""
    spec = ParquetSource(kind="parquet", path=path) if path.endswith(".parquet") else None
    source = open_source(where, spec or CsvSource(kind="csv", path=path, nulls=[""]), path)
    names = source.columns()
    chosen = names[0] if column is None and len(names) == 1 else column
    if chosen not in names:
        raise HeadraceError(
            "The list has no such column." if column else "The list has several columns.",
            value=column,
            allowed=shorten(", ".join(names), 400),
            hint="Say which with `split.list_column`.",
        )
    if spec is not None:
        source = open_source(where, spec.model_copy(update={"columns": [chosen]}), path)
    for partition in source.partitions():
        for batch in source.read(partition):
            for fault in batch.faults:
                value = f"{source.origin(partition, fault.row)}: {fault.reason}"
                raise HeadraceError("The list has a row that cannot be read.", value=value)
            values = batch.records.column(chosen).cast(pa.string())
            yield values.drop_null().cast(pa.binary()).to_pylist()


def _read(path: str, where: str) -> bytes:
    fs, place = filesystem(path, where)
    try:
        with fs.open(place, "rb") as file:
            data = bytes(file.read(MAX_LIST_BYTES + 1))
    except FileNotFoundError as error:
        raise HeadraceError("There is no such list.", where=where, value=redacted(path)) from error
    except OSError as error:
        value = f"{redacted(path)}: {redacted(str(error))}"
        raise HeadraceError("The list cannot be read.", where=where, value=value) from error
    if len(data) > MAX_LIST_BYTES:
        raise HeadraceError(
            "The list is too large.", where=where, value=redacted(path), allowed=f"{MAX_LIST_BYTES:,} bytes"
        )
    return data
