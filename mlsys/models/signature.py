"""The columns that a model was trained on, and how serving data is brought to exactly that form.

A model does not see SQL types but pandas dtypes, and it answers differently, without a word, when a missing value is
None where training had NaN, or when an integer category arrives as text. So `infer_inputs` records what training saw
and `to_training_frame` builds precisely that or refuses.

A manifest is JSON, so golden rows and categories are written by their BigQuery type: `to_json_columns`.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mlsys.errors import SchemaError
from mlsys.manifest import InputField

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_PYTHON: dict[str, Any] = {
    "BIGNUMERIC": Decimal,
    "BOOL": bool,
    "BYTES": bytes,
    "DATE": date,
    "DATETIME": datetime,
    "FLOAT64": float,
    "INT64": int,
    "NUMERIC": Decimal,
    "STRING": str,
    "TIME": time,
    "TIMESTAMP": datetime,
}


def bigquery_type(kind: pa.DataType, name: str = "column") -> str:
    """Return the BigQuery type of a model's column (``INT64``, ``STRING`` …); raise `SchemaError` for a nested one."""
    from mlsys.bq.schema import bq_field, describe

    found = describe(bq_field(name, kind))
    if not found.isalnum():
        raise SchemaError(f"a model cannot take column {name!r} of type {found}: flatten it in the query")
    return found


def infer_inputs(frame: "pd.DataFrame") -> tuple[InputField, ...]:
    """Describe the columns of a training frame.

    Raises
    ------
    SchemaError
        A column has no BigQuery type, a name that is no text, stands for missing values in two ways, or holds what
        could not be built again from BigQuery's values.
    """
    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise SchemaError(f"training columns need distinct text names, got {names[:10]}")
    return tuple(_infer(frame[name]) for name in names)


