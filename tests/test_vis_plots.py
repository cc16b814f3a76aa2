"""Plots, read back as drawn and held against scikit-learn, scipy and plain numpy."""

import datetime as dt
import decimal
import doctest
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from scipy import stats
from sklearn import calibration, metrics
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlsys import vis
from mlsys.vis import compute, data, drawing, evaluation, inspection, models, operations, overview_page, plots

DRAWN, NOTES = "mlsys-curve", "mlsys-notes"


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Draw without a screen, leave global style as it was and no figure behind."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == style
    plt.close("all")


def scores(n: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes and a probability with ties that tells something about them."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.4).astype(int)
    truth[:2] = [0, 1]
    return truth, np.clip(0.4 + 0.25 * (truth - 0.4) + rng.normal(0, 0.15, n), 0, 1).round(3)


def notes(ax: Any) -> str:
    text = next(text.get_text() for text in ax.texts if text.get_gid() == NOTES)
    return " ".join(text.replace("\xa0", " ").split())


def row_labels(ax: Any) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def lengths(ax: Any) -> list[float]:
    return [bar.get_width() for bar in ax.patches]


def curves(ax: Any) -> list[Any]:
    return [line for line in ax.lines if line.get_gid() == DRAWN]


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_gid() != NOTES]


# The package --------------------------------------------------------------------------------------------------------


def test_import_is_light() -> None:
    """Importing the package loads no plotting library."""
    code = (
        "import sys, mlsys.vis; print([m for m in ('matplotlib', 'seaborn', 'plotly', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_package_stands_alone() -> None:
    """Nothing else of mlsys is imported but its errors, by any module of the package."""
    names = [f"mlsys.vis.{path.stem}" for path in Path(vis.__file__).parent.glob("[a-z]*.py")]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}];"
        "print({name.split('.')[1] for name in sys.modules if name.startswith('mlsys.')} - {'vis', 'errors'})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_examples_run() -> None:
    """The example of every docstring runs, and every public plot has one."""
    modules = (data, models, inspection, operations, evaluation, overview_page)
    with mpl.rc_context({"figure.max_open_warning": 0}):
        assert sum(doctest.testmod(module, extraglobs={"pd": pd}).failed for module in modules) == 0
    assert set(plots.__all__) < set(vis.__all__)
    assert all(">>>" in (inspect.getdoc(getattr(plots, name)) or "") for name in plots.__all__)


def test_draws_on_the_axes_given() -> None:
    """With ``ax=`` a plot stays there, and pyplot never hears of it."""
    import matplotlib.pyplot as plt

    y, s = scores(50)
    df = pd.DataFrame({"y": y, "s": s})
    figure = Figure(figsize=(20, 20))
    axes = figure.subplots(3, 3)
    calls = [
        lambda ax: vis.plot_missing(df, ax=ax),
        lambda ax: vis.plot_target_rate(df, "s", "y", ax=ax),
        lambda ax: vis.plot_correlations(df, ax=ax),
        lambda ax: vis.plot_confusion_matrix(y, s > 0.5, ax=ax),
        lambda ax: vis.plot_roc(y, s, ax=ax),
        lambda ax: vis.plot_precision_recall(y, s, ax=ax),
        lambda ax: vis.plot_calibration(y, s, ax=ax),
        lambda ax: vis.plot_feature_importance({"a": 1}, ax=ax),
        lambda ax: vis.plot_residuals(s, s, ax=ax),
    ]
    for ax, call in zip(axes.flat, calls, strict=True):
        assert call(ax) is ax
        assert ax.get_title(loc="left")
    assert plt.get_fignums() == []


# Columns of every type ----------------------------------------------------------------------------------------------

MOMENT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
COLUMNS = {
    "Int64": (pd.Series([1, None, 3], dtype="Int64"), "numeric"),
    "Float64": (pd.Series([1.5, None, 3], dtype="Float64"), "numeric"),
    "arrow int": (pd.Series([1, None, 3], dtype="int64[pyarrow]"), "numeric"),
    "arrow decimal": (pd.Series([decimal.Decimal("1.5"), None], dtype=pd.ArrowDtype(pa.decimal128(38, 9))), "numeric"),
    "decimal": (pd.Series([decimal.Decimal("1.5"), None]), "numeric"),
    "bool": (pd.Series([True, False]), "boolean"),
    "boolean": (pd.Series([True, None], dtype="boolean"), "boolean"),
    "arrow bool": (pd.Series([True, None], dtype="bool[pyarrow]"), "boolean"),
    "object bool": (pd.Series([True, None], dtype=object), "boolean"),
    "datetime64[us, UTC]": (pd.Series([MOMENT, None]).astype("datetime64[us, UTC]"), "datetime"),
    "arrow timestamp": (pd.Series([MOMENT, None], dtype=pd.ArrowDtype(pa.timestamp("us", "UTC"))), "datetime"),
    "arrow date": (pd.Series([MOMENT.date(), None], dtype=pd.ArrowDtype(pa.date32())), "datetime"),
    "date": (pd.Series([MOMENT.date(), None], dtype=object), "datetime"),
    "str": (pd.Series(["a", None], dtype="str"), "category"),
    "arrow string": (pd.Series(["a", None], dtype=pd.ArrowDtype(pa.string())), "category"),
    "category": (pd.Series(["a", None], dtype="category"), "category"),
    "arrow list": (pd.Series([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))), "category"),
    "list": (pd.Series([[1], None]), "category"),
    "all NULL": (pd.Series([None, None]), "category"),
}


