"""BigQuery input and output: DataFrames and Arrow batches, in and out."""

from mlsys.bq.files import bq_put_file
from mlsys.bq.io import DryRun, bq_dry_run, bq_get, bq_get_batches, bq_pin, bq_put, bq_put_batches, to_frame
from mlsys.bq.pinned import PinnedRows
from mlsys.bq.reading import RowBatches
from mlsys.bq.schema import arrow_schema, bq_schema

__all__ = [
    "DryRun",
    "PinnedRows",
    "RowBatches",
    "arrow_schema",
    "bq_dry_run",
    "bq_get",
    "bq_get_batches",
    "bq_pin",
    "bq_put",
    "bq_put_batches",
    "bq_put_file",
    "bq_schema",
    "to_frame",
]