def _infer(column: "pd.Series") -> InputField:
    import pandas as pd

    missing = column.isna()
    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    # to_series would make timestamps of the datetimes in an index of objects
    values = pd.Series(levels := column.cat.categories, dtype=levels.dtype) if categorical else column
    try:
        arrow = pa.Array.from_pandas(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as exc:
        raise SchemaError(f"column {column.name!r} mixes types, or has one that BigQuery lacks: {exc}") from exc
    kind = bigquery_type(arrow.type, column.name)
    if values.dtype == object:
        _check_objects(column.name, values.dropna(), kind)
    field = InputField(
        name=column.name,
        type=kind,
        dtype="category" if categorical else str(column.dtype),
        nullable=bool(missing.any()) or _missing_count(arrow) > 0,
        missing=_missing_marker(column, arrow),
        categories=tuple(_to_json(_stored(column.name, values, kind))) if categorical else None,
        category_dtype=str(values.dtype) if categorical else None,
        ordered=bool(categorical and column.cat.ordered),
    )
    _check_dtype(values.dtype, _levels(field) if categorical else field)
    return field


def _check_objects(name: str, values: "pd.Series", kind: str) -> None:
    # A model may tell np.int64(1) from 1, or 14:00+02:00 from 12:00 UTC, which is what it would get from BigQuery.
    wanted = _PYTHON[kind]
    for value in values:
        if type(value) is not wanted:
            raise SchemaError(
                f"column {name!r} holds {type(value).__name__} like {value!r}, as BigQuery's {kind} it would be"
                f" {wanted.__name__}: convert it, or give the column a dtype of pandas"
            )
        if getattr(value, "tzinfo", None) and not (kind == "TIMESTAMP" and value.utcoffset() == timedelta(0)):
            raise SchemaError(f"column {name!r} holds {value}, BigQuery gives times in UTC: convert them")


def _missing_marker(column: "pd.Series", arrow: pa.Array) -> str:
    import pandas as pd

    if column.dtype == object:
        markers = {_marker(column.name, value) for value in column[column.isna()]}
    elif isinstance(column.dtype, pd.ArrowDtype) and pa.types.is_floating(arrow.type):  # the one that has NaN and NA
        markers = {"na"} if arrow.null_count else set()
        markers |= {"nan"} if _missing_count(arrow) > arrow.null_count else set()
    else:
        return "nan"
    if len(markers) > 1:
        raise SchemaError(
            f"column {column.name!r} stands for missing values in two ways ({', '.join(sorted(markers))}): use one"
        )
    return markers.pop() if markers else "nan"


def _marker(name: str, value: Any) -> str:
    import pandas as pd

    if value is None or value is pd.NA:
        return "none" if value is None else "na"
    if isinstance(value, float):
        return "nan"
    raise SchemaError(f"column {name!r} stands for missing values with {value!r}: use None")


def _check_dtype(dtype: Any, field: InputField) -> None:
    try:
        rebuilt = str(_cast(pa.array([], _arrow_type(field.type)), field).dtype)
    except (SchemaError, TypeError, NotImplementedError) as exc:
        rebuilt = f"nothing ({exc})"
    if rebuilt != str(dtype):
        raise SchemaError(
            f"column {field.name!r} has dtype {dtype}, and BigQuery's {field.type} could only be read as {rebuilt}:"
            " convert it to a plain dtype"
        )


def to_bigquery_table(frame: "pd.DataFrame", inputs: Sequence[InputField]) -> pa.Table:
    """Return training rows as BigQuery gives them back: the input columns in the types of the signature.

    Raises
    ------
    SchemaError
        A value does not survive that: nanoseconds, an unsigned integer of 64 bits, a decimal with too many digits.
    """
    return pa.table({field.name: _stored(field.name, frame[field.name], field.type) for field in inputs})


def _stored(name: str, values: "pd.Series", kind: str) -> pa.Array | pa.ChunkedArray:
    wanted = _arrow_type(kind)
    try:
        column = pa.Array.from_pandas(values)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return column if column.type == wanted else column.cast(wanted)
    except (pa.ArrowException, ValueError, TypeError) as exc:
        raise SchemaError(f"column {name!r} has values that BigQuery's {kind} cannot hold: {exc}; round them") from exc


def check_columns(schema: pa.Schema, inputs: Sequence[InputField]) -> None:
    """Raise `SchemaError` unless ``schema`` has every input column with the type that training saw.

    Extra columns are ignored. The message names every column that is missing or of another type.
    """
    there = {field.name: field.type for field in schema}
    faults = [_missing_column(f.name, there) for f in inputs if f.name not in there]
    faults += [
        f"{f.name} is {found}, training had {f.type}"
        for f in inputs
        if f.name in there and not _fits(found := bigquery_type(there[f.name], f.name), f.type)
    ]
    if faults:
        raise SchemaError(
            f"the input does not fit the model: {'; '.join(faults)} (it has {', '.join(there) or 'no columns'})"
        )


def _missing_column(name: str, there: Mapping[str, pa.DataType]) -> str:
    close = [other for other in there if other.lower() == name.lower()] or get_close_matches(name, there, n=1)
    return f"{name} is missing" + (f" (select `{close[0]}` AS `{name}`, if that is it)" if close else "")


def unfit_rows(rows: pa.RecordBatch, inputs: Sequence[InputField]) -> dict[int, str]:
    """Return the rows that do not fit what training saw: position → what is wrong with its first such column.

    A missing value where training saw none, a level of a category that training had not, a value that training's dtype
    cannot hold.
    """
    reasons: dict[int, str] = {}
    for field in reversed(inputs):  # so that the first column has the last word
        column = _plain(rows.column(field.name), field)
        if field.categories is not None:
            unfit, why = (_codes(column, field) == _UNKNOWN).nonzero()[0].tolist(), "a level that training had not"
        else:
            unfit, why = _misfits(column, field), f"which training's {field.dtype} cannot hold"
        reasons |= {i: f"{field.name} is {_to_json(column[i : i + 1])[0]!r}, {why}" for i in unfit}
        if not field.nullable and column.null_count:
            missing = pc.indices_nonzero(column.is_null()).to_pylist()
            reasons |= dict.fromkeys(missing, f"{field.name} is NULL or NaN, training saw none")
    return reasons


def _misfits(column: pa.Array, field: InputField, start: int = 0) -> list[int]:
    """Return the positions of values that training's dtype cannot hold; halve until those stand alone."""
    try:
        _exact(column, field)
    except pa.ArrowInvalid:
        if len(column) == 1:
            return [start]
    else:
        return []
    half = len(column) // 2
    return _misfits(column[:half], field, start) + _misfits(column[half:], field, start + half)


def _fits(found: str, wanted: str) -> bool:
    # The one widening that BigQuery does by itself and that loses nothing a float column could have held.
    return found == wanted or (found, wanted) == ("INT64", "FLOAT64")


def to_training_frame(table: pa.Table | pa.RecordBatch, inputs: Sequence[InputField]) -> "pd.DataFrame":
    """Return the input columns, in training's order, with exactly training's dtypes and missing values.

    Raises
    ------
    SchemaError
        A column is missing or of another type, has NULLs where training saw none, a level that training had not, or a
        value that training's dtype cannot hold.
    """
    import pandas as pd

    check_columns(table.schema, inputs)
    columns = {field.name: _cast(table.column(field.name), field) for field in inputs}
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows), copy=False)


