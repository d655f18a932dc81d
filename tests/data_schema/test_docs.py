"""docs/schema.md: what it shows is what happens, from an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "schema.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+)( \+)?)?\n(.*?)^```$", re.M | re.S)


def test_the_page_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks with a file's name are written (`+`: added to it), commands are run; `…` stands for anything."""
    commands = 0
    for language, name, more, text in BLOCK.findall(PAGE.read_text("utf-8")):
        if name:
            with open(tmp_path / name, "a" if more else "w", encoding="utf-8") as file:
                file.write(text)
        elif language == "console":
            for step in re.split(r"^\$ ", text, flags=re.M)[1:]:
                command, _, expected = step.partition("\n")
                _check(tmp_path, command, expected)
                commands += 1
    assert commands >= 10


def _check(folder: Path, command: str, expected: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=os.environ | {"PATH": path, "COLUMNS": "120"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == (1 if command.endswith("# exit 1") else 0), done.stdout
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("…"))
    assert re.fullmatch(pattern, done.stdout.strip(), re.S), f"$ {command}\n{done.stdout}"
