"""Project pictures onto the texture of a finished mesh; what they do not show keeps its texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...errors import EmptyResultError, ImageError, SettingsError
from ...export.scene_textures import BakedGroup
from ...mesh import NEAREST, RASTER
from ...mesh.bake.bake import Texels
from ...mesh.io import Frame, Scene
from ...mesh.io.atlas import Group
from ...project import (
    DEFAULT_PROJECTION,
    Aligned,
    Fit,
    Painted,
    Photo,
    Picture,
    Projection,
    Sheet,
    aligned,
    decided,
    enlarged,
    fit_camera,
    fitting_size,
    measured,
    project,
    texels_a_unit,
)
from ...runtime import Runtime
from ...views import PictureCamera
from ..checks import geometry_device
from ..finishing.quantise import to_uint8
from ..finishing.source_mesh import surface_by_row
from ..types import BASE_COLOR, TexturedMesh
from .existing import Materials
from .keep import Keep, put_back
from .texture_mesh import SceneTextures

_LESS = "Ask for a smaller texture, or for smaller pictures."
_MIRRORED = 0.03  # of the score; a picture is refused if its mirror image fits better by more than this
_STRANGE = 0.15  # mean difference of colours that no light explains; above, there is a warning
_FAINT = 0.02  # share of the texture; a picture that colours less causes a warning


@dataclass(frozen=True)
class _Shots:
    """Pictures with their cameras, and facts of each for the report."""

    posed: tuple[tuple[Picture, PictureCamera], ...]
    facts: tuple[dict, ...]
    warnings: tuple[str, ...]


def project_texture(
    runtime: Runtime, textured: TexturedMesh, photos: Sequence[Photo], settings: Projection = DEFAULT_PROJECTION
) -> TexturedMesh:
    """Project pictures on the base colour of a textured mesh and of its levels of detail.

    Where a picture's camera is not known it is fitted: direction, field of view, scale and shift, and what it shows
    elsewhere than the object has it is moved there (project.aligned). Maps are enlarged where the pictures have more
    detail than they hold.

    Returns:
        The mesh with new maps. facts gains "projected": for each picture its name, direction, field of view, overlap of
        silhouettes (iou; aligned_iou once parts are moved, by `moved` picture sides at most) and the share of the
        texture that it gives; and warnings, which are not logged.

    If one of several pictures is refused, it is left out with a warning.

    Raises:
        ImageError: a picture is empty; every one is mirrored or does not show this object. SettingsError: no pictures.
        BackendError: without Warp.
    """
    device = geometry_device(runtime.device)
    first = textured.levels[0]
    sheet = Sheet(first.mesh.vertices, first.mesh.faces, first.uvs, textured.maps)
    painted, shots = _shots(runtime, [sheet], photos, settings, device)
    settings = decided(painted, shots.posed, settings)
    pick = runtime.backends.pick
    rasterise, nearest = pick(RASTER, device), pick(NEAREST, device)
    done, steps = 0, len(textured.levels) * (len(photos) + 1) + 1
    with runtime.stage("project", steps, _LESS):

        def tick(step: int = 0) -> None:
            nonlocal done
            done += step
            runtime.step("project", done, steps)

        size = len(textured.maps)
        texels = Texels.of(first.uvs.to(device), first.mesh.faces.to(device), size, rasterise, nearest)
        density = texels_a_unit(texels, first.mesh.vertices.to(device), first.mesh.faces.to(device))
        size = fitting_size(density, shots.posed, size, settings.largest)
        maps = enlarged(textured.maps, size)
        covered, shown = torch.zeros(size, size, dtype=torch.bool, device=device), ()
        for number, level in enumerate(textured.levels):
            if number:
                sheet = Sheet(level.mesh.vertices, level.mesh.faces, level.uvs, textured.maps)
                painted = Painted([sheet], device, source=surface_by_row(runtime, device))
            painted.tick = tick
            texels = Texels.of(level.uvs.to(device), level.mesh.faces.to(device), size, rasterise, nearest)
            found = project(painted, 0, texels, maps, shots.posed, settings, lambda: tick(1))
            maps = _written(maps, texels, found.colours)
            covered |= texels.covered
            shown = shown or found.shown
        _fill(maps, covered, nearest)
        runtime.step("project", steps, steps)
    facts = _facts(textured.facts, shots, shown, settings, [(len(textured.maps), size)])
    occlusion = None if textured.occlusion is None else enlarged(textured.occlusion, size)
    return replace(textured, maps=maps, facts=facts, occlusion=occlusion)


def project_scene(
    runtime: Runtime,
    scene: Scene,
    frame: Frame,
    made: SceneTextures,
    photos: Sequence[Photo],
    settings: Projection = DEFAULT_PROJECTION,
) -> SceneTextures:
    """The same for the textures of a scene, whose meshes hide each other; those that were kept stay as they are.
    Arguments and errors otherwise as project_texture."""
    device = geometry_device(runtime.device)
    geometries = [baked.group.geometry(scene, frame) for baked in made.groups]
    sheets = [Sheet(*geometry, baked.maps) for geometry, baked in zip(geometries, made.groups)]
    painted, shots = _shots(runtime, [*sheets, *_kept(scene, frame, made)], photos, settings, device)
    settings = decided(painted, shots.posed, settings)
    pick = runtime.backends.pick
    rasterise, nearest = pick(RASTER, device), pick(NEAREST, device)
    groups, shares = [], []
    with runtime.stage("project", len(sheets), _LESS):
        for number, (sheet, baked) in enumerate(zip(sheets, made.groups)):
            painted.tick = lambda: runtime.step("project", len(groups), len(sheets))
            size = len(baked.maps)
            uvs, faces = sheet.uvs.to(device), sheet.faces.to(device)
            try:
                texels = Texels.of(uvs, faces, size, rasterise, nearest)
            except EmptyResultError:  # one colour for all of its faces, see bake_scene
                groups.append(baked)
                continue
            density = texels_a_unit(texels, sheet.vertices.to(device), faces)
            larger = fitting_size(density, shots.posed, size, settings.largest)
            if larger != size:
                texels = Texels.of(uvs, faces, larger, rasterise, nearest)
            maps = enlarged(baked.maps, larger)
            found = project(painted, number, texels, maps, shots.posed, settings)
            colours = found.colours
            if made.keep.partly:
                colours = _held(colours, texels, baked.group, scene, made.keep)
            maps = _written(maps, texels, colours)
            _fill(maps, texels.covered, nearest)
            groups.append(BakedGroup(baked.group, maps))
            shares.append(found.shown)
            runtime.step("project", len(groups), len(sheets))
    shown = tuple(np.mean(shares or [[0.0] * len(photos)], 0).tolist())
    sizes = [(len(before.maps), len(after.maps)) for before, after in zip(made.groups, groups)]
    facts = _facts(made.facts, shots, shown, settings, sizes) | {"texture_size": max(size for _, size in sizes)}
    return replace(made, groups=tuple(groups), facts=facts)


def _kept(scene: Scene, frame: Frame, made: SceneTextures) -> list[Sheet]:
    """Meshes of a scene that have no new texture, in grey: they only occlude others."""
    new = {piece.part for baked in made.groups for piece in baked.group.pieces}
    grey, sheets = np.full((1, 1, 6), 128, np.uint8), []
    for number, part in enumerate(scene.parts):
        if number not in new:
            vertices = torch.from_numpy(frame.inward(part.placed()).astype(np.float32))
            faces = torch.from_numpy(np.ascontiguousarray(part.faces)).long()
            sheets.append(Sheet(vertices, faces, torch.zeros(len(vertices), 2), grey))
    return sheets


def _shots(
    runtime: Runtime, sheets: Sequence[Sheet], photos: Sequence[Photo], settings: Projection, device: torch.device
) -> tuple[Painted, _Shots]:
    """The object, and the cameras of pictures. Raises as project_texture."""
    if not photos:
        raise SettingsError("There is no picture to project.")
    posed, facts, warnings, refused = [], [], [], []
    with runtime.stage("fit cameras", len(photos), "Ask for fewer faces."):
        done = 0
        source = surface_by_row(runtime, device)
        painted = Painted(sheets, device, lambda: runtime.step("fit cameras", done, len(photos)), source)
        for photo in photos:
            picture = Picture.of(photo.picture)
            known = photo.camera
            fit = measured(painted, picture, known) if known else fit_camera(painted, picture, photo.view)
            warnings += photo.remarks
            done += 1
            runtime.step("fit cameras", done, len(photos))
            # with a known camera every pixel is used where it is
            moved = None if known else aligned(painted, picture, fit.camera)
            if reason := _refusal(photo, fit, moved, settings.min_iou):
                refused.append(reason)
                continue
            if fit.colour > _STRANGE:
                warnings.append(
                    f"{photo.name}: its colours differ from the object's by {fit.colour:.3f} (of 1) in any light; "
                    f"usual are less than {_STRANGE}. Is the mask this picture's, and does it show this object?"
                )
            if fit.rival is not None:
                warnings.append(
                    f"{photo.name}: it was put where its camera has azimuth {fit.camera.azimuth:.0f}, but from azimuth "
                    f"{fit.rival.azimuth:.0f} the object looks nearly the same. If it is on the wrong side, name the "
                    "picture's direction, for example front."
                )
            facts.append(_facts_of(photo, fit))
            if moved is not None:
                picture = moved.picture
                facts[-1] |= {"aligned_iou": round(moved.iou, 3), "moved": round(moved.moved, 4)}
            posed.append((picture, fit.camera))
    if not posed:
        raise ImageError(" ".join(refused))
    warnings += [f"{reason} It was left out." for reason in refused]
    return painted, _Shots(tuple(posed), tuple(facts), tuple(warnings))


def _facts_of(photo: Photo, fit: Fit) -> dict:
    camera = fit.camera
    direction = {"azimuth": round(camera.azimuth, 1), "elevation": round(camera.elevation, 1)}
    return {
        "picture": photo.name,
        **direction,
        "fov": round(camera.fov, 1),
        "iou": round(fit.iou, 3),
        "fitted": photo.camera is None,
    }


def _refusal(photo: Photo, fit: Fit, moved: Aligned | None, min_iou: float) -> str:
    """Why a picture is not projected; empty if it is. With a minimum overlap of 0 nothing is refused.

    An object of other proportions than its picture's is taken all the same if parts of the picture can be moved to the
    object's, and if they have its colours: any outline can be moved to one that is a little like it.
    """
    closes = moved is not None and moved.iou >= (1 + min_iou) / 2 and fit.colour <= _STRANGE
    if fit.iou < min_iou and not closes:
        how = "from its camera" if photo.camera else "from the best camera that was found"
        more = needed = ""
        if moved is not None:
            more = f", {moved.iou:.3f} once its parts are moved to the object's"
            needed = f", or {(1 + min_iou) / 2:.3f} of moved parts with colours within {_STRANGE:g}"
        return (
            f"{photo.name} does not fit the object: {how} the silhouettes overlap by {fit.iou:.3f} (intersection over "
            f"union{more}) and colours differ by {fit.colour:.2f} of 1; needed are {min_iou:.3f}{needed}. Is it a "
            "picture of this object, from the direction that is named, with the right mask? A lower least overlap "
            "(--project-min-iou, min_iou of the node) takes it all the same."
        )
    if min_iou and fit.mirrored > _MIRRORED:
        return (
            f"{photo.name} seems to be mirrored: its mirror image fits the object better, by {fit.mirrored:.2f} of 1. "
            "Mirror it back; a least overlap of 0 takes it as it is."
        )
    return ""


def _written(maps: np.ndarray, texels: Texels, colours: torch.Tensor) -> np.ndarray:
    """Maps with the base colours [N, 3] of some texels."""
    covered = texels.covered.reshape(-1).nonzero()[:, 0]
    values = colours[texels.source[covered].long()].cpu().numpy()
    flat = maps.reshape(-1, maps.shape[2]).copy()
    flat[covered.cpu().numpy(), BASE_COLOR] = values
    return flat.reshape(maps.shape)


def _held(colours: torch.Tensor, texels: Texels, group: Group, scene: Scene, keep: Keep) -> torch.Tensor:
    """Base colours [N, 3] uint8 with the kept ones restored."""
    values = torch.zeros(len(colours), 6, device=colours.device)
    values[:, BASE_COLOR] = colours.float() / 255
    put_back(values, texels, group, scene, keep, Materials(scene, not keep.vertex_colors))
    return to_uint8(values[:, BASE_COLOR])


def _fill(maps: np.ndarray, covered: torch.Tensor, nearest) -> None:
    """Uncovered texels as the nearest covered one, in place."""
    source = nearest(covered).cpu().numpy()
    flat = maps.reshape(-1, maps.shape[2])
    flat[:, BASE_COLOR] = flat[source, BASE_COLOR]


def _facts(
    facts: dict, shots: _Shots, shown: Sequence[float], settings: Projection, sizes: Sequence[tuple[int, int]]
) -> dict:
    """sizes: of each texture, pixels a side before and after."""
    same = {"colours": settings.colours}
    projected = [{**each, **same, "share": round(share, 3)} for each, share in zip(shots.facts, shown)]
    warnings = [*facts.get("warnings", ()), *shots.warnings]
    warnings += [
        f"{each['picture']} gives only {each['share']:.1%} of the texture."
        for each in projected
        if each["share"] < _FAINT
    ]
    grown = [pair for pair in sizes if pair[1] > pair[0]]
    if grown:
        before, after = max(grown, key=lambda pair: pair[1])
        warnings.append(
            f"{'The texture' if len(sizes) == 1 else f'{len(grown)} of {len(sizes)} textures'} grew from {before} to "
            f"{after} pixels a side, to hold what the pictures show."
        )
    return {**facts, "projected": projected, **({"warnings": warnings} if warnings else {})}
