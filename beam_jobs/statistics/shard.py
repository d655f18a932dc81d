"""The statistics of one shard: from the bytes as they are written, kept in a small file, merged with others."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from beam_jobs.pieces import bounds
from beam_jobs.statistics.accumulate import FeatureAccumulator, State
from beam_jobs.statistics.canonical import PADDING, Column, Reader, Spans, stored
from beam_jobs.statistics.pictures import Pictures, is_decoded, look_at
from schemas.features import Feature, ImageFeature
from schemas.framing import FOOTER_BYTES, HEADER_BYTES
from schemas.packing import Packing
from schemas.statistics import FeatureStatistics

_MAGIC = b"HRSTA001"
_HEAD = struct.Struct("<8sII")  # magic, CRC of all behind this, bytes of the JSON


class ShardStatistics:
    """Statistics of all features of some records, or of the records of some shards.

    Args:
      features, packing: of the records.
      look: whether to measure images as their records are added; else `add_pictures` adds what was measured.
    """

    def __init__(self, features: Mapping[str, Feature], packing: Packing, *, look: bool = False) -> None:
        self._reader = Reader(stored(features, packing))
        self._packing = packing
        self._looked_at = {
            name: is_decoded(feature)
            for name, feature in features.items()
            if look and isinstance(feature, ImageFeature)
        }
        self.features = {name: FeatureAccumulator(features[name]) for name in sorted(features)}

    def add(
        self,
        data: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        where: str,
    ) -> None:
        """Adds framed records that lie anywhere in `data`, which ends with `PADDING` bytes.

        Raises:
          HeadraceError: a record cannot be read; `where` names the file.
        """
        columns = self._reader.read(data, starts + HEADER_BYTES, starts + (lengths - FOOTER_BYTES), where)
        for name, column in columns.items():
            if name in self._packing:
                assert not isinstance(column.values, Spans)
                for place, feature in enumerate(self._packing[name]):
                    values = np.ascontiguousarray(column.values[place :: len(self._packing[name])])
                    self.features[feature].add(Column(values), len(lengths), where)
            else:
                self.features[name].add(column, len(lengths), where)
        for name, decode in self._looked_at.items():
            spans = columns[name].values
            assert isinstance(spans, Spans)
            self.features[name].add_pictures(look_at(spans, decode))

    def add_pictures(self, pictures: Mapping[str, Pictures]) -> None:
        """Adds what was measured of the images of some records, by feature."""
        for name, measured in pictures.items():
            self.features[name].add_pictures(measured)

    def note_defaults(self, defaulted: Mapping[str, int]) -> None:
        """Notes how many of all records got the default of each of these features."""
        for name, records in defaulted.items():
            self.features[name].defaulted, self.features[name].unknown = records, 0

    def results(self) -> dict[str, FeatureStatistics]:
        """The statistics by feature."""
        return {name: feature.result() for name, feature in self.features.items()}

    def encode(self) -> bytes:
        """All that is known, for `merge`."""
        arrays: list[npt.NDArray[Any]] = []
        state = {name: _without_arrays(feature.state(), arrays) for name, feature in self.features.items()}
        head = json.dumps([state, [[array.dtype.str, len(array)] for array in arrays]]).encode()
        body = b"".join(
            [head, *(np.ascontiguousarray(array).data.cast("B") for array in arrays if len(array))]
        )
        return _HEAD.pack(_MAGIC, google_crc32c.value(body), len(head)) + body

    def merge(self, encoded: bytes) -> bool:
        """Adds what `encode` gave of records of the same features; False, and adds nothing, where that is damaged."""
        state = _decode(encoded)
        if state is None or state.keys() != self.features.keys():
            return False
        for name, feature in self.features.items():
            feature.merge(state[name])
        return True


class Scan:
    """Statistics of a shard whose bytes come in parts of any size: the same for any parts.

    Attributes:
      statistics: what records are added to.

    Args:
      lengths: of all records, with their frames, int64 (n,).
      where: names the file in errors.
    """

    def __init__(self, statistics: ShardStatistics, lengths: npt.NDArray[np.int64], where: str) -> None:
        self.statistics, self._where = statistics, where
        self._blocks = [lengths[start:stop] for start, stop in pairwise(bounds(lengths))]
        self._sizes = [int(block.sum()) for block in self._blocks]
        # One buffer for all blocks: new pages cost more than the bytes that are copied to them.
        self._buffer = np.zeros(0, np.uint8)
        self._filled = self._next = 0

    def take(self, parts: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Takes the next bytes of the shard."""
        for part in parts:
            self._take(part)

    def _take(self, data: npt.NDArray[np.uint8]) -> None:
        while len(data):
            size = self._sizes[self._next]
            if not len(self._buffer):
                self._buffer = np.zeros(max(self._sizes) + PADDING, np.uint8)
            room = size - self._filled
            self._buffer[self._filled : self._filled + min(room, len(data))] = data[:room]
            self._filled += min(room, len(data))
            data = data[room:]
            if self._filled == size:
                self._add()

    def _add(self) -> None:
        lengths = self._blocks[self._next]
        self.statistics.add(self._buffer, np.cumsum(lengths) - lengths, lengths, self._where)
        self._next += 1
        self._filled = 0


def _without_arrays(value: Any, arrays: list[npt.NDArray[Any]]) -> Any:
    """The value with the place in `arrays` of each array in its stead."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, dict):
        return {name: _without_arrays(item, arrays) for name, item in value.items()}
    return value


def _with_arrays(value: Any, arrays: list[npt.NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        return {name: _with_arrays(item, arrays) for name, item in value.items()}
    return value


def _decode(encoded: bytes) -> dict[str, State] | None:
    if len(encoded) < _HEAD.size:
        return None
    magic, crc, size = _HEAD.unpack_from(encoded)
    body = encoded[_HEAD.size :]
    if magic != _MAGIC or google_crc32c.value(body) != crc:
        return None
    state, shapes = json.loads(body[:size])
    arrays, at = [], size
    for name, length in shapes:
        dtype = np.dtype(name)
        arrays.append(np.frombuffer(body, dtype, length, at))
        at += length * dtype.itemsize
    found: dict[str, State] = _with_arrays(state, arrays)
    return found
