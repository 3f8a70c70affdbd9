"""The command `run`: the service, until it receives SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import time

import psutil

from pipeline.errors import SettingsError

from . import settings


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)


def run(options: argparse.Namespace) -> int:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # turns Ray's telemetry off
    import uvicorn  # here, so that --help needs neither

    from .app import create
    from .engine import Engine

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("ray").setLevel(logging.WARNING)
    chosen = settings.from_options(options)
    listening = _listening(chosen.host, chosen.port)
    app = create(chosen, Engine(chosen))
    address = f"http://{chosen.host}:{listening.getsockname()[1]}"
    since = time.time() - psutil.Process().create_time()
    print(f"Listening on {address} after {since:.1f} s; data in {chosen.data}. Ctrl-C stops.", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=5))
    server.run([listening])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """Raises SettingsError if the address cannot be listened on."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"Nothing can listen on {host}:{port}: {error}. Choose another --port, or 0 for a free one."
        ) from error
