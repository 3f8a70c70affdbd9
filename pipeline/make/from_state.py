"""A raw mesh that was sampled before, and its voxels -> the finished object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..plan import STATE, Demand, Plan
from ..runtime import Runtime
from ..spec import PIPELINE_TYPES
from ..stages import ExportSettings, Mesh, PBRVoxels, TexturedMesh, finish_mesh
from .planned import Made, PlannedRun

# Post-processing does not depend on the pipeline type, which a state of elsewhere may not know.
_ANY_TYPE = "512"


def finish_object(
    run: PlannedRun, raw: Mesh, voxels: PBRVoxels | None, export: ExportSettings, settings: Mapping
) -> Made[Mesh | TexturedMesh]:
    """Process and texture a raw mesh, without any network.

    Args:
        voxels: None: no texture. settings: of the run that sampled it, for the files; with a plan of its own, that one
            stays, since it says more.

    Raises:
        PipelineError: see the stages.
    """

    def attempt(plan: Plan, runtime: Runtime) -> tuple[Mesh | TexturedMesh, dict]:
        return finish_mesh(plan.finishing(runtime), raw, voxels, export)

    kind = PIPELINE_TYPES.get(str(settings.get("pipeline_type")), PIPELINE_TYPES[_ANY_TYPE])
    textured = voxels is not None
    demand = Demand(kind, textured, texture_size=export.baked_size(textured), raw_faces=len(raw.faces), source=STATE)
    (result, found), plan = run.along(demand, None, attempt)
    facts = {**settings, **found}
    if not isinstance(before := facts.get("plan"), Mapping):
        facts = plan.noted(facts)
    elif plan.rung.finish_on_cpu:
        facts["plan"] = {**before, "finish_on_cpu": True}
    return Made(result, facts, plan)


def finish_sampled(
    run: PlannedRun, plan: Plan, runtime: Runtime, raw: Mesh, voxels: PBRVoxels | None, export: ExportSettings
) -> tuple[Mesh | TexturedMesh, dict, Plan]:
    """The end of a run that has sampled a raw mesh: as stages.finish_mesh, and the plan as it was followed.

    A plan that finishes on the CPU was chosen for the most voxels that there might be. Most objects have far fewer, so
    that the place is decided anew, unless the plan was asked for by its name.

    Args:
        plan, runtime: of the try that sampled it.
    """
    if not plan.rung.finish_on_cpu:
        return *finish_mesh(runtime, raw, voxels, export), plan
    made = finish_object(replace(run, reuse=False), raw, voxels, export, {})
    facts = {name: value for name, value in made.facts.items() if name != "plan"}
    return made.result, facts, plan.finished_by(made.plan)
