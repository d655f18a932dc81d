"""Which examples a host's rows of an epoch hold, and their records. No TensorFlow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loader.bucket import Bucketed
from loader.order import HostView
from loader.packing import Packed
from loader.plan import Ids
from loader.recipe import Recipe
from loader.records import Records, spread
from schemas import HeadraceError

SEED_WORDS = 2


def plan(recipe: Recipe, epoch: int, first: int, start: int, stop: int) -> tuple[Ids, Ids, Ids, Ids]:
    """This host's rows `start` … `stop - 1` of an epoch from position `first` on.

    Returns:
      Their places in the part, their ids, their seeds, (n, 2), if any are needed, and how the rows are laid out: the
      bound of each row's bucket, or how many examples are in each row where they are packed.
    """
    order, epoch = recipe.order, int(epoch)
    positions, places = HostView(order, recipe.batches).take(epoch, int(first), int(start), int(stop))
    seeds = order.seeds(epoch, positions, places) if recipe.ops else np.zeros((0, SEED_WORDS), np.int64)
    layout = np.zeros(0, np.int64)
    if isinstance(order, Bucketed):
        layout = order.bounds(epoch, positions)
    elif isinstance(order, Packed):
        places, layout = order.examples(epoch, places)
    return places, recipe.part.stored(places), seeds, layout


def read(recipe: Recipe, ids: Ids) -> tuple[Records, npt.NDArray[np.bool_]]:
    """The records `ids`, with another one in place of holes and damaged ones, and which are not such."""
    records, valid = recipe.reader.read(ids)
    if valid.all():
        return records, valid
    # Something that can be parsed and decoded; what comes of it is thrown away.
    some = records[np.flatnonzero(valid)[:1]] if valid.any() else _any_record(recipe)
    rows = np.arange(len(ids))
    return spread(len(ids), [(rows[valid], records[valid]), (rows[~valid], some)]), valid


def _any_record(recipe: Recipe) -> Records:
    for place in range(len(recipe.part)):
        records, valid = recipe.reader.read(recipe.part.stored(np.array([place])))
        if valid[0]:
            return records
    raise HeadraceError("Not one record is intact.", where=recipe.data, hint="Prepare the data set again.")
