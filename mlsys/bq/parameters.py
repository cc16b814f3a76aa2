"""Python values as query parameters: the value's own type says which BigQuery type it is."""

import datetime as dt
from collections.abc import Mapping
from copy import copy
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from google.cloud.bigquery import ArrayQueryParameter, ScalarQueryParameter, StructQueryParameter

from mlsys.errors import QueryError

type Parameter = ArrayQueryParameter | ScalarQueryParameter | StructQueryParameter

_PARAMETERS = (ArrayQueryParameter, ScalarQueryParameter, StructQueryParameter)
_INT64 = range(-(2**63), 2**63)


def query_parameters(values: Mapping[str, Any]) -> list[Parameter]:
    """Return the parameters ``@name`` of a query for a dict of Python values.

    Examples
    --------
    >>> query_parameters({"limit": 10})
    [ScalarQueryParameter('limit', 'INT64', 10)]
    """
    return [_parameter(name, value) for name, value in values.items()]


def _parameter(name: str | None, value: Any) -> Parameter:
    if isinstance(value, _PARAMETERS):
        named = copy(value)
        named.name = name
        return named
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return StructQueryParameter(name, *[_parameter(key, item) for key, item in value.items()])
    if isinstance(value, (list, tuple, np.ndarray, pd.Series)):
        return _array(name, list(value))
    return ScalarQueryParameter(name, _scalar_type(name, value), value)


def _array(name: str | None, values: list[Any]) -> ArrayQueryParameter:
    items: list[Any] = [_parameter(None, value) for value in values]
    if not items:
        raise QueryError(f"parameter {name!r} is an empty list, which has no type: {_typed('ArrayQueryParameter')}")
    if isinstance(items[0], StructQueryParameter):
        return ArrayQueryParameter(name, "STRUCT", items)
    kinds = {getattr(item, "type_", "ARRAY") for item in items}
    if kinds == {"INT64", "FLOAT64"}:
        kinds = {"FLOAT64"}
    if len(kinds) > 1 or kinds == {"ARRAY"}:
        raise QueryError(f"parameter {name!r} must hold values of one type, none of them a list, got {values!r}")
    return ArrayQueryParameter(name, kinds.pop(), [item.value for item in items])


def _scalar_type(name: str | None, value: Any) -> str:
    match value:
        case bool():
            return "BOOL"
        case int() if value in _INT64:
            return "INT64"
        case float():
            return "FLOAT64"
        case str():
            return "STRING"
        case bytes():
            return "BYTES"
        case Decimal():
            return "NUMERIC" if _fits_numeric(value) else "BIGNUMERIC"
        case dt.datetime():
            return "TIMESTAMP" if value.tzinfo else "DATETIME"
        case dt.date():
            return "DATE"
        case dt.time() if value.tzinfo is None:
            return "TIME"
    what = "is NULL, which has no type" if value is None or value is pd.NA else f"cannot be {value!r}"
    raise QueryError(f"parameter {name!r} {what}: {_typed('ScalarQueryParameter')}")


def _fits_numeric(value: Decimal) -> bool:
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -9 and value.adjusted() < 29


def _typed(kind: str) -> str:
    return f"pass google.cloud.bigquery.{kind}(None, 'STRING', …) with the type that is meant"
