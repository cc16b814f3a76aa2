"""A model version is written once and verified before it is used."""

import json
import math
import threading
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from mlsys.errors import (
    AccessError,
    EnvironmentMismatchError,
    ModelRefError,
    NotFoundError,
    SchemaError,
    UntrustedError,
    VerificationError,
)
from mlsys.gcs import gcs_put
from mlsys.manifest import Artifact, parse_manifest, sha256
from mlsys.models import environment, load_manifest, load_model, save_model
from mlsys.models.model import same
from mlsys.models.signature import (
    from_json_columns,
    infer_inputs,
    to_bigquery_table,
    to_json_columns,
    to_training_frame,
)
from mlsys.names import ModelRef
from mlsys.registry.lookup import wait_for_version

pytestmark = pytest.mark.usefixtures("twin")

FRAME = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "kind": ["a", "b", "a", "b"]})


def classifier(labels=(0, 1, 0, 1)):
    return make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()).fit(FRAME, list(labels))


def rewrite(storage_client, settings, ref, file, change):
    """Replace an object of a version, as somebody with access to the bucket could."""
    blob = storage_client.bucket(settings.model_bucket()).blob(ref.blob_path(file))
    blob.upload_from_string(change(blob.download_as_bytes()))


def test_saved_model_loads_and_predicts_the_same(model_name):
    """The round trip: the estimator, its version, its signature."""
    saved = save_model(classifier(), model_name, FRAME, metrics={"accuracy": 0.5}, training_query="SELECT 1")
    loaded = load_model(model_name)
    assert loaded.ref == saved.ref == ModelRef(model_name, "v1")
    assert loaded.manifest == saved.manifest
    table = pa.Table.from_pandas(FRAME)
    assert loaded.predict(table).equals(saved.predict(table))
    assert loaded.predict(table)["prediction"].to_pylist() == list(classifier().predict(FRAME))
    loaded.check_golden_rows()


def test_manifest_says_where_a_version_came_from(model_name):
    """Everything that the design promises is in the manifest."""
    manifest = save_model(
        classifier(), model_name, FRAME, metrics={"accuracy": 0.5}, training_query="SELECT 1"
    ).manifest
    assert (manifest.training_rows, manifest.training_query, manifest.metrics) == (4, "SELECT 1", {"accuracy": 0.5})
    assert manifest.signature.task == "binary"
    assert [(f.name, f.type, f.nullable) for f in manifest.signature.inputs] == [
        ("x", "FLOAT64", False),
        ("kind", "STRING", False),
    ]
    assert {"scikit-learn", "pandas", "numpy"} <= manifest.packages.keys()
    assert manifest.profile["x"]["quantiles"]["0.5"] == 1.5
    assert manifest.profile["kind"]["levels"] == {"a": 2, "b": 2}
    assert "@" in manifest.creator
    assert load_manifest(model_name, "v1") == manifest


def test_versions_count_up_and_are_never_overwritten(model_name, storage_client, settings):
    """Each save is the next version; the ones before stay as they were."""
    assert save_model(classifier(), model_name, FRAME).ref.version == "v1"
    bucket = storage_client.bucket(settings.model_bucket())
    before = bucket.get_blob(f"{model_name}/v1/model.joblib").generation
    assert save_model(classifier(), model_name, FRAME).ref.version == "v2"
    assert bucket.get_blob(f"{model_name}/v1/model.joblib").generation == before
    assert load_model(model_name, "latest").ref.version == "v2"


def test_tenth_version_is_later_than_the_ninth(model_name):
    """Versions are numbers, not text."""
    for _ in range(10):
        save_model(classifier(), model_name, FRAME, wait=False)
    assert save_model(classifier(), model_name, FRAME).ref.version == "v11"
    assert load_manifest(model_name).ref.version == "v11"


