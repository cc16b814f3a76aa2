"""What all plots share: colours, room, titles with notes, and lines in matplotlib or in plotly."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlsys.errors import PlotError
from mlsys.vis.compute import columns
from mlsys.vis.compute.columns import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as Interactive

# Okabe and Ito's colours, safe for colour-blind readers; lines differ in dashes and markers too, for print in grey.
BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY, DARK = "#AAAAAA", "#555555"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
PLOTLY_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")
MARKERS = ("o", "s", "^", "D", "v", "P")
CURVE, NOTES, PAGE = "mlsys-curve", "mlsys-notes", "mlsys-page"  # ids of what has to be found again
_SHAPES = {"": "linear", "pre": "vh", "post": "hv"}
_DOT = "\N{NO-BREAK SPACE}· "  # between notes; the dot stays on its line


@dataclass(frozen=True)
class Line:
    """A line to draw, and what plotly shows on hover: a template over ``custom``, one value for each point."""

    x: Any
    y: Any
    name: str
    hover: str
    custom: Any


@dataclass(frozen=True)
class Chart:
    """Lines over the same axes, to be drawn by matplotlib or by plotly.

    ``reference`` is a dotted line with its name; ``step`` is empty for straight lines, or says where a value holds:
    from the point before (``pre``) or up to the next one (``post``).
    """

    title: str
    notes: list[str]
    xlabel: str
    ylabel: str
    lines: list[Line]
    reference: tuple[Sequence[float], Sequence[float], str] | None = None
    xlim: tuple[float, float] | None = (-0.01, 1.01)
    ylim: tuple[float, float] | None = (-0.01, 1.01)
    step: Literal["", "pre", "post"] = ""
    legend: str = "best"
    options: dict[str, Any] = field(default_factory=dict)

    def draw(self, ax: "Axes | None", interactive: bool, kwargs: dict[str, Any]) -> "Axes | Interactive":
        """Draw with matplotlib on ``ax``, after the lines that are there already, or with plotly."""
        return self._plotly(ax, kwargs) if interactive else self._matplotlib(ax, kwargs)

    def _matplotlib(self, ax: "Axes | None", kwargs: dict[str, Any]) -> "Axes":
        ax = axes(ax, width=5.2, height=5.0)
        before = sum(line.get_gid() == CURVE for line in ax.lines)
        if not before and self.reference:
            x, y, name = self.reference
            ax.plot(x, y, color=DARK, linestyle=":", linewidth=1)
            at = (0.62, 0.60) if y[0] != y[-1] else (0.02 * x[-1], y[0])
            ax.annotate(escape(name), at, xytext=(0, 3), textcoords="offset points", fontsize="small", color=DARK)
        for i, line in enumerate(self.lines, before):
            style: dict[str, Any] = {"color": COLORS[i % 6], "linestyle": DASHES[i % 6]}
            style["drawstyle"] = f"steps-{self.step}" if self.step else "default"
            ax.plot(line.x, line.y, gid=CURVE, label=escape(line.name), **style | kwargs)
        ax.set(xlabel=escape(self.xlabel), ylabel=escape(self.ylabel))
        ax.set(xlim=self.xlim, ylim=self.ylim)
        ax.legend(loc=cast("Any", self.legend), frameon=False)  # a name that Chart was given
        return headline(ax, self.title, *self.notes)

    def _plotly(self, ax: "Axes | None", kwargs: dict[str, Any]) -> "Interactive":
        figure = plotly_figure(ax, self.title, self.notes, self.xlabel, self.ylabel)
        for i, line in enumerate(self.lines):
            look: dict[str, Any] = {"color": COLORS[i % 6], "dash": PLOTLY_DASHES[i % 6], "shape": _SHAPES[self.step]}
            style = {"name": line.name, "line": look, "mode": "lines", "hovertemplate": line.hover}
            figure.add_scatter(x=line.x, y=line.y, customdata=line.custom, **style | kwargs)
        if self.reference:
            x, y, name = self.reference
            look = {"color": DARK, "dash": "dot", "width": 1}
            figure.add_scatter(x=x, y=y, mode="lines", line=look, name=name, hoverinfo="skip")
        return figure.update_layout(xaxis_range=self.xlim, yaxis_range=self.ylim, showlegend=True)


def page(rows: int, across: int, *, title: str, width: float = 5.0, height: float = 4.2) -> "tuple[Figure, NDArray]":
    """Make a page of Axes that pyplot does not keep: a page is returned, and shown by whoever asked for it."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width * across, height * rows + 0.5), layout=engine)
    figure.set_gid(PAGE)
    figure.suptitle(escape(title), fontsize="x-large", x=0.01, ha="left")
    return figure, figure.subplots(rows, across, squeeze=False)


