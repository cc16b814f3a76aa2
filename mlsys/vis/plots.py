"""Plots of data, models and predictions. The numbers come from ``compute``; here they are only drawn.

All functions take data first and options by keyword, and draw on ``ax`` or on a new figure. They return the ``Axes``
(``plot_distributions`` an array of them; ``interactive=True`` a plotly ``Figure``). Further keywords go to the main
artist. None calls ``show`` or touches global style. Under the title stand the rows, and what was left out or sampled.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mlsys.vis import compute

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

# Okabe and Ito's colours, safe for colour-blind readers; lines differ in dashes and markers too, for print in grey.
BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY, DARK = "#AAAAAA", "#555555"
_COLORS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_PLOTLY_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_CURVE, _NOTES = "mlsys-curve", "mlsys-notes"  # ids of what a second call on the same Axes has to find again
_DOT = "\N{NO-BREAK SPACE}· "  # between notes; the dot stays on its line


# Data ---------------------------------------------------------------------------------------------------------------


def plot_missing(df: pd.DataFrame, *, top: int = 30, ax: "Axes | None" = None, **kwargs: Any) -> "Axes":
    """Draw the share of NULLs in each column, most first.

    Parameters
    ----------
    top
        How many columns to draw; the title says what the others hold.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.barh`.

    Examples
    --------
    >>> ax = plot_missing(pd.DataFrame({"age": [22, None, 38], "fare": [7.25, 71.28, 7.92]}))
    """
    table = compute.missing(df)
    shown, rest = table.head(top), table.iloc[top:]
    ax = _row_axes(ax, shown.index)
    bars = ax.barh(range(len(shown)), shown["share"] * 100, **{"color": BLUE} | kwargs)
    labels = [f"{_percent(s)} ({n:,})" if n else "0" for n, s in zip(shown["missing"], shown["share"], strict=True)]
    ax.bar_label(bars, labels, padding=3, fontsize="small")
    ax.set(xlim=(0, 122), xticks=range(0, 101, 20), xlabel="rows with NULL (%)")
    complete = f"{(table['missing'] == 0).sum():,} of {len(table):,} columns complete"
    hidden = f"{len(rest):,} columns not drawn have at most {rest['missing'].max():,} NULLs" if len(rest) else ""
    return _headline(ax, "Missing values", f"n = {len(df):,} rows", complete, hidden)


def plot_distributions(
    df: pd.DataFrame, columns: Sequence[str] | None = None, *, top: int = 10, max_columns: int = 24, **kwargs: Any
) -> "NDArray[Any]":
    """Draw every column by its type: a histogram of numbers and dates, bars of categories.

    Returns a flat array with one ``Axes`` for each column drawn, as :meth:`pandas.DataFrame.hist` does;
    the figure is ``axes[0].figure``.

    Parameters
    ----------
    columns
        The columns to draw, by default the first ``max_columns``.
    top
        How many categories to draw; the others are added up as ``other (n)``, and NULL has a bar of its own.
    **kwargs
        Passed to the bars of every panel.

    Examples
    --------
    >>> axes = plot_distributions(pd.DataFrame({"age": [22, None, 38], "sex": ["male", "female", "female"]}))
    """
    import matplotlib.pyplot as plt

    compute.require_frame(df)
    compute.require_columns(df, [] if columns is None else columns)
    names = list(df.columns if columns is None else columns)
    shown = names[:max_columns] if columns is None else names
    if not shown:
        raise ValueError(f"no columns to plot, got columns={columns!r}: name some, or leave it out for all")
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(max(4.2 * across, 5), 2.9 * down), layout="constrained", squeeze=False
    )
    for ax, name in zip(grid.flat, shown, strict=False):
        _draw_distribution(ax, df[name], top, kwargs)
    for ax in grid.flat[len(shown) :]:
        ax.remove()
    some = f"the first {len(shown)} of {len(names)} columns, " if len(shown) < len(names) else ""
    figure.suptitle(f"Distributions: {some}{len(df):,} rows", fontsize="large")
    return np.array(grid.flat[: len(shown)])


def _draw_distribution(ax: "Axes", values: pd.Series, top: int, kwargs: dict[str, Any]) -> None:
    kind, nulls = compute.kind_of(values), int(values.isna().sum())
    notes = [f"n = {len(values) - nulls:,}", f"NULL {nulls:,} ({_percent(nulls / len(values))})" if nulls else ""]
    ax.spines[["top", "right"]].set_visible(False)
    if kind in ("numeric", "datetime"):
        bins = compute.histogram(compute.as_float(values, str(values.name)))
        if kind == "datetime":
            edges = _dates(ax, bins.edges)
        else:
            edges = bins.edges
            if 1 < len(edges) < 14 and (edges % 1 == 0.5).all():  # one bar for each integer
                ax.set_xticks(edges[:-1] + 0.5)
        style = {"color": BLUE, "edgecolor": "white", "linewidth": 0.5, "align": "edge"}
        ax.bar(edges[:-1], bins.counts, np.diff(edges), **style | kwargs)
        _count_axis(ax.yaxis)
        notes.append(f"{bins.outside:,} beyond the axis" if bins.outside else "")
    else:
        groups = compute.group_by_label(values, top)
        rest = groups.has_other + groups.has_null
        own = len(groups.labels) - rest
        style = {"color": [BLUE] * own + [GREY] * rest, "edgecolor": "white", "linewidth": 0}
        style["hatch"] = [""] * (own + groups.has_other) + ["////"] * groups.has_null
        bars = ax.barh(range(own + rest), groups.counts, **style | kwargs)
        ax.bar_label(bars, [f"{count:,}" for count in groups.counts], padding=3, fontsize="small")
        _label_rows(ax, groups.labels, width=18)
        ax.margins(x=0.22)
        _count_axis(ax.xaxis)
    _headline(ax, compute.shorten(values.name, 34), *notes, width=46)


def plot_target_rate(
    df: pd.DataFrame,
    column: str,
    target: str,
    *,
    bins: int = 10,
    top: int = 15,
    positive: Any = None,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw the rate of a binary target by category, or by bins of about equal size for numbers and dates.

    Each rate has its 95 % Wilson interval and its counts; NULL is a group of its own.

    Parameters
    ----------
    bins, top
        How many bins a number gets at most (each has 5 rows or more), and how many categories before ``other (n)``.
    positive
        The class that counts; by default True, 1, or the last of two labels in sorted order.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.errorbar`.

    Examples
    --------
    >>> passengers = pd.DataFrame({"sex": ["male", "female", "female"], "survived": [0, 1, 1]})
    >>> ax = plot_target_rate(passengers, "sex", "survived")
    """
    table, label, dropped = compute.target_rate(df, column, target, bins=bins, top=top, positive=positive)
    ax = _row_axes(ax, table.index)
    rows = np.arange(len(table))
    for null, style in ((False, {"color": BLUE}), (True, {"color": DARK, "markerfacecolor": "white"})):
        part, y = table[table["is_null"] == null], rows[table["is_null"] == null]
        if len(part):
            around = [(part["rate"] - part["low"]) * 100, (part["high"] - part["rate"]) * 100]
            ax.errorbar(
                part["rate"] * 100, y, xerr=around, **{"fmt": "o", "capsize": 2, "clip_on": False} | style | kwargs
            )
    for y, positives, n in zip(rows, table["positives"], table["n"], strict=True):
        text = f"{positives:,} of {n:,}"
        ax.text(1.025, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=DARK)
    overall = table["positives"].sum() / table["n"].sum()
    ax.axvline(overall * 100, color=DARK, linestyle="--", linewidth=1, zorder=0)
    ax.set(xlim=_within_100(table["low"].min() * 100, table["high"].max() * 100), ylabel=_text(column))
    ax.set_xlabel(f"rows with {_text(target)} = {_text(label)} (%), with 95 % interval")
    known = f"n = {table['n'].sum():,}"
    line = f"dashed: overall {_percent(overall)}"
    return _headline(
        ax, f"{target} by {column}", known, line, f"{_count(dropped, 'row')} without target" if dropped else ""
    )


def plot_correlations(df: pd.DataFrame, *, top: int = 15, ax: "Axes | None" = None, **kwargs: Any) -> "Axes":
    """Draw how strongly columns of any type go together, as strength (colour) and value (text).

    Two numbers have Pearson's r (signed; booleans and dates count as numbers), two categories Cramér's V, a number and
    a category the correlation ratio. Above 100,000 rows a sample is measured. Constants and free text are left out.

    Parameters
    ----------
    top
        How many columns to draw: those with the strongest associations.
    **kwargs
        Passed to :func:`seaborn.heatmap`.

    Examples
    --------
    >>> ax = plot_correlations(pd.DataFrame({"age": [22, 35, 38], "fare": [7, 53, 71], "sex": ["m", "f", "f"]}))
    """
    found = compute.associations(df, top=top)
    names, size = list(found.matrix.columns), len(found.matrix)
    ax = _axes(ax, width=3.2 + 0.5 * size, height=2.2 + 0.45 * size)
    # the diagonal and the upper half would say nothing new
    part = found.matrix.iloc[1:, :-1]
    signed = np.add.outer(np.arange(1, size), np.zeros(size - 1)) < found.numeric
    part = part.round(2) + 0.0  # no negative zeros
    text = np.where(signed, part.map("{:+.2f}".format), part.map("{:.2f}".format)).astype(str)
    text = np.where(part.isna(), "?", np.char.replace(text, "-", compute.MINUS))
    mask = np.triu(np.ones(part.shape, dtype=bool), k=1)
    options = {"mask": mask, "linewidths": 0.5, "square": True, "cbar_kws": {"label": "strength", "shrink": 0.7}}
    _heatmap(ax, part.abs(), text, names[1:], names[:-1], options | kwargs)
    if 0 < found.numeric < size:  # where numbers end and categories begin
        ax.axhline(found.numeric - 1, color=DARK, linewidth=1.2, xmax=found.numeric / (size - 1))
        ax.axvline(found.numeric, color=DARK, linewidth=1.2, ymax=1 - (found.numeric - 1) / (size - 1))
    sampled = f"a sample of {found.rows:,} of {len(df):,} rows" if found.rows < len(df) else f"n = {len(df):,} rows"
    measures = "with sign: Pearson's r; without: Cramér's V or, across the line, correlation ratio"
    measures = {0: "Cramér's V", size: "Pearson's r"}.get(found.numeric, measures)
    reasons = pd.Series(found.left_out, dtype=object)
    out = [f"{reason}: {_names(group.index)}" for reason, group in reasons.groupby(reasons, sort=False)]
    return _headline(ax, "Associations", sampled, measures, f"left out: {'; '.join(out)}" if out else "")


# Models -------------------------------------------------------------------------------------------------------------


def plot_confusion_matrix(
    y_true: ArrayLike, y_pred: ArrayLike, *, top: int = 20, ax: "Axes | None" = None, **kwargs: Any
) -> "Axes":
    """Draw actual against predicted classes: counts, and shares of each actual class (colour).

    Parameters
    ----------
    top
        How many classes to draw, the most frequent; the others are added up as ``other (n)``.
    **kwargs
        Passed to :func:`seaborn.heatmap`.

    Examples
    --------
    >>> ax = plot_confusion_matrix(["yes", "no", "no"], ["yes", "no", "yes"])
    """
    counts, correct, dropped = compute.confusion(y_true, y_pred, top=top)
    size, totals = len(counts), counts.sum(axis=1)
    shares = counts.div(totals.where(totals > 0), axis=0).fillna(0)
    many, names = size > 8, compute.shorten_all(counts.columns, 24)
    longest, cell = max(map(len, names)), 0.5 if many else 0.75
    ax = _axes(
        ax, width=max(5, 2.6 + 0.07 * longest + cell * size), height=max(4.2, 1.2 + 0.05 * longest + cell * size)
    )
    text = counts.map(lambda n: f"{n:,}" if n or not many else "").to_numpy(dtype=object)
    if not many:
        text = text + "\n" + shares.map(_percent).to_numpy(dtype=object)
    rows = [f"{name} ({n:,})" for name, n in zip(names, totals, strict=True)]
    options = {"linewidths": 0.5, "cbar_kws": {"label": "share of the actual class"}}
    options["annot_kws"] = {"fontsize": 7 if size > 12 else "small" if many else "medium"}
    _heatmap(ax, shares, text, rows, list(counts.columns), options | kwargs)
    ax.set(xlabel="predicted", ylabel="actual (rows)")
    mixed = any(label.startswith("other (") for label in counts.columns)
    notes = ("mistakes within “other” stand on its diagonal" if mixed else "", _left_out(dropped))
    return _headline(ax, f"Confusion matrix: {_percent(correct)} correct", f"n = {totals.sum():,}", *notes)


def plot_roc(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    positive: Any = None,
    name: str | None = None,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw the ROC curve with its area. Call it again on the same ``ax`` to compare models.

    Parameters
    ----------
    y_true
        Two classes.
    y_score
        A score for each row, higher for the positive class, such as ``model.predict_proba(X)[:, 1]``.
    positive
        The class that counts; by default True, 1, or the last of two labels in sorted order.
    name
        The curve's name in the legend, such as a model version.
    interactive
        Return a plotly ``Figure`` that shows thresholds on hover.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.plot`, or to ``plotly.graph_objects.Scatter``.

    Examples
    --------
    >>> ax = plot_roc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], name="v1")
    """
    curve = compute.roc(y_true, y_score, positive=positive)
    look = _Look("ROC curve", "AUC", "false positive rate", "true positive rate", ([0, 1], [0, 1]), "default", "linear")
    return (_plotly_curve if interactive else _draw_curve)(curve, look, name, ax, kwargs)


