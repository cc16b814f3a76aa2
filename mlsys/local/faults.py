"""Faults that the twin can be told to have, for tests: what a real cloud does on a bad day.

A rule selects operations by pattern (``storage.objects.*``) and says what happens, how often and with what chance.
Tests reach a running twin through `FaultClient`; the servers ask `Faults.take` once per call.
"""

import fnmatch
import random
import threading
from dataclasses import asdict, dataclass
from typing import Literal

from mlsys.local.errors import ApiError

Kind = Literal[
    "error", "error_after", "reset", "reset_after", "slow", "truncate", "corrupt", "job_error", "stream", "kill"
]
_REASONS = {400: "invalid", 403: "accessDenied", 404: "notFound", 429: "rateLimitExceeded", 500: "internalError"}


@dataclass(frozen=True)
class Fault:
    """One rule.

    Parameters
    ----------
    operation
        Pattern over ``service.resource.method``, e.g. ``bigquery.jobs.insert`` or ``storage.*``.
    kind
        ``error`` answers ``status`` instead of working; ``error_after`` works, then answers ``status``; ``reset`` and
        ``reset_after`` cut the connection before or after the work; ``slow`` only waits; ``truncate`` and ``corrupt``
        damage the body; ``job_error`` lets a BigQuery job end in ``backendError``; ``stream`` breaks a read stream
        with gRPC status ``grpc_status`` (``OK``: it just ends); ``kill`` ends an attempt at a Cloud Run task
        (``run.tasks.attempt``) with SIGKILL, ``delay_s`` after its start. A read stream breaks, or is slow, after its
        first ``after_rows`` rows.
    times
        How many calls suffer it, after ``skip`` calls that do not. None for no end.
    chance
        Probability that a call which could suffer it does.
    """

    operation: str
    kind: Kind
    status: int = 503
    times: int | None = 1
    skip: int = 0
    chance: float = 1.0
    delay_s: float = 0.0
    grpc_status: str = "UNAVAILABLE"
    after_rows: int = 0
    message: str = "injected fault"

    def error(self) -> ApiError:
        """Return the error that ``error`` and ``error_after`` answer with."""
        return ApiError(self.status, _REASONS.get(self.status, "backendError"), self.message)

    def damage(self, body: bytes) -> bytes:
        """Return ``body`` as it arrives: cut in half, or with one bit flipped in its middle."""
        if self.kind == "truncate":
            return body[: len(body) // 2]
        if self.kind == "corrupt" and body:
            middle = len(body) // 2
            return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        return body


class Faults:
    """The rules in force in a server process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[list] = []  # [fault, calls left to skip, calls left to hit (None: no end), random source]
        self.hits: dict[str, int] = {}

    def add(self, fault: Fault, seed: int | None = None) -> None:
        """Put a rule in force; ``seed`` makes its ``chance`` repeatable."""
        with self._lock:
            self._rules.append([fault, fault.skip, fault.times, random.Random(seed)])  # noqa: S311

    def clear(self) -> None:
        """Drop every rule and the counts."""
        with self._lock:
            self._rules.clear()
            self.hits.clear()

    def take(self, operation: str) -> Fault | None:
        """Return the fault that this call of ``operation`` suffers, if any, and count it."""
        with self._lock:
            for rule in self._rules:
                fault, skip, left, source = rule
                if left == 0 or not fnmatch.fnmatchcase(operation, fault.operation):
                    continue
                if source.random() >= fault.chance:
                    continue
                if skip:
                    rule[1] -= 1
                    continue
                if left is not None:
                    rule[2] -= 1
                self.hits[operation] = self.hits.get(operation, 0) + 1
                return fault
        return None


class FaultClient:
    """Drive the faults of a running twin over HTTP.

    Examples
    --------
    >>> faults = FaultClient("http://127.0.0.1:9050")  # doctest: +SKIP
    >>> faults.add(Fault("storage.objects.insert", "reset_after"))  # doctest: +SKIP
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/_mlsys/faults"

    def add(self, *faults: Fault, seed: int | None = None) -> None:
        """Put rules in force."""
        import requests

        requests.post(
            self._url, json={"faults": [asdict(f) for f in faults], "seed": seed}, timeout=10
        ).raise_for_status()

    def clear(self) -> None:
        """Drop every rule."""
        import requests

        requests.delete(self._url, timeout=10).raise_for_status()

    def hits(self) -> dict[str, int]:
        """Return how many calls of each operation suffered a fault since the last `clear`."""
        import requests

        return requests.get(self._url, timeout=10).json()
