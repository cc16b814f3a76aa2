"""The twin's Cloud Storage, through Google's own client and, where that one cannot ask, over plain HTTP."""

import asyncio
import base64
import concurrent.futures
import gzip
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import psutil
import pytest
import requests
from aiohttp import web
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager
from google.cloud.storage.exceptions import DataCorruption
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlsys.local import http
from mlsys.local.faults import Fault, Faults
from mlsys.local.storage import rest
from mlsys.local.storage.store import Key, ObjectStore

MIB = 1 << 20
SLOW_EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Twin:
    """A running server, seen from its clients."""

    url: str
    faults: Faults
    store: ObjectStore
    close: callable

    def client(self) -> storage.Client:
        """Return a new client of this server."""
        return storage.Client(
            project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": self.url}
        )


def serve(folder: Path) -> Twin:
    store, app = ObjectStore(folder), web.Application(middlewares=[http.google_errors])
    app[http.FAULTS], app[rest.STORE] = Faults(), store
    rest.routes.install(app)
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app)
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner.addresses[0][1]

    port = asyncio.run_coroutine_threadsafe(start(), loop).result()

    def close() -> None:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        store.close()

    return Twin(f"http://127.0.0.1:{port}", app[http.FAULTS], store, close)


@pytest.fixture(scope="module")
def module_twin(tmp_path_factory):
    twin = serve(tmp_path_factory.mktemp("storage"))
    yield twin
    twin.close()


@pytest.fixture
def twin(module_twin):
    yield module_twin
    module_twin.faults.clear()


@pytest.fixture(scope="module")
def client(module_twin):
    return module_twin.client()


_numbers = itertools.count()


@pytest.fixture
def bucket(client):
    return client.create_bucket(f"bucket-{next(_numbers)}")


@pytest.fixture
def versioned(client):
    new = client.bucket(f"versioned-{next(_numbers)}")
    new.versioning_enabled = True
    return client.create_bucket(new)


def put(bucket, name, data=b"x", **kwargs):
    blob = bucket.blob(name)
    blob.upload_from_string(data, **kwargs)
    return blob


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def raw(twin, method, path, **kwargs):
    return requests.request(method, f"{twin.url}{path}", timeout=20, **kwargs)


def names(bucket, **kwargs):
    return [blob.name for blob in bucket.list_blobs(**kwargs)]


# Buckets


def test_bucket_lives_from_creation_to_deletion(client, bucket):
    """A bucket can be read, found in the list, labelled, and deleted."""
    assert client.get_bucket(bucket.name).location == "US"
    assert bucket.name in [one.name for one in client.list_buckets()]
    bucket.labels = {"team": "ml"}
    bucket.patch()
    again = client.get_bucket(bucket.name)
    assert (again.labels, again.metageneration) == ({"team": "ml"}, 2)
    bucket.delete()
    assert not client.bucket(bucket.name).exists()
    with pytest.raises(exceptions.NotFound, match=bucket.name):
        client.get_bucket(bucket.name)


def test_bucket_names_are_global_and_full_buckets_stay(client, bucket):
    """A second creation and the deletion of a full bucket both answer 409."""
    with pytest.raises(exceptions.Conflict):
        client.create_bucket(bucket.name)
    blob = put(bucket, "a")
    with pytest.raises(exceptions.Conflict, match="not empty"):
        bucket.delete()
    blob.delete()
    bucket.delete()


@pytest.mark.parametrize(
    "name", ["ab", "UPPER", "-start", "end-", "under score", "goog-x", "my-google", "1.2.3.4", "a..b", "x" * 64]
)
def test_bad_bucket_names_are_refused(twin, name):
    """Google's rules for bucket names hold."""
    reply = raw(twin, "POST", "/storage/v1/b?project=p", json={"name": name})
    assert reply.status_code == 400
    assert "Invalid bucket name" in reply.json()["error"]["message"]


def test_buckets_are_listed_by_project_prefix_and_page(twin, client):
    """Each project sees its own buckets, in pages."""
    made = [f"paged-{n}" for n in range(5)]
    for name in made:
        client.create_bucket(name)
    client.create_bucket("paged-elsewhere", project="q")
    assert [one.name for one in client.list_buckets(prefix="paged-", page_size=2)] == made
    assert [one.name for one in client.list_buckets(project="q")] == ["paged-elsewhere"]


def test_bucket_preconditions(client, bucket):
    """Preconditions on buckets are refused, and labels are kept."""
    bucket.labels = {"a": "b"}
    with pytest.raises(exceptions.BadRequest, match="not supported locally: parameter ifMetagenerationMatch"):
        bucket.patch(if_metageneration_match=1)
    bucket.patch()
    assert client.get_bucket(bucket.name).labels == {"a": "b"}


def test_missing_bucket_is_404_everywhere(client):
    """No operation makes up a bucket."""
    missing = client.bucket("not-there")
    for call in (
        lambda: put(missing, "a"),
        lambda: missing.blob("a").upload_from_file(io.BytesIO(b"x" * MIB), size=None, rewind=True),
        lambda: missing.blob("a").download_as_bytes(),
        lambda: missing.blob("a").delete(),
        lambda: list(missing.list_blobs()),
    ):
        with pytest.raises(exceptions.NotFound):
            call()


# Uploads and downloads

HARD_NAMES = [
    "plain.txt", "a/b/c", "with space", "ünïcödé/日本語/🎉", "per%cent", "a%2Fb", "a%252Fb", "plus+plus", ".hidden",
    "../up", "/absolute", "double//slash", "trailing/", "q?a=b&c#d", "[x]{y}*", "semi;colon:", "quote'\"", "a\\b", "~",
    "x" * 1024, "é" * 512,
]  # fmt: skip


