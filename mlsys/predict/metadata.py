"""What every row of a run carries: the same for all of them, so it is written once, by the statement that publishes."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

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
class Metadata:
    """Which model made the predictions, in which run, and when (aware, UTC). Field names are column names."""

    model_name: str
    model_version: str
    prediction_timestamp: datetime
    run_id: str
    as_of: datetime


def with_metadata(schema: pa.Schema) -> pa.Schema:
    """Return the columns of a published table, given those that were scored."""
    return pa.schema([*schema, *METADATA])
