"""Command line of the training: python -m training COMMAND --out DIR (see README.md)."""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pipeline import stages
from pipeline.console import Parser, patient_console
from pipeline.errors import PipelineError
from pipeline.runtime import Runtime, choose_device

from .encoders import ENCODER_PLANS, ENCODER_TASKS, decoder_weights
from .evaluation import evaluate, project, showcase, speeds, texturing, view_strategies
from .evaluation.examples import COUNT, SEED, examples
from .export import add_encoders, export
from .networks import DESIGNS
from .operations import table
from .tasks import PLANS, TASKS, Plan, Task, Weights
from .train import Limits, Stop, TrainingError, is_finished, load_weights, train

_SHOWN = (0, 24, 41, 22)  # a mug, a chair, a car and a house, chosen before any result was seen


def main(arguments: list[str] | None = None) -> int:
    with patient_console():
        options = _parser().parse_args(arguments)
        try:
            return options.run(options)
        except (TrainingError, PipelineError) as error:
            print(error, file=sys.stderr)
            return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m training", description=sys.modules["training"].__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in TASKS:
        one = _command(commands, name, partial(_train, name), f"train one model; {PLANS[name].minutes:g} minutes")
        one.add_argument("--minutes", type=float, help="length of the whole run, over all resumptions")
        one.add_argument("--steps", type=int, help="its length in steps instead, rounded up to whole cycles")
        one.add_argument("--batch", type=int, help="objects of a step")
        _running(one)
    for name in ENCODER_TASKS:
        one = _command(commands, name, partial(_train_encoder, name), "train one encoder for a decoder that is trained")
        one.add_argument("--checkpoint", type=Path, required=True, help="whose decoder stays as it is")
        one.add_argument("--minutes", type=float, help="length of the whole run, over all resumptions")
        one.add_argument("--steps", type=int, help="its length in steps instead, rounded up to whole cycles")
        one.add_argument("--batch", type=int, help="objects of a step")
        _running(one)
    every = _command(commands, "all", _train_all, "train what is not finished, side by side; resumes by itself")
    every.add_argument("--scale", type=float, default=1.0, help="multiplies the minutes of every run")
    every.add_argument("--steps", type=int, help="length of every run in steps instead")
    _running(every)
    out = _command(commands, "export", _export, "write the checkpoint folder")
    out.add_argument("--checkpoint", type=Path, required=True, help="the folder to write")
    added = _command(commands, "add-encoders", _add_encoders, "write the encoders into a checkpoint that lacks them")
    added.add_argument("--checkpoint", type=Path, required=True, help="the folder to write them into")
    judge = _command(commands, "evaluate", _evaluate, "measure a checkpoint on held-out objects", out_required=False)
    judge.add_argument("--checkpoint", type=Path, required=True)
    judge.add_argument("--count", type=int, default=COUNT, help="objects")
    judge.add_argument("--report", type=Path, help="folder for objects.csv, autoencoders.csv and objects.png")
    judge.add_argument("--seed", type=int, default=SEED)
    judge.add_argument("--device", default="auto")
    cost = commands.add_parser("speed", help=(text := "measure the settings of --speed beside exact"), description=text)
    cost.set_defaults(run=_speed)
    cost.add_argument("--checkpoint", type=Path, required=True)
    cost.add_argument("--count", type=int, default=64, help="held-out objects")
    cost.add_argument("--seed", type=int, default=SEED)
    cost.add_argument("--design", choices=DESIGNS, default="small")
    cost.add_argument("--device", default="auto")
    several = _command(
        commands, "views", _views, "measure every strategy that mixes views on held-out objects", out_required=False
    )
    several.add_argument("--checkpoint", type=Path, required=True)
    several.add_argument("--objects", type=int, default=64, metavar="N", help="how many; default: 64")
    several.add_argument(
        "--views", type=int, nargs="+", default=(1, 2, 4), choices=(1, 2, 4), help="how many each has; default: 1 2 4"
    )
    several.add_argument(
        "--results", type=Path, metavar="FILE", help="append JSON lines; what it holds already is not made again"
    )
    several.add_argument("--steps", type=int, metavar="N", help="of every sampler; default: the checkpoint's")
    several.add_argument("--seed", type=int, default=SEED)
    several.add_argument("--device", default="auto")
    paint = _command(commands, "project", _project, "measure how pictures are projected", out_required=False)
    paint.add_argument("--checkpoint", type=Path, required=True)
    paint.add_argument("--count", type=int, default=64, help="objects")
    paint.add_argument("--report", type=Path, help="folder for projected.csv and projected.png")
    paint.add_argument("--device", default="auto")
    own = _command(commands, "texturing", _texturing, "measure texturing and refining a mesh", out_required=False)
    own.add_argument("--checkpoint", type=Path, required=True)
    own.add_argument("--first", type=int, default=0, metavar="N", help="the first object; default: 0")
    own.add_argument("--count", type=int, default=64, help="objects")
    own.add_argument(
        "--results", type=Path, metavar="FILE", help="append JSON lines; the table is of all that it holds"
    )
    own.add_argument("--report", type=Path, help="a contact sheet to write, .png")
    own.add_argument("--device", default="auto")
    text = "make the README's picture: held-out objects from their pictures, by the command line, with the times"
    show = commands.add_parser("showcase", help=text, description=text)
    show.set_defaults(run=_showcase)
    show.add_argument("--checkpoint", type=Path, required=True)
    show.add_argument("--out", type=Path, required=True, help="the picture to write, .jpg")
    show.add_argument(
        "--objects",
        type=int,
        nargs="+",
        default=_SHOWN,
        choices=range(COUNT),
        metavar="N",
        help="numbers of held-out objects, as `evaluate` counts them",
    )
    show.add_argument("--pictures", type=Path, default=Path("assets/pictures"), help="folder for the input pictures")
    show.add_argument("--design", choices=DESIGNS, default="small")
    return parser