def test_concurrent_savers_get_different_versions(model_name):
    """Whoever creates the file first has the version."""
    saved = []
    threads = [
        threading.Thread(
            target=lambda: saved.append(save_model(classifier(), model_name, FRAME, wait=False).ref.number)
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(saved) == [1, 2, 3, 4, 5, 6]


def test_half_written_version_is_not_there(model_name, storage_client, settings):
    """Without its manifest a version does not exist, but its number is taken."""
    storage_client.bucket(settings.model_bucket()).blob(f"{model_name}/v1/model.joblib").upload_from_string("half")
    with pytest.raises(NotFoundError, match=f"no model '{model_name}' in the registry of local"):
        load_model(model_name)
    assert save_model(classifier(), model_name, FRAME).ref.version == "v2"


def test_number_of_a_deleted_version_is_not_used_again(model_name, storage_client, settings):
    """The registry remembers the version, and keeps the manifest that it has."""
    for _ in range(2):
        ref = save_model(classifier(), model_name, FRAME).ref
    for blob in list(storage_client.list_blobs(settings.model_bucket(), prefix=ref.prefix)):
        blob.delete()
    assert save_model(classifier(), model_name, FRAME).ref.version == "v3"
    assert load_model(model_name).ref.version == "v3"


def test_registry_that_cannot_be_read_stops_a_save(model_name, twin, storage_client, settings):
    """Its numbers count, so saving without them could use one twice."""
    from mlsys.local.faults import Fault

    twin.faults.add(Fault("bigquery.*", "error", status=403, times=None))
    with pytest.raises(AccessError):
        save_model(classifier(), model_name, FRAME)
    assert not list(storage_client.list_blobs(settings.model_bucket(), prefix=f"{model_name}/"))


def test_lost_reply_does_not_cost_a_version(model_name, twin):
    """The upload worked, its answer did not arrive: the version is still ours."""
    from mlsys.local.faults import Fault

    twin.faults.add(Fault("storage.objects.insert", "reset_after", times=1))
    assert save_model(classifier(), model_name, FRAME).ref.version == "v1"


class Bomb:
    """Unpickling this is seen."""

    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, "exploded", True))


@pytest.mark.parametrize("position", [0, 0.3, 0.7, -1])
def test_flipped_bit_is_refused_before_unpickling(model_name, storage_client, settings, position):
    """Whichever byte of the model differs."""
    ref = save_model(classifier(), model_name, FRAME).ref

    def flip(data):
        at = int(position * len(data)) if position >= 0 else len(data) - 1
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    rewrite(storage_client, settings, ref, "model.joblib", flip)
    with pytest.raises(VerificationError, match=r"model\.joblib of .*/v1 is not what was saved"):
        load_model(model_name)


def test_swapped_file_is_refused_before_unpickling(model_name, storage_client, settings):
    """A file put in the model's place does not run."""
    import io

    import joblib

    ref = save_model(classifier(), model_name, FRAME).ref
    bomb = io.BytesIO()
    joblib.dump(Bomb(), bomb)
    rewrite(storage_client, settings, ref, "model.joblib", lambda _: bomb.getvalue())
    with pytest.raises(VerificationError, match=r"model\.joblib"):
        load_model(model_name)
    assert not Bomb.exploded
    joblib.load(io.BytesIO(bomb.getvalue()))
    assert Bomb.exploded  # the bomb works: it was the check that stopped it


def test_manifest_that_was_not_registered_is_refused(model_name, storage_client, settings):
    """A manifest that vouches for other bytes does not count: the registry's digest does."""
    ref = save_model(classifier(), model_name, FRAME).ref

    def forge(data):
        manifest = json.loads(data)
        manifest["artifacts"][0]["sha256"] = "0" * 64
        return json.dumps(manifest).encode()

    rewrite(storage_client, settings, ref, "manifest.json", forge)
    with pytest.raises(VerificationError, match=r"the manifest of .*/v1 is not the one that was registered"):
        load_model(model_name)


@pytest.fixture(scope="module")
def manifest():
    """The manifest of a model that was saved here."""
    return save_model(classifier(), f"model-{uuid.uuid4().hex[:12]}", FRAME, wait=False).manifest


def series(version, change):
    """Return a version whose major (0), minor (1) or patch number (2) is one higher."""
    parts = version.split(".")
    return ".".join([*parts[:change], str(int(parts[change]) + 1), *parts[change + 1 :]])


def test_environment_that_trained_a_model_may_run_it(manifest):
    """Also where only the patch version differs, except scikit-learn's."""
    environment.check(manifest)
    here = environment.python_version()
    packages = manifest.packages | {"pandas": series(manifest.packages["pandas"], 1)}
    environment.check(manifest.model_copy(update={"python_version": series(here, 2), "packages": packages}))


