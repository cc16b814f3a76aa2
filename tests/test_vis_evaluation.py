"""`evaluate`: metrics held against scikit-learn, intervals against what they promise, and the page against both."""

import dataclasses
import json
import os
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlsys import vis
from mlsys.errors import PlotError
from mlsys.vis import compute, html
from mlsys.vis.compute import metrics as measure


def rows(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Features as ``bq_get`` gives them, three classes and a number that depend on them."""
    rng = np.random.default_rng(seed)
    age, port = rng.normal(30, 10, n), rng.choice(["C", "Q", "S"], n)
    signal = (age - 30) / 10 + (port == "S") + rng.normal(0, 1, n)
    frame = {"age": age, "port": pd.Series(port, dtype="str"), "seats": pd.Series(rng.integers(0, 5, n), dtype="Int64")}
    frame["alive"] = (signal > 0.5).astype(int)
    frame["class"] = np.digitize(signal, [-0.5, 1])
    return pd.DataFrame(frame | {"fare": 10 * signal + 100})


FEATURES = ["age", "port", "seats"]


def fitted(estimator: Any, target: str) -> Any:
    """Fit a pipeline over text and numbers on other rows than the tests score."""
    train = rows(seed=1)
    encode = make_column_transformer((OneHotEncoder(), ["port"]), remainder="passthrough")
    return make_pipeline(encode, estimator).fit(train[FEATURES], train[target])


def binary(**options: Any) -> tuple[vis.Evaluation, pd.Series, np.ndarray, np.ndarray]:
    """Evaluate a logistic regression; also return truth, labels and probabilities."""
    df, model = rows(), fitted(LogisticRegression(max_iter=1000), "alive")
    found = vis.evaluate(model, df[FEATURES], df["alive"], **options)
    return found, df["alive"], model.predict(df[FEATURES]), model.predict_proba(df[FEATURES])[:, 1]


# Metrics ------------------------------------------------------------------------------------------------------------


def test_binary_metrics_are_scikit_learns() -> None:
    """Every metric of two classes is scikit-learn's."""
    found, y, predicted, p = binary()
    assert found.metrics == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(y, predicted),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, predicted),
            "precision": metrics.precision_score(y, predicted),
            "recall": metrics.recall_score(y, predicted),
            "f1": metrics.f1_score(y, predicted),
            "roc_auc": metrics.roc_auc_score(y, p),
            "average_precision": metrics.average_precision_score(y, p),
            "brier_score": metrics.brier_score_loss(y, p),
            "log_loss": metrics.log_loss(y, p),
        }
    )
    assert (found.task, found.name, found.target, found.rows) == ("binary", "LogisticRegression", "alive", 400)
    assert (found.classes, found.positive) == (("0", "1"), "1")


def test_multiclass_metrics_are_scikit_learns() -> None:
    """Every metric of three classes is scikit-learn's."""
    df, model = rows(), fitted(LogisticRegression(max_iter=1000), "class")
    found = vis.evaluate(model, df[FEATURES], df["class"])
    y, predicted, p = df["class"], model.predict(df[FEATURES]), model.predict_proba(df[FEATURES])
    assert found.metrics == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(y, predicted),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, predicted),
            "f1_macro": metrics.f1_score(y, predicted, average="macro"),
            "roc_auc_ovr": metrics.roc_auc_score(y, p, multi_class="ovr"),
            "log_loss": metrics.log_loss(y, p),
        }
    )
    assert found.curves["confusion"]["counts"] == metrics.confusion_matrix(y, predicted).tolist()
    by_class = found.curve("classes")
    expected = metrics.precision_recall_fscore_support(y, predicted)
    for name, values in zip(("precision", "recall", "f1", "n"), expected, strict=True):
        assert by_class[name].tolist() == pytest.approx(values.tolist(), rel=1e-5)


