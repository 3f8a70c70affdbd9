"""The command `inspect`: a checkpoint, or a mesh file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import CheckpointError, SettingsError, StateError
from ..export.read import MESHES, is_mesh_file
from ..export.state import StateFile
from ..models import build
from ..stages import PLA, default_backends, inspect_file
from ..weights import open_checkpoint, survey
from .options import add_backend, add_image_encoder, backend_choices


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT_OR_MESH",
        help="folder, file or Hugging Face repository; or a mesh file (of other programs with trimesh installed)",
    )
    add_image_encoder(parser)
    parser.add_argument(
        "--density", type=float, default=PLA, metavar="G_CM3", help=f"for a mesh's weight; default: {PLA}, PLA"
    )
    add_backend(parser)
    parser.add_argument(
        "--json", action="store_true", help="print JSON: types, roles, missing, notes; of a mesh, its report"
    )


def run(options: argparse.Namespace) -> int:
    path = Path(options.checkpoint)
    if is_mesh_file(path):
        found = inspect_file(path, options.density, default_backends(backend_choices(options)))
        print(json.dumps(found.as_dict(), indent=1) if options.json else found.text())
        return 0
    if options.backend:
        raise SettingsError("--backend chooses what measures a mesh; a checkpoint is inspected without. Leave it out.")
    try:
        checkpoint = open_checkpoint(options.checkpoint, options.image_encoder)
    except CheckpointError as error:
        if not path.is_file():
            raise
        if _is_state(path):
            raise CheckpointError(
                f"{path} is a state file, with what the stages of a run made. `finish` makes a mesh file of it, which "
                "can be inspected."
            ) from error
        raise CheckpointError(f"{error} Or a mesh file: {', '.join(MESHES)}.") from error
    known = survey(checkpoint, build)
    print(json.dumps(known.as_json(), indent=1) if options.json else known.text())
    return 0


def _is_state(path: Path) -> bool:
    try:
        StateFile(path)
    except StateError:
        return False
    return True
