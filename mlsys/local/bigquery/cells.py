"""Values as JSON, CSV and REST spell them: read strictly on the way in, written as BigQuery does on the way out."""

import base64
import binascii
import datetime as dt
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any

import pyarrow as pa

from mlsys.local.bigquery import types
from mlsys.local.bigquery.statements import Schema
from mlsys.local.bigquery.udfs import UnsureError, canonical_json
from mlsys.local.errors import ApiError

_CLOCK = r"(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.(\d{1,6}))?"
_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})", re.ASCII)
_TIME = re.compile(_CLOCK, re.ASCII)
_DATETIME = re.compile(rf"(\d{{4}})-(\d{{1,2}})-(\d{{1,2}})(?:[ Tt]{_CLOCK})?", re.ASCII)
_ZONE = re.compile(r"(.*?)(?: ?(?:UTC|[Zz])|([+-])(\d{1,2})(?::([0-5]\d))?)?", re.ASCII)
_MOST_OFFSET = dt.timedelta(hours=14)
_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_INT64 = range(-(2**63), 2**63)
_NUMERIC_LIMIT = Decimal(10) ** 29


class BadValueError(ValueError):
    """A value that its column cannot hold; ``path`` names the column."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path, self.message = path, message


def _match(pattern: re.Pattern, text: str) -> re.Match:
    found = pattern.fullmatch(text.strip())
    if not found:
        raise ValueError(text)
    return found


def _clock(hour: str | None, minute: str | None, second: str | None, fraction: str | None) -> tuple[int, int, int, int]:
    return int(hour or 0), int(minute or 0), int(second or 0), int((fraction or "0").ljust(6, "0"))


def _integer(text: str) -> int:
    value = int(_match(_INTEGER, text)[0])
    if value not in _INT64:
        raise ValueError(text)
    return value


def _float(text: str) -> float:
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _numeric(text: str) -> Decimal:
    if "_" in text or not text.isascii():
        raise ValueError(text)
    value = Decimal(text)
    if not value.is_finite() or int(value.normalize().as_tuple().exponent) < -9 or abs(value) >= _NUMERIC_LIMIT:
        raise ValueError(text)
    return value


def _date(text: str) -> dt.date:
    return dt.date(*map(int, _match(_DATE, text).groups()))


def _time(text: str) -> dt.time:
    return dt.time(*_clock(*_match(_TIME, text).groups()))


def _datetime(text: str) -> dt.datetime:
    year, month, day, *clock = _match(_DATETIME, text).groups()
    return dt.datetime(int(year), int(month), int(day), *_clock(*clock))


def _timestamp(text: str) -> dt.datetime:
    """Read a timestamp in UTC or with an offset; zones by name are left to SQL."""
    if _DATE.fullmatch(text.strip()):  # its end looks like an offset
        return _datetime(text).replace(tzinfo=dt.UTC)
    naive, sign, hours, minutes = _match(_ZONE, text).groups()
    offset = dt.timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if offset > _MOST_OFFSET:
        raise ValueError(text)
    return (_datetime(naive) - (-offset if sign == "-" else offset)).replace(tzinfo=dt.UTC)


def _json(text: str) -> str:
    return canonical_json(text)


#: How each type reads its text. Every one raises ValueError (or one of its kin) on text that is not its own.
PARSE: dict[str, Callable[[str], Any]] = {
    "STRING": str,
    "BYTES": lambda text: base64.b64decode(text, validate=True),
    "INTEGER": _integer,
    "FLOAT": _float,
    "BOOLEAN": _boolean,
    "TIMESTAMP": _timestamp,
    "DATETIME": _datetime,
    "DATE": _date,
    "TIME": _time,
    "NUMERIC": _numeric,
    "JSON": _json,
}


def parse(text: str, field: dict, path: str) -> Any:
    """Return the value that ``text`` spells in the type of ``field``."""
    try:
        return PARSE[field["type"]](text)
    except UnsureError as exc:
        raise BadValueError(path, str(exc)) from exc
    except (ValueError, InvalidOperation, OverflowError, binascii.Error) as exc:
        kind = types.SCALARS[field["type"]].sql.lower()
        raise BadValueError(path, f"Cannot convert value to {kind} (bad value): {text[:100]}") from exc


def row(value: object, fields: Schema, *, ignore_unknown: bool = False, path: str = "") -> dict:
    """Return a JSON object as a row of ``fields``; raise `BadValueError` at the first thing that is wrong."""
    if not isinstance(value, dict):
        raise BadValueError(
            path.removesuffix("."), "This field is a record." if path else "a row must be a JSON object"
        )
    known = {f["name"].lower(): f for f in fields}
    given = {key.lower(): item for key, item in value.items()}
    if not ignore_unknown and (unknown := [key for key in value if key.lower() not in known]):
        raise BadValueError(path + unknown[0], f"no such field: {path}{unknown[0]}.")
    return {f["name"]: _value(given.get(key), f, path + f["name"], ignore_unknown) for key, f in known.items()}


def _value(value: object, field: dict, path: str, ignore_unknown: bool) -> Any:
    if field["mode"] == "REPEATED":
        if not isinstance(value, list | None):
            raise BadValueError(path, "Array specified for non-repeated field or the reverse.")
        return [_value(item, types.element(field) | {"mode": "REQUIRED"}, path, ignore_unknown) for item in value or ()]
    if value is None:
        if field["mode"] == "REQUIRED":
            raise BadValueError(path, f"Missing required field: {path}.")
        return None
    if field["type"] == "RECORD":
        return row(value, field["fields"], ignore_unknown=ignore_unknown, path=f"{path}.")
    return _scalar(value, field, path)


def _scalar(value: object, field: dict, path: str) -> Any:
    kind = field["type"]
    if kind == "JSON" and isinstance(value, dict | list):
        return parse(json.dumps(value, default=float), field, path)
    if isinstance(value, str):
        return parse(value, field, path)
    if isinstance(value, bool) and kind == "BOOLEAN":
        return value
    if (
        isinstance(value, int | float | Decimal)
        and not isinstance(value, bool)
        and kind in ("INTEGER", "FLOAT", "NUMERIC")
    ):
        whole = kind == "INTEGER" and value == value // 1  # 1.0 is an integer
        return parse(str(int(value) if whole else value), field, path)
    if isinstance(value, dict | list):
        what = "a record" if isinstance(value, dict) else "repeated"
        raise BadValueError(path, f"This field is not {what}.")
    raise BadValueError(path, f"not supported locally: the JSON value {value!r} for a column of type {kind}")


def parameters(query: Mapping) -> dict[str, Any]:
    """Return the values of a query's parameters by name; positional ones are called ``1``, ``2`` …."""
    given = enumerate(query.get("queryParameters") or (), 1)
    return {p.get("name") or str(n): _parameter(p["parameterType"], p.get("parameterValue") or {}) for n, p in given}


