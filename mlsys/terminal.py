"""What commands print: rows and facts as tables for a person, and JSON or CSV for a program."""

import json
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from rich.measure import Measurement
    from rich.text import Text

_WIDEST = 1_000_000  # characters: no table is wider
_PROSE = 24  # characters: what words need at least to be read in a column


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def facts_table(title: str, rows: dict[str, str]) -> Any:
    """Return headings and what is said about each, as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, Text(value))  # Text: what an author wrote is no markup
    return table


def show_rows(frame: "pd.DataFrame", output: Format, max_rows: int) -> None:
    """Print the first rows of a frame; say on stderr when there are more."""
    if len(frame) > max_rows:
        typer.echo(f"only the first {max_rows:,} rows are shown: raise --max-rows for more", err=True)
    shown = frame.head(max_rows)
    if output is Format.CSV:
        typer.echo(shown.to_csv(index=False), nl=False)
    elif output is Format.JSON:
        typer.echo(to_json([{k: _plain(v) for k, v in row.items()} for row in shown.to_dict("records")]))
    else:
        print_rows(shown)


def _table(frame: "pd.DataFrame") -> Any:
    """Return a frame as a table for the terminal: numbers to the right, NULL for what is missing."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table, cells = Table(box=box.SIMPLE_HEAD, pad_edge=False), list(_cells(frame))
    for number, name in enumerate(frame.columns):
        column, heading = frame.iloc[:, number], Text(str(name))
        numeric = is_numeric_dtype(column) and not is_bool_dtype(column)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        width = max([heading.cell_len, *(row[number].cell_len for row in cells)])
        if any(isinstance(value, str) and len(value.split()) > 1 for value in column):
            width = min(width, _PROSE)  # words go to the next line; numbers, names and times are not broken
        table.add_column(heading, justify=justify, overflow="fold", min_width=width)
    for row in cells:
        table.add_row(*row)
    return table


def _records(frame: "pd.DataFrame", width: int) -> Any:
    """Return each row as a section of names and values, for a terminal in which a line of the table has no room."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    table.add_column(style="dim", overflow="fold", max_width=width // 2)
    table.add_column(overflow="fold")
    for row in _cells(frame):
        for name, cell in zip(frame.columns, row, strict=True):
            table.add_row(Text(str(name)), cell)
        table.add_section()
    return table


def _cells(frame: "pd.DataFrame") -> "Iterator[list[Text]]":
    from rich.text import Text

    for row, gaps in zip(frame.itertuples(index=False), frame.isna().to_numpy(), strict=True):
        yield [Text("NULL", style="dim") if gap else Text(_cell(v)) for v, gap in zip(row, gaps, strict=True)]


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds" if value.microsecond else "seconds").replace(
            "+00:00", " UTC"
        )
    return str(value)


def _plain(value: Any) -> Any:
    """Return a cell as JSON can say it: lists as lists, NULL and NaN as null, infinities as text."""
    import pandas as pd

    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if pd.isna(value):
        return None
    return str(value) if isinstance(value, float) and abs(value) == float("inf") else value


def print_rows(frame: "pd.DataFrame") -> None:
    """Print a frame as a table or, in a terminal that would have to break words for it, row by row."""
    from rich.console import Console

    table, console = _table(frame), Console()
    too_wide = console.is_terminal and len(frame) and _measure(table).minimum > console.width
    print_table(_records(frame, console.width) if too_wide else table)


def print_table(renderable: Any) -> None:
    """Print a table of rich's to standard output; to a pipe, where a program reads, as wide as it is."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_measure(renderable).maximum)
    console.print(renderable)


def _measure(renderable: Any) -> "Measurement":
    from rich.console import Console

    return Console(width=_WIDEST).measure(renderable)


def to_json(value: Any) -> str:
    """Return a value as indented JSON; what JSON cannot say is said as text."""
    return json.dumps(value, indent=2, default=str, ensure_ascii=False)
