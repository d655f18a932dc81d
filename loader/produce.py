"""Rows of an epoch as arrays, by the native core: read, parsed, decoded, finished. No TensorFlow.

One call makes many rows, of images a whole batch, and every result is written once, to its final place, by the
thread that made it. The interpreter's lock is held for planning and reading only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from loader import rows
from loader.decoder import Decoder, Finishing
from loader.draws import Flip, Seeds, flipped
from loader.finish import Affine
from loader.order import HOLE
from loader.parse import Columns
from loader.plan import Ids
from loader.recipe import Recipe
from loader.records import Records
from schemas.features import ImageFeature

_GROUP_BYTES = 1 << 20  # 1 MiB of records: decoded by one thread, while its processor's caches hold them
_MAX_GROUP = 64

Array = npt.NDArray[Any]


class Producer:
    """Makes rows of an epoch. Any number of threads may use it.

    Args:
      recipe: what is read.
      decoders: of the images that leave as pixels, by feature; other images leave as they are stored.
      flips: done here, at the end, from place `first_flip` in the list of operations on.
      normalize: done here, by image feature.
    """

    def __init__(
        self,
        recipe: Recipe,
        decoders: Mapping[str, Decoder],
        *,
        flips: Sequence[Flip] = (),
        first_flip: int = 0,
        normalize: Mapping[str, Affine],
    ) -> None:
        self._recipe, self._decoders = recipe, decoders
        self._flips, self._first_flip, self._normalize = flips, first_flip, normalize
        self._pool = ThreadPoolExecutor(recipe.workers, "headrace-decode")

    def __call__(self, epoch: int, first: int, start: int, stop: int) -> list[Array]:
        """Ids, seeds and layout (see `rows.plan`), which rows are valid, and the columns in the recipe's order."""
        places, ids, seeds, layout = rows.plan(self._recipe, epoch, first, start, stop)
        mirror, upturn = flipped(self._flips, seeds, self._first_flip) if self._flips else (None, None)
        finishings = {n: Finishing(mirror, upturn, self._normalize.get(n)) for n in self._decoders}
        if self._recipe.cache is None:
            columns, valid = self._read(ids, seeds, finishings)
        else:
            columns, valid = self._cached(places, ids, finishings)
        return [ids, seeds, layout, valid, *columns]

    def _read(
        self, ids: Ids, seeds: Seeds, finishings: Mapping[str, Finishing]
    ) -> tuple[list[Array], npt.NDArray[np.bool_]]:
        """The columns of `ids`, and which of these are valid."""
        recipe, count = self._recipe, len(ids)
        columns, valid = Columns(recipe.features, count), np.ones(count, bool)
        found: dict[str, Array] = {
            name: self._decoders[name].array(count, finishings[name].affine)
            if name in self._decoders
            else np.empty(count, object)
            for name, feature in recipe.features.items()
            if isinstance(feature, ImageFeature)
        }
        step = self._group(count)
        running: list[Future[None]] = []
        for low in range(0, count, step):
            part = slice(low, min(low + step, count))
            records, valid[part] = rows.read(recipe, ids[part])
            columns.fill(records, low, ids[part], recipe.data)
            for name, out in found.items():
                encoded = Records(records.buffers, columns[name][part])
                if name not in self._decoders:
                    out[part] = encoded.texts()
                    continue
                own = seeds[part] if len(seeds) else None
                work = self._decoders[name].decode
                finishing = finishings[name].of(part)
                running.append(self._pool.submit(work, encoded, own, finishing, out[part], ids[part]))
        for one in running:
            one.result()
        return [found[name] if name in found else columns[name] for name in recipe.features], valid

    def _cached(
        self, places: Ids, ids: Ids, finishings: Mapping[str, Finishing]
    ) -> tuple[list[Array], npt.NDArray[np.bool_]]:
        """The same through the cache: from there, or from the shards and into it."""
        cache = self._recipe.cache
        assert cache is not None
        missing = cache.missing(places)
        if not len(missing):
            takes = {
                place: lambda store, at, name=name: self._finished(name, store, at, finishings[name])
                for place, name in enumerate(self._recipe.features)
                if name in self._decoders
            }
            return cache.get(places, takes), places != HOLE
        made, good = self._read(
            ids[missing], np.zeros((0, 2), np.int64), dict.fromkeys(self._decoders, Finishing())
        )
        *values, valid = cache.fill(places, missing, good, *made)
        for place, name in enumerate(self._recipe.features):
            if name in self._decoders and finishings[name].changes:
                values[place] = self._finished(name, values[place], np.arange(len(places)), finishings[name])
        return values, valid

    def _finished(self, name: str, store: Any, places: Ids, finishing: Finishing) -> Array:
        """Images of a store, finished, by all threads."""
        out = self._decoders[name].array(len(places), finishing.affine)
        step = self._group(len(places))
        running = []
        for low in range(0, len(places), step):
            part = slice(low, low + step)
            running.append(self._pool.submit(finishing.of(part).into, out[part], store, places[part]))
        for one in running:
            one.result()
        return out

    def _group(self, count: int) -> int:
        """Rows that are read, and then decoded by one thread, together."""
        if not self._decoders:
            return max(1, count)
        each = min(_MAX_GROUP, _GROUP_BYTES // self._recipe.mean_bytes, -(-count // self._recipe.workers))
        return max(1, each)