def plot_precision_recall(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    positive: Any = None,
    name: str | None = None,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw precision against recall with the average precision; parameters as for :func:`plot_roc`.

    Examples
    --------
    >>> figure = plot_precision_recall([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], interactive=True)
    """
    curve = compute.precision_recall(y_true, y_score, positive=positive)
    chance = ([0, 1], [curve.data.truth.mean()] * 2)
    look = _Look("Precision and recall", "average precision", "recall", "precision", chance, "steps-pre", "vh")
    return (_plotly_curve if interactive else _draw_curve)(curve, look, name, ax, kwargs)


@dataclass(frozen=True)
class _Look:
    """What sets one curve over thresholds apart from another."""

    title: str
    measure: str
    xlabel: str
    ylabel: str
    chance: tuple[list[float], list[float]]
    drawstyle: str
    line_shape: str

    def label(self, curve: compute.Curve, name: str | None) -> str:
        return f"{name}: {self.measure} = {curve.area:.3f}" if name else f"{self.measure} = {curve.area:.3f}"

    def notes(self, curve: compute.Curve) -> list[str]:
        data = curve.data
        count = f"{data.truth.sum():,} of {len(data.truth):,} rows are {data.positive}"
        thinned = "curve thinned to 1,000 points" if len(curve.x) <= curve.thresholds_total else ""
        return [count, _left_out(data.dropped), thinned]


def _draw_curve(
    curve: compute.Curve, look: _Look, name: str | None, ax: "Axes | None", kwargs: dict[str, Any]
) -> "Axes":
    ax = _axes(ax, width=5.2, height=5.0)
    before = sum(line.get_gid() == _CURVE for line in ax.lines)
    if not before:
        ax.plot(*look.chance, color=DARK, linestyle=":", linewidth=1)
        at = (0.62, 0.60) if look.chance[1][0] == 0 else (0.02, look.chance[1][0])
        ax.annotate("chance", at, xytext=(0, 3), textcoords="offset points", fontsize="small", color=DARK)
    style = {"color": _COLORS[before % 6], "linestyle": _DASHES[before % 6], "drawstyle": look.drawstyle}
    ax.plot(curve.x, curve.y, gid=_CURVE, label=look.label(curve, name), **style | kwargs)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=look.xlabel, ylabel=look.ylabel)
    ax.legend(loc="lower right" if look.drawstyle == "default" else "best", frameon=False)
    return _headline(ax, look.title, *look.notes(curve))


def _plotly_curve(
    curve: compute.Curve, look: _Look, name: str | None, ax: "Axes | None", kwargs: dict[str, Any]
) -> "Figure":
    figure = _plotly_figure(ax, look.title, look.notes(curve), look.xlabel, look.ylabel)
    hover = f"{look.xlabel} %{{x:.3f}}<br>{look.ylabel} %{{y:.3f}}<br>threshold %{{customdata:.4g}}"
    style = {"name": look.label(curve, name), "line": {"color": BLUE, "shape": look.line_shape}, "mode": "lines"}
    figure.add_scatter(x=curve.x, y=curve.y, customdata=curve.thresholds, hovertemplate=hover, **style | kwargs)
    line = {"color": DARK, "dash": "dot", "width": 1}
    figure.add_scatter(x=look.chance[0], y=look.chance[1], mode="lines", line=line, name="chance", hoverinfo="skip")
    return figure.update_layout(xaxis_range=[-0.01, 1.01], yaxis_range=[-0.01, 1.01])


def plot_calibration(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    bins: int = 10,
    positive: Any = None,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw observed rate against predicted probability, with 95 % intervals, over a histogram of the probabilities.

    The histogram takes the lower part of the place of ``ax`` and is the last of the figure's axes.

    Parameters
    ----------
    bins
        How many bins of about equal size at most; each has 5 rows or more.
    positive
        The class that counts; by default True, 1, or the last of two labels in sorted order.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.errorbar`.

    Examples
    --------
    >>> ax = plot_calibration([0, 0, 1, 1, 1], [0.1, 0.4, 0.35, 0.8, 0.9])
    """
    found = compute.calibration(y_true, y_prob, bins=bins, positive=positive)
    table, data = found.table, found.data
    ax = _axes(ax, width=5.2, height=5.6)
    ax.plot([0, 1], [0, 1], color=DARK, linestyle=":", linewidth=1)
    around = [table["rate"] - table["low"], table["high"] - table["rate"]]
    style = {"color": BLUE, "marker": "o", "markersize": 4, "capsize": 2}
    ax.errorbar(table["mean"], table["rate"], yerr=around, **style | kwargs)
    below = _split(ax)
    below.hist(data.values, bins=np.linspace(0, 1, 21), color=GREY, edgecolor="white", linewidth=0.5)
    below.set_xlabel(f"predicted probability of {_text(data.positive)}")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel=f"observed rate of {_text(data.positive)}")
    notes = (
        f"n = {len(data.truth):,} in {_count(len(table), 'bin')}, 95 % intervals",
        "dotted: perfect",
        _left_out(data.dropped),
    )
    return _headline(ax, f"Calibration: Brier score {found.brier:.3f}", *notes)


