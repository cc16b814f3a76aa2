"""How columns go together with a target: rates, means and classes by group, and how much each tells alone."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlsys.errors import PlotError
from mlsys.vis.compute import columns, models
from mlsys.vis.compute.columns import Floats

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True)
class Leakage:
    """``table`` by column, most telling first: ``score``, and ``null_score``, what its NULLs alone tell (else NaN).

    ``measure`` is what the scores are, ``rows`` how many were measured, ``left_out`` columns that tell nothing and why.
    """

    table: pd.DataFrame
    measure: str
    rows: int
    left_out: dict[str, str]


def task_of(values: pd.Series) -> Task:
    """Say what kind of target a column is: numbers with fractions or over 20 values are a quantity, else classes."""
    known = values.dropna()
    if not len(known):
        raise PlotError(f"target {values.name!r} must be known in some rows, got {len(values):,} NULL")
    kind, distinct = columns.kind_of(known), columns.as_labels(known).nunique()
    if distinct < 2:
        only = columns.listed([columns.as_labels(known).iloc[0]])
        raise PlotError(f"target {values.name!r} must vary, got only {only} in {len(known):,} rows")
    if distinct == 2:
        return "binary"
    if kind == "datetime":
        raise PlotError(
            f"target {values.name!r} must hold classes or numbers, got dates: turn them into a number first"
        )
    if kind != "numeric":
        return "multiclass"
    numbers = columns.as_float(known, str(values.name))
    return "regression" if distinct > 20 or (numbers % 1 != 0).any() else "multiclass"


def grouped(
    df: pd.DataFrame, column: str, target: str, *, bins: int, top: int
) -> tuple[pd.Series, columns.Groups, int]:
    """Return the known targets, the groups of a column in the same rows, and how many rows have no target."""
    columns.require_frame(df)
    columns.require_columns(df, [column, target])
    known = df[target].notna()
    if not known.any():
        raise PlotError(f"nothing to plot: all {len(df):,} values of {target!r} are NULL")
    values = df.loc[known, column]
    if columns.kind_of(values) in ("numeric", "datetime"):
        groups = columns.group_by_quantile(values, max(2, min(bins, int(values.notna().sum()) // 5)))
    else:
        groups = columns.group_by_label(values, top)
    return df.loc[known, target], groups, int((~known).sum())


def _labelled(table: pd.DataFrame, groups: columns.Groups, column: str) -> pd.DataFrame:
    table.index = pd.Index(groups.labels, name=column)
    table["is_null"] = [groups.has_null and i == len(table) - 1 for i in range(len(table))]
    return table


def target_rate(
    df: pd.DataFrame, column: str, target: str, *, bins: int = 10, top: int = 15, positive: Any = None
) -> tuple[pd.DataFrame, str, int]:
    """Return the rate of a binary target by group, the positive class's name, and how many rows have no target.

    One row for each group, in drawing order: ``n``, ``positives``, ``rate``, ``low``, ``high``, ``is_null``.
    """
    known, groups, dropped = grouped(df, column, target, bins=bins, top=top)
    truth, label = columns.is_positive(known, f"target {target!r}", positive)
    return _labelled(columns.rates(truth, groups.codes, len(groups.labels)), groups, column), label, dropped


def target_mean(
    df: pd.DataFrame, column: str, target: str, *, bins: int = 10, top: int = 15
) -> tuple[pd.DataFrame, int]:
    """Return the mean of a numeric target by group, and how many rows have no target.

    One row for each group, in drawing order: ``n``, ``mean``, ``low``, ``high`` (Student's 95 % interval, NaN for a
    single row), ``is_null``.
    """
    from scipy import stats

    known, groups, dropped = grouped(df, column, target, bins=bins, top=top)
    numbers, size = columns.as_float(known, f"target {target!r}"), len(groups.labels)
    if infinite := int(np.isinf(numbers).sum()):
        raise PlotError(f"target {target!r} must be finite, got {infinite:,} infinite values: leave those rows out")
    n = groups.counts
    mean = np.bincount(groups.codes, numbers, size) / np.maximum(n, 1)
    squares = np.bincount(groups.codes, (numbers - mean[groups.codes]) ** 2, size)
    with np.errstate(invalid="ignore", divide="ignore"):
        half = stats.t.ppf(0.975, n - 1) * np.sqrt(squares / (n - 1) / n)
    table = pd.DataFrame({"n": n, "mean": mean, "low": mean - half, "high": mean + half})
    return _labelled(table, groups, column), dropped


def target_classes(
    df: pd.DataFrame, column: str, target: str, *, bins: int = 10, top: int = 15, classes: int = 5
) -> tuple[pd.DataFrame, int]:
    """Count the classes of a target (columns, those beyond the most frequent as ``other (n)``) by group (rows)."""
    known, groups, dropped = grouped(df, column, target, bins=bins, top=top)
    kinds = columns.group_by_label(known, classes)
    size = len(kinds.labels)
    counts = np.bincount(groups.codes * size + kinds.codes, minlength=len(groups.labels) * size)
    index = pd.Index(groups.labels, name=column)
    return pd.DataFrame(counts.reshape(-1, size), index=index, columns=kinds.labels), dropped


def leakage(df: pd.DataFrame, target: str, *, max_rows: int = 100_000) -> Leakage:
    """Measure how well each column alone, and its NULLs alone, tell the target.

    Each half of the rows is predicted by the means that the target has, group by group, in the other half; so a column
    that is different in every row tells nothing. Groups are up to a hundred bins of numbers, the 50 most frequent
    categories, and NULL. The score is the area under the ROC curve (of several classes the mean, each against the rest)
    or R², never below chance.

    S. Kaufman and others, Leakage in data mining, ACM Transactions on Knowledge Discovery from Data 6 (2012), describe
    what such columns do to a model.
    """
    columns.require_frame(df)
    columns.require_columns(df, [target])
    task = task_of(df[target])
    rows = df.loc[df[target].notna()]
    rows = rows if len(rows) <= max_rows else rows.sample(max_rows, random_state=columns.SEED)
    half = np.random.default_rng(columns.SEED).permutation(len(rows)) % 2 == 0
    truths = _truths(rows[target], task)
    scores, left_out = {}, {}
    for name in rows.columns.drop(target):
        values = columns.as_labels(rows[name])
        if values.nunique(dropna=False) < 2:
            left_out[str(name)] = "constant"
            continue
        null = values.isna().to_numpy()
        alone = _score(null.astype(int), truths, half, task) if null.any() else np.nan
        scores[name] = (_score(_codes(values, len(rows)), truths, half, task), alone)
    if not scores:
        raise PlotError(f"nothing to plot: no column but {target!r} varies, got {len(df.columns)} columns")
    table = pd.DataFrame.from_dict(scores, orient="index", columns=["score", "null_score"])
    measure = {"binary": "area under the ROC curve", "multiclass": "mean area under the ROC curves"}.get(task, "R²")
    return Leakage(table.sort_values("score", ascending=False, kind="stable"), measure, len(rows), left_out)


def _truths(values: pd.Series, task: Task) -> list[Floats]:
    """Return what is to be told: the number, the indicator of one of two classes, or those of ten classes at most."""
    if task == "regression":
        return [columns.as_float(values, str(values.name))]
    groups = columns.group_by_label(values, 10)
    return [(groups.codes == k).astype(float) for k in range(1 if task == "binary" else len(groups.labels))]


def _codes(values: pd.Series, n: int) -> NDArray[np.intp]:
    if columns.kind_of(values) in ("numeric", "datetime"):
        return columns.group_by_quantile(values, int(np.clip(n // 50, 2, 100))).codes
    return columns.group_by_label(values, 50).codes


def _score(codes: NDArray[np.intp], truths: list[Floats], half: NDArray[np.bool_], task: Task) -> float:
    told = [_told(codes, truth, half) for truth in truths]
    if task == "regression":
        spread = ((truths[0] - truths[0].mean()) ** 2).sum()
        return float(max(0.0, 1 - ((truths[0] - told[0]) ** 2).sum() / spread))
    return float(max(0.5, np.mean([_area(truth, guess, half) for truth, guess in zip(truths, told, strict=True)])))


def _told(codes: NDArray[np.intp], truth: Floats, half: NDArray[np.bool_]) -> Floats:
    """Predict each half by the other's means, drawn towards the overall mean where a group has few rows there."""
    told, size = np.empty(len(truth)), int(codes.max()) + 1
    for side in (half, ~half):
        other = codes[~side]
        prior = truth[~side].mean() if (~side).any() else 0.0
        sums, n = np.bincount(other, truth[~side], size), np.bincount(other, minlength=size)
        told[side] = ((sums + prior) / (n + 1))[codes[side]]
    return told


def _area(truth: Floats, guess: Floats, half: NDArray[np.bool_]) -> float:
    """Average the halves' areas: their guesses come from different means, and do not compare with each other."""
    areas = []
    for side in (half, ~half):
        hit = truth[side] > 0
        if 0 < hit.sum() < len(hit):
            areas.append(models.roc(models.sweep(models.Binary(hit, guess[side], "", 0))).value)
    return float(np.mean(areas)) if areas else 0.5
