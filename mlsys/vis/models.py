"""Plots of what a model's predictions are worth, from true and predicted values."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mlsys.errors import PlotError
from mlsys.vis import compute
from mlsys.vis import drawing as draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure


# Classes ------------------------------------------------------------------------------------------------------------


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
    counts, correct, dropped = compute.models.confusion(y_true, y_pred, top=top)
    return draw_confusion(counts, correct, dropped, ax, kwargs)


def draw_confusion(
    counts: pd.DataFrame, correct: float, dropped: int, ax: "Axes | None", kwargs: dict[str, Any]
) -> "Axes":
    """Draw what `compute.models.confusion` returns."""
    size, totals = len(counts), counts.sum(axis=1)
    shares = counts.div(totals.where(totals > 0), axis=0).fillna(0)
    many, names = size > 8, compute.columns.shorten_all(counts.columns, 24)
    longest, cell = max(map(len, names)), 0.5 if many else 0.75
    ax = draw.axes(
        ax, width=max(5, 2.6 + 0.07 * longest + cell * size), height=max(4.2, 1.2 + 0.05 * longest + cell * size)
    )
    text = counts.map(lambda n: f"{n:,}" if n or not many else "").to_numpy(dtype=object)
    if not many:
        text = text + "\n" + shares.map(draw.percent).to_numpy(dtype=object)
    rows = [f"{name} ({n:,})" for name, n in zip(names, totals, strict=True)]
    options = {"linewidths": 0.5, "cbar_kws": {"label": "share of the actual class"}}
    options["annot_kws"] = {"fontsize": 7 if size > 12 else "small" if many else "medium"}
    draw.heatmap(ax, shares, text, rows, list(counts.columns), options | kwargs)
    ax.set(xlabel="predicted", ylabel="actual (rows)")
    mixed = any(label.startswith("other (") for label in counts.columns)
    notes = ("mistakes within “other” stand on its diagonal" if mixed else "", draw.left_out(dropped))
    return draw.headline(ax, f"Confusion matrix: {draw.percent(correct)} correct", f"n = {totals.sum():,}", *notes)


# Scores: curves over thresholds -------------------------------------------------------------------------------------


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
    found = _sweep(y_true, y_score, positive)
    return roc_chart(found, compute.models.roc(found).value, name).draw(ax, interactive, kwargs)


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
    found = _sweep(y_true, y_score, positive)
    chart = precision_recall_chart(found, compute.models.precision_recall(found).value, name)
    return chart.draw(ax, interactive, kwargs)


def plot_gain(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    positive: Any = None,
    name: str | None = None,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw how many of the positives are found in so many of the rows, highest scores first.

    Parameters as for :func:`plot_roc`.

    Examples
    --------
    >>> ax = plot_gain([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    """
    return gain_chart(_sweep(y_true, y_score, positive), name).draw(ax, interactive, kwargs)


