"""From the raw mesh to the files, in two steps: `process_object` works on the device, `write_object` on the CPU alone.

The value between the steps can be pickled, so that each step can run in a process of its own. The device's work is best
done by the process that samples there, in sequence: a GPU time-slices the processes that share it, so the thousands of
short kernels of these steps would wait for the long ones of sampling (two finishers beside a sampler on an H200:
processing a mesh took 0.75 s instead of 0.24), and its memory would have to be shared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import stages
from ..errors import SettingsError
from ..export import written_paths
from ..make import PlannedRun, finish_object
from ..record import circumstances
from ..runtime import Runtime, Step
from ..sparse import SparseTensor, Voxels
from .jobs import Job, views_path
from .outcome import Outcome
from .recipe import Recipe

AUTO, CPU, GPU = "auto", "cpu", "gpu"
FINISH_ON = (AUTO, CPU, GPU)
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sampled:
    """The networks' result for a picture. voxels: None without texture. settings: for the files; report: as far as
    complete."""

    job: Job
    mesh: stages.Mesh
    voxels: stages.PBRVoxels | None
    settings: dict
    report: dict

    def packed(self) -> Sampled:
        """On the CPU and without what was derived from it, to be pickled."""
        mesh = stages.Mesh.known(
            self.mesh.vertices.cpu(), self.mesh.faces.cpu(), resolution=self.mesh.resolution, origin=self.mesh.origin
        )
        if self.voxels is None:
            return replace(self, mesh=mesh)
        sparse = self.voxels.sparse
        plain = SparseTensor(Voxels(sparse.voxels.coords.cpu(), sparse.voxels.lengths), sparse.feats.cpu())
        return replace(self, mesh=mesh, voxels=replace(self.voxels, sparse=plain))

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        sparse = self.voxels.sparse if self.voxels else None
        tensors = [self.mesh.vertices, self.mesh.faces, *([sparse.voxels.coords, sparse.feats] if sparse else [])]
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class Processed:
    """An object that was processed, ready to be written.

    result: on the CPU. facts: for the file. views: [4, S, S, 4] uint8, pictures of it from four sides; None if none are
    asked for. report: as far as complete. tried: memory plans that ran out of memory before.
    """

    job: Job
    result: stages.Mesh | stages.TexturedMesh
    facts: dict
    views: np.ndarray | None
    report: dict
    tried: tuple[str, ...] = ()

    def packed(self) -> Processed:
        """For pickling: itself, as it is on the CPU, and meshes omit cached values when they are pickled."""
        return self

    @property
    def bytes(self) -> int:
        """Of its arrays."""
        if isinstance(self.result, stages.Mesh):
            arrays = [each for level in self.result.levels for each in (level.vertices, level.faces, level.attrs)]
        else:
            levels = self.result.levels
            arrays = [self.result.maps, self.result.normal_map, self.result.occlusion]
            arrays += [each for level in levels for each in (level.mesh.vertices, level.mesh.faces)]
            arrays += [each for level in levels for each in (level.normals, level.uvs, level.tangents)]
        return sum(each.nbytes for each in (*arrays, self.views) if each is not None)


def process_object(
    recipe: Recipe,
    sampled: Sampled,
    device: torch.device,
    on_step: Callable[[Step], None] = lambda step: None,
    memory_limit: int | None = None,
) -> Processed:
    """Repair, simplify and texture the raw mesh on a device, and render it if the recipe asks for pictures.

    Args:
        on_step, memory_limit: as for Runtime.

    Raises:
        PipelineError: a stage fails.
    """
    start, export = time.perf_counter(), recipe.export
    runtime = Runtime(device, stages.default_backends(dict(recipe.backends)), None, on_step, memory_limit=memory_limit)
    made = finish_object(PlannedRun(runtime=runtime), sampled.mesh, sampled.voxels, export, sampled.settings)
    # before rendering, which is not part of the file
    facts = {**made.facts, "backends": {**made.facts.get("backends", {}), **runtime.backends.used}}
    views = stages.draw(runtime, made.result, alpha_mode=export.alpha_mode) if recipe.pictures else None
    result = made.result.to(_CPU) if isinstance(made.result, stages.Mesh) else made.result
    spent = costs(runtime, time.perf_counter() - start)
    report = _and_then({**sampled.report, **made.facts, "plan": sampled.report["plan"]}, sampled.report, spent)
    report |= {"finished_on": spent["device"]}
    return Processed(sampled.job, result, facts, views, report, tuple(made.plan.tried))


def write_object(
    recipe: Recipe, made: Processed, folder: Path, on_step: Callable[[Step], None] = lambda step: None
) -> Outcome:
    """The files of a job below `folder`.

    Raises:
        PipelineError: a file cannot be written.
    """
    start, export = time.perf_counter(), recipe.export
    runtime = Runtime(_CPU, stages.default_backends(dict(recipe.backends)), None, on_step)
    path = folder / f"{made.job.name}{recipe.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    stages.write_finished(runtime, made.result, path, export, made.facts)
    levels = 1 if export.lods_in_one_file else 1 + len(export.lods)
    files = [each for each in written_paths(path, export.image_format, levels) if each.exists()]
    if made.views is not None:
        files.append(views_path(path))
        stages.save_views(made.views, files[-1])
    report = _and_then(made.report, made.report, costs(runtime, time.perf_counter() - start))
    return Outcome(tuple(each.relative_to(folder).as_posix() for each in files), report)


def complete(
    recipe: Recipe,
    made: Sampled | Processed,
    folder: Path,
    on_step: Callable[[Step], None] = lambda step: None,
    memory_limit: int | None = None,
) -> Outcome:
    """Do the remaining steps of an object on the CPU. Arguments and errors as process_object and write_object."""
    if isinstance(made, Sampled):
        made = process_object(recipe, made, _CPU, on_step, memory_limit)
    return write_object(recipe, made, folder, on_step)


def processing_device(choice: str, sampling: torch.device) -> torch.device:
    """Where the objects of a run are processed.

    Args:
        choice: of FINISH_ON. sampling: where they are sampled.

    Raises:
        SettingsError: a GPU is asked for where objects are sampled on the CPU.
    """
    if choice == GPU and sampling.type == "cpu":
        raise SettingsError("--finish-on gpu: objects are sampled on the CPU. Use --device cuda, or --finish-on cpu.")
    return _CPU if choice == CPU else stages.geometry_device(sampling)


def costs(runtime: Runtime, seconds: float) -> dict[str, Any]:
    """As record.circumstances, with the device of each stage."""
    found = circumstances(runtime, seconds)
    return {**found, "stages": [{**each, "device": found["device"]} for each in found["stages"]]}


def _and_then(report: Mapping, before: Mapping, spent: Mapping) -> dict[str, Any]:
    """A report with the costs of one more step. before: the costs until then."""
    sums = {name: before[name] + spent[name] for name in ("stages", "seconds")}
    return {**report, **sums, "backends": {**before["backends"], **spent["backends"]}}
