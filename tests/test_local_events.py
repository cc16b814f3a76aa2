"""Upload events reach a real Cloud Function, at least once, whatever happens on the way."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mlsys.local.errors import ApiError
from mlsys.local.events import Events, cloud_event_headers
from mlsys.local.faults import Fault, Faults
from mlsys.local.function_host import FunctionHost
from mlsys.local.storage import store as storage_store
from mlsys.local.storage.store import Key, ObjectStore

# It writes down what it is given, dies on an object named die, fails N times on fail-N, and never takes poison.
FUNCTION = """
import json, os
import functions_framework

seen = {}

@functions_framework.cloud_event
def register_model(event):
    name = event.data["name"]
    seen[name] = seen.get(name, 0) + 1
    with open(os.environ["RECORD"], "a") as file:
        file.write(json.dumps([dict(event.get_attributes()), event.data]) + "\\n")
    print("registering", name, "x" * 1000)
    if name.startswith("die") and seen[name] == 1 and not os.path.exists(os.environ["RECORD"] + ".died"):
        open(os.environ["RECORD"] + ".died", "w").close()
        os._exit(3)
    if name.startswith("poison") or seen[name] <= int(name.partition("fail-")[2] or 0):
        raise RuntimeError("no")
"""


class Loop:
    """A store with its events and a function, without the HTTP service."""

    def __init__(self, folder: Path, source: str | None = FUNCTION) -> None:
        self.folder, self.record = folder, folder / "record.jsonl"
        folder.mkdir(exist_ok=True)
        if source:
            (folder / "main.py").write_text(source)
        self.faults = Faults()
        self.store = ObjectStore(folder / "storage")
        self.host = FunctionHost(folder / "main.py", {"RECORD": str(self.record)}, folder / "function.log")
        self.events = Events(self.store, self.host, self.faults)
        with contextlib.suppress(ApiError):  # it is there after a restart
            self.store.create_bucket("models", "p", {})

    def put(self, name: str, **fields: object) -> dict:
        """Store an object."""
        incoming = self.store.incoming()
        incoming.write([name.encode()])
        return self.store.commit(incoming.path, incoming.seal(), Key("models", name), fields, {})

    def received(self) -> list[tuple[dict, dict]]:
        """Return what the function was given: attributes and data."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [json.loads(line) for line in lines]

    def names(self) -> list[str]:
        """Return the objects that the function was told of."""
        return [data["name"] for _, data in self.received()]

    def wait(self, true, seconds: float = 20.0) -> None:
        """Wait until ``true()``."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, (
                self.events.status(),
                (self.folder / "function.log").read_text()[-2000:],
            )
            time.sleep(0.02)

    def settled(self) -> None:
        """Wait until no event is pending."""
        self.wait(lambda: self.events.pending() == 0)

    def close(self) -> None:
        """Stop as the twin does."""
        self.events.close()
        self.store.close()


@pytest.fixture
def loop(tmp_path):
    loop = Loop(tmp_path)
    loop.events.start()
    yield loop
    loop.close()


def test_event_has_the_documented_shape(loop):
    """The function gets a CloudEvent with the attributes and the data that Eventarc documents."""
    made = loop.put("titanic/v1/mödel 1.joblib", metadata={"uploader": "ann"}, contentType="x/y")
    loop.settled()
    ((attributes, data),) = loop.received()
    assert attributes["id"] == made["generation"]
    assert attributes["source"] == "//storage.googleapis.com/projects/_/buckets/models"
    assert attributes["type"] == "google.cloud.storage.object.v1.finalized"
    assert attributes["specversion"] == "1.0"
    assert attributes["time"].startswith(made["timeCreated"][:19])
    assert data == made
    for key in (
        "size",
        "generation",
        "metageneration",
        "bucket",
        "name",
        "timeCreated",
        "updated",
        "md5Hash",
        "crc32c",
    ):
        assert isinstance(data[key], str)
    assert (data["metadata"], data["contentType"]) == ({"uploader": "ann"}, "x/y")
    assert loop.events.status() == {"pending": 0, "delivered": 1, "failed_attempts": 0, "last_error": None}


def test_attributes_are_percent_encoded_as_the_binding_says():
    """What HTTP headers cannot carry is percent-encoded, and nothing else."""
    event = {"generation": "1", "bucket": "b", "timeCreated": "2024-01-01T00:00:00Z", "name": 'a b/é%"+~'}
    assert cloud_event_headers(event)["ce-subject"] == "objects/a%20b/%C3%A9%25%22+~"


def test_every_new_generation_is_an_event(loop):
    """Overwrites and copies finalize, metadata changes and deletions do not."""
    first = loop.put("a")
    second = loop.put("a")
    loop.store.change(Key("models", "a"), {}, lambda found: found | {"metadata": {"k": "v"}})
    loop.store.copy(second, Key("models", "b"), {}, {})
    loop.store.delete(Key("models", "a"), {})
    loop.settled()
    assert sorted(loop.names()) == ["a", "a", "b"]
    assert {first["generation"], second["generation"]} <= {data["generation"] for _, data in loop.received()}


def test_failures_are_tried_again_and_hold_up_nobody(loop):
    """A function that fails at first succeeds later; a poison event is tried on, while others go through."""
    loop.put("poison")
    loop.put("fail-3")
    for n in range(30):
        loop.put(f"good-{n}")
    loop.wait(lambda: loop.events.pending() == 1)
    assert loop.names().count("fail-3") == 4
    assert loop.names().count("poison") >= 2
    assert {f"good-{n}" for n in range(30)} <= set(loop.names())
    status = loop.events.status()
    assert status["delivered"] == 31
    assert status["failed_attempts"] >= 5
    loop.wait(lambda: "poison" in str(loop.events.status()["last_error"]))
    assert "500" in loop.events.status()["last_error"]
    assert "function.log" in loop.events.status()["last_error"]


def test_injected_faults(loop):
    """``error`` delays a delivery, ``error_after`` repeats it with the same id, ``slow`` slows it down."""
    loop.faults.add(Fault("events.deliver", "error", times=2))
    loop.put("late")
    loop.settled()
    assert loop.names() == ["late"]
    assert loop.events.status()["failed_attempts"] == 2
    loop.faults.add(Fault("events.deliver", "error_after"))
    loop.put("twice")
    loop.settled()
    assert loop.names() == ["late", "twice", "twice"]
    assert len({attributes["id"] for attributes, _ in loop.received()}) == 2
    loop.faults.add(Fault("events.deliver", "slow", delay_s=0.5))
    start = time.monotonic()
    loop.put("slow")
    loop.settled()
    assert time.monotonic() - start > 0.4


def test_function_that_dies_is_started_again(loop):
    """The event that killed it is delivered to the next process."""
    loop.put("die")
    loop.settled()
    assert loop.names() == ["die", "die"]


def test_function_that_cannot_load_keeps_events(tmp_path):
    """A broken function leaves the events, says so, and gets them when it is mended."""
    loop = Loop(tmp_path, "this is no Python")
    loop.events.start()
    loop.put("a")
    loop.wait(lambda: "does not start" in str(loop.events.status()["last_error"]))
    assert loop.events.pending() == 1
    assert "SyntaxError" in (tmp_path / "function.log").read_text()
    (tmp_path / "main.py").write_text(FUNCTION)
    loop.settled()
    assert loop.names() == ["a"]
    loop.close()


def test_missing_function_is_one_warning(tmp_path, caplog):
    """Without a function the events wait, and one line says why."""
    loop = Loop(tmp_path, None)
    with caplog.at_level(logging.WARNING):
        loop.events.start()
        loop.put("a")
        loop.put("b")
        loop.wait(lambda: loop.events.status()["failed_attempts"] >= 6)
    assert [record.getMessage() for record in caplog.records] == [
        f"upload events wait: there is no function at {tmp_path / 'main.py'}"
    ]
    assert loop.events.pending() == 2
    (tmp_path / "main.py").write_text(FUNCTION)
    loop.settled()
    loop.close()


def test_pending_events_go_out_after_a_restart(tmp_path):
    """What was not delivered is delivered by the next process, at once."""
    loop = Loop(tmp_path, None)
    loop.events.start()
    for n in range(10):
        loop.put(f"n-{n}")
    loop.wait(lambda: loop.events.status()["failed_attempts"] >= 10)
    loop.close()
    loop = Loop(tmp_path)
    assert loop.events.pending() == 10
    loop.events.start()
    loop.settled()
    assert sorted(loop.names()) == [f"n-{n}" for n in range(10)]
    loop.close()


def test_events_are_dropped_after_a_day(loop, caplog, monkeypatch):
    """As in production, an event that nobody takes is given up after 24 hours, with a line in the log."""
    with caplog.at_level(logging.WARNING):
        clock = time.time
        monkeypatch.setattr(storage_store.time, "time", lambda: clock() - 25 * 3600)
        loop.put("poison")
        monkeypatch.undo()
        loop.settled()
    assert loop.events.status()["delivered"] == 0
    assert "gave up on the upload event of gs://models/poison" in caplog.text


def test_close_ends_the_function(loop):
    """No process is left behind."""
    loop.put("a")
    loop.settled()
    child = psutil.Process(loop.host._process.pid)
    loop.close()
    assert not child.is_running()
    loop.store = ObjectStore(loop.folder / "storage")  # for the fixture to close


def test_closing_does_not_wait_for_a_function_that_hangs(tmp_path):
    """The twin ends at once, and the event is delivered next time."""
    loop = Loop(tmp_path, FUNCTION.replace("raise RuntimeError", "__import__('time').sleep(50); raise RuntimeError"))
    loop.events.start()
    loop.put("poison")
    loop.wait(lambda: loop.names() == ["poison"])
    start = time.monotonic()
    loop.close()
    assert time.monotonic() - start < 5
    store = ObjectStore(tmp_path / "storage")
    assert store.pending()[0] == 1
    store.close()


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_function_dies_with_its_parent(tmp_path):
    """A parent killed with -9 takes the function with it."""
    (tmp_path / "main.py").write_text(FUNCTION)
    code = """
import sys, time
from pathlib import Path
from mlsys.local.function_host import FunctionHost
folder = Path(sys.argv[1])
host = FunctionHost(folder / "main.py", {"RECORD": "r"}, folder / "function.log")
host.url()
print(host._process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    child.wait(10)
    assert not child.is_running()
