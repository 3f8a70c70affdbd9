"""The pipeline on Modal (https://modal.com), weights read before its snapshot of memory, moved to the GPU after it.

pip install modal && modal setup
modal run deploy/modal_app.py::download                                    once: the weights, into a volume
modal deploy deploy/modal_app.py
modal run deploy/modal_app.py --picture chair.png --output chair.glb

From other programs: modal.Cls.from_name("trellis2-stages", "Trellis2")().make.remote(bytes of a picture, seed=42)
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import modal

# Read where `modal deploy` runs, and passed on to the containers.
CHECKPOINT = os.environ.get("TRELLIS2_CHECKPOINT", "Comfy-Org/TRELLIS.2")  # "small": the bundled one
GPU = os.environ.get("TRELLIS2_GPU", "L40S")
ROOT = Path(__file__).resolve().parent.parent if modal.is_local() else Path("/root")
WEIGHTS = "/weights"

image = (
    modal.Image.debian_slim("3.12")
    .pip_install("torch==2.13.0")
    .pip_install_from_requirements(str(ROOT / "requirements.txt"))
    .apt_install("gcc", "libc6-dev")  # Triton's launchers are compiled where they run
    .env({"HF_HOME": f"{WEIGHTS}/huggingface", "TRELLIS2_CHECKPOINT": CHECKPOINT})
    .add_local_dir(ROOT / "pipeline", "/root/pipeline", ignore=["**/__pycache__"])
    .add_local_dir(ROOT / "checkpoints" / "small", "/root/checkpoints/small")
)
app = modal.App("trellis2-stages", image=image)
volume = modal.Volume.from_name("trellis2-weights", create_if_missing=True)


def _models():
    """The checkpoint's models, none of them loaded, and the roles of its own pipeline type, whose files are here."""
    from pipeline.models import build
    from pipeline.weights import SMALL_CHECKPOINT, Models, open_checkpoint

    checkpoint = open_checkpoint(SMALL_CHECKPOINT if CHECKPOINT == "small" else CHECKPOINT)
    models, roles = Models(checkpoint, build), checkpoint.default_pipeline_type.roles()
    models.fetch(roles)
    return models, roles


@app.function(volumes={WEIGHTS: volume}, timeout=3600)
def download() -> None:
    """Bring the weights into the volume."""
    _models()
    volume.commit()


@app.cls(gpu=GPU, volumes={WEIGHTS: volume}, enable_memory_snapshot=True, scaledown_window=300, timeout=1800)
class Trellis2:
    """One container, one GPU, one picture at a time; all models stay on the GPU."""

    @modal.enter(snap=True)
    def read(self) -> None:
        """Before the snapshot, without a GPU: weights into main memory, in the checkpoint's own precision."""
        import torch

        self.models, roles = _models()
        for role in roles:
            self.models.get(role, torch.device("cpu"))

    @modal.enter(snap=False)
    def move(self) -> None:
        """After it, in each new container: weights to its GPU, and the table of what can run there."""
        from pipeline import stages
        from pipeline.runtime import choose_device

        self.device = choose_device()
        self.models.move(self.device)
        self.backends = stages.default_backends()

    @modal.method()
    def make(self, picture: bytes, seed: int = 42, faces: int = 100_000, texture_size: int = 2048) -> bytes:
        """A picture file to a textured GLB.

        Raises:
            ValueError: what the pipeline refuses, with the cure.
        """
        from pipeline.errors import PipelineError

        try:
            return self._made(picture, seed, faces, texture_size)
        except PipelineError as error:
            raise ValueError(str(error)) from None  # which a caller without the pipeline can read

    def _made(self, picture: bytes, seed: int, faces: int, texture_size: int) -> bytes:
        from pipeline import stages
        from pipeline.image import prepare, read_picture
        from pipeline.runtime import Runtime, choose_dtype

        runtime = Runtime(self.device, self.backends, choose_dtype(self.device), keep_models=True)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "picture", Path(folder) / "model.glb"
            source.write_bytes(picture)
            pictures = [prepare(read_picture(source))]
            own = self.models.checkpoint.default_pipeline_type
            made = stages.generate(runtime, self.models, pictures, own, seed)
            export = stages.ExportSettings(faces=faces, texture_size=texture_size, shells="auto")
            result, facts = stages.finish_mesh(runtime, made.mesh, made.voxels, export)
            stages.write_finished(runtime, result, target, export, {"seed": seed, **facts})
            return target.read_bytes()


@app.local_entrypoint()
def main(picture: str, output: str = "model.glb", seed: int = 42, faces: int = 100_000) -> None:
    """A picture of this machine to a GLB of this machine."""
    make = Trellis2().make.remote  # pyright: ignore[reportAttributeAccessIssue] - modal.method adds it
    Path(output).write_bytes(make(Path(picture).read_bytes(), seed, faces))