def test_regression_metrics_are_scikit_learns() -> None:
    """Every metric of numbers is scikit-learn's, also when the target's mean is large beside its spread."""
    df, model = rows(), fitted(LinearRegression(), "fare")
    predicted = model.predict(df[FEATURES])
    for shift in (0, 1e9):
        found = measure.of_errors(df["fare"].to_numpy() + shift, predicted + shift).values
        assert found == pytest.approx(
            {
                "rmse": metrics.root_mean_squared_error(df["fare"], predicted),
                "mae": metrics.mean_absolute_error(df["fare"], predicted),
                "r2": metrics.r2_score(df["fare"], predicted),
                "bias": (df["fare"] - predicted).mean(),
            },
            rel=1e-4 if shift else 1e-9,
        )
    assert vis.evaluate(model, df[FEATURES], df["fare"]).metrics["r2"] == metrics.r2_score(df["fare"], predicted)


def test_the_other_class_can_be_the_positive_one() -> None:
    """``positive`` turns precision, recall and scores around, and leaves accuracy."""
    found, y, predicted, p = binary(positive=0)
    assert found.positive == "0"
    assert found.metrics["recall"] == pytest.approx(metrics.recall_score(y, predicted, pos_label=0))
    assert found.metrics["average_precision"] == pytest.approx(metrics.average_precision_score(1 - y, 1 - p))
    assert found.metrics["accuracy"] == metrics.accuracy_score(y, predicted)


@pytest.mark.parametrize("positive", [0, 1])
def test_scores_without_probabilities(positive: int) -> None:
    """A model with a decision function alone has ranks, but neither calibration nor losses."""
    df, model = rows(), fitted(RidgeClassifier(), "alive")
    found = vis.evaluate(model, df[FEATURES], df["alive"], positive=positive)
    expected = metrics.roc_auc_score(df["alive"], model.decision_function(df[FEATURES]))
    assert found.metrics["roc_auc"] == pytest.approx(expected)
    assert not {"brier_score", "log_loss"} & set(found.metrics)
    assert "calibration" not in found.curves
    assert len(found.figure().axes) >= 5


# Intervals ----------------------------------------------------------------------------------------------------------


def test_intervals_of_shares_are_scipys() -> None:
    """Accuracy, precision and recall have Wilson's interval on the rows that they are about."""
    found, y, predicted, _ = binary()
    both = int(((y == 1) & (predicted == 1)).sum())
    for name, hits, n in (
        ("accuracy", int((y == predicted).sum()), 400),
        ("precision", both, int((predicted == 1).sum())),
        ("recall", both, int((y == 1).sum())),
    ):
        expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert found.intervals[name] == pytest.approx((expected.low, expected.high))
        assert found.methods[name] == "Wilson"


def test_intervals_of_means_are_students() -> None:
    """Losses that average over rows have Student's interval."""
    found, y, _, p = binary()
    loss = (y - p) ** 2
    expected = stats.t.interval(0.95, 399, loss.mean(), stats.sem(loss))
    assert found.intervals["brier_score"] == pytest.approx(expected)


def test_bootstrap_is_scipys() -> None:
    """Our weighted resampling gives the interval that scipy's bootstrap gives, up to chance."""
    found, y, _, p = binary()
    indices = (np.arange(400),)

    def average_precision(at: np.ndarray) -> float:
        return metrics.average_precision_score(y[at], p[at])

    expected = stats.bootstrap(indices, average_precision, n_resamples=500, method="percentile", rng=5)
    low, high = expected.confidence_interval
    assert found.intervals["average_precision"] == pytest.approx((low, high), abs=0.015)


