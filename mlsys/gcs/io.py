"""Objects to Cloud Storage and back.

Everything goes through a file on disk, so that no object is held in memory beside itself, and every byte is checked
against its checksum before anything is made of it. Google's clients come from `mlsys.clients` unless one is given, so
the same code runs against the offline twin and against Google Cloud.
"""

import base64
import getpass
import hashlib
import io
import logging
import mimetypes
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import google_crc32c
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud import storage

from mlsys.errors import AlreadyExistsError, InvalidNameError, VerificationError
from mlsys.gcs.calls import retry, timeout
from mlsys.gcs.errors import explained, not_found, uri
from mlsys.progress import bytes_bar

logger = logging.getLogger(__name__)

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_READ = 1 << 20
_PICKLE = b"\x80"  # how every pickle since protocol 2 starts
_CHUNK = 16 << 20  # of a resumable upload, held in memory; Google's default is 100 MiB
_MULTIPART = 8 << 20  # Google's client sends up to this size in one request
_DOWNLOADS = 3  # until corrupted bytes are no accident


@dataclass(frozen=True)
class StoredObject:
    """One generation of an object: what was stored, and by what it can be recognised.

    ``crc32c`` is base64, as Google writes it; ``sha256`` is hexadecimal, or empty when the writer did not say.
    """

    uri: str
    generation: int
    size: int
    crc32c: str
    sha256: str
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)


def gcs_put(
    obj: Any,
    bucket_name: str,
    blob_path: str,
    *,
    create_only: bool = False,
    metadata: Mapping[str, str] | None = None,
    content_type: str | None = None,
    progress: bool | None = None,
    client: storage.Client | None = None,
) -> StoredObject:
    """Store an object in a bucket.

    A reply that gets lost does no harm: the upload is repeated under a precondition, and happens once.

    Parameters
    ----------
    obj
        ``bytes`` are stored as they are, and so is the whole content of a `pathlib.Path` or of a file opened in binary
        mode. Any other object is stored as joblib writes it, uncompressed; `gcs_get` returns it. Text is refused, as it
        could be meant as a path: pass ``Path(text)`` or ``text.encode()``.
    bucket_name, blob_path
        ``ml-models-dev`` and ``titanic-survival/v1/model.joblib``.
    create_only
        Refuse to replace an object, whatever its content.
    metadata
        Custom metadata. ``uploader`` (who runs this) and ``sha256`` are added.
    content_type
        By default what the ending of ``blob_path`` says.
    progress
        Show a bar. By default in a terminal or a notebook, when it takes more than a second.

    Raises
    ------
    AlreadyExistsError
        ``create_only``, and there is an object of that name.
    NotFoundError, AccessError, InvalidNameError, VerificationError
        The message names the object and says what to do.

    Examples
    --------
    >>> gcs_put({"threshold": 0.5}, "ml-models-local", "titanic-survival/notes.joblib").uri  # doctest: +SKIP
    'gs://ml-models-local/titanic-survival/notes.joblib'
    """
    check_object_name(bucket_name, blob_path)
    started = time.monotonic()
    with _as_file(obj) as file:
        client = client or _client()
        content = _digest(file)
        token = uuid.uuid4().hex
        tags = {"uploader": uploader(client), "sha256": content.sha256, **(metadata or {}), "mlsys-upload": token}
        kind = content_type or mimetypes.guess_type(blob_path)[0] or "application/octet-stream"
        upload = _Upload(client.bucket(bucket_name), blob_path, file, content, tags, kind, create_only, progress)
        blob = _overtaken_retry(upload.run)()
    made = stored(blob)
    logger.info("%s bytes in %.1f s to %s", made.size, time.monotonic() - started, made.uri)
    return made


def gcs_get(
    bucket_name: str,
    blob_path: str,
    *,
    generation: int | None = None,
    sha256: str | None = None,
    progress: bool | None = None,
    client: storage.Client | None = None,
) -> Any:
    """Return the object that `gcs_put` stored with joblib.

    The bytes are verified before they are unpickled. But **unpickling runs code** that whoever wrote the object chose:
    it trusts whoever may write to the bucket. Read only what you would also execute, and give ``sha256`` where you know
    it. For models, `mlsys.models.load_model` checks the bytes against the registry, and has an allow-list, too.

    Parameters
    ----------
    bucket_name, blob_path
        ``ml-models-dev`` and ``titanic-survival/v1/model.joblib``.
    generation
        A certain version of the object; the live one by default.
    sha256
        What the content must hash to (hexadecimal).
    progress
        Show a bar. By default in a terminal or a notebook, when it takes more than a second.

    Raises
    ------
    NotFoundError, AccessError, InvalidNameError, VerificationError
        The message names the object and says what to do.

    Examples
    --------
    >>> gcs_get("ml-models-local", "titanic-survival/notes.joblib")  # doctest: +SKIP
    {'threshold': 0.5}
    """
    with _downloaded(bucket_name, blob_path, generation, sha256, progress, client) as file:
        return _unpickle(file, f"gs://{bucket_name}/{blob_path}")


