"""What is checked before anything is spent: the version, its environment, the input, the output, the cost."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from mlsys.bq import arrow_schema, bq_dry_run
from mlsys.bq.calls import get_table
from mlsys.bq.errors import explained, over_the_cap
from mlsys.errors import QueryError, SchemaError
from mlsys.models import Model, load_model
from mlsys.models.signature import bigquery_type, check_columns
from mlsys.names import TableId, labels, rejects_table
from mlsys.predict import output
from mlsys.predict.job import PredictionJob
from mlsys.predict.metadata import with_metadata
from mlsys.predict.scoring import scored_schemas
from mlsys.settings import Settings

if TYPE_CHECKING:
    from google.cloud.bigquery import Client as BigQueryClient

_SAMPLES = (256, 16_384)  # rows; the second for models that are so fast that the first is mostly overhead
_SLOW_S = 0.02


@dataclass(frozen=True)
class Preflight:
    """A run that can be made: its model, loaded, and the columns that it reads and scores."""

    job: PredictionJob
    model: Model
    source: "Input"
    predictions: pa.Schema
    rejects: pa.Schema
    output_exists: bool
    seconds_a_row: float

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what was found, as pairs of a heading and a text, for a person."""
        manifest, job = self.model.manifest, self.job
        yield (
            "model",
            f"{manifest.ref}, {manifest.signature.task}, saved {manifest.created:%Y-%m-%d} by {manifest.creator}",
        )
        yield "environment", ", ".join([f"Python {manifest.python_version}", *map(" ".join, manifest.packages.items())])
        yield "golden rows", f"{len(next(iter(manifest.golden_rows.outputs.values()), []))} reproduced"
        yield "as of", f"{job.as_of:%Y-%m-%d %H:%M} UTC"
        budget = "" if job.max_bytes_billed is None else f" of {job.max_bytes_billed:,} allowed"
        yield "source", f"{job.source}\n{self.source.bytes_processed:,} bytes{budget}"
        yield (
            "inputs",
            "\n".join(
                f"{f.name} {f.type}{'' if f.nullable else ', a row with NULL is rejected'}"
                for f in manifest.signature.inputs
            ),
        )
        yield "output", f"{job.output_table} ({'is there' if self.output_exists else 'will be created'})"
        columns = with_metadata(self.predictions)
        yield "columns", "\n".join(f"{field.name} {bigquery_type(field.type)}" for field in columns)
        yield "rejects", f"at most {job.max_rejects:.2%} of the rows, to {rejects_table(job.output_table)}"


@dataclass(frozen=True)
class Input:
    """The rows that a run would read, before they are: columns, and bytes that reading them processes."""

    schema: pa.Schema
    bytes_processed: int


def look_at_input(job: PredictionJob, settings: Settings, client: "BigQueryClient") -> Input:
    """Ask what the source would give, for nothing: a query is run dry.

    Raises
    ------
    NotFoundError, AccessError, QueryError
        There is no such table, the caller may not read it, or the query is refused, too expensive, or none.
    SchemaError
        The source reads what the run writes.
    """
    job_labels = labels(env=settings.env, model=job.model_name, run_id=job.run_id(settings.env))
    dry = bq_dry_run(job.source, parameters=job.parameters, labels=job_labels, client=client)
    if dry.statement_type != "SELECT":
        raise QueryError(f"source must be a table or a SELECT, got a {dry.statement_type} statement: nothing was run")
    ours = {job.output_table, rejects_table(job.output_table)}
    if read := ours & {*dry.referenced_tables, *([] if job.is_query else [TableId.parse(job.source)])}:
        raise SchemaError(
            f"the source reads {min(map(str, read))}, which the run writes: done again, it would find its own rows."
            " Read from other tables"
        )
    size = dry.bytes_processed
    if not job.is_query:
        with explained(client, reads=TableId.parse(job.source)):
            size = get_table(client, str(TableId.parse(job.source))).num_bytes or size
    if job.max_bytes_billed is not None and size > job.max_bytes_billed:
        raise over_the_cap(size, job.max_bytes_billed)
    return Input(arrow_schema(dry.schema), size)


def check(job: PredictionJob, source: Input, settings: Settings, client: "BigQueryClient") -> Preflight:
    """Check a run against its input.

    Raises
    ------
    NotFoundError, AccessError
        There is no such model or version, or the caller may not use it.
    VerificationError, EnvironmentMismatchError
        The version is not what was registered, or does not give here what it gave when it was saved.
    SchemaError
        The input does not fit the model, or the output table does not fit the predictions.
    """
    model = load_model(job.model_name, job.model_version, check_environment=job.check_environment, settings=settings)
    model.check_golden_rows()
    check_columns(source.schema, model.manifest.signature.inputs)
    predictions, rejects = scored_schemas(model, source.schema, job.id_columns)
    exists = output.check(client, job.output_table, predictions)
    output.check(client, rejects_table(job.output_table), rejects)
    return Preflight(job, model, source, predictions, rejects, exists, _seconds_a_row(model))


def _seconds_a_row(model: Model) -> float:
    """Return about how long the model takes for a row, by predicting its golden rows over and over."""
    golden = model.golden_table()
    if not golden.num_rows:
        return _SLOW_S / _SAMPLES[0]
    for rows in _SAMPLES:
        sample = pa.concat_tables([golden] * (1 + rows // golden.num_rows)).combine_chunks()
        started = time.perf_counter()
        model.predict(sample)
        seconds = time.perf_counter() - started
        if seconds > _SLOW_S:
            break
    return seconds / sample.num_rows
