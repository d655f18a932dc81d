"""What the indexes hold of features, for a whole split without reading a record."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from loader_data import deal, write_dataset

from loader.dataset import open_split
from schemas import HeadraceError

RECORDS = [
    {
        "label": i % 3,
        "share": i / 4,
        "wet": i % 2,
        "title": f"nº {i}",
        "ids": list(range(i % 4)),
        "fare": float(i),
    }
    for i in range(50)
]
FEATURES = {
    "label": {"type": "class_label", "names": ["a", "b", "c"]},
    "share": {"type": "float32"},
    "wet": {"type": "bool"},
    "title": {"type": "text", "max_bytes": 20},
    "ids": {"type": "int64", "shape": [None]},
    "fare": {"type": "float32"},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("columns"),
        FEATURES,
        {"train": deal(RECORDS, 7), "test": deal(RECORDS[:2], 4)},
        label="label",
        index=["label", "share", "wet", "title", "ids"],
    )


@pytest.mark.parametrize(("split", "records"), [("train", RECORDS), ("test", RECORDS[:2])])
@pytest.mark.parametrize(
    ("feature", "dtype"), [("label", "i8"), ("share", "f4"), ("wet", "?"), ("title", "O"), ("ids", "i4")]
)
def test_a_column_holds_every_record_by_id(
    directory: Path, split: str, records: list[dict[str, object]], feature: str, dtype: str
) -> None:
    _, found = open_split(directory, split)
    column = found.column(feature)
    held = [record[feature] for record in records]
    assert column.dtype == dtype
    assert column.tolist() == ([len(ids) for ids in held] if feature == "ids" else held)  # type: ignore[arg-type]
    assert found.column(feature) is column
    with pytest.raises(ValueError, match="read-only"):
        column[0] = column[1]


def test_a_feature_that_no_index_holds_is_an_error_that_says_what_to_do(directory: Path) -> None:
    _, split = open_split(directory, "train")
    with pytest.raises(HeadraceError, match="The index holds nothing of a feature 'fare'") as caught:
        split.column("fare")
    assert caught.value.allowed == "label, share, title, wet, ids"
    assert "job's `index: [...]`" in str(caught.value.hint)


def test_an_index_of_another_shard_is_not_believed(directory: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(directory, tmp_path / "d"))
    shutil.copy(
        root / "index/toy-test.tfrecord-00001-of-00004.arrow",
        root / "index/toy-train.tfrecord-00002-of-00007.arrow",
    )
    _, split = open_split(root, "train")
    with pytest.raises(HeadraceError, match="An index does not belong to its shard") as caught:
        split.column("label")
    assert caught.value.value == "1 records"
    np.testing.assert_array_equal(open_split(directory, "train")[1].column("wet")[:4], [0, 1, 0, 1])
