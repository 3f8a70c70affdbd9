"""Seconds and peak memory of every stage: networks with random weights on synthetic surfaces.

First each network alone (the first call, and the median of the next three), then a whole 1024_cascade run. The surfaces
are spheres: as many latent voxels as a usual object has, four times as many at each finer level.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from .. import stages
from ..budget import bound
from ..errors import OutOfMemoryError, SettingsError
from ..export.files import check_writable, writing
from ..runtime import Runtime, StageRecord, Step, choose_dtype, synchronise
from ..spec import PIPELINE_TYPES
from ..speed import EXACT, speed_named
from ..stages.checks import prepare_networks
from ..stages.types import check_levels
from . import history as measurements
from .networks import Case, Inputs, RandomModels, Size, call, cases, full_size, small_size, sphere
from .reference import Reference

_TYPE = "1024_cascade"  # of the whole run
_REPEATS = 3  # timed calls behind the first


def run(
    device: torch.device,
    full: bool,
    memory_limit: float | None = None,
    report: Path | None = None,
    history: Path | None = None,
    reference: Path | None = None,
    speed: str = EXACT.name,
    keep_models: bool = False,
    faces: int | None = None,
    run_only: bool = False,
) -> int:
    """Print the tables of single networks and of a whole run.

    Args:
        memory_limit: GB that the process may use on a CUDA device.
        report: where to write the numbers as JSON.
        history: JSON lines to which they are appended.
        reference: a clone of microsoft/TRELLIS.2, to be measured beside.
        speed: of the samplers of the whole run; the networks alone do the same at any.
        keep_models: networks stay on the device, and the whole run is the second of two.
        faces: maximum number of faces of the whole run's result; None: the size's own.
        run_only: leave the single networks out.
    """
    limit = round(memory_limit * 1e9) if memory_limit else None
    if limit:
        if device.type != "cuda":
            raise SettingsError(f"A memory limit can be set for CUDA devices only, not for {device.type}.")
        bound(device, limit)
    for path in filter(None, (report, history)):
        check_writable(path)
    theirs = Reference(reference) if reference else None
    size = full_size() if full else small_size()
    if faces is not None:
        check_levels([faces])
        size = replace(size, faces=faces)
    facts = measurements.facts(device, sizes="released" if full else "small", memory_limit_gb=memory_limit)
    title = f"{facts['sizes'].capitalize()} sizes, random weights; {measurements.heading([facts])}"
    print(title, flush=True)
    runtime = Runtime(
        device, stages.default_backends(), choose_dtype(device), _Begun(), memory_limit=limit, speed=speed_named(speed)
    )
    networks = [] if run_only else _networks(runtime, size, theirs)
    second = ", models in memory, second run" if keep_models else ""
    print(f"\n{_TYPE} from start to end, speed {speed}{second}:\n", flush=True)
    runtime.keep_models, models = keep_models, RandomModels(size.models)
    what = ""
    for _ in range(1 + keep_models):
        runtime.records.clear()
        what = _whole_run(runtime, models, size)
    print(f"{what}\n\n{stage_table(runtime.records)}")
    print(f"\nBackends: {', '.join(f'{op} {name}' for op, name in runtime.backends.used.items())}")
    whole = [vars(record) for record in runtime.records]
    if report:
        text = json.dumps({"title": title, "networks": networks, "run": whole}, indent=1) + "\n"
        with writing(report) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if history:
        own = ({} if speed == EXACT.name else {"speed": speed}) | ({"keep_models": True} if keep_models else {})
        lines = [{**facts, "kind": "network", **one} for one in networks]
        lines += [{**facts, "kind": "stage", **own, "run": what, **one} for one in whole]
        measurements.append(history, lines)
    return 0


class _Begun:
    """A line on stderr for each network and stage that begins: its row of a table comes when it, or all, is done."""

    def __init__(self) -> None:
        self.stage = ""

    def __call__(self, step: Step) -> None:
        if step.stage != self.stage:  # a stage reports its step 0 again while it works, so that it can be interrupted
            self.stage = step.stage
            print(f"{step.stage} ...", file=sys.stderr, flush=True)


def _compile(runtime: Runtime, models: RandomModels) -> None:
    """Compile what a run compiles while its first networks work, so that no single one is measured beside it."""
    begun = time.perf_counter()
    if thread := prepare_networks(models, models.checkpoint.roles, runtime.backends, runtime.device, runtime.dtype):
        thread.join()
        seconds = time.perf_counter() - begun
        print(f"Kernels of the networks compiled or found in {seconds:.1f} s", file=sys.stderr, flush=True)


def _networks(runtime: Runtime, size: Size, theirs: Reference | None) -> list[dict]:
    """Measure every network at every size, a row of the table each; with theirs Microsoft's beside it. Returns the
    lines of a history."""
    head = "| network | size | first call | later calls | peak memory |"
    print(f"\n{head}{' reference | its memory | difference |' if theirs else ''}")
    print("|---" * (8 if theirs else 5) + "|")
    models, lines = RandomModels(size.models), []
    _compile(runtime, models)
    for case in cases(size, runtime.device):
        lines += _compared(runtime, models, case, size.models[case.role], theirs)
    return lines


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


@dataclass(frozen=True)
class _Measured:
    """Seconds of the first call and the median of the later ones, None if memory ran out; the network's output."""

    first: float | None
    seconds: float | None
    peak_bytes: int
    output: torch.Tensor | None = None  # on the CPU

    def cells(self) -> str:
        """For a table: first call, later calls, peak memory."""
        return "out of memory | | " if self.seconds is None else " | ".join((f"{self.first:.3f}", *self.short()))

    def short(self) -> tuple[str, str]:
        """For a table: later calls, peak memory."""
        if self.seconds is None:
            return "out of memory", ""
        return f"{self.seconds:.3f}", f"{self.peak_bytes / 1e9:.2f} GB"


