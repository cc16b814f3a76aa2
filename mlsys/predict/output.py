"""The table of predictions: how it is made, checked, and how one run's slice of it is replaced."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from mlsys.bq.calls import call_retry, get_table
from mlsys.bq.errors import explained
from mlsys.bq.jobs import run_in_turn
from mlsys.bq.schema import describe
from mlsys.deadlines import one_try
from mlsys.errors import SchemaError
from mlsys.models.model import PREDICTION, PROBABILITY
from mlsys.models.signature import bigquery_type
from mlsys.names import TableId
from mlsys.predict.metadata import METADATA, Metadata, with_metadata
from mlsys.predict.scoring import REASON

if TYPE_CHECKING:
    from google.cloud.bigquery import Client as BigQueryClient
    from google.cloud.bigquery import SchemaField

logger = logging.getLogger(__name__)

_DESCRIPTIONS = {
    PREDICTION: "What the model predicts for this row: a class, or a number for a regression",
    PROBABILITY: "Probability by the model: of the second class when there are two, else of the predicted class",
    "reason": "Why the model could not score this row",
    "model_name": "Model that made the prediction",
    "model_version": "Version of the model",
    "prediction_timestamp": "When the run that made the prediction started (UTC); the table is partitioned by its day",
    "run_id": "Run that made the prediction: the same for every attempt at one model, table and as_of",
    "as_of": "Moment that the prediction is for (UTC), such as a schedule's logical date",
}
_TABLE_DESCRIPTION = "Predictions, one row per scored row and run; written by mlsys"
_REJECTS_DESCRIPTION = "Rows that a run could not score, with the reason; written by mlsys"
_PARTITIONED_BY = "prediction_timestamp"
_STAGING_LIFETIME = timedelta(days=1)  # what a killed run leaves behind removes itself
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def fields(schema: pa.Schema) -> "list[SchemaField]":
    """Return the BigQuery columns of an output schema, with their descriptions."""
    from google.cloud.bigquery import SchemaField

    return [
        SchemaField(
            field.name,
            bigquery_type(field.type),
            "NULLABLE" if field.nullable else "REQUIRED",
            description=_DESCRIPTIONS.get(field.name, "Identifies the row of the source"),
        )
        for field in schema
    ]


def create(client: "BigQueryClient", target: TableId, schema: pa.Schema, labels: dict[str, str]) -> None:
    """Create the table unless it is there, for rows of ``schema`` and their metadata.

    It is partitioned by day and clustered by model, and every column is described.
    """
    from google.cloud import bigquery

    table = bigquery.Table(str(target), schema=fields(with_metadata(schema)))
    table.description = _REJECTS_DESCRIPTION if REASON in schema else _TABLE_DESCRIPTION
    table.labels = {"managed_by": labels["managed_by"], "env": labels["env"]}
    table.time_partitioning = bigquery.TimePartitioning(bigquery.TimePartitioningType.DAY, field=_PARTITIONED_BY)
    table.clustering_fields = ["model_name", "model_version"]
    with explained(client, writes=target):
        client.create_table(table, exists_ok=True, retry=call_retry(), timeout=one_try())


def create_staging(client: "BigQueryClient", staging: TableId, schema: pa.Schema) -> str | None:
    """Create the table that a run's rows wait in; return its location. It expires after a day."""
    from google.cloud import bigquery

    table = bigquery.Table(str(staging), schema=fields(schema))
    table.expires = datetime.now(UTC) + _STAGING_LIFETIME
    with explained(client, writes=staging):
        return client.create_table(table, exists_ok=True, retry=call_retry(), timeout=one_try()).location


