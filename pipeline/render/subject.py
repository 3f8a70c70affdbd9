"""What a picture shows, and checks of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import NotFiniteError, SettingsError, unknown
from ..mesh import Mesh

MODES = ("shaded", "normals", "base_color", "wireframe", "pbr")
ALPHA_MODES = ("OPAQUE", "MASK", "BLEND")  # as in glTF


@dataclass(frozen=True, eq=False)
class Subject(Mesh):
    """What a picture shows: a mesh and its looks.

    vertices: [V, 3] world units, Z up; all of them count for the framing. faces: [F, 3].
    normals: [V, 3] unit, for shading; None: smooth but for sharp edges, whatever the winding.
    uvs: [V, 2], v downwards; maps: [S, S, 6] float, row 0 at v = 0: base colour RGB (sRGB), metallic, roughness, alpha,
        in 0-1.
    colours: [V, 3 or 6] the same per vertex, without maps; 3: base colour of something rough, opaque, not metallic.
    alpha_mode: what "base_color" and "pbr" make of alpha: ignore it, cut at 0.5, or blend (up to 8 layers).

    Raises:
        MeshError: see mesh.check_mesh.
    """

    normals: torch.Tensor | None = None
    uvs: torch.Tensor | None = None
    maps: np.ndarray | None = None
    colours: torch.Tensor | None = None
    alpha_mode: str = "OPAQUE"


def check_subject(subject: Subject, mode: str) -> None:
    """Raises what render() raises for a subject that cannot be drawn in this mode."""
    vertices, faces = subject.vertices, subject.faces
    subject.require_faces()
    if len(faces) >= 1 << 31:
        raise SettingsError(f"A picture shows at most {1 << 31:,} faces, got {len(faces):,}. Simplify the mesh.")
    for name, width in (("normals", (3,)), ("uvs", (2,)), ("colours", (3, 6))):
        values = getattr(subject, name)
        if values is None:
            continue
        if values.ndim != 2 or values.shape[1] not in width or len(values) != len(vertices):
            expected = " or ".join(str(x) for x in width)
            raise SettingsError(f"The {name} must be [{len(vertices)}, {expected}], got {list(values.shape)}.")
        if not torch.isfinite(values).all():
            raise NotFiniteError(f"The mesh's {name} hold NaN or infinity.")
    _check_maps(subject)
    if mode in ("base_color", "pbr") and subject.maps is None and subject.colours is None:
        raise SettingsError(f"Mode {mode!r} needs maps or vertex colours; this mesh has none. Choose 'shaded'.")


def _check_maps(subject: Subject) -> None:
    if subject.alpha_mode not in ALPHA_MODES:
        raise SettingsError(unknown("alpha mode", subject.alpha_mode, ALPHA_MODES))
    maps = subject.maps
    if maps is None:
        return
    if subject.uvs is None:
        raise SettingsError("Maps need uvs [V, 2] beside them.")
    if subject.colours is not None:
        raise SettingsError("A mesh has maps or vertex colours, not both.")
    if maps.ndim != 3 or maps.shape[0] != maps.shape[1] or maps.shape[2] != 6 or maps.shape[0] < 1:
        raise SettingsError(f"Maps must be [S, S, 6], got {list(maps.shape)}.")
    if not np.isfinite(maps).all():
        raise NotFiniteError("The maps hold NaN or infinity.")
