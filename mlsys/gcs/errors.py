"""Google's exceptions, told again with the object's name and the way out."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from google.api_core import exceptions

from mlsys.errors import AccessError, NotFoundError

if TYPE_CHECKING:
    from google.cloud.storage import Blob

_ROLES = {"read": "roles/storage.objectViewer", "write": "roles/storage.objectUser"}
_SHOWN = 5


@contextmanager
def explained(blob: "Blob", action: Literal["read", "write"]) -> Iterator[None]:
    """Turn a missing object, a missing bucket and a refusal inside the block into mlsys's errors."""
    try:
        yield
    except exceptions.NotFound as exc:
        raise not_found(blob) from exc
    except exceptions.Forbidden as exc:
        raise AccessError(
            f"no access to {uri(blob)}: to {action} it the caller needs {_ROLES[action]} on bucket {blob.bucket.name} "
            f"({str(exc.message).partition(chr(10))[0]})"
        ) from exc


def not_found(blob: "Blob") -> NotFoundError:
    """Return the error for an object that is not there, with what is there instead."""
    bucket, path = blob.bucket, blob.name
    folder = path.rpartition("/")[0]
    try:
        if not bucket.exists(retry=None, timeout=5):
            return NotFoundError(f"bucket {bucket.name} is not there: create it, or correct the name ({uri(blob)})")
        names = [b.name for b in bucket.list_blobs(prefix=folder, max_results=1000, retry=None, timeout=5)]
    except Exception:  # noqa: BLE001 - what is there instead is a courtesy: never hide the error that is being told
        return NotFoundError(f"{uri(blob)} is not there: check the bucket and the path")
    if close := get_close_matches(path, names, n=3, cutoff=0.6):
        return NotFoundError(f"{uri(blob)} is not there: did you mean {' or '.join(close)}?")
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "") or "nothing"
    return NotFoundError(f"{uri(blob)} is not there: gs://{bucket.name}/{folder} has {shown}")


def uri(blob: "Blob") -> str:
    """Return ``gs://bucket/path``."""
    return f"gs://{blob.bucket.name}/{blob.name}"
