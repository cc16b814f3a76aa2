"""What the twin's HTTP services share: named operations, Google's error bodies, and injected faults."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mlsys.local.errors import ApiError
from mlsys.local.faults import Fault, Faults

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FAULTS: web.AppKey[Faults] = web.AppKey("faults", Faults)
_FAULT: web.RequestKey[Fault] = web.RequestKey("fault", Fault)


class Routes:
    """A table of routes, each named by its Google operation (``bigquery.jobs.insert``).

    The name is what a fault rule selects. Handlers are coroutines; work that blocks belongs in
    ``asyncio.to_thread``, so that one slow query does not hold up another client.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._routes: list[web.RouteDef] = []

    def add(self, method: str, path: str, operation: str) -> Callable[[Handler], Handler]:
        """Register the decorated coroutine for ``method path``; a path in aiohttp's ``{name}`` syntax."""

        def register(handler: Handler) -> Handler:
            async def named(request: web.Request) -> web.StreamResponse:
                return await _with_faults(request, handler, f"{self._service}.{operation}")

            self._routes.append(web.route(method, path, named))
            return handler

        return register

    def install(self, app: web.Application) -> None:
        """Add every route to ``app``."""
        app.add_routes(self._routes)


async def _with_faults(request: web.Request, handler: Handler, operation: str) -> web.StreamResponse:
    fault = request.app[FAULTS].take(operation)
    if fault is None:
        return await handler(request)
    request[_FAULT] = fault  # handlers that stream a body take it over, see `take_fault`
    if fault.delay_s:
        await asyncio.sleep(fault.delay_s)
    if fault.kind == "error":
        raise fault.error()
    if fault.kind == "reset":
        return abort(request)
    response = await handler(request)
    if fault.kind == "error_after":
        raise fault.error()
    if fault.kind == "reset_after":
        return abort(request)
    if _FAULT in request and isinstance(response, web.Response) and isinstance(response.body, bytes):
        response.body, whole = fault.damage(response.body), response.body
        if fault.kind == "truncate":
            response.headers["Content-Length"] = str(len(whole))
            response.force_close()  # else the client would wait for the rest until its timeout
    return response


def abort(request: web.Request) -> web.Response:
    """Cut the connection as a crashed server does: a TCP reset, no reply."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


@web.middleware
async def google_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into the JSON body that Google's clients parse."""
    try:
        return await handler(request)
    except ApiError as exc:
        if exc.code == 304:
            return web.Response(status=304)
        return web.json_response(exc.body(), status=exc.code)
    except web.HTTPException as exc:  # aiohttp's own 404 and 405: no such route
        error = ApiError(501, "notImplemented", f"not supported locally: {request.method} {request.path}")
        return web.json_response(error.body(), status=error.code if exc.status in (404, 405) else exc.status)
    except HttpProcessingError as exc:  # a multipart body that is none
        error = ApiError(400, "parseError", f"Parse Error: {exc.message}")
        return web.json_response(error.body(), status=400)
    except ConnectionError:  # the client went away; aiohttp would log a traceback
        logger.info("%s %s: the client went away", request.method, request.path)
        return abort(request)
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        error = ApiError(500, "internalError", f"the twin failed on {request.method} {request.path}; see its log")
        return web.json_response(error.body(), status=500)


def fault_of(request: web.Request) -> Fault | None:
    """Return the fault that this request was chosen to suffer, for handlers that stream their body."""
    return request.get(_FAULT)


def take_fault(request: web.Request) -> Fault | None:
    """Return `fault_of` and take it over: the handler damages the bodies, the reply is left as it is."""
    return request.pop(_FAULT, None)
