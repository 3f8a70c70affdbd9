"""One run of a flow model, as the sampling stages share it: guidance, several views, progress, previews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ...models.flow import Context, FlowTransformer
from ...replay import Replayed
from ...runtime import Runtime
from ...sampling import Spread, Start, Velocity, packed_spread, solver, step_times
from ...sparse import SparseTensor, Voxels
from ...spec import SamplerSettings
from ...speed import Reusing, Speed, check_solver
from ...views import mixed, view_weights
from ...views.mixing import Views
from ..types import Condition

_Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Mix:
    """How one sampler mixes views: a strategy, for `visibility` each view's share at each voxel [N, T, 1], and how much
    each view counts as a whole (empty: all alike)."""

    strategy: str
    weights: torch.Tensor | None = None
    importance: tuple[float, ...] = ()


MEAN = Mix("average_right")


def mix_of(condition: Condition, strategy: str, voxels: Voxels, resolution: int) -> Mix:
    """The mix of a stage on voxels of a grid of `resolution` a side."""
    if strategy != "visibility" or len(condition.views) < 2:
        return Mix(strategy, None, condition.mixing.weights)
    return Mix(strategy, view_weights(voxels, resolution, condition.views), condition.mixing.weights)


def sample_packed(
    runtime: Runtime,
    stage: str,
    flow: FlowTransformer,
    tokens: torch.Tensor,
    voxels: Voxels,
    noise: torch.Tensor,
    settings: SamplerSettings,
    concat: torch.Tensor | None = None,
    mix: Mix = MEAN,
    start: Start | None = None,
) -> torch.Tensor:
    """Run a sampler of packed features. tokens: [views, L, C]; noise: [T, C]; concat: [T, C'] that the network sees."""

    def velocity(x: torch.Tensor, t: torch.Tensor, context: Context) -> torch.Tensor:
        return flow(SparseTensor(voxels, x), t, context, concat, runtime.backends)

    spread = packed_spread(voxels.lengths)
    return run_sampler(
        runtime,
        stage,
        flow,
        velocity,
        tokens,
        noise,
        settings,
        spread,
        lambda x_0: SparseTensor(voxels, x_0),
        mix=mix,
        start=start,
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
    mix: Mix = MEAN,
    start: Start | None = None,
) -> torch.Tensor:
    """Run a sampler; several views are mixed by a strategy."""
    check_solver(runtime.speed, settings)
    if mix.strategy == "primary":
        tokens = tokens[:1]
    count = noise.numel() // noise.shape[1]
    contexts = [flow.context(view[None].to(runtime.device), count, runtime.backends) for view in tokens]
    contexts.append(flow.zero_context(runtime.device))
    calls: list[_Velocity] = [_with(velocity, context) for context in contexts]
    if runtime.replays(flow, count):
        calls = [Replayed(call) for call in calls]

    def at_time(call: _Velocity, x: torch.Tensor, t: float) -> torch.Tensor:
        return call(x, torch.tensor([1000 * t], dtype=torch.float32, device=runtime.device))

    if start is not None and start.strength == 0:
        return start.data
    *views, nothing = _reusing(runtime.speed, stage, [partial(at_time, call) for call in calls], settings, start)
    weights = None if mix.weights is None else mix.weights.to(runtime.device)
    mixing = Views(tuple(views), nothing, settings, spread, weights, mix.importance)
    x = noise
    steps = solver(settings.solver)(mixed(mix.strategy, mixing), noise, settings, start)
    for done, sample in enumerate(steps, 1):
        x = sample.x
        runtime.step(stage, done, settings.steps, preview(sample.x_0))
    runtime.check_finite(f"{stage} latent", x)
    reusing = [each for each in (*views, nothing) if isinstance(each, Reusing)]
    if predicted := sum(each.calls - each.passes for each in reusing):
        runtime.count(predicted_passes=predicted)
    return x


def _reusing(
    speed: Speed, stage: str, velocities: list[Velocity], settings: SamplerSettings, start: Start | None
) -> list[Velocity]:
    """The velocities of the views and, last, of no view, some of whose calls are predicted as the speed says.

    Several views are not predicted: strategies may call each of them at a few steps only.
    """
    reuses = [speed.of_stage(stage) if len(velocities) == 2 else None] * (len(velocities) - 1) + [speed.unconditional]
    moments = step_times(settings, start)
    return [Reusing(velocity, reuse, moments) if reuse else velocity for velocity, reuse in zip(velocities, reuses)]


def _with(velocity: Callable[[torch.Tensor, torch.Tensor, Context], torch.Tensor], context: Context) -> _Velocity:
    return lambda x, t: velocity(x, t, context)
