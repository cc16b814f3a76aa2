"""A text, tables and figures as one piece of HTML without anything from elsewhere, for notebooks and files."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """<style>
.mlsys-page { font: 14px/1.5 system-ui, sans-serif; max-width: 80em; }
.mlsys-page h2 { font-size: 1.25em; margin: 0.5em 0; }
.mlsys-page p { max-width: 60em; }
.mlsys-page table { border-collapse: collapse; margin: 0.5em 0; display: block; overflow-x: auto; }
.mlsys-page th, .mlsys-page td { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #8884; }
.mlsys-page th:first-child, .mlsys-page td:first-child { text-align: left; }
.mlsys-page img { max-width: 100%; height: auto; background: white; }
</style>"""


def page(title: str, text: str, tables: Iterable[str], figures: "Iterable[Figure]") -> str:
    """Return a piece of HTML: title, text, tables, figures."""
    drawn = "".join(image(figure, title) for figure in figures)
    words = "".join(f"<p>{escape(part)}</p>" for part in text.split("\n") if part)
    return f'{_STYLE}<div class="mlsys-page"><h2>{escape(title)}</h2>{words}{"".join(tables)}{drawn}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; cells are written as they are."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def image(figure: "Figure", alt: str, *, dpi: int = 100) -> str:
    """Return a figure as an image inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png(figure, dpi)).decode()}">'


def png(figure: "Figure", dpi: int = 100) -> bytes:
    """Return a figure as PNG of 64 colours: it looks the same, and a notebook that keeps it is a quarter as large."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, facecolor="white")
    few = Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(small, "png", optimize=True)
    return small.getvalue()
