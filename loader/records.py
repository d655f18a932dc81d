"""Records as parts of the buffers they were read into, so that nothing is copied until it is wanted. No TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from mmap import mmap

import google_crc32c
import numpy as np
import numpy.typing as npt

from loader import native
from schemas.framing import FOOTER_BYTES, FRAME_OVERHEAD, HEADER_BYTES, masked_crcs

SOUND, BAD_LENGTH, BAD_CRC = range(3)

Spans = npt.NDArray[np.int64]
"""(n, 3): the number of a buffer, and where in it something begins and ends"""
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Records:
    """Records, n of them, or other parts of the same buffers.

    Attributes:
      buffers: any number of them.
      spans: int64 (n, 3).
    """

    buffers: list[bytes | mmap]
    spans: Spans

    @staticmethod
    def of(texts: Iterable[bytes]) -> Records:
        """Each in a buffer of its own."""
        buffers: list[bytes | mmap] = list(texts)
        lengths = np.fromiter(map(len, buffers), np.int64, len(buffers))
        return Records(buffers, np.stack([np.arange(len(buffers)), np.zeros_like(lengths), lengths], axis=-1))

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Records:
        return Records(self.buffers, self.spans[rows])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Bytes of each."""
        return self.spans[:, 2] - self.spans[:, 1]

    def texts(self) -> Texts:
        """Copies: bytes objects (n,)."""
        out = np.empty(len(self.spans), object)
        if native.core is not None:
            out[:] = native.core.slices(self.buffers, np.ascontiguousarray(self.spans))
        else:
            out[:] = [self.buffers[number][low:high] for number, low, high in self.spans.tolist()]
        return out

    def check_frames(self) -> npt.NDArray[np.uint8]:
        """Which of these TFRecord frames are SOUND, have a BAD_LENGTH or a BAD_CRC: uint8 (n,)."""
        status = np.empty(len(self.spans), np.uint8)
        if native.core is not None:
            native.core.check(self.buffers, np.ascontiguousarray(self.spans), status)
            return status
        frames = self.texts().tolist()
        crcs = [google_crc32c.value(frame[HEADER_BYTES:-FOOTER_BYTES]) for frame in frames]
        lengths = np.frombuffer(b"".join([frame[:8] for frame in frames]), "<u8")
        stored = np.frombuffer(b"".join([frame[-FOOTER_BYTES:] for frame in frames]), "<u4")
        status[:] = np.where(stored == masked_crcs(np.array(crcs, np.uint32)), SOUND, BAD_CRC)
        status[lengths != (self.lengths - FRAME_OVERHEAD).astype(np.uint64)] = BAD_LENGTH
        return status

    def payloads(self) -> Records:
        """What lies in these frames."""
        return Records(self.buffers, self.spans + np.array([0, HEADER_BYTES, -FOOTER_BYTES]))


def spread(count: int, parts: Sequence[tuple[npt.NDArray[np.int64], Records]]) -> Records:
    """Records of several sets of buffers as one, each part's in its rows; b"" in rows of none."""
    buffers: list[bytes | mmap] = [b""]
    spans = np.zeros((count, 3), np.int64)
    for rows, records in parts:
        spans[rows] = records.spans + np.array([len(buffers), 0, 0])
        buffers += records.buffers
    return Records(buffers, spans)
