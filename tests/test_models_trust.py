"""Nothing is unpickled that was not registered, and nothing runs that no model needs."""

import copyreg
import functools
import gzip
import importlib
import io
import json
import marshal
import operator
import os
import pickle
import posix
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from subprocess import check_output  # noqa: F401 - a name that a hostile pickle looks up here

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import typer
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.feature_selection._base import _get_feature_importances
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.metrics._dist_metrics import newObj
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, SplineTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils import Bunch
from sklearn.utils.parallel import Parallel

from mlsys import clients
from mlsys.errors import MlsysError, NotFoundError, SchemaError, SettingsError, UntrustedError, VerificationError
from mlsys.gcs import gcs_get_bytes, gcs_put
from mlsys.manifest import Artifact, sha256
from mlsys.models import load_model, load_unregistered_model, save_model, skops_files, verify_model, verify_models
from mlsys.models.unpickling import check_class, read_back, read_model
from mlsys.names import MANIFEST_FILE, MODEL_FILE, SKOPS_FILE, registry_table
from mlsys.registry import history
from mlsys.registry.lookup import wait_for_version
from mlsys.settings import Environment, get_settings

FRAME = pd.DataFrame({"x": np.linspace(0, 1, 12), "z": np.linspace(1, 0, 12) ** 2})
LABELS = [0, 1, 0] * 4


class Canary(ClassifierMixin, BaseEstimator):
    """A model that tells when it is unpickled."""

    unpickled = 0

    def fit(self, frame, labels):
        """Learn nothing."""
        self.classes_ = np.unique(labels)
        return self

    def predict(self, frame):
        """Give the first class to every row."""
        return np.repeat(self.classes_[:1], len(frame))

    def __setstate__(self, state):
        """Count."""
        Canary.unpickled += 1
        super().__setstate__(state)


def halved(frame):
    """A module's function, as a transformer may apply."""
    return frame / 2


# ---------------------------------------------------------------------------------------------------- tampering


def flipped(data, generator):
    """Return the bytes with one bit the other way round."""
    at = generator.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << generator.randrange(7)]) + data[at + 1 :]


@pytest.fixture(scope="module")
def canary(_session_twin):
    """A registered version that tells when it is unpickled."""
    model = save_model(Canary().fit(FRAME, LABELS), f"canary-{random.randrange(10**9)}", FRAME, metrics={"m": 0.5})
    Canary.unpickled = 0
    return model.ref


@pytest.mark.parametrize("file", ["model.joblib", "manifest.json"])
def test_flipped_bits_of_a_file_are_refused_before_unpickling(canary, file, storage_client, settings):
    """Whichever bit it is, and the message says which file and that it is not the one of then."""
    blob = storage_client.bucket(settings.model_bucket()).blob(canary.blob_path(file))
    original, generator, before = blob.download_as_bytes(), random.Random(4), Canary.unpickled
    try:
        for _ in range(40):
            blob.upload_from_string(flipped(original, generator))
            with pytest.raises(
                VerificationError, match=r"is not (what was saved|the one that was registered).*SHA-256"
            ):
                load_model(canary.name, canary.version)
    finally:
        blob.upload_from_string(original)
    assert Canary.unpickled == before
    load_model(canary.name, canary.version)
    assert Canary.unpickled == before + 1  # it does tell: it was the check that stopped it


READ_BY_LOADING = ("manifest_sha256", "gcs_uri", "model_version")
READ_BY_VERIFYING = ("creator", "description", "git_commit", "python_version", "task", "packages", "metrics")


