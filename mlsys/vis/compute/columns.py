"""Columns, labels and groups of rows: what every figure starts from.

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

from mlsys.errors import PlotError

Kind = Literal["numeric", "boolean", "datetime", "category"]
Floats = NDArray[np.float64]
MINUS = "\N{MINUS SIGN}"
SEED = 0  # every sample is the same sample, so that a plot drawn twice is the same plot
Z = 1.959963984540054  # the normal quantile of 95 % intervals
_KINDS: dict[str, Kind] = {"boolean": "boolean", "date": "datetime", "datetime": "datetime", "datetime64": "datetime"}
_KINDS |= dict.fromkeys(("integer", "floating", "mixed-integer-float", "decimal"), "numeric")


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


def require_frame(df: Any) -> None:
    """Refuse what is no DataFrame, has no rows or has a column name twice."""
    if not isinstance(df, pd.DataFrame):
        raise PlotError(f"a pandas DataFrame is needed, got {type(df).__name__}: wrap it in pd.DataFrame(...)")
    if df.empty:
        rows, columns = df.shape
        raise PlotError(f"nothing to plot: the frame has {rows} rows and {columns} columns; check the query's filters")
    if not df.columns.is_unique:
        twice = df.columns[df.columns.duplicated()][0]
        raise PlotError(f"column names must be unique, got {twice!r} twice: rename one")


def require_columns(df: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse a name that is no column, and offer the nearest one."""
    if isinstance(names, str):
        raise PlotError(f"columns must be a list of names, got {names!r}: pass [{names!r}]")
    for name in names:
        if name not in df.columns:
            known = [str(column) for column in df.columns]
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the columns are {listed(known)}"
            raise PlotError(f"no column {name!r}: {hint}")


def listed(values: Sequence[Any], limit: int = 5) -> str:
    """Write out the first few values, and how many more there are."""
    text = ", ".join(repr(getattr(value, "item", lambda value=value: value)()) for value in values[:limit])
    return text + (f", … ({len(values) - limit} more)" if len(values) > limit else "")


def count(n: int, noun: str) -> str:
    """Write a number of things."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


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
        raise PlotError(f"{name} must hold numbers, got {values.dtype}: pick another column, or convert it")
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
        raise PlotError(f"{name} must have one value for each row, got shape {shape}: {way_out}")
    return pd.Series(values)


def paired(first: ArrayLike, second: ArrayLike, names: tuple[str, str]) -> tuple[pd.Series, pd.Series, int]:
    """Match two arrays by position, without the rows where either is NULL, and say how many those were."""
    left, right = as_series(first, names[0]), as_series(second, names[1])
    if len(left) != len(right):
        lengths = f"{len(left):,} and {len(right):,}"
        raise PlotError(f"{names[0]} and {names[1]} must have the same length, got {lengths}: pass the same rows twice")
    keep = left.notna() & right.notna()
    if not keep.any():
        raise PlotError(f"nothing to plot: {names[0]} and {names[1]} have no row where both are known, got {len(left)}")
    return left[keep].reset_index(drop=True), right[keep].reset_index(drop=True), int((~keep).sum())


def is_positive(values: pd.Series, name: str, positive: Any = None) -> tuple[NDArray[np.bool_], str]:
    """Turn a two-class column without NULLs into booleans, and name the class that is True.

    Without ``positive`` that is True, 1, or the last of two labels in sorted order.
    """
    classes = in_order(list(pd.unique(values)))
    if positive is not None and positive not in classes and len(classes) > 1:
        raise PlotError(f"positive={positive!r} is no class of {name}: the classes are {listed(classes)}")
    if positive is None and any(set(classes) <= usual for usual in ({0, 1}, {-1, 1})):
        positive = 1
    if positive is None and len(classes) != 2:
        found = f"{len(classes)}: {listed(classes)}" if len(classes) > 1 else f"only {listed(classes)}"
        raise PlotError(f"{name} must have two classes, got {found}; pass positive= to set one class against the rest")
    positive = classes[-1] if positive is None else positive
    label = bool(positive) if kind_of(values) == "boolean" else positive
    return (values == positive).to_numpy(dtype=bool), label_of(label)


def estimator_of(model: Any, X: Any = None) -> tuple[Any, Any]:  # noqa: N803
    """Return an estimator and features as it takes them, for an estimator or what ``load_model`` returns.

    A loaded version knows its columns, so a frame may have more of them.
    """
    if not (hasattr(model, "manifest") and hasattr(model, "estimator")):
        return model, X
    signature = model.manifest.signature
    if isinstance(X, pd.DataFrame):
        names = [column.name for column in signature.inputs]
        require_columns(X, names)
        X = X[names].to_numpy() if signature.container == "numpy" else X[names]  # noqa: N806
    return model.estimator, X


def wilson(successes: ArrayLike, n: ArrayLike, z: float = Z) -> tuple[Floats, Floats]:
    """Return the Wilson interval of a share, by default at 95 %; NaN where ``n`` is 0."""
    k, n = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = k / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # at 0 and n successes the interval touches the share; rounding must not put it on the wrong side
    return np.minimum(np.maximum(centre - half, 0), share), np.maximum(np.minimum(centre + half, 1), share)


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
    return relabel(codes, order, [label_of(levels[i]) for i in order])


def relabel(codes: NDArray[np.intp], order: NDArray[np.intp], labels: list[str]) -> Groups:
    """Group by position in ``order``; what is not in it becomes ``other (n)``, code -1 NULL."""
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
    return relabel(codes, np.arange(len(labels)), labels)


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


def rates(truth: NDArray[np.bool_], codes: NDArray[np.intp], groups: int) -> pd.DataFrame:
    """Return ``n``, ``positives``, ``rate`` and its Wilson interval ``low``, ``high`` of each group."""
    n = np.bincount(codes, minlength=groups)
    positives = np.bincount(codes, weights=truth, minlength=groups).astype(int)
    low, high = wilson(positives, n)
    rate = positives / np.maximum(n, 1)
    return pd.DataFrame({"n": n, "positives": positives, "rate": rate, "low": low, "high": high})
