"""A version is promoted as it is, once, and only when it is proven. The twin has the buckets of all environments.

The kills at full size::

    MLSYS_PROMOTION_KILLS=50 uv run pytest tests/test_models_promotion.py -s -n 0 -k killed --timeout 3600
"""

import json
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from mlsys.errors import (
    AlreadyExistsError,
    ConflictError,
    EnvironmentMismatchError,
    GateError,
    NotFoundError,
    SchemaError,
    SettingsError,
    VerificationError,
)
from mlsys.gcs import gcs_get_bytes, gcs_list, gcs_put, gcs_stat
from mlsys.local.faults import Fault
from mlsys.manifest import sha256
from mlsys.models import load_model, promote, promotion, save_model, verify_model
from mlsys.models.gates import Gates, judge, read_gates
from mlsys.models.holdout import measure
from mlsys.names import HOLDOUT_FILE, MANIFEST_FILE, MODEL_FILE, ModelRef
from mlsys.registry import history, list_versions, reinstate, retire, set_alias
from mlsys.settings import Environment, get_settings

pytestmark = pytest.mark.usefixtures("twin")

RNG = np.random.default_rng(7)
X = pd.DataFrame({"x": RNG.normal(size=60), "z": RNG.normal(size=60)})
Y = (X["x"] + 0.3 * RNG.normal(size=60) > 0).astype("int64")
TRAIN, TEST = slice(0, 40), slice(40, 60)


def good():
    return LogisticRegression().fit(X[TRAIN], Y[TRAIN])


def poor():
    return DummyClassifier(strategy="prior").fit(X[TRAIN], Y[TRAIN])


def save(model_name, estimator, env="dev", **options):
    """Save a model in an environment on the twin; return its version."""
    return save_model(estimator, model_name, X[TRAIN], settings=at(env), **options).ref


def at(env):
    return get_settings().at(Environment(env))


def events(model_name, env):
    """The types of what happened to a model in an environment, but for registrations."""
    frame = history(model_name, settings=at(env))
    return [kind for kind in frame["event_type"] if kind != "registered"]


def refusals(model_name, env):
    from mlsys.registry.events import find_events

    return list(find_events("refused", ModelRef(model_name, "v1"), settings=at(env))["reason"])


def digests(model_name, env):
    """The SHA-256 of each file of a model in an environment."""
    bucket = at(env).model_bucket()
    return {path: sha256(gcs_get_bytes(bucket, path)) for path in gcs_list(bucket, f"{model_name}/")}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of a project of one's own; the function writes the gates of a model into its pyproject.toml."""
    monkeypatch.chdir(tmp_path)
    get_settings()  # cached: the data folder stays that of the session

    def gates(model_name, text):
        (tmp_path / "pyproject.toml").write_text(f"[tool.mlsys.gates.{model_name}]\n{text}\n")

    gates("another", "minimum = { accuracy = 2 }")
    return gates


def test_promoted_version_is_the_same_bytes_and_says_where_it_came_from(model_name):
    """Files, digests, row, event, and a model that works there; the environment before keeps its own."""
    ref = save(model_name, good(), holdout=(X[TEST], Y[TEST]), description="d", training_query="SELECT 1")
    done = promote(model_name, "latest", "staging", reason="ready", actor="anna")
    assert (done.source, done.target, done.ref) == ("dev", "staging", ref)
    for file in (MANIFEST_FILE, MODEL_FILE, HOLDOUT_FILE):
        paths = [at(env).model_bucket() for env in ("dev", "staging")]
        before, after = (gcs_get_bytes(bucket, ref.blob_path(file)) for bucket in paths)
        assert sha256(before) == sha256(after)
        assert gcs_stat(paths[1], ref.blob_path(file)).metadata["uploader"] == "anna"
    (row,) = list_versions(model_name, settings=at("staging")).to_dict("records")
    assert (row["promoted_from"], row["uploader"], row["description"]) == ("dev", "anna", "d")
    (event,) = history(model_name, settings=at("staging")).query("event_type == 'promoted'").to_dict("records")
    details = json.loads(event["details"])
    assert (event["actor"], event["reason"], event["event_timestamp"]) == ("anna", "ready", done.promoted)
    assert (details["from"], details["manifest_sha256"], details["waived"]) == ("dev", done.manifest_sha256, False)
    assert verify_model(model_name, settings=at("staging")).ok
    assert events(model_name, "dev") == []