@pytest.mark.parametrize("column", READ_BY_LOADING + READ_BY_VERIFYING)
def test_flipped_bits_of_the_registry_are_refused_before_unpickling(canary, column, bigquery_client, settings):
    """What loading trusts is refused at loading, the rest of the row by ``mlsys models verify``."""
    from google.cloud import bigquery

    table = registry_table(settings.gcp_project_id, "models").sql
    kind = "JSON" if column in ("packages", "metrics") else "STRING"

    def run(sql, **parameters):
        config = bigquery.QueryJobConfig(
            query_parameters=[bigquery.ScalarQueryParameter(k, "STRING", v) for k, v in parameters.items()]
        )
        return list(bigquery_client.query_and_wait(sql, job_config=config))

    ((original,),) = run(f"SELECT {column} FROM {table} WHERE model_name = @m AND environment = 'local'", m=canary.name)
    original = json.dumps(original) if kind == "JSON" else original
    value, before = "PARSE_JSON(@v)" if kind == "JSON" else "@v", Canary.unpickled
    put = f"UPDATE {table} SET {column} = {value} WHERE model_name = @m AND environment = 'local'"
    generator = random.Random(column)
    try:
        for _ in range(4):
            changed = {"description": "other", "packages": '{"numpy":"1.0"}', "metrics": '{"m":0.75}'}.get(
                column
            ) or flipped((original or "x").encode(), generator).decode(errors="replace")
            run(put, v=changed, m=canary.name)
            if column in READ_BY_LOADING:
                with pytest.raises(MlsysError, match=r"not the one that was registered|row was changed|got|registry"):
                    load_model(canary.name, canary.version)
            else:
                found = verify_model(canary.name, canary.version)
                assert found.failed == "registry row"
                assert f"{column} expected" in found.difference
                assert found.checks["loads"] == "not checked"
    finally:
        run(put, v=original, m=canary.name)
    assert Canary.unpickled == before
    assert verify_model(canary.name, canary.version).ok


@pytest.mark.parametrize("env", [Environment.DEV, Environment.STAGING, Environment.PROD])
def test_only_what_is_registered_is_loaded_anywhere(
    env, canary, settings, storage_client, bigquery_client, monkeypatch
):
    """Files that differ are refused, and whole ones too, when that environment's registry has no row of them."""
    twin = clients._twin(settings)
    monkeypatch.setattr(clients, "_twin", lambda _settings: twin)  # the seam: the cloud is played by the twin
    cloud = settings.model_copy(update={"mlsys_env": env})
    with pytest.raises(NotFoundError, match=f"no model '{canary.name}' in the registry of {env}"):
        load_model(canary.name, canary.version, settings=cloud)
    source, target = storage_client.bucket(settings.model_bucket()), storage_client.bucket(cloud.model_bucket())
    if not target.exists():
        target.create()
    files = {blob.name: blob.download_as_bytes() for blob in source.list_blobs(prefix=canary.prefix)}
    for name in sorted(files, reverse=True):  # the manifest last
        target.blob(name).upload_from_string(files[name])
    digest = sha256(files[canary.blob_path("manifest.json")])
    wait_for_version(canary, manifest_sha256=digest, settings=cloud)
    assert load_model(canary.name, canary.version, settings=cloud).ref == canary
    before, model_file = Canary.unpickled, target.blob(canary.blob_path("model.joblib"))
    model_file.upload_from_string(files[model_file.name][:-1] + b"x")
    with pytest.raises(VerificationError, match="is not what was saved"):
        load_model(canary.name, canary.version, settings=cloud)
    model_file.upload_from_string(files[model_file.name])
    table = registry_table(settings.gcp_project_id, "models").sql
    bigquery_client.query_and_wait(f"DELETE FROM {table} WHERE model_name = '{canary.name}' AND environment = '{env}'")
    with pytest.raises(NotFoundError, match=f"no model '{canary.name}' in the registry of {env}"):
        load_model(canary.name, canary.version, settings=cloud)
    assert Canary.unpickled == before


# ---------------------------------------------------------------------------------------------------- hostile pickles


class Everything(tuple):
    """The list of globals of somebody who lists all."""

    def __contains__(self, name):
        return True


