"""The split of every record, as far as its own row tells: by a hash, by time, by a column or by lists.

What only all records together tell, exact fractions and caps, is decided later (`beam_jobs.fractions`) from facts that
are noted here: where a record's group lies in the hash space, and hashes of the columns that count.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import OWN_PREFIX, Batch, Ledger, Problem
from beam_jobs.facts import Fact
from beam_jobs.split_lists import Lists
from beam_jobs.times import is_time, micros
from schemas import HeadraceError, JobSpec
from schemas.errors import shorten
from schemas.features import Feature
from schemas.hashing import split_of, split_positions, value_hashes
from schemas.split import Split, parse_moment, parse_zone

GROUP = f"{OWN_PREFIX}group"  # the key before a join made several records of one: they stay in one split
SPLIT = f"{OWN_PREFIX}split"
NO_SPLIT = "in no split"

POSITION, STRATUM, CLASS = "split:position", "split:stratum", "split:class"

_HASH = np.dtype("<u8")
Numbers = npt.NDArray[np.int64]


def leak_fact(column: str) -> str:
    """The name of the fact that tells values of a column apart which may not be in two splits."""
    return f"leak:{column}"


def split_facts(spec: JobSpec, _features: Mapping[str, Feature]) -> list[Fact]:
    """What is noted of records for rules about splits that all records together decide."""
    split = spec.split
    names = [POSITION] if split.ranked else []
    names += [STRATUM] if split.stratify is not None else []
    names += [CLASS] if split.cap is not None else []
    names += map(leak_fact, split.groups)
    return [Fact(name, _HASH, of_records=partial(_noted, name)) for name in names]


def _noted(name: str, records: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    found: npt.NDArray[np.uint64] = records.column(OWN_PREFIX + name).to_numpy()
    return found


def assign_splits(batch: Batch, split: Split, lists: Lists | None, ledger: Ledger) -> Batch:
    """The records with the number of their split in a column of our own, and what is noted for later in others.

    Records that belong to no split become dead letters or are dropped, as the job says.

    Raises:
      HeadraceError: a column is missing or of a type that cannot be compared, or the job wants no such records.
    """
    positions = _positions(batch, split) if split.kind == "fractions" and _is_drawn(split) else None
    noted = {POSITION: positions} if split.ranked and positions is not None else {}
    if split.stratify is not None:
        noted[STRATUM] = _hashes(batch, split.stratify, "split.stratify")
    if split.cap is not None:
        noted[CLASS] = _hashes(batch, split.cap.by, "split.cap.by")
    for column in split.groups:
        noted[leak_fact(column)] = _hashes(batch, column, "split.by" if column == split.by else "split.leaks")
    for name, values in noted.items():
        batch = batch.with_column(OWN_PREFIX + name, pa.array(values))
    if positions is not None:
        numbers = split_of(positions, list(split.fractions.values()))
    elif split.kind == "fractions":
        numbers = np.zeros(len(batch), np.int64)
    else:
        batch, numbers = _told(batch, split, lists, ledger)
    return batch.with_column(SPLIT, pa.array(numbers))


def _is_drawn(split: Split) -> bool:
    """Whether hashes matter: not where there is one split."""
    return len(split.fractions) > 1 or split.ranked


def _positions(batch: Batch, split: Split) -> npt.NDArray[np.uint64]:
    """Where in the hash space each record's group lies, which is the record itself where there is none."""
    exploded = GROUP in batch.records.schema.names
    groups = (batch.records.column(GROUP) if exploded else batch.keys).to_pylist()
    if split.by is not None:
        texts = _texts(batch, split.by, "split.by").to_pylist()
        # Records without a group are each a group of their own; the mark keeps them apart from real groups.
        groups = [
            b"\0" + key if text is None else text.encode() for text, key in zip(texts, groups, strict=True)
        ]
    return split_positions(groups, split.seed)


