"""The HTTP application: predictions, health, metrics and pages."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from lvm_pipeline.errors import LvmError
from lvm_pipeline.serving.api_page import api_page
from lvm_pipeline.serving.batcher import Batcher, TooManyWaitingError
from lvm_pipeline.serving.holder import ModelHolder
from lvm_pipeline.serving.messages import BadJsonError, PredictRequest, PredictResponse, Problem, read_request
from lvm_pipeline.serving.metrics import CONTENT_TYPE, Metrics
from lvm_pipeline.serving.model import Answer, FailedPredictionError
from lvm_pipeline.serving.try_page import try_page

logger = logging.getLogger(__name__)

ANSWER = TypeAdapter(dict[str, Any])

DESCRIPTION = "Predicts the vector of the next concept from the concepts before it."
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The model cannot read the context."},
    503: {"model": Problem, "description": "Too many requests wait."},
}

LEFT = 499  # the status that nginx counts for a client that closed the connection
DROPPED_LIMITS = 4  # a body that is too large is read (and dropped) up to this multiple of the limit
TryArticle = Callable[[str], str]  # an article's text -> a page
Middleware = Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]


class BodyTooLargeError(LvmError):
    """The body is larger than the server takes."""


class ClientLeftError(Exception):
    """The client closed the connection before it had sent the whole body."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The parts of the application."""

    holder: ModelHolder  # the model
    batcher: Batcher[PredictRequest, Answer]  # answers requests with it
    metrics: Metrics  # figures of this process
    max_body_bytes: int  # largest body of a request
    try_article: TryArticle | None = None  # makes the page of an article; None offers none
    host_names: Sequence[str] | None = None  # requests under other host names are refused; None refuses none


def make_app(serving: Serving) -> FastAPI:
    """Return the application; it starts and stops the threads of holder and batcher with itself."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving.batcher.start()
        serving.holder.start()
        yield
        serving.holder.stop()
        serving.batcher.stop()

    app = FastAPI(
        title="Latent vector model", description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.middleware("http")(_observed(serving.metrics, serving.host_names))
    _add_predict(app, serving)
    _add_state(app, serving)
    _add_docs(app)
    if serving.try_article is not None:
        _add_try(app, serving, serving.try_article)
    return app


def _add_predict(app: FastAPI, serving: Serving) -> None:
    schema = {"content": {"application/json": {"schema": PredictRequest.model_json_schema()}}, "required": True}

    @app.post("/predict", response_model=PredictResponse, responses=REFUSALS, openapi_extra={"requestBody": schema})
    async def predict(request: Request) -> Response:
        """Predict the concept after a context."""
        try:
            given = read_request(await _body(request, serving.max_body_bytes))
            answer = await serving.batcher.answer(serving.holder.current, given)
        except LvmError as error:
            answer = error
        except TooManyWaitingError:
            return _problem(503, "Too many requests wait for the model; try again in a moment.")
        if isinstance(answer, FailedPredictionError):
            logger.error("A prediction failed: %s", answer)
            return _problem(500, str(answer))
        if isinstance(answer, LvmError):
            return _problem(_status_of(answer), str(answer))
        return Response(ANSWER.dump_json(answer), media_type="application/json")


def _add_state(app: FastAPI, serving: Serving) -> None:
    holder, batcher = serving.holder, serving.batcher

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Return the served model, and the error of the last failed reload."""
        served = holder.current
        return {
            "status": "ok",
            **served.identity,
            "has_encoder": served.encoder is not None,
            "has_concepts": served.index is not None,
            "search": None if served.index is None else served.index.bank.how,
            "decoders": served.decoder_names,
            "reload_error": holder.last_error,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return the figures of this process in Prometheus's text format."""
        gauges = {
            "lvm_requests_waiting": ("Requests that wait for the model.", batcher.num_waiting),
            "lvm_batches_total": ("Batches of requests that were answered.", sum(batcher.batch_sizes.values())),
            "lvm_model_reloads_total": ("Model reloads.", holder.num_reloads),
            "lvm_model_reload_failures_total": ("Failed model reloads.", holder.num_failures),
        }
        text = serving.metrics.text(gauges=gauges, info=holder.current.identity)
        return Response(text, media_type=CONTENT_TYPE)


def _add_docs(app: FastAPI) -> None:
    @app.get("/docs", response_class=HTMLResponse)
    async def docs() -> str:
        """Describe the requests; the page fetches nothing from elsewhere."""
        return api_page(app.openapi())

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("docs")  # relative, as a proxy may serve this under a path

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)


def _add_try(app: FastAPI, serving: Serving, try_article: TryArticle) -> None:
    @app.get("/try", response_class=HTMLResponse)
    async def form() -> str:
        """Show a form for an article."""
        return try_page(None, has_form=True)

    @app.post("/try", response_class=HTMLResponse)
    async def tried(request: Request) -> Response:
        """Let every trained architecture predict the article in the field `article`."""
        article = ""
        try:
            fields = parse_qs((await _body(request, serving.max_body_bytes)).decode("utf-8", errors="replace"))
            article = "".join(fields.get("article", []))
            return HTMLResponse(await run_in_threadpool(try_article, article))
        except LvmError as error:
            page = try_page(None, has_form=True, text=article, problem=str(error))
            return HTMLResponse(page, status_code=_status_of(error))


async def _body(request: Request, max_bytes: int) -> bytes:
    """Read the body. Bytes beyond the limit are read and dropped: a client that is cut off at once sees no answer."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= max_bytes:
                parts.append(part)
            elif size > DROPPED_LIMITS * max_bytes:
                break
    except ClientDisconnect:
        raise ClientLeftError from None
    if size > max_bytes:
        raise BodyTooLargeError(f"The body is larger than the {max_bytes:,} bytes that this server reads; send less.")
    return b"".join(parts)


def _status_of(error: LvmError) -> int:
    if isinstance(error, BadJsonError):
        return 400
    return 413 if isinstance(error, BodyTooLargeError) else 422


def _problem(status: int, reason: str) -> Response:
    return JSONResponse({"detail": reason}, status_code=status)


def _other_host(request: Request, names: Sequence[str] | None) -> Response | None:
    """Refuse a request under a host name that is not one of `names`; None: any is accepted."""
    host = request.headers.get("host", "").partition(":")[0].lower()
    if names is None or host in names:
        return None
    return _problem(
        400,
        f"This server answers requests to {', '.join(names)} only, not to {host[:80]!r}; behind a proxy, start it with "
        "the proxy's address as LVM_SERVE_URL.",
    )


def _observed(metrics: Metrics, host_names: Sequence[str] | None) -> Middleware:
    """Refuse requests to other hosts; count every request with its time, also in the header `Server-Timing`."""

    async def observe(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.perf_counter()
        try:
            response = _other_host(request, host_names) or await call_next(request)
        except ClientLeftError:
            response = _problem(LEFT, "The client left before it had sent its request.")
        except Exception:
            logger.exception("A request failed.")
            response = _problem(500, "The server failed; its log says why.")
        seconds = time.perf_counter() - began
        route = request.scope.get("route")
        metrics.observe(getattr(route, "path", "other"), response.status_code, seconds)
        response.headers["Server-Timing"] = f"total;dur={1000 * seconds:.2f}"
        return response

    return observe
