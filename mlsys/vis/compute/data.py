"""Figures of data, before any model: missing values, groups, associations."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlsys.errors import PlotError
from mlsys.vis.compute import columns
from mlsys.vis.compute.columns import Floats


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, and how many values lie outside of them or are infinite."""

    counts: NDArray[np.intp]
    edges: Floats
    outside: int


@dataclass(frozen=True)
class Associations:
    """``matrix`` of associations, its first ``numeric`` columns numeric, and what it leaves out and why."""

    matrix: pd.DataFrame
    numeric: int
    rows: int
    left_out: dict[str, str]


def missing(df: pd.DataFrame) -> pd.DataFrame:
    """Count NULLs by column, most first: ``missing`` and ``share``."""
    columns.require_frame(df)
    # column by column, as a mask of all cells may not fit into memory
    counts = pd.Series({name: int(df[name].isna().sum()) for name in df}).sort_values(ascending=False, kind="stable")
    return pd.DataFrame({"missing": counts, "share": counts / len(df)})


def histogram(numbers: Floats, max_bins: int = 40) -> Histogram:
    """Count numbers in bins: one for each integer where few are distinct, else equal widths.

    Where extremes would squeeze the rest into one bar, bins cover the middle 99 % and ``outside`` counts what is left.
    """
    known = numbers[np.isfinite(numbers)]
    infinite = int(np.isinf(numbers).sum())
    if not len(known):
        return Histogram(np.zeros(0, dtype=int), np.zeros(0), infinite)
    low, high = known.min(), known.max()
    if high - low < max_bins and (known == np.round(known)).all():
        edges = np.arange(low - 0.5, high + 1)
    else:
        inner = np.quantile(known, [0.005, 0.995])
        if 0 < inner[1] - inner[0] < (high - low) / 3:
            low, high = inner
        edges = np.linspace(low, high, int(np.clip(2 * len(known) ** (1 / 3), 4, max_bins)) + 1)
        if low == high:
            edges = np.array([low - 0.5, low + 0.5])
    counts = np.histogram(known, edges)[0]
    return Histogram(counts, edges, len(known) - int(counts.sum()) + infinite)


def associations(df: pd.DataFrame, *, top: int = 15, method: str = "pearson", max_rows: int = 100_000) -> Associations:
    """Measure every pair of columns on the rows where both are known.

    Pearson's r or Spearman's rank correlation for two numbers (booleans and dates count as numbers), Cramér's V for two
    categories, the correlation ratio for one of each. Categories beyond the 20 most frequent count as one. Columns that
    cannot tell anything (constant, or a different text in nearly every row) are left out, then all but the ``top`` most
    associated.
    """
    if method not in ("pearson", "spearman"):
        raise PlotError(f"method must be 'pearson' or 'spearman', got {method!r}")
    columns.require_frame(df)
    rows = df if len(df) <= max_rows else df.sample(max_rows, random_state=columns.SEED)
    numbers, categories, left_out = {}, {}, {}
    for name in rows.columns:
        values = columns.as_labels(rows[name])
        distinct, kind = values.nunique(), columns.kind_of(values)
        if distinct < 2:
            left_out[str(name)] = "constant"
        elif kind != "category":
            numbers[name] = columns.as_float(values, str(name))
        elif distinct > max(2, values.notna().sum() / 2):
            left_out[str(name)] = "mostly unique"
        else:
            categories[name] = columns.group_by_label(values, 20)
    names = [*numbers, *categories]
    if len(names) < 2:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise PlotError(f"two columns that vary are needed, got {len(names)} ({why or 'no more columns'})")
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    matrix.iloc[: len(numbers), : len(numbers)] = pd.DataFrame(numbers).corr(method).to_numpy()
    for i, first in enumerate(categories):
        for name, values in numbers.items():
            matrix.loc[first, name] = matrix.loc[name, first] = correlation_ratio(categories[first], values)
        for second in list(categories)[:i]:
            matrix.loc[first, second] = matrix.loc[second, first] = cramers_v(categories[first], categories[second])
    if len(names) > top:
        strength = matrix.abs().where(~np.eye(len(names), dtype=bool)).max()
        kept = set(strength.nlargest(top).index)
        left_out |= dict.fromkeys([str(name) for name in names if name not in kept], "weaker")
        names = [name for name in names if name in kept]
    return Associations(matrix.loc[names, names], sum(name in numbers for name in names), len(rows), left_out)


def correlation_ratio(groups: columns.Groups, numbers: Floats) -> float:
    """Return η: the root of the share of a number's variance that lies between groups."""
    keep = np.isfinite(numbers) & ~(groups.has_null & (groups.codes == len(groups.labels) - 1))
    codes, values = groups.codes[keep], numbers[keep]
    total = ((values - values.mean()) ** 2).sum() if len(values) else 0.0
    if total == 0:
        return float("nan")
    n = np.bincount(codes)
    means = np.bincount(codes, weights=values) / np.maximum(n, 1)
    return float(np.sqrt((n * (means - values.mean()) ** 2).sum() / total))


def cramers_v(first: columns.Groups, second: columns.Groups) -> float:
    """Return Cramér's V of two groupings, corrected for its bias: it would not be 0 between independent columns.

    W. Bergsma, A bias-correction for Cramér's V and Tschuprow's T, Journal of the Korean Statistical Society 42 (2013).
    """
    shape = (len(first.labels), len(second.labels))
    table = np.bincount(first.codes * shape[1] + second.codes, minlength=shape[0] * shape[1]).reshape(shape)
    table = table[: shape[0] - first.has_null, : shape[1] - second.has_null]
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    if min(table.shape) < 2:
        return float("nan")
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    n, (rows, across) = table.sum(), table.shape
    chi2 = ((table - expected) ** 2 / expected).sum()
    if n < 2:
        return float("nan")
    phi2 = max(0.0, chi2 / n - (rows - 1) * (across - 1) / (n - 1))
    sizes = (rows - (rows - 1) ** 2 / (n - 1), across - (across - 1) ** 2 / (n - 1))
    return float(np.sqrt(phi2 / (min(sizes) - 1))) if min(sizes) > 1 else float("nan")
