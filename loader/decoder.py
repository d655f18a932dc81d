"""Batches of images by the native core: decoded, cut, resized, turned and normalised in one pass. No TensorFlow.

What the core does not know (a PNG, a CMYK JPEG, one that libjpeg warns about) goes to a twin of TensorFlow operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loader import native
from loader.buffers import Buffers
from loader.draws import Flags, Seeds
from loader.finish import Affine, affine_arrays, finish_into
from loader.plan import Ids
from loader.records import Records
from schemas import HeadraceError

WHOLE, STRETCHED, RANDOM, MIDDLE, MIDDLE_RESIZED = range(5)  # parts of an image; see _native.pyi
_DONE = 0

Images = npt.NDArray[Any]
Twin = Callable[[npt.NDArray[np.object_], Seeds], Images]
"""Encoded images, bytes objects (n,), and their seeds, int64 (n, 2), to uint8 (n, height, width, channels)"""


class UndecodableError(Exception):
    """One of the images that a twin was given is none, or none of the declared size.

    Args:
      row: which of them.
      reason: TensorFlow's words.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row, self.reason = row, reason


@dataclass(frozen=True)
class Finishing:
    """What is done to the images of a batch at the end; nothing by default.

    Attributes:
      mirror, upturn: bool (n,), or None.
      affine: of float32 results, or None for uint8.
    """

    mirror: Flags | None = None
    upturn: Flags | None = None
    affine: Affine | None = None

    @property
    def changes(self) -> bool:
        """Whether anything is done."""
        return not (self.mirror is None and self.upturn is None and self.affine is None)

    def of(self, rows: slice | Ids) -> Finishing:
        """The same for some of the images."""
        mirror, upturn = (None if flags is None else flags[rows] for flags in (self.mirror, self.upturn))
        return Finishing(mirror, upturn, self.affine)

    def into(self, out: Images, store: Images, places: Ids) -> None:
        """The images store[places], finished, into `out`."""
        finish_into(out, store, places, self.mirror, self.upturn, self.affine)


@dataclass(frozen=True)
class Decoder:
    """Decodes one image feature.

    Attributes:
      shape: height, width, channels of the results.
      part: of the stored images; None if the core is not to try.
      scale, ratio: of random crops, as of `RandomResizedCrop`.
      twin: does the same without the core, before finishing; raises UndecodableError.
      data, feature: what is read, for errors.
    """

    shape: tuple[int, int, int]
    part: int | None
    scale: tuple[float, float]
    ratio: tuple[float, float]
    twin: Twin
    buffers: Buffers
    data: str
    feature: str

    def array(self, count: int, affine: Affine | None) -> Images:
        """Memory for `count` results."""
        return self.buffers.take((count, *self.shape), np.dtype(np.float32 if affine else np.uint8))

    def decode(
        self,
        encoded: Records,
        seeds: Seeds | None,
        finishing: Finishing,
        out: Images,
        ids: Ids | None = None,
    ) -> None:
        """Encoded images, finished, into `out`, (n, *shape); `ids` are those of their records, for errors.

        Raises:
          HeadraceError: one of them cannot be decoded.
        """
        count = len(encoded)
        status = np.full(count, not _DONE, np.uint8)
        if self.part is not None:
            native.require().decode(
                encoded.buffers,
                np.ascontiguousarray(encoded.spans),
                out,
                self.shape,
                self.part,
                self.scale,
                self.ratio,
                seeds,
                finishing.mirror,
                finishing.upturn,
                *affine_arrays(finishing.affine),
                status,
            )
        left = np.flatnonzero(status != _DONE)
        if len(left):
            texts = encoded[left].texts()
            own = np.zeros((len(left), 2), np.int64) if seeds is None else seeds[left]
            try:
                images = self.twin(texts, own)
            except UndecodableError as error:
                record = "" if ids is None else f", record {ids[left[error.row]]}"
                raise HeadraceError(
                    "An image cannot be decoded.",
                    where=f"{self.data}{record}, feature {self.feature!r}",
                    value=error.reason,
                    hint="The record is as it was written: prepare the data set again, the feature with "
                    "`check: decode`.",
                ) from error
            finished = np.empty((len(left), *self.shape), out.dtype)
            finishing.of(left).into(finished, images, np.arange(len(left)))
            out[left] = finished
