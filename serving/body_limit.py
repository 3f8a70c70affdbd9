"""Refuses a body that is too long: before it is received if its length is given, else once the limit is exceeded."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import problems


class BodyLimit:
    """bodies: largest size in bytes by path. other: for all other paths."""

    def __init__(self, app: ASGIApp, bodies: Mapping[str, int], other: int) -> None:
        self._app, self._bodies, self._other = app, bodies, other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = self._bodies.get(path.rstrip("/"), self._other)
        named = dict(scope["headers"]).get(b"content-length", b"0")
        if not named.isdigit() or int(named) > limit:
            await _refuse(send, limit)
            return
        received, begun = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise problems.too_large("request", limit)
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except problems.Refused:
            if begun:
                raise
            await _refuse(send, limit)


async def _refuse(send: Send, limit: int) -> None:
    problem = problems.too_large("request", limit).problem
    headers = [(b"content-type", problems.MEDIA_TYPE.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(problem.as_dict()).encode()})
