"""Plots of what a fitted model does with its columns, and of what more rows would bring."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mlsys.vis import compute
from mlsys.vis import drawing as draw
from mlsys.vis.models import draw_importance

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_permutation_importance(
    model: Any,
    X: Any,  # noqa: N803, as scikit-learn calls it
    y: ArrayLike | pd.Series,
    *,
    scoring: str | None = None,
    repeats: int = 5,
    max_rows: int = 5_000,
    top: int = 20,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw how much the score falls when a column is shuffled, for any fitted model and its own columns.

    Use rows that the model has not seen. Columns that say the same share their importance.

    Parameters
    ----------
    scoring
        A name that scikit-learn knows; by default the model's own score.
    repeats, max_rows
        How often each column is shuffled, in a sample of so many rows.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.barh`.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> rows = pd.DataFrame({"age": [4.0, 30, 8, 41], "fare": [10.0, 8, 20, 7]})
    >>> ax = plot_permutation_importance(LinearRegression().fit(rows, [1, 2, 3, 4]), rows, [1, 2, 3, 4])
    """
    table, measure = compute.inspection.permuted(model, X, y, scoring=scoring, repeats=repeats, max_rows=max_rows)
    name, *notes = measure.split(", ")
    return draw_importance(table, name, top, ax, kwargs, ", ".join(notes))


def plot_partial_dependence(
    model: Any,
    X: Any,  # noqa: N803
    column: Any,
    *,
    positive: Any = None,
    max_rows: int = 1_000,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw how the mean prediction changes when one column is set to each of its values in turn.

    Values that do not go together with a row's other columns are asked about too: read it beside `plot_correlations`.

    Parameters
    ----------
    column
        A column of ``X``; of an array ``feature 0``, ``feature 1`` and so on.
    positive
        The class whose probability is drawn; by default the second of two.
    max_rows
        The size of the sample whose predictions are averaged.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.plot`, or for categories to :meth:`matplotlib.axes.Axes.errorbar`.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> rows = pd.DataFrame({"age": [4.0, 30, 8, 41], "fare": [10.0, 8, 20, 7]})
    >>> ax = plot_partial_dependence(LinearRegression().fit(rows, [1, 2, 3, 4]), rows, "age")
    """
    found = compute.inspection.dependence(model, X, column, positive=positive, max_rows=max_rows)
    table = found.table
    size = len(np.atleast_1d(X)) if not hasattr(X, "shape") else X.shape[0]
    n = f"a sample of {found.rows:,} of {size:,} rows" if found.rows < size else f"n = {found.rows:,}"
    title, band = f"Partial dependence on {column}", "band: 10 to 90 % of rows"
    if not found.numeric:
        ax = draw.row_axes(ax, found.labels)
        around = [table["mean"] - table["low"], table["high"] - table["mean"]]
        style: dict[str, Any] = {"fmt": "o", "color": draw.BLUE, "capsize": 2}
        ax.errorbar(table["mean"], range(len(table)), xerr=around, **style | kwargs)
        ax.set(xlabel=f"mean {draw.text(found.quantity)}", ylabel=draw.text(column))
        return draw.headline(ax, title, n, band)
    ax = draw.axes(ax)
    dates = X is not None and compute.columns.kind_of(compute.inspection.as_frame(X)[0][column]) == "datetime"
    x, seen = (draw.dates(ax, v.to_numpy()) if dates else v for v in (table["value"], pd.Series(found.seen)))
    ax.fill_between(x, table["low"], table["high"], color=draw.SKY, alpha=0.3, linewidth=0)
    style = {"color": draw.BLUE, "marker": "o", "markersize": 3}
    ax.plot(x, table["mean"], **style | kwargs)
    if not dates and len(table) < 12 and (table["value"] % 1 == 0).all():
        ax.set_xticks(table["value"])
    style = {"transform": ax.get_xaxis_transform(), "color": draw.DARK, "linewidth": 1}
    ax.vlines(np.unique(seen), 0, 0.03, **style)
    ax.set(xlabel=draw.text(column), ylabel=f"mean {draw.text(found.quantity)}")
    return draw.headline(ax, title, n, band, "strokes: deciles of the column")


def plot_learning_curve(
    model: Any,
    X: Any,  # noqa: N803
    y: ArrayLike | pd.Series,
    *,
    scoring: str | None = None,
    folds: int = 5,
    max_rows: int = 20_000,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw the score on rows that a model was fitted on and on others, against the number of rows fitted on.

    Where both lines have met, more rows help little; where they are apart and the lower one rises, more rows would.

    Parameters
    ----------
    model
        An estimator, which is fitted again for each size and fold.
    scoring
        A name that scikit-learn knows; by default the model's own score.
    folds
        How many parts the rows are cut into, each scored by a model fitted on others.
    max_rows
        The size of the sample that is learnt from.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.plot`.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> ax = plot_learning_curve(LinearRegression(), pd.DataFrame({"age": range(40)}), [2.0 * i for i in range(40)])
    """
    found = compute.inspection.learning(model, X, y, scoring=scoring, folds=folds, max_rows=max_rows)
    table, size = found.table, np.size(y)
    ax = draw.axes(ax)
    lines = (("train", "rows it was fitted on"), ("test", "other rows"))
    for i, (name, label) in enumerate(lines):
        color, style = draw.COLORS[1 - i], {"marker": draw.MARKERS[i], "linestyle": draw.DASHES[1 - i], "markersize": 4}
        ax.fill_between(
            table["rows"], table[f"{name}_low"], table[f"{name}_high"], color=color, alpha=0.15, linewidth=0
        )
        ax.plot(table["rows"], table[name], **{"color": color, "label": label} | style | kwargs)
    ax.set(xlabel="rows fitted on", ylabel=found.scoring)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(frameon=False, loc="best")
    n = f"a sample of {found.rows:,} of {size:,} rows" if found.rows < size else f"n = {found.rows:,}"
    return draw.headline(ax, "Learning curve", n, f"mean of {found.folds} folds, band: lowest to highest")
