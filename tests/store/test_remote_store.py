"""What object stores can do to a writer: fail, lose answers, damage bytes, show old listings, refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from beam_jobs.objects import PART_BYTES
from beam_jobs.remote_store import RemoteStore
from schemas import HeadraceError
from schemas.remote import Patience, RemotePlace
from tests.servers import call
from tests.store.conftest import REMOTE, Bucket
from tests.store.test_store import LONG

ROOT = Path(__file__).resolve().parents[2]
THRICE = Patience(attempts=3, delay=0.01)


def in_process(bucket: Bucket, code: str) -> subprocess.Popen[str]:
    """Runs `code` in a process of its own, with the bucket's store as `store`."""
    begin = f"from beam_jobs.remote_store import RemoteStore\nstore = RemoteStore({bucket.url!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", begin + code],
        cwd=ROOT,
        env={**os.environ, **bucket.environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_no_client_tries_again_by_itself(bucket: Bucket) -> None:
    bucket.proxy.shares, bucket.proxy.at_most = {"503": 1.0}, 10**6
    store = bucket.open(THRICE)
    for number, work in enumerate(
        [
            lambda: store.write("a", b"x", durable=True),
            lambda: store.create("a", b"x"),
            lambda: store.size("a"),
            lambda: store.names("a"),
            lambda: store.delete("a"),
            lambda: store.copy("a", "b"),
            lambda: store.read("a", 5),
        ]
    ):
        with pytest.raises(HeadraceError, match=r"(?s)does not deliver.*/toy/.*3 attempts"):
            work()
        assert bucket.proxy.count["503"] == 3 * (number + 1)


@pytest.mark.parametrize("fault", ["stall", "cut", "lost"])
def test_store_that_never_gets_better(bucket: Bucket, fault: str) -> None:
    bucket.proxy.shares, bucket.proxy.at_most = {fault: 1.0}, 10**6
    store = bucket.open(Patience(attempts=2, timeout=0.5, delay=0.01))
    with pytest.raises(HeadraceError, match=r"(?s)does not deliver.*toy/a.*2 attempts"):
        store.write("a", b"x", durable=True)


def test_dead_server(bucket: Bucket) -> None:
    bucket.proxy.__exit__()
    store = bucket.open(THRICE)
    with pytest.raises(HeadraceError, match=r"(?s)does not deliver.*toy/a.*3 attempts"):
        store.write("a", b"x", durable=True)


def test_refused_access_is_said_at_once_and_without_secrets(bucket: Bucket) -> None:
    bucket.proxy.shares, bucket.proxy.at_most = {"403": 1.0}, 10**6
    store = bucket.open()
    with pytest.raises(HeadraceError, match=r"(?s)refuses access.*toy/a.*AWS_PROFILE") as caught:
        store.write("a", b"x", durable=True)
    assert bucket.proxy.count["403"] == 1
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("kind", REMOTE)
def test_no_bucket(kind: str, make_bucket: Callable[..., Bucket]) -> None:
    bucket = make_bucket(kind)
    url = bucket.url.replace("//bucket", "//nobucket")
    store = RemoteStore(url, place=RemotePlace(url))
    for work in (
        lambda: store.write("a", b"x", durable=True),
        lambda: store.write("a", LONG, durable=True),
        lambda: store.prepare("1.0.0"),
        lambda: store.exclusive().__enter__(),
    ):
        with pytest.raises(HeadraceError, match=r"(?s)no such bucket.*nobucket.*another --out"):
            work()


def test_every_answer_is_lost_once(bucket: Bucket) -> None:
    """The store has done it all the same: what is repeated must find that out."""
    bucket.proxy.shares, bucket.proxy.at_most = {"lost": 1.0}, 1
    store = bucket.open()
    store.write("long", LONG, durable=True)
    assert store.read("long", len(LONG)) == LONG
    assert store.create("new", b"mine")
    assert store.create("new", b"mine")
    assert not store.create("new", b"another's")
    assert not store.create("new", b"m")
    assert store.read("new", 9) == b"mine"
    store.copy("new", "copy")
    store.delete("new")
    assert store.names("") == ["copy", "long"]
    with store.exclusive() as job:
        job.prepare("1.0.0")
        job.publish("1.0.0", b"{}")
    assert store.read("1.0.0/manifest.json", 9) == b"{}"
    assert bucket.proxy.count["lost"] > 20


def test_swap(bucket: Bucket) -> None:
    store = bucket.open()
    assert store.swap("lock", b"1", "0123") is None
    first = store.swap("lock", b"1", "")
    assert first
    assert store.get("lock") == (b"1", first)
    second = store.swap("lock", b"2", first)
    assert second
    assert second != first
    assert store.swap("lock", b"3", first) is None
    assert store.swap("lock", b"2", first) == second
    assert store.get("lock") == (b"2", second)
    assert store.get("no") is None


def test_bits_flipped_on_the_way(bucket: Bucket) -> None:
    """The store sees it, and gets the bytes again."""
    bucket.proxy.shares, bucket.proxy.at_most = {"flip": 1.0}, 1
    store = bucket.open()
    data = LONG[: 1 << 20]
    store.write("short", data, durable=True)
    assert bucket.proxy.count["flip"] >= 1
    assert store.read("short", len(data)) == data


def test_bits_flipped_in_a_part(make_bucket: Callable[..., Bucket]) -> None:
    bucket = make_bucket("s3", {"flip": 1.0}, at_most=1)
    store = bucket.open()
    with store.writing("long", durable=True) as sink:
        bucket.proxy.shares = {}
        sink.write(LONG[:PART_BYTES])
        sink.write(b"x")
        bucket.proxy.shares = {"flip": 1.0}
        sink.write(LONG)
        while not bucket.proxy.count["flip"]:
            sink.write(b"x" * PART_BYTES)
        bucket.proxy.shares = {}
    assert store.read_range("long", 0, PART_BYTES + 1 + len(LONG)) == LONG[:PART_BYTES] + b"x" + LONG


def test_bits_flipped_in_a_resumable_upload(make_bucket: Callable[..., Bucket]) -> None:
    """GCS compares the whole object only: nobody takes it for what was sent."""
    bucket = make_bucket("gcs")
    store = bucket.open()
    with pytest.raises(HeadraceError, match=r"(?s)does not deliver.*toy/long.*the store holds.*CRC"):
        _write_and_flip(bucket, store)


def _write_and_flip(bucket: Bucket, store: RemoteStore) -> None:
    with store.writing("long", durable=True) as sink:
        sink.write(LONG[: PART_BYTES + 1])
        bucket.proxy.shares = {"flip": 1.0}
        sink.write(LONG)
        while not bucket.proxy.count["flip"]:
            sink.write(b"x" * PART_BYTES)
        bucket.proxy.shares = {}


class TestListingsThatLag:
    def test_nothing_depends_on_them(self, bucket: Bucket) -> None:
        store = bucket.open()
        for name in ("shard", "gone"):
            store.write(f"1.0.0/{name}", b"of a version that was deleted", durable=True)
        bucket.proxy.frozen = True
        assert store.names("1.0.0") == ["gone", "shard"]
        assert store.names("2.0.0") == []
        assert store.names(".headrace/runs") == []
        store.delete_tree("1.0.0")
        assert store.names("1.0.0") == ["gone", "shard"]
        store.delete_tree("1.0.0")
        for version in ("1.0.0", "2.0.0"):
            with store.exclusive() as job:
                job.prepare(version)
                job.write(".headrace/runs/a", b"run", durable=False)
                assert job.names(".headrace/runs") == []
                assert job.size(".headrace/runs/a") == 3
                job.write(f"{job.stage(version)}/shard", b"records", durable=True)
                job.prepare(version)
                job.publish(version, b"{}")
            assert store.read(f"{version}/manifest.json", 9) == b"{}"
        bucket.proxy.frozen = False
        assert store.names("2.0.0") == store.names("1.0.0") == ["manifest.json", "shard"]

    def test_strangers_are_asked_for_themselves(self, bucket: Bucket) -> None:
        store = bucket.open()
        for name in ("a", "b"):
            store.write(f"1.0.0/{name}", b"of TFDS", durable=True)
        bucket.proxy.frozen = True
        assert store.names("1.0.0") == ["a", "b"]
        store.delete("1.0.0/a")
        with pytest.raises(HeadraceError, match=r"(?s)files already.*1\.0\.0/b"):
            store.prepare("1.0.0")


def test_listings_of_many_pages(make_bucket: Callable[..., Bucket], servers: Mapping[str, int]) -> None:
    bucket = make_bucket("s3", {"503": 0.3})
    store = bucket.open()
    prefix = bucket.url.removeprefix("s3:/")
    for number in range(1003):  # a page has 1,000
        call(servers["s3"], "PUT", f"{prefix}/runs/{number:04d}", b"x")
    assert store.names("runs") == [f"{number:04d}" for number in range(1003)]
    store.delete_tree("runs")
    assert store.names("runs") == []


def test_two_processes_create(bucket: Bucket) -> None:
    """Of each object, one of them makes it, and it holds what that one says."""
    code = """
import os
print([store.create(f"new/{n}", str(os.getpid()).encode()) for n in range(30)])
"""
    both = [in_process(bucket, code) for _ in range(2)]
    made = [json.loads(process.communicate(timeout=120)[0].lower()) for process in both]
    assert [one ^ other for one, other in zip(*made, strict=True)] == [True] * 30
    store = bucket.open()
    for number in range(30):
        winner = both[0] if made[0][number] else both[1]
        assert store.read(f"new/{number}", 99) == str(winner.pid).encode()


def test_killed_writer_leaves_nothing(bucket: Bucket) -> None:
    code = f"""
with store.writing("long", durable=True) as sink:
    sink.write(b"x" * {3 * PART_BYTES})
    print("writing", flush=True)
    import time; time.sleep(600)
"""
    writer = in_process(bucket, code)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    store = bucket.open()
    assert store.names("") == []
    assert store.size("long") is None
    if bucket.kind == "s3":
        assert _uploads(bucket) == 1
        store.tidy()
        assert _uploads(bucket) == 0
    store.write("long", LONG, durable=True)
    assert store.size("long") == len(LONG)


def _uploads(bucket: Bucket) -> int:
    prefix = bucket.url.removeprefix("s3://bucket/")
    return call(bucket.proxy.port, "GET", f"/bucket?uploads&prefix={prefix}").count(b"<UploadId>")


def test_upload_that_somebody_cleared_away(make_bucket: Callable[..., Bucket]) -> None:
    bucket = make_bucket("s3")
    store = bucket.open(THRICE)
    # S3 answers 404; moto breaks, with a 500.
    with pytest.raises(HeadraceError, match=r"(?s)(upload has vanished|does not deliver).*toy/long"):
        _write_and_tidy(store)
    assert store.size("long") is None


def _write_and_tidy(store: RemoteStore) -> None:
    with store.writing("long", durable=True) as sink:
        sink.write(LONG)
        store.tidy()
