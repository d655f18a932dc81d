"""Records that a function of the user's yields, one call a partition."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs.functions import function_fingerprint, load_function, user_failure
from beam_jobs.sources._code.python_rows import Rows, infer_schema, typed_schema
from beam_jobs.sources._keys import check_key, keys_of
from beam_jobs.sources.base import Partition, SourceBatch
from schemas.errors import HeadraceError, shorten
from schemas.sources import PythonSource

_MAX_VALUE_BYTES = 64 << 10
_SAMPLE_RECORDS = 1000


class Python:
    """What `read(value)` yields for each value of `partitions`: dicts, or record batches.

    Rows count from 1 in each partition. The key is the text of the key columns, or `partition:row`. An identity is the
    partition's value, the file that `read` is written in, `version` and the columns: what else the records depend on,
    such as the time of a file, belongs in the value. Fields of a dict in a dict are columns `name.field`, and those of
    dicts in a list such columns of lists.
    """

    def __init__(self, name: str, spec: PythonSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self._where = f"sources.{name}"
        self._arguments = {"path": root} if root else {}

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields: the spec's, or those of the first records, sorted."""
        return list(self._schema(self._values()).names)

    def partitions(self) -> list[Partition]:
        """One for each value, in order."""
        values = self._values()
        schema = self._schema(values)
        check_key(self.spec.key, schema, f"{self._where}.key")
        code = function_fingerprint(self.spec.read, f"{self._where}.read")
        packed = base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")
        made = [code, self.spec.version, self._arguments, packed]
        # How much a partition holds is known to nobody before it is read.
        return [
            Partition(self.name, ordinal, [value, *made], {"value": value, "schema": packed}, 1)
            for ordinal, value in enumerate(values)
        ]

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """What the function yields, in batches of about 8 MiB."""
        value = partition.payload["value"]
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(partition.payload["schema"])))
        rows = Rows(schema, lambda row: self._place(value, row))
        for item in self._items(value):
            rows.add(item)
            yield from self._batches(rows.take_full(), value)
        yield from self._batches(rows.take_rest(), value)

    def origin(self, partition: Partition, row: int) -> str:
        """The partition's value and the number of the record, from 1."""
        return f"partition {_shown(partition.payload['value'])}, row {row}"

    def _batches(self, found: Iterator[Any], value: Any) -> Iterator[SourceBatch]:
        for records, numbers, faults in found:
            rows = np.array(numbers, dtype=np.int64)
            yield SourceBatch(records, keys_of(records, self.spec.key, _text(value), rows), rows, faults)

    def _place(self, value: Any, row: int) -> str:
        return f"{self._where}, {self.spec.read}, partition {_shown(value)}, row {row}"

    def _values(self) -> list[Any]:
        given = self.spec.partitions
        where = f"{self._where}.partitions"
        if isinstance(given, str):
            function = load_function(given, where)
            try:
                given = function(**self._arguments)
            except Exception as error:
                raise user_failure(error, f"{where}, {given}") from error
            if not isinstance(given, list | tuple):
                raise HeadraceError(
                    "The function gave no list of partitions.",
                    where=f"{where}, {self.spec.partitions}",
                    value=type(given).__name__,
                    allowed="a list of values that JSON can hold",
                )
        if not given:
            raise HeadraceError("The source holds no row: it has no partition.", where=where)
        return _checked(given, where)

    def _schema(self, values: Sequence[Any]) -> pa.Schema:
        if self.spec.columns is not None:
            return typed_schema(self.spec.columns)
        for value in values:
            sample: list[Any] = []
            for item in self._items(value):
                sample.append(item)
                if isinstance(item, pa.RecordBatch) or len(sample) == _SAMPLE_RECORDS:
                    break
            schema = infer_schema(sample, f"{self._where}, {self.spec.read}, partition {_shown(value)}")
            if schema is not None:
                return schema
        raise HeadraceError("The source holds no row.", where=self._where, value=self.spec.read)

    def _items(self, value: Any) -> Iterator[Any]:
        """What the function yields; an exception of its own ends the partition, and says in which row."""
        function = load_function(self.spec.read, f"{self._where}.read")
        row = 1
        try:
            found = function(value, **self._arguments)
            if isinstance(found, Mapping | str | bytes) or not hasattr(found, "__iter__"):
                raise HeadraceError(
                    "The function yields no records.",
                    where=self._place(value, row),
                    value=type(found).__name__,
                    allowed="a generator or a list of dicts or of pyarrow RecordBatches",
                )
            for item in found:
                yield item
                row += item.num_rows if isinstance(item, pa.RecordBatch) else 1
        except HeadraceError:
            raise
        except Exception as error:
            raise user_failure(error, self._place(value, row)) from error


def _checked(given: Sequence[Any], where: str) -> list[Any]:
    """The values as JSON gives them back, so that every worker gets the same."""
    values: dict[str, Any] = {}
    for value in given:
        try:
            text = json.dumps(value, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise HeadraceError(
                "A partition is no value that JSON can hold.", where=where, value=repr(value), hint=str(error)
            ) from None
        if len(text) > _MAX_VALUE_BYTES:
            raise HeadraceError(
                "A partition's value is too long.",
                where=where,
                value=text[:1000],
                allowed=f"{_MAX_VALUE_BYTES} bytes of JSON",
                hint="Give where the records are, not the records themselves.",
            )
        copy = json.loads(text)
        if values.setdefault(_text(copy), copy) is not copy:
            raise HeadraceError("Two partitions have one value.", where=where, value=_text(copy))
    return list(values.values())


def _text(value: Any) -> str:
    """A partition's value in keys."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _shown(value: Any) -> str:
    return shorten(_text(value), 100)
