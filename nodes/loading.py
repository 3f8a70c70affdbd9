"""T2LoadModels: a checkpoint becomes models that the other nodes use."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io

from ..pipeline import sparse, stages
from ..pipeline.errors import CheckpointError
from ..pipeline.spec import IMAGE_ENCODER, PIPELINE_TYPES
from ..pipeline.speed import EXACT, SPEEDS, speed_named
from ..pipeline.weights import RELEASED_CHECKPOINT, SMALL_IS
from .host import folders
from .host.attention import COMFYUI
from .host.memory import ManagedModels, device_dtype
from .host.progress import Progress
from .packages import AUTO, choices, package_input
from .sockets import CATEGORY, Models, advanced, aliases, node_schema

log = logging.getLogger(__name__)

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def checkpoint_input() -> io.Input:
    """The choice of a checkpoint, with what is here and what is not in its tooltip."""
    found = folders.checkpoints()
    listed = "\n".join(f"{name}: {where}" for name, where in found.items())
    return io.Combo.Input(
        "checkpoint",
        options=list(found),
        default=folders.SMALL,
        tooltip="The TRELLIS.2 checkpoint: a folder in models/trellis2 (pipeline.json and ckpts/), a ComfyUI bundle, "
        f"or a Hugging Face repository, which is downloaded when a run needs it.\n{listed}",
    )


class LoadModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2LoadModels",
            display_name="TRELLIS.2 Load Models",
            category=CATEGORY,
            **aliases("load trellis, checkpoint loader, trellis model, 3d model loader"),
            description="Opens a TRELLIS.2 checkpoint. Networks are read when a stage first needs them, and ComfyUI "
            "moves them in and out of GPU memory.",
            inputs=[
                checkpoint_input(),
                io.Combo.Input(
                    "decoders",
                    options=[folders.AUTOMATIC, *folders.decoder_bundles()],
                    default=folders.AUTOMATIC,
                    tooltip="For ComfyUI bundles whose decoders are a file of their own: that file in models/vae. "
                    "automatic takes those that hold what is missing; other checkpoints have their decoders inside.",
                ),
                io.Combo.Input(
                    "image_encoder",
                    options=[folders.OWN, *folders.image_encoders()],
                    default=folders.OWN,
                    tooltip="The DINOv3 ViT-L image encoder: the one that the checkpoint names (gated on Hugging "
                    "Face), or a file in models/clip_vision.",
                ),
                advanced(
                    io.Combo.Input(
                        "precision",
                        options=["auto", *_PRECISIONS],
                        default="auto",
                        tooltip="Number format inside the networks. auto keeps the checkpoint's 16 bits where the "
                        "device computes with them, else float32.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "attention",
                        options=["torch", COMFYUI.name],
                        default="torch",
                        tooltip="torch gives the reference's results. comfyui takes the kernel that ComfyUI was "
                        "started with (SageAttention, FlashAttention, ...), which may be faster and less exact.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "speed",
                        options=list(SPEEDS),
                        default=EXACT.name,
                        tooltip="exact runs the network at every step. balanced predicts half of the passes without "
                        "the picture from earlier ones; fast also predicts passes with it, half of all. The surface "
                        "moves by 0.2 % of the diagonal and base colours by 0.02 of 1 (medians of 64 objects, small "
                        "checkpoint).",
                    )
                ),
                package_input(
                    "convolution",
                    "flex_gemm",
                    "flex_gemm runs the decoders' convolutions by the package FlexGEMM, as Microsoft's code does, "
                    "where it is installed; it tunes itself at first. auto takes the pack's own kernels.",
                ),
                package_input(
                    "dual_grid",
                    "o_voxel",
                    "o_voxel makes meshes of voxels, and voxels of meshes, by Microsoft's package o-voxel, where it is "
                    "installed. auto takes the pack's own.",
                ),
            ],
            outputs=[Models.Output(display_name="models", tooltip="For every TRELLIS.2 node that samples.")],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = folders.SMALL) -> bool | str:
        # None: linked, and not known yet; execute looks again
        return (checkpoint is not None and folders.why_not(checkpoint)) or True

    @classmethod
    def fingerprint_inputs(
        cls,
        checkpoint: str = folders.SMALL,
        decoders: str = folders.AUTOMATIC,
        image_encoder: str = folders.OWN,
        **_,
    ) -> str:
        known = None not in (checkpoint, decoders, image_encoder)  # else one is linked
        return folders.fingerprint(checkpoint, decoders, image_encoder) if known else ""

    @classmethod
    def execute(
        cls,
        checkpoint: str = folders.SMALL,
        decoders: str = folders.AUTOMATIC,
        image_encoder: str = folders.OWN,
        precision: str = "auto",
        attention: str = "torch",
        speed: str = EXACT.name,
        convolution: str = AUTO,
        dual_grid: str = AUTO,
    ) -> io.NodeOutput:
        if problem := folders.why_not(checkpoint):  # a node inside a subgraph is not validated
            raise CheckpointError(problem)
        if checkpoint == folders.SMALL:
            log.info(
                "Using the bundled small checkpoint: %s. For any object choose %s (16 GB download).",
                SMALL_IS,
                RELEASED_CHECKPOINT,
            )
        download = _Download()
        opened = folders.open_choice(checkpoint, decoders, image_encoder, download)
        dtype = device_dtype() if precision == "auto" else _PRECISIONS[precision]
        packages = choices(
            submanifold_conv=convolution,
            child_conv=convolution,
            mesh_to_dual_grid=dual_grid,
            dual_grid_to_mesh=dual_grid,
        )
        chosen = {sparse.ATTENTION: attention, **packages}
        backends = stages.default_backends(chosen, {sparse.ATTENTION: [COMFYUI]})
        models = ManagedModels(opened, dtype, backends, speed_named(speed))
        needed = {role for pipeline_type in PIPELINE_TYPES.values() for role in pipeline_type.roles()}
        # the encoder first: it is gated, and who may not have it should learn so before 16 GB are here
        roles = sorted((role for role in opened.roles if role in needed), key=lambda role: role != IMAGE_ENCODER)
        download.fetch(models, opened.nearest_first(roles))
        return io.NodeOutput(models)


class _Download:
    """Fetches the files of models one by one, and shows how far it is."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._done, self._count = 0, 1

    def fetch(self, models: ManagedModels, roles: list[str]) -> None:
        self._count = len(roles)
        for self._done, role in enumerate(roles):
            models.fetch([role])
            self(role, 1, 1)

    def __call__(self, name: str, here: int, size: int) -> None:
        self._progress.show((self._done + here / max(size, 1)) / self._count)
