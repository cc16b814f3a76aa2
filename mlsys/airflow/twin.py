"""Airflow on the offline twin: the environment variables that point any Airflow at it, and Airflow itself."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from mlsys.errors import NotFoundError

PLUGINS = Path(__file__).parents[1] / "local" / "airflow_plugins"


def variables(
    twin: str, home: Path, dags: Path, *, project: str = "shoufianesys", region: str = "us-central1"
) -> dict[str, str]:
    """Return the environment of an Airflow whose DAGs run on the twin at the address ``twin``.

    Parameters
    ----------
    home
        Where Airflow keeps its database and logs.
    dags
        The folder with the DAGs.
    """
    connection = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": project}}
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(connection),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS),
        "AIRFLOW__CORE__LAZY_LOAD_PLUGINS": "False",  # the triggerer never asks for one
        "BIGQUERY_EMULATOR_HOST": twin,
        "CLOUD_RUN_EMULATOR_HOST": twin,
        "GCP_PROJECT_ID": project,
        "GCP_REGION": region,
        "MLSYS_ENV": "local",
    }


def standalone(home: Path, dags: Path, port: int) -> int:
    """Run ``airflow standalone`` on the twin of this project until it is ended; return its exit code.

    Raises
    ------
    NotFoundError
        Airflow is not installed.
    """
    from mlsys.local import attach
    from mlsys.settings import get_settings

    command = Path(sys.executable).with_name("airflow")
    if not command.exists():
        raise NotFoundError(f"there is no {command}: install Airflow with uv sync --group airflow")
    settings = get_settings()
    project = settings.gcp_project_id
    addresses = attach(settings.data_dir, project=project, buckets=settings.model_buckets)  # until this process ends
    home.mkdir(parents=True, exist_ok=True)
    env = os.environ | variables(addresses.http, home, dags, project=project, region=settings.gcp_region)
    env |= {
        "AIRFLOW__API__HOST": "127.0.0.1",  # everybody is an admin there
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",  # where tasks report to, too
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    }
    # In a session of its own, so that Ctrl-C reaches it once, from here: a second one would cut its farewell short.
    with subprocess.Popen([str(command), "standalone"], env=env, start_new_session=True) as process:  # noqa: S603
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            return process.wait()
