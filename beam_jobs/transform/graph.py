"""A preprocessing_fn traced: what it takes and gives, and what must be analysed in which phase.

tf-transform's own `analysis_graph_builder` decides that; `accumulate` and `merge` do what its nodes say. All of it is
made anew in each process that needs it, from the function's name, so that nothing of it is ever pickled.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf
from tensorflow_transform import (
    analyzer_nodes,
    annotators,
    graph_context,
    graph_tools,
    impl_helper,
    tf2_utils,
)
from tensorflow_transform.beam import analysis_graph_builder, beam_nodes

from beam_jobs.files import ScratchFolder, scratch_error_in
from beam_jobs.functions import load_function
from beam_jobs.plan import JobPlan
from beam_jobs.transform.alone import check_alone
from beam_jobs.transform.partial import BY_FREQUENCY, BY_WEIGHT
from beam_jobs.transform.plan import taken
from beam_jobs.transform.ready import preprocessing_fn
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.features import BoolFeature, ClassLabelFeature, Feature, Float32Feature, Int64Feature
from schemas.transforms import Transform

Function = Callable[[dict[str, Any]], dict[str, Any]]

# Their results depend on nothing but exact counts, sums in the order of records, and numpy.
ACCUMULATES = (
    analyzer_nodes.CacheableCombineAccumulate,
    analyzer_nodes.CacheableCombinePerKeyAccumulate,
    analyzer_nodes.PackedCombineAccumulate,
    analyzer_nodes.VocabularyAccumulate,
)
_MERGES = (
    analyzer_nodes.AddKey,
    analyzer_nodes.CacheableCombineMerge,
    analyzer_nodes.CacheableCombinePerKeyFormatKeys,
    analyzer_nodes.CacheableCombinePerKeyFormatLarge,
    analyzer_nodes.CacheableCombinePerKeyMerge,
    analyzer_nodes.ExtractCombineMergeOutputs,
    analyzer_nodes.ExtractPackedCombineMergeOutputs,
    analyzer_nodes.PackedCombineMerge,
    analyzer_nodes.ScaleAndFlattenPerKeyBucketBouandaries,
    analyzer_nodes.VocabularyCount,
    analyzer_nodes.VocabularyMerge,
    analyzer_nodes.VocabularyOrderAndWrite,
    analyzer_nodes.VocabularyPrune,
    beam_nodes.ApplySavedModel,
    beam_nodes.CreateSavedModel,
    beam_nodes.CreateTensorBinding,
    beam_nodes.ExtractFromDict,
    beam_nodes.ExtractInputForSavedModel,
    beam_nodes.Flatten,
)
_lock = threading.RLock()
_traced: dict[str, Traced] = {}


@dataclass(frozen=True)
class Phase:
    """One pass over the records.

    Attributes:
      tensors: names of the tensors that are wanted of each batch, by key.
      accumulates: the nodes that take them in, by label, each with the keys of its tensors; of packed ones see there.
    """

    tensors: dict[str, str]
    accumulates: list[tuple[Any, tuple[str, ...]]]


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced function.

    Attributes:
      function: the function.
      specs: the type of each feature that it takes.
      outputs: the symbolic tensors that it gives.
      root: the node whose inputs are all bindings of analysed values.
      fingerprints: what tf-transform knows the analysers by.
      assets: file name of each vocabulary, by the name that the user knows it by.
    """

    function: Function
    specs: dict[str, Any]
    outputs: dict[str, Any]
    root: Any
    fingerprints: Any
    assets: dict[str, str]

    @cached_property
    def phases(self) -> list[Phase]:
        """The passes over the records, in order."""
        found: dict[int, tuple[dict[str, str], dict[str, tuple[Any, tuple[str, ...]]]]] = {}
        for operation in operations(self.root):
            definition = operation.operation_def
            if not isinstance(definition, ACCUMULATES):
                continue
            apply = _source(operation)
            number = apply.operation_def.phase
            tensors, accumulates = found.setdefault(number, ({}, {}))
            signature = apply.inputs[0].parent_operation.operation_def.output_signature
            tensors.update({key: tensor.name for key, tensor in signature.items()})
            accumulates[definition.label] = (definition, _keys(operation))
        return [
            Phase(dict(sorted(tensors.items())), [each for _, each in sorted(accumulates.items())])
            for _, (tensors, accumulates) in sorted(found.items())
        ]

    @cached_property
    def bindings(self) -> list[Any]:
        """The nodes that give an analysed value a place in the graph."""
        return [value.parent_operation for value in self.root.parent_operation.inputs]


