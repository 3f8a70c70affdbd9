"""Seconds and peak memory of every stage: networks with random weights on synthetic surfaces.

First each network alone (median of three calls after a warm-up), then a whole 1024_cascade run. The surfaces are
spheres: as many latent voxels as a usual object has, four times as many at each finer level.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from . import stages
from .errors import OutOfMemoryError, SettingsError
from .export.files import check_writable, writing
from .models import build
from .models.flow import FlowTransformer
from .models.sparse_unet import FlexiDualGridVaeDecoder, SparseUnetVaeDecoder
from .models.structure_vae import SparseStructureDecoder
from .runtime import Runtime, StageRecord, choose_dtype, synchronise
from .sparse import SparseTensor, Subdivision, Voxels, subdivide
from .spec import (
    IMAGE_ENCODER,
    RELEASED,
    RELEASED_MODELS,
    ROUTES,
    SHAPE_DECODER,
    SHAPE_FLOW_512,
    SHAPE_FLOW_1024,
    STRUCTURE_DECODER,
    STRUCTURE_FLOW,
    TEXTURE_DECODER,
)
from .weights import Checkpoint, Models

_REPEATS = 3
_RADIUS = 0.47  # of the sphere, in world units


@dataclass(frozen=True)
class Size:
    """What is measured: configurations by role, and (latent grid, latent voxels, image scale) per resolution."""

    models: dict[str, dict]
    surfaces: tuple[tuple[int, int, int], ...]
    faces: int
    texture_size: int
    dense: tuple[tuple[int, int, int], ...] = ()  # as surfaces, for the decoders alone


def full_size() -> Size:
    """The released networks and the token counts of the reference's measurements."""
    return Size(RELEASED_MODELS, ((32, 4912, 1), (64, 19256, 2), (96, 43828, 2)), 100_000, 2048, ((96, 69_900, 2),))


def small_size() -> Size:
    """The same classes at a size that a CPU runs in seconds."""
    flow = {"model_channels": 128, "cond_channels": 64, "num_blocks": 2, "num_heads": 2}
    unet = {"model_channels": [64, 32, 16], "num_blocks": [1, 1, 0], "block_type": "SparseConvNeXtBlock3d"}
    unet |= {"up_block_type": "SparseResBlockC2S3d", "block_args": []}
    changes = {
        "SparseStructureFlowModel": flow,
        "SLatFlowModel": flow,
        "SparseStructureDecoder": {"channels": [32, 16, 8]},
        "FlexiDualGridVaeDecoder": unet,
        "SparseUnetVaeDecoder": unet,
        "DinoV3FeatureExtractor": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    }
    models = {
        role: {"name": config["name"], "args": config["args"] | changes[config["name"]]}
        for role, config in RELEASED_MODELS.items()
    }
    return Size(models, ((32, 1200, 1), (64, 4800, 2)), 20_000, 512)


def run(device: torch.device, full: bool, memory_limit: float | None = None, report: Path | None = None) -> int:
    """Print both tables. memory_limit: GB that the process may use on a CUDA device; report: the same as JSON."""
    if memory_limit:
        if device.type != "cuda":
            raise SettingsError(f"A memory limit can be set for CUDA devices only, not for {device.type}.")
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_limit * 1e9 / total), device.index or 0)
    if report:
        check_writable(report)
    size = full_size() if full else small_size()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {platform.machine()}"
    limit = f", limited to {memory_limit:g} GB" if memory_limit else ""
    title = f"{'Released' if full else 'Small'} sizes, random weights; {where}{limit}"
    title += f", torch {torch.__version__}, {date.today()}"
    print(title)
    runtime = Runtime(device, stages.table(), choose_dtype(device))
    parts = []
    print("\n| network | size | seconds | peak memory |\n|---|---|---|---|")
    models = _RandomModels(size.models)
    for case in _cases(runtime, size):
        seconds, peak = _measure(runtime, models, case)
        parts.append({"network": case.name, "size": case.size, "seconds": seconds, "peak_bytes": peak})
        cells = f"{seconds:.3f} | {peak / 1e9:.2f} GB" if seconds else "out of memory | "
        print(f"| {case.name} | {case.size} | {cells} |", flush=True)
    print("\n1024_cascade from start to end:\n")
    runtime.records.clear()
    _whole_run(runtime, size)
    print(stage_table(runtime.records))
    print(f"\nBackends: {', '.join(f'{op} {name}' for op, name in runtime.backends.used.items())}")
    if report:
        whole = [vars(record) for record in runtime.records]
        text = json.dumps({"title": title, "networks": parts, "run": whole}, indent=1) + "\n"
        with writing(report) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


