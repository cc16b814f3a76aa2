"""Objects, bytes and files to the twin and back, through Google's own client."""

import getpass
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from google.auth import compute_engine
from google.auth.compute_engine import _metadata
from google.cloud import storage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsys.errors import AccessError, AlreadyExistsError, InvalidNameError, NotFoundError, VerificationError
from mlsys.gcs import gcs_get, gcs_get_bytes, gcs_get_file, gcs_put, gcs_stat
from mlsys.local.faults import Fault

BIG = 20 << 20  # resumable: more than one chunk


def generations(client, bucket: str, path: str) -> int:
    """Return how many finished uploads the object has had; the bucket must keep versions."""
    return len([b for b in client.list_blobs(bucket, versions=True) if b.name == path])


@pytest.fixture
def versions(storage_client, bucket) -> str:
    """Return a bucket that keeps every version, so that a repeated upload shows."""
    made = storage_client.bucket(bucket)
    made.versioning_enabled = True
    made.patch()
    return bucket


# --- round trips


@pytest.mark.parametrize(
    "obj",
    [
        {"a": [1, 2.5, None], "when": datetime(2024, 1, 1, tzinfo=UTC)},
        None,
        [],
        float("inf"),
        {"bytes": b"\x00"},
    ],
    ids=repr,
)
def test_an_object_comes_back_equal(bucket, obj):
    """Whatever joblib can store."""
    gcs_put(obj, bucket, "folder/object.joblib")
    assert gcs_get(bucket, "folder/object.joblib") == obj


def test_arrays_and_estimators_come_back(bucket):
    """What a model is made of."""
    from sklearn.linear_model import LogisticRegression

    inputs = np.random.default_rng(0).normal(size=(50, 3))
    model = LogisticRegression().fit(inputs, inputs[:, 0] > 0)
    gcs_put(model, bucket, "m/v1/model.joblib")
    assert np.array_equal(gcs_get(bucket, "m/v1/model.joblib").predict_proba(inputs), model.predict_proba(inputs))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000), name=st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20))
def test_bytes_come_back_as_they_were(bucket, data, name):
    """Any bytes under any name."""
    stored = gcs_put(data, bucket, f"any/{name}")
    assert gcs_get_bytes(bucket, f"any/{name}", sha256=stored.sha256) == data
    assert (stored.size, stored.uri) == (len(data), f"gs://{bucket}/any/{name}")


@pytest.mark.parametrize("size", [0, 1, BIG], ids=["empty", "byte", "resumable"])
def test_files_are_stored_as_they_are(bucket, tmp_path, size):
    """A Path, an open file, and a stream that cannot go back are one thing."""
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(size))
    gcs_put(source, bucket, "path")
    with source.open("rb") as file:
        file.read(1)  # the whole file counts, wherever it stands
        gcs_put(file, bucket, "file")
    with subprocess.Popen(["cat", source], stdout=subprocess.PIPE) as cat:
        gcs_put(cat.stdout, bucket, "stream")
    assert gcs_get_bytes(bucket, "path") == gcs_get_bytes(bucket, "file") == gcs_get_bytes(bucket, "stream")
    target = gcs_get_file(bucket, "path", tmp_path / "target.bin")
    assert target.read_bytes() == source.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.bin", "target.bin"]


def test_an_object_says_who_stored_it_and_what(bucket):
    """Uploader, checksums, content type and the caller's own metadata."""
    stored = gcs_put(b"{}", bucket, "v1/manifest.json", metadata={"model": "m"})
    assert stored == gcs_stat(bucket, "v1/manifest.json")
    assert stored.content_type == "application/json"
    assert stored.metadata["model"] == "m"
    assert stored.metadata["uploader"].startswith(f"{getpass.getuser()}@")
    assert stored.sha256 == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.fixture
