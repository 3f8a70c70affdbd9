"""What can be checked before the first stage: settings, and whether this machine and checkpoint can follow them.

The command line and the nodes call `preflight` before they load anything; each stage checks its own inputs with the
same functions, for those who call it alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from functools import partial

import torch

from ..backends import Backends
from ..errors import BackendError, SettingsError, unknown
from ..mesh import (
    CLEAN,
    CLOSEST,
    CROSSING,
    MESH_TO_DUAL_GRID,
    NEAREST,
    OUTER_SHELL,
    QUADS,
    RASTER,
    SIMPLIFY,
    SOLID,
    UNWRAP,
    WINDING,
)
from ..models.kernels_ahead import compile_ahead
from ..models.operations import OPERATIONS as NETWORK_OPERATIONS
from ..render import RENDER, check_picture
from ..runtime import free_memory
from ..sparse import ADD_TO_CHILDREN, CHILD_CONV, SUBMANIFOLD_CONV, TRILINEAR
from ..spec import MAX_TOKENS, PipelineType
from ..warp import DEVICES, cores, unavailable_reason
from ..weights import Checkpoint, Models
from .hollowing import CAVITIES, Hollowing
from .types import SHELLS, ExportSettings

CONVOLUTIONS = (SUBMANIFOLD_CONV, CHILD_CONV, ADD_TO_CHILDREN)
PICTURE_BUDGET = 8_000_000_000  # bytes of all frames of a drawing together
_DRAWING = 220  # bytes a pixel while one is drawn by four workers: their samples, light, the finished picture


def preflight(
    checkpoint: Checkpoint,
    pipeline_type: PipelineType,
    export: ExportSettings | None = None,
    *,
    texture: bool = True,
    max_tokens: int = MAX_TOKENS,
    pictures: bool = False,
    backends: Backends | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Everything that a run from pictures to a file can be refused for without running it. Loads no weights.

    Args:
        export: how the mesh becomes a file (whose numbers ExportSettings has checked); None: it does not.
        pictures: whether the result is to be drawn.
        backends, device: the table of the run and where it runs; None: not checked.

    Raises:
        CheckpointError: the checkpoint lacks a network of the pipeline type.
        SettingsError: settings that cannot work, or that contradict each other.
        BackendError: something that is missing here is needed. Rows that are here are tried in threads while the run
            goes on (Backends.prepare); what is wrong with them is raised when the next stage begins.
    """
    check_tokens(max_tokens)
    check_finish(export, texture, pictures)
    checkpoint.require(pipeline_type, texture)
    check_finish(export, texture, pictures, backends, device)


