"""T2ProcessMesh: the raw mesh, repaired, with the shells asked for, simplified."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from .host.progress import Progress
from .host.report import report_lines
from .host.run import explained, run
from .packages import AUTO, choices, package_input
from .sockets import CATEGORY, Mesh, advanced, aliases, node_schema


class ProcessMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2ProcessMesh",
            display_name="TRELLIS.2 Process Mesh",
            category=CATEGORY,
            **aliases(
                "simplify, decimate, remesh, fill holes, repair mesh, watertight, clean mesh, lod, "
                "low poly, retopology, mesh report"
            ),
            description="Repairs the mesh, removes inner shells or makes one closed surface, simplifies to a number of "
            "faces and turns all faces outward.",
            inputs=[
                Mesh.Input("mesh", tooltip="From TRELLIS.2 Decode Shape."),
                faces_input(),
                io.Float.Input(
                    "hole_perimeter",
                    default=0.03,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Holes with a perimeter up to this are filled; the object fits into a cube of side 1. In "
                    "shapes of less than 512 voxels the limit is larger, as their holes are. 0 fills nothing.",
                ),
                shells_input(),
                advanced(
                    io.Int.Input(
                        "shell_resolution",
                        default=512,
                        min=64,
                        max=1024,
                        step=64,
                        tooltip="Voxels along the longest side for outer and solid: gaps narrower than one count as "
                        "closed, and solid has this much detail, but no more than the shape has voxels.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "lods",
                        default="",
                        tooltip="Triangles of coarser levels of detail, for example 100000, 20000, 5000. They share "
                        "the textures; Export GLB writes a file for each. Empty: none.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "wall",
                        default=0.0,
                        min=0.0,
                        max=0.5,
                        step=0.005,
                        optional=True,
                        tooltip="How thick solid makes open sheets at least; the object fits into a cube of side 1. 0 "
                        "leaves it at two cells.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "max_error",
                        default="",
                        optional=True,
                        tooltip="How far simplifying may move the surface where that allows fewer triangles, for "
                        "example 0.002 (the object fits into a cube of side 1) or 0.5vox (voxels of the shape). Empty: "
                        "as far as faces asks, and where auto chose solid, as long as the mesh looks the same.",
                    )
                ),
                *map(advanced, printing_inputs()),
                advanced(
                    io.Int.Input(
                        "quads",
                        default=0,
                        min=0,
                        max=1_000_000,
                        step=100,
                        optional=True,
                        tooltip="About this many quads aligned with the shape instead of triangles; Export Mesh writes "
                        "them as obj and ply. 0: triangles. Needs pynanoinstantmeshes.",
                    )
                ),
                package_input(
                    "simplifier",
                    "cumesh",
                    "cumesh simplifies by the package CuMesh, as Microsoft's code does, where it is installed and "
                    "there is a CUDA GPU. auto takes the pack's own, which keeps closed surfaces closed.",
                ),
            ],
            outputs=[
                Mesh.Output(display_name="mesh", tooltip="Ready for baking or export."),
                io.String.Output(
                    display_name="report", tooltip="What was repaired and what the mesh is like now, as JSON."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        faces=None,
        shells=None,
        lods=None,
        wall=None,
        max_error=None,
        cavities=None,
        hollow=None,
        drain=None,
        size=None,
        flat_base=None,
        quads=None,
    ) -> bool | str:
        # what comes through a link is None here
        given = [each for each in (hollow, drain, size, flat_base) if each is not None]
        hollowing = given if len(given) == 4 else None
        return explained(_check_processing, faces, shells, lods, wall, max_error, cavities, hollowing, quads)

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh,
        faces: int = 500_000,
        hole_perimeter: float = 0.03,
        shells: str = "outer",
        shell_resolution: int = 512,
        lods: str = "",
        wall: float = 0.0,
        max_error: str = "",
        cavities: str = "fill",
        hollow: str = "",
        drain: str = "",
        size: str = "",
        flat_base: float = 0.0,
        quads: int = 0,
        simplifier: str = AUTO,
    ) -> io.NodeOutput:
        result = run(
            stages.process_mesh,
            None,
            Progress(),
            mesh,
            target_faces=faces,
            max_hole_perimeter=hole_perimeter,
            shells=shells,
            resolution=shell_resolution,
            lods=_counts(lods),
            wall=wall,
            max_error=_length(max_error),
            cavities=cavities,
            hollow=stages.Hollowing.parse(hollow, drain, size, flat_base),
            quads=quads,
            choices=choices(simplify=simplifier),
        )
        return io.NodeOutput(result, json.dumps(result.facts, indent=1), ui={"text": [report_lines(result)]})


def _check_processing(
    faces: int | None,
    shells: str | None,
    lods: str | None,
    wall: float | None,
    max_error: str | None,
    cavities: str | None,
    hollowing: list | None,
    quads: int | None,
) -> None:
    """hollowing: hollow, drain, size and flat_base; None where one of them is linked."""
    levels = _counts(lods or "")
    stages.check_levels([max(levels, default=4) + 1 if faces is None else faces, *levels])
    hollow = stages.Hollowing.parse(*hollowing) if hollowing else None
    if shells:
        stages.check_shells(shells, wall or 0.0, cavities or "fill", hollow)
    stages.check_quads(quads or 0, levels, _length(max_error or ""))


def _length(text: str) -> stages.Length | None:
    return stages.Length.parse(text) if text.strip() else None


def _counts(text: str) -> list[int]:
    """Numbers between commas or spaces."""
    try:
        return [int(each) for each in text.replace(",", " ").split()]
    except ValueError as error:
        raise SettingsError(
            f"lods must be numbers of triangles between commas, for example 100000, 20000; got {text!r}."
        ) from error


def printing_inputs() -> list[io.Input]:
    """Inputs about the inside of a solid: hollowing, drains, cavities."""
    return [
        io.Combo.Input(
            "cavities",
            options=list(stages.CAVITIES),
            default="fill",
            optional=True,
            tooltip="What solid makes of cavities without a way out.",
        ),
        io.String.Input(
            "hollow",
            default="",
            optional=True,
            tooltip="Hollows the solid out behind a wall of this thickness, for printing: 2mm with a size below, or "
            "0.02 (the object fits into a cube of side 1). Empty: it stays solid.",
        ),
        io.String.Input(
            "drain",
            default="",
            optional=True,
            tooltip="With hollow, a hole of this diameter at the lowest place of each cavity, for example 5mm. Empty: "
            "no holes.",
        ),
        io.String.Input(
            "size",
            default="",
            optional=True,
            tooltip="With hollow, the true size that its mm refer to, for example 80mm or height=80mm; give Export "
            "Mesh the same.",
        ),
        io.Float.Input(
            "flat_base",
            default=0.0,
            min=0.0,
            max=0.5,
            step=0.01,
            optional=True,
            tooltip="With hollow, cuts this share of the height off, so that the floor has a wall too; then leave that "
            "of Export Mesh at 0.",
        ),
    ]


def shells_input() -> io.Input:
    """The choice of what to do with inner shells and open sheets."""
    return io.Combo.Input(
        "shells",
        options=list(stages.SHELLS),
        default="outer",
        tooltip="surface keeps everything, open sheets and inner shells too; outer drops what cannot be reached from "
        "outside; solid makes one closed surface, for printing and physics; auto is solid where a mesh with holes is "
        "meant to be closed, else outer.",
    )


def faces_input() -> io.Input:
    """The face count to simplify to."""
    return io.Int.Input(
        "faces",
        default=500_000,
        min=stages.MIN_FACES,
        max=20_000_000,
        step=1000,
        tooltip="Maximum number of triangles: 500,000 for close views, 20,000 for games.",
    )
