"""A SavedModel's graph in bytes that say only what it computes.

TensorFlow's own differ from process to process: names of functions and of what they capture hold a counter of the
process; functions, their nodes and maps are written in any order; shared names of tables hold paths of temporary files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from google.protobuf.message import Message  # type: ignore[import-untyped]
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import ops

_ATTRIBUTE, _TENSOR = "tensorflow.AttrValue", "tensorflow.TensorProto"
_COUNTER, _MOST_COUNTED = 1_000_000, 1_000_000
_COUNTED = re.compile(r"(?:^|(?<=_))([0-9]{7,9})(?![0-9])")


def canonical(data: bytes, folder: str, instead: str, first: int, names: Collection[str]) -> bytes:
    """A SavedModel's graph in bytes that say only what it computes.

    Args:
      data: the bytes that TensorFlow wrote.
      folder: where that was.
      instead: what is to stand for the folder.
      first: the process's counter when it began; numbers from there on are the counter's.
      names: of features, which stay as they are whatever numbers they hold.
    """
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(data)
    found: set[int] = set()

    def look(text: str) -> str:
        found.update(map(int, _COUNTED.findall(text)))
        return text

    _rename(model, look)
    numbers = sorted(number for number in found if first <= number < first + _MOST_COUNTED)
    # Their order is that of making, which is always the same; their values are not.
    places = {str(number): str(_COUNTER + place) for place, number in enumerate(numbers)}

    def renamed(text: str) -> str:
        if text in names:
            return text
        return _COUNTED.sub(lambda m: places.get(m[1], m[0]), text).replace(folder, instead)

    _rename(model, renamed)
    for graph in model.meta_graphs:
        library = graph.graph_def.library
        for function in library.function:
            _sort(function.node_def, lambda node: node.name)
        _sort(library.function, lambda function: function.signature.name)
        _sort(library.gradient, lambda gradient: gradient.function_name)
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def counted() -> int:
    """The process's counter, from 1,000,000 on, so that its numbers are told from others in names."""
    number = ops.uid()
    while number < _COUNTER:
        number = ops.uid()
    return int(number) + 1


def _sort(messages: Any, key: Callable[[Any], str]) -> None:
    ordered = sorted(messages, key=key)
    del messages[:]
    messages.extend(ordered)


def _rename(message: Message, renamed: Callable[[str], str]) -> None:
    """Puts another text in the place of every name: in fields, keys and attributes; never of what is computed with."""
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            _rename_map(value, kind.fields_by_name["value"].message_type, renamed)
        elif kind is not None and kind.full_name != _TENSOR:
            for part in value if field.is_repeated else [value]:
                _rename(part, renamed)
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            if field.is_repeated:
                value[:] = [_text(text, renamed) for text in value]
            else:
                setattr(message, field.name, _text(value, renamed))


def _rename_map(values: Any, kind: Any, renamed: Callable[[str], str]) -> None:
    for key, value in list(values.items()):
        if kind is not None and kind.full_name == _ATTRIBUTE and not _is_name(key):
            _rename_functions(value, renamed)
        elif kind is not None:
            _rename(value, renamed)
        new = renamed(key) if isinstance(key, str) else key
        if new != key:
            if kind is None:
                values[new] = value
            else:
                values[new].CopyFrom(value)
            del values[key]


def _is_name(attribute: str) -> bool:
    """Whether an operation's attribute of this name tells of names, rather than of what is computed."""
    return attribute == "shared_name" or attribute.startswith("_")


def _rename_functions(attribute: Message, renamed: Callable[[str], str]) -> None:
    for function in [attribute.func] if attribute.HasField("func") else attribute.list.func:
        _rename(function, renamed)


def _text(value: Any, renamed: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return renamed(value)
    try:
        return renamed(value.decode()).encode()
    except UnicodeDecodeError:
        return value  # packed numbers, or a vocabulary of bytes
