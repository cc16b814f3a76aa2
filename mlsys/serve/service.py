"""Requests in, answers out: paths, limits, and what is wrong with a request, in JSON."""

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnsupportedMediaType,
)
from werkzeug.wrappers import Request, Response

from mlsys.errors import SchemaError
from mlsys.manifest import Manifest
from mlsys.models import Model
from mlsys.predict.scoring import score
from mlsys.serve.instances import MAX_INSTANCES, WANTED, read_instances, to_batch
from mlsys.serve.resident import RETRY_S, Resident

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1_500_000  # Vertex AI's limit, too
_READ_BYTES = 32 << 20  # Cloud Run passes no more on
_PIECE_BYTES = 1 << 16
WAIT_S = 30.0  # Cloud Run starts an instance for a request: that one waits until the model is loaded
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACE = re.compile(r"(?:00-)?([0-9a-f]{32})[-/].*")  # traceparent, X-Cloud-Trace-Context


class Service:
    """Answer requests with the predictions of one model.

    Parameters
    ----------
    project
        The Google Cloud project: log lines join the traces that it has of requests.
    predict_route, health_route
        Other paths for ``/predict`` and ``/health``, as Vertex AI asks of a container.
    """

    def __init__(
        self, resident: Resident, *, project: str = "", predict_route: str = "", health_route: str = ""
    ) -> None:
        self.resident, self._project = resident, project
        self._predict_paths = {"/predict", predict_route}
        self._pages: dict[str, Callable[[], dict[str, Any]]] = {
            "/": _index,
            "/health": self._health,
            "/health/live": _live,
            "/model": self._card,
        }
        if health_route:
            self._pages[health_route] = self._health

    def answer(self, request: Request) -> Response:
        """Return the answer to a request; never raises, and never says more than one line about what is wrong."""
        request_id = _request_id(request)
        try:
            answer = _respond(self._said(request, request_id), 200)
        except SchemaError as exc:
            answer = refuse(BadRequest(str(exc)), request_id)
        except HTTPException as exc:
            answer = refuse(exc, request_id)
        except Exception:
            logger.exception("request failed", extra=self._context(request, request_id))
            answer = refuse(InternalServerError("the service failed, its log has more"), request_id)
        answer.headers["X-Request-Id"] = request_id
        return answer

    def _said(self, request: Request, request_id: str) -> dict[str, Any]:
        if request.path in self._predict_paths:
            _check_method(request, "POST")
            return self._predict(request, request_id)
        if request.path in self._pages:
            _check_method(request, "GET", "HEAD")
            return self._pages[request.path]()
        raise NotFound("there is nothing at this path: GET / lists what there is")

    def _health(self) -> dict[str, Any]:
        ref = self._ready(0).ref
        return {"status": "ready", "model_name": ref.name, "model_version": ref.version}

    def _card(self) -> dict[str, Any]:
        return card(self._ready(WAIT_S).manifest)

    def _predict(self, request: Request, request_id: str) -> dict[str, Any]:
        started = time.monotonic()
        _check_media_type(request)
        body = _body(request)
        model = self._ready(WAIT_S)
        instances = read_instances(body)
        predictions = predict_instances(model, instances, request_id)
        rejected = sum("reason" in prediction for prediction in predictions)
        logger.info(
            "%d instances, %d rejected, in %.1f ms", len(instances), rejected, 1e3 * (time.monotonic() - started),
            extra={"instances": len(instances), "rejected": rejected, **self._context(request, request_id)},
        )  # fmt: skip
        ref = model.ref
        return {
            "predictions": predictions,
            "deployedModelId": str(ref),
            "model": ref.name,
            "modelDisplayName": ref.name,
            "modelVersionId": ref.version,
        }

    def _ready(self, wait_s: float) -> Model:
        if model := self.resident.model(wait_s):
            return model
        raise ServiceUnavailable(f"no model to predict with: {self.resident.reason}", retry_after=round(RETRY_S))

    def _context(self, request: Request, request_id: str) -> dict[str, str]:
        """Return what a log line says about its request."""
        context = {"request_id": request_id}
        header = request.headers.get("traceparent") or request.headers.get("X-Cloud-Trace-Context") or ""
        if self._project and (trace := _TRACE.fullmatch(header)):
            context["logging.googleapis.com/trace"] = f"projects/{self._project}/traces/{trace[1]}"
        return context