def test_chain_leads_to_production_step_by_step(model_name):
    """Each environment takes from the one before it, and from no other."""
    save(model_name, good(), "local")
    with pytest.raises(NotFoundError, match="in the registry of staging"):
        promote(model_name, "v1", "prod", reason="r")
    for env in ("dev", "staging", "prod"):
        promote(model_name, "v1", env, reason="r")
    rows = [list_versions(model_name, settings=at(env)).iloc[0] for env in ("local", "dev", "staging", "prod")]
    assert [None if pd.isna(row["promoted_from"]) else row["promoted_from"] for row in rows] == [
        None, "local", "dev", "staging",
    ]  # fmt: skip


def test_second_promotion_does_nothing(model_name):
    """Neither a byte nor an event more; whoever asks is told when it was."""
    save(model_name, good())
    first = promote(model_name, "v1", "staging", reason="r")
    bucket, path = at("staging").model_bucket(), ModelRef(model_name, "v1").blob_path(MODEL_FILE)
    generation = gcs_stat(bucket, path).generation
    again = promote(model_name, "v1", "staging", reason="again", approve=lambda promotion: pytest.fail("asked again"))
    assert again.promoted == first.promoted
    assert gcs_stat(bucket, path).generation == generation
    assert events(model_name, "staging") == ["promoted"]


def test_other_bytes_under_the_same_version_are_refused(model_name):
    """Somebody saved a v1 in staging: dev's v1 does not replace it, and the refusal is on record."""
    save(model_name, good())
    save(model_name, poor(), "staging")
    with pytest.raises(AlreadyExistsError, match=r"staging has another .*/v1 .*nothing was copied"):
        promote(model_name, "v1", "staging", reason="r")
    assert load_model(model_name, settings=at("staging")).estimator.__class__ is DummyClassifier
    assert events(model_name, "staging") == ["refused"]


def test_half_a_version_of_somebody_else_is_in_the_way(model_name):
    """A saver in staging claimed v1 and died: its file is not overwritten."""
    save(model_name, good())
    path = ModelRef(model_name, "v1").blob_path(MODEL_FILE)
    gcs_put(b"other", at("staging").model_bucket(), path)
    with pytest.raises(AlreadyExistsError, match="is there with other bytes"):
        promote(model_name, "v1", "staging", reason="r")
    assert gcs_get_bytes(at("staging").model_bucket(), path) == b"other"
    assert list_versions(model_name, settings=at("staging")).empty


