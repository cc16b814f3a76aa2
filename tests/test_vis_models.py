"""Curves over thresholds, costs, versions and inspections, held against scikit-learn and plain arithmetic."""

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import inspection, metrics, model_selection
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlsys import vis
from mlsys.errors import PlotError
from mlsys.vis import compute
from tests.test_vis_plots import curves, lengths, notes, row_labels, scores


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Draw without a screen, leave global style as it was and no figure behind."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == style
    plt.close("all")


# Scores -------------------------------------------------------------------------------------------------------------


def test_gain_is_the_share_of_positives_found() -> None:
    """At each share of rows, highest scores first, the curve has the share of positives that they hold."""
    y, s = scores(1000)
    (line,) = curves(vis.plot_gain(y, s))
    for x, drawn in line.get_xydata()[1:]:
        flagged = s >= np.sort(s)[::-1][round(x * 1000) - 1]
        assert x == pytest.approx(flagged.mean())
        assert drawn == pytest.approx(y[flagged].sum() / y.sum())


def test_lift_is_gain_over_chance() -> None:
    """The lift is the rate of positives among the rows flagged over the rate among all, 1 when all are flagged."""
    y, s = scores(1000)
    (line,) = curves(vis.plot_lift(y, s))
    x, lifted = line.get_data()
    assert lifted[-1] == 1
    at = 40
    flagged = s >= np.sort(s)[::-1][round(x[at] * 1000) - 1]
    assert lifted[at] == pytest.approx(y[flagged].mean() / y.mean())
    gained = curves(vis.plot_gain(y, s))[0].get_label()
    top = float(line.get_label().split("= ")[1])
    assert float(gained.split()[-2]) == pytest.approx(10 * top, abs=0.1)


@pytest.mark.parametrize("n", [10, 1000, 100_000])
def test_thresholds_are_scikit_learns(n: int) -> None:
    """Precision, recall and F1 at every threshold drawn are those of the labels that it gives."""
    y, s = scores(n)
    ax = vis.plot_threshold(y, s)
    precision, recall, f1, flagged = curves(ax)
    for i in np.linspace(0, len(precision.get_xdata()) - 1, 9).astype(int):
        at = precision.get_xdata()[i]
        labels = s >= at
        assert precision.get_ydata()[i] == pytest.approx(metrics.precision_score(y, labels))
        assert recall.get_ydata()[i] == pytest.approx(metrics.recall_score(y, labels))
        assert f1.get_ydata()[i] == pytest.approx(metrics.f1_score(y, labels))
        assert flagged.get_ydata()[i] == pytest.approx(labels.mean())
    assert precision.get_drawstyle() == "steps-post"
    hits = np.array([(s[y == 1] >= at).sum() for at in np.unique(s)])
    best = (2 * hits / (np.array([(s >= at).sum() for at in np.unique(s)]) + y.sum())).max()
    assert f"highest F1 {best:.3f}" in notes(ax)


def test_cost_is_what_mistakes_cost() -> None:
    """The curve is the mean cost of the labels that each threshold gives, and its lowest point is named."""
    y, s = scores(500)
    ax = vis.plot_cost(y, s, false_positive=2, false_negative=7, unit="EUR")
    (line,) = curves(ax)
    expected = [(2 * ((s >= t) & (y == 0)).sum() + 7 * ((s < t) & (y == 1)).sum()) / 500 for t in line.get_xdata()]
    assert line.get_ydata() == pytest.approx(expected)
    best = np.argmin(expected)
    assert line.get_label() == f"cheapest: threshold {line.get_xdata()[best]:.3g}, {expected[best]:.3g}"
    assert ax.get_ylabel() == "cost of mistakes for each row (EUR)"
    assert ax.lines[0].get_ydata()[0] == pytest.approx(7 * y.mean())  # nothing flagged


def test_cheapest_may_be_to_flag_nothing() -> None:
    """Where false alarms cost much more than misses, the plot says to flag nothing."""
    label = curves(vis.plot_cost([0, 1, 0], [0.9, 0.5, 0.1], false_positive=9, false_negative=1))[0].get_label()
    assert label.startswith("cheapest: to flag nothing")