@pytest.mark.parametrize(
    ("package", "change", "refused"),
    [("scikit-learn", 2, True), ("scikit-learn", 1, True), ("pandas", 0, True), ("pandas", 1, False),
     ("numpy", 0, True), ("numpy", 2, False), ("scipy", 0, True), ("pyarrow", 0, True)],
)  # fmt: skip
def test_other_package_is_named_with_both_versions(manifest, package, change, refused):
    """scikit-learn must be the same, the others of the same major version."""
    here = manifest.packages[package]
    other = manifest.model_copy(update={"packages": manifest.packages | {package: series(here, change)}})
    if not refused:
        environment.check(other)
        return
    words = rf"^{manifest.ref} was trained with {package} {series(here, change)}, here {here}: install those versions"
    with pytest.raises(EnvironmentMismatchError, match=words):
        environment.check(other)


@pytest.mark.parametrize(
    ("here", "wanted", "refused"),
    [("0.4.1", "0.4.9", False), ("0.4.1", "0.5.1", True), ("0.4.1", "1.4.1", True), ("1.4.1", "0.4.1", True),
     ("10.0", "1.0", True), ("2.1.0rc1", "2.0.0", False)],
)  # fmt: skip
def test_before_the_first_major_version_minor_ones_count(here, wanted, refused):
    """A 0.5 may break what 0.4 promised."""
    assert environment._compatible("anything", wanted, here) is not refused


def test_every_difference_of_an_environment_is_in_one_message(manifest):
    """Python, another version, and what is not installed at all."""
    packages = {"scikit-learn": "0.24.2", "no-such-package": "1.2.3"}
    other = manifest.model_copy(update={"python_version": "3.8.10", "packages": manifest.packages | packages})
    here = manifest.packages["scikit-learn"]
    words = (
        rf"trained with Python 3\.8\.10, here {environment.python_version()}; scikit-learn 0\.24\.2, here {here};"
        r" no-such-package 1\.2\.3, here not installed: install"
    )
    with pytest.raises(EnvironmentMismatchError, match=words):
        environment.check(other)


class Touch:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("change", [{"python_version": "3.8.10"}, {"packages": {"scikit-learn": "0.24.2"}}])
def test_nothing_is_unpickled_in_another_environment(model_name, settings, tmp_path, manifest, change):
    """A version that is in order, and registered, but not for this environment."""
    seen, model_file = tmp_path / "seen", tmp_path / "model.joblib"
    joblib.dump(Touch(seen), model_file)
    data = model_file.read_bytes()
    artifact = Artifact(file="model.joblib", size=len(data), sha256=sha256(data))
    other = manifest.model_copy(update={"model_name": model_name, "artifacts": (artifact,), **change})
    gcs_put(data, settings.model_bucket(), other.ref.blob_path("model.joblib"))
    gcs_put(other.to_json(), settings.model_bucket(), other.ref.blob_path("manifest.json"))
    wait_for_version(other.ref, manifest_sha256=sha256(other.to_json()))
    with pytest.raises(EnvironmentMismatchError, match=f"{other.ref} was trained with"):
        load_model(model_name)
    assert not seen.exists()
    with pytest.raises(UntrustedError, match="not recorded when it was saved"):  # there is a second door
        load_model(model_name, check_environment=False)
    assert not seen.exists()
    joblib.load(model_file)
    assert seen.exists()  # the object does write: it was the checks that stopped it


@pytest.mark.parametrize("file", ["manifest.json", "model.joblib"])
def test_missing_file_is_named(model_name, storage_client, settings, file):
    """A registered version whose file is gone."""
    ref = save_model(classifier(), model_name, FRAME).ref
    storage_client.bucket(settings.model_bucket()).blob(ref.blob_path(file)).delete()
    with pytest.raises(NotFoundError, match=f"{file.partition('.')[0]}.* gone from gs://"):
        load_model(model_name)


def test_unknown_version_says_what_there_is(model_name):
    """The way out of a wrong version."""
    save_model(classifier(), model_name, FRAME)
    with pytest.raises(NotFoundError, match=rf"{model_name}/v9 is not in the registry of local; it has v1"):
        load_model(model_name, "v9")


