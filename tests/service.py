"""What the tests of the service share; the service itself is started by serving/measure/process.py."""

import json
from importlib.util import find_spec

import pytest

NEEDED = ("ray", "fastapi", "uvicorn", "multipart", "sqlalchemy", "prometheus_client", "httpx")
MISSING = [name for name in NEEDED if find_spec(name) is None]
needs_serving = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def started(data, *options):
    """A real service that takes jobs, on the small checkpoint."""
    from serving.measure.process import ServiceProcess

    elsewhere = {"RAY_ADDRESS": "127.0.0.1:1"}  # a cluster that has died: nobody asked to join it
    return ServiceProcess(data, "--device", "cpu", "--threads", "1", *options, environment=elsewhere).ready()


def until(service, job_id: str, stage: str) -> dict:
    """The job when it is in a stage."""

    def there():
        job = service.client.job(job_id)
        return job if job.get("stage") == stage or "finished" in job else None

    return service.until(there, 90)


def glb_facts(glb: bytes) -> dict:
    """asset.extras of a GLB."""
    length = int.from_bytes(glb[12:16], "little")
    return json.loads(glb[20 : 20 + length])["asset"]["extras"]