class Call:
    """Pickled, this is a call; a call may stand for the function of another."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments

    def __call__(self):
        """Be callable, for the pickler."""


class Filled:
    """Pickled, this is a Bunch with items appended: it has an ``append`` where its items say so."""

    def __reduce__(self):
        return Bunch, (), None, iter([1, 2])


def dumped(obj, protocol=4):
    """Return what joblib writes."""
    file = io.BytesIO()
    joblib.dump(obj, file, protocol=protocol)
    return file.getvalue()


def text(value):
    """Return the opcode for a short text."""
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def named(module, name):
    """Return the opcodes that look up a global."""
    return text(module) + text(name) + pickle.STACK_GLOBAL


def written(*opcodes):
    """Return a pickle of protocol 4 made by hand."""
    return pickle.PROTO + b"\x04" + b"".join(opcodes) + pickle.STOP


def system_call(command):
    """Return opcodes for the arguments of a call with one text, and the call."""
    return text(command) + pickle.TUPLE1 + pickle.REDUCE


def object_array(obj):
    """Return an array of objects: joblib writes those as a pickle within the pickle."""
    array = np.empty(2, dtype=object)
    array[:] = [obj, None]
    return array


def hostile(command, folder):
    """Yield pickles by name, each of which runs ``command`` for whom it convinces."""
    system = Call(os.system, command)
    evil, evil_npy = folder / "evil.pkl", folder / "evil.npy"
    evil.write_bytes(pickle.dumps(system))
    np.save(evil_npy, object_array(system))
    load_os = Call(importlib.import_module, "os")
    python = f"__import__('os').system({command!r})"
    code = marshal.dumps(compile(python, "x", "eval"))
    yield "os.system", dumped(system)
    yield "posix.system", dumped(Call(posix.system, command))
    yield "subprocess.Popen", dumped(Call(subprocess.Popen, ["sh", "-c", command]))
    yield "subprocess.check_output", dumped(Call(subprocess.check_output, ["sh", "-c", command]))
    yield "eval", dumped(Call(eval, python))
    yield "exec", dumped(Call(exec, python))
    yield "import_module and getattr", dumped(Call(Call(getattr, load_os, "system"), command))
    yield "__import__ and getattr", dumped(Call(Call(getattr, Call(__import__, "os"), "system"), command))
    yield "partial", dumped(Call(functools.partial(os.system, command)))
    yield "methodcaller", dumped(Call(operator.methodcaller("system", command), load_os))
    yield "attrgetter", dumped(Call(Call(operator.attrgetter("system"), load_os), command))
    yield "numpy.load", dumped(Call(np.load, str(evil_npy), None, True))
    yield "joblib.load", dumped(Call(joblib.load, str(evil)))
    yield "pandas.read_pickle", dumped(Call(pd.read_pickle, str(evil)))
    yield "pickle.loads", dumped(Call(pickle.loads, pickle.dumps(system)))
    yield "joblib's cloudpickle", written(named("joblib.externals.loky.cloudpickle_wrapper", "loads"))
    yield "pandas.eval", dumped(Call(pd.eval, f"@pd.compat.os.system({command!r})"))
    yield "joblib.Parallel", dumped(Call(Call(Parallel, 1), [(os.system, (command,), {})]))
    yield (
        "code object",
        written(
            named("types", "FunctionType"),
            named("marshal", "loads"),
            pickle.BINBYTES,
            len(code).to_bytes(4, "little"),
            code,
            pickle.TUPLE1,
            pickle.REDUCE,
            pickle.EMPTY_DICT,
            pickle.TUPLE2,
            pickle.REDUCE,
            pickle.EMPTY_TUPLE,
            pickle.REDUCE,
        ),
    )
    yield (
        "scikit-learn's attrgetter",
        dumped(
            Call(Call(operator.getitem, Call(_get_feature_importances, LogisticRegression(), "fit.__globals__"), "np"))
        ),
    )
    yield "scipy.stats runs text", dumped(_distribution(python))
    yield "numpy.testing runs text", dumped(Call(np.testing._private.utils.runstring, python, {}))
    yield "numpy.memmap writes", dumped(Call(np.memmap, str(folder / "canary"), "u1", "w+", 0, (8,)))
    yield "in a list", dumped([1, LogisticRegression(), system])
    yield "in a pipeline", dumped(make_pipeline(StandardScaler(), SystemExitModel(system)))
    yield "in an array of objects", dumped(object_array(system))
    yield "in an array in an array", dumped(object_array(object_array(system)))
    for protocol in range(6):
        yield f"protocol {protocol}", dumped(system, protocol)
    for method in ("zlib", "gzip", "bz2", "xz", "lzma"):
        file = io.BytesIO()
        joblib.dump(system, file, compress=(method, 3))
        yield f"compressed by {method}", file.getvalue()
    yield "compressed twice", gzip.compress(gzip.compress(dumped(system)))
    yield "GLOBAL", written(b"cposix\nsystem\n", system_call(command))
    yield "INST", written(pickle.MARK, text(command), b"iposix\nsystem\n")
    yield "OBJ", written(pickle.MARK, named("posix", "system"), text(command), pickle.OBJ)
    yield "EXT1", written(pickle.EXT1, b"\xf0", system_call(command))
    yield "EXT4", written(pickle.EXT4, b"\xf0\0\0\0", system_call(command))
    yield "PERSID", written(b"Pposix.system\n", system_call(command))
    yield "BINPERSID", written(text("posix.system"), pickle.BINPERSID, system_call(command))
    yield "a module's import", written(named("sklearn.datasets._base", "os.system"), system_call(command))
    yield "another module's import", written(named("sklearn.utils._show_versions", "sys.modules"))
    yield "a trusted module's import", written(named(__name__, "os.system"), system_call(command))
    yield "a trusted module's function of another", written(named(__name__, "check_output"))
    yield "a method", written(named("numpy", "ndarray.tofile"))
    yield "a function that is applied, called", dumped(Call(np.mean, [1.0]))
    yield "an object's own call", dumped(Call(functools.partial(np.mean, [1.0])))
    own = text("__setstate__") + named("numpy", "mean") + pickle.SETITEM + pickle.BUILD  # into its __dict__
    yield (
        "an object's own __setstate__",
        written(
            named("sklearn.gaussian_process.kernels", "RBF"),
            pickle.EMPTY_TUPLE,
            pickle.NEWOBJ,
            pickle.EMPTY_DICT,
            own,
            pickle.EMPTY_DICT,
            pickle.BUILD,
        ),
    )
    yield "an object's own append", dumped(Filled())
    yield "an object's own __new__", dumped(Call(newObj, _with_own("__new__", np.mean)))
    yield "a generator's own constructor", dumped(Call(np.random._pickle.__randomstate_ctor, "x", np.mean))
    yield (
        "an array's own read",
        written(
            named("joblib.numpy_pickle", "NumpyArrayWrapper"),
            pickle.EMPTY_TUPLE,
            pickle.NEWOBJ,
            pickle.EMPTY_DICT,
            text("read"),
            named("numpy", "mean"),
            pickle.SETITEM,
            pickle.BUILD,
        ),
    )
    yield "a class changed", written(named("sklearn.svm._classes", "SVC"), pickle.EMPTY_DICT, pickle.BUILD)
    yield "joblib.Memory", dumped(joblib.Memory(str(folder / "cache"), verbose=0))


def _with_own(name, function):
    model = LogisticRegression()
    model.__dict__[name] = function
    return model


def _distribution(python):
    from scipy import stats

    distribution = stats.norm()
    distribution.dist._parse_arg_template = python
    return distribution.dist


class SystemExitModel(BaseEstimator):
    """A step of a pipeline that carries something."""

    def __init__(self, carried=None):
        self.carried = carried


@pytest.fixture(scope="module")
def pickles(tmp_path_factory):
    """Hostile pickles by name, and the folder whose file ``canary`` is there once one of them ran."""
    folder = tmp_path_factory.mktemp("hostile")
    return dict(hostile(f"touch {folder / 'canary'}", folder)), folder


@pytest.fixture
def extension():
    """Give os.system a number in the extension registry, as after any pickle with it was read."""
    copyreg.add_extension("posix", "system", 0xF0)
    copyreg._extension_cache[0xF0] = os.system
    yield
    copyreg.remove_extension("posix", "system", 0xF0)


@pytest.mark.usefixtures("extension")
def test_no_hostile_pickle_runs(pickles):
    """Not even when the manifest lists whatever it needs, and with this package trusted."""
    found, folder = pickles
    assert len(found) >= 55
    path = folder / "model.joblib"
    for name, data in found.items():
        path.write_bytes(data)
        with pytest.raises(UntrustedError) as refused:
            read_model(path, Everything(), ("tests",), of="model.joblib of m/v1")
        assert str(refused.value).startswith(("model.joblib of m/v1 ", "an array of the model")), name
        assert not (folder / "canary").exists(), name


LIVE = (
    "os.system", "partial", "numpy.load", "joblib.load", "pandas.read_pickle", "EXT1", "joblib.Parallel", "GLOBAL",
    "code object", "in an array of objects", "compressed by xz", "scipy.stats runs text", "protocol 0",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("name", LIVE)
def test_hostile_pickles_are_live(pickles, name, tmp_path):
    """Joblib's own reader runs them: it is ours that stops them."""
    found, folder = pickles
    path = tmp_path / "model.joblib"
    path.write_bytes(found[name])
    with suppress(KeyError):  # of SciPy, after it ran the text
        joblib.load(path)
    assert (folder / "canary").exists()
    (folder / "canary").unlink()


