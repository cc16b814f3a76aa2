"""The routes of the Cloud Run Admin API v2 for jobs, executions, tasks and operations.

Google's types take a second to import, and few who start the twin run a job: `service` is loaded by the first call.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from mlsys.local.errors import ApiError, not_found, unsupported
from mlsys.local.http import Handler, Routes
from mlsys.local.uploads import read_json

if TYPE_CHECKING:
    from mlsys.local.run.service import CloudRun

routes = Routes("run")

LOGS = "/_mlsys/run/logs"  # what `logUri` leads to: a page, as Cloud Logging's is

_PARENT = "/v2/projects/{project:[^/:]+}/locations/{location:[^/:]+}"
_JOBS = _PARENT + "/jobs"
_JOB = _JOBS + "/{job:[^/:]+}"
_EXECUTIONS = _JOB + "/executions"
_EXECUTION = _EXECUTIONS + "/{execution:[^/:]+}"
_TASKS = _EXECUTION + "/tasks"
_OPERATIONS = _PARENT + "/operations"
_OPERATION = _OPERATIONS + "/{operation:[^/:]+}"
_PAGE = ("pageSize", "pageToken")
_ALWAYS = ("$alt", "alt", "$prettyPrint", "prettyPrint", "key")


class LazyCloudRun:
    """The Cloud Run of a data folder, made by the first call."""

    def __init__(self, make: "Callable[[], CloudRun]") -> None:
        self._make, self._lock = make, asyncio.Lock()
        self._made: CloudRun | None = None

    async def get(self) -> "CloudRun":
        """Return it."""
        async with self._lock:
            self._made = self._made or await asyncio.to_thread(self._make)
        return self._made

    @property
    def busy(self) -> bool:
        """Whether an execution is under way."""
        return self._made is not None and self._made.runner.busy

    async def close(self) -> None:
        """End what is under way."""
        if self._made is not None:
            await self._made.runner.close()


RUN: web.AppKey[LazyCloudRun] = web.AppKey("run", LazyCloudRun)


@dataclass(frozen=True)
class Call:
    """One request."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: dict

    @property
    def parent(self) -> str:
        """The location that it is about: ``projects/…/locations/…``."""
        return f"projects/{self.path['project']}/locations/{self.path['location']}"

    @property
    def job(self) -> str:
        """The full name of its job."""
        return f"{self.parent}/jobs/{self.path['job']}"

    @property
    def execution(self) -> str:
        """The full name of its execution."""
        return f"{self.job}/executions/{self.path['execution']}"

    @property
    def operation(self) -> str:
        """The full name of its operation."""
        return f"{self.parent}/operations/{self.path['operation']}"

    @property
    def etag(self) -> str:
        """The state of the resource that the client means, if it says so."""
        return self.query.get("etag") or self.body.get("etag") or ""

    def window(self) -> slice:
        """Return which of a list's items are asked for."""
        try:
            start, most = (int(self.query.get(name) or 0) for name in ("pageToken", "pageSize"))
        except ValueError:
            raise ApiError(400, "invalid", "pageToken and pageSize must be numbers") from None
        return slice(start, start + (most or 100))


async def log(request: web.Request) -> web.StreamResponse:
    """Answer with what an execution's tasks have written, or one attempt at one of them."""
    folder = (await request.app[RUN].get()).store.logs
    pattern = request.match_info["execution"] + (request.match_info["file"] or "/*.log")
    found = [path for path in sorted(folder.glob(pattern)) if path.is_file()] if ".." not in pattern else []
    if not found:
        raise not_found(f"logs {pattern}")
    return web.Response(text="\n".join(f"== {path.name}\n{path.read_text(errors='replace')}" for path in found))


def _serve(method: str, path: str, name: str, *served: str) -> None:
    """Serve ``method path`` by the method of `CloudRun` of that name, with the parameters that it understands."""
    operation = name.replace(".", "_")

    async def handler(request: web.Request) -> web.StreamResponse:
        if unknown := [key for key, value in request.query.items() if value and key not in {*served, *_ALWAYS}]:
            raise unsupported(f"parameter {unknown[0]} of run.{name}")
        run = await request.app[RUN].get()
        answer = await getattr(run, operation)(Call(request.match_info, request.query, await read_json(request)))
        return web.json_response(run.plain(answer, numbers=request.query.get("$alt") == "json;enum-encoding=int"))

    routes.add(method, path, name)(_named(handler, operation))


def _named(handler: Handler, name: str) -> Handler:
    handler.__name__ = name
    return handler


_serve("POST", _JOBS, "jobs.create", "jobId")
_serve("GET", _JOBS, "jobs.list", *_PAGE)
_serve("GET", _JOB, "jobs.get")
_serve("PATCH", _JOB, "jobs.patch")
_serve("DELETE", _JOB, "jobs.delete", "etag")
_serve("POST", _JOB + ":run", "jobs.run")
_serve("GET", _EXECUTIONS, "executions.list", *_PAGE)
_serve("GET", _EXECUTION, "executions.get")
_serve("POST", _EXECUTION + ":cancel", "executions.cancel")
_serve("DELETE", _EXECUTION, "executions.delete", "etag")
_serve("GET", _TASKS, "tasks.list", *_PAGE)
_serve("GET", _TASKS + "/{task:[^/:]+}", "tasks.get")
_serve("GET", _OPERATIONS, "operations.list", *_PAGE)
_serve("GET", _OPERATION, "operations.get")
_serve("POST", _OPERATION + ":wait", "operations.wait")
