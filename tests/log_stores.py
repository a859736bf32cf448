"""Real stores for tests of the log: SQLite and files, or PostgreSQL and an S3 server, each started.

The S3 server is moto's: of the servers that the package registries offer it is the one that honours
`If-None-Match` (the gateways of JuiceFS and rclone take the condition and overwrite), on which the
log rests. It keeps objects in memory, so that what survives a crash of the server is not shown.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from verispect.ledger.log.state_postgres import PostgresState
from verispect.ledger.log.state_sqlite import SqliteState
from verispect.ledger.log.tile_files import FileTiles
from verispect.ledger.log.tile_objects import ObjectTiles

START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} does not listen") from None
            time.sleep(0.02)


# -- PostgreSQL -------------------------------------------------------------------------------


def postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs; skip loudly, or fail in CI, without it."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parts[-2])
    found = [folder for folder in folders if (folder / "initdb").exists()]
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    if initdb:
        return Path(initdb).resolve().parent
    message = "no PostgreSQL: run make system-packages as root"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _unprivileged() -> dict[str, object]:
    """Return whom PostgreSQL runs as: it refuses to be root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("no unprivileged user to run PostgreSQL as")


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server of our own on a free port and give its connection string."""
    programs = postgres_programs()
    whom = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="verispect-postgres-"))
    if whom:
        os.chown(folder, whom["user"], whom["group"])
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "verispect", "-A", "trust", "-E", "UTF8"],
        check=True,
        env=environment,
        **quiet,
        **whom,
    )
    port = free_port()
    process = subprocess.Popen(
        [
            *(programs / "postgres", "-D", data, "-p", str(port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
        ],
        env=environment,
        **quiet,
        **whom,
    )
    try:
        await_port(port, process)
        yield f"host=127.0.0.1 port={port} user=verispect dbname=postgres"
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


# -- objects ------------------------------------------------------------------------------------


@contextmanager
def running_object_store() -> Iterator[str]:
    """Start moto's S3 server on a free port and give its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def object_options(address: str) -> dict[str, object]:
    return {
        "endpoint": address,
        "region": "us-east-1",
        "access_key_id": "test",
        "secret_access_key": "test",
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": True},
        "retry_config": {"max_retries": 0},
    }


def make_bucket(address: str, name: str) -> None:
    urlopen(Request(f"{address}/{name}", method="PUT"), timeout=10).close()


# -- both kinds -----------------------------------------------------------------------------------


class EmbeddedStores:
    """SQLite and files; each call opens the same ones again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self) -> SqliteState:
        return SqliteState(self.folder / "state.sqlite3", cache_kibibytes=4096)

    def tiles(self) -> FileTiles:
        return FileTiles(self.folder / "tiles")


class ServedStores:
    """PostgreSQL and objects, in a schema and a bucket of their own."""

    def __init__(self, connection: str, address: str, name: str) -> None:
        self.connection, self.address, self.name = connection, address, name
        make_bucket(address, name)

    def state(self) -> PostgresState:
        return PostgresState(self.connection, schema=self.name.replace("-", "_"))

    def tiles(self) -> ObjectTiles:
        return ObjectTiles(self.name, prefix="log/", options=object_options(self.address))


Stores = EmbeddedStores | ServedStores
