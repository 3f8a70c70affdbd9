"""A checkpoint of 32 voxels a side with encoders: the networks of the training's tests, seeded, not trained."""

import torch

from pipeline.spec import SHAPE_DECODER, TEXTURE_DECODER
from training import networks, operations, tasks
from training.export import export


def tiny_checkpoint(folder):
    """Write it to a folder; a run of it takes a second, and has faces."""
    torch.manual_seed(0)
    made = {}
    for name, task in tasks.TASKS.items():
        one = task(networks.TINY, "cpu", operations.table())
        made[name] = dict(one.modules.state_dict())
    for name in (tasks.SHAPE_VAE, tasks.TEXTURE_VAE):
        channels = networks.TINY.args({tasks.SHAPE_VAE: SHAPE_DECODER, tasks.TEXTURE_VAE: TEXTURE_DECODER}[name])
        ones = torch.ones(channels["latent_channels"])
        made[name] |= {"statistics.mean": 0 * ones, "statistics.std": ones}
    decoder = made[tasks.SHAPE_VAE]
    decoder["decoder.output_layer.bias"][3:6] = 5.0  # every edge is crossed, so that there are faces
    for key, value in decoder.items():
        if key.endswith("to_subdiv.bias"):
            value.fill_(5.0)
    export(networks.TINY, made.__getitem__, folder)
    return folder
