"""Plots of what runs every day: predictions, rejected rows, durations."""

import textwrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlsys.vis import compute
from mlsys.vis import drawing as draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure


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
    found = compute.times.over_time(predictions, value=value, positive=positive, top=top)
    return (_plotly_over_time if interactive else _draw_over_time)(found, ax, kwargs)


def _over_time_notes(found: compute.times.OverTime) -> list[str]:
    dropped = f"{draw.count(found.dropped, 'row')} without time or value left out" if found.dropped else ""
    return [f"n = {found.table['n'].sum():,} by {found.period} (UTC)", f"band: {found.band}", dropped]


def _draw_over_time(found: compute.times.OverTime, ax: "Axes | None", kwargs: dict[str, Any]) -> "Axes":
    ax = draw.axes(ax, width=7.5, height=4.6)
    below = draw.split(ax)
    table = found.table.assign(day=draw.dates(below, found.table["start"]))
    floor = pd.Series(0, index=table["start"].unique())
    ends = []
    for i, (version, part) in enumerate(table.groupby("version", sort=False)):
        style = {
            "color": draw.COLORS[i % 6],
            "linestyle": draw.DASHES[i % 6],
            "marker": draw.MARKERS[i % 6],
            "markersize": 4,
        }
        ax.plot(part["day"], part["value"], gid=draw.CURVE, label=version, **style | kwargs)
        ax.vlines(part["day"], part["low"], part["high"], color=draw.COLORS[i % 6], alpha=0.25, linewidth=3)
        ends.append((part["day"].iloc[-1], part["value"].iloc[-1], str(version), draw.COLORS[i % 6]))
        under = floor.loc[part["start"]].to_numpy()
        days = {"hour": 1 / 24, "day": 1, "week": 7, "month": 30}[found.period]
        style = {"color": draw.COLORS[i % 6], "edgecolor": "white", "linewidth": 0.5}
        below.bar(part["day"], part["n"], 0.9 * days, bottom=under, **style)
        floor.loc[part["start"]] += part["n"].to_numpy()
    _label_ends(ax, ends)
    ax.set_ylabel(textwrap.fill(draw.text(found.quantity, 60), 30))
    below.set_xlabel(f"{found.period} of prediction (UTC)")
    return draw.headline(ax, "Predictions over time", *_over_time_notes(found))


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
        ax.annotate(draw.text(name, 24), (x, at), xytext=(7, 0), textcoords="offset points", **style)


def _plotly_over_time(found: compute.times.OverTime, ax: "Axes | None", kwargs: dict[str, Any]) -> "Figure":
    xlabel = f"{found.period} of prediction (UTC)"
    figure = draw.plotly_figure(ax, "Predictions over time", _over_time_notes(found), xlabel, found.quantity)
    for i, (version, part) in enumerate(found.table.groupby("version", sort=False)):
        line = {"color": draw.COLORS[i % 6], "dash": draw.PLOTLY_DASHES[i % 6]}
        error = {"array": part["high"] - part["value"], "arrayminus": part["value"] - part["low"], "thickness": 1}
        hover = f"{version}, %{{x}}<br>{found.quantity} %{{y:.4g}}<br>%{{customdata:,}} rows<extra></extra>"
        style = {"name": str(version), "mode": "lines+markers", "line": line, "error_y": error, "hovertemplate": hover}
        figure.add_scatter(x=part["start"], y=part["value"], customdata=part["n"], **style | kwargs)
    return figure.update_layout(showlegend=True)
