"""The service: an exported model behind HTTP, without TensorFlow."""

import asyncio
import contextlib
import ctypes
import datetime as dt
import ipaddress
import json
import logging
import math
import mimetypes
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from imgclassify.data.images import ImageError
from imgclassify.display import escape
from imgclassify.prediction import Prediction
from imgclassify.serving.access import Keys, KeysError, RateLimit
from imgclassify.serving.batching import Batcher, QueueFullError
from imgclassify.serving.exported import ExportedModel
from imgclassify.serving.guards import BodyLimit, JsonLines, RequestLog, log
from imgclassify.serving.openapi import BODY, ERRORS, Answers, Models, State

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Limits:
    """What a service takes."""

    bytes: int = 20_000_000  # of a request's body
    bytes_of_all: int = 100_000_000  # of all bodies that are under way
    files: int = 32  # of a request
    pixels: int = 50_000_000  # of a picture
    waiting: int = 128  # pictures, until requests are refused
    body_seconds: float = 30.0  # until a body has arrived
    answer_seconds: float = 10.0  # from then on
    rate: float | None = None  # pictures per second and key; None: any


class Service:
    """What the routes share: the model's queue, who may use it, and what is counted."""

    def __init__(self, model: ExportedModel, limits: Limits, *, keys: Keys | None, answers: Path | None):
        self.model, self.limits, self.keys = model, limits, keys
        self.rate = RateLimit(limits.rate, max(1.0, limits.rate)) if limits.rate else None
        self._answers = answers
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("imgclassify_requests", "Requests, by status", ["status"], registry=registry)
        self.pictures = Counter("imgclassify_pictures", "Pictures, by outcome", ["outcome"], registry=registry)
        scale = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
        self.seconds = Histogram(
            "imgclassify_answer_seconds", "From a body to its answers", buckets=scale, registry=registry
        )
        sizes = (1, 2, 4, 8, 16)
        batch = Histogram("imgclassify_batch_pictures", "Pictures computed together", buckets=sizes, registry=registry)
        self.batcher = Batcher(model, most_waiting=limits.waiting, most_pixels=limits.pixels, on_batch=batch.observe)
        waiting = Gauge("imgclassify_waiting_pictures", "Pictures that are under way", registry=registry)
        waiting.set_function(lambda: self.batcher.waiting)

    async def answer(
        self, files: list[tuple[bytes, str | None]], noted: dict[str, Any]
    ) -> list[Prediction | ImageError]:
        """Answers of files, each its content and name; counted, and written to the log of answers."""
        begun = time.perf_counter()
        named = [(content, name or "The picture") for content, name in files]
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                found = await self.batcher.predict(named)
        except QueueFullError as full:
            raise HTTPException(429, str(full), {"Retry-After": str(full.seconds)}) from full
        except TimeoutError as error:
            late = f"There was no answer within {self.limits.answer_seconds:g} s: try again in 1 s."
            raise HTTPException(503, late, {"Retry-After": "1"}) from error
        self.seconds.observe(taken := time.perf_counter() - begun)
        answered = [each for each in found if isinstance(each, Prediction)]
        noted |= {"pictures": len(files), "refused": len(files) - len(answered)}
        self.pictures.labels("answered").inc(len(answered))
        self.pictures.labels("refused").inc(len(files) - len(answered))
        if self._answers is not None and answered:
            self._write(self._answers, answered, noted | {"milliseconds": round(1000 * taken, 2)})
        return found

    def _write(self, path: Path, answered: list[Prediction], noted: dict[str, Any]) -> None:
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        head = {"time": now, "request": noted["request"], "key": noted.get("key"), "model": self.model.about.model}
        said = ("label", "confidence", "familiarity", "known")
        lines = [
            json.dumps(head | {name: getattr(each, name) for name in said} | {"milliseconds": noted["milliseconds"]})
            for each in answered
        ]
        try:
            with path.open("a", encoding="utf-8") as file:  # anew each time, so that it can be rotated
                file.write("\n".join(lines) + "\n")
        except OSError as error:  # clients are answered all the same
            log.error("The log of answers cannot be written: %s", error.strerror)


