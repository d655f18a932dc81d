"""Rows that come in any order and in any bundles, left in the work directory as partitions sorted by key.

user's transform ─ spill ─ Section: one small element per (spill, partition) ─ GroupByKey ─ merge ─ counts

Payload goes through no shuffle here either: a spill is a file with a section of rows for each partition, Beam carries
where the sections are. A partition is sorted in memory, so it must be small; there can be as many as it takes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs.gather import Gather
from beam_jobs.listing import read_partitions
from beam_jobs.plan import JobPlan
from beam_jobs.runners import run_pipeline
from beam_jobs.runs import open_run
from beam_jobs.sources._batches import pieces
from beam_jobs.sources._code.python_rows import Found, Rows
from beam_jobs.sources._code.transform import REASON, RULE, TransformRows, read_counts, rows_name
from beam_jobs.sources._keys import keys_of
from beam_jobs.store_path import StorePath
from beam_jobs.take_over import is_finished, is_taken_over
from beam_jobs.wire import for_runners
from schemas import HeadraceError
from schemas.units import format_bytes

MAX_PARTITION_BYTES = 512 << 20
_KEY, _DIGEST = "headrace:key", "headrace:digest"
_LOOKED_AT = 4096  # rows made Python objects of at a time
_ORDER = [(RULE, "ascending"), (_KEY, "ascending"), (_DIGEST, "ascending")]
_SAID = re.compile(r'"error": ?\{"code": ?\d+, ?"message": ?"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Section:
    """Rows of one partition in a spill.

    Attributes:
      spill: file name.
      offset, length: bytes of it, an Arrow stream.
    """

    spill: str
    offset: int
    length: int


def materialize(plan: JobPlan, options: PipelineOptions) -> None:
    """Leaves the rows of every source that is a transform in the work directory, if one of its runs has to be built.

    Raises:
      HeadraceError: a transform failed, or gave no rows.
    """
    for name in transforms_of(plan):
        if _is_wanted(plan, name):
            leave_rows(plan, options, name)


def leave_rows(plan: JobPlan, options: PipelineOptions, name: str) -> None:
    """Leaves the rows of a source that is a transform in the work directory, unless they are there.

    Raises:
      HeadraceError: the transform failed, or gave no rows.
    """
    source = plan.source(name)
    assert isinstance(source, TransformRows)
    directory = source.directory(source.partitions()[0])
    if read_counts(directory) is not None:
        return
    directory.delete_tree()  # what a killed job left: its rows may be those of another state of the data
    try:
        run_pipeline(
            lambda pipeline: build_rows(pipeline, plan, name), options, plan.workspace.root.store.lock_file
        )
    except RuntimeError as error:
        raise HeadraceError(
            "A transform of yours failed.",
            where=f"sources.{name}",
            value=_reason(error),
        ) from error
    if read_counts(directory) is None:
        raise HeadraceError("The source holds no row.", where=f"sources.{name}")


def _reason(error: RuntimeError) -> str:
    """The last line of an error, or what Google's services say in it behind their request and its headers."""
    text = str(error).strip()
    said = _SAID.search(text)
    return said[1] if said else text.splitlines()[-1] if text else type(error).__name__


def transforms_of(plan: JobPlan) -> list[str]:
    """The sources of a job that are transforms."""
    return [name for name in plan.spec.sources if isinstance(plan.source(name), TransformRows)]


def build_rows(pipeline: beam.Pipeline, plan: JobPlan, name: str) -> None:
    """Adds to `pipeline` what leaves the rows of a source in the work directory."""
    source = plan.source(name)
    assert isinstance(source, TransformRows)
    _ = (
        pipeline
        | "Rows" >> source.transform()
        | "Spill" >> beam.ParDo(Spill(plan, name))
        | "Group" >> beam.GroupByKey()
        | "Merge" >> beam.Map(merge, plan=plan, name=name)
        | "Gather" >> Gather()
        | "Count" >> beam.Map(write_counts, plan=plan, name=name)
    )