@pytest.mark.parametrize("name", HARD_NAMES, ids=lambda name: name[:12])
def test_object_names_survive(bucket, name):
    """Every legal name comes back from upload, listing, download, copy and deletion as it went in."""
    put(bucket, name, name.encode())
    assert names(bucket) == [name]
    assert bucket.get_blob(name).name == name
    assert bucket.blob(name).download_as_bytes() == name.encode()
    bucket.copy_blob(bucket.blob(name), bucket, "copy")
    bucket.blob(name).delete()
    assert names(bucket) == ["copy"]


@pytest.mark.parametrize("name", ["", ".", "..", "a\nb", "a\rb", "x" * 1025, "é" * 513])
def test_bad_object_names_are_refused(twin, bucket, name):
    """Google's rules for object names hold."""
    reply = raw(twin, "POST", f"/upload/storage/v1/b/{bucket.name}/o", params={"uploadType": "media", "name": name})
    assert reply.status_code == 400


@pytest.mark.parametrize("size", [0, 1, 8 * MIB - 1, 8 * MIB + 1, 20 * MIB + 3])
def test_content_round_trips(bucket, size, tmp_path):
    """Multipart (small) and resumable (large) uploads and downloads keep every byte, in memory and through files."""
    data = random.Random(size).randbytes(size)
    blob = put(bucket, "o", data, content_type="application/x-model")
    found = bucket.get_blob("o")
    assert (found.size, found.crc32c, found.content_type) == (size, crc32c(data), "application/x-model")
    assert found.md5_hash
    assert (found.generation, found.metageneration) == (blob.generation, 1)
    assert found.download_as_bytes() == data
    (tmp_path / "in").write_bytes(data)
    bucket.blob("f").upload_from_filename(tmp_path / "in")
    bucket.blob("f").download_to_filename(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


def test_simple_upload(twin, bucket):
    """A media upload takes its name from the query and its type from the header."""
    path = f"/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=a%20b"
    reply = raw(twin, "POST", path, data=b"hello", headers={"Content-Type": "text/x"})
    assert reply.json()["contentType"] == "text/x"
    assert bucket.blob("a b").download_as_bytes() == b"hello"
    bad = raw(twin, "POST", path, data=b"hello", headers={"X-Goog-Hash": "crc32c=AAAAAA=="})
    assert bad.status_code == 400


@settings(SLOW_EXAMPLES)
@given(st.lists(st.sampled_from([b"\r\n", b"--", b"==b", b"\r", b"\n", b"\x00\xff", b"x" * 70000]), max_size=12))
def test_multipart_is_binary_safe(twin, client, pieces):
    """Content that looks like a boundary, without being one, is content."""
    bucket = client.bucket("multipart-safe")
    if not bucket.exists():
        client.create_bucket(bucket)
    data = b"".join(pieces)
    assume(not re.search(rb"(?:^|\n)--==b==", data))  # RFC 2046 forbids it, and aiohttp's parser refuses the upload
    meta = json.dumps({"name": "m"}).encode()
    body = b"--==b==\r\nContent-Type: application/json\r\n\r\n%b\r\n--==b==\r\nContent-Type: x/y\r\n\r\n%b\r\n--==b==--"
    reply = raw(
        twin, "POST", f"/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart", data=body % (meta, data),
        headers={"Content-Type": 'multipart/related; boundary="==b=="'},
    )  # fmt: skip
    assert reply.status_code == 200, reply.text
    assert (reply.json()["crc32c"], reply.json()["contentType"]) == (crc32c(data), "x/y")
    assert bucket.blob("m").download_as_bytes() == data


MALFORMED = [
    b"",
    b"junk",
    b"--b\r\n\r\n{}\r\n--b--",
    b"--b\r\n\r\n{}\r\n--b\r\n\r\ncut",
    b"--b\r\n\r\nnope\r\n--b\r\n\r\nx\r\n--b--",
    b"--b\r\n\r\n{}\r\n--b\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--",
]


@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_multipart_is_400(twin, bucket, body):
    """A body that is no multipart upload stores nothing."""
    path = f"/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart&name=m"
    reply = raw(twin, "POST", path, data=body, headers={"Content-Type": "multipart/related; boundary=b"})
    assert reply.status_code == 400
    assert names(bucket) == []


def test_metadata_of_an_upload(bucket):
    """Custom metadata and headers are kept."""
    blob = bucket.blob("m")
    blob.metadata = {"uploader": "ann@example.com", "ключ": "значение"}
    blob.cache_control, blob.content_disposition, blob.content_language = "no-store", "inline", "de"
    blob.storage_class = "NEARLINE"
    blob.upload_from_string("x")
    found = bucket.get_blob("m")
    assert found.metadata == {"uploader": "ann@example.com", "ключ": "значение"}
    assert (found.cache_control, found.content_disposition, found.content_language) == ("no-store", "inline", "de")
    assert found.storage_class == "NEARLINE"
    assert all([found.time_created, found.updated, found.etag])
    assert found.id.endswith(str(found.generation))


@pytest.mark.parametrize("checksum", ["md5", "crc32c"])
def test_wrong_checksum_stores_nothing(twin, bucket, checksum):
    """Bytes damaged on their way are refused when the client says what they should be."""
    for fault in ("corrupt", "truncate"):
        for data in (b"some bytes", os.urandom(9 * MIB)):
            skip = 1 if len(data) > 8 * MIB else 0  # the first call of a resumable upload carries no content
            twin.faults.clear()
            twin.faults.add(Fault("storage.objects.insert", fault, skip=skip))
            with pytest.raises((exceptions.BadRequest, ValueError, DataCorruption)):
                bucket.blob("d").upload_from_string(data, checksum=checksum)
    assert names(bucket) == []


def test_damage_without_a_checksum_is_stored(twin, bucket):
    """As in production, nobody notices when the client sends no checksum."""
    twin.faults.add(Fault("storage.objects.insert", "corrupt"))
    bucket.blob("d").upload_from_string(b"some bytes", checksum=None)
    assert bucket.blob("d").download_as_bytes() != b"some bytes"


# Resumable uploads


def start_session(twin, bucket, name="r", query="", **kwargs):
    path = f"/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name={name}{query}"
    reply = raw(twin, "POST", path, **kwargs)
    assert reply.status_code == 200, reply.text
    return reply.headers["Location"]


def send(session, data, span, **headers):
    return requests.put(session, data=data, headers={"Content-Range": f"bytes {span}", **headers}, timeout=20)


def test_resumable_upload_in_chunks(bucket):
    """Chunks of a known and of an unknown total make one object."""
    data = os.urandom(9 * MIB + 5)
    bucket.blob("known", chunk_size=MIB).upload_from_file(io.BytesIO(data), size=len(data))
    bucket.blob("unknown", chunk_size=MIB).upload_from_file(io.BytesIO(data))
    with bucket.blob("stream", chunk_size=MIB).open("wb") as file:
        file.write(data)
    for name in ("known", "unknown", "stream"):
        assert bucket.blob(name).download_as_bytes() == data


def test_resumable_status_and_resent_bytes(twin, bucket):
    """The server says how far it is, drops what it has, keeps multiples of 256 KiB, and notices a gap."""
    data = os.urandom(MIB)
    session = start_session(twin, bucket)
    status = send(session, b"", "*/*")
    assert (status.status_code, "Range" in status.headers) == (308, False)
    part = send(session, data[:600_000], "0-599999/*")
    assert (part.status_code, part.headers["Range"]) == (308, "bytes=0-524287")
    assert send(session, b"", f"*/{MIB}").headers["Range"] == "bytes=0-524287"
    gap = send(session, data[700_000:], f"700000-{MIB - 1}/{MIB}")
    assert (gap.status_code, gap.headers["Content-Type"]) == (503, "text/plain; charset=utf-8")
    assert "exceeds already uploaded size of 524288" in gap.text
    go = send(session, b"", "*/*", **{"X-GUploader-No-308": "yes"})
    assert (go.status_code, go.headers["X-HTTP-Status-Code-Override"]) == (200, "308")
    done = send(session, data[1000:], f"1000-{MIB - 1}/{MIB}")
    assert (done.status_code, done.json()["crc32c"]) == (200, crc32c(data))
    assert send(session, b"", "*/*").json() == done.json()
    assert send(session, data, f"0-{MIB - 1}/{MIB}").json() == done.json()
    assert bucket.blob("r").download_as_bytes() == data


def test_resumable_in_one_put(twin, bucket):
    """A whole upload without Content-Range is complete when the body ends, and so is an empty one."""
    assert requests.put(start_session(twin, bucket), data=b"abc", timeout=20).json()["size"] == "3"
    assert send(start_session(twin, bucket, "empty"), b"", "*/0").json()["size"] == "0"


def test_resumable_unknown_size_is_finished_by_query(twin, bucket):
    """``*/N`` ends an upload whose size was unknown."""
    session = start_session(twin, bucket)
    assert send(session, b"a" * 262144, "0-262143/*").status_code == 308
    assert send(session, b"", "*/262144").json()["size"] == "262144"


def test_resumable_promises_are_checked(twin, bucket):
    """A size or a checksum that does not come true ends in 400."""
    assert send(start_session(twin, bucket), b"abcd", "0-2/3").status_code == 400
    session = start_session(twin, bucket, headers={"X-Upload-Content-Length": "5"})
    assert send(session, b"abc", "0-2/3").status_code == 400
    session = start_session(twin, bucket, json={"crc32c": crc32c(b"abd")})
    assert send(session, b"abc", "0-2/3").status_code == 400
    session = start_session(twin, bucket)
    assert send(session, b"abc", "0-2/3", **{"x-goog-hash": f"crc32c={crc32c(b'abd')}"}).status_code == 400
    assert names(bucket) == []


def test_resumable_sessions_end(twin, bucket):
    """A cancelled and an unknown session are gone."""
    before = len(twin.store.sessions)
    session = start_session(twin, bucket)
    assert requests.delete(session, timeout=20).status_code == 499
    assert send(session, b"abc", "0-2/3").status_code == 404
    assert send(session.replace("upload_id=", "upload_id=x"), b"abc", "0-2/3").status_code == 404
    assert len(twin.store.sessions) == before


@pytest.mark.parametrize("kind", ["reset", "reset_after", "error", "error_after"])
def test_lost_chunk_replies_are_survived(twin, bucket, kind):
    """The client's own retry finishes an upload whose chunks fail, before or after they were kept."""
    data = os.urandom(9 * MIB)
    twin.faults.add(Fault("storage.objects.insert", kind, skip=1, times=2))
    bucket.blob("r", chunk_size=2 * MIB).upload_from_file(io.BytesIO(data), size=len(data), if_generation_match=0)
    assert bucket.blob("r").download_as_bytes() == data
    assert twin.faults.hits["storage.objects.insert"] == 2


def test_connection_lost_in_a_chunk_keeps_what_came(twin, bucket, caplog):
    """After a broken request the client may go on from where the server says it is."""
    data, session = os.urandom(2 * MIB), start_session(twin, bucket)

    def broken():
        yield data[:MIB]
        raise OSError("cable pulled")

    with pytest.raises(OSError, match="cable"):
        requests.put(session, data=broken(), headers={"Content-Range": f"bytes 0-{2 * MIB - 1}/{2 * MIB}"}, timeout=20)
    time.sleep(0.2)
    have = int(send(session, b"", "*/*").headers.get("Range", "bytes=0--1").split("-", 1)[1]) + 1
    done = send(session, data[have:], f"{have}-{2 * MIB - 1}/{2 * MIB}")
    assert done.json()["crc32c"] == crc32c(data)
    assert not caplog.records


# Preconditions


def test_create_only_has_one_winner(twin, bucket):
    """Of many writers that want to create an object exactly one does."""

    def write(n):
        blob = twin.client().bucket(bucket.name).blob("one")
        try:
            blob.upload_from_string(str(n), if_generation_match=0)
        except exceptions.PreconditionFailed:
            return None
        return n

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        winners = [n for n in pool.map(write, range(8)) if n is not None]
    assert len(winners) == 1
    assert bucket.blob("one").download_as_text() == str(winners[0])


def test_lost_reply_of_a_create_only_upload_is_412(twin, bucket):
    """The retry of an upload that succeeded meets the object that it made: compare checksums, as production needs."""
    twin.faults.add(Fault("storage.objects.insert", "reset_after"))
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("lost").upload_from_string(b"mine", if_generation_match=0)
    assert bucket.get_blob("lost").crc32c == crc32c(b"mine")


TESTS = ("generation_match", "generation_not_match", "metageneration_match", "metageneration_not_match")
PICK = st.dictionaries(st.sampled_from(TESTS), st.sampled_from(["zero", "actual", "other"]), min_size=1)


@settings(SLOW_EXAMPLES)
@given(pick=PICK, exists=st.booleans(), operation=st.sampled_from(["insert", "reload", "download", "patch", "delete"]))
def test_preconditions_follow_the_rules(twin, client, pick, exists, operation):
    """Every operation honours every precondition: 412, or 304 for a read that is not modified."""
    bucket = client.bucket("conditions")
    if not bucket.exists():
        client.create_bucket(bucket)
    made = put(bucket, "o") if exists else None
    if exists:
        made.metadata = {"a": "b"}
        made.patch()
    elif bucket.blob("o").exists():
        bucket.blob("o").delete()
    actual = {"generation": made.generation, "metageneration": 2} if exists else {"generation": 0, "metageneration": 0}
    wanted = {}
    for test, which in pick.items():
        what = test.split("_")[0]
        wanted[test] = {"zero": 0, "actual": actual[what], "other": 7}[which]
    failed = any(v != actual[k.split("_")[0]] for k, v in wanted.items() if "not" not in k)
    unmodified = any(v == actual[k.split("_")[0]] for k, v in wanted.items() if "not" in k)
    read = operation in ("reload", "download")
    expected = 412 if failed or (unmodified and not read) else 304 if unmodified else 200
    if not exists and operation != "insert":
        expected = 404
    params = {f"if{''.join(part.title() for part in test.split('_'))}": value for test, value in wanted.items()}
    path = f"/storage/v1/b/{bucket.name}/o/o"
    calls = {
        "insert": ("POST", f"/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=o", {"data": b"y"}),
        "reload": ("GET", path, {}),
        "download": ("GET", f"/download{path}?alt=media", {}),
        "patch": ("PATCH", path, {"json": {"metadata": {"c": "d"}}}),
        "delete": ("DELETE", path, {}),
    }
    method, path, kwargs = calls[operation]
    reply = raw(twin, method, path, params=params, **kwargs)
    assert reply.status_code in ({200, 204} if expected == 200 else {expected}), reply.text
    if expected == 412:
        assert reply.json()["error"]["errors"][0]["reason"] == "conditionNotMet"


def test_etags_are_refused(bucket):
    """Conditions on etags are not served."""
    put(bucket, "e")
    with pytest.raises(exceptions.BadRequest, match="If-Match"):
        bucket.get_blob("e", if_etag_match="x")


# Generations and versions


def test_generations_only_grow(tmp_path, monkeypatch):
    """Not even a restart with the clock set back repeats or lowers a generation."""
    seen = []
    for year in (2030, 2020):
        monkeypatch.setattr(time, "time_ns", lambda year=year: (year - 1970) * 365 * 86400 * 10**9)
        twin = serve(tmp_path)
        bucket = twin.client().bucket("clock")
        if not bucket.exists():
            bucket.create()
        for _ in range(3):
            seen.append(put(bucket, "same").generation)
            bucket.blob("same").delete()
        twin.close()
    assert seen == sorted(set(seen))


def test_overwriting_without_versions_removes_the_content(twin, bucket):
    """Only the live content takes space."""
    first = put(bucket, "o", b"one")
    put(bucket, "o", b"two")
    with pytest.raises(exceptions.NotFound):
        bucket.blob("o", generation=first.generation).download_as_bytes()
    assert len(list((twin.store._blobs / bucket.name).iterdir())) == 1
    assert [blob.generation for blob in bucket.list_blobs(versions=True)] == [bucket.get_blob("o").generation]


def test_versions(versioned):
    """With versioning, what was overwritten or deleted is there, until its generation is deleted."""
    first, second = put(versioned, "o", b"one").generation, put(versioned, "o", b"two").generation
    versioned.blob("o").delete()
    assert not versioned.blob("o").exists()
    assert names(versioned) == []
    old = list(versioned.list_blobs(versions=True))
    assert [(blob.generation, blob.time_deleted is not None) for blob in old] == [(first, True), (second, True)]
    assert versioned.blob("o", generation=first).download_as_bytes() == b"one"
    put(versioned, "o", b"three", if_generation_match=0)
    versioned.blob("o", generation=first).delete()
    assert next(iter(versioned.list_blobs(versions=True))).generation == second
    restored = versioned.copy_blob(versioned.blob("o"), versioned, "o", source_generation=second)
    assert restored.download_as_bytes() == b"two"
    with pytest.raises(exceptions.Conflict):
        versioned.delete()


# Reading


@settings(SLOW_EXAMPLES)
@given(size=st.integers(0, 50), header=st.from_regex(r"\Abytes=[0-9]{0,2}-[0-9]{0,2}\Z"))
def test_ranges(twin, client, size, header):
    """A range is the slice that it says, the whole if it makes no sense, or 416."""
    bucket = client.bucket("ranges")
    if not bucket.exists():
        client.create_bucket(bucket)
    data = bytes(range(size))
    if not bucket.blob(str(size)).exists():
        put(bucket, str(size), data)
    path = f"/download/storage/v1/b/ranges/o/{size}?alt=media"
    reply = raw(twin, "GET", path, headers={"Range": header})
    first, last = header.removeprefix("bytes=").split("-")
    if (not first and not last) or (first and last and int(first) > int(last)):
        assert (reply.status_code, reply.content) == (200, data)
        return
    expected = data[int(first) : int(last) + 1 if last else None] if first else data[max(0, size - int(last)) :]
    if not expected:
        assert (reply.status_code, reply.headers["Content-Range"]) == (416, f"bytes */{size}")
        return
    assert (reply.status_code, reply.content) == (206, expected)
    start = data.index(expected)
    assert reply.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/{size}"


def test_download_headers(twin, bucket):
    """A download says which object it is."""
    blob = put(bucket, "h", b"abc", content_type="text/x")
    for path in (f"/download/storage/v1/b/{bucket.name}/o/h?alt=media", f"/storage/v1/b/{bucket.name}/o/h?alt=media"):
        reply = raw(twin, "GET", path)
        assert reply.headers["X-Goog-Hash"] == f"crc32c={blob.crc32c},md5={blob.md5_hash}"
        assert reply.headers["X-Goog-Generation"] == str(blob.generation)
        assert reply.headers["Content-Type"] == "text/x"
        assert reply.headers["X-Goog-Stored-Content-Length"] == "3"


def test_gzip_content_comes_as_it_is_stored(twin, bucket):
    """Who accepts gzip gets the bytes and the ranges of them; decompression on the way is refused."""
    data = b"line\n" * 500_000
    blob = bucket.blob("z")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(data), content_type="text/plain")
    assert blob.download_as_bytes() == data
    assert gzip.decompress(blob.download_as_bytes(raw_download=True)) == data
    path = f"/download/storage/v1/b/{bucket.name}/o/z?alt=media"
    plain = raw(twin, "GET", path, headers={"Accept-Encoding": "identity"})
    assert (plain.status_code, "not supported locally: gzip content" in plain.text) == (400, True)
    part = raw(twin, "GET", path, headers={"Accept-Encoding": "gzip", "Range": "bytes=0-3"}, stream=True)
    assert (part.status_code, part.raw.read()) == (206, gzip.compress(data)[:4])