@pytest.mark.parametrize(("auc", "positives", "negatives"), [(1.0, 10, 12), (0.0, 5, 5), (0.8, 30, 70), (0.5, 1, 1)])
def test_interval_of_auc_solves_its_equation(auc: float, positives: int, negatives: int) -> None:
    """Each bound is as many standard errors away as it should be, by Hanley and McNeil's variance at the bound."""
    for bound in measure.auc_interval(auc, positives, negatives):
        q1, q2, half = bound / (2 - bound), 2 * bound**2 / (1 + bound), (positives + negatives) / 2 - 1
        variance = bound * (1 - bound) + half * (q1 - bound**2) + half * (q2 - bound**2)
        distance = (bound - auc) ** 2 * positives * negatives
        assert bound in (0, 1) or distance == pytest.approx(1.959963984540054**2 * variance)


def test_percentiles_leave_a_fortieth_at_each_end() -> None:
    """An interval of draws lies between their 2.5th and 97.5th percentile, and needs nearly all of them defined."""
    assert measure.percentiles(np.arange(1001.0)) == pytest.approx((25, 975))
    assert measure.percentiles(np.append(np.arange(90.0), [np.nan] * 10)) is None


def test_intervals_hold_what_they_promise() -> None:
    """Of many small samples, about 95 % have an interval around the true value.

    ``MLSYS_COVERAGE=1000`` repeats it more often than the default 40.
    """
    repeats, n = int(os.environ.get("MLSYS_COVERAGE", "40")), 120
    rng = np.random.default_rng(2)

    def sample(size: int) -> tuple[np.ndarray, np.ndarray]:
        p = rng.beta(1, 2, size)
        return rng.random(size) < p, p

    def measured(truth: np.ndarray, p: np.ndarray) -> measure.Metrics:
        data = compute.models.Binary(truth, p, "1", 0)
        found = measure.of_scores(data, compute.models.sweep(data), probabilities=True)
        counts = metrics.confusion_matrix(truth, p > 0.5, labels=[False, True])
        shares = measure.from_counts(counts, positive=1)
        errors = measure.of_errors(p + truth, p)
        for name in ("values", "intervals"):
            getattr(found, name).update(getattr(shares, name) | getattr(errors, name))
        return found

    truth = measured(*sample(400_000)).values
    inside = dict.fromkeys(truth, 0)
    for _ in range(repeats):
        for name, (low, high) in measured(*sample(n)).intervals.items():
            inside[name] += low <= truth[name] <= high
    shares = {name: hits / repeats for name, hits in inside.items()}
    print(shares)
    # with 40 repeats an interval of 93 % stays above 0.8 in all but a few cases of a thousand
    assert min(shares.values()) >= (0.8 if repeats < 1000 else 0.9), shares


def test_intervals_of_many_rows_are_scaled() -> None:
    """Above the rows that are resampled, an interval is as wide as that of all rows, and has its value inside."""
    rng = np.random.default_rng(3)
    predicted = rng.normal(size=200_000)
    actual = predicted + rng.normal(size=200_000)
    found = measure.of_errors(actual, predicted)
    low, high = found.intervals["rmse"]
    assert low < found.values["rmse"] < high
    width = 2 * 1.96 / np.sqrt(2 * 200_000)  # the standard error of a normal sample's deviation
    assert high - low == pytest.approx(width, rel=0.25)


# What it takes ------------------------------------------------------------------------------------------------------

LABELS: dict[str, Any] = {
    "int64": lambda y: y,
    "Int64": lambda y: y.astype("Int64"),
    "boolean": lambda y: y.astype("boolean"),
    "bool": lambda y: y.astype(bool),
    "str": lambda y: y.map({0: "no", 1: "yes"}).astype("str"),
    "arrow string": lambda y: y.map({0: "no", 1: "yes"}).astype(pd.ArrowDtype(pa.string())),
    "category": lambda y: y.map({0: "no", 1: "yes"}).astype("category"),
    "list": lambda y: y.tolist(),
    "index of its own": lambda y: y.set_axis([f"row {i}" for i in range(len(y))]),
}


