"""The stores to write to: a directory, and buckets of an S3 server and a GCS emulator, each behind a failing proxy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.local_store import LocalStore
from beam_jobs.remote_store import RemoteStore
from beam_jobs.store import Store
from beam_jobs.store_lock import Rhythm
from schemas.remote import Patience, RemotePlace
from tests.servers import BUCKET, Faults, emulator

REMOTE = ("gcs", "s3")
SCHEMES = {"gcs": "gs", "s3": "s3"}
HASTY = Patience(attempts=12, delay=0.01)
BAD_DAY = {"503": 0.08, "429": 0.05, "reset": 0.08, "short": 0.06, "lost": 0.1, "cut": 0.08}
SEED = 11
_numbers = itertools.count()


@dataclass
class Bucket:
    """A bucket behind a proxy.

    Attributes:
      kind: "gcs" or "s3".
      proxy: before the server.
      environment: by which its clients find it; set already in this process.
    """

    kind: str
    proxy: Faults
    environment: Mapping[str, str]
    url: str = field(default="")

    def open(self, patience: Patience = HASTY, rhythm: Rhythm | None = None) -> RemoteStore:
        """The bucket's store, by a connection of its own."""
        return RemoteStore(self.url, place=RemotePlace(self.url, patience=patience), rhythm=rhythm)


@pytest.fixture(scope="session")
def servers() -> Iterator[Mapping[str, int]]:
    with emulator("s3") as s3, emulator("gcs") as gcs:
        yield {"s3": s3, "gcs": gcs}


@pytest.fixture
def make_bucket(
    servers: Mapping[str, int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Bucket]]:
    """Makes buckets of a kind, their proxy failing as asked."""
    proxies: list[Faults] = []

    def make(kind: str, shares: Mapping[str, float] | None = None, **options: Any) -> Bucket:
        proxies.append(Faults(servers[kind], SEED, shares or {}, **options))
        endpoint = f"http://127.0.0.1:{proxies[-1].port}"
        environment = {
            "STORAGE_EMULATOR_HOST" if kind == "gcs" else "AWS_ENDPOINT_URL": endpoint,
            "NO_GCE_CHECK": "true",  # google.auth looks for a metadata server, for seconds
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "geheim",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Bucket(kind, proxies[-1], environment, f"{SCHEMES[kind]}://{BUCKET}/out{next(_numbers)}/toy")

    yield make
    for proxy in proxies:
        print(f"{proxy.seed=} {dict(proxy.count)}")
        proxy.__exit__()


@pytest.fixture(params=REMOTE)
def bucket(request: pytest.FixtureRequest, make_bucket: Callable[..., Bucket]) -> Bucket:
    """A bucket of each kind, its proxy well-behaved."""
    return make_bucket(request.param)


@pytest.fixture(params=["local", "gcs", "s3", "gcs on a bad day", "s3 on a bad day"])
def store(request: pytest.FixtureRequest, make_bucket: Callable[..., Bucket], tmp_path: Path) -> Store:
    """A store of each kind, and object stores that keep failing."""
    if request.param == "local":
        return LocalStore(tmp_path / "toy")
    kind, _, bad = request.param.partition(" ")
    return make_bucket(kind, BAD_DAY if bad else None).open()