@pytest.mark.parametrize("size", [100, 5 * MIB])
def test_damaged_downloads_are_noticed(twin, bucket, size):
    """A truncated download is resumed by the client; a corrupted one is refused."""
    data = os.urandom(size)
    put(bucket, "d", data)
    twin.faults.add(Fault("storage.objects.get_media", "truncate"))
    assert bucket.blob("d").download_as_bytes() == data
    twin.faults.add(Fault("storage.objects.get_media", "corrupt"))
    with pytest.raises(DataCorruption):
        bucket.blob("d").download_as_bytes()
    twin.faults.add(Fault("storage.objects.get_media", "error", status=503))
    assert bucket.blob("d").download_as_bytes() == data


def test_chunks_downloaded_in_parallel(bucket, tmp_path):
    """The transfer manager's ranged download puts a file together."""
    data = os.urandom(9 * MIB)
    blob = put(bucket, "d", data)
    transfer_manager.download_chunks_concurrently(
        blob, str(tmp_path / "d"), chunk_size=2 * MIB, max_workers=2, worker_type=transfer_manager.THREAD
    )
    assert (tmp_path / "d").read_bytes() == data


# Metadata


def test_patch(bucket):
    """A patch merges and a null deletes."""
    blob = put(bucket, "p", content_type="text/a")
    blob.metadata = {"a": "1", "b": "2"}
    blob.patch()
    blob.metadata = {"a": None, "c": "3"}
    blob.content_type = "text/b"
    blob.patch()
    found = bucket.get_blob("p")
    assert (found.metadata, found.content_type, found.metageneration) == ({"b": "2", "c": "3"}, "text/b", 3)
    assert found.updated > found.time_created
    found.metadata = None
    found.patch()
    assert bucket.get_blob("p").metadata is None
    assert bucket.blob("p").download_as_bytes() == b"x"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"storageClass": "COLDLINE"}, "storage class"),
        ({"temporaryHold": True}, "temporaryHold"),
        ({"acl": [{"entity": "allUsers"}]}, "acl"),
        ({"metadata": {"a": 1}}, "strings"),
        ({"customTime": "2024-01-01T00:00:00Z"}, "customTime"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_metadata_that_cannot_be_kept_is_refused(twin, bucket, body, message):
    """A property with a meaning that the twin does not serve is not silently dropped."""
    put(bucket, "p")
    reply = raw(twin, "PATCH", f"/storage/v1/b/{bucket.name}/o/p", json=body)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]
    assert bucket.get_blob("p").metageneration == 1


