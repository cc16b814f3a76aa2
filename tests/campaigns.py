"""What the campaigns share: runs as processes that can be killed, faults as on a bad day, and a reader that watches.

A task is a real process. Most are forks of a server that has imported what they need: they cost a tenth of a second
instead of four. A ``fresh`` one is ``python scripts/predict.py``, as Cloud Run starts it.
"""

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from google.api_core.exceptions import NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, storage
from google.cloud.bigquery_storage import BigQueryReadClient
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

from mlsys import clients
from mlsys.local.faults import Fault
from mlsys.settings import get_settings

ROOT = Path(__file__).parents[1]
RESUMED = ("UNAVAILABLE", "UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED")
REFUSED = ("NOT_FOUND", "PERMISSION_DENIED")
_IMPORTS = ["scripts.predict", "mlsys.cli", "mlsys.predict", "google.cloud.bigquery", "google.cloud.storage",
            "google.cloud.bigquery_storage", "sklearn.linear_model", "pandas", "pyarrow.parquet"]  # fmt: skip
_lock = threading.Lock()  # multiprocessing reaps from whichever thread comes by, and two would take one exit code


@dataclass(frozen=True)
class TaskSpec:
    """One task of an execution, as Cloud Run would start it. ``environment`` are more variables for it."""

    arguments: tuple[str, ...]
    execution: str
    logs: Path
    index: int = 0
    count: int = 1
    fresh: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    def start(self, attempt: int = 0) -> "Task":
        """Start an attempt at it."""
        return Task(self, attempt)

    def until_done(self, retries: int = 4) -> list[int]:
        """Start it again while it fails; return all exit codes."""
        codes = []
        while len(codes) <= retries and (not codes or codes[-1]):
            codes.append(self.start(len(codes)).wait())
        return codes

    def log(self, attempt: int) -> Path:
        """Return the file that has what an attempt said."""
        return self.logs / f"{self.execution}-{self.index}-{attempt}.log"


class Task:
    """A running task, in a process group of its own."""

    def __init__(self, spec: TaskSpec, attempt: int) -> None:
        env = os.environ | dict(spec.environment) | {
            "CLOUD_RUN_JOB": "campaign", "CLOUD_RUN_EXECUTION": spec.execution, "CLOUD_RUN_TASK_INDEX": str(spec.index),
            "CLOUD_RUN_TASK_COUNT": str(spec.count), "CLOUD_RUN_TASK_ATTEMPT": str(attempt),
        }  # fmt: skip
        if spec.fresh:
            env["PYTHONPATH"] = str(ROOT)
            command = [sys.executable, str(ROOT / "scripts" / "predict.py"), *spec.arguments]
            with spec.log(attempt).open("ab") as log:
                self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            self._poll: Callable[[], int | None] = self._process.poll
        else:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(_IMPORTS)
            self._process = process = context.Process(target=_main, args=(spec.arguments, env, spec.log(attempt)))
            with _lock:
                process.start()
            self._poll = lambda: process.exitcode
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        """Return how it ended; None while it runs."""
        with _lock:
            return self._poll()

    def wait(self, timeout: float = 240) -> int:
        """Return how it ended."""
        end = time.monotonic() + timeout
        while (code := self.exit_code()) is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"a task has not ended after {timeout} s")
            time.sleep(0.01)
        return code

    def kill(self, *, group: bool = False) -> bool:
        """``kill -9`` it, or it and the processes that it has started; say whether it was still there."""
        try:
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def _main(arguments: tuple[str, ...], env: dict[str, str], log: Path) -> None:
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    from scripts.predict import main

    main(list(arguments))


def kill_at_random(rng: random.Random, specs: list[TaskSpec], kills: int, span: float) -> tuple[int, list[int]]:
    """Run tasks at once, each started again until it exits 0, and kill some of them at random moments.

    Return how many were killed, and the exit codes that were neither 0 nor ours.
    """
    running = {spec: (spec.start(), 0) for spec in specs}
    killed, odd, due = 0, [], time.monotonic() + rng.uniform(0, span)
    while running:
        time.sleep(0.005)
        for spec, (task, attempt) in list(running.items()):
            if (code := task.exit_code()) is None:
                continue
            if code not in (0, -signal.SIGKILL):
                odd.append(code)
            del running[spec]
            if code:
                assert attempt < kills + 4, spec.log(attempt).read_text()[-2000:]
                running[spec] = (spec.start(attempt + 1), attempt + 1)
        if killed < kills and time.monotonic() >= due and running:
            task, _ = rng.choice(list(running.values()))
            killed += task.kill(group=rng.random() < 0.5)
            due = time.monotonic() + rng.uniform(0, span / 2)
    return killed, odd


def bad_day(rng: random.Random, rows: int) -> list[Fault]:
    """Return rules by which a fifth of all calls to BigQuery and Cloud Storage fail, each in one of these ways."""
    calls = {"error": (503, 429), "reset": (0,), "reset_after": (0,), "error_after": (504,)}
    each, one_of_six = 1 - 0.8 ** (1 / 5), 1 - 0.8 ** (1 / 6)
    return [
        Fault("bigquery.jobs.run", "job_error", times=None, chance=0.2),
        Fault("bigqueryread.CreateReadSession", "error", times=None, chance=0.2),
        *(Fault("bigqueryread.ReadRows", "stream", times=None, chance=one_of_six, grpc_status=status,
                after_rows=rng.randrange(rows)) for status in RESUMED),
        *(Fault(service, kind, status, times=None, chance=each) for service in ("bigquery.[!j]*", "bigquery.jobs.[!r]*",
                "storage.*") for kind, statuses in calls.items() for status in statuses),
    ]  # fmt: skip


class Reader(threading.Thread):
    """Polls the rows of one run, as a dashboard would; ``seen`` are all states that it ever saw."""

    def __init__(self, table: str, run_id: str, pause: float = 0.02) -> None:
        super().__init__(daemon=True)
        where = f"FROM `{table}` WHERE run_id = '{run_id}'"
        self._query = f"SELECT COUNT(*), COUNT(DISTINCT id), COUNT(DISTINCT prediction_timestamp) {where}"
        self.seen: set[tuple[int, int, int]] = set()
        self.polls, self._pause = 0, pause
        self._stop_now = threading.Event()

    def run(self) -> None:
        """Poll until the block ends."""
        client = clients.bigquery_client(get_settings())
        while not self._stop_now.wait(self._pause):
            try:
                (row,) = client.query_and_wait(self._query)
            except NotFound:  # no run has made the table yet
                continue
            self.seen.add(tuple(row.values()))
            self.polls += 1

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_now.set()
        self.join()


class SilentServer:
    """A port that takes connections and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)  # the kernel accepts; nobody else does
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def bigquery(self) -> bigquery.Client:
        """Return a client that talks to it."""
        options = {"api_endpoint": f"http://{self.address}"}
        return bigquery.Client("silent-project", AnonymousCredentials(), client_options=options)

    def storage(self) -> storage.Client:
        """Return a client that talks to it."""
        options = {"api_endpoint": f"http://{self.address}"}
        return storage.Client("silent-project", AnonymousCredentials(), client_options=options)

    def read(self) -> BigQueryReadClient:
        """Return a client that talks to it."""
        channel = grpc.insecure_channel(self.address)
        return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))


def left_over(execution: str, patience: float = 10) -> list[str]:
    """Return the processes that an execution's fresh tasks have left behind, after some time to end."""
    end = time.monotonic() + patience
    while (found := _processes_of(execution)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _processes_of(execution: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CLOUD_RUN_EXECUTION") == execution and process.status() != "zombie":
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    return found