def test_registered_manifest_cannot_allow_what_no_model_needs(model_name, settings, canary, tmp_path):
    """Somebody who can write to the bucket gets a manifest registered that lists os.system."""
    command = f"touch {tmp_path / 'canary'}"
    data = dumped(Call(os.system, command))
    draft = load_model(canary.name, canary.version).manifest
    artifact = Artifact(file="model.joblib", size=len(data), sha256=sha256(data))
    update = {"model_name": model_name, "artifacts": (artifact,), "globals": ("posix:system",)}
    manifest = draft.model_copy(update=update)
    gcs_put(data, settings.model_bucket(), manifest.ref.blob_path("model.joblib"))
    gcs_put(manifest.to_json(), settings.model_bucket(), manifest.ref.blob_path("manifest.json"))
    wait_for_version(manifest.ref, manifest_sha256=sha256(manifest.to_json()))
    with pytest.raises(UntrustedError, match=f"joblib of {manifest.ref} needs posix:system, which no model may use$"):
        load_model(model_name)
    found = verify_model(model_name)
    assert (found.failed, found.ok, found.checks["golden rows"]) == ("loads", False, "not checked")
    assert not (tmp_path / "canary").exists()


def test_only_recorded_globals_are_used(tmp_path):
    """What the policy would allow, but the model did not need when it was saved."""
    path = tmp_path / "model.joblib"
    joblib.dump(LogisticRegression(), path)
    with pytest.raises(UntrustedError, match=r"LogisticRegression, which was not recorded when it was saved"):
        read_model(path, ("sklearn.svm._classes:SVC",), (), of="it")


