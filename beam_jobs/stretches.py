"""Stretches of files in one array: long ones of local files are mapped to where they belong, the others are read.

Copying bytes out of the page cache takes half as long as their SHA-256. Mapped, they are checked, hashed and written
from where the system holds them. What cannot be mapped, since the system or the file system cannot, or a page cannot
be read, is read, which tells what is wrong with it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from beam_jobs.pieces import SPARE
from beam_jobs.store_path import StorePath, fill

_MAPPED_BYTES = 256 << 10  # shorter ones take less time to read than to map
_POPULATE_READ = 22  # of Linux's mman.h, as are these
_REMAP_MAY_MOVE, _REMAP_FIXED = 1, 2
_FAILED = ctypes.c_void_p(-1).value

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Stretch = tuple[StorePath, int, int]  # a file, and the first byte and the length of what is wanted of it


def gather(stretches: Sequence[Stretch]) -> tuple[Bytes, Places]:
    """The bytes of stretches in one array, and where in it each begins.

    Returns:
      uint8, not to be written to, in which `SPARE` bytes and more lie behind every stretch; int64 (n,). A file must
      stay as it is for as long as the array is used.

    Raises:
      OSError: a file is missing or ends before.
    """
    names = [_name(place, length) for place, _, length in stretches]
    begins, end = np.zeros(len(stretches), np.int64), 0
    for number, (_, offset, length) in enumerate(stretches):
        if names[number] is not None:  # in pages of its own
            end += -end % mmap.PAGESIZE + offset % mmap.PAGESIZE
        begins[number] = end
        end += length
        if names[number] is not None:
            end += -end % mmap.PAGESIZE
    region = mmap.mmap(-1, end + SPARE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    data = np.frombuffer(region, np.uint8)
    left = [
        number
        for number, ((_, offset, length), name) in enumerate(zip(stretches, names, strict=True))
        if name is None or not _map(name, offset, length, data.ctypes.data + int(begins[number]))
    ]
    read_into(data, [stretches[number] for number in left], begins[left])
    data.flags.writeable = False
    return data, begins


def read_into(data: Bytes, stretches: Sequence[Stretch], begins: Places) -> None:
    """Reads stretches to where in an array each is to begin."""
    fill(
        [
            (place, offset, data.data[begin : begin + length])
            for (place, offset, length), begin in zip(stretches, begins.tolist(), strict=True)
        ]
    )


def _name(place: StorePath, length: int) -> str | None:
    """The file's name, where it is local and the stretch is long."""
    return place.store.local(place.path) if _libc is not None and length >= _MAPPED_BYTES else None


def _map(name: str, offset: int, length: int, target: int) -> bool:
    """Maps bytes of a file to an address of ours that lies in its page as they do; whether that could be done."""
    assert _libc is not None
    lead = offset % mmap.PAGESIZE
    size = lead + length
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_size < offset + length:
            return False
        mapped = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, offset - lead)
    finally:
        os.close(file)
    if mapped == _FAILED:
        return False
    # Elsewhere first: a page that cannot be read is told of here, and would be the end of the process later.
    if _libc.madvise(mapped, size, _POPULATE_READ):
        _libc.munmap(mapped, size)
        return False
    if _libc.mremap(mapped, size, size, _REMAP_MAY_MOVE | _REMAP_FIXED, target - lead) == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return True


def _load_libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mremap"):  # Linux's alone
        return None
    size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    libc.mmap.argtypes, libc.mmap.restype = (pointer, size, number, number, number, ctypes.c_int64), pointer
    libc.munmap.argtypes = (pointer, size)
    libc.madvise.argtypes = (pointer, size, number)
    libc.mremap.argtypes, libc.mremap.restype = (pointer, size, size, number, pointer), pointer
    return libc


_libc = _load_libc()
