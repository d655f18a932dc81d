"""Parts of a file, written by few and small calls of the system."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs import files


@pytest.mark.parametrize("short", [False, True])
def test_parts_are_written_whole_and_in_order(
    short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    parts = [np.frombuffer(rng.bytes(int(size)), np.uint8) for size in rng.choice([0, 1, 3, 700, 2500], 400)]
    real, calls = os.writev, []

    def writev(descriptor: int, some: list[Any]) -> int:
        calls.append((len(some), sum(map(len, some))))
        if short:  # as the system may
            some = [b"".join(bytes(part) for part in some)[: max(1, calls[-1][1] // 3)]]
        return real(descriptor, some)

    monkeypatch.setattr(files, "_WRITTEN_BYTES", 1000)
    monkeypatch.setattr(files, "_IOV_MAX", 8)
    monkeypatch.setattr(files.os, "writev", writev)
    with (tmp_path / "file").open("wb", buffering=0) as file:
        files.write_parts(file, parts)
        files.write_parts(file, [])
    assert (tmp_path / "file").read_bytes() == b"".join(part.tobytes() for part in parts)
    assert all(count <= 8 and 0 < size <= 1000 for count, size in calls)
    assert all(count == 8 or size == 1000 for count, size in calls[:-1]), "as few calls as can be"