def test_first_format_is_refused(canary, settings):
    """Its manifests can be read, but say nothing about what the pickle needs."""
    from mlsys.models.store import estimator_in

    manifest = load_model(canary.name, canary.version).manifest.model_copy(update={"format": 1, "globals": ()})
    with pytest.raises(UntrustedError, match=f"{canary} was saved by an mlsys that did not record .* save the model"):
        estimator_in(None, manifest, settings)


# ---------------------------------------------------------------------------------------------------- real models

MODELS = {
    "logistic": LogisticRegression(),
    "pipeline": make_pipeline(StandardScaler(), SplineTransformer(n_knots=3), SelectKBest(f_classif, k=2), SVC()),
    "histogram boosting": HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=1, early_stopping=True),
    "boosting": GradientBoostingClassifier(n_estimators=3),
    "forest": RandomForestClassifier(n_estimators=3, random_state=np.random.RandomState(0)),
    "svc": SVC(probability=False),
    "k-means": make_pipeline(KMeans(n_clusters=2, n_init=1), LogisticRegression()),
    "neighbours": KNeighborsClassifier(n_neighbors=2, algorithm="kd_tree"),
    "gaussian process": GaussianProcessClassifier(RBF() + WhiteKernel()),
    "stacking": StackingClassifier([("a", LogisticRegression()), ("b", SVC())], cv=2),
    "calibrated": CalibratedClassifierCV(SVC(), cv=2),
    "grid search": GridSearchCV(LogisticRegression(), {"C": [1, 2]}, cv=2, scoring="accuracy"),
    "function": make_pipeline(FunctionTransformer(halved), FunctionTransformer(np.log1p), LogisticRegression()),
    "partial": make_pipeline(FunctionTransformer(functools.partial(np.clip, a_min=0, a_max=1)), LogisticRegression()),
    "one-hot": make_pipeline(OneHotEncoder(handle_unknown="ignore"), SGDClassifier(loss="log_loss")),
    "neural network": MLPClassifier((3,), max_iter=5, random_state=0),
    "own class": Canary(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_real_models_load(name, tmp_path):
    """With exactly what was recorded, and they predict the same."""
    model, path = MODELS[name].fit(FRAME, LABELS), tmp_path / "model.joblib"
    joblib.dump(model, path)
    back, needed = read_back(path, ("tests",))
    assert list(needed) == sorted(set(needed))
    loaded = read_model(path, needed, ("tests",), of="it")
    assert loaded.predict(FRAME).tolist() == back.predict(FRAME).tolist() == model.predict(FRAME).tolist()


def test_arrays_of_objects_come_back(tmp_path):
    """They are pickles within the pickle."""
    path, array = tmp_path / "model.joblib", object_array(object_array("a"))
    joblib.dump({"c": array, "after": np.arange(3)}, path)
    loaded = read_back(path, ())[0]
    assert [loaded["c"][1], loaded["after"].tolist()] == [None, [0, 1, 2]]
    assert loaded["c"][0].tolist() == ["a", None]


def test_class_of_a_notebook_is_refused_at_save(model_name, monkeypatch, storage_client, settings):
    """Nobody else could load it; the message says what to do."""
    import __main__

    kind = type("Mine", (Canary,), {"__module__": "__main__"})
    monkeypatch.setattr(__main__, "Mine", kind, raising=False)
    with pytest.raises(UntrustedError, match=r"needs Mine, which is defined in a notebook .* move it to a module"):
        save_model(kind().fit(FRAME, LABELS), model_name, FRAME)
    assert not list(storage_client.list_blobs(settings.model_bucket(), prefix=f"{model_name}/"))


def test_class_of_an_unnamed_package_is_refused_at_save(model_name, settings):
    """With the setting that lets it through."""
    elsewhere = settings.model_copy(update={"mlsys_model_packages": ()})
    words = r"the model needs tests\.test_models_trust:Canary, .*if tests is yours, name it in MLSYS_MODEL_PACKAGES"
    with pytest.raises(UntrustedError, match=words):
        save_model(Canary().fit(FRAME, LABELS), model_name, FRAME, settings=elsewhere)
    python = settings.model_copy(update={"mlsys_model_packages": ("os",)})
    with pytest.raises(SettingsError, match="MLSYS_MODEL_PACKAGES must name your own packages, got 'os'"):
        save_model(Canary().fit(FRAME, LABELS), model_name, FRAME, settings=python)


# ---------------------------------------------------------------------------------------------------- verify, save


class Drifting(Canary):
    """A model that another environment makes answer otherwise."""

    here = 0.5

    def predict(self, frame):
        """Give what this process says."""
        return np.repeat(self.here, len(frame))

    def fit(self, frame, labels):
        """Be a regressor."""
        return self


def test_golden_rows_are_shown_side_by_side(model_name, monkeypatch, capsys):
    """By the library and by the command, which ends with 7."""
    from mlsys.cli import verify

    save_model(LogisticRegression().fit(FRAME, LABELS), model_name, FRAME)
    save_model(Drifting(), model_name, FRAME)
    assert [found.ok for found in verify_models(model_name)] == [True, True]
    monkeypatch.setattr(Drifting, "here", 0.5 + 1e-8)
    words = r"golden row 0: prediction expected 0\.5, found 0\.50000001; .*\(tolerance 1e-09\)"
    with pytest.raises(VerificationError, match=words):
        load_model(model_name).check_golden_rows()
    load_model(model_name).check_golden_rows(tolerance=1e-6)
    with pytest.raises(typer.Exit) as ended:
        verify(model_name, as_json=True)
    assert ended.value.exit_code == 7
    first, second = json.loads(capsys.readouterr().out)
    assert (first["model_version"], first["ok"], first["golden_rows"]) == ("v1", True, [])
    assert (second["ok"], second["checks"]["loads"], second["checks"]["golden rows"]) == (False, "ok", "failed")
    assert second["golden_rows"][0] == {"row": 0, "column": "prediction", "expected": 0.5, "found": 0.50000001}
    with pytest.raises(typer.Exit) as ended:
        verify(model_name)
    assert ended.value.exit_code == 7
    lines = capsys.readouterr().out.splitlines()
    assert any(f"{model_name}/v1" in line and "ok" in line for line in lines)
    assert any(line.split()[-4:] == ["0", "prediction", "0.5", "0.50000001"] for line in lines)


def test_twenty_savers_get_twenty_versions(model_name, storage_client, settings):
    """At once, each with a model of its own: whose version it is, it stays."""
    models = [LogisticRegression(C=1 + i).fit(FRAME, LABELS) for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        saved = list(pool.map(lambda model: save_model(model, model_name, FRAME), models))
    assert sorted(model.ref.number for model in saved) == list(range(1, 21))
    for model, mine in zip(saved, models, strict=True):
        assert load_model(model_name, model.ref.version).estimator.C == mine.C


# skops: the format that runs nothing


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(3),
    ],
    ids=["pipeline", "forest"],
)
def test_skops_models_are_saved_verified_and_loaded(model_name, estimator):
    """The same predictions, the same checks, another file."""
    frame = pd.DataFrame({"x": np.arange(40.0), "z": np.arange(40.0) % 7})
    saved = save_model(estimator.fit(frame, [0, 1] * 20), model_name, frame, format="skops")
    loaded = load_model(model_name)
    assert [artifact.file for artifact in saved.manifest.artifacts] == [SKOPS_FILE]
    assert "skops" in saved.manifest.packages
    table = pa.Table.from_pandas(frame)
    assert loaded.predict(table).equals(saved.predict(table))
    assert verify_model(model_name).ok


