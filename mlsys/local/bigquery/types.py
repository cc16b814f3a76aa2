"""BigQuery's types, and what each of them is in DuckDB, in Arrow and in standard SQL.

A field is a ``TableFieldSchema`` in REST form, brought to one spelling by `normalize`: ``name``, ``type``, ``mode``,
``fields`` for a RECORD, ``description`` when there is one.
"""

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from mlsys.local.bigquery.statements import Schema, TableRef
from mlsys.local.errors import ApiError, unsupported


class Scalar(NamedTuple):
    """One type in its four spellings; ``width`` is BigQuery's logical size, None for 2 bytes and the text."""

    sql: str
    duckdb: str
    arrow: pa.DataType
    width: int | None


SCALARS = {
    "STRING": Scalar("STRING", "VARCHAR", pa.string(), None),
    "BYTES": Scalar("BYTES", "BLOB", pa.binary(), None),
    "INTEGER": Scalar("INT64", "BIGINT", pa.int64(), 8),
    "FLOAT": Scalar("FLOAT64", "DOUBLE", pa.float64(), 8),
    "BOOLEAN": Scalar("BOOL", "BOOLEAN", pa.bool_(), 1),
    "TIMESTAMP": Scalar("TIMESTAMP", "TIMESTAMPTZ", pa.timestamp("us", "UTC"), 8),
    "DATETIME": Scalar("DATETIME", "TIMESTAMP", pa.timestamp("us"), 8),
    "DATE": Scalar("DATE", "DATE", pa.date32(), 8),
    "TIME": Scalar("TIME", "TIME", pa.time64("us"), 8),
    "NUMERIC": Scalar("NUMERIC", "DECIMAL(38,9)", pa.decimal128(38, 9), 16),
    "JSON": Scalar("JSON", "JSON", pa.string(), None),
}
_ALIASES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
_FIELD_KEYS = {"name", "type", "mode", "fields", "description"}
_RESERVED = (
    "_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier", "_change_sequence_number",
    "_change_type", "_change_timestamp",
)  # fmt: skip
_COLUMNS = 10_000  # in a table, with those inside RECORDs
_SIGNS = frozenset("&%=+:'<>#|")


def quote(name: str) -> str:
    """Return ``name`` as a quoted DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return ``value`` as a string literal for DuckDB."""
    return "'" + value.replace("'", "''") + "'"


def relation(ref: TableRef) -> str:
    """Return the DuckDB name of a table."""
    return f"{quote(f'{ref.project}.{ref.dataset}')}.{quote(ref.table)}"


def normalize(fields: Iterable[dict]) -> Schema:
    """Return ``fields`` in the one spelling that the engine works with; refuse what it cannot store exactly."""
    schema = [_normal_field(field) for field in fields]
    if len(schema) > _COLUMNS:
        raise ApiError(400, "invalid", f"Too many columns: {len(schema)}; a table can have {_COLUMNS}")
    seen = set()
    for field in schema:
        if field["name"].lower() in seen:
            raise ApiError(400, "invalid", f"Field {field['name']} already exists in schema")
        seen.add(field["name"].lower())
    return schema


def _normal_field(field: dict) -> dict:
    name, kind = field.get("name") or "", (field.get("type") or "").upper()
    kind = _ALIASES.get(kind, kind)
    if not _is_name(name) or name.lower().startswith(_RESERVED):
        raise ApiError(400, "invalid", f'Invalid field name "{name}".')
    if extra := sorted(key for key in field.keys() - _FIELD_KEYS if field[key]):
        raise unsupported(f"{extra[0]} of column {name}")
    if kind not in SCALARS and kind != "RECORD":
        raise unsupported(f"type {kind or 'missing'} of column {name}")
    normal = {"name": name, "type": kind, "mode": (field.get("mode") or "NULLABLE").upper()}
    if normal["mode"] not in ("NULLABLE", "REQUIRED", "REPEATED"):
        raise ApiError(400, "invalid", f"Invalid mode {normal['mode']} of field {name}")
    if kind == "RECORD":
        normal["fields"] = normalize(field.get("fields") or [])
        if not normal["fields"]:
            raise ApiError(400, "invalid", f"Field {name} is type RECORD but has no schema")
    return normal | ({"description": field["description"]} if field.get("description") else {})


def _is_name(name: str) -> bool:
    """Say whether BigQuery takes a column's name: letters, marks and digits of any script, and a few signs."""
    kinds = (unicodedata.category(sign) for sign in name if sign not in _SIGNS)
    known = all(kind.startswith(("L", "M", "N", "Pc", "Pd", "Zs")) for kind in kinds)
    return known and 1 <= len(name) <= 300 and bool(name.strip())


def element(field: dict) -> dict:
    """Return the field that describes one element of a REPEATED field."""
    return field | {"mode": "NULLABLE"}


