"""The command `bench-tables`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bench import history
from ..models import build
from ..plan import fit


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "history",
        type=Path,
        nargs="?",
        default=history.HISTORY,
        metavar="FILE",
        help="default: benchmarks/history.jsonl of this repository",
    )
    parser.add_argument(
        "--memory-model",
        action="store_true",
        help="print what memory plans estimate beside what was measured, and their factors fitted again",
    )


def run(options: argparse.Namespace) -> int:
    if options.memory_model:
        print(fit.markdown(history.for_fit(options.history), fit.networks(build)))
        return 0
    print(history.markdown(history.read(options.history)))
    return 0
