"""Wrong arguments and damaged data sets: what, where, the value, what is allowed, what to do next."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from loader import augment, load
from loader.dataset import open_split
from loader.read import Reader
from schemas import HeadraceError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, r"(?s)no such split.*trian.*train, validation.*Did you mean 'train'"),
        ({"features": "imag"}, r"(?s)no such feature.*imag.*Did you mean 'image'"),
        ({"label": "labl"}, r"(?s)no such feature.*Did you mean 'label'"),
        ({"batch_size": 0}, r"(?s)batch_size.*0.*at least 1"),
        ({"batch_size": 2.5}, r"(?s)batch_size.*2\.5.*whole number"),
        ({"batch_size": 4}, r"(?s)different sizes cannot be batched.*'image'.*image_size"),
        ({"augment": True}, r"(?s)does not know what size.*image_size"),
        ({"augment": "mild"}, r"(?s)no augmentation of this name.*light, standard, strong"),
        ({"augment": augment.MixUp(), "image_size": 8}, r"(?s)mix the examples of a batch.*batch_size"),
        ({"image_size": (1, 2, 3)}, r"(?s)image_size is no size.*a height and a width"),
        ({"image_size": 0}, r"(?s)image_size.*at least 1"),
        ({"image_size": 8, "resize": "strech"}, r"(?s)no such way to resize.*Did you mean 'stretch'"),
        ({"cache": "ram"}, r"(?s)no cache of this kind.*memory, disk"),
        ({"repeat": 0}, r"(?s)repeat.*at least 1"),
        ({"state": {"step": 3}}, r"(?s)not a state of a loader.*loader.state"),
        ({"last_batch": "padd"}, r"(?s)last batch.*padd.*keep, drop, pad.*Did you mean 'pad'"),
        ({"on_corrupt": "ignore"}, r"(?s)damaged records.*ignore.*raise, skip"),
        ({"process_index": 2, "process_count": 2}, r"(?s)no such host.*2.*0 … 1"),
        (
            {"process_count": 3, "batch_size": 8},
            r"(?s)cannot share.*process_count=3.*8.*a multiple of 3.*together",
        ),
        ({"split": "train[3%:2%]"}, r"(?s)ends before it begins.*0 … 103"),
        ({"split": "train[1.5:]"}, r"(?s)not a part of a split.*train\[1\.5:\].*train\[10%:20%\]"),
        ({"threads": 0}, r"(?s)threads.*at least 1"),
        ({"label": "name", "one_hot": True}, r"(?s)Only a class label can be one-hot.*'name'.*label"),
    ],
)
def test_wrong_arguments(photos, options, message):
    if not {"image_size", "augment", "batch_size"} & set(options) or "process_count" in options:
        options = {**options, "image_size": 8}
    with pytest.raises(HeadraceError, match=message):
        load(photos, **options)


def test_no_data_set(tmp_path):
    with pytest.raises(HeadraceError, match=r"no data set here"):
        load(tmp_path)


@pytest.fixture
def copy(cells: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cells, tmp_path / "copy"))


def shard(directory: Path) -> Path:
    return directory / "toy-train.tfrecord-00001-of-00003"


def test_missing_shard(copy):
    shard(copy).unlink()
    with pytest.raises(HeadraceError, match=r"(?s)A shard is missing.*00001-of-00003"):
        load(copy)


def test_shard_of_another_size(copy):
    size = shard(copy).stat().st_size
    shard(copy).write_bytes(shard(copy).read_bytes()[:-5])
    with pytest.raises(
        HeadraceError, match=rf"(?s)size differs.*00001.*{size - 5} bytes.*{size} bytes.*verify"
    ):
        load(copy)


def reader(directory: Path) -> Reader:
    _, split = open_split(directory, "train")
    return Reader(split)


def test_flipped_byte_names_the_record(copy):
    _, split = open_split(copy, "train")
    frames = split.frames(1)
    data = bytearray(shard(copy).read_bytes())
    data[int(frames[3]) + 20] ^= 1
    shard(copy).write_bytes(data)
    with pytest.raises(
        HeadraceError, match=rf"(?s)damaged.*00001-of-00003, record 3, byte {frames[3]}.*verify"
    ):
        reader(copy).read(np.arange(103))
    with pytest.raises(
        tf.errors.OpError, match=rf"HeadraceError: A record is damaged(?s:.*)record 3, byte {frames[3]}"
    ):
        list(load(copy))


def test_shard_truncated_while_it_is_read(copy):
    opened = reader(copy)
    shard(copy).write_bytes(shard(copy).read_bytes()[:-5])
    with pytest.raises(HeadraceError, match=r"(?s)ends before its last record.*00001"):
        opened.read(np.arange(103))


def test_records_come_in_the_order_asked_for(cells):
    given = np.random.default_rng(0).permutation(103)
    one_by_one = [reader(cells).read(np.array([i]))[0].texts()[0] for i in range(103)]
    assert reader(cells).read(given)[0].texts().tolist() == [one_by_one[i] for i in given]
    assert reader(cells).read(np.zeros(0, np.int64))[0].texts().tolist() == []


def test_without_tensorflow_the_error_says_what_to_install():
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'tensorflow' else real(n, *a)\n"
        "import loader"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode != 0
    assert "pip install 'headrace[loader]'" in ran.stderr


def test_loader_imports_no_beam():
    code = "import loader, sys; print([m for m in sys.modules if m.split('.')[0] in ('apache_beam', 'beam_jobs')])"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip() == "[]"
