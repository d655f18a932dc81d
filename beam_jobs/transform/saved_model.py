"""The analysed function as a SavedModel: as TensorFlow writes it, then made canonical.

What TensorFlow writes beside the graph is the same in every process, but for fingerprint.pb, which holds a random
number. Readers do without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_transform import impl_helper, tf2_utils
from tensorflow_transform.tf_metadata import metadata_io

from beam_jobs.transform.canonical import canonical, counted
from beam_jobs.transform.graph import Traced
from beam_jobs.transform.merge import Bound
from beam_jobs.transform.padded import padded
from schemas.naming import TRANSFORM_FN, TRANSFORMED_METADATA

_LEFT_OUT = ("fingerprint.pb", "debug")
_WHILE_WRITING = "variables/variables_temp/"  # stays where its files could not be removed


def constants(bound: list[Bound], folder: Path) -> dict[str, Any]:
    """The analysed values as tensors, by the name of the tensor that each stands for; vocabularies go into `folder`."""
    found = {}
    for each in bound:
        value = each.value
        if each.file is not None:
            path = folder / each.file
            path.write_bytes(value)
            value = str(path)
        dtype = tf.dtypes.as_dtype(each.dtype)
        found[each.tensor] = tf.constant(value if dtype == tf.string else np.asarray(value), dtype)
    return found


def saved_model(traced: Traced, bound: list[Bound], folder: Path) -> dict[str, bytes]:
    """The files of `transform_fn/` and `transformed_metadata/`, by path; made in `folder`, an empty one."""
    target, assets, metadata = folder / TRANSFORM_FN, folder / "assets", folder / TRANSFORMED_METADATA
    assets.mkdir()
    first, found = counted(), constants(bound, assets)
    # As `impl_helper.trace_and_write_v2_saved_model`, but for the padding, which the schema must not see: tf-transform
    # knows domains and annotations by the tensors that the function itself returns.
    with _only_our_errors():
        concrete = impl_helper._trace_and_write_transform_fn(
            str(target), padded(traced.function), traced.specs, str(folder), found, {}, None
        )
    inputs = tf2_utils.get_structured_inputs_from_func_graph(concrete.graph)
    schema = impl_helper._trace_and_get_metadata(concrete, inputs, traced.function, str(folder), found)
    metadata_io.write_metadata(schema, str(metadata))
    files = {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in sorted(target.rglob("*"))
        if path.is_file()
    }
    files["saved_model.pb"] = canonical(
        files["saved_model.pb"], str(folder), _assets_hash(bound), first, {*traced.specs, *traced.outputs}
    )
    made = {
        f"{TRANSFORM_FN}/{path}": data
        for path, data in files.items()
        if path.split("/")[0] not in _LEFT_OUT and not path.startswith(_WHILE_WRITING)
    }
    made[f"{TRANSFORMED_METADATA}/schema.pbtxt"] = (metadata / "schema.pbtxt").read_bytes()
    if traced.assets:
        made[f"{TRANSFORMED_METADATA}/asset_map"] = json.dumps(traced.assets, sort_keys=True).encode()
    return made


@contextlib.contextmanager
def _only_our_errors() -> Iterator[None]:
    """AutoGraph warns where it has no room for a file of its own, and goes on; the job itself says what is full."""

    def is_news(record: logging.LogRecord) -> bool:
        return "Cause: [Errno " not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def _assets_hash(bound: list[Bound]) -> str:
    """What stands for the folder of vocabularies in shared names: tables of two data sets must differ."""
    digest = hashlib.sha256()
    for each in bound:
        if each.file is not None:
            digest.update(f"{each.file}\0{len(each.value)}\0".encode() + each.value)
    return digest.hexdigest()[:32]