def plot_feature_importance(
    model_or_importances: Any,
    feature_names: Sequence[str] | None = None,
    *,
    top: int = 20,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw the features with the largest importances or coefficients.

    Parameters
    ----------
    model_or_importances
        A fitted estimator, pipeline or search; what ``permutation_importance`` returns; a Series, dict or array.
        Coefficients keep their sign, except that several classes are averaged over absolute values.
    feature_names
        One for each importance, where the model does not know them.
    top
        How many to draw; the title says what the others add up to.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.barh`.

    Examples
    --------
    >>> ax = plot_feature_importance({"age": 0.2, "sex": 0.7, "fare": 0.1})
    """
    table, measure = compute.importances(model_or_importances, feature_names)
    shown, rest = table.head(top), table["importance"].iloc[top:].abs().sum()
    ax = _row_axes(ax, shown.index)
    spread = {"xerr": shown["std"], "error_kw": {"capsize": 2, "ecolor": DARK}} if "std" in shown else {}
    color = [BLUE if value >= 0 else ORANGE for value in shown["importance"]]
    bars = ax.barh(range(len(shown)), shown["importance"], **{"color": color} | spread | kwargs)
    ax.bar_label(bars, [compute.format_number(v) for v in shown["importance"]], padding=3, fontsize="small")
    ax.axvline(0, color=DARK, linewidth=0.8)
    ax.margins(x=0.15)
    if (shown["importance"] >= 0).all():
        ax.set_xlim(left=0)
    ax.set_xlabel(f"{measure} (± 1 standard deviation)" if spread else measure)
    share = _percent(rest / table["importance"].abs().sum()) if rest else "nothing"
    others = f"the {len(table) - top:,} others hold {share} of the absolute sum" if len(table) > top else ""
    return _headline(ax, "Feature importance", f"{len(shown):,} of {len(table):,} features", others)


def plot_residuals(
    y_true: ArrayLike, y_pred: ArrayLike, *, max_points: int = 5_000, ax: "Axes | None" = None, **kwargs: Any
) -> "Axes":
    """Draw residuals (actual minus predicted) against predictions, with their median, 5th and 95th percentile.

    Parameters
    ----------
    max_points
        Above this many rows a sample is drawn as points; the lines and the numbers come from all rows.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.scatter`.

    Examples
    --------
    >>> ax = plot_residuals([3.0, 1.0, 2.5], [2.5, 1.2, 2.0])
    """
    found = compute.residuals(y_true, y_pred)
    n = len(found.residual)
    drawn = slice(None) if n <= max_points else np.random.default_rng(compute.SEED).choice(n, max_points, replace=False)
    ax = _axes(ax)
    style = {"s": 20, "color": BLUE} if n <= 1000 else {"s": 5, "color": GREY, "rasterized": True}
    ax.scatter(found.predicted[drawn], found.residual[drawn], **{"alpha": 0.7, "linewidths": 0} | style | kwargs)
    ax.axhline(0, color=DARK, linewidth=0.8)
    if len(found.bands) > 1:
        ax.plot(found.bands["x"], found.bands["median"], color=BLUE, label="median")
        ax.plot(found.bands["x"], found.bands["low"], color=BLUE, linestyle="--", label="5 and 95 %")
        ax.plot(found.bands["x"], found.bands["high"], color=BLUE, linestyle="--")
        ax.legend(frameon=False, fontsize="small", loc="best")
    ax.set(xlabel="predicted", ylabel=f"actual {compute.MINUS} predicted")
    fit = " · ".join(f"{key} {compute.format_number(found.summary[key.lower()])}" for key in ("RMSE", "MAE", "bias"))
    sampled = f"points: a sample of {max_points:,}" if n > max_points else ""
    title = f"Residuals: R² {found.summary['r2']:.3f}"
    return _headline(ax, title, f"n = {n:,}", fit, sampled, _left_out(found.dropped))


# Operations ---------------------------------------------------------------------------------------------------------


def plot_predictions_over_time(
    predictions: pd.DataFrame,
    *,
    value: str | None = None,
    positive: Any = None,
    top: int = 5,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw predictions by time and model version, over their number.

    Parameters
    ----------
    predictions
        Rows of a predictions table: ``prediction_timestamp``, ``model_version`` and the value.
    value
        The column to draw: by default ``prediction_probability`` where it holds numbers, else ``prediction``. Numbers
        are drawn as mean with their 10 to 90 % band, two classes as the share of ``positive`` with its 95 % interval.
    positive
        The class that counts; by default True, 1, or the last of two labels in sorted order.
    top
        How many versions to draw; the others are taken together as ``other (n)``.
    interactive
        Return a plotly ``Figure`` that shows the numbers on hover.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.plot`, or to ``plotly.graph_objects.Scatter``.

    Examples
    --------
    >>> times = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> frame = pd.DataFrame({"prediction_timestamp": times, "model_version": "v1", "prediction": [0.2, 0.3]})
    >>> ax = plot_predictions_over_time(frame)
    """
    found = compute.over_time(predictions, value=value, positive=positive, top=top)
    return (_plotly_over_time if interactive else _draw_over_time)(found, ax, kwargs)


def _over_time_notes(found: compute.OverTime) -> list[str]:
    dropped = f"{_count(found.dropped, 'row')} without time or value left out" if found.dropped else ""
    return [f"n = {found.table['n'].sum():,} by {found.period} (UTC)", f"band: {found.band}", dropped]


def _draw_over_time(found: compute.OverTime, ax: "Axes | None", kwargs: dict[str, Any]) -> "Axes":
    ax = _axes(ax, width=7.5, height=4.6)
    below = _split(ax)
    table = found.table.assign(day=_dates(below, found.table["start"]))
    floor = pd.Series(0, index=table["start"].unique())
    ends = []
    for i, (version, part) in enumerate(table.groupby("version", sort=False)):
        style = {"color": _COLORS[i % 6], "linestyle": _DASHES[i % 6], "marker": _MARKERS[i % 6], "markersize": 4}
        ax.plot(part["day"], part["value"], gid=_CURVE, label=version, **style | kwargs)
        ax.vlines(part["day"], part["low"], part["high"], color=_COLORS[i % 6], alpha=0.25, linewidth=3)
        ends.append((part["day"].iloc[-1], part["value"].iloc[-1], str(version), _COLORS[i % 6]))
        under = floor.loc[part["start"]].to_numpy()
        days = {"hour": 1 / 24, "day": 1, "week": 7, "month": 30}[found.period]
        style = {"color": _COLORS[i % 6], "edgecolor": "white", "linewidth": 0.5}
        below.bar(part["day"], part["n"], 0.9 * days, bottom=under, **style)
        floor.loc[part["start"]] += part["n"].to_numpy()
    _label_ends(ax, ends)
    ax.set_ylabel(textwrap.fill(_text(found.quantity, 60), 30))
    below.set_xlabel(f"{found.period} of prediction (UTC)")
    return _headline(ax, "Predictions over time", *_over_time_notes(found))


def _label_ends(ax: "Axes", ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name at its end, apart from names that would stand at the same place."""
    from matplotlib.patheffects import withStroke

    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    placed: list[tuple[float, float]] = []
    for x, y, name, color in sorted(ends, key=lambda end: end[1]):
        near = [other for at, other in placed if abs(at - x) < 0.12 * (right - left)]
        at = max([y, *(other + 0.07 * (high - low) for other in near)])
        placed.append((x, at))
        style = {"color": color, "va": "center", "path_effects": [withStroke(linewidth=3, foreground="white")]}
        ax.annotate(_text(name, 24), (x, at), xytext=(7, 0), textcoords="offset points", **style)


def _plotly_over_time(found: compute.OverTime, ax: "Axes | None", kwargs: dict[str, Any]) -> "Figure":
    xlabel = f"{found.period} of prediction (UTC)"
    figure = _plotly_figure(ax, "Predictions over time", _over_time_notes(found), xlabel, found.quantity)
    for i, (version, part) in enumerate(found.table.groupby("version", sort=False)):
        line = {"color": _COLORS[i % 6], "dash": _PLOTLY_DASHES[i % 6]}
        error = {"array": part["high"] - part["value"], "arrayminus": part["value"] - part["low"], "thickness": 1}
        hover = f"{version}, %{{x}}<br>{found.quantity} %{{y:.4g}}<br>%{{customdata:,}} rows<extra></extra>"
        style = {"name": str(version), "mode": "lines+markers", "line": line, "error_y": error, "hovertemplate": hover}
        figure.add_scatter(x=part["start"], y=part["value"], customdata=part["n"], **style | kwargs)
    return figure.update_layout(showlegend=True)


# Drawing ------------------------------------------------------------------------------------------------------------


def _axes(ax: "Axes | None", *, width: float = 6.4, height: float = 4.2) -> "Axes":
    if ax is None:
        import matplotlib.pyplot as plt  # so that a notebook shows the figure by itself

        _, ax = plt.subplots(figsize=(min(width, 16), min(height, 16)), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _row_axes(ax: "Axes | None", labels: Sequence[Any]) -> "Axes":
    """Make room for horizontal bars and their names."""
    widest = max((len(_text(label)) for label in labels), default=0)
    ax = _axes(ax, width=6.0 + 0.06 * widest, height=max(2.4, 1.5 + 0.28 * len(labels)))
    _label_rows(ax, labels)
    return ax


def _within_100(low: float, high: float) -> tuple[float, float]:
    pad = max(0.05 * (high - low), 0.5)
    return max(0, low - pad), min(100, high + pad)


def _headline(ax: "Axes", title: str, *notes: str, width: int | None = None) -> "Axes":
    """Set the title, and under it in smaller type the notes, wrapped to the room that there is."""
    figure = ax.get_figure(root=True)
    if width is None:
        if engine := figure.get_layout_engine():
            engine.execute(figure)  # the room is known only after the labels have taken theirs
            ax.apply_aspect()
        box, spec = ax.get_window_extent(), ax.get_subplotspec()
        free = engine and spec and spec.get_topmost_subplotspec().is_last_col()  # nothing else stands to the right
        room = figure.bbox.width - box.x0 if free else box.width
        width = max(24, int(room / figure.dpi * 72 / 5.1))  # a character is about 5 points wide
    old = [text for text in ax.texts if text.get_gid() == _NOTES]
    said = [part for text in old for part in text.get_text().replace("\n", " ").split(_DOT)]
    for text in old:
        text.remove()
    parts = list(dict.fromkeys([*said, *(_escape(note) for note in notes if note)]))
    lines = textwrap.wrap(_DOT.join(parts), width, break_on_hyphens=False)
    style = {"fontsize": "small", "color": DARK, "va": "bottom", "gid": _NOTES, "textcoords": "offset points"}
    note = ax.annotate("\n".join(lines), (0, 1), xycoords="axes fraction", xytext=(0, 4), **style)
    note.set_in_layout(False)  # else a long line would push the axes aside
    size = note.get_fontsize()
    ax.set_title(_escape(textwrap.fill(title, int(width * 0.75))), loc="left", pad=8 + 1.3 * size * len(lines))
    return ax


def _split(ax: "Axes") -> "Axes":
    """Give the lower quarter of the place of ``ax`` to a second Axes that shares its x, for counts of rows."""
    if spec := ax.get_subplotspec():
        parts = spec.subgridspec(2, 1, height_ratios=(3, 1))
        ax.set_subplotspec(parts[0])
        below = ax.figure.add_subplot(parts[1], sharex=ax)
    else:  # placed by hand
        below = ax.inset_axes((0, -0.3, 1, 0.24), sharex=ax)
    below.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelbottom=False)
    _count_axis(below.yaxis)
    return below


def _count_axis(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(4, integer=True))
    axis.set_major_formatter("{x:,.0f}")
    axis.set_label_text("rows")


def _label_rows(ax: "Axes", labels: Iterable[Any], width: int = 36) -> None:
    """Name horizontal bars, the first one on top."""
    names = [_escape(name) for name in compute.shorten_all(labels, width)]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def _heatmap(
    ax: "Axes", values: pd.DataFrame, text: Any, rows: Iterable[Any], columns: Iterable[Any], options: dict[str, Any]
) -> None:
    import seaborn as sns

    fixed = {"annot": text, "fmt": "", "cmap": "Blues", "vmin": 0, "vmax": 1}
    sns.heatmap(values, ax=ax, **fixed | options)
    columns = [_escape(name) for name in compute.shorten_all(columns, 24)]
    turn = 45 if max(map(len, columns)) * len(columns) > 30 else 0
    at = np.arange(len(columns)) + 0.5
    ax.set_xticks(at, columns, rotation=turn, ha="right" if turn else "center", rotation_mode="anchor")
    ax.set_yticks(np.arange(len(values)) + 0.5, [_escape(name) for name in compute.shorten_all(rows, 40)], rotation=0)
    ax.tick_params(length=0)


def _dates(ax: "Axes", times: Any) -> "NDArray[np.float64]":
    """Turn UTC times (or seconds) into matplotlib's numbers, and label the axis with as little as tells them apart."""
    from matplotlib import dates

    unit = {"unit": "s"} if isinstance(times, np.ndarray) else {}
    locator = dates.AutoDateLocator(minticks=3, maxticks=7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    return dates.date2num(pd.to_datetime(pd.Series(times), utc=True, **unit).dt.tz_localize(None).to_numpy())


def _plotly_figure(ax: "Axes | None", title: str, notes: list[str], xlabel: str, ylabel: str) -> "Figure":
    if ax is not None:
        raise ValueError("interactive=True makes a plotly Figure of its own, got ax= too: leave one of them out")
    import plotly.graph_objects as go

    small = f"<br><sup>{' · '.join(note for note in notes if note)}</sup>"
    layout = {"title": title + small, "xaxis_title": xlabel, "yaxis_title": ylabel, "template": "plotly_white"}
    return go.Figure(layout=layout)


def _left_out(rows: int) -> str:
    return f"{_count(rows, 'row')} with NULL left out" if rows else ""


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _names(names: Iterable[str], limit: int = 3) -> str:
    names = [compute.shorten(name, 24) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _percent(share: float) -> str:
    """Write a share, never as 0 % or 100 % unless it is exactly that."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{share * 100:.1f} %"


def _escape(text: str) -> str:
    return text.replace("$", r"\$")  # or matplotlib reads what stands between two of them as mathematics


def _text(value: Any, width: int = 36) -> str:
    """Write a name on one line, its middle left out where it is long: names often differ at either end."""
    return _escape(compute.shorten(value, width))
