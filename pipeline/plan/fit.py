"""The estimates beside what was measured, and their factors fitted again to it.

Measurements are lines of benchmarks/history.jsonl (`bench --full-size --history`), the newest of each kind, and of
benchmarks/memory.jsonl: flows within runs, and runs under a memory limit, with room_bytes for what a decoder might take
(docs/performance.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..models import memory, working_bytes
from ..spec import (
    IMAGE_ENCODER,
    PIPELINE_TYPES,
    RELEASED_MODELS,
    SHAPE_DECODER,
    SHAPE_FLOW_1024,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
)
from . import peaks
from .demand import Demand
from .ladder import RUNGS
from .peaks import Network

_ROLES = {
    "image encoder": IMAGE_ENCODER,
    "structure flow, one forward": STRUCTURE_FLOW,
    "structure decoder": STRUCTURE_DECODER,
    "latent flow, one forward": SHAPE_FLOW_1024,
    "shape decoder": SHAPE_DECODER,
    "texture decoder": TEXTURE_DECODER,
}
_IMAGE_SIZE = 512  # pixels a side at image scale 1, as `bench` has it
_FINE = 8192  # tokens above which `bench` gives a flow the condition of a picture of 1024 pixels
_ALONE = 1 << 62  # room that no work needs
_FLOW = "latent flow in a run"


@dataclass(frozen=True)
class Compared:
    """A measurement and its estimate, in bytes."""

    work: str
    measured: int
    estimated: int

    @property
    def ratio(self) -> float:
        return self.estimated / self.measured


def networks(build: Callable[[Mapping], nn.Module]) -> dict[str, Network]:
    """The released networks on "meta"; no weight is read. build: models.build."""
    with torch.device("meta"):
        return {role: Network.of(build(config)) for role, config in RELEASED_MODELS.items()}


def compared(lines: Iterable[Mapping], found: Mapping[str, Network]) -> list[Compared]:
    """Every measurement that there is an estimate of."""
    made: list[Compared] = []
    for line in lines:
        if line["kind"] == "network" and line["implementation"] == "ours" and line["network"] in _ROLES:
            network, work = found[_ROLES[line["network"]]], _work(line["network"], line["size"])
            total = peaks.BASE + network.weight_bytes + working_bytes(network.model, *work, fused=True)
            made.append(Compared(f"{line['network']}, {line['size']}", line["peak_bytes"], total))
        elif line["kind"] == "stage":
            made += _stage(line, found)
        elif line["kind"] == "memory":
            made.append(_limited(line, found))
    return made


def _work(network: str, size: str) -> tuple[int, int, int | None]:
    """Tokens, condition and voxels of a measured network."""
    numbers = [int(each.replace(",", "")) for each in re.findall(r"\d[\d,]*\d|\d", size)]
    if network == "image encoder":
        return (numbers[0] // 16) ** 2 + 5, 0, None
    if network == "structure decoder":
        return numbers[0] ** 3, 0, None
    if "decoder" in network:
        return 1, 0, numbers[-1]
    return numbers[0], _condition(numbers[0]), None


def _condition(tokens: int) -> int:
    return ((_IMAGE_SIZE * (2 if tokens > _FINE else 1)) // 16) ** 2 + 5


def _stage(line: Mapping, found: Mapping[str, Network]) -> list[Compared]:
    """A stage of a whole run, whose counts stand in words."""
    counts = re.findall(r"(\w+): ([\d,]+) tokens, ([\d,]+) voxels", line["run"])
    if not counts:  # one that does not say its type
        return []
    [(kind, tokens, voxels)] = counts
    count, fine = (int(each.replace(",", "")) for each in (tokens, voxels))
    wanted = Demand(PIPELINE_TYPES[kind], texture_size=0, tokens=count, voxels=fine)
    rung = RUNGS[0] if line.get("keep_models") else RUNGS[1]
    each = peaks.estimate(found, wanted, rung, _IMAGE_SIZE, _ALONE, fused=True)
    found_peaks = [one.peak_bytes for one in each if one.stage == peaks.estimated_as(line["stage"])]
    if not found_peaks:
        return []
    return [Compared(f"stage {line['stage']}", line["peak_bytes"], max(found_peaks))]


def _limited(line: Mapping, found: Mapping[str, Network]) -> Compared:
    """A flow within a run, a decoder alone in some room for its activations, or the largest stage of a run."""
    if line["work"] == _FLOW:
        network, work = found[SHAPE_FLOW_1024], (line["tokens"], line["condition"])
        total = peaks.BASE + network.weight_bytes + working_bytes(network.model, *work, fused=True)
        return Compared(f"{_FLOW}, {line['tokens']:,} tokens, {line['condition']:,} seen", line["peak_bytes"], total)
    room = line.get("room_bytes", _ALONE)
    if line["work"] in PIPELINE_TYPES:
        wanted = Demand(
            PIPELINE_TYPES[line["work"]], process=False, texture_size=0, tokens=line["tokens"], voxels=line["voxels"]
        )
        rung = RUNGS[2] if "room_bytes" in line else RUNGS[1]
        peak = max(one.peak_bytes for one in peaks.estimate(found, wanted, rung, _IMAGE_SIZE, room, fused=True))
        return Compared(f"{line['work']}, {line['tokens']:,} tokens, {_room(room)}", line["peak_bytes"], peak)
    network = found[_ROLES[line["work"]]]
    whole = working_bytes(network.model, 1, voxels=line["voxels"], fused=True)
    tiled = peaks.TILED * line["voxels"] + max(peaks.TILE_ROOM, room - min(1 << 30, room // 4))
    total = network.weight_bytes + min(whole, tiled)
    return Compared(f"{line['work']}, {line['voxels']:,} voxels, {_room(room)}", line["peak_bytes"], total)


def _room(room: int) -> str:
    return "no limit" if room == _ALONE else f"{room / 1e9:g} GB"


def refitted(lines: Iterable[Mapping], found: Mapping[str, Network]) -> dict[str, tuple[float, float]]:
    """name -> (factor in use, the least-squares one) of the networks' factors; see models.memory."""
    lines = list(lines)
    flow = [_flow_row(line, found[SHAPE_FLOW_1024]) for line in lines if line.get("work") == _FLOW]
    decoder, encoder = [], []
    for line in lines:
        if line["kind"] != "network" or line["implementation"] != "ours" or line["network"] not in _ROLES:
            continue
        network = found[_ROLES[line["network"]]]
        tokens, _, voxels = _work(line["network"], line["size"])
        over, model = line["peak_bytes"] - peaks.BASE - network.weight_bytes, network.model
        if voxels is not None:
            unit = model.dtype.itemsize * model.output_layer.in_features
            decoder.append(([unit * voxels, 1], over))
        elif line["network"] == "image encoder":
            encoder.append(([4 * model.norm.normalized_shape[0] * tokens, 1], over))
    names = ("flow, a token", "flow, a token of a block of rows", "flow, bytes besides")
    used = (*memory.FUSED.flow, memory.EXTRA + peaks.BASE)
    result: dict[str, tuple[float, float]] = dict(zip(names, zip(used, _solve(flow))))
    result |= dict(zip(("decoder, a voxel", "decoder, bytes besides"), zip(_decoder(), _solve(decoder))))
    result["encoder, a token"] = memory.ENCODER, _solve(encoder)[0]
    return result


