"""The command `timeline`: who worked when in a batch, and how long each stood still."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import StateError
from pipeline.export.files import writing

HELP = "print the timeline of a batch: what each process did when, and how long it stood still"
TIMELINE = "timeline.json"
_COLUMNS = 72
_MARKS = {"sample": "#", "finish": "="}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("timeline", type=Path, metavar="FILE", help=f"{TIMELINE} in the output folder of a batch")


def run(options: argparse.Namespace) -> int:
    print(drawn(read(options.timeline)))
    return 0


def write(path: Path, spans: Sequence[dict[str, Any]]) -> None:
    """Write spans as trace events, which chrome://tracing and ui.perfetto.dev show.

    Args:
        spans: kind, name (of the object), worker ("host pid"), start and end in seconds.
    """
    events = []
    for span in spans:
        host, _, process = span["worker"].rpartition(" ")
        times = {"ts": round(span["start"] * 1e6), "dur": round((span["end"] - span["start"]) * 1e6)}
        place = {"pid": host, "tid": int(process)}
        events.append({"name": span["name"], "cat": span["kind"], "ph": "X", **times, **place})
    with writing(path) as temporary:
        temporary.write_text(json.dumps({"traceEvents": events}) + "\n", encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """Spans, as they were given to write. Raises StateError: it is no such file."""
    try:
        return [
            {
                "kind": each["cat"],
                "name": each["name"],
                "worker": f"{each['pid']} {each['tid']}",
                "start": each["ts"] / 1e6,
                "end": (each["ts"] + each["dur"]) / 1e6,
            }
            for each in json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is no timeline of a batch: {error!r}. Name the file that `batch` wrote.") from error


def idle(spans: Sequence[dict[str, Any]], kind: str) -> dict[str, float]:
    """Worker -> share of the time between the first and the last span of its kind that it had no work."""
    own = [span for span in spans if span["kind"] == kind]
    if not own:
        return {}
    whole = max(span["end"] for span in own) - min(span["start"] for span in own)
    busy: dict[str, float] = {}
    for span in own:
        busy[span["worker"]] = busy.get(span["worker"], 0.0) + span["end"] - span["start"]
    return {worker: max(0.0, 1 - seconds / max(whole, 1e-9)) for worker, seconds in busy.items()}


def drawn(spans: Sequence[dict[str, Any]]) -> str:
    """A line of text for each worker."""
    if not spans:
        return "Nothing was done."
    start = min(span["start"] for span in spans)
    scale = _COLUMNS / max(max(span["end"] for span in spans) - start, 1e-9)
    lines = []
    for kind, mark in _MARKS.items():
        for worker, share in idle(spans, kind).items():
            bar = [" "] * _COLUMNS
            own = [span for span in spans if (span["kind"], span["worker"]) == (kind, worker)]
            for span in own:
                first, last = (int((span[end] - start) * scale) for end in ("start", "end"))
                bar[first : min(last + 1, _COLUMNS)] = mark * (min(last + 1, _COLUMNS) - first)
            lines.append(f"{kind} {worker:<28} |{''.join(bar)}| {len(own)} objects, {share:.0%} idle")
    seconds = _COLUMNS / scale
    return "\n".join([*lines, f"{'':<36}0 s{'':<{_COLUMNS - 10}}{seconds:.0f} s"])
