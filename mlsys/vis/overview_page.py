"""``overview``: a frame on one page, with a short text, in a time that does not grow with its rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlsys.errors import PlotError
from mlsys.vis import compute, html
from mlsys.vis import data as plots
from mlsys.vis import drawing as draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS, MAX_COLUMNS, PANELS = 100_000, 60, 9
_KINDS = {"category": "categorical", "datetime": "of dates"}
Panel = Callable[["Axes"], Any]


@dataclass(frozen=True)
class Overview:
    """A frame on one page.

    Attributes
    ----------
    rows, sampled
        How many rows the frame has, and how many of them were looked at for anything but NULLs.
    target
        The column that is to be predicted, if one was named.
    columns
        One row for each column: ``kind``, ``dtype``, ``missing`` and ``share`` (of all rows), ``distinct`` and
        ``values`` (of the sample): the range of numbers and dates, the most frequent categories.
    text
        What stands out, a finding to a line.
    sample
        The rows that were looked at: what `figure` draws.
    """

    rows: int
    sampled: int
    target: str | None
    columns: pd.DataFrame
    text: str
    sample: pd.DataFrame = field(repr=False)
    time: str | None = None
    leakage: compute.targets.Leakage | None = field(default=None, repr=False)
    associations: compute.data.Associations | None = field(default=None, repr=False)

    def figure(self) -> "Figure":
        """Draw the page: missing values, the target, what goes together with it, distributions and associations."""
        panels = _panels(self)
        across = min(3, len(panels))
        down = -(-len(panels) // across)
        looked = f", a sample of {self.sampled:,}" if self.sampled < self.rows else ""
        title = f"Overview: {draw.count(self.rows, 'row')}{looked}, {draw.count(len(self.columns), 'column')}"
        figure, grid = draw.page(down, across, title=title, width=5.2)
        for ax, panel in zip(grid.flat, panels, strict=False):
            panel(ax)
        for ax in grid.flat[len(panels) :]:
            ax.remove()
        return figure

    def __repr__(self) -> str:
        return f"<Overview of {self.rows:,} rows>"

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        rows = [
            (
                draw.columns.shorten(name, 40),
                row.kind,
                row.dtype,
                draw.percent(row.share),
                f"{row.distinct:,}",
                row.values,
            )
            for name, row in zip(self.columns.index, self.columns.itertuples(index=False), strict=True)
        ]
        head = ("column", "kind", "dtype", "NULL", "distinct", "values")
        return html.page("Overview", self.text, [html.table(head, rows)], [self.figure()])


def overview(df: pd.DataFrame, *, target: str | None = None, time: str | None = None) -> Overview:
    """Look at a frame: types, NULLs, distributions, what goes together, and what goes together with the target.

    NULLs are counted in all rows, everything else in a sample of 100,000; of more than 60 columns the first 60 and the
    target are looked at. So time and memory hardly grow with the frame.

    Parameters
    ----------
    target
        The column that is to be predicted. It must vary; rows where it is NULL are left out of what is about it.
    time
        The column of times along which the target is drawn, by default the first one that varies.

    Examples
    --------
    >>> passengers = pd.DataFrame({"sex": ["m", "f", "f", "m"], "age": [22, 38, None, 35], "survived": [0, 1, 1, 0]})
    >>> print(overview(passengers, target="survived").text.splitlines()[0])
    4 rows, 3 columns: 2 numeric, 1 categorical.
    """
    compute.columns.require_frame(df)
    compute.columns.require_columns(df, [name for name in (target, time) if name is not None])
    names = list(df.columns[:MAX_COLUMNS])
    names += [name for name in (target, time) if name is not None and name not in names]
    nulls = compute.data.missing(df[names])
    sample = df[names]
    if len(df) > MAX_ROWS:
        at = np.sort(np.random.default_rng(compute.columns.SEED).choice(len(df), MAX_ROWS, replace=False))
        sample = sample.iloc[at]
    sample = sample.reset_index(drop=True)
    table = pd.DataFrame([_describe(sample[name]) for name in names], index=pd.Index(names, name="column"))
    table.insert(2, "missing", nulls["missing"])
    table.insert(3, "share", nulls["share"])
    leakage = compute.targets.leakage(sample, target) if target is not None and len(names) > 1 else None
    try:
        associations = compute.data.associations(sample, top=10)
    except PlotError:  # fewer than two columns that vary
        associations = None
    time = time or next((n for n in names if table.at[n, "kind"] == "datetime" and table.at[n, "distinct"] > 1), None)
    text = "\n".join(_findings(df, sample, table, target, leakage, associations))
    return Overview(len(df), len(sample), target, table, text, sample, time, leakage, associations)


def _describe(values: pd.Series) -> dict[str, Any]:
    kind, known = compute.columns.kind_of(values), compute.columns.as_labels(values.dropna())
    if not len(known):
        return {"kind": kind, "dtype": str(values.dtype), "distinct": 0, "values": ""}
    if kind in ("numeric", "datetime"):
        numbers = compute.columns.as_float(known, str(values.name))
        ends = np.array([numbers.min(), np.median(numbers), numbers.max()])
        write = compute.columns.date_labels if kind == "datetime" else compute.columns.number_labels
        words = "{} to {}, median {}".format(*(write(ends)[i] for i in (0, 2, 1)))
    else:
        counts = known.value_counts()
        shown = [f"{draw.columns.shorten(v, 20)} {draw.percent(n / len(known))}" for v, n in counts.head(3).items()]
        words = ", ".join(shown) + (f" and {len(counts) - 3:,} more" if len(counts) > 3 else "")
    return {"kind": kind, "dtype": str(values.dtype), "distinct": int(known.nunique()), "values": words}


def _findings(
    df: pd.DataFrame,
    sample: pd.DataFrame,
    table: pd.DataFrame,
    target: str | None,
    leakage: compute.targets.Leakage | None,
    associations: compute.data.Associations | None,
) -> list[str]:
    kinds = table["kind"].value_counts()
    parts = [f"{draw.count(len(df), 'row')}, {draw.count(df.shape[1], 'column')}: "]
    parts[0] += ", ".join(f"{n} {_KINDS.get(kind, kind)}" for kind, n in kinds.items()) + "."
    if len(table) < df.shape[1]:
        parts[0] += f" {len(table)} of them were looked at."
    if len(sample) < len(df):
        parts[0] += f" NULLs were counted in all rows, the rest in a sample of {len(sample):,}."
    holes = table[table["missing"] > 0].sort_values("missing", ascending=False, kind="stable")
    if len(holes):
        shown = [
            f"{draw.columns.shorten(name, 24)} {draw.percent(share)}" for name, share in holes["share"].head(3).items()
        ]
        more = f" and {len(holes) - 3} more" if len(holes) > 3 else ""
        parts.append(f"NULLs in {draw.count(len(holes), 'column')}: {', '.join(shown)}{more}.")
    constant = table.index[table["distinct"] < 2]
    if len(constant):
        parts.append(f"Constant or empty: {draw.some(constant)}.")
    unique = table.index[(table["kind"] == "category") & (table["distinct"] > max(20, 0.9 * len(sample)))]
    if len(unique):
        parts.append(f"A different text in nearly every row: {draw.some(unique)}.")
    codes = pd.DataFrame({i: pd.factorize(compute.columns.as_labels(sample[name]))[0] for i, name in enumerate(sample)})
    if len(sample) == len(df) and (twice := int(codes.duplicated().sum())):
        parts.append(f"{draw.count(twice, 'row')} like an earlier one, in every column.")
    parts += _about_target(df, target, leakage)
    return parts + _together(associations, target)


def _about_target(df: pd.DataFrame, target: str | None, leakage: compute.targets.Leakage | None) -> list[str]:
    if target is None or leakage is None:
        return []
    known, task = df[target].dropna(), compute.targets.task_of(df[target])
    if task == "regression":
        numbers = compute.columns.as_float(known, target)
        number = compute.columns.format_number
        parts = [f"Target {target}: mean {number(numbers.mean())}, standard deviation {number(numbers.std())}."]
    else:
        counts = compute.columns.as_labels(known).value_counts(normalize=True)
        shares = [f"{compute.columns.label_of(label)} {draw.percent(share)}" for label, share in counts.head(3).items()]
        more = f" and {len(counts) - 3} more classes" if len(counts) > 3 else ""
        parts = [f"Target {target}: {', '.join(shares)}{more}."]
    best = leakage.table["score"]
    suspects = best[best >= 0.95]
    if len(suspects):
        words = [f"{name} ({score:.3f})" for name, score in suspects.head(3).items()]
        parts.append(f"Suspects of leakage, which alone tell nearly everything: {', '.join(words)}.")
    rest = best[(best < 0.95) & (best > (0.02 if task == "regression" else 0.52))].head(3)
    if len(rest):
        words = [f"{name} {score:.2f}" for name, score in rest.items()]
        parts.append(f"What tells most alone, by {leakage.measure}: {', '.join(words)}.")
    return parts


def _together(found: compute.data.Associations | None, target: str | None) -> list[str]:
    """Name pairs of columns that say nearly the same."""
    if found is None:
        return []
    names, strength = list(found.matrix), found.matrix.abs().to_numpy()
    pairs = [
        (strength[i, j], names[i], names[j])
        for i in range(len(names))
        for j in range(i)
        if strength[i, j] >= 0.9 and target not in (names[i], names[j])
    ]
    words = [f"{a} and {b} ({value:.2f})" for value, a, b in sorted(pairs, key=lambda pair: -pair[0])[:3]]
    return [f"Columns that say nearly the same: {', '.join(words)}."] if words else []


def _panels(found: Overview) -> list[Panel]:
    sample, target, table = found.sample, found.target, found.columns
    panels: list[Panel] = []
    if table["missing"].any():
        holes = table.sort_values("missing", ascending=False, kind="stable")[["missing", "share"]]
        panels.append(lambda ax: plots.draw_missing(holes, found.rows, 12, ax, {}))
    told = [name for name in (found.leakage.table.index if found.leakage else []) if name != found.time]
    leakage, time = found.leakage, found.time
    if target is not None and leakage is not None:
        panels.append(lambda ax: plots.draw_distribution(ax, sample[target], 8, {}, None))
        panels.append(lambda ax: plots.draw_leakage(leakage, target, 0.95, 12, found.sampled, ax, {}))
        if time is not None and time != target:
            panels.append(lambda ax: plots.plot_target_over_time(sample, time, target, ax=ax))

        def related(name: str) -> Panel:
            return lambda ax: plots.plot_target(sample, name, target, bins=8, top=8, ax=ax)

        panels += map(related, told[:6])
    if found.associations is not None:
        associations, look = found.associations, {"cbar": False, "annot_kws": {"fontsize": 6}}
        panels.append(lambda ax: plots.draw_associations(associations, "pearson", found.sampled, ax, look))
    shown = [name for name in (told or table.index) if name != target and table.at[name, "distinct"] > 0]

    def alone(name: str) -> Panel:
        return lambda ax: plots.draw_distribution(ax, sample[name], 8, {}, None)

    panels += map(alone, shown[:PANELS])
    return panels or [lambda ax: plots.draw_missing(table[["missing", "share"]], found.rows, 12, ax, {})]
