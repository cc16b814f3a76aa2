"""Scoring is arithmetic: each row of a batch comes out once, predicted as the estimator does, or with a reason."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from mlsys.errors import RejectedRowsError, SchemaError
from mlsys.manifest import Artifact, GoldenRows, Manifest
from mlsys.models.model import Model, describe
from mlsys.models.signature import infer_inputs
from mlsys.predict import Scored, score
from mlsys.predict.scoring import scored_schemas

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "x": RNG.normal(size=80),
        "y": RNG.normal(size=80),
        "kind": pd.Series(np.array(["a", "b", "c"])[RNG.integers(0, 3, 80)], dtype="str"),
    }
)
NUMBERS = FRAME[["x", "y"]]
BINARY = (FRAME["x"] + FRAME["y"] > 0).to_numpy()
THREE = np.array(["no", "maybe", "yes"])[np.digitize(FRAME["x"], [-0.5, 0.5])]


def model_of(estimator, frame, container="dataframe"):
    """Return a model as `save_model` describes it."""
    manifest = Manifest(
        model_name="m",
        model_version="v1",
        created=datetime.now(UTC),
        creator="somebody",
        artifacts=(Artifact(file="model.joblib", size=1, sha256="0" * 64),),
        signature=describe(estimator, infer_inputs(frame), container),
        training_rows=len(frame),
        python_version="3.12",
        packages={},
        golden_rows=GoldenRows(inputs={}, outputs={}),
    )
    return Model(manifest, estimator)


def batch(frame, **more):
    """Return rows with an id, in columns of BigQuery's types."""
    rows = pa.RecordBatch.from_pandas(frame, preserve_index=False)
    columns = {"id": pa.array(range(len(frame)), pa.int64()), **dict(zip(frame, rows.columns, strict=True)), **more}
    return pa.record_batch(columns)


def reasons(scored):
    return dict(zip(scored.rejects["id"].to_pylist(), scored.rejects["reason"].to_pylist(), strict=True))


class Picky(BaseEstimator):
    """A regressor that raises on what it does not like, and gives what it is told for the rest."""

    def __init__(self, dislikes=(), gives=None, error=ValueError):
        self.dislikes, self.gives, self.error = dislikes, gives or {}, error
        self.calls = 0

    def predict(self, frame):
        """Give x, or what is told for it."""
        self.calls += 1
        values = np.asarray(frame)[:, 0].tolist()
        if bad := [v for v in values if v in self.dislikes]:
            raise self.error(f"cannot do {bad[0]}")
        return np.array([self.gives.get(v, v) for v in values], dtype=float)


def picky(**given):
    return model_of(Picky(**given), pd.DataFrame({"x": [0.0]}))


def numbers(count):
    return batch(pd.DataFrame({"x": np.arange(float(count))}))


def test_rows_that_training_did_not_see_are_rejected_with_the_reason():
    """A NULL, a NaN, a level; of several faults of a row the first column's is told."""
    frame = FRAME.assign(kind=FRAME["kind"].astype("category"))
    model = model_of(Picky(), frame)
    rows = pa.record_batch(
        {
            "id": pa.array([10, 11, 12, 13, 14]),
            "kind": pa.array(["a", "z", None, "b", "z"]),
            "x": pa.array([1.0, 2.0, 3.0, float("nan"), None]),
            "y": pa.array([0.0] * 5),
        }
    )
    scored = score(model, rows, ["id"])
    assert scored.predictions.to_pydict() == {"id": [10], "prediction": [1.0]}
    assert reasons(scored) == {
        11: "kind is 'z', a level that training had not",
        12: "kind is NULL or NaN, training saw none",
        13: "x is NULL or NaN, training saw none",
        14: "x is NULL or NaN, training saw none",
    }


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        (pd.Series([1.0]), pa.array([1, 2**53 + 1]), "c is 9007199254740993, which training's float64 cannot hold"),
        (pd.Series([1], dtype="uint8"), pa.array([1, 256]), "c is 256, which training's uint8 cannot hold"),
        (pd.Series([1], dtype="Int16"), pa.array([1, -40000]), "c is -40000, which training's Int16 cannot hold"),
        (pd.Series([1.0], dtype="float32"), pa.array([1.0, 1e39]), "c is 1e+39, which training's float32 cannot hold"),
        (
            pd.Series(pd.to_datetime(["2024-01-01"])).astype("datetime64[ns]"),
            pa.array([datetime(2024, 1, 1), datetime(1, 1, 1)], pa.timestamp("us")),
            "c is '0001-01-01 00:00:00.000000', which training's datetime64[ns] cannot hold",
        ),
    ],
    ids=["float", "uint8", "Int16", "float32", "ns"],
)
def test_values_that_the_training_dtype_cannot_hold_are_rejected_alone(column, values, reason):
    """They used to wrap around, to be rounded or cut off; the other rows are scored."""
    model = model_of(Picky(), pd.DataFrame({"c": column}))
    scored = score(model, pa.record_batch({"id": pa.array([0, 1]), "c": values}), ["id"])
    assert reasons(scored) == {1: reason}
    assert scored.predictions["id"].to_pylist() == [0]


