"""Data sets made with Hugging Face's own package, and files that are wrong in ways it would not write."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import datasets

datasets.disable_progress_bars()
ROWS_A_FILE = 7
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "meta": {"width": datasets.Value("int32"), "kind": datasets.ClassLabel(names=["x", "y", "z"])},
        "words": datasets.List(datasets.Value("int64")),
        "objects": datasets.List(
            {"box": datasets.List(datasets.Value("float32"), length=4), "area": datasets.Value("int64")}
        ),
    }
)


def png(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(sink, "png")
    return sink.getvalue()


def row(number: int) -> dict[str, Any]:
    return {
        "id": f"r{number:04d}",
        "image": {"bytes": png(number), "path": f"{number}.png"},
        "label": number % 2,
        "meta": {"width": number, "kind": number % 3},
        "words": list(range(number % 4)),
        "objects": [{"box": [0, 0, 1, i], "area": i} for i in range(number % 3)],
    }


def dataset(numbers: Sequence[int]) -> datasets.Dataset:
    return datasets.Dataset.from_list([row(number) for number in numbers], features=FEATURES)


def save(place: Path, count: int) -> None:
    """A folder as `save_to_disk` writes it, 7 rows a file."""
    if count:
        dataset(range(count)).save_to_disk(place, num_shards=-(-count // ROWS_A_FILE))


def export(place: Path, count: int) -> None:
    """A folder of Parquet files as on the hub, 7 rows a file."""
    files = -(-count // ROWS_A_FILE)
    (place / "data").mkdir(parents=True, exist_ok=True)
    for number in range(files):
        some = dataset(range(number * ROWS_A_FILE, min((number + 1) * ROWS_A_FILE, count)))
        some.to_parquet(place / f"data/train-{number:05d}-of-{files:05d}.parquet")


def table(numbers: Sequence[int], **columns: pa.Array) -> pa.Table:
    """Rows as a table of the same columns, some of them replaced."""
    made = dataset(numbers).with_format("arrow")[:]
    for name, values in columns.items():
        made = made.set_column(made.schema.names.index(name), made.schema.field(name), [values])
    return made


def bad_table() -> pa.Table:
    """Five rows of which three have each a fault of their own."""
    numbers = [5000, 5001, 5002, 5003, 5004]
    images = [row(number)["image"] for number in numbers]
    images[1] = {"bytes": None, "path": "/etc/hostname"}
    texts = pa.array([b"r5000", b"r5001", b"r\xff", b"r5003", b"r5004"], pa.binary())
    return table(
        numbers,
        id=texts.view(pa.string()),
        image=pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        label=pa.array([0, 1, 0, 9, -1], pa.int64()),
    )


def add_saved(place: Path, rows: pa.Table, name: str = "more.arrow") -> None:
    """One more file to a saved folder."""
    with pa.ipc.new_stream(place / name, rows.schema) as writer:
        writer.write_table(rows)
    state = json.loads((place / "state.json").read_text())
    state["_data_files"].append({"filename": name})
    (place / "state.json").write_text(json.dumps(state))


def add_exported(place: Path, rows: pa.Table) -> None:
    """One more file to a folder of Parquet files."""
    pq.write_table(rows, place / "data/train-99999-of-99999.parquet")
