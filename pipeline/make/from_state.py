"""A raw mesh that was sampled before, and its voxels -> the finished object."""

from __future__ import annotations

from collections.abc import Mapping

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