def operations(value: Any) -> Iterator[Any]:
    """Every operation that a value is made by, once, its sources first."""
    seen: set[int] = set()

    def walk(node: Any) -> Iterator[Any]:
        if id(node) not in seen:
            seen.add(id(node))
            for source in node.inputs:
                yield from walk(source.parent_operation)
            yield node

    yield from walk(value.parent_operation)


def traced(plan: JobPlan) -> Traced:
    """The job's function, traced once in this process.

    Raises:
      HeadraceError: it cannot be imported, raises, gives no tensors by name, or needs what cannot be analysed here.
    """
    transform = plan.spec.transforming
    assert transform is not None, "only a job with a transform comes here"
    features = taken(plan.features)
    key = repr((transform, features, plan.preprocessing))
    with _lock:
        if key not in _traced:
            one_thread()
            found = trace(transform, features)
            _traced.clear()  # whoever runs job after job holds one
            _traced[key] = found
        return _traced[key]


def trace(transform: Transform, features: Mapping[str, Feature]) -> Traced:
    """The function of `transform`, traced against the types of the features; see `traced`."""
    where = where_of(transform)
    if transform.function is None:
        function = preprocessing_fn(transform.features)
    else:
        function = load_function(transform.function, where)
    specs = {name: spec(features[name]) for name in sorted(features)}
    with ScratchFolder() as folder, failing(where, function):
        # As `impl_helper.trace_preprocessing_function`, which keeps the function to itself.
        context = graph_context.TFGraphContext(module_to_export=tf.Module(), temp_dir=folder)
        with annotators.object_tracker_scope(annotators.ObjectTracker()):
            concrete = impl_helper.get_traced_transform_fn(
                checked(function), specs, context
            ).get_concrete_function()
        graph, outputs = concrete.graph, concrete.structured_outputs
        inputs = tf2_utils.get_structured_inputs_from_func_graph(graph)
        check_alone(concrete, features, specs, where)
        fingerprints = graph_tools.get_analyzers_fingerprint(graph, inputs)
        assets = annotators.get_asset_annotations(graph)
        annotators.clear_asset_annotations(graph)
        root, _, _ = analysis_graph_builder.build(graph, inputs, outputs)
    if graph.get_collection(tf.compat.v1.GraphKeys.TRAINABLE_VARIABLES):
        raise HeadraceError("A preprocessing_fn must not make trainable variables.", where=where)
    result = Traced(checked(function), specs, outputs, root, fingerprints, dict(assets))
    _check_analysers(result, where)
    return result


def where_of(transform: Transform) -> str:
    """Where a job says what the function is."""
    return "transform" if transform.function is None else f"transform.function, {transform.function}"


def spec(feature: Feature) -> Any:
    """The type of a feature as a tensor of n records: a list of any length is sparse, as in TFX."""
    if isinstance(feature, Float32Feature):
        dtype = tf.float32
    else:
        whole = isinstance(feature, (Int64Feature, ClassLabelFeature, BoolFeature))
        dtype = tf.int64 if whole else tf.string
    shape = getattr(feature, "shape", ())
    if shape == (None,):
        return tf.SparseTensorSpec([None, None], dtype)
    return tf.TensorSpec([None, *shape], dtype)


