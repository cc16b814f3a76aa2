"""Tables to DataFrames and back.

Rows leave BigQuery as Arrow (the Storage Read API) and enter it in one load job. Each verb has a streaming form whose
memory is bounded by a batch, and takes Google's clients as ``client=`` and ``read_client=``; left out, they come from
`mlsys.clients`, so the same code runs against the offline twin and against Google Cloud.
"""

import logging
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from google.cloud import bigquery
from google.cloud.bigquery import SchemaField

from mlsys.bq.calls import call_retry, get_table
from mlsys.bq.errors import explained, over_the_cap
from mlsys.bq.frames import SLICE_ROWS, fit, frame_batches, natural_schema, with_named_index
from mlsys.bq.jobs import run_load, run_query
from mlsys.bq.loading import (
    PartitionBy,
    Target,
    WriteDisposition,
    conform,
    load_config,
    look_up,
    resolve,
    write_file,
)
from mlsys.bq.parameters import query_parameters
from mlsys.bq.pinned import PinnedRows
from mlsys.bq.reading import RowBatches, Source, coalesce, read_all
from mlsys.bq.schema import arrow_schema, check_names, describe, pandas_dtype
from mlsys.deadlines import one_try
from mlsys.errors import QueryError, SchemaError
from mlsys.html import facts
from mlsys.names import TableId
from mlsys.names import labels as job_labels
from mlsys.progress import rows_bar

if TYPE_CHECKING:
    from google.cloud.bigquery_storage import BigQueryReadClient

logger = logging.getLogger(__name__)

_ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)
_DISPOSITIONS = ("WRITE_APPEND", "WRITE_TRUNCATE", "WRITE_EMPTY")


@dataclass(frozen=True)
class DryRun:
    """What a query would read and return, without running it."""

    bytes_processed: int
    schema: tuple[SchemaField, ...]
    statement_type: str = "SELECT"
    referenced_tables: tuple[TableId, ...] = ()

    def __str__(self) -> str:
        columns = ", ".join(f"{field.name} {describe(field)}" for field in self.schema) or "no rows"
        return f"would process {_bytes(self.bytes_processed)} and return {columns}"

    def _repr_html_(self) -> str:
        lines = {
            "would process": _bytes(self.bytes_processed),
            "of": "\n".join(map(str, self.referenced_tables)) or "no table",
            "and return": "\n".join(f"{field.name} {describe(field)}" for field in self.schema) or "no rows",
        }
        return facts(f"Dry run of a {self.statement_type}", lines)


def bq_get(
    query: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    max_rows: int | None = None,
    max_bytes_billed: int | None = None,
    labels: Mapping[str, str] | None = None,
    progress: bool | None = None,
    client: bigquery.Client | None = None,
    read_client: "BigQueryReadClient | None" = None,
) -> pd.DataFrame:
    """Return the rows of a query, or of a whole table, as a DataFrame.

    The dtypes follow from the schema, never from the values, and `bq_put` writes them back as they were: INT64 is
    ``Int64``, FLOAT64 ``float64`` (NULL is NaN), BOOL ``boolean``, STRING ``str``, TIMESTAMP ``datetime64[us, UTC]``,
    DATETIME ``datetime64[us]``; DATE, TIME, NUMERIC, BYTES, JSON, STRUCT and ARRAY are `pandas.ArrowDtype`.

    Parameters
    ----------
    query
        GoogleSQL, or the path of a table (``project.dataset.table``). A table is read directly: no query runs and none
        is billed, and its rows come in no particular order. A statement that returns no rows gives an empty DataFrame.
    parameters
        Values for ``@name`` in the query. The Python type says which BigQuery type is meant (an aware datetime is a
        TIMESTAMP, a naive one a DATETIME, a list an ARRAY, a dict a STRUCT); where it cannot, as for None and empty
        lists, pass one of Google's ``…QueryParameter`` objects.
    columns
        Fetch only these columns of the table or of the result.
    max_rows
        Stop after this many rows.
    max_bytes_billed
        Refuse a query that would be billed more bytes than this. Of a table that is read directly, its whole size
        counts, whatever ``columns`` and ``max_rows`` leave out.
    labels
        Labels of the query job, beside those that mlsys sets.
    progress
        Show a bar. By default in a terminal or a notebook, when it takes more than a second.

    Raises
    ------
    NotFoundError, AccessError, QueryError, SchemaError, TableIdError
        The message names the table and says what to do.

    Examples
    --------
    >>> bq_get("SELECT @n + 1 AS answer", parameters={"n": 41})  # doctest: +SKIP
       answer
    0      42
    """
    started, path = time.monotonic(), table_of(query)
    client = client or _client()
    with explained(client, reads=path or query), rows_bar("rows from BigQuery", progress) as bar:
        source = _source(client, path or query, parameters, columns, max_rows, max_bytes_billed, labels)
        table = read_all(source, read_client or _read_client(), client.project, bar)
    logger.info("%s rows in %.1f s from %s", table.num_rows, time.monotonic() - started, _shorten(query))
    return to_frame(table)


