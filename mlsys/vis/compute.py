"""The arithmetic of ``mlsys.vis``: arrays and frames in, small frames and records out, nothing drawn.

NULL means any missing value, whatever the dtype. Pairs of arrays are matched by position, never by index.
"""

import difflib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api import types

Kind = Literal["numeric", "boolean", "datetime", "category"]
Floats = NDArray[np.float64]
MINUS = "\N{MINUS SIGN}"
SEED = 0  # every sample is the same sample, so that a plot drawn twice is the same plot


@dataclass(frozen=True)
class Groups:
    """Rows assigned to labelled groups: ``labels[codes[i]]`` is the group of row ``i``."""

    codes: NDArray[np.intp]
    labels: list[str]
    has_null: bool = False  # the last label stands for NULL
    has_other: bool = False  # the last one, or the one before NULL, stands for what is beyond the top

    @property
    def counts(self) -> NDArray[np.intp]:
        """Rows in each group."""
        return np.bincount(self.codes, minlength=len(self.labels))


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, and how many values lie outside of them or are infinite."""

    counts: NDArray[np.intp]
    edges: Floats
    outside: int


@dataclass(frozen=True)
class Binary:
    """A two-class target and a number for the same rows, without NULLs."""

    truth: NDArray[np.bool_]
    values: Floats
    positive: str
    dropped: int


@dataclass(frozen=True)
class Curve:
    """A curve over thresholds: ``area`` comes from all of them, the points are thinned for drawing."""

    x: Floats
    y: Floats
    thresholds: Floats
    area: float
    thresholds_total: int
    data: Binary


@dataclass(frozen=True)
class Calibration:
    """``table`` has one row for each bin: ``mean``, ``n``, ``positives``, ``rate``, ``low``, ``high``."""

    table: pd.DataFrame
    brier: float
    data: Binary


@dataclass(frozen=True)
class Associations:
    """``matrix`` of associations, its first ``numeric`` columns numeric, and what it leaves out and why."""

    matrix: pd.DataFrame
    numeric: int
    rows: int
    left_out: dict[str, str]


@dataclass(frozen=True)
class Residuals:
    """Actual minus predicted, a summary, and quantiles of the residuals along the prediction (``bands``)."""

    predicted: Floats
    residual: Floats
    summary: dict[str, float]
    bands: pd.DataFrame
    dropped: int


@dataclass(frozen=True)
class OverTime:
    """``table`` has one row for each version and period: ``n``, ``value``, ``low``, ``high``."""

    table: pd.DataFrame
    period: str
    quantity: str
    band: str
    dropped: int


_KINDS: dict[str, Kind] = {"boolean": "boolean", "date": "datetime", "datetime": "datetime", "datetime64": "datetime"}
_KINDS |= dict.fromkeys(("integer", "floating", "mixed-integer-float", "decimal"), "numeric")
_PERIODS = (("hour", "h", 3), ("day", "D", 120), ("week", "W", 800))  # the period for spans up to so many days


# Columns and arrays -------------------------------------------------------------------------------------------------


def require_frame(df: Any) -> None:
    """Refuse what is no DataFrame, has no rows or has a column name twice."""
    if not isinstance(df, pd.DataFrame):
        raise ValueError(f"a pandas DataFrame is needed, got {type(df).__name__}: wrap it in pd.DataFrame(...)")
    if df.empty:
        rows, columns = df.shape
        raise ValueError(f"nothing to plot: the frame has {rows} rows and {columns} columns; check the query's filters")
    if not df.columns.is_unique:
        twice = df.columns[df.columns.duplicated()][0]
        raise ValueError(f"column names must be unique, got {twice!r} twice: rename one")


def require_columns(df: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse a name that is no column, and offer the nearest one."""
    if isinstance(names, str):
        raise ValueError(f"columns must be a list of names, got {names!r}: pass [{names!r}]")
    for name in names:
        if name not in df.columns:
            known = [str(column) for column in df.columns]
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the columns are {listed(known)}"
            raise ValueError(f"no column {name!r}: {hint}")