class Spill(beam.DoFn):
    """Rows to sections of files: dict → (partition, Section)."""

    def __init__(self, plan: JobPlan, name: str) -> None:
        self._plan = plan
        self._name = name

    def start_bundle(self) -> None:
        """A bundle's rows go to files of its own, so that one that is tried again repeats nothing."""
        source = self._plan.source(self._name)
        assert isinstance(source, TransformRows)
        self._rows = Rows(source.schema, lambda _: source.where)

    def process(self, element: Any) -> Iterator[tuple[int, Section]]:
        """Takes one row, and writes what has come together."""
        self._rows.add(element)
        for found in self._rows.take_full():
            yield from spill(found, plan=self._plan, name=self._name)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Writes the rest."""
        window = GlobalWindow()
        for found in self._rows.take_rest():
            for each in spill(found, plan=self._plan, name=self._name):
                yield WindowedValue(each, window.max_timestamp(), [window])


@for_runners
def spill(found: Found, plan: JobPlan, name: str) -> list[tuple[int, Section]]:
    """Writes rows and faults to a file, sorted, a section for each partition; gives where they are."""
    source = plan.source(name)
    assert isinstance(source, TransformRows)
    table = _marked(found, source)
    partitions = np.array(
        [_number(key or digest) % source.spec.partitions for key, digest in _names(table)], dtype=np.int64
    )
    data, sections = bytearray(), []
    for partition in np.unique(partitions).tolist():
        rows = table.take(pa.array(np.flatnonzero(partitions == partition)))
        stream = _stream([rows.sort_by(_ORDER)])
        sections.append((partition, len(data), len(stream)))
        data += stream
    # Named by what it holds: a bundle that is tried again writes the same file.
    spilled = f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.spill"
    (_directory(source) / spilled).write(bytes(data), durable=False)
    return [(partition, Section(spilled, offset, length)) for partition, offset, length in sections]


@for_runners
def merge(group: tuple[int, Iterable[Section]], plan: JobPlan, name: str) -> tuple[int, int]:
    """Writes the file of a partition: the rows of its sections, sorted; gives how many there are.

    Raises:
      HeadraceError: they are too many to be sorted in memory.
    """
    partition, some = group
    source = plan.source(name)
    assert isinstance(source, TransformRows)
    sections = sorted(some, key=lambda section: (section.spill, section.offset))
    size = sum(section.length for section in sections)
    if size > MAX_PARTITION_BYTES:
        raise HeadraceError(
            "A partition of a transform's rows is too large.",
            where=f"{source.where}.partitions",
            value=f"{format_bytes(size)} in one of {source.spec.partitions}",
            allowed=format_bytes(MAX_PARTITION_BYTES),
            hint=f"Set partitions: {min(4096, source.spec.partitions * 2 * -(-size // MAX_PARTITION_BYTES))}.",
        )
    directory = _directory(source)
    tables = []
    for section in sections:
        data = (directory / section.spill).read_range(section.offset, section.length)
        with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
            tables.append(reader.read_all())
    rows = _in_order(pa.concat_tables(tables), source).drop_columns([_KEY, _DIGEST]).combine_chunks()
    cut = [piece for batch in rows.to_batches() for _, piece in pieces(batch)]
    (directory / rows_name(partition)).write(_stream(cut), durable=False)
    return partition, rows.num_rows


@for_runners
def write_counts(counts: list[tuple[int, int]], plan: JobPlan, name: str) -> None:
    """Notes that all rows are there, and how many each partition holds. The spills go."""
    source = plan.source(name)
    assert isinstance(source, TransformRows)
    found = dict(counts)
    directory = _directory(source)
    listed = [found.get(number, 0) for number in range(source.spec.partitions)]
    (directory / "counts.json").write(json.dumps(listed).encode(), durable=False)
    for each in directory.names():
        if each.endswith(".spill"):
            (directory / each).delete()


def _is_wanted(plan: JobPlan, name: str) -> bool:
    """Whether a run or a table of the source has to be built."""
    if name in plan.tables:
        return not all(file.exists() for file in plan.tables[name].files)
    for each in read_partitions(plan.workspace.partitions):
        if each.partition.source == name:
            run = open_run(plan.workspace.runs / each.run, check=True)
            if run is None or not (
                (each.committed and is_taken_over(plan, run)) or is_finished(plan, run, check=True)
            ):
                return True
    return False


def _directory(source: TransformRows) -> StorePath:
    return source.directory(source.partitions()[0])


def _marked(found: Found, source: TransformRows) -> pa.Table:
    """Rows and faults in one table, with what they are dealt and sorted by: a hash only where there is no key."""
    records, numbers, faults = found
    keys = keys_of(records, source.spec.key, "", np.array(numbers, np.int64)).to_pylist()
    good, bad = records.num_rows, len(faults)
    digests: list[bytes | None] = [None] * good
    nameless = [place for place, key in enumerate(keys) if not key]
    for place, row in zip(nameless, records.take(pa.array(nameless, pa.int64())).to_pylist(), strict=True):
        digests[place] = _digest(list(row.values()))
    digests += [_digest([fault.rule, fault.reason]) for fault in faults]
    table = pa.Table.from_batches([records])
    if bad:
        table = pa.concat_tables([table, pa.Table.from_batches([_nulls(records.schema, bad)])])
    return (
        table.append_column(RULE, pa.array([""] * good + [fault.rule for fault in faults], pa.string()))
        .append_column(REASON, pa.array([""] * good + [fault.reason for fault in faults], pa.string()))
        .append_column(_KEY, pa.array([*keys, *[None] * bad], pa.binary()))
        .append_column(_DIGEST, pa.array(digests, pa.binary()))
    )


def _in_order(rows: pa.Table, source: TransformRows) -> pa.Table:
    """Sorted; those of one key by a hash of all that they hold."""
    rows = rows.sort_by(_ORDER).combine_chunks()
    keys = rows[_KEY].combine_chunks()
    same = np.zeros(len(keys) + 1, np.bool_)  # as the key before
    same[1:-1] = pc.equal(keys[1:], keys[:-1]).fill_null(False).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(same[:-1] | same[1:])
    if not len(places):
        return rows
    digests, found = rows[_DIGEST].to_pylist(), rows.select(source.schema.names)
    for start in range(0, len(places), _LOOKED_AT):
        some = places[start : start + _LOOKED_AT]
        for place, row in zip(some, found.take(pa.array(some)).to_pylist(), strict=True):
            digests[place] = digests[place] or _digest(list(row.values()))
    rows = rows.drop_columns([_DIGEST]).append_column(_DIGEST, pa.array(digests, pa.binary()))
    return rows.sort_by(_ORDER)


def _nulls(schema: pa.Schema, rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(rows, field.type) for field in schema], schema=schema)


def _names(table: pa.Table) -> Iterator[tuple[bytes | None, bytes]]:
    return zip(table[_KEY].to_pylist(), table[_DIGEST].to_pylist(), strict=True)


def _number(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def _digest(values: list[Any]) -> bytes:
    """A hash of a row's values: what puts rows of one key into an order that is always the same."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
        digest.update(f"{type(value).__name__} {len(data)} ".encode() + data)
    return digest.digest()


def _stream(batches: Sequence[pa.Table | pa.RecordBatch]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write(batch)
    return bytes(sink.getvalue())
