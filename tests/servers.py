"""Real servers for the service's tests, each in a process or thread of its own: PostgreSQL, S3, FTP."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def postgresql():
    """The URL of a new, empty PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    places = [Path(found).resolve().parent for found in filter(None, [shutil.which("postgres")])]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places:
        pytest.skip("PostgreSQL is not installed")
    as_user = {"user": "postgres"} if os.name == "posix" and os.getuid() == 0 else {}  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="trellis2-postgresql-"))
    if as_user:
        shutil.chown(folder, "postgres")
    port, quiet = free_port(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    data, server = folder / "data", None
    command = [places[0] / "initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync"]
    try:
        subprocess.run(list(map(str, command)), check=True, timeout=120, **quiet, **as_user)
        command = [places[0] / "postgres", "-D", data, "-p", port, "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        server = subprocess.Popen(list(map(str, [*command, "-c", "fsync=off"])), **quiet, **as_user)
        _until_open(port)
        import psycopg

        for _ in range(100):
            try:
                psycopg.connect(host="127.0.0.1", port=port, user="tester", dbname="postgres").close()
                break
            except psycopg.OperationalError:  # it is still starting up
                time.sleep(0.1)
        yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
    finally:
        if server is not None:
            server.terminate()
            server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3():
    """(URL, options) of a bucket."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", free_port())
    server.start()
    try:
        place = f"http://127.0.0.1:{server._port}"
        import s3fs

        options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": place}}
        s3fs.S3FileSystem(**options).makedirs("bucket", exist_ok=True)
        yield "s3://bucket/results", options
    finally:
        server.stop()


@contextmanager
def ftp(folder: Path):
    """(URL, options) of a folder."""
    pytest.importorskip("pyftpdlib", reason="pyftpdlib is not installed")
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

    users = DummyAuthorizer()
    users.add_user("tester", "secret", str(folder), perm="elradfmwMT")
    handler = type("Handler", (FTPHandler,), {"authorizer": users})
    server = FTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=lambda: server.serve_forever(timeout=0.01), daemon=True).start()
    try:
        yield f"ftp://tester:secret@127.0.0.1:{server.address[1]}/results", {}
    finally:
        server.close_all()


def _until_open(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing listens on {port}")