@pytest.mark.parametrize("convert", LABELS.values(), ids=LABELS.keys())
def test_labels_of_every_type(convert: Any) -> None:
    """Truth may come in any dtype that a query gives, whatever dtype the model was fitted with."""
    train, df = rows(seed=1), rows()
    y = np.asarray(convert(train["alive"]))
    model = LogisticRegression().fit(train[["age"]], y.astype(object if y.dtype == object else y.dtype))
    found = vis.evaluate(model, df[["age"]], convert(df["alive"]))
    assert found.metrics["accuracy"] == pytest.approx(
        (model.predict(df[["age"]]) == np.asarray(convert(df["alive"]))).mean()
    )


@pytest.mark.parametrize(
    "dtype", ["Float64", "Int64", pd.ArrowDtype(pa.decimal128(20, 6)), pd.ArrowDtype(pa.float64())], ids=str
)
def test_numbers_of_every_type(dtype: Any) -> None:
    """A numeric truth may come as any number that a query gives."""
    df = rows()
    y = df["fare"].round()
    model = LinearRegression().fit(df[["age"]], y)
    typed = (
        pd.Series(pa.array(y).cast(dtype.pyarrow_dtype), dtype=dtype)
        if isinstance(dtype, pd.ArrowDtype)
        else y.astype(dtype)
    )
    assert vis.evaluate(model, df[["age"]], typed).metrics == vis.evaluate(model, df[["age"]], y).metrics


def test_a_search_is_called_by_its_best_estimator() -> None:
    """The name is that of the model inside of pipelines and searches."""
    df = rows()
    search = GridSearchCV(make_pipeline(LogisticRegression()), {"logisticregression__C": [1]}).fit(
        df[["age"]], df["alive"]
    )
    assert vis.evaluate(search, df[["age"]], df["alive"]).name == "LogisticRegression"
    assert vis.evaluate(search, df[["age"]], df["alive"], name="titanic v3").name == "titanic v3"


def test_one_row_and_one_class() -> None:
    """What a single row does not define is left out, the rest is honest about how little it says."""
    df = rows()
    model = LogisticRegression().fit(df[["age"]], df["alive"])
    dead = df[df["alive"] == 0].head(1)
    found = vis.evaluate(model, dead[["age"]], dead["alive"])
    assert {"roc_auc", "average_precision", "recall"}.isdisjoint(found.metrics)
    assert found.metrics["accuracy"] in (0, 1)
    low, high = found.intervals["accuracy"]
    assert high - low > 0.7
    assert "No row is 1" in found.text
    assert "Few rows" in found.text
    assert vis.Evaluation.from_json(found.to_json()) == found
    found.figure()


def test_one_row_of_numbers() -> None:
    """One row has an error, but neither an R² nor an interval."""
    df = rows()
    model = LinearRegression().fit(df[["age"]], df["fare"])
    found = vis.evaluate(model, df[["age"]].head(1), df["fare"].head(1))
    assert set(found.metrics) == {"rmse", "mae", "bias"}
    assert "mae" not in found.intervals
    assert vis.Evaluation.from_json(found.to_json()) == found
    found.figure()


def test_fifty_classes_with_long_names() -> None:
    """Many classes stay readable: the page adds the rare ones up, the matrix is stored whole."""
    rng = np.random.default_rng(4)
    names = np.array([f"a very long name of a class, which is number {i} of $50" for i in range(50)])
    y = rng.integers(0, 50, 1000)
    x = pd.DataFrame({"x": y + rng.normal(0, 1, 1000), "z": rng.normal(size=1000)})
    found = vis.evaluate(RandomForestClassifier(20, random_state=0).fit(x, names[y]), x, names[y])
    assert np.shape(found.curves["confusion"]["counts"]) == (50, 50)
    assert found.metrics["roc_auc_ovr"] > 0.9
    figure = found.figure()
    figure.canvas.draw()
    matrix = figure.axes[0]
    assert [label.get_text() for label in matrix.get_xticklabels()][-1] == "other (38)"


