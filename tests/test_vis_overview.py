"""`overview`: its table and findings, what bounds it, and the gallery of all plots."""

import datetime as dt
import decimal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlsys import vis
from mlsys.errors import PlotError
from mlsys.vis import gallery, overview_page


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Draw without a screen, leave global style as it was and no figure behind."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == style
    assert plt.get_fignums() == []  # a page belongs to whoever asked for it
    plt.close("all")


def titles(figure: Any) -> list[str]:
    """Return the titles of a page's panels."""
    return [title for ax in figure.axes if (title := ax.get_title(loc="left"))]


PASSENGERS = gallery.Passengers(600).frame


def test_the_table_describes_each_column() -> None:
    """Kinds, NULLs, distinct values and ranges are those of pandas."""
    table = vis.overview(PASSENGERS).columns
    assert table["missing"].to_dict() == PASSENGERS.isna().sum().to_dict()
    assert table["distinct"].to_dict() == PASSENGERS.nunique().to_dict()
    assert table["kind"].to_dict() == {
        "age": "numeric",
        "fare": "numeric",
        "pclass": "numeric",
        "port": "category",
        "cabin": "category",
        "child": "boolean",
        "boarded": "datetime",
        "boat": "category",
        "survived": "numeric",
    }
    assert table.loc["pclass", "values"] == "1 to 3, median 2"
    counts = PASSENGERS["port"].value_counts(normalize=True) * 100
    assert table.loc["port", "values"].startswith(f"{counts.index[0]} {counts.iloc[0]:.1f} %, {counts.index[1]} ")


def test_the_text_says_what_stands_out() -> None:
    """Constants, identifiers, twins, leakage, duplicates and the target's balance are named."""
    df = PASSENGERS.assign(one=1, id=[f"row {i}" for i in range(600)], twin=PASSENGERS["fare"] * 2)
    text = vis.overview(df, target="survived").text
    share = PASSENGERS["survived"].mean() * 100
    for said in (
        "600 rows, 12 columns: 6 numeric, 4 categorical, 1 boolean, 1 of dates",
        f"NULLs in 5 columns: boat {100 - share:.1f} %",
        "Constant or empty: one.",
        "A different text in nearly every row: id.",
        f"Target survived: 1 {share:.1f} %",
        "Suspects of leakage, which alone tell nearly everything: boat (",
        "Columns that say nearly the same: twin and fare (1.00).",
    ):
        assert said in text
    assert "600 rows like an earlier one" in vis.overview(pd.concat([PASSENGERS, PASSENGERS])).text


def test_the_page_has_the_right_plots() -> None:
    """With a target it is drawn against what tells it best, over time and alone; without, there are distributions."""
    figure = vis.overview(PASSENGERS, target="survived").figure()
    found = titles(figure)
    assert found[:4] == ["Missing values", "survived", "Leakage: 1 suspect for survived", "survived over time"]
    assert "survived by boat" in found
    assert "Associations" in found
    found = titles(vis.overview(PASSENGERS).figure())
    assert found[:2] == ["Missing values", "Associations"]
    assert set(found[2:]) == set(PASSENGERS)


@pytest.mark.parametrize("target", ["fare", "port", "child"])
def test_every_kind_of_target(target: str) -> None:
    """Numbers, classes with NULLs and booleans with NULLs can be the target."""
    found = vis.overview(PASSENGERS, target=target)
    assert f"Target {target}: " in found.text
    assert any(title.startswith(f"{target} by") for title in titles(found.figure()))


def test_a_page_in_a_notebook() -> None:
    """The rich display holds text, table and page, escapes names and needs nothing from elsewhere."""
    page = vis.overview(pd.DataFrame({"<b>": ["<i>", "y", "<i>"], "z": [1, 2, 3]}))._repr_html_()
    assert "&lt;b&gt;" in page
    assert "&lt;i&gt; 66.7 %" in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "http" not in page
    assert str(vis.overview(PASSENGERS)) == vis.overview(PASSENGERS).text