def test_malformed_arguments_are_refused_before_the_network(model_name):
    """Names have a form."""
    with pytest.raises(ModelRefError, match="model_name must be"):
        save_model(classifier(), "Not A Name", FRAME)
    with pytest.raises(ModelRefError, match="model_version must be"):
        load_model(model_name, "1.0")


def test_manifest_of_another_version_is_refused(model_name):
    """A manifest copied into another folder."""
    data = save_model(classifier(), model_name, FRAME, wait=False).manifest.to_json()
    with pytest.raises(VerificationError, match=f"is that of {model_name}/v1"):
        parse_manifest(data, ModelRef(model_name, "v2"))
    with pytest.raises(VerificationError, match="cannot be read"):
        parse_manifest(b"{}", ModelRef(model_name, "v1"))


@pytest.mark.parametrize(
    ("estimator", "labels", "task", "columns"),
    [
        (LogisticRegression(), [0, 1, 0, 1], "binary", {"prediction": "int64", "prediction_probability": "double"}),
        (RandomForestClassifier(n_estimators=3), list("abca"), "multiclass",
         {"prediction": "string", "prediction_probability": "double"}),
        (RidgeClassifier(), [True, False, True, False], "binary", {"prediction": "bool"}),
        (HistGradientBoostingClassifier(max_iter=2), [0, 1, 2, 1], "multiclass",
         {"prediction": "int64", "prediction_probability": "double"}),
        (LinearRegression(), [0.5, 1.5, 2.5, 3.5], "regression", {"prediction": "double"}),
    ],
    ids=["logistic", "forest-text-classes", "no-probabilities", "boosting", "regression"],
)  # fmt: skip
@pytest.mark.parametrize("container", ["dataframe", "numpy"])
def test_kinds_of_models(model_name, estimator, labels, task, columns, container):
    """Classifiers of two and more classes, without probabilities, regressors; on frames and on arrays."""
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.1, 0.2, 0.4, 0.3]})
    features = frame if container == "dataframe" else frame.to_numpy()
    estimator.fit(features, labels)
    model = save_model(estimator, model_name, features, feature_names=["a", "b"], wait=False)
    outputs = model.predict(pa.Table.from_pandas(frame))
    assert model.manifest.signature.task == task
    assert {f.name: str(f.type) for f in outputs.schema} == columns
    assert outputs["prediction"].to_pylist() == estimator.predict(features).tolist()
    if "prediction_probability" in columns:
        shares = estimator.predict_proba(features)
        expected = shares[:, 1] if task == "binary" else shares.max(axis=1)
        assert outputs["prediction_probability"].to_pylist() == expected.tolist()


class Odd(BaseEstimator):
    """Its predict gives what it is told."""

    def __init__(self, answer=None):
        self.answer = answer

    def predict(self, features):
        """Give it."""
        return self.answer(features)


def too_many(features):
    """Give a label more than there are rows."""
    return np.zeros(len(features) + 1)


def one(features):
    """Give one number for all rows."""
    return 1.0


def text(features):
    """Give what no regressor gives."""
    return ["a"] * len(features)


def forgetful(features):
    """Give something else each time."""
    return np.random.default_rng().normal(size=len(features))


TWO = np.zeros((4, 2))
TWO_NAMED = pd.DataFrame(TWO, columns=["a", "b"])


@pytest.mark.parametrize(
    ("estimator", "error", "words"),
    [
        (LogisticRegression(), SchemaError, "must be fitted before"),
        (RandomForestClassifier(), SchemaError, "must be fitted before"),
        (LinearRegression().fit(TWO_NAMED, TWO), SchemaError, "predict must give 1 value"),
        (RandomForestClassifier(n_estimators=2).fit(TWO, TWO.astype(int)), SchemaError, "must have one output"),
        (Odd(too_many), SchemaError, "predict must give 1 value"),
        (Odd(one), SchemaError, "predict must give 1 value"),
        (Odd(text), SchemaError, "predict must give FLOAT64"),
        (Odd(forgetful), SchemaError, "gives another prediction on its training rows"),
        (DummyClassifier().fit(TWO, [Decimal(1), Decimal(2), Decimal(1), Decimal(2)]), SchemaError, "classes must be"),
        (DummyClassifier().fit(TWO, pd.to_datetime(["2024", "2025"] * 2)), SchemaError, "classes must be"),
    ],
)
def test_estimators_that_cannot_be_used_are_refused_before_a_version(
    model_name, storage_client, settings, estimator, error, words
):
    """One line that says why, and no half of a version in the bucket."""
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.0, 0.0, 1.0, 1.0]})
    with pytest.raises(error, match=words):
        save_model(estimator, model_name, frame)
    assert not list(storage_client.list_blobs(settings.model_bucket(), prefix=f"{model_name}/"))


