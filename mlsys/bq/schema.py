"""What a column is in BigQuery, in Arrow and in pandas, and the rules for its name.

One table of types serves both directions, so what `bq_get` returns is what `bq_put` writes back. The type of a column
follows from the schema alone, never from the values: an empty result has the same dtypes as a full one.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from google.cloud.bigquery import SchemaField

from mlsys.errors import SchemaError

MAX_COLUMNS = 10_000  # BigQuery's, for one table

_ARROW = {
    "BIGNUMERIC": pa.decimal256(76, 38),
    "BOOLEAN": pa.bool_(),
    "BYTES": pa.binary(),
    "DATE": pa.date32(),
    "DATETIME": pa.timestamp("us"),
    "FLOAT": pa.float64(),
    "GEOGRAPHY": pa.string(),
    "INTEGER": pa.int64(),
    "INTERVAL": pa.month_day_nano_interval(),
    "JSON": pa.json_(pa.string()),
    "NUMERIC": pa.decimal128(38, 9),
    "STRING": pa.string(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
}
_LEGACY = {"BIGDECIMAL": "BIGNUMERIC", "BOOL": "BOOLEAN", "DECIMAL": "NUMERIC", "FLOAT64": "FLOAT", "INT64": "INTEGER"}
_GOOGLE_SQL = {"BOOLEAN": "BOOL", "FLOAT": "FLOAT64", "INTEGER": "INT64", "RECORD": "STRUCT"}

# pandas' own types where they hold every value; the others stay Arrow, which round-trips exactly.
_PANDAS = {
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(storage="pyarrow", na_value=np.nan),
}

# "Flexible column names": letters, marks and digits of any script, connectors, dashes, spaces and these signs.
_NAME_LIMIT = 300
_NAME_SIGNS = frozenset("&%=+:'<>#|")
_NAME_CATEGORIES = ("L", "M", "N", "Pc", "Pd", "Zs")
_RESERVED = (
    "_TABLE_",
    "_FILE_",
    "_PARTITION",
    "_ROW_TIMESTAMP",
    "__ROOT__",
    "_COLIDENTIFIER",
    "_CHANGE_SEQUENCE_NUMBER",
    "_CHANGE_TYPE",
    "_CHANGE_TIMESTAMP",
)


def field_type(field: SchemaField) -> str:
    """Return a field's type in the spelling of the REST API (``INTEGER``), whichever was used."""
    name = (field.field_type or "STRING").upper()
    return "RECORD" if name == "STRUCT" else _LEGACY.get(name, name)


def describe(field: SchemaField) -> str:
    """Return a field's type as GoogleSQL writes it: ``INT64``, ``ARRAY<STRING>``, ``STRUCT<a INT64>``."""
    name = field_type(field)
    if name == "RECORD":
        name = f"STRUCT<{', '.join(f'{f.name} {describe(f)}' for f in field.fields)}>"
    name = _GOOGLE_SQL.get(name, name)
    return f"ARRAY<{name}>" if field.mode == "REPEATED" else name


def arrow_type(field: SchemaField, *, keep_required: bool = False) -> pa.DataType:
    """Return the Arrow type that holds a BigQuery field exactly."""
    name = field_type(field)
    if name == "RECORD":
        inner = pa.struct([arrow_field(f, keep_required=keep_required) for f in field.fields])
    elif name == "RANGE":
        element = _ARROW[field.range_element_type.element_type.upper()]
        inner = pa.struct([("start", element), ("end", element)])
    elif name in _ARROW:
        inner = _ARROW[name]
    else:
        raise SchemaError(f"column {field.name!r} has type {name}, which mlsys cannot read: CAST it in the query")
    return pa.list_(inner) if field.mode == "REPEATED" else inner


def arrow_field(field: SchemaField, *, keep_required: bool = False) -> pa.Field:
    """Return the Arrow field of a BigQuery field. See `arrow_schema`."""
    nullable = not (keep_required and field.mode == "REQUIRED")
    return pa.field(field.name, arrow_type(field, keep_required=keep_required), nullable=nullable)


def arrow_schema(fields: Iterable[SchemaField], *, keep_required: bool = False) -> pa.Schema:
    """Return the Arrow schema of a BigQuery schema.

    Parameters
    ----------
    keep_required
        Let REQUIRED fields hold no NULL in Arrow either. By default every field may, as it may in a query's result.

    Examples
    --------
    >>> arrow_schema([SchemaField("passenger_id", "INT64"), SchemaField("tags", "STRING", mode="REPEATED")])
    passenger_id: int64
    tags: list<item: string>
      child 0, item: string
    """
    return pa.schema([arrow_field(field, keep_required=keep_required) for field in fields])


def bq_schema(schema: pa.Schema) -> list[SchemaField]:
    """Return the BigQuery schema that holds an Arrow schema exactly; raise `SchemaError` where there is none.

    A column of Arrow's ``null`` type, which says nothing, becomes STRING.
    """
    return [bq_field(field.name, field.type) for field in schema]


