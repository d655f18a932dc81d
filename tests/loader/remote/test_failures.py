"""What a user is told when a store cannot deliver, and what is asked of it at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader import load
from loader.dataset import Split
from loader.read import Reader
from schemas import HeadraceError, read_manifest
from schemas.remote import GAP_BYTES, REQUEST_BYTES, REQUESTS, Patience, RemotePlace, merged
from schemas.remote_errors import redacted
from schemas.storage import LocalPlace, open_place
from tests.servers import FileServer, files, free_port

SHARD = "toy-train.tfrecord-00000-of-00003"


def test_dead_server():
    url = f"http://127.0.0.1:{free_port()}/table/1.0.0"
    place = RemotePlace(url, patience=Patience(attempts=3, delay=0.01))
    with pytest.raises(
        HeadraceError, match=rf"(?s)does not deliver.*{url}/manifest.json.*3 attempts.*reached"
    ):
        read_manifest(place)
    assert place.retries == 2


def test_patience_ends_by_time_too():
    place = RemotePlace(f"http://127.0.0.1:{free_port()}", patience=Patience(seconds=0, delay=0.01))
    with pytest.raises(HeadraceError, match="1 attempts"):
        place.size("x")


@pytest.mark.parametrize("fault", ["stall", "short", "reset"])
def test_store_that_never_gets_better(table, faults, fault):
    with FileServer(table) as server:
        proxy = faults(server.port, 0, {fault: 1.0}, at_most=99)
        url = f"http://127.0.0.1:{proxy.port}"
        place = RemotePlace(url, patience=Patience(attempts=2, timeout=0.3, delay=0.01))
        with pytest.raises(HeadraceError, match=rf"(?s)does not deliver.*{url}/{SHARD}.*2 attempts"):
            place.read_ranges([(SHARD, 0, 500)])


def test_server_without_ranges(table):
    class Whole(FileServer):
        def answer(self, handler):
            del handler.headers["Range"]
            super().answer(handler)

    with Whole(table) as server:
        place = RemotePlace(f"http://127.0.0.1:{server.port}")
        with pytest.raises(
            HeadraceError, match=r"(?s)does not deliver.*where 500 were asked for.*range requests"
        ):
            place.read_ranges([(SHARD, 0, 500)])


def test_shard_shorter_than_it_was(table, tmp_path):
    for path, data in files(table):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data[:-5] if path == SHARD else data)
    with FileServer(tmp_path) as server:
        url = f"http://127.0.0.1:{server.port}"
        place = RemotePlace(url)
        split = Split(place, read_manifest(place).splits["train"])
        with pytest.raises(HeadraceError, match=rf"(?s)ends before its last record.*{url}/{SHARD}"):
            Reader(split).read(np.arange(2000))
        assert place.read_ranges([(SHARD, 10**9, 10)]) == [b""]


def test_manifest_that_no_manifest_can_be(table, monkeypatch):
    monkeypatch.setattr("schemas.manifest._MAX_MANIFEST_BYTES", 100)
    with FileServer(table) as server:
        for place in (table, f"http://127.0.0.1:{server.port}"):
            with pytest.raises(HeadraceError, match=r"(?s)larger than it can be.*manifest.json.*100 bytes"):
                read_manifest(place)


class TestSecrets:
    def test_query_goes_with_every_file_and_into_no_error(self, table, faults):
        with FileServer(table) as server:
            proxy = faults(server.port, 0, {})
            url = f"http://user:geheim@127.0.0.1:{proxy.port}/?sig=geheim&x=1"
            place = RemotePlace(url, patience=Patience(attempts=2, delay=0.01))
            split = Split(place, read_manifest(place).splits["train"])
            assert Reader(split).read(np.arange(3))[1].all()
            assert all(path.endswith("?sig=geheim&x=1") for path in proxy.asked)
            texts = [str(place), place.where("a")]
            for shares in ({"403": 1.0}, {"404": 1.0}, {"503": 1.0}, {"400": 1.0}):
                proxy.shares, proxy.at_most = shares, 10**6
                for call in (lambda: read_manifest(place), lambda: place.read_ranges([(SHARD, 0, 9)])):
                    with pytest.raises(HeadraceError) as caught:
                        call()
                    texts += traceback.format_exception(caught.value)
            assert "geheim" not in "".join(texts)
            assert f"127.0.0.1:{proxy.port}" in str(place)

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("GET 'https://u:p@host/a?X-Amz-Signature=1': no", "GET 'https://host/a': no"),
            ("s3://bucket/a/b", "s3://bucket/a/b"),
            ("why? because", "why? because"),
        ],
    )
    def test_redacted(self, text, shown):
        assert redacted(text) == shown


class TestPlaces:
    def test_scheme_that_nobody_knows(self):
        with pytest.raises(HeadraceError, match=r"(?s)no place to read from.*nowhere://x"):
            load("nowhere://x")

    def test_options_that_nobody_knows(self):
        with pytest.raises(HeadraceError, match=r"(?s)refuses the request.*s3://b/x.*config_kwarg"):
            load("s3://b/x", storage_options={"config_kwarg": {}})

    @pytest.mark.parametrize(
        ("url", "module", "extra"),
        [("gs://b/x", "gcsfs", "gcs"), ("s3://b/x", "s3fs", "s3"), ("http://h/x", "aiohttp", "http")],
    )
    def test_missing_package(self, url, module, extra):
        code = (
            f"import sys; sys.modules[{module!r}] = None\n"
            f"from schemas.storage import open_place; open_place({url!r})"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
        assert f"pip install 'headrace[{extra}]'" in ran.stderr
        assert ran.returncode != 0

    def test_of_this_machine(self, table):
        assert isinstance(open_place(f"file://{table}"), LocalPlace)
        assert read_manifest(f"file://{table}") == read_manifest(table)
        with pytest.raises(HeadraceError, match=r"(?s)Only remote.*storage_options.*gs://"):
            load(table, storage_options={"anon": True})

    def test_file_system_without_async(self, table):
        memory = fsspec.filesystem("memory")
        for path, data in files(table):
            memory.pipe_file(f"/ds/{path}", data)
        place = RemotePlace("memory://ds")
        split = Split(place, read_manifest(place).splits["train"])
        local = Split(LocalPlace(table), read_manifest(table).splits["train"])
        ids = np.arange(2000)[::-1]
        assert Reader(split).read(ids)[0].texts().tolist() == Reader(local).read(ids)[0].texts().tolist()
        with pytest.raises(FileNotFoundError, match="memory://ds/nope"):
            place.read_bytes("nope", 10)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 10 * GAP_BYTES), st.integers(1, REQUEST_BYTES + 5))
    )
)
def test_near_ranges_share_a_request(ranges):
    requests = merged(ranges)
    assert sorted(k for *_, members in requests for k in members) == list(range(len(ranges)))
    for path, start, stop, members in requests:
        inside = sorted((ranges[k][1], ranges[k][1] + ranges[k][2]) for k in members)
        assert {ranges[k][0] for k in members} == {path}
        assert start == inside[0][0]
        assert stop == max(end for _, end in inside)
        assert len(members) == 1 or stop - start <= REQUEST_BYTES
        end = start
        for low, high in inside:
            assert low - end <= GAP_BYTES
            end = max(end, high)


def test_so_many_at_a_time_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("schemas.remote.GAP_BYTES", 0)
    data = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "x").write_bytes(data)
    now, most, lock, full = 0, 0, threading.Lock(), threading.Event()

    class Counting(FileServer):
        def answer(self, handler):
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
                if now == REQUESTS:
                    full.set()
            full.wait(20)  # however slow the machine: all that may come at a time are there before one leaves
            time.sleep(0.05)  # time for one more, which may not come
            with lock:
                now -= 1
            super().answer(handler)

    with Counting(tmp_path) as server:
        place = RemotePlace(f"http://127.0.0.1:{server.port}")
        ranges = [("x", i * 500, 100) for i in range(100)]
        found: list[list[bytes]] = []
        threads = [threading.Thread(target=lambda: found.append(place.read_ranges(ranges))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[data[offset : offset + 100] for _, offset, _ in ranges]] * 3
    assert most == REQUESTS


def test_long_ranges_are_cut(tmp_path, faults):
    data = np.random.default_rng(0).bytes(3 * REQUEST_BYTES + 7)
    (tmp_path / "x").write_bytes(data)
    with FileServer(tmp_path) as server:
        proxy = faults(server.port, 1, {"503": 0.3, "short": 0.3})
        place = RemotePlace(f"http://127.0.0.1:{proxy.port}", patience=Patience(delay=0.01))
        assert place.read_bytes("x", len(data)) == data
        assert place.read_ranges([("x", 5, len(data)), ("x", 3, 2)]) == [data[5:], data[3:5]]
        assert sum(proxy.count.values()) > 0


def test_one_error_ends_the_whole_call(table):
    """What else was asked for is called off."""
    with FileServer(table) as server:
        place = RemotePlace(f"http://127.0.0.1:{server.port}")
        with pytest.raises(HeadraceError, match=r"(?s)missing.*nope.*copy it again"):
            place.read_ranges([("nope", 0, 5), *((SHARD, i, 1) for i in range(100))])
        assert place.read_ranges([(SHARD, 0, 4), (SHARD, 8, 4)]) == [
            Path(table / SHARD).read_bytes()[:4],
            Path(table / SHARD).read_bytes()[8:12],
        ]
