"""One run of a flow model, as the sampling stages share it: guidance, several views, progress, previews."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ..models.flow import Context, FlowTransformer
from ..replay import Replayed
from ..runtime import Runtime
from ..sampling import Spread, Start, guided, packed_spread, solver
from ..sparse import SparseTensor, Voxels
from ..spec import SamplerSettings


def sample_packed(
    runtime, stage, flow, tokens, voxels: Voxels, noise, settings, concat=None, start: Start | None = None
) -> torch.Tensor:
    def velocity(x: torch.Tensor, t: torch.Tensor, context: Context) -> torch.Tensor:
        return flow(SparseTensor(voxels, x), t, context, concat, runtime.backends)

    spread = packed_spread(voxels.lengths)
    return run_sampler(
        runtime, stage, flow, velocity, tokens, noise, settings, spread, lambda x_0: SparseTensor(voxels, x_0), start
    )


def run_sampler(
    runtime: Runtime,
    stage: str,
    flow: FlowTransformer,
    velocity: Callable[[torch.Tensor, torch.Tensor, Context], torch.Tensor],
    tokens: torch.Tensor,
    noise: torch.Tensor,
    settings: SamplerSettings,
    spread: Spread,
    preview: Callable[[torch.Tensor], object] = lambda x_0: x_0,
    start: Start | None = None,
) -> torch.Tensor:
    """Run a sampler. Several views: each step takes the mean of their velocities (MultiDiffusion, arXiv 2302.08113)."""
    contexts = [flow.context(view[None].to(runtime.device)) for view in tokens]
    contexts.append(flow.zero_context(runtime.device))
    *views, nothing = (partial(velocity, context=context) for context in contexts)
    if runtime.replays(flow, noise.numel() // noise.shape[1]):
        *views, nothing = map(Replayed, (*views, nothing))

    def at(t: float) -> torch.Tensor:
        return torch.tensor([1000 * t], dtype=torch.float32, device=runtime.device)

    def conditional(x: torch.Tensor, t: float) -> torch.Tensor:
        total = views[0](x, at(t))
        for view in views[1:]:
            total = total + view(x, at(t))
        return total / len(views) if len(views) > 1 else total

    def unconditional(x: torch.Tensor, t: float) -> torch.Tensor:
        return nothing(x, at(t))

    if start is not None and start.strength == 0:
        return start.data
    steps = solver(settings.solver)(guided(conditional, unconditional, settings, spread), noise, settings, start)
    for done, sample in enumerate(steps, 1):
        runtime.step(stage, done, settings.steps, preview(sample.x_0))
    runtime.check_finite(f"{stage} latent", sample.x)
    return sample.x
