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

WHOLE, STRETCHED, RANDOM, MIDDLE, MIDDLE_RESIZED = range(5)  # parts of an image; see _native.pyi
_DONE = 0

Images = npt.NDArray[Any]
Twin = Callable[[npt.NDArray[np.object_], Seeds], Images]
"""Encoded images, bytes objects (n,), and their seeds, int64 (n, 2), to uint8 (n, height, width, channels)"""


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
      twin: does the same without the core, before finishing.
    """

    shape: tuple[int, int, int]
    part: int | None
    scale: tuple[float, float]
    ratio: tuple[float, float]
    twin: Twin
    buffers: Buffers

    def array(self, count: int, affine: Affine | None) -> Images:
        """Memory for `count` results."""
        return self.buffers.take((count, *self.shape), np.dtype(np.float32 if affine else np.uint8))

    def decode(
        self,
        encoded: Records,
        seeds: Seeds | None,
        finishing: Finishing,
        out: Images,
    ) -> None:
        """Encoded images, finished, into `out`, (n, *shape)."""
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
            images = self.twin(texts, np.zeros((count, 2), np.int64)[left] if seeds is None else seeds[left])
            finished = np.empty((len(left), *self.shape), out.dtype)
            finishing.of(left).into(finished, images, np.arange(len(left)))
            out[left] = finished