def _command(commands, name: str, run, help_text: str, out_required: bool = True) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help_text, description=help_text)
    command.add_argument("--out", type=Path, required=out_required, help="folder of the training runs")
    command.add_argument("--design", choices=DESIGNS, default="small")
    command.set_defaults(run=run)
    return command


def _running(command: argparse.ArgumentParser) -> None:
    command.add_argument("--limit", type=float, default=float("inf"), help="minutes this call may take; resume later")
    command.add_argument("--resume", action="store_true", help="go on with the runs in the folder")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="auto")


def _train_encoder(name: str, options: argparse.Namespace) -> int:
    return _run(options, ENCODER_TASKS[name], ENCODER_PLANS[name], partial(decoder_weights, options.checkpoint))


def _train(name: str, options: argparse.Namespace) -> int:
    return _run(options, TASKS[name], PLANS[name], partial(load_weights, options.out))


def _run(options: argparse.Namespace, kind: type[Task], plan: Plan, weights: Weights) -> int:
    name = kind.name
    device = choose_device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(options.seed)  # for the initial weights
    if options.batch is not None:
        plan = replace(plan, batch=options.batch, objects=options.batch * max(1, plan.objects // plan.batch))
    task = kind(DESIGNS[options.design], device, table())
    task.load(weights)
    limits = Limits(options.minutes or plan.minutes, options.steps, 60 * options.limit)

    def report(steps: int, seconds: float, terms: Mapping[str, float]) -> None:
        shown = "  ".join(f"{key} {value:.4g}" for key, value in terms.items())
        print(f"{name:14} {steps:7} steps {seconds / 60:6.2f} min  {shown}", flush=True)

    with Stop() as stop:
        done = train(task, plan, options.out / name, limits, options.resume, options.seed, lambda: stop.asked, report)
    state = "finished" if done.finished else "stopped, to be resumed"
    print(f"{name:14} {done.steps:7} steps {done.seconds / 60:6.2f} min  {state}", flush=True)
    return 0


def _train_all(options: argparse.Namespace) -> int:
    """Every run in a process of its own, begun as soon as what it needs is finished, on the GPU with the fewest."""
    end = time.monotonic() + 60 * options.limit
    waiting = [name for name in TASKS if not is_finished(options.out, name)]
    running: dict[str, subprocess.Popen] = {}
    gpus, places = _gpus(options.device), {}
    failed, told = [], False
    with Stop() as stop:
        while running or (waiting and not failed):
            for name in list(waiting):
                ready = all(is_finished(options.out, need) for need in TASKS[name].needs)
                if ready and not failed and not stop.asked and time.monotonic() < end:
                    waiting.remove(name)
                    taken = [places[other] for other in running]
                    places[name] = min(gpus, key=taken.count)
                    command = _child(name, options, (end - time.monotonic()) / 60)
                    running[name] = subprocess.Popen(command, env={**os.environ, **places[name]})
            time.sleep(0.2)
            if stop.asked and not told:  # once: a second signal would interrupt a process that is saving
                told = True
                for process in running.values():
                    process.terminate()
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if process.returncode:
                        failed.append(name)
            if not running and (stop.asked or time.monotonic() >= end):
                break
    left = [name for name in TASKS if not is_finished(options.out, name)]
    print(f"Failed: {', '.join(failed)}." if failed else f"Left: {', '.join(left) or 'nothing'}.", flush=True)
    return 1 if failed else 0


def _gpus(device: str) -> list[dict[str, str]]:
    """For each GPU, the environment that makes it the only visible one; one empty for fewer than two."""
    count = torch.cuda.device_count() if device == "auto" else 0
    if count < 2:
        return [{}]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return [{"CUDA_VISIBLE_DEVICES": each} for each in shown.split(",")[:count]]


def _child(name: str, options: argparse.Namespace, limit: float) -> list[str]:
    given = {"out": options.out, "design": options.design, "seed": options.seed, "device": options.device}
    given |= {"steps": options.steps} if options.steps else {"minutes": PLANS[name].minutes * options.scale}
    given |= {"limit": limit} if limit < float("inf") else {}
    command = [sys.executable, "-m", "training", name, "--resume"]
    return [*command, *(str(part) for key, value in given.items() for part in (f"--{key}", value))]


def _export(options: argparse.Namespace) -> int:
    size = export(DESIGNS[options.design], partial(load_weights, options.out), options.checkpoint)
    print(f"{options.checkpoint}: {size / 1e6:.2f} MB")
    return 0


def _add_encoders(options: argparse.Namespace) -> int:
    size = add_encoders(DESIGNS[options.design], partial(load_weights, options.out), options.checkpoint)
    print(f"{options.checkpoint}: {size / 1e6:.2f} MB")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    device, design = choose_device(options.device), DESIGNS[options.design]
    models = evaluate.open_models(str(options.checkpoint))
    runtime = Runtime(device, stages.default_backends(), torch.float32, keep_models=True)
    start = time.perf_counter()

    rows = evaluate.evaluate(runtime, models, design, options.count, options.seed, _print_row)
    print(f"\n{len(rows)} held-out objects, {(time.perf_counter() - start) / len(rows):.1f} s each")
    _print_verdicts(rows, evaluate.GOALS)
    coded = []
    if options.out:
        weights = partial(load_weights, options.out)
        coded = evaluate.autoencode(models, design, weights, device, options.count, options.seed)
        print("\nThe autoencoders alone")
        _print_verdicts(coded, evaluate.AUTOENCODER_GOALS)
    if options.report:
        options.report.mkdir(parents=True, exist_ok=True)
        _write_csv(options.report / "objects.csv", evaluate.table(rows))
        _write_csv(options.report / "autoencoders.csv", evaluate.table(coded))
        evaluate.contact_sheet(rows).save(options.report / "objects.png")
    return 0


def _speed(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    models = evaluate.open_models(str(options.checkpoint))
    runtime = Runtime(device, stages.default_backends(), torch.float32, keep_models=True)

    def report(number: int, name: str, speed: str, cost: speeds.Cost) -> None:
        print(f"{number:4} {name:12} {speed:9} " + "  ".join(f"{k} {v:.4f}" for k, v in vars(cost).items()), flush=True)

    costs = speeds.compare(runtime, models, DESIGNS[options.design], options.count, options.seed, report)
    print(f"\n{len(costs['exact'])} held-out objects, medians\n\n{speeds.table(costs)}")
    return 0


def _views(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    models = evaluate.open_models(str(options.checkpoint))
    runtime = Runtime(device, stages.default_backends(), torch.float32, keep_models=True)
    known = view_strategies.read(options.results) if options.results else []

    def report(row: view_strategies.Measured) -> None:
        line = view_strategies.line(row)
        print(line, flush=True)
        if options.results:
            with options.results.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    rows = view_strategies.measure(
        runtime,
        models,
        DESIGNS[options.design],
        range(options.objects),
        options.seed,
        report,
        known,
        counts=options.views,
        steps=options.steps,
    )
    print(f"\n{len({row.object for row in rows})} held-out objects\n\n{view_strategies.table(rows)}")
    return 0


def _project(options: argparse.Namespace) -> int:
    models = evaluate.open_models(str(options.checkpoint))
    runtime = Runtime(choose_device(options.device), stages.default_backends(), torch.float32, keep_models=True)

    rows = project.measure(runtime, models, DESIGNS[options.design], range(options.count), _print_row)
    print("\n".join(["", *project.summary(rows)]))
    if options.report:
        options.report.mkdir(parents=True, exist_ok=True)
        lines = [{"number": row.number, "name": row.name, **vars(row.measures)} for row in rows]
        _write_csv(options.report / "projected.csv", lines)
        project.contact_sheet(rows).save(options.report / "projected.png")
    return 0


def _texturing(options: argparse.Namespace) -> int:
    models = evaluate.open_models(str(options.checkpoint))
    runtime = Runtime(choose_device(options.device), stages.default_backends(), torch.float32, keep_models=True)

    def report(row: texturing.Row) -> None:
        _print_row(row)
        if options.results:
            with options.results.open("a", encoding="utf-8") as file:
                file.write(row.line() + "\n")

    numbers = range(options.first, options.first + options.count)
    rows = texturing.measure(runtime, models, DESIGNS[options.design], numbers, report)
    if rows and options.report:
        texturing.contact_sheet(rows).save(options.report)
    if options.results:
        rows = [texturing.Row.of(line) for line in options.results.read_text(encoding="utf-8").splitlines()]
    if rows:
        print("\n".join(["", *texturing.summary(rows)]))
    return 0


def _showcase(options: argparse.Namespace) -> int:
    rows = []
    for example in examples(DESIGNS[options.design], options.objects, finer=4):
        rows.append(showcase.make(options.checkpoint, example, options.pictures))
        print(f"{example.name:10} {rows[-1].seconds:6.1f} s", flush=True)
    showcase.save(rows, options.out)
    print(showcase.line(rows))
    return 0


def _print_verdicts(rows: list[evaluate.Row], goals: tuple[evaluate.Goal, ...]) -> None:
    print("| measure | goal | reached | |\n|---|---|---|---|")
    for goal, reached, enough in evaluate.verdicts(rows, goals):
        sign, kind = ">=" if goal.at_least else "<=", "share" if goal.share else "median"
        verdict = "pass" if enough else "MISS"
        print(f"| {goal.measure}, {kind} | {sign} {goal.bound} | {reached:.4f} | {verdict} |")


def _print_row(row: evaluate.Row | project.Row | texturing.Row) -> None:
    """Print the measures of a held-out object as soon as they are known."""
    values = "  ".join(f"{key} {value:.4g}" for key, value in vars(row.measures).items())
    print(f"{row.number:4} {row.name:12} {values}", flush=True)


def _write_csv(path: Path, lines: Sequence[Mapping]) -> None:
    if lines:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)


if __name__ == "__main__":
    sys.exit(main())
