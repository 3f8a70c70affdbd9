"""The command `soak`: many jobs one after another, and whether the memory of worker and service grows."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

from pipeline.words import counted

from .process import ServiceProcess, add_shared, made, run_options, settings_of_jobs

_WINDOW = 3  # jobs whose median is compared, as single values are noisy


def add(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)
    parser.add_argument("--jobs", type=int, default=50, metavar="N", help="default: 50")
    parser.add_argument("--after", type=int, default=5, metavar="N", help="jobs before the first look; default: 5")
    parser.add_argument("--growth", type=float, default=3.0, metavar="PERCENT", help="that is allowed; default: 3")


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if memory grew by more than is allowed."""
    held: list[dict[str, int]] = []
    with (
        tempfile.TemporaryDirectory(prefix="trellis2-soak-") as folder,
        ServiceProcess(Path(folder) / "data", *run_options(options)) as service,
    ):
        service.ready()
        for number in range(options.jobs):
            job = made(service.client, options.picture, seed=number, **settings_of_jobs(options))
            held.append({**job["memory"], "service": service.memory()})
    growth = {name: grown([each[name] for each in held], options.after) for name in held[0]}
    fits = all(percent <= options.growth for percent in growth.values())
    if options.json:
        print(json.dumps({"bytes": held, "growth_percent": growth, "fits": fits}))
        return 0 if fits else 1
    print(f"| memory | after {counted(options.after, 'job')} | after {len(held)} | growth |\n|---|---|---|---|")
    for name, percent in growth.items():
        numbers = (held[min(options.after, len(held)) - 1][name], held[-1][name])
        print(f"| {name} | {' | '.join(f'{number / 1e6:,.1f} MB' for number in numbers)} | {percent:+.1f} % |")
    print("Bounded." if fits else f"It grows by more than {options.growth:g} %.")
    return 0 if fits else 1


def grown(numbers: list[int], after: int) -> float:
    """Percent from the first jobs behind `after - 1` to the last ones."""
    first = numbers[min(after, len(numbers)) - 1 :][:_WINDOW]
    return 100 * (median(numbers[-_WINDOW:]) / median(first) - 1) if median(first) else 0.0
