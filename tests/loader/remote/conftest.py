"""The three stores, each behind a proxy that fails on purpose, with the same data sets in it."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import (
    BUCKET,
    Faults,
    FileServer,
    gcs_server,
    s3_server,
    upload_gcs,
    upload_s3,
)

STORES = ("http", "s3", "gcs")


@dataclass(frozen=True)
class Store:
    """A store that holds data sets.

    Attributes:
      kind: "http", "s3" or "gcs".
      port: of the server itself.
      put: uploads a directory under a name.
    """

    kind: str
    port: int
    put: Callable[[Path, str], None]

    def url(self, name: str, port: int | None = None) -> str:
        """Of a data set; `port`: of a proxy."""
        if self.kind == "http":
            return f"http://127.0.0.1:{port or self.port}/{name}"
        return f"{'gs' if self.kind == 'gcs' else 's3'}://{BUCKET}/{name}"

    def requests(self, path: str) -> tuple[str, str]:
        """What is asked for the size of a file, and for a range of it."""
        if self.kind == "gcs":
            name = f"storage/v1/b/{BUCKET}/o/{urllib.parse.quote(path, safe='')}"
            return f"GET /{name}", f"GET /download/{name}?alt=media"
        name = f"{BUCKET}/{path}" if self.kind == "s3" else path
        return f"HEAD /{name}", f"GET /{name}"

    def options(self, port: int | None = None) -> dict[str, Any]:
        """Storage options that reach it, or it through a proxy."""
        endpoint = f"http://127.0.0.1:{port or self.port}"
        if self.kind == "s3":
            region = {"endpoint_url": endpoint, "region_name": "us-east-1"}
            return {"key": "k", "secret": "s", "client_kwargs": region}
        return {"token": "anon", "endpoint_url": endpoint} if self.kind == "gcs" else {}


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Store]]:
    root = tmp_path_factory.mktemp("http")
    with FileServer(root) as http, s3_server() as s3, gcs_server() as gcs:
        yield {
            "http": Store("http", http.port, lambda directory, name: _link(directory, root / name)),
            "s3": Store("s3", s3, lambda directory, name: upload_s3(s3, directory, name)),
            "gcs": Store("gcs", gcs, lambda directory, name: upload_gcs(gcs, directory, name)),
        }


def _link(directory: Path, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(directory)


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest, stores: Mapping[str, Store], table: Path, photos: Path) -> Store:
    """Each store in turn, with the data sets `table` and `photos` in it."""
    found = stores[request.param]
    found.put(table, "table/1.0.0")
    found.put(photos, "photos/1.0.0")
    return found


@pytest.fixture
def faults() -> Iterator[Callable[..., Faults]]:
    """Starts proxies that end with the test."""
    started: list[Faults] = []

    def start(*arguments: Any, **options: Any) -> Faults:
        started.append(Faults(*arguments, **options))
        return started[-1]

    yield start
    for proxy in started:
        proxy.__exit__()
