"""Upload events become rows of ml_registry.models, however they arrive."""

import importlib.util
import json
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from cloudevents.http import CloudEvent
from google.api_core.exceptions import Forbidden, GoogleAPICallError, GoogleAPIError, ServerError
from sklearn.linear_model import LinearRegression

from mlsys.errors import NotFoundError, VerificationError
from mlsys.local.faults import Fault
from mlsys.models import save_model
from mlsys.names import MANIFEST_FILE, MODEL_FILE, ModelRef, registry_table
from mlsys.registry import UploadEvent, files, find_version, list_versions, register, wait_for_version

ROOT = Path(__file__).parents[1]
FRAME = pd.DataFrame({"x": [0.0, 1.0]})


def save(model_name, **options):
    return save_model(LinearRegression().fit(FRAME, [0, 1]), model_name, FRAME, **options)


@pytest.fixture(scope="module")
def function():
    """The Cloud Function itself."""
    spec = importlib.util.spec_from_file_location("registry_function", ROOT / "scripts/model_registry/main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.register_model


def rows(bigquery_client, model_name):
    table = registry_table(bigquery_client.project, "models")
    sql = f"SELECT * FROM {table.sql} WHERE model_name = '{model_name}' ORDER BY model_version"
    return [dict(row) for row in bigquery_client.query_and_wait(sql)]


def event_of(storage_client, settings, ref, file=MANIFEST_FILE):
    blob = storage_client.bucket(settings.model_bucket()).get_blob(ref.blob_path(file))
    return UploadEvent(settings.model_bucket(), blob.name, blob.generation)


def cloud_event(data):
    return CloudEvent({"type": "google.cloud.storage.object.v1.finalized", "source": "//storage", "id": "1"}, data)


def test_saved_version_is_registered_with_every_field(model_name, bigquery_client, settings, storage_client):
    """The twin delivers the upload to the real function; the row has what the plan asks for, and the manifest."""
    saved = save(model_name, metrics={"r2": 1.0}, training_query="SELECT 1", description="A line")
    (row,) = rows(bigquery_client, model_name)
    blob = storage_client.bucket(settings.model_bucket()).get_blob(saved.ref.blob_path(MANIFEST_FILE))
    assert row["environment"] == "local"
    assert (row["model_name"], row["model_version"]) == (model_name, "v1")
    assert row["upload_timestamp"] == blob.time_created
    assert row["file_size"] == saved.manifest.artifacts[0].size
    assert row["uploader"] == blob.metadata["uploader"]
    assert row["manifest_generation"] == blob.generation
    assert row["gcs_uri"] == f"gs://{settings.model_bucket()}/{model_name}/v1/"
    model = storage_client.bucket(settings.model_bucket()).get_blob(saved.ref.blob_path(MODEL_FILE))
    assert row["artifacts"] == [saved.manifest.artifacts[0].model_dump() | {"generation": model.generation}]
    assert (row["training_query"], row["training_rows"], row["description"]) == ("SELECT 1", 2, "A line")
    assert row["metrics"] == {"r2": 1.0}
    assert row["packages"] == saved.manifest.packages


def test_first_generation_of_a_file_counts(model_name, bigquery_client, storage_client, settings):
    """Overwritten before the event came, or gone for good: what is registered does not depend on when it is."""
    ref = save(model_name).ref
    bucket = storage_client.bucket(settings.model_bucket())
    first = bucket.get_blob(ref.blob_path(MODEL_FILE)).generation
    bucket.blob(ref.blob_path(MODEL_FILE)).upload_from_string(b"another")
    for generations in ([first], [None]):
        bigquery_client.query_and_wait(f"DELETE FROM ml_registry.models WHERE model_name = '{model_name}'")
        register(event_of(storage_client, settings, ref))
        (row,) = rows(bigquery_client, model_name)
        assert [file["generation"] for file in row["artifacts"]] == generations
        for blob in bucket.list_blobs(prefix=ref.blob_path(MODEL_FILE), versions=True):
            blob.delete()


def test_a_hundred_events_at_once(model_name, bigquery_client, storage_client, settings):
    """And those that the twin delivers beside them: one row for each version."""
    manifest = save(model_name).manifest
    bucket = storage_client.bucket(settings.model_bucket())

    def upload(number):
        blob = bucket.blob(f"{model_name}/v{number}/{MANIFEST_FILE}")
        blob.upload_from_string(manifest.model_copy(update={"model_version": f"v{number}"}).to_json())
        return UploadEvent(bucket.name, blob.name, blob.generation)

    with ThreadPoolExecutor(100) as pool:
        events = list(pool.map(upload, range(2, 102)))
        assert [ref.number for ref in pool.map(register, events)] == list(range(2, 102))
    assert sorted(row["model_version"] for row in rows(bigquery_client, model_name)) == sorted(
        f"v{number}" for number in range(1, 102)
    )


def test_repeated_events_change_nothing(model_name, bigquery_client, storage_client, settings):
    """At least once means more than once."""
    ref = save(model_name).ref
    before = rows(bigquery_client, model_name)
    for _ in range(3):
        assert register(event_of(storage_client, settings, ref)) == ref
    assert rows(bigquery_client, model_name) == before


def test_order_of_events_does_not_matter(model_name, bigquery_client, storage_client, settings):
    """Shuffled, repeated, mixed with foreign ones: the same table."""
    refs = [save(model_name, wait=False).ref for _ in range(4)]
    deadline = time.monotonic() + 30
    while len(rows(bigquery_client, model_name)) < len(refs) and time.monotonic() < deadline:
        time.sleep(0.1)
    before = rows(bigquery_client, model_name)
    events = [
        event_of(storage_client, settings, ref, file) for ref in refs for file in (MANIFEST_FILE, "model.joblib")
    ] * 2
    random.Random(1).shuffle(events)
    for event in events:
        register(event)
    assert len(before) == 4
    assert rows(bigquery_client, model_name) == before


def test_first_manifest_counts(model_name, bigquery_client, storage_client, settings):
    """Somebody overwrites a manifest: what was registered stays, whichever event comes last."""
    ref = save(model_name).ref
    before = rows(bigquery_client, model_name)
    first = event_of(storage_client, settings, ref)
    blob = storage_client.bucket(settings.model_bucket()).blob(ref.blob_path(MANIFEST_FILE))
    forged = json.loads(blob.download_as_bytes()) | {"creator": "somebody else"}
    blob.upload_from_string(json.dumps(forged))
    second = event_of(storage_client, settings, ref)
    assert second.generation > first.generation
    for event in (second, first, second):
        register(event)
    assert rows(bigquery_client, model_name) == before


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "titanic/manifest.json", "Titanic/v1/manifest.json", "m/v1/model.joblib", "m/v1/x/manifest.json"],
)
def test_foreign_objects_are_ignored(storage_client, settings, name):
    """A bucket holds other files too."""
    blob = storage_client.bucket(settings.model_bucket()).blob(name)
    blob.upload_from_string("anything")
    assert register(UploadEvent(settings.model_bucket(), name, blob.generation)) is None


