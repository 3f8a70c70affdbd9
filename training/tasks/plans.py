"""Length and learning rate of each of the seven training runs."""

from __future__ import annotations

from dataclasses import dataclass

STRUCTURE_VAE, SHAPE_VAE, TEXTURE_VAE, ENCODER = "structure-vae", "shape-vae", "texture-vae", "encoder"
STRUCTURE, SHAPE, TEXTURE = "structure-flow", "shape-flow", "texture-flow"


@dataclass(frozen=True)
class Plan:
    """How a run is trained. A cycle draws `objects`, goes through them `repeats` times in batches of `batch`, each time
    in another order, and forgets them.

    minutes: length of the whole run on an H200 that runs of the same phase share. rate: learning rate at its highest,
    after `warmup` steps and before the last quarter, in which it falls to zero. average: decay of the moving average.
    measured: objects that the mean and spread of a latent are taken from.
    """

    minutes: float
    objects: int
    batch: int
    repeats: int
    rate: float
    warmup: int = 300
    average: float = 0.999
    weight_decay: float = 0.01
    measured: int = 256

    def __post_init__(self) -> None:
        if self.objects % self.batch:
            raise ValueError(f"A cycle of {self.objects} objects is no multiple of the batch, {self.batch}.")

    @property
    def steps(self) -> int:
        """Of a cycle."""
        return self.repeats * self.objects // self.batch


# Two phases of 25 minutes: what needs nothing, and the flows, which need the finished autoencoders and encoder.
PLANS = {
    STRUCTURE_VAE: Plan(5, objects=128, batch=64, repeats=4, rate=1e-3),
    SHAPE_VAE: Plan(22, objects=64, batch=16, repeats=4, rate=1e-3),
    TEXTURE_VAE: Plan(8, objects=64, batch=16, repeats=4, rate=2e-3, warmup=100),
    ENCODER: Plan(22, objects=384, batch=64, repeats=6, rate=8e-4, warmup=1000),
    STRUCTURE: Plan(22, objects=512, batch=128, repeats=24, rate=8e-4, warmup=500),
    SHAPE: Plan(22, objects=512, batch=64, repeats=12, rate=8e-4, warmup=500),
    TEXTURE: Plan(20, objects=512, batch=64, repeats=12, rate=8e-4, warmup=500),
}
