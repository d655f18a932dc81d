"""Sources read from object stores, web servers and archives, through a network that fails."""

from __future__ import annotations

import itertools
import random
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from beam_jobs import load_job, run
from beam_jobs.sources import SourceBatch, open_source
from beam_jobs.sources._places import locate
from beam_jobs.sources._places import remote as _remote
from beam_jobs.sources._places.listing import list_files
from beam_jobs.sources._places.locate import expand_braces
from schemas.errors import HeadraceError
from schemas.remote import Patience
from schemas.sources import ImageFolderSource
from schemas.sources import Source as Spec
from tests.servers import BUCKET, Faults, call, gcs_server, s3_server, upload_gcs, upload_s3

from .conformance import read_all
from .test_webdataset import sample, tar
from .web import WebServer

BAD_DAY = {"503": 0.1, "429": 0.05, "reset": 0.1, "short": 0.07, "cut": 0.08}
HASTY = Patience(attempts=12, delay=0.01)
SEED = 5
ZIPPED = "zip://{}::"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with something for each kind of source, and the same in an archive."""
    root = tmp_path_factory.mktemp("remote") / "data"
    chance = random.Random(SEED)
    for number in range(3):
        lines = ["id,text", *(f"{number}-{row},{'x' * chance.randrange(60)}" for row in range(300))]
        put(root / f"rows/rows-{number}.csv", "\n".join([*lines, f"{number}-ragged", ""]).encode())
        parts = [part for first in range(number * 30, number * 30 + 30) for part in sample(first)]
        put(root / f"shards/part-{number:03d}.tar", b"")
        tar(root / f"shards/part-{number:03d}.tar", *parts)
    for number in range(40):
        place = root / f"photos/{'cat' if number % 3 else 'dog and bird'}/{number:03d}.jpg"
        put(place, chance.randbytes(chance.randrange(1, 3000)))
        put(root / f"notes/{number % 4}/note {number} ü.txt", f"größe {number}".encode())
    put(root / "notes/0/latin.txt", b"\xff\xfe")
    put(root / "photos/cat/large.jpg", chance.randbytes(3 << 20))
    photos = [file.relative_to(root / "photos") for file in sorted(root.glob("photos/*/*"))]
    put(root / "rows.csv", "\n".join(["id,text", *(f"{photo},text of {photo}" for photo in photos)]).encode())
    with zipfile.ZipFile(root / "rows.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(root / "rows.csv", "rows.csv")
    with zipfile.ZipFile(root.parent / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            stored = file.suffix in (".tar", ".jpg")
            archive.write(file, file.relative_to(root), zipfile.ZIP_STORED if stored else None)
    put(root / "all.zip", (root.parent / "all.zip").read_bytes())
    return root


def put(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@pytest.fixture(scope="module")
def ports(data: Path) -> Iterator[Mapping[str, int]]:
    with s3_server() as s3, gcs_server() as gcs, WebServer(data) as web:
        upload_s3(s3, data, "data")
        upload_gcs(gcs, data, "data")
        yield {"s3": s3, "gs": gcs, "http": web.port}


@pytest.fixture
def reach(
    ports: Mapping[str, int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[str, Faults]]]:
    """The URL of the data at a place of some kind, behind a proxy that fails as asked."""
    proxies: list[Faults] = []

    def made(kind: str, shares: Mapping[str, float] | None = None) -> tuple[str, Faults]:
        proxies.append(Faults(ports[kind], SEED, shares or {}))
        monkeypatch.setattr(_remote, "PATIENCE", HASTY)
        forget()
        endpoint = f"http://127.0.0.1:{proxies[-1].port}"
        for name, value in {
            "STORAGE_EMULATOR_HOST" if kind == "gs" else "AWS_ENDPOINT_URL": endpoint,
            "NO_GCE_CHECK": "true",  # google.auth looks for a metadata server, for seconds
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "geheim",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        return (endpoint if kind == "http" else f"{kind}://{BUCKET}/data"), proxies[-1]

    yield made
    for proxy in proxies:
        proxy.__exit__()
    forget()


KINDS: dict[str, dict[str, Any]] = {
    "rows/*.csv": {"kind": "csv", "key": "id", "partition_bytes": 3000},
    "rows/rows-{0..2}.csv": {"kind": "csv"},
    "photos": {"kind": "image_folder", "partition_files": 10, "max_file_bytes": 4 << 20},
    "notes": {"kind": "files", "text": True, "pattern": "{label}/note {n} *", "partition_files": 10},
    "shards/part-{000,001,002}.tar": {"kind": "webdataset"},
    "shards/*.tar": {"kind": "webdataset", "fields": {"json": "json"}},
}


def forget() -> None:
    """Opens every connection anew."""
    _remote._connected.cache_clear()
    locate._archive.cache_clear()


def batches(root: str, options: dict[str, Any]) -> list[SourceBatch]:
    from pydantic import TypeAdapter

    spec: Any = TypeAdapter(Spec).validate_python({**options, "path": "x"})
    return read_all(open_source("things", spec, root))


def together(found: list[SourceBatch]) -> tuple[pa.Table, list[bytes], list[int], list[Any]]:
    """All of the batches: where they begin and end depends on how a source is cut."""
    return (
        pa.Table.from_batches([batch.records for batch in found]).combine_chunks(),
        [key for batch in found for key in batch.keys.to_pylist()],
        [row for batch in found for row in batch.rows.tolist()],
        [fault for batch in found for fault in batch.faults],
    )


@pytest.mark.parametrize("shares", [{}, BAD_DAY], ids=["good day", "bad day"])
@pytest.mark.parametrize("place", ["s3", "gs", "http", "zip", "zip in s3", "zip in http"])
@pytest.mark.parametrize("path", KINDS)
def test_the_same_from_everywhere(
    data: Path, reach: Callable[..., tuple[str, Faults]], path: str, place: str, shares: Mapping[str, float]
) -> None:
    options = KINDS[path]
    expected = batches(f"{data}/{path}", options)
    assert expected
    proxy = None
    if place == "zip":
        root = f"zip://{path}::{data}/all.zip"
    else:
        base, proxy = reach(place.removeprefix("zip in "), shares)
        root = f"zip://{path}::{base}/all.zip" if place.startswith("zip") else f"{base}/{path}"
    found = batches(root, options)
    assert together(found) == together(expected)
    if not place.startswith("zip") and options["kind"] != "webdataset":
        assert len(found) == len(expected)
    if proxy is not None and shares and not place.startswith("zip"):
        assert proxy.count


@pytest.mark.parametrize("place", ["s3", "gs", "http"])
def test_requests_that_are_never_answered(
    data: Path, reach: Callable[..., tuple[str, Faults]], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, proxy = reach(place, {"stall": 0.3})
    monkeypatch.setattr(_remote, "PATIENCE", Patience(attempts=12, delay=0.01, timeout=1, timeout_per_mib=1))
    forget()
    found = batches(f"{base}/rows/rows-{{0..2}}.csv", {"kind": "csv"})
    assert together(found) == together(batches(f"{data}/rows/*.csv", {"kind": "csv"}))
    assert proxy.count["stall"]


def test_a_job_reads_a_bucket_as_it_reads_a_folder(
    data: Path, reach: Callable[..., tuple[str, Faults]], tmp_path: Path
) -> None:
    """One job of three sources: the same bytes, whatever lies where."""
    (tmp_path / "job.yaml").write_text(JOB)
    found = []
    base, _ = reach("s3", BAD_DAY)
    for name, photos, rows in (
        ("local", f"{data}/photos", f"{data}/rows.csv"),
        ("remote", f"{base}/photos", f"zip://rows.csv::{base}/rows.zip"),
    ):
        job = load_job(tmp_path / "job.yaml", {"photos": photos, "rows": rows})
        result = run(job, tmp_path / name)
        assert result.manifest.books["photos"].written == 41
        found.append({
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in Path(result.path).rglob("*") if path.is_file()
        })  # fmt: skip
    assert found[0] == found[1]


JOB = """
name: cells
version: 1.0.0
vars: {photos: unset, rows: unset}
sources:
  photos: {kind: image_folder, path: "${photos}", pattern: "{label}/{id}.jpg", partition_files: 10}
  rows: {kind: csv, path: "${rows}", key: id}
