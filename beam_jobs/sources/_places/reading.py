"""Reading many whole files into one Arrow column, each byte copied once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from beam_jobs.sources._places.listing import File, local_version
from beam_jobs.sources._places.locate import filesystem
from beam_jobs.sources._places.names import local_root
from beam_jobs.sources.base import Fault
from schemas.remote_errors import redacted

Problem = tuple[str, str]
_AHEAD = 2  # batches
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def ahead(make: Callable[[_In], _Out], inputs: Iterable[_In], remote: bool) -> Iterator[_Out]:
    """`make` of each input, in order; where it waits for a network, of the next two while one is used."""
    if not remote:
        yield from map(make, inputs)
        return
    with ThreadPoolExecutor(_AHEAD, "headrace-read") as threads:
        coming: deque[Future[_Out]] = deque()
        try:
            for each in inputs:
                coming.append(threads.submit(make, each))
                if len(coming) > _AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def wanted(file: File, limit: int) -> int:
    """The bytes that reading `file` will take: none where it is refused unread."""
    return 0 if _refused(file, limit) else file.size


def read_files(
    root: str, files: Mapping[int, File], limit: int, *, empty: bool
) -> tuple[pa.Array, list[int], list[Fault]]:
    """Read listed files.

    Args:
      root: the folder they lie below.
      files: as listed, by row.
      limit: files with more bytes are refused unread.
      empty: whether a file of no bytes is a record.

    Returns:
      Their bytes, large_binary; the row of each; and the faults of the rest.
    """
    rows, ends, faults = [], [0], []
    planned = []
    for row, file in files.items():
        refused = _refused(file, limit)
        if not refused and not (file.size or empty):
            refused = "empty_file", "the file holds no bytes"
        if refused:
            faults.append(Fault(row, *refused))
        else:
            planned.append((row, file))
    buffer = np.empty(sum(file.size for _, file in planned), dtype=np.uint8)
    memory = memoryview(buffer)  # type: ignore[arg-type]  # numpy arrays have the buffer protocol
    local = local_root(root)
    fetched = _fetch(root, [file for _, file in planned]) if local is None else []
    for position, (row, file) in enumerate(planned):
        at = ends[-1]
        target = memory[at : at + file.size]
        if local is None:
            problem = _take(fetched[position], file, target)
        else:
            problem = _read(f"{local}/{file.path}", file, target)
        if problem:
            faults.append(Fault(row, *problem))
        else:
            rows.append(row)
            ends.append(at + file.size)
    offsets = pa.py_buffer(np.array(ends, dtype=np.int64))
    column = pa.Array.from_buffers(pa.large_binary(), len(rows), [None, offsets, pa.py_buffer(buffer)])
    return column, rows, sorted(faults, key=lambda fault: fault.row)


def decoded(data: pa.Array, rows: list[int]) -> tuple[pa.Array, list[int], list[Fault]]:
    """Bytes as UTF-8 text, large_string; the rows that are; and the faults of those that are not."""
    try:
        return data.cast(pa.large_string()), rows, []
    except pa.ArrowInvalid:
        pass
    faults = {}
    for place, row in enumerate(rows):
        try:
            str(data[place].as_buffer(), "utf-8")
        except UnicodeDecodeError as error:
            wrong = f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8"
            start = bytes(error.object[max(error.start - 20, 0) : error.start + 20])
            faults[place] = Fault(row, "invalid_utf8", wrong, start)
    keep = [place for place in range(len(rows)) if place not in faults]
    text = data.take(pa.array(keep, pa.int64())).cast(pa.large_string())
    return text, [rows[place] for place in keep], list(faults.values())


def _refused(file: File, limit: int) -> Problem | None:
    if file.size < 0:
        return "unreadable", f"{os.strerror(file.version)}: is it a link that leads nowhere?"
    if file.size > limit:
        return "too_large", f"the file holds {file.size} bytes; max_file_bytes allows {limit}"
    return None


def _read(path: str, file: File, target: memoryview) -> Problem | None:
    """Read a local file straight into `target`. The GIL is free while the system works."""
    try:
        # Not blocking, in case a pipe has taken the file's place.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return _gone()
    except OSError as error:
        return "unreadable", str(error.strerror)
    try:
        count = os.readv(handle, [target])
        while 0 < count < file.size:
            more = os.readv(handle, [target[count:]])
            if not more:
                break
            count += more
        # After reading, so that it vouches for the bytes read.
        status = os.fstat(handle)
    except OSError as error:
        return "unreadable", str(error.strerror)
    finally:
        os.close(handle)
    if count != file.size or status.st_size != file.size:
        return (
            "changed_while_reading",
            f"the file was listed with {file.size} bytes and now has {status.st_size}",
        )
    if local_version(status) != file.version:
        return "changed_while_reading", "the file was modified after it was listed"
    return None


def _fetch(root: str, files: list[File]) -> list[Any]:
    fs, base = filesystem(root, root)
    prefix = f"{base.rstrip('/')}/" if base.rstrip("/") else ""
    return (
        fs.cat_whole([prefix + file.path for file in files], [file.size for file in files]) if files else []
    )


def _take(fetched: Any, file: File, target: memoryview) -> Problem | None:
    if isinstance(fetched, FileNotFoundError):
        return _gone()
    if isinstance(fetched, Exception):
        return "unreadable", " ".join(str(redacted(str(fetched)) or type(fetched).__name__).split())
    if len(fetched) != file.size:
        return "changed_while_reading", f"the file was listed with {file.size} bytes and now has another size"
    target[:] = fetched
    return None


def _gone() -> Problem:
    return "changed_while_reading", "the file was listed and is gone"
