"""The service's application with workers that are played, and a client for it."""

import asyncio
import io
import threading
import time
from dataclasses import replace

from PIL import Image

RESULT = {
    "facts": {"faces": 12, "backends": {}, "plan": {"name": "whole"}},
    "stages": [{"stage": "structure", "seconds": 2.0, "loading_seconds": 0, "peak_bytes": 5, "notes": ["in tiles"]}],
    "memory": {"rss": 7},
}
STEP = {"step": {"stage": "structure", "step": 1, "total": 4}}


class Played:
    """In place of engine.Engine. `play` is called with the job and the number of the try, and is a list of events; an
    exception in it is raised, a threading.Event waited for."""

    def __init__(self, store, ready=1, error=""):
        from serving.engine import EngineState

        self.store, self.now, self.tries, self.open = store, EngineState(ready, error), {}, 0
        self.play = lambda job, number: [STEP, {"done": RESULT}]

    async def start(self):
        pass

    async def stop(self):
        pass

    async def state(self):
        return self.now

    async def run(self, job):
        self.open += 1
        number = self.tries[job["id"]] = self.tries.get(job["id"], 0) + 1
        try:
            for event in self.play(job, number):
                while isinstance(event, threading.Event) and not event.is_set():
                    await asyncio.sleep(0.01)
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, dict):
                    yield self._finished(job) if "done" in event else event
        finally:
            self.open -= 1

    def _finished(self, job):
        path = self.store.folder.parent / "made"
        path.write_bytes(b"glTF" + job["id"].encode())
        files = ("model.glb", "preview.png", "state.safetensors")
        for name in files:
            self.store.put(job["id"], path, name)
        return {"done": {**RESULT, "files": dict.fromkeys(files, 36)}}


class Bench:
    """An application with a played engine and a client for it."""

    def __init__(self, folder, **changes):
        from fastapi.testclient import TestClient

        from serving.app import create
        from serving.settings import ServiceSettings, WorkerSettings
        from serving.store import Store

        store = (folder / "results").as_uri()
        base = ServiceSettings(folder, f"sqlite:///{folder}/jobs.sqlite", WorkerSettings(store), disk_bytes=0)
        self.settings = replace(base, **changes)
        self.engine = Played(Store(store))
        self.app = create(self.settings, self.engine)
        self.http = TestClient(self.app, raise_server_exceptions=False)

    def __enter__(self):
        self.http.__enter__()
        return self

    def __exit__(self, *exception):
        self.http.__exit__(*exception)

    def generate(self, files=None, headers=None, **fields):
        files = [("picture", ("a.png", png()))] if files is None else files
        return self.http.post("/generate", data=fields, files=files, headers=headers)

    def ended(self, job_id, *words):
        """The job when its status is one of the words, or when it has ended."""
        for _ in range(500):
            job = self.http.get(f"/jobs/{job_id}").json()
            if job["status"] in words or "finished" in job:
                return job
            time.sleep(0.01)
        raise AssertionError(job)


def png(size=32, **more):
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    image.paste((200, 40, 40, 255), (8, 8, 24, 24))
    file = io.BytesIO()
    image.save(file, "PNG", **more)
    return file.getvalue()