join: [{table: rows, left_on: path, right_on: id}]
features:
  image: {type: bytes}
  label: {type: class_label, names: [cat, dog and bird]}
  text: {type: text}
label: label
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: 2}
"""


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/x.csv",
        "http://0xA9FEA9FE/x.csv",
        "http://[fe80::1%25lo]/x.csv",
        "http://[::ffff:169.254.169.254]/x.csv",
        "http://[fd00:ec2::254]/x.csv",
        "zip://x.csv::http://169.254.169.254/a.zip",
        "simplecache::http://169.254.169.254/a.csv",
        "tar://x.csv::http://169.254.169.254/a.tar",
    ],
)
def test_link_local_addresses_are_refused(url: str) -> None:
    with pytest.raises(HeadraceError, match=r"(?s)machine's own network.*Nothing was read"):
        batches(url, {"kind": "csv"})


def test_urls_that_are_none_are_refused() -> None:
    with pytest.raises(HeadraceError, match=r"(?s)The URL leads nowhere.*not a canonical IPv4 address"):
        batches("http://2852039166/latest/x.csv", {"kind": "csv"})


def test_redirects_to_link_local_addresses_are_refused(data: Path) -> None:
    with WebServer(data) as web:
        web.redirects = {
            "/moved.csv": f"http://localhost:{web.port}/rows/rows-0.csv",
            "/evil.csv": "http://169.254.169.254/latest/meta-data",
            "/round.csv": "/round.csv",
        }
        base = f"http://127.0.0.1:{web.port}"
        assert together(batches(f"{base}/moved.csv", {"kind": "csv", "key": "id"})) == together(
            batches(f"{data}/rows/rows-0.csv", {"kind": "csv", "key": "id"})
        )
        with pytest.raises(HeadraceError, match=r"(?s)machine's own network.*169\.254\.169\.254"):
            batches(f"{base}/evil.csv", {"kind": "csv"})
        with pytest.raises(HeadraceError, match=r"(?s)The URL leads nowhere.*round\.csv"):
            batches(f"{base}/round.csv", {"kind": "csv"})


def test_a_server_without_ranges_is_read_whole(data: Path) -> None:
    with WebServer(data, ranges=False) as web:
        for path, options in KINDS.items():
            found = batches(f"http://127.0.0.1:{web.port}/{path}", options)
            assert together(found) == together(batches(f"{data}/{path}", options))


def test_secrets_of_urls_are_in_no_record_and_no_error(data: Path) -> None:
    with WebServer(data) as web:
        url = f"http://127.0.0.1:{web.port}/rows/rows-{{0,1}}.csv?X-Amz-Signature=geheim"
        found = batches(url, {"kind": "csv"})
        assert {key.partition(b":")[0] for batch in found for key in batch.keys.to_pylist()} == {
            b"rows-0.csv",
            b"rows-1.csv",
        }
        for wrong in ("rows-7.csv", "rows", "rows-*.nothing"):
            with pytest.raises(HeadraceError) as caught:
                batches(f"http://127.0.0.1:{web.port}/rows/{wrong}?X-Amz-Signature=geheim", {"kind": "csv"})
            assert "geheim" not in str(caught.value)


def test_a_bucket_without_credentials(
    data: Path, reach: Callable[..., tuple[str, Faults]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Public data are read as fsspec's own setting says: FSSPEC_S3_ANON."""
    base, _ = reach("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(HeadraceError, match=r"(?s)The store refuses access.*FSSPEC_S3_ANON"):
        batches(f"{base}/rows/*.csv", {"kind": "csv"})
    forget()
    monkeypatch.setitem(
        fsspec.config.conf, "s3", {"anon": "true"}
    )  # what fsspec makes of FSSPEC_S3_ANON=true
    assert together(batches(f"{base}/rows/*.csv", {"kind": "csv"})) == together(
        batches(f"{data}/rows/*.csv", {"kind": "csv"})
    )


def test_a_store_that_is_down_is_an_error_and_no_dead_letter(
    data: Path, reach: Callable[..., tuple[str, Faults]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, proxy = reach("s3")
    monkeypatch.setattr(_remote, "PATIENCE", Patience(attempts=2, delay=0.01))
    forget()
    spec: Any = ImageFolderSource(kind="image_folder", path="x")
    source = open_source("photos", spec, f"{base}/photos")
    partitions = list(source.partitions())
    proxy.shares, proxy.at_most = {"503": 1}, 1000
    with pytest.raises(HeadraceError, match="The store does not deliver"):
        list(source.read(partitions[0]))


def test_index_pages_lead_nowhere_else(tmp_path: Path) -> None:
    for name in ("root/a.txt", "root/sub/b c.txt", "other/c.txt", "root/sub/100%.txt"):
        put(tmp_path / name, name.encode())
    links = [
        "a.txt",
        "sub/",
        "../other/",
        "/other/c.txt",
        "sub/../../other/c.txt",
        "?C=M;O=A",
        "#top",
        "http://x/y",
    ]
    page = "".join(f'<A class=x HREF="{link}">x</A>' for link in [*links, "a.txt", "%2e%2e/%2e%2e/d.txt"])
    with WebServer(tmp_path) as web:
        web.pages = {"/root": f"<!-- {page}".encode() + f"-->{page}".encode()}
        (found,) = batches(f"http://127.0.0.1:{web.port}/root", {"kind": "files"})
        assert not found.faults
        assert found.records.column("path").to_pylist() == ["a.txt", "sub/100%25.txt", "sub/b c.txt"]
        with pytest.raises(HeadraceError, match="There is no such folder"):
            batches(f"http://127.0.0.1:{web.port}/nowhere", {"kind": "files"})
        with pytest.raises(HeadraceError, match="There is no such file"):
            batches(f"http://127.0.0.1:{web.port}/nowhere/*.csv", {"kind": "csv"})


def test_braces_stand_for_names(tmp_path: Path) -> None:
    assert expand_braces("a{1..3}.csv") == ["a1.csv", "a2.csv", "a3.csv"]
    assert expand_braces("{08..11}") == ["08", "09", "10", "11"]
    assert expand_braces("{2..1}{x,}") == ["2x", "2", "1x", "1"]
    assert expand_braces("{a}{}") == ["{a}{}"]
    for many in ("{0..100000}", "{0..999}{0..999}", "{0..99999999999999999999}"):
        with pytest.raises(HeadraceError, match="too many names"):
            expand_braces(many)
    put(tmp_path / "rows-0.csv", b"id\n1\n")
    with pytest.raises(HeadraceError, match=r"(?s)There is no such file.*rows-1\.csv"):
        batches(f"{tmp_path}/rows-{{0,1}}.csv", {"kind": "csv"})
    put(tmp_path / "odd{a,b}.csv", b"id\n1\n")
    assert len(batches(f"{tmp_path}/odd{{a,b}}.csv", {"kind": "csv"})) == 1


def test_listings_of_buckets_come_page_by_page(
    ports: Mapping[str, int], reach: Callable[..., tuple[str, Faults]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what submits a job never holds the names of a whole bucket."""
    names = sorted(["a-b", "a/b", "a0", "\U0001f426", "ﬀ", *(f"n/{number:04}" for number in range(1100))])
    for name in names:
        call(ports["s3"], "PUT", f"/{BUCKET}/{urllib.parse.quote(f'many/{name}')}", b"x")
    base, _ = reach("s3")
    asked = 0
    page = _remote._Requests.page

    async def counted(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        return await page(self, *args, **options)

    monkeypatch.setattr(_remote._Requests, "page", counted)
    listed = list_files(base.replace("/data", "/many"), lambda _: False)
    first = next(listed).path
    assert asked == 1
    assert [first, *(file.path for file in listed)] == names
    assert asked == 2