def _cast(column: pa.ChunkedArray | pa.Array, field: InputField) -> "pd.Series":
    import pandas as pd

    column = _plain(column, field)
    if not field.nullable and column.null_count:
        raise SchemaError(
            f"column {field.name} has {column.null_count} missing values, training saw none: "
            "fill them in the query, or train with some"
        )
    if field.categories is not None:
        return _categorical(column, field)
    try:
        exact = _exact(column, field)
    except pa.ArrowInvalid as exc:
        raise SchemaError(f"column {field.name} cannot be read as {field.dtype}, as training had it: {exc}") from exc
    if field.dtype == "object":
        return pd.Series(_objects(exact, field), dtype=object)
    if pa.types.is_dictionary(exact.type):
        exact = exact.dictionary_decode()
    dtype = _dtype(field)
    if field.missing == "nan" and isinstance(dtype, pd.ArrowDtype) and pa.types.is_floating(exact.type):
        exact = exact.fill_null(float("nan"))
    return exact.to_pandas(types_mapper=lambda _: dtype if pd.api.types.is_extension_array_dtype(dtype) else None)


def _plain(column: pa.ChunkedArray | pa.Array, field: InputField) -> pa.Array:
    """Return a column in one piece, with every missing value NULL; only text stays dictionary-encoded."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(column.type) and (field.type != "STRING" or column.dictionary.null_count):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type) and pc.any(nan := pc.is_nan(column)).as_py():
        column = pc.if_else(nan, pa.scalar(None, column.type), column)
    return column


def _exact(column: pa.Array, field: InputField) -> pa.Array:
    """Return a column as the Arrow type of training's dtype, with the same values.

    Only floats that training held in fewer bits than BigQuery's are rounded, as they were then.

    Raises
    ------
    pyarrow.ArrowInvalid
        A value has no equal in that type.
    """
    wanted, stored = _arrow_type(field.type), _stored_as(field)
    if pa.types.is_dictionary(column.type):
        if stored == wanted:  # text is text
            return column
        column = column.dictionary_decode()
    exact = column if column.type == wanted else column.cast(wanted)
    if exact.type == stored:
        return exact
    rounded = exact.cast(stored)
    if pa.types.is_floating(stored) and pc.any(pc.and_not(pc.is_finite(exact), pc.is_finite(rounded))).as_py():
        raise pa.ArrowInvalid(f"a value is too large for {field.dtype}")
    return rounded


def _stored_as(field: InputField) -> pa.DataType:
    """Return the Arrow type that holds what training's dtype does."""
    import pandas as pd

    dtype = _dtype(field)
    if isinstance(dtype, pd.ArrowDtype):
        return dtype.pyarrow_dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return pa.timestamp(dtype.unit, "UTC")
    if field.dtype == "object" or isinstance(dtype, pd.StringDtype):
        return _arrow_type(field.type)
    return pa.from_numpy_dtype(getattr(dtype, "numpy_dtype", dtype))


def _dtype(field: InputField) -> Any:
    import pandas as pd

    if field.dtype != "string[pyarrow]":  # which pandas would take for its own string
        try:
            return pd.api.types.pandas_dtype(field.dtype)
        except (TypeError, NotImplementedError):  # it cannot read the name of every Arrow type back
            pass
    return pd.ArrowDtype(_arrow_type(field.type))