def _service(request: Request) -> Service:
    return request.app.state.service


async def _allowed(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False, bearerFormat="key"))],
) -> str | None:
    """Name of the key that a request was sent with; None where no keys are asked for."""
    keys = _service(request).keys
    if keys is None:
        return None
    try:
        name = keys.name_of(given.credentials) if given else None
    except KeysError as error:
        log.error("%s", error)
        raise HTTPException(503, "No key can be checked: the service's file of keys cannot be used.") from error
    if name is None:
        sentence = "This key is not known." if given else "Send a key in the header: Authorization: Bearer KEY."
        raise HTTPException(401, sentence, {"WWW-Authenticate": "Bearer"})
    request.state.noted["key"] = name
    return name


Key = Annotated[str | None, Depends(_allowed)]
_router = APIRouter()


@_router.post("/v1/predict", response_model=Answers, responses=ERRORS, openapi_extra={"requestBody": BODY})
async def predict(
    request: Request, key: Key, top: Annotated[int, Query(ge=1, description="How many classes to name")] = 3
):
    """Classify pictures: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, which is decided by their content."""
    service = _service(request)
    if service.rate is not None:
        if wait := math.ceil(service.rate.seconds(key)):
            limit = f"The rate is {service.limits.rate:g} pictures per second: try again in {wait} s."
            raise HTTPException(429, limit, {"Retry-After": str(wait)})
        service.rate.take(key)
    files = await _files(request, service.limits)
    if service.rate is not None:
        service.rate.take(key, len(files) - 1)
    pictures, refused = [], []
    for index, found in enumerate(await service.answer(files, request.state.noted)):
        place = {"file": files[index][1], "index": index}
        if isinstance(found, ImageError):
            refused.append(place | {"status": 422, "error": str(found)})
        else:
            said = {name: getattr(found, name) for name in ("label", "confidence", "known", "familiarity")}
            pictures.append(place | said | {"probabilities": dict(found.top(top))})
    if not pictures:
        return JSONResponse({"error": refused[0]["error"], "refused": refused}, 422)
    return JSONResponse({"model": service.model.name, "pictures": pictures, "refused": refused})


class _InMemory(MultiPartParser):
    spool_max_size = 2**40  # nothing goes to the disk: the body is limited already