def _compared(
    runtime: Runtime, models: RandomModels, case: Case, config: dict, reference: Reference | None
) -> list[dict]:
    """Measure a network, and the reference implementation of it beside; print the row and return what was measured."""
    network = partial(models.get, case.role, runtime.device, runtime.dtype)
    network()  # is made before it is measured
    ours = _measure(runtime, case, lambda: call(network(), _inputs(case), runtime), keep=reference is not None)
    row, made = f"| {case.name} | {case.size} | {ours.cells()} |", [_line(case, "ours", ours)]
    weights = {key: value.cpu() for key, value in network().state_dict().items()} if reference else {}
    models.release()  # each has the device for itself
    if reference:
        theirs = None
        if config["name"] in reference.networks:
            other = reference.build(config, weights, runtime.device)
            theirs = _measure(runtime, case, lambda: reference.call(other, _inputs(case)), keep=True)
            made.append(_line(case, "reference", theirs))
        difference = _difference(ours, theirs)
        made[-1] |= {"difference": difference} if difference is not None else {}
        shown = f"{difference:.1e}" if difference is not None else ""
        row += f" {' | '.join(theirs.short() if theirs else ('', ''))} | {shown} |"
    print(row, flush=True)
    return made


def _inputs(case: Case) -> Inputs:
    """The same whenever they are made."""
    torch.manual_seed(0)
    return case.inputs()


def _line(case: Case, implementation: str, measured: _Measured) -> dict:
    return {
        "implementation": implementation,
        "speed": "exact",
        "network": case.name,
        "size": case.size,
        "first_seconds": measured.first,
        "seconds": measured.seconds,
        "peak_bytes": measured.peak_bytes,
    }


def _difference(ours: _Measured, theirs: _Measured | None) -> float | None:
    """Norm of the difference of two outputs in shares of the second's."""
    if theirs is None or ours.output is None or theirs.output is None:
        return None
    a, b = ours.output.float(), theirs.output.float()
    return ((a - b).norm() / b.norm()).item()


def _measure(runtime: Runtime, case: Case, prepare: Callable[[], Callable[[], torch.Tensor]], keep: bool) -> _Measured:
    """Time the call that `prepare` gives. keep: keep its output, in main memory."""
    seconds: list[float] = []
    kept = None
    try:
        with runtime.stage(case.name, 1, ""):
            timed = prepare()
            for _ in range(1 + _REPEATS):
                start = time.perf_counter()
                output = timed()
                synchronise(runtime.device)
                seconds.append(time.perf_counter() - start)
                kept = output.cpu() if keep else None
                del output  # before the next is made
        return _Measured(seconds[0], statistics.median(seconds[1:]), runtime.records[-1].peak_bytes, kept)
    except OutOfMemoryError:
        return _Measured(None, None, 0)


def _whole_run(runtime: Runtime, models: RandomModels, size: Size) -> str:
    """The stages of a 1024_cascade run; only the structure is replaced by a sphere's. Returns its counts in words."""
    pipeline_type = PIPELINE_TYPES[_TYPE]
    # as every run begins: kernels are compiled, or loaded, while the first networks work
    prepare_networks(models, pipeline_type.roles(), runtime.backends, runtime.device, runtime.dtype)
    stages.check_finish(stages.ExportSettings(), backends=runtime.backends, device=runtime.device)
    image = Image.linear_gradient("L").convert("RGB")
    condition = stages.encode_images(runtime, models, [image], pipeline_type.image_scales())
    structure = stages.sample_structure(runtime, models, condition, 0)
    grid, count, _ = size.surfaces[0]
    fine = structure.occupied.shape[0]
    occupied = torch.zeros_like(structure.occupied)
    # every second fine voxel: pooled, the sphere's voxels
    x, y, z = (sphere(grid, count, runtime.device).xyz.long() * (fine // grid)).unbind(1)
    occupied[x, y, z] = True
    structure = replace(structure, occupied=occupied)
    shape = stages.sample_shape(runtime, models, condition, structure, pipeline_type)
    texture = stages.sample_texture(runtime, models, condition, shape, pipeline_type)
    mesh, subdivisions = stages.decode_shape(runtime, models, shape)
    voxels = stages.decode_texture(runtime, models, texture, subdivisions)
    what = (
        f"{_TYPE}: {len(shape.sparse.voxels):,} tokens, {len(voxels.sparse.voxels):,} voxels, "
        f"{len(mesh.faces):,} faces to {size.faces:,}, texture {size.texture_size}"
    )
    mesh = stages.process_mesh(runtime, mesh, size.faces)
    textured = stages.bake_texture(runtime, mesh, voxels, size.texture_size)
    with tempfile.TemporaryDirectory() as folder:
        stages.export_mesh(runtime, textured, Path(folder, "bench.glb"), stages.ExportSettings(), {})
    return what
