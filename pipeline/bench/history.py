"""The history of measurements: JSON lines that `bench` and `bench-mesh` append, and the tables printed from them.

A line is one measured thing, with where and when: `when` (a date, or date and time), `machine`, `torch`, and where they
are known `cores` (of the CPU beside a GPU), `python`, `version` and `commit`. `kind` says what it is:

network  sizes, implementation (ours, reference), speed, network, size, first_seconds, seconds, peak_bytes, difference
stage    sizes, speed (where it is not exact), keep_models (where they stay: a second run), run (counts in words),
         stage, seconds, loading_seconds, peak_bytes
mesh     mesh (its faces, in words), work, seconds, peak_bytes, notes
memory   work, tokens, voxels, room_bytes (what it might take), peak_bytes; for plan.fit, in no table
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from os import cpu_count
from pathlib import Path

import torch

from .. import __version__
from ..errors import SettingsError

HISTORY = Path(__file__).resolve().parents[2] / "benchmarks" / "history.jsonl"
LIMITED = HISTORY.with_name("memory.jsonl")  # runs under a memory limit, whose table in docs/ is written by hand
_TITLES = {"network": "Networks", "stage": "A whole run", "mesh": "Post-processing"}
# Lines of one table have these values in common.
_TABLE = {
    "network": ("machine", "sizes", "memory_limit_gb"),
    "stage": ("machine", "sizes", "memory_limit_gb", "speed", "keep_models"),
    "mesh": ("machine",),
}
# Of lines that have these in common too, only those of the newest run are shown.
_SUBJECT = {
    "network": (*_TABLE["network"], "implementation", "speed"),
    "stage": _TABLE["stage"],
    "mesh": (*_TABLE["mesh"], "mesh"),
}


def facts(device: torch.device, **more) -> dict:
    """Where and when something is measured; `more` what else all lines of the run share, without what is None."""
    cuda = device.type == "cuda"
    kind = "CPU" if device.type == "cpu" else device.type
    machine = torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} {kind}, {cpu_count()} cores"
    found = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "cores": cpu_count() if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "version": __version__,
        "commit": _commit(),
    }
    return {key: value for key, value in {**found, **more}.items() if value is not None}


def _commit() -> str | None:
    """The commit of the code that runs, "+" behind it if it was changed; None outside of a repository."""
    command = ("git", "-C", str(HISTORY.parent.parent), "describe", "--always", "--exclude=*", "--dirty=+")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def append(path: Path, lines: Iterable[dict]) -> None:
    """Add lines to a history."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def read(path: Path) -> list[dict]:
    """The lines of a history.

    Raises:
        SettingsError: it is not there, or a line is none of a history; the text names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}. bench --history FILE writes one.") from error
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)
            known = (
                found["kind"] in (*_TITLES, "memory")
                and isinstance(found["when"], str)
                and isinstance(found["machine"], str)
            )
        except (ValueError, KeyError, TypeError):
            found, known = {}, False
        if not known:
            raise SettingsError(f"Line {number} of {path} is no measurement: it needs kind, when and machine.")
        lines.append(found)
    return lines


def heading(lines: Sequence[dict]) -> str:
    """Machine, torch and dates of lines that share a machine."""
    dates = sorted({line["when"][:10] for line in lines})
    torches = sorted({line["torch"].partition("+")[0] for line in lines if "torch" in line})
    limit = lines[0].get("memory_limit_gb")
    cores, speed = lines[0].get("cores"), lines[0].get("speed")
    parts = [
        lines[0]["machine"],
        f"{cores} CPU cores" if cores else "",
        f"limited to {limit:g} GB" if limit else "",
        f"speed {speed}" if speed and lines[0].get("kind") == "stage" else "",
        "models in memory, second run" if lines[0].get("keep_models") else "",
        *(f"torch {each}" for each in torches),
    ]
    parts.append(dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}")
    return ", ".join(filter(None, parts))


def newest(lines: Sequence[dict]) -> list[dict]:
    """The lines of the newest run of every subject, in the order in which the subjects first came."""
    groups: dict[tuple, list[dict]] = {}
    for line in lines:
        groups.setdefault(_values(line, _SUBJECT[line["kind"]]), []).append(line)
    last = {subject: max(line["when"] for line in group) for subject, group in groups.items()}
    return [line for subject, group in groups.items() for line in group if line["when"] == last[subject]]


def for_fit(path: Path = HISTORY) -> list[dict]:
    """What plan.fit compares its estimates with: of every subject the newest run whose stages say their type, as no
    estimate has to know what older code took; and the runs under a limit."""
    said = [line for line in read(path) if line["kind"] != "stage" or ": " in line["run"]]
    return newest(said) + read(LIMITED)


def tables(lines: Sequence[dict]) -> dict[str, str]:
    """Kind -> its tables in Markdown, one for each machine, with headings of level 3."""
    made = {}
    for kind in _TITLES:
        groups: dict[tuple, list[dict]] = {}
        for line in newest([line for line in lines if line["kind"] == kind]):
            groups.setdefault(_values(line, _TABLE[kind]), []).append(line)
        made[kind] = "\n\n".join(f"### {heading(group)}\n\n{_WRITERS[kind](group)}" for group in groups.values())
    return made


def markdown(lines: Sequence[dict]) -> str:
    """All tables, for a terminal."""
    return "\n\n".join(f"## {_TITLES[kind]}\n\n{text}" for kind, text in tables(lines).items() if text)


def _values(line: dict, fields: Sequence[str]) -> tuple:
    return (line["kind"], *(line.get(field) for field in fields))


def _networks(lines: Sequence[dict]) -> str:
    """A row for each network and size; columns of what has been measured."""
    rows: dict[tuple, dict[str, dict]] = {}
    for line in lines:
        column = "reference" if line["implementation"] == "reference" else line["speed"]
        rows.setdefault((line["network"], line["size"]), {})[column] = line
    columns = {
        "first call": ("exact", "first_seconds", "{:.3f}"),
        "seconds": ("exact", "seconds", "{:.3f}"),
        "peak memory": ("exact", "peak_bytes", "{:.2f} GB"),
        "balanced": ("balanced", "seconds", "{:.3f}"),
        "fast": ("fast", "seconds", "{:.3f}"),
        "reference": ("reference", "seconds", "{:.3f}"),
        "its first call": ("reference", "first_seconds", "{:.3f}"),
        "its memory": ("reference", "peak_bytes", "{:.2f} GB"),
        "difference": ("reference", "difference", "{:.1e}"),
    }
    body = {
        name: [_cell(row.get(column, {}), field, form) for row in rows.values()]
        for name, (column, field, form) in columns.items()
    }
    shown = [name for name, cells in body.items() if any(cells)]
    cells = ([*key, *(body[name][number] for name in shown)] for number, key in enumerate(rows))
    return _markdown(["network", "size", *shown], cells)


def _cell(line: dict, field: str, form: str) -> str:
    if field == "seconds" and line and line["seconds"] is None:
        return "out of memory"
    value = line.get(field)
    return "" if not value else form.format(value / 1e9 if field == "peak_bytes" else value)


def _stages(lines: Sequence[dict]) -> str:
    total = {
        "stage": "together",
        "seconds": sum(line["seconds"] for line in lines),
        "loading_seconds": sum(line["loading_seconds"] for line in lines),
        "peak_bytes": max(line["peak_bytes"] for line in lines),
    }
    cells = (
        (line["stage"], *(f"{line[key]:.2f}" for key in ("seconds", "loading_seconds")), _gigabytes(line))
        for line in (*lines, total)
    )
    return f"{lines[0]['run']}\n\n" + _markdown(["stage", "seconds", "of these loading", "peak memory"], cells)


def _meshes(lines: Sequence[dict]) -> str:
    cells = ((line["work"], f"{line['seconds']:.2f}", _gigabytes(line), line["notes"]) for line in lines)
    return _markdown(["work", "seconds", "peak memory", "result"], cells)


def _gigabytes(line: dict) -> str:
    return f"{line['peak_bytes'] / 1e9:.2f} GB"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


_WRITERS = {"network": _networks, "stage": _stages, "mesh": _meshes}