@pytest.mark.parametrize("value", [None, "0.5", float("nan"), np.float32("inf"), 10**400, [1.0], 1j])
def test_metric_that_is_no_finite_number_is_named(model_name, storage_client, settings, value):
    """JSON and BigQuery would not take it."""
    with pytest.raises(SchemaError, match="metric 'accuracy' must be a finite number, got"):
        save_model(classifier(), model_name, FRAME, metrics={"r2": 1, "accuracy": value})
    assert not list(storage_client.list_blobs(settings.model_bucket(), prefix=f"{model_name}/"))


def test_metrics_of_numpy_are_numbers(model_name):
    """What scikit-learn's metrics return."""
    metrics = {"a": np.float64(0.5), "b": np.int64(3), "c": np.float32(0.25)}
    assert save_model(classifier(), model_name, FRAME, metrics=metrics).manifest.metrics == {
        "a": 0.5,
        "b": 3,
        "c": 0.25,
    }


@pytest.mark.parametrize("shape", [(0, 2), (4, 0), (4,)])
def test_features_need_rows_and_columns(model_name, shape):
    """Nothing could be checked without them."""
    with pytest.raises(SchemaError, match="X must be a DataFrame or an array of rows and columns, got a ndarray"):
        save_model(classifier(), model_name, np.zeros(shape))


@pytest.mark.parametrize(
    "labels",
    [np.array([True, False, True, False]), np.array(list("abab")), np.array([1.0, 2.0] * 2, dtype="float32"),
     np.array([1, 2, 1, 2], dtype="uint8"), pd.Series(list("abab"), dtype="str"), [2**40, 2**40 + 1] * 2],
    ids=["bool", "text", "float32", "uint8", "pandas", "large"],
)  # fmt: skip
def test_classes_of_numpy_come_back(model_name, labels):
    """The loaded model gives the labels that it was trained on."""
    features = np.arange(8.0).reshape(4, 2)
    save_model(DecisionTreeClassifier().fit(features, labels), model_name, features)
    model = load_model(model_name)
    model.check_golden_rows()
    table = pa.table({"x0": features[:, 0], "x1": features[:, 1]})
    assert model.predict(table)["prediction"].to_pylist() == list(labels)


class Counts(BaseEstimator):
    """A model that any column can be the input of: it tells where values are missing or infinite."""

    def predict(self, frame):
        """Give NaN, infinity or 1 for each row."""
        column = frame["c"]
        infinite = [isinstance(value, float) and math.isinf(value) for value in column.tolist()]
        return np.where(infinite, np.inf, np.where(column.isna().to_numpy(dtype=bool), np.nan, 1.0))


def _category(*levels):
    return pd.Series([*levels, None], dtype=pd.CategoricalDtype(list(levels)))


def test_a_package_that_is_installed_meanwhile_is_known(tmp_path, monkeypatch):
    """The list of what is installed is kept, as reading it takes long; but not once something is added to it."""
    monkeypatch.syspath_prepend(tmp_path)
    part = type("Part", (), {"__module__": "of_one_s_own.parts"})()
    assert "of-one-s-own" not in environment.packages(part)
    described = tmp_path / "of_one_s_own-1.2.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: of-one-s-own\nVersion: 1.2\n")
    (described / "top_level.txt").write_text("of_one_s_own\n")
    assert environment.packages(part)["of-one-s-own"] == "1.2"


