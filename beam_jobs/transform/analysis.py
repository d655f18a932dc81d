"""The analysis, from shards to transform_fn/: a shard's part of a phase, all parts merged, and the model at the end.

What each step makes is a file in the work directory that is named by all that it depends on, so that whatever an
earlier job did is there already: parts are kept for later versions too.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_transform import graph_context, impl_helper

from beam_jobs.files import ScratchFolder
from beam_jobs.plan import JobPlan, TransformPlan
from beam_jobs.transform import results
from beam_jobs.transform.accumulate import accumulate
from beam_jobs.transform.graph import Phase, Traced, failing, traced, where_of
from beam_jobs.transform.merge import Bound, merge
from beam_jobs.transform.partial import seal, unseal
from beam_jobs.transform.plan import taken
from beam_jobs.transform.records import batches, columns_of, read_index, tensors
from beam_jobs.transform.saved_model import constants, saved_model
from schemas import HeadraceError
from schemas.hashing import fingerprint
from schemas.manifest import FileEntry, ShardEntry

_lock = threading.RLock()
_functions: dict[str, PhaseFunction] = {}


def analyse_shard(plan: JobPlan, entry: ShardEntry, phase: int, before: str | None) -> str:
    """Makes a shard's part of a phase, unless it is there; gives its file's name. `before`: of the phase before."""
    name = f"{fingerprint(_planned(plan).fingerprint, entry.sha256, phase, before)}.part"
    path = plan.workspace.analysis / name
    if path.exists():
        return name
    function = _phase_function(plan, phase, before)
    path.write(seal(accumulate(function.phase, function.over(plan, entry))), durable=False)
    return name


def merge_parts(plan: JobPlan, phase: int, before: str | None, parts: list[str]) -> str:
    """Merges the parts of a phase, in the order of their shards; gives the name of the file of all values so far."""
    name = f"{fingerprint(_planned(plan).fingerprint, phase, before, parts)}.found"
    path = plan.workspace.analysis / name
    if not path.exists():
        found, used = ([], []) if before is None else _found(plan, before)
        found += merge(traced(plan), phase, lambda: _parts(plan, parts))
        path.write(results.to_bytes(found, used + parts), durable=False)
    return name


def write_model(plan: JobPlan, found: str | None) -> list[FileEntry]:
    """Writes transform_fn/ and its metadata into the stage."""
    bound, parts = ([], []) if found is None else _found(plan, found)
    with _failing(plan), ScratchFolder() as folder, _lock:
        files = saved_model(traced(plan), bound, Path(folder))
    # What a later version may find again; see `sweep`.
    plan.workspace.analysed.write(json.dumps(parts).encode(), durable=False)
    entries = []
    for path, data in sorted(files.items()):
        (plan.workspace.stage / path).write(data, durable=True)
        entries.append(FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    return entries


class PhaseFunction:
    """The graph of one phase: what of it the analysers of that phase want, with all values known before it."""

    def __init__(self, traced: Traced, phase: Phase, bound: list[Bound]) -> None:
        self.phase = phase
        self._folder = ScratchFolder()
        self._module = tf.Module()  # holds the tables
        context = graph_context.TFGraphContext(
            module_to_export=self._module,
            temp_dir=self._folder.name,
            evaluated_replacements=constants(bound, Path(self._folder.name)),
        )
        self._function = impl_helper.get_traced_transform_fn(
            traced.function, traced.specs, context, output_keys_to_name_map=phase.tensors
        ).get_concrete_function()

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        """The tensors that the phase wants of a batch."""
        flat = tf.nest.flatten(dict(inputs), expand_composites=True)
        return {name: np.asarray(value) for name, value in self._function(*flat).items()}

    def over(self, plan: JobPlan, entry: ShardEntry) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The same for each batch of a shard."""
        features, stage = taken(plan.features), plan.assembled
        index = read_index(stage, entry)
        for start, stop, data in batches(stage, entry, index):
            columns = columns_of(data, index.lengths[start:stop], plan, features, entry.path)
            with _failing(plan):
                found = self(tensors(columns, features))
            yield found


def _phase_function(plan: JobPlan, phase: int, before: str | None) -> PhaseFunction:
    """The function of a phase, made once in this process."""
    key = fingerprint(_planned(plan).fingerprint, phase, before)
    with _lock:
        if key not in _functions:
            found = traced(plan)
            bound = [] if before is None else _found(plan, before)[0]
            with _failing(plan):
                made = PhaseFunction(found, found.phases[phase], bound)
            _functions.clear()
            _functions[key] = made
        return _functions[key]


def _failing(plan: JobPlan) -> Any:
    transform = plan.spec.transforming
    assert transform is not None
    return failing(where_of(transform), traced(plan).function)


def _planned(plan: JobPlan) -> TransformPlan:
    assert plan.transform is not None, "only a job with a transform comes here"
    return plan.transform


def _found(plan: JobPlan, name: str) -> tuple[list[Bound], list[str]]:
    return _read(plan, name, results.from_bytes)


def _parts(plan: JobPlan, names: list[str]) -> Iterator[dict[str, bytes]]:
    for name in names:
        yield _read(plan, name, unseal)


def _read(plan: JobPlan, name: str, decode: Callable[[bytes], Any]) -> Any:
    path = plan.workspace.analysis / name
    try:
        found = decode(path.read())
    except FileNotFoundError:
        found = None
    if found is None:
        path.delete()
        raise HeadraceError(
            "A file of the analysis has vanished from the work directory, or was damaged.",
            where=str(path),
            hint="Run the same command again. Every worker must see the same --out directory.",
        )
    return found
