"""The training loop: learning rate, moving average, logs, saved states from which a run can be resumed."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from .tasks import Plan, Task

_STATE, _WEIGHTS, _LOG = "state.pt", "weights.safetensors", "log.csv"
_COUNTS = ("cycles", "steps", "seconds", "seed", "progress")  # of a state
_FALLING = 0.25  # last share of a run, in which the learning rate falls to zero
_CLIP = 1.0  # largest norm of a gradient
_LOG_EVERY, _SAVE_EVERY = 100, 150.0  # steps, seconds


class TrainingError(Exception):
    """A run cannot begin or continue; the message says why and what to try."""


@dataclass(frozen=True)
class Limits:
    """How long a run is: its whole length in minutes or, if given, in steps; and how many seconds of it this process
    may do."""

    minutes: float
    steps: int | None = None
    seconds: float = float("inf")

    def progress(self, steps: int, seconds: float) -> float:
        """0 at the beginning of the run, 1 at its end."""
        return min(1.0, steps / self.steps if self.steps is not None else seconds / (60 * self.minutes))


@dataclass(frozen=True)
class Outcome:
    """How a process left a run. terms: the means of the last rows of the log."""

    finished: bool
    steps: int
    seconds: float
    terms: Mapping[str, float]


class Stop:
    """Turns SIGTERM and SIGINT into a flag while it is entered, so that a run saves before it ends."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True