MOMENT = datetime(2024, 2, 29, 12, 30, 0, 5)
COLUMNS = {
    "infinite": pd.Series([1.5, np.inf, -np.inf, 2.0]),
    "infinite-and-missing": pd.Series([1.5, np.inf, np.nan, 2.0]),
    "arrow-nan": pd.Series(pd.arrays.ArrowExtensionArray(pa.array([1.5, float("nan"), 2.0]))),
    "datetime-ns": pd.Series(pd.to_datetime(["2024-01-01 00:00:00.000001", None])).astype("datetime64[ns]"),
    "timestamp-ns-berlin": pd.Series(pd.to_datetime(["2024-01-01", None]).tz_localize("Europe/Berlin").as_unit("ns")),
    "float32": pd.Series([0.1, 0.2], dtype="float32"),
    "object-ints": pd.Series([2**53 + 1, None], dtype=object),
    "object-dates": pd.Series([date(2024, 1, 1), None], dtype=object),
    "object-decimals": pd.Series([Decimal("1.5"), Decimal(2)], dtype=object),
    "object-bools": pd.Series([True, None], dtype=object),
    "bytes": pd.Series([b"\xff", None], dtype=object),
    "time": pd.Series([time(1, 2, 3), time(4)], dtype=object),
    "date-category": _category(date(2024, 1, 1), date(1, 1, 1)),
    "datetime-category": _category(MOMENT),
    "datetime-ns-category": pd.Series(pd.to_datetime(["2024-01-01", None])).astype("datetime64[ns]").astype("category"),
    "timestamp-category": _category(MOMENT.replace(tzinfo=UTC)),
    "bool-category": _category(False, True),
    "int-category": _category(2**53 + 1, -1),
    "float-category": _category(0.1, float("inf")),
    "decimal-category": _category(Decimal("1.5"), Decimal(2)),
    "bytes-category": _category(b"\x00", b"a"),
    "text-category": _category("a", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_saved_columns_are_read_back_in_their_own_type(model_name, name):
    """Through JSON and the bucket: the golden rows reproduce, and categories have the type that training had."""
    frame = pd.DataFrame({"c": COLUMNS[name]})
    save_model(Counts(), model_name, frame)
    model = load_model(model_name)
    model.check_golden_rows()
    inputs = model.manifest.signature.inputs
    table = to_bigquery_table(frame, inputs)
    back = to_training_frame(table, inputs)["c"]
    assert str(back.dtype) == str(frame["c"].dtype)
    assert [v if v == v else None for v in back.tolist()] == [v if v == v else None for v in frame["c"].tolist()]
    assert [type(v) for v in back[back.notna()]] == [type(v) for v in frame["c"][frame["c"].notna()]]
    assert from_json_columns(json.loads(json.dumps(to_json_columns(table))), inputs).equals(table) or "nan" in name


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series([pd.Timestamp("2024-01-01 00:00:00.123456789")] * 2), "DATETIME cannot hold"),
        (pd.Series([1, 2**64 - 1], dtype="uint64"), "INT64 cannot hold"),
    ],
)
def test_values_that_bigquery_cannot_hold_are_refused_by_name(model_name, column, words):
    """They would come back rounded."""
    with pytest.raises(SchemaError, match=f"column 'c' has values that BigQuery's {words}"):
        save_model(Counts(), model_name, pd.DataFrame({"c": column}))


@pytest.mark.parametrize(
    ("was", "now", "equal"),
    [
        (1e12, 1e12 + 100, True),
        (1e12, 1e12 + 10_000, False),
        (0.0, 1e-10, True),
        (0.1, 0.1 + 1e-8, False),
        ("nan", "nan", True),
        ("inf", "-inf", False),
        ("nan", 1.0, False),
        (1.0, None, False),
        (10**12, 10**12 + 1, False),
        ("a", "a", True),
    ],
)
def test_golden_tolerance_is_relative(was, now, equal):
    """Floats up to a share of their size, NaN like NaN, the rest exactly."""
    assert same(was, now) is equal