def plot_lift(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    positive: Any = None,
    name: str | None = None,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw how many times more positives the highest scores hold than rows taken at random.

    Parameters as for :func:`plot_roc`. A lift of 1 is no better than chance.

    Examples
    --------
    >>> ax = plot_lift([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    """
    return lift_chart(_sweep(y_true, y_score, positive), name).draw(ax, interactive, kwargs)


def plot_threshold(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    positive: Any = None,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw precision, recall, F1 and the share of rows flagged against the threshold (flagged: at or above it).

    Parameters as for :func:`plot_roc`.

    Examples
    --------
    >>> ax = plot_threshold([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    """
    return threshold_chart(_sweep(y_true, y_score, positive)).draw(ax, interactive, kwargs)


def plot_cost(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    false_positive: float,
    false_negative: float,
    unit: str = "",
    positive: Any = None,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw what mistakes cost against the threshold, and name the cheapest one.

    The cheapest threshold is chosen on these rows, so its cost is a little too good; choose it on a validation set.

    Parameters
    ----------
    false_positive, false_negative
        Cost of flagging a negative, and of missing a positive.
    unit
        Unit of these costs, for the axis: ``"EUR"``.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.plot`, or to ``plotly.graph_objects.Scatter``. Others as for `plot_roc`.

    Examples
    --------
    >>> ax = plot_cost([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], false_positive=1, false_negative=5, unit="EUR")
    """
    found = _sweep(y_true, y_score, positive)
    return cost_chart(found, false_positive, false_negative, unit).draw(ax, interactive, kwargs)


def _sweep(y_true: ArrayLike, y_score: ArrayLike, positive: Any) -> compute.models.Sweep:
    return compute.models.sweep(compute.models.binary(y_true, y_score, "y_score", positive))


def _score_notes(found: compute.models.Sweep, drawn: compute.models.Sweep) -> list[str]:
    count = f"{found.positives:,} of {found.n:,} rows are {found.positive}"
    thinned = "curve thinned to 1,000 points at most" if drawn.thinned else ""
    return [count, draw.left_out(found.dropped), thinned]


def _curve_line(curve: compute.models.Curve, label: str, name: str | None, xlabel: str, ylabel: str) -> draw.Line:
    hover = f"{xlabel} %{{x:.3f}}<br>{ylabel} %{{y:.3f}}<br>threshold %{{customdata:.4g}}"
    return draw.Line(curve.x, curve.y, f"{name}: {label}" if name else label, hover, curve.thresholds)


def roc_chart(found: compute.models.Sweep, area: float, name: str | None = None) -> draw.Chart:
    """Chart a sweep that may be thinned; ``area`` is that of all thresholds."""
    drawn = compute.models.thin(found)
    x, y = "false positive rate", "true positive rate"
    line = _curve_line(compute.models.roc(drawn), f"AUC = {area:.3f}", name, x, y)
    chance = ([0, 1], [0, 1], "chance")
    return draw.Chart("ROC curve", _score_notes(found, drawn), x, y, [line], chance, legend="lower right")


def precision_recall_chart(found: compute.models.Sweep, average: float, name: str | None = None) -> draw.Chart:
    """Chart a sweep that may be thinned; ``average`` is the average precision of all thresholds."""
    drawn = compute.models.thin(found)
    label = f"average precision = {average:.3f}"
    line = _curve_line(compute.models.precision_recall(drawn), label, name, "recall", "precision")
    chance = ([0, 1], [found.positives / found.n] * 2, "chance")
    notes = _score_notes(found, drawn)
    return draw.Chart("Precision and recall", notes, "recall", "precision", [line], chance, step="pre")


def gain_chart(found: compute.models.Sweep, name: str | None = None) -> draw.Chart:
    """Chart cumulative gain."""
    drawn, x, y = compute.models.thin(found), "share of rows, highest scores first", "share of all positives found"
    label = f"the top 10 % hold {draw.percent(compute.models.gain(found).value)}"
    line = _curve_line(compute.models.gain(drawn), label, name, x, y)
    chance = ([0, 1], [0, 1], "chance")
    return draw.Chart("Cumulative gain", _score_notes(found, drawn), x, y, [line], chance, legend="lower right")


def lift_chart(found: compute.models.Sweep, name: str | None = None) -> draw.Chart:
    """Chart lift."""
    drawn, x, y = compute.models.thin(found), "share of rows, highest scores first", "lift"
    curve, label = compute.models.lift(drawn), f"lift of the top 10 % = {compute.models.lift(found).value:.2f}"
    ceiling = max(1.1, 1.05 * float(curve.y.max()))
    line, chance = _curve_line(curve, label, name, x, y), ([0, 1], [1, 1], "chance")
    return draw.Chart("Lift", _score_notes(found, drawn), x, y, [line], chance, ylim=(0, ceiling), legend="lower left")


def threshold_chart(found: compute.models.Sweep) -> draw.Chart:
    """Chart what each threshold leads to."""
    drawn = compute.models.thin(found)
    table = compute.models.thresholds(drawn)
    names = {"precision": "precision", "recall": "recall", "f1": "F1", "flagged": "share of rows flagged"}
    lines = [
        draw.Line(table["threshold"], table[key], name, f"threshold %{{x:.4g}}<br>{name} %{{y:.3f}}", None)
        for key, name in names.items()
    ]
    best = compute.models.thresholds(found)
    best = best.loc[best["f1"].idxmax()]
    notes = [*_score_notes(found, drawn), f"highest F1 {best['f1']:.3f} at {best['threshold']:.3g}"]
    around = _around(table["threshold"])
    return draw.Chart("Choice of a threshold", notes, "threshold", "share", lines, xlim=around, step="post")


def cost_chart(found: compute.models.Sweep, false_positive: float, false_negative: float, unit: str) -> draw.Chart:
    """Chart what mistakes cost at each threshold."""
    everything = compute.models.costs(found, false_positive, false_negative)
    drawn = compute.models.thin(found)
    table = compute.models.costs(drawn, false_positive, false_negative)
    best, nothing, all_ = everything.loc[everything["cost"].idxmin()], everything.iloc[0], everything.iloc[-1]
    number = compute.columns.format_number
    at = "to flag nothing" if np.isinf(best["threshold"]) else f"threshold {best['threshold']:.3g}"
    ylabel = f"cost of mistakes for each row{f' ({unit})' if unit else ''}"
    line = draw.Line(
        table["threshold"].iloc[1:],
        table["cost"].iloc[1:],
        f"cheapest: {at}, {number(best['cost'])}",
        "threshold %{x:.4g}<br>cost %{y:.4g}",
        None,
    )
    limits = _around(table["threshold"].iloc[1:])
    level = ([limits[0], limits[1]], [nothing["cost"]] * 2, f"flag nothing: {number(nothing['cost'])}")
    notes = [
        f"false positive {number(false_positive)}, false negative {number(false_negative)}",
        f"flag everything: {number(all_['cost'])}",
        *_score_notes(found, drawn),
    ]
    top = 1.25 * max(table["cost"].max(), nothing["cost"], np.finfo(float).tiny)
    return draw.Chart(
        "Cost of mistakes",
        notes,
        "threshold",
        ylabel,
        [line],
        level,
        xlim=limits,
        ylim=(0, top),
        legend="upper right",
        step="post",
    )


def _around(values: pd.Series) -> tuple[float, float]:
    """Return limits for an axis of scores: 0 to 1 for probabilities."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return -0.01, 1.01
    pad = 0.02 * (high - low) or 0.5
    return low - pad, high + pad


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
    found = compute.models.calibration(y_true, y_prob, bins=bins, positive=positive)
    return draw_calibration(found, ax, kwargs)


def draw_calibration(
    found: compute.models.Calibration,
    ax: "Axes | None",
    kwargs: dict[str, Any],
    *,
    x: str = "predicted probability of {}",
    y: str = "observed rate of {}",
    title: str = "Calibration: Brier score {:.3f}",
) -> "Axes":
    """Draw what `compute.models.calibration` returns."""
    table = found.table
    ax = draw.axes(ax, width=5.2, height=5.6)
    ax.plot([0, 1], [0, 1], color=draw.DARK, linestyle=":", linewidth=1)
    around = [table["rate"] - table["low"], table["high"] - table["rate"]]
    style: dict[str, Any] = {"color": draw.BLUE, "marker": "o", "markersize": 4, "capsize": 2}
    ax.errorbar(table["mean"], table["rate"], yerr=around, **style | kwargs)
    below, edges = draw.split(ax), np.linspace(0, 1, len(found.counts) + 1)
    style = {"align": "edge", "color": draw.GREY, "edgecolor": "white", "linewidth": 0.5}
    below.bar(edges[:-1], found.counts, np.diff(edges), **style)
    below.set_xlabel(x.format(draw.text(found.positive)))
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel=y.format(draw.text(found.positive)))
    bins = f"n = {found.n:,} in {draw.count(len(table), 'bin')}, 95 % intervals"
    return draw.headline(ax, title.format(found.brier), bins, "dotted: perfect", draw.left_out(found.dropped))


# Importances --------------------------------------------------------------------------------------------------------


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
    table, measure = compute.models.importances(model_or_importances, feature_names)
    return draw_importance(table, measure, top, ax, kwargs)


def draw_importance(
    table: pd.DataFrame, measure: str, top: int, ax: "Axes | None", kwargs: dict[str, Any], *notes: str
) -> "Axes":
    """Draw what `compute.models.importances` returns."""
    shown, rest = table.head(top), table["importance"].iloc[top:].abs().sum()
    ax = draw.row_axes(ax, shown.index)
    spread = {"xerr": shown["std"], "error_kw": {"capsize": 2, "ecolor": draw.DARK}} if "std" in shown else {}
    color = [draw.BLUE if value >= 0 else draw.ORANGE for value in shown["importance"]]
    bars = ax.barh(range(len(shown)), shown["importance"], **{"color": color} | spread | kwargs)
    written = [compute.columns.format_number(v) for v in shown["importance"]]
    ax.bar_label(bars, written, padding=3, fontsize="small")
    ax.axvline(0, color=draw.DARK, linewidth=0.8)
    ax.margins(x=0.15 if (shown["importance"] >= 0).all() else 0.22)
    if (shown["importance"] >= 0).all():
        ax.set_xlim(left=0)
    ax.set_xlabel(f"{measure} (± 1 standard deviation)" if spread else measure)
    share = draw.percent(rest / table["importance"].abs().sum()) if rest else "nothing"
    others = f"the {len(table) - top:,} others hold {share} of the absolute sum" if len(table) > top else ""
    return draw.headline(ax, "Feature importance", f"{len(shown):,} of {len(table):,} features", others, *notes)


# Numbers ------------------------------------------------------------------------------------------------------------


def plot_residuals(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    max_points: int = 5_000,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw residuals (actual minus predicted) against predictions, with their median, 5th and 95th percentile.

    Parameters
    ----------
    max_points
        Above this many rows a sample is drawn as points; the lines and the numbers come from all rows.
    interactive
        Return a plotly ``Figure`` that shows the numbers on hover.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.scatter`, or to ``plotly.graph_objects.Scatter``.

    Examples
    --------
    >>> ax = plot_residuals([3.0, 1.0, 2.5], [2.5, 1.2, 2.0])
    """
    found = compute.models.residuals(y_true, y_pred, max_points=max_points)
    return (_plotly_points if interactive else draw_residuals)(found, ax, kwargs)


def plot_predicted_actual(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    max_points: int = 5_000,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw actual values against predictions, on the same scale, with the line where both are equal.

    Parameters as for :func:`plot_residuals`.

    Examples
    --------
    >>> ax = plot_predicted_actual([3.0, 1.0, 2.5], [2.5, 1.2, 2.0])
    """
    found = compute.models.residuals(y_true, y_pred, max_points=max_points)
    return _plotly_points(found, ax, kwargs, actual=True) if interactive else draw_predicted_actual(found, ax, kwargs)


def _fit(found: compute.models.Residuals) -> list[str]:
    number = compute.columns.format_number
    fit = " · ".join(f"{key} {number(found.summary[key.lower()])}" for key in ("RMSE", "MAE", "bias"))
    drawn = len(found.residual)
    return [
        f"n = {found.n:,}",
        fit,
        f"points: a sample of {drawn:,}" if drawn < found.n else "",
        draw.left_out(found.dropped),
    ]


def _r2(found: compute.models.Residuals) -> str:
    value = found.summary["r2"]
    return f"R² {value:.3f}" if np.isfinite(value) else "R² undefined"


def _points(found: compute.models.Residuals) -> dict[str, Any]:
    style = {"s": 20, "color": draw.BLUE} if found.n <= 1000 else {"s": 5, "color": draw.GREY, "rasterized": True}
    return style | {"alpha": 0.7, "linewidths": 0}


def _bands(ax: "Axes", bands: pd.DataFrame, lift: Any) -> None:
    """Draw quantiles along the prediction, ``lift`` higher."""
    if len(bands) < 2:
        return
    ax.plot(bands["x"], bands["median"] + lift, color=draw.BLUE, label="median")
    ax.plot(bands["x"], bands["low"] + lift, color=draw.BLUE, linestyle="--", label="5 and 95 %")
    ax.plot(bands["x"], bands["high"] + lift, color=draw.BLUE, linestyle="--")
    ax.legend(frameon=False, fontsize="small", loc="best")


def draw_residuals(found: compute.models.Residuals, ax: "Axes | None", kwargs: dict[str, Any]) -> "Axes":
    """Draw what `compute.models.residuals` returns, against predictions."""
    ax = draw.axes(ax)
    ax.scatter(found.predicted, found.residual, **_points(found) | kwargs)
    ax.axhline(0, color=draw.DARK, linewidth=0.8)
    _bands(ax, found.bands, 0)
    ax.set(xlabel="predicted", ylabel=f"actual {compute.columns.MINUS} predicted")
    return draw.headline(ax, f"Residuals: {_r2(found)}", *_fit(found))


def draw_predicted_actual(found: compute.models.Residuals, ax: "Axes | None", kwargs: dict[str, Any]) -> "Axes":
    """Draw what `compute.models.residuals` returns, as actual values against predictions."""
    ax = draw.axes(ax, width=5.2, height=5.0)
    actual = found.predicted + found.residual
    ax.scatter(found.predicted, actual, **_points(found) | kwargs)
    ends = _ends(found)
    ax.plot(ends, ends, color=draw.DARK, linestyle=":", linewidth=1)
    _bands(ax, found.bands, found.bands["x"])
    ax.set(xlabel="predicted", ylabel="actual")
    return draw.headline(ax, f"Predicted and actual: {_r2(found)}", *_fit(found), "dotted: equal")


def _ends(found: compute.models.Residuals) -> list[float]:
    both = np.concatenate([found.predicted, found.predicted + found.residual])
    return [float(both.min()), float(both.max())]


def _plotly_points(
    found: compute.models.Residuals, ax: "Axes | None", kwargs: dict[str, Any], *, actual: bool = False
) -> "Figure":
    title = f"{'Predicted and actual' if actual else 'Residuals'}: {_r2(found)}"
    ylabel = "actual" if actual else f"actual {compute.columns.MINUS} predicted"
    figure = draw.plotly_figure(ax, title, _fit(found), "predicted", ylabel)
    lift = found.predicted if actual else 0
    hover = f"predicted %{{x:.5g}}<br>{ylabel} %{{y:.5g}}<extra></extra>"
    style = {"mode": "markers", "name": "rows", "marker": {"color": draw.BLUE, "size": 5, "opacity": 0.6}}
    figure.add_scattergl(x=found.predicted, y=found.residual + lift, hovertemplate=hover, **style | kwargs)
    ends = _ends(found) if actual else [float(found.predicted.min()), float(found.predicted.max())]
    look = {"color": draw.DARK, "dash": "dot", "width": 1}
    figure.add_scatter(
        x=ends, y=ends if actual else [0, 0], mode="lines", line=look, name="equal" if actual else "no error"
    )
    return figure


# Versions -----------------------------------------------------------------------------------------------------------


def plot_versions(
    versions: Mapping[str, Any], *, metrics: Sequence[str] | None = None, **kwargs: Any
) -> "np.ndarray[Any, Any]":
    """Draw the metrics of several versions side by side, with their intervals where they are known.

    Returns a flat array with one ``Axes`` for each metric; the figure is ``axes[0].figure``.

    Parameters
    ----------
    versions
        By version, in the order to draw: an :class:`Evaluation`, or metrics by name as ``save_model`` stores them.
    metrics
        The metrics to draw, by default all that any version has.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.errorbar`.

    Examples
    --------
    >>> axes = plot_versions({"v1": {"accuracy": 0.78, "roc_auc": 0.84}, "v2": {"accuracy": 0.81, "roc_auc": 0.86}})
    """
    import matplotlib.pyplot as plt

    table = versions_table(versions)
    known = list(dict.fromkeys(table["metric"]))
    names = known if metrics is None else list(metrics)
    if missing := [name for name in names if name not in known]:
        raise PlotError(f"no version has the metric {missing[0]!r}: they have {compute.columns.listed(known)}")
    labels = [str(version) for version in versions]
    across = min(3, len(names))
    down = -(-len(names) // across)
    height = 1.0 + 0.3 * len(labels)
    figure, grid = plt.subplots(
        down, across, figsize=(max(4 * across, 5), height * down + 0.5), layout="constrained", squeeze=False
    )
    for ax, name in zip(grid.flat, names, strict=False):
        _draw_versions(ax, table[table["metric"] == name], labels, kwargs)
        ax.set_title(draw.text(name), loc="left")
    for ax in grid.flat[len(names) :]:
        ax.remove()
    bars = "; bars: 95 % intervals" if table["low"].notna().any() else ""
    figure.suptitle(f"{draw.count(len(labels), 'version')}{bars}", fontsize="large")
    return np.array(grid.flat[: len(names)])


def versions_table(versions: Mapping[str, Any]) -> pd.DataFrame:
    """Return ``version``, ``metric``, ``value``, ``low`` and ``high``, NaN where no interval is known."""
    rows = []
    for version, source in versions.items():
        values = source if isinstance(source, Mapping) else source.metrics
        around = {} if isinstance(source, Mapping) else source.intervals
        rows += [(str(version), name, value, *around.get(name, (np.nan, np.nan))) for name, value in values.items()]
    if not rows:
        raise PlotError(f"nothing to plot: {len(versions)} versions with no metrics; pass evaluations or metrics")
    return pd.DataFrame(rows, columns=["version", "metric", "value", "low", "high"])


def _draw_versions(ax: "Axes", part: pd.DataFrame, labels: list[str], kwargs: dict[str, Any]) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    rows = [labels.index(version) for version in part["version"]]
    around = [(part["value"] - part["low"]).fillna(0), (part["high"] - part["value"]).fillna(0)]
    style: dict[str, Any] = {"fmt": "o", "color": draw.BLUE, "capsize": 2}
    ax.errorbar(part["value"], rows, xerr=around, **style | kwargs)
    for row, value in zip(rows, part["value"], strict=True):
        written = compute.columns.format_number(value)
        ax.annotate(written, (value, row), xytext=(0, 5), textcoords="offset points", ha="center", fontsize="small")
    draw.label_rows(ax, labels, width=18)
    ax.margins(x=0.2)
    ax.grid(axis="x", color=draw.GREY, alpha=0.3)