def gcs_get_bytes(
    bucket_name: str,
    blob_path: str,
    *,
    generation: int | None = None,
    sha256: str | None = None,
    progress: bool | None = None,
    client: storage.Client | None = None,
) -> bytes:
    """Return an object's bytes, verified. The parameters and errors are those of `gcs_get`.

    Examples
    --------
    >>> gcs_get_bytes("ml-models-local", "titanic-survival/v1/manifest.json")[:1]  # doctest: +SKIP
    b'{'
    """
    with _downloaded(bucket_name, blob_path, generation, sha256, progress, client) as file:
        return file.read()


def gcs_get_file(
    bucket_name: str,
    blob_path: str,
    path: str | Path,
    *,
    generation: int | None = None,
    sha256: str | None = None,
    progress: bool | None = None,
    client: storage.Client | None = None,
) -> Path:
    """Download an object to ``path`` and return it; the file appears whole and verified, or not at all.

    The other parameters and the errors are those of `gcs_get`. A file that is there already is replaced.

    Examples
    --------
    >>> gcs_get_file("ml-models-local", "titanic-survival/v1/model.joblib", "model.joblib")  # doctest: +SKIP
    PosixPath('model.joblib')
    """
    path = Path(path)
    with _downloaded(bucket_name, blob_path, generation, sha256, progress, client, beside=path) as file:
        Path(file.name).replace(path)
    return path


def gcs_stat(
    bucket_name: str, blob_path: str, *, generation: int | None = None, client: storage.Client | None = None
) -> StoredObject:
    """Return what is known of an object without reading it; raise `NotFoundError` when it is not there.

    Examples
    --------
    >>> gcs_stat("ml-models-local", "titanic-survival/v1/model.joblib").size  # doctest: +SKIP
    3181
    """
    check_object_name(bucket_name, blob_path)
    blob = (client or _client()).bucket(bucket_name).blob(blob_path, generation=generation)
    with explained(blob, "read"):
        blob.reload(retry=retry(), timeout=timeout())
    return stored(blob)


def gcs_list(bucket_name: str, prefix: str, *, client: storage.Client | None = None) -> list[str]:
    """Return the paths of the objects whose path starts with ``prefix``, in order.

    Examples
    --------
    >>> gcs_list("ml-models-local", "titanic-survival/v1/")  # doctest: +SKIP
    ['titanic-survival/v1/manifest.json', 'titanic-survival/v1/model.joblib']
    """
    bucket = (client or _client()).bucket(bucket_name)
    with explained(bucket.blob(prefix or "*"), "read"):
        return [blob.name for blob in bucket.list_blobs(prefix=prefix, retry=retry(), timeout=timeout())]


def check_object_name(bucket_name: str, blob_path: str) -> None:
    """Refuse what Cloud Storage would refuse, and the usual slips, before anything is sent."""
    if not _BUCKET.fullmatch(bucket_name):
        raise InvalidNameError(f"bucket_name must be a bare name like 'ml-models-dev', got {bucket_name!r}")
    if blob_path.startswith(("gs://", "/")):
        raise InvalidNameError(
            f"blob_path must be the path inside the bucket, without 'gs://' or '/', got {blob_path!r}"
        )
    if (
        not 1 <= len(blob_path.encode("utf-8", "replace")) <= 1024
        or blob_path in (".", "..")
        or not blob_path.isprintable()
    ):
        raise InvalidNameError(f"blob_path must be 1 to 1024 bytes of printable text, got {blob_path!r}")


@dataclass(frozen=True)
class _Content:
    size: int
    crc32c: str
    sha256: str

    def is_of(self, blob: storage.Blob) -> bool:
        return (blob.size, blob.crc32c) == (self.size, self.crc32c)


