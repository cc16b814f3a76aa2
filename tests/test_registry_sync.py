"""Whatever becomes of upload events, the registry is what the bucket says.

At full size, ten thousand objects and their events in four orders::

    MLSYS_UPLOAD_EVENTS=10000 uv run pytest tests/test_registry_sync.py -s -n 0 -k order --timeout 7200
"""

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from cloudevents.http import CloudEvent
from sklearn.linear_model import LinearRegression

from mlsys import clients
from mlsys.bq import bq_get
from mlsys.cli import main
from mlsys.local import attach
from mlsys.local.faults import Fault, FaultClient
from mlsys.models import save_model
from mlsys.names import MANIFEST_FILE, MODEL_FILE, registry_table
from mlsys.registry import sync
from mlsys.settings import get_settings
from scripts.model_registry import main as function

FRAME = pd.DataFrame({"x": [0.0, 1.0]})


@pytest.fixture
def own_twin(tmp_path, monkeypatch):
    """A twin whose upload events are never delivered: the test delivers them."""
    monkeypatch.setenv("MLSYS_DATA_DIR", str(tmp_path / "own"))
    get_settings.cache_clear()
    settings = get_settings()
    addresses = attach(settings.data_dir, project=settings.gcp_project_id, buckets=settings.model_buckets)
    FaultClient(addresses.http).add(Fault("events.deliver", "slow", times=None, delay_s=1e6))
    yield settings
    os.kill(addresses.pid, signal.SIGTERM)
    get_settings.cache_clear()


def table():
    """The registry's rows, as text."""
    models = registry_table(get_settings().gcp_project_id, "models")
    frame = bq_get(f"SELECT * FROM {models.sql} ORDER BY environment, model_name, model_version", progress=False)
    return frame.astype(str).to_dict("records")


def forget():
    models = registry_table(get_settings().gcp_project_id, "models")
    clients.bigquery_client().query_and_wait(f"DELETE FROM {models.sql} WHERE TRUE")


def empty_bucket():
    for blob in clients.storage_client().list_blobs(get_settings().model_bucket(), versions=True):
        blob.delete()


def manifests(count):
    """Yield paths and contents of manifests like one that was saved, for versions of models that nobody saved."""
    saved = json.loads(save_model(LinearRegression().fit(FRAME, [0, 1]), "m", FRAME, wait=False).manifest.to_json())
    empty_bucket()
    for i in range(count):
        name, version = f"model-{i // 20}", f"v{i % 20 + 1}"
        text = json.dumps(saved | {"model_name": name, "model_version": version, "description": f"number {i}"})
        yield f"{name}/{version}/", text


def upload(folder, content, rng):
    """Put a version's files into the bucket, as savers and others do; return the events, the earliest first."""
    bucket = clients.storage_client().bucket(get_settings().model_bucket())
    wanted = [(MODEL_FILE, "model"), (MANIFEST_FILE, content)]
    odd = rng.random()
    if odd < 0.05:  # overwritten later
        wanted.append((MANIFEST_FILE, content.replace("number", "another")))
    elif odd < 0.08:  # spoilt, and some mended
        wanted[1:] = [(MANIFEST_FILE, content[:-20]), *([(MANIFEST_FILE, content)] if odd < 0.065 else [])]
    elif odd < 0.12:
        wanted.insert(rng.randrange(3), ("notes.txt", "foreign"))
    events = []
    for file, text in wanted:
        blob = bucket.blob(folder + file)
        blob.upload_from_string(text)
        events.append({"bucket": bucket.name, "name": blob.name, "generation": str(blob.generation), "size": "1"})
    if 0.12 < odd < 0.15:
        bucket.blob(folder + MANIFEST_FILE).delete()
    return events


def foreign(rng):
    """Return an event that is none of ours, or none at all."""
    ours = get_settings().model_bucket()
    return rng.choice(
        [
            {"bucket": "another", "name": f"m/v1/{MANIFEST_FILE}", "generation": "1"},
            {"bucket": ours, "name": f"model-0/v1/{MANIFEST_FILE}", "generation": "1"},
            {"bucket": ours, "name": "README.md", "generation": "5"},
            {"bucket": ours, "name": f"_runs/a/b/{MANIFEST_FILE}", "generation": "5"},
            {"bucket": ours, "name": f"m/v1/{MANIFEST_FILE}", "generation": "x"},
            {"bucket": ours}, {}, None, [], "text", 7,
        ]
    )  # fmt: skip


def deliver(data):
    attributes = {"type": "google.cloud.storage.object.v1.finalized", "source": "//storage.googleapis.com/x"}
    function.register_model(CloudEvent(attributes, data))


@pytest.mark.usefixtures("own_twin")
def test_events_in_any_order_and_number_make_the_table_that_sync_makes():
    """Duplicates, strangers, nonsense, overwritten and deleted manifests: four orders, then none at all."""
    count, rng = int(os.environ.get("MLSYS_UPLOAD_EVENTS", "60")), random.Random(11)
    versions = list(manifests(int(count * 0.9 / 2.05)))
    with ThreadPoolExecutor(4) as pool:
        seeded = [(folder, text, random.Random(i)) for i, (folder, text) in enumerate(versions)]
        events = [event for found in pool.map(lambda version: upload(*version), seeded) for event in found]
    events += [foreign(rng) for _ in range(count - len(events))]
    deliveries = [event for event in events for _ in range(rng.randint(1, 3))]
    orders = [deliveries, deliveries[::-1], *(rng.sample(deliveries, len(deliveries)) for _ in range(2))]
    outcomes, seconds = [], []
    for order in orders:
        forget()
        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(deliver, order))
        seconds.append((time.monotonic() - started) / len(order))
        outcomes.append(table())
    forget()
    started = time.monotonic()
    synced = sync(progress=False)
    print(
        f"\n{len(events)} events, {len(deliveries)} deliveries in each of {len(orders)} orders: {len(outcomes[0])} rows"
    )
    print(f"{1000 * min(seconds):.1f} ms a delivery; sync of all in {time.monotonic() - started:.0f} s")
    assert len(outcomes[0]) > 0.9 * len(versions)
    assert [outcome == outcomes[0] for outcome in outcomes] == [True] * len(orders)
    assert table() == outcomes[0]
    assert (len(synced.registered), synced.gone) == (len(outcomes[0]), ())
    again = sync(progress=False)
    assert (len(again.unchanged), again.registered, again.refused) == (len(outcomes[0]), (), synced.refused)


@pytest.mark.usefixtures("own_twin")
def test_lost_event_is_made_good(capsys):
    """Nobody heard of v1: sync registers it; what left the bucket stays in the table, and is named."""
    saved = save_model(LinearRegression().fit(FRAME, [0, 1]), "lost", FRAME, wait=False)
    assert table() == []
    with pytest.raises(SystemExit):
        main(["models", "sync"])
    assert "1 registered now: lost/v1" in capsys.readouterr().out
    assert [row["model_version"] for row in table()] == ["v1"]
    empty_bucket()
    with pytest.raises(SystemExit):
        main(["models", "sync", "--json"])
    assert json.loads(capsys.readouterr().out)["gone"] == [str(saved.ref)]
    assert len(table()) == 1
