"""Rows pinned by one read session, so that several processes, and those that come after a crash, read the same."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from google.cloud.bigquery import SchemaField

from mlsys.bq.reading import Source, coalesce, count_rows, decoder, open_session, read_stream
from mlsys.bq.schema import arrow_schema

if TYPE_CHECKING:
    from google.cloud.bigquery_storage import BigQueryReadClient


@dataclass(frozen=True)
class PinnedRows:
    """The rows of a query or a table as they were at one moment, shared out over streams.

    ``streams`` are names that any process can read, each from any row on and always with the same rows, for six hours.
    ``total_rows`` is how many there are in all, by BigQuery's count where ``exact`` says so; of a table that is being
    written to it is an estimate.
    """

    fields: tuple[SchemaField, ...]
    wire_schema: bytes
    streams: tuple[str, ...]
    total_rows: int
    exact: bool

    @classmethod
    def open(
        cls, source: Source, client: "BigQueryReadClient", project: str, streams: tuple[int, int], rows_a_stream: int
    ) -> Self:
        """Pin the rows of ``source`` as they are now, in one stream for ``rows_a_stream`` rows, within ``streams``."""
        least, most = streams
        rows = source.estimated_rows if source.total_rows is None else source.total_rows
        wanted = min(most, max(least, -(-(rows or 0) // rows_a_stream)))
        session = open_session(source, client, project, max_streams=wanted, min_streams=wanted)
        return cls(
            fields=tuple(source.selected),
            wire_schema=session.arrow_schema.serialized_schema if session else b"",
            streams=tuple(stream.name for stream in session.streams) if session else (),
            total_rows=count_rows(source, session) or 0,
            exact=source.total_rows is not None,
        )

    @property
    def schema(self) -> pa.Schema:
        """The columns as they will be read."""
        return arrow_schema(self.fields)

    def read(
        self, stream: int, client: "BigQueryReadClient", *, offset: int = 0, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one stream (by its number) from row ``offset`` on, ``batch_rows`` at a time."""
        decode = decoder(self.schema, self.wire_schema)
        return coalesce(read_stream(client, self.streams[stream], decode, offset), batch_rows)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back."""
        return {
            "fields": [field.to_api_repr() for field in self.fields],
            "wire_schema": base64.b64encode(self.wire_schema).decode(),
            "streams": self.streams,
            "total_rows": self.total_rows,
            "exact": self.exact,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` returned."""
        fields: Sequence[SchemaField] = [SchemaField.from_api_repr(field) for field in data["fields"]]
        wire_schema = base64.b64decode(data["wire_schema"])
        return cls(tuple(fields), wire_schema, tuple(data["streams"]), data["total_rows"], data["exact"])
