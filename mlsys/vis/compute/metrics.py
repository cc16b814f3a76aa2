"""Metrics with 95 % intervals, from counts, ranks and errors.

A metric that the rows do not define (recall without positives, R² of one value) is left out, never 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlsys.vis.compute import columns, models
from mlsys.vis.compute.columns import SEED, Floats, Z

Interval = tuple[float, float]
RESAMPLES = 500
WILSON, NEWCOMBE, STUDENT, BOOTSTRAP = "Wilson", "Newcombe", "Student's t", f"bootstrap, {RESAMPLES} resamples"


@dataclass
class Metrics:
    """Values by name, with the intervals of those that have one and how each was made."""

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, interval: Interval | None = None, method: str = "") -> None:
        """Note a metric, unless it is undefined."""
        if not np.isfinite(value):
            return
        self.values[name] = float(value)
        if interval is not None and np.isfinite(interval).all():
            self.intervals[name] = (float(min(interval[0], value)), float(max(interval[1], value)))
            self.methods[name] = method


def from_counts(counts: NDArray[np.intp], *, positive: int | None = None) -> Metrics:
    """Return what a confusion matrix says: accuracy and, for one class against the other or averaged, the rest.

    Parameters
    ----------
    counts
        Actual by predicted, k by k.
    positive
        Of two classes, the index of the one that precision, recall and F1 are about; None averages F1 over classes.
    """
    found, total = Metrics(), int(counts.sum())
    right = int(np.trace(counts))
    found.add("accuracy", right / total, share_interval(right, total), WILSON)
    drawn = np.random.default_rng(SEED).multinomial(total, counts.ravel() / total, RESAMPLES)
    drawn = drawn.reshape(RESAMPLES, *counts.shape)  # of rows drawn again, only their cells matter
    for name, metric in (("balanced_accuracy", _balanced_accuracy), ("f1_macro", _f1_macro)):
        if name == "balanced_accuracy" or positive is None:
            found.add(name, float(metric(counts)), percentiles(metric(drawn)), BOOTSTRAP)
    if positive is not None:
        hits = int(counts[positive, positive])
        for name, of in (("precision", counts[:, positive].sum()), ("recall", counts[positive].sum())):
            found.add(name, hits / of if of else np.nan, share_interval(hits, int(of)), WILSON)
        found.add("f1", float(_f1(counts)[positive]), percentiles(_f1(drawn)[..., positive]), BOOTSTRAP)
    return found


def _diagonal(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _balanced_accuracy(counts: NDArray[np.intp]) -> Floats:
    """Average the recall of the classes that occur."""
    return _nanmean(_ratio(_diagonal(counts), counts.sum(axis=-1)))


def _f1(counts: NDArray[np.intp]) -> Floats:
    return _ratio(2 * _diagonal(counts), counts.sum(axis=-1) + counts.sum(axis=-2))


def _f1_macro(counts: NDArray[np.intp]) -> Floats:
    return _nanmean(_f1(counts))


def _ratio(part: NDArray[np.intp], whole: NDArray[np.intp]) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _nanmean(values: Floats) -> Floats:
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


def of_scores(data: models.Binary, found: models.Sweep, *, probabilities: bool) -> Metrics:
    """Return ROC AUC and average precision and, of probabilities, Brier score and logarithmic loss."""
    metrics = Metrics()
    if 0 < found.positives < found.n:
        auc = models.roc(found).value
        metrics.add("roc_auc", auc, auc_interval(auc, found.positives, found.n - found.positives), NEWCOMBE)
    if found.positives:
        value = models.precision_recall(found).value
        around = bootstrap(value, _average_precision(data.truth, data.values), len(data.truth), most=40_000)
        metrics.add("average_precision", value, around, BOOTSTRAP)
    if probabilities:
        _add_mean(metrics, "brier_score", (data.values - data.truth) ** 2)
        _add_mean(metrics, "log_loss", _surprise(np.where(data.truth, data.values, 1 - data.values)))
    return metrics


def of_classes(codes: NDArray[np.intp], shares: Floats) -> Metrics:
    """Return ROC AUC, each class against the rest and averaged over those that occur, and logarithmic loss.

    ``codes`` are the true classes of n rows, ``shares`` their probabilities, n by k.
    """
    metrics, n = Metrics(), len(codes)
    occur = [k for k in range(shares.shape[1]) if 0 < (codes == k).sum() < n]
    if occur:
        areas = [models.roc(models.sweep(models.Binary(codes == k, shares[:, k], str(k), 0))).value for k in occur]

        def resampled(rows: NDArray[np.intp]) -> Callable[[Floats], float]:
            each = [_auc(codes[rows] == k, shares[rows, k]) for k in occur]
            return lambda weights: float(np.mean([area(weights) for area in each]))

        around = bootstrap(float(np.mean(areas)), resampled, n, most=max(2_000, 40_000 // len(occur)))
        metrics.add("roc_auc_ovr", float(np.mean(areas)), around, BOOTSTRAP)
    _add_mean(metrics, "log_loss", _surprise(shares[np.arange(n), codes]))
    return metrics


def of_errors(actual: Floats, predicted: Floats) -> Metrics:
    """Return RMSE, MAE, R² and bias (the mean of actual minus predicted), in the units of the target but for R²."""
    metrics, error = Metrics(), actual - predicted
    centred = actual - actual.mean()  # sums of squares lose no digits to a large mean

    def rmse(rows: NDArray[np.intp]) -> Callable[[Floats], float]:
        squares = error[rows] ** 2
        return lambda weights: float(np.sqrt(weights @ squares / weights.sum()))

    def r2(rows: NDArray[np.intp]) -> Callable[[Floats], float]:
        squares, y = error[rows] ** 2, centred[rows]
        y2 = y**2

        def value(weights: Floats) -> float:
            spread = weights @ y2 - (weights @ y) ** 2 / weights.sum()
            return float(1 - weights @ squares / spread) if spread > 0 else np.nan

        return value

    everything, ones = np.arange(len(error)), np.ones(len(error))
    for name, statistic in (("rmse", rmse), ("r2", r2)):
        value = statistic(everything)(ones) if name == "rmse" or np.ptp(actual) > 0 else np.nan
        metrics.add(name, value, bootstrap(value, statistic, len(error), most=20_000), BOOTSTRAP)
        if name == "rmse":
            _add_mean(metrics, "mae", np.abs(error))
    _add_mean(metrics, "bias", error)
    return metrics


def _surprise(shares: Floats) -> Floats:
    """Return minus the logarithm, of 0 as of the smallest step above it, which keeps the loss finite."""
    return -np.log(np.clip(shares, np.finfo(float).eps, 1))


def _add_mean(metrics: Metrics, name: str, values: Floats) -> None:
    metrics.add(name, values.mean(), mean_interval(values), STUDENT)


# Intervals ----------------------------------------------------------------------------------------------------------


def share_interval(hits: int, n: int) -> Interval:
    """Return Wilson's interval of a share."""
    low, high = columns.wilson(hits, n)
    return float(low), float(high)


