"""The table of predictions: how it is made, checked, and how one run's slice of it is replaced."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from mlsys.bq.calls import call_retry, get_table
from mlsys.bq.errors import explained
from mlsys.bq.jobs import run_query
from mlsys.bq.schema import describe
from mlsys.deadlines import one_try
from mlsys.errors import SchemaError
from mlsys.models.model import PREDICTION, PROBABILITY
from mlsys.models.signature import bigquery_type
from mlsys.names import TableId
from mlsys.predict.scoring import Stamp

if TYPE_CHECKING:
    from google.cloud.bigquery import Client as BigQueryClient
    from google.cloud.bigquery import SchemaField

logger = logging.getLogger(__name__)

_DESCRIPTIONS = {
    PREDICTION: "What the model predicts for this row: a class, or a number for a regression",
    PROBABILITY: "Probability by the model: of the second class when there are two, else of the predicted class",
    "model_name": "Model that made the prediction",
    "model_version": "Version of the model",
    "prediction_timestamp": "When the run that made the prediction started (UTC); the table is partitioned by its day",
    "run_id": "Run that made the prediction: the same for every attempt at one model, table and as_of",
    "as_of": "Moment that the prediction is for (UTC), such as a schedule's logical date",
}
_TABLE_DESCRIPTION = "Predictions, one row per scored row and run; written by mlsys"


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
    """Create the output table unless it is there: partitioned by day, clustered by model, every column described."""
    from google.cloud import bigquery

    table = bigquery.Table(str(target), schema=fields(schema))
    table.description = _TABLE_DESCRIPTION
    table.labels = {"managed_by": labels["managed_by"], "env": labels["env"]}
    table.time_partitioning = bigquery.TimePartitioning(bigquery.TimePartitioningType.DAY, field="prediction_timestamp")
    table.clustering_fields = ["model_name", "model_version"]
    with explained(client, writes=target):
        client.create_table(table, exists_ok=True, retry=call_retry(), timeout=one_try())


def create_staging(client: "BigQueryClient", staging: TableId, schema: pa.Schema, lifetime: timedelta) -> None:
    """Create the table that a run's rows wait in; it expires after ``lifetime``."""
    from google.cloud import bigquery

    table = bigquery.Table(str(staging), schema=fields(schema))
    table.expires = datetime.now(UTC) + lifetime
    with explained(client, writes=staging):
        client.create_table(table, exists_ok=True, retry=call_retry(), timeout=one_try())


def drop_staging(client: "BigQueryClient", staging: TableId) -> None:
    """Remove the staging table. A failure does not change what the run has done: the table expires by itself."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError

    try:
        client.delete_table(str(staging), not_found_ok=True, retry=call_retry(), timeout=one_try())
    except (GoogleAPICallError, RetryError) as exc:
        logger.warning("staging table %s is left to expire: %s", staging, exc)


def check(client: "BigQueryClient", target: TableId, schema: pa.Schema) -> None:
    """Raise `SchemaError` when the output table is there and cannot take these columns."""
    from google.api_core.exceptions import NotFound

    try:
        there = {field.name.lower(): field for field in get_table(client, str(target)).schema}
    except NotFound:
        return
    wanted = {field.name.lower(): field for field in fields(schema)}
    faults = [f"it has no column {name}" for name in wanted if name not in there]
    faults += [
        f"{name} is {describe(there[name])}, the predictions have {describe(field)}"
        for name, field in wanted.items()
        if name in there and describe(there[name]) != describe(field)
    ]
    faults += [f"it requires {name}" for name, f in there.items() if f.mode == "REQUIRED" and name not in wanted]
    if faults:
        raise SchemaError(f"output table {target} cannot take the predictions: {'; '.join(faults)}. Name another table")


def replace_slice(
    client: "BigQueryClient",
    target: TableId,
    staging: TableId,
    columns: Sequence[str],
    stamp: Stamp,
    labels: dict[str, str],
) -> None:
    """Replace the run's rows by those of the staging table, in one atomic statement.

    A run's earlier rows were written after its ``as_of``, so older partitions are never read.
    """
    from google.cloud import bigquery

    names = ", ".join(f"`{name}`" for name in columns)
    values = ", ".join(f"source.`{name}`" for name in columns)
    sql = f"""
        MERGE {target.sql} AS target USING {staging.sql} AS source ON FALSE
        WHEN NOT MATCHED BY SOURCE AND target.run_id = @run_id AND target.prediction_timestamp >= @as_of THEN DELETE
        WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"""  # noqa: S608
    parameters = [
        bigquery.ScalarQueryParameter("run_id", "STRING", stamp.run_id),
        bigquery.ScalarQueryParameter("as_of", "TIMESTAMP", stamp.as_of),
    ]
    with explained(client, reads=sql):
        run_query(client, sql, bigquery.QueryJobConfig(query_parameters=parameters, labels=labels))
