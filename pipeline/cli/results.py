"""What a command writes and prints at its end: files of the finished mesh, the report, the table of stages."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from .. import stages
from ..bench.run import stage_table
from ..console import Written
from ..export.files import writing
from ..plan import Plan
from ..record import circumstances
from ..runtime import Runtime, StageRecord
from ..speed import EXACT
from ..words import counted
from .drawing import write_drawings
from .planning import Run


def write_result(
    options: argparse.Namespace,
    runtime: Runtime,
    result: stages.Mesh | stages.TexturedMesh,
    output: Path,
    export: stages.ExportSettings,
    extras: Mapping,
    written: Written,
) -> None:
    """Write a finished mesh and what is to be drawn of it; one that fails does not cost the other.

    extras: facts for the file; "backends" among them are those of steps that ran elsewhere before.
    """
    with written.or_not():
        written.paths += stages.write_finished(runtime, result, output, export, extras)
    write_drawings(options, runtime, result, export.alpha_mode, written)


def report_result(options: argparse.Namespace, run: Run, plan: Plan, facts: Mapping, written: Written) -> None:
    """Print what was made, end the log and, if --report asks for it, write all of it as JSON."""
    runtime, seconds = run.runtime, time.perf_counter() - run.start
    facts = {**facts, "warnings": [*plan.tried, *facts.get("warnings", ())]}
    record = run.journal.end({**facts, "plan": plan.as_dict()}, runtime.records, seconds)
    report = {**facts, **circumstances(runtime, seconds), "record": asdict(record)}
    if options.report:
        report["outputs"] = [str(path) for path in (*written.paths, options.report)]
        with written.or_not():
            with writing(options.report) as temporary:
                temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            written.paths.append(options.report)
    print(stage_table(runtime.records))
    for record in runtime.records:
        if record.notes:
            print(f"To fit into the memory, {record.stage}: {'; '.join(record.notes)}.")
    if runtime.speed != EXACT:
        print(f"Speed {runtime.speed.name}: {_predicted(runtime.records)}")
    _print_result(report, written.paths)


def _predicted(records: Sequence[StageRecord]) -> str:
    """What a speed came to."""
    if predicted := sum(record.counts.get("predicted_passes", 0) for record in records):
        return f"{counted(predicted, 'pass was', 'passes were')} predicted, not run."
    return "no pass was predicted: so few steps need each. Give more steps, or leave --speed out."


def _print_result(report: dict, written: list[Path]) -> None:
    if "faces" in report:
        texture = f", {report['texture_size']} px texture" if "texture_size" in report else ""
        print(f"{counted(report['faces'], 'face')}, {counted(report['vertices'], 'vertex', 'vertices')}{texture}.")
    for each in report.get("projected", ()):
        moved = f", {each['aligned_iou']:.2f} once its parts are moved to the object's" if "aligned_iou" in each else ""
        print(
            f"{each['picture']}: {'found' if each['fitted'] else 'given'} at azimuth {each['azimuth']:g}, elevation "
            f"{each['elevation']:g}; silhouettes overlap by {each['iou']:.2f}{moved}; it gives {each['share']:.0%} of "
            f"the texture{', whose tone stays' if each.get('colours') == 'texture' else ''}."
        )
    for line in stages.hollow_lines(report.get("shells", {}).get("hollow")):
        print(line)
    for warning in report.get("warnings", ()):
        print(warning)
    if report["backends"].get("unwrap") == "triangles":
        print("Unwrapped triangle by triangle, as there is neither Warp nor xatlas: the texture is coarse.")
    if report.get("texels_far"):
        print(
            f"{counted(report['texels_far'], 'texel has', 'texels have')} no voxel within reach: the nearest one's "
            "material is taken."
        )
    if report.get("translucent", 0) > 0.01:
        print(f"{report['translucent']:.0%} of the surface is translucent; --alpha-mode blend shows it.")
    print(f"{', '.join(map(str, written)) or 'Nothing written'} in {report['seconds']:.1f} s on {report['device']}.")
