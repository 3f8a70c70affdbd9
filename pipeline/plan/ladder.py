"""The ladder of memory plans as two tables: how a run does what was asked for, and how much less it can make.

A row of RUNGS takes no more memory than the one before it, and gives the same raw mesh and voxels, to the bit. A row of
LESS makes another object, only for those who ask for it, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..spec import PIPELINE_TYPES, PipelineType


@dataclass(frozen=True)
class Rung:
    """A way of running that gives the same raw mesh and voxels as every other.

    name: as an option takes it. description: what it does, for people.
    keep_models: networks stay on the device after their stage. tiles: decoders work in tiles if they must. share: of
    what is free, what the tiles may fill. finish_on_cpu: meshes are processed, unwrapped and baked on the CPU, whose
    simplifier may place other triangles than a GPU's. stream: weights lie in main memory and come layer by layer.
    """

    name: str
    description: str
    keep_models: bool = False
    tiles: bool = False
    share: float = 1.0
    finish_on_cpu: bool = False
    stream: bool = False

    @property
    def finishing(self) -> str:
        """What it does to a run without networks, for people."""
        return f"{self.name}: the mesh processed and baked on the {'CPU' if self.finish_on_cpu else 'device'}"


@dataclass(frozen=True)
class Less:
    """How much less than what was asked for is made. tokens: share of the maximum; lower: pipeline types down."""

    tokens: float = 1.0
    lower: int = 0


RUNGS = (
    Rung("whole", "all networks stay on the device, each level of a decoder at once", keep_models=True),
    Rung(
        "one-at-a-time",
        "one network on the device at a time, each level of a decoder at once or within what earlier stages took",
    ),
    Rung("tiled", "one network at a time, decoders in tiles where they do not fit", tiles=True, share=0.75),
    Rung(
        "cpu-finish",
        "one network at a time, decoders in tiles, the mesh processed and baked on the CPU",
        tiles=True,
        share=0.75,
        finish_on_cpu=True,
    ),
    Rung(
        "streamed",
        "weights brought to the device layer by layer, decoders in small tiles, the mesh processed and baked on the "
        "CPU",
        tiles=True,
        share=0.5,
        finish_on_cpu=True,
        stream=True,
    ),
)

# Of a run that is on the CPU already, where the rows behind it change nothing.
LAST_ON_CPU = next(rung for rung in RUNGS if rung.name == "tiled")

AS_ASKED = Less()
LESS = (AS_ASKED, Less(tokens=0.5), Less(lower=1), Less(lower=2))

# The next lower pipeline type.
_LOWER = {"1536_cascade": "1024_cascade", "1024_cascade": "512", "1024": "512"}


def lowered(pipeline_type: PipelineType, steps: int) -> PipelineType | None:
    """The pipeline type so many steps lower; None if there is none."""
    for _ in range(steps):
        if pipeline_type.name not in _LOWER:
            return None
        pipeline_type = PIPELINE_TYPES[_LOWER[pipeline_type.name]]
    return pipeline_type


def heeds_max_tokens(pipeline_type: PipelineType) -> bool:
    """Whether fewer max tokens make a pipeline type lower its resolution: where it goes beyond its network's grid."""
    return pipeline_type.shape[-1].grid_scale > 1
