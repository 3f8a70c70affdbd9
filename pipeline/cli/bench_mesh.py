"""The command `bench-mesh`."""

from __future__ import annotations

import argparse

from .. import stages
from ..bench import mesh
from ..runtime import Runtime, choose_device
from .options import add_device, add_history, add_report


def add(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--mesh",
        action="append",
        choices=tuple(mesh.SIDES),
        help="faces of the raw mesh, may be given several times; default: 1 M and 3 M",
    )
    parser.add_argument("--yardsticks", action="store_true", help="also fast-simplification and xatlas")
    add_report(parser)
    add_history(parser)


def run(options: argparse.Namespace) -> int:
    runtime = Runtime(choose_device(options.device), stages.default_backends())
    return mesh.run(runtime, options.mesh or ["1 M", "3 M"], options.yardsticks, options.report, options.history)
