"""What stages made, to a file and back: condition, structure, latents, subdivisions, raw mesh and voxels.

A run that is opened again goes on as if it had not been interrupted: the same values, random streams and origins.
Tensors have the names of the golden pipeline files; all that is no tensor stands in the metadata.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, SettingsError, StateError
from ..export.state import StateFile, save_state
from ..schema import number, record
from ..sparse import SparseTensor, Subdivision, Voxels
from ..spec import PIPELINE_TYPES
from ..views import UNNAMED, Mixing, View
from .state_settings import LARGEST_GRID, MIXING, MOST_VIEWS, check_settings
from .types import UNKNOWN, Condition, Generation, Latent, Mesh, Origin, PBRVoxels, Structure, Subdivisions

VALUES = ("condition", "structure", "shape", "texture", "subdivisions", "mesh", "voxels")  # in the order of a run
_SCALES = range(1, 9)  # image scales that a condition may hold
_LEVELS = range(16)  # of a subdivision
_ORIGIN_KEYS = {"description": "told"}  # field of an Origin -> its key in files, where that is older than its name
_VIEW = record({"azimuth": number(-1e6, 1e6), "elevation": number(-90, 90)})


@dataclass(frozen=True)
class State:
    """Values of one run, None where there is none. settings: what is known of the run, JSON-able."""

    condition: Condition | None = None
    structure: Structure | None = None
    shape: Latent | None = None
    texture: Latent | None = None
    subdivisions: Subdivisions | None = None
    mesh: Mesh | None = None
    voxels: PBRVoxels | None = None
    settings: Mapping = field(default_factory=dict)

    @property
    def held(self) -> tuple[str, ...]:
        """The names of the values that are there."""
        return tuple(name for name in VALUES if getattr(self, name) is not None)


def write_state(path: Path, state: State) -> None:
    """Write what a state holds, whole or not at all; the same state always gives the same bytes.

    Raises:
        SettingsError: there is nothing in it, or a mesh with levels of detail. OutputError: it cannot be written.
    """
    if not state.held:
        raise SettingsError(f"There is nothing to save. Give one of {', '.join(VALUES)}.")
    tensors: dict[str, torch.Tensor] = {}
    facts = {name: _WRITERS[name](getattr(state, name), tensors) for name in state.held}
    save_state(path, _shared(tensors), {**state.settings, "values": facts})


def write_generation(path: Path, made: Generation, settings: Mapping) -> None:
    """As write_state, of a whole run; the structure's voxels are those of the first shape pass."""
    state = State(shape=made.shape, texture=made.texture, mesh=made.mesh, voxels=made.voxels)
    tensors = {"structure_coords": made.structure.coords}
    facts = {name: _WRITERS[name](getattr(state, name), tensors) for name in state.held}
    save_state(path, _shared(tensors), {**settings, "values": facts})


def open_state(path: Path, wanted: Collection[str] = ()) -> State:
    """Read a state file.

    Args:
        wanted: which of VALUES are read; they must be there. Without any, all that it holds are.

    Raises:
        StateError: it is no state file or one of a newer version, lacks what is wanted, or holds what cannot be.
    """
    if unknown := set(wanted) - set(VALUES):
        raise SettingsError(f"A state holds no {', '.join(sorted(unknown))}; choose from {', '.join(VALUES)}.")
    file = StateFile(path)
    facts = _facts(file)
    check_settings(path, file.settings)
    there = [name for name in VALUES if name in facts]
    if lacking := [name for name in VALUES if name in wanted and name not in there]:
        raise StateError(f"{path} holds no {', '.join(lacking)}; it has {', '.join(there) or 'nothing'}.")
    read = {name: _READERS[name](file, facts[name]) for name in there if not wanted or name in wanted}
    return State(**read, settings=file.settings)


def held_in(path: Path) -> tuple[str, ...]:
    """Which of VALUES a state file says that it holds; no tensor is read. Raises StateError as open_state."""
    facts = _facts(StateFile(path))
    return tuple(name for name in VALUES if name in facts)


def pipeline_type_of(state: State) -> str:
    """The name of the pipeline type that a state's shape was made by, "" if it is not known."""
    name = state.settings.get("pipeline_type")
    return name if isinstance(name, str) and name in PIPELINE_TYPES else ""


def _facts(file: StateFile) -> Mapping[str, Mapping]:
    """What is said of each value; it leaves the settings."""
    if "values" not in file.settings and "resolution" in file.settings:  # of a release that wrote no more
        return _facts_of_old(file)
    facts = file.settings.pop("values", None)
    if not isinstance(facts, Mapping) or not all(isinstance(each, Mapping) for each in facts.values()):
        raise StateError(f"{file.path} does not say what it holds. Write it again with --save-state or T2SaveState.")
    return facts