def _digest(file: IO[bytes]) -> _Content:
    """Read a file once, from its start, and leave it there."""
    file.seek(0)
    crc32c, sha256, size = google_crc32c.Checksum(), hashlib.sha256(), 0
    while block := file.read(_READ):
        crc32c.update(block)
        sha256.update(block)
        size += len(block)
    file.seek(0)
    return _Content(size, base64.b64encode(crc32c.digest()).decode(), sha256.hexdigest())


@contextmanager
def _as_file(obj: Any) -> Iterator[IO[bytes]]:
    """Open what is to be stored as a binary file that can be read twice."""
    if isinstance(obj, (str, io.TextIOBase)):
        raise TypeError(
            f"gcs_put stores bytes, files and objects, got text ({_shorten(obj)}): pass Path(…) for the file of that "
            "name, text.encode() for the text itself, or a file opened in binary mode"
        )
    if isinstance(obj, (bytes, bytearray, memoryview)):
        yield io.BytesIO(obj)
    elif isinstance(obj, Path):
        with obj.open("rb") as file:
            yield file
    elif _is_file(obj) and obj.seekable():
        yield obj
    else:
        with tempfile.TemporaryFile(prefix="mlsys-") as file:
            _spool(obj, file)
            yield file


def _is_file(obj: Any) -> bool:
    return isinstance(obj, io.IOBase) or (hasattr(obj, "read") and hasattr(obj, "seekable"))


def _spool(obj: Any, file: IO[bytes]) -> None:
    if _is_file(obj):
        shutil.copyfileobj(obj, file, _READ)
        return
    import joblib

    joblib.dump(obj, file)  # uncompressed: scanners see through it, and arrays are written without a copy


class _Overtaken(Exception):  # noqa: N818 - a signal to the retry, never seen outside
    """Another writer changed the object between our look and our upload."""


_overtaken_retry = Retry(predicate=lambda exc: isinstance(exc, _Overtaken), initial=0.1, maximum=5, timeout=300)


@dataclass(frozen=True)
class _Upload:
    bucket: storage.Bucket
    blob_path: str
    file: IO[bytes]
    content: _Content
    tags: Mapping[str, str]
    content_type: str
    create_only: bool
    progress: bool | None

    def run(self) -> storage.Blob:
        """Upload once: under the precondition that the object is as we saw it, no repeated request writes twice."""
        blob = self.bucket.blob(self.blob_path, chunk_size=_CHUNK)
        blob.metadata = dict(self.tags)
        with explained(blob, "write"):
            try:
                self._send(blob, 0 if self.create_only else self._generation())
            except exceptions.PreconditionFailed as exc:
                return self._settle(exc)
        if not self.content.is_of(blob):
            blob.delete(if_generation_match=blob.generation)
            raise VerificationError(f"{uri(blob)} arrived with other bytes than were sent, and was removed: try again")
        return blob

    def _send(self, blob: storage.Blob, generation: int) -> None:
        # With the checksum in the request, the server refuses damaged bytes before they become an object. Google's own
        # check of large uploads comes after that, and deletes whatever bears the name by then.
        single = self.content.size <= _MULTIPART
        with bytes_bar(self.file, "read", f"to {self.blob_path}", self.content.size, self.progress) as file:
            blob.upload_from_file(
                file,
                rewind=True,
                size=self.content.size,
                content_type=self.content_type,
                if_generation_match=generation,
                checksum="crc32c" if single else None,
                crc32c_checksum_value=self.content.crc32c,
                retry=retry(),
                timeout=timeout(),
            )

    def _generation(self) -> int:
        there = self.bucket.get_blob(self.blob_path, retry=retry(), timeout=timeout())
        return 0 if there is None else there.generation

    def _settle(self, exc: exceptions.PreconditionFailed) -> storage.Blob:
        """Find out whether the object that stands in the way is the one that we have just written."""
        there = self.bucket.get_blob(self.blob_path, retry=retry(), timeout=timeout())
        if there is not None and self._is_ours(there):
            return there
        if there is None or not self.create_only:
            raise _Overtaken from exc
        same = "the same" if self.content.is_of(there) else "other"
        raise AlreadyExistsError(
            f"{uri(there)} is there already, with {same} content (since {there.time_created:%Y-%m-%d %H:%M:%S} UTC): "
            "choose another name, or leave create_only out to replace it"
        ) from exc

    def _is_ours(self, there: storage.Blob) -> bool:
        token = (there.metadata or {}).get("mlsys-upload")
        return token == self.tags["mlsys-upload"] and self.content.is_of(there)