def check_finish(
    export: ExportSettings | None,
    texture: bool = True,
    pictures: bool = False,
    backends: Backends | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """What the post-processing can be refused for without running it; arguments and errors as for preflight."""
    if export is not None:
        check_export(export, texture)
    if pictures and (reason := unavailable_reason()):
        raise BackendError(f"Pictures of the result need Warp: {reason}")
    if backends is not None:
        where = geometry_device(device)
        needed = _operations(export, texture, pictures)
        for op in needed:
            backends.require(op, where)
        if needed:
            helpful = [] if export is None or unavailable_reason() else _helpful(export, texture)
            _prepare([*needed, *helpful], backends, where)


def prepare_texturing(backends: Backends, device: torch.device | str, unwraps: bool) -> None:
    """Begin to compile, in threads, what texturing an existing mesh runs: first what encodes it, which comes first.

    unwraps: whether it may get new UVs.
    """
    unwrap = [UNWRAP] if unwraps else []
    _prepare([MESH_TO_DUAL_GRID, *unwrap, RASTER, NEAREST, TRILINEAR], backends, geometry_device(device))


def _prepare(ops: Iterable[str], backends: Backends, device: torch.device) -> None:
    # a GPU leaves the cores to the compilers; a CPU samples on all of them
    backends.prepare(ops, device, workers=min(3, cores()) if device.type == "cuda" else 1)


def prepare_networks(
    models: Models, roles: Iterable[str], backends: Backends, device: torch.device, dtype: torch.dtype | None
) -> threading.Thread | None:
    """Begin to compile the Triton kernels of these networks, in threads, on a GPU: those of the last ones while the
    first ones work. Nothing is downloaded for it: networks whose files are not here are left out.

    dtype: torso dtype in place of the checkpoint's. Returns the thread that ends when they are compiled, if any.
    """
    if device.type != "cuda":
        return None
    workers = min(3, cores())
    outlines = [partial(models.outline, role, dtype) for role in dict.fromkeys(roles) if models.is_fetched(role)]
    thread = compile_ahead(outlines, backends, device, workers)
    if thread:
        backends.prepare((*(op.name for op in NETWORK_OPERATIONS), *CONVOLUTIONS), device, workers)
    return thread


def _operations(export: ExportSettings | None, texture: bool, pictures: bool) -> list[str]:
    """Rows of the backend table that the post-processing cannot do without."""
    if export is None:
        return []
    wanted = [CLEAN, SIMPLIFY]
    made_solid = export.shells == "solid" or export.hollow or export.cavities == "keep"
    wanted += [SOLID] if made_solid else []
    wanted += [QUADS] if export.quads else []
    wanted += [UNWRAP, RASTER, NEAREST] if texture and not export.vertex_colors else []
    wanted += [CLOSEST] if export.normal_map or export.occlusion else []
    return [*wanted, *([RENDER] if pictures else [])]


def _helpful(export: ExportSettings, texture: bool) -> list[str]:
    """Rows that the post-processing will use where they are, whose kernels are worth compiling early."""
    shells = {"outer": [OUTER_SHELL], "auto": [WINDING, SOLID]}.get(export.shells, [])
    return [*shells, *([CROSSING] if export.hollow else []), *([TRILINEAR, CLOSEST] if texture else [])]


def geometry_device(device: torch.device | str) -> torch.device:
    """Where a run on a device works on meshes: fp64 and Warp are needed, which MPS and Intel's GPUs lack."""
    where = torch.device(device)
    return where if where.type in DEVICES else torch.device("cpu")


def check_export(export: ExportSettings, texture: bool = True) -> None:
    """Raises as preflight. texture: whether there will be colours."""
    check_shells(export.shells, export.wall, export.cavities, export.hollow)
    unused = [name for name in ("normal_map", "occlusion") if getattr(export, name)]
    unused += ["fewer seams"] if export.seams == "fewer" else []
    if unused and (export.vertex_colors or not texture):
        why = "vertex colours take the place of textures" if export.vertex_colors else "there is no texture"
        raise SettingsError(f"{' and '.join(unused)} would have no effect: {why}. Leave one of the two out.")
    if export.vertex_colors and not texture:
        raise SettingsError("vertex_colors would have no effect without texture. Leave one of the two out.")
    check_maps(export.normal_map, export.occlusion)


def check_shells(shells: str, wall: float = 0.0, cavities: str = "fill", hollow: Hollowing | None = None) -> None:
    """Raises SettingsError for an unknown name or what is impossible or of no use, BackendError for "solid" without
    Warp."""
    if shells not in SHELLS:
        raise SettingsError(unknown("shells", shells, SHELLS))
    if shells == "solid" and (reason := unavailable_reason()):
        raise BackendError(f"A solid mesh needs Warp: {reason}")
    if not 0 <= wall < math.inf:
        raise SettingsError(f"The wall is {wall:g} thick; choose a thickness of 0 or more.")
    if cavities not in CAVITIES:
        raise SettingsError(unknown("cavities", cavities, CAVITIES))
    asked = {"A wall": wall, "A hollow": hollow, "Keeping cavities": cavities == "keep"}
    if unused := [name for name, value in asked.items() if value and shells in ("surface", "outer")]:
        raise SettingsError(
            f'{unused[0]} would have no effect with shells "{shells}": choose "solid", or leave it out.'
        )


def check_maps(normal_map: bool, occlusion: bool) -> None:
    """Raises BackendError if one of them is asked for and Warp is missing."""
    if (normal_map or occlusion) and (reason := unavailable_reason()):
        raise BackendError(f"Normal maps and occlusion need Warp: {reason}")


def check_tokens(max_tokens: int) -> None:
    if max_tokens < 1:
        raise SettingsError(f"max_tokens must be at least 1, got {max_tokens}.")


def check_frames(frames: int, size: int, bytes_a_pixel: int) -> None:
    """Whether frames x size x size pixels can be drawn at all.

    Args:
        bytes_a_pixel: of what is kept: 4 for the renderer's own uint8 RGBA, 16 for ComfyUI's float IMAGE and MASK.

    Raises:
        SettingsError: no such picture exists, or all frames are more than PICTURE_BUDGET. BackendError: without Warp.
    """
    if reason := unavailable_reason():
        raise BackendError(f"The renderer needs Warp: {reason}")
    check_picture(size, "shaded", None, frames)
    if frames * size**2 * bytes_a_pixel > PICTURE_BUDGET:
        raise SettingsError(
            f"{_asked(frames, size, bytes_a_pixel)}; at most {PICTURE_BUDGET / 1e9:.0f} GB are drawn at once, "
            f"{PICTURE_BUDGET // (size**2 * bytes_a_pixel)} frames of this size. Ask for fewer frames or smaller "
            "pictures."
        )


def check_pictures(frames: int, size: int, bytes_a_pixel: int = 4) -> None:
    """As check_frames; raises SettingsError also where main memory, as it is now, does not hold them."""
    check_frames(frames, size, bytes_a_pixel)
    free, drawing = free_memory(), size**2 * _DRAWING
    if frames * size**2 * bytes_a_pixel + drawing > free:
        raise SettingsError(
            f"{_asked(frames, size, bytes_a_pixel)}, and drawing one takes {drawing / 1e9:.1f} GB; {free / 1e9:.1f} GB "
            "of memory are free. Ask for fewer frames or smaller pictures."
        )


def _asked(frames: int, size: int, bytes_a_pixel: int) -> str:
    kept = frames * size**2 * bytes_a_pixel
    return f"{frames} frames of {size} x {size} pixels take {kept / 1e9:.1f} GB ({bytes_a_pixel} bytes a pixel)"
