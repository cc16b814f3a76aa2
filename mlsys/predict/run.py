"""One run against BigQuery: what it needs is checked first, and its rows appear all at once or not at all."""

import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from mlsys import clients
from mlsys.bq import arrow_schema, bq_dry_run, bq_get_batches, bq_put_batches
from mlsys.models import Model
from mlsys.models.signature import check_columns
from mlsys.names import labels
from mlsys.predict import output
from mlsys.predict.job import PredictionJob, RunRecord
from mlsys.predict.scoring import Stamp, output_schema
from mlsys.progress import rows_bar
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    from mlsys.bq import RowBatches

logger = logging.getLogger(__name__)

_BATCH_ROWS = 131_072  # measured: 8k-row batches double the time, larger ones only cost memory
_STAGING_HOURS = 24  # what a killed run leaves behind removes itself


class Run:
    """An open run: its input, pinned, and the one way to publish its output."""

    def __init__(
        self, job: PredictionJob, batches: "RowBatches", schema: pa.Schema, stamp: Stamp, settings: Settings
    ) -> None:
        self.job, self.batches, self.stamp = job, batches, stamp
        self._schema, self._settings = schema, settings
        self._started = time.monotonic()

    @property
    def labels(self) -> dict[str, str]:
        """The labels of this run's BigQuery jobs."""
        return _labels(self.job, self.stamp, self._settings)

    def publish(self, tables: Iterable[pa.Table]) -> RunRecord:
        """Write the scored tables to a staging table, then replace this run's rows in the output in one statement."""
        client, target = clients.bigquery_client(self._settings), self.job.output_table
        output.create(client, target, self._schema, self.labels)
        # A table of this attempt's own: a second execution of the run, which Cloud Run may start, must not share it.
        staging = target.sibling(f"{target.table}__staging_{self.stamp.run_id}_{uuid.uuid4().hex[:8]}")
        output.create_staging(client, staging, self._schema, timedelta(hours=_STAGING_HOURS))
        try:
            rows = bq_put_batches(
                self._watched(tables),
                staging,
                "WRITE_TRUNCATE",
                schema=self._schema,
                labels=self.labels,
                client=client,
            )
            output.replace_slice(client, target, staging, self._schema.names, self.stamp, self.labels)
        finally:
            output.drop_staging(client, staging)
        return self._report(rows)

    def _watched(self, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        with rows_bar(f"rows scored by {self.stamp.model_name} {self.stamp.model_version}", None) as start:
            advance = start(self.batches.total_rows)
            for table in tables:
                yield from table.combine_chunks().to_batches()
                advance(table.num_rows)

    def _report(self, rows: int) -> RunRecord:
        stamp = self.stamp
        seconds = time.monotonic() - self._started
        logger.info("run %s: %d predictions in %s, %.1f s", stamp.run_id, rows, self.job.output_table, seconds)
        return RunRecord(
            run_id=stamp.run_id,
            model_name=stamp.model_name,
            model_version=stamp.model_version,
            output_table=self.job.output_table,
            as_of=stamp.as_of,
            prediction_timestamp=stamp.prediction_timestamp,
            rows=rows,
            seconds=seconds,
        )


def open_run(job: PredictionJob, model: Model, *, settings: Settings | None = None) -> Run:
    """Check everything that a run needs, and open its input.

    Raises
    ------
    VerificationError
        The model does not reproduce its golden rows here.
    SchemaError
        The input does not fit the model, or the output table does not fit the predictions.
    NotFoundError, AccessError, QueryError
        BigQuery has no such table, refuses the caller, or refuses the query.
    """
    settings = settings or get_settings()
    model.check_golden_rows()
    stamp = Stamp(
        model.ref.name, model.ref.version, datetime.now(UTC), job.run_id(settings.env), job.as_of.astimezone(UTC)
    )
    client, inputs = clients.bigquery_client(settings), model.manifest.signature.inputs
    query = {
        "parameters": {"as_of": stamp.as_of} if "@as_of" in job.source else None,
        "labels": _labels(job, stamp, settings),
        "client": client,
    }
    source = arrow_schema(bq_dry_run(job.source, **query).schema)  # costs nothing: every check comes before it is run
    check_columns(source, inputs)
    schema = output_schema(model, source, job.id_columns)
    output.check(client, job.output_table, schema)
    batches = bq_get_batches(
        job.source,
        columns=list(dict.fromkeys([*job.id_columns, *(field.name for field in inputs)])),
        batch_rows=_BATCH_ROWS,
        max_bytes_billed=job.max_bytes_billed,
        read_client=clients.read_client(settings),
        **query,
    )
    logger.info("run %s: %s over %d rows of %s", stamp.run_id, model.ref, batches.total_rows, job.source[:200])
    return Run(job, batches, schema, stamp, settings)


def _labels(job: PredictionJob, stamp: Stamp, settings: Settings) -> dict[str, str]:
    return labels(env=settings.env, model=job.model_name, model_version=stamp.model_version, run_id=stamp.run_id)