@pytest.mark.parametrize(("values", "kind"), COLUMNS.values(), ids=COLUMNS.keys())
def test_every_type_is_drawn(values: pd.Series, kind: str) -> None:
    """Each dtype that BigQuery rows come in has its kind, and a panel that counts its NULLs."""
    assert compute.columns.kind_of(values) == kind
    (ax,) = vis.plot_distributions(values.to_frame("x"))
    bars = [bar.get_width() if kind in ("boolean", "category") else bar.get_height() for bar in ax.patches]
    assert sum(bars) == (len(values) if kind in ("boolean", "category") else values.notna().sum())
    if values.isna().any():
        assert f"NULL {values.isna().sum()} (" in notes(ax)


def test_dates_become_utc_seconds() -> None:
    """Timestamps in another zone count from the same epoch."""
    values = pd.Series(pd.to_datetime(["2026-01-01T02:00:00"])).dt.tz_localize("Europe/Berlin")
    assert compute.columns.as_float(values, "t").tolist() == [dt.datetime(2026, 1, 1, 1, tzinfo=dt.UTC).timestamp()]


# Data ---------------------------------------------------------------------------------------------------------------


def test_missing_counts_by_column() -> None:
    """Bars are the shares of NULL, most first, with counts beside them."""
    df = pd.DataFrame({"full": [1, 2, 3, 4], "half": [None, None, "a", "b"], "one": pd.array([1, 2, None, 4], "Int64")})
    ax = vis.plot_missing(df)
    assert row_labels(ax) == ["half", "one", "full"]
    assert lengths(ax) == [50, 25, 0]
    assert texts(ax) == ["50.0 % (2)", "25.0 % (1)", "0"]
    assert "n = 4 rows" in notes(ax)
    assert "1 of 3 columns complete" in notes(ax)


def test_missing_says_what_it_hides() -> None:
    """Many columns: the worst are drawn and the rest is described."""
    df = pd.DataFrame({f"c{i}": [None] * (i % 7) + [1.0] * (7 - i % 7) for i in range(50)})
    ax = vis.plot_missing(df, top=5)
    assert len(row_labels(ax)) == 5
    assert "45 columns not drawn have at most 6 NULLs" in notes(ax)


def test_distributions_of_200k_rows() -> None:
    """A histogram holds all rows; a heavy tail is cut and counted; 50 categories become ten, others and NULL."""
    rng = np.random.default_rng(0)
    n = 200_000
    fare = np.append(rng.exponential(30, n - 1), 1e7)
    port = pd.Series(rng.choice([f"port {i}" for i in range(50)], n, p=np.arange(1, 51) / 1275)).mask(
        rng.random(n) < 0.1
    )
    age, place = vis.plot_distributions(pd.DataFrame({"fare": fare, "port": port}))
    outside = int(notes(age).split(" · ")[1].split()[0].replace(",", ""))
    assert sum(bar.get_height() for bar in age.patches) == n - outside
    assert 0 < outside <= 0.011 * n
    expected = port.value_counts()
    assert lengths(place) == [*expected.head(10), expected.iloc[10:].sum(), port.isna().sum()]
    assert row_labels(place) == [*expected.head(10).index, "other (40)", "NULL"]


def test_distributions_of_integers_have_a_bar_each() -> None:
    """Few distinct integers are not cut into bins."""
    (ax,) = vis.plot_distributions(pd.DataFrame({"pclass": pd.array([1, 1, 2, 3, 3, 3, None], "Int64")}))
    assert [bar.get_height() for bar in ax.patches] == [2, 1, 3]
    assert ax.get_xticks().tolist() == [1, 2, 3]


