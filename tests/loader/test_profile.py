"""`headrace profile`: every stage, what bounds, and changes checked; the command finds it without importing it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded
from loader_data import deal, write_dataset

from beam_jobs import cli
from loader import load, native, profile_changes
from loader.augment import FlipLeftRight
from loader.profile import measure_stages, profile
from loader.profile_changes import changes
from loader.profile_flow import Flow
from loader.profile_stages import measure_cache, measure_decode, measure_finish, measure_read, measure_rest
from loader.profile_text import lines
from schemas import HeadraceError


@pytest.fixture(params=["native", "tensorflow"])
def core(request, monkeypatch) -> bool:
    """Whether the native core is there: with it, and without."""
    if request.param == "native" and native.core is None:
        pytest.skip("the native core was not built")
    if request.param == "tensorflow":
        monkeypatch.setattr(native, "core", None)
    return request.param == "native"


@pytest.fixture(scope="module")
def snaps(tmp_path_factory) -> Path:
    """JPEGs of one size with a label: what the core makes in one pass."""
    rng = np.random.default_rng(9)
    records = [{"image": encoded(rng, 40, 60, "JPEG"), "label": i % 2} for i in range(80)]
    return write_dataset(
        tmp_path_factory.mktemp("snaps"),
        {
            "image": {"type": "image", "formats": ["jpeg"], "shape": [40, 60, 3]},
            "label": {"type": "class_label", "names": ["good", "bad"]},
        },
        {"train": deal(records, 3)},
        label="label",
    )


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Path:
    """A table without lists of any length."""
    records = [{"a": i, "b": i % 2, "c": f"row {i}", "d": [float(i), 0.0]} for i in range(6000)]
    return write_dataset(
        tmp_path_factory.mktemp("numbers"),
        {
            "a": {"type": "int64"},
            "b": {"type": "bool"},
            "c": {"type": "text"},
            "d": {"type": "float32", "shape": [2]},
        },
        {"train": deal(records, 2)},
    )


def names(found) -> list[str]:
    return [stage.name for stage in found.stages]


def what(found, name: str) -> str:
    return next(stage.what for stage in found.stages if stage.name == name)


def text_of(found) -> str:
    text = list(lines(found))
    assert max(map(len, text)) <= 80
    return "\n".join(text)


def test_of_images_in_one_pass(snaps, core):
    """Of JPEGs the core makes whole batches while it decodes."""
    found = profile(snaps, step_seconds=0.002, seconds=1, batch_size=16)
    done = "JPEG, random crop, 40×60"
    if core:
        assert names(found) == ["read", "parse", "decode", "transfer"]
        assert what(found, "decode") == f"{done}, flip"
    else:
        assert names(found) == ["read", "parse", "decode", "batch", "finish", "transfer"]
        assert what(found, "decode") == done
        assert what(found, "finish") == "flip"
    assert found.native == core
    assert ("native core was not built" in text_of(found)) != core
    decoded = next(stage for stage in found.stages if stage.name == "decode")
    assert decoded.bytes == 40 * 60 * 3
    assert all(stage.cpu > 0 and stage.seconds > 0 for stage in found.stages)
    assert found.bound in [*names(found), "other"]
    assert 0 <= found.idle_predicted < 1
    assert 0 <= found.idle_measured < 1


def test_of_images_that_the_core_does_not_decode(cells, core):
    found = profile(cells, seconds=1, batch_size=16)
    assert names(found) == ["read", "parse", "decode", "batch", "finish", "transfer"]
    assert found.options == {"batch_size": 16, "augment": "standard", "split": "train"}
    assert what(found, "decode") == "PNG, random crop, 30×30"
    assert next(stage.bytes for stage in found.stages if stage.name == "decode") == 30 * 30
    report = json.loads(json.dumps(found.to_json()))
    assert (report["records"], report["native"]) == (103, core)
    assert text_of(found).startswith("toy 1.0.0, train: 103 records, ")


def test_with_work_for_each_image(photos, core):
    found = profile(photos, "train[:50%]", seconds=1, batch_size=8, image_size=32, augment="strong")
    assert names(found) == ["read", "parse", "decode", "augment", "batch", "finish", "transfer"]
    assert "flip" not in what(found, "decode")
    assert what(found, "augment") == "FlipLeftRight, ColorJitter"
    assert what(found, "finish") == "MixUp, CutMix"
    assert any(change.what == 'augment="standard"' for change in found.changes) or not found.complete
    assert found.native == core
    text_of(found)


def test_normalised_in_the_same_pass(snaps):
    """The command has no option for that, but stages are what the recipe says."""
    if native.core is None:
        pytest.skip("the native core was not built")
    flow = Flow(load(snaps, batch_size=16, augment=True, normalize="unit", repeat=True)._recipe)
    texts = measure_read(flow, 0.1)[1]
    stage = measure_decode(flow, flow.encoded(texts), 0.1)
    assert stage.what == "JPEG, random crop, 40×60, flip, normalise"
    assert stage.bytes == 4 * 40 * 60 * 3
    assert measure_finish(flow, 0.1) is None


def test_from_the_cache(snaps, core):
    """Flips are part of the lookup by the core, a pass of their own else."""
    found = profile(snaps, seconds=1, batch_size=8, augment=None, cache="memory")
    assert names(found)[0] == "cache"
    assert not {"read", "parse", "decode", "augment", "batch"} & set(names(found))
    flow = Flow(filled(snaps, augment=FlipLeftRight()))
    assert measure_cache(flow, 0.1).what == ("lookup, flip" if core else "lookup, copy")
    assert [stage.name for stage in measure_rest(flow, 0.1)] == ([] if core else ["finish"])


def test_cropped_behind_the_cache(cells, core):
    found = profile(cells, seconds=1, batch_size=8, cache="memory")
    assert names(found) == ["cache", "augment", "batch", "finish", "transfer"]
    assert what(found, "cache") == "lookup, copy"
    assert found.native == core


def filled(directory, **options):
    """The recipe of a loader whose cache is full."""
    loader = load(directory, batch_size=8, cache="memory", repeat=True, **options)
    list(loader.take(loader.steps_per_epoch()))
    return loader._recipe


def test_of_a_table(numbers, core):
    found = profile(numbers, seconds=2, batch_size=16)
    assert names(found) == ["read", "parse", "batch", "transfer"]
    assert "augment" not in found.options
    assert "parse     4 features" in text_of(found)
    assert found.native == core


def test_of_a_table_with_lists_of_any_length(table):
    """Which TensorFlow parses, core or not."""
    found = profile(table, seconds=1, batch_size=16)
    assert names(found) == ["read", "parse", "batch", "transfer"]
    assert what(found, "parse") == "7 features"
    text_of(found)


def test_chunks_that_are_batches_are_not_cut(numbers):
    assert "batch" not in names(profile(numbers, seconds=1, batch_size=3000))


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (
            "snaps",
            {"augment": "strong", "image_size": 16},
            ['cache="', "store images of", 'augment="standard"'],
        ),
        ("numbers", {"threads": 1}, ["pack 2 single numbers", "batch_size=64", "threads="]),
    ],
)
def test_every_change_can_be_tried(kind, options, expected, core, request, monkeypatch):
    """Whatever comes of it: timings are no tests."""
    monkeypatch.setattr(profile_changes, "_GAIN", 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    directory = request.getfixturevalue(kind)

    def make(split="train", **more):
        return load(directory, split, training=True, repeat=True, **{"batch_size": 16, **options, **more})

    setup = dataclasses.replace(measure_stages(make(), make, "train", 0.02), free=0.0)
    found, complete = changes(setup, 0.02, math.inf)
    assert complete
    assert len(found) == len(expected)
    for start in expected:
        change = next(change for change in found if change.what.startswith(start))
        assert change.predicted > 0
        assert change.measured > 0


def test_too_few_records(cells):
    with pytest.raises(HeadraceError, match="too few records to measure") as caught:
        profile(cells, "train[:10]", batch_size=11)
    assert caught.value.value == "10 records"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step-ms", "0"], "expected a number above 0"),
        (["--seconds", "soon"], "soon: expected a number above 0"),
        (["--batch-size", "many"], "invalid int value"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["profile", "nowhere", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--augment", "stong"], "There is no augmentation of this name."),
        (["--split", "trian"], "has no such split."),
        (["--cache", "tape"], "There is no cache of this kind."),
    ],
)
def test_errors_of_the_loader(arguments, what, cells, capsys):
    assert cli.main(["profile", str(cells), "--json", *arguments]) == 1
    assert what in json.loads(capsys.readouterr().out)["error"]["what"]


def test_the_command(cells):
    """From outside: found by its entry point, and nothing but the report is printed."""
    command = [Path(sys.executable).with_name("headrace"), "profile", cells, "--seconds", "0.2"]
    done = subprocess.run(
        [*map(str, command), "--batch-size", "16", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["options"]["batch_size"] == 16
