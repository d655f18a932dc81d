"""What records are compared by: facts beside each record, and files of a version for jobs that come later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.duplicates.images import THUMBNAIL, thumbnail
from beam_jobs.duplicates.texts import SIGNATURE, signatures
from beam_jobs.encode import encode_records
from beam_jobs.facts import Fact, row_of
from schemas import HeadraceError, JobSpec
from schemas.duplicates import Check, Near
from schemas.features import Feature, ImageFeature
from schemas.framing import FOOTER_BYTES, HEADER_BYTES
from schemas.hashing import KEY_HASH_BYTES
from schemas.manifest import Manifest, ShardEntry
from schemas.naming import signatures_name
from schemas.storage import Place

Rows = npt.NDArray[np.void]
CONTENT = np.dtype(("u1", (16,)))
_KEY = "key_hash"
_METADATA = {"headrace_signatures_version": "1"}


def signature_facts(spec: JobSpec, features: Mapping[str, Feature]) -> list[Fact]:
    """What a job notes of its records to find duplicates."""
    if spec.duplicates is None:
        return []
    facts = [fact_of(check, features) for check in spec.duplicates.checks]
    return list({fact.name: fact for fact in facts}.values())


def fact_of(check: Check, features: Mapping[str, Feature]) -> Fact:
    """What a check compares."""
    if check.exact is not None:
        names = sorted(check.exact)
        return Fact(f"exact:{','.join(names)}", CONTENT, of_columns=partial(content_hashes, names=names))
    assert check.near is not None
    near = check.near
    if isinstance(features[near.feature], ImageFeature):
        return Fact(f"thumbnail:{near.feature}", THUMBNAIL, image=near.feature, of_picture=thumbnail)
    name = f"minhash:{near.feature}:{near.shingle}:{near.size}"
    return Fact(name, SIGNATURE, of_columns=partial(_text_signatures, near=near))


def content_hashes(columns: Mapping[str, pa.Array], names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The 128-bit hash (BLAKE2b) of what each record holds of some features, uint8 (n, 16)."""
    records, _ = encode_records({name: columns[name] for name in names})
    digests = [_digest(record) for record in records.to_numpy(zero_copy_only=False)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, CONTENT.itemsize)


def _digest(frame: bytes) -> bytes:
    return hashlib.blake2b(
        memoryview(frame)[HEADER_BYTES:-FOOTER_BYTES], digest_size=CONTENT.itemsize
    ).digest()


def _text_signatures(columns: Mapping[str, pa.Array], near: Near) -> npt.NDArray[np.uint32]:
    return signatures(columns[near.feature], near.shingle, near.size)


def encode_signatures(hashes: npt.NDArray[np.uint8], rows: Rows) -> bytes:
    """The file of a shard: an Arrow IPC file with the key hash and the signatures of each record, in its order."""
    columns = {_KEY: hashes, **{name: rows[name] for name in rows.dtype.names or ()}}
    arrays = [_binary(values) for values in columns.values()]
    fields = [pa.field(name, array.type, nullable=False) for name, array in zip(columns, arrays, strict=True)]
    schema = pa.schema(fields, metadata=_METADATA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return bytes(sink.getvalue())


def _binary(values: npt.NDArray[np.generic]) -> pa.FixedSizeBinaryArray:
    width = values.dtype.itemsize * int(np.prod(values.shape[1:]))
    data = pa.py_buffer(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, data])


def read_signatures(
    place: Place, manifest: Manifest, shard: ShardEntry, facts: Sequence[Fact]
) -> tuple[npt.NDArray[np.uint8], Rows]:
    """Key hashes, uint8 (n, 16), and signatures of a shard's records, rows (n,) of `facts`.

    Raises:
      HeadraceError: the version was made without these checks, or the file is damaged.
    """
    name = signatures_name(shard.path)
    entry = next((file for file in manifest.files if file.path == name), None)
    if entry is None:
        raise _without(place, facts)
    data = place.read_bytes(name, entry.bytes)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise _damaged(place, name)
    try:
        with pa.ipc.open_file(data) as reader:
            table = reader.read_all()
    except pa.ArrowInvalid as error:
        raise _damaged(place, name) from error
    if any(fact.name not in table.schema.names for fact in facts):
        raise _without(place, facts)
    rows = np.zeros(shard.records, row_of(facts))
    for fact in facts:
        values = _matrix(table, fact.name, fact.kind.itemsize, shard, place)
        rows[fact.name] = values.view(fact.kind.base).reshape(-1, *fact.kind.shape)
    return _matrix(table, _KEY, KEY_HASH_BYTES, shard, place), rows


def _matrix(table: pa.Table, name: str, width: int, shard: ShardEntry, place: Place) -> npt.NDArray[np.uint8]:
    column = table[name].combine_chunks() if name in table.schema.names else pa.array([])
    if column.type != pa.binary(width) or column.null_count or len(column) != shard.records:
        raise _damaged(place, signatures_name(shard.path))
    data = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    start = column.offset * width
    return data[start : start + len(column) * width].reshape(-1, width)


def _without(place: Place, facts: Sequence[Fact]) -> HeadraceError:
    return HeadraceError(
        "A version to compare with does not have the signatures of these checks.",
        where="duplicates.against",
        value=str(place),
        allowed=f"one with {', '.join(fact.name for fact in facts)}",
        hint="Prepare that version with the same `duplicates.checks`; `action: report` leaves nothing out.",
    )


def _damaged(place: Place, name: str) -> HeadraceError:
    return HeadraceError(
        "A file of signatures is not as it was committed.",
        where=place.where(name),
        hint="Run `headrace verify` on that version.",
    )