# Copies


def test_copy_keeps_content_and_metadata(client, bucket):
    """A copy in another bucket has the bytes, checksums and metadata, and a generation of its own."""
    other = client.create_bucket(f"copies-{next(_numbers)}")
    blob = bucket.blob("a")
    blob.metadata = {"k": "v"}
    blob.upload_from_string(b"content", content_type="text/x")
    copy = bucket.copy_blob(blob, other, "b", if_generation_match=0)
    assert (copy.metadata, copy.content_type, copy.crc32c, copy.md5_hash) == (
        {"k": "v"}, "text/x", blob.crc32c, blob.md5_hash,
    )  # fmt: skip
    assert copy.generation > blob.generation
    blob.delete()
    assert copy.download_as_bytes() == b"content"
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.copy_blob(copy, other, "b", if_generation_match=0)
    with pytest.raises(exceptions.NotFound):
        bucket.copy_blob(blob, other, "c")


def test_rewrite(bucket):
    """A rewrite is done at once, honours preconditions on its source, and can change metadata and storage class."""
    source = put(bucket, "s", b"content", content_type="text/x")
    target = bucket.blob("t")
    target.metadata = {"new": "1"}
    assert target.rewrite(source, if_source_generation_match=source.generation) == (None, 7, 7)
    found = bucket.get_blob("t")
    assert (found.metadata, found.content_type, found.download_as_bytes()) == ({"new": "1"}, "text/x", b"content")
    found.update_storage_class("NEARLINE")
    assert bucket.get_blob("t").storage_class == "NEARLINE"
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("u").rewrite(source, if_source_generation_match=1)
    assert bucket.rename_blob(found, "v").download_as_bytes() == b"content"
    assert names(bucket) == ["s", "v"]