def _told(batch: Batch, split: Split, lists: Lists | None, ledger: Ledger) -> tuple[Batch, Numbers]:
    """The numbers of the splits that the records' values tell, of those that belong to any."""
    match split.kind:
        case "time":
            batch, numbers = _by_time(batch, split, ledger)
            what = f"{split.time}: no time"
        case "column":
            assert split.column is not None
            texts = _texts(batch, split.column, "split.column")
            numbers = _by_value(texts, split)
            what = f"{split.column}: a value that names no split"
        case _:
            assert lists is not None
            texts = None if split.by is None else _texts(batch, split.by, "split.by")
            keys = batch.records.column(GROUP) if GROUP in batch.records.schema.names else batch.keys
            numbers = lists.numbers(keys if texts is None else texts)
            what = f"{split.by or 'the key'}: in no list"
    lost = numbers < 0
    if not bool(lost.any()):
        return batch, numbers
    match split.otherwise:
        case "dead_letter":
            problems = [Problem(place, "no_split", what) for place in np.flatnonzero(lost).tolist()]
            return ledger.refuse(batch, "split", problems), numbers[~lost]
        case "drop":
            return ledger.drop(batch, NO_SPLIT, lost), numbers[~lost]
        case "error":
            place = int(np.flatnonzero(lost)[0])
            raise HeadraceError(
                f"A record belongs to no split ({what}).",
                where=f"{ledger.source}, {ledger.origin(int(batch.rows[place]))}",
                allowed="none, since `otherwise: error`",
                hint="`split.otherwise` may also be the name of a split, `drop` or `dead_letter`.",
            )
        case name:
            return batch, np.where(lost, split.names.index(name), numbers)


def _by_time(batch: Batch, split: Split, ledger: Ledger) -> tuple[Batch, Numbers]:
    assert split.time is not None
    zone = parse_zone(split.zone)
    column = _column(batch, split.time, "split.time")
    if not is_time(column.type, split.unit):
        whole = pa.types.is_integer(column.type)
        raise HeadraceError(
            "The column holds no times.",
            where="split.time",
            value=f"{split.time}: {column.type}",
            allowed="timestamps, dates, texts in ISO 8601, or whole numbers of a `unit`",
            hint="Say what they count: `unit: s`, `ms`, `us` or `ns`." if whole else None,
        )
    times, bad = micros(column, zone, split.unit)
    if bool(bad.any()):
        problems = [
            Problem(place, "no_time", f"{split.time}: {shorten(repr(column[place].as_py()), 60)} is no time")
            for place in np.flatnonzero(bad).tolist()
        ]
        batch, column, times = (
            ledger.refuse(batch, "split", problems),
            column.filter(pa.array(~bad)),
            times[~bad],
        )
    bounds = np.array([parse_moment(text, zone) for text in split.before.values()], np.int64)
    found = np.searchsorted(bounds, times, side="right").astype(np.int64)
    return batch, np.where(column.is_null().to_numpy(zero_copy_only=False), -1, found)


def _by_value(texts: pa.Array, split: Split) -> Numbers:
    numbers = {value: number for number, values in enumerate(split.values.values()) for value in values}
    places = pc.index_in(texts, value_set=pa.array(list(numbers), pa.string()))
    found = np.array([*numbers.values(), -1], np.int64)
    return found[pc.fill_null(places, len(numbers)).to_numpy(zero_copy_only=False)]


def _hashes(batch: Batch, column: str, where: str) -> npt.NDArray[np.uint64]:
    """A hash of each value, uint64 (n,); 0 where there is none."""
    encoded = pc.dictionary_encode(_texts(batch, column, where))
    found = np.append(value_hashes(text.encode() for text in encoded.dictionary.to_pylist()), np.uint64(0))
    return found[pc.fill_null(encoded.indices, len(found) - 1).to_numpy(zero_copy_only=False)]


def _texts(batch: Batch, column: str, where: str) -> pa.Array:
    """A column's values as text, string (n,)."""
    values = _column(batch, column, where)
    try:
        return values.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise HeadraceError(
            "The column's values cannot be compared as text.",
            where=where,
            value=f"{column}: {values.type}",
            hint="Compute a column of text or numbers from it, under `clean:`.",
        ) from error


def _column(batch: Batch, column: str, where: str) -> pa.Array:
    if column not in batch.columns:
        raise HeadraceError(
            "The column to split by does not exist.",
            where=where,
            value=column,
            allowed=", ".join(batch.columns),
        )
    return batch.records.column(column)
