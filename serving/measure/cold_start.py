"""The command `cold-start`: seconds from the start of a service to its first GLB, without and with compiled kernels."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from .process import ServiceProcess, add_shared, made, run_options, settings_of_jobs

_COLUMNS = ("answers", "ready", "first GLB", "second GLB takes")


def add(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="trellis2-cold-start-") as folder:
        place = Path(folder)
        found = {name: _measured(options, place, name) for name in ("empty", "warm")}
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"| kernel cache | {' | '.join(f'{name} (s)' for name in _COLUMNS)} |\n|---|{'---|' * len(_COLUMNS)}")
    for name, seconds in found.items():
        print(f"| {name} | {' | '.join(f'{seconds[column]:.1f}' for column in _COLUMNS)} |")
    return 0


def _measured(options: argparse.Namespace, folder: Path, name: str) -> dict[str, float]:
    """Both runs have the same cache, which is empty at first."""
    cache = {"WARP_CACHE_PATH": str(folder / "warp"), "TRITON_CACHE_DIR": str(folder / "triton")}
    with ServiceProcess(folder / name, *run_options(options), environment=cache) as service:
        found = {"answers": time.monotonic() - service.start}
        service.ready()
        found["ready"] = time.monotonic() - service.start
        for column in ("first GLB", "second GLB takes"):
            begun = time.monotonic()
            made(service.client, options.picture, **settings_of_jobs(options))
            found[column] = time.monotonic() - (service.start if column == "first GLB" else begun)
    return found
