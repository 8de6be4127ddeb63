"""Layers around the service: limits of bodies, headers for browsers, and a line in the log for each request."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # The static page runs WebAssembly, shows its own pictures, uses the camera, and loads nothing from elsewhere.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_DRAINED_SECONDS = 2.0
log = logging.getLogger("imgclassify.service")


class BodyLimit:
    """Limits what is read of a body: its bytes, also without a Content-Length, its time, and the bytes of all bodies.

    Who sends more is answered by 413, who is too slow by 408, and by 503 who comes while bodies of others fill the
    memory. After an answer to a body that was not read, the rest is read and dropped, within limits: a connection that
    is closed while its client is sending would lose the answer.
    """

    def __init__(self, app: ASGIApp, *, most_bytes: int, most_bytes_of_all: int, seconds: float):
        self._app, self._most, self._most_of_all, self._seconds = app, most_bytes, most_bytes_of_all, seconds
        self._held = 0  # bytes, of all bodies that are not answered yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared, held, ended = headers.get("content-length", ""), 0, False
        waits = "expect" in headers  # a client that waits for leave to send its body sends none after an error
        until = asyncio.get_running_loop().time() + self._seconds

        async def limited() -> Message:
            nonlocal held, ended
            if ended:  # only a disconnection is left to come
                return await receive()
            if declared.isdecimal() and int(declared) > self._most:
                raise self._too_large()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"The body did not arrive within {self._seconds:g} s.") from None
            ended = not message.get("more_body", False)
            size = len(message.get("body", b""))
            held, self._held = held + size, self._held + size
            if held > self._most:
                raise self._too_large()
            if self._held > self._most_of_all:
                raise HTTPException(503, "Too many bodies are under way: try again in 1 s.", {"Retry-After": "1"})
            return message

        async def draining(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or ended or waits or not (declared or "transfer-encoding" in headers):
                await send(message)
                return
            await send({**message, "more_body": True})
            await self._drain(receive)
            await send({"type": "http.response.body", "body": b""})

        try:
            await self._app(scope, limited, draining)
        finally:
            self._held -= held

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"A request may have at most {self._most / 1e6:g} MB.")

    async def _drain(self, receive: Receive) -> None:
        size = 0
        try:
            async with asyncio.timeout(_DRAINED_SECONDS):
                while size <= self._most:
                    message = await receive()
                    size += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return


class RequestLog:
    """Gives each request an identifier and each response its headers, and writes one line, without content or keys.

    The application may add to what is written: `scope["state"]["noted"]` is a dictionary.
    """

    def __init__(self, app: ASGIApp, *, on_status: Callable[[int], object] = lambda status: None):
        self._app, self._on_status = app, on_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, request, status = time.perf_counter(), uuid.uuid4().hex, 500
        noted = scope.setdefault("state", {}).setdefault("noted", {})
        noted["request"] = request

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/v1/"):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        finally:
            self._on_status(status)
            route = getattr(scope.get("route"), "path", None)  # the path itself was written by a client
            line = {"method": scope["method"], "route": route, "status": status} | noted
            log.info("", extra={"noted": line | {"milliseconds": round(1000 * (time.perf_counter() - begun), 2)}})


class JsonLines(logging.Formatter):
    """Log lines as JSON: time, level, message, what a `RequestLog` noted, and where an error comes from."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {"time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname.lower()}
        line |= {"message": text} if (text := record.getMessage()) else {}
        line |= getattr(record, "noted", {})
        line |= {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(line)