def predict_instances(model: Model, instances: Sequence[Any], request_id: str = "") -> list[dict[str, Any]]:
    """Return a prediction for each instance, in their order, as the batch job scores rows.

    Each has the columns that the job adds to a row, with the request's id for the run's. An instance that the job would
    reject has ``reason`` instead of ``prediction``.

    Raises
    ------
    SchemaError
        An instance does not fit the model's signature; nothing was predicted.
    """
    stamp = {
        "model_name": model.ref.name,
        "model_version": model.ref.version,
        "prediction_timestamp": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "request_id": request_id,
    }
    rows = to_batch(instances, model.manifest.signature.inputs)
    position = "position"
    while position in rows.schema.names:
        position += "_"
    scored = score(model, rows.append_column(position, pa.array(range(rows.num_rows))), [position])
    said = {row.pop(position): row for table in (scored.predictions, scored.rejects) for row in table.to_pylist()}
    return [said[i] | stamp for i in range(rows.num_rows)]


def card(manifest: Manifest) -> dict[str, Any]:
    """Return what callers may know of a model: no rows that it was trained on, and nobody's name."""
    signature = manifest.signature
    inputs = [
        {
            "name": field.name,
            "type": field.type,
            "json": WANTED[field.type] + (" or null" if field.nullable else ""),
            "nullable": field.nullable,
        }
        | ({} if field.categories is None else {"categories": field.categories})
        for field in signature.inputs
    ]
    return {
        "model_name": manifest.model_name,
        "model_version": manifest.model_version,
        "description": manifest.description,
        "task": signature.task,
        "inputs": inputs,
        "outputs": [{"name": field.name, "type": field.type} for field in signature.outputs],
        "classes": signature.classes,
        "metrics": manifest.metrics,
        "created": manifest.created.isoformat(),
        "git_commit": manifest.git_commit,
        "training_query": manifest.training_query,
        "training_rows": manifest.training_rows,
        "artifacts": [artifact.model_dump() for artifact in manifest.artifacts],
        "python_version": manifest.python_version,
        "packages": manifest.packages,
        "limits": {"instances": MAX_INSTANCES, "body_bytes": MAX_BODY_BYTES},
    }


def refuse(exc: HTTPException, request_id: str = "") -> Response:
    """Return an error as Google's APIs write it: ``{"error": {"code", "message"}}``, and the request's id."""
    error = {"code": exc.code, "message": exc.description} | ({"request_id": request_id} if request_id else {})
    answer = _respond({"error": error}, exc.code or 500)
    answer.headers.extend((name, value) for name, value in exc.get_headers() if name in ("Allow", "Retry-After"))
    if isinstance(exc, RequestEntityTooLarge):
        # functions-framework reads what is left of a body into memory before it answers, but for a streamed answer.
        answer.response = iter([answer.get_data()])
    return answer


def _index() -> dict[str, Any]:
    return {
        "GET /model": "what the model is, and what it takes",
        "POST /predict": 'predictions for {"instances": [{…}, …]}',
        "GET /health": "200 when there is a model to predict with, else 503 with the reason",
        "GET /health/live": "200 as long as the service runs",
    }


def _live() -> dict[str, Any]:
    return {"status": "live"}


def _respond(said: dict[str, Any], status: int) -> Response:
    return Response(json.dumps(said, allow_nan=False) + "\n", status, mimetype="application/json")


def _request_id(request: Request) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _check_method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(methods, f"use {methods[0]} for this path")


def _check_media_type(request: Request) -> None:
    if request.mimetype != "application/json" or request.mimetype_params.get("charset", "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType("send Content-Type: application/json, in UTF-8")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body as it is, without Content-Encoding")


def _body(request: Request) -> bytes:
    kept, size = [], 0
    while size <= _READ_BYTES and (piece := request.stream.read(_PIECE_BYTES)):
        size += len(piece)
        if size <= MAX_BODY_BYTES:  # what is too long is read all the same: else callers find their connection cut
            kept.append(piece)
    if size > MAX_BODY_BYTES:
        raise RequestEntityTooLarge(f"a body has {MAX_BODY_BYTES:,} bytes at most: send fewer instances, or make a run")
    return b"".join(kept)
