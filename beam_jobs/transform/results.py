"""What an analysis has found so far, between phases: a small file in the work directory."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs.transform.merge import Bound
from beam_jobs.transform.partial import from_ipc, seal, to_ipc, unseal

_BYTES, _NUMBERS, _WORDS = "bytes", "numbers", "words"


_PARTS = "parts"


def to_bytes(bound: list[Bound], parts: list[str]) -> bytes:
    """All values as one file, with the names of the files that they were found in."""
    content = {_PARTS: json.dumps(parts).encode()}
    for each in bound:
        kind, data = _encode(each.value)
        content[json.dumps([each.tensor, each.dtype, each.file, kind])] = data
    return seal(content)


def from_bytes(data: bytes) -> tuple[list[Bound], list[str]] | None:
    """What `to_bytes` made a file of; None where it is damaged."""
    content = unseal(data)
    if content is None:
        return None
    parts = json.loads(content.pop(_PARTS))
    found = []
    for head, value in content.items():
        tensor, dtype, file, kind = json.loads(head)
        found.append(Bound(tensor, dtype, _decode(kind, value), file))
    return found, parts


def _encode(value: Any) -> tuple[str, bytes]:
    if isinstance(value, bytes):
        return _BYTES, value
    array = np.asarray(value)
    if array.dtype == object:  # the keys of an analyser by key, in one dimension
        return _WORDS, to_ipc(pa.table({"word": pa.array(array.tolist(), pa.large_binary())}))
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return _NUMBERS, out.getvalue()


def _decode(kind: str, data: bytes) -> Any:
    if kind == _BYTES:
        return data
    if kind == _WORDS:
        return np.array(from_ipc(data)["word"].to_pylist(), object)
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
