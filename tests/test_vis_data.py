"""Targets, leakage and drift, held against scipy, scikit-learn and plain arithmetic."""

import decimal
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from sklearn import metrics

from mlsys import vis
from mlsys.errors import PlotError
from mlsys.vis import compute
from tests.test_vis_plots import curves, lengths, notes, row_labels, texts


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Draw without a screen, leave global style as it was and no figure behind."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == style
    plt.close("all")


def frame(n: int = 2000) -> pd.DataFrame:
    """Columns of several types with NULLs, a target of each kind, and times."""
    rng = np.random.default_rng(0)
    port = rng.choice(["C", "Q", "S"], n)
    age = pd.Series(rng.normal(30, 10, n), dtype="Float64").mask(rng.random(n) < 0.1)
    signal = (port == "C") + rng.normal(0, 1, n)
    days = pd.Timestamp("2026-01-01T12:00:00Z") + pd.to_timedelta(rng.integers(0, 30, n), unit="D")
    return pd.DataFrame(
        {
            "port": pd.Series(port, dtype="str").mask(rng.random(n) < 0.05),
            "age": age,
            "fare": pd.Series(10 * signal, dtype=pd.ArrowDtype(pa.float64())).mask(rng.random(n) < 0.02),
            "alive": pd.Series(signal > 0.5, dtype="boolean"),
            "meal": pd.Series(np.where(signal > 1, "late", np.where(signal < 0, "early", "none")), dtype="str"),
            "day": pd.Series(days).astype("datetime64[us, UTC]"),
        }
    )


# Targets ------------------------------------------------------------------------------------------------------------


def test_target_mean_is_scipys() -> None:
    """Means, Student's intervals and counts by category are scipy's, NULL has a group, unknown targets are counted."""
    df = frame()
    ax = vis.plot_target_mean(df, "port", "fare")
    known = df[df["fare"].notna()]
    groups = known["port"].fillna("NULL")
    drawn = np.concatenate([container.lines[0].get_xdata() for container in ax.containers])
    bounds = np.concatenate([[s[:, 0] for s in container.lines[2][0].get_segments()] for container in ax.containers])
    assert row_labels(ax)[-1] == "NULL"
    for i, label in enumerate(row_labels(ax)):
        values = known.loc[groups == label, "fare"].to_numpy(float)
        expected = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        assert drawn[i] == pytest.approx(values.mean())
        assert bounds[i] == pytest.approx(expected)
        assert texts(ax)[i] == f"{len(values):,}"
    assert f"{df['fare'].isna().sum()} rows without target" in notes(ax)
    assert ax.lines[-1].get_xdata()[0] == pytest.approx(known["fare"].to_numpy(float).mean())


def test_target_mean_of_single_rows_has_no_interval() -> None:
    """A group of one row is drawn without an interval, not with one of no width that looks certain."""
    table, _ = compute.targets.target_mean(pd.DataFrame({"x": ["a", "b", "b"], "y": [1.0, 2.0, 4.0]}), "x", "y")
    assert np.isnan(table.loc["a", ["low", "high"]].to_numpy(float)).all()
    assert table.loc["b", "mean"] == 3
    vis.plot_target_mean(pd.DataFrame({"x": ["a", "b", "b"], "y": [1.0, 2.0, 4.0]}), "x", "y")


def test_target_classes_are_pandas_crosstab() -> None:
    """Bars are the shares that pandas counts, and each row adds up to all of it."""
    df = frame()
    ax = vis.plot_target_classes(df, "port", "meal")
    expected = pd.crosstab(df["port"].fillna("NULL"), df["meal"], normalize="index") * 100
    rows, classes = row_labels(ax), [text.get_text() for text in ax.get_legend().get_texts()]
    drawn = np.array(lengths(ax)).reshape(len(classes), len(rows)).T
    assert drawn == pytest.approx(expected.loc[rows, classes].to_numpy())
    assert drawn.sum(axis=1) == pytest.approx([100] * len(rows))


def test_target_classes_beyond_five_are_others() -> None:
    """Fifty classes become five and the others, and no row is lost."""
    rng = np.random.default_rng(1)
    df = pd.DataFrame({"x": rng.normal(size=5000), "y": [f"class {i}" for i in rng.integers(0, 50, 5000)]})
    counts, _ = compute.targets.target_classes(df, "x", "y")
    assert counts.columns[-1] == "other (45)"
    assert counts.to_numpy().sum() == 5000


