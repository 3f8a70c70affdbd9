"""A client of the service, of the standard library alone: the command `generate`, and Client for programs.

The file can be copied and used by itself: `python client.py PICTURE --url http://127.0.0.1:8000`.
"""

from __future__ import annotations

import argparse
import json
import mimetypes
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

_ENDED = ("done", "failed", "cancelled", "interrupted", "expired")


class ServiceError(Exception):
    """A refused request or a failed job. problem: the service's answer (RFC 9457), {} if there was none."""

    def __init__(self, text: str, problem: Mapping[str, Any] | None = None, status: int = 0) -> None:
        super().__init__(text)
        self.problem, self.status = dict(problem or {}), status


class Client:
    """Talks to the service at a URL.

    Args:
        headers: sent with every request, such as a gateway's API key. patience: seconds for which requests are
            repeated while the service cannot be reached or is full. on_wait: called with the reason before each wait.

    Raises:
        ValueError: the URL is none of HTTP.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        patience: float = 60.0,
        on_wait: Callable[[ServiceError], None] = lambda error: None,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"The service's URL is like http://127.0.0.1:8000, got {url!r}.")
        self._url, self._headers, self._patience = url.rstrip("/") + "/", dict(headers or {}), patience
        self._on_wait = on_wait

    def generate(self, pictures: Iterable[Path], masks: Iterable[Path] = (), **parameters: Any) -> dict[str, Any]:
        """Queue a job; GET /parameters lists the parameters. Raises ServiceError."""
        files = [("picture", Path(each)) for each in pictures] + [("mask", Path(each)) for each in masks]
        return self._post("generate", parameters, files)

    def extract(self, job_or_state: str | Path, **parameters: Any) -> dict[str, Any]:
        """Queue another GLB from a finished job (its id) or a state file (a Path). Raises ServiceError."""
        if isinstance(job_or_state, Path):
            return self._post("extract_glb", parameters, [("state", job_or_state)])
        return self._post("extract_glb", {**parameters, "job": job_or_state}, [])

    def job(self, job_id: str) -> dict[str, Any]:
        return json.loads(self._patiently("GET", f"jobs/{job_id}"))

    def cancel(self, job_id: str) -> dict[str, Any]:
        return json.loads(self._send("POST", f"jobs/{job_id}/cancel", b""))

    def file(self, job_id: str, name: str) -> bytes:
        return self._patiently("GET", f"jobs/{job_id}/{name}")

    def health(self) -> dict[str, Any]:
        return json.loads(self._send("GET", "health"))

    def wait(
        self, job_id: str, on_change: Callable[[dict[str, Any]], None] = lambda job: None, every: float = 0.5
    ) -> dict[str, Any]:
        """The job when it is done. Raises ServiceError if it ends otherwise."""
        while True:
            job = self.job(job_id)
            on_change(job)
            if job["status"] in _ENDED:
                break
            time.sleep(every)
        if job["status"] != "done":
            problem = job.get("problem") or {}
            raise ServiceError(problem.get("detail", f"The job is {job['status']}."), problem)
        return job

    def _post(self, path: str, parameters: Mapping[str, Any], files: Iterable[tuple[str, Path]]) -> dict[str, Any]:
        boundary = secrets.token_hex(16)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Idempotency-Key": secrets.token_hex(16),  # a request that is repeated makes one job
        }
        return json.loads(self._patiently("POST", path, _form(parameters, files, boundary), headers))

    def _patiently(self, method: str, path: str, body: bytes | None = None, headers: Mapping | None = None) -> bytes:
        """_send, repeated while the service is full or cannot be reached."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return self._send(method, path, body, headers)
            except ServiceError as error:
                if error.status not in (0, 429, 502, 503, 504) or time.monotonic() > until:
                    raise
                self._on_wait(error)
            time.sleep(min(2.0, self._patience))

    def _send(self, method: str, path: str, body: bytes | None = None, headers: Mapping | None = None) -> bytes:
        asked = urllib.request.Request(
            urljoin(self._url, path), body, {**self._headers, **(headers or {})}, method=method
        )
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            problem = _problem(error.read())
            raise ServiceError(problem.get("detail", f"{error.code} {error.reason}"), problem, error.code) from error
        except OSError as error:
            raise ServiceError(f"The service at {self._url} cannot be reached: {error}. Is it running?") from error