def _flow_row(line: Mapping, network: Network) -> tuple[list, int]:
    """A row of least squares: keys and values that are kept are known."""
    tokens, seen, model = line["tokens"], line["condition"], network.model
    unit = model.dtype.itemsize * model.input_layer.out_features
    blocks = 1 if model.makes_context_again(tokens, seen) else len(model.blocks)
    over = line["peak_bytes"] - network.weight_bytes - round(unit * memory.FUSED.seen * blocks * seen)
    return [unit * tokens, unit * min(tokens, memory.BLOCK_ROWS), 1], over


def _decoder() -> tuple[float, float]:
    return memory.FUSED.decoder, memory.FUSED.extra


def _solve(rows: Sequence[tuple[list, int]]) -> list[float]:
    """Least squares; columns are brought to one scale first."""
    a = torch.tensor([row for row, _ in rows], dtype=torch.float64)
    b = torch.tensor([value for _, value in rows], dtype=torch.float64)
    scale = a.abs().amax(0)
    return (torch.linalg.lstsq(a / scale, b[:, None]).solution[:, 0] / scale).tolist()


def markdown(lines: Sequence[Mapping], found: Mapping[str, Network]) -> str:
    """Both as tables."""
    rows = ["| work | measured | estimated | ratio |", "|---|---|---|---|"]
    for each in compared(lines, found):
        rows.append(
            f"| {each.work} | {each.measured / 1e9:.2f} GB | {each.estimated / 1e9:.2f} GB | {each.ratio:.2f} |"
        )
    rows += ["", "| factor | in use | fitted |", "|---|---|---|"]
    rows += [f"| {name} | {used:,.4g} | {fitted:,.4g} |" for name, (used, fitted) in refitted(lines, found).items()]
    return "\n".join(rows)
