"""Plots of what runs every day: predictions, rejected rows, durations."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from mlsys.vis import compute
from mlsys.vis.over_time import draw_over_time

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
    found = compute.times.predictions(predictions, value=value, positive=positive, top=top)
    return draw_over_time(found, ax, interactive, kwargs)


def plot_rejects(
    runs: pd.DataFrame, *, top: int = 5, interactive: bool = False, ax: "Axes | None" = None, **kwargs: Any
) -> "Axes | Figure":
    """Draw the share of input rows that models could not score, by time and model, over the number of input rows.

    Parameters
    ----------
    runs
        Rows of the ledger, ``ml_registry.runs``: ``started_timestamp``, ``model_name``, ``input_rows`` and
        ``rejected_rows``. Runs that have not counted their rows are left out, and the title says how many.
    top
        How many models to draw; the others are taken together as ``other (n)``.
    interactive
        Return a plotly ``Figure`` that shows the numbers on hover.
    **kwargs
        Passed to :meth:`matplotlib.axes.Axes.plot`, or to ``plotly.graph_objects.Scatter``.

    Examples
    --------
    >>> times = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> runs = pd.DataFrame({"started_timestamp": times, "model_name": "titanic-survival"})
    >>> ax = plot_rejects(runs.assign(input_rows=[1309, 1309], rejected_rows=[0, 13]))
    """
    return draw_over_time(compute.times.rejects(runs, top=top), ax, interactive, kwargs)


def plot_run_durations(
    runs: pd.DataFrame, *, top: int = 5, interactive: bool = False, ax: "Axes | None" = None, **kwargs: Any
) -> "Axes | Figure":
    """Draw how long runs took from start to finish, by time and model, and where runs failed or have not ended.

    Parameters
    ----------
    runs
        Rows of the ledger, ``ml_registry.runs``: ``started_timestamp``, ``finished_timestamp``, ``model_name`` and
        ``status``.
    top, interactive, **kwargs
        As for :func:`plot_rejects`.

    Examples
    --------
    >>> start = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    >>> runs = pd.DataFrame({"started_timestamp": start, "finished_timestamp": start + pd.Timedelta("40s")})
    >>> ax = plot_run_durations(runs.assign(model_name="titanic-survival", status="succeeded"))
    """
    return draw_over_time(compute.times.durations(runs, top=top), ax, interactive, kwargs)