def test_many_rows_are_sampled_and_nulls_counted() -> None:
    """NULLs are exact in any number of rows; the rest comes from a sample, which text and page name."""
    n = 300_000
    df = pd.DataFrame({"x": np.arange(n, dtype=float), "y": np.arange(n) % 2})
    df.loc[: n // 3, "x"] = np.nan
    found = vis.overview(df)
    assert (found.rows, found.sampled, found.columns.loc["x", "missing"]) == (n, 100_000, n // 3 + 1)
    assert "a sample of 100,000" in found.text
    assert "a sample of 100,000" in found.figure().get_suptitle()


def test_memory_does_not_grow_with_the_frame() -> None:
    """Ten times the rows take the memory of one column's mask more, not of the frame again."""
    peaks = []
    for n in (200_000, 2_000_000):
        df = pd.DataFrame({f"c{i}": np.zeros(n) for i in range(20)})
        df["c0"] = np.arange(n)
        df["c1"] = np.arange(n) % 7
        tracemalloc.start()
        vis.overview(df, target="c1")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.2 * df.memory_usage().sum()


def test_wide_frames_are_cut_and_say_so() -> None:
    """Of 200 columns the first 60 and the target are looked at."""
    df = pd.DataFrame({f"c{i}": np.arange(50) % (i + 2) for i in range(200)})
    found = vis.overview(df, target="c199")
    assert len(found.columns) == 61
    assert "200 columns" in found.text
    assert "61 of them were looked at" in found.text
    assert len(found.figure().axes) <= 30


FRAMES: dict[str, Any] = {
    "one row": pd.DataFrame({"a": [1], "b": ["x"]}),
    "one column": pd.DataFrame({"a": range(5)}),
    "all NULL": pd.DataFrame({"a": [None] * 5, "b": pd.array([None] * 5, "Int64")}),
    "constant": pd.DataFrame({"a": [1] * 5, "b": ["x"] * 5}),
    "infinite": pd.DataFrame({"a": [np.inf, -np.inf, 1.0, np.nan] * 5, "b": range(20)}),
    "arrow": pd.DataFrame(
        {
            "d": pd.Series([decimal.Decimal("1.5"), None] * 5, dtype=pd.ArrowDtype(pa.decimal128(38, 9))),
            "t": pd.Series([dt.date(2026, 1, 1), None] * 5, dtype=pd.ArrowDtype(pa.date32())),
            "l": pd.Series([[1], None] * 5, dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
        }
    ),
    "names that are no text": pd.DataFrame({0: range(5), ("a", 1): list("abcde")}),
    "long names": pd.DataFrame(
        {f"a column with a very long name, $ and number {i}": range(i, i + 30) for i in range(5)}
    ),
}


@pytest.mark.parametrize("df", FRAMES.values(), ids=FRAMES.keys())
def test_odd_frames_have_a_page(df: pd.DataFrame) -> None:
    """Whatever a query returns, there is a text and a page."""
    found = vis.overview(df)
    assert found.text
    assert found.figure().axes


REFUSALS = {
    "empty": (lambda: vis.overview(PASSENGERS.head(0)), "0 rows and 9 columns; check the query's filters"),
    "no frame": (lambda: vis.overview([1]), "got list"),
    "no target": (lambda: vis.overview(PASSENGERS, target="survied"), "did you mean 'survived'"),
    "NULL target": (lambda: vis.overview(PASSENGERS.assign(y=None), target="y"), "known in some rows, got 600 NULL"),
    "one class": (lambda: vis.overview(PASSENGERS.assign(y=0), target="y"), "must vary, got only 0 in 600 rows"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    """What was received and the way out, in one line."""
    with pytest.raises(PlotError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# The gallery --------------------------------------------------------------------------------------------------------


def test_the_gallery_shows_every_plot() -> None:
    """Each plot, and both pages, have examples."""
    pages = {"evaluate", "overview"}
    assert set(gallery.examples(1000)) == {name for name in vis.__all__ if name.startswith("plot_")} | pages


def test_the_gallery_is_written_by_one_command(tmp_path: Path) -> None:
    """The command writes a page that shows pictures and interactive twins without anything from elsewhere."""
    command = [sys.executable, "-m", "mlsys.vis.gallery", str(tmp_path), "--rows", "5000", "--only", "plot_ro"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"plot_roc-{i}.png" for i in range(4)]
    assert all(f'src="{path.name}"' in page for path in tmp_path.glob("*.png"))
    assert page.count("plotly-graph-div") == 1
    assert 'src="http' not in page
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000


def test_bounds_are_what_the_documentation_says() -> None:
    """The numbers in the docstring are those in force."""
    words = vis.overview.__doc__ or ""
    assert f"{overview_page.MAX_ROWS:,}" in words
    assert f"first {overview_page.MAX_COLUMNS}" in words
