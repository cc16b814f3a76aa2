"""Functions that DuckDB lacks, over Arrow arrays."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import farmhash
import numpy as np
import pyarrow as pa


def _fingerprint(texts: pa.Array) -> pa.Array:
    """FARM_FINGERPRINT: the fingerprint's 64 bits, read as signed."""
    found = [None if item is None else farmhash.fingerprint64(item) for item in texts.to_pylist()]
    return pa.array([None if number is None else number - (number >> 63 << 64) for number in found], pa.int64())


def _round(numbers: pa.Array, digits: pa.Array) -> pa.Array:
    """ROUND(x, digits), in the 80-bit arithmetic that BigQuery does it in: plain doubles make 2.68 of 2.675."""
    if np.finfo(np.longdouble).nmant != 63:
        raise ValueError("not supported locally: ROUND to digits on a machine without 80-bit floating point")
    missing = np.array(numbers.is_null()) | np.array(digits.is_null())
    value = numbers.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.longdouble)
    places = np.clip(digits.fill_null(0).to_numpy(zero_copy_only=False), -309, 324)
    distinct, which = np.unique(places, return_inverse=True)
    scale = np.array([_power(-int(place)) for place in distinct], np.longdouble)[which]
    with np.errstate(all="ignore"):
        scaled = value / scale
        whole = np.trunc(scaled)
        whole += np.copysign(np.abs(scaled - whole) >= 0.5, scaled)
        rounded = np.where(np.isfinite(value) & (places < 324), whole * scale, value)
    rounded[places < -308] = 0
    return pa.array(rounded.astype(np.float64), mask=missing)


def _power(exponent: int) -> np.longdouble:
    """Ten to ``exponent``, multiplied up or divided down one by one as BigQuery's own table is."""
    power = np.longdouble(1)
    for _ in range(abs(exponent)):
        power = power * 10 if exponent > 0 else power / 10
    return power


class UnsureError(Exception):
    """JSON of which we do not know what BigQuery makes."""


def canonical_json(written: str) -> str:
    """Return JSON as BigQuery keeps it: keys in order, the first of those that are equal, no white space.

    Raises
    ------
    ValueError
        It is no JSON.
    UnsureError
        It holds a number whose text could change.
    """

    def whole(digits: str) -> int:
        if not -(2**63) <= int(digits) < 2**64:
            raise UnsureError(f"not supported locally: the number {digits} in JSON")
        return int(digits)

    def fraction(digits: str) -> float:
        number = float(digits)
        if Decimal(digits) != Decimal(repr(number)) or 1e15 <= abs(number) < 1e16:  # there Python writes no exponent
            raise UnsureError(f"not supported locally: the number {digits} in JSON")
        return number

    def constant(name: str) -> None:
        raise ValueError(f"Invalid JSON: {name}")

    parsed = json.loads(
        written,
        object_pairs_hook=lambda pairs: dict(reversed(pairs)),
        parse_int=whole,
        parse_float=fraction,
        parse_constant=constant,
    )
    return json.dumps(parsed, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _json_texts(texts: pa.Array) -> pa.Array:
    """Return canonical JSON, and NULL for what is none."""
    found = []
    for item in texts.to_pylist():
        try:
            found.append(None if item is None else canonical_json(item))
        except ValueError:
            found.append(None)
    return pa.array(found, pa.string())


def _error(messages: pa.Array) -> pa.Array:
    """Raise; DuckDB's own error() may not stand in a window's keys nor in TRY, because it is volatile."""
    for message in messages.drop_null().to_pylist():
        raise ValueError(message)
    return pa.nulls(len(messages))


OURS: dict[str, tuple[Callable, list[Any], Any]] = {
    "_bq_json": (_json_texts, ["VARCHAR"], "VARCHAR"),
    "_bq_error": (_error, ["VARCHAR"], "NULL"),
    "_bq_fingerprint": (_fingerprint, ["BLOB"], "BIGINT"),
    "_bq_round": (_round, ["DOUBLE", "BIGINT"], "DOUBLE"),
}
