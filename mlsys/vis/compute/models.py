"""What predictions are worth: curves over thresholds, calibration, residuals and importances."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mlsys.errors import PlotError
from mlsys.vis.compute import columns
from mlsys.vis.compute.columns import Floats


@dataclass(frozen=True)
class Binary:
    """A two-class target and a number for the same rows, without NULLs."""

    truth: NDArray[np.bool_]
    values: Floats
    positive: str
    dropped: int


@dataclass(frozen=True)
class Sweep:
    """What is found at or above each distinct score, highest first; every curve over thresholds comes from it.

    ``hits`` are positives and ``false`` negatives among the rows whose score reaches the threshold. ``distinct`` is the
    number of thresholds before thinning.
    """

    thresholds: Floats
    hits: Floats
    false: Floats
    n: int
    positives: int
    positive: str
    distinct: int
    dropped: int = 0

    @property
    def thinned(self) -> bool:
        """Whether points were left out."""
        return len(self.thresholds) < self.distinct


@dataclass(frozen=True)
class Curve:
    """A curve over thresholds with what it sums up to (``value``)."""

    x: Floats
    y: Floats
    thresholds: Floats
    value: float
    sweep: Sweep


@dataclass(frozen=True)
class Calibration:
    """``table`` has one row for each bin: ``mean``, ``n``, ``positives``, ``rate``, ``low``, ``high``.

    ``counts`` are rows in twenty equal parts of the range from 0 to 1.
    """

    table: pd.DataFrame
    brier: float
    counts: NDArray[np.intp]
    n: int
    positive: str
    dropped: int = 0


@dataclass(frozen=True)
class Residuals:
    """Actual minus predicted: a summary of all rows, points of some, quantiles along the prediction (``bands``)."""

    predicted: Floats
    residual: Floats
    n: int
    summary: dict[str, float]
    bands: pd.DataFrame
    dropped: int = 0


def confusion(y_true: ArrayLike, y_pred: ArrayLike, *, top: int = 20) -> tuple[pd.DataFrame, float, int]:
    """Return counts (actual by predicted), the share of correct rows, and how many rows held a NULL.

    Classes beyond the ``top`` most frequent are added up as ``other (n)``.
    """
    actual, predicted, dropped = columns.paired(y_true, y_pred, ("y_true", "y_pred"))
    if isinstance(actual[0], str) != isinstance(predicted[0], str):
        got = f"{columns.listed([actual[0]])} and {columns.listed([predicted[0]])}"
        raise PlotError(f"y_true and y_pred must hold the same classes, got {got}: map one to the other")
    found, classes = pd.factorize(pd.concat([actual, predicted], ignore_index=True))
    levels = columns.in_order(list(classes))  # readers look for classes by name
    codes = np.array([levels.index(label) for label in classes])[found]
    size, rows = len(levels), len(actual)
    counts = np.bincount(codes[:rows] * size + codes[rows:], minlength=size * size).reshape(size, size)
    table = pd.DataFrame(counts, index=levels, columns=levels)
    return most_frequent(table, top), float(np.trace(counts) / rows), dropped


def most_frequent(counts: pd.DataFrame, top: int) -> pd.DataFrame:
    """Keep the ``top`` most frequent classes of a confusion matrix and add the others up as ``other (n)``."""
    size = len(counts)
    frequency = counts.sum(axis=0).to_numpy() + counts.sum(axis=1).to_numpy()
    kept = np.sort(np.argsort(-frequency, kind="stable")[:top])
    groups = columns.relabel(np.arange(size), kept, [columns.label_of(counts.index[i]) for i in kept])
    gather = np.zeros((size, len(groups.labels)), dtype=int)
    gather[np.arange(size), groups.codes] = 1
    return pd.DataFrame(gather.T @ counts.to_numpy() @ gather, index=groups.labels, columns=groups.labels)


def binary(y_true: ArrayLike, y_score: ArrayLike, name: str, positive: Any = None, *, both: bool = True) -> Binary:
    """Match a two-class target and a score; with ``both`` refuse a target that has one class only."""
    actual, score, dropped = columns.paired(y_true, y_score, ("y_true", name))
    truth, label = columns.is_positive(actual, "y_true", positive)
    if both and (truth.all() or not truth.any()):
        only = columns.listed(list(pd.unique(actual)))
        raise PlotError(f"y_true must hold both classes, got only {only} in {len(truth):,} rows: add rows of the other")
    return Binary(truth, columns.as_float(score, name), label, dropped)


def sweep(data: Binary) -> Sweep:
    """Count positives and negatives at or above each distinct score."""
    order = np.argsort(-data.values, kind="stable")
    scores, truth = data.values[order], data.truth[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores share one threshold
    hits = np.cumsum(truth)[last].astype(float)
    found = int(data.truth.sum())
    return Sweep(scores[last], hits, last + 1 - hits, len(truth), found, data.positive, len(last), data.dropped)


def thin(found: Sweep, points: int = 1000) -> Sweep:
    """Keep points evenly along the ROC curve and along precision and recall.

    A million of them look the same and weigh a hundred megabytes.
    """
    if len(found.thresholds) <= points:
        return found
    precision = found.hits / (found.hits + found.false)
    recall, fallout = found.hits / max(found.positives, 1), found.false / max(found.n - found.positives, 1)
    keep = [np.array([0, len(recall) - 1])]
    for x, y in ((fallout, recall), (recall, precision)):
        way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        keep.append(np.searchsorted(way, np.linspace(0, way[-1], points // 2 - 1)))
    at = np.unique(np.concatenate(keep).astype(int))
    at = at[at < len(recall)]
    return replace(found, thresholds=found.thresholds[at], hits=found.hits[at], false=found.false[at])


def roc(found: Sweep) -> Curve:
    """Return false (x) against true positive rate (y); ``value`` is the area under it."""
    negatives = found.n - found.positives
    x, y = np.append(0.0, found.false / negatives), np.append(0.0, found.hits / found.positives)
    return Curve(x, y, np.append(np.inf, found.thresholds), float(np.trapezoid(y, x)), found)


def precision_recall(found: Sweep) -> Curve:
    """Return recall (x) against precision (y), to be drawn as steps; ``value`` is the average precision."""
    x, y = np.append(0.0, found.hits / found.positives), found.hits / (found.hits + found.false)
    value = float((np.diff(x) * y).sum())
    return Curve(x, np.append(y[0], y), np.append(found.thresholds[0], found.thresholds), value, found)


def gain(found: Sweep) -> Curve:
    """Return the share of rows (x), highest scores first, against the share of positives in them (y).

    ``value`` is y where x is 0.1.
    """
    x = np.append(0.0, (found.hits + found.false) / found.n)
    y = np.append(0.0, found.hits / found.positives)
    return Curve(x, y, np.append(np.inf, found.thresholds), float(np.interp(0.1, x, y)), found)


def lift(found: Sweep) -> Curve:
    """Return the share of rows (x), highest scores first, against how many times more positives they hold (y).

    ``value`` is y where x is 0.1.
    """
    gained = gain(found)
    return Curve(gained.x[1:], gained.y[1:] / gained.x[1:], gained.thresholds[1:], gained.value / 0.1, found)


def thresholds(found: Sweep) -> pd.DataFrame:
    """Return ``threshold``, ``precision``, ``recall``, ``f1`` and ``flagged``, the share of rows at or above it."""
    flagged = found.hits + found.false
    table = {"threshold": found.thresholds, "precision": found.hits / flagged, "recall": found.hits / found.positives}
    return pd.DataFrame(table | {"f1": 2 * found.hits / (flagged + found.positives), "flagged": flagged / found.n})


def costs(found: Sweep, false_positive: float, false_negative: float) -> pd.DataFrame:
    """Return ``threshold`` and the ``cost`` of mistakes for each row on average; the first row flags nothing."""
    for name, value in (("false_positive", false_positive), ("false_negative", false_negative)):
        if not (np.isfinite(value) and value >= 0):
            raise PlotError(f"{name} must be a cost of 0 or more, got {value}")
    missed = found.positives - np.append(0.0, found.hits)
    cost = (np.append(0.0, found.false) * false_positive + missed * false_negative) / found.n
    return pd.DataFrame({"threshold": np.append(np.inf, found.thresholds), "cost": cost})


def calibration(y_true: ArrayLike, y_prob: ArrayLike, *, bins: int = 10, positive: Any = None) -> Calibration:
    """Compare mean probability and observed rate in bins of about the same size, at least 5 rows each."""
    return calibrated(binary(y_true, y_prob, "y_prob", positive, both=False), bins)


def calibrated(data: Binary, bins: int = 10) -> Calibration:
    """Do what `calibration` does for data that is matched already."""
    low, high = data.values.min(), data.values.max()
    if not (low >= 0 and high <= 1):
        found = f"{low:.3g} to {high:.3g}"
        raise PlotError(f"y_prob must lie between 0 and 1, got {found}: pass predict_proba, not decision_function")
    codes, _, _ = columns.quantile_codes(data.values, min(bins, len(data.values) // 5))
    table = columns.rates(data.truth, codes, int(codes.max()) + 1)
    sums = np.bincount(codes, weights=data.values, minlength=len(table))
    table.insert(0, "mean", sums / np.maximum(table["n"], 1))
    brier, counts = float(((data.values - data.truth) ** 2).mean()), np.histogram(data.values, 20, (0, 1))[0]
    return Calibration(table[table["n"] > 0], brier, counts, len(data.truth), data.positive, data.dropped)


def importances(source: Any, feature_names: Sequence[str] | None = None) -> tuple[pd.DataFrame, str]:
    """Return ``importance`` (and ``std``, where known) by feature, largest absolute value first, and what it measures.

    ``source`` is a fitted estimator or pipeline, a ``permutation_importance`` result, a Series, a dict or an array.
    """
    std, known, measure = None, None, "importance"
    if isinstance(source, dict) and "importances_mean" in source:
        values, std, measure = source["importances_mean"], source["importances_std"], "mean loss of score when permuted"
    elif isinstance(source, pd.Series | dict):
        source = pd.Series(source)
        values, known = columns.as_float(source, "importances"), list(source.index)
    elif isinstance(source, np.ndarray | list | tuple):
        values = source
    else:
        values, known, measure = _model_importances(source)
    values = np.asarray(values, dtype=float)
    names = known if feature_names is None else list(feature_names)
    names = [f"feature {i}" for i in range(len(values))] if names is None else names
    if not len(values) or len(names) != len(values):
        raise PlotError(f"one name for each importance is needed, got {len(names)} names and {len(values)} importances")
    if not np.isfinite(values).all():
        raise PlotError(f"importances must be finite, got {values[~np.isfinite(values)][0]}: leave such features out")
    table = pd.DataFrame({"importance": values}, index=[str(name) for name in names])
    if std is not None:
        table["std"] = np.asarray(std, dtype=float)
    return table.iloc[np.argsort(-np.abs(values), kind="stable")], measure


def _model_importances(model: Any) -> tuple[ArrayLike, list[str] | None, str]:
    model, _ = columns.estimator_of(model)
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
    way_out = "fit it, or use plot_permutation_importance(model, X, y)"
    raise PlotError(f"{type(model).__name__} has no importances of its own, or is not fitted: {way_out}")


def residuals(y_true: ArrayLike, y_pred: ArrayLike, *, max_points: int = 5_000) -> Residuals:
    """Return actual minus predicted, with ``rmse``, ``mae``, ``r2`` and ``bias`` (the mean residual).

    ``bands`` has one row for each of up to twenty groups of predictions: ``x``, their mean, and ``low``, ``median`` and
    ``high``, the 5th, 50th and 95th percentile of their residuals.
    """
    actual, predicted, dropped = columns.paired(y_true, y_pred, ("y_true", "y_pred"))
    y, x = columns.as_float(actual, "y_true"), columns.as_float(predicted, "y_pred")
    if infinite := int(np.isinf(y).sum() + np.isinf(x).sum()):
        raise PlotError(f"y_true and y_pred must be finite, got {infinite:,} infinite values: leave those rows out")
    error = y - x
    spread = ((y - y.mean()) ** 2).sum()
    r2 = 1 - (error**2).sum() / spread if spread > 0 else float("nan")
    rmse, mae = np.sqrt((error**2).mean()), np.abs(error).mean()
    summary = {"rmse": float(rmse), "mae": float(mae), "r2": float(r2), "bias": float(error.mean())}
    codes, _, _ = columns.quantile_codes(x, min(20, len(x) // 20))
    groups = pd.Series(error).groupby(codes)
    bands = groups.quantile(np.array([0.05, 0.5, 0.95])).unstack().set_axis(["low", "median", "high"], axis=1)
    bands.insert(0, "x", pd.Series(x).groupby(codes).mean())
    n = len(x)
    drawn = slice(None) if n <= max_points else np.random.default_rng(columns.SEED).choice(n, max_points, replace=False)
    return Residuals(x[drawn], error[drawn], n, summary, bands.reset_index(drop=True), dropped)
