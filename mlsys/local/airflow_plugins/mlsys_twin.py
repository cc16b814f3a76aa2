"""Airflow plugin: the Cloud Run hook talks to the twin when ``CLOUD_RUN_EMULATOR_HOST`` says where it is.

Google's clients have such a variable for BigQuery and Cloud Storage, and none for Cloud Run; the provider offers no
endpoint. Operators, triggers and hooks stay the real ones. This file stands alone, so that any Airflow can load it.
"""

import asyncio
import os
from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.providers.google.cloud.hooks import cloud_run
from google.auth.credentials import AnonymousCredentials


class MlsysTwinPlugin(AirflowPlugin):
    """Named so that ``airflow plugins`` shows what is in force."""

    name = "mlsys_twin"


def _client(*_: Any, **__: Any) -> cloud_run.JobsClient:
    options = {"api_endpoint": os.environ["CLOUD_RUN_EMULATOR_HOST"]}
    return cloud_run.JobsClient(transport="rest", credentials=AnonymousCredentials(), client_options=options)


class _AsyncClient:
    """What a trigger needs of a client; REST has no client that waits without a thread."""

    def __init__(self) -> None:
        self._client = _client()

    async def get_operation(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self._client.get_operation, *args, **kwargs)


async def _async_client(*_: Any, **__: Any) -> _AsyncClient:
    return _AsyncClient()


if os.environ.get("CLOUD_RUN_EMULATOR_HOST"):
    cloud_run.CloudRunHook.get_conn = _client
    cloud_run.CloudRunAsyncHook.get_conn = _async_client