def test_foreign_bucket_is_ignored(bucket, storage_client):
    """Only the model buckets of the settings count."""
    storage_client.bucket(bucket).blob("m/v1/manifest.json").upload_from_string("{}")
    assert register(UploadEvent(bucket, "m/v1/manifest.json", 1)) is None


def test_deleted_manifest_is_acknowledged(settings, model_name):
    """The event was late and the object is gone."""
    assert register(UploadEvent(settings.model_bucket(), f"{model_name}/v1/manifest.json", 12345)) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"format": 2}'])
def test_malformed_manifest_is_acknowledged(storage_client, settings, model_name, content, caplog):
    """Repeating it would not help: it is logged and done with."""
    blob = storage_client.bucket(settings.model_bucket()).blob(f"{model_name}/v1/manifest.json")
    blob.upload_from_string(content)
    assert register(UploadEvent(settings.model_bucket(), blob.name, blob.generation)) is None
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("artifacts",), []),
        (("artifacts", 0, "size"), 1 << 63),
        (("artifacts", 0, "size"), -1),
        (("artifacts", 0, "file"), "../../etc/passwd"),
        (("artifacts", 0, "file"), ".hidden"),
        (("artifacts", 0, "file"), "model.joblib\n"),
        (("training_rows",), 1 << 63),
        (("training_rows",), -1),
        (("metrics",), {"r2": float("nan")}),
        (("metrics",), {"r2": float("inf")}),
        (("created",), "9999-12-31T23:59:59-12:00"),
    ],
)
def test_manifest_that_no_row_can_hold_is_acknowledged(storage_client, settings, model_name, path, value, caplog):
    """BigQuery would refuse its row each time that the event came."""
    blob = storage_client.bucket(settings.model_bucket()).blob(f"{model_name}/v1/manifest.json")
    manifest = json.loads(save(model_name, wait=False).manifest.to_json())
    part = manifest
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    blob.upload_from_string(json.dumps(manifest))
    assert register(UploadEvent(settings.model_bucket(), blob.name, blob.generation)) is None
    assert f"cannot be read ({path[0]}" in caplog.text


