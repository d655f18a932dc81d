"""The accumulators of all shards in one place: tf-transform's merging nodes, evaluated one after the other.

A node's value is a list of elements, in the order of shards: what is a PCollection in tf-transform's own runner, where
the order of merging is the runner's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_transform import analyzer_nodes, analyzers
from tensorflow_transform.beam import analyzer_impls, beam_nodes

from beam_jobs.transform.graph import Traced
from beam_jobs.transform.partial import (
    Words,
    WordSum,
    decode,
    decode_by_key,
    from_ipc,
    word_types,
)
from schemas import HeadraceError

Partials: TypeAlias = "Callable[[], Iterator[Mapping[str, bytes]]]"  # of one phase, shard by shard
Value = list[Any]


@dataclass(frozen=True)
class Bound:
    """An analysed value, and the tensor of the graph that it stands for.

    Attributes:
      tensor: name of the tensor.
      dtype: TensorFlow's number of its type.
      value: the value; of a vocabulary the bytes of its file.
      file: name of the vocabulary's file, if it is one.
    """

    tensor: str
    dtype: int
    value: Any
    file: str | None


def merge(traced: Traced, phase: int, partials: Partials) -> list[Bound]:
    """All values that the graph needs and that are known after `phase`, beyond those of the phases before."""
    evaluation = _Evaluation(partials)
    found = []
    for binding in traced.bindings:
        if _phase_of(binding) != phase:
            continue
        definition = binding.operation_def
        (value,) = evaluation.of(binding.inputs[0])
        file, content = value if definition.is_asset_filepath else (None, value)
        found.append(Bound(definition.tensor_name, definition.dtype_enum, content, file))
    return found


def _phase_of(operation: Any) -> int:
    """The last phase that a value needs."""
    if isinstance(operation.operation_def, beam_nodes.ApplySavedModel):
        number: int = operation.operation_def.phase
        return number
    return max((_phase_of(value.parent_operation) for value in operation.inputs), default=0)


class _Evaluation:
    def __init__(self, partials: Partials) -> None:
        self._partials = partials
        self._known: dict[int, tuple[Value, ...]] = {}

    def of(self, value: Any) -> Value:
        operation = value.parent_operation
        if id(operation) not in self._known:
            self._known[id(operation)] = self._evaluate(operation)
        return self._known[id(operation)][value.value_index]

    def _evaluate(self, operation: Any) -> tuple[Value, ...]:
        definition = operation.operation_def
        if isinstance(definition, analyzer_nodes.VocabularyAccumulate):
            return ([_add_all(definition, self._each(definition.label))],)
        if isinstance(definition, analyzer_nodes.PackedCombineAccumulate):
            return ([self._packed(definition)],)
        if isinstance(definition, analyzer_nodes.CacheableCombineAccumulate):
            combiner = definition.combiner
            return ([decode(data, combiner) for data in self._each(definition.label)],)
        if isinstance(definition, analyzer_nodes.CacheableCombinePerKeyAccumulate):
            combiner = definition.combiner
            return ([decode_by_key(data, combiner) for data in self._each(definition.label)],)
        return _NODES[type(definition)](definition, *[self.of(value) for value in operation.inputs])

    def _each(self, label: str) -> Iterator[bytes]:
        return (partial[label] for partial in self._partials())

    def _packed(self, definition: Any) -> dict[str, Value]:
        parts: dict[str, Value] = {each.label: [] for each in definition.combiners}
        for partial in self._partials():
            for each in definition.combiners:
                parts[each.label].append(decode(partial[each.label], each.combiner))
        return parts


def _add_all(definition: Any, parts: Iterator[bytes]) -> Words:
    words = WordSum(*word_types(definition))
    for part in parts:
        words.add(from_ipc(part))
    return words.total()


def _extract_from_dict(definition: Any, packed: Value) -> tuple[Value, ...]:
    (parts,) = packed
    return (list(parts[definition.keys]),)


def _add_key(definition: Any, values: Value) -> tuple[Value, ...]:
    return ([(definition.key, value) for value in values],)


def _flatten(_: Any, *inputs: Value) -> tuple[Value, ...]:
    return ([value for values in inputs for value in values],)


def _combine(combiner: Any, accumulators: Value) -> Any:
    return combiner.extract_output(combiner.merge_accumulators(accumulators))


def _combine_merge(definition: Any, accumulators: Value) -> tuple[Value, ...]:
    return ([_combine(definition.combiner, accumulators)],)


def _packed_merge(definition: Any, keyed: Value) -> tuple[Value, ...]:
    outputs = {}
    for each in definition.combiners:
        (key,) = each.keys
        outputs[each.label] = _combine(each.combiner, [value for name, value in keyed if name == key])
    return ([{label: [output] for label, output in outputs.items()}],)


def _extract_outputs(definition: Any, outputs: Value) -> tuple[Value, ...]:
    (values,) = outputs
    if len(values) != definition.num_outputs:
        raise HeadraceError(
            "An analyser gave another number of values than it declares.",
            where="transform",
            value=f"{definition.label}: {len(values)}",
            allowed=str(definition.num_outputs),
        )
    return tuple([value] for value in values)


def _by_key_merge(definition: Any, parts: Value) -> tuple[Value, ...]:
    combiner = definition.combiner
    keys = sorted({key for part in parts for key in part})
    return ([(key, _combine(combiner, [p[key] for p in parts if key in p])) for key in keys],)


def _by_key_format(definition: Any, merged: Value) -> tuple[Value, ...]:
    infos = definition.combiner.output_tensor_infos()
    keys = np.array([key for key, _ in merged], dtype=object)
    columns: list[Any] = [[] for _ in infos]
    if merged:
        columns = list(zip(*(outputs for _, outputs in merged), strict=True))
    values = [
        np.array(column, dtype=info.dtype.as_numpy_dtype) for column, info in zip(columns, infos, strict=True)
    ]
    return ([keys], *([value] for value in values))


def _by_key_format_large(_: Any, merged: Value) -> tuple[Value, ...]:
    rows = [(",".join(str(value) for value in outputs), key) for key, outputs in merged]
    tokens = pa.array([key for _, key in rows], pa.large_binary())
    return ([pa.table({"token": tokens, "count": pa.array([text for text, _ in rows], pa.large_string())})],)


def _scale_boundaries(_: Any, matrices: Value) -> tuple[Value, ...]:
    (matrix,) = matrices
    return tuple([value] for value in analyzer_impls._join_boundary_rows(matrix))


def _vocabulary_merge(_: Any, words: Value) -> tuple[Value, ...]:
    return (words,)  # each token is there once already


def _vocabulary_count(_: Any, words: Value) -> tuple[Value, ...]:
    # One at least: an empty vocabulary gets an entry that nothing is equal to.
    return ([np.int64(max(words[0].num_rows, 1))],)


def _vocabulary_prune(definition: Any, words: Value) -> tuple[Value, ...]:
    (table,) = words
    if definition.frequency_threshold:
        table = table.filter(pc.greater_equal(table["count"], definition.frequency_threshold))
    table = _as_bytes(table)
    if definition.top_k is not None:
        table = _ordered(table).slice(0, definition.top_k)
    return ([table],)


def _vocabulary_write(definition: Any, words: Value) -> tuple[Value, ...]:
    table = _as_bytes(words[0])
    if definition.fingerprint_shuffle:
        shuffled = [hashlib.sha1(token).digest() for token in table["token"].to_pylist()]  # noqa: S324
        table = table.take(pc.sort_indices(pa.array(shuffled)))
    else:
        table = _ordered(table)
    if not table.num_rows:
        count, token = analyzers.get_empy_vocabulary_dummy_value(definition.input_dtype)
        table = pa.table({"token": pa.array([token], pa.large_binary()), "count": [count]})
    if definition.file_format != "text":
        raise HeadraceError(
            "A vocabulary is to be written in a format whose bytes are not always the same.",
            where="transform",
            value=f"file_format {definition.file_format!r}",
            allowed="text",
        )
    if definition.store_frequency:
        counts = [f"{count} ".encode() for count in table["count"].to_pylist()]  # as Python writes floats
        parts = [pa.chunked_array([pa.array(counts, pa.large_binary())]), table["token"]]
    else:
        parts = [table["token"]]
    end = pa.scalar(b"\n", pa.large_binary())
    lines = pc.binary_join_element_wise(*parts, end, pa.scalar(b"", pa.large_binary()))
    content = b"".join(memoryview(_data(chunk)) for chunk in lines.chunks)
    return ([(definition.vocab_filename, content)],)


def _data(array: pa.LargeBinaryArray) -> pa.Buffer:
    """The bytes of all items, back to back."""
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return array.buffers()[2].slice(first, last - first) if last > first else pa.py_buffer(b"")


def _as_bytes(words: Words) -> Words:
    if not pa.types.is_integer(words.schema.field("token").type):
        return words
    text = words["token"].cast(pa.large_string()).cast(pa.large_binary())
    return words.set_column(0, "token", text)


def _ordered(words: Words) -> Words:
    """The largest counts first, of equal ones the last in the order of bytes: as tf-transform has it."""
    return words.sort_by([("count", "descending"), ("token", "descending")])


_NODES: Mapping[type, Callable[..., tuple[Value, ...]]] = {
    analyzer_nodes.AddKey: _add_key,
    analyzer_nodes.CacheableCombineMerge: _combine_merge,
    analyzer_nodes.CacheableCombinePerKeyFormatKeys: _by_key_format,
    analyzer_nodes.CacheableCombinePerKeyFormatLarge: _by_key_format_large,
    analyzer_nodes.CacheableCombinePerKeyMerge: _by_key_merge,
    analyzer_nodes.ExtractCombineMergeOutputs: _extract_outputs,
    analyzer_nodes.ExtractPackedCombineMergeOutputs: _extract_outputs,
    analyzer_nodes.PackedCombineMerge: _packed_merge,
    analyzer_nodes.ScaleAndFlattenPerKeyBucketBouandaries: _scale_boundaries,
    analyzer_nodes.VocabularyCount: _vocabulary_count,
    analyzer_nodes.VocabularyMerge: _vocabulary_merge,
    analyzer_nodes.VocabularyOrderAndWrite: _vocabulary_write,
    analyzer_nodes.VocabularyPrune: _vocabulary_prune,
    beam_nodes.ExtractFromDict: _extract_from_dict,
    beam_nodes.Flatten: _flatten,
}