def test_unknown_level_of_an_encoded_column_costs_its_rows_only():
    """A dictionary keeps the level after the row is gone."""
    frame = pd.DataFrame({"kind": pd.Series(["a", "b"], dtype="category")})
    model = model_of(make_pipeline(OneHotEncoder(), LinearRegression()).fit(frame, [0.0, 1.0]), frame)
    rows = pa.record_batch({"id": [0, 1, 2], "kind": pa.array(["b", "z", "a"]).dictionary_encode()})
    scored = score(model, rows, ["id"])
    assert scored.predictions["id"].to_pylist() == [0, 2]
    assert reasons(scored) == {1: "kind is 'z', a level that training had not"}


def test_small_dictionary_indices_have_room_for_missing_values():
    """128 levels fill the range of int8, and NULL is one more."""
    names = [f"level {i}" for i in range(128)]
    frame = pd.DataFrame({"c": pd.Series([*names, None], dtype="category")})
    column = pa.DictionaryArray.from_arrays(pa.array([127, None, 0], pa.int8()), pa.array(names))
    got = {}

    class Keep(Picky):
        def predict(self, frame):
            got["c"] = frame["c"].tolist()
            return np.zeros(len(frame))

    score(model_of(Keep(), frame), pa.record_batch({"id": [0, 1, 2], "c": column}), ["id"])
    assert got["c"][0::2] == ["level 127", "level 0"]
    assert got["c"][1] != got["c"][1]


@pytest.mark.parametrize("bad", [(), (3.0,), (0.0, 7.0), (2.0, 3.0, 4.0), tuple(map(float, range(9)))])
def test_model_that_raises_on_some_rows_scores_the_others(bad):
    """In the order of the rows, however many and wherever they are."""
    scored = score(picky(dislikes=bad), numbers(9), ["id"])
    assert scored.predictions["id"].to_pylist() == [i for i in range(9) if i not in bad]
    assert scored.predictions["prediction"].to_pylist() == [float(i) for i in range(9) if i not in bad]
    assert reasons(scored) == {int(v): f"the model raises ValueError: cannot do {v}" for v in bad}


def test_tolerance_ends_the_search_for_bad_rows():
    """A model that raises on every row is not called 2 n times when no reject is tolerated."""
    model = picky(dislikes=set(map(float, range(4096))))
    with pytest.raises(RejectedRowsError, match=r"1 row cannot be scored, 0 tolerated; the first is id 0: the model"):
        score(model, numbers(4096), ["id"], max_rejects=0)
    assert model.estimator.calls < 20
    assert score(model, numbers(64), ["id"], max_rejects=64).rejects.num_rows == 64
    with pytest.raises(RejectedRowsError, match="64 rows cannot be scored, 63 tolerated"):
        score(model, numbers(64), ["id"], max_rejects=63)


def test_nan_and_infinite_predictions_are_rejected():
    """A number that is none would spread in whatever uses it."""
    model = picky(gives={1.0: np.nan, 2.0: np.inf, 4.0: -np.inf}, dislikes=(0.0,))
    scored = score(model, numbers(6), ["id"])
    assert scored.predictions.to_pydict() == {"id": [3, 5], "prediction": [3.0, 5.0]}
    assert reasons(scored) == {
        0: "the model raises ValueError: cannot do 0.0",
        1: "the model gives prediction nan",
        2: "the model gives prediction inf",
        4: "the model gives prediction -inf",
    }


class Answers(ClassifierMixin, BaseEstimator):
    """A classifier of texts that gives what it is told."""

    classes_ = np.array(["a", "b"])

    def __init__(self, labels=None, shares=None):
        self.labels, self.shares = labels, shares

    def predict(self, frame):
        """Give the labels."""
        return np.array([self.labels[int(v)] for v in frame["x"]], dtype=object)

    def predict_proba(self, frame):
        """Give the probabilities."""
        return np.array([self.shares[int(v)] for v in frame["x"]])


