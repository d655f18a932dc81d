"""A recipe's flow with its pieces in reach, so that each can be run by itself; see `loader.profile_stages`."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import tensorflow as tf

from loader import decode, pipeline
from loader.decode import Features
from loader.decoder import Finishing
from loader.draws import Flip, Seeds, flipped
from loader.images import images, leading_crop, split_ops
from loader.order import HostView
from loader.parse import can_parse
from loader.produce import Producer
from loader.recipe import Recipe
from loader.records import Texts
from loader.work import divide

_ENCODED = 1024  # images that are decoded over and over

At = tuple[int, int, int, int]
"""Epoch, first position, rows from … to, as `loader.rows.plan` wants them"""


class Flow:
    """A recipe, how its work is divided, and what each piece of the work starts from.

    Attributes:
      recipe: whose flow this is.
      work: see there.
      native: whether the core reads rows.
      own: images that it decodes are finished by it, too.
      size: rows of a batch.
      ops: for each example, without the crop that is part of decoding.
      flips, mixing: of batches.
      producer: makes the rows where the core reads them.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.work = recipe, divide(recipe)
        self.native = can_parse(recipe.features)
        self.own = bool(self.work.decoders) and not self.work.finish_later
        self.size = recipe.batches.host_size
        single, self.flips, self.mixing = split_ops(recipe)
        self.skip = 1 if leading_crop(recipe) else 0
        self.ops = single[self.skip :]
        self._first_flip = len(single)
        self.producer = Producer(
            recipe,
            self.work.decoders,
            flips=cast(Sequence[Flip], self.flips) if self.own else (),
            first_flip=self._first_flip,
            normalize=recipe.normalize if self.own else {},
        )

    def finishing(self, name: str, seeds: Seeds) -> Finishing:
        """What the core does to the images of `name` behind decoding."""
        if not self.own:
            return Finishing()
        flips = cast(Sequence[Flip], self.flips)
        turns = flipped(flips, seeds, self._first_flip) if flips else (None, None)
        return Finishing(*turns, self.recipe.normalize.get(name))

    def group(self, count: int) -> int:
        """Of `count` rows that are read together, those that are also decoded by one thread together."""
        return self.producer._group(count) if self.native else count

    @property
    def held(self) -> int:
        """Chunks whose memory is in use at a time: those being read, and as many as go on as they are."""
        passed_on = not (self.work.one_by_one or self.work.finish_later)
        return self.work.reads + 1 + (self.recipe.prefetch if passed_on else 0)

    def chunks(self) -> Iterator[At]:
        """An endless training, a chunk at a time."""
        view = HostView(self.recipe.order, self.recipe.batches)
        for epoch in itertools.count():
            rows = view.rows(epoch, 0)
            for start in range(0, rows, self.work.chunk):
                yield epoch, 0, start, min(start + self.work.chunk, rows)

    @functools.cached_property
    def chunk(self) -> Features:
        """One of them, as it is read."""
        return self.work.read(*(tf.constant(number, tf.int64) for number in next(self.chunks())))

    @functools.cached_property
    def decoded(self) -> Features:
        """An example with its images decoded."""
        example = {name: value[0] for name, value in self.chunk.items()}
        return pipeline._prepare(self.without_ops, self.work, example)

    @functools.cached_property
    def prepared(self) -> Features:
        """An example that is ready for a batch."""
        return self.augmented(self.decoded)

    def augmented(self, example: Features) -> Features:
        """A decoded example behind the operations on single examples."""
        return pipeline._augment(self.recipe, dict(example), skip=self.skip)

    @functools.cached_property
    def batch(self) -> Features:
        """A batch that is still to be finished."""
        if self.work.one_by_one:
            return {name: tf.stack([value] * self.size) for name, value in self.prepared.items()}
        return {name: value[: self.size] for name, value in self.chunk.items()}

    @property
    def finished(self) -> object:
        """A batch as training gets it."""
        batch = dict(self.batch)
        batch = pipeline._finish(self.recipe, batch) if self.work.finish_later else batch
        return pipeline._complete(self.recipe, batch, fixed=False)

    @property
    def without_ops(self) -> Recipe:
        """The recipe, as far as decoding goes."""
        return dataclasses.replace(self.recipe, ops=self.recipe.ops[: self.skip])

    def encoded(self, records: Texts) -> dict[str, Texts]:
        """The images in some records, by feature."""
        wanted = images(self.recipe)
        found = decode.parse(tf.constant(records[:_ENCODED]), wanted) if wanted else {}
        return {name: value.numpy() for name, value in found.items()}

    @staticmethod
    def seeds(*shape: int) -> Seeds:
        """Any seeds, int64 (*shape, 2)."""
        return np.random.default_rng(0).integers(0, 1 << 62, (*shape, 2))