def bq_get_batches(
    query: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    max_rows: int | None = None,
    batch_rows: int | None = None,
    max_bytes_billed: int | None = None,
    labels: Mapping[str, str] | None = None,
    client: bigquery.Client | None = None,
    read_client: "BigQueryReadClient | None" = None,
) -> RowBatches:
    """Return the rows of a query or a table as Arrow record batches, read while they are used: memory stays small.

    The query has run, and the table is pinned as it is now, when this returns; ``schema`` and ``total_rows`` are known.

    Parameters
    ----------
    query, parameters, columns, max_rows, max_bytes_billed, labels
        As for `bq_get`.
    batch_rows
        Yield batches of exactly this many rows (the last one may have fewer). By default they come as BigQuery cuts
        them, often a few thousand rows.

    Examples
    --------
    >>> rows = bq_get_batches("shoufianesys.titanic.passengers", batch_rows=131_072)  # doctest: +SKIP
    >>> sum(batch.num_rows for batch in rows) == rows.total_rows  # doctest: +SKIP
    True
    """
    path, client = table_of(query), client or _client()
    with explained(client, reads=path or query):
        source = _source(client, path or query, parameters, columns, max_rows, max_bytes_billed, labels)
        guard = partial(explained, client, reads=path or query)
        return RowBatches(source, read_client or _read_client(), client.project, guard, batch_rows=batch_rows)