def drop_staging(client: "BigQueryClient", staging: TableId) -> None:
    """Remove the staging table. A failure does not change what the run has done: the table expires by itself."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError

    try:
        client.delete_table(str(staging), not_found_ok=True, retry=call_retry(), timeout=one_try())
    except (GoogleAPICallError, RetryError) as exc:
        logger.warning("staging table %s is left to expire: %s", staging, exc)


def check(client: "BigQueryClient", target: TableId, schema: pa.Schema) -> bool:
    """Say whether the table is there; raise `SchemaError` when it cannot take these columns and the metadata."""
    from google.api_core.exceptions import NotFound

    try:
        table = get_table(client, str(target))
    except NotFound:
        with explained(client, writes=target):
            client.get_dataset(f"{target.project}.{target.dataset}", retry=call_retry(), timeout=one_try())
        return False
    if table.table_type != "TABLE":
        raise SchemaError(f"output {target} is a {table.table_type}, whose rows cannot be replaced: name a table")
    there = {field.name.lower(): field for field in table.schema}
    wanted = {field.name.lower(): field for field in fields(with_metadata(schema))}
    faults = [f"it has no column {name}" for name in wanted if name not in there]
    faults += [
        f"{name} is {describe(there[name])}, the predictions have {describe(field)}"
        for name, field in wanted.items()
        if name in there and describe(there[name]) != describe(field)
    ]
    faults += [f"it requires {name}" for name, f in there.items() if f.mode == "REQUIRED" and name not in wanted]
    if faults:
        raise SchemaError(f"output table {target} cannot take the predictions: {'; '.join(faults)}. Name another table")
    if table.time_partitioning is None or table.time_partitioning.field != _PARTITIONED_BY:
        logger.warning("table %s is not partitioned by %s: each publication reads all of it", target, _PARTITIONED_BY)
    return True


def replace_slice(
    client: "BigQueryClient",
    target: TableId,
    staging: TableId,
    columns: Sequence[str],
    metadata: Metadata,
    token: str,
    written_before: Callable[[], Iterable[datetime]],
    labels: dict[str, str],
) -> bool:
    """Replace the run's rows by those of the staging table and ``metadata``, in one atomic statement.

    It happens once for each ``token``.

    Executions of one run take turns, so that each finds the rows of the others: two statements that only insert would
    not see each other in BigQuery. The rows to be replaced have the timestamp of an earlier execution; asking for just
    those timestamps lets BigQuery read no other partition, and the model's name no other clusters.

    Parameters
    ----------
    columns
        Those of the staging table.
    written_before
        Returns the timestamps that the run's rows may have, asked for when no other execution is publishing.

    Returns
    -------
    bool
        False when a later execution has published its rows already: those stay.
    """
    from google.cloud import bigquery

    def statement(earlier: list[bigquery.QueryJob]) -> tuple[str, list]:
        published = [_micros_to_datetime(job.labels["stamp"]) for job in earlier]
        if any(moment > metadata.prediction_timestamp for moment in published):
            raise _Overtaken
        moments = sorted({metadata.prediction_timestamp, *published, *written_before()})
        return _merge(target, staging, columns, len(moments)), _parameters(metadata, moments)

    key = hashlib.sha256(f"{target}\n{metadata.run_id}".encode()).hexdigest()[:32]
    micros = str(_micros(metadata.prediction_timestamp))
    config = bigquery.QueryJobConfig(labels=labels | {"stamp": micros})
    try:
        with explained(client, writes=target):
            run_in_turn(client, f"mlsys_publish_{key}", config, statement, token=token)
    except _Overtaken:
        return False
    return True


class _Overtaken(Exception):  # noqa: N818 - a signal to the caller above, never seen outside
    """A later execution of the run has published."""


def _merge(target: TableId, staging: TableId, columns: Sequence[str], moments: int) -> str:
    names = ", ".join(f"`{name}`" for name in (*columns, *METADATA.names))
    values = ", ".join([*(f"source.`{name}`" for name in columns), *(f"@{name}" for name in METADATA.names)])
    written = ", ".join(f"@moment_{i}" for i in range(moments))
    return f"""
        MERGE {target.sql} AS target USING {staging.sql} AS source ON FALSE
        WHEN NOT MATCHED BY SOURCE AND target.model_name = @model_name AND target.run_id = @run_id
          AND target.prediction_timestamp IN ({written}) THEN DELETE
        WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"""  # noqa: S608


def _parameters(metadata: Metadata, moments: Sequence[datetime]) -> list:
    from google.cloud.bigquery import ScalarQueryParameter

    run = [ScalarQueryParameter(f.name, bigquery_type(f.type), getattr(metadata, f.name)) for f in METADATA]
    return [*run, *(ScalarQueryParameter(f"moment_{i}", "TIMESTAMP", moment) for i, moment in enumerate(moments))]


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _micros_to_datetime(text: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(text))


def count_rows(client: "BigQueryClient", staging: TableId) -> int:
    """Return how many rows were loaded into a staging table."""
    with explained(client, reads=staging):
        return get_table(client, str(staging)).num_rows
