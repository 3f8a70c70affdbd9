"""The command `bench-tables`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import bench_history

HELP = "print a history of measurements as Markdown tables"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "history",
        type=Path,
        nargs="?",
        default=bench_history.HISTORY,
        metavar="FILE",
        help="default: benchmarks/history.jsonl of this repository",
    )


def run(options: argparse.Namespace) -> int:
    print(bench_history.markdown(bench_history.read(options.history)))
    return 0
