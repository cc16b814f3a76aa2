"""What every model's DAG is built on: `prediction_dag`. Composer gets this file beside the DAGs, and nothing of mlsys.

A run of the DAG is one slice of predictions: `PredictionRun` starts the model's Cloud Run job, and `LedgerCheck`
believes only what that very execution has written into ``ml_registry``. It works in Airflow 2.11 and 3.
"""

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

try:
    from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, CronDataIntervalTimetable, Param
    from airflow.sdk.exceptions import AirflowFailException
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowFailException
    from airflow.models import DAG, BaseOperator
    from airflow.models.param import Param
    from airflow.sensors.base import BaseSensorOperator
    from airflow.timetables.interval import CronDataIntervalTimetable

from airflow.providers.google.cloud.operators.cloud_run import CloudRunExecuteJobOperator

ENVIRONMENTS = ("local", "dev", "staging", "prod")
LEDGER = "ml_registry.run_states"  # a view; composer's account may read it (infra/service_accounts.tf)
_CONSOLE = "https://console.cloud.google.com"
_AS_OF = "{{ as_of(dag_run, params) }}"


def environment() -> str:
    """Return the environment that this Airflow belongs to; without one, a DAG must not even be there."""
    env = os.environ.get("MLSYS_ENV", "")
    if env not in ENVIRONMENTS:
        raise ValueError(f"MLSYS_ENV must be {', '.join(ENVIRONMENTS)}, got {env!r}: set it in Composer's environment")
    return env


def as_of(dag_run: Any, params: dict[str, Any]) -> str:
    """Return the moment that a run of the DAG is for, in UTC.

    It is the end of the data interval, which is when the schedule was due: in the past once the run starts, the same on
    each retry, clear and backfill, and the same in Airflow 2 and 3. A run by hand is for the last moment that was due,
    or for the one that it names. Only in Airflow 3 a run by hand may have no interval: then it is for 00:00 UTC of its
    day, as ``mlsys predict`` has it.
    """
    if given := params.get("as_of"):
        moment = datetime.fromisoformat(given)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    end = dag_run.data_interval_end
    if end is None:
        end = dag_run.run_after.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return datetime.fromtimestamp(end.timestamp(), UTC).isoformat()


class PredictionRun(CloudRunExecuteJobOperator):
    """Start the job, wait in the triggerer, and leave the execution's name for who checks what it did."""

    def execute(self, context: Any) -> Any:
        """Start an execution; from here on the triggerer waits for it."""
        try:
            return super().execute(context)
        finally:  # it goes on by raising TaskDeferred
            if self.operation is not None:
                context["ti"].xcom_push(key="execution", value=self.operation.metadata.name.rpartition("/")[2])


