"""Avro schemas as Arrow types, and as schemas without what fastavro would make Python objects of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

_PLAIN = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.binary(),  # the same bytes, which need not be UTF-8
}
_LOGICAL: dict[tuple[str, str], pa.DataType] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
    ("long", "timestamp-nanos"): pa.timestamp("ns", "UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
    ("long", "local-timestamp-nanos"): pa.timestamp("ns"),
}
_NUMBERS = ["int", "long", "float", "double"]  # in a union the last of them holds the others' values
_NOTHING = pa.month_day_nano_interval()
MIXED_UNION = "a union of types that do not fit together"
_MAX_NODES = 10_000
_MAX_DEPTH = 32


class AvroType(NamedTuple):
    """What a value of an Avro schema becomes.

    Attributes:
      stored: the Arrow type that fastavro's values are put into.
      kind: what that means: `stored` can be cast or viewed as it.
      schema: for fastavro, without logical types, and with bytes in place of strings.
      size: the fewest bytes that a value takes.
      convert: makes what goes into `stored` of what fastavro gives; None where that is the same.
    """

    stored: pa.DataType
    kind: pa.DataType
    schema: Any
    size: int
    convert: Callable[[Any], Any] | None = None


class AvroSchemaError(ValueError):
    """A schema that cannot be read, or of which nothing can be made."""


def avro_fields(text: bytes) -> tuple[dict[str, AvroType], str]:
    """The fields of a file's schema by name, and the schema to read it with.

    Raises:
      AvroSchemaError: it is no schema, or one of which no columns can be made.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AvroSchemaError(f"its schema is no JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise AvroSchemaError("its schema is not that of a record")
    if not schema.get("fields"):
        raise AvroSchemaError("its records have no fields")
    reader = _Reader()
    record = reader.read(schema, "", 0)
    return dict(reader.fields[reader.fullname(schema, "")]), json.dumps(record.schema)


class _Reader:
    """Reads one schema. Types that are defined once and named again are known by their names."""

    def __init__(self) -> None:
        self.fields: dict[str, list[tuple[str, AvroType]]] = {}
        self._named: dict[str, AvroType | None] = {}
        self._nodes = 0

    def fullname(self, schema: Mapping[str, Any], space: str) -> str:
        """The name of a type with its namespace."""
        name = str(schema.get("name", ""))
        space = str(schema.get("namespace", space))
        return name if "." in name or not space else f"{space}.{name}"

    def read(self, schema: Any, space: str, depth: int) -> AvroType:
        """What a schema's values become; names are looked up in `space` first."""
        self._nodes += 1
        if self._nodes > _MAX_NODES or depth > _MAX_DEPTH:
            raise AvroSchemaError(f"its schema has more than {_MAX_NODES} types or {_MAX_DEPTH} levels")
        if isinstance(schema, list):
            return self._union(schema, space, depth)
        if isinstance(schema, str):
            if schema in _PLAIN:
                return _plain(schema, schema)
            return self._reference(schema, space)
        if not isinstance(schema, dict):
            raise AvroSchemaError(f"its schema has {schema!r} in place of a type")
        kind = schema.get("type")
        match kind:
            case "record" | "error":
                return self._record(schema, space, depth)
            case "enum":
                symbols = schema.get("symbols")
                own: Any = {"type": "enum", "name": self.fullname(schema, space), "symbols": symbols}
                return self._define(schema, space, AvroType(pa.string(), pa.string(), own, 1))
            case "fixed":
                return self._define(schema, space, self._fixed(schema, space))
            case "array":
                return self._array(schema, space, depth)
            case "map":
                values = self.read(schema.get("values"), space, depth + 1)
                convert = None if values.convert is None else _each_value(values.convert)
                own = {"type": "map", "values": values.schema}
                stored, type_ = (pa.map_(pa.string(), t) for t in (values.stored, values.kind))
                return AvroType(stored, type_, own, 1, convert)
            case str() if kind in _PLAIN:
                logical = _LOGICAL.get((kind, str(schema.get("logicalType"))))
                if logical is not None:
                    return _plain(kind, kind)._replace(kind=logical)
                return _decimal(schema, kind, 1) or _plain(kind, kind)
        return self.read(kind, space, depth + 1)

    def _record(self, schema: Mapping[str, Any], space: str, depth: int) -> AvroType:
        name = self.fullname(schema, space)
        self._named[name] = None  # until it is known, so that a type within itself is noticed
        below = name.rpartition(".")[0]
        fields = []
        for field in schema.get("fields") or []:
            if not (isinstance(field, dict) and field.keys() >= {"name", "type"}):
                raise AvroSchemaError(f"its schema has a field without name or type: {field!r}")
            fields.append((str(field["name"]), self.read(field["type"], below, depth + 1)))
        self.fields[name] = fields
        converts = {field: type_.convert for field, type_ in fields if type_.convert is not None}
        own = {
            "type": "record",
            "name": name,
            "fields": [{"name": field, "type": type_.schema} for field, type_ in fields],
        }
        stored, kind = (
            pa.struct([(field, getattr(type_, part)) for field, type_ in fields])
            for part in ("stored", "kind")
        )
        size = sum(type_.size for _, type_ in fields)
        found = AvroType(stored, kind, own, size, _each_field(converts) if converts else None)
        return self._define(schema, space, found)

    def _array(self, schema: Mapping[str, Any], space: str, depth: int) -> AvroType:
        items = self.read(schema.get("items"), space, depth + 1)
        if not items.size:
            # A few bytes could tell of any number of them.
            raise AvroSchemaError("its schema has an array of values that take no bytes")
        convert = None if items.convert is None else _each_item(items.convert)
        own = {"type": "array", "items": items.schema}
        return AvroType(pa.large_list(items.stored), pa.large_list(items.kind), own, 1, convert)

    def _fixed(self, schema: Mapping[str, Any], space: str) -> AvroType:
        size = int(schema.get("size", 0))
        if not 0 < size < 1 << 31:
            raise AvroSchemaError(f"its schema has a fixed of {size} bytes")
        own: Any = {"type": "fixed", "name": self.fullname(schema, space), "size": size}
        return _decimal(schema, own, size) or AvroType(pa.binary(), pa.binary(), own, size)

    def _union(self, branches: list[Any], space: str, depth: int) -> AvroType:
        found = [self.read(branch, space, depth + 1) for branch in branches]
        values = [type_ for type_ in found if not pa.types.is_null(type_.kind)]
        own = [type_.schema for type_ in found]
        if not values:
            return AvroType(pa.null(), pa.null(), own, 1)
        if len(values) == 1:
            return values[0]._replace(schema=own, size=1, convert=_unless_null(values[0].convert))
        if all(type_.schema in _NUMBERS and type_.stored.equals(type_.kind) for type_ in values):
            widest = max(values, key=lambda type_: _NUMBERS.index(type_.schema))
            return widest._replace(schema=own, size=1)
        # Nothing can be made of it, as of an interval: an error where the column is asked for.
        return AvroType(_NOTHING, _NOTHING, own, 1, _no_value)

    def _reference(self, name: str, space: str) -> AvroType:
        full = name if "." in name or not space else f"{space}.{name}"
        known = full if full in self._named else name
        if known not in self._named:
            raise AvroSchemaError(f"its schema names a type that it does not define: {name!r}")
        type_ = self._named[known]
        if type_ is None:
            raise AvroSchemaError(f"its schema has a type within itself: {name!r}")
        self._nodes += _count(type_.kind)
        if self._nodes > _MAX_NODES:
            raise AvroSchemaError(f"its schema has more than {_MAX_NODES} types")
        return type_._replace(schema=known)

    def _define(self, schema: Mapping[str, Any], space: str, type_: AvroType) -> AvroType:
        self._named[self.fullname(schema, space)] = type_
        return type_


def _plain(kind: str, schema: Any) -> AvroType:
    type_ = pa.string() if kind == "string" else _PLAIN[kind]
    size = {"null": 0, "float": 4, "double": 8}.get(kind, 1)
    return AvroType(_PLAIN[kind], type_, "bytes" if kind == "string" else schema, size)


def _decimal(schema: Mapping[str, Any], own: Any, size: int) -> AvroType | None:
    if schema.get("logicalType") != "decimal" or schema.get("type") not in ("bytes", "fixed"):
        return None
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if not (isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision <= 76):
        return None  # as the specification has it: then it is only bytes
    kind = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    return AvroType(kind, kind, own, size, _decimal_of(scale))


def _count(kind: pa.DataType) -> int:
    return 1 + sum(_count(kind.field(place).type) for place in range(kind.num_fields))


def _decimal_of(scale: int) -> Callable[[bytes], Any]:
    from decimal import Context, Decimal

    exact = Context(prec=200)

    def convert(data: bytes) -> Decimal:
        return Decimal(int.from_bytes(data[-64:], "big", signed=True)).scaleb(-scale, exact)

    return convert


def _unless_null(convert: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    return None if convert is None else lambda value: None if value is None else convert(value)


def _each_item(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: [convert(value) for value in values]


def _each_value(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: {key: convert(value) for key, value in values.items()}


def _each_field(converts: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    return lambda record: record | {name: convert(record[name]) for name, convert in converts.items()}


def _no_value(_value: Any) -> None:
    return None