def duckdb_type(field: dict) -> str:
    """Return the DuckDB type that stores ``field``."""
    if field["type"] == "RECORD":
        kind = "STRUCT(" + ", ".join(f"{quote(f['name'])} {duckdb_type(f)}" for f in field["fields"]) + ")"
    else:
        kind = SCALARS[field["type"]].duckdb
    return kind + "[]" if field["mode"] == "REPEATED" else kind


def standard_type(field: dict) -> str:
    """Return the type as standard SQL writes it: ``ARRAY<STRUCT<a INT64>>``."""
    if field["type"] == "RECORD":
        kind = "STRUCT<" + ", ".join(f"{f['name']} {standard_type(f)}" for f in field["fields"]) + ">"
    else:
        kind = SCALARS[field["type"]].sql
    return f"ARRAY<{kind}>" if field["mode"] == "REPEATED" else kind


def arrow_type(field: dict) -> pa.DataType:
    """Return the Arrow type that the Storage Read API sends for ``field``."""
    if field["mode"] == "REPEATED":
        return pa.list_(arrow_type(element(field)))
    if field["type"] == "RECORD":
        return pa.struct([pa.field(f["name"], arrow_type(f)) for f in field["fields"]])
    return SCALARS[field["type"]].arrow


def arrow_schema(fields: Schema) -> pa.Schema:
    """Return the Arrow schema of rows, bare of metadata: what the engine works with inside."""
    return pa.schema([pa.field(f["name"], arrow_type(f)) for f in fields])


def wire_schema(fields: Schema) -> pa.Schema:
    """Return `arrow_schema` with the metadata by which clients tell JSON from STRING and DATETIME from TIMESTAMP."""

    def wire(field: dict) -> pa.Field:
        if field["mode"] == "REPEATED":
            item = wire(element(field)).with_name("item")
            return pa.field(field["name"], pa.list_(item.remove_metadata()), metadata=item.metadata)
        kind, metadata = arrow_type(field), None
        if field["type"] == "RECORD":
            kind = pa.struct([wire(f) for f in field["fields"]])
        elif field["type"] in ("JSON", "DATETIME"):
            metadata = {"ARROW:extension:name": f"google:sqlType:{field['type'].lower()}"}
        return pa.field(field["name"], kind, nullable=field["mode"] != "REQUIRED", metadata=metadata)

    return pa.schema([wire(f) for f in fields])


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return ``batch`` with exactly the types of ``schema``.

    DuckDB answers ``SUM(INT64)`` as a decimal and names the elements of a list after the column, among others.
    Raises ``pa.ArrowInvalid`` where a value does not fit, `ApiError` where the types have nothing in common.
    """
    arrays = []
    for array, field in zip(batch.columns, schema, strict=True):
        if not _fits(array.type, field.type):
            raise unsupported(f"column {field.name}: {array.type} where {field.type} is due")
        arrays.append(_cast(array, field.type))
    return pa.record_batch(arrays, schema=schema)


def _cast(array: pa.Array, due: pa.DataType) -> pa.Array:
    """Cast by position: Arrow's own cast of a struct goes by name and turns a field of another name into NULLs."""
    if array.type.equals(due):
        return array
    mask = array.is_null() if array.null_count else None
    if pa.types.is_struct(due) and pa.types.is_struct(array.type):
        children = [_cast(child, field.type) for child, field in zip(array.flatten(), due, strict=True)]
        return pa.StructArray.from_arrays(children, fields=list(due), mask=mask)
    if pa.types.is_list(due) and pa.types.is_list(array.type):
        if mask is not None:  # Arrow takes no mask for a slice
            array = pa.concat_arrays([array.take(pa.array(range(len(array)), pa.int64()))])
        return pa.ListArray.from_arrays(array.offsets, _cast(array.values, due.value_type), type=due, mask=mask)
    return array.cast(due)


def _fits(given: pa.DataType, due: pa.DataType) -> bool:
    """Say whether a cast keeps every value or raises: no float from a decimal, no text from a number."""
    t = pa.types
    if t.is_null(given):
        return True
    if t.is_nested(due):
        return given.num_fields == due.num_fields and all(
            _fits(given.field(i).type, due.field(i).type) for i in range(due.num_fields)
        )
    if t.is_integer(due) and t.is_decimal(given):
        return given.scale == 0
    if t.is_decimal(due) and t.is_integer(given):
        return True
    return kind_of(given) == kind_of(due)


def kind_of(arrow: pa.DataType) -> str | None:
    """Return the BigQuery type that a column of an Arrow type becomes; None when there is none."""
    t = pa.types
    if t.is_dictionary(arrow):
        arrow = arrow.value_type
    if t.is_decimal(arrow):
        return "NUMERIC" if arrow.scale <= 9 and arrow.precision - arrow.scale <= 29 else None
    if t.is_timestamp(arrow):
        return "TIMESTAMP" if arrow.tz else "DATETIME"
    tests = {
        "INTEGER": [t.is_signed_integer, t.is_uint8, t.is_uint16, t.is_uint32, t.is_null],
        "FLOAT": [t.is_floating],
        "BOOLEAN": [t.is_boolean],
        "STRING": [t.is_string, t.is_large_string, t.is_string_view],
        "BYTES": [t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary],
        "DATE": [t.is_date],
        "TIME": [t.is_time],
    }
    return next((kind for kind, likes in tests.items() if any(like(arrow) for like in likes)), None)


