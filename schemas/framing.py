"""TFRecord framing: length (8 bytes), its masked CRC (4), the data, their masked CRC (4); numbers little-endian.

Source: tensorflow/core/lib/io/record_writer.h and tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 12  # before the data
FOOTER_BYTES = 4  # behind them
FRAME_OVERHEAD = HEADER_BYTES + FOOTER_BYTES
_MASK_DELTA = 0xA282EAD8


def masked_crc(crc: int) -> int:
    """A CRC32C as TFRecord stores it: rotated and shifted, so that the CRC of a CRC is no CRC."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def masked_crcs(crcs: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """`masked_crc` of each, uint32 of the same shape."""
    return ((crcs >> np.uint32(15)) | (crcs << np.uint32(17))) + np.uint32(_MASK_DELTA)
