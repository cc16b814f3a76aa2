"""``mlsys up``: the twin in the foreground, for tools that are not mlsys."""

import time
from collections.abc import Callable
from pathlib import Path

from mlsys.errors import TwinError
from mlsys.local.launcher import Addresses, join

_HELP = """\
The offline twin serves {folder}
  BigQuery REST and Cloud Storage   {http}
  BigQuery Storage Read (gRPC)      {grpc}
  project {project}, model bucket {bucket}

Notebooks, mlsys commands and jobs of this project find it by themselves. Point other tools at it:
  any Google client   export BIGQUERY_EMULATOR_HOST={http} STORAGE_EMULATOR_HOST={http}
  bq                  bq --api {http} --project_id {project} query --nouse_legacy_sql 'SELECT 1'
  pandas-gbq          see README.md: pass a client made with client_options={{"api_endpoint": "{http}"}}

Ctrl-C ends it. Nothing is lost: the data stays in the folder."""


def up(folder: Path, *, project: str, bucket: str, port: int, grpc_port: int, echo: Callable[[str], None]) -> None:
    """Serve ``folder`` until Ctrl-C, or hold on to the twin that serves it already.

    Raises
    ------
    TwinError
        The port is taken, the folder cannot be written, or a twin runs already on another port than the one asked for.
    """

    def announce(addresses: Addresses) -> None:
        echo(_HELP.format(folder=folder, http=addresses.http, grpc=addresses.grpc, project=project, bucket=bucket))

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

    run(folder, port=port, grpc_port=grpc_port, forever=True, seed=(project, bucket), ready=announce)