@pytest.mark.parametrize("file", [MODEL_FILE, HOLDOUT_FILE, MANIFEST_FILE])
def test_tampered_version_is_refused_before_anything_is_copied(model_name, file):
    """A flipped bit in any file: what differs is said and recorded, and the target stays empty."""
    ref = save(model_name, good(), holdout=(X[TEST], Y[TEST]))
    bucket, path = at("dev").model_bucket(), ref.blob_path(file)
    data = bytearray(gcs_get_bytes(bucket, path))
    data[len(data) // 2] ^= 1
    gcs_put(bytes(data), bucket, path)
    with pytest.raises(VerificationError, match=f"{'manifest' if file == MANIFEST_FILE else file} of .*SHA-256"):
        promote(model_name, "v1", "staging", reason="r")
    assert gcs_list(at("staging").model_bucket(), ref.prefix) == []
    assert "SHA-256" in refusals(model_name, "staging")[0]


def test_copy_that_arrives_damaged_is_never_completed(model_name, twin):
    """The copy is read back before the manifest follows it."""
    ref = save(model_name, good())
    twin.faults.add(Fault("storage.objects.get_media", "corrupt", skip=3, times=None))
    with pytest.raises(VerificationError, match="arrived with other bytes"):
        promote(model_name, "v1", "staging", reason="r")
    assert MANIFEST_FILE not in "".join(gcs_list(at("staging").model_bucket(), ref.prefix))
    twin.faults.clear()
    promote(model_name, "v1", "staging", reason="r")
    assert events(model_name, "staging") == ["promoted"]


def test_model_of_another_environment_is_refused(model_name, monkeypatch):
    """scikit-learn would warn: the packages here are not those that trained it."""
    save(model_name, good())
    monkeypatch.setattr("mlsys.models.environment.python_version", lambda: "3.13.0")
    with pytest.raises(EnvironmentMismatchError, match=r"was trained with Python 3\.12"):
        promote(model_name, "v1", "staging", reason="r")
    assert events(model_name, "staging") == ["refused"]


def test_retired_version_is_not_promoted_until_it_is_reinstated(model_name):
    """Retirement is an environment's own."""
    save(model_name, good())
    retire(model_name, "v1", reason="wrong rows", settings=at("dev"))
    with pytest.raises(ConflictError, match="is retired in dev: `mlsys models reinstate`"):
        promote(model_name, "v1", "staging", reason="r")
    reinstate(model_name, "v1", reason="right rows", settings=at("dev"))
    promote(model_name, "v1", "staging", reason="r")


@pytest.mark.parametrize(
    ("to", "message"),
    [("local", "promoted to dev, staging or prod, got 'local'"), ("production", "got 'production'")],
    ids=["backwards", "no environment"],
)
def test_target_must_be_an_environment_that_has_one_before_it(model_name, to, message):
    """One line that names what was given."""
    with pytest.raises(SettingsError, match=message):
        promote(model_name, "v1", to, reason="r")


def test_manifest_that_is_swapped_in_the_meantime_is_not_copied(model_name, monkeypatch):
    """Between the check and the copy: what is copied is the very generation that was checked."""
    ref = save(model_name, good())
    swapped = json.loads(gcs_get_bytes(at("dev").model_bucket(), ref.blob_path(MANIFEST_FILE))) | {"description": "x"}
    real = promotion._promoted

    def swap(*arguments):
        gcs_put(json.dumps(swapped).encode(), at("dev").model_bucket(), ref.blob_path(MANIFEST_FILE))
        return real(*arguments)

    monkeypatch.setattr(promotion, "_promoted", swap)
    with pytest.raises(VerificationError, match="SHA-256"):
        promote(model_name, "v1", "staging", reason="r")
    assert gcs_list(at("staging").model_bucket(), ref.prefix) == []


def test_interrupted_promotion_of_a_champion_can_be_finished(model_name, project, monkeypatch):
    """Copied and already champion there, but not on record yet: it is not asked to beat itself."""
    project(model_name, 'beats_champion = "accuracy"')
    save(model_name, good(), holdout=(X[TEST], Y[TEST]))
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(model_name, "v1", "staging", reason="r")
    set_alias(model_name, "champion", "v1", reason="r", settings=at("staging"))
    promote(model_name, "v1", "staging", reason="r")
    assert events(model_name, "staging")[-1] == "promoted"


def test_copied_version_without_a_record_goes_no_further(model_name, monkeypatch):
    """Staging has it, but the promotion there was cut off before anybody said that it was proven."""
    save(model_name, good())
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(model_name, "v1", "staging", reason="r")
    with pytest.raises(ConflictError, match=r"came to staging from dev, but no promotion is on record: finish it by"):
        promote(model_name, "v1", "prod", reason="r")
    promote(model_name, "v1", "staging", reason="r")
    promote(model_name, "v1", "prod", reason="r")


def test_gates_are_looked_for_in_the_project(tmp_path, monkeypatch):
    """From a folder below it too; outside of one, nothing is promoted ungated."""
    (tmp_path / "pyproject.toml").write_text("[tool.mlsys.gates.m]\nminimum = { accuracy = 0.5 }")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".env").touch()
    monkeypatch.chdir(tmp_path / "below")
    assert read_gates("m").minimum == {"accuracy": 0.5}
    monkeypatch.chdir("/")
    with pytest.raises(SettingsError, match=r"no pyproject\.toml in /"):
        read_gates("m")