def test_huge_manifest_is_acknowledged_without_a_download(storage_client, settings, model_name, twin, caplog):
    """No manifest has 10 MiB."""
    blob = storage_client.bucket(settings.model_bucket()).blob(f"{model_name}/v1/manifest.json")
    blob.upload_from_string(b" " * ((10 << 20) + 1))
    twin.faults.add(Fault("storage.objects.get_media", "error", status=501, times=None))
    assert register(UploadEvent(settings.model_bucket(), blob.name, blob.generation)) is None
    assert "10,485,761 bytes" in caplog.text


def test_metrics_keep_every_digit(model_name, bigquery_client):
    """Seventeen digits, and what BigQuery's PARSE_JSON would refuse as a number."""
    metrics = {"a": 0.6518122320018055, "b": 67.174118, "c": 1e-300, "d": 5e-324}
    save(model_name, metrics=metrics)
    assert rows(bigquery_client, model_name)[0]["metrics"] == metrics


def test_registering_job_is_labelled(model_name, bigquery_client):
    """The bill tells which model a job was for."""
    save(model_name)
    found = [job.labels for job in bigquery_client.list_jobs(max_results=50) if job.labels.get("model") == model_name]
    assert {"env": "local", "model": model_name, "model_version": "v1", "managed_by": "mlsys"} in found


def test_waiting_is_for_the_manifest_that_was_written(model_name):
    """The version is there, but with another manifest; or it is not there."""
    ref = save(model_name).ref
    found = find_version(model_name)
    assert wait_for_version(ref, manifest_sha256=found.manifest_sha256, timeout_s=0.1) == found
    with pytest.raises(VerificationError, match=f"another manifest is registered for {ref}"):
        wait_for_version(ref, manifest_sha256="0" * 64, timeout_s=0.1)
    with pytest.raises(NotFoundError, match="v2 was saved but is not in the registry"):
        wait_for_version(ModelRef(model_name, "v2"), manifest_sha256="0" * 64, timeout_s=0.1)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"bucket": "b"},
        [],
        "text",
        *({"bucket": "b", "name": "n", "generation": g} for g in ("x", 0, 1 << 63)),
    ],
)
def test_malformed_events_are_acknowledged(function, data, caplog):
    """The function logs them and returns."""
    function(cloud_event(data))
    assert "dropped event 1" in caplog.text


def test_function_registers_events_as_google_sends_them(
    function, model_name, storage_client, settings, bigquery_client
):
    """Numbers arrive as text."""
    ref = save(model_name, wait=False).ref
    event = event_of(storage_client, settings, ref)
    function(
        cloud_event({"bucket": event.bucket, "name": event.name, "generation": str(event.generation), "size": "1"})
    )
    assert [row["model_version"] for row in rows(bigquery_client, model_name)] == ["v1"]