# Keeping and drawing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (LogisticRegression(max_iter=1000), "alive"),
        (LogisticRegression(max_iter=1000), "class"),
        (LinearRegression(), "fare"),
    ],
    ids=["binary", "multiclass", "regression"],
)
def test_what_is_stored_is_compact_and_complete(estimator: Any, target: str) -> None:
    """JSON gives back an equal evaluation of a few kilobytes, and the same page."""
    df = rows(20_000)
    found = vis.evaluate(fitted(estimator, target), df[FEATURES], df[target])
    text = found.to_json()
    again = vis.Evaluation.from_json(text)
    assert again == found
    assert len(text) < 25_000
    assert all(len(values) <= 400 for table in found.curves.values() for values in table.values())
    assert html.png(again.figure(), 40) == html.png(found.figure(), 40)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_stored_curves_are_those_of_all_rows() -> None:
    """ROC and precision-recall points that are kept lie on scikit-learn's curves."""
    df, model = rows(20_000), fitted(LogisticRegression(max_iter=1000), "alive")
    found = vis.evaluate(model, df[FEATURES], df["alive"])
    table = found.curve("thresholds")
    assert len(table) <= 200
    p = model.predict_proba(df[FEATURES])[:, 1]
    for at in table.itertuples():
        flagged = p >= at.threshold * (1 - 1e-5)
        assert at.true_positives + at.false_positives == pytest.approx(flagged.sum(), abs=3)
        assert at.true_positives == pytest.approx((flagged & (df["alive"] == 1)).sum(), abs=3)
    x, y = table["false_positives"] / (df["alive"] == 0).sum(), table["true_positives"] / df["alive"].sum()
    assert np.trapezoid([0, *y], [0, *x]) == pytest.approx(found.metrics["roc_auc"], abs=0.002)


def test_metrics_go_into_save_model(twin: Any) -> None:
    """The metrics are what `save_model` takes, and a loaded version can be evaluated on a frame with more columns."""
    from mlsys.models import load_model, save_model

    df, model = rows(), fitted(LogisticRegression(max_iter=1000), "alive")
    found = vis.evaluate(model, df[FEATURES], df["alive"])
    saved = save_model(model, "evaluated", df[FEATURES], metrics=found.metrics)
    loaded = load_model("evaluated", saved.ref.version)
    assert loaded.manifest.metrics == found.metrics
    again = vis.evaluate(loaded, df.sample(frac=1, axis=1, random_state=0), df["alive"])
    assert again.name == str(saved.ref)
    assert again.metrics == found.metrics
    assert again.curves == found.curves
    drawn = vis.plot_partial_dependence(loaded, df, "age").lines[0].get_xydata()
    assert drawn == pytest.approx(vis.plot_partial_dependence(model, df[FEATURES], "age").lines[0].get_xydata())
    assert len(vis.plot_permutation_importance(loaded, df, df["alive"]).patches) == len(FEATURES)
    assert vis.plot_feature_importance(loaded).get_xlabel() == "coefficient"


def test_page_in_a_notebook() -> None:
    """The rich display holds text, metrics and the page, escapes names and needs nothing from elsewhere."""
    found, *_ = binary(name="<b>v1</b>")
    page = found._repr_html_()
    assert "&lt;b&gt;v1&lt;/b&gt;" in page
    assert "<b>v1</b>" not in page
    assert "average_precision" in page
    assert "http" not in page
    assert str(found) == found.text


def test_the_text_warns() -> None:
    """The text says when a model is no better than the commonest class, biased, or too good to be true."""
    df = rows()
    guess = LogisticRegression(C=1e-9).fit(df[["age"]], df["alive"])
    assert "do not show that the model is better" in vis.evaluate(guess, df[["age"]], df["alive"]).text
    known = LogisticRegression().fit(df[["alive"]], df["alive"])
    assert "look for a column that knows the answer" in vis.evaluate(known, df[["alive"]], df["alive"]).text
    biased = LinearRegression().fit(df[["age"]], df["fare"] - 20)
    assert "too low, by 20 on average" in vis.evaluate(biased, df[["age"]], df["fare"]).text