def test_retirements_at_once_are_one(model_name):
    """One event, whoever was the first, and however late the others look."""
    save(model_name, good(), "local")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: retire(model_name, "v1", reason="r"), range(12)))
        assert events(model_name, "local") == ["retired"]
        list(pool.map(lambda _: reinstate(model_name, "v1", reason="r"), range(12)))
    assert events(model_name, "local") == ["retired", "reinstated"]


def test_held_out_file_that_is_none_is_refused_in_one_line(model_name, tmp_path):
    """Garbage, and a table without the truth."""
    model = save_model(good(), model_name, X[TRAIN])
    (tmp_path / "garbage").write_bytes(b"garbage")
    X.to_parquet(tmp_path / "no_truth")
    for name in ("garbage", "no_truth"):
        with pytest.raises(VerificationError, match="holds no held-out rows"):
            measure(model, tmp_path / name)


def test_twin_and_cloud_are_not_mixed(model_name, settings):
    """What is on the laptop cannot be copied inside Google Cloud."""
    cloud = settings.model_copy(update={"mlsys_env": Environment.DEV})
    with pytest.raises(SettingsError, match="from local, which is the offline twin, got MLSYS_ENV dev"):
        promote(model_name, "v1", "dev", reason="r", settings=cloud)


# Gates


MEASURES = {"accuracy": 0.8, "log_loss": 0.4}


@pytest.mark.parametrize(
    ("gates", "measured", "champion", "passed", "found"),
    [
        ({"minimum": {"accuracy": 0.8}}, {}, "", True, "0.8, as its author recorded"),
        ({"minimum": {"accuracy": 0.81}}, {}, "", False, "0.8, as"),
        ({"minimum": {"accuracy": 0.75}}, {"accuracy": 0.7}, "", False, "0.7, measured on its held-out rows"),
        ({"minimum": {"accuracy": 0.75}}, {"f1": 0.7}, "", False, "accuracy cannot be measured on its held-out rows"),
        ({"maximum": {"log_loss": 0.4}}, {}, "", True, "0.4"),
        ({"maximum": {"log_loss": 0.39}}, {}, "", False, "0.4"),
        ({"minimum": {"lift": 0.1}}, {"r2": 1.0}, "", False, "lift was not recorded.*it has accuracy, log_loss, r2"),
        ({"beats_champion": "accuracy"}, {"accuracy": 0.8}, {"accuracy": 0.7}, True, "0.8, the champion has 0.7"),
        ({"beats_champion": "accuracy"}, {"accuracy": 0.8}, {"accuracy": 0.8}, False, "the champion has 0.8"),
        ({"beats_champion": "log_loss"}, {"log_loss": 0.3}, {"log_loss": 0.4}, True, "0.3"),
        ({"beats_champion": "log_loss"}, {"log_loss": 0.5}, {"log_loss": 0.4}, False, "0.5"),
        ({"beats_champion": "accuracy"}, {}, "there is no champion", None, "there is no champion"),
        ({"beats_champion": "auc"}, {"accuracy": 1}, {"accuracy": 1}, False, "auc is not among the version's measures"),
    ],
)
def test_verdicts(gates, measured, champion, passed, found):
    """What was measured counts more than what was claimed; more is better, or less, by measure; equal is not better."""
    (verdict,) = judge(Gates(**gates), MEASURES, measured, champion)
    assert verdict.passed is passed
    assert __import__("re").search(found, verdict.found)