def axes(ax: "Axes | None", *, width: float = 6.4, height: float = 4.2) -> "Axes":
    """Return ``ax``, or the Axes of a new figure of so many inches."""
    if ax is None:
        import matplotlib.pyplot as plt  # so that a notebook shows the figure by itself

        _, ax = plt.subplots(figsize=(min(width, 16), min(height, 16)), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def row_axes(ax: "Axes | None", labels: Sequence[Any]) -> "Axes":
    """Make room for horizontal bars and their names."""
    widest = max((len(text(label)) for label in labels), default=0)
    ax = axes(ax, width=6.0 + 0.06 * widest, height=max(2.4, 1.5 + 0.28 * len(labels)))
    label_rows(ax, labels)
    return ax


def within_100(low: float, high: float) -> tuple[float, float]:
    """Return limits around percentages, none below 0 or above 100."""
    pad = max(0.05 * (high - low), 0.5)
    return max(0, low - pad), min(100, high + pad)


def headline(ax: "Axes", title: str, *notes: str, width: int | None = None) -> "Axes":
    """Set the title, and under it in smaller type the notes, wrapped to the room that there is."""
    width = _characters(ax) if width is None else width
    old = [text for text in ax.texts if text.get_gid() == NOTES]
    said = [part for text in old for part in text.get_text().replace("\n", " ").split(_DOT)]
    for text in old:
        text.remove()
    parts = list(dict.fromkeys([*said, *(escape(note) for note in notes if note)]))
    lines = textwrap.wrap(_DOT.join(parts), width, break_on_hyphens=False)
    style: dict[str, Any] = {"fontsize": "small", "color": DARK, "va": "bottom", "gid": NOTES}
    place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 4), "textcoords": "offset points"}
    note = ax.annotate("\n".join(lines), (0, 1), **place, **style)
    note.set_in_layout(False)  # else a long line would push the axes aside
    size = float(note.get_fontsize())
    ax.set_title(escape(textwrap.fill(title, int(width * 0.75))), loc="left", pad=8 + 1.3 * size * len(lines))
    return ax


def _characters(ax: "Axes") -> int:
    """Estimate how many characters of notes fit above an Axes; one is about 5 points wide."""
    figure, spec = _figure(ax), ax.get_subplotspec()
    if figure.get_gid() == PAGE and spec:  # laid out once, when all is drawn
        top = spec.get_topmost_subplotspec()
        return max(24, int(top.get_position(figure).width * figure.get_figwidth() * 72 / 5.1))
    if engine := figure.get_layout_engine():
        engine.execute(figure)  # the room is known only after the labels have taken theirs
        ax.apply_aspect()
    box = ax.get_window_extent()
    free = engine and spec and spec.get_topmost_subplotspec().is_last_col()  # nothing else stands to the right
    room = figure.bbox.width - box.x0 if free else box.width
    return max(24, int(room / figure.dpi * 72 / 5.1))


def split(ax: "Axes") -> "Axes":
    """Give the lower quarter of the place of ``ax`` to a second Axes that shares its x, for counts of rows."""
    if spec := ax.get_subplotspec():
        parts = spec.subgridspec(2, 1, height_ratios=(3, 1))
        ax.set_subplotspec(parts[0])
        below = ax.figure.add_subplot(parts[1], sharex=ax)
    else:  # placed by hand
        below = ax.inset_axes((0, -0.3, 1, 0.24), sharex=ax)
    below.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelbottom=False)
    count_axis(below.yaxis)
    return below