def test_skops_model_needs_what_both_lists_have(tmp_path):
    """A type that was not recorded, or that no model may use, is not even imported."""
    path = tmp_path / SKOPS_FILE
    skops_files.dump(RandomForestClassifier(3).fit([[0.0], [1.0]], [0, 1]), path)
    _, needed = skops_files.read_back(path, ())
    assert needed == ("sklearn.tree._tree:Tree",)
    with pytest.raises(UntrustedError, match=r"needs sklearn\.tree\._tree:Tree, which was not recorded"):
        skops_files.read_model(path, (), (), of="the model")
    skops_files.dump(make_pipeline(FunctionTransformer(os.system)), path)
    with pytest.raises(UntrustedError, match=r"needs (posix|os):system, which no model may use"):
        skops_files.read_back(path, ())


@pytest.mark.parametrize(
    "name",
    ["numpy.testing._private.utils:runstring", "numpy:load", "numpy:memmap", "os:system", "functools:partial",
     "sklearn.datasets._base:Path", "sklearn.utils._bunch:nothing", "sklearn.nope:Nope", "sklearn.utils:check_array",
     "sklearn.externals.array_api_compat:numpy", "tests.test_models_trust:os"],
)  # fmt: skip
def test_skops_files_use_classes_of_models_alone(name):
    """Skops calls what it trusts: no function, nothing that a module only imported, no part of Python."""
    with pytest.raises(UntrustedError, match="which no model may use"):
        check_class(name, ("tests", "os"), "the model")