def without_null_arrays(expression: str, field: dict, depth: int = 0) -> str:
    """Return SQL for ``expression`` with NULL arrays made empty, as BigQuery stores and answers them."""
    if field["mode"] == "REPEATED":
        item = f"e{depth}"
        inner = without_null_arrays(item, element(field), depth + 1)
        filled = f"coalesce({expression}, [])"
        return filled if inner == item else f"list_transform({filled}, lambda {item}: {inner})"
    if not holds_arrays(field):
        return expression
    parts = ((f, f"struct_extract({expression}, {text(f['name'])})") for f in field["fields"])
    packed = ", ".join(f"{quote(f['name'])} := {without_null_arrays(part, f, depth)}" for f, part in parts)
    return f"CASE WHEN {expression} IS NULL THEN NULL ELSE struct_pack({packed}) END"


def holds_arrays(field: dict) -> bool:
    """Say whether a column is an array or has one inside."""
    return field["mode"] == "REPEATED" or any(holds_arrays(f) for f in field.get("fields", ()))


def tidy_columns(fields: Schema) -> str:
    """Return the list of a SELECT that reads ``fields`` without NULL arrays."""
    names = {quote(f["name"]): f for f in fields}
    return ", ".join(f"{without_null_arrays(name, f)} AS {name}" for name, f in names.items())


def total_sizes(fields: Schema) -> str:
    """Return aggregates over all columns, to be added up by the caller: a sum of thousands is too deep for DuckDB."""
    return ", ".join(_total_size(quote(f["name"]), f) for f in fields)


def _total_size(column: str, field: dict) -> str:
    """Return an aggregate over a column: BigQuery's logical bytes, by its documented size of each type."""
    width = field["mode"] != "REPEATED" and field["type"] in SCALARS and SCALARS[field["type"]].width
    return f"{width} * count({column})" if width else f"coalesce(sum({_size(column, field)}), 0)"


def _size(value: str, field: dict, depth: int = 0) -> str:
    if field["mode"] == "REPEATED":
        item = f"e{depth}"
        inner = _size(item, element(field), depth + 1)
        return f"coalesce(list_sum(list_transform({value}, lambda {item}: {inner})), 0)"
    if field["type"] == "RECORD":
        return (
            "("
            + " + ".join(_size(f"struct_extract({value}, {text(f['name'])})", f, depth) for f in field["fields"])
            + ")"
        )
    width = SCALARS[field["type"]].width
    if width:
        return f"CASE WHEN {value} IS NULL THEN 0 ELSE {width} END"
    return f"coalesce(2 + {'octet_length' if field['type'] == 'BYTES' else 'strlen'}({value}), 0)"


def merged(table: str, old: Schema, new: Schema, options: Iterable[str] = (), *, whole: bool = False) -> Schema:
    """Return the schema that ``old`` becomes when ``new`` is written to it, or refuse as BigQuery does.

    Parameters
    ----------
    table
        ``project:dataset.table``, for messages.
    options
        BigQuery's ``schemaUpdateOptions``.
    whole
        ``new`` replaces the schema (``tables.patch``): no column may be missing, descriptions are taken over.
    """

    def refuse(why: str) -> ApiError:
        return ApiError(400, "invalid", f"Provided Schema does not match Table {table}. {why}")

    given, result = {f["name"].lower(): f for f in new}, []
    for field in old:
        name, update = field["name"], given.pop(field["name"].lower(), None)
        if update is None:
            if whole or field["mode"] == "REQUIRED":
                raise refuse(f"Field {name} is missing in new schema")
            result.append(field)
            continue
        if update["type"] != field["type"]:
            raise refuse(f"Field {name} has changed type from {field['type']} to {update['type']}")
        relaxed = (field["mode"], update["mode"]) == ("REQUIRED", "NULLABLE") and "ALLOW_FIELD_RELAXATION" in options
        tightened = (field["mode"], update["mode"]) == ("NULLABLE", "REQUIRED") and not whole
        if update["mode"] != field["mode"] and not relaxed and not tightened:
            raise refuse(f"Field {name} has changed mode from {field['mode']} to {update['mode']}")
        after = field | ({"mode": "NULLABLE"} if relaxed else {})
        if whole:
            after = {k: v for k, v in after.items() if k != "description"} | (
                {"description": update["description"]} if "description" in update else {}
            )
        if field["type"] == "RECORD":
            after["fields"] = merged(table, field["fields"], update["fields"], options, whole=whole)
        result.append(after)
    for field in given.values():
        if "ALLOW_FIELD_ADDITION" not in options:
            raise refuse(f"Cannot add fields (field: {field['name']})")
        if field["mode"] == "REQUIRED":
            raise refuse(f"Cannot add required fields to an existing schema. (field: {field['name']})")
        result.append(field)
    return result
