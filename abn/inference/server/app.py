"""The server's routes: limits first, then decoding in threads, then the network's one thread."""

import asyncio
import base64
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from abn.datasets import images as decoder
from abn.inference.picture import Picture
from abn.inference.prediction import Prediction
from abn.inference.predictor import Predictor
from abn.inference.server import messages
from abn.inference.server.worker import Question, Worker
from abn.runtime.errors import DataError
from abn.version import __version__

PAGE = Path(__file__).with_name("page.html")
JSON = "application/json"
NEEDED = f"send an image as image/... or application/octet-stream, or {JSON}"
REASONS = {
    400: "the JSON cannot be read",
    401: "the token is missing or wrong",
    408: "the request came too slowly",
    413: "more bytes or pixels than /model says",
    415: NEEDED,
    422: "not an image, or a map or parameter with wrong values",
    503: "as many requests as can wait do; try again",
}


class Settings(NamedTuple):
    """What the server accepts, and how it batches."""

    max_bytes: int = 20_000_000  # of an image file
    max_pixels: int = 40_000_000  # of an image, by its header
    batch: int = 16  # pictures in one pass at most
    wait: float = 0.004  # seconds for which a picture waits for others
    open: int = 64  # requests at once; more are refused
    patience: float = 30.0  # seconds until a request's body has to be here
    token: str | None = None  # what clients have to show


