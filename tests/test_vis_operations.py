"""Rejects and durations from the ledger, read back as drawn."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from mlsys import vis
from mlsys.errors import PlotError
from tests.test_vis_plots import curves, notes, texts

NEEDED = ("started_timestamp", "finished_timestamp", "model_name", "status", "input_rows", "rejected_rows")


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Draw without a screen, leave global style as it was and no figure behind."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == style
    plt.close("all")


def ledger(days: int = 20) -> pd.DataFrame:
    """Three runs a day of one model and one of another, in the dtypes of ``bq_get``; the last two did not succeed."""
    rng = np.random.default_rng(0)
    start = pd.Timestamp("2026-01-01T05:00:00Z") + pd.to_timedelta(np.arange(4 * days) // 4, unit="D")
    model = np.tile(["a", "a", "a", "b"], days)
    status = np.array(["succeeded"] * (4 * days - 2) + ["failed", "started"])
    done = status == "succeeded"
    seconds = rng.integers(30, 90, 4 * days)
    inputs = pd.Series(rng.integers(900, 1100, 4 * days), dtype="Int64").where(done)
    finish = pd.Series(start + pd.to_timedelta(seconds, unit="s")).where(status != "started")
    return pd.DataFrame(
        {
            "started_timestamp": pd.Series(start).astype("datetime64[us, UTC]"),
            "finished_timestamp": finish.astype("datetime64[us, UTC]"),
            "model_name": pd.Series(model, dtype="str"),
            "status": pd.Series(status, dtype="str"),
            "input_rows": inputs,
            "rejected_rows": (inputs // 100).where(done),
        }
    )


def test_the_ledger_has_what_is_drawn() -> None:
    """The columns that the plots need are columns of ``ml_registry.runs``, and its three states are known."""
    schema = {field["name"]: field for field in json.loads(Path("mlsys/registry/schemas/runs.json").read_text())}
    assert set(NEEDED) == set(NEEDED) & set(schema) == set(ledger())
    assert schema["status"]["description"].startswith("started, succeeded or failed")


def test_rejects_are_shares_of_all_rows_of_a_day() -> None:
    """A day's share is of all rows of that day, its band goes from the best run to the worst, below are input rows."""
    runs = ledger()
    runs.loc[0, "rejected_rows"] = 500
    ax = vis.plot_rejects(runs)
    for line in curves(ax):
        part = runs[(runs["model_name"] == line.get_label()) & runs["input_rows"].notna()]
        sums = part.groupby(part["started_timestamp"].dt.date)[["rejected_rows", "input_rows"]].sum()
        assert line.get_ydata() == pytest.approx((sums["rejected_rows"] / sums["input_rows"]).to_numpy(float))
    low, high = ax.collections[0].get_segments()[0][:, 1]
    expected = (runs["rejected_rows"] / runs["input_rows"]).iloc[:3].to_numpy(float)
    assert (low, high) == pytest.approx((expected.min(), expected.max()))
    assert sum(bar.get_height() for bar in ax.figure.axes[-1].patches) == runs["input_rows"].sum()
    assert "2 runs without counts left out" in notes(ax)
    assert ax.get_ylim()[0] == 0
    assert sorted(texts(ax)) == ["a", "b"]


def test_durations_are_medians_of_runs_that_succeeded() -> None:
    """A day's duration is the median of its runs; those that failed or have not ended are marked, not measured."""
    runs = ledger()
    ax = vis.plot_run_durations(runs)
    good = runs[runs["status"] == "succeeded"]
    seconds = (good["finished_timestamp"] - good["started_timestamp"]).dt.total_seconds()
    for line in curves(ax):
        part = seconds[good["model_name"] == line.get_label()]
        expected = part.groupby(good["started_timestamp"].dt.date).median()
        assert line.get_ydata() == pytest.approx(expected.to_numpy())
    marks = {
        line.get_label(): len(line.get_xdata()) for line in ax.lines if line.get_label() in ("failed", "not ended")
    }
    assert marks == {"failed": 1, "not ended": 1}
    assert ax.get_ylabel().replace("\n", " ") == "median seconds from start to finish"
    assert sum(bar.get_height() for bar in ax.figure.axes[-1].patches) == len(good)


@pytest.mark.parametrize(("factor", "unit"), [(1, "seconds"), (10, "minutes"), (1000, "hours")], ids=str)
def test_durations_choose_a_unit(factor: int, unit: str) -> None:
    """The unit follows the longest run."""
    runs = ledger()
    took = runs["finished_timestamp"] - runs["started_timestamp"]
    ax = vis.plot_run_durations(runs.assign(finished_timestamp=runs["started_timestamp"] + took * factor))
    assert f"median {unit}" in ax.get_ylabel()


@pytest.mark.parametrize("plot", [vis.plot_rejects, vis.plot_run_durations], ids=["rejects", "durations"])
def test_interactive_twins_hold_the_same_data(plot: Any) -> None:
    """``interactive=True`` gives the same lines and marks in plotly."""
    figure, ax = plot(ledger(), interactive=True), plot(ledger())
    for trace, line in zip(figure.data, curves(ax), strict=False):
        assert list(trace.y) == pytest.approx(list(line.get_ydata()))
        assert trace.name == line.get_label()
    marks = [trace.name for trace in figure.data if trace.mode == "markers"]
    assert marks == [line.get_label() for line in ax.lines if line.get_label() in ("failed", "not ended")]


@pytest.mark.parametrize("plot", [vis.plot_rejects, vis.plot_run_durations], ids=["rejects", "durations"])
def test_one_run_and_many_models(plot: Any) -> None:
    """One run is a point; beyond the most used models the others are one line."""
    assert len(curves(plot(ledger().head(1)))) == 1
    many = ledger().assign(model_name=[f"model {i % 20}" for i in range(80)])
    assert len(curves(plot(many, top=3))) == 4


RUNS = ledger(2)
REFUSALS = {
    "no column": (lambda: vis.plot_rejects(RUNS.drop(columns="input_rows")), "no column 'input_rows'"),
    "no counts": (lambda: vis.plot_rejects(RUNS.assign(input_rows=None)), "no run of 8 has counted its rows"),
    "none succeeded": (
        lambda: vis.plot_run_durations(RUNS.assign(status="failed")),
        "no run of 8 succeeded, got status 'f",
    ),
    "text times": (lambda: vis.plot_rejects(RUNS.assign(started_timestamp="today")), "must hold timestamps, got str"),
    "empty": (lambda: vis.plot_run_durations(RUNS.head(0)), "0 rows and 6 columns"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    """What was received and the way out, in one line, before anything is drawn."""
    import matplotlib.pyplot as plt

    with pytest.raises(PlotError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert plt.get_fignums() == []
