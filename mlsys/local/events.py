"""Finalize events, delivered to the registry function at least once, as Eventarc does.

They wait in the store's outbox, written in the transaction that made their object, so that none is lost. A delivery
that failed is tried again, later and later, and holds up no other.
"""

import logging
import re
import threading
import time
from urllib.parse import quote

import requests

from mlsys.local.faults import Faults
from mlsys.local.function_host import FunctionHost
from mlsys.local.storage.store import ObjectStore, Resource

logger = logging.getLogger(__name__)

_PARALLEL = 4
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 10.0
_KEPT_S = 24 * 3600  # as long as Eventarc tries
_TIMEOUT_S = 60


class Events:
    """Deliver the finalize events of ``store`` to the function of ``host``, from `start` until `close`.

    Faults of the operation ``events.deliver``: ``error`` fails before the function is called, ``error_after`` after it
    did its work, so that it is called again, and ``slow`` waits.
    """

    def __init__(self, store: ObjectStore, host: FunctionHost, faults: Faults) -> None:
        self._store, self._host, self._faults = store, host, faults
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._under_way: set[str] = set()
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(_PARALLEL)]
        self._delivered, self._failed = 0, 0
        self._last_error: str | None = None

    def start(self) -> None:
        """Begin with what an earlier process left, and go on with what comes."""
        self._store.on_finalize = self._notify
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """End the deliveries and the function; what is not delivered yet goes out after the next start."""
        self._closing.set()
        self._notify()
        self._host.close()
        for worker in self._workers:
            if worker.is_alive():
                worker.join()

    def pending(self) -> int:
        """Return how many events are not delivered yet."""
        return self._store.pending()[0]

    def status(self) -> Resource:
        """Return the counts that tell a person why nothing is registered."""
        counts = {"pending": self.pending(), "delivered": self._delivered, "failed_attempts": self._failed}
        return counts | {"last_error": self._last_error}

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _work(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                due = self._store.due_events(_PARALLEL)
                free = [one for one in due if one[0]["generation"] not in self._under_way]
                if not free:
                    self._changed.wait(min(self._store.pending()[1], 60.0))
                    continue
                self._under_way.add(free[0][0]["generation"])
            try:
                self._attempt(*free[0])
            finally:
                with self._changed:
                    self._under_way.discard(free[0][0]["generation"])

    def _attempt(self, event: Resource, queued: float, attempts: int) -> None:
        what = f"gs://{event['bucket']}/{event['name']}"
        try:
            if time.time() - queued > _KEPT_S:
                logger.warning("gave up on the upload event of %s after 24 hours: %s", what, self._last_error)
            else:
                self._deliver(event)
                self._delivered += 1
            self._store.settle(event)
        except Exception as error:  # noqa: BLE001  # whatever it was, the event is tried again
            if self._closing.is_set():
                return
            self._failed += 1
            self._last_error = f"{what}: {error}"
            self._store.postpone(event, min(_LAST_RETRY_S, _FIRST_RETRY_S * 2 ** min(attempts, 30)))

    def _deliver(self, event: Resource) -> None:
        fault = self._faults.take("events.deliver")
        if fault:
            self._closing.wait(fault.delay_s)
        if fault and fault.kind == "error":
            raise fault.error()
        url = self._host.url()
        with requests.Session() as http:
            http.trust_env = False  # no proxy between the twin and its function
            reply = http.post(url, json=event, headers=cloud_event_headers(event), timeout=_TIMEOUT_S)
        if not reply.ok:
            raise RuntimeError(f"the function answered {reply.status_code}; see {self._host.log}")
        if fault and fault.kind == "error_after":
            raise fault.error()


def cloud_event_headers(event: Resource) -> dict[str, str]:
    """Return the attributes of an object's finalize event as a CloudEvent in HTTP's binary mode has them."""
    attributes = {
        "id": event["generation"],  # an object is finalized once, and a redelivery keeps its id
        "source": f"//storage.googleapis.com/projects/_/buckets/{event['bucket']}",
        "specversion": "1.0",
        "subject": f"objects/{event['name']}",
        "time": event["timeCreated"],
        "type": "google.cloud.storage.object.v1.finalized",
    }
    # CloudEvents' HTTP binding: what is not printable ASCII, and space, quote and percent, is percent-encoded.
    return {
        f"ce-{key}": re.sub(r"[^!#$&-~]+", lambda m: quote(m[0], safe=""), value) for key, value in attributes.items()
    }