MOMENTS = ("2024-01-01 00:00", None, "1969-12-31 23:59", "2024-02-29 12:00")
DTYPES = {
    "float": pd.Series([1.5, np.nan, -0.0, 2.0]),
    "int": pd.Series([1, 2, 3, 4]),
    "small-int": pd.Series([1, 2, 3, 4], dtype="int8"),
    "nullable-int": pd.Series([1, None, 3, 4], dtype="Int64"),
    "bool": pd.Series([True, False, True, True]),
    "nullable-bool": pd.Series([True, None, True, False], dtype="boolean"),
    "str": pd.Series(["a", None, "b", ""], dtype="str"),
    "object-none": pd.Series(["a", None, "b", ""], dtype=object),
    "object-nan": pd.Series(["a", np.nan, "b", ""], dtype=object),
    "string-na": pd.Series(["a", pd.NA, "b", ""], dtype="string"),
    "category": pd.Series(["lo", None, "hi", "lo"], dtype=pd.CategoricalDtype(["lo", "mid", "hi"], ordered=True)),
    "int-category": pd.Series([3, 1, 3, None], dtype=pd.CategoricalDtype([3, 1, 2])),
    "timestamp": pd.Series(pd.to_datetime([*MOMENTS], utc=True)).dt.as_unit("us"),
    "datetime": pd.Series(pd.to_datetime([*MOMENTS])).dt.as_unit("us"),
    "date": pd.Series([date(2024, 1, 1), None, date(1969, 12, 31), date(1, 1, 1)], dtype=pd.ArrowDtype(pa.date32())),
    "numeric": pd.Series([Decimal("1.5"), None, Decimal(2), Decimal(0)], dtype=pd.ArrowDtype(pa.decimal128(38, 9))),
}  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
def test_training_dtypes_come_back_exactly(name):
    """From pandas to Arrow, as BigQuery gives it, and back: same dtype, same values, same missing value."""
    column = DTYPES[name].rename("c")
    frame = column.to_frame()
    inputs = infer_inputs(frame)
    back = to_training_frame(pa.Table.from_pandas(frame, preserve_index=False), inputs)["c"]
    pd.testing.assert_series_equal(back, column)
    if column.dtype == object:
        assert [v is None for v in back] == [v is None for v in column]
    json_columns = json.loads(json.dumps(to_json_columns(pa.Table.from_pandas(frame, preserve_index=False))))
    pd.testing.assert_series_equal(to_training_frame(from_json_columns(json_columns, inputs), inputs)["c"], column)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([1, 2]), "c is INT64, training had STRING"),
        (pa.array(["a", None]), "c has 1 missing values, training saw none"),
    ],
)
def test_other_types_and_unseen_nulls_are_refused(column, words):
    """What would change predictions without a word."""
    inputs = infer_inputs(pd.DataFrame({"c": ["a", "b"]}))
    with pytest.raises(SchemaError, match=words):
        to_training_frame(pa.table({"c": column}), inputs)


def test_nan_where_training_saw_none_is_refused():
    """NaN is a missing value of a float column too."""
    inputs = infer_inputs(pd.DataFrame({"c": [1.0, 2.0]}))
    with pytest.raises(SchemaError, match="c has 2 missing values"):
        to_training_frame(pa.table({"c": [1.0, float("nan"), float("nan")]}), inputs)


def test_every_column_at_fault_is_named():
    """One message for all of it."""
    inputs = infer_inputs(FRAME.assign(extra=1))
    with pytest.raises(
        SchemaError, match=r"x is missing; extra is missing; kind is INT64, training had STRING .it has kind"
    ):
        to_training_frame(pa.table({"kind": [1]}), inputs)


