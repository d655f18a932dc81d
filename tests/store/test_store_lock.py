"""One job at a time: whoever dies, stalls or races, nobody writes besides the holder, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.local_store import LocalStore
from beam_jobs.store import Store
from beam_jobs.store_lock import LOCK, Rhythm, token_of
from schemas import HeadraceError
from tests.store.conftest import Bucket
from tests.store.test_remote_store import ROOT, in_process

QUICK = Rhythm(beat=0.05, stale=1.0, look=0.02)
HOLD = """
with store.exclusive() as job:
    print("held", flush=True)
    import time; time.sleep(600)
"""


@pytest.fixture(params=["local", "gcs", "s3"])
def place(request: pytest.FixtureRequest, make_bucket: Callable[..., Bucket], tmp_path: Path) -> Any:
    """A path or a bucket."""
    return tmp_path / "toy" if request.param == "local" else make_bucket(request.param)


def opened(place: Path | Bucket) -> Store:
    return LocalStore(place) if isinstance(place, Path) else place.open(rhythm=QUICK)


@contextmanager
def running(place: Path | Bucket, code: str) -> Iterator[subprocess.Popen[str]]:
    """A process with the store as `store`, killed in the end."""
    if isinstance(place, Path):
        begin = "from pathlib import Path; from beam_jobs.local_store import LocalStore\n"
        begin += f"store = LocalStore(Path({str(place)!r}))\n"
        process = subprocess.Popen(
            [sys.executable, "-c", begin + code], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
    else:
        process = in_process(place, code)
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_second_job_is_told_who_holds_it(place: Path | Bucket) -> None:
    with running(place, HOLD) as holder:
        assert line(holder) == "held"
        with (
            pytest.raises(
                HeadraceError, match=rf"(?s)Another job is writing.*toy.*process {holder.pid} on .*--out"
            ),
            opened(place).exclusive(),
        ):
            pass


def test_lock_of_a_killed_process_is_free_at_once(place: Path | Bucket) -> None:
    with running(place, HOLD) as holder:
        assert line(holder) == "held"
        holder.send_signal(signal.SIGKILL)
        # Not waited for: a dead process counts as dead while its parent has not asked for it.
        _ended(holder.pid)
        with opened(place).exclusive() as job:
            job.write("a", b"x", durable=True)


def _ended(pid: int) -> None:
    """Waits until a process is dead, with the last of its threads: until then its files are open."""
    process = Path(f"/proc/{pid}")
    while (
        process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
        or len(list(process.joinpath("task").iterdir())) > 1
    ):
        time.sleep(0.01)


def test_one_after_the_other(place: Path | Bucket) -> None:
    for _ in range(3):
        store = opened(place)
        with store.exclusive() as job:
            job.write("a", b"x", durable=True)
            with pytest.raises(HeadraceError, match="Another job is writing"), store.exclusive():
                pass
    with pytest.raises(KeyboardInterrupt), opened(place).exclusive():
        raise KeyboardInterrupt
    with opened(place).exclusive():
        pass


def test_many_processes_hold_it_one_at_a_time(place: Path | Bucket) -> None:
    """Each adds to a number by reading and writing it, which goes wrong if two do it at a time."""
    code = """
import time
from schemas import HeadraceError
held = 0
until = time.monotonic() + 4
while time.monotonic() < until or not held:
    try:
        with store.exclusive() as job:
            count = int(job.read("count", 99)) if job.size("count") is not None else 0
            time.sleep(0.02)
            job.write("count", b"%d" % (count + 1), durable=False)
            held += 1
    except HeadraceError as error:
        assert "Another job is writing" in str(error), error
        time.sleep(0.01)