# Listing

WORDS = st.lists(st.sampled_from(["a", "b", "/", "//", "é", "\U0001f600", "-", "0"]), min_size=1, max_size=5).map(
    "".join
)


@pytest.fixture(scope="module")
def listed(client):
    """Return a bucket with many awkward names, some with two versions."""
    bucket = client.bucket("listed")
    bucket.versioning_enabled = True
    client.create_bucket(bucket)
    source = random.Random(5)
    parts = ["a", "b", "/", "//", "é", "\U0001f600", "\uffff", "-", "0"]
    for _ in range(120):
        put(bucket, "".join(source.choices(parts, k=source.randint(1, 5))))
    return bucket


def oracle(blobs, prefix="", delimiter="", start="", end="", versions=False):
    """List by the documentation's words, over everything."""
    items, prefixes = [], []
    for name, generation, live in sorted(blobs, key=lambda blob: (blob[0].encode(), blob[1])):
        key = name.encode()
        if not name.startswith(prefix) or key < start.encode() or (end and key >= end.encode()):
            continue
        if not versions and not live:
            continue
        rest_of_it = name[len(prefix) :]
        if delimiter and delimiter in rest_of_it:
            prefixes.append(prefix + rest_of_it.split(delimiter)[0] + delimiter)
        else:
            items.append((name, generation))
    return items, sorted(set(prefixes), key=str.encode)


