"""A process that ends, or fails, in the middle of an epoch ends at once, with its own exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from loader import load
elements = iter(load(sys.argv[1], batch_size=8, image_size=16, augment=True, repeat=True))
next(elements)
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("1 / 0", 1)])
def test_the_end_in_the_middle_of_an_epoch(photos, end, code):
    ran = subprocess.run(
        [sys.executable, "-c", CODE.format(end=end), str(photos)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == code, ran.stderr
    assert ("ZeroDivisionError" in ran.stderr) == (code == 1)
    assert "finalizing" not in ran.stderr