print(held, flush=True)
"""
    with running(place, code) as one, running(place, code) as two, running(place, code) as three:
        held = [int(line(process)) for process in (one, two, three)]
    print(held)
    assert min(held) >= 1
    assert int(opened(place).read("count", 99)) == sum(held)


class TestHoldersOnOtherMachines:
    """Only their beat says whether they live."""

    def test_alive(self, bucket: Bucket) -> None:
        store = bucket.open(rhythm=QUICK)
        beats, done = 0, threading.Event()

        def beat() -> None:
            nonlocal beats
            while not done.is_set():
                beats += 1
                store.write(LOCK, foreign(beats), durable=True)
                time.sleep(0.05)

        store.write(LOCK, foreign(0), durable=True)
        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with (
                pytest.raises(HeadraceError, match="process 4711 on elsewhere"),
                bucket.open(rhythm=Rhythm(0.05, stale=60, look=0.02)).exclusive(),
            ):
                pass
        finally:
            done.set()
            thread.join()

    @pytest.mark.parametrize("content", [None, b"", b"[]", b"no JSON", b'{"pid": "x", "token": 3}'])
    def test_dead(self, bucket: Bucket, content: bytes | None) -> None:
        store = bucket.open(rhythm=QUICK)
        store.write(LOCK, foreign(7) if content is None else content, durable=True)
        begun = time.monotonic()
        with store.exclusive() as job:
            assert time.monotonic() - begun >= QUICK.stale
            job.write("a", b"x", durable=True)


def foreign(beat: int) -> bytes:
    holder = {"host": "elsewhere", "pid": 4711, "process": "another-boot/1/2", "token": "f" * 16}
    return json.dumps({**holder, "beat": beat}).encode()


@pytest.mark.parametrize("how", ["taken", "deleted"])
def test_lost_lock(place: Path | Bucket, how: str) -> None:
    """Nothing changes any more, and nothing is published, by the job or by workers that still run."""
    store = opened(place)
    still = Rhythm(beat=600)
    job_store = LocalStore(place) if isinstance(place, Path) else place.open(rhythm=still)
    with job_store.exclusive() as job:
        worker: Store = pickle.loads(pickle.dumps(job))
        job.prepare("1.0.0")
        worker.write(f"{worker.stage('1.0.0')}/shard", b"records", durable=True)
        before = store.names("")
        with worker.writing(".headrace/long", durable=False) as sink:
            sink.write(b"still ours")
        store.delete(LOCK) if how == "deleted" else store.write(LOCK, foreign(1), durable=True)
        for work in (
            lambda: worker.write("a", b"x", durable=True),
            lambda: worker.write("a", b"x" * (17 << 20), durable=True),
            lambda: worker.copy(f"{worker.stage('1.0.0')}/shard", "b"),
            lambda: worker.delete(f"{worker.stage('1.0.0')}/shard"),
            lambda: worker.delete_tree(worker.stage("1.0.0")),
            lambda: worker.publish("1.0.0", b"{}"),
        ):
            with pytest.raises(HeadraceError, match=r"(?s)lost its lock.*toy.*Nothing of it was committed"):
                work()
        assert store.size("1.0.0/manifest.json") is None
    expected = {*before, ".headrace/long"} - ({LOCK} if how == "deleted" else set())
    assert set(store.names("")) == expected
    if how == "taken":
        assert token_of(store.read(LOCK, 999)) == "f" * 16


def test_heart_beats_and_publishing_beats_too(bucket: Bucket) -> None:
    store = bucket.open(rhythm=Rhythm(beat=0.5))
    with store.exclusive() as job:
        seen = set()
        while len(seen) < 4:
            seen.add(store.read(LOCK, 999))
        for number in range(5):
            job.prepare(f"1.0.{number}")
            job.publish(f"1.0.{number}", b"{}")
        while len(seen) < 8:
            seen.add(store.read(LOCK, 999))
        job.write("a", b"x", durable=True)
    assert json.loads(store.read(LOCK, 999)) == {"free": True}
    assert "geheim" not in b"".join(seen).decode()


def test_heart_beats_on_a_bad_day(bucket: Bucket) -> None:
    bucket.proxy.shares = {"503": 0.1, "reset": 0.1, "lost": 0.15, "cut": 0.1, "short": 0.1}
    bucket.proxy.at_most = 10**6
    store = bucket.open(rhythm=Rhythm(beat=0.2, stale=30, look=0.02))
    with store.exclusive() as job:
        for number in range(20):
            job.write(f"runs/{number}", b"x" * number, durable=False)
        job.prepare("1.0.0")
        job.publish("1.0.0", b"{}")
    assert store.size("1.0.0/manifest.json") == 2
    assert [store.size(f"runs/{number}") for number in range(20)] == list(range(20))
    with store.exclusive():
        pass
    assert min(bucket.proxy.count.values()) > 0


def test_stopped_holder_wakes_up_when_another_job_has_taken_over(bucket: Bucket) -> None:
    """A machine that was suspended: its job must notice."""
    code = """
from beam_jobs.store_lock import Rhythm
from beam_jobs import store_lock
from schemas import HeadraceError
store = RemoteStore(URL, rhythm=Rhythm(beat=0.05))
with store.exclusive() as job:
    job.prepare("1.0.0")
    print("held", flush=True)
    input()
    try:
        job.publish("1.0.0", b"of the first")
    except HeadraceError as error:
        print(error.what, flush=True)
""".replace("URL", repr(bucket.url))
    holder = subprocess.Popen(
        [sys.executable, "-c", "from beam_jobs.remote_store import RemoteStore\n" + code],
        cwd=ROOT,
        env={**os.environ, **bucket.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert line(holder) == "held"
            holder.send_signal(signal.SIGSTOP)
            store = bucket.open(rhythm=QUICK)
            # As if it ran on another machine, where nobody can see that its process still exists.
            swapped = json.loads(store.read(LOCK, 999)) | {"process": "another-boot/1/2"}
            store.write(LOCK, json.dumps(swapped).encode(), durable=True)
            with store.exclusive() as job:
                holder.send_signal(signal.SIGCONT)
                assert holder.stdin is not None
                holder.stdin.write("\n")
                holder.stdin.flush()
                assert line(holder).startswith("This job has lost its lock")
                assert holder.wait(60) == 0
                job.prepare("1.0.0")
                job.publish("1.0.0", b"of the second")
            assert store.read("1.0.0/manifest.json", 99) == b"of the second"
        finally:
            holder.kill()
