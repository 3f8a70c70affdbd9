"""Routes of ComfyUI's server, added so that a second pack with the same ones cannot keep it from starting."""

from __future__ import annotations

import logging

from aiohttp import web
from server import PromptServer

log = logging.getLogger(__name__)


def add_once(path: str, handler) -> None:
    """Answer GET requests for a path, also below /api as ComfyUI does for its own, unless it has a handler already.

    Routes in ComfyUI's table are added one after another when it starts, and the server refuses two equal ones in a
    row. Ours go to the application at once, apart from that table: an older copy of the pack, which fills the table
    without looking, then adds an equal route later on, which is allowed.
    """
    server = getattr(PromptServer, "instance", None)
    if server is None:  # the nodes are loaded by a program without the server
        return
    known = {route.path for route in server.routes if isinstance(route, web.RouteDef)}
    known |= {resource.canonical for resource in server.app.router.resources()}
    if path in known:
        return
    try:
        for each in (path, f"/api{path}"):
            server.app.router.add_get(each, handler)
    except RuntimeError as error:  # a running server accepts no new routes
        log.warning("%s is not served until ComfyUI starts again: %s", path, error)
