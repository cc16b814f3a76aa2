"""Figures by period of time: predictions, targets and runs."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlsys.errors import PlotError
from mlsys.vis.compute import columns, targets

# the period for spans up to so many days
_PERIODS = (("hour", "h", 3), ("day", "D", 120), ("week", "W", 800))


@dataclass(frozen=True)
class OverTime:
    """``table`` has one row for each line and period: ``name``, ``start``, ``n``, ``value``, ``low``, ``high``.

    ``quantity`` is what the values are, ``band`` what ``low`` and ``high`` are, ``counted`` one of what ``n`` counts,
    and ``time`` what the periods are of. ``marks`` are single moments by what happened then.
    """

    table: pd.DataFrame
    period: str
    title: str
    quantity: str
    band: str
    time: str
    counted: str = "row"
    from_zero: bool = False
    notes: tuple[str, ...] = ()
    marks: dict[str, pd.Series] = field(default_factory=dict)


def predictions(frame: pd.DataFrame, *, value: str | None = None, positive: Any = None, top: int = 5) -> OverTime:
    """Summarise predictions by version and by hour, day, week or month (UTC), whichever fits the span.

    Numbers give their mean, 10th and 90th percentile; two classes give the positive one's share and its 95 % interval.
    """
    columns.require_frame(frame)
    columns.require_columns(frame, ["prediction_timestamp", "model_version"])
    if value is None:
        probability = frame.get("prediction_probability")
        known = probability is not None and probability.notna().any() and columns.kind_of(probability) == "numeric"
        value = "prediction_probability" if known else "prediction"
    columns.require_columns(frame, [value])
    rows, note = _known(frame, "prediction_timestamp", value)
    truth, quantity = _truth_or_none(rows[value], positive)
    names = _names(rows["model_version"], top)
    start, period = _starts(rows["prediction_timestamp"])
    numbers = columns.as_float(rows[value], value) if truth is None else truth.astype(float)
    table = _summed(numbers, names, start, share=truth is not None)
    band = "10 to 90 % of predictions" if truth is None else "95 % interval"
    return OverTime(table, period, "Predictions over time", quantity, band, "prediction", notes=note)


def target(frame: pd.DataFrame, time: str, target: str, *, positive: Any = None, top: int = 5) -> OverTime:
    """Summarise a target by hour, day, week or month (UTC), whichever fits the span.

    Numbers give their mean, 10th and 90th percentile; two classes give the positive one's share, more classes the share
    of each of the ``top`` most frequent, with 95 % intervals.
    """
    columns.require_frame(frame)
    columns.require_columns(frame, [time, target])
    rows, note = _known(frame, time, target)
    start, period = _starts(rows[time])
    title, kind = f"{target} over time", _kind(rows[target], positive)
    if kind == "multiclass":
        table = _class_shares(rows[target], start, top)
        return OverTime(table, period, title, f"share of each {target}", "95 % interval", time, notes=note)
    truth, quantity = _truth_or_none(rows[target], positive, numeric=kind == "regression")
    numbers = columns.as_float(rows[target], target) if truth is None else truth.astype(float)
    table = _summed(numbers, pd.Series("", index=start.index), start, share=truth is not None)
    band = "10 to 90 % of rows" if truth is None else "95 % interval"
    return OverTime(table, period, title, quantity, band, time, notes=note)


def _kind(values: pd.Series, positive: Any) -> str:
    if positive is not None or columns.as_labels(values).nunique() <= 2:
        return "binary"
    return targets.task_of(values)


def rejects(runs: pd.DataFrame, *, top: int = 5) -> OverTime:
    """Summarise the share of input rows that were rejected, by model: of all rows, and of the runs' best and worst."""
    columns.require_frame(runs)
    needed = ["started_timestamp", "model_name", "input_rows", "rejected_rows"]
    columns.require_columns(runs, needed)
    known = runs[needed].notna().all(axis=1) & (runs["input_rows"] > 0).fillna(False)
    rows = runs[known.astype(bool)]
    if rows.empty:
        raise PlotError(f"nothing to plot: no run of {len(runs):,} has counted its rows; look at those that succeeded")
    start, period = _starts(rows["started_timestamp"])
    numbers = [columns.as_float(rows[name], name) for name in ("input_rows", "rejected_rows")]
    table = pd.DataFrame({"name": _names(rows["model_name"], top), "start": start, "n": numbers[0], "out": numbers[1]})
    table["share"] = table["out"] / table["n"]
    groups = table.groupby(["name", "start"])
    found = groups[["n", "out"]].sum()
    found["value"] = found.pop("out") / found["n"]
    found["low"], found["high"] = groups["share"].min(), groups["share"].max()
    total = f"{int(numbers[1].sum()):,} of {int(numbers[0].sum()):,} rows rejected in {columns.count(len(rows), 'run')}"
    dropped = len(runs) - len(rows)
    notes = (total, f"{columns.count(dropped, 'run')} without counts left out" if dropped else "")
    table, band = found.reset_index().astype({"n": int}), "lowest to highest run"
    return OverTime(table, period, "Rejected rows", "share of rows rejected", band, "start", "row", True, notes)