def test_gates_stop_a_version_and_may_be_waived(model_name, project):
    """Refused by name and on record; a waiver is on record too."""
    save(model_name, good(), metrics={"accuracy": 0.6})
    project(model_name, "minimum = { accuracy = 0.9 }")
    with pytest.raises(GateError, match=r"may not go to staging: accuracy >= 0.9 failed: 0.6, as its author recorded"):
        promote(model_name, "v1", "staging", reason="r")
    assert list_versions(model_name, settings=at("staging")).empty
    promote(model_name, "v1", "staging", reason="we need it today", waive_gates=True)
    assert events(model_name, "staging") == ["refused", "promoted"]
    details = history(model_name, settings=at("staging"))["details"].iloc[-1]
    assert (json.loads(details)["waived"], json.loads(details)["gates"][0]["passed"]) == (True, False)


def test_challenger_must_beat_the_champion_on_the_same_rows(model_name, project):
    """The first has none to beat; a worse one is refused; without held-out rows the gate does not apply."""
    project(model_name, 'beats_champion = "accuracy"')
    save(model_name, good(), holdout=(X[TEST], Y[TEST]), metrics={"accuracy": 0.1})
    (verdict,) = promote(model_name, "v1", "staging", reason="first").verdicts
    assert (verdict.passed, verdict.found) == (None, "staging has no champion yet")
    set_alias(model_name, "champion", "v1", reason="first", settings=at("staging"))
    save(model_name, poor(), holdout=(X[TEST], Y[TEST]), metrics={"accuracy": 0.99})
    with pytest.raises(GateError, match=r"better accuracy than the champion failed: 0.*on the same held-out rows"):
        promote(model_name, "v2", "staging", reason="r")
    save(model_name, poor())
    (verdict,) = promote(model_name, "v3", "staging", reason="r").verdicts
    assert verdict.passed is None
    assert "saved without held-out rows" in verdict.found


def test_champion_that_cannot_score_the_rows_stops_the_gate(model_name, project):
    """A version with other inputs cannot be compared, which is said."""
    project(model_name, 'beats_champion = "accuracy"')
    save(model_name, good())
    promote(model_name, "v1", "staging", reason="r")
    set_alias(model_name, "champion", "v1", reason="r", settings=at("staging"))
    narrow = LogisticRegression().fit(X[["x"]][TRAIN], Y[TRAIN])
    save_model(narrow, model_name, X[["x"]][TRAIN], settings=at("dev"), holdout=(X[["x"]][TEST], Y[TEST]))
    with pytest.raises(GateError, match=r"better accuracy than the champion failed: it cannot be compared: .*z"):
        promote(model_name, "v2", "staging", reason="r")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.mlsys.gates.m]\nminimum = 3", r"tool.mlsys.gates.m.minimum in .*got 3"),
        ("[tool.mlsys.gates.m]\nmin = {}", r"gates.m.min in .*not permitted"),
        ("[tool.mlsys.gates.m]\nminimum = { accuracy = 'high' }", "got 'high'"),
        ("[tool.mlsys]\ngates = 3", "cannot be read"),
        ("not toml", "cannot be read"),
    ],
)
def test_gates_that_cannot_be_read_are_not_passed_over(tmp_path, text, message):
    """A typing error must not open a gate."""
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_gates("m", tmp_path)


def test_measures_are_those_of_scikit_learn(model_name, tmp_path):
    """On rows that went through Parquet and BigQuery's types."""
    model = save_model(good(), model_name, X[TRAIN], settings=at("dev"), holdout=(X[TEST], Y[TEST]))
    gcs = gcs_get_bytes(at("dev").model_bucket(), model.ref.blob_path(HOLDOUT_FILE))
    (tmp_path / HOLDOUT_FILE).write_bytes(gcs)
    got = measure(model, tmp_path / HOLDOUT_FILE)
    truth, labels = Y[TEST], good().predict(X[TEST])
    chance = good().predict_proba(X[TEST])[:, 1]
    wanted = {
        "accuracy": metrics.accuracy_score(truth, labels), "f1": metrics.f1_score(truth, labels),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, labels),
        "precision": metrics.precision_score(truth, labels), "recall": metrics.recall_score(truth, labels),
        "roc_auc": metrics.roc_auc_score(truth, chance), "log_loss": metrics.log_loss(truth, chance),
        "average_precision": metrics.average_precision_score(truth, chance),
        "brier_score": metrics.brier_score_loss(truth, chance),
    }  # fmt: skip
    assert got == pytest.approx(wanted)


