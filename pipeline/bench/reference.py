"""Microsoft's code beside ours, for `bench --reference`: the same weights on the same inputs, in the same process.

Nothing of it is part of this repository. PATH is a clone of github.com/microsoft/TRELLIS.2 whose packages (flex_gemm,
flash_attn or another that its ATTN_BACKEND names) are installed; only its `models` and `modules` are imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from ..errors import SettingsError
from ..sparse import Subdivision
from .networks import Inputs

_PACKAGE = "trellis2"
_FIELDS = 7  # of a shape decoder's voxel: dual vertex 3, crossed edges 3, split weight 1


class Reference:
    """Networks of a clone of microsoft/TRELLIS.2.

    Args:
        path: the clone's folder.

    Raises:
        SettingsError: it is not there, or a package that it needs is missing.
    """

    # The image encoder there is transformers', with which tests/test_image_encoder.py compares ours.
    networks = (
        "SparseStructureFlowModel",
        "SparseStructureDecoder",
        "SLatFlowModel",
        "SparseUnetVaeDecoder",
        "FlexiDualGridVaeDecoder",
    )

    def __init__(self, path: Path) -> None:
        if not (path / _PACKAGE / "models").is_dir():
            raise SettingsError(
                f"{path} has no folder {_PACKAGE}/models. --reference takes a clone of github.com/microsoft/TRELLIS.2."
            )
        package = ModuleType(_PACKAGE)  # without running its __init__, which imports renderers too
        package.__path__ = [str(path / _PACKAGE)]
        sys.modules[_PACKAGE] = package
        self._models = _needed(lambda: import_module(f"{_PACKAGE}.models"))
        self._tensor = _needed(lambda: import_module(f"{_PACKAGE}.modules.sparse").SparseTensor)

    def build(self, config: dict, weights: Mapping[str, torch.Tensor], device: torch.device) -> nn.Module:
        """The network of a checkpoint's configuration with the given weights, in the precision that it names."""
        name, args = config["name"], dict(config["args"])
        if name == "FlexiDualGridVaeDecoder":  # fields alone, as ours gives them, on given voxels: no mesh
            name = "SparseUnetVaeDecoder"
            args = {key: value for key, value in args.items() if key not in ("resolution", "voxel_margin")}
            args |= {"out_channels": _FIELDS, "pred_subdiv": False}
        model = _needed(lambda: getattr(self._models, name)(**args))
        absent = sorted({key for key, _ in model.named_parameters()} - weights.keys())
        if absent:
            raise SettingsError(
                f"The reference's {name} has {len(absent)} weights that ours lacks, {absent[0]} first. "
                "Take the commit of microsoft/TRELLIS.2 that the checkpoint was released with."
            )
        model.load_state_dict({key: weights.get(key, own) for key, own in model.state_dict().items()})
        return model.to(device).requires_grad_(False).eval()

    def call(self, model: nn.Module, inputs: Inputs) -> Callable[[], torch.Tensor]:
        """The call to time; it returns the network's output: dense, or features [T', C]."""
        x, tokens, voxels, time = inputs.x, inputs.tokens, inputs.voxels, inputs.time
        if voxels is None:
            dense = (x,) if tokens is None else (x, time, tokens)
            return lambda: _needed(lambda: model(*dense))
        if tokens is not None:
            return lambda: _needed(lambda: model(self._tensor(x, voxels.coords), time, tokens)).feats
        guides = [_occupied(each) for each in inputs.subdivisions]

        def decode() -> torch.Tensor:  # fresh tensors, since they keep neighbour maps
            pairs = zip(guides, inputs.subdivisions)
            given = [self._tensor(guide, each.parents.coords) for guide, each in pairs]
            return _needed(lambda: model(self._tensor(x, voxels.coords), guide_subs=given)).feats

        return decode


def _occupied(subdivision: Subdivision) -> torch.Tensor:
    """[T, 8] 1 for the children that exist. Both number them x + 2 y + 4 z."""
    occupied = torch.zeros(len(subdivision.parents) * 8, device=subdivision.slots.device)
    occupied[subdivision.slots] = 1
    return occupied.reshape(-1, 8)


def _needed(call: Callable):
    """What a call returns that may import a package of the reference's."""
    try:
        return call()
    except ImportError as error:
        raise SettingsError(
            f"Microsoft's code cannot be used here: {error}. Install what it needs (its setup.sh), or leave out "
            "--reference."
        ) from error
