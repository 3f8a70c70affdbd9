"""GET /trellis2/health: the state of the pack, for monitors and scripts."""

from __future__ import annotations

import asyncio

import comfy.model_management as management
from aiohttp import web

from ...pipeline import __version__
from . import folders, routes
from .memory import opened
from .run import tables


def add_route() -> None:
    """Add the route to ComfyUI's server."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(await report())

    routes.add_once("/trellis2/health", answer)


async def report() -> dict:
    """The answer: JSON-able facts without paths; memory in bytes.

    What reads disks is done outside the event loop, which meanwhile serves others.
    """
    checkpoints = await asyncio.to_thread(folders.checkpoints)
    device = management.get_torch_device()
    used: dict[str, str] = {}
    for table in (*tables().values(), *(models.backends for models in opened)):
        used |= table.used
    return {
        "version": __version__,
        "device": management.get_torch_device_name(device),
        "memory_free": int(management.get_free_memory(device)),
        "memory_total": int(management.get_total_memory(device)),
        "checkpoints": checkpoints,
        "loaded": {models.checkpoint.name: models.loaded() for models in opened},
        "backends": used,
    }
