"""The user's functions of the tests of `python`: files of a folder, a record for each line `id,text,number`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ONE_THIRD = {"id": "one", "third": 1 / 3}


def list_files(path: str) -> list[dict[str, str]]:
    """A partition for each file; its value changes with the file's bytes."""
    files = sorted(file for file in Path(path).iterdir() if file.is_file())
    return [{"digest": hashlib.sha256(f.read_bytes()).hexdigest()[:16], "file": f.name} for f in files]


def read_lines(partition: dict[str, str], path: str) -> Iterator[Any]:
    """Dicts; lines that begin with `!` are what is wrong in its way."""
    for line in (Path(path) / partition["file"]).read_text().splitlines():
        name, text, number = line.split(",")
        if name == "!text":
            yield text
        elif name == "!type":
            yield {"id": text, "number": number, "words": []}
        elif name == "!column":
            yield {"id": text, "numbre": 1}
        else:
            yield {"id": name, "number": int(number), "words": text.split(), "more": {"length": len(text)}}


def read_batches(partition: dict[str, str], path: str) -> Iterator[pa.RecordBatch]:
    """Record batches of three rows."""
    lines = [line.split(",") for line in (Path(path) / partition["file"]).read_text().splitlines()]
    for start in range(0, len(lines), 3):
        some = lines[start : start + 3]
        more = pa.array([{"length": len(text)} for _, text, _ in some])
        texts = [number for _, _, number in some]
        numbers = texts if any(name == "!type" for name, _, _ in some) else list(map(int, texts))
        yield pa.RecordBatch.from_pydict(
            {"id": [name for name, _, _ in some], "number": numbers, "more": more}
        )


def cut_by_arrow(partition: Any) -> Iterator[dict[str, Any]]:
    """Numbers and moments of which Arrow would keep a part, behind those that give the columns their types."""
    day = date(2024, 2, 29)
    for row in range(1000):
        yield {"id": str(row), "n": row, "list": [1], "day": day}
    yield {"id": "also whole", "n": 2.0, "list": np.array([2]), "day": datetime(2024, 2, 29)}
    yield {"id": "float", "n": 0.5, "list": [], "day": day}
    yield {"id": "decimal", "n": Decimal("1.5"), "list": [], "day": day}
    yield {"id": "list", "n": 1, "list": [1, 1.5], "day": day}
    yield {"id": "array", "n": 1, "list": np.array([1, 1.5]), "day": day}
    yield {"id": "moment", "n": 1, "list": None, "day": datetime(2024, 2, 29, 12)}
    yield {"id": "no number", "n": float("nan"), "list": [], "day": day}


def dicts_in_lists(partition: Any) -> Iterator[Any]:
    """Boxes of pictures, as dicts and in a record batch."""
    for row in range(1000):
        yield {"id": str(row), "boxes": [{"x": row, "name": {"first": "n"}}] * (row % 3)}
    yield {"id": "half", "boxes": [{"x": 0.5}]}
    yield {"id": "more", "boxes": [{"x": 1, "y": 2}]}
    yield {"id": "less", "boxes": [{"x": 1}, None, {"x": 2, "name": None}]}
    yield {"id": "none", "boxes": None}
    yield {"id": "no dicts", "boxes": [{"x": 1}, 2]}
    yield pa.RecordBatch.from_pylist([{"id": "batch", "boxes": [{"x": 7, "name": {"first": "b"}}]}])
    yield pa.RecordBatch.from_pylist(
        [{"id": "batch of halves", "boxes": [{"x": 0.5, "name": {"first": "b"}}]}]
    )


def none_for_a_dict(partition: Any) -> Iterator[Any]:
    yield {"id": "none", "more": None}
    yield {"id": "some", "more": {"length": 1, "deep": None}}
    yield {"id": "all", "more": {"length": 2, "deep": {"x": 3}}}


def parts() -> list[Any]:
    return ["a", 2, {"of": 3}]


def count(partition: Any) -> list[dict[str, Any]]:
    return [{"id": f"{partition} {i}", "i": i} for i in range(3)]


def fail_in_row_three(partition: str) -> Iterator[dict[str, Any]]:
    yield {"id": "1"}
    yield {"id": "2"}
    raise KeyError(f"no {partition}")


def large(partition: int) -> Iterator[dict[str, Any]]:
    for i in range(5):
        yield {"id": str(i), "data": bytes([i]) * (3 << 20)}


def large_batch(partition: int) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_pydict({"id": list(map(str, range(10))), "data": [bytes(3 << 20)] * 10})


def no_partitions() -> list[Any]:
    return []


def not_a_number() -> list[Any]:
    return [float("nan")]


def a_set() -> set[int]:
    return {1, 2}


def none(partition: Any) -> None:
    return None


def nothing(partition: Any) -> list[Any]:
    return []


def late(partition: int) -> list[dict[str, Any]]:
    return [{"id": "late", "n": 1}] if partition == 3 else []


def mixed(partition: Any) -> list[Any]:
    return [{"id": 1}, {"id": "b"}]


def empty_column(partition: Any) -> list[Any]:
    return [{"id": "a", "x": None}, {"id": "b"}]


def texts(partition: Any) -> list[Any]:
    return ["a", "b"]


def odd_names(partition: Any) -> list[Any]:
    return [{"id": "a"}, {"id": "b", 3: 4}]


def other_batches(partition: Any) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_pydict({"id": ["a"]})
    yield pa.RecordBatch.from_pydict({"id": ["b"], "extra": [1]})


def images(partition: int) -> Iterator[dict[str, Any]]:
    """PNGs of 8 × 8 pixels, a label, a list, and in each partition one that is no image."""
    import io

    from PIL import Image

    for i in range(20):
        sink = io.BytesIO()
        Image.new("RGB", (8, 8), (partition, i, 0)).save(sink, "png")
        data = b"no image" if i == 7 else sink.getvalue()
        yield {"id": f"{partition}-{i}", "image": data, "label": "ab"[i % 2], "words": list(range(i % 4))}