def test_best_threshold_of_calibrated_scores_follows_the_costs() -> None:
    """For true probabilities the cheapest threshold is near the costs' ratio, as decision theory has it."""
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    found = compute.models.sweep(compute.models.Binary(rng.random(200_000) < p, p, "1", 0))
    table = compute.models.costs(found, 1, 4)
    assert table["threshold"].loc[table["cost"].idxmin()] == pytest.approx(1 / 5, abs=0.02)


TWINS: dict[str, Any] = {
    "gain": lambda y, s, **more: vis.plot_gain(y, s, **more),
    "lift": lambda y, s, **more: vis.plot_lift(y, s, **more),
    "threshold": lambda y, s, **more: vis.plot_threshold(y, s, **more),
    "cost": lambda y, s, **more: vis.plot_cost(y, s, false_positive=1, false_negative=1, **more),
}


@pytest.mark.parametrize("plot", TWINS.values(), ids=TWINS.keys())
def test_interactive_twins_hold_the_same_data(plot: Any) -> None:
    """``interactive=True`` gives the same lines, names and notes in plotly."""
    y, s = scores(300)
    figure, ax = plot(y, s, interactive=True), plot(y, s)
    for trace, line in zip(figure.data, curves(ax), strict=False):
        assert np.column_stack([trace.x, trace.y]) == pytest.approx(line.get_xydata())
        assert trace.name == line.get_label()
        assert trace.line.shape == {"steps-post": "hv", "default": "linear"}[line.get_drawstyle()]
    assert f"{y.sum()} of 300 rows are 1" in figure.layout.title.text


# Numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 10, 100_000])
def test_predicted_and_actual(n: int) -> None:
    """Points are the pairs, a sample of many; the title's numbers come from all rows."""
    rng = np.random.default_rng(1)
    predicted = rng.gamma(2, 10, n)
    actual = pd.Series(predicted + rng.normal(0, 3, n), dtype="Float64")
    ax = vis.plot_predicted_actual(actual, predicted)
    points = np.asarray(ax.collections[0].get_offsets())
    assert len(points) == min(n, 5000)
    pairs = set(zip(predicted.round(6), actual.to_numpy(float).round(6), strict=True))
    assert {(round(x, 6), round(y, 6)) for x, y in points[:100]} <= pairs
    wanted = f"R² {metrics.r2_score(actual, predicted):.3f}" if n > 1 else "R² undefined"
    assert wanted in ax.get_title(loc="left")
    figure = vis.plot_predicted_actual(actual, predicted, interactive=True)
    assert np.column_stack([figure.data[0].x, figure.data[0].y]) == pytest.approx(points)


def test_residuals_interactive() -> None:
    """The interactive twin holds the same points."""
    points = vis.plot_residuals([3.0, 1.0, 2.5], [2.5, 1.2, 2.0], interactive=True).data[0]
    assert list(points.x) == [2.5, 1.2, 2.0]
    assert list(points.y) == pytest.approx([0.5, -0.2, 0.5])


# Versions -----------------------------------------------------------------------------------------------------------


def test_versions_side_by_side() -> None:
    """Each metric has a panel with the versions that know it, with intervals where an evaluation gives them."""
    y, s = scores(400)
    x = pd.DataFrame({"s": s})
    found = vis.evaluate(LogisticRegression().fit(x, y), x, y)
    axes = vis.plot_versions({"v1": {"accuracy": 0.5, "other": 3.0}, "v2": found}, metrics=["accuracy", "other"])
    assert [ax.get_title(loc="left") for ax in axes] == ["accuracy", "other"]
    points = axes[0].containers[0]
    assert points.lines[0].get_xdata() == pytest.approx([0.5, found.metrics["accuracy"]])
    assert points.lines[2][0].get_segments()[1][:, 0] == pytest.approx(found.intervals["accuracy"])
    assert row_labels(axes[1]) == ["v1", "v2"]
    assert axes[1].containers[0].lines[0].get_ydata().tolist() == [0]


# Inspection ---------------------------------------------------------------------------------------------------------


def rows(n: int = 600) -> tuple[pd.DataFrame, np.ndarray]:
    """Features in the dtypes that a query gives, and two classes that depend on age and port."""
    rng = np.random.default_rng(2)
    df = pd.DataFrame(
        {
            "age": pd.Series(rng.normal(30, 10, n), dtype="Float64"),
            "seats": pd.Series(rng.integers(0, 4, n), dtype="Int64"),
            "port": pd.Series(rng.choice(["C", "Q", "S"], n), dtype="str"),
            "day": pd.Series(pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 90, n), unit="D")),
        }
    )
    y = (df["age"].to_numpy(float) / 10 - 3 + (df["port"] == "C") + rng.normal(0, 0.7, n) > 0).astype(int)
    return df, y


