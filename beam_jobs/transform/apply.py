"""The written model applied to a shard: what `materialize: true` puts in the place of its records."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from beam_jobs.encode import encode_records, pack_columns
from beam_jobs.files import ScratchFolder, scratch_errors
from beam_jobs.indexed import to_columns, to_rows
from beam_jobs.plan import JobPlan
from beam_jobs.statistics.kept import is_kept, look_at
from beam_jobs.store_path import StorePath
from beam_jobs.transform.graph import failing, where_of
from beam_jobs.transform.plan import taken
from beam_jobs.transform.records import Columns, batches, columns_of, read_index, tensors
from schemas import HeadraceError
from schemas.features import Feature
from schemas.hashing import fingerprint
from schemas.index import encode_index
from schemas.manifest import FileEntry, ShardEntry
from schemas.naming import TRANSFORM_FN, index_name

_lock = threading.RLock()
_models: dict[str, Model] = {}


class Model:
    """A model of the stage, loaded."""

    def __init__(self, plan: JobPlan, files: Sequence[FileEntry]) -> None:
        # A copy of its own: the stage may be a bucket.
        self._folder = ScratchFolder()
        root = Path(self._folder.name)
        for entry in files:
            data = (plan.workspace.stage / entry.path).read()
            with scratch_errors():
                (root / entry.path).parent.mkdir(parents=True, exist_ok=True)
                (root / entry.path).write_bytes(data)
        self._loaded = tf.saved_model.load(str(root / TRANSFORM_FN))

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the function gives for a batch."""
        outputs: dict[str, Any] = self._loaded.transform_fn(inputs)
        return outputs


def transform_shard(plan: JobPlan, entry: ShardEntry, files: Sequence[FileEntry]) -> ShardEntry:
    """Writes a shard of transformed records, and its index, into the stage, unless they are there already."""
    assert plan.transform is not None, "only a job with a transform comes here"
    note = plan.workspace.shard_notes / f"{entry.path}.transformed"
    wanted = fingerprint(plan.transform.fingerprint, entry.sha256, [file.sha256 for file in files])
    found = _finished(plan, note, wanted)
    if found is None:
        found = _write(plan, entry, _model(plan, files))
        if plan.spec.statistics:
            look_at(plan, found)
        note.write(json.dumps({"wanted": wanted, "entry": found.model_dump()}).encode(), durable=False)
    return found


def _model(plan: JobPlan, files: Sequence[FileEntry]) -> Model:
    key = fingerprint([file.sha256 for file in files])
    with _lock:
        if key not in _models:
            _models.clear()
            _models[key] = Model(plan, files)
        return _models[key]


def _finished(plan: JobPlan, note: StorePath, wanted: str) -> ShardEntry | None:
    """The shard that an earlier job left in the stage, if it is the one wanted."""
    try:
        told = json.loads(note.read())
    except (FileNotFoundError, ValueError):
        return None
    if told["wanted"] != wanted:
        return None
    entry = ShardEntry.model_validate(told["entry"])
    sizes = [(plan.workspace.stage / file.path).size() for file in (entry, entry.index)]
    if sizes != [entry.bytes, entry.index.bytes] or (plan.spec.statistics and not is_kept(plan, entry)):
        return None
    return entry


def _write(plan: JobPlan, entry: ShardEntry, model: Model) -> ShardEntry:
    stage, raw, given = plan.workspace.stage, plan.assembled, taken(plan.features)
    index, digest, size = read_index(raw, entry), hashlib.sha256(), 0
    lengths, rows = [np.zeros(0, np.uint64)], [np.zeros(0, plan.stored_row)]
    with (stage / entry.path).writing(durable=True) as file:
        for start, stop, data in batches(raw, entry, index):
            columns = columns_of(data, index.lengths[start:stop], plan, plan.features, entry.path)
            columns = _transformed(plan, model, columns, given, stop - start)
            if plan.stored_row.names:
                rows.append(to_rows(columns, plan.stored_row))
            records, sizes = encode_records(pack_columns(columns, plan.stored_packing))
            content = records.buffers()[2]
            digest.update(content)
            file.write(content)
            size += content.size
            lengths.append(sizes)
    more = to_columns(np.concatenate(rows, dtype=plan.stored_row)) if plan.stored_row.names else {}
    content = encode_index(np.concatenate(lengths), index.key_hashes, more)
    path = index_name(entry.path)
    (stage / path).write(content, durable=True)
    return ShardEntry(
        path=entry.path,
        bytes=size,
        sha256=digest.hexdigest(),
        records=len(index),
        index=FileEntry(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()),
    )


def _transformed(
    plan: JobPlan, model: Model, columns: Columns, given: Mapping[str, Feature], count: int
) -> Columns:
    transform = plan.spec.transforming
    assert transform is not None, "only a job with a transform comes here"
    where = where_of(transform)
    with failing(where, model):
        outputs = model(tensors(columns, given))
    made = {name: column for name, column in columns.items() if name not in given}
    for name, value in outputs.items():
        made[name] = _column(value, plan.stored[name])
        if len(made[name]) != count:
            raise HeadraceError(
                "The preprocessing_fn gives another number of rows than it gets.",
                where=where,
                value=f"{name}: {len(made[name])} rows for {count} records",
            )
    return made


def _column(value: Any, feature: Feature) -> pa.Array:
    """A tensor as a column that `encode_records` takes."""
    if isinstance(value, tf.SparseTensor):
        indices, flat = value.indices.numpy(), value.values.numpy()
        order = np.lexsort((indices[:, 1], indices[:, 0]))
        counts = np.bincount(indices[:, 0], minlength=int(value.dense_shape[0]))
        return _lists(flat[order], counts)
    if isinstance(value, tf.RaggedTensor):
        return _lists(value.values.numpy(), value.row_lengths().numpy())
    array = value.numpy()
    if array.dtype == object:
        return pa.array(array.tolist(), pa.large_binary())
    if getattr(feature, "shape", ()):
        return _lists(array.ravel(), np.full(len(array), array.shape[1]))
    return pa.array(array)


def _lists(values: npt.NDArray[Any], counts: npt.NDArray[Any]) -> pa.Array:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