KINDS = {
    "boolean": (pd.Series([True, False, None] * 30, dtype="boolean"), "binary"),
    "two numbers": (pd.Series([1, 2] * 30), "binary"),
    "few whole numbers": (pd.Series([1, 2, 3] * 30), "multiclass"),
    "fractions": (pd.Series([0.5, 1, 2] * 30), "regression"),
    "many whole numbers": (pd.Series(range(30)), "regression"),
    "arrow decimals": (
        pd.Series([decimal.Decimal("1.5"), 2, 3] * 9, dtype=pd.ArrowDtype(pa.decimal128(38, 9))),
        "regression",
    ),
    "text": (pd.Series(["a", "b", "c"], dtype="str"), "multiclass"),
}


@pytest.mark.parametrize(("values", "task"), KINDS.values(), ids=KINDS.keys())
def test_kind_of_target(values: pd.Series, task: str) -> None:
    """The kind of a target follows from its type and values by one rule, and a plot for it is drawn."""
    assert compute.targets.task_of(values.rename("y")) == task
    df = pd.DataFrame({"x": np.arange(len(values)) % 4, "y": values})
    label = vis.plot_target(df, "x", "y").get_xlabel()
    assert label.startswith({"binary": "rows with", "multiclass": "rows by", "regression": "mean y"}[task])


def test_target_over_time_is_a_daily_share() -> None:
    """Two classes are a daily share with its Wilson interval, over the number of rows."""
    df = frame()
    ax = vis.plot_target_over_time(df, "day", "alive")
    expected = df["alive"].astype(float).groupby(df["day"].dt.date).agg(["mean", "sum", "size"])
    (line,) = curves(ax)
    assert line.get_ydata() == pytest.approx(expected["mean"].to_numpy())
    interval = stats.binomtest(int(expected["sum"].iloc[0]), int(expected["size"].iloc[0])).proportion_ci(
        method="wilson"
    )
    assert ax.collections[0].get_segments()[0][:, 1] == pytest.approx([interval.low, interval.high])
    assert "by day (UTC)" in notes(ax)


def test_target_over_time_of_numbers_and_classes() -> None:
    """Numbers are a daily mean, classes a daily share each that add up to all rows."""
    df = frame()
    (line,) = curves(vis.plot_target_over_time(df, "day", "fare"))
    expected = df["fare"].astype("Float64").groupby(df["day"].dt.date).mean()
    assert line.get_ydata() == pytest.approx(expected.to_numpy(float))
    ax = vis.plot_target_over_time(df, "day", "meal")
    assert sum(line.get_ydata() for line in curves(ax)) == pytest.approx([1] * 30)
    shares = pd.crosstab(df["day"].dt.date, df["meal"], normalize="index")
    for line in curves(ax):
        assert line.get_ydata() == pytest.approx(shares[line.get_label()].to_numpy())


def test_target_over_time_interactive_is_the_same() -> None:
    """The interactive twin holds the same numbers and notes."""
    df = frame()
    figure = vis.plot_target_over_time(df, "day", "meal", interactive=True)
    lines = {line.get_label(): line.get_ydata() for line in curves(vis.plot_target_over_time(df, "day", "meal"))}
    assert {trace.name: pytest.approx(list(trace.y)) for trace in figure.data} == {k: list(v) for k, v in lines.items()}


# Leakage ------------------------------------------------------------------------------------------------------------


def leaky(n: int = 4000) -> pd.DataFrame:
    """A target with a column that knows it, one whose NULLs do, a fair one, noise and an identifier."""
    rng = np.random.default_rng(2)
    y = rng.random(n) < 0.3
    return pd.DataFrame(
        {
            "knows": np.where(y, "yes", "no"),
            "null knows": pd.Series(rng.normal(size=n)).mask(~y),
            "fair": y + rng.normal(0, 1, n),
            "noise": rng.normal(size=n),
            "id": [f"row {i}" for i in range(n)],
            "one": 1,
            "y": y,
        }
    )


def test_leakage_finds_what_knows_the_target() -> None:
    """What knows the target scores 1, also by its NULLs alone; noise and identifiers score chance."""
    df = leaky()
    found = compute.targets.leakage(df, "y")
    assert found.table["score"].loc[["knows", "null knows"]].tolist() == pytest.approx([1, 1])
    assert found.table["null_score"].loc["null knows"] == pytest.approx(1)
    assert found.table["score"].loc[["noise", "id"]].max() < 0.53
    assert found.table["score"].loc["fair"] == pytest.approx(metrics.roc_auc_score(df["y"], df["fair"]), abs=0.03)
    assert found.left_out == {"one": "constant"}
    ax = vis.plot_leakage(df, "y")
    assert ax.get_title(loc="left") == "Leakage: 2 suspects for y"
    assert row_labels(ax)[:2] == ["knows", "null knows"]
    assert lengths(ax) == pytest.approx((found.table["score"] - 0.5).tolist())