def test_label_or_probability_that_is_missing_is_rejected():
    """Also of a classifier."""
    model = model_of(Answers(["a", None, "b"], [[1, 0], [0, 1], [np.nan, np.nan]]), pd.DataFrame({"x": [0.0]}))
    scored = score(model, numbers(3), ["id"])
    assert scored.predictions.to_pydict() == {"id": [0], "prediction": ["a"], "prediction_probability": [0.0]}
    assert reasons(scored) == {
        1: "the model gives prediction None, prediction_probability 1.0",
        2: "the model gives prediction b, prediction_probability nan",
    }


def test_lack_of_memory_is_no_fault_of_a_row():
    """It passes through, as an interrupt does."""
    for error in (MemoryError, KeyboardInterrupt):
        with pytest.raises(error):
            score(picky(dislikes=(1.0,), error=error), numbers(4), ["id"])


def test_empty_batch_has_the_columns_of_a_full_one():
    """No rows is an answer, and a model is not asked."""
    model = model_of(LogisticRegression().fit(NUMBERS, THREE), NUMBERS)
    empty, full = (score(model, batch(NUMBERS.head(n)), ["id"]) for n in (0, 3))
    assert empty.predictions.schema == full.predictions.schema
    assert empty.rejects.schema == full.rejects.schema
    assert (empty.predictions.num_rows, empty.rejects.num_rows) == (0, 0)
    predictions, rejects = scored_schemas(model, batch(NUMBERS).schema, ["id"])
    assert (predictions.names, rejects.names) == (full.predictions.column_names, full.rejects.column_names)


def test_thousands_of_columns():
    """BigQuery allows ten thousand."""
    frame = pd.DataFrame(RNG.normal(size=(50, 2000)), columns=[f"c{i}" for i in range(2000)])
    estimator = LinearRegression().fit(frame, RNG.normal(size=50))
    scored = score(model_of(estimator, frame), batch(frame), ["id"])
    assert scored.predictions["prediction"].to_pylist() == estimator.predict(frame).tolist()


def test_names_of_any_script():
    """As BigQuery allows them, with spaces and signs."""
    names = {"x": "Größe in m²", "y": "年齢", "kind": "pays d'origine"}
    frame = FRAME.rename(columns=names)
    estimator = make_pipeline(
        make_column_transformer((OneHotEncoder(), [names["kind"]]), remainder="passthrough"), LogisticRegression()
    ).fit(frame, BINARY)
    rows = batch(frame).rename_columns(["№", *frame])
    scored = score(model_of(estimator, frame), rows, ["№"])
    assert scored.predictions.column_names == ["№", "prediction", "prediction_probability"]
    assert scored.predictions["prediction"].to_pylist() == estimator.predict(frame).tolist()
    missing = rows.set_column(2, rows.schema.field(2), pa.array([None, *rows.columns[2].to_pylist()[1:]]))
    assert list(score(model_of(estimator, frame), missing, ["№"]).rejects["reason"].to_pylist()) == [
        "年齢 is NULL or NaN, training saw none"
    ]


def test_ids_of_any_type_are_kept_beside_their_rows():
    """Nested ones, too, and in the order that was asked for."""
    nested = pa.array([{"a": [i, None], "b": {"t": str(i)}} for i in range(4)])
    odd = pa.array([None, [1], [], [2, 3]], pa.list_(pa.int64()))
    rows = batch(pd.DataFrame({"x": np.arange(4.0)}), s=nested, l=odd, j=pa.array(list("1234"), pa.json_(pa.string())))
    scored = score(picky(dislikes=(2.0,)), rows, ["l", "s", "j", "x"])
    assert scored.predictions.column_names == ["l", "s", "j", "x", "prediction"]
    assert scored.predictions["s"].to_pylist() == [nested[i].as_py() for i in (0, 1, 3)]
    assert scored.predictions["l"].to_pylist() == [None, [1], [2, 3]]
    assert scored.rejects.drop("j").to_pylist() == [
        {"l": [], "s": nested[2].as_py(), "x": 2.0, "reason": "the model raises ValueError: cannot do 2.0"}
    ]


