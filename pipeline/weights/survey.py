"""A summary of a checkpoint without reading weights: models, precisions, complete pipeline types, missing files."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import CheckpointError
from ..spec import PIPELINE_TYPES, RELEASED_ENCODERS
from .checkpoint import Checkpoint
from .files import Build
from .origins import where_to_get

_ORDER = tuple(dict.fromkeys(role for pipeline_type in PIPELINE_TYPES.values() for role in pipeline_type.roles()))


@dataclass(frozen=True)
class Part:
    """A model of a checkpoint: its file's name, precision and bytes; or why it cannot be used, and where to get it."""

    role: str
    file: str = ""
    precision: str = ""
    size: int = 0
    problem: str = ""
    cure: str = ""


@dataclass(frozen=True)
class Survey:
    """A checkpoint on this machine. types: the pipeline types it is complete for, texture included."""

    name: str
    parts: tuple[Part, ...]
    types: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def missing(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.problem)

    def line(self) -> str:
        """In one line, without a path."""
        flows = {part.precision for part in self.parts if part.precision and "flow" in part.role}
        if self.types:
            return f"{', '.join(sorted(flows))}; complete for {', '.join(self.types)}"
        return f"complete for no type, as it lacks {', '.join(part.role for part in self.missing)}"

    def text(self) -> str:
        """For a terminal."""
        lines = [f"{self.name}: {self.line()}"]
        for part in self.parts:
            if part.problem:
                lines.append(f"  {part.role}: {part.problem} {part.cure}".rstrip())
            else:
                size = f"{part.size / 1e9:.2f} GB" if part.size > 1e8 else f"{part.size / 1e6:.1f} MB"
                lines.append(f"  {part.role}: {part.precision}, {size}, {part.file}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def as_json(self) -> dict:
        """As a JSON-able object."""
        return {
            "name": self.name,
            "types": list(self.types),
            "roles": {
                part.role: {"file": part.file, "precision": part.precision, "bytes": part.size}
                for part in self.parts
                if not part.problem
            },
            "missing": {part.role: {"problem": part.problem, "cure": part.cure} for part in self.missing},
            "notes": list(self.notes),
        }


def survey(checkpoint: Checkpoint, build: Build | None = None) -> Survey:
    """Inspect every model of a checkpoint whose files are on this machine, without downloading or reading weights.

    Args:
        build: models.build, to check names and shapes of all tensors too; without it only headers are looked at.
    """
    roles = [*_ORDER, *(role for role in RELEASED_ENCODERS if role in checkpoint.sources)]
    parts = tuple(_part(checkpoint, role, build) for role in roles)
    usable = {part.role for part in parts if not part.problem}
    types = tuple(name for name, pipeline_type in PIPELINE_TYPES.items() if set(pipeline_type.roles()) <= usable)
    return Survey(checkpoint.name, parts, types, checkpoint.notes)


def _part(checkpoint: Checkpoint, role: str, build: Build | None) -> Part:
    if role not in checkpoint.sources:
        return Part(role, problem="not part of it.", cure=where_to_get(role))
    if not checkpoint.here(role):
        return Part(role, problem="not on this machine.", cure=where_to_get(role))
    try:
        source = checkpoint.sources[role]
        files = (source.look or source.get)()
        return Part(role, files.path.name, *files.surveyed(build))
    except CheckpointError as error:
        return Part(role, problem=str(error))
