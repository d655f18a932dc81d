"""`tf.train.Example` for protobuf's own parser, described here: TensorFlow, which has it, is not imported.

It is four times as fast as `beam_jobs.examples`, which is for looking at records and says exactly what is wrong.
See tensorflow/core/example/feature.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "headrace"
_LISTS = (
    ("bytes_list", _Field.TYPE_BYTES),
    ("float_list", _Field.TYPE_FLOAT),
    ("int64_list", _Field.TYPE_INT64),
)


class NoExampleError(ValueError):
    """Bytes that are no `tf.train.Example`."""


class WrongKindError(ValueError):
    """A feature that holds values of another kind."""


class Example:
    """A parsed example."""

    def __init__(self, data: bytes) -> None:
        message = _EXAMPLE()
        try:
            message.ParseFromString(data)
        except DecodeError:
            raise NoExampleError("it is no tf.train.Example") from None
        self._features = message.features.feature

    def get(self, name: str, kind: str) -> Any:
        """The values of a feature, of a list of that kind: `bytes_list` and so on; None where there is no such feature.

        Raises:
          WrongKindError: it holds a list of another kind.
        """
        feature = self._features.get(name)
        if feature is None:
            return None
        values = getattr(feature, kind).value
        if not values:
            found = feature.WhichOneof("kind")
            if found is None:
                return None
            if found != kind:
                raise WrongKindError(f"{name} holds {found}, not {kind}")
        return values


def _add_field(
    message: Any, name: str, number: int, kind: int, of: str = "", *, repeated: bool = False
) -> Any:
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, type=kind, label=label)
    if of:
        field.type_name = f".{_PACKAGE}.{of}"
    return field


def _example_class() -> Any:
    # In a pool of its own: TensorFlow, where it is loaded too, describes the same messages in the common one.
    file = descriptor_pb2.FileDescriptorProto(
        name="headrace/example.proto", package=_PACKAGE, syntax="proto3"
    )
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(_LISTS, 1):
        _add_field(file.message_type.add(name=name), "value", 1, kind, repeated=True)
        _add_field(feature, name, number, _Field.TYPE_MESSAGE, name).oneof_index = 0
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, _Field.TYPE_STRING)
    _add_field(entry, "value", 2, _Field.TYPE_MESSAGE, "Feature")
    _add_field(features, "feature", 1, _Field.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    _add_field(file.message_type.add(name="Example"), "features", 1, _Field.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


_EXAMPLE = _example_class()
