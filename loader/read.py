"""Records by id: positioned reads of the shards, every record checked by its CRC. No TensorFlow.

Measured on 40 kB records: a `pread` for each in random order costs what TensorFlow's own reader takes to read them
one after the other (22 µs), a `TFRecordDatasetV2(byte_offsets=…)` for each four times as much.
"""

from __future__ import annotations

import logging
import threading
from mmap import mmap
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from loader.blocks import Blocks
from loader.cache import Cache
from loader.dataset import Split
from loader.records import BAD_CRC, SOUND, Records, spread
from schemas import HeadraceError

ON_CORRUPT = ("raise", "skip")
_MAX_READ = 4 << 20  # 4 MiB: most bytes of one read, unless a single block is larger
_CHECKED = 16384  # records at a time
KEPT_BYTES = 64 << 20  # 64 MiB: two windows of a plan, as a chunk may begin in one and end in the next
_MAX_LISTED = 100  # damaged records that are named one by one

Ids = npt.NDArray[np.int64]
Valid = npt.NDArray[np.bool_]
_log = logging.getLogger("headrace.loader")


class Reader:
    """Reads records of a split by id. Any number of threads may use it.

    Args:
      split: whose records.
      block: records that are read together. An order that takes all records of a block soon after each other
        makes one read of `block` small ones; the rest of a block is kept until it is asked for.
      capacity: most bytes of blocks that are kept so; the oldest go first, and are read again if need be.
      on_corrupt: "raise", or "skip" to give a damaged record as invalid, log it and count it.
    """

    def __init__(
        self, split: Split, *, block: int = 1, capacity: int = KEPT_BYTES, on_corrupt: str = "raise"
    ) -> None:
        self._split, self._block = split, block
        self._skip = on_corrupt == "skip"
        self._blocks = (
            Blocks(split.records, block, capacity, self._read_blocks, self._inside) if block > 1 else None
        )
        self._damage: dict[int, str] = {}  # what is wrong, by id
        self._corrupt: dict[int, dict[str, Any]] = {}  # by id
        self._stats = {"records": 0, "bytes": 0}
        self._lock = threading.Lock()  # of all the above; never held while bytes are read

    def read(self, ids: Ids) -> tuple[Records, Valid]:
        """The records `ids` in the order given, and which of them are valid, bool (n,).

        An id of -1 is a hole: b"" and not valid, as is a damaged record.

        Raises:
          HeadraceError: a record is damaged and `on_corrupt` is "raise", a file is shorter than it was, or an index
            is missing or damaged.
        """
        valid = ids >= 0
        if valid.all():
            return self._records(ids)
        rows = np.flatnonzero(valid)
        if not len(rows):
            return spread(len(ids), []), valid
        found, valid[rows] = self._records(ids[rows])
        return spread(len(ids), [(rows, found)]), valid

    def stats(self) -> dict[str, Any]:
        """What was read so far.

        `records` and `bytes` that were handed out, `reads` of files (remote: requests), `retries` among them,
        `corrupt_records`, and in `corrupt` the first of those: `shard`, `record` (row in it), `offset` of its
        frame, and `reason`.
        """
        with self._lock:
            listed = [dict(found) for found in list(self._corrupt.values())[:_MAX_LISTED]]
            return {
                **self._stats,
                "reads": self._split.place.reads,
                "retries": self._split.place.retries,
                "corrupt_records": len(self._corrupt),
                "corrupt": listed,
            }

    def _records(self, ids: Ids) -> tuple[Records, Valid]:
        """The records `ids`, and which of them are intact."""
        starts, stops = self._split.spans(ids, ids)
        if self._blocks is not None:
            frames, intact = self._blocks.take(ids)
        else:
            frames, intact = self._alone(ids)
        for k in np.flatnonzero(~intact).tolist():
            self._note_corrupt(int(ids[k]), int(starts[k]), self._damage[int(ids[k])])
        with self._lock:
            self._stats["records"] += len(ids)
            self._stats["bytes"] += int((stops - starts).sum())
        records = frames.payloads()
        records.spans[~intact, 1:] = 0  # nobody is to see what is damaged
        return records, intact

    def _alone(self, ids: Ids) -> tuple[Records, Valid]:
        """The frames of records that are blocks of their own, and which are intact."""
        numbers, inverse = np.unique(ids, return_inverse=True)
        starts, stops = self._split.spans(numbers, numbers)
        highs = np.cumsum(stops - starts)
        lows = highs - (stops - starts)
        frames = Records([self._fetch(starts, stops)], np.stack([np.zeros_like(lows), lows, highs], axis=-1))
        intact = self._check(frames, numbers)
        return frames[inverse], intact[inverse]

    def _read_blocks(self, numbers: Ids) -> tuple[bytes | mmap, Ids, Ids, Valid]:
        """What `Blocks` asks for."""
        split, size = self._split, self._block
        starts, stops = split.spans(numbers * size, np.minimum((numbers + 1) * size, split.records) - 1)
        data = self._fetch(starts, stops, kept=True)
        highs = np.cumsum(stops - starts)
        lows = highs - (stops - starts)
        intact = np.zeros((len(numbers), size), bool)
        # Some at a time: arrays over all records of a window would be a fifth of the window.
        step = max(1, _CHECKED // size)
        for low in range(0, len(numbers), step):
            part = slice(low, low + step)
            ids = numbers[part, None] * size + np.arange(size)
            here = ids < split.records
            begins, ends = split.spans(ids[here], ids[here])
            move = np.repeat((lows - starts)[part], here.sum(axis=1))
            frames = Records([data], np.stack([np.zeros_like(move), begins + move, ends + move], axis=-1))
            intact[part][here] = self._check(frames, ids[here])
        return data, lows, highs, intact

    def _inside(self, ids: Ids) -> tuple[Ids, Ids]:
        """Where records begin and end behind the beginning of their block."""
        first = ids // self._block * self._block
        starts, stops = self._split.spans(ids, ids)
        base = self._split.spans(first, first)[0]
        return starts - base, stops - base

    def _check(self, frames: Records, ids: Ids) -> Valid:
        """Which frames are intact. The index says where one lies, so a damaged length harms only its own record."""
        status = frames.check_frames()
        for k in np.flatnonzero(status != SOUND).tolist():
            self._damage[int(ids[k])] = "its CRC" if status[k] == BAD_CRC else "its length field"
        valid: Valid = status == SOUND
        return valid

    def _fetch(self, starts: Ids, stops: Ids, *, kept: bool = False) -> bytes | mmap:
        """The bytes of ranges in rising order, of which those that follow each other are read together."""
        if not len(starts):
            return b""
        fresh = np.concatenate([[True], starts[1:] != stops[:-1]])
        group_start = starts[fresh][np.cumsum(fresh) - 1]
        part = (starts - group_start) // _MAX_READ
        fresh[1:] |= part[1:] != part[:-1]
        ends = np.append(np.flatnonzero(fresh)[1:], len(starts)) - 1
        return self._split.read(starts[fresh], stops[ends], kept=kept)

    def _note_corrupt(self, example_id: int, start: int, wrong: str) -> None:
        split = self._split
        shard = split.shard_of(example_id)
        row, offset = example_id - split.starts[shard], start - split.bases[shard]
        where = f"{split.place.where(split.shards[shard].path)}, record {row}, byte {offset}"
        if not self._skip:
            raise HeadraceError(
                f"A record is damaged: {wrong} does not fit its bytes.",
                where=where,
                hint="Run `headrace verify` on the data set, then copy or prepare it again; "
                "or leave such records out with on_corrupt='skip'.",
            )
        with self._lock:
            if example_id in self._corrupt:
                return
            reason = f"{wrong} does not fit its bytes"
            found = {"shard": split.shards[shard].path, "record": row, "offset": offset, "reason": reason}
            self._corrupt[example_id] = found
            count = len(self._corrupt)
        if count <= _MAX_LISTED:
            last = "; further ones are counted, but not logged" if count == _MAX_LISTED else ""
            _log.warning("Left out a damaged record: %s: %s%s", where, reason, last)


class AnyReader(Protocol):
    """Reads records by id, as `Reader` does."""

    def read(self, ids: Ids) -> tuple[Records, Valid]: ...

    def stats(self) -> dict[str, Any]: ...


class AnyPart(Protocol):
    """Knows the places of records, as `Part` does."""

    def places(self, ids: Ids) -> Ids: ...


class CachedReader:
    """A reader that keeps the records as they are stored, by their place in a part of the split."""

    def __init__(self, reader: AnyReader, cache: Cache, part: AnyPart) -> None:
        self._reader, self.cache, self._part = reader, cache, part

    def read(self, ids: Ids) -> tuple[Records, Valid]:
        """As `Reader.read`."""
        places = self._part.places(ids)
        rows = self.cache.missing(places)
        if len(rows):
            records, valid = self._reader.read(ids[rows])
            found, good = self.cache.fill(places, rows, valid, records.texts())
        else:
            found, good = self.cache.get(places)[0], ids >= 0
        if not good.all():
            found[~good] = b""
        return Records.of(found), good

    def stats(self) -> dict[str, Any]:
        """As `Reader.stats`: what had to be read."""
        return self._reader.stats()
