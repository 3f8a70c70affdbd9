"""The command `load`: many clients at once, how fast /health answers meanwhile, and whether a job is lost."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from ..client import Client, ServiceError
from .process import ServiceProcess, add_shared, run_options, settings_of_jobs

_PROBE = 0.05  # seconds between two probes of /health


def add(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)
    parser.add_argument("--clients", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="new jobs are sent; default: 60")
    parser.add_argument("--queue-limit", type=int, default=10, metavar="N", help="of the service; default: 10")
    parser.add_argument(
        "--health", type=float, default=50.0, metavar="MS", help="what the 99th percentile may take; default: 50"
    )


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if /health is too slow, a job is lost or fails, or no request was refused."""
    with tempfile.TemporaryDirectory(prefix="trellis2-load-") as folder:
        more = ("--queue-limit", options.queue_limit, *run_options(options))
        with ServiceProcess(Path(folder) / "data", *more) as service:
            found = _measured(options, service.ready().url)
    fits = found["p99_ms"] < options.health and not found["lost"] and not found["failed"] and found["refused_429"] > 0
    if options.json:
        print(json.dumps({**found, "fits": fits}))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0 if fits else 1


def _measured(options: argparse.Namespace, url: str) -> dict[str, float]:
    here, there = multiprocessing.Pipe()
    # in a process of its own: a hundred threads of this process would delay the probe itself
    probe = multiprocessing.get_context("spawn").Process(target=_probe, args=(url, there), daemon=True)
    probe.start()
    counts, until = Counter(), time.monotonic() + options.seconds
    clients = [
        threading.Thread(target=_client, args=(options, url, until, counts), daemon=True)
        for _ in range(options.clients)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    here.send("stop")
    times = sorted(here.recv())
    probe.join()
    ended = counts["done"] + counts["failed"]
    return {
        "clients": options.clients,
        "accepted": counts["accepted"],
        "done": counts["done"],
        "failed": counts["failed"],
        "lost": counts["accepted"] - ended,
        "refused_429": counts["refused"],
        "probes": len(times),
        "p50_ms": round(1000 * times[len(times) // 2], 1),
        "p99_ms": round(1000 * times[int(0.99 * len(times))], 1),
        "worst_ms": round(1000 * times[-1], 1),
    }


def _client(options: argparse.Namespace, url: str, until: float, counts: Counter) -> None:
    """Send jobs, again while the queue is full, and wait for each."""
    client = Client(url, patience=0)
    while time.monotonic() < until:
        try:
            job = client.generate([options.picture], **settings_of_jobs(options))
        except ServiceError as error:
            counts["refused" if error.status == 429 else "unreachable"] += 1
            time.sleep(1)
            continue
        counts["accepted"] += 1
        try:
            client.wait(job["id"], every=1.0)
            counts["done"] += 1
        except ServiceError as error:
            counts["failed" if error.problem else "unreachable"] += 1


def _probe(url: str, pipe: Connection) -> None:
    times: list[float] = []
    while not pipe.poll(_PROBE):
        begun = time.perf_counter()
        with urllib.request.urlopen(url + "/health", timeout=30) as answer:
            answer.read()
        times.append(time.perf_counter() - begun)
    pipe.send(times)
