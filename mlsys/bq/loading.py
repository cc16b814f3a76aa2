"""Rows enter BigQuery in one load job: what the table will be is settled first, then one file is written and sent."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from google.api_core import exceptions
from google.cloud import bigquery
from google.cloud.bigquery import SchemaField

from mlsys.bq.calls import get_table
from mlsys.bq.schema import (
    arrow_schema,
    bq_field,
    check_fields,
    check_names,
    describe,
    field_type,
    plain_type,
)
from mlsys.errors import SchemaError
from mlsys.names import TableId

WriteDisposition = Literal["WRITE_APPEND", "WRITE_TRUNCATE", "WRITE_EMPTY"]
PartitionBy = str | tuple[str, Literal["HOUR", "DAY", "MONTH", "YEAR"]]

# What a column may be when the table says otherwise: the values are the same, or the cast refuses them by name.
_ALWAYS = {
    ("INTEGER", "FLOAT"),
    ("INTEGER", "NUMERIC"),
    ("INTEGER", "BIGNUMERIC"),
    ("NUMERIC", "BIGNUMERIC"),
    ("STRING", "JSON"),
    ("STRING", "GEOGRAPHY"),
}
_IF_EXACT = {("FLOAT", "INTEGER")}  # pandas makes floats of integers with a gap
_CLUSTERING_LIMIT = 4
# BigQuery refuses these in Parquet ("Unsupported field type: JSON"), and takes them in newline-delimited JSON.
_NUMBERS = {"FLOAT", "INTEGER", "NUMERIC", "BIGNUMERIC"}
_NOT_IN_PARQUET = {"GEOGRAPHY", "JSON"}


@dataclass(frozen=True)
class Target:
    """The table that rows go to, as it is now and as the caller wants it."""

    table_id: TableId
    write_disposition: WriteDisposition
    existing: bigquery.Table | None
    partition_by: PartitionBy | None = None
    cluster_by: Sequence[str] = ()
    description: str | None = None
    descriptions: Mapping[str, str] | None = None

    @property
    def keeps_schema(self) -> bool:
        """Whether the rows must fit the table as it is: they join it, or replace one of its partitions."""
        return self.existing is not None and (self.write_disposition != "WRITE_TRUNCATE" or "$" in self.table_id.table)


def look_up(client: bigquery.Client, table_id: TableId) -> bigquery.Table | None:
    """Return the table as it is, or None."""
    try:
        return get_table(client, str(table_id).partition("$")[0])
    except exceptions.NotFound:
        return None


def resolve(natural: pa.Schema, target: Target, wanted: Sequence[SchemaField] | None) -> list[SchemaField]:
    """Settle the BigQuery schema of the rows: what is asked for, what the table says, what the columns are."""
    check_names(natural.names)
    asked = _by_name(wanted or ())
    if unknown := [f.name for f in asked.values() if f.name not in natural.names]:
        raise SchemaError(
            f"schema names {_list(unknown)}, and there is no such column: there are {_list(natural.names)}"
        )
    there = _by_name(target.existing.schema if target.existing is not None else ())
    if target.keeps_schema:
        _check_columns(natural, there, target)
    fields = [
        _settle(column, asked.get(column.name.lower()), there.get(column.name.lower()), target) for column in natural
    ]
    check_fields(fields)
    return [_described(field, target) for field in fields]


def _settle(column: pa.Field, asked: SchemaField | None, there: SchemaField | None, target: Target) -> SchemaField:
    if target.keeps_schema and there is not None:  # it is: _check_columns has looked
        if asked is not None and describe(asked) != describe(there):
            raise SchemaError(
                f"schema says {asked.name!r} is {describe(asked)}, and table {target.table_id} has {describe(there)}"
            )
        return _fitting(column, there, _ALWAYS | _IF_EXACT, f"table {target.table_id}")
    if asked is not None:
        return _fitting(column, asked, _ALWAYS | _IF_EXACT, "schema")
    if there is not None and _fits(column.type, there, _ALWAYS):
        return there
    return bq_field(column.name, column.type)


def _fitting(column: pa.Field, field: SchemaField, casts: set[tuple[str, str]], who: str) -> SchemaField:
    if _fits(column.type, field, casts):
        return field
    own = describe(bq_field(column.name, column.type))
    raise SchemaError(f"{who} has {field.name!r} as {describe(field)}, got {own}{_hint(own, describe(field))}")


def _hint(own: str, wanted: str) -> str:
    match own, wanted:
        case "DATETIME", "TIMESTAMP":
            return ": say which zone it is in, like .dt.tz_localize('UTC')"
        case "TIMESTAMP", "DATETIME":
            return ": drop the zone on purpose, like .dt.tz_convert('UTC').dt.tz_localize(None)"
        case "DATETIME" | "TIMESTAMP", "DATE":
            return ": take the day, like .dt.date"
    return ": convert it first"


def _fits(kind: pa.DataType, field: SchemaField, casts: set[tuple[str, str]]) -> bool:
    kind = plain_type(kind)
    if pa.types.is_null(kind):
        return True
    if field.mode == "REPEATED":
        single = SchemaField(field.name, field.field_type, fields=field.fields)
        return pa.types.is_list(kind) and _fits(kind.value_type, single, casts)
    if pa.types.is_struct(kind) and field_type(field) == "RECORD":
        inner = {f.name: f for f in field.fields}
        return all(f.name in inner and _fits(f.type, inner[f.name], casts) for f in kind)
    if pa.types.is_list(kind):
        return False
    own = field_type(bq_field(field.name, kind))
    return own == field_type(field) or (own, field_type(field)) in casts


def _check_columns(natural: pa.Schema, there: Mapping[str, SchemaField], target: Target) -> None:
    names = {name.lower() for name in natural.names}
    if extra := [name for name in natural.names if name.lower() not in there]:
        raise SchemaError(
            f"table {target.table_id} has no column {_list(extra)}: it has {_list(f.name for f in there.values())}; "
            "drop them, or add them to the table first"
        )
    if missing := [f.name for f in there.values() if f.mode == "REQUIRED" and f.name.lower() not in names]:
        raise SchemaError(f"table {target.table_id} requires column {_list(missing)}, which the rows do not have")


def _described(field: SchemaField, target: Target) -> SchemaField:
    text = (target.descriptions or {}).get(field.name)
    if text is None or target.keeps_schema:
        return field
    return SchemaField.from_api_repr({**field.to_api_repr(), "description": text})


def _by_name(fields: Iterable[SchemaField]) -> dict[str, SchemaField]:
    return {field.name.lower(): field for field in fields}


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(repr(n) for n in names[:10]) + (f", … ({len(names)} in all)" if len(names) > 10 else "")


def load_config(target: Target, fields: Sequence[SchemaField], labels: dict[str, str]) -> bigquery.LoadJobConfig:
    """Return the configuration of the load job.

    A replaced table keeps its partitioning, clustering and descriptions unless others are asked for: BigQuery would
    refuse or drop them. On a table that stays, they stay.
    """
    config = bigquery.LoadJobConfig(schema=fields, write_disposition=target.write_disposition, labels=labels)
    if needs_json(fields):
        config.source_format = bigquery.SourceFormat.NEWLINE_DELIMITED_JSON
    else:
        config.source_format = bigquery.SourceFormat.PARQUET
        options = bigquery.ParquetOptions()
        options.enable_list_inference = True
        config.parquet_options = options
    partitioning, clustering = _layout(target, fields)
    if not target.keeps_schema:
        config.time_partitioning, config.clustering_fields = partitioning, clustering
    if target.existing is None and target.description:
        config.destination_table_description = target.description
    return config


def _layout(target: Target, fields: Sequence[SchemaField]) -> tuple[bigquery.TimePartitioning | None, list[str] | None]:
    there = target.existing
    partitioning = _partitioning(target, fields)
    clustering = _clustering(target, fields)
    if there is None:
        return partitioning, clustering
    if partitioning and _partition_key(partitioning) != _partition_key(there.time_partitioning):
        raise SchemaError(
            f"table {target.table_id} is partitioned by {_partition_key(there.time_partitioning)}, not by "
            f"{_partition_key(partitioning)}, and BigQuery does not change that: leave partition_by out"
        )
    return there.time_partitioning, clustering or there.clustering_fields


def _partition_key(partitioning: bigquery.TimePartitioning | None) -> tuple[str, str] | None:
    return (partitioning.field or "_PARTITIONTIME", partitioning.type_) if partitioning else None


def _partitioning(target: Target, fields: Sequence[SchemaField]) -> bigquery.TimePartitioning | None:
    if target.partition_by is None:
        return None
    by = target.partition_by
    column, every = (by, "DAY") if isinstance(by, str) else by
    field = _column(column, fields, "partition_by")
    allowed = {"DATE": ("DAY", "MONTH", "YEAR")}.get(field_type(field), ("HOUR", "DAY", "MONTH", "YEAR"))
    if field_type(field) not in {"DATE", "DATETIME", "TIMESTAMP"} or field.mode == "REPEATED" or every not in allowed:
        raise SchemaError(
            f"partition_by needs a DATE (by DAY, MONTH or YEAR), DATETIME or TIMESTAMP (by HOUR too), "
            f"got {column!r}, which is {describe(field)}, by {every}"
        )
    return bigquery.TimePartitioning(type_=every, field=field.name)


def _clustering(target: Target, fields: Sequence[SchemaField]) -> list[str] | None:
    if len(target.cluster_by) > _CLUSTERING_LIMIT:
        raise SchemaError(f"BigQuery clusters by at most {_CLUSTERING_LIMIT} columns, got {_list(target.cluster_by)}")
    return [_column(name, fields, "cluster_by").name for name in target.cluster_by] or None


def _column(name: str, fields: Sequence[SchemaField], option: str) -> SchemaField:
    found = _by_name(fields).get(name.lower())
    if found is None:
        raise SchemaError(
            f"{option} names {name!r}, and there is no such column: there are {_list(f.name for f in fields)}"
        )
    return found


def write_file(file: IO[bytes], batches: Iterable[pa.RecordBatch], fields: Sequence[SchemaField]) -> None:
    """Write batches, already in the types of ``fields``, to ``file`` in the format that `load_config` announces."""
    if needs_json(fields):
        file.writelines(chain.from_iterable(_json_lines(batch, fields) for batch in batches))
        return
    schema = arrow_schema(fields, keep_required=True)
    # Numbers seldom repeat: a dictionary of them costs as much time again as writing them, and makes the file larger.
    repeating = [f.name for f in fields if field_type(f) not in _NUMBERS]
    options = {"compression": "zstd", "use_dictionary": repeating, "write_statistics": False, "store_schema": False}
    with pq.ParquetWriter(file, schema, **options) as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema))


def needs_json(fields: Sequence[SchemaField]) -> bool:
    """Say whether a schema holds a type that BigQuery does not load from Parquet."""
    return any(field_type(f) in _NOT_IN_PARQUET or needs_json(f.fields) for f in fields)


def _json_lines(batch: pa.RecordBatch, fields: Sequence[SchemaField]) -> Iterable[bytes]:
    for row in batch.to_pylist():
        yield f"{_json_record(row, fields)}\n".encode()


def _json_record(row: Mapping[str, Any], fields: Sequence[SchemaField]) -> str:
    pairs = (f"{json.dumps(f.name)}: {_json_value(row[f.name], f)}" for f in fields)
    return f"{{{', '.join(pairs)}}}"


def _json_value(value: Any, field: SchemaField) -> str:
    if value is None:
        return "[]" if field.mode == "REPEATED" else "null"
    if field.mode == "REPEATED":
        single = SchemaField(field.name, field.field_type, fields=field.fields)
        return f"[{', '.join(_json_value(item, single) for item in value)}]"
    match field_type(field):
        case "RECORD":
            return _json_record(value, field.fields)
        case "JSON":
            return _json_text(value, field)
        case "BOOLEAN":
            return "true" if value else "false"
        case "BYTES":
            return json.dumps(base64.b64encode(value).decode())
        case "DATE" | "TIME" | "DATETIME" | "TIMESTAMP":
            return json.dumps(value.isoformat())
    # Numbers as text keep every digit; NaN and Infinity have no other spelling.
    return json.dumps(str(value))


def _json_text(text: str, field: SchemaField) -> str:
    """Return a JSON value as it stands, so that no number loses a digit; only the line breaks between tokens go."""
    try:
        json.loads(text)
    except ValueError as exc:
        raise SchemaError(f"column {field.name!r} is JSON, and {text[:80]!r} is not ({exc}): correct it") from exc
    return text.replace("\r", " ").replace("\n", " ")


def conform(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Return the batch with its columns in the order of ``names``; refuse a batch that has others."""
    if batch.schema.names == list(names):
        return batch
    if sorted(batch.schema.names) != sorted(names):
        raise SchemaError(f"every batch must have the columns {_list(names)}, got one with {_list(batch.schema.names)}")
    return batch.select(list(names))
