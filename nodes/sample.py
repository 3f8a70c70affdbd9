"""The samplers: structure, shape, texture, and their expert settings."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from ..pipeline.runtime import Step
from ..pipeline.sampling import SOLVERS, SOLVERS_IN_WORDS
from ..pipeline.spec import (
    MAX_TOKENS,
    PIPELINE_TYPES,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
    PipelineType,
    SamplerSettings,
)
from .host import folders, pictures
from .host.memory import ManagedModels
from .host.progress import Progress
from .host.report import latent_line
from .host.run import explained, prepare_kernels, run
from .sockets import (
    CATEGORY,
    Condition,
    Sampler,
    Shape,
    ShapeLatent,
    Structure,
    Texture,
    advanced,
    aliases,
    models_input,
    node_schema,
)

log = logging.getLogger(__name__)


def _strength(tooltip: str) -> io.Input:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=True,
        tooltip=f"{tooltip} Without a start unused.",
    )


def condition_input() -> io.Input:
    return Condition.Input("condition", tooltip="From TRELLIS.2 Encode Image.")


def sampler_input() -> io.Input:
    return Sampler.Input(
        "sampler",
        optional=True,
        tooltip="From TRELLIS.2 Sampler Settings, in place of the settings that the checkpoint brings for this stage.",
    )


def resolution_input(name: str = "resolution") -> io.Input:
    """The choice of a pipeline type."""
    return io.Combo.Input(
        name,
        options=[folders.OWN, *PIPELINE_TYPES],
        default=folders.OWN,
        tooltip="Voxels along a side of the finished shape. The released checkpoint says 1024_cascade; the small one "
        "says 512, has no other, and makes 128 voxels of it. The cascades sample a coarse shape first: more detail for "
        "about five times the time of 512. 1536 needs 6 to 10 GB of GPU memory.",
    )


def seed_input() -> io.Input:
    """The seed, with the usual control after a run."""
    return io.Int.Input(
        "seed",
        default=42,
        min=0,
        max=2**64 - 1,
        control_after_generate=True,
        tooltip="Another seed makes another object of the same picture. It also seeds the shape and the texture.",
    )


class SamplerSettingsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2SamplerSettings",
            display_name="TRELLIS.2 Sampler Settings",
            category=CATEGORY,
            **aliases("steps, cfg, guidance scale, sampler options"),
            description="Sampler settings for one stage, in place of the checkpoint's. The released checkpoint uses "
            "12 steps everywhere; structure: guidance 7.5, rescale 0.7, from 0.6, rescale_t 5; shape: 7.5, 0.5, "
            "from 0.6, 3; texture: 1, 0, 0.6 to 0.9, 3.",
            inputs=[
                io.Int.Input("steps", default=12, min=1, max=200, tooltip="Sampling steps; time grows with them."),
                io.Float.Input(
                    "guidance",
                    default=7.5,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Classifier-free guidance: how strongly the picture is followed. 1 is off and twice as "
                    "fast.",
                ),
                io.Float.Input(
                    "rescale",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far the standard deviation of the guided prediction is brought back to that of the "
                    "unguided one: 0 not at all, 1 completely. Counters over-saturation by strong guidance.",
                ),
                io.Float.Input(
                    "interval_start",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance acts from this time on. Times run from 1 (noise) to 0 (finished).",
                ),
                io.Float.Input(
                    "interval_end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance acts up to this time.",
                ),
                io.Float.Input(
                    "rescale_t",
                    default=3.0,
                    min=0.1,
                    max=20.0,
                    step=0.1,
                    tooltip="Above 1, more of the steps are spent near the noise, where the overall form is decided.",
                ),
                advanced(
                    io.Combo.Input(
                        "solver",
                        options=list(SOLVERS),
                        default="euler",
                        tooltip=SOLVERS_IN_WORDS,
                    )
                ),
            ],
            outputs=[Sampler.Output(display_name="sampler", tooltip="For one of the sampling nodes.")],
        )

    @classmethod
    def validate_inputs(cls, interval_start=0.6, interval_end=1.0) -> bool | str:
        # what comes through a link is None here
        start, end = (0.0 if interval_start is None else interval_start, 1.0 if interval_end is None else interval_end)
        return explained(SamplerSettings, guidance_interval=(start, end))

    @classmethod
    def execute(
        cls,
        steps: int = 12,
        guidance: float = 7.5,
        rescale: float = 0.5,
        interval_start: float = 0.6,
        interval_end: float = 1.0,
        rescale_t: float = 3.0,
        solver: str = "euler",
    ) -> io.NodeOutput:
        interval = interval_start, interval_end
        return io.NodeOutput(SamplerSettings(steps, guidance, rescale, interval, rescale_t, solver=solver))


class SampleStructure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2SampleStructure",
            display_name="TRELLIS.2 Sample Structure",
            category=CATEGORY,
            **aliases("sparse structure, occupancy, voxel sampler, ksampler 3d"),
            description="Decides which voxels of a coarse grid the object occupies.",
            inputs=[models_input(), condition_input(), seed_input(), sampler_input()],
            outputs=[Structure.Output(display_name="structure", tooltip="The occupied voxels.")],
        )

    @classmethod
    def execute(
        cls, models: ManagedModels, condition: stages.Condition, seed: int = 42, sampler: SamplerSettings | None = None
    ) -> io.NodeOutput:
        beside = {STRUCTURE_FLOW: (STRUCTURE_DECODER,)}  # for the previews

        def picture(step: Step):
            if step.preview is None:
                return None
            occupied = models.patcher(STRUCTURE_DECODER).model(step.preview)[0, 0] > 0
            return pictures.draw_voxels(occupied.nonzero(), occupied.shape[0])

        prepare_kernels()
        models.announce(models.checkpoint.default_pipeline_type, STRUCTURE_FLOW)
        progress = Progress(picture=picture)
        return io.NodeOutput(
            run(stages.sample_structure, models, progress, condition, seed=seed, settings=sampler, beside=beside)
        )


class SampleShape(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2SampleShape",
            display_name="TRELLIS.2 Sample Shape",
            category=CATEGORY,
            **aliases("shape latent, slat, geometry sampler, cascade"),
            description="Samples the shape latent on the structure's voxels, in a cascade first coarse, then fine.",
            inputs=[
                models_input(),
                condition_input(),
                Structure.Input(
                    "structure", optional=True, tooltip="From TRELLIS.2 Sample Structure; not needed beside a start."
                ),
                resolution_input(),
                advanced(
                    io.Int.Input(
                        "max_tokens",
                        default=MAX_TOKENS,
                        min=64,
                        max=262144,
                        step=64,
                        tooltip="1536_cascade lowers its resolution, down to 1024, until it has fewer latent voxels. "
                        "Lower this when memory runs out; the other resolutions do not use it.",
                    )
                ),
                sampler_input(),
                Shape.Input(
                    "start",
                    optional=True,
                    tooltip="From TRELLIS.2 Encode Mesh: the mesh's own voxels are sampled, at its resolution.",
                ),
                advanced(
                    _strength("How far the shape may leave the start: 0 not at all, 1 it keeps its voxels alone.")
                ),
            ],
            outputs=[Shape.Output(display_name="shape", tooltip="The shape latent.")],
        )

    @classmethod
    def execute(
        cls,
        models: ManagedModels,
        condition: stages.Condition,
        structure: stages.Structure | None = None,
        resolution: str = folders.OWN,
        max_tokens: int = MAX_TOKENS,
        sampler: SamplerSettings | None = None,
        start: ShapeLatent | None = None,
        strength: float = 1.0,
    ) -> io.NodeOutput:
        if start is not None:
            own = {"pipeline_type": start.pipeline_type, "strength": strength, "settings": sampler, "kept": start.kept}
            latent = run(stages.resample_shape, models, Progress(), condition, start.latent, **own)
            return io.NodeOutput(ShapeLatent(latent, start.pipeline_type), ui={"text": [latent_line(latent)]})
        if structure is None:
            raise SettingsError("Sample Shape needs a structure, or a start from TRELLIS.2 Encode Mesh. Connect one.")
        if resolution == folders.OWN:
            chosen = models.checkpoint.default_pipeline_type
            log.info("TRELLIS.2 resolution: %s, as %s says", chosen.name, models.checkpoint.name)
        else:
            chosen = PipelineType.named(resolution)
        models.checkpoint.require(chosen, texture=False, setting="resolution")
        models.announce(chosen, chosen.shape[0].model)
        progress = Progress(2 * len(chosen.shape) - 1)  # between two passes the voxels are refined
        latent = run(
            stages.sample_shape,
            models,
            progress,
            condition,
            structure,
            pipeline_type=chosen,
            settings=sampler,
            max_tokens=max_tokens,
        )
        return io.NodeOutput(ShapeLatent(latent, chosen), ui={"text": [latent_line(latent)]})


class SampleTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2SampleTexture",
            display_name="TRELLIS.2 Sample Texture",
            category=CATEGORY,
            **aliases("texture latent, slat, material sampler, pbr sampler"),
            description="Samples the texture latent on the shape's voxels.",
            inputs=[
                models_input(),
                condition_input(),
                Shape.Input("shape", tooltip="From TRELLIS.2 Sample Shape."),
                sampler_input(),
                Texture.Input(
                    "start",
                    optional=True,
                    tooltip="A texture latent of the same shape to begin from, in place of noise alone.",
                ),
                advanced(_strength("How far the texture may leave the start: 0 not at all, 1 from noise alone.")),
            ],
            outputs=[Texture.Output(display_name="texture", tooltip="The texture latent.")],
        )

    @classmethod
    def execute(
        cls,
        models: ManagedModels,
        condition: stages.Condition,
        shape: ShapeLatent,
        sampler: SamplerSettings | None = None,
        start: stages.Latent | None = None,
        strength: float = 1.0,
    ) -> io.NodeOutput:
        models.checkpoint.require_models(
            (shape.pipeline_type.texture.model, TEXTURE_DECODER), f"Texture at {shape.pipeline_type.name}"
        )
        return io.NodeOutput(
            run(
                stages.sample_texture,
                models,
                Progress(),
                condition,
                shape.latent,
                pipeline_type=shape.pipeline_type,
                settings=sampler,
                start=None if start is None else stages.LatentStart(start, strength),
            )
        )