class LedgerCheck(BaseOperator):
    """Fail unless the ledger says that this execution has succeeded, with as many rows as there should be.

    Cloud Run's word is not enough: a cancelled execution has no error, and older providers take it for a success.
    """

    template_fields = ("as_of", "execution")

    def __init__(
        self,
        *,
        project_id: str,
        key: dict[str, str],
        as_of: str,
        execution: str,
        rows: tuple[int, int | None],
        max_rejects: float,
        gcp_conn_id: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.project_id, self.key, self.as_of, self.execution = project_id, key, as_of, execution
        self.rows, self.max_rejects, self.gcp_conn_id = rows, max_rejects, gcp_conn_id

    def execute(self, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return the execution's row; raise when there is none, or it says something else."""
        known = self._rows()
        found = next((row for row in known if row["execution"] == self.execution), None)
        if found is None:
            others = ", ".join(f"{row['execution']} {row['state']}" for row in known) or "none"
            raise AirflowFailException(
                f"execution {self.execution or '(unknown)'} left no row in {LEDGER} for as_of {self.as_of}: it ended"
                f" before it began its run. Other executions of this run: {others}"
            )
        self.log.info("%s", found)
        if faults := self._faults(found):
            raise AirflowFailException(
                f"run {found['run_id']}, execution {self.execution}, as of {self.as_of}: {'; '.join(faults)}"
            )
        return {**found, "as_of": self.as_of}

    def _faults(self, row: dict[str, Any]) -> list[str]:
        if row["state"] != "succeeded":
            return [f"it is {row['state']}, not succeeded ({row['reason'] or 'without a reason'})"]
        least, most = self.rows
        scored, rejected = row["scored_rows"], row["rejected_rows"]
        allowed = self.max_rejects * row["input_rows"]
        faults = [f"{scored:,} rows, at least {least:,} expected"] if scored < least else []
        faults += [f"{scored:,} rows, at most {most:,} expected"] if most is not None and scored > most else []
        faults += [f"{rejected:,} rows rejected, at most {allowed:,.0f} expected"] if rejected > allowed else []
        return faults

    def _rows(self) -> list[dict[str, Any]]:
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook
        from google.cloud.bigquery import QueryJobConfig, ScalarQueryParameter

        texts = [ScalarQueryParameter(name, "STRING", value) for name, value in self.key.items()]
        moment = ScalarQueryParameter("as_of", "TIMESTAMP", datetime.fromisoformat(self.as_of))
        where = " AND ".join(f"{name} = @{name}" for name in (*self.key, "as_of"))
        client = BigQueryHook(gcp_conn_id=self.gcp_conn_id).get_client(project_id=self.project_id)
        columns = "run_id, execution, state, reason, model_version, input_rows, scored_rows, rejected_rows"
        job = client.query(
            f"SELECT {columns} FROM `{self.project_id}.{LEDGER}` WHERE {where} ORDER BY started_timestamp DESC",  # noqa: S608
            QueryJobConfig(query_parameters=[*texts, moment], labels={"managed_by": "mlsys"}),
        )
        return [dict(row) for row in job.result(timeout=300)]


class FreshInput(BaseSensorOperator):
    """Wait until the input table was changed at or after the moment that the run is for."""

    template_fields = ("as_of",)

    def __init__(self, *, project_id: str, table_id: str, as_of: str, gcp_conn_id: str, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", **kwargs)
        self.project_id, self.table_id, self.as_of, self.gcp_conn_id = project_id, table_id, as_of, gcp_conn_id

    def poke(self, context: Any) -> bool:  # noqa: ARG002
        """Say whether it was."""
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook

        client = BigQueryHook(gcp_conn_id=self.gcp_conn_id).get_client(project_id=self.project_id)
        modified = client.get_table(self.table_id).modified
        self.log.info("%s was changed at %s, wanted %s or later", self.table_id, modified, self.as_of)
        return modified >= datetime.fromisoformat(self.as_of)


def tell_how_to_rerun(context: dict[str, Any]) -> None:
    """Say in the task's log which run failed and how to make it again: its rows are replaced, never doubled."""
    ti, dag_run, task = context["ti"], context["dag_run"], context["task"]
    moment = as_of(dag_run, context["params"])
    job = task.dag.get_task("predict")
    conf = json.dumps({"as_of": moment, "model_version": context["params"]["model_version"]})
    given = {each["name"]: each["value"] for each in job.overrides["container_overrides"][0]["env"]}
    lines = [
        f"{dag_run.dag_id} as of {moment} failed in task {ti.task_id}: {context.get('exception')}",
        f"Make it again: clear its tasks in Airflow's page, or  airflow dags trigger {dag_run.dag_id} -c '{conf}'",
    ]
    if environment() == "local":
        lines.append(
            f"or without Airflow:  uv run mlsys predict --model {given['MODEL_NAME']} --source '{given['SOURCE']}'"
            f" --output {given['OUTPUT_TABLE']} --id {given['ID_COLUMNS']} --as-of {moment}"
        )
    else:
        lines.append(
            f"or without Airflow:  gcloud run jobs execute {job.job_name} --project {job.project_id}"
            f" --region {job.region} --update-env-vars AS_OF={moment},MODEL_VERSION={given['MODEL_VERSION']} --wait"
        )
    task.log.error("\n".join(lines))


def prediction_dag(
    *,
    model_name: str,
    source: str,
    output_table: str,
    id_columns: Sequence[str],
    model_version: str = "latest",
    schedule: str | None = "0 0 * * *",
    start_date: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    catchup: bool = False,
    owner: str = "data-science",
    tasks: int | None = None,
    rows: tuple[int, int | None] = (1, None),
    max_rejects: float = 0.0,
    fresh_input: str | None = None,
    retries: int = 1,
    retry_delay: timedelta = timedelta(minutes=10),
    longest: timedelta = timedelta(hours=3),
    gcp_conn_id: str = "google_cloud_default",
) -> DAG:
    """Return the DAG that makes a model's predictions on a schedule.

    Parameters
    ----------
    model_name, model_version, source, output_table, id_columns
        As for ``mlsys predict``: a version, ``latest``, or an alias such as ``champion``; a table, or a query that may
        use ``@as_of``. They override what Terraform wrote into the job, so that what stands here is what runs.
    schedule
        Cron, in UTC. The run is for the moment at which it was due (see `as_of`). None: by hand only.
    catchup
        Whether moments since ``start_date`` that were missed are made up for, one after the other.
    tasks
        How many tasks of the job share the rows; by default what the job says.
    rows, max_rejects
        Fewer or more scored rows, or a larger fraction of rejected ones, fail the check.
    fresh_input
        A table to wait for, up to ``longest``, until it was changed since the run's moment. Composer's account needs
        ``roles/bigquery.metadataViewer`` on it.
    retries, retry_delay, longest
        Airflow's. Each of its tries is an execution, in which Cloud Run tries each task again (``max_retries`` in
        infra/models.auto.tfvars): two times two, by default. ``longest`` leaves time for both of an execution's.
    """
    env = environment()
    # Composer sets GCP_PROJECT itself; elsewhere the names are those of mlsys.settings.
    project = os.environ.get("GCP_PROJECT_ID") or os.environ.get("GCP_PROJECT") or "shoufianesys"
    region = os.environ.get("GCP_REGION") or "us-central1"
    job_name = f"{model_name}-{env}"
    variables = {
        "MODEL_NAME": model_name,
        "MODEL_VERSION": "{{ params.model_version }}",
        "SOURCE": source,
        "OUTPUT_TABLE": output_table,
        "ID_COLUMNS": ",".join(id_columns),
        "AS_OF": _AS_OF,
    }
    overrides = {"container_overrides": [{"env": [{"name": name, "value": v} for name, v in variables.items()]}]}
    with DAG(
        dag_id=job_name,
        description=f"Predictions of {model_name} in {env}",
        doc_md=_page(project, region, job_name, source, output_table),
        schedule=CronDataIntervalTimetable(schedule, timezone="UTC") if schedule else None,
        start_date=start_date,
        catchup=catchup,
        max_active_runs=1,  # executions of one run take turns anyway; this keeps days in order, and quotas low
        dagrun_timeout=None,  # its tasks have theirs, and a run that waits for its retry has not failed
        tags=["mlsys", model_name, env],
        params={
            "model_version": Param(model_version, type="string", description="v1, v2, …, latest, or an alias"),
            "as_of": Param(
                None, type=["null", "string"], description="Another moment than the schedule's, such as 2026-01-31"
            ),
        },
        user_defined_macros={"as_of": as_of},
        default_args={
            "owner": owner,
            "retries": retries,
            "retry_delay": retry_delay,
            "execution_timeout": longest,
            "on_failure_callback": tell_how_to_rerun,
        },
    ) as dag:
        predict = PredictionRun(
            task_id="predict",
            project_id=project,
            region=region,
            job_name=job_name,
            overrides=overrides if tasks is None else {**overrides, "task_count": tasks},
            deferrable=True,
            polling_period_seconds=1 if env == "local" else 15,
            gcp_conn_id=gcp_conn_id,
            doc_md="Starts the Cloud Run job and waits for it in the triggerer.",
        )
        check = LedgerCheck(
            task_id="check",
            project_id=project,
            key={"environment": env, "model_name": model_name, "output_table": output_table},
            as_of=_AS_OF,
            execution="{{ ti.xcom_pull(task_ids='predict', key='execution') or '' }}",
            rows=rows,
            max_rejects=max_rejects,
            gcp_conn_id=gcp_conn_id,
            retries=2,  # for BigQuery's sake: what the ledger says fails at once
            retry_delay=min(retry_delay, timedelta(minutes=1)),
            execution_timeout=timedelta(minutes=15),
            doc_md=f"Fails unless `{LEDGER}` says that this execution succeeded, with rows and rejects in bounds.",
        )
        predict >> check
        if fresh_input:
            fresh = FreshInput(
                task_id="fresh_input",
                project_id=project,
                table_id=fresh_input,
                as_of=_AS_OF,
                gcp_conn_id=gcp_conn_id,
                poke_interval=5 if env == "local" else 300,
                timeout=longest.total_seconds(),
            )
            fresh >> predict
    return dag


def _page(project: str, region: str, job_name: str, source: str, output_table: str) -> str:
    """Return what Airflow shows about the DAG."""
    job = f"{_CONSOLE}/run/jobs/details/{region}/{job_name}/executions?project={project}"
    read = f"[{source}]({_table_link(source)})" if re.fullmatch(r"[^\s`]+", source) else f"`{' '.join(source.split())}`"
    ledger = f"{project}.{LEDGER}"
    return f"""\
Scores {read} and replaces one slice of [{output_table}]({_table_link(output_table)}): the rows whose `as_of` is the
moment that the schedule was due. A retry, a cleared task and a backfill make the same slice again.

- job: [{job_name}]({job})
- ledger: [{ledger}]({_table_link(ledger)}), or `mlsys runs`
- by hand: *Trigger*; `as_of` and `model_version` may be changed there
- a failed run: its log names the command that makes it again
"""


def _table_link(table_id: str) -> str:
    project, dataset, table = table_id.split(".", 2)
    return f"{_CONSOLE}/bigquery?project={project}&ws=!1m5!1m4!4m3!1s{project}!2s{dataset}!3s{table}"