@pytest.mark.parametrize(
    ("operation", "status", "message", "raised"),
    [
        ("storage.objects.get*", 501, "injected fault", ServerError),
        ("bigquery.jobs.*", 403, "injected fault", Forbidden),
        ("bigquery.jobs.*", 400, "Could not serialize access to table models", GoogleAPICallError),
    ],
    ids=["storage", "bigquery", "contention"],
)  # statuses that Google's clients do not repeat for minutes
def test_passing_failure_is_raised_so_that_the_event_comes_again(
    model_name, twin, storage_client, settings, operation, status, message, raised
):
    """Whatever may go away by itself is no reason to drop an event."""
    ref = save(model_name).ref
    event = event_of(storage_client, settings, ref)
    twin.faults.add(Fault(operation, "error", status=status, times=None, message=message))
    with pytest.raises(raised, match=message):
        register(event)
    twin.faults.clear()
    assert register(event) == ref


@pytest.mark.timeout(60)
def test_failed_job_is_given_up_soon_and_the_event_comes_again(model_name, twin, storage_client, settings):
    """Google's client would repeat the request, which is the same failed job, for ten minutes."""
    ref = save(model_name).ref
    event = event_of(storage_client, settings, ref)
    twin.faults.add(Fault("bigquery.jobs.run", "job_error", times=1))
    with pytest.raises(GoogleAPIError):
        register(event)
    assert register(event) == ref


def test_row_that_bigquery_calls_invalid_is_acknowledged(model_name, twin, storage_client, settings, caplog):
    """It would be invalid the next time too."""
    event = event_of(storage_client, settings, save(model_name).ref)
    twin.faults.add(Fault("bigquery.jobs.*", "error", status=400, times=None))
    assert register(event) is None
    assert f"refused {event}: BigQuery does not take its row" in caplog.text


def test_undelivered_event_comes_again(model_name, twin):
    """The twin delivers in the end, and save_model waits for it."""
    twin.faults.add(Fault("events.deliver", "error", times=3))
    assert save(model_name).ref == ModelRef(model_name, "v1")


def test_duplicate_delivery_by_the_twin(model_name, twin, bigquery_client):
    """Delivered, but the acknowledgement was lost: delivered again."""
    twin.faults.add(Fault("events.deliver", "error_after", times=4))
    save(model_name)
    assert len(rows(bigquery_client, model_name)) == 1


def test_lookup_lists_versions_by_number(model_name):
    """v10 comes after v9."""
    for _ in range(10):
        save(model_name, wait=False)
    save(model_name)
    deadline = time.monotonic() + 30
    while len(list_versions(model_name)) < 11 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(list_versions(model_name)["model_version"]) == [f"v{i}" for i in range(1, 12)]
    assert find_version(model_name).ref.number == 11


def test_sql_and_schema_have_the_same_columns():
    """Every column of the table is selected, updated (the key's aside) and inserted by name, and described."""
    sql = files.sql("register_model", "shoufianesys")
    names = [field["name"] for field in files.schema("models")]
    inserted, values = re.search(r"INSERT \((.*?)\) VALUES \((.*?)\)", sql, re.S).groups()
    assert re.findall(r"\w+", inserted) == names
    assert re.findall(r"source\.(\w+)", values) == names
    assert re.findall(r"^    .* AS (\w+),?$", sql, re.M) == names
    assert re.findall(r"^  (\w+) = source\.\1,?$", sql, re.M) == names[3:]
    assert all(field["description"] for field in files.schema("models"))


def test_function_imports_only_what_it_is_deployed_with():
    """Neither pandas nor scikit-learn nor DuckDB: they are not in its requirements."""
    code = (
        "import runpy, sys; runpy.run_path('scripts/model_registry/main.py');"
        "print([m for m in ('pandas', 'pyarrow', 'sklearn', 'duckdb', 'joblib', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_requirements_are_those_of_the_lock_file():
    """requirements.txt is exported from uv.lock; export it again when the lock changes."""
    command = ["uv", "export", "--quiet", "--frozen", "--only-group", "function", "--no-annotate", "--no-header"]
    exported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    committed = (ROOT / "scripts/model_registry/requirements.txt").read_text()
    assert [line for line in committed.splitlines() if not line.startswith("#")] == exported.splitlines()