def model(estimator: Any = None) -> Any:
    """Fit a pipeline over age, seats and port; the day is left out."""
    df, y = rows()
    encode = make_column_transformer((OneHotEncoder(), ["port"]), ("passthrough", ["age", "seats"]))
    return make_pipeline(encode, LogisticRegression(max_iter=1000) if estimator is None else estimator).fit(df, y)


def test_permutation_importance_is_scikit_learns() -> None:
    """Bars are scikit-learn's means for the columns that went in, and the title says how they were made."""
    df, y = rows()
    fitted = model()
    ax = vis.plot_permutation_importance(fitted, df, pd.Series(y, dtype="Int64"), repeats=3)
    expected = inspection.permutation_importance(fitted, df, y, n_repeats=3, random_state=0)["importances_mean"]
    assert dict(zip(row_labels(ax), lengths(ax), strict=True)) == pytest.approx(dict(zip(df, expected, strict=True)))
    assert row_labels(ax)[0] == "age"
    assert "600 rows, 3 times" in notes(ax)
    assert ax.get_xlabel().startswith("mean loss of accuracy when permuted")


def test_evaluation_by_permutation() -> None:
    """`evaluate` takes permutation importances where it is asked to."""
    df, y = rows()
    found = vis.evaluate(model(RandomForestClassifier(10, random_state=0)), df, y, permutation=True)
    assert set(found.curves["importance"]["feature"]) == set(df)
    assert "600 rows, 5 times" in found.importance_measure
    assert vis.Evaluation.from_json(found.to_json()) == found


def test_partial_dependence_is_scikit_learns() -> None:
    """At every value the mean is that of scikit-learn's brute force over the same rows."""
    df, _ = rows()
    plain = df[["age", "seats"]].astype(float)
    fitted = LogisticRegression(max_iter=1000).fit(plain, rows()[1])
    (line,) = vis.plot_partial_dependence(fitted, plain, "age").lines
    expected = inspection.partial_dependence(
        fitted, plain, ["age"], custom_values={"age": line.get_xdata()}, method="brute", response_method="predict_proba"
    )
    assert line.get_ydata() == pytest.approx(expected["average"][0])
    assert len(line.get_xdata()) == 20


def test_partial_dependence_of_categories_and_whole_numbers() -> None:
    """Categories are asked about by name, few whole numbers each, in the column's own dtype."""
    df, _ = rows()
    fitted = model()
    ax = vis.plot_partial_dependence(fitted, df, "port")
    assert sorted(row_labels(ax)) == ["C", "Q", "S"]
    for label, mean in zip(row_labels(ax), ax.containers[0].lines[0].get_xdata(), strict=True):
        assert mean == pytest.approx(fitted.predict_proba(df.assign(port=label))[:, 1].mean())
    ax = vis.plot_partial_dependence(fitted, df, "seats", positive=0)
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 2, 3]
    assert ax.get_ylabel() == "mean probability of 0"
    vis.plot_partial_dependence(fitted, df, "day")  # a date that the model does not use
    assert np.ptp(vis.plot_partial_dependence(fitted, df, "day").lines[0].get_ydata()) == 0


def test_partial_dependence_of_an_array() -> None:
    """Arrays have columns by number."""
    x = np.arange(20.0).reshape(10, 2)
    fitted = LinearRegression().fit(x, x[:, 0])
    ax = vis.plot_partial_dependence(fitted, x, "feature 1")
    assert ax.get_xlabel() == "feature 1"


def test_partial_dependence_keeps_nulls_elsewhere() -> None:
    """NULL in the column is not asked about, and is left as it is in others."""
    df = pd.DataFrame({"a": [1.0, None, 3.0, 4.0] * 10, "b": pd.array([1, 2, None, 4] * 10, "Int64")})

    class Counts:
        classes_ = (False, True)

        def predict_proba(self, X: pd.DataFrame) -> np.ndarray:  # noqa: N803
            assert X["b"].isna().sum() == 10
            assert str(X["b"].dtype) == "Int64"
            return np.column_stack([1 - X["a"] / 4, X["a"] / 4])

    (line,) = vis.plot_partial_dependence(Counts(), df, "a").lines
    assert line.get_xydata() == pytest.approx(np.array([[1, 0.25], [3, 0.75], [4, 1]]))


