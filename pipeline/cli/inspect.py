"""The command `inspect`."""

from __future__ import annotations

import argparse
import json

from ..models import build
from ..weights import open_checkpoint, survey
from .options import add_image_encoder

HELP = "what a checkpoint is, and what it is complete for"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, file or Hugging Face repository")
    add_image_encoder(parser)
    parser.add_argument("--json", action="store_true", help="print JSON: types, roles, missing, notes")


def run(options: argparse.Namespace) -> int:
    found = survey(open_checkpoint(options.checkpoint, options.image_encoder), build)
    print(json.dumps(found.as_json(), indent=1) if options.json else found.text())
    return 0