def test_measures_of_a_regressor_and_of_many_classes(model_name, tmp_path):
    """Numbers have errors, classes have averages; text labels too."""
    target = 2 * X["x"] + X["z"]
    regressor = LinearRegression().fit(X[TRAIN], target[TRAIN])
    three = pd.cut(X["x"], 3, labels=["low", "mid", "high"]).astype("str")
    classifier = LogisticRegression().fit(X[TRAIN], three[TRAIN])
    for name, estimator, y in (("r", regressor, target), ("c", classifier, three)):
        model = save_model(estimator, f"{model_name}-{name}", X[TRAIN], holdout=(X[TEST], y[TEST]))
        (tmp_path / name).write_bytes(gcs_get_bytes(at("local").model_bucket(), model.ref.blob_path(HOLDOUT_FILE)))
        got = measure(model, tmp_path / name)
        if name == "r":
            assert got == pytest.approx({"mae": 0, "rmse": 0, "r2": 1}, abs=1e-9)
        else:
            labels = classifier.predict(X[TEST])
            assert got["f1_macro"] == pytest.approx(metrics.f1_score(three[TEST], labels, average="macro"))
            assert got["accuracy"] == pytest.approx(metrics.accuracy_score(three[TEST], labels))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0] * 19, "as many rows each, and some, got 20 and 19"),
        ([0] * 19 + [None], "known for each row, got 1 missing"),
        ([0] * 19 + [2], r"has \[2\], which the model does not know"),
        (["a"] * 20, "must be INT64"),
    ],
    ids=["length", "NULL", "unknown class", "type"],
)
def test_held_out_rows_that_cannot_be_used_are_refused_when_saving(model_name, y, message):
    """Not at the promotion, weeks later. Nothing is saved."""
    with pytest.raises(SchemaError, match=message):
        save_model(good(), model_name, X[TRAIN], holdout=(X[TEST], y))
    assert gcs_list(get_settings().model_bucket(), f"{model_name}/") == []


# Bad days


@pytest.mark.parametrize(
    "fault",
    [
        Fault("storage.objects.rewrite", "reset_after", times=2),
        Fault("storage.objects.rewrite", "error_after", 504, times=1, skip=1),
        Fault("bigquery.jobs.run", "reset_after", times=2, skip=4),
        Fault("bigquery.jobs.run", "job_error", times=1, skip=5),
        Fault("storage.*", "error", 503, times=6, chance=0.5),
    ],
    ids=["copies whose replies are lost", "a copy that times out", "lost replies of jobs", "a failed job", "503"],
)
def test_lost_replies_do_no_harm(model_name, twin, fault):
    """One promotion, whatever is repeated."""
    ref = save(model_name, good())
    twin.faults.add(fault)
    promote(model_name, "v1", "staging", reason="r")
    twin.faults.clear()
    assert events(model_name, "staging") == ["promoted"]
    assert verify_model(model_name, settings=at("staging")).ok
    assert len(gcs_list(at("staging").model_bucket(), ref.prefix)) == 2


def test_several_at_once_promote_once(model_name):
    """People and workflows that do the same: all succeed, one event."""
    save(model_name, good())
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: promote(model_name, "v1", "staging", reason="r"), range(4)))
    assert len({promotion.promoted for promotion in done}) == 1
    assert events(model_name, "staging") == ["promoted"]


def _promote_in_a_process(model_name, env):
    os.environ.update(env)
    os.setsid()
    promote(model_name, "v1", "staging", reason="r")