def durations(runs: pd.DataFrame, *, top: int = 5) -> OverTime:
    """Summarise how long runs that succeeded took from start to finish, by model; others are marked where they started.

    A run that started and has not ended may be at work or may have been killed: the ledger alone cannot tell.
    """
    columns.require_frame(runs)
    needed = ["started_timestamp", "finished_timestamp", "model_name", "status"]
    columns.require_columns(runs, needed)
    done = ((runs["status"] == "succeeded") & runs["finished_timestamp"].notna()).fillna(False).to_numpy(bool)
    rows = runs[done]
    if rows.empty:
        found = columns.listed(list(pd.unique(runs["status"])))
        raise PlotError(f"nothing to plot: no run of {len(runs):,} succeeded, got status {found}")
    start, period = _starts(rows["started_timestamp"])
    ends = [columns.as_float(rows[name], name) for name in ("started_timestamp", "finished_timestamp")]
    seconds = ends[1] - ends[0]
    unit, size = next(
        (u, s) for u, s in (("hours", 3600), ("minutes", 60), ("seconds", 1)) if seconds.max() >= 2 * s or s == 1
    )
    names = _names(rows["model_name"], top)
    groups = pd.Series(seconds / size).groupby([names.rename("name"), start.rename("start")])
    table = groups.agg(["size", "median", "min", "max"]).set_axis(["n", "value", "low", "high"], axis=1)
    others = runs[~done]
    words = {"failed": "failed", "started": "not ended", "succeeded": "not ended"}
    marks = {
        word: others.loc[(others["status"].map(words) == word).to_numpy(bool), "started_timestamp"]
        for word in ("failed", "not ended")
    }
    marks = {word: times for word, times in marks.items() if len(times)}
    notes = tuple(f"{len(times):,} {word}" for word, times in marks.items())
    table, band = table.reset_index(), "shortest to longest run"
    title, quantity = "Duration of runs", f"median {unit} from start to finish"
    return OverTime(table, period, title, quantity, band, "start", "run", True, notes, marks)


def _known(frame: pd.DataFrame, time: str, value: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows that have both, and a note on the others."""
    stamps = frame[time]
    if columns.kind_of(stamps) != "datetime":
        way_out = "convert it with pd.to_datetime(..., utc=True)"
        raise PlotError(f"{time} must hold timestamps, got {stamps.dtype}: {way_out}")
    keep = (stamps.notna() & frame[value].notna()).to_numpy(bool)
    if not keep.any():
        raise PlotError(f"nothing to plot: no row has both {time} and {value}, got {len(keep):,} rows")
    dropped = int((~keep).sum())
    return frame.loc[keep], (f"{columns.count(dropped, 'row')} without time or value left out",) if dropped else ()


def _truth_or_none(values: pd.Series, positive: Any, *, numeric: bool | None = None) -> tuple[Any, str]:
    """Return which rows are of the positive class, or None for numbers, and what is drawn."""
    numeric = columns.kind_of(values) == "numeric" if numeric is None else numeric
    if numeric:
        return None, f"mean {values.name}"
    truth, label = columns.is_positive(values, f"column {str(values.name)!r}", positive)
    return truth, f"share of {values.name} = {label}"


def _names(values: pd.Series, top: int) -> pd.Series:
    groups = columns.group_by_label(values, top)
    return pd.Series(np.array(groups.labels, dtype=object)[groups.codes])


def _starts(stamps: pd.Series) -> tuple[pd.Series, str]:
    """Return the start of each time's period (UTC), and which period fits the span."""
    if columns.kind_of(stamps) != "datetime":
        way_out = "convert it with pd.to_datetime(..., utc=True)"
        raise PlotError(f"{stamps.name} must hold timestamps, got {stamps.dtype}: {way_out}")
    seconds = columns.as_float(stamps, str(stamps.name))
    days = (seconds.max() - seconds.min()) / 86_400
    period, code = next(((name, code) for name, code, limit in _PERIODS if days <= limit), ("month", "M"))
    # periods are found once for each day, or for each hour of a short span: there are few, and rows may be many
    at, distinct = pd.factorize(np.floor(seconds / 3600 if period == "hour" else seconds / 86_400))
    moments = pd.to_datetime(pd.Series(distinct), unit="h" if period == "hour" else "D")
    begins = moments.dt.to_period(code).dt.start_time.dt.tz_localize("UTC")
    return begins.iloc[at].reset_index(drop=True), period


def _summed(numbers: Any, names: pd.Series, start: pd.Series, *, share: bool) -> pd.DataFrame:
    groups = pd.Series(numbers).groupby([names.rename("name"), start.rename("start")])
    table = groups.agg(["size", "mean"]).set_axis(["n", "value"], axis=1)
    if share:
        table["low"], table["high"] = columns.wilson(groups.sum(), table["n"])
    else:
        table["low"], table["high"] = groups.quantile(0.1), groups.quantile(0.9)
    return table.reset_index()


def _class_shares(values: pd.Series, start: pd.Series, top: int) -> pd.DataFrame:
    names = _names(values, top)
    counts = pd.DataFrame({"name": names, "start": start}).groupby(["name", "start"]).size()
    counts = counts.unstack("start", fill_value=0).stack().rename("n").reset_index()
    totals = counts.groupby("start")["n"].transform("sum")
    counts["value"] = counts["n"] / totals
    counts["low"], counts["high"] = columns.wilson(counts["n"], totals)
    order = {name: i for i, name in enumerate(names.value_counts().index)}
    return counts.sort_values("name", key=lambda column: column.map(order), kind="stable").reset_index(drop=True)
