"""Two small transforms: one element for each worker to take, and all elements as one list.

Beam's own `Reshuffle` and `combiners.ToList` do the same with ten transforms each; building and starting those of
one job took as long as preparing a thousand images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.pvalue import PBegin, PCollection


@dataclass(eq=False)
class Deal(beam.PTransform):
    """A list of elements, dealt to all workers: the barrier of a GroupByKey keeps them from fusing with the list.

    Args:
      elements: any.
      work: about how much an element is, in any unit; without it all are alike. The embedded runner's workers get as
        much of it each.
    """

    elements: list[Any]
    work: Callable[[Any], int] | None = None

    def expand(self, begin: PBegin) -> PCollection[Any]:
        """The pipeline's begin → the elements."""
        elements = self.elements
        if self.work is not None:
            workers = begin.pipeline.options.view_as(DirectOptions).direct_num_workers
            elements = there_and_back(sorted(elements, key=self.work, reverse=True), max(1, workers))
        return (
            begin
            | "List" >> beam.Create(list(enumerate(elements)), reshuffle=False)
            | "Deal" >> beam.GroupByKey()
            | "Take" >> beam.FlatMap(values)
        )


class Gather(beam.PTransform):
    """All elements of a collection as one list, in any order; none where there are no elements."""

    def expand(self, elements: PCollection[Any]) -> PCollection[list[Any]]:
        """Element → list of all (one)."""
        return elements | "Key" >> beam.Map(keyed) | "Group" >> beam.GroupByKey() | "List" >> beam.Map(values)


def there_and_back(elements: Sequence[Any], workers: int) -> list[Any]:
    """Elements, the largest first, as Beam is to deal them in turn: the last worker to get one gets the next too."""
    rows = [elements[start : start + workers] for start in range(0, len(elements), workers)]
    return [each for number, row in enumerate(rows) for each in (row[::-1] if number % 2 else row)]


def keyed(element: Any) -> tuple[int, Any]:
    """The element under the one key that all share."""
    return 0, element


def values(group: tuple[int, Iterable[Any]]) -> list[Any]:
    """The elements of a group."""
    return list(group[1])
