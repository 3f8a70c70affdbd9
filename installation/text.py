"""The report as lines of text."""

from __future__ import annotations

import sys

from .commands import shown
from .probe import USABLE
from .report import Report

OLDEST_PYTHON = (3, 10)


def as_lines(report: Report) -> list[str]:
    lines = [f"{name:<9} {text}" for name, text in _facts(report)]
    lines += ["", "Required packages"]
    for row in report.required:
        state = row.version or ("not needed" if row.state == USABLE else row.state)
        lines.append(f"  {row.name:<20} {state}{aside(row.reason)}")
    if report.fix:
        lines += ["  This command brings them:", f"    {shown(report.fix)}"]
    lines += ["", "Optional packages (the pack works without them)"]
    for row in report.optional:
        lines.append(f"  {row.name:<20} {row.state:<7} {row.version}{aside(row.reason)}".rstrip())
        lines.append(f"    {row.use}")
        if row.command:
            lines.append(f"    {shown(row.command)}")
    lines += ["", "Microsoft's compiled packages (they run where they are chosen; not needed)"]
    for row in report.reference:
        lines.append(f"  {row.name:<14} {row.state:<7} {row.version}{aside(row.reason)}".rstrip())
        lines.append(f"    {row.use}")
    return lines


def _facts(report: Report) -> list[tuple[str, str]]:
    """The lines about the machine: (what, what was found)."""
    machine, comfyui = report.machine, report.comfyui
    facts, version = machine.torch.facts, ".".join(map(str, machine.python))
    too_old = "" if machine.python >= OLDEST_PYTHON else aside("too old, the pack needs 3.10 or newer")
    lines = [("Python", f"{version}{too_old}, {machine.system} {machine.processor}, {sys.executable}")]
    if not machine.has_pip:
        lines.append(("pip", "absent: python -m ensurepip, or give the commands below to uv (uv pip install ...)"))
    if machine.torch.state == USABLE:
        builds = {"cuda": f"CUDA {facts['cuda']}", "hip": f"ROCm {facts['hip']}", "mps": "Apple MPS"}
        build = next((text for key, text in builds.items() if facts[key]), "CPU only")
        lines.append(("torch", f"{facts['build']} ({build})"))
    else:
        cure = "take the build for your GPU from https://pytorch.org/get-started/locally; ComfyUI's Python has one"
        lines.append(("torch", f"{machine.torch.state}{aside(machine.torch.reason)}: {cure}"))
    for gpu in machine.gpus:
        capability = "" if facts["hip"] else f", compute capability {'.'.join(map(str, gpu['capability']))}"
        lines.append(("GPU", f"{gpu['name']}, {gpu['memory'] / 2**30:.1f} GiB{capability}"))
    if not machine.gpus:
        lines.append(("GPU", "Apple" if facts.get("mps") else "none that torch can use"))
    if machine.driver:
        unused = "" if machine.cuda else aside("torch does not use this GPU: take a CUDA build of torch")
        lines.append(("NVIDIA", f"driver {machine.driver}{unused}"))
    found = f"{comfyui.version}, {comfyui.facts['folder']}" if comfyui.version else "not found"
    lines.append(("ComfyUI", found + aside(comfyui.reason)))
    return lines


def aside(text: str) -> str:
    return f" ({text})" if text else ""
