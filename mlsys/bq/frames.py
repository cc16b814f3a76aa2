"""pandas to Arrow without surprises: what a column is gets decided once, what does not fit is refused by name."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from google.cloud.bigquery import SchemaField

from mlsys.bq.schema import arrow_schema, describe
from mlsys.errors import SchemaError

SLICE_ROWS = 131_072

_ALIASES = (  # subclasses first: a datetime is a date too, and a bool is an int
    ((bool, np.bool_), pa.bool_()),
    ((int, np.integer), pa.int64()),
    ((float, np.floating), pa.float64()),
    ((str,), pa.string()),
    ((bytes, bytearray, memoryview), pa.binary()),
    ((Decimal,), pa.decimal128(38, 9)),
    ((dt.date,), pa.date32()),
    ((dt.time,), pa.time64("us")),
)
_EPOCH = dt.date(1970, 1, 1)
_DAYS = ((dt.date.min - _EPOCH).days, (dt.date.max - _EPOCH).days)  # the years 1 to 9999
_MICROSECONDS = (_DAYS[0] * 86_400_000_000, (_DAYS[1] + 1) * 86_400_000_000 - 1)


def with_named_index(df: pd.DataFrame) -> pd.DataFrame:
    """Return ``df`` with each named index level as a column in front; an index without a name only counts rows."""
    named = [name for name in df.index.names if name is not None]
    clash = [name for name in named if name in df.columns]
    if clash:
        raise SchemaError(f"{clash[0]!r} is both an index level and a column: drop one with df.reset_index(drop=True)")
    return df.reset_index(level=named) if named else df


def natural_schema(df: pd.DataFrame) -> pa.Schema:
    """Return what each column is by itself, before a table has a say. ``null`` where it holds nothing to tell by."""
    return pa.schema([(name, _natural_type(name, column)) for name, column in df.items()])


def _natural_type(name: str, column: pd.Series) -> pa.DataType:
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _natural_type(name, dtype.categories.to_series())
    if isinstance(dtype, pd.ArrowDtype):
        return dtype.pyarrow_dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return pa.timestamp("us", "UTC")
    if pd.api.types.is_object_dtype(dtype):
        return _type_of(column[column.notna()], name)
    if dtype.kind == "M":
        return pa.timestamp("us")
    if dtype.kind == "c" or isinstance(dtype, (pd.PeriodDtype, pd.IntervalDtype, pd.SparseDtype)):
        raise SchemaError(f"column {name!r} has dtype {dtype}, which BigQuery has not: convert it to numbers or text")
    return pa.array(column.iloc[:0], from_pandas=True).type


def _type_of(values: Iterable[Any], path: str) -> pa.DataType:
    """Return the one type that all ``values`` (no NULL among them) share; refuse a mixture with the first odd one."""
    values = list(values)
    kinds = {kind: _scalar_kind(kind, values, path) for kind in dict.fromkeys(map(type, values))}
    types = list(dict.fromkeys(kinds.values()))
    if not types:
        return pa.null()
    if set(types) == {pa.int64(), pa.float64()}:
        return pa.float64()
    if len(types) > 1:
        odd = next(v for v in values if kinds[type(v)] != types[0])
        raise SchemaError(
            f"column {path!r} mixes types: {values[0]!r} is {_python_name(values[0])} and {odd!r} is "
            f"{_python_name(odd)}; convert it to one type first"
        )
    nested = {"list": _list_type, "dict": _struct_type, "datetime": _datetime_type}.get(types[0])
    return types[0] if nested is None else nested(values, path)


def _python_name(value: Any) -> str:
    return type(value).__name__


def _scalar_kind(kind: type, values: Sequence[Any], path: str) -> pa.DataType | str:
    if issubclass(kind, dt.datetime):
        return "datetime"
    if issubclass(kind, (list, tuple, np.ndarray, pd.Series)):
        return "list"
    if issubclass(kind, dict):
        return "dict"
    for classes, arrow in _ALIASES:
        if issubclass(kind, classes):
            return arrow
    value = next(v for v in values if type(v) is kind)
    raise SchemaError(
        f"column {path!r} holds {value!r}, and BigQuery has no type for {kind.__name__}: convert it first"
    )


def _list_type(values: Sequence[Any], path: str) -> pa.DataType:
    return pa.list_(_type_of((item for value in values for item in value if not _is_null(item)), path))


def _struct_type(values: Sequence[dict], path: str) -> pa.DataType:
    keys = dict.fromkeys(key for value in values for key in value)
    if not_text := [key for key in keys if not isinstance(key, str)]:
        raise SchemaError(
            f"column {path!r} has a dict with key {not_text[0]!r}: the fields of a STRUCT are named by text"
        )
    return pa.struct(
        [(key, _type_of((v[key] for v in values if not _is_null(v.get(key))), f"{path}.{key}")) for key in keys]
    )


def _datetime_type(values: Sequence[dt.datetime], path: str) -> pa.DataType:
    zoned = {value.tzinfo is not None for value in values}
    if len(zoned) > 1:
        odd = next(v for v in values if (v.tzinfo is None) == (values[0].tzinfo is not None))
        raise SchemaError(
            f"column {path!r} mixes times with and without a zone: {values[0]} and {odd}; give all of them one, or none"
        )
    if fine := next((v for v in values if getattr(v, "nanosecond", 0)), None):
        raise SchemaError(f"column {path!r} holds {fine}: BigQuery keeps microseconds; round it, like .dt.floor('us')")
    return pa.timestamp("us", "UTC") if zoned.pop() else pa.timestamp("us")


def _is_null(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def frame_batches(
    df: pd.DataFrame, natural: pa.Schema, fields: Sequence[SchemaField], *, rows: int = SLICE_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of ``df`` in the types of ``fields``, a slice at a time: the whole is never held twice."""
    schema = arrow_schema(fields)
    for start in range(0, max(len(df), 1), rows):
        part = df.iloc[start : start + rows]
        arrays = [
            fit(_as_arrow(column, known.type, known.name), field)
            for (_, column), known, field in zip(part.items(), natural, fields, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _as_arrow(column: pd.Series, kind: pa.DataType, name: str) -> pa.Array:
    try:
        if pd.api.types.is_object_dtype(column.dtype):
            # pandas knows more kinds of NULL than Arrow looks for: Decimal('NaN') is one.
            return pa.array(
                [None if null else v for v, null in zip(column, column.isna(), strict=True)], kind, from_pandas=True
            )
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError) as exc:
        raise SchemaError(f"column {name!r} does not fit {kind}: {_first_bad(column, kind)}: {exc}") from exc
    if isinstance(array, pa.ChunkedArray):
        return array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    return array


def _first_bad(column: pd.Series, kind: pa.DataType) -> str:
    for value in column[column.notna()]:
        try:
            pa.array([value], kind, from_pandas=True)
        except (pa.ArrowException, OverflowError, UnicodeError, TypeError):
            return repr(value)
    return "its values"


def fit(array: pa.Array, field: SchemaField) -> pa.Array:
    """Return ``array`` in the type of ``field``, value for value; refuse, naming the first value that would change."""
    wanted = arrow_schema([field]).field(0).type
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.type != wanted:
        try:
            array = _cast(array, wanted)
        except (pa.ArrowException, OverflowError) as exc:
            bad = _first_uncastable(array, wanted)
            raise SchemaError(f"column {field.name!r} is {describe(field)}, which cannot hold {bad}: {exc}") from exc
    _check(array, field, field.name)
    return array


def _cast(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_integer(wanted) and pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return array.cast(wanted)


def _first_uncastable(array: pa.Array, wanted: pa.DataType) -> str:
    """Halve the array until one value is left: a handful of casts, however long it is."""
    while len(array) > 1:
        half = array[: len(array) // 2]
        try:
            _cast(half, wanted)
        except (pa.ArrowException, OverflowError):
            array = half
        else:
            array = array[len(half) :]
    return repr(array[0].as_py()) if len(array) else "its values"


def _check(array: pa.Array, field: SchemaField, path: str) -> None:
    """Refuse what Arrow can hold and BigQuery cannot."""
    if field.mode == "REQUIRED" and array.null_count:
        raise SchemaError(f"column {path!r} is REQUIRED, and row {_first_null(array)} is NULL: fill it or drop the row")
    if field.mode == "REPEATED":
        array = array.flatten()
        if array.null_count:
            raise SchemaError(
                f"column {path!r} is an ARRAY with a NULL in it, which BigQuery does not store: remove it"
            )
    if pa.types.is_struct(array.type) and field.fields:
        array = array.drop_null()  # a STRUCT that is NULL has no fields, not even REQUIRED ones
        for i, sub in enumerate(field.fields):
            _check(pc.struct_field(array, i), sub, f"{path}.{sub.name}")
    if pa.types.is_timestamp(array.type):
        _check_years(array.cast(pa.int64()), _MICROSECONDS, path)
    elif pa.types.is_date(array.type):
        _check_years(array.cast(pa.int32()), _DAYS, path)


def _first_null(array: pa.Array) -> int:
    return pc.index(array.is_null(), True).as_py()


def _check_years(array: pa.Array, allowed: tuple[int, int], path: str) -> None:
    edges = pc.min_max(array)
    if edges["min"].is_valid and (edges["min"].as_py() < allowed[0] or edges["max"].as_py() > allowed[1]):
        raise SchemaError(
            f"column {path!r} has a date outside the years 1 to 9999, which BigQuery cannot hold: correct it"
        )
