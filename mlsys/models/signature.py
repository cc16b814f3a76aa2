"""The columns that a model was trained on, and how serving data is brought to exactly that form.

A model does not see SQL types but pandas dtypes, and it answers differently, without a word, when a missing value is
None where training had NaN, or when an integer category arrives as text. So `infer_inputs` records what training saw
and `to_training_frame` builds precisely that or refuses.

A manifest is JSON, so golden rows and categories are written by their BigQuery type: `to_json_columns`.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import time
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mlsys.errors import SchemaError
from mlsys.manifest import InputField

if TYPE_CHECKING:
    import pandas as pd


def bigquery_type(kind: pa.DataType) -> str:
    """Return the BigQuery type of a model's column (``INT64``, ``STRING`` …); raise `SchemaError` for a nested one."""
    from mlsys.bq.schema import bq_field, describe

    name = describe(bq_field("column", kind))
    if not name.isalnum():
        raise SchemaError(f"a model cannot take a column of type {name}: flatten it in the query")
    return name


def infer_inputs(frame: "pd.DataFrame") -> tuple[InputField, ...]:
    """Describe the columns of a training frame.

    Raises
    ------
    SchemaError
        A column has no BigQuery type, a name that is no text, or stands for missing values in two ways.
    """
    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise SchemaError(f"training columns need distinct text names, got {names[:10]}")
    return tuple(_infer(frame[name]) for name in names)


def _infer(column: "pd.Series") -> InputField:
    import pandas as pd

    missing = column.isna()
    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    values = column.cat.categories.to_series() if categorical else column
    try:
        arrow = pa.Array.from_pandas(values)
        kind = bigquery_type(arrow.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as exc:
        raise SchemaError(f"column {column.name!r} mixes types, or has one that BigQuery lacks: {exc}") from exc
    return InputField(
        name=column.name,
        type=kind,
        dtype="category" if categorical else str(column.dtype),
        nullable=bool(missing.any()) or _missing_count(arrow) > 0,
        missing=_missing_marker(column[missing]) if column.dtype == object else "nan",
        categories=tuple(_to_json(_stored(column.name, values, kind))) if categorical else None,
        ordered=bool(categorical and column.cat.ordered),
    )


def _missing_marker(values: "pd.Series") -> str:
    import pandas as pd

    markers = {"none" if v is None else "na" if v is pd.NA else "nan" for v in values}
    if len(markers) > 1:
        raise SchemaError(
            f"column {values.name!r} stands for missing values in two ways ({', '.join(sorted(markers))}): use one"
        )
    return markers.pop() if markers else "nan"


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
        if f.name in there and not _fits(found := bigquery_type(there[f.name]), f.type)
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

    A missing value where training saw none, or a level of a category that training had not.
    """
    reasons: dict[int, str] = {}
    for field in reversed(inputs):  # so that the first column has the last word
        column = rows.column(field.name)
        if not field.nullable and _missing_count(column):
            missing = pc.is_null(column, nan_is_null=True)
            reasons |= dict.fromkeys(_positions(missing), f"{field.name} is NULL or NaN, training saw none")
        if field.categories is not None:
            known = pc.is_in(column, value_set=_from_json(field.categories, field.type), skip_nulls=True)
            for i in _positions(pc.and_not(pc.is_valid(column), known)):
                reasons[i] = f"{field.name} is {column[i].as_py()!r}, a level that training had not"
    return reasons


def _positions(mask: pa.Array) -> list[int]:
    return pc.indices_nonzero(mask).to_pylist()


def _fits(found: str, wanted: str) -> bool:
    # The one widening that BigQuery does by itself and that loses nothing a float column could have held.
    return found == wanted or (found, wanted) == ("INT64", "FLOAT64")


def to_training_frame(table: pa.Table | pa.RecordBatch, inputs: Sequence[InputField]) -> "pd.DataFrame":
    """Return the input columns, in training's order, with exactly training's dtypes and missing values.

    Raises
    ------
    SchemaError
        A column is missing or of another type, has NULLs where training saw none, or a level that training had not.
    """
    import pandas as pd

    check_columns(table.schema, inputs)
    columns = {field.name: _cast(table.column(field.name), field) for field in inputs}
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows), copy=False)


def _cast(column: pa.ChunkedArray | pa.Array, field: InputField) -> "pd.Series":
    import pandas as pd

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(column.type) and field.dtype != "category":
        column = column.dictionary_decode()
    _check_missing(column, field)
    if field.dtype == "category":
        return _categorical(column, field)
    if field.dtype == "object":
        return pd.Series(_objects(column, field), dtype=object)
    try:
        return pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([column]))).astype(_dtype(field))
    except (ValueError, TypeError, pa.ArrowInvalid) as exc:
        raise SchemaError(f"column {field.name} cannot be read as {field.dtype}, as training had it: {exc}") from exc


def _dtype(field: InputField) -> Any:
    import pandas as pd

    if not field.dtype.endswith("[pyarrow]"):
        return field.dtype
    return pd.ArrowDtype(_arrow_type(field.type))  # pandas cannot read the name of every Arrow type back


def _arrow_type(kind: str) -> pa.DataType:
    from google.cloud.bigquery import SchemaField

    from mlsys.bq.schema import arrow_type

    return arrow_type(SchemaField("column", kind))


def _missing_count(column: pa.Array | pa.ChunkedArray) -> int:
    nans = pc.sum(pc.is_nan(column)).as_py() if pa.types.is_floating(column.type) else 0
    return column.null_count + (nans or 0)


def _check_missing(column: pa.Array, field: InputField) -> None:
    if not field.nullable and (missing := _missing_count(column)):
        raise SchemaError(
            f"column {field.name} has {missing} missing values, training saw none: "
            "fill them in the query, or train with some"
        )


def _categorical(column: pa.Array, field: InputField) -> "pd.Series":
    import pandas as pd

    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    levels = encoded.dictionary.to_pylist()
    categories = _from_json(field.categories, field.type).to_pylist()
    position = {level: code for code, level in enumerate(categories)}
    unknown = [level for level in levels if level is not None and level not in position]
    if unknown:
        raise SchemaError(f"column {field.name} has levels that training had not: {', '.join(map(repr, unknown[:5]))}")
    codes = pd.array([position.get(level, -1) for level in levels] + [-1], dtype="int64").to_numpy()
    indices = encoded.indices.fill_null(len(levels)).to_numpy(zero_copy_only=False)
    dtype = pd.CategoricalDtype(categories, ordered=field.ordered)
    return pd.Series(pd.Categorical.from_codes(codes[indices], dtype=dtype))


def _objects(column: pa.Array, field: InputField) -> Any:
    import numpy as np
    import pandas as pd

    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()  # to_numpy would make floats of integers with NULLs, and times without a zone
    if column.null_count and field.missing != "none":
        values[column.is_null().to_numpy(zero_copy_only=False)] = pd.NA if field.missing == "na" else float("nan")
    return values


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


def _from_json(values: Sequence[Any], kind: str) -> pa.Array:
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
