"""Facts as HTML for a notebook, without colours of its own: JupyterLab's light and dark styles apply."""

from collections.abc import Mapping
from html import escape

_LONG_LINES, _LONG_TEXT = 8, 160  # what is longer is folded


def facts(title: str, lines: Mapping[str, str]) -> str:
    """Return headings and what is said about each as a table; long texts are folded. Everything is escaped.

    Examples
    --------
    >>> "&lt;b&gt;" in facts("titanic-survival/v1", {"description": "<b>"})
    True
    """
    rows = "".join(
        '<tr><th scope="row" style="text-align: left; vertical-align: top; white-space: nowrap">'
        f'{escape(name)}</th><td style="text-align: left; white-space: pre-wrap">{_value(text)}</td></tr>'
        for name, text in lines.items()
    )
    return f"<div><strong>{escape(title)}</strong><table><tbody>{rows}</tbody></table></div>"


def _value(text: str) -> str:
    count = text.count("\n") + 1
    if count <= _LONG_LINES and len(text) <= _LONG_TEXT:
        return escape(text)
    first = text.partition("\n")[0]
    more = f" … {count} lines" if count > 1 else " …"
    shown = (first if len(first) <= _LONG_TEXT // 2 else first[: _LONG_TEXT // 2]) + more
    return f"<details><summary>{escape(shown)}</summary>{escape(text)}</details>"
