"""PostgreSQL, MariaDB and MySQL on loopback: servers of the tests' own, in a temporary folder, not as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adbc_driver_postgresql import dbapi as adbc

from tests.engines.engine import ENGINES
from tests.servers import free_port, wait_for

PASSWORD = "s3cret-Pa55"
_USER = "nobody"  # no server runs as root
_FOLDERS = (
    "/usr/sbin",
    "/usr/bin",
    *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
)


@dataclass(frozen=True)
class Server:
    """A running server with an empty database `work`, and a user `reader` whose password is `PASSWORD`."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def url(self) -> str:
        """Without the password, as a job has it."""
        return f"{self.kind}://reader@127.0.0.1:{self.port}/work"


@contextlib.contextmanager
def postgresql() -> Iterator[Server]:
    """PostgreSQL with locale-aware collation by default, and passwords asked for."""
    with _folder() as folder:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        locale = ["--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"]
        options = [
            *locale,
            "--auth=scram-sha-256",
            "--username=reader",
            f"--pwfile={secret}",
            "--encoding=UTF8",
        ]
        _call([*_program("initdb"), "-D", str(folder / "data"), "--no-sync", *options])
        port = free_port()
        settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
        command = [*_program("postgres"), "-D", str(folder / "data"), "-p", str(port)]
        with _running(
            [*command, *(part for text in settings for part in ("-c", text))], folder, port
        ) as process:
            _make_database(port)
            yield Server("postgresql", port, process, folder)


def _make_database(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            uri = f"postgresql://reader:{PASSWORD}@127.0.0.1:{port}/postgres"
            with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE DATABASE work")
                return
        except adbc.Error:  # it is still starting up
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def mariadb() -> Iterator[Server]:
    """MariaDB with its default collation, which knows no case."""
    with _folder() as folder:
        data, port = folder / "data", free_port()
        install = ["--auth-root-authentication-method=normal", "--skip-test-db", f"--datadir={data}"]
        _call([*_program("mariadb-install-db"), "--no-defaults", *install])
        command = [*_program("mariadbd"), "--no-defaults", *_options(folder, port)]
        with _running(command, folder, port) as process:
            yield Server("mariadb", port, process, folder)


@contextlib.contextmanager
def mysql() -> Iterator[Server]:
    """MySQL as it is by default: passwords by caching_sha2_password, a collation that knows no case, strict modes."""
    program = ENGINES / "mysql" / "mysqld"
    assert program.exists(), f"{program} is missing: run scripts/engines"
    with _folder() as folder:
        # It leaves root by itself: only root may enter the repository, perhaps.
        user = [f"--user={_USER}"] if os.getuid() == 0 else []
        command, port = [str(program), "--no-defaults", *user], free_port()
        _call([*command, "--initialize-insecure", f"--datadir={folder}/data"])
        options = [*_options(folder, port), "--mysqlx=OFF", "--skip-log-bin"]
        with _running([*command, *options], folder, port) as process:
            yield Server("mysql", port, process, folder)


def _options(folder: Path, port: int) -> list[str]:
    """What MariaDB and MySQL both understand."""
    script = folder / "init.sql"
    script.write_text(
        "CREATE DATABASE work CHARACTER SET utf8mb4;\n"
        f"CREATE USER reader@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
        "GRANT ALL ON *.* TO reader@'127.0.0.1' WITH GRANT OPTION;\n"
    )
    script.chmod(0o644)
    files = [f"--datadir={folder}/data", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
    network = ["--bind-address=127.0.0.1", f"--port={port}", "--skip-name-resolve"]
    return [*files, *network, f"--init-file={script}", "--innodb-flush-log-at-trx-commit=0"]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Not below pytest's folder, which other users may not enter."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-sql-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> list[str]:
    """A program of Debian's packages, run by an unprivileged user."""
    found = shutil.which(name, path=os.pathsep.join((*_FOLDERS, os.environ.get("PATH", ""))))
    assert found, f"{name} is missing: apt-get install postgresql mariadb-server"
    return ["runuser", "-u", _USER, "--", found] if os.getuid() == 0 else [found]


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@contextlib.contextmanager
def _running(command: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    with (
        open(folder / "log", "w+") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/") as process,
    ):
        try:
            wait_for(process, port, log, 120)
            yield process
        finally:
            process.terminate()
            process.wait(60)