def test_distributions_choose_columns() -> None:
    """The columns asked for are drawn, else the first ones, and the figure says how many there are."""
    df = pd.DataFrame({f"c{i}": range(10) for i in range(30)})
    assert len(vis.plot_distributions(df, ["c29"])) == 1
    axes = vis.plot_distributions(df, max_columns=4)
    assert len(axes) == 4
    assert "the first 4 of 30 columns" in axes[0].figure.get_suptitle()


def test_target_rate_by_category() -> None:
    """Rates, Wilson intervals and counts are those of scipy and pandas, NULL and other included."""
    rng = np.random.default_rng(1)
    n = 5000
    column = pd.Series(rng.choice([f"c{i}" for i in range(50)], n, p=np.arange(1, 51) / 1275)).mask(rng.random(n) < 0.1)
    target = pd.Series(rng.random(n) < 0.3, dtype="boolean").mask(rng.random(n) < 0.05)
    df = pd.DataFrame({"column": column, "target": target})
    ax = vis.plot_target_rate(df, "column", "target", top=3)
    known = df[df["target"].notna()]
    groups = known["column"].fillna("NULL")
    frequent = known["column"].value_counts().index[:3]
    groups = groups.where(groups.isin([*frequent, "NULL"]), "other (47)")
    assert row_labels(ax) == [*frequent, "other (47)", "NULL"]
    drawn = np.concatenate([container.lines[0].get_xdata() for container in ax.containers])
    bounds = np.concatenate([[s[:, 0] for s in container.lines[2][0].get_segments()] for container in ax.containers])
    for i, label in enumerate(row_labels(ax)):
        hits = known.loc[groups == label, "target"]
        interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        assert drawn[i] == pytest.approx(100 * hits.mean())
        assert bounds[i] == pytest.approx([100 * interval.low, 100 * interval.high])
        assert texts(ax)[i] == f"{hits.sum():,} of {len(hits):,}"
    assert f"{df['target'].isna().sum()} rows without target" in notes(ax)


def test_target_rate_by_quantile() -> None:
    """Numbers are cut as pandas' qcut cuts them, with NULL as a group of its own."""
    rng = np.random.default_rng(2)
    df = pd.DataFrame({"age": pd.Series(rng.normal(30, 10, 2000), dtype="Float64"), "y": rng.integers(0, 2, 2000)})
    df.loc[:99, "age"] = pd.NA
    ax = vis.plot_target_rate(df, "age", "y", bins=4)
    expected = df.groupby(pd.qcut(df["age"].astype(float), 4), observed=True)["y"].mean()
    assert ax.containers[0].lines[0].get_xdata() == pytest.approx(100 * expected.to_numpy())
    assert ax.containers[1].lines[0].get_xdata() == pytest.approx([100 * df.loc[:99, "y"].mean()])
    assert row_labels(ax)[-1] == "NULL"


@pytest.mark.parametrize("values", [["a"] * 10, [1.5] * 10, [None] * 10], ids=["text", "number", "NULL"])
def test_target_rate_of_one_class_and_one_value(values: list[Any]) -> None:
    """A constant column and a target without positives still give a rate with an interval."""
    ax = vis.plot_target_rate(pd.DataFrame({"x": values, "y": [0] * 10}), "x", "y")
    assert texts(ax) == ["0 of 10"]


def test_target_rate_keeps_the_order_of_categories() -> None:
    """Ordered categories stand in their order, whatever their counts."""
    size = pd.Categorical(["L", "S", "L", "M"], categories=["S", "M", "L"], ordered=True)
    ax = vis.plot_target_rate(pd.DataFrame({"size": size, "y": [0, 1, 1, 0]}), "size", "y")
    assert row_labels(ax) == ["S", "M", "L"]


def test_long_names_fit_and_dollars_are_no_mathematics() -> None:
    """Long names lose their middle, and every drawn text lies inside the figure."""
    names = [f"Port {i} of a very long-named city on the far side of the $coast$ number {i}" for i in range(50)]
    df = pd.DataFrame({"p": names * 4, "y": [0, 1] * 100})
    ax = vis.plot_target_rate(df, "p", "y")
    ax.figure.canvas.draw()
    assert all(len(label) < 40 for label in row_labels(ax))
    assert r"\$coast\$" not in row_labels(ax)[0]
    assert row_labels(ax)[3].endswith("number 3")
    boxes = [text.get_window_extent() for text in [*ax.get_yticklabels(), *ax.texts, ax.xaxis.label]]
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= ax.figure.bbox.width


@pytest.mark.parametrize("where", ["start", "middle", "end", "nowhere useful"])
def test_short_names_stay_different(where: str) -> None:
    """Names that differ anywhere differ still when they are shortened."""
    at = {"start": "{i} {x}", "middle": "{x} {i} and that goes on", "end": "{x} {i}"}.get(where, "{x} {i} {x}")
    names = [at.format(i=i, x="a name that takes much room") for i in range(5)]
    short = compute.columns.shorten_all(names, 30)
    assert len(set(short)) == 5
    assert max(map(len, short)) <= 30