@contextmanager
def _downloaded(
    bucket_name: str,
    blob_path: str,
    generation: int | None,
    sha256: str | None,
    progress: bool | None,
    client: storage.Client | None,
    beside: Path | None = None,
) -> Iterator[IO[bytes]]:
    """Give a temporary file with the object's verified bytes; ``beside`` a path, it may be moved there."""
    check_object_name(bucket_name, blob_path)
    started = time.monotonic()
    blob = (client or _client()).bucket(bucket_name).blob(blob_path, generation=generation)
    with _new_file(beside) if beside else tempfile.TemporaryFile(prefix="mlsys-") as file:
        with explained(blob, "read"):
            blob.reload(retry=retry(), timeout=timeout())
            _receive_verified(blob, file, progress)
        _check_sha256(blob, file, sha256)
        logger.info("%s bytes in %.1f s from %s", blob.size, time.monotonic() - started, uri(blob))
        yield file


@contextmanager
def _new_file(beside: Path) -> Iterator[IO[bytes]]:
    """Open a new file in the folder of ``beside``, for whom the umask says: a temporary file would be private."""
    path = beside.with_name(f".mlsys-{uuid.uuid4().hex}")
    try:
        with path.open("x+b") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


class _Corrupted(Exception):  # noqa: N818 - a signal to the retry, never seen outside
    """The bytes that arrived are not the stored ones."""


def _receive_verified(blob: storage.Blob, file: IO[bytes], progress: bool | None) -> None:
    tries = iter(range(_DOWNLOADS - 1))
    again = Retry(
        predicate=lambda exc: isinstance(exc, _Corrupted) and next(tries, None) is not None, initial=0.2, timeout=None
    )
    try:
        again(_receive)(blob, file, progress)
    except _Corrupted as exc:
        raise VerificationError(
            f"{uri(blob)} arrived with other bytes than are stored, {_DOWNLOADS} times ({exc}): check the network"
        ) from exc


def _receive(blob: storage.Blob, file: IO[bytes], progress: bool | None) -> None:
    file.seek(0)
    file.truncate()
    wanted = blob.crc32c
    with bytes_bar(file, "write", f"from {blob.name}", blob.size, progress) as target:
        # Google's check skips a download that broke and was resumed: ours reads the file that came of it.
        try:
            blob.download_to_file(
                target,
                raw_download=True,
                checksum=None,
                if_generation_match=blob.generation,
                retry=retry(),
                timeout=timeout(),
            )
        except exceptions.PreconditionFailed as exc:
            raise not_found(blob) from exc
    file.flush()
    got = _digest(file)
    if got.crc32c != wanted or got.size != blob.size:
        raise _Corrupted(f"crc32c {got.crc32c} and {got.size} bytes, stored are {wanted} and {blob.size}")


def _unpickle(file: IO[bytes], name: str) -> Any:
    import joblib

    try:
        return joblib.load(file)
    except Exception as exc:
        file.seek(0)
        if file.read(1) != _PICKLE:
            raise VerificationError(f"{name} is no object that joblib stored: read it with gcs_get_bytes") from exc
        exc.add_note(f"while unpickling {name}")
        raise


def _check_sha256(blob: storage.Blob, file: IO[bytes], expected: str | None) -> None:
    if expected is None:
        return
    got = _digest(file).sha256
    if got != expected.lower():
        raise VerificationError(
            f"{uri(blob)} has SHA-256 {got}, expected {expected}: it is not the object that was saved; nothing was read"
        )


def uploader(client: storage.Client) -> str:
    """Say who uploads: buckets with uniform access keep no owner. Best effort."""
    credentials: Any = getattr(client, "_credentials", None)
    if getattr(credentials, "service_account_email", None) == "default":
        with suppress(GoogleAuthError):
            credentials.refresh(Request())  # a machine's credentials learn only by it whose they are
    email = getattr(credentials, "service_account_email", None) or getattr(credentials, "account", None)
    if email and email != "default":
        return email
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container whose user has no name
        return f"unknown@{socket.gethostname()}"


def stored(blob: storage.Blob) -> StoredObject:
    """Return what a blob whose properties are loaded says of its object."""
    metadata = dict(blob.metadata or {})
    return StoredObject(
        uri(blob),
        blob.generation,
        blob.size,
        blob.crc32c,
        metadata.get("sha256", ""),
        blob.content_type or "application/octet-stream",
        metadata,
    )


def _client() -> storage.Client:
    from mlsys.clients import storage_client

    return storage_client()


def _shorten(obj: Any) -> str:
    text = repr(obj)
    return text if len(text) <= 60 else f"{text[:59]}…"