def listed(values: Sequence[Any], limit: int = 5) -> str:
    """Write out the first few values, and how many more there are."""
    text = ", ".join(repr(getattr(value, "item", lambda value=value: value)()) for value in values[:limit])
    return text + (f", … ({len(values) - limit} more)" if len(values) > limit else "")


def kind_of(values: pd.Series) -> Kind:
    """Say how a column is to be drawn, from its dtype or, for ``object``, from its values."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_numeric_dtype(dtype):
        return "numeric"
    if types.is_datetime64_any_dtype(dtype):
        return "datetime"
    found = types.infer_dtype(values, skipna=True) if types.is_object_dtype(dtype) else "string"
    return _KINDS.get(found, "category")


def as_float(values: pd.Series, name: str) -> Floats:
    """Return float64 with NaN for NULL; dates become seconds since 1970-01-01 UTC."""
    kind = kind_of(values)
    if kind == "category" and not values.isna().all():
        raise ValueError(f"{name} must hold numbers, got {values.dtype}: pick another column, or convert it")
    if kind == "datetime":
        stamps = pd.to_datetime(values, utc=True).dt.tz_localize(None)
        return ((stamps - pd.Timestamp(0)) / pd.Timedelta(seconds=1)).to_numpy(dtype="float64")
    return np.full(len(values), np.nan) if kind == "category" else values.to_numpy("float64", na_value=np.nan)


def as_labels(values: pd.Series) -> pd.Series:
    """Turn what may not be hashable or comparable (objects, lists, structs) into text."""
    loose = types.is_object_dtype(values.dtype) or isinstance(values.dtype, pd.ArrowDtype)
    return values.astype(object).map(str, na_action="ignore") if loose and kind_of(values) == "category" else values


def label_of(value: Any) -> str:
    """Write a class or category as readers expect it: 1 for 1.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def shorten(value: Any, width: int, tail: int | None = None) -> str:
    """Write a name on one line, without its middle where it is long: names often differ at either end."""
    text = " ".join(label_of(value).split())
    tail = width // 3 if tail is None else tail
    return text if len(text) <= width else f"{text[: width - tail - 1]}…{text[-tail:]}"