@settings(SLOW_EXAMPLES, max_examples=80)
@given(
    prefix=st.one_of(st.just(""), WORDS),
    delimiter=st.sampled_from(["", "/", "//", "a", "é", "\U0001f600"]),
    start=st.one_of(st.just(""), WORDS),
    end=st.one_of(st.just(""), WORDS),
    versions=st.booleans(),
    size=st.integers(1, 40),
)
def test_listing_is_what_an_oracle_says(listed, prefix, delimiter, start, end, versions, size):
    """Prefix, delimiter, offsets, versions and pages of any size agree with a plain reading of the documentation."""
    blobs = [(blob.name, blob.generation, blob.time_deleted is None) for blob in listed.list_blobs(versions=True)]
    found = listed.list_blobs(
        prefix=prefix or None, delimiter=delimiter or None, start_offset=start or None, end_offset=end or None,
        versions=versions, page_size=size,
    )  # fmt: skip
    items, prefixes = [], []
    for page in found.pages:
        assert page.num_items + len(page.prefixes) <= size
        items += [(blob.name, blob.generation) for blob in page]
        prefixes += page.prefixes
    assert (items, prefixes) == oracle(blobs, prefix, delimiter, start, end, versions)


def glob_oracle(glob: str, name: str) -> bool:
    """Match by trying every way, the slow and plain way."""
    if not glob:
        return not name
    head, tail = glob[0], glob[1:]
    if glob.startswith("**"):
        return any(glob_oracle(glob[2:], name[n:]) for n in range(len(name) + 1))
    if head == "*":
        reach = len(name.split("/")[0])
        return any(glob_oracle(tail, name[n:]) for n in range(reach + 1))
    if head == "[":
        chars, tail = tail.split("]", 1)
        return bool(name) and name[0] in chars and glob_oracle(tail, name[1:])
    if head == "{":
        choices, tail = tail.split("}", 1)
        return any(glob_oracle(choice + tail, name) for choice in choices.split(","))
    return bool(name) and name[0] == head and glob_oracle(tail, name[1:])


GLOB_PARTS = ["*", "**", "a", "b", "/", "//", "é", "-", "[ab]", "[é-]", "{a,b}", "{a/,*b,}", "0"]


@settings(SLOW_EXAMPLES, max_examples=80)
@given(st.lists(st.sampled_from(GLOB_PARTS), min_size=1, max_size=5).map("".join))
def test_globs_match_what_an_oracle_says(listed, glob):
    """The documented parts of a glob mean what they say; what the documentation leaves open is refused."""
    everything = names(listed)
    glob = re.sub(r"\*{3,}", "**", glob)  # more stars than two are refused
    try:
        found = names(listed, match_glob=glob)
    except exceptions.BadRequest as error:
        allowed = "**/" in glob and "not supported locally" in str(error)
        assert allowed, error  # noqa: PT017
        return
    assert found == [name for name in everything if glob_oracle(glob, name)]


