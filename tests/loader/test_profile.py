"""`headrace profile`: every stage, what bounds, and changes checked; the command finds it without importing it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs import cli
from loader.profile import profile
from loader.profile_text import lines
from schemas import HeadraceError


def names(found) -> list[str]:
    return [stage.name for stage in found.stages]


def test_of_images(cells):
    found = profile(cells, step_seconds=0.002, seconds=1, batch_size=16)
    assert names(found) == ["read", "parse", "decode", "batch", "finish", "transfer"]
    assert found.options == {"batch_size": 16, "augment": "standard", "split": "train"}
    assert all(stage.cpu > 0 and stage.seconds > 0 for stage in found.stages)
    decoded = next(stage for stage in found.stages if stage.name == "decode")
    assert decoded.bytes == 30 * 30
    assert "random crop" in decoded.what
    assert found.bound in [*names(found), "other"]
    assert 0 <= found.idle_predicted < 1
    assert 0 <= found.idle_measured < 1
    assert json.loads(json.dumps(found.to_json()))["records"] == 103
    text = list(lines(found))
    assert text[0].startswith("toy 1.0.0, train: 103 records, ")
    assert max(map(len, text)) <= 80


def test_of_images_of_many_sizes(photos):
    found = profile(photos, "train[:50%]", seconds=1, batch_size=8, image_size=32, augment="strong")
    assert names(found) == ["read", "parse", "decode", "augment", "batch", "finish", "transfer"]
    assert any(change.what == 'augment="standard"' for change in found.changes) or not found.complete
    assert max(map(len, lines(found))) <= 80


def test_from_the_cache(cells):
    found = profile(cells, seconds=1, batch_size=8, cache="memory")
    assert names(found)[0] == "cache"
    assert not {"read", "parse", "decode"} & set(names(found))


def test_of_a_table(table):
    found = profile(table, seconds=2, batch_size=16)
    assert names(found) == ["read", "parse", "batch", "transfer"]
    assert "augment" not in found.options
    text = "\n".join(lines(found))
    assert "parse     7 features" in text
    assert max(map(len, text.splitlines())) <= 80


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
