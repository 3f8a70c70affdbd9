"""Sampler settings of each stage on the command line: the same numbers as the node Sampler Settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from ..errors import SettingsError
from ..sampling import SOLVERS, SOLVERS_IN_WORDS
from ..spec import CheckpointSpec, Samplers, SamplerSettings
from ..speed import SPEEDS, check_solver

STAGES = ("structure", "shape", "texture")
# option behind the stage's name -> (field of SamplerSettings, values, how it is read, what it does)
_FIELDS = {
    "steps": ("steps", "N", int, "sampling steps"),
    "guidance": ("guidance_scale", "X", float, "classifier-free guidance scale; 1 is off"),
    "rescale": ("guidance_rescale", "X", float, "guidance rescale, 0 to 1"),
    "interval": ("guidance_interval", ("FROM", "TO"), float, "times in 0-1 between which guidance counts; 1 is noise"),
    "rescale-t": ("time_shift", "X", float, "time shift; above 1, more steps near the noise"),
}


def add_samplers(parser: argparse.ArgumentParser, stages: Sequence[str] = STAGES) -> None:
    """stages: those that the command samples."""
    group = parser.add_argument_group("sampler settings", "each in place of the checkpoint's own for that stage")
    for stage in stages:
        for option, (_, metavar, kind, what) in _FIELDS.items():
            nargs = len(metavar) if isinstance(metavar, tuple) else None
            help = f"{stage}: {what}"
            group.add_argument(
                f"--{stage}-{option}", dest=_name(stage, option), type=kind, metavar=metavar, help=help, nargs=nargs
            )
    group.add_argument(
        "--solver",
        choices=tuple(SOLVERS),
        help=f"{'of all stages. ' if len(stages) > 1 else ''}{SOLVERS_IN_WORDS} Default: {next(iter(SOLVERS))}",
    )


def samplers(options: argparse.Namespace, spec: CheckpointSpec) -> Samplers:
    """The checkpoint's samplers with what the options change; None for a stage that they leave alone or have no say in.

    Raises:
        SettingsError: a stage's settings cannot work; says which stage's.
    """
    own = (spec.structure_sampler, spec.shape_sampler, spec.texture_sampler)
    changed = Samplers(*(_changed(options, stage, sampler) for stage, sampler in zip(STAGES, own)))
    for settings in filter(None, (changed.structure, changed.shape, changed.texture)):
        check_solver(SPEEDS[options.speed], settings)
    return changed


def _changed(options: argparse.Namespace, stage: str, sampler: SamplerSettings) -> SamplerSettings | None:
    if not hasattr(options, _name(stage, "steps")):  # a stage that the command does not sample
        return None
    given = {f"{stage}-{option}": (row[0], getattr(options, _name(stage, option))) for option, row in _FIELDS.items()}
    given["solver"] = ("solver", options.solver)
    changed = sampler
    for option, (field, value) in given.items():
        if value is not None:
            try:  # one at a time, for no number's bounds depend on another number
                changed = replace(changed, **{field: tuple(value) if field == "guidance_interval" else value})
            except SettingsError as error:
                raise SettingsError(f"--{option}: {error}") from error
    return None if all(value is None for _, value in given.values()) else changed


def _name(stage: str, option: str) -> str:
    """Where the parser puts an option's value; the service's parameters are called so."""
    return f"{stage}_{option}".replace("-", "_")
