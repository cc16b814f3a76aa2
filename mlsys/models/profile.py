"""A short description of training data: what each feature looked like, and a few rows that stand for the rest."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LEVELS = 20
GOLDEN_ROWS = 5


def profile(frame: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """Describe each column: counts, and quantiles of a number or the most frequent levels of anything else.

    Returns
    -------
    dict
        Column to ``count`` (rows), ``missing`` (rows), and ``mean``, ``std`` and ``quantiles`` or ``levels`` (level,
        as text, to rows; the 20 most frequent) with ``distinct``.
    """
    return {name: _describe(frame[name]) for name in frame.columns}


def _describe(column: "pd.Series") -> dict[str, Any]:
    import numpy as np
    from pandas.api import types

    counts = {"count": len(column), "missing": int(column.isna().sum())}
    values = column.dropna()
    if types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
        if values.empty:
            return counts
        numbers = values.astype("float64")
        with np.errstate(invalid="ignore"):  # of infinite values, which have no deviation
            quantiles = {f"{q:g}": _finite(v) for q, v in numbers.quantile(list(_QUANTILES)).items()}
            mean, std = _finite(numbers.mean()), _finite(numbers.std(ddof=0))
        return counts | {"mean": mean, "std": std, "quantiles": quantiles}
    text = values.map(str) if values.dtype == object else values.astype(str)  # which would decode bytes
    levels = text.value_counts()
    return counts | {"distinct": len(levels), "levels": {k: int(v) for k, v in levels.head(_LEVELS).items()}}


def _finite(value: float) -> float | None:
    return float(value) if abs(value) < float("inf") else None


def golden_positions(frame: "pd.DataFrame") -> list[int]:
    """Return positions of up to five rows: the first, the last, some between, and the one with most missing values."""
    if frame.empty:
        return []
    spread = [round(i * (len(frame) - 1) / (GOLDEN_ROWS - 2)) for i in range(GOLDEN_ROWS - 1)]
    emptiest = int(frame.isna().sum(axis=1).to_numpy().argmax())
    return sorted({*spread, emptiest})