def corrected_v(table: np.ndarray) -> float:
    """Return Cramér's V as Bergsma corrects it, from scipy's χ²."""
    n, (r, k) = table.sum(), table.shape
    phi = max(0, stats.chi2_contingency(table, correction=False).statistic / n - (k - 1) * (r - 1) / (n - 1))
    return np.sqrt(phi / min(k - (k - 1) ** 2 / (n - 1) - 1, r - (r - 1) ** 2 / (n - 1) - 1))


def test_correlations_of_mixed_types() -> None:
    """Each pair has the measure of its types, on the rows where both are known."""
    rng = np.random.default_rng(3)
    n = 500
    df = pd.DataFrame({"a": rng.normal(size=n), "k": rng.choice(list("xyz"), n), "m": rng.choice(list("pq"), n)})
    df["b"] = pd.Series(df["a"] + rng.normal(size=n)).mask(rng.random(n) < 0.2).astype("Float64")
    df["flag"] = pd.Series(df["a"] > 0).astype("boolean")
    df.loc[df["k"] == "x", "m"] = "p"
    df["k"] = df["k"].astype("category")
    df.loc[:9, "m"] = None
    df["id"], df["one"] = [f"id {i}" for i in range(n)], 1
    found = compute.data.associations(df)
    assert list(found.matrix) == ["a", "b", "flag", "k", "m"]
    assert found.left_out == {"id": "mostly unique", "one": "constant"}
    both = df.dropna(subset="b")
    assert found.matrix.loc["a", "b"] == pytest.approx(stats.pearsonr(both["a"], both["b"].astype(float)).statistic)
    assert found.matrix.loc["a", "flag"] == pytest.approx(
        stats.pointbiserialr(df["flag"].astype(bool), df["a"]).statistic
    )
    table = pd.crosstab(df["k"], df["m"]).to_numpy()
    assert found.matrix.loc["k", "m"] == pytest.approx(corrected_v(table))
    f = stats.f_oneway(*(part for _, part in df.groupby("k", observed=True)["a"])).statistic
    assert found.matrix.loc["k", "a"] == pytest.approx(np.sqrt(2 * f / (2 * f + n - 3)))  # eta from one-way ANOVA
    ax = vis.plot_correlations(df)
    drawn = ax.collections[0].get_array()
    drawn = np.asarray(drawn.filled(np.nan)).reshape(4, 4)
    lower = np.tril_indices(4)
    assert drawn[lower] == pytest.approx(found.matrix.iloc[1:, :-1].abs().to_numpy()[lower], abs=0.005)
    assert f"{found.matrix.loc['a', 'b']:+.2f}" in texts(ax)
    assert "mostly unique: id; constant: one" in notes(ax)


def test_correlations_sample_and_choose() -> None:
    """Many rows are sampled, many columns are cut to the strongest, and the plot says both."""
    rng = np.random.default_rng(4)
    df = pd.DataFrame(rng.normal(size=(200_000, 20)), columns=[f"c{i}" for i in range(20)])
    df["twin"] = df["c7"] * 2
    ax = vis.plot_correlations(df, top=3)
    assert "a sample of 100,000 of 200,000 rows" in notes(ax)
    assert {"c7", "twin"} <= {*row_labels(ax), *(label.get_text() for label in ax.get_xticklabels())}
    assert "and 15 more" in notes(ax)


# Models -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["str", "category", "object", pd.ArrowDtype(pa.string())], ids=str)
def test_confusion_matrix_counts(dtype: Any) -> None:
    """Counts are scikit-learn's, colours the shares of each actual class, and NULLs are counted."""
    rng = np.random.default_rng(5)
    y = pd.Series(rng.choice(["cat", "dog", "eel"], 300), dtype=dtype)
    p = pd.Series(rng.choice(["cat", "dog", "eel"], 300), dtype=dtype)
    expected = metrics.confusion_matrix(y, p)
    ax = vis.plot_confusion_matrix([*y, None], [*p, "cat"])
    assert [int(text.split("\n")[0]) for text in texts(ax)] == expected.ravel().tolist()
    shares = np.asarray(ax.collections[0].get_array()).ravel()
    assert shares == pytest.approx(metrics.confusion_matrix(y, p, normalize="true").ravel())
    assert "1 row with NULL left out" in notes(ax)
    assert f"{metrics.accuracy_score(y, p) * 100:.1f} % correct" in ax.get_title(loc="left")


