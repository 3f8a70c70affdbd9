"""Encoders for a checkpoint whose decoders are trained already; decoders and flows stay unchanged.

For a decoder that does not move, the losses of the autoencoder have one best posterior: what a flow was trained to
sample is what such an encoder learns to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import CheckpointError
from pipeline.models import build
from pipeline.spec import SHAPE_DECODER, SHAPE_ENCODER, TEXTURE_DECODER, TEXTURE_ENCODER
from pipeline.weights import Models, open_checkpoint

from . import losses
from .networks import new
from .tasks import PLANS, SHAPE_VAE, TEXTURE_VAE, Plan, ShapeVAE, Task, TextureVAE

SHAPE, TEXTURE = "shape-encoder", "texture-encoder"
_DECODERS = {SHAPE_VAE: SHAPE_DECODER, TEXTURE_VAE: TEXTURE_DECODER}


class ShapeEncoder(ShapeVAE):
    name, needs, ships = SHAPE, (SHAPE_VAE,), {"encoder": SHAPE_ENCODER}

    def make(self):
        return {"encoder": new(self.design.shape_encoder)}

    def load(self, weights):
        self.decoder: Any = self.frozen(self.network(SHAPE_DECODER), weights(SHAPE_VAE), "decoder")

    def losses(self, batch, random):
        pair = self.modules["encoder"], self.decoder
        return losses.shape_vae(*pair, batch.grids, None, random, self.backends)


class TextureEncoder(TextureVAE):
    name, needs, ships = TEXTURE, (TEXTURE_VAE,), {"encoder": TEXTURE_ENCODER}

    def make(self):
        return {"encoder": new(self.design.texture_encoder)}

    def load(self, weights):
        self.decoder: Any = self.frozen(self.network(TEXTURE_DECODER), weights(TEXTURE_VAE), "decoder")

    def losses(self, batch, random):
        return losses.texture_vae(self.modules["encoder"], self.decoder, batch.grids, random, self.backends)


ENCODER_TASKS: dict[str, type[Task]] = {task.name: task for task in (ShapeEncoder, TextureEncoder)}
ENCODER_PLANS: dict[str, Plan] = {
    SHAPE: replace(PLANS[SHAPE_VAE], minutes=8),
    TEXTURE: replace(PLANS[TEXTURE_VAE], minutes=8),
}


def decoder_weights(checkpoint: Path, run: str) -> Mapping[str, torch.Tensor]:
    """The decoder of a checkpoint as the run that trained it would hand it on: "decoder.<key>".

    Raises:
        CheckpointError: the checkpoint lacks it, or run trains none.
    """
    if run not in _DECODERS:
        raise CheckpointError(f"{run} trains no decoder that an encoder needs; {', '.join(_DECODERS)} do.")
    network = Models(open_checkpoint(checkpoint), build).get(_DECODERS[run], torch.device("cpu"), torch.float32)
    return {f"decoder.{key}": value for key, value in network.state_dict().items()}
