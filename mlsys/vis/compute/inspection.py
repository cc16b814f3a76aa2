"""What a fitted model does with its columns, and what more rows would bring: by asking it many times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pandas.api import types

from mlsys.errors import PlotError
from mlsys.vis.compute import columns
from mlsys.vis.compute.columns import Floats


@dataclass(frozen=True)
class Dependence:
    """``table`` has one row for each value of a column: ``value``, ``mean``, ``low``, ``high``.

    ``low`` and ``high`` are the 10th and 90th percentile of the rows' predictions. ``numeric`` says whether the values
    are numbers, ``labels`` how to write them, ``rows`` how many rows were asked, ``quantity`` what was predicted.
    """

    table: pd.DataFrame
    numeric: bool
    labels: list[str]
    rows: int
    quantity: str
    seen: Floats  # deciles of a number, for a rug


@dataclass(frozen=True)
class Learning:
    """``table`` has one row for each training size: ``rows``, and mean, lowest and highest score of either kind."""

    table: pd.DataFrame
    scoring: str
    folds: int
    rows: int


def sample(X: pd.DataFrame, y: pd.Series | None, max_rows: int) -> tuple[pd.DataFrame, pd.Series | None]:  # noqa: N803
    """Return at most so many rows, the same ones each time."""
    if len(X) <= max_rows:
        return X, y
    at = np.sort(np.random.default_rng(columns.SEED).choice(len(X), max_rows, replace=False))
    return X.iloc[at], None if y is None else y.iloc[at]


def as_frame(X: Any) -> tuple[pd.DataFrame, bool]:  # noqa: N803
    """Return features as a frame, and whether they were an array."""
    if isinstance(X, pd.DataFrame):
        columns.require_frame(X)
        return X, False
    array = np.asarray(X)
    if array.ndim != 2 or not array.size:
        raise PlotError(f"X must be a frame or an array of n rows by k columns, got shape {array.shape}")
    return pd.DataFrame(array, columns=[f"feature {i}" for i in range(array.shape[1])]), True


def permuted(
    model: Any,
    X: Any,  # noqa: N803
    y: ArrayLike | pd.Series,
    *,
    scoring: str | None = None,
    repeats: int = 5,
    max_rows: int = 5_000,
) -> tuple[pd.DataFrame, str]:
    """Return ``importance`` and ``std`` by column: how much the score falls when the column is shuffled.

    L. Breiman, Random forests, Machine Learning 45 (2001). Columns that say the same share their importance: each alone
    seems to matter little.
    """
    from sklearn.inspection import permutation_importance

    model, X = columns.estimator_of(model, X)  # noqa: N806
    frame, plain = as_frame(X)
    truth = _truth(y, len(frame))
    rows, truth = sample(frame, truth, max_rows)
    found = permutation_importance(
        model,
        rows.to_numpy() if plain else rows,
        np.asarray(truth),
        scoring=scoring,
        n_repeats=repeats,
        random_state=columns.SEED,
    )
    name = scoring or ("accuracy" if hasattr(model, "classes_") else "R²")
    table = pd.DataFrame({"importance": found["importances_mean"], "std": found["importances_std"]})
    table.index = [str(column) for column in frame.columns]
    table = table.iloc[np.argsort(-np.abs(table["importance"].to_numpy()), kind="stable")]
    return table, f"mean loss of {name} when permuted, {len(rows):,} rows, {repeats} times"


def _truth(y: ArrayLike | pd.Series, n: int) -> pd.Series:
    """Return the target as scikit-learn takes it: numbers, booleans or text of numpy, whatever dtype they came in."""
    truth = columns.as_series(y, "y")
    if len(truth) != n:
        raise PlotError(f"X and y must have the same rows, got {n:,} and {len(truth):,}")
    if nulls := int(truth.isna().sum()):
        raise PlotError(f"y must be known in every row, got {nulls:,} NULL in {n:,}: leave those rows out")
    kind = columns.kind_of(truth)
    if kind == "numeric":
        return pd.Series(columns.as_float(truth, "y")).astype("int64" if types.is_integer_dtype(truth.dtype) else float)
    return truth.astype(bool) if kind == "boolean" else pd.Series(np.asarray(truth.astype(object).tolist()))


def dependence(
    model: Any,
    X: Any,  # noqa: N803
    column: Any,
    *,
    positive: Any = None,
    points: int = 20,
    top: int = 15,
    max_rows: int = 1_000,
) -> Dependence:
    """Ask a model about the same rows again and again, with one column set to each of some values in turn.

    Values are the quantiles of a number between its 1st and 99th percentile, or all where they are few, and the ``top``
    most frequent categories. J. Friedman, Greedy function approximation, Annals of Statistics 29 (2001), section 8.2.
    """
    model, X = columns.estimator_of(model, X)  # noqa: N806
    frame, plain = as_frame(X)
    columns.require_columns(frame, [column])
    values = frame[column]
    if values.isna().all():
        raise PlotError(f"column {column!r} must have known values, got {len(values):,} NULL")
    numeric = columns.kind_of(values) in ("numeric", "datetime")
    at = _grid(values, points) if numeric else list(_frequent(values, top))
    rows, _ = sample(frame, None, max_rows)
    predict, quantity = _predictor(model, positive)
    answers = []
    for value in at:
        asked = rows.copy(deep=False)
        asked[column] = pd.Series([value] * len(rows), index=rows.index).astype(values.dtype)
        answers.append(predict(asked.to_numpy() if plain else asked))
    told = np.array(answers)
    low, high = np.quantile(told, [0.1, 0.9], axis=1)
    x = columns.as_float(pd.Series(at, dtype=values.dtype), str(column)) if numeric else np.arange(len(at))
    table = pd.DataFrame({"value": x, "mean": told.mean(axis=1), "low": low, "high": high})
    seen = columns.as_float(values, str(column)) if numeric else np.array([])
    deciles = np.nanquantile(seen, np.arange(0.1, 0.91, 0.1)) if numeric else seen
    return Dependence(table, numeric, [columns.label_of(value) for value in at], len(rows), quantity, deciles)


def _grid(values: pd.Series, points: int) -> list[Any]:
    """Return values that occur, so that whole numbers stay whole and dates stay dates."""
    known = values.dropna().sort_values()
    distinct = known.drop_duplicates()
    if len(distinct) <= points:
        return distinct.tolist()
    inner = known.iloc[np.linspace(0.01 * (len(known) - 1), 0.99 * (len(known) - 1), points).round().astype(int)]
    return inner.drop_duplicates().tolist()


def _frequent(values: pd.Series, top: int) -> Sequence[Any]:
    return values.dropna().value_counts().index[:top].tolist()


def _predictor(model: Any, positive: Any) -> tuple[Any, str]:
    """Return what a model predicts as numbers: the probability of a class, or the number itself."""
    if not hasattr(model, "predict_proba"):
        if hasattr(model, "classes_"):
            raise PlotError(f"{type(model).__name__} gives no probabilities: fit a classifier with predict_proba")
        return lambda rows: np.asarray(model.predict(rows), dtype=float), "prediction"
    classes = list(model.classes_)
    if positive is None and len(classes) != 2:
        raise PlotError(f"positive= must name a class, as there are {len(classes)}: {columns.listed(classes)}")
    if positive is not None and positive not in classes:
        raise PlotError(f"positive={positive!r} is no class of the model: they are {columns.listed(classes)}")
    at = 1 if positive is None else classes.index(positive)
    return lambda rows: np.asarray(model.predict_proba(rows))[:, at], f"probability of {columns.label_of(classes[at])}"


def learning(
    model: Any,
    X: Any,  # noqa: N803
    y: ArrayLike | pd.Series,
    *,
    scoring: str | None = None,
    folds: int = 5,
    sizes: int = 6,
    max_rows: int = 20_000,
) -> Learning:
    """Fit a model again on more and more rows, and score it on those and on rows that it has not seen."""
    from sklearn.base import is_classifier
    from sklearn.model_selection import learning_curve

    model, X = columns.estimator_of(model, X)  # noqa: N806
    frame, plain = as_frame(X)
    truth = _truth(y, len(frame))
    rows, truth = sample(frame, truth, max_rows)
    if len(rows) < 2 * folds:
        raise PlotError(f"{folds} folds need {2 * folds} rows or more, got {len(rows)}: lower folds=")
    values = np.asarray(truth)
    found = learning_curve(
        model,
        rows.to_numpy() if plain else rows,
        values,
        cv=folds,
        scoring=scoring,
        train_sizes=np.geomspace(0.1, 1, sizes),
        shuffle=True,
        random_state=columns.SEED,
        error_score=np.nan,
    )
    table = pd.DataFrame({"rows": found[0]})
    for name, scores in (("train", found[1]), ("test", found[2])):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = (
            scores.mean(axis=1),
            scores.min(axis=1),
            scores.max(axis=1),
        )
    table = table.dropna()
    if table.empty:
        raise PlotError(f"{type(model).__name__} could not be fitted on any part of {len(rows):,} rows: fit it by hand")
    return Learning(table, scoring or ("accuracy" if is_classifier(model) else "R²"), folds, len(rows))
