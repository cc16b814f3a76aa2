"""Rows leave BigQuery as Arrow, by the Storage Read API: one session, a few streams, each resumed where it broke."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
from google.api_core import exceptions
from google.api_core.retry import StreamingRetry
from google.cloud.bigquery import SchemaField

from mlsys.bq.calls import call_retry
from mlsys.bq.schema import arrow_schema
from mlsys.deadlines import deadline, one_try
from mlsys.errors import SchemaError
from mlsys.names import TableId

if TYPE_CHECKING:
    from google.cloud.bigquery_storage import BigQueryReadClient
    from google.cloud.bigquery_storage_v1.types import ReadSession

# Google's reader resumes after UNAVAILABLE, UNKNOWN and RST_STREAM only. The offset makes the others as safe.
_RESUMABLE = (
    exceptions.Aborted,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.ResourceExhausted,
    exceptions.ServiceUnavailable,
    exceptions.Unknown,
)
_FAILURES_IN_A_ROW = 8


@dataclass(frozen=True)
class Source:
    """Rows that can be read: a table (a query's result is one too), some of its columns, some of its rows."""

    table: TableId | None  # None: a statement that returns no rows
    fields: Sequence[SchemaField]
    total_rows: int | None = None  # None: not known before the session is there
    estimated_rows: int | None = None
    changed: datetime | None = None  # when a table was changed last
    ordered: bool = False
    max_rows: int | None = None
    columns: Sequence[str] | None = None
    schema: pa.Schema = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", arrow_schema(self.selected))

    @property
    def selected(self) -> list[SchemaField]:
        """The columns that are read."""
        if self.columns is None:
            return list(self.fields)
        by_name = {f.name.lower(): f for f in self.fields}
        missing = [name for name in self.columns if name.lower() not in by_name]
        if missing:
            there = ", ".join(f.name for f in self.fields)
            raise SchemaError(f"no column {', '.join(map(repr, missing))} in {self.table}: it has {there}")
        return [by_name[name.lower()] for name in self.columns]


class RowBatches:
    """The rows of a query or a table as Arrow record batches, read as they are asked for.

    Iterate over it once. ``schema`` is known before the first row, ``total_rows`` is what BigQuery says there is (an
    estimate for a table that is being written to).
    """

    def __init__(
        self,
        source: Source,
        client: "BigQueryReadClient",
        project: str,
        guard: Callable[[], AbstractContextManager] = nullcontext,
        *,
        batch_rows: int | None = None,
    ) -> None:
        self.schema = source.schema
        self._source = source
        self._client = client
        self._session = open_session(source, client, project, max_streams=1)
        self.total_rows = count_rows(source, self._session)
        self._guard = guard
        self._batch_rows = batch_rows

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        batches = read_in_turn(self._source, self._session, self._client)
        with self._guard():
            yield from batches if self._batch_rows is None else coalesce(batches, self._batch_rows)

    def to_reader(self) -> pa.RecordBatchReader:
        """Return the same rows as an Arrow reader, for other Arrow libraries."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))


def read_all(
    source: Source,
    client: "BigQueryReadClient",
    project: str,
    progress: Callable[[int | None], "Callable[[int], object]"],
) -> pa.Table:
    """Read every row into one Arrow table, several streams at once where the order of rows is free."""
    streams = 1 if source.ordered or source.max_rows is not None else min(4, os.cpu_count() or 1)
    session = open_session(source, client, project, max_streams=streams)
    advance = progress(count_rows(source, session))
    names = [stream.name for stream in session.streams] if session else []
    if session is None or len(names) <= 1:
        batches = list(_watched(read_in_turn(source, session, client), advance))
    else:
        batches = _read_at_once(names, source, session, client, advance)
    return pa.Table.from_batches(batches, schema=source.schema)


def _read_at_once(
    names: Sequence[str],
    source: Source,
    session: "ReadSession",
    client: "BigQueryReadClient",
    advance: Callable[[int], object],
) -> list[pa.RecordBatch]:
    decode = decoder(source.schema, session.arrow_schema.serialized_schema)
    with ThreadPoolExecutor(len(names)) as pool:
        parts = pool.map(lambda name: list(_watched(read_stream(client, name, decode), advance)), names)
        return [batch for part in parts for batch in part]


def _watched(batches: Iterator[pa.RecordBatch], advance: Callable[[int], object]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        advance(batch.num_rows)
        yield batch


def open_session(
    source: Source, client: "BigQueryReadClient", project: str, *, max_streams: int, min_streams: int = 1
) -> "ReadSession | None":
    """Pin the rows as they are now: writers that come later are not seen. None when there is nothing to read."""
    if source.table is None or source.total_rows == 0 or source.max_rows == 0 or not source.fields:
        return None
    from google.cloud.bigquery_storage_v1 import types

    table = source.table
    options = types.ReadSession.TableReadOptions(selected_fields=source.columns or [])
    wanted = types.ReadSession(
        table=f"projects/{table.project}/datasets/{table.dataset}/tables/{table.table}",
        data_format=types.DataFormat.ARROW,
        read_options=options,
    )
    request = types.CreateReadSessionRequest(
        parent=f"projects/{project}",
        read_session=wanted,
        max_stream_count=max_streams,
        preferred_min_stream_count=min_streams,  # else BigQuery gives a table of some gigabytes a single one
    )
    return client.create_read_session(
        request,
        retry=call_retry(lambda exc: isinstance(exc, _RESUMABLE)),
        timeout=one_try(),
    )


def count_rows(source: Source, session: "ReadSession | None") -> int | None:
    """Return how many rows will come, as far as BigQuery knows."""
    if session is None:
        return 0
    known = session.estimated_row_count if source.total_rows is None else source.total_rows
    return known if source.max_rows is None else min(known, source.max_rows)


def read_in_turn(
    source: Source, session: "ReadSession | None", client: "BigQueryReadClient"
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of every stream, one stream after another, up to ``source.max_rows``."""
    if session is None:
        return
    decode = decoder(source.schema, session.arrow_schema.serialized_schema)
    left = source.max_rows
    for stream in session.streams:
        for batch in read_stream(client, stream.name, decode):
            yield batch if left is None else batch.slice(0, left)
            if left is not None and (left := left - batch.num_rows) <= 0:
                return


def read_stream(
    client: "BigQueryReadClient", name: str, decode: Callable[[bytes], pa.RecordBatch], offset: int = 0
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a stream from row ``offset`` on, resumed where it breaks."""
    failures, last_row = 0, time.monotonic()

    def worth_resuming(exc: BaseException) -> bool:
        # Counted since the last row: a long stream may break often, as long as it gets on between.
        nonlocal failures
        failures += 1
        in_time = time.monotonic() - last_row < deadline()
        return isinstance(exc, _RESUMABLE) and failures <= _FAILURES_IN_A_ROW and in_time

    def rest() -> Iterator[pa.RecordBatch]:
        nonlocal offset, failures, last_row
        # Nothing else notices a stream that goes silent: each try ends after its time and is resumed where it was.
        for message in client.read_rows(name, offset=offset, timeout=one_try()):
            batch = decode(message.arrow_record_batch.serialized_record_batch)
            offset, failures = offset + batch.num_rows, 0
            yield batch
            last_row = time.monotonic()

    return StreamingRetry(predicate=worth_resuming, initial=0.2, maximum=20, timeout=None)(rest)()


def decoder(schema: pa.Schema, wire_schema: bytes) -> Callable[[bytes], pa.RecordBatch]:
    """Return what turns a message's bytes into a batch of ``schema``, without copying the values."""
    sent = pa.ipc.read_schema(pa.py_buffer(wire_schema))
    # BigQuery's names are the same in any case, and the session spells them as the table does.
    there = {name.lower(): position for position, name in enumerate(sent.names)}
    positions = [there[name.lower()] for name in schema.names]

    def decode(data: bytes) -> pa.RecordBatch:
        batch = pa.ipc.read_record_batch(pa.py_buffer(data), sent)
        columns = [
            column if column.type == wanted.type else column.cast(wanted.type)
            for column, wanted in zip((batch.column(i) for i in positions), schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    return decode


def coalesce(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches of exactly ``rows`` (the last one has what is left)."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(b.num_rows for b in waiting) >= rows:
            whole = _join(waiting)
            yield whole.slice(0, rows)
            waiting = [whole.slice(rows)]
    if any(b.num_rows for b in waiting):
        yield _join(waiting)


def _join(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
