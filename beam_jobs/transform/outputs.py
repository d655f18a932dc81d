"""What a transformed record holds: a feature for each tensor that the function gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from beam_jobs.transform.graph import where_of
from beam_jobs.transform.plan import taken
from schemas import HeadraceError, JobSpec
from schemas.columns import why_no_column
from schemas.features import BytesFeature, Feature, Float32Feature, Int64Feature

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


def output_features(
    spec: JobSpec, inputs: Mapping[str, Feature], outputs: Mapping[str, Any]
) -> dict[str, Feature]:
    """The features of the transformed records: images as they were, then what the function gives.

    Raises:
      HeadraceError: a tensor is of a type or shape that no feature has, or one that the job needs is missing.
    """
    transform = spec.transforming
    assert transform is not None, "only a job with a transform comes here"
    where, given = where_of(transform), taken(inputs)
    features = {name: feature for name, feature in inputs.items() if name not in given}
    for name in sorted(outputs):
        if not _NAME.fullmatch(name):
            raise HeadraceError(
                "A transformed feature needs another name.",
                where=where,
                value=name,
                allowed="a letter, then letters, digits and _, 100 at most",
            )
        if name in features:
            raise HeadraceError(
                "Images pass by the function, so that it cannot make one.", where=where, value=name
            )
        same = name in given and _is_input(outputs[name], name)
        features[name] = given[name] if same else _feature(name, outputs[name], where)
    for field, names in (
        ("label", [spec.label] if spec.label else []),
        ("index", spec.index or []),
    ):
        for name in names:
            if name not in features:
                raise HeadraceError(
                    f"The {field} is not among what the preprocessing_fn returns.",
                    where=where,
                    value=name,
                    allowed=", ".join(features),
                    hint=f"Return it as it came: outputs[{name!r}] = inputs[{name!r}].",
                )
            if field == "index" and (why := why_no_column(features[name])) is not None:
                raise HeadraceError(f"{name!r} cannot be in an index: {why}.", where="index")
    return features


def _feature(name: str, tensor: Any, where: str) -> Feature:
    listed = isinstance(tensor, (tf.SparseTensor, tf.RaggedTensor))
    rank, shape = tensor.shape.rank, _sizes(tensor)
    fits = rank == 2 if listed else rank == 1 or (rank == 2 and shape[1] is not None and shape[1] > 0)
    known = tensor.dtype in (tf.int64, tf.float32) or (tensor.dtype == tf.string and rank == 1 and not listed)
    if not fits or not known:
        kind = "sparse or ragged tensor" if listed else "tensor"
        raise HeadraceError(
            f"What the preprocessing_fn returns as {name!r} cannot be written into a record.",
            where=where,
            value=f"a {kind} of {tensor.dtype.name}, shape {shape or 'unknown'}",
            allowed="int64 or float32 of shape (records), (records, n) with n known, or a list each; string of shape "
            "(records)",
            hint="tf.cast, tf.reshape or tf.ensure_shape make it fit; or leave `materialize` out.",
        )
    if tensor.dtype == tf.string:
        return BytesFeature(type="bytes")
    sizes = (None,) if listed else tuple(shape[1:])
    if tensor.dtype == tf.float32:
        return Float32Feature(type="float32", shape=sizes, allow_nan=True)
    return Int64Feature(type="int64", shape=sizes)


def _sizes(tensor: Any) -> list[int | None]:
    """The shape; nothing where not even the rank is known."""
    return [] if tensor.shape.rank is None else list(tensor.shape.as_list())


def _is_input(tensor: Any, name: str) -> bool:
    """Whether a tensor is the input of that name, unchanged."""
    part = tensor.values if isinstance(tensor, (tf.SparseTensor, tf.RaggedTensor)) else tensor
    operation = part.op
    while operation.type == "Identity":
        operation = operation.inputs[0].op
    if operation.type != "Placeholder":
        return False
    graph = operation.graph
    (arguments, _) = graph.structured_input_signature
    names = [spec.name for spec in tf.nest.flatten(arguments[0][name], expand_composites=True)]
    return operation.name in names
