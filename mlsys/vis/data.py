"""Plots of data, before any model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlsys.errors import PlotError
from mlsys.vis import compute
from mlsys.vis import drawing as draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    table = compute.data.missing(df)
    shown, rest = table.head(top), table.iloc[top:]
    ax = draw.row_axes(ax, shown.index)
    bars = ax.barh(range(len(shown)), shown["share"] * 100, **{"color": draw.BLUE} | kwargs)
    labels = [f"{draw.percent(s)} ({n:,})" if n else "0" for n, s in zip(shown["missing"], shown["share"], strict=True)]
    ax.bar_label(bars, labels, padding=3, fontsize="small")
    ax.set(xlim=(0, 122), xticks=range(0, 101, 20), xlabel="rows with NULL (%)")
    complete = f"{(table['missing'] == 0).sum():,} of {len(table):,} columns complete"
    hidden = f"{len(rest):,} columns not drawn have at most {rest['missing'].max():,} NULLs" if len(rest) else ""
    return draw.headline(ax, "Missing values", f"n = {len(df):,} rows", complete, hidden)


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
        _draw_distribution(ax, df[name], top, kwargs)
    for ax in grid.flat[len(shown) :]:
        ax.remove()
    some = f"the first {len(shown)} of {len(names)} columns, " if len(shown) < len(names) else ""
    figure.suptitle(f"Distributions: {some}{len(df):,} rows", fontsize="large")
    return np.array(grid.flat[: len(shown)])


def _draw_distribution(ax: "Axes", values: pd.Series, top: int, kwargs: dict[str, Any]) -> None:
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
        style = {"color": draw.BLUE, "edgecolor": "white", "linewidth": 0.5, "align": "edge"}
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
    draw.headline(ax, compute.columns.shorten(values.name, 34), *notes, width=46)


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
    table, label, dropped = compute.data.target_rate(df, column, target, bins=bins, top=top, positive=positive)
    ax = draw.row_axes(ax, table.index)
    rows = np.arange(len(table))
    for null, style in ((False, {"color": draw.BLUE}), (True, {"color": draw.DARK, "markerfacecolor": "white"})):
        part, y = table[table["is_null"] == null], rows[table["is_null"] == null]
        if len(part):
            around = [(part["rate"] - part["low"]) * 100, (part["high"] - part["rate"]) * 100]
            ax.errorbar(
                part["rate"] * 100, y, xerr=around, **{"fmt": "o", "capsize": 2, "clip_on": False} | style | kwargs
            )
    for y, positives, n in zip(rows, table["positives"], table["n"], strict=True):
        text = f"{positives:,} of {n:,}"
        ax.text(1.025, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=draw.DARK)
    overall = table["positives"].sum() / table["n"].sum()
    ax.axvline(overall * 100, color=draw.DARK, linestyle="--", linewidth=1, zorder=0)
    ax.set(xlim=draw.within_100(table["low"].min() * 100, table["high"].max() * 100), ylabel=draw.text(column))
    ax.set_xlabel(f"rows with {draw.text(target)} = {draw.text(label)} (%), with 95 % interval")
    known = f"n = {table['n'].sum():,}"
    line = f"dashed: overall {draw.percent(overall)}"
    return draw.headline(
        ax, f"{target} by {column}", known, line, f"{draw.count(dropped, 'row')} without target" if dropped else ""
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
    found = compute.data.associations(df, top=top)
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
    draw.heatmap(ax, part.abs(), text, names[1:], names[:-1], options | kwargs)
    if 0 < found.numeric < size:  # where numbers end and categories begin
        ax.axhline(found.numeric - 1, color=draw.DARK, linewidth=1.2, xmax=found.numeric / (size - 1))
        ax.axvline(found.numeric, color=draw.DARK, linewidth=1.2, ymax=1 - (found.numeric - 1) / (size - 1))
    sampled = f"a sample of {found.rows:,} of {len(df):,} rows" if found.rows < len(df) else f"n = {len(df):,} rows"
    measures = "with sign: Pearson's r; without: Cramér's V or, across the line, correlation ratio"
    measures = {0: "Cramér's V", size: "Pearson's r"}.get(found.numeric, measures)
    reasons = pd.Series(found.left_out, dtype=object)
    out = [f"{reason}: {draw.some(group.index)}" for reason, group in reasons.groupby(reasons, sort=False)]
    return draw.headline(ax, "Associations", sampled, measures, f"left out: {'; '.join(out)}" if out else "")