def _parameter(kind: Mapping, value: Mapping) -> Any:
    if kind["type"] == "ARRAY":
        return [_parameter(kind["arrayType"], item) for item in value.get("arrayValues") or ()]
    if kind["type"] in ("STRUCT", "RECORD"):
        if "structValues" not in value:
            return None
        given = value["structValues"] or {}
        return {f["name"]: _parameter(f["type"], given.get(f["name"]) or {}) for f in kind["structTypes"]}
    if value.get("value") is None:
        return None
    (field,) = types.normalize([{"name": "parameter", "type": kind["type"]}])
    try:
        return parse(str(value["value"]), field, "parameter")
    except BadValueError as exc:
        sql = types.SCALARS[field["type"]].sql
        raise ApiError(400, "invalidQuery", f"Invalid value for type {sql}: {value['value']}") from exc


def rest_rows(batch: pa.RecordBatch, fields: Schema, *, int64_timestamps: bool) -> list[dict]:
    """Return rows as REST answers them: ``{"f": [{"v": …}, …]}``, all scalars as strings."""
    columns = [_cells(array, f, int64_timestamps) for array, f in zip(batch.columns, fields, strict=True)]
    return [{"f": [{"v": value} for value in values]} for values in zip(*columns, strict=True)]


def _cells(array: pa.Array, field: dict, int64_timestamps: bool) -> list:
    if field["mode"] == "REPEATED":
        items = [{"v": cell} for cell in _cells(array.flatten(), types.element(field), int64_timestamps)]
        starts = [offset - array.offsets[0].as_py() for offset in array.offsets.to_pylist()]
        return [items[low:high] for low, high in pairwise(starts)]
    if field["type"] == "RECORD":
        parts = zip(array.flatten(), field["fields"], strict=True)
        rows = zip(*(_cells(part, f, int64_timestamps) for part, f in parts), strict=True)
        there = array.is_valid().to_pylist()
        return [{"f": [{"v": cell} for cell in cells]} if ok else None for cells, ok in zip(rows, there, strict=True)]
    if field["type"] in ("INTEGER", "BOOLEAN", "DATE"):
        return array.cast(pa.string()).to_pylist()
    if field["type"] == "TIMESTAMP":
        array = array.cast(pa.int64())
        return [None if v is None else str(v) if int64_timestamps else repr(v / 1e6) for v in array.to_pylist()]
    write = _WRITE.get(field["type"])
    return [None if v is None else write(v) for v in array.to_pylist()] if write else array.to_pylist()


def _float_text(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _numeric_text(value: Decimal) -> str:
    text = f"{value:f}".rstrip("0").rstrip(".")
    return text if text not in ("-0", "") else "0"


_WRITE: dict[str, Callable[[Any], str]] = {
    "FLOAT": _float_text,
    "NUMERIC": _numeric_text,
    "BYTES": lambda value: base64.b64encode(value).decode(),
    "DATETIME": lambda value: value.isoformat(),
    "TIME": lambda value: value.isoformat(),
}