def test_globs_as_people_write_them(bucket):
    """Examples after Google's documentation."""
    for name in ("m/v1/model.joblib", "m/v1/manifest.json", "m/v2/manifest.json", "m/v10/manifest.json", "m/a.txt"):
        put(bucket, name)
    assert names(bucket, match_glob="m/*.txt") == ["m/a.txt"]
    assert names(bucket, match_glob="**.joblib") == ["m/v1/model.joblib"]
    assert names(bucket, match_glob="m/v?/manifest.json") == ["m/v1/manifest.json", "m/v2/manifest.json"]
    assert names(bucket, match_glob="m/v[0-1]/*") == ["m/v1/manifest.json", "m/v1/model.joblib"]
    assert names(bucket, match_glob="m/**/{model,manifest}.*", prefix="m/v1/") == names(bucket, prefix="m/v1/")
    assert names(bucket, match_glob="**", page_size=2) == names(bucket)
    for refused in ("[!a]", "[^a]", "a\\*", "{a", "a}", "[z-a]", "m/v1?model.joblib", "m/**/a.txt"):
        with pytest.raises(exceptions.BadRequest, match="not supported locally"):
            names(bucket, match_glob=refused)
    with pytest.raises(exceptions.BadRequest, match="delimiter"):
        names(bucket, match_glob="m/*", delimiter="/")


def test_listing_uses_the_index(twin):
    """No listing scans the table."""
    for versions in (False, True):
        query = twin.store._db.execute(
            "EXPLAIN QUERY PLAN SELECT name FROM objects WHERE bucket = 'b' AND name >= x'00' AND name < x'ff'"
            " AND (name > x'00' OR generation >= 0)" + ("" if versions else " AND live") + " ORDER BY name, generation"
        )
        plan = " ".join(row[3] for row in query)
        assert "SEARCH" in plan, plan
        assert "TEMP B-TREE" not in plan, plan


# What is refused


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/storage/v1/b/{b}/o/a/acl", {}),
        ("GET", "/storage/v1/b/{b}/iam", {}),
        ("GET", "/storage/v1/b/{b}/notificationConfigs", {}),
        ("POST", "/storage/v1/b/{b}/o/a/restore?generation=1", {}),
        ("GET", "/storage/v1/projects/p/hmacKeys", {}),
        ("GET", "/{b}/a", {}),
        ("GET", "/storage/v1/b/{b}/o/a?softDeleted=true", {}),
        ("GET", "/storage/v1/b/{b}/o?includeTrailingDelimiter=true", {}),
        ("GET", "/storage/v1/b/{b}/o?softDeleted=true", {}),
        ("GET", "/storage/v1/b/{b}/o?newParameter=1", {}),
        ("GET", "/download/storage/v1/b/{b}/o/a?alt=json", {}),
        ("GET", "/storage/v1/b/{b}/o/a?alt=proto", {}),
        ("GET", "/download/storage/v1/b/{b}/o/a?alt=media", {"Range": "bytes=0-1,3-4"}),
        ("GET", "/download/storage/v1/b/{b}/o/a?alt=media", {"X-Goog-Encryption-Key": "k"}),
        ("GET", "/storage/v1/b/{b}/o/a", {"If-Modified-Since": "Sat, 29 Oct 1994 19:43:31 GMT"}),
        ("POST", "/upload/storage/v1/b/{b}/o?uploadType=media&name=n", {"X-Goog-Encryption-Algorithm": "AES256"}),
        ("POST", "/upload/storage/v1/b/{b}/o?uploadType=media&name=n&predefinedAcl=publicRead", {}),
        ("POST", "/upload/storage/v1/b/{b}/o?uploadType=media&name=n&kmsKeyName=k", {}),
        ("POST", "/upload/storage/v1/b/{b}/o?uploadType=media&name=n", {"Content-Encoding": "gzip"}),
        ("POST", "/upload/storage/v1/b/{b}/o?uploadType=media&name=n&ifMetaGenerationNotMatch=1", {}),
        ("POST", "/storage/v1/b/{b}/o/a/rewriteTo/b/{b}/o/c?rewriteToken=t", {}),
        ("POST", "/storage/v1/b/{b}/o/c/compose", {}),
        ("PUT", "/storage/v1/b/{b}/o/a", {}),
        ("POST", "/batch/storage/v1", {}),
    ],
    ids=lambda value: re.sub(r"\W+", " ", value)[-40:] if isinstance(value, str) else None,
)  # fmt: skip
def test_the_rest_is_refused_by_name(twin, bucket, method, path, headers):
    """Whatever would change the meaning of an answer, and is not served, is refused and changes nothing."""
    put(bucket, "a", b"abcdef")
    data = gzip.compress(b"") if "Content-Encoding" in headers else b""
    reply = raw(twin, method, path.format(b=bucket.name), headers=headers, data=data)
    assert reply.status_code in (400, 501)
    assert "not supported locally" in reply.json()["error"]["message"]
    assert names(bucket) == ["a"]


@pytest.mark.parametrize("key", ["lifecycle", "retentionPolicy", "encryption", "cors", "softDeletePolicy", "acl"])
def test_bucket_properties_that_are_not_served_are_refused(twin, bucket, key):
    """A bucket that would act by itself in production is not made here."""
    reply = raw(twin, "PATCH", f"/storage/v1/b/{bucket.name}", json={key: {"some": "thing"}})
    assert (reply.status_code, key in reply.text) == (400, True)


