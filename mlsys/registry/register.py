"""From an upload event to a row of ``ml_registry.models``.

Eventarc delivers at least once, late and in any order, and a bucket holds other files too. So `register` derives
everything from the manifest that the event names, never from the time or order of delivery, and may run twice.
"""

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mlsys import clients
from mlsys.errors import VerificationError
from mlsys.manifest import Manifest, parse_manifest, sha256
from mlsys.names import MANIFEST_FILE, ModelRef, labels
from mlsys.registry import files
from mlsys.settings import Environment, Settings, get_settings

if TYPE_CHECKING:
    from google.api_core.exceptions import BadRequest
    from google.cloud.bigquery import Client as BigQueryClient
    from google.cloud.storage import Blob
    from google.cloud.storage import Client as StorageClient

logger = logging.getLogger(__name__)

_MAX_MANIFEST = 10 << 20  # bytes
_PATIENCE_S = 5.0  # with one call to BigQuery
_CONTENTION = ("could not serialize access", "too many dml statements")  # of many events at once; it passes


@dataclass(frozen=True)
class UploadEvent:
    """The part of a ``google.cloud.storage.object.v1.finalized`` event that identifies the object."""

    bucket: str
    name: str
    generation: int

    @classmethod
    def parse(cls, data: Any) -> Self:
        """Read the data of a CloudEvent; raise ValueError when it is no storage object."""
        try:
            event = cls(str(data["bucket"]), str(data["name"]), int(data["generation"]))
            if not 0 < event.generation < 1 << 63:
                raise ValueError(f"generation {event.generation}")
            return event
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not a Cloud Storage object event ({type(exc).__name__}: {exc})") from exc

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.name}#{self.generation}"


def register(
    event: UploadEvent,
    *,
    settings: Settings | None = None,
    bigquery_client: "BigQueryClient | None" = None,
    storage_client: "StorageClient | None" = None,
) -> ModelRef | None:
    """Register the version whose manifest was uploaded.

    Returns
    -------
    ModelRef or None
        The version that is now in the registry, or None when the event was for something else: a file that is no
        manifest, a foreign bucket, an object that is gone, a manifest that cannot be read, has more than 10 MiB, or
        makes a row that BigQuery calls invalid. Those are logged and done with; repeating them would not help.

    Raises
    ------
    google.api_core.exceptions.GoogleAPICallError
        Google Cloud could not be reached or refused: deliver the event again.
    """
    from google.api_core.exceptions import BadRequest

    settings = settings or get_settings()
    env, ref = _environment(event.bucket, settings), _manifest_of(event.name)
    if env is None or ref is None:
        logger.info("ignored %s: no manifest of a model version", event)
        return None
    found = _fetch(event, storage_client or clients.storage_client(settings))
    if found is None:
        logger.warning("ignored %s: it is gone", event)
        return None
    blob, data = found
    try:
        if data is None:
            raise VerificationError(f"the manifest of {ref} has {blob.size:,} bytes, more than {_MAX_MANIFEST:,}")
        manifest = parse_manifest(data, ref)
        row = _row(event, env, manifest, data, blob) | {"artifacts": _artifacts(manifest, blob)}
        _merge(row, settings.gcp_project_id, bigquery_client or clients.bigquery_client(settings))
    except VerificationError as exc:
        logger.error("refused %s: %s", event, exc)
        return None
    except BadRequest as exc:
        if not _is_final(exc):
            raise
        logger.error("refused %s: BigQuery does not take its row: %s", event, exc)
        return None
    logger.info("registered %s in %s, %d bytes, uploaded by %s", ref, env, row["file_size"], row["uploader"])
    return ref


def _environment(bucket: str, settings: Settings) -> Environment | None:
    return next((env for env in Environment if settings.model_bucket(env) == bucket), None)


def _manifest_of(blob_path: str) -> ModelRef | None:
    match ModelRef.from_blob_path(blob_path):
        case (ref, file) if file == MANIFEST_FILE:
            return ref
    return None


def _fetch(event: UploadEvent, client: "StorageClient") -> "tuple[Blob, bytes | None] | None":
    """Return the object and its bytes, None for those when it is too large; None when it is gone."""
    from google.api_core.exceptions import NotFound

    blob = client.bucket(event.bucket).blob(event.name, generation=event.generation)
    try:
        blob.reload()
        return blob, blob.download_as_bytes() if blob.size <= _MAX_MANIFEST else None
    except NotFound:
        return None