def mean_interval(values: Floats) -> Interval | None:
    """Return Student's interval of a mean; None for a single value."""
    from scipy import stats

    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def auc_interval(auc: float, positives: int, negatives: int) -> Interval:
    """Return Newcombe's score interval of an area under the ROC curve, which holds for small samples and at 0 and 1.

    R. G. Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
    Statistics in Medicine 25 (2006), method 5: Hanley and McNeil's variance, at the bound instead of the estimate.
    """
    from scipy.optimize import brentq

    mean_size = (positives + negatives) / 2

    def variance(area: float) -> float:
        pairs = 1 + (mean_size - 1) * ((1 - area) / (2 - area) + area / (1 + area))
        return area * (1 - area) * pairs / (positives * negatives)

    def beyond(area: float) -> float:
        return (area - auc) ** 2 - Z**2 * variance(area)

    nearly = 1e-12  # the variance is 0 at both ends
    low = 0.0 if auc <= 0 else brentq(beyond, 0, min(auc, 1 - nearly))
    high = 1.0 if auc >= 1 else brentq(beyond, max(auc, nearly), 1)
    return float(low), float(high)


def percentiles(draws: Floats) -> Interval | None:
    """Return the 2.5th and 97.5th percentile; None where more than one draw in twenty is undefined."""
    known = draws[np.isfinite(draws)]
    if len(known) < 0.95 * len(draws):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def bootstrap(
    value: float, statistic: Callable[[NDArray[np.intp]], Callable[[Floats], float]], n: int, *, most: int
) -> Interval | None:
    """Return a bootstrap interval of a statistic of ``n`` rows.

    Above ``most`` rows, which bounds time, a sample of them is resampled, and its spread is scaled by √(most / n): the
    spread of a smooth statistic shrinks with the root of the rows.

    Parameters
    ----------
    statistic
        Takes row numbers, and returns a function of how often each of these rows was drawn.
    """
    rng = np.random.default_rng(SEED)
    rows = np.arange(n) if n <= most else rng.choice(n, most, replace=False)
    m = len(rows)
    of = statistic(rows)
    draws = np.array([of(np.bincount(rng.integers(m, size=m), minlength=m).astype(float)) for _ in range(RESAMPLES)])
    found = percentiles(draws)
    if found is None or m == n:
        return found
    centre, scale = of(np.ones(m)), np.sqrt(m / n)
    return value + (found[0] - centre) * scale, value + (found[1] - centre) * scale


def _ranked(truth: NDArray[np.bool_], scores: Floats) -> tuple[NDArray[np.intp], Floats, NDArray[np.intp]]:
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    return order, truth[order].astype(float), np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))


def _average_precision(
    truth: NDArray[np.bool_], scores: Floats
) -> Callable[[NDArray[np.intp]], Callable[[Floats], float]]:
    def statistic(rows: NDArray[np.intp]) -> Callable[[Floats], float]:
        order, hit, last = _ranked(truth[rows], scores[rows])

        def value(weights: Floats) -> float:
            weights = weights[order]
            hits, all_ = np.cumsum(weights * hit)[last], np.cumsum(weights)[last]
            if hits[-1] == 0:
                return np.nan
            return float((np.diff(hits, prepend=0) * hits / np.maximum(all_, 1)).sum() / hits[-1])

        return value

    return statistic


def _auc(truth: NDArray[np.bool_], scores: Floats) -> Callable[[Floats], float]:
    order, hit, last = _ranked(truth, scores)

    def value(weights: Floats) -> float:
        weights = weights[order]
        hits, false = np.cumsum(weights * hit)[last], np.cumsum(weights * (1 - hit))[last]
        if hits[-1] == 0 or false[-1] == 0:
            return np.nan
        return float(np.trapezoid(np.append(0, hits), np.append(0, false)) / hits[-1] / false[-1])

    return value


def by_class(counts: NDArray[np.intp], labels: list[str]) -> pd.DataFrame:
    """Return ``class``, ``n``, ``precision``, ``recall`` (with its Wilson interval ``low``, ``high``) and ``f1``."""
    right, actual = np.diagonal(counts), counts.sum(axis=1)
    low, high = columns.wilson(right, actual)
    table = {"class": labels, "n": actual, "precision": _ratio(right, counts.sum(axis=0))}
    return pd.DataFrame(table | {"recall": _ratio(right, actual), "low": low, "high": high, "f1": _f1(counts)})
