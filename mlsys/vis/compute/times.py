"""Figures by period of time: predictions, targets and runs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlsys.errors import PlotError
from mlsys.vis.compute import columns

# the period for spans up to so many days
_PERIODS = (("hour", "h", 3), ("day", "D", 120), ("week", "W", 800))


@dataclass(frozen=True)
class OverTime:
    """``table`` has one row for each version and period: ``n``, ``value``, ``low``, ``high``."""

    table: pd.DataFrame
    period: str
    quantity: str
    band: str
    dropped: int


def over_time(predictions: pd.DataFrame, *, value: str | None = None, positive: Any = None, top: int = 5) -> OverTime:
    """Summarise predictions by version and by hour, day, week or month (UTC), whichever fits the span.

    Numbers give their mean, 10th and 90th percentile; two classes give the positive one's share and its 95 % interval.
    """
    columns.require_frame(predictions)
    columns.require_columns(predictions, ["prediction_timestamp", "model_version"])
    if value is None:
        probability = predictions.get("prediction_probability")
        known = probability is not None and probability.notna().any() and columns.kind_of(probability) == "numeric"
        value = "prediction_probability" if known else "prediction"
    columns.require_columns(predictions, [value])
    stamps = predictions["prediction_timestamp"]
    if columns.kind_of(stamps) != "datetime":
        way_out = "convert it with pd.to_datetime(..., utc=True)"
        raise PlotError(f"prediction_timestamp must hold timestamps, got {stamps.dtype}: {way_out}")
    keep = (stamps.notna() & predictions[value].notna()).to_numpy()
    if not keep.any():
        raise PlotError(f"nothing to plot: no row has both prediction_timestamp and {value}, got {len(keep):,} rows")
    values, numeric = predictions.loc[keep, value], columns.kind_of(predictions[value]) == "numeric"
    truth, label = (None, "") if numeric else columns.is_positive(values, f"column {value!r}", positive)
    seconds = columns.as_float(stamps[keep], "prediction_timestamp")
    days = (seconds.max() - seconds.min()) / 86_400
    period, code = next(((name, code) for name, code, limit in _PERIODS if days <= limit), ("month", "M"))
    versions = columns.group_by_label(predictions.loc[keep, "model_version"], top)
    start = pd.to_datetime(pd.Series(seconds), unit="s").dt.to_period(code).dt.start_time.dt.tz_localize("UTC")
    numbers = pd.Series(columns.as_float(values, value) if truth is None else truth.astype(float))
    groups = numbers.groupby(
        [pd.Series(np.array(versions.labels)[versions.codes], name="version"), start.rename("start")]
    )
    table = groups.agg(["size", "mean"]).set_axis(["n", "value"], axis=1)
    if truth is None:
        table["low"], table["high"] = groups.quantile(0.1), groups.quantile(0.9)
    else:
        table["low"], table["high"] = columns.wilson(groups.sum(), table["n"])
    quantity = f"mean {value}" if truth is None else f"share of {value} = {label}"
    band = "10 to 90 % of predictions" if truth is None else "95 % interval"
    return OverTime(table.reset_index(), period, quantity, band, int((~keep).sum()))
