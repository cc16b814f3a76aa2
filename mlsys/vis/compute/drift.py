"""How the rows that a model serves differ from those that it was trained on, column by column."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlsys.errors import PlotError
from mlsys.vis.compute import columns
from mlsys.vis.compute.columns import Floats

# The usual rule of thumb: N. Siddiqi, Credit Risk Scorecards, 2006.
SOME, MUCH = 0.1, 0.25


@dataclass(frozen=True)
class Drift:
    """``table`` by column, most drifted first, with

    ``psi``, the population stability index; ``chance``, what it stays below in 95 of 100 samples of this size when
    nothing has changed; ``ks``, the largest distance of the distribution functions (NaN for categories); ``unseen``,
    the share of serving's known values that are categories unknown to training or beyond its range; ``null_train`` and
    ``null_serving``, shares of NULL.

    ``rows`` are those measured of either, ``left_out`` columns that could not be compared and why.
    """  # noqa: D400 - a list follows

    table: pd.DataFrame
    rows: tuple[int, int]
    left_out: dict[str, str]


def drift(train: pd.DataFrame, serving: pd.DataFrame, *, bins: int = 10, max_rows: int = 100_000) -> Drift:
    """Compare every column that both frames have, on samples of ``max_rows`` of each.

    Numbers and dates are cut into ``bins`` of about equal size by training's quantiles, categories into the 20 most
    frequent of training and the others; NULL is a bin of its own. Each bin is counted half a row higher, so that an
    empty one does not make the index infinite.

    The index's distribution without drift is that of χ² times 1/n + 1/m: B. Yurdakul and J. Naranjo, Statistical
    properties of the population stability index, Journal of Risk Model Validation 14 (2020).
    """
    for frame in (train, serving):
        columns.require_frame(frame)
    before, now = (
        frame if len(frame) <= max_rows else frame.sample(max_rows, random_state=columns.SEED)
        for frame in (train, serving)
    )
    left_out = {str(name): "only in training" for name in train.columns if name not in serving.columns}
    left_out |= {str(name): "only in serving" for name in serving.columns if name not in train.columns}
    found = {}
    for name in train.columns.intersection(serving.columns, sort=False):
        kinds = [columns.kind_of(frame[name]) for frame in (before, now) if frame[name].notna().any()]
        if len(set(kinds)) > 1 and set(kinds) != {"numeric", "boolean"}:
            left_out[str(name)] = f"{kinds[0]} in training, {kinds[1]} in serving"
        else:
            found[name] = _compare(before[name], now[name], kinds[0] if kinds else "category", bins)
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise PlotError(f"train and serving need a column in common, got {why}")
    table = pd.DataFrame.from_dict(found, orient="index").sort_values("psi", ascending=False, kind="stable")
    return Drift(table, (len(before), len(now)), left_out)


def _compare(before: pd.Series, now: pd.Series, kind: str, bins: int) -> dict[str, float]:
    from scipy import stats

    nulls = {"null_train": float(before.isna().mean()), "null_serving": float(now.isna().mean())}
    if kind == "category":
        counts, unseen = _by_label(before, now)
        ks = np.nan
    else:
        old, new = (columns.as_float(values, str(values.name)) for values in (before, now))
        counts, unseen = _by_quantile(old, new, bins)
        old, new = old[~np.isnan(old)], new[~np.isnan(new)]
        ks = float(stats.ks_2samp(old, new, method="asymp").statistic) if len(old) and len(new) else np.nan
    counts = counts[:, counts.any(axis=0)]
    chance = stats.chi2.ppf(0.95, counts.shape[1] - 1) * (1 / len(before) + 1 / len(now)) if counts.size > 2 else 0.0
    return {"psi": psi(*counts), "chance": float(chance), "ks": ks, "unseen": unseen} | nulls


def psi(before: NDArray[np.intp], now: NDArray[np.intp]) -> float:
    """Return the population stability index of two rows of counts, each counted half a row higher."""
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (before, now))
    return float(((q - p) * np.log(q / p)).sum())


def _by_label(before: pd.Series, now: pd.Series) -> tuple[NDArray[np.intp], float]:
    old, new = (columns.as_labels(values).astype(object) for values in (before, now))
    levels = old.value_counts().index  # most frequent first
    place = pd.Index(levels)
    rows, size = [], min(len(levels), 20) + 2  # others, and NULL
    for values in (old, new):
        at = np.minimum(np.where((found := place.get_indexer(values)) < 0, size, found), size - 2)
        rows.append(np.bincount(np.where(values.isna(), size - 1, at), minlength=size))
    known = new.dropna()
    return np.array(rows), float((~known.isin(levels)).mean()) if len(known) else 0.0


def _by_quantile(old: Floats, new: Floats, bins: int) -> tuple[NDArray[np.intp], float]:
    known = old[~np.isnan(old)]
    if not len(known):
        counts = [[0, len(old)], [int((~np.isnan(new)).sum()), int(np.isnan(new).sum())]]
        return np.array(counts), 0.0
    distinct = np.unique(known)
    if len(distinct) <= bins:  # a bin for each value: boundaries half way between
        edges = (distinct[1:] + distinct[:-1]) / 2
    else:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1))[1:-1])
    size = len(edges) + 2
    rows = [
        np.bincount(np.where(np.isnan(values), size - 1, np.searchsorted(edges, values)), minlength=size)
        for values in (old, new)
    ]
    there = new[~np.isnan(new)]
    beyond = ((there < distinct[0]) | (there > distinct[-1])).mean() if len(there) else 0.0
    return np.array(rows), float(beyond)
