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
from ...speed import EXACT, Reusing, Speed, check_solver
from ...speed import euler as reusing_euler
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
    velocities: list[Velocity] = [partial(at_time, call) for call in calls]
    reusing = _reusing(runtime.speed, stage, velocities, settings, start)
    *views, nothing = reusing or velocities
    weights = None if mix.weights is None else mix.weights.to(runtime.device)
    mixing = Views(tuple(views), nothing, settings, spread, weights, mix.importance)
    x = noise
    velocity_of_views = mixed(mix.strategy, mixing)
    if reusing:
        steps = reusing_euler(velocity_of_views, reusing, noise, settings, start)
    else:
        steps = solver(settings.solver)(velocity_of_views, noise, settings, start)
    for done, sample in enumerate(steps, 1):
        x = sample.x
        runtime.step(stage, done, settings.steps, preview(sample.x_0))
    runtime.check_finite(f"{stage} latent", x)
    if predicted := sum(each.calls - each.passes for each in reusing):
        runtime.count(predicted_passes=predicted)
    return x


def _reusing(
    speed: Speed, stage: str, velocities: list[Velocity], settings: SamplerSettings, start: Start | None
) -> list[Reusing]:
    """The velocities of the views and, last, of no view, some of whose steps are predicted as the speed says; none if
    it says of none.

    Several views are not predicted: strategies may call each of them at a few steps only.
    """
    if speed == EXACT:
        return []
    moments = step_times(settings, start)
    every = frozenset(moments)
    *views, nothing = velocities
    passes = speed.of_stage(stage) if len(views) == 1 else None
    own = [Reusing(view, passes.times(moments) if passes else every) for view in views]
    without = passes or speed.unconditional
    # beside one view, the difference to it: guidance multiplies an error of either alone
    base = own[0] if len(own) == 1 and settings.guidance_scale != 0 else None
    return [*own, Reusing(nothing, without.times(moments) if without else every, base)]


def _with(velocity: Callable[[torch.Tensor, torch.Tensor, Context], torch.Tensor], context: Context) -> _Velocity:
    return lambda x, t: velocity(x, t, context)