def test_skops_model_that_needs_functions_is_refused_when_saved(model_name):
    """The way out is the other format, or another step."""
    steps = make_pipeline(FunctionTransformer(functools.partial(np.clip, a_min=0, a_max=1)), LogisticRegression())
    with pytest.raises(UntrustedError, match="no model may use"):
        save_model(steps.fit(FRAME, LABELS), model_name, FRAME, format="skops")


def test_file_that_is_no_skops_is_refused(tmp_path):
    """Neither a pickle in its clothes, nor a zip file of something else."""
    for data in (pickle.dumps(1), b"PK\x03\x04", b""):
        (tmp_path / SKOPS_FILE).write_bytes(data)
        with pytest.raises(VerificationError, match="is no file of skops"):
            skops_files.read_model(tmp_path / SKOPS_FILE, (), (), of="the model")


def test_format_is_one_of_two(model_name):
    """One line that names what was given."""
    with pytest.raises(SchemaError, match="format must be 'joblib' or 'skops', got 'onnx'"):
        save_model(LinearRegression().fit([[0.0]], [0]), model_name, np.zeros((1, 1)), format="onnx")


# The override


def test_override_loads_what_is_not_registered_in_dev_and_leaves_an_event(model_name):
    """A version that somebody put into the bucket by hand, and one that differs from its registration."""
    dev = get_settings().at(Environment.DEV)
    saved = save_model(LogisticRegression().fit(FRAME, LABELS), model_name, FRAME, settings=dev)
    other = LogisticRegression(C=0.1).fit(FRAME, LABELS)
    with io.BytesIO() as file:
        joblib.dump(other, file)
        gcs_put(file.getvalue(), dev.model_bucket(), saved.ref.blob_path(MODEL_FILE))
    with pytest.raises(VerificationError, match="is not what was saved"):
        load_model(model_name, "v1", settings=dev)
    loaded = load_unregistered_model(model_name, "v1", reason="looking into it", settings=dev)
    assert loaded.estimator.C == 0.1
    assert list(history(model_name, settings=dev)["event_type"]) == ["registered", "overridden"]
    manifest = saved.manifest.model_copy(update={"model_version": "v7"})
    for file, data in ((MODEL_FILE, gcs_get_bytes(dev.model_bucket(), saved.ref.blob_path(MODEL_FILE))),
                       (MANIFEST_FILE, b"[" + manifest.to_json() + b"]")):  # fmt: skip
        gcs_put(data, dev.model_bucket(), manifest.ref.blob_path(file))
    with pytest.raises(VerificationError, match="cannot be read"):
        load_unregistered_model(model_name, "v7", reason="r", settings=dev)


@pytest.mark.parametrize("env", ["local", "staging", "prod"])
def test_override_is_for_dev_alone(model_name, env):
    """Neither where it counts, nor where it teaches bad habits."""
    settings = get_settings().at(Environment(env))
    with pytest.raises(UntrustedError, match=f"only in dev, got {env}: register it"):
        load_unregistered_model(model_name, "v1", reason="r", settings=settings)


def test_override_does_not_run_what_no_model_may(model_name):
    """Whatever the folder holds, the policy stays."""
    dev = get_settings().at(Environment.DEV)
    saved = save_model(LogisticRegression().fit(FRAME, LABELS), model_name, FRAME, settings=dev)
    gcs_put(Evil(), dev.model_bucket(), saved.ref.blob_path(MODEL_FILE))
    with pytest.raises(UntrustedError, match="which no model may use"):
        load_unregistered_model(model_name, "v1", reason="r", settings=dev)


class Evil:
    """A pickle that would run a command."""

    def __reduce__(self):
        return os.system, ("exit 1",)
