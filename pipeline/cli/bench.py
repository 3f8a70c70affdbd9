"""The command `bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bench import run as bench
from ..runtime import choose_device
from .options import add_device, add_history, add_report, add_speed, gigabytes


def add(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--full-size", action="store_true", help="the released sizes, for a GPU with 12 GB; default: a small model"
    )
    parser.add_argument(
        "--memory-limit", type=gigabytes, metavar="GB", help="limit the process's memory on a CUDA device"
    )
    add_speed(parser)
    parser.add_argument(
        "--keep-models",
        action="store_true",
        help="keep the networks on the device and show the second of two runs, as in a batch",
    )
    parser.add_argument("--run-only", action="store_true", help="skip the single networks")
    parser.add_argument("--faces", type=int, metavar="N", help="of the whole run; default: 100000, small 20000")
    add_report(parser)
    add_history(parser)
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="PATH",
        help="a clone of github.com/microsoft/TRELLIS.2 with its packages installed, to be measured beside",
    )


def run(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    return bench.run(
        device,
        options.full_size,
        options.memory_limit,
        options.report,
        options.history,
        options.reference,
        options.speed,
        options.keep_models,
        options.faces,
        options.run_only,
    )