def _facts_of_old(file: StateFile) -> dict:
    resolution = file.settings["resolution"]
    facts = {"mesh": {"resolution": resolution}}
    return {**facts, "voxels": {"resolution": resolution}} if "voxel.coords" in file.names else facts


def _shared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, without coordinates of a texture that are those of its shape."""
    shape, texture = tensors.get("shape_slat.coords"), tensors.get("tex_slat.coords")
    if shape is not None and texture is not None and torch.equal(shape.cpu(), texture.cpu()):
        return {name: tensor for name, tensor in tensors.items() if name != "tex_slat.coords"}
    return tensors


# Writers: put a value's tensors under their names and return what else there is to say.


def _write_condition(value: Condition, tensors: dict) -> dict:
    tensors |= {f"condition.{scale}": tokens.float() for scale, tokens in value.tokens.items()}
    tensors |= {f"condition.mask.{place}": mask.float() for place, mask in enumerate(value.masks)}
    facts = {"scales": sorted(value.tokens), "origin": _origin_facts(value.origin), "masks": len(value.masks)}
    return {
        **facts,
        "views": [{key: float(angle) for key, angle in asdict(view).items()} for view in value.views],
        "mixing": asdict(value.mixing),
    }


def _write_structure(value: Structure, tensors: dict) -> dict:
    resolution = value.occupied.shape[0]
    tensors["structure_coords"] = value.voxels(resolution).coords
    return {"resolution": resolution, "random": _text(value.random), "origin": _origin_facts(value.origin)}


def _write_latent(name: str):
    def write(value: Latent, tensors: dict) -> dict:
        tensors[f"{name}.coords"] = value.sparse.voxels.coords
        tensors[f"{name}.feats"] = value.sparse.feats.float()
        return {"resolution": value.resolution, "random": _text(value.random), "origin": _origin_facts(value.origin)}

    return write


def _write_subdivisions(value: Subdivisions, tensors: dict) -> dict:
    tensors["subdivision.coords"] = value[0].parents.coords
    for place, level in enumerate(value):
        tensors[f"subdivision.{place}.slots"] = level.slots
    return {"levels": len(value), "origin": _origin_facts(value.origin)}


def _write_mesh(value: Mesh, tensors: dict) -> dict:
    if value.lods:
        raise SettingsError("A mesh with levels of detail cannot be saved. Save the mesh that they were made of.")
    tensors |= {"vertices": value.vertices, "faces": value.faces}
    tensors |= {f"mesh.{name}": each for name in ("attrs", "uvs") if (each := getattr(value, name)) is not None}
    return {"resolution": value.resolution, "origin": _origin_facts(value.origin)}


def _write_voxels(value: PBRVoxels, tensors: dict) -> dict:
    tensors |= {"voxel.coords": value.sparse.voxels.coords, "voxel.attrs": value.sparse.feats}
    return {"resolution": value.resolution, "origin": _origin_facts(value.origin)}


_WRITERS = {
    "condition": _write_condition,
    "structure": _write_structure,
    "shape": _write_latent("shape_slat"),
    "texture": _write_latent("tex_slat"),
    "subdivisions": _write_subdivisions,
    "mesh": _write_mesh,
    "voxels": _write_voxels,
}


# Readers: a value from its tensors and from what else was said of it.


def _read_condition(file: StateFile, facts: Mapping) -> Condition:
    scales = facts.get("scales")
    if not isinstance(scales, list) or not scales or not all(scale in _SCALES for scale in scales):
        raise StateError(f"{file.path}: the condition's image scales are {str(scales)[:60]}. Write the state again.")
    tokens = {scale: file.read(f"condition.{scale}", torch.float32, (None, None, None)) for scale in scales}
    count = file.check_number("the number of masks", facts.get("masks", 0), 0, MOST_VIEWS)
    masks = tuple(file.read(f"condition.mask.{place}", torch.float32, (None, None)) for place in range(count))
    try:
        views = tuple(View(**_VIEW(each, "view")) for each in facts.get("views", []))
        mixing = Mixing(**MIXING(facts["mixing"], "mixing")) if "mixing" in facts else UNNAMED
    except (CheckpointError, SettingsError, TypeError) as error:
        raise StateError(
            f"{file.path}: the condition's views cannot be used: {error} Write the state again."
        ) from error
    return Condition(tokens, _origin(file, facts), views, masks, mixing)


def _read_structure(file: StateFile, facts: Mapping) -> Structure:
    resolution = file.check_number("the resolution of the structure", facts.get("resolution"), 1, 512)
    voxels = file.read_voxels("structure_coords", resolution)
    occupied = torch.zeros((resolution,) * 3, dtype=torch.bool)
    occupied[tuple(voxels.xyz.long().unbind(1))] = True
    return Structure(occupied, _random(file, facts), _origin(file, facts))


def _read_latent(name: str):
    def read(file: StateFile, facts: Mapping) -> Latent:
        resolution = file.check_number(f"the resolution of {name}", facts.get("resolution"), 1, LARGEST_GRID)
        coords = f"{name}.coords" if f"{name}.coords" in file.names else "shape_slat.coords"
        voxels = file.read_voxels(coords, resolution)
        feats = file.read(f"{name}.feats", torch.float32, (len(voxels), None))
        return Latent(SparseTensor(voxels, feats), resolution, _random(file, facts), _origin(file, facts))

    return read


def _read_subdivisions(file: StateFile, facts: Mapping) -> Subdivisions:
    count = file.check_number("the number of subdivisions", facts.get("levels"), 1, len(_LEVELS))
    parents, levels = file.read_voxels("subdivision.coords", LARGEST_GRID), []
    for place in range(count):
        slots = file.read(f"subdivision.{place}.slots", torch.int64, (None,))
        if len(slots) and (slots.min() < 0 or slots.max() >= 8 * len(parents)):
            raise StateError(
                f"{file.path}: subdivision {place} names children {int(slots.min())} to {int(slots.max())} of "
                f"{len(parents):,} voxels. Write the state again."
            )
        if len(slots.unique()) != len(slots):
            raise StateError(f"{file.path}: subdivision {place} names a child twice. Write the state again.")
        levels.append(_divided(parents, slots))
        parents = levels[-1].children
    return Subdivisions(tuple(levels), _origin(file, facts))


def _divided(parents: Voxels, slots: torch.Tensor) -> Subdivision:
    """The subdivision of these slots, in their order."""
    child = torch.stack([slots & 1, slots >> 1 & 1, slots >> 2 & 1], 1).to(torch.int32)
    coords = parents.coords[slots >> 3]
    coords = torch.cat([coords[:, :1], coords[:, 1:] * 2 + child], 1)
    return Subdivision(parents, Voxels(coords, (len(slots),)), slots)


def _read_mesh(file: StateFile, facts: Mapping) -> Mesh:
    resolution = file.check_number("the resolution of the mesh", facts.get("resolution"), 0, LARGEST_GRID)
    vertices = file.read("vertices", torch.float32, (None, 3))
    faces = file.read("faces", torch.int32, (None, 3))
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise StateError(
            f"{file.path}: faces name vertices {int(faces.min())} to {int(faces.max())} of {len(vertices):,}. Write "
            "the state again."
        )
    more: dict[str, Any] = {
        name: file.read(f"mesh.{name}", torch.float32, (len(vertices), columns))
        for name, columns in (("attrs", 6), ("uvs", 2))
        if f"mesh.{name}" in file.names
    }
    return Mesh(vertices, faces, resolution=resolution, origin=_origin(file, facts), **more)


def _read_voxels(file: StateFile, facts: Mapping) -> PBRVoxels:
    resolution = file.check_number("the resolution of the voxels", facts.get("resolution"), 1, LARGEST_GRID)
    voxels = file.read_voxels("voxel.coords", resolution)
    attrs = file.read("voxel.attrs", torch.float32, (len(voxels), 6))
    return PBRVoxels(SparseTensor(voxels, attrs), resolution, _origin(file, facts))


_READERS = {
    "condition": _read_condition,
    "structure": _read_structure,
    "shape": _read_latent("shape_slat"),
    "texture": _read_latent("tex_slat"),
    "subdivisions": _read_subdivisions,
    "mesh": _read_mesh,
    "voxels": _read_voxels,
}


def _origin_facts(origin: Origin) -> dict[str, str]:
    return {_ORIGIN_KEYS.get(name, name): value for name, value in vars(origin).items()}


def _origin(file: StateFile, facts: Mapping) -> Origin:
    origin = facts.get("origin", {})
    names = {_ORIGIN_KEYS.get(each.name, each.name): each.name for each in fields(Origin)}
    if not isinstance(origin, Mapping) or not all(
        key in names and isinstance(value, str) and len(value) < 4096 for key, value in origin.items()
    ):
        raise StateError(f"{file.path}: an origin is not what T2SaveState writes. Write the state again.")
    return replace(UNKNOWN, **{names[key]: value for key, value in origin.items()})


def _text(random: torch.Tensor) -> str:
    """The state of a random stream, for JSON."""
    return base64.b64encode(bytes(random.tolist())).decode()


def _random(file: StateFile, facts: Mapping) -> torch.Tensor:
    try:
        data = base64.b64decode(facts.get("random", ""), validate=True)
        state = torch.tensor(list(data), dtype=torch.uint8)
        torch.Generator().set_state(state)
    except (RuntimeError, TypeError, ValueError, binascii.Error) as error:
        raise StateError(
            f"{file.path}: the state of its random stream cannot be used ({error}). Write the state again."
        ) from error
    return state
