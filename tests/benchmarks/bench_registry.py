"""How long the commands take on a registry of 5,000 versions and 100,000 events, and the function for an event.

``uv run python -m tests.benchmarks.bench_registry`` prints seconds, and of each command the share that ``mlsys runs``
of an empty registry takes too: starting Python, Google's clients and pandas. It needs no account, and a minute or two.
"""

import logging
import os
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

START = datetime(2026, 1, 1, tzinfo=UTC)
COMMANDS = {
    "models list": [],
    "models list --json": [],
    "models show model-7 v50": [],
    "alias list": [],
    "alias list --at 2026-01-01": [],
    "history model-7": [],
    "alias set model-7 champion v3 --reason r": [],
    "rollback model-7 --reason r": [],
    "models retire model-7 v50 --reason r": [],
    "runs": [],
}


def versions(count):
    """Return rows of ml_registry.models: 50 models of ``count`` / 50 versions each."""
    names = [(f"model-{i % 50}", f"v{i // 50 + 1}") for i in range(count)]
    frame = pd.DataFrame(names, columns=["model_name", "model_version"])
    return frame.assign(
        environment="local", upload_timestamp=[START + timedelta(minutes=i) for i in range(count)], file_size=1,
        manifest_generation=1, manifest_sha256="0" * 64, created_timestamp=START, creator="a", task="binary",
        training_rows=1, python_version="3.12.1",
        gcs_uri=[f"gs://ml-models-local/{model}/{version}/" for model, version in names],
    )  # fmt: skip


def moves(count):
    """Return rows of ml_registry.events: two aliases of each model, moved over and over."""
    number = np.arange(count)
    model, sequence = number % 50, number // 100 + 1
    frame = pd.DataFrame({"event_id": number.astype(str), "sequence": sequence})
    version = [f"v{n}" for n in 1 + (sequence * 7) % 40]
    return frame.assign(
        event_timestamp=START + pd.to_timedelta(number, "s"), event_type="alias_set", environment="local", actor="a",
        model_name=[f"model-{n}" for n in model], model_version=version, reason="r",
        alias=np.where((number // 50) % 2, "champion", "challenger"),
    )  # fmt: skip


def command(text):
    """Return the seconds that a command takes."""
    started = time.perf_counter()
    done = subprocess.run(["mlsys", *text.split()], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    return time.perf_counter() - started


def one_event():
    """Return the median seconds in which the function, started, handles the event of a new version."""
    from cloudevents.http import CloudEvent
    from sklearn.linear_model import LinearRegression

    from mlsys import clients
    from mlsys.models import save_model
    from mlsys.names import MANIFEST_FILE
    from mlsys.settings import get_settings
    from scripts.model_registry.main import register_model

    frame = pd.DataFrame({"x": [0.0, 1.0]})
    saved = save_model(LinearRegression().fit(frame, [0, 1]), "bench", frame).manifest
    bucket, seconds = clients.storage_client().bucket(get_settings().model_bucket()), []
    for number in range(2, 42):
        new = saved.model_copy(update={"model_version": f"v{number}"})
        blob = bucket.blob(new.ref.blob_path(MANIFEST_FILE))
        blob.upload_from_string(new.to_json())
        data = {"bucket": bucket.name, "name": blob.name, "generation": str(blob.generation)}
        event = CloudEvent({"type": "google.cloud.storage.object.v1.finalized", "source": "s"}, data)
        started = time.perf_counter()
        register_model(event)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main():
    """Print the figures."""
    from mlsys.bq import bq_put
    from mlsys.local.faults import Fault, FaultClient
    from mlsys.local.launcher import join
    from mlsys.names import registry_table
    from mlsys.settings import get_settings

    logging.disable(logging.INFO)
    empty = min(command("runs") for _ in range(3))
    project = get_settings().gcp_project_id
    bq_put(versions(5_000), registry_table(project, "models"))
    bq_put(moves(100_000), registry_table(project, "events"))
    print(f"mlsys runs, nothing in the registry: {empty:.2f} s")
    for text in COMMANDS:
        seconds = min(command(text) for _ in range(3))
        print(f"mlsys {text}: {seconds:.2f} s, {seconds / empty:.2f} x")
    FaultClient(join(get_settings().data_dir).addresses.http).add(
        Fault("events.deliver", "slow", times=None, skip=2, delay_s=1e6)
    )
    print(f"the function, one event: {1000 * one_event():.0f} ms")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MLSYS_ENV": "local", "MLSYS_DATA_DIR": folder}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        main()