def bq_field(name: str, kind: pa.DataType, column: str | None = None) -> SchemaField:
    """Return the BigQuery field for values of Arrow type ``kind``; ``column`` is the path that an error names."""
    column = column or name
    kind = plain_type(kind)
    if not pa.types.is_list(kind):
        return SchemaField(name, _bq_type(kind, column), fields=_subfields(kind, column))
    element = plain_type(kind.value_type)
    if pa.types.is_list(element):
        raise SchemaError(f"column {column!r} is an array of arrays, which BigQuery has not: put a STRUCT between them")
    return SchemaField(name, _bq_type(element, column), mode="REPEATED", fields=_subfields(element, column))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return ``kind`` without its encoding: a dictionary's values, and one kind of list."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_run_end_encoded(kind):
        return kind.value_type
    if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(kind.value_type)
    return kind


def _subfields(kind: pa.DataType, column: str) -> list[SchemaField]:
    return [bq_field(f.name, f.type, f"{column}.{f.name}") for f in kind] if pa.types.is_struct(kind) else []


def _bq_type(kind: pa.DataType, column: str) -> str:
    is_ = pa.types
    if is_.is_struct(kind) and kind.num_fields:
        return "RECORD"
    if is_.is_integer(kind):
        return "INTEGER"
    if is_.is_floating(kind):
        return "FLOAT"
    if is_.is_boolean(kind):
        return "BOOLEAN"
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind) or is_.is_null(kind):
        return "STRING"
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind) or is_.is_binary_view(kind):
        return "BYTES"
    if is_.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "DATETIME"
    if is_.is_date(kind):
        return "DATE"
    if is_.is_time(kind):
        return "TIME"
    if is_.is_decimal(kind):
        return "NUMERIC" if kind.scale <= 9 and kind.precision - kind.scale <= 29 else "BIGNUMERIC"
    if isinstance(kind, pa.JsonType):
        return "JSON"
    raise SchemaError(f"column {column!r} has type {kind}, which BigQuery has not: {_way_out(kind)}")


def _way_out(kind: pa.DataType) -> str:
    if pa.types.is_duration(kind):
        return "write it as a number, like df[column].dt.total_seconds()"
    if pa.types.is_struct(kind):
        return "a STRUCT needs at least one field"
    return "convert it to a plain type first"


def pandas_dtype(kind: pa.DataType) -> object | None:
    """Return the pandas dtype of an Arrow type, or None where Arrow's own conversion gives what we want.

    INT64 ``Int64``; FLOAT64 ``float64`` with NaN for NULL; BOOL ``boolean``; STRING pandas' ``str``; TIMESTAMP
    ``datetime64[us, UTC]``; DATETIME ``datetime64[us]``; everything else `pandas.ArrowDtype`.
    """
    if pa.types.is_float64(kind) or pa.types.is_timestamp(kind):
        return None
    return _PANDAS.get(kind) or pd.ArrowDtype(kind)


def check_names(names: Sequence[object], path: str = "") -> None:
    """Refuse columns that BigQuery would refuse, before anything is sent: the first bad one is named, with the rule."""
    if not names:
        raise SchemaError("there are no columns to write: BigQuery needs at least one")
    if len(names) > MAX_COLUMNS:
        raise SchemaError(f"BigQuery allows {MAX_COLUMNS:,} columns in a table, got {len(names):,}")
    for name in names:
        _check_name(name, path)
    name, count = Counter(str(name).lower() for name in names).most_common(1)[0]
    if count > 1:
        same = [n for n in names if str(n).lower() == name]
        raise SchemaError(f"column names must differ in more than case, got {', '.join(map(repr, same))}: rename one")


def check_fields(fields: Sequence[SchemaField], path: str = "") -> None:
    """Apply `check_names` to a schema and to every STRUCT in it."""
    check_names([field.name for field in fields], path)
    for field in fields:
        if field.fields:
            check_fields(field.fields, f"{path}{field.name}.")


def _check_name(name: object, path: str) -> None:
    if not isinstance(name, str):
        raise SchemaError(f"column names must be text, got {name!r}: rename it, like df.columns = df.columns.map(str)")
    if not _is_name(name):
        raise SchemaError(
            f"column {path + name!r} has no name that BigQuery takes: 1 to 300 letters, digits, spaces and _ - & % = + "
            f": ' < > # | of any script; rename it"
        )
    if name.upper().startswith(_RESERVED):
        prefix = next(p for p in _RESERVED if name.upper().startswith(p))
        raise SchemaError(f"column {path + name!r} starts with {prefix!r}, which BigQuery keeps for itself: rename it")


def _is_name(name: str) -> bool:
    allowed = all(sign in _NAME_SIGNS or unicodedata.category(sign).startswith(_NAME_CATEGORIES) for sign in name)
    return allowed and 1 <= len(name) <= _NAME_LIMIT and bool(name.strip())
