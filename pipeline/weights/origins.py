"""Where the released models are to be had."""

from __future__ import annotations

from ..spec import IMAGE_ENCODER, RELEASED_ENCODERS, RELEASED_FILES

RELEASED_CHECKPOINT = "microsoft/TRELLIS.2-4B"  # on the Hugging Face hub
COMFY_ORG = "Comfy-Org/TRELLIS.2"  # bundles on the hub, for ComfyUI


def where_to_get(role: str) -> str:
    """Where the released model for a role is to be had, in a sentence."""
    if role == IMAGE_ENCODER:
        return (
            f"Get clip_vision/dino_v3_vit_l.safetensors of {COMFY_ORG} (not gated), or {RELEASED_FILES[role]} (gated: "
            "approval may take weeks or be refused). They hold the same weights; Meta's DINOv3 licence applies to "
            "every copy."
        )
    released = {**RELEASED_FILES, **RELEASED_ENCODERS}
    if role not in released:
        return f"Get the complete {RELEASED_CHECKPOINT}."
    repo, _, name = released[role].rpartition("ckpts/")
    return f"Get ckpts/{name}.json and .safetensors of {repo.rstrip('/') or RELEASED_CHECKPOINT}."
