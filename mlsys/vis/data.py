"""Plots of data, before any model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlsys.errors import PlotError
from mlsys.vis import compute
from mlsys.vis import drawing as draw
from mlsys.vis.over_time import draw_over_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure


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
    return draw_missing(compute.data.missing(df), len(df), top, ax, kwargs)


def draw_missing(table: pd.DataFrame, n: int, top: int, ax: "Axes | None", kwargs: dict[str, Any]) -> "Axes":
    """Draw what `compute.data.missing` returns for ``n`` rows."""
    shown, rest = table.head(top), table.iloc[top:]
    ax = draw.row_axes(ax, shown.index)
    bars = ax.barh(range(len(shown)), shown["share"] * 100, **{"color": draw.BLUE} | kwargs)
    labels = [
        f"{draw.percent(share)} ({m:,})" if m else "0"
        for m, share in shown[["missing", "share"]].itertuples(index=False)
    ]
    ax.bar_label(bars, labels, padding=3, fontsize="small")
    ax.set(xlim=(0, 122), xticks=range(0, 101, 20), xlabel="rows with NULL (%)")
    complete = f"{(table['missing'] == 0).sum():,} of {len(table):,} columns complete"
    hidden = f"{len(rest):,} columns not drawn have at most {rest['missing'].max():,} NULLs" if len(rest) else ""
    return draw.headline(ax, "Missing values", f"n = {n:,} rows", complete, hidden)


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

    compute.columns.require_frame(df)
    compute.columns.require_columns(df, [] if columns is None else columns)
    names = list(df.columns if columns is None else columns)
    shown = names[:max_columns] if columns is None else names
    if not shown:
        raise PlotError(f"no columns to plot, got columns={columns!r}: name some, or leave it out for all")
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(max(4.2 * across, 5), 2.9 * down), layout="constrained", squeeze=False
    )
    for ax, name in zip(grid.flat, shown, strict=False):
        draw_distribution(ax, df[name], top, kwargs)
    for ax in grid.flat[len(shown) :]:
        ax.remove()
    some = f"the first {len(shown)} of {len(names)} columns, " if len(shown) < len(names) else ""
    figure.suptitle(f"Distributions: {some}{len(df):,} rows", fontsize="large")
    return np.array(grid.flat[: len(shown)])


def draw_distribution(ax: "Axes", values: pd.Series, top: int, kwargs: dict[str, Any], width: int | None = 46) -> None:
    """Draw one column by its type, with ``width`` characters of notes to a line."""
    kind, nulls = compute.columns.kind_of(values), int(values.isna().sum())
    notes = [f"n = {len(values) - nulls:,}", f"NULL {nulls:,} ({draw.percent(nulls / len(values))})" if nulls else ""]
    ax.spines[["top", "right"]].set_visible(False)
    if kind in ("numeric", "datetime"):
        bins = compute.data.histogram(compute.columns.as_float(values, str(values.name)))
        if kind == "datetime":
            edges = draw.dates(ax, bins.edges)
        else:
            edges = bins.edges
            if 1 < len(edges) < 14 and (edges % 1 == 0.5).all():  # one bar for each integer
                ax.set_xticks(edges[:-1] + 0.5)
        style: dict[str, Any] = {"color": draw.BLUE, "edgecolor": "white", "linewidth": 0.5, "align": "edge"}
        ax.bar(edges[:-1], bins.counts, np.diff(edges), **style | kwargs)
        draw.count_axis(ax.yaxis)
        notes.append(f"{bins.outside:,} beyond the axis" if bins.outside else "")
    else:
        groups = compute.columns.group_by_label(values, top)
        rest = groups.has_other + groups.has_null
        own = len(groups.labels) - rest
        style = {"color": [draw.BLUE] * own + [draw.GREY] * rest, "edgecolor": "white", "linewidth": 0}
        style["hatch"] = [""] * (own + groups.has_other) + ["////"] * groups.has_null
        bars = ax.barh(range(own + rest), groups.counts, **style | kwargs)
        ax.bar_label(bars, [f"{count:,}" for count in groups.counts], padding=3, fontsize="small")
        draw.label_rows(ax, groups.labels, width=18)
        ax.margins(x=0.22)
        draw.count_axis(ax.xaxis)
    draw.headline(ax, compute.columns.shorten(values.name, 34), *notes, width=width)


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
    table, label, dropped = compute.targets.target_rate(df, column, target, bins=bins, top=top, positive=positive)
    ax = draw.row_axes(ax, table.index)
    rows = np.arange(len(table))
    for null, style in ((False, {"color": draw.BLUE}), (True, {"color": draw.DARK, "markerfacecolor": "white"})):
        part, y = table[table["is_null"] == null], rows[table["is_null"] == null]
        if len(part):
            around = [(part["rate"] - part["low"]) * 100, (part["high"] - part["rate"]) * 100]
            look: dict[str, Any] = {"fmt": "o", "capsize": 2, "clip_on": False} | style | kwargs
            ax.errorbar(part["rate"] * 100, y, xerr=around, **look)
    for row, (positives, n) in enumerate(zip(table["positives"], table["n"], strict=True)):
        text = f"{positives:,} of {n:,}"
        ax.text(1.025, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=draw.DARK)
    overall = table["positives"].sum() / table["n"].sum()
    ax.axvline(overall * 100, color=draw.DARK, linestyle="--", linewidth=1, zorder=0)
    ax.set(xlim=draw.within_100(table["low"].min() * 100, table["high"].max() * 100), ylabel=draw.text(column))
    ax.set_xlabel(f"rows with {draw.text(target)} = {draw.text(label)} (%), with 95 % interval")
    known = f"n = {table['n'].sum():,}"
    line = f"dashed: overall {draw.percent(overall)}"
    return draw.headline(
        ax, f"{target} by {column}", known, line, f"{draw.count(dropped, 'row')} without target" if dropped else ""
    )


def plot_target_mean(
    df: pd.DataFrame,
    column: str,
    target: str,
    *,
    bins: int = 10,
    top: int = 15,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw the mean of a numeric target by category, or by bins of about equal size for numbers and dates.

    Each mean has Student's 95 % interval and its number of rows; NULL is a group of its own.

    Parameters
    ----------
    bins, top
        As for :func:`plot_target_rate`.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.errorbar`.

    Examples
    --------
    >>> ax = plot_target_mean(pd.DataFrame({"pclass": [1, 2, 2], "fare": [71.3, 13.0, 10.5]}), "pclass", "fare")
    """
    table, dropped = compute.targets.target_mean(df, column, target, bins=bins, top=top)
    ax = draw.row_axes(ax, table.index)
    rows = np.arange(len(table))
    for null, style in ((False, {"color": draw.BLUE}), (True, {"color": draw.DARK, "markerfacecolor": "white"})):
        part, y = table[table["is_null"] == null], rows[table["is_null"] == null]
        if len(part):
            around = [(part["mean"] - part["low"]).fillna(0), (part["high"] - part["mean"]).fillna(0)]
            look: dict[str, Any] = {"fmt": "o", "capsize": 2} | style | kwargs
            ax.errorbar(part["mean"], y, xerr=around, **look)
    for row, n in enumerate(table["n"]):
        text = f"{n:,}"
        ax.text(1.025, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=draw.DARK)
    overall = (table["mean"] * table["n"]).sum() / table["n"].sum()
    ax.axvline(overall, color=draw.DARK, linestyle="--", linewidth=1, zorder=0)
    ax.set(xlabel=f"mean {draw.text(target)}, with 95 % interval", ylabel=draw.text(column))
    line = f"dashed: overall {compute.columns.format_number(overall)}"
    without = f"{draw.count(dropped, 'row')} without target" if dropped else ""
    return draw.headline(ax, f"{target} by {column}", f"n = {table['n'].sum():,}", line, "right: rows", without)


