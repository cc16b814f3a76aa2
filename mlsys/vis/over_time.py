"""Lines by period of time over counts, in matplotlib or in plotly."""

import textwrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlsys.vis import drawing as draw
from mlsys.vis.compute.times import OverTime

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from plotly.graph_objects import Figure

_DAYS = {"hour": 1 / 24, "day": 1, "week": 7, "month": 30}


def draw_over_time(found: OverTime, ax: "Axes | None", interactive: bool, kwargs: dict[str, Any]) -> "Axes | Figure":
    """Draw with matplotlib on ``ax``, counts in the lower part of its place, or with plotly."""
    return (_plotly if interactive else _matplotlib)(found, ax, kwargs)


def _notes(found: OverTime) -> list[str]:
    wide = (found.table["high"] > found.table["low"]).any()
    count = f"n = {draw.count(int(found.table['n'].sum()), found.counted)} by {found.period} (UTC)"
    return [count, f"band: {found.band}" if wide else "", *found.notes]


def _matplotlib(found: OverTime, ax: "Axes | None", kwargs: dict[str, Any]) -> "Axes":
    ax = draw.axes(ax, width=7.5, height=4.6)
    below = draw.split(ax)
    draw.count_axis(below.yaxis, f"{found.counted}s")
    table = found.table.assign(day=draw.dates(below, found.table["start"]))
    floor = pd.Series(0, index=table["start"].unique())
    ends = []
    for i, (name, part) in enumerate(table.groupby("name", sort=False)):
        color = draw.COLORS[i % 6]
        style: dict[str, Any] = {
            "color": color,
            "linestyle": draw.DASHES[i % 6],
            "marker": draw.MARKERS[i % 6],
            "markersize": 4,
        }
        ax.plot(part["day"], part["value"], gid=draw.CURVE, label=name, **style | kwargs)
        ax.vlines(part["day"], part["low"], part["high"], color=color, alpha=0.25, linewidth=3)
        ends.append((part["day"].iloc[-1], part["value"].iloc[-1], str(name), color))
        under = floor.loc[part["start"]].to_numpy()
        style = {"color": color, "edgecolor": "white", "linewidth": 0.5}
        below.bar(part["day"], part["n"], 0.9 * _DAYS[found.period], bottom=under, **style)
        floor.loc[part["start"]] += part["n"].to_numpy()
    if found.from_zero:
        ax.set_ylim(bottom=0)
    _mark(ax, found)
    _label_ends(ax, ends)
    ax.set_ylabel(textwrap.fill(draw.text(found.quantity, 60), 30))
    below.set_xlabel(f"{found.period} of {draw.text(found.time)} (UTC)")
    return draw.headline(ax, found.title, *_notes(found))


def _mark(ax: "Axes", found: OverTime) -> None:
    """Draw single moments along the foot of the plot."""
    for marker, color, (word, times) in zip("xo", (draw.ORANGE, draw.DARK), found.marks.items(), strict=False):
        style: dict[str, Any] = {"linestyle": "none", "marker": marker, "color": color}
        style |= {"markerfacecolor": "white", "clip_on": False}
        ax.plot(draw.dates(ax, times), [0] * len(times), transform=ax.get_xaxis_transform(), label=word, **style)
    if found.marks:
        ax.legend(
            [line for line in ax.lines if line.get_label() in found.marks],
            list(found.marks),
            frameon=False,
            fontsize="small",
            loc="best",
        )


def _label_ends(ax: "Axes", ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name at its end, apart from names that would stand at the same place."""
    from matplotlib.patheffects import withStroke

    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    placed: list[tuple[float, float]] = []
    for x, y, name, color in sorted((end for end in ends if end[2]), key=lambda end: end[1]):
        near = [other for at, other in placed if abs(at - x) < 0.12 * (right - left)]
        at = max([y, *(other + 0.07 * (high - low) for other in near)])
        placed.append((x, at))
        text = ax.annotate(
            draw.text(name, 24), (x, at), xytext=(7, 0), textcoords="offset points", color=color, va="center"
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _plotly(found: OverTime, ax: "Axes | None", kwargs: dict[str, Any]) -> "Figure":
    xlabel = f"{found.period} of {found.time} (UTC)"
    figure = draw.plotly_figure(ax, found.title, _notes(found), xlabel, found.quantity)
    for i, (name, part) in enumerate(found.table.groupby("name", sort=False)):
        line = {"color": draw.COLORS[i % 6], "dash": draw.PLOTLY_DASHES[i % 6]}
        error = {"array": part["high"] - part["value"], "arrayminus": part["value"] - part["low"], "thickness": 1}
        hover = f"{name or found.quantity}, %{{x}}<br>%{{y:.4g}}<br>%{{customdata:,}} {found.counted}s<extra></extra>"
        style = {"name": str(name or found.quantity), "mode": "lines+markers", "line": line, "error_y": error}
        style["hovertemplate"] = hover
        figure.add_scatter(x=part["start"], y=part["value"], customdata=part["n"], **style | kwargs)
    for symbol, color, (word, times) in zip(
        ("x", "circle-open"), (draw.ORANGE, draw.DARK), found.marks.items(), strict=False
    ):
        marker = {"symbol": symbol, "color": color, "size": 8}
        hover = f"{word}, %{{x}}<extra></extra>"
        figure.add_scatter(x=times, y=[0] * len(times), mode="markers", marker=marker, name=word, hovertemplate=hover)
    return figure.update_layout(showlegend=True)
