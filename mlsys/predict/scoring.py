"""The arithmetic of a run: Arrow batches in, Arrow tables out, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from mlsys.errors import SchemaError
from mlsys.models import Model

_MOMENT = pa.timestamp("us", "UTC")
METADATA = pa.schema(
    [
        pa.field("model_name", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("prediction_timestamp", _MOMENT, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("as_of", _MOMENT, nullable=False),
    ]
)


@dataclass(frozen=True)
class Stamp:
    """What every row of a run carries. Field names are column names."""

    model_name: str
    model_version: str
    prediction_timestamp: datetime
    run_id: str
    as_of: datetime


def score(model: Model, rows: pa.RecordBatch, id_columns: Sequence[str]) -> pa.Table:
    """Predict a batch.

    Returns
    -------
    pyarrow.Table
        As many rows, in the same order: the id columns, then the model's outputs.
    """
    ids = pa.Table.from_batches([rows]).select(list(id_columns))
    outputs = model.predict(rows)
    for name in outputs.column_names:
        ids = ids.append_column(outputs.schema.field(name), outputs.column(name))
    return ids


def add_metadata(scored: pa.Table, stamp: Stamp) -> pa.Table:
    """Append the columns that say which model made the predictions, in which run, and when."""
    for field in METADATA:
        value = pa.scalar(getattr(stamp, field.name), field.type)
        scored = scored.append_column(field, pa.repeat(value, scored.num_rows))
    return scored


def output_schema(model: Model, source: pa.Schema, id_columns: Sequence[str]) -> pa.Schema:
    """Return the columns of the output table.

    Raises
    ------
    SchemaError
        An id column is not in the source, or has the name of a column that a prediction adds.
    """
    absent = [name for name in id_columns if name not in source.names]
    if absent:
        raise SchemaError(f"no id column {', '.join(absent)} in the source; it has {', '.join(source.names)}")
    outputs = model.predict(source.empty_table()).schema
    added = [*outputs, *METADATA]
    ours = {field.name for field in added}
    if taken := [name for name in id_columns if name.lower() in ours]:  # BigQuery's column names ignore case
        raise SchemaError(f"a prediction adds {', '.join(taken)} itself: rename that id column in the query")
    return pa.schema([*(source.field(name) for name in id_columns), *added])