def test_learning_curve_is_scikit_learns() -> None:
    """Both lines are scikit-learn's means over folds."""
    df, y = rows(150)
    df, estimator = df[["age"]].astype(float), LogisticRegression()
    ax = vis.plot_learning_curve(estimator, df, pd.Series(y).map({0: "no", 1: "yes"}).astype("str"), folds=3)
    options = {"cv": 3, "train_sizes": np.geomspace(0.1, 1, 6), "shuffle": True, "random_state": 0}
    sizes, train, test = model_selection.learning_curve(estimator, df, y, **options)
    fitted, other = ax.lines
    assert fitted.get_xdata().tolist() == sizes.tolist()
    assert fitted.get_ydata() == pytest.approx(train.mean(axis=1))
    assert other.get_ydata() == pytest.approx(test.mean(axis=1))
    assert ax.get_ylabel() == "accuracy"
    assert "mean of 3 folds" in notes(ax)


# Refusals -----------------------------------------------------------------------------------------------------------

Y, S = [0, 1, 1], [0.2, 0.6, 0.7]
X = pd.DataFrame({"a": [1.0, 2.0, 3.0], "n": pd.array([None] * 3, dtype="Float64")})
FITTED = LogisticRegression().fit(X[["a"]], Y)
THREE = LogisticRegression().fit(X[["a"]], [0, 1, 2])
REFUSALS = {
    "negative cost": (lambda: vis.plot_cost(Y, S, false_positive=-1, false_negative=1), "cost of 0 or more, got -1"),
    "one class, lift": (lambda: vis.plot_lift([1, 1], [0.2, 0.3]), "both classes, got only 1"),
    "infinite": (lambda: vis.plot_predicted_actual([np.inf, 1.0], [1.0, 1.0]), "finite, got 1 infinite"),
    "no metrics": (lambda: vis.plot_versions({"v1": {}}), "1 versions with no metrics"),
    "no such metric": (lambda: vis.plot_versions({"v1": {"f1": 1}}, metrics=["auc"]), "'auc': they have 'f1'"),
    "NULL in y": (lambda: vis.plot_permutation_importance(FITTED, X[["a"]], [0, None, 1]), "got 1 NULL in 3"),
    "lengths": (lambda: vis.plot_permutation_importance(FITTED, X[["a"]], [0]), "same rows, got 3 and 1"),
    "no column": (lambda: vis.plot_partial_dependence(FITTED, X[["a"]], "b"), "no column 'b'"),
    "all NULL": (lambda: vis.plot_partial_dependence(FITTED, X, "n"), "known values, got 3 NULL"),
    "three classes": (lambda: vis.plot_partial_dependence(THREE, X[["a"]], "a"), "positive= must name a class"),
    "no class": (lambda: vis.plot_partial_dependence(THREE, X[["a"]], "a", positive=9), "they are 0, 1, 2"),
    "no probability": (
        lambda: vis.plot_partial_dependence(RidgeClassifier().fit(X[["a"]], Y), X[["a"]], "a"),
        "RidgeClassifier gives no probabilities",
    ),
    "few rows": (lambda: vis.plot_learning_curve(FITTED, X[["a"]], Y), "5 folds need 10 rows or more, got 3"),
    "no array": (lambda: vis.plot_partial_dependence(FITTED, [1, 2], "a"), r"k columns, got shape \(2,\)"),
    "both kinds": (lambda: vis.plot_gain(Y, S, interactive=True, ax=object()), "leave one of them out"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    """What was received and the way out, in one line, before anything is drawn."""
    import matplotlib.pyplot as plt

    with pytest.raises(PlotError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert plt.get_fignums() == []


def test_arrow_scores_are_taken() -> None:
    """Truth and scores may come as Arrow columns."""
    y, s = scores(100)
    typed = pd.Series(y).astype("boolean"), pd.Series(s, dtype=pd.ArrowDtype(pa.float64()))
    assert curves(vis.plot_gain(*typed))[0].get_xydata() == pytest.approx(curves(vis.plot_gain(y, s))[0].get_xydata())