def test_confusion_matrix_of_50_classes() -> None:
    """Rare classes are added up, no row is lost, and accuracy still comes from the true classes."""
    rng = np.random.default_rng(6)
    y = rng.choice([f"class {i}" for i in range(50)], 5000)
    p = np.where(rng.random(5000) < 0.5, y, rng.permutation(y))
    counts, correct, _ = compute.models.confusion(y, p)
    assert counts.shape == (21, 21)
    assert counts.to_numpy().sum() == 5000
    assert counts.columns[-1] == "other (30)"
    assert correct == pytest.approx((y == p).mean())
    assert "its diagonal" in notes(vis.plot_confusion_matrix(y, p))


def test_confusion_matrix_of_one_class() -> None:
    """One class on either side is a matrix of one cell."""
    assert texts(vis.plot_confusion_matrix([1, 1], [1, 1])) == ["2\n100.0 %"]


@pytest.mark.parametrize("n", [10, 1000, 200_000])
def test_roc_is_scikit_learns(n: int) -> None:
    """The drawn points lie on scikit-learn's curve, and the area is its AUC, also where the points are thinned."""
    y, s = scores(n)
    s = s + np.random.default_rng(9).random(n) * 1e-6 if n > 1000 else s
    ax = vis.plot_roc(y, s, name="v1")
    (line,) = curves(ax)
    x, drawn = line.get_data()
    expected_x, expected_y, _ = metrics.roc_curve(y, s, drop_intermediate=False)
    assert set(zip(x, drawn, strict=True)) <= set(zip(expected_x, expected_y, strict=True))
    assert np.hypot(np.diff(x), np.diff(drawn)).max() < 0.01 or n < 200_000  # thinned evenly, no part is missing
    if n <= 1000:
        assert (x.tolist(), drawn.tolist()) == (expected_x.tolist(), expected_y.tolist())
    assert line.get_label() == f"v1: AUC = {metrics.roc_auc_score(y, s):.3f}"
    assert len(x) <= 1002
    assert ("curve thinned" in notes(ax)) == (n == 200_000)


@pytest.mark.parametrize("n", [10, 1000, 200_000])
def test_precision_recall_is_scikit_learns(n: int) -> None:
    """The drawn steps are scikit-learn's, and the area is its average precision."""
    y, s = scores(n)
    ax = vis.plot_precision_recall(y, s)
    (line,) = curves(ax)
    precision, recall, _ = metrics.precision_recall_curve(y, s)
    x, drawn = line.get_data()
    assert set(x) <= set(recall)
    if n <= 1000:
        assert x[1:].tolist() == recall[:-1][::-1].tolist()
        assert drawn[1:].tolist() == pytest.approx(precision[:-1][::-1].tolist())
    assert line.get_drawstyle() == "steps-pre"
    assert line.get_label() == f"average precision = {metrics.average_precision_score(y, s):.3f}"
    assert ax.lines[0].get_ydata() == pytest.approx([y.mean()] * 2)


def test_curves_share_an_axes() -> None:
    """A second model takes another colour and dash, and the chance line is drawn once."""
    y, s = scores(100)
    ax = vis.plot_roc(y, s, name="v1")
    assert vis.plot_roc(y, -s, name="v2", ax=ax) is ax
    assert [line.get_color() for line in curves(ax)] == [drawing.BLUE, drawing.ORANGE]
    assert [line.get_linestyle() for line in curves(ax)] == ["-", "--"]
    assert len(ax.lines) == 3
    assert notes(ax) == f"{y.sum()} of 100 rows are 1"


def test_curves_leave_nulls_out_and_say_so() -> None:
    """Rows without class or score are counted, not guessed; matching is by position."""
    y = pd.Series([0, 1, 1, None, 0, 1], dtype="Int64", index=list("fedcba"))
    s = pd.Series([0.1, 0.9, 0.3, 0.5, None, 0.8], dtype=pd.ArrowDtype(pa.float64()))
    ax = vis.plot_roc(y, s)
    assert "2 rows with NULL left out" in notes(ax)
    assert curves(ax)[0].get_label() == "AUC = 1.000"


@pytest.mark.parametrize(
    ("labels", "positive", "expected"),
    [((False, True), None, "True"), ((-1, 1), None, "1"), (("no", "yes"), None, "yes"), (("no", "yes"), "no", "no")],
    ids=str,
)
def test_positive_class(labels: tuple[Any, Any], positive: Any, expected: str) -> None:
    """The positive class is guessed by one rule, can be chosen, and is named in the plot."""
    y, s = scores(100)
    ax = vis.plot_roc([labels[i] for i in y], s, positive=positive)
    assert f"rows are {expected}" in notes(ax)
    auc = metrics.roc_auc_score(y, s)
    assert curves(ax)[0].get_label() == f"AUC = {1 - auc if positive else auc:.3f}"


