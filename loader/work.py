"""Which part of a recipe's work is done where: while rows are read, for each example, for each batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loader.decoder import Decoder
from loader.images import decoders, images, leading_crop, split_ops
from loader.packing import Packed
from loader.parse import can_parse
from loader.reading import Read, is_padded, reader
from loader.recipe import Recipe

_CHUNK_BYTES = 1 << 20  # 1 MiB: what one read fetches; larger chunks fall out of the processor's caches
_CHUNK_RECORDS = 4096
_MAX_BATCH_CHUNK = 8 << 20  # 8 MiB: a batch of so many bytes is read as one chunk
_PIXELS_CHUNK = 32  # examples, where there are no batches


@dataclass(frozen=True)
class Work:
    """Who does what.

    Attributes:
      decoders: of the images that are decoded while rows are read, by the native core.
      decoded: whether no image is left to be decoded for each example.
      one_by_one: whether there is work for each example by itself.
      finish_later: whether batches are still to be flipped, mixed or normalised.
      is_done: whether nothing of all this is left when rows have been read.
      chunk: rows that are read at a time.
      reads: chunks on their way at a time.
      read: reads rows.
    """

    decoders: Mapping[str, Decoder]
    decoded: bool
    one_by_one: bool
    finish_later: bool
    is_done: bool
    chunk: int
    reads: int
    read: Read


def divide(recipe: Recipe) -> Work:
    """How the work of a recipe is divided."""
    native = can_parse(recipe.features)
    own = decoders(recipe) if native else {}
    batched = recipe.batches.batch_size is not None
    decoded = recipe.cache is not None or own.keys() == images(recipe).keys()
    single, flips, mixing = split_ops(recipe)
    single = single[1 if leading_crop(recipe) else 0 :]
    one_by_one = not (decoded and batched) or bool(single)
    finish = bool(own) and not one_by_one and not mixing
    finish_later = batched and not finish and bool(flips or mixing or recipe.normalize)
    chunk = _chunk(recipe, pixels=bool(images(recipe)) and decoded, one_by_one=one_by_one)
    # Whatever is done to a batch as a whole needs all of its rows.
    whole = chunk == recipe.batches.host_size or not (
        recipe.skip_corrupt or recipe.has_holes or is_padded(recipe)
    )
    return Work(
        decoders=own,
        decoded=decoded,
        one_by_one=one_by_one,
        finish_later=finish_later,
        is_done=not one_by_one and not finish_later and whole,
        chunk=chunk,
        reads=recipe.reads if native or recipe.cache is None else recipe.parallel,
        read=reader(recipe, own, finish=finish),
    )


def _chunk(recipe: Recipe, *, pixels: bool, one_by_one: bool) -> int:
    size = recipe.batches.host_size
    if pixels:
        # A batch at a time, so that its images are written to their final place.
        return size if recipe.batches.batch_size else _PIXELS_CHUNK
    if not one_by_one and _CHUNK_BYTES <= size * recipe.mean_bytes <= _MAX_BATCH_CHUNK:
        return size  # nothing has to be cut anew
    records = max(1, min(_CHUNK_RECORDS, _CHUNK_BYTES // recipe.mean_bytes))
    if not one_by_one and records > size:
        records -= records % size  # batches are slices of it then
    return -(-records // recipe.order.examples_of_a_row) if isinstance(recipe.order, Packed) else records
