"""Files on disk into tables."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from google.cloud import bigquery

from mlsys import clients
from mlsys.bq.io import bq_put_batches
from mlsys.bq.loading import WriteDisposition
from mlsys.errors import NotFoundError, SchemaError
from mlsys.names import TableId
from mlsys.settings import get_settings

if TYPE_CHECKING:
    import pyarrow as pa


def bq_put_file(
    path: str | Path,
    table_id: str | TableId,
    write_disposition: WriteDisposition = "WRITE_EMPTY",
    *,
    null_values: Sequence[str] = ("",),
    create_dataset: bool = False,
    client: bigquery.Client | None = None,
) -> int:
    """Write a CSV or Parquet file to a table in one load job; return how many rows were written.

    The types of a CSV file's columns are read off all its values: integers, floats, booleans, dates, times, and text
    for the rest.

    Parameters
    ----------
    path
        A ``.csv`` file in UTF-8 whose first line names the columns, or a ``.parquet`` file.
    null_values
        The texts of a CSV file that stand for NULL.
    create_dataset
        Create the table's dataset, in the region of the settings, when it is not there.

    Raises
    ------
    NotFoundError
        There is no such file, or no such dataset.
    SchemaError
        It is neither CSV nor Parquet, or its columns do not fit the table.

    Examples
    --------
    >>> bq_put_file("houses.csv", "shoufianesys.mine.houses")  # doctest: +SKIP
    1460
    """
    table, path = TableId.parse(table_id), Path(path)
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}: check the path")
    schema, batches = _read(path, null_values)
    client = client or clients.bigquery_client()
    if create_dataset:
        dataset = bigquery.Dataset(f"{table.project}.{table.dataset}")
        dataset.location = get_settings().gcp_region
        client.create_dataset(dataset, exists_ok=True)
    return bq_put_batches(batches, table, write_disposition, schema=schema, client=client)


def _read(path: Path, null_values: Sequence[str]) -> "tuple[pa.Schema, Iterable[pa.RecordBatch]]":
    import pyarrow as pa

    try:
        match path.suffix.lower():
            case ".csv":
                from pyarrow import csv

                options = csv.ConvertOptions(null_values=list(null_values), strings_can_be_null=True)
                table = csv.read_csv(path, convert_options=options)
                return table.schema, table.to_batches()
            case ".parquet":
                from pyarrow import parquet

                file = parquet.ParquetFile(path)
                return file.schema_arrow, file.iter_batches()
    except pa.ArrowInvalid as exc:
        raise SchemaError(f"{path} cannot be read: {exc}") from exc
    raise SchemaError(f"a file must be .csv or .parquet, got {path.name}")