def test_leakage_of_numbers_and_classes() -> None:
    """For numbers the score is R², for classes a mean area; chance is 0 and 0.5."""
    rng = np.random.default_rng(3)
    df = pd.DataFrame({"copy": rng.normal(size=4000), "noise": rng.normal(size=4000)})
    df["y"] = 3 * df["copy"] + 1
    found = compute.targets.leakage(df, "y")
    assert found.measure == "R²"
    assert found.table["score"].loc["copy"] > 0.99
    assert found.table["score"].loc["noise"] < 0.02
    df["y"] = pd.qcut(df["copy"], 3, labels=["low", "mid", "high"])
    found = compute.targets.leakage(df, "y").table["score"]
    assert found.loc["copy"] > 0.99
    assert found.loc["noise"] < 0.53


def test_leakage_is_not_fooled_by_few_rows() -> None:
    """In ten rows of noise no column of many values looks like a suspect."""
    rng = np.random.default_rng(4)
    scores = [
        compute.targets.leakage(
            pd.DataFrame(
                {"x": rng.normal(size=30), "k": rng.choice(list("abcdefgh"), 30), "y": rng.permutation([0, 1] * 15)}
            ),
            "y",
        )
        .table["score"]
        .max()
        for _ in range(20)
    ]
    assert max(scores) < 0.95
    assert np.mean(scores) < 0.7


def test_leakage_samples_and_says_so() -> None:
    """Many rows are sampled."""
    assert "a sample of 100,000 rows" in notes(vis.plot_leakage(leaky(120_000).drop(columns="id"), "y"))


# Drift --------------------------------------------------------------------------------------------------------------


def test_drift_is_what_its_formulas_say() -> None:
    """The index is the sum over bins, the distance scipy's, and new values and NULLs are counted."""
    rng = np.random.default_rng(5)
    train = pd.DataFrame({"age": rng.normal(30, 5, 3000), "port": rng.choice(["C", "Q"], 3000)})
    serving = pd.DataFrame({"age": rng.normal(33, 5, 2000), "port": rng.choice(["C", "Q", "new"], 2000)})
    serving.loc[:199, "age"] = np.nan
    table = compute.drift.drift(train, serving).table
    edges = np.quantile(train["age"], np.linspace(0, 1, 11))[1:-1]
    parts = []
    for values in (train["age"], serving["age"]):
        counts = np.append(np.histogram(values.dropna(), [-np.inf, *edges, np.inf])[0], values.isna().sum()) + 0.5
        parts.append(counts / counts.sum())
    assert table.loc["age", "psi"] == pytest.approx(((parts[1] - parts[0]) * np.log(parts[1] / parts[0])).sum())
    assert table.loc["age", "ks"] == pytest.approx(stats.ks_2samp(train["age"], serving["age"].dropna()).statistic)
    assert table.loc["age", ["null_train", "null_serving"]].tolist() == [0, 0.1]
    assert table.loc["age", "chance"] == pytest.approx(stats.chi2.ppf(0.95, 10) * (1 / 3000 + 1 / 2000))
    assert table.loc["port", "unseen"] == pytest.approx((serving["port"] == "new").mean())
    assert np.isnan(table.loc["port", "ks"])


def test_chance_is_what_drift_stays_below_by_chance() -> None:
    """Of many pairs of samples without drift, about one in twenty exceeds what is drawn as chance."""
    rng = np.random.default_rng(6)
    beyond = 0
    for _ in range(150):
        train, serving = rng.normal(size=600), rng.normal(size=400)
        row = compute.drift.drift(pd.DataFrame({"x": train}), pd.DataFrame({"x": serving})).table.iloc[0]
        beyond += row["psi"] > row["chance"]
    assert 1 <= beyond <= 18  # 7 or 8 are expected


