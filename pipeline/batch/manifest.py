"""The manifest of a batch: JSON Lines in its output folder, one for each thing that happened to an object.

The last line of an object says how it is. Before a run begins every object that it is to make has a line "waiting", so
that the manifest accounts for all of them however the run ends.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ImageError, OutputError
from ..temporary import locked
from .jobs import Job
from .recipe import same

log = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"
_BINARY = getattr(os, "O_BINARY", 0)  # Windows writes line ends of its own otherwise
WAITING, DONE, FAILED = "waiting", "done", "failed"


class Manifest:
    """A manifest that this process alone writes, while the block runs.

    lines: the last line of each object, by its name.

    Raises:
        OutputError: the folder cannot be made or written to, or another process is at work in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / MANIFEST
        self.lines: dict[str, dict] = {}
        self._file = -1

    def __enter__(self) -> Manifest:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND | _BINARY, 0o666)
        except OSError as error:
            if self.folder.exists() and not self.folder.is_dir():
                raise OutputError(f"{self.folder} is a file; name a folder for the objects.") from error
            raise OutputError(f"{self.path} cannot be written: {error.strerror}. Choose another folder.") from error
        if not locked(self._file):
            os.close(self._file)
            raise OutputError(f"Another process writes {self.path}. Wait for its end, or choose another folder.")
        self._read()
        return self

    def __exit__(self, *exception) -> None:
        os.close(self._file)

    def _read(self) -> None:
        """Take the lines; the last one is cut off if the end of a process has left it incomplete."""
        strange = end = 0
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    log.warning("The last line of %s is incomplete; it is left out.", self.path)
                    os.ftruncate(self._file, end)
                    break
                end += len(line)
                strange += not self._take(line)
        if strange:
            log.warning("%d lines of %s are no lines of a manifest; they are left as they are.", strange, self.path)

    def _take(self, line: bytes) -> bool:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(entry, dict):
            return False
        if "event" in entry:
            return True
        if not isinstance(entry.get("object"), str) or entry.get("status") not in (WAITING, DONE, FAILED):
            return False
        self.lines[entry["object"]] = entry
        return True

    def pictures(self) -> dict[str, tuple[str, str]]:
        """{picture: (the name that its objects begin with, its SHA-256)} of what was made, see plan_jobs."""
        fields = ("picture", "group", "sha256")
        made = [line for line in self.lines.values() if line["status"] == DONE]
        made = [line for line in made if all(isinstance(line.get(field), str) for field in fields)]
        return {line["picture"]: (line["group"], line["sha256"]) for line in made}

    def is_done(self, job: Job, settings: Mapping) -> bool:
        """Whether an object was made of the same picture with the same seed and settings, and all its files are
        there."""
        line = self.lines.get(job.name, {})
        found = line.get("settings")
        return (
            line.get("status") == DONE
            and bool(job.sha256)
            and (line.get("sha256"), line.get("seed")) == (job.sha256, job.seed)
            and isinstance(found, dict)
            and same(found, settings)
            and self._are_there(line.get("files"))
        )

    def is_refused(self, job: Job, settings: Mapping, versions: Mapping) -> bool:
        """Whether the same picture was refused for what it is, with the same settings by the same versions, so that it
        would be again."""
        line = self.lines.get(job.name, {})
        found = line.get("settings")
        return (
            (line.get("status"), line.get("kind")) == (FAILED, ImageError.__name__)
            and bool(job.sha256)
            and (line.get("sha256"), line.get("versions")) == (job.sha256, versions)
            and isinstance(found, dict)
            and same(found, settings)
        )

    def _are_there(self, files: Any) -> bool:
        if not isinstance(files, list) or not files:
            return False
        return all(
            isinstance(each, dict)
            and isinstance(each.get("name"), str)
            and _size(self.folder / each["name"]) == each.get("bytes")
            for each in files
        )

    def wait(self, jobs: Iterable[Job]) -> None:
        """Say of jobs that they are to be done."""
        self._append([self._line(job, WAITING) for job in jobs])

    def done(self, job: Job, files: Iterable[str], **facts: Any) -> None:
        """files: those that were written, below the folder."""
        listed = [{"name": name, "bytes": _size(self.folder / name)} for name in files]
        self._append([{**self._line(job, DONE), "files": listed, **facts}])

    def failed(self, job: Job, error: str, **facts: Any) -> None:
        self._append([{**self._line(job, FAILED), "error": error, **facts}])

    def event(self, what: str, **facts: Any) -> None:
        """What happened to the run as a whole."""
        self._append([{"event": what, "time": _now(), **facts}])

    def _line(self, job: Job, status: str) -> dict:
        found = asdict(job)
        return {"object": found.pop("name"), "status": status, **found, "time": _now()}

    def _append(self, entries: list[dict]) -> None:
        """Write lines whole, or none of them.

        Raises:
            OutputError: the disk is full or gone.
        """
        rest = memoryview(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
        before = os.lseek(self._file, 0, os.SEEK_END)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise OutputError(f"{self.path} could not be written: {error.strerror}.") from error
        self.lines |= {entry["object"]: entry for entry in entries if "object" in entry}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
