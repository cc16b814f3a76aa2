"""``evaluate``: a fitted model on rows that it has not seen, as metrics with intervals, curves, a text and a page."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mlsys.errors import PlotError
from mlsys.vis import compute, html
from mlsys.vis.compute import metrics as measure
from mlsys.vis.compute.columns import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Task = Literal["binary", "multiclass", "regression"]
FORMAT = 1
POINTS = 200  # of a curve: what a picture can show, in a few kilobytes


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on some rows, small enough to be stored beside its version.

    Equal to what `from_json` makes of its `to_json`. The page can be drawn from it without model and data.

    Attributes
    ----------
    task
        ``binary``, ``multiclass`` or ``regression``.
    name, target
        What the model and its target are called.
    rows
        How many rows were scored.
    classes, positive
        The classes in the order of the confusion matrix, as text, and the one that precision and recall are about.
    metrics
        By name, as ``save_model(metrics=...)`` takes them; those that the rows leave undefined are not there. ``rmse``,
        ``mae`` and ``bias`` (the mean of actual minus predicted) are in the target's unit, ``log_loss`` in nats.
    intervals, methods
        The 95 % interval of a metric, and how it was made.
    text
        A summary in a few sentences.
    curves
        Tables by name, each a list of values by column, of at most about 200 rows: what `figure` draws.
    """

    task: Task
    name: str
    target: str
    rows: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    methods: dict[str, str]
    text: str
    curves: dict[str, dict[str, list[Any]]]
    classes: tuple[str, ...] = ()
    positive: str | None = None
    importance_measure: str = ""

    def table(self) -> pd.DataFrame:
        """Return one row for each metric: ``value``, ``low``, ``high`` and ``interval``, how the last two were made."""
        rows = [
            (value, *self.intervals.get(name, (math.nan, math.nan)), self.methods.get(name, ""))
            for name, value in self.metrics.items()
        ]
        return pd.DataFrame(rows, index=list(self.metrics), columns=["value", "low", "high", "interval"])

    def curve(self, name: str) -> pd.DataFrame:
        """Return a table of ``curves`` as a frame; missing numbers are NaN."""
        if name not in self.curves:
            raise PlotError(f"no curve {name!r}: this evaluation has {compute.columns.listed(list(self.curves))}")
        return pd.DataFrame(self.curves[name])

    def figure(self) -> "Figure":
        """Draw the page, from ``curves`` alone."""
        from mlsys.vis import evaluation_page

        return evaluation_page.draw_page(self)

    def to_json(self) -> str:
        """Return everything as JSON, to be read by `from_json`."""
        return json.dumps({"format": FORMAT} | asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Evaluation":
        """Read what `to_json` wrote."""
        way_out = "write it with to_json"
        try:
            values = json.loads(text)
            found = values.pop("format")
        except (ValueError, KeyError, AttributeError, TypeError) as exc:
            raise PlotError(f"an evaluation's JSON is needed, got {text[:40]!r}: {way_out}") from exc
        if found != FORMAT:
            raise PlotError(f"an evaluation of format {FORMAT} can be read, got {found!r}: evaluate again")
        try:
            values["intervals"] = {name: (low, high) for name, (low, high) in values["intervals"].items()}
            return cls(**values | {"classes": tuple(values["classes"])})
        except (ValueError, KeyError, AttributeError, TypeError) as exc:
            raise PlotError(f"an evaluation's JSON is incomplete or changed: {exc!r}; {way_out}") from exc

    def __repr__(self) -> str:
        return f"<Evaluation of {self.name} on {self.rows:,} rows>"

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        table = [(name, *map(_shown, row[:3]), row[3]) for name, *row in self.table().itertuples()]
        head = ("metric", "value", "95 % from", "to", "interval by")
        return html.page(f"Evaluation of {self.name}", self.text, [html.table(head, table)], [self.figure()])


def evaluate(
    model: Any,
    X: Any,  # noqa: N803, as scikit-learn calls it
    y: ArrayLike | pd.Series,
    *,
    name: str | None = None,
    target: str | None = None,
    positive: Any = None,
    task: Task | None = None,
    permutation: bool = False,
) -> Evaluation:
    """Evaluate a fitted model on rows that it has not seen.

    Time and memory are bounded by one prediction and a sort of the scores: what resamples rows takes 40,000 at most.

    Parameters
    ----------
    model
        A fitted estimator or pipeline with ``predict`` and, for probabilities, ``predict_proba``; or what `load_model`
        returns, of which ``X`` may then be a frame with further columns.
    X, y
        n rows as the model takes them, and their true classes or numbers.
    name, target
        What to call the model and the target; by default the version or class of the one, the name of the other.
    positive
        Of two classes, the one that precision, recall and curves are about; by default the model's second one.
    task
        Where the model does not tell: a model with ``classes_`` or ``predict_proba`` is a classifier.
    permutation
        Measure importance by permuting columns of 2,000 rows at most, 5 times each, instead of the model's own.

    Raises
    ------
    PlotError
        ``y`` has NULLs or classes that the model does not know, or the model does not give one finite value for a row.

    Notes
    -----
    Intervals are at 95 %: Wilson's for shares of rows, Newcombe's for the area under the ROC curve, Student's for means
    over rows, and a bootstrap with a fixed seed for the rest. They say what other rows like these would give, not what
    another training or another month would.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> rows = pd.DataFrame({"age": [4.0, 30, 8, 41, 5, 50], "fare": [10.0, 8, 20, 7, 30, 5]})
    >>> survived = pd.Series([1, 0, 1, 0, 1, 0], name="survived")
    >>> found = evaluate(LogisticRegression().fit(rows, survived), rows, survived)
    >>> found.metrics["accuracy"], round(found.intervals["accuracy"][0], 3)
    (1.0, 0.61)
    """
    fitted = _Fitted.of(model, X)
    actual = _truth(y, target)
    target = target or str(actual.name if actual.name is not None else "y")
    about = {"name": name or fitted.name, "target": target, "rows": len(actual)}
    task = task or fitted.task(actual)
    importance, how = _importance(fitted, actual, permutation)
    about["importance_measure"] = how
    if task == "regression":
        return _regression(fitted, actual, about, importance)
    if task not in ("binary", "multiclass"):
        raise PlotError(f"task must be binary, multiclass or regression, got {task!r}")
    return _classification(fitted, actual, positive, about, importance)


def _truth(y: ArrayLike | pd.Series, target: str | None) -> pd.Series:
    name = getattr(y, "name", None) if target is None else target
    actual = compute.columns.as_series(y, "y")
    if not len(actual):
        raise PlotError("nothing to evaluate: y has 0 rows; check the query's filters")
    if nulls := int(actual.isna().sum()):
        way_out = "leave those rows out, X[y.notna()] and y[y.notna()]"
        raise PlotError(f"y must be known in every row, got {nulls:,} NULL in {len(actual):,}: {way_out}")
    return actual.rename(name)


@dataclass(frozen=True)
class _Fitted:
    """An estimator with the rows as it takes them."""

    estimator: Any
    X: Any
    name: str
    n: int

    @classmethod
    def of(cls, model: Any, X: Any) -> "_Fitted":  # noqa: N803
        estimator, X = compute.columns.estimator_of(model, X)  # noqa: N806
        if not hasattr(estimator, "predict"):
            raise PlotError(f"a fitted model with predict is needed, got {type(model).__name__}")
        last = getattr(estimator, "best_estimator_", estimator)
        last = last.steps[-1][1] if hasattr(last, "steps") else last
        name = type(last).__name__ if estimator is model else str(model.manifest.ref)
        return cls(estimator, X, name, X.shape[0] if hasattr(X, "shape") else len(X))

    def task(self, actual: pd.Series) -> Task:
        """Say what the model is for, as far as it or the target tells."""
        if hasattr(self.estimator, "classes_"):
            return "binary" if len(self.estimator.classes_) == 2 else "multiclass"
        if hasattr(self.estimator, "predict_proba"):
            return "binary" if actual.nunique() <= 2 else "multiclass"
        if compute.columns.kind_of(actual) == "numeric":
            return "regression"
        way_out = "pass task='binary' or task='multiclass'"
        raise PlotError(f"{self.name} does not say its classes, and y holds {actual.dtype}: {way_out}")

    def predict(self) -> pd.Series:
        """Predict one value for each row."""
        predicted = compute.columns.as_series(np.asarray(self.estimator.predict(self.X)), "model.predict(X)")
        if predicted.isna().any():
            raise PlotError(f"model.predict(X) must give a value for each row, got {predicted.isna().sum():,} NULL")
        return predicted

    def shares(self, classes: int) -> Floats | None:
        """Return probabilities, n by k, or None where the model gives none."""
        if not hasattr(self.estimator, "predict_proba"):
            return None
        shares = np.asarray(self.estimator.predict_proba(self.X), dtype=float)
        if shares.shape != (self.n, classes) or not np.isfinite(shares).all():
            got = f"shape {shares.shape}, {(~np.isfinite(shares)).sum():,} not finite"
            raise PlotError(f"predict_proba(X) must give {self.n:,} rows of {classes} finite numbers, got {got}")
        return shares


def _same_length(actual: pd.Series, predicted: pd.Series) -> None:
    if len(actual) != len(predicted):
        raise PlotError(f"X and y must have the same rows, got {len(predicted):,} predictions and {len(actual):,} in y")


def _importance(fitted: _Fitted, actual: pd.Series, permutation: bool) -> tuple[dict[str, list[Any]], str]:
    if permutation:
        from mlsys.vis.compute import inspection

        table, how = inspection.permuted(fitted.estimator, fitted.X, actual, max_rows=2_000)
    else:
        try:
            table, how = compute.models.importances(fitted.estimator)
        except (PlotError, AttributeError, ValueError):  # no importances, or a step that cannot name its columns
            return {}, ""
    table = table.head(POINTS)
    return {"feature": [str(name) for name in table.index]} | {c: _plain(table[c]) for c in table}, how


# Classes ------------------------------------------------------------------------------------------------------------


def _classification(
    fitted: _Fitted, actual: pd.Series, positive: Any, about: dict[str, Any], importance: dict[str, list[Any]]
) -> Evaluation:
    predicted = fitted.predict()
    _same_length(actual, predicted)
    known = getattr(fitted.estimator, "classes_", None)
    classes = list(known) if known is not None else compute.columns.in_order(_distinct(actual, predicted))
    true, guessed = _codes(actual, classes, "y"), _codes(predicted, classes, "model.predict(X)")
    labels = tuple(compute.columns.label_of(label) for label in classes)
    k = len(classes)
    counts = np.bincount(true * k + guessed, minlength=k * k).reshape(k, k)
    at = _positive(classes, positive) if k == 2 else None
    found, curves = measure.from_counts(counts, positive=at), {"confusion": {"counts": counts.tolist()}}
    shares = fitted.shares(k)
    if at is not None:
        more = _binary_curves(fitted, true == at, labels[at], None if shares is None else shares[:, at], curves)
    else:
        more = _multiclass_curves(true, shares, counts, labels, curves)
    for part in ("values", "intervals", "methods"):
        getattr(found, part).update(getattr(more, part))
    if importance:
        curves["importance"] = importance
    text = _class_text(about, counts, labels, at, found)
    task: Task = "binary" if at is not None else "multiclass"
    return Evaluation(
        task=task,
        metrics=found.values,
        intervals=found.intervals,
        methods=found.methods,
        text=text,
        curves=curves,
        classes=labels,
        positive=None if at is None else labels[at],
        **about,
    )


def _distinct(*values: pd.Series) -> list[Any]:
    return list(dict.fromkeys(label for part in values for label in pd.unique(part).tolist()))


def _codes(values: pd.Series, classes: Sequence[Any], what: str) -> NDArray[np.intp]:
    """Return the position of each value in ``classes``."""
    codes, found = pd.factorize(values)
    place = {label: i for i, label in enumerate(classes)}
    found = [getattr(label, "item", lambda label=label: label)() for label in found]
    unknown = [label for label in found if label not in place]
    if unknown:
        rows = int(np.isin(codes, [found.index(label) for label in unknown]).sum())
        got = f"{compute.columns.listed(unknown)} in {rows:,} rows"
        known = compute.columns.listed(list(classes))
        raise PlotError(f"{what} must hold the model's classes ({known}), got {got}: map them, or leave those rows out")
    return np.array([place[label] for label in found])[codes]


def _positive(classes: Sequence[Any], positive: Any) -> int:
    if positive is None:
        return 1
    if positive not in list(classes):
        raise PlotError(f"positive={positive!r} is no class: the model's are {compute.columns.listed(list(classes))}")
    return list(classes).index(positive)


def _binary_curves(
    fitted: _Fitted, truth: NDArray[np.bool_], label: str, share: Floats | None, curves: dict[str, dict[str, list[Any]]]
) -> measure.Metrics:
    scores = share
    if scores is None and hasattr(fitted.estimator, "decision_function"):
        scores = np.asarray(fitted.estimator.decision_function(fitted.X), dtype=float)
        scores = scores if label == compute.columns.label_of(fitted.estimator.classes_[1]) else -scores
    if scores is None:
        return measure.Metrics()
    data = compute.models.Binary(truth, scores, label, 0)
    sweep = compute.models.sweep(data)
    found = measure.of_scores(data, sweep, probabilities=share is not None)
    thinned = compute.models.thin(sweep, POINTS)
    curves["thresholds"] = {
        "threshold": _plain(thinned.thresholds),
        "true_positives": [int(n) for n in thinned.hits],
        "false_positives": [int(n) for n in thinned.false],
    }
    edges = np.linspace(0, 1, 21) if share is not None else np.linspace(scores.min(), scores.max() + 1e-9, 21)
    hits, others = (np.histogram(scores[truth == side], edges)[0].tolist() for side in (True, False))
    curves["scores"] = {"low": _plain(edges[:-1]), "high": _plain(edges[1:]), "positives": hits, "negatives": others}
    if share is not None:
        table = compute.models.calibrated(data).table
        curves["calibration"] = {name: _plain(table[name]) for name in ("mean", "n", "positives")}
    return found


def _multiclass_curves(
    true: NDArray[np.intp],
    shares: Floats | None,
    counts: NDArray[np.intp],
    labels: tuple[str, ...],
    curves: dict[str, dict[str, list[Any]]],
) -> measure.Metrics:
    table = measure.by_class(counts, list(labels))
    curves["classes"] = {name: _plain(table[name]) if name != "class" else list(labels) for name in table}
    if shares is None:
        return measure.Metrics()
    best = shares.argmax(axis=1)
    data = compute.models.Binary(true == best, shares.max(axis=1), "the likeliest class", 0)
    found = compute.models.calibrated(data)
    curves["calibration"] = {name: _plain(found.table[name]) for name in ("mean", "n", "positives")}
    curves["scores"] = {
        "low": _plain(np.linspace(0, 0.95, 20)),
        "high": _plain(np.linspace(0.05, 1, 20)),
        "rows": found.counts.tolist(),
    }
    roc: dict[str, list[Any]] = {"class": [], "x": [], "y": [], "auc": []}
    frequent = [k for k in np.argsort(-counts.sum(axis=1), kind="stable")[:6] if 0 < counts[k].sum() < len(true)]
    for k in frequent:
        sweep = compute.models.sweep(compute.models.Binary(true == k, shares[:, k], labels[k], 0))
        curve = compute.models.roc(compute.models.thin(sweep, 60))
        roc["class"] += [labels[k]] * len(curve.x)
        roc["x"] += _plain(curve.x)
        roc["y"] += _plain(curve.y)
        roc["auc"] += [compute.models.roc(sweep).value] * len(curve.x)
    curves["roc"] = roc
    return measure.of_classes(true, shares)


# Numbers ------------------------------------------------------------------------------------------------------------


def _regression(
    fitted: _Fitted, actual: pd.Series, about: dict[str, Any], importance: dict[str, list[Any]]
) -> Evaluation:
    predicted = fitted.predict()
    _same_length(actual, predicted)
    y, x = compute.columns.as_float(actual, "y"), compute.columns.as_float(predicted, "model.predict(X)")
    points = compute.models.residuals(y, x, max_points=POINTS)
    found = measure.of_errors(y, x)
    errors = compute.data.histogram(y - x)
    curves = {
        "points": {"predicted": _plain(points.predicted), "actual": _plain(points.predicted + points.residual)},
        "bands": {name: _plain(points.bands[name]) for name in points.bands},
        "residuals": {"low": _plain(errors.edges[:-1]), "high": _plain(errors.edges[1:]), "n": errors.counts.tolist()},
    }
    if importance:
        curves["importance"] = importance
    return Evaluation(
        task="regression",
        metrics=found.values,
        intervals=found.intervals,
        methods=found.methods,
        text=_number_text(about, y, found),
        curves=curves,
        **about,
    )


# The text -----------------------------------------------------------------------------------------------------------


def _class_text(
    about: dict[str, Any], counts: NDArray[np.intp], labels: tuple[str, ...], at: int | None, found: measure.Metrics
) -> str:
    actual, rows = counts.sum(axis=1), about["rows"]
    common, k = int(actual.argmax()), len(labels)
    share = actual[common] / rows
    what = f"{_percent(actual[at] / rows)} are {labels[at]}" if at is not None else f"{k} classes"
    parts = [
        f"{about['name']}, predicting {about['target']}, on {_rows(rows)} ({what}).",
        f"{_percent(found.values['accuracy'])} are right ({_around(found, 'accuracy', percent=True)}); always saying"
        f" {labels[common]} would be right in {_percent(share)}.",
    ]
    low = found.intervals["accuracy"][0]
    if low <= share < 1:
        parts.append("So by accuracy alone these rows do not show that the model is better than that.")
    area = "roc_auc" if at is not None else "roc_auc_ovr"
    if area in found.values:
        parts.append(f"The area under the ROC curve is {found.values[area]:.3f} ({_around(found, area)}).")
        if found.values[area] > 0.99:
            parts.append("That is rarely true: look for a column that knows the answer, with plot_leakage.")
    if at is not None and "recall" in found.values:
        parts.append(f"Of the rows that are {labels[at]} it finds {_percent(found.values['recall'])}{_precise(found)}.")
    return " ".join([*parts, *_warnings(rows, actual, labels)])


def _precise(found: measure.Metrics) -> str:
    share = found.values.get("precision")
    return "" if share is None else f"; of those that it calls so {_percent(share)} are"


def _rows(n: int) -> str:
    return f"{n:,} row{'' if n == 1 else 's'}"


def _warnings(rows: int, actual: NDArray[np.intp], labels: tuple[str, ...]) -> list[str]:
    parts = []
    absent = [label for label, n in zip(labels, actual, strict=True) if n == 0]
    if absent:
        names = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        parts.append(f"No row is {names}, so what needs such rows is left out.")
    few = [label for label, n in zip(labels, actual, strict=True) if 0 < n < 10]
    if few or rows < 100:
        parts.append("Few rows: the intervals say how little that settles.")
    return parts


def _number_text(about: dict[str, Any], y: Floats, found: measure.Metrics) -> str:
    number, rows = compute.columns.format_number, about["rows"]
    parts = [
        f"{about['name']}, predicting {about['target']}, on {_rows(rows)}.",
        f"A prediction is {number(found.values['mae'])} off on average ({_around(found, 'mae')}); always saying the"
        f" median would be {number(float(np.abs(y - np.median(y)).mean()))} off.",
    ]
    if "r2" in found.values:
        parts.append(f"R² is {found.values['r2']:.3f} ({_around(found, 'r2')}).")
    low, high = found.intervals.get("bias", (-1.0, 1.0))
    if low > 0 or high < 0:
        side = "low" if low > 0 else "high"
        parts.append(f"Predictions are too {side}, by {number(abs(found.values['bias']))} on average.")
    return " ".join([*parts, "Few rows: the intervals say how little that settles." if rows < 100 else ""]).strip()


def _around(found: measure.Metrics, name: str, *, percent: bool = False) -> str:
    if name not in found.intervals:
        return "no interval"
    write = _percent if percent else (lambda value: compute.columns.format_number(value))
    low, high = found.intervals[name]
    return f"{write(low)} to {write(high)}"


def _percent(share: float) -> str:
    from mlsys.vis.drawing import percent

    return percent(float(share))


def _shown(value: float) -> str:
    return "" if math.isnan(value) else compute.columns.format_number(value, 4)


def _plain(values: Any, digits: int = 6) -> list[Any]:
    """Turn numbers into JSON's: None for what is not finite, and no more digits than a picture shows."""
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return array.tolist()
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in array.tolist()]
