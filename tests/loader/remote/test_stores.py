"""An epoch read from a store that keeps failing is the epoch read from disk: nothing lost, nothing twice."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from loader import load
from loader.dataset import Split, open_split
from loader.plan import make_plan
from loader.read import Reader
from schemas import HeadraceError, read_manifest
from schemas.remote import Patience, RemotePlace

SEED = 4
BAD_DAY = {"503": 0.12, "429": 0.08, "reset": 0.1, "short": 0.1, "slow": 0.01}
HASTY = Patience(delay=0.02)


def remote_split(url: str, options: dict, patience: Patience = HASTY) -> Split:
    place = RemotePlace(url, options, patience)
    return Split(place, read_manifest(place).splits["train"])


def digest(split: Split, block: int, chunk: int = 64) -> tuple[str, dict]:
    """Of the ids and bytes of an epoch, and the reader's stats. Chunks are read eight at a time, as tf.data does."""
    plan = make_plan(split.records, split.bytes, "x", seed=1, shuffle=True, block_bytes=block)
    reader = Reader(split, block=plan.block)
    ids = plan.ids(0, 0, split.records)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(reader.read, np.split(ids, range(chunk, len(ids), chunk))))
    found = hashlib.sha256(ids.tobytes())
    for records, valid in parts:
        assert valid.all()
        for record in records.texts():
            found.update(len(record).to_bytes(8, "little") + record)
    return found.hexdigest(), reader.stats()


def test_epoch_equals_the_local_one(store, table, faults, monkeypatch):
    # Each block is a request of its own: many that can fail, and the same ones whichever thread comes first.
    monkeypatch.setattr("loader.read._MAX_READ", 1)
    monkeypatch.setattr("schemas.remote.GAP_BYTES", -1)
    local, _ = digest(open_split(table, "train")[1], 2048)
    proxy = faults(store.port, SEED, BAD_DAY)
    remote, stats = digest(
        remote_split(store.url("table/1.0.0", proxy.port), store.options(proxy.port)), 2048
    )
    assert remote == local
    assert stats["records"] == 2000
    assert stats["corrupt_records"] == 0
    assert set(proxy.count) == set(BAD_DAY)
    assert 0 < stats["retries"] <= sum(proxy.count.values()) - proxy.count["slow"]
    assert stats["reads"] <= proxy.asked.total()


def test_load_equals_the_local_one(store, photos, faults):
    options = {
        "batch_size": 16,
        "image_size": 24,
        "with_ids": True,
        "augment": True,
        "seed": 3,
        "label": False,
    }
    proxy = faults(store.port, SEED, BAD_DAY)
    url = store.url("photos/1.0.0", proxy.port)
    local = list(load(photos, **options))
    remote = list(load(url, storage_options=store.options(proxy.port), **options))
    assert len(remote) == len(local)
    for ours, theirs in zip(remote, local, strict=True):
        assert ours.keys() == theirs.keys()
        assert all((ours[key].numpy() == theirs[key].numpy()).all() for key in ours)
    assert sum(proxy.count.values()) > 0


def test_nothing_is_asked_for_that_is_not_needed(store, faults):
    """Opening asks how long the manifest is, and for it; the first record, for its index and its bytes."""
    proxy = faults(store.port, SEED, {})
    split = remote_split(store.url("table/1.0.0", proxy.port), store.options(proxy.port))
    expected = {*store.requests("table/1.0.0/manifest.json")}
    assert set(proxy.asked) == expected
    Reader(split).read(np.array([1500]))
    shard = split.shards[2]
    expected |= {store.requests(f"table/1.0.0/{path}")[1] for path in (shard.index.path, shard.path)}
    assert set(proxy.asked) == expected
    assert proxy.asked.total() == split.place.reads == 4 + split.place.retries


def test_columns_come_from_the_indexes(store):
    split = remote_split(store.url("table/1.0.0"), store.options())
    assert split.column("words").tolist() == [i % 5 for i in range(2000)]
    # The manifest's size and bytes, and an index of each shard.
    assert split.place.reads - split.place.retries == 2 + 3


def test_no_client_retries_by_itself(store, faults):
    proxy = faults(store.port, SEED, {"503": 1.0}, at_most=99)
    place = RemotePlace(
        store.url("table/1.0.0", proxy.port), store.options(proxy.port), Patience(attempts=3, delay=0.01)
    )
    name = "toy-train.tfrecord-00000-of-00003"
    with pytest.raises(HeadraceError, match=rf"(?s)does not deliver.*{name}.*3 attempts"):
        place.read_ranges([(name, 0, 100)])
    assert proxy.count == {"503": 3}
    assert (place.reads, place.retries) == (3, 2)


def test_what_is_not_there_is_said_at_once(store, faults, tmp_path):
    proxy = faults(store.port, SEED, {})
    url = store.url("table/2.0.0", proxy.port)
    with pytest.raises(HeadraceError, match=rf"(?s)no data set here.*{url}"):
        load(url, storage_options=store.options(proxy.port))
    assert proxy.asked[store.requests("table/2.0.0/manifest.json")[0]] == 1
    url = store.url("table/1.0.0", proxy.port)
    split = remote_split(url, store.options(proxy.port))
    gone = "toy-train.tfrecord-00007-of-00003"
    split.shards[0] = split.shards[0].model_copy(update={"path": gone})
    with pytest.raises(HeadraceError, match=rf"(?s)missing.*{url}/{gone}.*copy it again"):
        Reader(split).read(np.arange(3))
    assert proxy.asked[store.requests(f"table/1.0.0/{gone}")[1]] == 1


def test_refused_access_is_said_at_once(store, faults):
    proxy = faults(store.port, SEED, {"403": 1.0}, at_most=99)
    url = store.url("table/1.0.0", proxy.port)
    with pytest.raises(HeadraceError, match=rf"(?s)refuses access.*{url}/manifest.json.*storage_options"):
        load(url, storage_options=store.options(proxy.port))
    assert proxy.asked[store.requests("table/1.0.0/manifest.json")[0]] == 1


def test_flipped_byte_on_the_server(stores, store, table, tmp_path):
    """Only that record is lost, and named with its URL."""
    split = open_split(table, "train")[1]
    start = int(split.frames(1)[5])
    path = split.shards[1].path
    damaged = bytearray((table / path).read_bytes())
    damaged[start + 14] ^= 4
    name = "damaged/1.0.0"
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in table.rglob("*"):
        if file.is_file():
            (copy / file.relative_to(table)).parent.mkdir(exist_ok=True)
            data = bytes(damaged) if file.name == path else file.read_bytes()
            (copy / file.relative_to(table)).write_bytes(data)
    store.put(copy, name)
    remote = remote_split(store.url(name), store.options())
    with pytest.raises(
        HeadraceError, match=rf"(?s)damaged.*{store.url(name)}/{path}, record 5, byte {start}.*skip"
    ):
        Reader(remote, block=10).read(np.arange(2000))
    found, valid = Reader(remote, block=10, on_corrupt="skip").read(np.arange(2000))
    lost = split.starts[1] + 5
    assert np.flatnonzero(~valid).tolist() == [lost]
    intact = Reader(split).read(np.arange(2000))[0].texts()
    intact[lost] = b""
    assert found.texts().tolist() == intact.tolist()
