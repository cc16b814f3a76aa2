"""Copy objects inside Cloud Storage: the bytes do not pass through this machine."""

import logging
from collections.abc import Mapping

from google.api_core import exceptions
from google.cloud import storage

from mlsys.errors import AlreadyExistsError
from mlsys.gcs.calls import retry, timeout
from mlsys.gcs.errors import explained, not_found, uri
from mlsys.gcs.io import StoredObject, check_object_name, stored

logger = logging.getLogger(__name__)


def gcs_copy(
    source: StoredObject,
    bucket_name: str,
    blob_path: str,
    *,
    metadata: Mapping[str, str] | None = None,
    client: storage.Client | None = None,
) -> StoredObject:
    """Copy one generation of an object to a place where none is yet, and return the copy.

    Where the very bytes are there already, from an earlier call whose reply was lost or which was killed, they are
    taken for the copy.

    Parameters
    ----------
    source
        What is copied, from `gcs_stat`: of that generation, whatever has been written since.
    metadata
        Custom metadata, beside what the source has.

    Raises
    ------
    AlreadyExistsError
        Another object is there. Nothing was changed.
    NotFoundError, AccessError, InvalidNameError
        The message names the object and says what to do.

    Examples
    --------
    >>> found = gcs_stat("ml-models-dev", "titanic-survival/v1/model.joblib")  # doctest: +SKIP
    >>> gcs_copy(found, "ml-models-staging", "titanic-survival/v1/model.joblib").size == found.size  # doctest: +SKIP
    True
    """
    from mlsys.clients import storage_client

    check_object_name(bucket_name, blob_path)
    client = client or storage_client()
    original = storage.Blob.from_uri(source.uri, client)
    original = original.bucket.blob(original.name, generation=source.generation)
    there = client.bucket(bucket_name).blob(blob_path)
    there.metadata, there.content_type = {**source.metadata, **(metadata or {})}, source.content_type
    with explained(there, "write"):
        try:
            _rewrite(original, there)
        except exceptions.PreconditionFailed as exc:
            there = client.bucket(bucket_name).blob(blob_path)
            there.reload(retry=retry(), timeout=timeout())
            if (there.size, there.crc32c) != (source.size, source.crc32c):
                raise AlreadyExistsError(
                    f"{uri(there)} is there with other bytes than {source.uri} (crc32c {there.crc32c}, not"
                    f" {source.crc32c}): nothing was changed"
                ) from exc
        except exceptions.NotFound as exc:
            if original.exists(retry=retry(), timeout=timeout()):
                raise
            raise not_found(original) from exc
    logger.info("copied %s bytes from %s to %s", source.size, source.uri, uri(there))
    return stored(there)


def _rewrite(source: storage.Blob, there: storage.Blob) -> None:
    # Cloud Storage may take several calls for a large object; each gives a token for the next.
    options = {"if_generation_match": 0, "retry": retry(), "timeout": timeout()}
    token, _, _ = there.rewrite(source, **options)
    while token is not None:
        token, _, _ = there.rewrite(source, token=token, **options)
