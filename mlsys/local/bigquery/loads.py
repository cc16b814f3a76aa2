"""Files on their way into a table: Parquet, CSV and newline-delimited JSON as typed Arrow batches."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mlsys.local.bigquery import cells, types
from mlsys.local.bigquery.statements import Schema
from mlsys.local.errors import ApiError, unsupported

_BATCH_ROWS = 1 << 17
_JSON_ROWS = 10_000
_CSV_BOOLEANS = dict.fromkeys(("t", "yes", "y", "1"), "true") | dict.fromkeys(("f", "no", "n", "0"), "false")


def bad_data(message: str) -> ApiError:
    """Return BigQuery's error for a file that does not hold what it should."""
    return ApiError(400, "invalid", f"Error while reading data, error message: {message}")


def open_file(path: Path, load: Mapping, stored: Schema | None) -> tuple[Schema, Iterator[pa.RecordBatch]]:
    """Return the columns that a load job brings and its rows in batches of exactly those columns.

    Parameters
    ----------
    load
        The ``configuration.load`` of the job.
    stored
        The columns of the destination when it exists: what files without a schema of their own are read by.
    """
    given = types.normalize(load["schema"]["fields"]) if load.get("schema", {}).get("fields") else None
    source = load.get("sourceFormat") or "CSV"
    if load.get("autodetect") and source != "PARQUET" and given is None:
        raise unsupported(f"autodetect for {source}; give the schema")
    if source == "PARQUET":
        return _open_parquet(path, load, given)
    fields = given or stored
    if not fields:
        raise ApiError(400, "invalid", "No schema specified on job or table.")
    readers = {"CSV": _read_csv, "NEWLINE_DELIMITED_JSON": _read_json}
    if source not in readers:
        raise unsupported(f"load jobs from {source}")
    return fields, _checked(readers[source](path, load, fields), fields)


def batches(rows: list[dict], fields: Schema) -> Iterator[pa.RecordBatch]:
    """Return rows that `cells.row` read as batches."""
    yield pa.RecordBatch.from_pylist(rows, schema=types.arrow_schema(fields))


def _open(path: Path) -> IO[bytes]:
    file = path.open("rb")
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast("IO[bytes]", gzip.open(file)) if zipped else file


def _read_json(path: Path, load: Mapping, fields: Schema) -> Iterator[pa.RecordBatch]:
    schema, ignore = types.arrow_schema(fields), bool(load.get("ignoreUnknownValues"))
    rows: list[dict] = []
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line, parse_float=Decimal)  # a float would lose digits of a NUMERIC
                rows.append(cells.row(value, fields, ignore_unknown=ignore))
            except (cells.BadValueError, ValueError) as exc:
                raise bad_data(f"JSON parsing error in row {number}: {exc}") from exc
            if len(rows) == _JSON_ROWS:
                yield pa.RecordBatch.from_pylist(rows, schema=schema)
                rows = []
    yield pa.RecordBatch.from_pylist(rows, schema=schema)


