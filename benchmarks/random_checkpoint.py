"""Writes a checkpoint with the released networks' sizes and random weights, for measurements that need no real object.

    python benchmarks/random_checkpoint.py FOLDER [--device cuda] [--type 512] [--small]

FOLDER then works as `--checkpoint FOLDER --image-encoder FOLDER/image_encoder`; it takes 16 GB. Objects are noise:
about one in fifty of the structure's voxels is occupied, as in a typical object, which makes some thousand latent
voxels, and every voxel of the shape has four children. --type: the networks of one pipeline type alone, which take
11 GB for 512. --small: a few megabytes, to try it.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.bench.networks import RandomModels, full_size, small_size
from pipeline.runtime import choose_device
from pipeline.spec import IMAGE_ENCODER, PIPELINE_TYPES, RELEASED_FILES, STRUCTURE_DECODER

_OCCUPIED = 0.02  # share of the structure's voxels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="auto", help="where the weights are made")
    parser.add_argument("--type", choices=sorted(PIPELINE_TYPES), help="networks of this pipeline type; default: all")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    device = choose_device(options.device)
    configs = (small_size() if options.small else full_size()).models
    models = RandomModels(configs)
    wanted = PIPELINE_TYPES[options.type].roles(True) if options.type else configs
    for role, config in configs.items():
        if role not in wanted:
            continue
        model = models.get(role, device)
        if role == STRUCTURE_DECODER:
            sparse(model, config["args"]["latent_channels"], device)
        path = options.folder / ("image_encoder" if role == IMAGE_ENCODER else RELEASED_FILES[role])
        write(path, config, model, role == IMAGE_ENCODER)
        del model
        models.release()
        print(path, flush=True)


@torch.no_grad()
def sparse(model: nn.Module, channels: int, device: torch.device) -> None:
    """Let a structure decoder find the wanted share of voxels in a latent of noise."""
    parameters = dict(model.named_parameters())
    bias = parameters["out_layer.2.bias"]
    noise = torch.randn(1, channels, 16, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    bias -= model(noise).float().flatten().quantile(1 - _OCCUPIED).to(bias)


def write(path: Path, config: dict, model: nn.Module, encoder: bool) -> None:
    """A network's JSON and weights, in the released layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    if encoder:
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(config["args"], indent=1))
        save_file(tensors, path / "model.safetensors")
    else:
        path.with_name(f"{path.name}.json").write_text(json.dumps(config, indent=1))
        save_file(tensors, path.with_name(f"{path.name}.safetensors"))


if __name__ == "__main__":
    main()
