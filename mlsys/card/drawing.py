"""An evaluation's plots as SVG for a card: one for each panel, in colours that follow the card's light or dark."""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mlsys.vis import Evaluation

# What is drawn in black, white or grey follows the page; the data's own colours are in between and stay. Texts without
# a colour of their own get the page's; white ones stand on the data's colours.
_COLORS = {"#000000": "currentColor", "#ffffff": "var(--page)", "#555555": "var(--muted)"}
_COLOR = re.compile(rf"(?P<text><text [^>]*>)|{'|'.join(_COLORS)}")
_PADDING = 0.06  # inches around a panel
_NO_METADATA: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Drawing:
    """A panel: its title, how wide it is (in points), and its SVG for a page."""

    title: str
    width: float
    svg: "Markup"


def drawings(evaluation: "Evaluation") -> list[Drawing]:
    """Return the panels of an evaluation's page, each by itself: on a phone they stand below each other."""
    import matplotlib as mpl

    # Texts stay texts, small and to be searched; ids are hashes of what they stand for, the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mlsys"}):
        figure = evaluation.figure()
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # each panel stays where it is while the others are hidden
        panels: dict[Any, list[Axes]] = {}
        for ax in figure.axes:
            panels.setdefault(_place(ax), []).append(ax)
        return [_panel(figure, axes) for axes in panels.values()]


def _place(ax: "Axes") -> tuple[int, int]:
    """Return the cell of the page's grid that Axes are in: what shares one is one panel."""
    if (own := ax.get_subplotspec()) is None:
        raise ValueError("a page's Axes are in a grid")
    spec = own.get_topmost_subplotspec()
    return spec.num1, spec.num2


def _panel(figure: "Figure", axes: "list[Axes]") -> Drawing:
    from markupsafe import Markup
    from matplotlib.transforms import Bbox

    for ax in figure.axes:
        ax.set_visible(ax in axes)
    figure.suptitle("")
    drawn = Bbox.union([box for ax in axes if (box := ax.get_tightbbox())])
    box = drawn.transformed(figure.dpi_scale_trans.inverted()).padded(_PADDING)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches=box, transparent=True, metadata=_NO_METADATA)
    title = next((text for ax in axes if (text := ax.get_title(loc="left"))), "plot")
    return Drawing(title, box.width * 72, Markup(_for_a_page(buffer.getvalue())))  # noqa: S704 - matplotlib escapes every text


def _for_a_page(svg: str) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return _COLOR.sub(_recolored, svg)


def _recolored(match: re.Match[str]) -> str:
    if text := match["text"]:
        return text.replace("#000000", _COLORS["#000000"]).replace("#555555", _COLORS["#555555"])
    return _COLORS[match[0]]
