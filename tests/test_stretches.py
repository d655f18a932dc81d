"""Stretches of files in one array: mapped or read, the same bytes."""

from __future__ import annotations

import mmap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from beam_jobs import stretches
from beam_jobs.local_store import LocalStore
from beam_jobs.pieces import SPARE
from beam_jobs.store_path import StorePath

SIZE = 1_000_003
LONG = 256 << 10


@pytest.fixture
def place(tmp_path: Path) -> StorePath:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(random.bytes(SIZE))
    return StorePath(LocalStore(tmp_path), "")


def wanted(place: StorePath) -> list[stretches.Stretch]:
    """Long and short ones, on pages and across them, to a file's last byte."""
    a, b = place / "a", place / "b"
    return [
        (a, 0, LONG),
        (a, 5, 100),
        (a, 4096 * 3 + 7, LONG + 4089),
        (b, SIZE - LONG, LONG),
        (b, SIZE - 1, 1),
        (b, 4096, LONG + 4096),
    ]


def check(place: StorePath) -> None:
    found = wanted(place)
    data, begins = stretches.gather(found)
    for (file, offset, length), begin in zip(found, begins.tolist(), strict=True):
        assert data[begin : begin + length].tobytes() == file.read()[offset : offset + length]
        assert begin + length + SPARE <= len(data)
    assert not data.flags.writeable


def mapped(data: np.ndarray) -> list[str]:
    """Names of the files whose pages an array holds."""
    first, last = data.ctypes.data, data.ctypes.data + len(data)
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        start = int(span.partition("-")[0], 16)
        if first - mmap.PAGESIZE < start < last and name.startswith("/"):
            found.append(Path(name).name)
    return found


def test_long_ones_are_mapped(place: StorePath) -> None:
    check(place)
    data, _ = stretches.gather(wanted(place))
    assert sorted(mapped(data)) == ["a", "a", "b", "b"]
    region = data.ctypes.data
    del data
    assert not any(f"{region:x}-" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("missing", ["system", "pages", "mapping"])
def test_what_cannot_be_mapped_is_read(
    place: StorePath, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    libc = stretches._libc
    assert libc is not None
    if missing == "system":
        monkeypatch.setattr(stretches, "_libc", None)
    else:
        refusing = SimpleNamespace(
            mmap=libc.mmap if missing == "pages" else lambda *_: stretches._FAILED,
            munmap=libc.munmap,
            madvise=lambda *_: -1,
            mremap=libc.mremap,
        )
        monkeypatch.setattr(stretches, "_libc", refusing)
    check(place)
    data, _ = stretches.gather(wanted(place))
    assert mapped(data) == []


def test_a_file_that_ends_before_is_an_error(place: StorePath) -> None:
    with pytest.raises(OSError, match="ends before byte"):
        stretches.gather([(place / "a", SIZE - LONG, LONG + 1)])
    with pytest.raises(FileNotFoundError):
        stretches.gather([(place / "c", 0, LONG)])