def test_columns_are_found_by_name():
    """In any order, among others of any type; the first fault of the schema is no row's."""
    estimator = LinearRegression().fit(NUMBERS, FRAME["x"])
    model = model_of(estimator, NUMBERS)
    rows = batch(NUMBERS, extra=pa.array([[1]] * 80)).select(["extra", "y", "id", "x"])
    assert score(model, rows, ["id"]).predictions["prediction"].to_pylist() == estimator.predict(NUMBERS).tolist()
    with pytest.raises(SchemaError, match="x is missing"):
        score(model, rows.drop_columns("x"), ["id"])
    with pytest.raises(SchemaError, match="cannot take column 'x' of type ARRAY<INT64>: flatten it"):
        score(model, rows.drop_columns("x").rename_columns(["x", "y", "id"]), ["id"])


class Doubled(TransformerMixin, BaseEstimator):
    """A transformer without a state, as notebooks have them."""

    def fit(self, frame, labels=None):
        """Learn nothing."""
        return self

    def transform(self, frame):
        """Double it."""
        return np.asarray(frame) * 2.0


def encoded():
    return make_column_transformer((OneHotEncoder(), ["kind"]), (StandardScaler(), ["x", "y"]))


ESTIMATORS = {
    "pipeline": lambda: make_pipeline(encoded(), LogisticRegression()),
    "nested-pipeline": lambda: Pipeline([("inner", make_pipeline(encoded(), make_pipeline(StandardScaler()))),
                                         ("model", make_pipeline("passthrough", LogisticRegression()))]),
    "stateless-step": lambda: make_pipeline(encoded(), Doubled(), LogisticRegression()),
    "passthrough-steps": lambda: Pipeline([("a", "passthrough"), ("b", encoded()), ("c", None),
                                           ("d", LogisticRegression())]),
    "one-step": lambda: make_pipeline(make_pipeline(encoded(), LogisticRegression())),
    "lists": lambda: make_pipeline(encoded(), FunctionTransformer(np.ndarray.tolist), LogisticRegression()),
    "pandas-output": lambda: make_pipeline(
        make_column_transformer((OneHotEncoder(sparse_output=False), ["kind"]),
                                remainder="passthrough").set_output(transform="pandas"),
        RandomForestClassifier(5, random_state=0)),
    "union": lambda: make_pipeline(FeatureUnion([("a", encoded()), ("b", encoded())]), LogisticRegression()),
    "grid-search": lambda: GridSearchCV(make_pipeline(encoded(), LogisticRegression()),
                                        {"logisticregression__C": [0.1, 1.0]}, cv=2),
    "calibrated": lambda: CalibratedClassifierCV(make_pipeline(encoded(), LogisticRegression()), cv=2),
    "threshold": lambda: FixedThresholdClassifier(make_pipeline(encoded(), LogisticRegression()), threshold=0.9,
                                                  pos_label=1),
    "threshold-in-pipeline": lambda: make_pipeline(
        encoded(), FixedThresholdClassifier(LogisticRegression(), threshold=0.1, pos_label=1)),
    "svm-whose-labels-are-not-the-likeliest": lambda: make_pipeline(encoded(), SVC(probability=True, random_state=0)),
    "no-probabilities": lambda: make_pipeline(encoded(), RidgeClassifier()),
    "forest": lambda: make_pipeline(encoded(), RandomForestClassifier(7, random_state=0)),
    "trees": lambda: make_pipeline(encoded(), ExtraTreesClassifier(7, random_state=0)),
    "boosting": lambda: make_pipeline(encoded(), GradientBoostingClassifier(n_estimators=5)),
    "histogram": lambda: make_pipeline(encoded(), HistGradientBoostingClassifier(max_iter=5)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("classes", ["binary", "three"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_labels_are_those_of_predict(name, classes):
    """Whatever shortcut is taken: exactly, and probabilities too."""
    if "threshold" in name and classes == "three":
        pytest.skip("a threshold is for two classes")
    labels = BINARY.astype(int) if classes == "binary" else THREE
    estimator = ESTIMATORS[name]().fit(FRAME, labels)
    scored = score(model_of(estimator, FRAME), batch(FRAME), ["id"])
    assert scored.rejects.num_rows == 0
    assert scored.predictions["prediction"].to_pylist() == estimator.predict(FRAME).tolist()
    if hasattr(estimator, "predict_proba"):
        shares = estimator.predict_proba(FRAME)
        expected = shares[:, 1] if classes == "binary" else shares.max(axis=1)
        assert scored.predictions["prediction_probability"].to_pylist() == expected.tolist()
    else:
        assert scored.predictions.column_names == ["id", "prediction"]


@pytest.mark.parametrize(
    "labels",
    [BINARY, BINARY.astype("int8"), BINARY.astype(float), THREE, THREE.astype(object)],
    ids=["bool", "int8", "float", "text", "object"],
)
@pytest.mark.parametrize("estimator", [LogisticRegression(), RidgeClassifier(), GradientBoostingClassifier()])
@pytest.mark.parametrize("container", ["dataframe", "numpy"])
def test_classes_of_every_type(labels, estimator, container):
    """And models on arrays."""
    features = NUMBERS if container == "dataframe" else NUMBERS.to_numpy()
    estimator.fit(features, labels)
    predictions = score(model_of(estimator, NUMBERS, container), batch(NUMBERS), ["id"]).predictions
    assert predictions["prediction"].to_pylist() == estimator.predict(features).tolist()


def test_array_may_be_changed_in_place():
    """A model on arrays may do what it could with its own array."""
    estimator = make_pipeline(StandardScaler(copy=False), LinearRegression()).fit(NUMBERS[["x"]].to_numpy(), FRAME["y"])
    expected = estimator.predict(NUMBERS[["x"]].to_numpy(copy=True)).tolist()
    rows = batch(NUMBERS[["x"]])
    predictions = score(model_of(estimator, NUMBERS[["x"]], "numpy"), rows, ["id"]).predictions
    assert predictions["prediction"].to_pylist() == expected
    assert rows.column("x").to_pylist() == FRAME["x"].tolist()


def test_pipeline_without_a_model_is_refused():
    """Its last step passes rows through: there is nothing that predicts."""
    estimator = make_pipeline(StandardScaler(), "passthrough").fit(NUMBERS)
    with pytest.raises(SchemaError, match="a model needs a predict method, got a Pipeline"):
        model_of(estimator, NUMBERS)


def tied(name, classes):
    """Return a classifier and features of which many are exactly between classes."""
    features = pd.DataFrame({"x": np.tile([0.0, 1.0, 2.0], 24), "y": np.repeat([0.0, 1.0], 36)})
    labels = np.arange(72) // 3 % classes  # as many of each class for every x and y: nothing tells them apart
    if name == "logistic":
        estimator = LogisticRegression().fit(features, labels)
        estimator.coef_[:], estimator.intercept_[:] = 0.0, 0.0
    elif name == "forest":
        estimator = RandomForestClassifier(4, bootstrap=False, random_state=0).fit(features, labels)
    elif name == "trees":
        estimator = ExtraTreesClassifier(4, random_state=0).fit(features, labels)
    elif name == "boosting":
        estimator = GradientBoostingClassifier(n_estimators=3).fit(features, labels)
    else:
        estimator = HistGradientBoostingClassifier(max_iter=3).fit(features, labels)
    return estimator, features


@pytest.mark.parametrize("in_pipeline", [None, "array", "list", "sparse"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["logistic", "forest", "trees", "boosting", "histogram"])
def test_ties_are_broken_as_predict_does(name, classes, in_pipeline):
    """Exactly equal probabilities: the shortcut asks."""
    from scipy.sparse import csr_matrix

    estimator, features = tied(name, classes)
    if in_pipeline == "sparse" and name == "histogram":
        pytest.skip("it takes no sparse features")
    if in_pipeline:
        change = {"array": np.asarray, "list": lambda f: np.asarray(f).tolist(), "sparse": csr_matrix}[in_pipeline]
        del estimator.feature_names_in_
        estimator = make_pipeline(FunctionTransformer(change).fit(features), estimator)
    shares = estimator.predict_proba(features)
    best = np.sort(shares, axis=1)
    assert (best[:, -1] - best[:, -2] < 1e-9).sum() > 5
    predictions = score(model_of(estimator, features), batch(features), ["id"]).predictions
    assert predictions["prediction"].to_pylist() == estimator.predict(features).tolist()


def test_scoring_is_a_hook_for_batches_of_any_engine():
    """An iterator of batches in, one of tables out, as Spark's mapInArrow has it; nothing is kept between them."""
    estimator = make_pipeline(encoded(), LogisticRegression()).fit(FRAME, BINARY)
    model = model_of(estimator, FRAME)
    source = pa.Table.from_batches([batch(FRAME)]).combine_chunks()
    reader = pa.RecordBatchReader.from_batches(source.schema, source.to_batches(max_chunksize=7))
    scored = (score(model, rows, ["id"]).predictions for rows in reader)
    table = pa.concat_tables(scored)
    assert table["id"].to_pylist() == list(range(80))
    assert table["prediction"].to_pylist() == estimator.predict(FRAME).tolist()
    assert table.schema.names == [*scored_schemas(model, source.schema, ["id"])[0].names]
    assert isinstance(score(model, batch(FRAME), ["id"]), Scored)