def train(
    task: Task,
    plan: Plan,
    folder: Path,
    limits: Limits,
    resume: bool = False,
    seed: int = 0,
    stopped: Callable[[], bool] = lambda: False,
    report: Callable[[int, float, Mapping[str, float]], None] = lambda steps, seconds, terms: None,
) -> Outcome:
    """Train until the run is finished, this process's time is up, or a stop is requested; then save.

    All that is random follows from the seed and the number of the cycle, and states are saved between cycles, so a run
    that is resumed makes the weights of one that was not interrupted (exactly so where the device computes alike).

    Args:
        folder: of this run: state.pt, weights.safetensors (moving average, fp16), log.csv.
        resume: go on from folder's state; without one begin, from folder's weights if there are some.
        stopped: asked after every cycle.
        report: called with steps, seconds and mean terms, as they go into the log.

    Raises:
        TrainingError: a loss is not finite; the folder holds another run and resume was not asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(task, plan, seed)
    if resume and (folder / _STATE).is_file():
        run.restore(folder / _STATE)
    elif (folder / _STATE).is_file():
        raise TrainingError(f"{folder} holds a run already. Add --resume to go on with it, or name another folder.")
    elif resume and (folder / _WEIGHTS).is_file():
        run.begin_from(load_weights(folder.parent, folder.name), int(_facts(folder.parent, folder.name)["steps"]))
    log = _Log(folder / _LOG, run.steps, report)
    start = saved = time.monotonic()
    before = run.seconds

    def progress() -> float:
        run.seconds = before + time.monotonic() - start
        return limits.progress(run.steps, run.seconds)

    while progress() < 1 and time.monotonic() - start < limits.seconds and not stopped():
        run.cycle(progress, log)
        if time.monotonic() - saved > _SAVE_EVERY:
            run.save(folder, False)
            saved = time.monotonic()
    log.write(run.steps, run.seconds)
    finished = progress() >= 1
    run.save(folder, finished)
    return Outcome(finished, run.steps, run.seconds, log.last)


class _Run:
    """Weights, their moving average and the optimiser, and how far they are."""

    def __init__(self, task: Task, plan: Plan, seed: int) -> None:
        self.task, self.plan, self.seed = task, plan, seed
        self.names, self.weights = zip(*task.modules.named_parameters())
        self.average = AveragedModel(task.modules, multi_avg_fn=self._average)
        fused = task.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [w for w in self.weights if w.ndim > 1], "weight_decay": plan.weight_decay},
                {"params": [w for w in self.weights if w.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=plan.rate,
            betas=(0.9, 0.98),
            fused=fused,
        )
        self.cycles, self.steps, self.seconds, self.progress = 0, 0, 0.0, 0.0
        self.schedule = LambdaLR(self.optimiser, self._rate)

    def _rate(self, step: int) -> float:
        """The learning rate's share of its highest: rising with the steps, falling with the share of the run."""
        return min(1.0, (step + 1) / self.plan.warmup, (1 - self.progress) / _FALLING)

    def _average(self, averages: Sequence, weights: Sequence, count: torch.Tensor | int) -> None:
        """Moving average over fewer steps while there have been few."""
        keep = min(self.plan.average, (int(count) + 1) / (int(count) + 10))
        torch.ops.aten._foreach_lerp_.Scalar(list(averages), list(weights), 1 - keep)

    def cycle(self, progress: Callable[[], float], log: _Log) -> None:
        number = self.seed * 1_000_003 + self.cycles
        random = torch.Generator().manual_seed(number)
        noise = torch.Generator(self.task.device).manual_seed(number)
        for batch in self.task.batches(self.plan, random):
            self._step(self.task.losses(batch, noise), progress(), log)
        self.cycles += 1

    def _step(self, terms: dict[str, torch.Tensor], progress: float, log: _Log) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.weights, _CLIP)
        rate = self.schedule.get_last_lr()[0]
        self.optimiser.step()
        self.progress = progress
        self.schedule.step()
        self.average.update_parameters(self.task.modules)
        self.steps += 1
        log.add(terms, self.steps, self.seconds, float(rate))

    def restore(self, path: Path) -> None:
        state = torch.load(path, map_location=self.task.device, weights_only=True)
        if list(self.names) != state["names"]:
            raise TrainingError(f"{path} is of another network. Train in another folder, or delete this one.")
        with torch.no_grad():
            for into, saved in zip(self.weights, state["weights"]):
                into.copy_(saved)
        for name in ("average", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        for name in _COUNTS:
            setattr(self, name, state[name])

    @torch.no_grad()
    def begin_from(self, made: Mapping[str, torch.Tensor], steps: int) -> None:
        """A new run from the weights of one whose state is gone; on other objects than its first."""
        for name, weight, average in zip(self.names, self.weights, self.average.module.parameters()):
            if name in made:
                average.copy_(weight.copy_(made[name]))
        self.cycles = steps

    def save(self, folder: Path, finished: bool) -> None:
        state = {
            "names": list(self.names),
            "weights": [weight.detach() for weight in self.weights],
            **{name: getattr(self, name).state_dict() for name in ("average", "optimiser", "schedule")},
            **{name: getattr(self, name) for name in _COUNTS},
        }
        _replace(folder / _STATE, lambda path: torch.save(state, path))
        tensors = self._averaged()
        facts = {"run": self.task.name, "steps": str(self.steps), "seconds": f"{self.seconds:.0f}"}
        facts["finished"] = str(finished).lower()
        _replace(folder / _WEIGHTS, lambda path: save_file(tensors, path, facts))

    @torch.no_grad()
    def _averaged(self) -> dict[str, torch.Tensor]:
        """The moving average as other runs need it, in fp16, with the statistics measured with it."""
        mine = [weight.detach().clone() for weight in self.weights]
        for weight, average in zip(self.weights, self.average.module.parameters()):
            weight.copy_(average)
        kept = (*self.task.ships, *self.task.keeps)
        tensors = {
            key: value.half().cpu().contiguous()
            for key, value in self.task.modules.state_dict().items()
            if key.split(".")[0] in kept
        }
        for key, value in self.task.statistics(self.plan.measured).items():
            tensors[f"statistics.{key}"] = value.float().cpu().contiguous()
        for weight, value in zip(self.weights, mine):
            weight.copy_(value)
        return tensors


def load_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of a run so far: "<module>.<key>" and "statistics.<key>".

    Raises:
        TrainingError: nothing yet.
    """
    path = folder / name / _WEIGHTS
    if not path.is_file():
        raise TrainingError(f"There is no {path}. Train {name} first: python -m training {name} --out {folder}")
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def is_finished(folder: Path, name: str) -> bool:
    """Whether a run has come to its end."""
    return (folder / name / _WEIGHTS).is_file() and _facts(folder, name)["finished"] == "true"


def _facts(folder: Path, name: str) -> dict[str, str]:
    """What is noted beside a run's weights."""
    with safe_open(folder / name / _WEIGHTS, "pt") as file:
        return file.metadata()


class _Log:
    """Mean terms of every so many steps, as rows of a CSV file. Terms stay on the device until a row is written."""

    def __init__(self, path: Path, steps: int, report: Callable) -> None:
        self.path, self.report, self.last = path, report, {}
        self.written, self.total, self.rate = steps, None, 0.0

    def add(self, terms: dict[str, torch.Tensor], steps: int, seconds: float, rate: float) -> None:
        self.names = list(terms)
        values = torch.stack([value.detach().float() for value in terms.values()])
        self.total = values if self.total is None else self.total + values
        self.rate = rate
        if steps % _LOG_EVERY == 0:
            self.write(steps, seconds)

    def write(self, steps: int, seconds: float) -> None:
        if self.total is None:
            return
        means = dict(zip(self.names, (self.total / (steps - self.written)).tolist()))
        if not all(abs(value) < float("inf") for value in means.values()):
            raise TrainingError(
                f"A loss is not finite after {steps} steps: {means}. Go on from the last saved state with --resume; "
                "if it happens again, lower the rate in training/tasks/plans.py."
            )
        row = {"step": steps, "seconds": round(seconds, 1), "rate": self.rate, **means}
        new = not self.path.is_file()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
        self.last, self.written, self.total = means, steps, None
        self.report(steps, seconds, means)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is there whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    write(beside)
    beside.replace(path)