def test_importances_are_the_models_own() -> None:
    """What the model knows of its features is kept; what has no importances has none."""
    df = rows()
    forest = RandomForestClassifier(10, random_state=0).fit(df[["age", "seats"]], df["alive"])
    table = vis.evaluate(forest, df[["age", "seats"]], df["alive"]).curve("importance")
    assert dict(zip(table["feature"], table["importance"], strict=True)) == pytest.approx(
        dict(zip(["age", "seats"], forest.feature_importances_, strict=True)), rel=1e-5
    )
    boosted = HistGradientBoostingRegressor(max_iter=5).fit(df[["age"]], df["fare"])
    assert "importance" not in vis.evaluate(boosted, df[["age"]], df["fare"]).curves


# Refusals -----------------------------------------------------------------------------------------------------------

DATA = rows(20)
CLASSIFIER = LogisticRegression().fit(DATA[["age"]], DATA["alive"])
REGRESSOR = LinearRegression().fit(DATA[["age"]], DATA["fare"])


class Odd:
    """A model that gives what it is told to."""

    def __init__(self, labels: Any, shares: Any = None) -> None:
        self.labels, self.shares = labels, shares

    def predict(self, X: Any) -> Any:  # noqa: N803
        return self.labels


X, Y = DATA[["age"]], DATA["alive"]
REFUSALS = {
    "NULL in y": (lambda: vis.evaluate(CLASSIFIER, X, Y.astype("Int64").mask(Y == 1)), "NULL in 20: leave those rows"),
    "no rows": (lambda: vis.evaluate(CLASSIFIER, X.head(0), Y.head(0)), "y has 0 rows"),
    "lengths": (lambda: vis.evaluate(CLASSIFIER, X, Y.head(5)), "got 20 predictions and 5 in y"),
    "other labels": (
        lambda: vis.evaluate(CLASSIFIER, X, Y.map({0: "no", 1: "yes"})),
        r"classes \(0, 1\), got 'no', 'yes'|'yes', 'no'",
    ),
    "a new label": (lambda: vis.evaluate(CLASSIFIER, X, Y.where(X["age"] < 40, 7)), "got 7 in"),
    "no such class": (
        lambda: vis.evaluate(CLASSIFIER, X, Y, positive=3),
        "positive=3 is no class: the model's are 0, 1",
    ),
    "no model": (lambda: vis.evaluate("model.joblib", X, Y), "with predict is needed, got str"),
    "text, no classes": (
        lambda: vis.evaluate(Odd(["a"] * 20), X, ["a"] * 20),
        "does not say its classes, .* pass task=",
    ),
    "no such task": (lambda: vis.evaluate(CLASSIFIER, X, Y, task="ranking"), "got 'ranking'"),
    "NaN predicted": (lambda: vis.evaluate(Odd([np.nan] * 20), X, DATA["fare"]), "a value for each row, got 20 NULL"),
    "infinite": (lambda: vis.evaluate(Odd([np.inf] * 20), X, DATA["fare"]), "must be finite, got 20 infinite"),
    "not JSON": (lambda: vis.Evaluation.from_json("[]"), r"got '\[\]': write it with to_json"),
    "incomplete": (
        lambda: vis.Evaluation.from_json('{"format": 1, "task": "binary"}'),
        "incomplete or changed: KeyError",
    ),
    "another format": (lambda: vis.Evaluation.from_json('{"format": 9}'), "format 1 can be read, got 9"),
    "no such curve": (lambda: vis.evaluate(REGRESSOR, X, DATA["fare"]).curve("roc"), "no curve 'roc': .* 'points'"),
}


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    """What was received and the way out, in one line."""
    with pytest.raises(PlotError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_evaluations_do_not_change() -> None:
    """An evaluation is a value: its fields cannot be set."""
    found, *_ = binary()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.rows = 1