async def _files(request: Request, limits: Limits) -> list[tuple[bytes, str | None]]:
    """Content and name of each file of a request."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return [(await request.body(), None)]
    try:
        parser = _InMemory(request.headers, request.stream(), max_files=limits.files, max_fields=0)
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise HTTPException(413, f"A request may have at most {limits.files} files.") from error
        raise HTTPException(400, f"A form has files only, each with a name. ({error.message})") from error
    parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    files = [(await part.read(), (part.filename or "")[:200] or None) for part in parts]
    await form.close()
    if not files:
        raise HTTPException(400, "The form has no file.")
    return files


@_router.get("/v1/models", response_model=Models, responses={code: ERRORS[code] for code in (401, 503)})
async def models(request: Request, key: Key):
    """What is served: the model, its classes, and how good it is."""
    model = _service(request).model
    return {"models": [asdict(model.about) | {"name": model.name}]}


@_router.get("/metrics", response_class=Response, responses={code: ERRORS[code] for code in (401, 503)})
async def metrics(request: Request, key: Key):
    """Counters for Prometheus."""
    return Response(generate_latest(_service(request).registry), media_type=CONTENT_TYPE_LATEST)


@_router.get("/health", response_model=State)
async def health():
    """Whether the process lives."""
    return {"status": "ok"}


@_router.get("/ready", response_model=State, responses={503: ERRORS[503]})
async def ready(request: Request):
    """Whether requests can be answered now."""
    service = _service(request)
    try:
        if service.keys is not None:
            service.keys.check()
    except KeysError as error:
        raise HTTPException(503, "The service's file of keys cannot be used.") from error
    if service.batcher.waiting >= service.limits.waiting:
        raise HTTPException(503, "Too many pictures are waiting.", {"Retry-After": "1"})
    return {"status": "ready"}


async def _front(request: Request) -> HTMLResponse:
    """What is at `/` without a static page."""
    service, about = _service(request), _service(request).model.about
    key = ' -H "Authorization: Bearer KEY"' if service.keys else ""
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>imgclassify</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>body{font:1rem/1.5 system-ui;max-width:42rem;margin:2rem auto;padding:0 1rem}"
        "pre{overflow:auto;padding:.5rem;border:1px solid}</style>"
        f"<h1>{escape(service.model.name)}</h1><p>This service classifies pictures. It knows: "
        f"{escape(', '.join(about.class_names))}.</p><p>{escape(about.accuracy)} Trained on {escape(about.data)}.</p>"
        f"<pre>curl{key} --data-binary @photo.jpg {escape(request.base_url)}v1/predict\n"
        f"curl{key} -F files=@a.jpg -F files=@b.jpg {escape(request.base_url)}v1/predict</pre>"
        '<p>All routes: <a href="/openapi.json">openapi.json</a>. Pictures are not stored.</p></html>'
    )


def create_app(
    model: ExportedModel,
    *,
    keys: Keys | None = None,
    limits: Limits | None = None,
    answers: Path | None = None,
    page: Path | None = None,
) -> ASGIApp:
    """The service as an ASGI application.

    Args:
        model: What answers.
        keys: Who may use it; default: everybody who can reach it.
        limits: What it takes.
        answers: A file to which a line of JSON is appended for each picture that was answered, without the picture.
        page: A folder with a static page, for `/`.

    Raises:
        ValueError: There is no `index.html` in the folder.
    """
    limits = limits or Limits()
    service = Service(model, limits, keys=keys, answers=answers)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.batcher:
            yield

    app = FastAPI(
        title="imgclassify",
        description=str(model),
        version=version("imgclassify"),
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(_router)
    if page is None:
        app.add_api_route("/", _front, include_in_schema=False)
    elif not (page / "index.html").is_file():
        raise ValueError(f"There is no index.html in {page}.")
    else:
        for ending in (".js", ".mjs"):  # which some Windows take for plain text, and browsers then refuse
            mimetypes.add_type("text/javascript", ending)
        app.mount("/", StaticFiles(directory=page, html=True))
    app.add_exception_handler(AnyHTTPException, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_arguments)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _fail)
    limited = BodyLimit(
        app, most_bytes=limits.bytes, most_bytes_of_all=limits.bytes_of_all, seconds=limits.body_seconds
    )
    return RequestLog(limited, on_status=lambda status: service.requests.labels(status).inc())


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AnyHTTPException)
    sentences = {404: "There is nothing here: see /openapi.json.", 405: "This method is not known here."}
    return JSONResponse({"error": sentences.get(error.status_code, error.detail)}, error.status_code, error.headers)


async def _refuse_arguments(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
    return JSONResponse({"error": f"The request is wrong: {wrong}."}, 422)


async def _gone(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "The client has gone."}, 499)  # nobody reads it; for the log


async def _fail(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"The service failed; its log says why, at {request.state.noted['request']}."}, 500)


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _return_memory() -> None:
    """Have large blocks returned to the system when they are freed; else glibc would keep those of large pictures."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems have no such function
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1_000_000)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[tuple[str, socket.socket]]:
    """An address as a browser takes it, and its socket; port 0 is any free one.

    Raises:
        ValueError: It is in use, or not this computer's.
    """
    name = f"[{host}]" if ":" in host else host
    try:
        bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(f"{name}:{port} cannot be listened on: {error.strerror}.") from error
    with bound:
        yield f"http://{name}:{bound.getsockname()[1]}", bound


def serve(app: ASGIApp, bound: socket.socket, *, limits: Limits | None = None) -> None:
    """Serve an application until SIGTERM or SIGINT; requests that are under way are answered before the end."""
    _return_memory()
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    limits = limits or Limits()
    patience = math.ceil(limits.body_seconds + limits.answer_seconds)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=patience,
    )
    uvicorn.Server(config).run(sockets=[bound])
