"""The twin's process: three HTTP services, the Read API and the registry function behind one set of ports.

It ends by itself when no client has held a lease for a while, no job runs and every upload event is delivered.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from aiohttp import web
from filelock import FileLock

from mlsys.errors import TwinError
from mlsys.local import http, provision
from mlsys.local.bigquery import readapi
from mlsys.local.bigquery import rest as bigquery_rest
from mlsys.local.bigquery.store import Engine
from mlsys.local.events import Events, FunctionHost
from mlsys.local.faults import Fault, Faults
from mlsys.local.launcher import STATE_FILE, Addresses
from mlsys.local.run import rest as run_rest
from mlsys.local.storage import rest as storage_rest
from mlsys.local.storage.store import ObjectStore

if TYPE_CHECKING:
    from mlsys.local.run.service import CloudRun

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
LINGER_S = 15.0  # long enough for the next command to find it warm
_EVENTS_S = 60.0  # how long upload events may keep it; those that still fail then go out again at the next start
_SCRIPTS = Path(__file__).parents[2] / "scripts"
FUNCTION = _SCRIPTS / "model_registry" / "main.py"
PROGRAM = _SCRIPTS / "predict.py"  # what the image of the Cloud Run jobs runs


class Twin:
    """The services of one data folder.

    Parameters
    ----------
    folder
        Where everything is kept.
    port, grpc_port
        Ports on loopback; 0 takes the folder's last ones when they are free, else any.
    """

    def __init__(self, folder: Path, port: int = 0, grpc_port: int = 0) -> None:
        self._folder = folder
        self._lock = FileLock(folder / "twin.lock", timeout=30)
        self._lock.acquire()  # a twin that is just ending still holds the database
        self.faults = Faults()
        self._leases = 0
        self._idle_since = time.monotonic()
        self._stopping = False
        last = _last_addresses(folder)
        self._socket = _listen(port, int(last.http.rpartition(":")[2]) if last else None)
        self.engine = Engine(folder / "bigquery", self.faults)
        self.objects = ObjectStore(folder / "storage")
        grpc_hint = grpc_port or (last and _free(int(last.grpc.rpartition(":")[2]))) or 0
        self._grpc, grpc_port = readapi.serve(self.engine, HOST, grpc_hint)
        url = f"http://{HOST}:{self._socket.getsockname()[1]}"
        self.addresses = Addresses(url, f"{HOST}:{grpc_port}", os.getpid())
        self._settings = {"MLSYS_ENV": "local", "MLSYS_DATA_DIR": str(folder)}  # of the processes that work for us
        host = FunctionHost(FUNCTION, self._settings, folder / "function.log")
        self.events = Events(self.objects, host, self.faults)
        self.run = run_rest.LazyCloudRun(self._cloud_run)

    def app(self) -> web.Application:
        """Return the HTTP application."""
        app = web.Application(middlewares=[_loopback_only, http.google_errors], client_max_size=1 << 30)
        app[http.FAULTS] = self.faults
        app[bigquery_rest.ENGINE] = self.engine
        app[storage_rest.STORE] = self.objects
        app[run_rest.RUN] = self.run
        bigquery_rest.routes.install(app)
        run_rest.routes.install(app)
        app.add_routes(
            [
                web.get("/_mlsys/lease", self._lease),
                web.post("/_mlsys/provision", self._provision),
                web.get("/_mlsys/events", self._event_status),
                web.get(run_rest.LOGS + "/{execution}{file:(/[^/]+)?}", run_rest.log),
                web.get("/_mlsys/faults", self._fault_hits),
                web.post("/_mlsys/faults", self._add_faults),
                web.delete("/_mlsys/faults", self._clear_faults),
            ]
        )
        storage_rest.routes.install(app)
        return app

    def _cloud_run(self) -> "CloudRun":
        from mlsys.local.run.service import CloudRun

        url, folder = self.addresses.http, self._folder / "run"
        return CloudRun(folder, url, self.objects, PROGRAM, self._settings, self.faults)

    def provision(self, project: str, buckets: dict[str, str]) -> None:
        """Make what Terraform makes in the cloud, and let the registry function work for this project and buckets."""
        provision.claim(self._folder, project, buckets)
        named = {f"GCS_BUCKET_MODELS_{env.upper()}": bucket for env, bucket in buckets.items()}
        self._settings |= {"GCP_PROJECT_ID": project, **named}
        provision.provision(self.engine, self.objects, project, buckets.values())

    async def serve(self, *, forever: bool, ready: Callable[[Addresses], None]) -> None:
        """Serve until SIGTERM or SIGINT, or until idle unless ``forever``."""
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=2)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        self.events.start()
        _write_state(self._folder, self.addresses)
        logger.info("serving %s at %s (Read API %s)", self._folder, self.addresses.http, self.addresses.grpc)
        ready(self.addresses)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        while not stop.is_set() and (forever or not self._idle()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1.0)
        self._stopping = True
        await self.run.close()  # its tasks need the other services to say farewell
        await runner.cleanup()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End every service and close the stores."""
        self.events.close()
        self._grpc.stop(1).wait()
        self.engine.close()
        self.objects.close()
        self._lock.release()

    def _idle(self) -> bool:
        if self._leases or self.run.busy:
            self._idle_since = time.monotonic()
        return time.monotonic() - self._idle_since > (_EVENTS_S if self.events.pending() else LINGER_S)

    async def _lease(self, request: web.Request) -> web.StreamResponse:
        if self._stopping:  # whoever asks now starts the next one
            raise web.HTTPServiceUnavailable
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(json.dumps({"folder": str(self._folder), **asdict(self.addresses)}).encode() + b"\n")
        counts = "child" not in request.query
        self._leases += counts
        try:
            while request.transport is not None and not request.transport.is_closing():
                await asyncio.sleep(0.2)
        finally:
            self._leases -= counts
        return response

    async def _provision(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        await asyncio.to_thread(self.provision, wanted["project"], wanted["buckets"])
        return web.json_response({})

    async def _event_status(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.json_response(self.events.status())

    async def _fault_hits(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.json_response(self.faults.hits)

    async def _add_faults(self, request: web.Request) -> web.Response:
        body = await request.json()
        for fault in body["faults"]:
            self.faults.add(Fault(**fault), body.get("seed"))
        return web.json_response({})

    async def _clear_faults(self, request: web.Request) -> web.Response:  # noqa: ARG002
        self.faults.clear()
        return web.json_response({})


@web.middleware
async def _loopback_only(request: web.Request, handler: http.Handler) -> web.StreamResponse:
    # A page in this user's browser can reach loopback too: it names its own host (DNS rebinding) or sends an Origin.
    if request.url.host not in (HOST, "localhost") or "Origin" in request.headers:
        raise web.HTTPForbidden(text="the offline twin answers only programs on this machine")
    return await handler(request)


def run(
    folder: Path,
    *,
    port: int = 0,
    grpc_port: int = 0,
    forever: bool = False,
    seed: tuple[str, dict[str, str]] | None = None,
    ready: Callable[[Addresses], None] = lambda _: None,
) -> None:
    """Serve ``folder`` in this process until it is idle, or for ever.

    ``seed`` is the project and the model buckets to make before the first client; ``ready`` is called when clients can
    connect.

    Raises
    ------
    TwinError
        A port is taken, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        twin = Twin(folder, port, grpc_port)
    except (OSError, duckdb.Error) as exc:
        raise TwinError(f"cannot serve {folder}: {exc}") from exc

    if seed:
        twin.provision(*seed)
    asyncio.run(twin.serve(forever=forever, ready=ready))


def _listen(port: int, last: int | None) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for candidate in [port] if port else [last or 0, 0]:
        try:
            listener.bind((HOST, candidate))
        except OSError as exc:
            if port:
                raise TwinError(f"port {port} is taken ({exc.strerror}): choose another with --port, or none") from exc
        else:
            listener.listen(128)
            return listener
    raise TwinError("no free port on loopback")


def _free(port: int) -> int | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
    return port


def _last_addresses(folder: Path) -> Addresses | None:
    # The same ports again where possible: clients made before a restart go on working.
    try:
        return Addresses(**json.loads((folder / STATE_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_state(folder: Path, addresses: Addresses) -> None:
    new = folder / f"{STATE_FILE}.new"
    new.write_text(json.dumps(asdict(addresses)))
    new.replace(folder / STATE_FILE)