def test_unknown_level_is_refused():
    """A category that training had not would become a missing value."""
    frame = pd.DataFrame({"c": pd.Series(["a", "b"], dtype="category")})
    with pytest.raises(SchemaError, match="c has levels that training had not: 'z'"):
        to_training_frame(pa.table({"c": ["a", "z"]}), infer_inputs(frame))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"c": [[1], [2]]}), "type ARRAY<INT64>: flatten it"),
        (pd.DataFrame({"c": [1, "a"]}), "column 'c' mixes types"),
        (pd.DataFrame({"c": [None, np.nan, "a"]}, dtype=object), "stands for missing values in two ways"),
        (pd.DataFrame([[1, 2]], columns=["c", "c"]), "distinct text names"),
        (pd.DataFrame([[1, 2]]), "distinct text names"),
    ],
)
def test_frames_that_cannot_be_described_are_refused(model_name, frame, words):
    """At save, not at the first run."""
    with pytest.raises(SchemaError, match=words):
        save_model(DummyRegressor().fit(np.zeros((len(frame), 1)), range(len(frame))), model_name, frame)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series([np.int64(1), None], dtype=object), r"holds int64 like np.int64\(1\), as .* INT64 it would be int:"),
        (pd.Series([1, 2.5], dtype=object), "holds int like 1, as BigQuery's FLOAT64 it would be float"),
        (pd.Series([pd.Timestamp("2024-01-01")], dtype=object), "holds Timestamp like .* it would be datetime"),
        (pd.Series([datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2)))], dtype=object), "gives times in UTC"),
        (pd.Series([time(1, tzinfo=UTC)], dtype=object), "gives times in UTC"),
        (pd.Series([bytearray(b"a")], dtype=object), "holds bytearray like"),
        (pd.Series([datetime(2024, 1, 1), pd.NaT], dtype=object), "stands for missing values with NaT: use None"),
        (pd.Series([Decimal(1), Decimal("nan")], dtype=object), r"missing values with Decimal\('NaN'\)"),
        (pd.Series([2**70], dtype=object), "mixes types, or has one that BigQuery lacks: .* too large"),
        (pd.Series(pd.arrays.ArrowExtensionArray(pa.array([1.0, float("nan"), None]))), r"two ways \(na, nan\)"),
        (pd.Series([Decimal("1.5")], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
         r"decimal128\(5, 2\).* could only be read as decimal128\(38, 9\).*: convert it to a plain dtype"),
        (pd.Series([1], dtype=object).astype(pd.CategoricalDtype(pd.Index([np.int64(1)], dtype=object))), "int64"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_built_again_are_refused(column, words):
    """The model would see other values or types at each run than in training."""
    with pytest.raises(SchemaError, match=f"column 'c' .*{words}"):
        infer_inputs(pd.DataFrame({"c": column}))


@pytest.mark.parametrize(
    "levels",
    [pd.Index(["a", "b"], dtype=object), pd.Index(["a", "b"], dtype="string"), pd.Index([1, 2], dtype="Int64"),
     pd.Index([1, 2], dtype="uint8"), pd.Index([0.5, 1], dtype="float32"), pd.Index([True, False], dtype="boolean")],
    ids=lambda levels: str(levels.dtype),
)  # fmt: skip
def test_levels_keep_their_dtype(levels):
    """Encoders see the levels, and 1 of Int64 is not treated as 1 of uint8."""
    frame = pd.DataFrame({"c": pd.Categorical.from_codes([1, 0, -1], dtype=pd.CategoricalDtype(levels, ordered=True))})
    inputs = infer_inputs(frame)
    back = to_training_frame(to_bigquery_table(frame, inputs), inputs)
    pd.testing.assert_frame_equal(back, frame)
    assert back["c"].dtype.categories.dtype == levels.dtype


def test_what_is_no_model_is_refused(model_name):
    """Anything without predict."""
    with pytest.raises(SchemaError, match="a model needs a predict method, got a dict"):
        save_model({}, model_name, FRAME)


def test_empty_batch_gives_empty_predictions(model_name):
    """scikit-learn refuses empty frames; a run over an empty table is no error."""
    model = save_model(classifier(), model_name, FRAME, wait=False)
    outputs = model.predict(pa.Table.from_pandas(FRAME).slice(0, 0))
    assert (outputs.num_rows, outputs.column_names) == (0, ["prediction", "prediction_probability"])


def test_golden_rows_catch_a_model_that_answers_otherwise(model_name):
    """The same manifest with another estimator."""
    from dataclasses import replace

    model = save_model(classifier(), model_name, FRAME, wait=False)
    with pytest.raises(VerificationError, match="golden row 0"):
        replace(model, estimator=classifier(labels=(1, 0, 1, 0))).check_golden_rows()


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.floats(allow_nan=False) | st.integers(-(2**53), 2**53), min_size=1, max_size=20))
def test_integers_may_stand_where_training_had_floats(values):
    """The one widening that loses nothing."""
    whole = [None if v is None else int(v) if abs(v) < 2**53 else 0 for v in values]
    inputs = infer_inputs(pd.DataFrame({"c": [1.0, np.nan]}))
    got = to_training_frame(pa.table({"c": pa.array(whole, pa.int64())}), inputs)["c"]
    assert got.dtype == "float64"
    assert [None if v != v else v for v in got] == whole


def test_times_are_utc(model_name):
    """The manifest's clock is UTC, and it is now."""
    created = save_model(classifier(), model_name, FRAME, wait=False).manifest.created
    assert abs((datetime.now(UTC) - created).total_seconds()) < 60
