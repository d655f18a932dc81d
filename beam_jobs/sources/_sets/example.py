"""Many `tf.train.Example`s to columns at once: their wire bytes are walked side by side in numpy.

In step k the k-th feature of every record is looked at: a few operations on arrays, whatever the number of records.
That takes the form that writers give: one `Features`, each entry a name and a value, numbers packed. A record of
another form is written anew by protobuf, which knows all of them, or refuses it.

Wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
)

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MAX_FEATURES = 4096
_MAX_NAMES = 32  # of one step, before records are looked at one by one
_FIELD_1, _FIELD_2 = 0x0A, 0x12
BYTES_LIST, FLOAT_LIST, INT64_LIST = 0x0A, 0x12, 0x1A
KINDS = {BYTES_LIST: "bytes", FLOAT_LIST: "float32", INT64_LIST: "int64"}
_LARGE_VALUE = 64
_SIDE_BY_SIDE = 256  # lists of bytes; fewer are faster one after the other


@dataclass(frozen=True)
class Found:
    """One feature in some records, each at most once.

    Attributes:
      rows: int64 (n,), which records.
      kinds: uint8 (n,), the tag of the list; 0 for a feature without one.
      starts, ends: int64 (n,), where the values lie: the packed numbers, or the items of a list of bytes.
    """

    rows: Numbers
    kinds: Bytes
    starts: Numbers
    ends: Numbers


@dataclass
class Examples:
    """Records whose features have been found.

    Attributes:
      data: bytes that hold them.
      count: how many there are.
      found: every feature by its name, in the order in which it was found.
      bad: why for each record that is no example.
    """

    data: Bytes
    count: int
    found: dict[bytes, list[Found]] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)

    def feature(self, name: str) -> Found:
        """A feature in all records; of one that occurs twice the last counts, as in protobuf."""
        kinds = np.zeros(self.count, dtype=np.uint8)
        starts = np.zeros(self.count, dtype=np.int64)
        ends = np.zeros(self.count, dtype=np.int64)
        for part in self.found.get(name.encode(), []):
            kinds[part.rows], starts[part.rows], ends[part.rows] = part.kinds, part.starts, part.ends
        return Found(np.arange(self.count), kinds, starts, ends)


def find_features(
    data: memoryview, starts: Numbers, ends: Numbers, wanted: frozenset[bytes] | None = None
) -> Examples:
    """The features of the records at `starts` to `ends` of `data`; all of them, or only those that are wanted."""
    examples = Examples(np.frombuffer(data, dtype=np.uint8), len(starts))
    odd = _walk(examples, np.arange(len(starts)), starts, ends, wanted)
    if not len(odd):
        return examples
    for name, parts in examples.found.items():
        examples.found[name] = [_without(part, odd) for part in parts]
    anew, pieces, at = [], [examples.data], len(examples.data)
    starts, ends = starts.copy(), ends.copy()
    for row in odd.tolist():
        try:
            record = np.frombuffer(_written_anew(bytes(data[starts[row] : ends[row]])), dtype=np.uint8)
        except message.DecodeError:
            examples.bad[row] = "it is no tf.train.Example"
            continue
        pieces.append(record)
        starts[row], ends[row] = at, at + len(record)
        at += len(record)
        anew.append(row)
    examples.data = np.concatenate(pieces)
    rows = np.array(anew, dtype=np.int64)
    for row in _walk(examples, rows, starts[rows], ends[rows], wanted).tolist():
        examples.bad[row] = "it has fields that a tf.train.Example does not have, or too many features"
    return examples


def values_of(examples: Examples, found: Found, kind: int) -> tuple[pa.Array, Numbers, dict[int, str]]:
    """All values of a feature back to back, how many each record has, and why for each that cannot be read.

    Records where it is of another kind have none.
    """
    rows = np.flatnonzero((found.kinds == kind) & (found.ends > found.starts))
    starts, ends = found.starts[rows], found.ends[rows]
    counts = np.zeros(len(found.rows), dtype=np.int64)
    bad: dict[int, str] = {}
    values: Any
    if kind == BYTES_LIST:
        values, counts[rows], wrong = _items(examples.data, starts, ends)
        bad = {int(rows[place]): "a list of bytes is damaged" for place in wrong.tolist()}
    elif kind == FLOAT_LIST:
        counts[rows] = (ends - starts) // 4
        values = pa.array(_gather(examples.data, starts, ends - starts).view("<f4"))
    else:
        numbers, counts[rows], wrong = _varints(_gather(examples.data, starts, ends - starts), ends - starts)
        bad = {int(rows[place]): "a number has more than 64 bits" for place in wrong.tolist()}
        values = pa.array(numbers)
    return values, counts, bad


def _walk(
    examples: Examples, rows: Numbers, starts: Numbers, ends: Numbers, wanted: frozenset[bytes] | None
) -> Numbers:
    """Adds the features of these records to what is found; gives the rows of those of another form."""
    data = examples.data
    odd = [np.zeros(0, dtype=np.int64)]
    filled = ends > starts
    rows, starts, ends = rows[filled], starts[filled], ends[filled]
    size, place = _length(data, starts + 1)
    plain = (_at(data, starts) == _FIELD_1) & (place + size == ends)
    odd.append(rows[~plain])
    live = plain & (place < ends)
    rows, place, ends = rows[live], place[live], ends[live]
    for _ in range(MAX_FEATURES):
        if not len(rows):
            break
        size, inner = _length(data, place + 1)
        stop = inner + size
        plain = (_at(data, place) == _FIELD_1) & (stop <= ends)
        key_size, key = _length(data, inner + 1)
        key_end = key + key_size
        plain &= (_at(data, inner) == _FIELD_1) & (key_end <= stop)
        kinds, first, last, good = _value(data, key_end, stop)
        plain &= good
        odd.append(rows[~plain])
        part = Found(rows[plain], kinds[plain], first[plain], last[plain])
        _add(examples, part, key[plain], key_size[plain], wanted)
        live = plain & (stop < ends)
        rows, place, ends = rows[live], stop[live], ends[live]
    return np.sort(np.concatenate([*odd, rows]))


def _value(data: Bytes, start: Numbers, stop: Numbers) -> tuple[Bytes, Numbers, Numbers, Mask]:
    """Kind and place of the values of `Feature` messages, and which of them have the form of writers."""
    size, place = _length(data, start + 1)
    good = (start == stop) | ((_at(data, start) == _FIELD_2) & (place + size == stop))
    some = (start < stop) & (size > 0)
    kinds = np.where(some, _at(data, place), 0).astype(np.uint8)
    size, first = _length(data, place + 1)
    good &= ~some | (
        ((kinds == BYTES_LIST) | (kinds == FLOAT_LIST) | (kinds == INT64_LIST)) & (first + size == stop)
    )
    # The one packed field of numbers, or the first item of bytes.
    filled = some & (first < stop)
    size, content = _length(data, first + 1)
    end = content + size
    good &= ~filled | ((_at(data, first) == _FIELD_1) & (end <= stop))
    numbers = filled & (kinds != BYTES_LIST)
    good &= ~numbers | (end == stop)
    good &= (kinds != FLOAT_LIST) | ~filled | (size % 4 == 0)
    good &= (kinds != INT64_LIST) | ~filled | (_at(data, stop - 1) < 0x80)
    return kinds, np.where(numbers, content, first), stop, good


def _add(
    examples: Examples, part: Found, key: Numbers, key_size: Numbers, wanted: frozenset[bytes] | None
) -> None:
    """Adds one feature of each record, sorted by its name; most often all have the same."""
    data, left = examples.data, np.arange(len(key))
    for _ in range(_MAX_NAMES):
        if not len(left):
            return
        start, size = int(key[left[0]]), int(key_size[left[0]])
        name = data[start : start + size]
        same = key_size[left] == size
        if len(left) > 1:
            alike = left[same]
            same[same] = (_matrix(data, key[alike], size) == name).all(axis=1)
        _keep(examples, name.tobytes(), part, left[same], wanted)
        left = left[~same]
    by_name: dict[bytes, list[int]] = {}
    for place in left.tolist():
        by_name.setdefault(data[key[place] : key[place] + key_size[place]].tobytes(), []).append(place)
    for text, places in by_name.items():
        _keep(examples, text, part, np.array(places), wanted)


def _keep(
    examples: Examples, name: bytes, part: Found, places: Numbers, wanted: frozenset[bytes] | None
) -> None:
    if wanted is None or name in wanted:
        found = Found(part.rows[places], part.kinds[places], part.starts[places], part.ends[places])
        examples.found.setdefault(name, []).append(found)


def _without(part: Found, rows: Numbers) -> Found:
    keep = ~np.isin(part.rows, rows)
    return Found(part.rows[keep], part.kinds[keep], part.starts[keep], part.ends[keep])


def _at(data: Bytes, places: Numbers) -> Bytes:
    """The byte at each place; where there is none, any: lengths are compared too."""
    return data[np.minimum(places, len(data) - 1)] if len(data) else np.zeros(len(places), dtype=np.uint8)


def _length(data: Bytes, places: Numbers) -> tuple[Numbers, Numbers]:
    """The varint at each place, and where it ends; one of more than five bytes is longer than anything."""
    byte = _at(data, places)
    value = (byte & 0x7F).astype(np.int64)
    after = places + 1
    more = np.flatnonzero(byte >= 0x80)
    for shift in (7, 14, 21, 28):
        if not len(more):
            return value, after
        byte = _at(data, after[more])
        value[more] |= (byte & 0x7F).astype(np.int64) << shift
        after[more] += 1
        more = more[byte >= 0x80]
    value[more] = 1 << 60
    return value, after


def _matrix(data: Bytes, starts: Numbers, size: int) -> Bytes:
    return data[starts[:, None] + np.arange(size)]


def _gather(data: Bytes, starts: Numbers, sizes: Numbers) -> Bytes:
    """The bytes of all spans, back to back."""
    if not len(starts):
        return np.zeros(0, dtype=np.uint8)
    if int(sizes.sum()) >= _LARGE_VALUE * len(starts):
        spans = zip(starts.tolist(), (starts + sizes).tolist(), strict=True)
        return np.concatenate([data[start:end] for start, end in spans])
    if (sizes == sizes[0]).all():
        return np.ascontiguousarray(_matrix(data, starts, int(sizes[0]))).ravel()
    shift = starts - np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return data[np.repeat(shift, sizes) + np.arange(int(sizes.sum()))]


def _varints(data: Bytes, sizes: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """The numbers in spans that lie back to back and each end with a number; how many each has; which are damaged."""
    last = np.flatnonzero(data < 0x80)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    lengths = last - first + 1
    borders = np.concatenate([[0], np.searchsorted(last, np.cumsum(sizes))])
    counts = np.diff(borders)
    values = np.zeros(len(last), dtype=np.uint64)
    for place in range(min(int(lengths.max(initial=0)), 10)):
        those = np.flatnonzero(lengths > place) if place else slice(None)
        digits = (data[first[those] + place] & 0x7F).astype(np.uint64)
        values[those] |= digits << np.uint64(7 * place)
    long = np.flatnonzero(lengths > 10)
    return values.view(np.int64), counts, np.unique(np.searchsorted(borders, long, side="right") - 1)


def _items(data: Bytes, starts: Numbers, ends: Numbers) -> tuple[pa.Array, Numbers, Numbers]:
    """The items of lists of bytes, back to back; how many each has; which lists are damaged."""
    counts = np.zeros(len(starts), dtype=np.int64)
    owners: list[Numbers] = []
    firsts: list[Numbers] = []
    sizes: list[Numbers] = []
    wrong = [np.zeros(0, dtype=np.int64)]
    lists, place, stop = np.arange(len(starts)), starts, ends
    while len(lists) > (_SIDE_BY_SIDE if owners else 0):
        size, first = _length(data, place + 1)
        good = (_at(data, place) == _FIELD_1) & (first + size <= stop)
        wrong.append(lists[~good])
        lists, stop, first, size = lists[good], stop[good], first[good], size[good]
        owners.append(lists)
        firsts.append(first)
        sizes.append(size)
        counts[lists] += 1
        place = first + size
        live = place < stop
        lists, place, stop = lists[live], place[live], stop[live]
    for number, begin, end in zip(lists.tolist(), place.tolist(), stop.tolist(), strict=True):
        spans = list(_items_of(memoryview(data), begin, end))  # type: ignore[arg-type]  # as numpy's stubs have it
        if spans and spans[-1][1] < 0:
            wrong.append(np.array([number]))
            spans.pop()
        owners.append(np.full(len(spans), number))
        firsts.append(np.array([first for first, _ in spans], dtype=np.int64))
        sizes.append(np.array([size for _, size in spans], dtype=np.int64))
        counts[number] += len(spans)
    if not owners:
        return pa.array([], pa.large_binary()), counts, wrong[0]
    order = np.argsort(np.concatenate(owners), kind="stable")
    begins, lengths = np.concatenate(firsts)[order], np.concatenate(sizes)[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(_gather(data, begins, lengths))]
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), buffers), counts, np.concatenate(wrong)


def _items_of(data: memoryview, place: int, end: int) -> Iterator[tuple[int, int]]:
    """Place and size of each item of one long list; the size -1 where it is damaged."""
    while place < end:
        size, shift, at = 0, 0, place + 1
        while at < end and shift <= 28:
            byte = data[at]
            size |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        if data[place] != _FIELD_1 or at + size > end or data[at - 1] >= 0x80:
            yield place, -1
            return
        yield at, size
        place = at + size


def _written_anew(record: bytes) -> bytes:
    """The same example in the form of writers; what protobuf does not know stays, and so is found.

    Raises:
      DecodeError: it is no message of that type.
    """
    example = _example_class()()
    example.ParseFromString(record)
    written: bytes = example.SerializeToString(deterministic=True)
    return written


@cache
def _example_class() -> Any:
    """The class of `tf.train.Example`, from tensorflow/core/example/feature.proto, in a pool of our own."""
    file = descriptor_pb2.FileDescriptorProto(
        name="headrace/example.proto", package="headrace", syntax="proto3"
    )
    proto = descriptor_pb2.FieldDescriptorProto
    kinds: Mapping[str, tuple[Any, int]] = {
        "BytesList": (proto.TYPE_BYTES, 1),
        "FloatList": (proto.TYPE_FLOAT, 2),
        "Int64List": (proto.TYPE_INT64, 3),
    }
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for name, (type_, number) in kinds.items():
        values = file.message_type.add(name=name)
        values.field.add(name="value", number=1, type=type_, label=proto.LABEL_REPEATED)
        feature.field.add(
            name=f"list_{number}",
            number=number,
            type=proto.TYPE_MESSAGE,
            type_name=f".headrace.{name}",
            label=proto.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=proto.TYPE_STRING, label=proto.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=proto.TYPE_MESSAGE,
        type_name=".headrace.Feature",
        label=proto.LABEL_OPTIONAL,
    )
    features.field.add(
        name="feature",
        number=1,
        type=proto.TYPE_MESSAGE,
        type_name=".headrace.Features.FeatureEntry",
        label=proto.LABEL_REPEATED,
    )
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features",
        number=1,
        type=proto.TYPE_MESSAGE,
        type_name=".headrace.Features",
        label=proto.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("headrace.Example"))
