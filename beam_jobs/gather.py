"""Two small transforms: one element for each worker to take, and all elements as one list.

Beam's own `Reshuffle` and `combiners.ToList` do the same with ten transforms each; building and starting those of
one job took as long as preparing a thousand images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection


@dataclass(eq=False)
class Deal(beam.PTransform):
    """A list of elements, dealt to all workers: the barrier of a GroupByKey keeps them from fusing with the list."""

    elements: list[Any]

    def expand(self, begin: PBegin) -> PCollection[Any]:
        """The pipeline's begin → the elements."""
        return (
            begin
            | "List" >> beam.Create(list(enumerate(self.elements)), reshuffle=False)
            | "Deal" >> beam.GroupByKey()
            | "Take" >> beam.FlatMap(values)
        )


class Gather(beam.PTransform):
    """All elements of a collection as one list, in any order; none where there are no elements."""

    def expand(self, elements: PCollection[Any]) -> PCollection[list[Any]]:
        """Element → list of all (one)."""
        return elements | "Key" >> beam.Map(keyed) | "Group" >> beam.GroupByKey() | "List" >> beam.Map(values)


def keyed(element: Any) -> tuple[int, Any]:
    """The element under the one key that all share."""
    return 0, element


def values(group: tuple[int, Iterable[Any]]) -> list[Any]:
    """The elements of a group."""
    return list(group[1])
