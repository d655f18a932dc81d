"""Jobs of which one request to an object store fails, whichever it is, or all from one on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from tests.jobs import fault_jobs
from tests.jobs.faults import FIRST, NAME, SECOND, ForkServer
from tests.jobs.small_job import options
from tests.servers import BUCKET, Faults

# Once; a request that is refused with 403 is not made again, so the job ends.
WAYS = ("500", "503", "cut", "lost", "reset", "403")
_SCHEMES = {"gcs": "gs", "s3": "s3"}
_IN_ORDER = options("in_memory", 1)  # whose requests have the same numbers every time


@dataclass(frozen=True)
class BadRequest:
    """Which request fails, from 1; 0 for none. How: as of `tests.servers.Faults`. Once, or from then on."""

    number: int = 0
    way: str = "500"
    from_then_on: bool = False


class OneFails(Faults):
    """A proxy before a server, which fails a request by its number."""

    def __init__(self, port: int) -> None:
        self._bad, self._turn = BadRequest(), threading.Lock()
        self.passed, self.failed = 0, list[str]()
        super().__init__(port, 0, {})

    def begin(self, bad: BadRequest) -> None:
        """Counts from the start."""
        with self._turn:
            self._bad, self.passed, self.failed = bad, 0, []

    def _fault(self, handler: Any) -> str:
        with self._turn:
            self.passed += 1
            late = self._bad.from_then_on and self.passed > self._bad.number
            if not self._bad.number or not (self.passed == self._bad.number or late):
                return ""
            self.failed.append(f"{handler.command} {handler.path.partition('?')[0]}")
            return self._bad.way


@dataclass(frozen=True)
class Bench:
    """Two versions in a bucket, the first of which is committed before anything fails.

    Attributes:
      proxy: before the store.
      server: what runs the jobs.
      data: where the job of the second version lies.
      out: where it writes.
      before: the objects when only the first version is there.
      after: those of both versions.
      requests: how many the second job makes.
    """

    proxy: OneFails
    server: ForkServer
    data: Path
    out: str
    before: dict[str, bytes]
    after: dict[str, bytes]
    requests: int

    def versions(self) -> dict[str, bytes]:
        """The objects of the versions that are there."""
        return _versions(_objects(self.out))

    def restart(self) -> None:
        """Only the first version again."""
        fs, base = _file_system(self.out)
        there = _objects(self.out)
        for path in there.keys() - self.before.keys():
            fs.rm_file(f"{base}/{path}")
        for path, data in self.before.items():
            if there.get(path) != data:
                fs.pipe_file(f"{base}/{path}", data)


def _file_system(url: str) -> tuple[Any, str]:
    fs, base = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return fs, base


def _objects(url: str) -> dict[str, bytes]:
    fs, base = _file_system(url)
    return {path.removeprefix(f"{base}/"): fs.cat_file(path) for path in fs.find(base)}


def _versions(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in objects.items() if "/.headrace/" not in path}


@contextmanager
def bench(folder: Path, kind: str, port: int) -> Iterator[Bench]:
    """Makes the data, the jobs and the first version, in a bucket of the server of that kind."""
    proxy = OneFails(port)
    environment = {
        "STORAGE_EMULATOR_HOST" if kind == "gcs" else "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
        "NO_GCE_CHECK": "true",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "geheim",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(environment)
    job, out = fault_jobs.JOBS["new"], f"{_SCHEMES[kind]}://{BUCKET}/{folder.name}"
    imports = (*job.imports, "beam_jobs.remote_store", "gcsfs" if kind == "gcs" else "s3fs")
    try:
        with ForkServer(folder, imports, environment) as server:
            data = job.make_first(folder, job.records, FIRST)
            code, *said = server.run(data, out, _IN_ORDER)
            assert code == 0, said
            first = _objects(out)
            data = job.make_second(folder, job.records, SECOND)
            code, *said = server.run(data, out, _IN_ORDER)
            assert code == 0, said
            made = Bench(proxy, server, data, out, first, _versions(_objects(out)), 0)
            made.restart()
            proxy.begin(BadRequest())
            code, *said = server.run(data, out, _IN_ORDER)
            assert code == 0, said
            yield Bench(proxy, server, data, out, first, made.after, proxy.passed)
    finally:
        os.environ.clear()
        os.environ.update(before)
        proxy.__exit__()


def check_request(made: Bench, bad: BadRequest) -> str:
    """Runs the second version's job with the request and then without; gives what failed, and how the job ended.

    Raises:
      AssertionError: anything but a clear error, or a job that is done in spite of it; or what should stand does not.
    """
    made.restart()
    made.proxy.begin(bad)
    code, output, errors = made.server.run(made.data, made.out, _IN_ORDER)
    failed = list(made.proxy.failed)
    made.proxy.begin(BadRequest())
    said = f"{bad} {failed[:1]} → {code}\n{output}{errors}"
    assert failed, said
    if code:
        assert code == 1, said
        assert "Traceback" not in errors, said  # a lock that cannot be given back is told there
        error = json.loads(output)["error"]
        assert error["what"], said
        assert "geheim" not in output, said
        assert bad.way == "403", said  # all else is tried again
    there = made.versions()
    first = _versions(made.before)
    assert {path: there.get(path) for path in first} == first, said
    if f"{NAME}/{SECOND}/manifest.json" in there:
        assert there == made.after, said
    code, *again = made.server.run(made.data, made.out, _IN_ORDER)
    assert code == 0, (said, again)
    assert made.versions() == made.after, said
    how = f"{bad.way} from then on" if bad.from_then_on else bad.way
    return f"{how}: request {bad.number}, {failed[0]} → {said.splitlines()[0].rpartition(' ')[2]}"
