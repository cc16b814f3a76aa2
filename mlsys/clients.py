"""The seam: the only module that knows the offline twin from Google Cloud.

Everything above takes Google's own clients from here and is written once. In environment ``local`` they talk to the
twin of this project's data folder, which starts by itself (see `mlsys.local`); elsewhere to Google Cloud with the
caller's own credentials, unless ``MLSYS_TWIN`` puts them on the twin too. Imports of Google's packages are lazy: each
costs up to a second.
"""

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from mlsys.errors import SettingsError
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.bigquery import Client as BigQueryClient
    from google.cloud.bigquery_storage import BigQueryReadClient
    from google.cloud.storage import Client as StorageClient

    from mlsys.local import Addresses


def bigquery_client(settings: Settings | None = None) -> "BigQueryClient":
    """Return the BigQuery client of this process (one per environment and project)."""
    settings = settings or get_settings()
    return _bigquery(settings.gcp_project_id, _twin(settings))


def read_client(settings: Settings | None = None) -> "BigQueryReadClient":
    """Return the BigQuery Storage Read client: the way that rows leave BigQuery as Arrow."""
    return _read(_twin(settings or get_settings()))


def storage_client(settings: Settings | None = None) -> "StorageClient":
    """Return the Cloud Storage client of this process."""
    settings = settings or get_settings()
    return _storage(settings.gcp_project_id, _twin(settings))


def _twin(settings: Settings) -> "Addresses | None":
    if not settings.on_twin:
        _refuse_emulators(settings)
        return None
    from mlsys.local import attach

    return attach(settings.data_dir, project=settings.gcp_project_id, buckets=settings.model_buckets)


def _refuse_emulators(settings: Settings) -> None:
    # Google's clients would follow them, all but the Read API: half of the work would go to the twin.
    for name in ("BIGQUERY_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"):
        if os.environ.get(name):
            raise SettingsError(f"{name} is set to {os.environ[name]!r} while MLSYS_ENV is {settings.env}: unset one")


@lru_cache
def _bigquery(project: str, twin: "Addresses | None") -> "BigQueryClient":
    from google.cloud import bigquery

    if twin is None:
        return bigquery.Client(project=project)
    return bigquery.Client(project, _anonymous(), client_options={"api_endpoint": twin.http})


@lru_cache
def _read(twin: "Addresses | None") -> "BigQueryReadClient":
    from google.cloud.bigquery_storage import BigQueryReadClient

    if twin is None:
        return BigQueryReadClient()
    import grpc
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

    channel = grpc.insecure_channel(twin.grpc, options=[("grpc.max_receive_message_length", -1)])
    return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))


@lru_cache
def _storage(project: str, twin: "Addresses | None") -> "StorageClient":
    from google.cloud import storage

    if twin is None:
        return storage.Client(project=project)
    return storage.Client(project, _anonymous(), client_options={"api_endpoint": twin.http})


def _anonymous() -> "AnonymousCredentials":
    from google.auth.credentials import AnonymousCredentials

    return AnonymousCredentials()