def checked(function: Function) -> Function:
    """The function, its result looked at: a dict of tensors with a row for each record."""

    def call(inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = function(inputs)
        if not isinstance(outputs, Mapping) or not outputs:
            raise _UnfitError("It must return a dict of tensors by name.", type(outputs).__name__)
        for name, value in outputs.items():
            if not isinstance(name, str):
                raise _UnfitError("The names of what it returns must be text.", repr(name))
            if not isinstance(value, (tf.Tensor, tf.SparseTensor, tf.RaggedTensor)):
                raise _UnfitError(f"What it returns as {name!r} is no tensor.", type(value).__name__)
            rows = value.shape.rank is not None and value.shape.rank > 0
            if not rows or value.shape[0] is not None:
                raise _UnfitError(
                    f"What it returns as {name!r} has no row for each record.",
                    f"shape {value.shape.as_list() if value.shape.rank is not None else 'unknown'}",
                )
        return dict(outputs)

    return call


class _UnfitError(Exception):
    """What a function returns is not what it should."""


@contextmanager
def failing(where: str, function: Function) -> Iterator[None]:
    """Tells of the user's function whatever is raised in it, but for temporary files that are refused."""
    try:
        yield
    except HeadraceError:
        raise
    except _UnfitError as error:
        what, value = error.args
        raise HeadraceError(
            f"The preprocessing_fn does not fit: {what[0].lower()}{what[1:]}",
            where=where,
            value=value,
            allowed="a dict of tensors, sparse or ragged ones too, whose first dimension is the records",
        ) from error
    except Exception as error:
        refused = scratch_error_in(error)
        if refused is not None:
            raise refused from error
        # AutoGraph and tf.function put the user's file and line into the text, or into the trace.
        frames = traceback.extract_tb(error.__traceback__)
        own = getattr(getattr(function, "__code__", None), "co_filename", None)
        place = next((frame for frame in reversed(frames) if frame.filename == own), None)
        hint = "It is called once with symbolic tensors of the features' types, before any data are read."
        if place is not None:
            hint = f"It was raised in {os.path.basename(place.filename)}, line {place.lineno}. {hint}"  # noqa: PTH119
        raise HeadraceError(
            "The preprocessing_fn cannot be traced.",
            where=where,
            value=shorten(f"{type(error).__name__}: {error}", 400),
            hint=hint,
        ) from error


def one_thread() -> None:
    """Gives TensorFlow one thread an operation: sums depend on how many there are.

    Raises:
      HeadraceError: it is at work already, with several.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
    except RuntimeError as error:
        if tf.config.threading.get_intra_op_parallelism_threads() != 1:
            raise HeadraceError(
                "TensorFlow is in use in this process already, with several threads an operation: sums would "
                "depend on their number.",
                where="transform",
                hint="Run the job in a process of its own, as `headrace run` does; or call "
                "tf.config.threading.set_intra_op_parallelism_threads(1) before anything else of TensorFlow's.",
            ) from error


def _source(operation: Any) -> Any:
    """The graph's application that an accumulating node takes its tensors from."""
    while not isinstance(operation.operation_def, beam_nodes.ApplySavedModel):
        operation = operation.inputs[0].parent_operation
    return operation


def _keys(operation: Any) -> tuple[str, ...]:
    definition = operation.inputs[0].parent_operation.operation_def
    return tuple(definition.keys) if isinstance(definition, beam_nodes.ExtractFromDict) else ()


def _check_analysers(found: Traced, where: str) -> None:
    for operation in operations(found.root):
        definition = operation.operation_def
        ordering = getattr(definition, "vocab_ordering_type", BY_FREQUENCY)
        unknown = not isinstance(definition, ACCUMULATES + _MERGES)
        covered = getattr(definition, "key_fn", None) is not None
        if unknown or ordering not in (BY_FREQUENCY, BY_WEIGHT) or covered:
            raise HeadraceError(
                "The preprocessing_fn uses an analyser that Headrace cannot run in a fixed order.",
                where=where,
                value=definition.label,
                allowed="analysers of numbers, also by key, and vocabularies by frequency or weight; none made of a "
                "PTransform, none with `labels`, reserved tokens or coverage",
            )
