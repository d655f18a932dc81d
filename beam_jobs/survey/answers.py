"""What a survey asks of the records of the train split, and what one partition answers: exact, and mergeable.

A part is an Arrow file with a batch for each question; sums are in its metadata.

    group    text of the column `by`; null where there is none
    number   float64, of questions for order statistics
    text     of questions for classes
    count    int64, how many records have it
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch
from beam_jobs.reshape import known
from beam_jobs.rules.distinct import as_numbers
from beam_jobs.survey.apply import as_classes, is_missing
from beam_jobs.survey.exact import Moments, moments
from schemas.rules import Rule
from schemas.survey_rules import ImputeRule, OutliersRule, WeightsRule

_SCHEMA = pa.schema(
    [("group", pa.string()), ("number", pa.float64()), ("text", pa.string()), ("count", pa.int64())]
)
_MAX_PENDING_ROWS = 1 << 20


@dataclass(frozen=True)
class Question:
    """What a rule wants to know of a column.

    Attributes:
      kind: its "moments", its "numbers" in order, or its "classes".
      by: a column of groups, each of which is asked for.
      where: the rule, for errors.
    """

    column: str
    kind: Literal["moments", "numbers", "classes"]
    by: str | None
    where: str


def questions(rule: Rule) -> list[Question]:
    """What a rule asks, in the order of its columns."""
    match rule:
        case ImputeRule():
            kinds: dict[str, Literal["moments", "numbers", "classes"]] = {
                "mean": "moments",
                "median": "numbers",
                "most_frequent": "classes",
            }
            assert rule.how is not None
            return [Question(name, kinds[rule.how], rule.by, f"clean, impute {name}") for name in rule.impute]
        case OutliersRule():
            kind: Literal["moments", "numbers"] = "numbers" if rule.z_score is None else "moments"
            return [Question(rule.outliers, kind, None, f"clean, outliers {rule.outliers}")]
        case WeightsRule():
            return [Question(rule.by, "classes", None, f"clean, weights {rule.weights}")]
    return []


@dataclass
class Answers:
    """Of one partition, batch by batch."""

    asked: list[Question]
    records: int = 0
    _types: dict[int, str] = field(default_factory=dict)
    _moments: dict[int, dict[str | None, Moments]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Moments))
    )
    _tables: dict[int, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))

    def add(self, batch: Batch) -> None:
        """Takes records of the train split.

        Raises:
          HeadraceError: a column does not exist, or is of a type that has no answer.
        """
        self.records += len(batch)
        for number, asked in enumerate(self.asked):
            for name in (asked.column, *([asked.by] if asked.by else [])):
                known(name, batch.columns, asked.where)
            column = batch.records.column(asked.column)
            if not pa.types.is_null(column.type):
                self._types[number] = kind_of(column.type)
            groups = (
                pa.nulls(len(batch), pa.string())
                if asked.by is None
                else as_classes(batch.records.column(asked.by), asked.where).cast(pa.string())
            )
            if asked.kind == "classes":
                there = pc.invert(is_missing(column))
                self._count(
                    number, groups.filter(there), "text", as_classes(column, asked.where).filter(there)
                )
                continue
            numbers = as_numbers(column, asked.where)
            there = pc.fill_null(pc.is_finite(numbers), False)
            if asked.kind == "numbers":
                both = pc.add(numbers.filter(there), 0.0)  # of the two zeros the one without a sign
                self._count(number, groups.filter(there), "number", both)
            else:
                self._sum(number, groups.filter(there), numbers.filter(there))

    def encode(self) -> bytes:
        """As the bytes of a part, whatever batches the records came in."""
        sums = {
            str(number): [
                [group, found.count, f"{found.total:x}", f"{found.squares:x}"]
                for group, found in sorted(
                    groups.items(), key=lambda item: (item[0] is not None, item[0] or "")
                )
            ]
            for number, groups in self._moments.items()
        }
        types = {str(number): kind for number, kind in self._types.items()}
        notes = json.dumps({"records": self.records, "types": types, "moments": sums}, sort_keys=True)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA.with_metadata({"headrace": notes})) as writer:
            for number in range(len(self.asked)):
                tables = self._tables.get(number, [])
                counted = _together(tables) if tables else _SCHEMA.empty_table()
                for batch in counted.combine_chunks().to_batches() or [_empty()]:
                    writer.write_batch(batch)
        return bytes(sink.getvalue())

    def _count(self, number: int, groups: pa.Array, name: str, values: pa.Array) -> None:
        columns: dict[str, Any] = {field.name: pa.nulls(len(groups), field.type) for field in _SCHEMA}
        columns |= {
            "group": groups,
            name: values.cast(_SCHEMA.field(name).type),
            "count": pa.array(np.ones(len(groups), np.int64)),
        }
        tables = self._tables[number]
        tables.append(pa.table(columns, schema=_SCHEMA))
        if sum(table.num_rows for table in tables[1:]) > _MAX_PENDING_ROWS:
            self._tables[number] = [_together(tables)]

    def _sum(self, number: int, groups: pa.Array, numbers: pa.Array) -> None:
        values = numbers.to_numpy(zero_copy_only=False)
        encoded = groups.dictionary_encode()
        owners = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        names = [*encoded.dictionary.to_pylist(), None]
        order = np.argsort(owners, kind="stable")
        bounds = np.searchsorted(owners[order], np.arange(-1, len(names)))
        for place in range(len(names)):
            mine = values[order[bounds[place] : bounds[place + 1]]]
            if len(mine):
                self._moments[number][names[place - 1]] += moments(mine)


@dataclass(frozen=True)
class Part:
    """The answers of one partition.

    Attributes:
      types: the kind of each question's column, where it is known: integer, float, bool or text.
      moments: of each question by group.
      counted: a batch for each question.
    """

    types: dict[int, str]
    moments: dict[int, dict[str | None, Moments]]
    counted: list[pa.RecordBatch]

    @staticmethod
    def decode(data: bytes) -> Part:
        """What `Answers.encode` gave."""
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            notes = json.loads(reader.schema.metadata[b"headrace"])
            counted = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        found = {
            int(number): {
                group: Moments(count, int(total, 16), int(squares, 16))
                for group, count, total, squares in groups
            }
            for number, groups in notes["moments"].items()
        }
        return Part({int(number): kind for number, kind in notes["types"].items()}, found, counted)


def kind_of(kind: pa.DataType) -> str:
    """What values of a type are in JSON: integer, float, bool or text."""
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "float"
    return "bool" if pa.types.is_boolean(kind) else "text"


def _together(tables: list[pa.Table]) -> pa.Table:
    return _counted(pa.concat_tables(tables))


def _counted(table: pa.Table) -> pa.Table:
    """One row for each group and value, sorted."""
    names = ["group", "number", "text"]
    found = table.group_by(names, use_threads=False).aggregate([("count", "sum")])
    found = found.rename_columns([*names, "count"]).select(_SCHEMA.names).cast(_SCHEMA)
    return found.sort_by([(name, "ascending") for name in names])


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], _SCHEMA)