def _arrow_type(kind: str) -> pa.DataType:
    from google.cloud.bigquery import SchemaField

    from mlsys.bq.schema import arrow_type

    return arrow_type(SchemaField("column", kind))


def _missing_count(column: pa.Array | pa.ChunkedArray) -> int:
    nans = pc.sum(pc.is_nan(column)).as_py() if pa.types.is_floating(column.type) else 0
    return column.null_count + (nans or 0)


_MISSING, _UNKNOWN = -1, -2  # codes of values that are no level of a category


def _codes(column: pa.Array, field: InputField) -> "np.ndarray":
    """Return the position of each value in the categories."""
    import numpy as np

    position = {level: code for code, level in enumerate(_from_json(field.categories, field.type).to_pylist())}
    levels, indices = _encoded(column)
    return np.array([position.get(level, _UNKNOWN) for level in levels] + [_MISSING], dtype=np.intp)[indices]


def _encoded(column: pa.Array) -> tuple[list[Any], "np.ndarray"]:
    """Return the distinct values, and for each row the position of its own; of NULL, one past the last."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    levels = encoded.dictionary.to_pylist()
    return levels, encoded.indices.cast(pa.int64()).fill_null(len(levels)).to_numpy(zero_copy_only=False)


def _categorical(column: pa.Array, field: InputField) -> "pd.Series":
    import pandas as pd

    codes = _codes(column, field)
    if (unknown := codes == _UNKNOWN).any():
        levels = column.filter(pa.array(unknown)).unique().to_pylist()[:5]
        raise SchemaError(f"column {field.name} has levels that training had not: {', '.join(map(repr, levels))}")
    categories = pd.Index(_cast(_from_json(field.categories, field.type), _levels(field)))
    dtype = pd.CategoricalDtype(categories, ordered=field.ordered)
    return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype))


def _levels(field: InputField) -> InputField:
    """Return the field that the levels of a category would be as a column."""
    return InputField(name=field.name, type=field.type, dtype=field.category_dtype or "object", nullable=False)


def _objects(column: pa.Array, field: InputField) -> "np.ndarray":
    import numpy as np
    import pandas as pd

    levels, indices = _encoded(column)  # one Python object for each distinct value, not for each row
    objects = np.empty(len(levels) + 1, dtype=object)
    objects[:-1] = levels
    objects[-1] = {"none": None, "na": pd.NA, "nan": float("nan")}[field.missing]
    return objects[indices]


def to_json_columns(table: pa.Table) -> dict[str, list[Any]]:
    """Return columns as JSON values by their BigQuery type, which `from_json_columns` reads back exactly.

    Numbers, text and booleans are as they are; bytes are in base64; dates, times, decimals, and the floats that JSON
    has no number for (``nan``, ``inf``, ``-inf``), are text.
    """
    return {name: _to_json(table.column(name)) for name in table.column_names}


def _to_json(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    kind = bigquery_type(column.type)
    if kind == "BYTES":
        return [None if v is None else base64.b64encode(v).decode() for v in column.to_pylist()]
    if kind in ("INT64", "STRING", "BOOL"):
        return column.to_pylist()
    if kind == "FLOAT64":
        return [v if v is None or math.isfinite(v) else str(v) for v in column.to_pylist()]
    return column.cast(pa.string()).to_pylist()


def from_json_columns(columns: Mapping[str, list[Any]], inputs: Sequence[InputField]) -> pa.Table:
    """Return the table that `to_json_columns` was given."""
    return pa.table({field.name: _from_json(columns[field.name], field.type) for field in inputs})


def _from_json(values: Any, kind: str) -> pa.Array:
    if kind == "BYTES":
        return pa.array([None if v is None else base64.b64decode(v) for v in values], pa.binary())
    wanted = _arrow_type(kind)
    if kind == "FLOAT64":
        return pa.array([float(v) if isinstance(v, str) else v for v in values], wanted)
    if kind == "TIME":  # which Arrow writes as text, but does not read
        return pa.array([None if v is None else time.fromisoformat(v) for v in values], wanted)
    if kind in ("INT64", "BOOL", "STRING"):
        return pa.array(values, wanted)
    return pa.array(values, pa.string()).cast(wanted)