def count_axis(axis: Any, what: str = "rows") -> None:
    """Label an axis of counts."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(4, integer=True))
    axis.set_major_formatter("{x:,.0f}")
    axis.set_label_text(what)


def label_rows(ax: "Axes", labels: Iterable[Any], width: int = 36) -> None:
    """Name horizontal bars, the first one on top."""
    names = [escape(name) for name in columns.shorten_all(labels, width)]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def _figure(ax: "Axes") -> "Figure":
    return cast("Figure", ax.get_figure(root=True))  # None only for Axes that were removed from theirs


def heatmap(
    ax: "Axes", values: pd.DataFrame, text: Any, rows: Iterable[Any], names: Iterable[Any], options: dict[str, Any]
) -> None:
    """Draw values from 0 to 1 as colour, with ``text`` on them."""
    import seaborn as sns

    fixed = {"annot": text, "fmt": "", "cmap": "Blues", "vmin": 0, "vmax": 1}
    figure = _figure(ax)
    dpi = figure.dpi
    if figure.get_gid() == PAGE:  # seaborn makes a canvas of the whole page for each label, to see whether any overlap
        figure.set_dpi(10)
    sns.heatmap(values, ax=ax, **fixed | options)
    figure.set_dpi(dpi)
    names = [escape(name) for name in columns.shorten_all(names, 24)]
    turn = 45 if max(map(len, names)) * len(names) > 30 else 0
    at = np.arange(len(names)) + 0.5
    ax.set_xticks(at, names, rotation=turn, ha="right" if turn else "center", rotation_mode="anchor")
    ax.set_yticks(np.arange(len(values)) + 0.5, [escape(name) for name in columns.shorten_all(rows, 40)], rotation=0)
    ax.tick_params(length=0)


def dates(ax: "Axes", times: Any) -> "NDArray[np.float64]":
    """Turn UTC times (or seconds) into matplotlib's numbers, and label the axis with as little as tells them apart."""
    from matplotlib import dates

    unit = {"unit": "s"} if isinstance(times, np.ndarray) else {}
    locator = dates.AutoDateLocator(minticks=3, maxticks=7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    return dates.date2num(pd.to_datetime(pd.Series(times), utc=True, **unit).dt.tz_localize(None).to_numpy())


def plotly_figure(ax: "Axes | None", title: str, notes: list[str], xlabel: str, ylabel: str) -> "Interactive":
    """Make a plotly Figure with the same title, notes and labels as matplotlib's."""
    if ax is not None:
        raise PlotError("interactive=True makes a plotly Figure of its own, got ax= too: leave one of them out")
    import plotly.graph_objects as go

    lines = textwrap.wrap(_DOT.join(note for note in notes if note), 90, break_on_hyphens=False)
    small = "".join(f"<br><sup>{line}</sup>" for line in lines)
    layout: dict[str, Any] = {
        "title": title + small,
        "xaxis_title": xlabel,
        "yaxis_title": ylabel,
        "template": "plotly_white",
    }
    layout["margin_t"] = 70 + 18 * len(lines)
    return go.Figure(layout=layout)


def left_out(rows: int) -> str:
    """Say how many rows are not in the plot."""
    return f"{count(rows, 'row')} with NULL left out" if rows else ""


def some(names: Iterable[str], limit: int = 3) -> str:
    """Write out a few names, and how many more there are."""
    names = [columns.shorten(name, 24) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def percent(share: float) -> str:
    """Write a share, never as 0 % or 100 % unless it is exactly that."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{share * 100:.1f} %"


def escape(text: str) -> str:
    """Keep matplotlib from reading what stands between two dollars as mathematics."""
    return text.replace("$", r"\$")


def text(value: Any, width: int = 36) -> str:
    """Write a name on one line, its middle left out where it is long: names often differ at either end."""
    return escape(columns.shorten(value, width))
