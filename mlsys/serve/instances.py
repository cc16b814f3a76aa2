"""Instances, as JSON brings them, become the rows that BigQuery would give; or they are refused by name.

JSON has fewer types than BigQuery, so the model's signature says what a value is. It is taken for exactly what was
written: ``1.0`` is an INT64, ``1.5`` and ``"1"`` are none. What JSON has no number for is text, as BigQuery writes it:
dates, times, decimals with a fraction, bytes (base64), ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
"""

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import time
from functools import cache
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from mlsys.errors import SchemaError
from mlsys.manifest import InputField

MAX_INSTANCES = 1_000

# What a value of each type looks like, for a person.
WANTED = {
    "BIGNUMERIC": 'an integer, or text like "1.5"',
    "BOOL": "true or false",
    "BYTES": "text in base64",
    "DATE": 'text like "2026-01-31"',
    "DATETIME": 'text like "2026-01-31T06:00:00"',
    "FLOAT64": 'a number that FLOAT64 holds, or "NaN", "Infinity" or "-Infinity"',
    "INT64": "an integer of 64 bits",
    "NUMERIC": 'an integer, or text like "1.5"',
    "STRING": "text",
    "TIME": 'text like "06:00:00"',
    "TIMESTAMP": 'text like "2026-01-31T06:00:00Z"',
}
_PARSED = ("BIGNUMERIC", "DATE", "DATETIME", "NUMERIC", "TIMESTAMP")  # by Arrow, which takes ISO 8601 and no more
_DATED = ("DATE", "DATETIME", "TIMESTAMP")
_NO_NUMBERS = {text: float(text) for text in ("NaN", "Infinity", "-Infinity")}
_TIME = re.compile(r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?")
_EXACT = 2**53  # up to it, a float without a fraction is one integer and no other
_MISFITS = (KeyError, OverflowError, TypeError, ValueError)  # those of Arrow are among them
_SHOWN = 60  # characters of a value in a message


def read_instances(body: bytes) -> list[Any]:
    """Return the instances of a request: ``{"instances": [...]}``.

    Raises
    ------
    SchemaError
        The body is not JSON by RFC 8259, gives a field twice, is no such object, or has too many instances.
    """
    try:
        request = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except SchemaError:
        raise
    except RecursionError:
        raise SchemaError("the body is nested too deeply") from None
    except UnicodeDecodeError as exc:
        raise SchemaError(f"the body is not UTF-8 at byte {exc.start}") from None
    except json.JSONDecodeError as exc:
        raise SchemaError(f"the body is not JSON: {exc}") from None
    except ValueError:  # Python's guard against integers of thousands of digits
        raise SchemaError("the body has a number with too many digits") from None
    return _instances(request)


def _instances(request: Any) -> list[Any]:
    if not isinstance(request, dict) or not isinstance(instances := request.get("instances"), list):
        raise SchemaError('the body must be an object like {"instances": [{…}, …]}')
    if unknown := request.keys() - {"instances", "parameters"}:
        raise SchemaError(f"the body has a field {shown(min(unknown))}: only instances are known")
    if request.get("parameters"):  # clients of Vertex AI may send an empty one
        raise SchemaError("the body has parameters: the model takes none")
    if not 1 <= len(instances) <= MAX_INSTANCES:
        raise SchemaError(f"instances must be 1 to {MAX_INSTANCES:,}, got {len(instances):,}: make a run for more")
    return instances


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise SchemaError(f"an object has the field {shown(twice)} twice")
    return fields


def _no_number(text: str) -> NoReturn:
    raise SchemaError(f"the body is not JSON: {text} is no number there, write null or, for a FLOAT64, {shown(text)}")


def to_batch(instances: Sequence[Any], inputs: Sequence[InputField]) -> pa.RecordBatch:
    """Return n instances as n rows of the signature's input columns, in BigQuery's types.

    An instance has every field; a missing value is ``null``.

    Raises
    ------
    SchemaError
        An instance is no object, lacks a field or has another one, or a value is not of its field's type. The message
        names the instance, from 0, and the field.
    """
    names = [field.name for field in inputs]
    known = set(names)
    for position, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise SchemaError(f"instances[{position}] must be an object with the model's fields, got {shown(instance)}")
        if instance.keys() != known:
            raise SchemaError(f"instances[{position}] {_difference(instance, names)}")
    return pa.record_batch([_column([i[field.name] for i in instances], field) for field in inputs], names)


def _difference(instance: dict[str, Any], names: list[str]) -> str:
    absent = [shown(name) for name in names if name not in instance]
    unknown = [shown(name) for name in instance if name not in names]
    if not absent:
        return f"has a field {unknown[0]} that the model does not know; it takes {', '.join(names)[:500]}"
    but = f", but {unknown[0]}, which the model does not know" if unknown else ": send null for a missing value"
    return f"has no field {absent[0]}{but}"


def _column(values: list[Any], field: InputField) -> pa.Array:
    try:
        return _array(values, field.type)
    except _MISFITS:
        position = next(i for i, value in enumerate(values) if not _fits(value, field.type))
        raise SchemaError(
            f"instances[{position}].{field.name} must be {WANTED[field.type]}, got {shown(values[position])}"
        ) from None


def _fits(value: Any, kind: str) -> bool:
    try:
        _array([value], kind)
    except _MISFITS:
        return False
    return True


def _array(values: list[Any], kind: str) -> pa.Array:
    """Return values as a column of a BigQuery type; raise one of ``_MISFITS`` when one of them is not of that type."""
    read = _READERS.get(kind, _text)
    written = [None if value is None else read(value) for value in values]
    if kind not in _PARSED:
        return pa.array(written, _arrow_type(kind))
    column = pa.array(written, pa.string()).cast(_arrow_type(kind))
    if kind in _DATED and pc.any(pc.or_(pc.less(years := pc.year(column), 1), pc.greater(years, 9999))).as_py():
        raise ValueError  # Arrow reads the year 0 and, by an offset from UTC, 10000; BigQuery has neither
    return column


@cache
def _arrow_type(kind: str) -> pa.DataType:
    from google.cloud.bigquery import SchemaField

    from mlsys.bq.schema import arrow_type

    return arrow_type(SchemaField("column", kind))


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _integer(value: Any) -> int:
    if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if type(value) is not int:
        raise TypeError
    return value


def _float(value: Any) -> float:
    if type(value) is str:
        return _NO_NUMBERS[value]
    if type(value) not in (int, float):
        raise TypeError
    number = float(value)
    if number != value or math.isinf(number):  # an integer between two floats; 1e999, which is infinite by now
        raise ValueError
    return number


def _decimal(value: Any) -> str:
    return str(value) if type(value) is int else _text(value)


def _bytes(value: Any) -> bytes:
    return base64.b64decode(_text(value), validate=True)


def _time(value: Any) -> time:
    if not _TIME.fullmatch(_text(value)):
        raise ValueError
    return time.fromisoformat(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "BIGNUMERIC": _decimal,
    "BOOL": _bool,
    "BYTES": _bytes,
    "FLOAT64": _float,
    "INT64": _integer,
    "NUMERIC": _decimal,
    "TIME": _time,
}


def shown(value: Any) -> str:
    """Return a value of JSON as a message may quote it: as JSON, not too long, and of a container only that it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = json.dumps(value[: _SHOWN + 1] if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