def metadata_server(monkeypatch) -> Iterator[list[str]]:
    """A Google machine's metadata server, which tells whose the machine is; the list fills with what it was asked."""
    asked = []
    answers = {
        "/token": {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"},
        "/service-accounts/": {"email": "job@p.iam.gserviceaccount.com", "scopes": []},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = json.dumps(next((answer for part, answer in answers.items() if part in self.path), {})).encode()
            self.send_response(200 if body != b"{}" else 404)
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()


def test_the_first_upload_of_a_machine_says_whose_it_is(twin, bucket, storage_client, metadata_server):
    """Cloud Run's credentials call themselves 'default' until they are refreshed."""
    machine = storage.Client(
        storage_client.project, compute_engine.Credentials(), client_options={"api_endpoint": twin.http}
    )
    assert gcs_put(b"", bucket, "x", client=machine).metadata["uploader"] == "job@p.iam.gserviceaccount.com"
    asked = len(metadata_server)
    gcs_put(b"", bucket, "y", client=machine)
    assert len(metadata_server) == asked


def test_a_downloaded_file_is_for_whom_the_umask_says(bucket, tmp_path):
    """Not private like a temporary file, nor open where the caller's files are not."""
    gcs_put(b"", bucket, "x")
    for umask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            path = gcs_get_file(bucket, "x", tmp_path / "x")
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == mode


def test_an_older_generation_can_be_read(versions):
    """Where the bucket keeps versions."""
    first = gcs_put(b"one", versions, "x")
    gcs_put(b"two", versions, "x")
    assert gcs_get_bytes(versions, "x") == b"two"
    assert gcs_get_bytes(versions, "x", generation=first.generation) == b"one"


def test_create_only_refuses_what_is_there(bucket):
    """Whatever its content: an equal object of another writer is still another writer's."""
    gcs_put(b"mine", bucket, "x", create_only=True)
    with pytest.raises(AlreadyExistsError, match=rf"gs://{bucket}/x is there already, with other content"):
        gcs_put(b"yours", bucket, "x", create_only=True)
    with pytest.raises(AlreadyExistsError, match="with the same content"):
        gcs_put(b"mine", bucket, "x", create_only=True)
    assert gcs_get_bytes(bucket, "x") == b"mine"


# --- refusals


def test_text_is_refused_as_it_could_be_a_path(bucket):
    """A str and a text file: the message shows both ways out."""
    for text in ("model.joblib", io.StringIO("text")):
        with pytest.raises(TypeError, match=r"Path\(…\).*text\.encode\(\)"):
            gcs_put(text, bucket, "x")


@pytest.mark.parametrize(
    ("bucket_name", "blob_path", "message"),
    [
        ("gs://ml-models-dev", "x", "bucket_name must be a bare name like 'ml-models-dev', got 'gs://ml-models-dev'"),
        ("ML", "x", "bare name"),
        ("ml-models-dev", "", "1 to 1024 bytes"),
        ("ml-models-dev", "/x", "without 'gs://' or '/', got '/x'"),
        ("ml-models-dev", "gs://ml-models-dev/x", "without 'gs://'"),
        ("ml-models-dev", "a\nb", "printable"),
        ("ml-models-dev", "ä" * 513, "1 to 1024 bytes"),
        ("ml-models-dev", "..", "1 to 1024 bytes"),
    ],
    ids=lambda value: repr(value)[:25],
)
def test_malformed_names_are_refused_before_the_network(bucket_name, blob_path, message):
    """No client is needed to say so."""
    for call in (
        lambda: gcs_put(b"", bucket_name, blob_path, client=object()),
        lambda: gcs_get(bucket_name, blob_path),
    ):
        with pytest.raises(InvalidNameError) as caught:
            call()
        assert message in str(caught.value)


def test_a_missing_object_is_named_with_the_nearest(bucket):
    """What was meant, or what is there."""
    gcs_put(b"", bucket, "titanic-survival/v1/model.joblib")
    with pytest.raises(
        NotFoundError, match=r"model\.jobib is not there: did you mean titanic-survival/v1/model\.joblib"
    ):
        gcs_get(bucket, "titanic-survival/v1/model.jobib")
    with pytest.raises(NotFoundError, match="has nothing"):
        gcs_get_bytes(bucket, "somewhere/else/entirely")
    with pytest.raises(NotFoundError, match=f"gs://{bucket}/nope is not there"):
        gcs_stat(bucket, "nope")


def test_a_missing_bucket_is_named():
    """For reading and writing."""
    for call in (lambda: gcs_put(b"", "no-such-bucket", "x"), lambda: gcs_get("no-such-bucket", "x")):
        with pytest.raises(NotFoundError, match="bucket no-such-bucket is not there"):
            call()


def test_a_refused_caller_hears_which_role_is_missing(twin, bucket):
    """403 becomes AccessError with the role."""
    twin.faults.add(Fault("storage.objects.*", "error", status=403, times=None))
    with pytest.raises(AccessError, match=rf"no access to gs://{bucket}/x.*roles/storage\.objectUser"):
        gcs_put(b"", bucket, "x", create_only=True)
    with pytest.raises(AccessError, match=r"roles/storage\.objectViewer"):
        gcs_get(bucket, "x")


def test_what_joblib_did_not_write_is_not_unpickled(bucket):
    """Bytes that are no pickle are named; code that is missing is joblib's own error, with the object's name."""
    gcs_put(b"abc", bucket, "text")
    with pytest.raises(VerificationError, match="is no object that joblib stored: read it with gcs_get_bytes"):
        gcs_get(bucket, "text")
    gcs_put(pickle.dumps(Path()).replace(b"pathlib", b"pathlob"), bucket, "foreign")
    with pytest.raises(ModuleNotFoundError) as caught:
        gcs_get(bucket, "foreign")
    assert caught.value.__notes__ == [f"while unpickling gs://{bucket}/foreign"]


class Bomb:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return os.abort, ()


def test_bytes_are_verified_before_they_are_unpickled(bucket):
    """A wrong hash stops everything: nothing of the object runs."""
    gcs_put(Bomb(), bucket, "bomb")
    with pytest.raises(VerificationError, match=r"has SHA-256 [0-9a-f]{64}, expected 00.*nothing was read"):
        gcs_get(bucket, "bomb", sha256="00" * 32)


# --- bad days


BAD_UPLOADS = [
    Fault("storage.objects.insert", "error", status=503),
    Fault("storage.objects.insert", "error", status=429),
    Fault("storage.objects.insert", "error_after", status=503),
    Fault("storage.objects.insert", "error_after", status=504),
    Fault("storage.objects.insert", "reset"),
    Fault("storage.objects.insert", "reset_after"),
]


@pytest.mark.parametrize("size", [10, BIG], ids=["single", "resumable"])
@pytest.mark.parametrize("create_only", [True, False], ids=["create", "replace"])
@pytest.mark.parametrize("fault", BAD_UPLOADS, ids=lambda f: f"{f.kind}-{f.status}")
def test_an_upload_happens_exactly_once(twin, storage_client, versions, fault, create_only, size):
    """A lost reply neither fails a create-only upload nor makes a second generation (and a second event)."""
    if not create_only:
        gcs_put(b"before", versions, "x")
    twin.faults.add(fault)
    data = os.urandom(size)
    stored = gcs_put(data, versions, "x", create_only=create_only)
    assert twin.faults.hits()
    assert gcs_get_bytes(versions, "x", generation=stored.generation) == data
    assert generations(storage_client, versions, "x") == (1 if create_only else 2)


def test_somebody_elses_object_after_a_lost_reply_is_seen(twin, bucket, monkeypatch):
    """The last writer wins, and knows."""
    from google.cloud.storage import Blob

    upload = Blob.upload_from_file
    calls = []

    def overtaken(self, *args, **kwargs):
        if not calls:
            calls.append(1)
            upload(self.bucket.blob(self.name), io.BytesIO(b"theirs"), rewind=True)
        return upload(self, *args, **kwargs)

    monkeypatch.setattr(Blob, "upload_from_file", overtaken)
    gcs_put(b"ours", bucket, "x")
    assert gcs_get_bytes(bucket, "x") == b"ours"


BAD_DOWNLOADS = [
    Fault("storage.objects.get", "error", status=503, times=2),
    Fault("storage.objects.get_media", "reset"),
    Fault("storage.objects.get_media", "truncate"),
    Fault("storage.objects.get_media", "corrupt"),
    Fault("storage.objects.get_media", "corrupt", times=2),
]


@pytest.mark.parametrize("size", [3000, BIG], ids=["small", "big"])
@pytest.mark.parametrize("fault", BAD_DOWNLOADS, ids=lambda f: f"{f.kind}-{f.times}")
def test_a_download_is_whole_or_not_at_all(twin, bucket, fault, size):
    """Cut and damaged bodies are fetched again."""
    data = os.urandom(size)
    gcs_put(data, bucket, "x")
    twin.faults.add(fault)
    assert gcs_get_bytes(bucket, "x") == data
    assert twin.faults.hits()


def test_bytes_that_stay_corrupt_are_refused(twin, bucket, tmp_path):
    """By name, and no file is left."""
    gcs_put({"a": 1}, bucket, "x")
    twin.faults.add(Fault("storage.objects.get_media", "corrupt", times=None))
    with pytest.raises(VerificationError, match=f"gs://{bucket}/x arrived with other bytes than are stored, 3 times"):
        gcs_get_file(bucket, "x", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_importing_gcs_leaves_bigquery_alone():
    """And bq leaves joblib, scikit-learn, matplotlib and DuckDB alone."""
    heavy = "{'google.cloud.bigquery', 'sklearn', 'matplotlib', 'duckdb', 'joblib', 'google.cloud.bigquery_storage'}"
    for module, allowed in (("mlsys.gcs", set()), ("mlsys.bq", {"google.cloud.bigquery"})):
        code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert eval(said) == sorted(allowed), module