def _is_final(exc: "BadRequest") -> bool:
    """Return whether BigQuery will say the same again: it answers 400 to some passing failures too."""
    reasons = {error.get("reason") for error in exc.errors}
    return reasons <= {"invalid", "invalidQuery"} and not any(text in str(exc).lower() for text in _CONTENTION)


def _row(event: UploadEvent, env: Environment, manifest: Manifest, data: bytes, blob: "Blob") -> dict[str, Any]:
    return {
        "environment": str(env),
        "upload_timestamp": blob.time_created,
        "uploader": (blob.metadata or {}).get("uploader"),
        "promoted_from": _promoted_from(blob),
        "gcs_uri": manifest.ref.uri(event.bucket),
        "manifest_generation": event.generation,
        "manifest_sha256": sha256(data),
        **columns_of(manifest),
    }


def _artifacts(manifest: Manifest, blob: "Blob") -> list[dict[str, Any]]:
    """Return the files of a version with the generation that was written first: whatever came later, it is the same."""
    first: dict[str, int] = {}
    fields = "items(name,generation),nextPageToken"
    for found in blob.bucket.list_blobs(prefix=manifest.ref.prefix, versions=True, fields=fields):
        first[found.name] = min(found.generation, first.get(found.name, found.generation))
    return [a.model_dump() | {"generation": first.get(manifest.ref.blob_path(a.file))} for a in manifest.artifacts]


def _promoted_from(blob: "Blob") -> str | None:
    said = (blob.metadata or {}).get("promoted_from")
    return said if said in list(Environment) else None


def columns_of(manifest: Manifest) -> dict[str, Any]:
    """Return the columns of a version's row that say what its manifest says."""
    return {
        "model_name": manifest.model_name,
        "model_version": manifest.model_version,
        "file_size": sum(a.size for a in manifest.artifacts),
        "artifacts": [a.model_dump() for a in manifest.artifacts],
        "created_timestamp": manifest.created,
        "creator": manifest.creator,
        "description": manifest.description,
        "git_commit": manifest.git_commit,
        "task": manifest.signature.task,
        "metrics": json.dumps(manifest.metrics, sort_keys=True, allow_nan=False),
        "signature": manifest.signature.model_dump_json(),
        "training_query": manifest.training_query,
        "training_rows": manifest.training_rows,
        "python_version": manifest.python_version,
        "packages": json.dumps(manifest.packages, sort_keys=True),
    }


def _merge(row: dict[str, Any], project: str, client: "BigQueryClient") -> None:
    from google.cloud import bigquery
    from google.cloud.bigquery import DEFAULT_RETRY

    parameters = [_parameter(field, row[field["name"]]) for field in files.schema("models")]
    for name in ("metrics", "signature"):
        text = _numbers_as_text(row[name])
        parameters.append(bigquery.ScalarQueryParameter(f"{name}_as_text", "STRING", text))
    job_labels = labels(env=row["environment"], model=row["model_name"], model_version=row["model_version"])
    config = bigquery.QueryJobConfig(query_parameters=parameters, labels=job_labels)
    # Not for ten minutes: a repeated request is the same job, failed as it was. The event comes again, for another one.
    retry, sql = DEFAULT_RETRY.with_timeout(_PATIENCE_S), files.sql("register_model", project)
    client.query_and_wait(sql, job_config=config, retry=retry, job_retry=None)  # type: ignore[arg-type] # None is no retry


def _numbers_as_text(text: str) -> str:
    # BigQuery's PARSE_JSON refuses about one float in a thousand that does not survive its own reading and writing.
    return json.dumps(json.loads(text, parse_float=str, parse_int=str))


def _parameter(field: dict, value: Any) -> Any:
    from google.cloud import bigquery

    if field["type"] == "RECORD":
        structs = [
            bigquery.StructQueryParameter(None, *(_parameter(part, item[part["name"]]) for part in field["fields"]))
            for item in value
        ]
        return bigquery.ArrayQueryParameter(field["name"], "STRUCT", structs)
    kind = {"INTEGER": "INT64", "JSON": "STRING"}.get(field["type"], field["type"])  # the SQL parses JSON from text
    return bigquery.ScalarQueryParameter(field["name"], kind, value)
