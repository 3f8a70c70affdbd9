"""From a client's request, a form or JSON, to a queued job: read, checked, stored. Nothing of a refused one is kept."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipeline import stages
from pipeline.cli.drawing import drawn_outputs
from pipeline.cli.export import export_settings
from pipeline.cli.options import mixing_of
from pipeline.errors import PipelineError, SettingsError
from pipeline.image import read_mask, read_picture
from pipeline.weights import SMALL_CHECKPOINT, Checkpoint, open_checkpoint
from pipeline.words import counted

from . import problems
from .jobs import DONE, Job, Jobs, QueueFullError
from .making import MODEL, STATE, check_generate
from .parameters import from_form, options_of
from .settings import MB, ServiceSettings
from .store import Store

_KEY = 255  # characters of an idempotency key
_FILES = {"picture": "pictures", "mask": "masks", "state": "states"}
_TEXTS = 1 * MB  # bytes of all that is no file


@dataclass
class Sent:
    """A request as it came: files of this machine by kind, parameters, and the job whose state is meant."""

    command: str
    parameters: dict[str, Any] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    states: list[Path] = field(default_factory=list)
    job: str = ""

    def digest(self) -> str:
        """The same for the same request."""
        whole = hashlib.sha256(json.dumps([self.command, self.parameters, self.job], sort_keys=True).encode())
        for kind in _FILES.values():
            for path in getattr(self, kind):
                part = hashlib.sha256()
                with path.open("rb") as file:
                    while block := file.read(MB):
                        part.update(block)
                whole.update(f"{kind}:{part.hexdigest()}".encode())
        return whole.hexdigest()


class Receiver:
    """Receives requests."""

    def __init__(self, settings: ServiceSettings, jobs: Jobs, store: Store) -> None:
        self._settings, self._jobs, self._store = settings, jobs, store
        self._checking = asyncio.Semaphore(1)  # pictures can be large when they are decoded
        self._checkpoint: Checkpoint | None = None

    async def receive(self, request: Request, command: str) -> tuple[Job, bool]:
        """The queued job, and whether it is new: an idempotent request may have come before.

        Raises:
            Refused: it cannot become a job. PipelineError: neither, for what the command line would refuse.
        """
        self._check_disk()
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= _KEY:
            raise problems.malformed(f"An Idempotency-Key has 1 to {_KEY} characters, got {len(key)}.")
        await asyncio.to_thread(self._check_queue, key)
        with tempfile.TemporaryDirectory(prefix="trellis2-request-") as folder:
            sent = await self._read(request, command, Path(folder))
            digest = await asyncio.to_thread(sent.digest)
            if key and (known := await asyncio.to_thread(self._jobs.of_key, key)):
                return _same(known, digest), False
            async with self._checking:
                try:
                    await asyncio.to_thread(self._check, sent)
                except PipelineError as error:
                    raise problems.Refused(problems.of_error(error, folder)) from error
            return await asyncio.to_thread(self._queue, sent, key, digest)

    def _check_queue(self, key: str | None) -> None:
        """Refuse early if the queue is full, unless the job may exist already. The database decides in the end."""
        if self._jobs.waiting() >= self._settings.queue_limit and (key is None or self._jobs.of_key(key) is None):
            raise problems.queue_full(self._settings.queue_limit)

    def _check_disk(self) -> None:
        least = self._settings.disk_bytes
        free = [shutil.disk_usage(self._settings.data).free, self._store.free_bytes()]
        lowest = min(each for each in free if each is not None)
        if lowest < least:
            raise problems.disk_full(lowest, least)

    async def _read(self, request: Request, command: str, folder: Path) -> Sent:
        if (coding := request.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
            raise problems.malformed(
                f"The body has the Content-Encoding {coding[:40]!r}; send it as it is, without one."
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            try:
                return await self._read_form(request, command, folder)
            except HTTPException as error:  # of Starlette's parser, in its words
                detail = f"The form cannot be read: {error.detail.rstrip('.')}. Send one as curl -F picture=@PATH does."
                raise problems.malformed(detail) from error
        if kind == "application/json":
            body = await request.body()
            return await asyncio.to_thread(self._read_json, body, command, folder)
        raise problems.malformed(f"Expected multipart/form-data or application/json, got {kind or 'no content type'}.")

    async def _read_form(self, request: Request, command: str, folder: Path) -> Sent:
        sent, texts = Sent(command), []
        most = 2 * self._settings.pictures + 1
        async with request.form(max_files=most, max_fields=1000, max_part_size=_TEXTS) as form:
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    if name in _FILES:
                        raise problems.malformed(f"{name} came as text; send a file (curl -F {name}=@PATH).")
                    texts.append((name, value))
                elif name in _FILES:
                    target = self._place(sent, name, folder)
                    await asyncio.to_thread(_copy, value, target)
                    self._check_size(name, target.stat().st_size)
                else:
                    raise problems.malformed(f"The form has a file {name!r}; there are {', '.join(_FILES)}.")
        sent.job = dict(texts).get("job", "")
        try:
            sent.parameters = from_form(command, [(name, text) for name, text in texts if name != "job"])
        except SettingsError as error:
            raise problems.Refused(problems.of_error(error)) from error
        return sent

    def _read_json(self, body: bytes, command: str, folder: Path) -> Sent:
        try:
            given = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise problems.malformed(f"The body is no JSON: {error}.") from error
        if not isinstance(given, dict):
            raise problems.malformed(f"Expected a JSON object, got {type(given).__name__}.")
        sent = Sent(command)
        for name in _FILES:
            values = given.pop(name, [])
            for value in values if isinstance(values, list) else [values]:
                data = _decoded(name, value)
                self._check_size(name, len(data))
                self._place(sent, name, folder).write_bytes(data)
        job = given.pop("job", "")
        if not isinstance(job, str):
            raise problems.malformed("job: takes the id of a job.")
        try:  # Python reads what our answer could not hold: NaN, infinity, half of a surrogate pair
            json.dumps([job, given], ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:
            raise problems.malformed(
                f"The body is no JSON: {error}. Send finite numbers and whole characters."
            ) from error
        sent.job, sent.parameters = job, given
        return sent

    def _place(self, sent: Sent, name: str, folder: Path) -> Path:
        paths = getattr(sent, _FILES[name])
        if name == "state" and paths:
            raise problems.malformed("One state makes one object; send one file.")
        if len(paths) >= self._settings.pictures:
            raise problems.malformed(f"At most {counted(self._settings.pictures, 'file')} named {name} can be sent.")
        path = folder / (STATE if name == "state" else f"{name}-{len(paths) + 1}")
        paths.append(path)
        return path

    def _check_size(self, name: str, size: int) -> None:
        limit = self._settings.state_bytes if name == "state" else self._settings.picture_bytes
        if size > limit:
            raise problems.too_large(name, limit)

    def _check(self, sent: Sent) -> None:
        """Check everything that can be checked without running the job. Raises PipelineError or Refused."""
        options = options_of(sent.command, sent.parameters)
        export = export_settings(options, Path(MODEL))
        drawn_outputs(options, Path(MODEL))
        if sent.command == "generate":
            self._check_generate(sent, options, export)
        elif sent.pictures or sent.masks:
            raise problems.malformed("/extract_glb takes a state, or a finished job; pictures go to /generate.")
        elif sent.job and sent.states:
            raise problems.malformed("A job and a state came; send one of them.")
        elif sent.job:
            self._state_of(sent.job)
        elif not sent.states:
            raise problems.malformed("A state is missing: send a file named state, or the id of a finished job as job.")
        else:
            held = stages.held_in(sent.states[0])
            stages.check_finish(export, not options.geometry_only and "voxels" in held)
            if "mesh" not in held:
                raise SettingsError(f"The state holds no mesh; it has {', '.join(held)}. Send one of a whole run.")

    def _check_generate(self, sent: Sent, options, export) -> None:
        if sent.states or sent.job:
            raise problems.malformed("/generate takes pictures; a state goes to /extract_glb.")
        if not sent.pictures:
            raise problems.malformed("A picture is missing: send a file named picture, or base64 text in JSON.")
        if sent.masks and len(sent.masks) != len(sent.pictures):
            raise SettingsError(
                f"{counted(len(sent.masks), 'mask')} for {counted(len(sent.pictures), 'picture')}; send one for each "
                "or none."
            )
        options.images = sent.pictures
        mixing_of(options)
        check_generate(self._opened(), options, Path(MODEL))
        for number, path in enumerate(sent.pictures):
            picture = read_picture(path)
            if sent.masks:
                read_mask(sent.masks[number], picture)

    def _opened(self) -> Checkpoint:
        """The workers' checkpoint: its files of settings, no weights."""
        if self._checkpoint is None:
            worker = self._settings.worker
            self._checkpoint = open_checkpoint(worker.checkpoint or SMALL_CHECKPOINT, worker.image_encoder)
        return self._checkpoint

    def _state_of(self, job_id: str) -> None:
        job = self._jobs.get(job_id)
        if job is None:
            raise problems.unknown_job(job_id)
        if job.status != DONE:
            raise problems.not_finished(job.status) if not job.finished else problems.expired()
        if STATE not in job.files:
            raise problems.no_file(STATE, list(job.files))

    def _queue(self, sent: Sent, key: str | None, digest: str) -> tuple[Job, bool]:
        job_id = uuid4().hex
        inputs: dict[str, Any] = {
            kind: [[job_id, path.name] for path in getattr(sent, kind)] for kind in ("pictures", "masks")
        }
        if sent.command == "finish":
            inputs = {"state": [sent.job or job_id, STATE]}
        job = Job(sent.command, sent.parameters, inputs, id=job_id, key=key, digest=digest)
        added = None
        try:
            for path in (*sent.pictures, *sent.masks, *(sent.states if not sent.job else ())):
                self._store.put(job_id, path, path.name)
            added = self._jobs.add(job, self._settings.queue_limit)
            return (job, True) if added.id == job_id else (_same(added, digest), False)
        except QueueFullError:
            raise problems.queue_full(self._settings.queue_limit) from None
        finally:
            if added is None or added.id != job_id:
                self._store.remove(job_id)


def _same(job: Job, digest: str) -> Job:
    if job.digest != digest:
        raise problems.other_request()
    return job


def _copy(upload: UploadFile, target: Path) -> None:
    upload.file.seek(0)
    with target.open("wb") as file:
        shutil.copyfileobj(upload.file, file)


def _decoded(name: str, value: Any) -> bytes:
    """base64 text, or a data URL of it, as browsers make them."""
    if not isinstance(value, str):
        raise problems.malformed(f"{name}: takes base64 text or a list of such, got {type(value).__name__}.")
    text = value.partition(";base64,")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise problems.malformed(f"{name}: is no base64 text ({error}).") from error


def form_schema(command: str, properties: Mapping[str, Any], binary: bool) -> dict[str, Any]:
    """The schema of a request's body, as a form or as JSON."""
    one = {"type": "string", "format": "binary"} if binary else {"type": "string", "contentEncoding": "base64"}
    several = {"type": "array", "items": one}
    files: dict[str, Any] = {"picture": several, "mask": several}
    if command == "finish":
        files = {"state": one, "job": {"type": "string", "description": "a finished job, in place of a state"}}
    required = {"required": ["picture"]} if command == "generate" else {}
    return {"type": "object", "properties": {**files, **properties}, **required}