@pytest.mark.parametrize("n", [10, 1000, 200_000])
def test_calibration_is_scikit_learns(n: int) -> None:
    """Bins, rates and Brier score are scikit-learn's, intervals scipy's, and the histogram holds every row."""
    y, s = scores(n)
    s = np.clip(s + np.random.default_rng(9).random(n) * 1e-6, 0, 1)
    ax = vis.plot_calibration(y, s)
    (points,) = ax.containers
    rate, mean = calibration.calibration_curve(y, s, n_bins=min(10, n // 5), strategy="quantile")
    assert points.lines[0].get_xdata() == pytest.approx(mean)
    assert points.lines[0].get_ydata() == pytest.approx(rate)
    table = compute.models.calibration(y, s).table
    for segment, k, size in zip(points.lines[2][0].get_segments(), table["positives"], table["n"], strict=True):
        interval = stats.binomtest(int(k), int(size)).proportion_ci(method="wilson")
        assert segment[:, 1] == pytest.approx([interval.low, interval.high])
    assert f"{metrics.brier_score_loss(y, s):.3f}" in ax.get_title(loc="left")
    assert sum(bar.get_height() for bar in ax.figure.axes[-1].patches) == n


def test_calibration_of_constant_scores_and_one_class() -> None:
    """A model that always says the same has one point; a sample without positives has a rate of 0."""
    ax = vis.plot_calibration([0] * 20, [0.3] * 20)
    assert ax.containers[0].lines[0].get_xydata().tolist() == [[pytest.approx(0.3), 0]]


def test_calibration_of_few_scores_has_a_bin_each() -> None:
    """A tree that knows two scores gets two points, not one bin for both."""
    ax = vis.plot_calibration([0, 1, 1, 1] * 10, [0.2, 0.2, 0.7, 0.7] * 10)
    points = ax.containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([[0.2, 0.5], [0.7, 1.0]]))


def fitted() -> dict[str, Any]:
    """Models in the shapes that people have them, over columns a (which decides) and k."""
    rng = np.random.default_rng(7)
    mixed = pd.DataFrame({"a": rng.normal(size=200), "k": rng.choice(["x", "y"], 200)})
    numbers, y = mixed[["a"]].assign(b=0), (mixed["a"] > 0).astype(int)
    encode = make_column_transformer((OneHotEncoder(), ["k"]), remainder="passthrough")
    forest = RandomForestClassifier(10, random_state=0).fit(numbers, y)
    return {
        "pipeline": make_pipeline(encode, LogisticRegression()).fit(mixed, y),
        "forest": forest,
        "search": GridSearchCV(LogisticRegression(), {"C": [1]}).fit(numbers, y),
        "three": LogisticRegression().fit(numbers, y + (mixed["a"] > 1)),
        "permuted": permutation_importance(forest, numbers, y, n_repeats=3, random_state=0),
    }


def test_feature_importance_of_models() -> None:
    """Names and values come from the model, whatever it is wrapped in, and the axis says what they are."""
    models = fitted()
    ax = vis.plot_feature_importance(models["pipeline"])
    assert row_labels(ax)[0] == "remainder__a"
    coefficients = models["pipeline"][-1].coef_[0]
    assert lengths(ax) == pytest.approx(sorted(coefficients, key=abs, reverse=True))
    assert ax.get_xlabel() == "coefficient"
    assert lengths(vis.plot_feature_importance(models["forest"])) == pytest.approx([1, 0])
    assert row_labels(vis.plot_feature_importance(models["search"])) == ["a", "b"]
    expected = np.abs(models["three"].coef_).mean(axis=0)
    assert lengths(vis.plot_feature_importance(models["three"])) == pytest.approx(sorted(expected, reverse=True))
    ax = vis.plot_feature_importance(models["permuted"], ["a", "b"])
    assert lengths(ax) == pytest.approx(models["permuted"]["importances_mean"])
    assert "± 1 standard deviation" in ax.get_xlabel()


def test_feature_importance_of_numbers() -> None:
    """Series, dicts and arrays work too; the largest in absolute value come first, and the rest is added up."""
    values = pd.Series(np.linspace(-1, 0.5, 50), [f"f{i}" for i in range(50)])
    ax = vis.plot_feature_importance(values, top=5)
    assert row_labels(ax) == ["f0", "f1", "f2", "f3", "f4"]
    share = values.iloc[5:].abs().sum() / values.abs().sum()
    assert f"the 45 others hold {share * 100:.1f} %" in notes(ax)
    assert row_labels(vis.plot_feature_importance(np.array([1.0, 2.0]))) == ["feature 1", "feature 0"]


@pytest.mark.parametrize("n", [10, 200_000])
def test_residuals(n: int) -> None:
    """Points are actual minus predicted, a sample of many; the numbers in the title come from all rows."""
    rng = np.random.default_rng(8)
    predicted = rng.gamma(2, 10, n)
    actual = predicted + rng.normal(0, 3, n)
    ax = vis.plot_residuals(actual, predicted)
    points = np.asarray(ax.collections[0].get_offsets())
    assert len(points) == min(n, 5000)
    if n == 10:
        assert points == pytest.approx(np.column_stack([predicted, actual - predicted]))
    assert f"R² {metrics.r2_score(actual, predicted):.3f}" in ax.get_title(loc="left")
    rmse = metrics.root_mean_squared_error(actual, predicted)
    assert f"RMSE {compute.columns.format_number(rmse)}" in notes(ax)
    assert ("a sample of 5,000" in notes(ax)) == (n > 5000)


def test_residuals_of_a_constant_prediction() -> None:
    """A baseline that predicts one number is drawn without bands."""
    ax = vis.plot_residuals([1.0, 2.0, 3.0] * 20, [2.0] * 60)
    assert len(ax.lines) == 1


# Operations ---------------------------------------------------------------------------------------------------------


def predictions(n: int = 2000, days: int = 30) -> pd.DataFrame:
    """Rows of a predictions table in which v2 follows v1."""
    rng = np.random.default_rng(9)
    day = np.sort(rng.integers(0, days, n))
    stamp = pd.Series(pd.Timestamp("2026-01-01T05:00:00Z") + pd.to_timedelta(day, unit="D")).astype(
        "datetime64[us, UTC]"
    )
    score = pd.Series(rng.random(n), dtype="Float64").mask(rng.random(n) < 0.02)
    version = np.where(day < days // 2, "v1", "v2")
    label = np.where(score.fillna(0) > 0.5, "yes", "no")
    columns = {"prediction_timestamp": stamp, "model_version": version, "prediction": label}
    return pd.DataFrame(columns | {"prediction_probability": score})


def test_predictions_over_time_are_daily_means() -> None:
    """Each version is a line of daily means over stacked counts, and rows without a value are counted."""
    df = predictions()
    ax = vis.plot_predictions_over_time(df)
    known = df.dropna()
    expected = known.groupby(["model_version", known["prediction_timestamp"].dt.date])["prediction_probability"]
    for line, version in zip(curves(ax), ["v1", "v2"], strict=True):
        assert line.get_label() == version
        assert line.get_ydata() == pytest.approx(expected.mean().loc[version].to_numpy(dtype=float))
    lows = [path.vertices[0, 1] for lines in ax.collections for path in lines.get_paths()]
    assert lows == pytest.approx(expected.quantile(0.1).to_numpy(dtype=float))
    below = ax.figure.axes[-1]
    assert sum(bar.get_height() for bar in below.patches) == len(known)
    assert f"{len(df) - len(known)} rows without time or value left out" in notes(ax)
    assert sorted(texts(ax)) == ["v1", "v2"]


def test_predictions_over_time_of_classes() -> None:
    """Without a probability, two classes are drawn as a share with its interval."""
    df = predictions().drop(columns="prediction_probability")
    ax = vis.plot_predictions_over_time(df)
    first = df[df["prediction_timestamp"].dt.date == dt.date(2026, 1, 1)]["prediction"] == "yes"
    assert curves(ax)[0].get_ydata()[0] == pytest.approx(first.mean())
    interval = stats.binomtest(int(first.sum()), len(first)).proportion_ci(method="wilson")
    assert ax.collections[0].get_segments()[0][:, 1] == pytest.approx([interval.low, interval.high])
    assert ax.get_ylabel() == "share of prediction = yes"


@pytest.mark.parametrize(("days", "period"), [(1, "hour"), (30, "day"), (400, "week"), (2000, "month")], ids=str)
def test_predictions_over_time_choose_a_period(days: int, period: str) -> None:
    """The period follows the span, and the plot names it."""
    ax = vis.plot_predictions_over_time(predictions(n=4000, days=days))
    assert f"by {period} (UTC)" in notes(ax)


def test_predictions_over_time_of_many_versions() -> None:
    """Beyond the most used versions the others are one line."""
    df = predictions().assign(model_version=[f"v{i % 50}" for i in range(2000)])
    assert len(curves(vis.plot_predictions_over_time(df, top=3))) == 4


def test_interactive_twins_hold_the_same_data() -> None:
    """``interactive=True`` returns a plotly figure of the same numbers."""
    y, s = scores(500)
    for plot in (vis.plot_roc, vis.plot_precision_recall):
        trace = plot(y, s, name="v1", interactive=True).data[0]
        line = curves(plot(y, s, name="v1"))[0]
        assert np.column_stack([trace.x, trace.y]) == pytest.approx(line.get_xydata())
        assert trace.name == line.get_label()
    figure = vis.plot_predictions_over_time(predictions(), interactive=True)
    lines = curves(vis.plot_predictions_over_time(predictions()))
    for trace, line in zip(figure.data, lines, strict=True):
        assert list(trace.y) == pytest.approx(list(line.get_ydata()))
    assert "32 rows without" in figure.layout.title.text


# Refusals -----------------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"survived": [0, 1, 1], "sex": ["m", "f", "f"], "deck": ["a", "b", "c"]})
Y, S = [0, 1, 1], [0.2, 0.6, 0.7]
NO_TIME = pd.DataFrame({"prediction_timestamp": ["2026-01-01"], "model_version": ["v1"], "prediction": [1.0]})
REFUSALS = {
    "empty frame": (lambda: vis.plot_missing(FRAME.head(0)), "0 rows and 3 columns; check the query"),
    "empty frame, distributions": (lambda: vis.plot_distributions(pd.DataFrame()), "0 rows and 0 columns"),
    "no frame": (lambda: vis.plot_missing([1, 2]), "got list: wrap it in pd.DataFrame"),
    "column twice": (lambda: vis.plot_missing(FRAME[["sex", "sex"]]), "must be unique, got 'sex' twice"),
    "no such column": (lambda: vis.plot_target_rate(FRAME, "sexx", "survived"), "'sexx': did you mean 'sex'?"),
    "nothing like it": (lambda: vis.plot_distributions(FRAME, ["qqq"]), "the columns are 'survived', 'sex', 'deck'"),
    "columns as text": (lambda: vis.plot_distributions(FRAME, "sex"), r"pass \['sex'\]"),
    "no columns": (lambda: vis.plot_distributions(FRAME, []), "no columns to plot"),
    "three classes": (lambda: vis.plot_target_rate(FRAME, "sex", "deck"), "got 3: 'a', 'b', 'c'; pass positive="),
    "unknown class": (lambda: vis.plot_roc(Y, S, positive=7), r"positive=7 is no class of y_true: .* 0, 1"),
    "one label": (lambda: vis.plot_calibration(["no"] * 3, S), "got only 'no'; pass positive="),
    "no target": (lambda: vis.plot_target_rate(FRAME.assign(t=None), "sex", "t"), "all 3 values of 't' are NULL"),
    "one class": (lambda: vis.plot_roc([0, 0, 0], S), "both classes, got only 0 in 3 rows"),
    "one class, precision": (lambda: vis.plot_precision_recall([1, 1, 1], S), "got only 1 in 3 rows"),
    "lengths": (lambda: vis.plot_roc(Y, [0.1]), "same length, got 3 and 1"),
    "two columns": (lambda: vis.plot_roc(Y, np.ones((3, 2))), r"shape \(3, 2\): .*predict_proba\(X\)\[:, 1\]"),
    "text scores": (lambda: vis.plot_roc(Y, ["a", "b", "c"]), "y_score must hold numbers, got str"),
    "empty arrays": (lambda: vis.plot_residuals([], []), "no row where both are known, got 0"),
    "no probability": (lambda: vis.plot_calibration(Y, [-2.0, 0.5, 3.0]), "got -2 to 3: pass predict_proba"),
    "other classes": (lambda: vis.plot_confusion_matrix(["a", "b"], [0, 1]), "the same classes, got 'a' and 0"),
    "no variation": (lambda: vis.plot_correlations(pd.DataFrame({"a": [1, 1], "b": [1, 2]})), r"got 1 \(a: constant\)"),
    "unfitted": (lambda: vis.plot_feature_importance(HistGradientBoostingClassifier()), "permutation_importance"),
    "names": (lambda: vis.plot_feature_importance([1, 2], ["a"]), "got 1 names and 2 importances"),
    "no number": (lambda: vis.plot_feature_importance({"a": np.nan, "b": 1}), "must be finite, got nan"),
    "no time": (lambda: vis.plot_predictions_over_time(NO_TIME), r"timestamps, got str: .*pd.to_datetime"),
    "both kinds": (lambda: vis.plot_roc(Y, S, interactive=True, ax=object()), "leave one of them out"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    """What was received and the way out, in one line, before anything is drawn."""
    import matplotlib.pyplot as plt

    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert plt.get_fignums() == []