def _read_csv(path: Path, load: Mapping, fields: Schema) -> Iterator[pa.RecordBatch]:
    for field in fields:
        if field["mode"] == "REPEATED" or field["type"] == "RECORD":
            raise ApiError(400, "invalid", f"CSV files cannot hold the nested or repeated field {field['name']}.")
    if (load.get("encoding") or "UTF-8").upper() not in ("UTF-8", "UTF8"):
        raise unsupported(f"CSV in {load['encoding']}")
    delimiter, quote_char = load.get("fieldDelimiter") or ",", load.get("quote", '"')
    names = [f["name"] for f in fields]
    try:
        with _open(path) as file, pa.csv.open_csv(
            file,
            pa.csv.ReadOptions(column_names=names, skip_rows=int(load.get("skipLeadingRows") or 0)),
            pa.csv.ParseOptions(
                delimiter={"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter),
                quote_char=quote_char or False,
                newlines_in_values=bool(load.get("allowQuotedNewlines")),
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[load.get("nullMarker") or ""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ) as reader:  # fmt: skip
            for batch in reader:
                yield pa.record_batch(
                    [_from_text(column, f) for column, f in zip(batch.columns, fields, strict=True)],
                    schema=types.arrow_schema(fields),
                )
    except pa.ArrowInvalid as exc:
        if "Empty CSV file" not in str(exc):
            raise bad_data(str(exc)) from exc


def _from_text(column: pa.Array, field: dict) -> pa.Array:
    if field["type"] == "STRING":
        return column
    aliases = _CSV_BOOLEANS if field["type"] == "BOOLEAN" else {}
    try:
        values = [
            None if text is None else cells.parse(aliases.get(text.lower(), text), field, field["name"])
            for text in column.to_pylist()
        ]
    except cells.BadValueError as exc:
        raise bad_data(f"Could not parse '{field['name']}': {exc}") from exc
    return pa.array(values, types.arrow_type(field))


def _open_parquet(path: Path, load: Mapping, given: Schema | None) -> tuple[Schema, Iterator[pa.RecordBatch]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as exc:
        raise bad_data(f"{exc}: the file is no Parquet file, or a damaged one") from exc
    lists = bool((load.get("parquetOptions") or {}).get("enableListInference"))
    for field in given or ():
        if _has_json(field):
            raise ApiError(400, "invalid", f"Unsupported field type: JSON (column {field['name']} of a Parquet load)")
    own = types.normalize([_parquet_field(field, lists=lists) for field in file.schema_arrow])
    fields = _as_given(own, given, ignore_unknown=bool(load.get("ignoreUnknownValues"))) if given else own
    return fields, _checked(_read_parquet(file, fields), fields)


def _read_parquet(file: pq.ParquetFile, fields: Schema) -> Iterator[pa.RecordBatch]:
    there = {name.lower(): name for name in file.schema_arrow.names}
    wanted, schema = [there.get(f["name"].lower()) for f in fields], types.arrow_schema(fields)
    try:
        for batch in file.iter_batches(_BATCH_ROWS, columns=[name for name in wanted if name]):
            missing = pa.nulls(batch.num_rows)
            columns = [batch.column(name) if name else missing for name in wanted]
            yield types.conform(pa.record_batch(columns, names=[f["name"] for f in fields]), schema)
    except (pa.ArrowInvalid, OSError) as exc:
        raise bad_data(str(exc)) from exc


def _as_given(own: Schema, given: Schema, *, ignore_unknown: bool) -> Schema:
    """Check a Parquet file's columns against the schema that the job gave: there is no conversion, as in BigQuery."""
    there = {f["name"].lower(): f for f in own}
    for field in given:
        found = there.pop(field["name"].lower(), None)
        if found is None:
            if field["mode"] == "REQUIRED":
                raise bad_data(f"Required column '{field['name']}' is missing in the Parquet file")
        elif _shape(found) != _shape(field):
            raise bad_data(
                f"Parquet column '{field['name']}' has type {types.standard_type(found)} which does not match the "
                f"target type {types.standard_type(field)}"
            )
    if there and not ignore_unknown:
        raise unsupported(f"Parquet column {next(iter(there.values()))['name']} that the given schema lacks")
    return given


def _has_json(field: dict) -> bool:
    return field["type"] == "JSON" or any(_has_json(part) for part in field.get("fields", ()))


def _shape(field: dict) -> tuple:
    nested = tuple((f["name"].lower(), _shape(f)) for f in field.get("fields", ()))
    return field["type"], field["mode"] == "REPEATED", nested


def _parquet_field(field: pa.Field, *, lists: bool) -> dict:
    """Return the column that BigQuery makes of a Parquet column when no schema is given."""
    kind, mode, t = field.type, "NULLABLE" if field.nullable else "REQUIRED", pa.types
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        if not lists:
            raise unsupported(
                f"the Parquet LIST column {field.name} without parquet_options.enable_list_inference; "
                f"BigQuery would make a RECORD {field.name}.list.element of it"
            )
        item = _parquet_field(kind.value_field, lists=lists)
        if item["mode"] == "REPEATED":
            raise bad_data(f"Parquet column '{field.name}' is an array of arrays")
        return item | {"name": field.name, "mode": "REPEATED"}
    if t.is_struct(kind):
        nested = [_parquet_field(part, lists=lists) for part in kind]
        return {"name": field.name, "type": "RECORD", "mode": mode, "fields": nested}
    scalar = types.kind_of(kind)
    if scalar is None:
        raise unsupported(f"Parquet column {field.name} of type {kind}")
    return {"name": field.name, "type": scalar, "mode": mode}


def _checked(batches: Iterable[pa.RecordBatch], fields: Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for array, field in zip(batch.columns, fields, strict=True):
            _check_nulls(array, field, field["name"])
        yield batch


def _check_nulls(array: Any, field: dict, path: str) -> None:
    if field["mode"] == "REQUIRED" and array.null_count:
        raise bad_data(f"Only optional fields can be set to NULL. Field: {path}; Value: NULL")
    if field["mode"] == "REPEATED":
        array = array.flatten()
        if array.null_count:
            raise bad_data(f"Only optional fields can be set to NULL. Field: {path}; Value: NULL in an array")
    if field["type"] == "RECORD":
        array = array.filter(array.is_valid())
        for part, inner in zip(array.flatten(), field["fields"], strict=True):
            _check_nulls(part, inner, f"{path}.{inner['name']}")
