"""One shard in one phase: the graph over its batches, and what tf-transform's accumulating nodes make of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow_transform import analyzer_nodes

from beam_jobs.transform.graph import Phase
from beam_jobs.transform.partial import WordSum, count_words, encode, encode_by_key, to_ipc, word_types
from schemas import HeadraceError

Batch = Mapping[str, npt.NDArray[Any]]


def accumulate(phase: Phase, batches: Iterable[Batch]) -> dict[str, bytes]:
    """What each accumulating node of a phase makes of the batches, taken in in their order, by its label."""
    states = [_State(definition, keys) for definition, keys in phase.accumulates]
    for batch in batches:
        for state in states:
            state.add(batch)
    return {label: data for state in states for label, data in state.results()}


class _State:
    """A node at work."""

    def __init__(self, definition: Any, keys: tuple[str, ...]) -> None:
        self._definition, self._keys = definition, keys
        self._by_key: dict[Any, Any] = {}
        if isinstance(definition, analyzer_nodes.VocabularyAccumulate):
            self._words = WordSum(*word_types(definition))
        # (label, combiner, its keys): one, or those that tf-transform has packed.
        self._combiners: list[tuple[str, Any, tuple[str, ...]]] = []
        if isinstance(definition, analyzer_nodes.PackedCombineAccumulate):
            self._combiners = [(each.label, each.combiner, tuple(each.keys)) for each in definition.combiners]
        elif isinstance(definition, analyzer_nodes.CacheableCombineAccumulate):
            self._combiners = [(definition.label, definition.combiner, keys)]
        self._accumulators = [combiner.create_accumulator() for _, combiner, _ in self._combiners]

    def add(self, batch: Batch) -> None:
        """Takes in a batch."""
        definition = self._definition
        if isinstance(definition, analyzer_nodes.VocabularyAccumulate):
            tokens, *weights = (batch[key] for key in self._keys)
            self._words.add(count_words(tokens, weights[0] if weights else None))
        elif isinstance(definition, analyzer_nodes.CacheableCombinePerKeyAccumulate):
            self._add_by_key([batch[key] for key in self._keys])
        for place, (_, combiner, keys) in enumerate(self._combiners):
            values = tuple(batch[key] for key in keys)
            self._accumulators[place] = combiner.add_input(self._accumulators[place], values)

    def results(self) -> list[tuple[str, bytes]]:
        """What it has come to, by label."""
        definition = self._definition
        if isinstance(definition, analyzer_nodes.VocabularyAccumulate):
            return [(definition.label, to_ipc(self._words.total()))]
        if isinstance(definition, analyzer_nodes.CacheableCombinePerKeyAccumulate):
            return [(definition.label, encode_by_key(self._by_key, definition.label))]
        return [
            (label, encode(combiner.compact(accumulator), label))
            for (label, combiner, _), accumulator in zip(self._combiners, self._accumulators, strict=True)
        ]

    def _add_by_key(self, values: list[npt.NDArray[Any]]) -> None:
        keys, *arguments = values
        if keys.ndim != 1 or any(len(each) != len(keys) for each in arguments):
            raise HeadraceError(
                "An analyser by key has keys of another number than values.",
                where="transform",
                value=f"{self._definition.label}: {[list(each.shape) for each in values]}",
            )
        combiner = self._definition.combiner
        for row, key in enumerate(keys.tolist()):
            before = self._by_key.get(key)
            before = combiner.create_accumulator() if before is None else before
            self._by_key[key] = combiner.add_input(before, [np.asarray(each[row]) for each in arguments])