def test_drift_is_drawn_with_what_chance_gives() -> None:
    """Bars are the indices, most first; what is beyond chance and 0.25 is named; missing columns are said."""
    rng = np.random.default_rng(7)
    train = pd.DataFrame({"same": rng.normal(size=500), "far": rng.normal(size=500), "gone": 1, "kind": 1.5})
    serving = pd.DataFrame({"same": rng.normal(size=500), "far": rng.normal(2, 1, 500), "kind": "a", "fresh": 2})
    ax = vis.plot_drift(train, serving)
    found = compute.drift.drift(train, serving)
    assert row_labels(ax) == ["far", "same"]
    assert lengths(ax) == pytest.approx(found.table["psi"].tolist())
    assert ax.get_title(loc="left") == "Drift: 1 of 2 columns beyond 0.25 and chance"
    for said in ("only in training: gone", "only in serving: fresh", "numeric in training, category in serving: kind"):
        assert said in notes(ax)


TYPES: dict[str, Any] = {
    "boolean": lambda rng, n: pd.Series(rng.random(n) < 0.5, dtype="boolean"),
    "dates": lambda rng, n: pd.Series(
        pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 99, n), unit="D")
    ).astype(pd.ArrowDtype(pa.date32())),
    "decimals": lambda rng, n: pd.Series(rng.integers(0, 99, n)).astype(pd.ArrowDtype(pa.decimal128(38, 2))),
    "all NULL": lambda rng, n: pd.Series([None] * n),
    "constant": lambda rng, n: pd.Series([1.0] * n),
    "infinite": lambda rng, n: pd.Series([np.inf, 1.0, -np.inf] * n).head(n),
    "50 categories": lambda rng, n: pd.Series([f"category {i}" for i in rng.integers(0, 50, n)], dtype="category"),
}


@pytest.mark.parametrize("make", TYPES.values(), ids=TYPES.keys())
def test_drift_of_every_type(make: Any) -> None:
    """Columns of every type, compared with another sample of themselves, show no drift."""
    rng = np.random.default_rng(8)
    train, serving = (pd.DataFrame({"x": make(rng, 900)}) for _ in range(2))
    row = compute.drift.drift(train, serving).table.iloc[0]
    assert 0 <= row["psi"] < 0.15
    vis.plot_drift(train, serving)


# Refusals -----------------------------------------------------------------------------------------------------------

DF = frame(20)
REFUSALS = {
    "no such target": (lambda: vis.plot_target(DF, "port", "alvie"), "'alvie': did you mean 'alive'"),
    "all NULL": (lambda: vis.plot_leakage(DF.assign(y=None), "y"), "must be known in some rows, got 20 NULL"),
    "constant": (lambda: vis.plot_target(DF.assign(y=1), "port", "y"), "must vary, got only 1 in 20 rows"),
    "dates": (lambda: vis.plot_target(DF, "port", "day"), "must hold classes or numbers, got dates"),
    "nothing else": (lambda: vis.plot_leakage(DF[["alive"]], "alive"), "no column but 'alive' varies"),
    "infinite": (lambda: vis.plot_target_mean(DF.assign(y=np.inf), "port", "y"), "finite, got 20 infinite"),
    "no time": (lambda: vis.plot_target_over_time(DF, "port", "alive"), "port must hold timestamps, got str"),
    "empty serving": (lambda: vis.plot_drift(DF, DF.head(0)), "got 0 rows|0 rows and 6 columns"),
    "nothing shared": (
        lambda: vis.plot_drift(DF[["age"]], DF[["port"]]),
        "a column in common, got age: only in training",
    ),
    "method": (lambda: vis.plot_correlations(DF, method="kendall"), "'pearson' or 'spearman', got 'kendall'"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    """What was received and the way out, in one line, before anything is drawn."""
    import matplotlib.pyplot as plt

    with pytest.raises(PlotError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert plt.get_fignums() == []


def test_spearman_is_scipys() -> None:
    """With ``method="spearman"`` numbers are measured by ranks."""
    rng = np.random.default_rng(9)
    df = pd.DataFrame({"a": rng.normal(size=300)})
    df["b"] = np.exp(df["a"] + rng.normal(size=300))
    found = compute.data.associations(df, method="spearman").matrix.loc["a", "b"]
    assert found == pytest.approx(stats.spearmanr(df["a"], df["b"]).statistic)


def test_independent_categories_are_not_associated() -> None:
    """The corrected measure of independent columns of many categories is near 0, where the plain one is not."""
    rng = np.random.default_rng(10)
    df = pd.DataFrame({"a": rng.integers(0, 20, 200).astype(str), "b": rng.integers(0, 20, 200).astype(str)})
    assert stats.contingency.association(pd.crosstab(df["a"], df["b"]).to_numpy()) > 0.25
    assert compute.data.associations(df).matrix.loc["a", "b"] < 0.12