def stage_table(records: Sequence[StageRecord]) -> str:
    """The records of a run as a Markdown table."""
    rows = ["| stage | seconds | of these loading | peak memory |", "|---|---|---|---|"]
    for record in records:
        cells = (
            record.stage,
            f"{record.seconds:.2f}",
            f"{record.loading_seconds:.2f}",
            f"{record.peak_bytes / 1e9:.2f} GB",
        )
        rows.append(f"| {' | '.join(cells)} |")
    total = sum(record.seconds for record in records), sum(record.loading_seconds for record in records)
    peak = max((record.peak_bytes for record in records), default=0)
    rows.append(f"| together | {total[0]:.2f} | {total[1]:.2f} | {peak / 1e9:.2f} GB |")
    return "\n".join(rows)


class _RandomModels(Models):
    """Networks of given configurations with random weights, made on the device when first used."""

    def __init__(self, configs: dict[str, dict]) -> None:
        sources: dict = dict.fromkeys(configs)  # that they have; none is read
        super().__init__(Checkpoint("random", RELEASED, sources), build)
        self._configs, self._made = configs, {}

    def config(self, role: str) -> dict:
        return self._configs[role]

    def fingerprint(self, role: str) -> str:
        return f"random {role}"

    def get(self, role: str, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
        if role not in self._made:
            torch.manual_seed(0)
            self._made[role] = _random(self._configs[role], device, dtype).requires_grad_(False).eval()
        return self._made[role]

    def release(self, role: str | None = None) -> None:
        self._made.pop(role, None) if role else self._made.clear()


def _random(config: dict, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """A network with random weights of a trained one's size, in its own precision from the start."""
    if config["name"] == RELEASED_MODELS[IMAGE_ENCODER]["name"]:  # transformers' layers fill themselves
        with torch.device(device):
            return build(config).to(device)
    with torch.device("meta"):
        model = build(config, dtype)
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1 or name.endswith("gamma"):
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    # Let the decoders decide as for a surface: a voxel has four children, those of one side; every edge is crossed.
    for name, layer in model.named_modules():
        if name.endswith("to_subdiv") and isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
            layer.bias.data[:4], layer.bias.data[4:] = 1, -1
    if isinstance(model, FlexiDualGridVaeDecoder):
        model.output_layer.bias.data[3:6] = 10
    if isinstance(model, SparseStructureDecoder):
        nn.init.constant_(model.get_parameter("out_layer.2.bias"), 10)  # a structure is never empty
    return model


def sphere(resolution: int, count: int, device: torch.device) -> Voxels:
    """The `count` voxels nearest to a sphere, sorted by (x, y, z)."""
    axis = (torch.arange(resolution, device=device) + 0.5) / resolution - 0.5
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt() - _RADIUS
    nearest = distance.abs().reshape(-1).topk(count, largest=False).indices.sort().values
    return Voxels.single(torch.stack(torch.unravel_index(nearest, (resolution,) * 3), 1))


def refine(voxels: Voxels, resolution: int, levels: int) -> list[Subdivision]:
    """Subdivisions that keep the four times as many children nearest to the sphere."""
    subdivisions = []
    for _ in range(levels):
        resolution *= 2
        every = subdivide(voxels, torch.ones(len(voxels), 8, dtype=torch.bool, device=voxels.device))
        centre = (every.children.xyz + 0.5) / resolution - 0.5
        distance = (centre.norm(dim=1) - _RADIUS).abs()
        keep = torch.zeros(len(distance), dtype=torch.bool, device=voxels.device)
        keep[distance.topk(4 * len(voxels), largest=False).indices] = True
        subdivisions.append(subdivide(voxels, keep.reshape(-1, 8)))
        voxels = subdivisions[-1].children
    return subdivisions


@dataclass(frozen=True)
class _Case:
    """One network to measure: `prepare(model)` gives the call to time."""

    name: str
    size: str
    role: str
    prepare: Callable[[Any], Callable[[], object]]


def _cases(runtime: Runtime, size: Size) -> Iterator[_Case]:
    """Every network at every size."""
    device = runtime.device
    for scale in (1, 2):
        side = RELEASED.image_size * scale
        pixels = torch.randn(1, 3, side, side, device=device)
        yield _Case("image encoder", f"{side} px", IMAGE_ENCODER, partial(_encoding, pixels))
    tokens = {scale: _tokens(size, scale, device) for scale in (1, 2)}
    grid = size.models[STRUCTURE_FLOW]["args"]["resolution"]
    structure = partial(_structure_forward, runtime, tokens[1])
    yield _Case("structure flow, one forward", f"{grid**3:,} tokens", STRUCTURE_FLOW, structure)
    yield _Case("structure decoder", f"{grid}^3", STRUCTURE_DECODER, partial(_structure_decoding, runtime, grid))
    for grid, count, scale in size.surfaces:
        role = SHAPE_FLOW_512 if scale == 1 else SHAPE_FLOW_1024
        latent = partial(_latent_forward, runtime, tokens[scale], sphere(grid, count, device))
        yield _Case("latent flow, one forward", f"{count:,} tokens", role, latent)
    for role, name in ((SHAPE_DECODER, "shape decoder"), (TEXTURE_DECODER, "texture decoder")):
        levels = len(size.models[role]["args"]["model_channels"]) - 1
        for grid, count, _ in (*size.surfaces, *size.dense):
            voxels = sphere(grid, count, device)
            subdivisions = refine(voxels, grid, levels)
            what = f"{grid << levels}^3, {len(subdivisions[-1].children):,} voxels"
            yield _Case(name, what, role, partial(_decoding, runtime, voxels, subdivisions))


def _tokens(size: Size, scale: int, device: torch.device) -> torch.Tensor:
    args = size.models[IMAGE_ENCODER]["args"]
    count = (RELEASED.image_size * scale // args["patch_size"]) ** 2 + 1 + args["num_register_tokens"]
    return torch.randn(1, count, args["hidden_size"], device=device)


def _encoding(pixels: torch.Tensor, encoder: nn.Module) -> Callable[[], object]:
    return lambda: encoder(pixels)


def _structure_forward(runtime: Runtime, tokens: torch.Tensor, flow: FlowTransformer) -> Callable[[], object]:
    x = torch.randn(1, flow.in_channels, *(flow.resolution,) * 3, device=runtime.device)
    t, context = torch.tensor([500.0], device=runtime.device), flow.context(tokens)
    return lambda: flow(x, t, context, runtime.backends)


def _structure_decoding(runtime: Runtime, grid: int, decoder: SparseStructureDecoder) -> Callable[[], object]:
    z = torch.randn(1, decoder.latent_channels, grid, grid, grid, device=runtime.device)
    return lambda: decoder(z)


def _latent_forward(runtime: Runtime, tokens, voxels: Voxels, flow: FlowTransformer) -> Callable[[], object]:
    x = SparseTensor(voxels, torch.randn(len(voxels), flow.in_channels, device=runtime.device))
    t, context = torch.tensor([500.0], device=runtime.device), flow.context(tokens)
    return lambda: flow(x, t, context, None, runtime.backends)


def _decoding(runtime: Runtime, voxels: Voxels, subdivisions, decoder: SparseUnetVaeDecoder) -> Callable[[], object]:
    latent = torch.randn(len(voxels), decoder.latent_channels, device=runtime.device)

    def call() -> object:  # making the neighbour maps is part of the work: give every call voxels without them
        fresh = Voxels(voxels.coords, voxels.lengths)
        return decoder(SparseTensor(fresh, latent), [_uncached(one) for one in subdivisions], runtime.backends)

    return call


def _measure(runtime: Runtime, models: _RandomModels, case: _Case) -> tuple[float | None, int]:
    """Median seconds, None if it runs out of memory, and peak bytes."""
    model, seconds = models.get(case.role, runtime.device, runtime.dtype), []
    try:
        with runtime.stage(case.name, 1, ""):
            call = case.prepare(model)
            for _ in range(1 + _REPEATS):
                start = time.perf_counter()
                call()
                synchronise(runtime.device)
                seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:]), runtime.records[-1].peak_bytes
    except OutOfMemoryError:
        return None, 0
    finally:
        models.release()


def _uncached(subdivision: Subdivision) -> Subdivision:
    children = Voxels(subdivision.children.coords, subdivision.children.lengths)
    return replace(subdivision, children=children)


def _whole_run(runtime: Runtime, size: Size) -> None:
    """The stages of a 1024_cascade run; only the structure is replaced by a sphere's."""
    models, route = _RandomModels(size.models), ROUTES["1024_cascade"]
    image = Image.linear_gradient("L").convert("RGB")
    condition = stages.encode_images(runtime, models, [image], route.image_scales())
    structure = stages.sample_structure(runtime, models, condition, 0)
    grid, count, _ = size.surfaces[0]
    fine = structure.occupied.shape[0]
    occupied = torch.zeros_like(structure.occupied)
    # every second fine voxel: pooled, the sphere's voxels
    x, y, z = (sphere(grid, count, runtime.device).xyz.long() * (fine // grid)).unbind(1)
    occupied[x, y, z] = True
    structure = replace(structure, occupied=occupied)
    shape = stages.sample_shape(runtime, models, condition, structure, route)
    texture = stages.sample_texture(runtime, models, condition, shape, route)
    mesh, subdivisions = stages.decode_shape(runtime, models, shape)
    voxels = stages.decode_texture(runtime, models, texture, subdivisions)
    print(
        f"{len(shape.sparse.voxels):,} tokens, {len(voxels.sparse.voxels):,} voxels, "
        f"{len(mesh.faces):,} faces to {size.faces:,}, texture {size.texture_size}\n"
    )
    mesh = stages.process_mesh(runtime, mesh, size.faces)
    textured = stages.bake_texture(runtime, mesh, voxels, size.texture_size)
    with tempfile.TemporaryDirectory() as folder:
        stages.export_glb(runtime, textured, Path(folder, "bench.glb"), stages.ExportSettings(), {})