def _form(parameters: Mapping[str, Any], files: Iterable[tuple[str, Path]], boundary: str) -> bytes:
    parts = []
    for name, value in parameters.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            text = str(each).lower() if isinstance(each, bool) else str(each)
            parts.append((f'name="{name}"', "", text.encode()))
    for name, path in files:
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        parts.append((f'name="{name}"; filename="{name}"', f"Content-Type: {kind}\r\n", path.read_bytes()))
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n{more}\r\n".encode() + data + b"\r\n"
        for head, more, data in parts
    )
    return body + f"--{boundary}--\r\n".encode()


def _problem(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="several are views of one object")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service; default: http://127.0.0.1:8000")
    parser.add_argument("--output", type=Path, metavar="OUT.glb", help="default: the picture's name with .glb")
    parser.add_argument("--mask", nargs="+", type=Path, default=[], metavar="MASK", help="one for each picture")
    parser.add_argument(
        "--set",
        "-s",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, such as seed=7 or texture_size=1024; several values are separated by commas",
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="of every request, such as an API key"
    )
    parser.add_argument("--save", nargs="+", default=[], metavar="NAME", help="other files: preview.png, state")


def run(options: argparse.Namespace) -> int:
    """Exit code 0, or 1 after printing the service's error."""
    output = options.output or Path(options.pictures[0].stem + ".glb")
    try:
        client = Client(options.url, dict(_pair(each, ":") for each in options.header), on_wait=_Waiting())
        parameters = {name: value.split(",") for name, value in (_pair(each, "=") for each in options.set)}
        _check_paths([*options.pictures, *options.mask], output)
        job = client.generate(options.pictures, options.mask, **parameters)
        print(f"Job {job['id']}", file=sys.stderr)
        try:
            job = client.wait(job["id"], _Line())
        except KeyboardInterrupt:
            client.cancel(job["id"])
            raise
        _write(output, client.file(job["id"], "model.glb"))
        for name in options.save:
            suffix = {"state": ".safetensors"}.get(name, Path(name).suffix)
            _write(output.with_suffix(suffix), client.file(job["id"], name))
    except (ServiceError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    faces = job["facts"]["faces"]
    print(f"{output}: {faces:,} {'face' if faces == 1 else 'faces'} in {job['seconds']:.1f} s.")
    return 0


def _check_paths(pictures: Iterable[Path], output: Path) -> None:
    """Raises ValueError for paths that would make the job fail, or its result be lost."""
    for path in pictures:
        if not path.is_file():
            raise ValueError(f"{path} is a folder; name a picture." if path.is_dir() else f"{path} does not exist.")
    if output.is_dir():
        raise ValueError(f"{output} is a folder; name a file.")
    if not output.parent.is_dir():
        raise ValueError(f"The folder {output.parent} does not exist; create it or choose another output.")
    if not os.access(output.parent, os.W_OK):
        raise ValueError(f"The folder {output.parent} cannot be written to; choose another output.")


class _Waiting:
    """Prints each reason for repeating a request once."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, error: ServiceError) -> None:
        if str(error) != self._last:
            print(f"  {error} Trying again for a while.", file=sys.stderr)
            self._last = str(error)


class _Line:
    """One line a stage."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, job: Mapping[str, Any]) -> None:
        left = job.get("seconds_left")
        waiting = f", {job['ahead']} before it" if job.get("ahead") else ""
        word = job.get("stage") or job["status"] + waiting
        if word != self._last:
            print(f"  {word}{'' if left is None else f', about {left:.0f} s left'}", file=sys.stderr)
            self._last = word


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically: whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _pair(text: str, sign: str) -> tuple[str, str]:
    name, found, value = text.partition(sign)
    if not found or not name.strip():
        raise ValueError(f"Expected NAME{sign}VALUE, got {text!r}.")
    return name.strip(), value.strip()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser("client.py", description=(__doc__ or "").partition("\n")[0])
    add(_parser)
    sys.exit(run(_parser.parse_args()))