def plot_target_classes(
    df: pd.DataFrame,
    column: str,
    target: str,
    *,
    bins: int = 10,
    top: int = 15,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw the shares of a target's classes by category, or by bins of about equal size for numbers and dates.

    Parameters
    ----------
    bins, top
        As for :func:`plot_target_rate`. Classes beyond the five most frequent are added up as ``other (n)``.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.barh`.

    Examples
    --------
    >>> ax = plot_target_classes(pd.DataFrame({"sex": ["m", "f", "f"], "port": ["C", "Q", "S"]}), "sex", "port")
    """
    counts, dropped = compute.targets.target_classes(df, column, target, bins=bins, top=top)
    ax = draw.row_axes(ax, counts.index)
    totals, left = counts.sum(axis=1), np.zeros(len(counts))
    for i, name in enumerate(counts.columns):
        width = (counts[name] / totals.where(totals > 0)).fillna(0).to_numpy() * 100
        other = name.startswith("other (")
        style = {"color": draw.GREY if other else draw.COLORS[i % 6], "hatch": _HATCHES[i % 6], "edgecolor": "white"}
        ax.barh(range(len(counts)), width, left=left, label=draw.text(name, 24), linewidth=0.5, **style | kwargs)
        left += width
    for y, n in enumerate(totals):
        text = f"{n:,}"
        ax.text(1.025, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=draw.DARK)
    ax.set(xlim=(0, 100), xlabel=f"rows by {draw.text(target)} (%)", ylabel=draw.text(column))
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.12, 1))
    without = f"{draw.count(dropped, 'row')} without target" if dropped else ""
    return draw.headline(ax, f"{target} by {column}", f"n = {totals.sum():,}", "right: rows", without)


_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---")  # told apart in grey


def plot_target(
    df: pd.DataFrame,
    column: str,
    target: str,
    *,
    bins: int = 10,
    top: int = 15,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw a target against a column, as fits the target: its rate, its mean or the shares of its classes.

    A target of two values has a rate, numbers with fractions or more than 20 values a mean, anything else classes: see
    :func:`plot_target_rate`, :func:`plot_target_mean` and :func:`plot_target_classes`, whose parameters these are.

    Examples
    --------
    >>> passengers = pd.DataFrame({"sex": ["male", "female", "female"], "survived": [0, 1, 1]})
    >>> ax = plot_target(passengers, "sex", "survived")
    """
    compute.columns.require_frame(df)
    compute.columns.require_columns(df, [column, target])
    plots = {"binary": plot_target_rate, "regression": plot_target_mean, "multiclass": plot_target_classes}
    return plots[compute.targets.task_of(df[target])](df, column, target, bins=bins, top=top, ax=ax, **kwargs)


def plot_target_over_time(
    df: pd.DataFrame,
    time: str,
    target: str,
    *,
    positive: Any = None,
    top: int = 5,
    interactive: bool = False,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes | Figure":
    """Draw a target by hour, day, week or month (UTC), whichever fits the span, over the number of rows.

    Numbers are drawn as mean with their 10 to 90 % band, two classes as the share of ``positive``, more as the shares
    of the ``top`` most frequent, with 95 % intervals.

    Parameters
    ----------
    time
        A column of timestamps or dates.
    interactive
        Return a plotly ``Figure`` that shows the numbers on hover.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.plot`, or to ``plotly.graph_objects.Scatter``.

    Examples
    --------
    >>> days = pd.to_datetime(["2026-01-01", "2026-01-01", "2026-01-02"], utc=True)
    >>> ax = plot_target_over_time(pd.DataFrame({"day": days, "survived": [0, 1, 1]}), "day", "survived")
    """
    found = compute.times.target(df, time, target, positive=positive, top=top)
    return draw_over_time(found, ax, interactive, kwargs)


def plot_leakage(
    df: pd.DataFrame, target: str, *, suspect: float = 0.95, top: int = 20, ax: "Axes | None" = None, **kwargs: Any
) -> "Axes":
    """Draw how well each column alone tells the target: what tells nearly everything may not be known in time.

    One half of the rows is predicted by what the other half shows, so a column of different values tells nothing. Above
    100,000 rows a sample is measured.

    Parameters
    ----------
    suspect
        From this score on a column is suspect: an area under the ROC curve, or R² for a numeric target.
    top
        How many columns to draw.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.barh`.

    Examples
    --------
    >>> passengers = pd.DataFrame({"survived": [0, 1] * 20, "boat": [None, "11"] * 20, "age": range(40)})
    >>> ax = plot_leakage(passengers, "survived")
    """
    found, known = compute.targets.leakage(df, target), int(df[target].notna().sum())
    return draw_leakage(found, target, suspect, top, known, ax, kwargs)


def draw_leakage(
    found: compute.targets.Leakage,
    target: str,
    suspect: float,
    top: int,
    n: int,
    ax: "Axes | None",
    kwargs: dict[str, Any],
) -> "Axes":
    """Draw what `compute.targets.leakage` returns for ``n`` rows."""
    shown, chance = found.table.head(top), 0.0 if found.measure == "R²" else 0.5
    ax = draw.row_axes(ax, shown.index)
    guilty = (shown["score"] >= suspect).to_numpy()
    style: dict[str, Any] = {
        "color": np.where(guilty, draw.ORANGE, draw.BLUE),
        "hatch": ["///" if bad else "" for bad in guilty],
    }
    width = shown["score"] - chance
    bars = ax.barh(range(len(shown)), width, left=chance, edgecolor="white", linewidth=0, **style | kwargs)
    ax.bar_label(bars, [f"{score:.3f}" for score in shown["score"]], padding=7, fontsize="small")
    null = shown["null_score"].to_numpy() > chance + 0.05 * (1 - chance)
    if null.any():
        rows = np.flatnonzero(null)
        style = {"linestyle": "none", "marker": "D", "color": draw.DARK, "markerfacecolor": "white"}
        ax.plot(shown["null_score"].to_numpy()[null], rows, label="its NULLs alone", **style)
        ax.legend(frameon=False, fontsize="small", loc="lower right")
    ax.axvline(suspect, color=draw.DARK, linestyle="--", linewidth=1)
    ax.set(xlim=(chance, 1 + 0.12 * (1 - chance)), xlabel=f"{found.measure} of the column alone")
    many = int((found.table["score"] >= suspect).sum())
    title = f"Leakage: {many or 'no'} suspect{'' if many == 1 else 's'} for {target}"
    looked = f"a sample of {found.rows:,} rows" if found.rows < n else f"n = {found.rows:,}"
    rest = f"{len(found.table) - top} columns not drawn tell less" if len(found.table) > top else ""
    out = f"left out: {draw.some(found.left_out)} (constant)" if found.left_out else ""
    return draw.headline(ax, title, looked, f"dashed: suspect from {suspect:g}", rest, out)


def plot_drift(
    train: pd.DataFrame,
    serving: pd.DataFrame,
    *,
    bins: int = 10,
    top: int = 20,
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw how far each column of the rows served has drifted from those of training.

    The population stability index compares shares in training's bins. By the usual rule of thumb, 0.1 is worth a look
    and 0.25 a change; a tick shows what chance alone stays below in 95 of 100 samples of this size. Beside it stand the
    Kolmogorov-Smirnov distance of numbers, the share of values that training never saw, and NULL where its share
    changed. Above 100,000 rows a sample of either frame is measured.

    Parameters
    ----------
    bins
        Bins of about equal size in training, for numbers and dates.
    top
        How many columns to draw.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.barh`.

    Examples
    --------
    >>> ax = plot_drift(pd.DataFrame({"age": range(100)}), pd.DataFrame({"age": range(30, 130)}))
    """
    found = compute.drift.drift(train, serving, bins=bins)
    shown = found.table.head(top)
    ax = draw.row_axes(ax, shown.index)
    limits = [compute.drift.SOME, compute.drift.MUCH]
    level = np.where(shown["psi"] > shown["chance"], np.digitize(shown["psi"], limits), 0)
    colors = np.array([draw.SKY, draw.AMBER, draw.ORANGE])[level]
    hatches = [("", "///", "xxx")[i] for i in level]
    style: dict[str, Any] = {"color": colors, "hatch": hatches, "edgecolor": "white", "linewidth": 0}
    ax.barh(range(len(shown)), shown["psi"], **style | kwargs)
    ax.plot(shown["chance"], range(len(shown)), linestyle="none", marker="|", markersize=14, color="black")
    for y, row in enumerate(shown.itertuples()):
        words = _drift_words(row)
        ax.text(1.025, y, words, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=draw.DARK)
    widest = max(shown["psi"].max(), shown["chance"].max(), compute.drift.MUCH)
    for line in limits:
        ax.axvline(line, color=draw.DARK, linestyle="--", linewidth=1, zorder=0)
    ax.set(xlim=(0, widest * 1.05), xlabel="population stability index")
    many = int(((found.table["psi"] >= compute.drift.MUCH) & (found.table["psi"] > found.table["chance"])).sum())
    title = (
        f"Drift: {many or 'none'} of {draw.count(len(found.table), 'column')} beyond {compute.drift.MUCH} and chance"
    )
    sizes = [len(train), len(serving)]
    n = [f"{m:,}" if m == size else f"{m:,} of {size:,}" for m, size in zip(found.rows, sizes, strict=True)]
    reasons = pd.Series(found.left_out, dtype=object)
    out = [f"{reason}: {draw.some(group.index)}" for reason, group in reasons.groupby(reasons, sort=False)]
    rest = f"{len(found.table) - top} columns not drawn drifted less" if len(found.table) > top else ""
    notes = (f"{n[0]} rows of training, {n[1]} of serving", "dashed: 0.1 and 0.25", "tick: chance alone", rest)
    return draw.headline(ax, title, *notes, "; ".join(out))


def _drift_words(row: Any) -> str:
    words = [f"{row.psi:.3f}", f"KS {row.ks:.2f}" if np.isfinite(row.ks) else ""]
    words.append(f"{draw.percent(row.unseen)} unseen" if row.unseen > 0 else "")
    if abs(row.null_train - row.null_serving) >= 0.005:
        words.append(f"NULL {draw.percent(row.null_train)} → {draw.percent(row.null_serving)}")
    return ", ".join(word for word in words if word)


def plot_correlations(
    df: pd.DataFrame,
    *,
    top: int = 15,
    method: Literal["pearson", "spearman"] = "pearson",
    ax: "Axes | None" = None,
    **kwargs: Any,
) -> "Axes":
    """Draw how strongly columns of any type go together, as strength (colour) and value (text).

    Two numbers have Pearson's r (signed; booleans and dates count as numbers), two categories Cramér's V corrected for
    its bias, a number and a category the correlation ratio. Above 100,000 rows a sample is measured. Constants and free
    text are left out.

    Parameters
    ----------
    top
        How many columns to draw: those with the strongest associations.
    method
        ``spearman`` measures numbers by their ranks, as fits skewed ones.
    **kwargs
        Passed to :func:`seaborn.heatmap`.

    Examples
    --------
    >>> ax = plot_correlations(pd.DataFrame({"age": [22, 35, 38], "fare": [7, 53, 71], "sex": ["m", "f", "f"]}))
    """
    return draw_associations(compute.data.associations(df, top=top, method=method), method, len(df), ax, kwargs)


def draw_associations(
    found: compute.data.Associations, method: str, n: int, ax: "Axes | None", kwargs: dict[str, Any]
) -> "Axes":
    """Draw what `compute.data.associations` returns for a frame of ``n`` rows."""
    names, size = list(found.matrix.columns), len(found.matrix)
    ax = draw.axes(ax, width=3.2 + 0.5 * size, height=2.2 + 0.45 * size)
    # the diagonal and the upper half would say nothing new
    part = found.matrix.iloc[1:, :-1]
    signed = np.add.outer(np.arange(1, size), np.zeros(size - 1)) < found.numeric
    part = part.round(2) + 0.0  # no negative zeros
    text = np.where(signed, part.map("{:+.2f}".format), part.map("{:.2f}".format)).astype(str)
    text = np.where(part.isna(), "?", np.char.replace(text, "-", compute.columns.MINUS))
    mask = np.triu(np.ones(part.shape, dtype=bool), k=1)
    options = {"mask": mask, "linewidths": 0.5, "square": True, "cbar_kws": {"label": "strength", "shrink": 0.7}}
    options["annot_kws"] = {"fontsize": "small" if size <= 8 else "x-small"}
    draw.heatmap(ax, part.abs().fillna(0), text, names[1:], names[:-1], options | kwargs)
    if 0 < found.numeric < size:  # where numbers end and categories begin
        ax.axhline(found.numeric - 1, color=draw.DARK, linewidth=1.2, xmax=found.numeric / (size - 1))
        ax.axvline(found.numeric, color=draw.DARK, linewidth=1.2, ymax=1 - (found.numeric - 1) / (size - 1))
    sampled = f"a sample of {found.rows:,} of {n:,} rows" if found.rows < n else f"n = {n:,} rows"
    numbers = {"pearson": "Pearson's r", "spearman": "Spearman's rank correlation"}[method]
    measures = f"with sign: {numbers}; without: Cramér's V or, across the line, correlation ratio"
    measures = {0: "Cramér's V", size: numbers}.get(found.numeric, measures)
    reasons = pd.Series(found.left_out, dtype=object)
    out = [f"{reason}: {draw.some(group.index)}" for reason, group in reasons.groupby(reasons, sort=False)]
    return draw.headline(ax, "Associations", sampled, measures, f"left out: {'; '.join(out)}" if out else "")