def shorten_all(values: Iterable[Any], width: int) -> list[str]:
    """Shorten names so that different ones stay different, if need be by numbering them."""
    values = list(values)
    for tail in (width // 3, width // 2, 2 * width // 3, width - 4):
        names = [shorten(value, width, tail) for value in values]
        if len(set(names)) == len(set(values)):
            return names
    return [f"{i}: {shorten(value, width - 4)}" for i, value in enumerate(values, 1)]


def in_order(values: Sequence[Any]) -> list[Any]:
    """Sort, by text where the values do not compare."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)


def as_series(values: ArrayLike | pd.Series, name: str) -> pd.Series:
    """Return one value for each row, with a plain index."""
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True)
    shape = np.shape(values)
    if len(shape) == 2 and shape[1] == 1:
        return pd.Series(np.asarray(values)[:, 0])
    if len(shape) != 1:
        way_out = "pass one column, for two classes model.predict_proba(X)[:, 1]"
        raise ValueError(f"{name} must have one value for each row, got shape {shape}: {way_out}")
    return pd.Series(values)


def paired(first: ArrayLike, second: ArrayLike, names: tuple[str, str]) -> tuple[pd.Series, pd.Series, int]:
    """Match two arrays by position, without the rows where either is NULL, and say how many those were."""
    left, right = as_series(first, names[0]), as_series(second, names[1])
    if len(left) != len(right):
        lengths = f"{len(left):,} and {len(right):,}"
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same length, got {lengths}: pass the same rows twice"
        )
    keep = left.notna() & right.notna()
    if not keep.any():
        raise ValueError(
            f"nothing to plot: {names[0]} and {names[1]} have no row where both are known, got {len(left)}"
        )
    return left[keep].reset_index(drop=True), right[keep].reset_index(drop=True), int((~keep).sum())


def is_positive(values: pd.Series, name: str, positive: Any = None) -> tuple[NDArray[np.bool_], str]:
    """Turn a two-class column without NULLs into booleans, and name the class that is True.

    Without ``positive`` that is True, 1, or the last of two labels in sorted order.
    """
    classes = in_order(list(pd.unique(values)))
    if positive is not None and positive not in classes and len(classes) > 1:
        raise ValueError(f"positive={positive!r} is no class of {name}: the classes are {listed(classes)}")
    if positive is None and any(set(classes) <= usual for usual in ({0, 1}, {-1, 1})):
        positive = 1
    if positive is None and len(classes) != 2:
        found = f"{len(classes)}: {listed(classes)}" if len(classes) > 1 else f"only {listed(classes)}"
        raise ValueError(f"{name} must have two classes, got {found}; pass positive= to set one class against the rest")
    positive = classes[-1] if positive is None else positive
    label = bool(positive) if kind_of(values) == "boolean" else positive
    return (values == positive).to_numpy(dtype=bool), label_of(label)


def wilson(successes: ArrayLike, n: ArrayLike, z: float = 1.959963984540054) -> tuple[Floats, Floats]:
    """Return the Wilson interval of a share, by default at 95 %; NaN where ``n`` is 0."""
    k, n = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = k / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # at 0 and n successes the interval touches the share; rounding must not put it on the wrong side
    return np.minimum(np.maximum(centre - half, 0), share), np.maximum(np.minimum(centre + half, 1), share)


# Data ---------------------------------------------------------------------------------------------------------------


def missing(df: pd.DataFrame) -> pd.DataFrame:
    """Count NULLs by column, most first: ``missing`` and ``share``."""
    require_frame(df)
    counts = df.isna().sum().sort_values(ascending=False, kind="stable")
    return pd.DataFrame({"missing": counts, "share": counts / len(df)})


def group_by_label(values: pd.Series, top: int) -> Groups:
    """Group by value: the ``top`` most frequent, then ``other (n)``, then ``NULL``.

    Frequent ones come first, except that False comes before True and ordered categories keep their order.
    """
    codes, levels = pd.factorize(as_labels(values))
    counts = np.bincount(codes[codes >= 0], minlength=len(levels))
    order = np.argsort(-counts, kind="stable")[:top]
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        order = order[np.argsort(levels.codes[order])]
    elif kind_of(values) == "boolean":
        order = order[np.argsort(np.asarray(levels, dtype=bool)[order])]
    return _relabel(codes, order, [label_of(levels[i]) for i in order])


def _relabel(codes: NDArray[np.intp], order: NDArray[np.intp], labels: list[str]) -> Groups:
    others = int(codes.max(initial=-1)) + 1 - len(order)
    has_null = bool((codes < 0).any())
    target = np.full(len(order) + max(others, 0) + 1, len(order))  # a level that is not in order becomes "other"
    target[order] = np.arange(len(order))
    target[-1] = len(order) + (others > 0)  # code -1 is NULL
    labels = labels + [f"other ({others:,})"] * (others > 0) + ["NULL"] * has_null
    return Groups(target[codes], labels, has_null, others > 0)


def group_by_quantile(values: pd.Series, bins: int) -> Groups:
    """Group numbers or dates into bins of about the same size, or by value where few are distinct."""
    numbers = as_float(values, str(values.name))
    codes, edges, by_value = quantile_codes(numbers, bins)
    text = date_labels(edges) if kind_of(values) == "datetime" else number_labels(edges)
    labels = text if by_value else [f"{low} to {high}" for low, high in itertools.pairwise(text)]
    codes[np.isnan(numbers)] = -1
    return _relabel(codes, np.arange(len(labels)), labels)


def quantile_codes(numbers: Floats, bins: int) -> tuple[NDArray[np.intp], Floats, bool]:
    """Return each number's bin, the edges, and whether the bins are values because no more than ``bins`` are distinct.

    Bins are ``(low, high]``, the first one and the last hold what is infinite, and ties merge bins.
    """
    distinct = np.unique(numbers[~np.isnan(numbers)])
    if len(distinct) <= bins:
        return np.searchsorted(distinct, numbers), distinct, True
    edges = np.unique(np.quantile(numbers[np.isfinite(numbers)], np.linspace(0, 1, max(1, bins) + 1)))
    return np.searchsorted(edges[1:-1], numbers), edges, False


def number_labels(values: Floats) -> list[str]:
    """Write numbers with as few digits as keep them apart."""
    for digits in range(3, 17):
        labels = [format_number(value, digits) for value in values]
        if len(set(labels)) == len(set(values.tolist())):
            break
    return labels


def format_number(value: float, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits and thousands separators."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    magnitude = int(np.floor(np.log10(abs(value))))
    if not -5 <= magnitude <= 11:
        return f"{value:.{digits - 1}e}"
    text = f"{value:,.{max(0, digits - 1 - magnitude)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def date_labels(seconds: Floats) -> list[str]:
    """Write UTC times as dates, or with hours where dates alone would not keep them apart."""
    stamps = pd.to_datetime(pd.Series(seconds), unit="s")
    dates = stamps.dt.strftime("%Y-%m-%d").tolist()
    return dates if len(set(dates)) == len(set(seconds.tolist())) else stamps.dt.strftime("%Y-%m-%d %H:%M").tolist()


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


def target_rate(
    df: pd.DataFrame, column: str, target: str, *, bins: int = 10, top: int = 15, positive: Any = None
) -> tuple[pd.DataFrame, str, int]:
    """Return the rate of a binary target by group, the positive class's name, and how many rows have no target.

    One row for each group, in drawing order: ``n``, ``positives``, ``rate``, ``low``, ``high``, ``is_null``.
    """
    require_frame(df)
    require_columns(df, [column, target])
    known = df[target].notna()
    if not known.any():
        raise ValueError(f"nothing to plot: all {len(df):,} values of {target!r} are NULL")
    truth, label = is_positive(df.loc[known, target], f"target {target!r}", positive)
    values = df.loc[known, column]
    if kind_of(values) in ("numeric", "datetime"):
        groups = group_by_quantile(values, max(2, min(bins, int(values.notna().sum()) // 5)))
    else:
        groups = group_by_label(values, top)
    table = _rates(truth, groups.codes, len(groups.labels))
    table.index = pd.Index(groups.labels, name=column)
    table["is_null"] = [groups.has_null and i == len(table) - 1 for i in range(len(table))]
    return table, label, int((~known).sum())


def _rates(truth: NDArray[np.bool_], codes: NDArray[np.intp], groups: int) -> pd.DataFrame:
    n = np.bincount(codes, minlength=groups)
    positives = np.bincount(codes, weights=truth, minlength=groups).astype(int)
    low, high = wilson(positives, n)
    rate = positives / np.maximum(n, 1)
    return pd.DataFrame({"n": n, "positives": positives, "rate": rate, "low": low, "high": high})


def associations(df: pd.DataFrame, *, top: int = 15, max_rows: int = 100_000) -> Associations:
    """Measure every pair of columns on the rows where both are known.

    Pearson's r for two numbers (booleans and dates count as numbers), Cramér's V for two categories, the correlation
    ratio for one of each. Categories beyond the 20 most frequent count as one. Columns that cannot tell anything
    (constant, or a different text in nearly every row) are left out, then all but the ``top`` most associated.
    """
    require_frame(df)
    rows = df if len(df) <= max_rows else df.sample(max_rows, random_state=SEED)
    numbers, categories, left_out = {}, {}, {}
    for name in rows.columns:
        values = as_labels(rows[name])
        distinct, kind = values.nunique(), kind_of(values)
        if distinct < 2:
            left_out[str(name)] = "constant"
        elif kind != "category":
            numbers[name] = as_float(values, str(name))
        elif distinct > max(2, values.notna().sum() / 2):
            left_out[str(name)] = "mostly unique"
        else:
            categories[name] = group_by_label(values, 20)
    names = [*numbers, *categories]
    if len(names) < 2:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"two columns that vary are needed, got {len(names)} ({why or 'no more columns'})")
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    matrix.iloc[: len(numbers), : len(numbers)] = pd.DataFrame(numbers).corr().to_numpy()
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


def correlation_ratio(groups: Groups, numbers: Floats) -> float:
    """Return η: the root of the share of a number's variance that lies between groups."""
    keep = np.isfinite(numbers) & ~(groups.has_null & (groups.codes == len(groups.labels) - 1))
    codes, values = groups.codes[keep], numbers[keep]
    total = ((values - values.mean()) ** 2).sum() if len(values) else 0.0
    if total == 0:
        return float("nan")
    n = np.bincount(codes)
    means = np.bincount(codes, weights=values) / np.maximum(n, 1)
    return float(np.sqrt((n * (means - values.mean()) ** 2).sum() / total))


def cramers_v(first: Groups, second: Groups) -> float:
    """Return Cramér's V of two groupings, without a correction for small samples."""
    shape = (len(first.labels), len(second.labels))
    table = np.bincount(first.codes * shape[1] + second.codes, minlength=shape[0] * shape[1]).reshape(shape)
    table = table[: shape[0] - first.has_null, : shape[1] - second.has_null]
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    if min(table.shape) < 2:
        return float("nan")
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    chi2 = ((table - expected) ** 2 / expected).sum()
    return float(np.sqrt(chi2 / table.sum() / (min(table.shape) - 1)))


# Models -------------------------------------------------------------------------------------------------------------


def confusion(y_true: ArrayLike, y_pred: ArrayLike, *, top: int = 20) -> tuple[pd.DataFrame, float, int]:
    """Return counts (actual by predicted), the share of correct rows, and how many rows held a NULL.

    Classes beyond the ``top`` most frequent are added up as ``other (n)``.
    """
    actual, predicted, dropped = paired(y_true, y_pred, ("y_true", "y_pred"))
    if isinstance(actual[0], str) != isinstance(predicted[0], str):
        got = f"{listed([actual[0]])} and {listed([predicted[0]])}"
        raise ValueError(f"y_true and y_pred must hold the same classes, got {got}: map one to the other")
    found, classes = pd.factorize(pd.concat([actual, predicted], ignore_index=True))
    levels = in_order(list(classes))  # readers look for classes by name
    codes = np.array([levels.index(label) for label in classes])[found]
    kept = np.sort(np.argsort(-np.bincount(codes), kind="stable")[:top])
    groups = _relabel(codes, kept, [label_of(levels[i]) for i in kept])
    size, rows = len(groups.labels), len(actual)
    counts = np.bincount(groups.codes[:rows] * size + groups.codes[rows:], minlength=size * size).reshape(size, size)
    table = pd.DataFrame(counts, index=groups.labels, columns=groups.labels)
    return table, float((codes[:rows] == codes[rows:]).mean()), dropped


def binary(y_true: ArrayLike, y_score: ArrayLike, name: str, positive: Any = None, *, both: bool = True) -> Binary:
    """Match a two-class target and a score; with ``both`` refuse a target that has one class only."""
    actual, score, dropped = paired(y_true, y_score, ("y_true", name))
    truth, label = is_positive(actual, "y_true", positive)
    if both and (truth.all() or not truth.any()):
        only = listed(list(pd.unique(actual)))
        raise ValueError(
            f"y_true must hold both classes, got only {only} in {len(truth):,} rows: add rows of the other"
        )
    return Binary(truth, as_float(score, name), label, dropped)


def _hits(data: Binary) -> tuple[Floats, Floats, Floats]:
    """Count true and false positives at each distinct threshold, highest first."""
    order = np.argsort(-data.values, kind="stable")
    scores, truth = data.values[order], data.truth[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # equal scores share one threshold
    hits = np.cumsum(truth)[last].astype(float)
    return hits, last + 1 - hits, scores[last]


def _thin(x: Floats, y: Floats, thresholds: Floats, area: float, data: Binary, points: int = 1000) -> Curve:
    """Keep points evenly along the curve: a million of them look the same and weigh a hundred megabytes."""
    keep = np.arange(len(x))
    if len(x) > points:
        way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        keep = np.unique(np.append(np.searchsorted(way, np.linspace(0, way[-1], points)), [0, len(x) - 1]))
        keep = keep[keep < len(x)]
    return Curve(x[keep], y[keep], thresholds[keep], area, len(x) - 1, data)


def roc(y_true: ArrayLike, y_score: ArrayLike, *, positive: Any = None) -> Curve:
    """Return false (x) against true positive rate (y); ``area`` is the AUC."""
    data = binary(y_true, y_score, "y_score", positive)
    hits, false, thresholds = _hits(data)
    x, y = np.append(0.0, false / false[-1]), np.append(0.0, hits / hits[-1])
    return _thin(x, y, np.append(np.inf, thresholds), float(np.trapezoid(y, x)), data)


def precision_recall(y_true: ArrayLike, y_score: ArrayLike, *, positive: Any = None) -> Curve:
    """Return recall (x) against precision (y), to be drawn as steps; ``area`` is the average precision."""
    data = binary(y_true, y_score, "y_score", positive)
    hits, false, thresholds = _hits(data)
    x, y = np.append(0.0, hits / hits[-1]), hits / (hits + false)
    area = float((np.diff(x) * y).sum())
    return _thin(x, np.append(y[0], y), np.append(thresholds[0], thresholds), area, data)


def calibration(y_true: ArrayLike, y_prob: ArrayLike, *, bins: int = 10, positive: Any = None) -> Calibration:
    """Compare mean probability and observed rate in bins of about the same size, at least 5 rows each."""
    data = binary(y_true, y_prob, "y_prob", positive, both=False)
    low, high = data.values.min(), data.values.max()
    if not (low >= 0 and high <= 1):
        found = f"{low:.3g} to {high:.3g}"
        raise ValueError(f"y_prob must lie between 0 and 1, got {found}: pass predict_proba, not decision_function")
    codes, _, _ = quantile_codes(data.values, min(bins, len(data.values) // 5))
    table = _rates(data.truth, codes, int(codes.max()) + 1)
    sums = np.bincount(codes, weights=data.values, minlength=len(table))
    table.insert(0, "mean", sums / np.maximum(table["n"], 1))
    return Calibration(table[table["n"] > 0], float(((data.values - data.truth) ** 2).mean()), data)


def importances(source: Any, feature_names: Sequence[str] | None = None) -> tuple[pd.DataFrame, str]:
    """Return ``importance`` (and ``std``, where known) by feature, largest absolute value first, and what it measures.

    ``source`` is a fitted estimator or pipeline, a ``permutation_importance`` result, a Series, a dict or an array.
    """
    std, known, measure = None, None, "importance"
    if isinstance(source, dict) and "importances_mean" in source:
        values, std, measure = source["importances_mean"], source["importances_std"], "mean loss of score when permuted"
    elif isinstance(source, pd.Series | dict):
        source = pd.Series(source)
        values, known = as_float(source, "importances"), list(source.index)
    elif isinstance(source, np.ndarray | list | tuple):
        values = source
    else:
        values, known, measure = _model_importances(source)
    values = np.asarray(values, dtype=float)
    names = known if feature_names is None else list(feature_names)
    names = [f"feature {i}" for i in range(len(values))] if names is None else names
    if not len(values) or len(names) != len(values):
        raise ValueError(
            f"one name for each importance is needed, got {len(names)} names and {len(values)} importances"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"importances must be finite, got {values[~np.isfinite(values)][0]}: leave such features out")
    table = pd.DataFrame({"importance": values}, index=[str(name) for name in names])
    if std is not None:
        table["std"] = np.asarray(std, dtype=float)
    return table.iloc[np.argsort(-np.abs(values), kind="stable")], measure


def _model_importances(model: Any) -> tuple[ArrayLike, list[str] | None, str]:
    model = getattr(model, "best_estimator_", model)
    names = getattr(model, "feature_names_in_", None)
    if hasattr(model, "steps"):  # a pipeline: the last step sees the columns that the others made
        names = model[:-1].get_feature_names_out() if len(model.steps) > 1 else names
        model = model.steps[-1][1]
    names = None if names is None else list(names)
    if hasattr(model, "feature_importances_"):
        return model.feature_importances_, names, "importance"
    if hasattr(model, "coef_"):
        coefficients = np.atleast_2d(model.coef_)
        if len(coefficients) == 1:
            return coefficients[0], names, "coefficient"
        # several classes have a row each, and only the size of a coefficient can be averaged over them
        return np.abs(coefficients).mean(axis=0), names, "mean absolute coefficient"
    way_out = "fit it, or pass sklearn.inspection.permutation_importance(model, X, y)"
    raise ValueError(f"{type(model).__name__} has no importances of its own, or is not fitted: {way_out}")


def residuals(y_true: ArrayLike, y_pred: ArrayLike) -> Residuals:
    """Return actual minus predicted, with ``rmse``, ``mae``, ``r2`` and ``bias`` (the mean residual)."""
    actual, predicted, dropped = paired(y_true, y_pred, ("y_true", "y_pred"))
    y, x = as_float(actual, "y_true"), as_float(predicted, "y_pred")
    error = y - x
    spread = ((y - y.mean()) ** 2).sum()
    r2 = 1 - (error**2).sum() / spread if spread > 0 else float("nan")
    rmse, mae = np.sqrt((error**2).mean()), np.abs(error).mean()
    summary = {"rmse": float(rmse), "mae": float(mae), "r2": float(r2), "bias": float(error.mean())}
    codes, _, _ = quantile_codes(x, min(20, len(x) // 20))
    groups = pd.Series(error).groupby(codes)
    bands = groups.quantile(np.array([0.05, 0.5, 0.95])).unstack().set_axis(["low", "median", "high"], axis=1)
    bands.insert(0, "x", pd.Series(x).groupby(codes).mean())
    return Residuals(x, error, summary, bands, dropped)


def over_time(predictions: pd.DataFrame, *, value: str | None = None, positive: Any = None, top: int = 5) -> OverTime:
    """Summarise predictions by version and by hour, day, week or month (UTC), whichever fits the span.

    Numbers give their mean, 10th and 90th percentile; two classes give the positive one's share and its 95 % interval.
    """
    require_frame(predictions)
    require_columns(predictions, ["prediction_timestamp", "model_version"])
    if value is None:
        probability = predictions.get("prediction_probability")
        known = probability is not None and probability.notna().any() and kind_of(probability) == "numeric"
        value = "prediction_probability" if known else "prediction"
    require_columns(predictions, [value])
    stamps = predictions["prediction_timestamp"]
    if kind_of(stamps) != "datetime":
        way_out = "convert it with pd.to_datetime(..., utc=True)"
        raise ValueError(f"prediction_timestamp must hold timestamps, got {stamps.dtype}: {way_out}")
    keep = (stamps.notna() & predictions[value].notna()).to_numpy()
    if not keep.any():
        raise ValueError(f"nothing to plot: no row has both prediction_timestamp and {value}, got {len(keep):,} rows")
    values, numeric = predictions.loc[keep, value], kind_of(predictions[value]) == "numeric"
    truth, label = (None, "") if numeric else is_positive(values, f"column {value!r}", positive)
    seconds = as_float(stamps[keep], "prediction_timestamp")
    days = (seconds.max() - seconds.min()) / 86_400
    period, code = next(((name, code) for name, code, limit in _PERIODS if days <= limit), ("month", "M"))
    versions = group_by_label(predictions.loc[keep, "model_version"], top)
    start = pd.to_datetime(pd.Series(seconds), unit="s").dt.to_period(code).dt.start_time.dt.tz_localize("UTC")
    numbers = pd.Series(as_float(values, value) if truth is None else truth.astype(float))
    groups = numbers.groupby(
        [pd.Series(np.array(versions.labels)[versions.codes], name="version"), start.rename("start")]
    )
    table = groups.agg(["size", "mean"]).set_axis(["n", "value"], axis=1)
    if truth is None:
        table["low"], table["high"] = groups.quantile(0.1), groups.quantile(0.9)
    else:
        table["low"], table["high"] = wilson(groups.sum(), table["n"])
    quantity = f"mean {value}" if truth is None else f"share of {value} = {label}"
    band = "10 to 90 % of predictions" if truth is None else "95 % interval"
    return OverTime(table.reset_index(), period, quantity, band, int((~keep).sum()))
