"""The user's transforms of the tests of `beam`: they give their rows in another order every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam

from tests.sources.python_functions import images

COLUMNS = {"id": "string", "number": "int64", "words": "list<string>"}


def shuffled(items: list[Any]) -> list[Any]:
    random.SystemRandom().shuffle(items)
    return items


class Lines(beam.PTransform):
    """The lines `id,text,number` of all files of a folder; lines that begin with `!` are what is wrong in its way."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._files = sorted(str(file) for file in Path(path).iterdir() if file.is_file())

    def expand(self, begin: Any) -> Any:
        return begin | beam.Create(shuffled(self._files)) | beam.FlatMap(lines) | beam.Reshuffle()


def lines(file: str) -> Iterator[Any]:
    for line in shuffled(Path(file).read_text().splitlines()):
        name, text, number = line.split(",")
        if name == "!text":
            yield text
        elif name == "!type":
            yield {"id": text, "number": number, "words": []}
        elif name == "!column":
            yield {"id": text, "numbre": 1}
        else:
            yield {"id": name, "number": int(number), "words": text.split()}


class Images(beam.PTransform):
    """What the function `images` yields for four partitions."""

    def expand(self, begin: Any) -> Any:
        return begin | beam.Create(shuffled([1, 2, 3, 4])) | beam.FlatMap(images) | beam.Reshuffle()


def same_keys() -> Any:
    """Rows of which some have one key, some none."""
    rows = [{"id": "k" if i % 2 else None, "number": i, "data": bytes([i])} for i in range(20)]
    return beam.Create(shuffled(rows))


def failing() -> Any:
    return beam.Create([1]) | beam.Map(lambda number: {"id": number / 0})


def large() -> Any:
    return beam.Create(list(range(6))) | beam.Map(lambda i: {"id": str(i), "data": bytes([i]) * (3 << 20)})
