"""From an upload event to a row of ``ml_registry.models``.

Eventarc delivers at least once, late and in any order, and a bucket holds other files too. So `register` derives
everything from the manifest that the event names, never from the time or order of delivery, and may run twice.
"""

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from mlsys import clients
from mlsys.errors import VerificationError
from mlsys.manifest import Manifest, parse_manifest, sha256
from mlsys.names import MANIFEST_FILE, ModelRef
from mlsys.registry import files
from mlsys.settings import Environment, Settings, get_settings

if TYPE_CHECKING:
    from google.cloud.bigquery import Client as BigQueryClient
    from google.cloud.storage import Client as StorageClient

logger = logging.getLogger(__name__)


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
            return cls(str(data["bucket"]), str(data["name"]), int(data["generation"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not a Cloud Storage object event ({type(exc).__name__}: {exc})") from exc


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
        manifest, a foreign bucket, an object that is gone, a manifest that cannot be read. Those are logged and done
        with; repeating them would not help.

    Raises
    ------
    google.api_core.exceptions.GoogleAPICallError
        Google Cloud could not be reached or refused: deliver the event again.
    """
    settings = settings or get_settings()
    env, ref = _environment(event.bucket, settings), _manifest_of(event.name)
    if env is None or ref is None:
        logger.info("ignored gs://%s/%s: no manifest of a model version", event.bucket, event.name)
        return None
    blob = _fetch(event, storage_client or clients.storage_client(settings))
    if blob is None:
        logger.warning("ignored gs://%s/%s#%d: it is gone", event.bucket, event.name, event.generation)
        return None
    data, uploaded, uploader = blob
    try:
        manifest = parse_manifest(data, ref)
    except VerificationError as exc:
        logger.error("refused gs://%s/%s#%d: %s", event.bucket, event.name, event.generation, exc)
        return None
    row = _row(event, env, manifest, data, uploaded, uploader)
    _merge(row, settings.gcp_project_id, bigquery_client or clients.bigquery_client(settings))
    logger.info("registered %s in %s, %d bytes, uploaded by %s", ref, env, row["file_size"], uploader)
    return ref


def _environment(bucket: str, settings: Settings) -> Environment | None:
    return next((env for env in Environment if settings.model_bucket(env) == bucket), None)


def _manifest_of(blob_path: str) -> ModelRef | None:
    match ModelRef.from_blob_path(blob_path):
        case (ref, file) if file == MANIFEST_FILE:
            return ref
    return None


def _fetch(event: UploadEvent, client: "StorageClient") -> tuple[bytes, datetime, str | None] | None:
    from google.api_core.exceptions import NotFound

    blob = client.bucket(event.bucket).blob(event.name, generation=event.generation)
    try:
        blob.reload()
        return blob.download_as_bytes(), blob.time_created, (blob.metadata or {}).get("uploader")
    except NotFound:
        return None


def _row(
    event: UploadEvent, env: Environment, manifest: Manifest, data: bytes, uploaded: datetime, uploader: str | None
) -> dict[str, Any]:
    return {
        "environment": str(env),
        "model_name": manifest.model_name,
        "model_version": manifest.model_version,
        "upload_timestamp": uploaded,
        "file_size": sum(a.size for a in manifest.artifacts),
        "uploader": uploader,
        "gcs_uri": manifest.ref.uri(event.bucket),
        "manifest_generation": event.generation,
        "manifest_sha256": sha256(data),
        "artifacts": [a.model_dump() for a in manifest.artifacts],
        "created_timestamp": manifest.created,
        "creator": manifest.creator,
        "description": manifest.description,
        "git_commit": manifest.git_commit,
        "task": manifest.signature.task,
        "metrics": json.dumps(manifest.metrics, sort_keys=True),
        "signature": manifest.signature.model_dump_json(),
        "training_query": manifest.training_query,
        "training_rows": manifest.training_rows,
        "python_version": manifest.python_version,
        "packages": json.dumps(manifest.packages, sort_keys=True),
    }


def _merge(row: dict[str, Any], project: str, client: "BigQueryClient") -> None:
    from google.cloud import bigquery

    parameters = [_parameter(field, row[field["name"]]) for field in files.schema("models")]
    config = bigquery.QueryJobConfig(query_parameters=parameters, labels={"managed_by": "mlsys"})
    client.query_and_wait(files.sql("register_model", project), job_config=config)


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
