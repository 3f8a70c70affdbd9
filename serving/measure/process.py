"""A service in a process of its own, for the commands that measure it."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pipeline.errors import PipelineError

from ..client import Client, ServiceError

_Found = TypeVar("_Found")
_ROOT = Path(__file__).resolve().parents[2]
# A job of a few seconds on a CPU, whose result is not meant to be looked at
CHEAP = {"structure_steps": 1, "shape_steps": 1, "texture_steps": 1, "texture_size": 64, "faces": 1000}
CHEAP |= {"shells": "surface"}


class ServiceProcess:
    """`python -m serving run` on a free port; `client` talks to it.

    Args:
        options: further ones of `run`. environment: what differs from this process's.

    Raises:
        PipelineError: it ends, or does not answer in time; with the end of its log.
    """

    def __init__(self, data: Path, *options: object, environment: Mapping[str, str] | None = None) -> None:
        self.data, self.log, self.start = data, data.parent / f"{data.name}.log", time.monotonic()
        self._begin = self.log.stat().st_size if self.log.exists() else 0  # after what a former one said
        command = [sys.executable, "-m", "serving", "run", "--port", "0", "--data", data, *options]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=_ROOT,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = self.until(self._address, 180)
        self.client = Client(self.url, patience=5)

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def ready(self) -> ServiceProcess:
        """When it takes jobs."""
        self.until(lambda: self.client.health()["ready"], 600, 0.05)
        return self

    def log_text(self) -> str:
        return self.log.read_bytes()[self._begin :].decode(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def memory(self) -> int:
        """Bytes of main memory that the process that answers holds."""
        return psutil.Process(self.process.pid).memory_info().rss

    def until(self, look: Callable[[], _Found | None], seconds: float, every: float = 0.2) -> _Found:
        """The first result of `look` that is not None or empty."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := look():
                return found
            if self.process.poll() is not None:
                raise PipelineError(f"The service ended: {self.log_text()[-2000:]}")
            time.sleep(every)
        raise PipelineError(f"The service did not answer within {seconds:.0f} s: {self.log_text()[-2000:]}")

    def _address(self) -> str | None:
        found = re.findall(r"Listening on (http://\S+)", self.log_text())
        return found[0] if found else None


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Options of the commands that measure."""
    parser.add_argument("picture", type=Path, nargs="?", default=_ROOT / "assets" / "rocket.png", metavar="PICTURE")
    parser.add_argument(
        "--full", action="store_true", help="jobs with the default settings, not cheap ones of a few seconds"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument(
        "--run", dest="run_options", default="", metavar="OPTIONS", help="of python -m serving run, in one word"
    )


def run_options(options: argparse.Namespace) -> Sequence[str]:
    return shlex.split(options.run_options)


def settings_of_jobs(options: argparse.Namespace) -> dict[str, Any]:
    return {} if options.full else dict(CHEAP)


def made(client: Client, picture: Path, **parameters: Any) -> dict[str, Any]:
    """A finished job. Raises PipelineError if it fails."""
    try:
        return client.wait(client.generate([picture], **parameters)["id"], every=0.05)
    except ServiceError as error:
        raise PipelineError(str(error)) from error