class Service:
    """One network and its routes."""

    def __init__(self, model: Predictor, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self._open = 0

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """The threads, for as long as the server runs; a server may start again."""
        self._worker = Worker(self._answers, self.settings.batch, self.settings.wait)
        self._decoders = ThreadPoolExecutor(os.cpu_count(), "decoder")
        self._worker.start()
        try:
            yield
        finally:
            self._decoders.shutdown()
            self._worker.stop()

    def router(self) -> APIRouter:
        """All routes."""
        router = APIRouter()
        guards = [Depends(self._check_token)] if self.settings.token else []
        router.add_api_route("/", self.page, response_class=HTMLResponse, methods=["GET"])
        router.add_api_route("/health", self.health, methods=["GET"])
        router.add_api_route("/ready", self.ready, methods=["GET"], responses=_refusals(503))
        denied = _refusals(401) if guards else {}
        router.add_api_route(
            "/model", self.about, methods=["GET"], dependencies=guards, responses=denied
        )
        router.add_api_route(
            "/predict",
            self.predict,
            methods=["POST"],
            dependencies=guards,
            responses=denied | _refusals(400, 408, 413, 415, 422, 503),
            openapi_extra={"requestBody": _body()},
        )
        return router

    async def page(self) -> HTMLResponse:
        """The page for people."""
        return HTMLResponse(*_page())

    async def health(self) -> messages.Health:
        """The process is alive."""
        return messages.Health(status="ok", version=__version__)

    async def ready(self) -> messages.Health:
        """The network answers, and there is room for a request."""
        if not self._worker.alive or self._open >= self.settings.open:
            raise HTTPException(503, REASONS[503], {"Retry-After": "1"})
        return messages.Health(status="ready", version=__version__)

    async def about(self) -> messages.Model:
        """The network, and what it accepts."""
        return messages.Model(
            classes=list(self.model.classes),
            attention="look" if self.model.network.looks else "residual",
            size=self.model.size,
            map=list(self.model.grid),
            max_bytes=self.settings.max_bytes,
            max_pixels=self.settings.max_pixels,
            version=__version__,
        )

    async def predict(
        self,
        request: Request,
        top: Annotated[int, Query(ge=1, le=100_000, description="classes to name")] = 5,
        pictures: Annotated[bool, Query(description="with view_png and seen_png")] = False,
    ) -> messages.Answer:
        """What the network says of an image, under its own map or under one you give."""
        with self._place():
            body = await self._body(request, kind := _kind(request))
            loop = asyncio.get_running_loop()
            question = await loop.run_in_executor(self._decoders, self._question, body, kind)
            prediction = await asyncio.wrap_future(self._worker.ask(question))
            return await loop.run_in_executor(
                self._decoders, self._message, question, prediction, top, pictures
            )

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places for open requests; 503 where none is left."""
        if self._open >= self.settings.open:
            raise HTTPException(503, REASONS[503], {"Retry-After": "1"})
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def _body(self, request: Request, kind: str) -> bytes:
        """The body; what is too long is read to its end but not kept, so that the client hears."""
        most = self.settings.max_bytes
        most = most if kind != JSON else most * 4 // 3 + 1_000_000  # base64, and a map
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.patience):
                async for part in request.stream():
                    size += len(part)
                    if size <= most:
                        parts.append(part)
        except TimeoutError:
            raise HTTPException(408, REASONS[408], {"Connection": "close"}) from None
        if size > most:
            raise HTTPException(413, f"{size:,} bytes, over {most:,}")
        return b"".join(parts)

    def _question(self, body: bytes, kind: str) -> Question:
        image, attention = _parsed(body) if kind == JSON else (body, None)
        if len(image) > self.settings.max_bytes:
            raise HTTPException(413, f"{len(image):,} bytes, over {self.settings.max_bytes:,}")
        area = decoder.area(image, "the request")
        if area > self.settings.max_pixels:
            raise HTTPException(413, f"{area:,} pixels, over {self.settings.max_pixels:,}")
        if attention is not None:
            self.model.check_map(attention)
        return Question(_light(self.model.read(image)), attention)

    def _answers(self, questions: Sequence[Question]) -> list[Prediction]:
        pictures, maps = zip(*questions, strict=True)
        return self.model.answer(pictures, len(self.model.classes), maps)

    def _message(
        self, question: Question, prediction: Prediction, top: int, pictures: bool
    ) -> messages.Answer:
        view = self.model.view(question.picture).cpu() if pictures else None
        edited = question.attention is not None
        return messages.answer(prediction, top, edited, view, self.model.network.looks)

    async def _check_token(
        self,
        given: Annotated[
            HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))
        ],
    ) -> None:
        """401 unless the request shows the token; the time that takes says nothing about it."""
        shown, token = given.credentials if given else "", self.settings.token or ""
        if not hmac.compare_digest(shown.encode(), token.encode()):
            raise HTTPException(401, REASONS[401], {"WWW-Authenticate": "Bearer"})


def create(model: Predictor, settings: Settings) -> FastAPI:
    """The server of `model` as an ASGI app. Its first pass is done: it answers at once."""
    assert model.grid
    service = Service(model, settings)
    app = FastAPI(
        title="Attention Branch Network",
        version=__version__,
        lifespan=service.lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(service.router())
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(DataError, _unusable)
    app.add_exception_handler(Exception, _failed)
    return app


def _kind(request: Request) -> str:
    """The type of the body; 415 for one that is not taken.

    A browser asks before another site's page may send any of these: that page gets no answer.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON or kind == "application/octet-stream" or kind.startswith("image/"):
        return kind
    raise HTTPException(415, f"{NEEDED}; it came {f'as {kind}' if kind else 'without a type'}")


def _parsed(body: bytes) -> tuple[bytes, messages.Map | None]:
    """Image and map out of JSON."""
    try:
        edited = messages.Edited.model_validate_json(body)
        return edited.image, edited.attention()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        status = 400 if first["type"] == "json_invalid" else 422
        raise HTTPException(status, _placed(first)) from None
    except ValueError:
        raise HTTPException(422, "map: its rows differ in length") from None


def _light(picture: Picture) -> Picture:
    """`picture` without its pixels, too many to keep while it waits; their shape stays."""
    none = np.broadcast_to(np.uint8(0), picture.pixels.shape)
    return picture._replace(pixels=none) if picture.canvas is not picture.pixels else picture


def _placed(error: Any) -> str:
    """What pydantic says, and where."""
    return ": ".join([".".join(map(str, error["loc"])), error["msg"]]).lstrip(": ")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"reason": error.detail}, error.status_code, error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"reason": _placed(error.errors()[0])}, 422)


async def _unusable(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DataError)
    return JSONResponse({"reason": error.what}, 422)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"reason": "the server failed; its log says how"}, 500)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Statuses of errors, as OpenAPI describes them."""
    return {s: {"model": messages.Refusal, "description": REASONS[s]} for s in statuses}


def _body() -> dict[str, Any]:
    """The request body of /predict, as OpenAPI describes it."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    edited = {"schema": messages.Edited.model_json_schema()}
    content = {"application/octet-stream": binary, "image/*": binary, JSON: edited}
    return {"required": True, "content": content}


def _page() -> tuple[str, int, dict[str, str]]:
    """The page, its status, and headers under which it can load nothing from anywhere."""
    html = PAGE.read_text(encoding="utf-8")
    script, style = (_digest(html, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
        "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    return html, 200, {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}


def _digest(html: str, tag: str) -> str:
    """The SHA-256 of what the only `tag` in `html` holds, as a policy names it."""
    content = html.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
