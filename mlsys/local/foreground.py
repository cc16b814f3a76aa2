"""``mlsys up``: the twin in the foreground, for tools that are not mlsys."""

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from mlsys.errors import TwinError
from mlsys.local.launcher import Addresses, join

_HELP = """\
The offline twin serves {folder}
  BigQuery, Cloud Storage, Cloud Run jobs (REST)   {http}
  BigQuery Storage Read (gRPC)                     {grpc}
  project {project}, model buckets {buckets}

Notebooks, mlsys commands and jobs of this project find it by themselves. For other tools, in their shell:

  export BIGQUERY_EMULATOR_HOST={http} STORAGE_EMULATOR_HOST={http}
  export GOOGLE_CLOUD_PROJECT={project} CLOUDSDK_AUTH_ACCESS_TOKEN=local
  export GOOGLE_APPLICATION_CREDENTIALS={credentials}

  google-cloud-bigquery   bigquery.Client().query("SELECT 1 AS x").to_dataframe(create_bqstorage_client=False)
  google-cloud-storage    storage.Client().list_buckets()
  pandas-gbq              pandas_gbq.read_gbq("SELECT 1 AS x")
  bq                      bq --api {http} --project_id {project} --discovery_file \\
    "$(gcloud info --format='value(installation.sdk_root)')/platform/bq/discovery_next/bigquery.json" \\
    query --nouse_legacy_sql 'SELECT 1 AS x'
  google-cloud-run        run_v2.JobsClient(transport="rest", credentials=AnonymousCredentials(),
    client_options={{"api_endpoint": "{http}"}})
  airflow                 uv run mlsys dags airflow, or another one: dags/README.md

Ctrl-C ends it. Nothing is lost: the data stays in the folder."""

# BigQuery's client wants credentials beside its emulator variable. A user's token that never expires is taken without
# asking Google, and no real one is sent to the twin.
_CREDENTIALS = {
    "type": "authorized_user",
    "client_id": "local",
    "client_secret": "local",  # pragma: allowlist secret
    "refresh_token": "local",
    "token": "local",
    "expiry": "9999-12-31T00:00:00Z",
}


def up(
    folder: Path, *, project: str, buckets: dict[str, str], port: int, grpc_port: int, echo: Callable[[str], None]
) -> None:
    """Serve ``folder`` until Ctrl-C, or hold on to the twin that serves it already.

    Raises
    ------
    TwinError
        The port is taken, the folder cannot be written, or a twin runs already on another port than the one asked for.
    """

    def announce(addresses: Addresses) -> None:
        credentials = folder.resolve() / "credentials.json"
        credentials.write_text(json.dumps(_CREDENTIALS))
        echo(
            _HELP.format(
                folder=folder, http=addresses.http, grpc=addresses.grpc, project=project,
                buckets=", ".join(buckets.values()),
                credentials=shlex.quote(str(credentials)),
            )
        )  # fmt: skip

    if lease := join(folder):
        addresses = lease.addresses
        for wanted, there in ((port, addresses.http), (grpc_port, addresses.grpc)):
            if wanted and not there.endswith(f":{wanted}"):
                raise TwinError(
                    f"a twin serves {folder} at {there}: end process {addresses.pid} before asking for port {wanted}"
                )
        announce(addresses)
        while lease.alive():
            time.sleep(0.5)
        return
    from mlsys.local.server import run

    run(folder, port=port, grpc_port=grpc_port, forever=True, seed=(project, buckets), ready=announce)