def bq_pin(
    query: str,
    *,
    streams: tuple[int, int],
    rows_a_stream: int = 1,
    parameters: Mapping[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    max_bytes_billed: int | None = None,
    labels: Mapping[str, str] | None = None,
    job_id: str | None = None,
    client: bigquery.Client | None = None,
    read_client: "BigQueryReadClient | None" = None,
) -> PinnedRows:
    """Pin the rows of a query or a table as they are now, in streams that other processes can read.

    The query has run when this returns; with the same ``job_id`` it runs once. Of a table the rows are counted by a
    query of its own, unless somebody writes to it meanwhile: see `PinnedRows.exact`. Other options as for `bq_get`.

    Parameters
    ----------
    streams
        How many to ask for at least and at most; BigQuery may give fewer.
    rows_a_stream
        Between the two, ask for one stream for so many rows.

    Examples
    --------
    >>> rows = bq_pin("shoufianesys.titanic.passengers", streams=(1, 4))  # doctest: +SKIP
    >>> [batch.num_rows for batch in rows.read(0, read_client, batch_rows=131_072)]  # doctest: +SKIP
    [1309]
    """
    path, client = table_of(query), client or _client()
    with explained(client, reads=path or query):
        source = _source(client, path or query, parameters, columns, None, max_bytes_billed, labels, job_id)
        if source.table is None:  # a statement that returns no rows is no query with an empty result
            raise QueryError(f"only a query's rows can be read, got {_shorten(query)}")
        read_client = read_client or _read_client()
        rows = PinnedRows.open(source, read_client, client.project, streams, rows_a_stream)
        return rows if rows.exact else _counted(rows, source, client, read_client, labels)


def bq_dry_run(
    query: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    client: bigquery.Client | None = None,
) -> DryRun:
    """Say how many bytes a query would process and which columns it would return, without running it.

    Examples
    --------
    >>> print(bq_dry_run("SELECT name FROM `shoufianesys.titanic.passengers`"))  # doctest: +SKIP
    would process 33.1 kB and return name STRING
    """
    table, client = table_of(query), client or _client()
    config = _query_config(parameters, None, labels)
    config.dry_run, config.use_query_cache = True, False
    with explained(client, reads=table or query):
        sql = _all_rows(table) if table else query
        job = client.query(sql, job_config=config, retry=call_retry(), timeout=one_try())
    tables = tuple(TableId(t.project, t.dataset_id, t.table_id) for t in job.referenced_tables)
    return DryRun(job.total_bytes_processed or 0, tuple(job.schema or ()), job.statement_type or "SELECT", tables)


def bq_put(
    df: pd.DataFrame,
    table_id: str | TableId,
    write_disposition: WriteDisposition = "WRITE_APPEND",
    *,
    schema: Sequence[SchemaField] | None = None,
    partition_by: PartitionBy | None = None,
    cluster_by: Sequence[str] = (),
    description: str | None = None,
    descriptions: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    job_id: str | None = None,
    client: bigquery.Client | None = None,
) -> int:
    """Write a DataFrame to a BigQuery table in one load job, all or nothing; return how many rows were written.

    Columns get the BigQuery type of their dtype; a table that exists has the last word, and so settles columns that say
    nothing themselves (all NULL). None, NaN, NaT and NA are NULL. Values that would change on the way are refused by
    name: mixed types, nanoseconds, integers and decimals out of range. Named index levels become columns, other indexes
    are left out. A NULL list becomes an empty array, as BigQuery knows no other.

    Parameters
    ----------
    table_id
        Full path, ``project.dataset.table``; ``table$20240131`` is one partition of it. The dataset must exist.
    write_disposition
        What to do when the table exists. ``WRITE_APPEND`` adds rows, ``WRITE_TRUNCATE`` replaces them (the table keeps
        its partitioning, clustering and descriptions), ``WRITE_EMPTY`` fails unless the table is empty.
    schema
        Fields for the columns whose type or mode is to differ from what their dtype says; any subset of them.
    partition_by
        Partition a new table by this column, each day, or by ``(column, "HOUR" | "MONTH" | "YEAR")``.
    cluster_by
        Cluster a new table by these columns, four at most.
    description, descriptions
        What a new table and its columns mean (column name → text).
    labels
        Labels of the load job, beside those that mlsys sets.
    job_id
        Name the job, to load these rows once however often this is called: a job of this name that succeeded is not
        repeated, one that failed is tried again.

    Raises
    ------
    SchemaError, NotFoundError, AccessError, AlreadyExistsError, TableIdError
        The message names the table and the columns, and says what to do.

    Examples
    --------
    >>> bq_put(df, "shoufianesys.titanic.passengers", "WRITE_TRUNCATE", cluster_by=["sex"])  # doctest: +SKIP
    1309
    """
    check_disposition(write_disposition)
    table, df = TableId.parse(table_id), with_named_index(df)
    check_names(list(df.columns))
    natural = natural_schema(df)
    client = client or _client()
    with explained(client, writes=table):
        target = Target(
            table, write_disposition, look_up(client, table), partition_by, cluster_by, description, descriptions
        )
        fields = resolve(natural, target, schema)
        return _load(client, frame_batches(df, natural, fields), target, fields, labels, job_id)


def bq_put_batches(
    batches: Iterable[pa.RecordBatch],
    table_id: str | TableId,
    write_disposition: WriteDisposition = "WRITE_APPEND",
    *,
    schema: pa.Schema | Sequence[SchemaField] | None = None,
    partition_by: PartitionBy | None = None,
    cluster_by: Sequence[str] = (),
    description: str | None = None,
    descriptions: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    job_id: str | None = None,
    client: bigquery.Client | None = None,
) -> int:
    """Write Arrow record batches to a BigQuery table in one load job; return how many rows were written.

    The batches go through a temporary file, so memory is bounded by a batch, and the table changes once, at the end.

    Parameters
    ----------
    batches
        Any iterable of record batches: a generator, `bq_get_batches`, a `pyarrow.RecordBatchReader`.
    schema
        What the batches hold: an Arrow schema, or BigQuery fields for some or all columns. Needed when there may be no
        batch at all and ``batches`` has no ``schema`` of its own.
    table_id, write_disposition, partition_by, cluster_by, description, descriptions, labels, job_id
        As for `bq_put`.

    Examples
    --------
    >>> rows = bq_get_batches("SELECT name, age + 1 AS age FROM `shoufianesys.titanic.passengers`")  # doctest: +SKIP
    >>> bq_put_batches(rows, "shoufianesys.titanic.a_year_later", "WRITE_TRUNCATE")  # doctest: +SKIP
    1309
    """
    check_disposition(write_disposition)
    table = TableId.parse(table_id)
    natural, batches = _peek(batches, schema)
    wanted = None if isinstance(schema, pa.Schema) else schema
    client = client or _client()
    with explained(client, writes=table):
        target = Target(
            table, write_disposition, look_up(client, table), partition_by, cluster_by, description, descriptions
        )
        fields = resolve(natural, target, wanted)
        fitted = _fitted(batches, natural.names, fields)
        return _load(client, fitted, target, fields, labels, job_id)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as the DataFrame that `bq_get` would give. The table must not be used afterwards.

    Examples
    --------
    >>> to_frame(pa.table({"n": [1, None]})).dtypes["n"]
    Int64Dtype()
    """
    one_piece = table.num_columns > 0 and table.column(0).num_chunks == 1
    frame = table.to_pandas(types_mapper=pandas_dtype, split_blocks=True, self_destruct=True)
    # What is in one piece is not copied, and then pandas could not write to it: df.loc[0, "age"] = 22.0 would fail.
    return frame.copy() if one_piece else frame


def check_disposition(write_disposition: str) -> None:
    """Refuse a write disposition that BigQuery does not have."""
    if write_disposition not in _DISPOSITIONS:
        raise SchemaError(f"write_disposition must be one of {', '.join(_DISPOSITIONS)}, got {write_disposition!r}")


def _source(
    client: bigquery.Client,
    query: str | TableId,
    parameters: Mapping[str, Any] | None,
    columns: Sequence[str] | None,
    max_rows: int | None,
    max_bytes_billed: int | None,
    labels: Mapping[str, str] | None,
    job_id: str | None = None,
) -> Source:
    if isinstance(query, TableId):
        table = get_table(client, str(query))
        if table.table_type in ("TABLE", "SNAPSHOT", "CLONE"):
            if max_bytes_billed is not None and (table.num_bytes or 0) > max_bytes_billed:
                raise over_the_cap(table.num_bytes, max_bytes_billed)
            return Source(
                query,
                table.schema,
                estimated_rows=table.num_rows,
                changed=table.modified,
                max_rows=max_rows,
                columns=columns,
            )
        query = _all_rows(query)  # a view has no rows of its own
    job = run_query(client, query, _query_config(parameters, max_bytes_billed, labels), job_id)
    return _result_of(client, job, query, columns, max_rows)


def _counted(
    rows: PinnedRows,
    source: Source,
    client: bigquery.Client,
    read_client: "BigQueryReadClient",
    labels: Mapping[str, str] | None,
) -> PinnedRows:
    """Count the rows of a table, unless it was changed since it was looked up for ``source``.

    It is asked of a query, which is free, as what a table says of itself includes rows that the caller may not see.
    """
    path = TableId.parse(str(source.table))
    query = f"SELECT COUNT(*) FROM {path.sql}"  # noqa: S608
    count = bq_get(query, labels=labels, progress=False, client=client, read_client=read_client)
    table = get_table(client, str(path))
    if table.modified != source.changed or table.streaming_buffer is not None:
        return rows
    return replace(rows, total_rows=int(count.iat[0, 0]), exact=True)


def _result_of(
    client: bigquery.Client,
    job: bigquery.QueryJob,
    query: str,
    columns: Sequence[str] | None,
    max_rows: int | None,
) -> Source:
    if job.statement_type == "SCRIPT":
        children = client.list_jobs(parent_job=job, retry=call_retry(), timeout=one_try())  # the latest first
        job = next((child for child in children if child.statement_type == "SELECT"), job)
    if job.statement_type not in ("SELECT", None) or job.destination is None:
        return Source(None, [])
    # Every result is a table. To ask the job for it would take 120 s where no reply comes, whatever the deadline.
    where = TableId(job.destination.project, job.destination.dataset_id, job.destination.table_id)
    result = get_table(client, str(where))
    return Source(
        where,
        result.schema,
        result.num_rows,
        ordered=bool(_ORDER_BY.search(query)),
        max_rows=max_rows,
        columns=columns,
    )


def _all_rows(table: TableId) -> str:
    return f"SELECT * FROM {table.sql}"  # noqa: S608 - the parts of a TableId hold no backtick


def table_of(query: str) -> TableId | None:
    """Return the table when ``query`` is a path and no SQL: SQL has blanks, and a path has none between its parts."""
    text = query.strip()
    if re.search(r"\s", text.strip("`")):
        return None
    return TableId.parse(text)


def _query_config(
    parameters: Mapping[str, Any] | None, max_bytes_billed: int | None, labels: Mapping[str, str] | None
) -> bigquery.QueryJobConfig:
    config = bigquery.QueryJobConfig(query_parameters=query_parameters(parameters or {}), labels=_labels(labels))
    if max_bytes_billed is not None:
        config.maximum_bytes_billed = max_bytes_billed
    return config


def _peek(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema | Sequence[SchemaField] | None
) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    """Return the schema that the batches have, looking at the first one where nothing else says."""
    known = schema if isinstance(schema, pa.Schema) else getattr(batches, "schema", None)
    if isinstance(known, pa.Schema):
        return known, batches
    batches = iter(batches)
    first = next(batches, None)
    if first is not None:
        return first.schema, chain([first], batches)
    if schema:
        return arrow_schema(schema), batches
    raise SchemaError("there are no batches, so nothing says what their columns are: pass schema=")


def _fitted(
    batches: Iterable[pa.RecordBatch], names: Sequence[str], fields: Sequence[SchemaField]
) -> Iterator[pa.RecordBatch]:
    schema = arrow_schema(fields)

    def one(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = conform(batch, names).columns
        arrays = [fit(array, field) for array, field in zip(columns, fields, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    return coalesce(map(one, batches), SLICE_ROWS)


def _load(
    client: bigquery.Client,
    batches: Iterable[pa.RecordBatch],
    target: Target,
    fields: Sequence[SchemaField],
    labels: Mapping[str, str] | None,
    job_id: str | None,
) -> int:
    started, config = time.monotonic(), load_config(target, fields, _labels(labels))
    with tempfile.TemporaryFile(prefix="mlsys-") as file:
        write_file(file, batches, fields)
        size = file.tell()
        job = run_load(client, file, str(target.table_id), config, job_id)
    logger.info(
        "%s rows, %s, in %.1f s to %s", job.output_rows, _bytes(size), time.monotonic() - started, target.table_id
    )
    return job.output_rows or 0


def _labels(given: Mapping[str, str] | None) -> dict[str, str]:
    from mlsys.settings import get_settings

    return {**job_labels(env=get_settings().env), **(given or {})}


def _client() -> bigquery.Client:
    from mlsys.clients import bigquery_client

    return bigquery_client()


def _read_client() -> "BigQueryReadClient":
    from mlsys.clients import read_client

    return read_client()


def _shorten(query: str) -> str:
    text = " ".join(query.split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError
