"""The command `timeline`: when each process worked in a batch, and how long it was idle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import StateError
from pipeline.export.files import writing
from pipeline.words import counted

TIMELINE = "timeline.json"
_COLUMNS = 72  # characters of a bar, beside 33 of the process's name
_MARKS = {"sample": "#", "finish": "="}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "timeline", type=Path, metavar="FILE_OR_FOLDER", help=f"output folder of a batch, or {TIMELINE} in it"
    )


def run(options: argparse.Namespace) -> int:
    print(drawn(read(options.timeline)))
    return 0


def write(path: Path, spans: Sequence[dict[str, Any]]) -> None:
    """Write spans as trace events, which chrome://tracing and ui.perfetto.dev show.

    Args:
        spans: kind, name (of the object), worker ("host pid"), device, start and end in seconds.
    """
    events = []
    for span in spans:
        host, _, process = span["worker"].rpartition(" ")
        times = {"ts": round(span["start"] * 1e6), "dur": round((span["end"] - span["start"]) * 1e6)}
        place = {"pid": host, "tid": int(process), "args": {"device": span.get("device", "")}}
        events.append({"name": span["name"], "cat": span["kind"], "ph": "X", **times, **place})
    with writing(path) as temporary:
        temporary.write_text(json.dumps({"traceEvents": events}) + "\n", encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """Spans, as they were given to write. path: the file, or its folder. Raises StateError: it is no such file."""
    if path.is_dir():
        path = path / TIMELINE
    try:
        return [
            {
                "kind": each["cat"],
                "name": each["name"],
                "worker": f"{each['pid']} {each['tid']}",
                "device": each.get("args", {}).get("device", ""),  # none in files of 0.1
                "start": each["ts"] / 1e6,
                "end": (each["ts"] + each["dur"]) / 1e6,
            }
            for each in json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{path} is no timeline of a batch: {error!r}. Name the file that `batch` wrote.") from error


def idle(spans: Sequence[dict[str, Any]]) -> float:
    """Share of the time, from the first span to the last, in which the processes of these spans were idle.

    They count as so many as were ever at work at once: one that takes the place of a dead one is the same."""
    marks = sorted((time, step) for span in spans for time, step in ((span["start"], 1), (span["end"], -1)))
    most = at_work = 0
    for _, step in marks:
        at_work += step
        most = max(most, at_work)
    busy = sum(span["end"] - span["start"] for span in spans)
    return max(0.0, 1 - busy / max(most * (marks[-1][0] - marks[0][0]), 1e-9)) if marks else 0.0


def drawn(spans: Sequence[dict[str, Any]]) -> str:
    """A line of text for each worker, and one for each kind."""
    if not spans:
        return "Nothing was done."
    start = min(span["start"] for span in spans)
    scale = _COLUMNS / max(max(span["end"] for span in spans) - start, 1e-9)
    lines, totals = [], []
    for kind, mark in _MARKS.items():
        of_kind = [span for span in spans if span["kind"] == kind]
        for worker in dict.fromkeys(span["worker"] for span in of_kind):
            bar = [" "] * _COLUMNS
            own = [span for span in of_kind if span["worker"] == worker]
            for span in own:
                first, last = (min(int((span[end] - start) * scale), _COLUMNS - 1) for end in ("start", "end"))
                bar[first : last + 1] = mark * (last + 1 - first)
            lines.append(f"{kind} {worker:<24} |{''.join(bar)}| {counted(len(own), 'object')}")
        if of_kind:
            devices = ", ".join(dict.fromkeys(filter(None, (span.get("device") for span in of_kind))))
            where = f" on {devices}" if devices else ""
            totals.append(f"{kind}{where}: {counted(len(of_kind), 'object')}, {idle(of_kind):.0%} of the time idle")
    return "\n".join([*lines, f"{'':<33}0 s{'':<{_COLUMNS - 10}}{_COLUMNS / scale:.0f} s", *totals])
