"""A real service for tests: `python -m serving run` in a process of its own, on the small checkpoint."""

import json
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("ray", "fastapi", "uvicorn", "multipart", "sqlalchemy", "prometheus_client", "httpx")
MISSING = [name for name in NEEDED if find_spec(name) is None]
needs_serving = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

# A job of a few seconds
CHEAP = {"structure_steps": 1, "shape_steps": 1, "texture_steps": 1, "texture_size": 64, "faces": 1000}
CHEAP |= {"shells": "surface"}
LONG = {**CHEAP, "structure_steps": 5000}


class Service:
    """A running service; `client` talks to it."""

    def __init__(self, data: Path, *options) -> None:
        from serving.client import Client

        self.data, self.log = data, data.parent / f"{data.name}.log"
        command = [sys.executable, "-m", "serving", "run", "--port", "0", "--data", data, "--device", "cpu"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*map(str, command), "--threads", "1", *map(str, options)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = self._until(self._address, 120)
        self.client = Client(self.url, patience=5)

    def ready(self) -> "Service":
        self._until(lambda: self.client.health()["ready"], 180)
        return self

    def until(self, job_id: str, *, stage: str, seconds: float = 60) -> dict:
        """The job when it is in a stage."""

        def there():
            job = self.client.job(job_id)
            return job if job.get("stage") == stage or "finished" in job else None

        return self._until(there, seconds)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def _address(self):
        found = re.findall(r"Listening on (http://\S+)", self.said())
        return found[-1] if found and self.process.poll() is None else None

    def _until(self, look, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := look():
                return found
            assert self.process.poll() is None, self.said()[-2000:]
            time.sleep(0.2)
        raise AssertionError(f"nothing within {seconds} s: {self.said()[-2000:]}")


def glb_facts(glb: bytes) -> dict:
    """asset.extras of a GLB."""
    length = int.from_bytes(glb[12:16], "little")
    return json.loads(glb[20 : 20 + length])["asset"]["extras"]