def test_killed_promotions_go_on(model_name):
    """``kill -9`` at random points; meanwhile nobody sees half a version; at the end one event, and identical bytes."""
    kills, rng = int(os.environ.get("MLSYS_PROMOTION_KILLS", "3")), random.Random(3)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlsys.models", "mlsys.bq", "google.cloud.storage", "sklearn.linear_model"])
    span, killed, seen = 1.0, 0, 0
    for round_ in range(2 + 4 * kills):
        name = f"{model_name}-{round_}"
        save(name, good(), holdout=(X[TEST], Y[TEST]))
        started = time.monotonic()
        process = context.Process(target=_promote_in_a_process, args=(name, dict(os.environ)))
        process.start()
        process.join(rng.uniform(0, span) if round_ > 1 else None)  # the first ones say how long it takes
        if round_ <= 1:
            span = time.monotonic() - started
        elif process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        rows = list_versions(name, settings=at("staging"))
        seen += len(rows)
        assert rows.empty or verify_model(name, settings=at("staging")).ok
        promote(name, "v1", "staging", reason="r")
        assert events(name, "staging") == ["promoted"]
        assert verify_model(name, settings=at("staging")).ok
        assert digests(name, "dev") == digests(name, "staging")
        if killed == kills:
            break
    print(f"{killed} killed within {span:.1f} s; in {seen} of {round_ + 1} the version was complete before the rerun")
    assert killed == kills


# The command


def test_production_takes_its_word(model_name, mlsys, monkeypatch):
    """Anything else promotes nothing; --yes is for workflows."""
    save(model_name, good(), "staging")
    for typed, code, message in (("prod", 1, "expected the word production, got 'prod'"), ("", 1, "expected the word")):
        monkeypatch.setattr("typer.prompt", lambda *_, typed=typed, **__: typed)
        found, _, error = mlsys("promote", model_name, "v1", "--to", "prod", "--reason", "r")
        assert (found, message in error) == (code, True)
    assert list_versions(model_name, settings=at("prod")).empty
    code, out, _ = mlsys("promote", model_name, "v1", "--to", "prod", "--reason", "r", "--yes", "--json")
    assert (code, json.loads(out)["to"]) == (0, "prod")


def test_dry_run_writes_nothing(model_name, mlsys, project):
    """It says what would be done, and ends as the promotion would."""
    ref = save(model_name, good(), metrics={"accuracy": 0.5})
    code, out, _ = mlsys("promote", model_name, "v1", "--to", "staging", "--dry-run")
    assert code == 0
    assert "dev → staging" in out
    project(model_name, "minimum = { accuracy = 0.9 }")
    code, _, error = mlsys("promote", model_name, "v1", "--to", "staging", "--dry-run")
    assert (code, "accuracy >= 0.9 failed" in error) == (GateError.exit_code, True)
    assert gcs_list(at("staging").model_bucket(), ref.prefix) == []
    assert mlsys("promote", model_name, "v1", "--to", "staging")[0] == 2  # without a reason


def test_a_versions_page_says_what_became_of_it(model_name, mlsys, monkeypatch):
    """Where it came from, what points to it, that it is retired, and what it was used for."""
    save(model_name, good(), "local")
    promote(model_name, "v1", "dev", reason="r", actor="anna")
    monkeypatch.setenv("MLSYS_ENV", "dev")
    monkeypatch.setenv("MLSYS_TWIN", "true")
    get_settings.cache_clear()
    try:
        assert "none" in mlsys("models", "show", model_name, "v1")[1]
        mlsys("models", "retire", model_name, "v1", "--reason", "r")
        page = mlsys("models", "show", model_name, "v1")[1]
        assert "from local on" in page
        assert "by anna" in page
        assert "retired" in page
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


def test_retirement_by_command(model_name, mlsys):
    """Retire, say so twice, take it back."""
    save(model_name, good(), "local")
    code, out, _ = mlsys("models", "retire", model_name, "v1", "--reason", "r")
    assert (code, out.strip()) == (0, f"{model_name}/v1 is retired")
    mlsys("models", "retire", model_name, "v1", "--reason", "r")
    back = mlsys("models", "reinstate", model_name, "v1", "--reason", "r", "--json")[1]
    assert json.loads(back)["state"] == "in use again"
    assert events(model_name, "local") == ["retired", "reinstated"]