@pytest.mark.parametrize("query", ["ifGenerationMatch=x", "generation=1.5"])
def test_malformed_numbers_are_400(twin, bucket, query):
    """A number that is none is the client's mistake."""
    assert raw(twin, "GET", f"/storage/v1/b/{bucket.name}/o/a?{query}").status_code == 400


# Faults, restarts, crashes


@pytest.mark.parametrize("kind", ["error", "error_after", "reset", "reset_after"])
def test_faults_hit_metadata_calls(twin, bucket, kind):
    """The client absorbs a failing read, and a failing delete whose work was done shows as 404."""
    put(bucket, "f")
    twin.faults.add(Fault("storage.objects.get", kind))
    assert bucket.get_blob("f").size == 1
    twin.faults.add(Fault("storage.objects.delete", kind))
    if kind.endswith("after"):
        with pytest.raises(exceptions.NotFound):
            bucket.blob("f").delete()
    else:
        bucket.blob("f").delete()
    assert names(bucket) == []


def test_everything_survives_a_restart(tmp_path):
    """Buckets, objects, versions and metadata are as they were; strays are gone."""
    twin = serve(tmp_path)
    bucket = twin.client().bucket("kept")
    bucket.versioning_enabled = True
    bucket.create()
    first = put(bucket, "a/ü", b"one").generation
    blob = put(bucket, "a/ü", b"two")
    blob.metadata = {"k": "v"}
    blob.patch()
    session = start_session(twin, bucket, "half")
    twin.close()
    stray = tmp_path / "blobs" / "kept" / "123"
    stray.write_bytes(b"stray")
    twin = serve(tmp_path)
    again = twin.client().get_bucket("kept")
    assert again.versioning_enabled
    found = again.get_blob("a/ü")
    assert (found.generation, found.metageneration, found.metadata) == (blob.generation, 2, {"k": "v"})
    assert found.download_as_bytes() == b"two"
    assert again.blob("a/ü", generation=first).download_as_bytes() == b"one"
    assert not stray.exists()
    assert not list((tmp_path / "incoming").iterdir())
    port = twin.url.rsplit(":", 1)[1]
    assert send(re.sub(r":\d+", f":{port}", session), b"abc", "0-2/3").status_code == 404
    twin.close()


SERVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_local_storage import serve
print(serve(Path(sys.argv[1])).url, flush=True)
time.sleep(600)
"""


def spawn(folder: Path) -> tuple[subprocess.Popen, str]:
    code = SERVER.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def client_of(url: str) -> storage.Client:
    return storage.Client(project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": url})


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kill_9_leaves_objects_whole_or_absent(tmp_path):
    """Whenever the server dies, what was acknowledged is there, nothing is there in part, and each has its event."""
    acknowledged, rng = {}, random.Random(3)
    for round_ in range(4):
        process, url = spawn(tmp_path)
        bucket = client_of(url).bucket("crash")
        if round_ == 0:
            bucket.create()

        def write(worker, bucket=bucket, round_=round_):
            for n in range(1000):
                data = random.Random(f"{round_}{worker}{n}").randbytes(rng.choice([10, 300_000, 3_000_000]))
                name = f"{round_}/{worker}/{n}"
                try:
                    bucket.blob(name, chunk_size=MIB).upload_from_string(data, retry=None, timeout=5)
                except Exception:  # noqa: BLE001  # the server died
                    return
                acknowledged[name] = crc32c(data)

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(rng.uniform(0.3, 0.9))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for thread in threads:
            thread.join()
    store = ObjectStore(tmp_path)
    found = {item["name"]: item for item in store.page("crash", limit=10**6)[0]}
    assert acknowledged
    assert acknowledged.items() <= {name: item["crc32c"] for name, item in found.items()}.items()
    for item in found.values():
        with store.open(Key("crash", item["name"]))[1] as file:
            assert crc32c(file.read()) == item["crc32c"]
    events = {event["name"] for event, _, _ in store.due_events(10**6)}
    assert events >= found.keys()
    assert len(list((tmp_path / "blobs" / "crash").iterdir())) == len(found)
    store.close()


def test_large_objects_cost_little_memory(tmp_path):
    """256 MiB up and down cost the server well under 100 MiB."""
    process, url = spawn(tmp_path / "server")
    try:
        server = psutil.Process(process.pid)
        bucket = client_of(url).create_bucket("large")
        before, peak, done = server.memory_info().rss, [0], threading.Event()

        def watch():
            while not done.wait(0.02):
                peak[0] = max(peak[0], server.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        piece = os.urandom(MIB)
        with (tmp_path / "in").open("wb") as file:
            for _ in range(256):
                file.write(piece)
        bucket.blob("big").upload_from_filename(tmp_path / "in")
        bucket.blob("big").download_to_filename(tmp_path / "out")
        done.set()
        watcher.join()
        assert (tmp_path / "out").stat().st_size == 256 * MIB
        assert peak[0] - before < 64 * MIB
    finally:
        process.kill()


def test_thousands_of_objects_list_quickly(twin, client):
    """5,000 objects are listed in well under what a person notices."""
    bucket = client.create_bucket("many")
    fields = {"contentType": "x/y"}
    for n in range(5000):
        incoming = twin.store.incoming()
        twin.store.commit(incoming.path, incoming.seal(), Key("many", f"d{n % 10}/{n:05}"), fields, {})
    start = time.perf_counter()
    assert len(names(bucket)) == 5000
    assert len(names(bucket, prefix="d3/")) == 500
    listing = bucket.list_blobs(delimiter="/")
    assert not list(listing)
    assert len(listing.prefixes) == 10
    assert time.perf_counter() - start < 5
