"""The run ledger: what every execution of every prediction run was, and what became of it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlsys.names import labels, registry_table
from mlsys.registry import files
from mlsys.registry.lookup import select
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    import pandas as pd
    from google.cloud.bigquery import Client as BigQueryClient
    from google.cloud.bigquery import QueryJob


@dataclass(frozen=True)
class RunEntry:
    """A row of ``ml_registry.runs``; the fields are its columns. What is None is left as it is."""

    run_id: str
    execution: str
    environment: str
    model_name: str
    source: str
    output_table: str
    as_of: datetime
    started_timestamp: datetime
    tasks: int
    attempt: int
    status: str = "started"
    model_version: str | None = None
    model_sha256: str | None = None
    reason: str | None = None
    prediction_timestamp: datetime | None = None
    finished_timestamp: datetime | None = None
    input_rows: int | None = None
    scored_rows: int | None = None
    rejected_rows: int | None = None
    bytes_processed: int | None = None
    seconds: float | None = None
    image: str | None = None
    git_commit: str | None = None

    def ended(self, status: str, reason: str | None = None, **known: Any) -> "RunEntry":
        """Return the entry of an execution that has succeeded or failed, now."""
        return replace(self, status=status, reason=reason, finished_timestamp=datetime.now(UTC), **known)


def record_run(entry: RunEntry, client: "BigQueryClient", job_id: str | None = None) -> "QueryJob":
    """Insert an execution's row, or add to it what is known now; with the same ``job_id`` once. Return the job.

    An execution that has succeeded does not fail afterwards, whatever a straggling task reports.
    """
    from google.cloud import bigquery

    from mlsys.bq.errors import explained
    from mlsys.bq.jobs import run_query

    parameters = [
        bigquery.ScalarQueryParameter(field["name"], _TYPES.get(field["type"], field["type"]),
                                      getattr(entry, field["name"]))
        for field in files.schema("runs")
    ]  # fmt: skip
    job_labels = labels(env=entry.environment, model=entry.model_name, model_version=entry.model_version or "",
                        run_id=entry.run_id)  # fmt: skip
    config = bigquery.QueryJobConfig(query_parameters=parameters, labels=job_labels)
    with explained(client, writes=registry_table(client.project, "runs")):
        return run_query(client, files.sql("record_run", client.project), config, job_id)


_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64"}


def known_timestamps(run_id: str, model_name: str, settings: Settings) -> list[datetime]:
    """Return the prediction timestamps of all executions of a run: those that its rows in the output can have."""
    where = "run_id = @run_id AND prediction_timestamp IS NOT NULL"
    moment = "prediction_timestamp"
    frame = select(f"DISTINCT {moment}", "runs", model_name, settings, where=where, order=moment, run_id=run_id)
    return [value.to_pydatetime() for value in frame[moment]]


def list_runs(
    model_name: str | None = None,
    model_version: str | None = None,
    *,
    last: int | None = None,
    settings: Settings | None = None,
) -> "pd.DataFrame":
    """Return the executions of runs in this environment, the first one first; with ``last``, so many of the latest.

    Columns: those of the view ``ml_registry.run_states``; ``state`` is running, succeeded, failed or killed.
    """
    order = "started_timestamp DESC" + ("" if last is None else f" LIMIT {int(last)}")
    frame = select(
        "*",
        "run_states",
        model_name or "",
        settings or get_settings(),
        where="(@model_version = '' OR model_version = @model_version)",
        order=order,
        model_version=model_version or "",
    )
    return frame[::-1].reset_index(drop=True)
